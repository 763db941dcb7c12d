"""Another engine for trainings, handed to the manager: one that has its numbers from a formula, in no thread and no process."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from puppets import Formula
from timing import until

from gradviz.lenet.config import RunConfig
from gradviz.record.run import Status
from gradviz.serve.manager import RunManager
from gradviz.store.store import RunStore

MANY = 100_000  # steps: more than a test waits for


@pytest.fixture
def manager(store: RunStore) -> Iterator[RunManager]:
    manager = RunManager(store, Formula, workers=2)
    yield manager
    manager.close()


def test_a_run_of_another_engine_comes_to_its_end_and_its_records_are_kept(manager: RunManager, store: RunStore) -> None:
    run = manager.start(RunConfig(blocks=2, steps=300), client="ann")
    assert manager.wait(run.id, 60) and run.status == Status.FINISHED
    until(lambda: not manager.unsaved())
    kept = store.load(run.id)
    assert (kept.status, kept.test_accuracy, kept.device) == (Status.FINISHED, 1.0, "a formula")
    assert kept.arithmetic == Formula.arithmetic
    assert kept.history.loss == pytest.approx(np.exp(-np.arange(300) / 100))
    assert kept.history.quantity("weight_rms")[:, 0].tolist() == list(range(300))


def test_a_run_of_another_engine_pauses_steps_goes_on_and_stops(manager: RunManager, store: RunStore) -> None:
    run = manager.start(RunConfig(blocks=2, steps=MANY), client="ann")
    until(lambda: run.history.steps > 10)
    manager.pause(run.id)
    until(lambda: run.status == Status.PAUSED)
    steps = run.history.steps
    manager.step(run.id)
    until(lambda: run.history.steps == steps + 1 and manager.settled)
    assert run.status == Status.PAUSED
    manager.resume(run.id)
    until(lambda: run.history.steps > steps + 10)
    manager.stop(run.id)
    assert manager.wait(run.id, 60) and run.status == Status.STOPPED
    until(lambda: not manager.unsaved())
    assert store.load(run.id).history.steps == run.history.steps


def test_runs_of_another_engine_take_turns_and_have_previews(store: RunStore) -> None:
    manager = RunManager(store, Formula, workers=1, slice=0.01)
    try:
        runs = [manager.start(RunConfig(blocks=2, steps=MANY, seed=seed), client=f"person {seed}") for seed in range(3)]
        until(lambda: all(run.history.steps > 100 for run in runs))
        preview = manager.preview(RunConfig(blocks=3))
        assert preview.ready.wait(60) and preview.record is not None and preview.record.loss == 1.0
    finally:
        manager.close()
    assert all(store.load(run.id).history.steps == run.history.steps for run in runs)


def test_what_an_engine_computes_with_here_is_what_its_giver_says_and_else_unknown(manager: RunManager, store: RunStore) -> None:
    assert manager.arithmetic is None
    told = RunManager(store, Formula, lambda config: Formula.arithmetic if config.device == "auto" else None, workers=0)
    try:
        assert told.arithmetic is not None
        assert (told.arithmetic(RunConfig()), told.arithmetic(RunConfig(device="cuda"))) == (Formula.arithmetic, None)
    finally:
        told.close()
