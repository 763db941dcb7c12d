"""What a training is for whoever drives it: something to iterate. Here, in another process, or played."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

from gradviz.messages import Message
from gradviz.record.arithmetic import Arithmetic
from gradviz.record.history import StepRecord
from gradviz.record.recipe import Recipe
from gradviz.record.run import Outcome


class Interrupted(Exception):
    """Somebody asked to stop while a net was made, or in the middle of a pass through it."""


def never() -> bool:
    """Nobody asks to stop."""
    return False


def stop_if_asked(interrupt: Callable[[], bool]) -> None:
    """Raises Interrupted."""
    if interrupt():
        raise Interrupted


class Keeping(Protocol):
    """Keeps what a training would have to know to begin in its middle. It changes nothing of it, and never raises."""

    steps: Collection[int]  # before which `keep` is called
    trouble: Message  # why something was not kept, or NOTHING

    def keep(self, step: int) -> None:
        """Before the step `step`, or behind the last one."""

    def begin(self, step: int) -> None:
        """A step begins that may be left in its middle; else `end` comes."""

    def end(self) -> None: ...

    def stopped(self) -> None:
        """Somebody asked to stop, in the middle of a step or between two. Keeps what was before it."""


class Training(Protocol):
    """One training, ready to begin. Either it is iterated, once, or `preview` is called, once.

    One thread at a time asks it, not always the same: a run that was paused may go on in another worker. Nothing happens
    between two questions, so that to pause is not to ask and to end is to let it go. The question whether to stop, which it
    got when it was made, it asks in that thread, once per layer and pass: the answer must come at once, and may change in
    any thread.
    """

    @property
    def device(self) -> str:
        """What it got, in words: 'cpu, 1 thread'."""

    @property
    def arithmetic(self) -> Arithmetic | None:
        """What it computes with; None if that is not known."""

    @property
    def outcome(self) -> Outcome | None:
        """How it ended, once the iteration has: finished, diverged, or stopped because it was asked to."""

    def __iter__(self) -> Iterator[StepRecord]:
        """The records of steps 0, 1, … as they come about. Never raises Interrupted; what else goes wrong is raised here."""

    def preview(self) -> StepRecord:
        """Step 0 without its update; `seconds` estimates one full step. Raises Interrupted."""


Asked = TypeVar("Asked", bound=Recipe)
# (recipe, whether to stop) -> the training, its net made. Raises Interrupted, and what is wrong with the recipe here as Told.
Train = Callable[[Asked, Callable[[], bool]], Training]


A = TypeVar("A", bound=Recipe, contravariant=True)


class TrainFrom(Protocol[A]):
    """A Train that can begin from a kept state too, the file `begin`: its first record is then that of the state's step.

    Raises StateGone (gradviz/train/state.py) if that cannot be used here.
    """

    def __call__(self, recipe: A, interrupt: Callable[[], bool], begin: Path | None = None, /) -> Training: ...
