"""A training as everybody sees it, how it ended, and a line of it for lists. Plain data: no torch, no threads."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

from gradviz.messages import NOTHING, Message
from gradviz.record.arithmetic import Arithmetic
from gradviz.record.history import History, StepRecord, max_columns
from gradviz.record.recipe import R, Recipe
from gradviz.record.sample import BlockDeletion
from gradviz.words import N_

_Own = TypeVar("_Own", bound=Recipe)


class Status(StrEnum):
    """A code that is also what it says, in English."""

    QUEUED = N_("queued")
    RUNNING = N_("running")
    PAUSED = N_("paused")
    FINISHED = N_("finished")
    STOPPED = N_("stopped")
    DIVERGED = N_("diverged")
    INTERRUPTED = N_("interrupted")  # the server ended while the run was live
    FAILED = N_("failed")

    @property
    def live(self) -> bool:
        return self in (Status.QUEUED, Status.RUNNING, Status.PAUSED)


@dataclass(frozen=True)
class Outcome:
    """How a training ended."""

    status: Status
    test_accuracy: float | None = None  # on the whole test set
    seconds: float = 0.0
    message: Message = NOTHING
    deletion: BlockDeletion | None = None  # of a finished net with shortcut


@dataclass
class Run(Generic[R]):
    """One training as everybody sees it. Written by its worker alone, read by all."""

    recipe: R
    history: History
    status: Status = Status.QUEUED
    device: str = ""  # what the run got, in words
    message: Message = NOTHING  # how it ended, or why it waits
    nonfinite_layer: str | None = None
    test_accuracy: float | None = None  # on the whole test set, once finished
    created: float = field(default_factory=time.time)  # Unix time
    deletion: BlockDeletion | None = None  # once finished, with shortcut
    clients: tuple[str, ...] = ()  # the people who asked for it; empty: work that nobody sits before
    arithmetic: Arithmetic | None = None  # None before it begins, and of runs kept before this was noted
    # Of a watched net: layer -> quantity -> code of why it was not measured in the last look.
    missing: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    overflows: int = 0  # of a watched net: steps that a scaler left out, as far as they were measured
    every: int | None = None  # of a watched net: steps from one measured one to the next; None: trained here, each is measured
    share: float | None = None  # of a watched net: what measuring costs, of the training's own time

    @property
    def watched(self) -> bool:
        """Another process trains it, or has."""
        return self.every is not None

    @property
    def id(self) -> str:
        return self.recipe.id

    @staticmethod
    def begun(recipe: _Own, status: Status = Status.RUNNING, device: str = "") -> Run[_Own]:
        """A run without a step, its history sized for the net."""
        layers = len(recipe.layout)
        return Run(recipe, History(layers, max_columns(layers)), status, device)

    def take(self, record: StepRecord) -> None:
        """The next step. Raises ValueError if it is another."""
        self.nonfinite_layer = self.nonfinite_layer or record.nonfinite_layer
        self.history.append(record)

    def end(self, outcome: Outcome) -> None:
        """Takes over how the training ended; the status last, so that who reads an ended run finds it complete."""
        self.test_accuracy, self.message, self.deletion = outcome.test_accuracy, outcome.message, outcome.deletion
        self.status = outcome.status


@dataclass(frozen=True)
class Summary(Generic[R]):
    """A run without its records, for lists."""

    id: str
    recipe: R
    status: Status
    created: float  # Unix time
    steps: int  # recorded so far
    loss: float  # of the last step; may be inf or nan, and is nan before the first
    seconds: float  # of training
    test_accuracy: float | None
    device: str
    message: Message

    @property
    def progress(self) -> str:
        """'20/300', or '20' where nobody knows how many there will be."""
        return str(self.steps) if self.recipe.steps is None else f"{self.steps}/{self.recipe.steps}"

    @classmethod
    def of(cls, run: Run[R]) -> Summary[R]:
        history = run.history.snapshot()
        return cls(
            run.id,
            run.recipe,
            run.status,
            run.created,
            history.steps,
            *history.latest,
            run.test_accuracy,
            run.device,
            run.message,
        )
