"""Which states of a training are kept, and the keeping of them."""

from __future__ import annotations

import math
from collections.abc import Collection

from gradviz.messages import NOTHING, Message, say
from gradviz.record.arithmetic import Arithmetic
from gradviz.record.history import max_columns
from gradviz.store.states import States
from gradviz.train.state import Between, packed
from gradviz.train.task import Task

_MOST, _LEAST = 8, 10  # states of a run, beside that at its end; steps between two of them
_SHARE = 4  # one run takes at most one part in so many of the room for all
_COPIES = 3  # of the weights in one state: Adam has two moments


def kept_steps(steps: int, layers: int, most: int = _MOST) -> frozenset[int]:
    """Steps between which as many lie, a round number of them; not the end, which is kept too.

    In a long run the history's columns hold several steps: only where one ends the records can be taken over.
    """
    stride, columns = 1, max_columns(layers)
    while columns * stride < steps:
        stride *= 2
    if most < 1:
        return frozenset()
    power = 10 ** math.floor(math.log10(max(_LEAST, steps / most)))
    between = next(digit * power for digit in (1, 2, 5, 10) if digit * power * most >= steps or digit == 10)
    between = max(_LEAST, -(-between // stride) * stride)
    return frozenset(range(between, steps, between))


class Keeper:
    """Keeps the states of one training: see Keeping in gradviz/train/training.py."""

    def __init__(self, task: Task, states: States, arithmetic: Arithmetic):
        """`task.recipe` says whose they are."""
        self.trouble: Message = NOTHING
        self._task, self._states, self._arithmetic = task, states, arithmetic.to_dict()
        size = _COPIES * sum(value.nbytes for value in task.model.parameters())
        most = min(_MOST, int(states.most_bytes / _SHARE / max(1, size)))
        self.steps: Collection[int] = kept_steps(task.steps, len(task.layout), most)
        self._between = Between(task)
        self._step, self._amid, self._last = 0, False, -1

    def keep(self, step: int) -> None:
        if self.trouble or step == self._last or self._task.recipe is None:
            return
        recipe = self._task.recipe()
        about = {"step": step, "config": recipe.to_dict(), "arithmetic": self._arithmetic}
        try:
            self.trouble = self._states.put(recipe.id, step, packed(self._task, about))
        except MemoryError:
            self.trouble = say("state-not-kept", why=say("state-no-memory"))
        self._last = step

    def begin(self, step: int) -> None:
        self._between.note()
        self._step, self._amid = step, True

    def end(self) -> None:
        self._step, self._amid = self._step + 1, False

    def stopped(self) -> None:
        if self._step > 0 and (not self._amid or self._between.back()):
            self.keep(self._step)
