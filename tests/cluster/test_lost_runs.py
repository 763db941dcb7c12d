"""A sweep whose runs lose their computers: they start again by themselves, each from its start and twice at most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from timing import until

from gradviz.lenet.config import READERS, RunConfig
from gradviz.lenet.sweep import Sweep
from gradviz.messages import Message, say
from gradviz.record.history import StepRecord
from gradviz.record.quantities import QUANTITIES
from gradviz.record.run import Outcome, Status
from gradviz.serve.failures import ComputerLost
from gradviz.serve.manager import RunManager
from gradviz.serve.sweeps import SweepRunner
from gradviz.store.store import RunStore

STEPS = 25
SWEEP = Sweep.over("lost", [RunConfig(steps=STEPS, batch_size=4)], {"blocks": range(6)}, range(2))


class Computers:
    """Trainings that cost nothing, on computers that are lost under a run as often as `losses` says, after ten steps."""

    def __init__(self) -> None:
        self.losses: Counter[str] = Counter()  # run id -> so often yet
        self.begun: Counter[str] = Counter()
        self.why = say("computer-lost", name="one")

    def __call__(self, config: RunConfig, interrupt: Callable[[], bool]) -> Training:
        return Training(config, self)


class Training:
    def __init__(self, config: RunConfig, computers: Computers):
        self.config, self._computers = config, computers
        self.device, self.arithmetic, self.outcome = "cpu", None, None

    def __iter__(self) -> Iterator[StepRecord]:
        computers, id = self._computers, self.config.id
        computers.begun[id] += 1
        computers.losses[id] -= 1
        is_lost = computers.losses[id] >= 0
        for step in range(self.config.steps):
            if is_lost and step == 10:
                raise ComputerLost(computers.why)
            yield StepRecord(step, 2.0, 0.1, np.ones((len(QUANTITIES), self.config.layers), np.float32), 0.001 * (step + 1))
        self.outcome = Outcome(Status.FINISHED, 0.5)


@pytest.fixture
def computers() -> Computers:
    return Computers()


@pytest.fixture
def manager(computers: Computers, tmp_path: Path) -> Iterator[RunManager]:
    store = RunStore(tmp_path / "runs", READERS)
    manager = RunManager(store, computers, workers=2)
    yield manager
    manager.close()
    store.close()


@pytest.fixture
def sweeps(manager: RunManager, tmp_path: Path) -> Iterator[SweepRunner]:
    sweeps = SweepRunner(manager, tmp_path / "sweeps", at_once=2, tick=0.01)
    yield sweeps
    sweeps.close()


@pytest.mark.parametrize(
    "why",
    [
        say("computer-lost", name="one"), say("cluster-empty"), say("cluster-away", address="a:1"),
        say("cluster-begins", address="a:1"),
    ],
    ids=lambda why: why.code,
)  # fmt: skip
def test_lost_runs_of_a_sweep_start_again_and_no_other_is_done_twice(
    computers: Computers, manager: RunManager, sweeps: SweepRunner, why: Message
) -> None:
    computers.why = why
    ids = [config.id for config in SWEEP.configs]
    computers.losses.update({ids[1]: 1, ids[5]: 2, ids[11]: 1})
    sweeps.start(SWEEP)
    until(lambda: not sweeps.active(SWEEP.id))
    assert len(sweeps.results(SWEEP)) == len(ids) == 12
    assert computers.begun == {id: {1: 2, 5: 3, 11: 2}.get(place, 1) for place, id in enumerate(ids)}
    for id in ids:
        run = manager.get(id)
        assert run.status is Status.FINISHED and run.history.steps == STEPS  # whole, and of one piece


def test_a_run_that_loses_its_computer_a_third_time_is_left_as_it_is_and_the_sweep_ends(
    computers: Computers, manager: RunManager, sweeps: SweepRunner
) -> None:
    unlucky = SWEEP.configs[3].id
    computers.losses[unlucky] = 100
    sweeps.start(SWEEP)
    until(lambda: not sweeps.active(SWEEP.id))
    assert computers.begun[unlucky] == 3 and len(sweeps.results(SWEEP)) == 11
    run = manager.get(unlucky)
    assert run.status is Status.INTERRUPTED and run.history.steps == 10
    assert "Start afresh trains it anew" in str(run.message)


def test_a_run_that_somebody_started_waits_for_him_after_its_computer_was_lost(computers: Computers, manager: RunManager) -> None:
    config = SWEEP.configs[0]
    computers.losses[config.id] = 1
    run = manager.start(config, client="ann")
    assert manager.wait(run.id, 60) and run.status is Status.INTERRUPTED and computers.begun[config.id] == 1
    again = manager.start(config, again=True, client="ann")
    assert manager.wait(again.id, 60) and again.status is Status.FINISHED and again.history.steps == STEPS
