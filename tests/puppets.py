"""Trainings that a test leads by hand, step by step, in the place of those that train a net."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from timing import until

from gradviz.lenet.config import RunConfig
from gradviz.record.arithmetic import Arithmetic
from gradviz.record.history import StepRecord
from gradviz.record.quantities import QUANTITIES
from gradviz.record.run import Outcome, Run, Status
from gradviz.serve.manager import RunManager
from gradviz.train.training import Interrupted

SMALL = RunConfig(blocks=1, dataset="digits", steps=5, batch_size=16, device="cpu")


def seeded(seed: int, **changes: object) -> RunConfig:
    return replace(SMALL, seed=seed, **changes)


def record(config: RunConfig, step: int, **changes: object) -> StepRecord:
    layers = np.full((len(QUANTITIES), config.layers), 1000 * config.seed + step, np.float32)
    return StepRecord(step, float(config.seed), 0.5, layers, 0.01 * step, **changes)


class Puppet:
    """A training that does a step when the test allows one, and is asked to stop while it waits, as in mid-step."""

    device, arithmetic = "cpu, 1 thread", Arithmetic("cpu", "AVX2 x86_64", "", 1, "2.13.0")

    def __init__(self, config: RunConfig, interrupt: Callable[[], bool]):
        self.config, self.interrupt = config, interrupt
        self.allowed = threading.Semaphore(0)
        self.outcome: Outcome | None = None
        self.ended = self.deaf = False
        self.error: BaseException | None = None

    def allow(self, steps: int = 1) -> None:
        self.allowed.release(steps)

    def _await(self) -> None:
        while not self.allowed.acquire(timeout=0.005):
            if self.interrupt() and not self.deaf:
                raise Interrupted
        if self.error:
            raise self.error

    def __iter__(self) -> Iterator[StepRecord]:
        try:
            for step in range(self.config.steps):
                self._await()
                yield record(self.config, step)
            self.outcome = Outcome(Status.FINISHED, 0.75)
        except Interrupted:
            self.outcome = Outcome(Status.STOPPED)
        finally:
            self.ended = True

    def preview(self) -> StepRecord:
        self._await()
        return record(self.config, 0)


class Stage:
    """Makes the puppets of a manager and finds them again by the seed of their config."""

    def __init__(self) -> None:
        self.puppets: dict[int, Puppet] = {}
        self.made: list[int] = []
        self.free = False  # puppets need no leave

    def __call__(self, config: RunConfig, interrupt: Callable[[], bool]) -> Puppet:
        puppet = Puppet(config, interrupt)
        if self.free:
            puppet.allow(100)
        self.made.append(config.seed)
        self.puppets[config.seed] = puppet
        return puppet

    def __getitem__(self, seed: int) -> Puppet:
        until(lambda: seed in self.puppets)
        return self.puppets[seed]


def steps(run: Run) -> int:
    return run.history.steps


def do(manager: RunManager, stage: Stage, run: Run, count: int = 1) -> None:
    """So many steps of a run that has the worker, and what the manager makes of them."""
    due = steps(run) + count
    stage[run.recipe.seed].allow(count)
    until(lambda: steps(run) == due and manager.settled)


def ended(manager: RunManager, run: Run) -> Run:
    """The run, once it has."""
    assert manager.wait(run.id, 120)
    return run


class Formula:
    """Another engine, in no thread and no process: the loss of step n is e to the power -n / 100, all numbers of layers are n."""

    device = "a formula"
    arithmetic: Arithmetic | None = Arithmetic("paper", "a pencil", "", 1, "")

    def __init__(self, config: RunConfig, interrupt: Callable[[], bool]):
        self.config, self.interrupt = config, interrupt
        self.outcome: Outcome | None = None

    def __iter__(self) -> Iterator[StepRecord]:
        for step in range(self.config.steps):
            if self.interrupt():
                self.outcome = Outcome(Status.STOPPED)
                return
            yield self._step(step)
        self.outcome = Outcome(Status.FINISHED, test_accuracy=1.0)

    def preview(self) -> StepRecord:
        return self._step(0)

    def _step(self, step: int) -> StepRecord:
        layers = np.full((len(QUANTITIES), len(self.config.layout)), step, np.float32)
        return StepRecord(step, float(np.exp(-step / 100)), 1.0, layers, seconds=float(step))
