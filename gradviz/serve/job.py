"""A job: a run that is live, or ended and not yet in the store, with what the manager knows of it."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from gradviz.lenet.config import RunConfig
from gradviz.messages import NOTHING, Message, say
from gradviz.record.arithmetic import Arithmetic
from gradviz.record.history import StepRecord
from gradviz.record.run import Run, Status
from gradviz.train.training import Training


@dataclass(eq=False)
class Job:
    """Its fields change under the manager's lock."""

    run: Run[RunConfig]
    number: int = 0  # counts the starts
    turn: int = 0  # counts the waitings: among equals the lower goes first
    tag: float = 0.0  # the round in which its address has its turn
    urgent: bool = False  # somebody pressed Resume or Step
    fresh: bool = True  # its first picture goes before the turns of others
    addresses: set[str] = field(default_factory=set)  # of those who asked for it, as far as they are known
    seen: float = -math.inf  # when somebody last looked, by the manager's clock
    since: float = 0.0  # when a worker took it
    begun: int = 0  # steps that it had then
    stop: threading.Event = field(default_factory=threading.Event)
    replaces: Run[RunConfig] | None = None  # whose records the store keeps until this one has as many
    origin: Run[RunConfig] | None = None  # from one of whose kept states it is to begin
    spent: float = 0.0  # seconds of training that its origin had until there
    earlier: Arithmetic | None = None  # of its origin
    note: Message = NOTHING  # said with how it ended
    heirs: tuple[str, ...] = ()  # whose the run before was: it is theirs again once it has ended, whoever began it anew
    held: bool = False  # a pause was asked for
    firm: bool = False  # by the teacher: only a person ends it
    rests: float = math.inf  # since when it is paused
    steps: int = 0  # single steps asked for while held
    driven: bool = False  # a worker has it
    training: Training | None = None
    records: Iterator[StepRecord] | None = None
    saved: tuple[Status, int] | None = None  # status and steps that are in the store
    saved_waiting: bool | None = None  # as one that waits for a worker
    counted: int = 0  # steps that are in the statistics

    @property
    def newcomer(self) -> bool:
        return self.fresh and not self.run.history.steps

    @property
    def resting(self) -> bool:
        """Whether it is paused and has its memory all the same."""
        return self.held and self.training is not None and not self.driven and not self.steps

    def held_back(self, status: Status, steps: int) -> bool:
        """Whether the store has more of the run that this one, so far, replaces."""
        whole = status in (Status.FINISHED, Status.DIVERGED)
        return self.replaces is not None and not whole and steps < self.replaces.history.steps


def instead(job: Job, replaced: Run[RunConfig]) -> Run[RunConfig]:
    """The run that was to be replaced, and is not."""
    replaced.message = say("afresh-short", steps=job.run.history.steps, status=str(job.run.status))
    return replaced
