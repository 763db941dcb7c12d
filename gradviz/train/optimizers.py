"""The optimisers that train a net, which of its rows each holds, and which of their steps is a step inside another's."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Collection, Sequence

from torch.optim.optimizer import Optimizer

from gradviz.train.modules import Row


class Optimizers:
    """Holds none of them alive. Those that are `given`, or without any each that holds one of the rows, as it comes."""

    def __init__(self, given: Sequence[Optimizer] | None, rows: Callable[[], Sequence[Row]]):
        self.settled = given is not None  # whether it is known how many there are
        self._any = given is None
        self._known: dict[int, weakref.ref[Optimizer]] = {id(each): weakref.ref(each) for each in given or ()}
        self._rows = rows
        self._held: dict[int, list[int]] = {}  # by the id of an optimiser
        self._steps: weakref.ref[Optimizer] | None = None  # the one whose step is under way
        self._inside: list[int] = []  # ids of those that step inside of it

    def known(self) -> list[Optimizer]:
        return [found for each in self._known.values() if (found := each()) is not None]

    def held(self, optimizer: Optimizer) -> list[int]:
        """Rows. It is asked for several times in a step and looked up once."""
        if (known := self._held.get(id(optimizer))) is None:
            held = weight_ids(optimizer)
            known = self._held[id(optimizer)] = [k for k, row in enumerate(self._rows()) if id(row.weight) in held]
        return known

    def held_by_any(self, of: Collection[int] | None = None) -> set[int]:
        """Rows; `of`: of these optimisers alone, by their ids."""
        return {k for each in self.known() if of is None or id(each) in of for k in self.held(each)}

    def have_all(self, stepped: Collection[int]) -> bool:
        """Whether all have stepped, given by their ids."""
        return len(stepped) >= len(self._known) and all(id(each) in stepped for each in self.known())

    def look_again(self, optimizer: Optimizer | None = None) -> None:
        """It may have been given more weights since; None: each may."""
        if optimizer is None:
            self._held.clear()
        else:
            self._held.pop(id(optimizer), None)

    def is_mine(self, optimizer: Optimizer) -> bool:
        if (known := self._known.get(id(optimizer))) is not None and known() is optimizer:
            return True
        if not self._any or not (rows := set(self.held(optimizer))):
            return False
        # One that holds the same weights has had its time: a new one for each part of a training, say.
        others = [each for each in self.known() if rows.isdisjoint(self.held(each))]
        self._known = {id(each): weakref.ref(each) for each in (*others, optimizer)}
        return True

    # A subclass whose `step` calls that of its class steps inside of itself, and a wrapper's inner optimiser inside of the
    # wrapper: torch calls the hooks for both. What is seen is the whole step, from before the outer one until behind it.

    def enters(self, optimizer: Optimizer) -> bool:
        """Called in a hook before a step. Whether it is one of its own."""
        if self._steps is not None and (outer := self._steps()) is not None and _runs(outer):
            self._inside.append(id(optimizer))
            return False
        return True

    def begins(self, optimizer: Optimizer) -> None:
        """What `enters` has said of it, and it is mine."""
        self._steps, self._inside = weakref.ref(optimizer), []  # what was open was ended by an error

    def leaves(self, optimizer: Optimizer) -> bool:
        """Called in a hook behind a step, with what `enters` has said before it."""
        if self._inside:
            if self._steps is not None and (outer := self._steps()) is not None and _runs(outer):
                self._inside.pop()
                return False
            self._inside.clear()  # an inner step has ended in an error that the outer one has caught
        if self._steps is not None and self._steps() is optimizer:
            self._steps = None
        return True


def weight_ids(optimizer: Optimizer) -> set[int]:
    """Of all parameters that it holds."""
    return {id(weight) for group in optimizer.param_groups for weight in group["params"]}


def _runs(optimizer: Optimizer) -> bool:
    """Whether a step of it is under way in this thread, outside of the one in whose hook this is asked."""
    code, frame = None, sys._getframe().f_back
    while frame is not None:
        if code is None and "profile_hook_step" in frame.f_code.co_qualname:  # torch's, which calls the hooks
            code = frame.f_code
        elif frame.f_code is code and frame.f_locals.get("self") is optimizer:
            return True
        frame = frame.f_back
    return False
