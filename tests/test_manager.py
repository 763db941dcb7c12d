"""The manager: who trains when, what is shared, what is kept. Most tests lead a training by hand, step by step."""

from __future__ import annotations

import logging
import math
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gradviz.config import RunConfig
from gradviz.data import DataError, Shelf
from gradviz.manager import RunManager
from gradviz.probe import Interrupted
from gradviz.runs import QUANTITIES, Outcome, Run, Status, StepRecord
from gradviz.store import RunStore
from gradviz.trainer import Trainer

SMALL = RunConfig(blocks=1, dataset="digits", steps=5, batch_size=16, device="cpu")


def seeded(seed: int, **changes: object) -> RunConfig:
    return replace(SMALL, seed=seed, **changes)


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        threading.Event().wait(0.002)


def record(config: RunConfig, step: int, **changes: object) -> StepRecord:
    layers = np.full((len(QUANTITIES), config.layers), 1000 * config.seed + step, np.float32)
    return StepRecord(step, float(config.seed), 0.5, layers, 0.01 * step, **changes)


class Puppet:
    """A training that does a step when the test allows one, and is asked to stop while it waits, as in mid-step."""

    device = torch.device("cpu")

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


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunStore]:
    store = RunStore(tmp_path / "runs")
    yield store
    store.close()


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "data", download=False)


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture
def managed(store: RunStore, shelf: Shelf) -> Iterator[Callable[..., RunManager]]:
    managers: list[RunManager] = []

    def make(**options: object) -> RunManager:
        # On a busy machine a test's hand may take longer than a slice; the tests of slices bring a clock of their own.
        managers.append(RunManager(store, shelf, **{"slice": math.inf, **options}))
        return managers[-1]

    yield make
    for manager in managers:
        manager.close()


def steps(run: Run) -> int:
    return run.history.steps


# Sharing


def test_equal_configs_share_one_live_run(managed: Callable, stage: Stage) -> None:
    manager = managed(train=stage)
    run = manager.start(seeded(1))
    assert manager.start(replace(seeded(1))) is run
    assert manager.start(seeded(1), again=True) is run  # live: again means nothing
    stage[1].allow(5)
    assert manager.wait(run.id, 60)
    assert run.status == Status.FINISHED and run.test_accuracy == 0.75 and steps(run) == 5
    assert stage.made == [1]


def test_thirty_people_who_press_start_at_once_train_once(managed: Callable, stage: Stage) -> None:
    manager = managed(train=stage, workers=4)
    runs: list[Run] = []
    barrier = threading.Barrier(30)

    def press() -> None:
        barrier.wait()
        runs.append(manager.start(seeded(1)))

    people = [threading.Thread(target=press) for _ in range(30)]
    for person in people:
        person.start()
    for person in people:
        person.join()
    assert len(runs) == 30 and all(run is runs[0] for run in runs)
    stage[1].allow(5)
    assert manager.wait(runs[0].id, 60) and stage.made == [1]


@pytest.mark.parametrize("status", [status for status in Status if not status.live])
def test_a_kept_run_is_joined_and_only_an_incomplete_one_is_started_afresh(
    managed: Callable, stage: Stage, store: RunStore, status: Status
) -> None:
    stage.free = True
    first = managed(train=stage)
    run = first.start(SMALL)
    first.wait(run.id, 60)
    first.close()
    run.status = status
    store.save(run)
    manager = managed(train=stage)
    joined = manager.start(SMALL)
    assert joined.status == status and steps(joined) == 5 and stage.made == [0]
    afresh = manager.start(SMALL, again=True)
    assert manager.wait(afresh.id, 60)
    if status in (Status.FINISHED, Status.DIVERGED):
        assert afresh is joined and stage.made == [0]
    else:
        assert afresh is not joined and stage.made == [0, 0] and afresh.status == Status.FINISHED
        until(lambda: store.load(SMALL.run_id).status == Status.FINISHED)
        assert store.load(SMALL.run_id).created == afresh.created


def test_an_unknown_or_rubbish_id_does_nothing(managed: Callable, stage: Stage) -> None:
    manager = managed(train=stage)
    for id in ("", "0" * 12, "../x", "\ud800", "a" * 10_000):
        for wish in (manager.pause, manager.resume, manager.step, manager.stop):
            wish(id)
        assert manager.get(id) is None and manager.position(id) is None and manager.get_preview(id) is None


# The queue


def test_no_more_runs_at_once_than_workers_and_first_come_first_served(managed: Callable, stage: Stage) -> None:
    manager = managed(train=stage, workers=2)
    runs = [manager.start(seeded(seed)) for seed in range(5)]
    until(lambda: len(stage.puppets) == 2)
    assert [run.status for run in runs] == ["running"] * 2 + ["queued"] * 3
    assert [manager.position(run.id) for run in runs] == [None, None, 1, 2, 3]
    stage[1].allow(5)
    until(lambda: runs[2].status == Status.RUNNING)
    assert [manager.position(run.id) for run in runs] == [None, None, None, 1, 2]
    for seed in (0, 2, 3, 4):
        stage[seed].allow(5)
    for run in runs:
        assert manager.wait(run.id, 60) and run.status == Status.FINISHED
    assert sorted(stage.made[:2]) == [0, 1] and stage.made[2:] == [2, 3, 4]


def test_the_list_holds_live_and_kept_runs_newest_first(managed: Callable, stage: Stage) -> None:
    manager = managed(train=stage)
    runs = [manager.start(seeded(seed)) for seed in range(3)]
    stage[0].allow(5)
    manager.wait(runs[0].id, 60)
    until(lambda: manager.get(runs[1].id).status == Status.RUNNING)
    expected = [(runs[2].id, "queued", 0), (runs[1].id, "running", 0), (runs[0].id, "finished", 5)]
    assert [(line.id, line.status, line.steps) for line in manager.list()] == expected
    until(lambda: runs[0].id not in manager._jobs)  # now it comes from the store
    assert [(line.id, line.status, line.steps) for line in manager.list()] == expected


# Pause, step, stop


def test_a_paused_run_gives_its_worker_to_others_and_goes_on_where_it_was(managed: Callable, stage: Stage) -> None:
    manager = managed(train=stage)
    run, other = manager.start(seeded(1)), manager.start(seeded(2))
    stage[1].allow(2)
    until(lambda: steps(run) == 2)
    manager.pause(run.id)
    assert run.status == Status.RUNNING  # in the middle of step 2
    stage[1].allow(1)
    until(lambda: run.status == Status.PAUSED)
    assert steps(run) == 3
    stage[2].allow(1)
    until(lambda: steps(other) == 1)
    third = manager.start(seeded(3))
    manager.resume(run.id)
    assert run.status == Status.QUEUED and manager.position(run.id) == 1  # before the one that has not begun
    assert manager.position(third.id) == 2
    stage[2].allow(4)
    stage[1].allow(2)
    assert manager.wait(run.id, 60) and run.status == Status.FINISHED
    assert run.history.quantity("weight_rms")[:, 0].tolist() == [1000, 1001, 1002, 1003, 1004]
    assert stage.made[:2] == [1, 2]


def test_a_pause_that_is_taken_back_before_the_step_ends_changes_nothing(managed: Callable, stage: Stage) -> None:
    manager = managed(train=stage)
    run = manager.start(SMALL)
    stage[0].allow(1)
    until(lambda: steps(run) == 1)
    manager.pause(run.id)
    manager.resume(run.id)
    stage[0].allow(4)
    assert manager.wait(run.id, 60) and run.status == Status.FINISHED


def test_each_press_of_step_is_one_step_and_the_run_stays_paused(managed: Callable, stage: Stage) -> None:
    manager = managed(train=stage)
    run = manager.start(seeded(1, steps=50))
    stage[1].allow(1)
    until(lambda: steps(run) == 1)
    manager.pause(run.id)
    stage[1].allow(1)
    until(lambda: run.status == Status.PAUSED)
    before = steps(run)
    stage[1].allow(30)
    manager.step(run.id)
    until(lambda: steps(run) == before + 1)
    for _ in range(3):
        manager.step(run.id)
    until(lambda: steps(run) == before + 4)
    bystander = manager.start(seeded(2))  # gets the worker only once the steps are done
    stage[2].allow(5)
    assert manager.wait(bystander.id, 60)
    assert steps(run) == before + 4 and run.status == Status.PAUSED
    manager.resume(run.id)
    until(lambda: run.status == Status.RUNNING)


def test_step_does_nothing_to_a_run_that_is_not_paused(managed: Callable, stage: Stage) -> None:
    manager = managed(train=stage)
    run, waiting = manager.start(seeded(1)), manager.start(seeded(2))
    until(lambda: run.status == Status.RUNNING)
    manager.step(run.id)
    manager.step(waiting.id)
    manager.resume(waiting.id)
    assert manager.position(waiting.id) == 1 and not manager._jobs[run.id].steps


def test_a_queued_run_can_be_paused_stepped_resumed_and_stopped(managed: Callable, stage: Stage) -> None:
    manager = managed(train=stage)
    first, queued = manager.start(seeded(1)), manager.start(seeded(2))
    manager.pause(queued.id)
    assert queued.status == Status.PAUSED and manager.position(queued.id) is None
    stage[1].allow(5)
    assert manager.wait(first.id, 60)
    assert 2 not in stage.puppets
    manager.step(queued.id)
    stage[2].allow(5)
    until(lambda: steps(queued) == 1)
    until(lambda: not manager._jobs[queued.id].driven)
    assert steps(queued) == 1
    manager.stop(queued.id)
    assert queued.status == Status.STOPPED and steps(queued) == 1
    assert stage[2].ended  # the generator is closed and its net can be freed


def test_stop_acts_in_the_middle_of_a_step_and_in_the_queue(managed: Callable, stage: Stage) -> None:
    manager = managed(train=stage)
    run, queued = manager.start(seeded(1)), manager.start(seeded(2))
    stage[1].allow(2)
    until(lambda: steps(run) == 2)
    manager.stop(queued.id)
    assert queued.status == Status.STOPPED
    manager.stop(run.id)  # step 2 has begun and will never be allowed
    assert manager.wait(run.id, 60)
    assert run.status == Status.STOPPED and steps(run) == 2 and run.message == ""
    assert 2 not in stage.puppets


# Failures


@pytest.mark.parametrize(
    "error, words",
    [
        (DataError("MNIST is not complete."), "MNIST is not complete."),
        (MemoryError(), "memory does not suffice"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."), "memory does not suffice"),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_ends_its_own_run_in_one_sentence_and_no_other(
    managed: Callable, stage: Stage, store: RunStore, caplog: pytest.LogCaptureFixture, error: Exception, words: str
) -> None:
    manager = managed(train=stage)
    run, other = manager.start(seeded(1)), manager.start(seeded(2))
    stage[1].allow(2)
    until(lambda: steps(run) == 2)
    stage[1].error = error
    stage[1].allow(1)
    assert manager.wait(run.id, 60)
    assert run.status == Status.FAILED and words in run.message and "\n" not in run.message
    assert steps(run) == 2
    (line,) = [line for line in caplog.records if line.levelno == logging.ERROR]
    assert run.id in line.getMessage() and line.exc_info[1] is error
    stage[2].allow(5)
    assert manager.wait(other.id, 60) and other.status == Status.FINISHED
    until(lambda: (kept := store.load(run.id)) and kept.status == Status.FAILED)
    assert store.load(run.id).message == run.message


def test_a_training_that_cannot_even_begin_fails_in_words(managed: Callable) -> None:
    manager = managed()  # the real trainer: there is no MNIST in the folder, and downloads are off
    run = manager.start(replace(SMALL, dataset="mnist"))
    assert manager.wait(run.id, 60)
    assert run.status == Status.FAILED and "MNIST is not in the data folder" in run.message
    if not torch.cuda.is_available():
        run = manager.start(replace(SMALL, device="cuda"))
        assert manager.wait(run.id, 60)
        assert run.status == Status.FAILED and "cuda is not on this machine" in run.message


# What is kept


def test_a_record_is_in_the_store_within_a_second(managed: Callable, stage: Stage, store: RunStore) -> None:
    manager = managed(train=stage)
    run = manager.start(SMALL)
    for step in range(1, 4):
        stage[0].allow(1)
        until(lambda step=step: steps(run) == step)
        until(lambda step=step: store.load(run.id) and steps(store.load(run.id)) == step, seconds=1)
    assert store.load(run.id).status == Status.RUNNING


def test_an_ended_run_leaves_memory_for_the_store_and_comes_back(
    managed: Callable, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gradviz.manager._KEPT_BYTES", 1)
    stage.free = True
    manager = managed(train=stage)
    runs = [manager.start(seeded(seed)) for seed in range(3)]
    for run in runs:
        assert manager.wait(run.id, 60)
    until(lambda: not manager._jobs)
    assert len(manager._kept) == 1
    again = manager.get(runs[0].id)
    assert again is not runs[0]
    assert np.array_equal(again.history.columns, runs[0].history.columns) and again.test_accuracy == 0.75


def test_a_deleted_run_is_gone_also_when_it_was_being_trained(managed: Callable, stage: Stage, store: RunStore) -> None:
    manager = managed(train=stage)
    run = manager.start(SMALL)
    stage[0].allow(2)
    until(lambda: store.load(run.id) and steps(store.load(run.id)) == 2)
    manager.delete(run.id)
    assert manager.get(run.id) is None and manager.list() == []
    until(lambda: stage[0].ended)
    fresh = manager.start(SMALL)
    assert fresh is not run and steps(fresh) == 0
    manager.close()
    assert [line.created for line in store.list()] == [fresh.created]


def test_a_store_that_refuses_costs_no_run_and_is_said(managed: Callable, stage: Stage, store: RunStore) -> None:
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    stage.free = True
    manager = managed(train=stage)
    config = seeded(1, blocks=60, steps=50)
    run = manager.start(config)
    assert manager.wait(run.id, 60) and run.status == Status.FINISHED
    until(lambda: manager.warning)
    assert "the disk is full" in manager.warning and "\n" not in manager.warning
    assert manager.get(run.id) is run and store.list() == []
    store._db.execute("PRAGMA max_page_count = 1000000")
    until(lambda: not manager.warning)
    assert steps(store.load(run.id)) == 50


def test_closing_ends_everything_in_time_and_loses_no_record(managed: Callable, stage: Stage, store: RunStore) -> None:
    manager = managed(train=stage, workers=3)
    running, stuck, paused, queued, also = (manager.start(seeded(seed)) for seed in range(5))
    for seed, run in enumerate((running, stuck, paused)):
        stage[seed].allow(2)
        until(lambda run=run: steps(run) == 2)
    stage[1].deaf = True  # an operation that takes for ever
    manager.pause(paused.id)
    stage[2].allow(1)
    until(lambda: paused.status == Status.PAUSED)
    until(lambda: queued.status == Status.RUNNING)
    started = time.monotonic()
    manager.close(timeout=2)
    assert time.monotonic() - started < 2.5
    for run, count in ((running, 2), (stuck, 2), (paused, 3), (queued, 0), (also, 0)):
        assert run.status == Status.INTERRUPTED and run.message
        kept = store.load(run.id)
        assert kept.status == Status.INTERRUPTED and steps(kept) == count
    stage[1].allow(1)
    until(lambda: steps(stuck) == 3)  # it wakes up later, and disturbs nobody
    with pytest.raises(RuntimeError, match="closed"):
        manager.start(seeded(9))


CHILD = r"""
import itertools, sys, time
from pathlib import Path
import numpy as np
import torch
from gradviz.config import RunConfig
from gradviz.manager import RunManager
from gradviz.runs import QUANTITIES, StepRecord
from gradviz.store import RunStore

class Training:
    device = torch.device("cpu")
    def __init__(self, config, interrupt):
        self.config = config
    def __iter__(self):
        for step in range(self.config.steps):
            time.sleep(0.002)
            yield StepRecord(step, 2.3, 0.1, np.full((len(QUANTITIES), self.config.layers), step, np.float32), 0.0)
            sys.stdout.write(f"{self.config.seed} {step} {time.monotonic()}\n")
            sys.stdout.flush()

manager = RunManager(RunStore(Path(sys.argv[1])), None, workers=2, train=Training)
for seed in (1, 2):
    manager.start(RunConfig(blocks=12, dataset="digits", steps=100_000, seed=seed))
manager.wait(manager.list()[0].id)
"""


def test_a_kill_costs_at_most_the_last_second_and_the_run_is_interrupted(tmp_path: Path, shelf: Shelf) -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    lines: list[list[str]] = []
    while not lines or float(lines[-1][2]) - float(lines[0][2]) < 2.2:
        lines.append(child.stdout.readline().split())
        assert len(lines[-1]) == 3
    killed = time.monotonic()
    child.send_signal(signal.SIGKILL)
    lines += [line.split() for line in child.stdout.read().splitlines()]
    child.wait()
    store = RunStore(tmp_path)
    manager = RunManager(store, shelf)
    assert store.notice == "" and len(manager.list()) == 2
    for summary in manager.list():
        run = manager.get(summary.id)
        assert run.status == Status.INTERRUPTED and run.message
        recorded = [line for line in lines if len(line) == 3 and line[0] == str(run.config.seed)]
        older = sum(float(line[2]) < killed - 1 for line in recorded)
        assert older > 100
        assert older <= steps(run) <= len(recorded) + 2
        assert (run.history.loss == 2.3).all()
        stride = run.history.stride
        last = [min(first + stride, steps(run)) - 1 for first in range(0, steps(run), stride)]
        # The column that was growing when the kill came may hold a step more.
        assert run.history.quantity("signal_rms")[:-1, 0].tolist() == last[:-1]
    manager.close()
    store.close()


# Previews


def test_a_preview_is_the_first_step_of_the_real_run(managed: Callable, shelf: Shelf) -> None:
    manager = managed()
    preview = manager.preview(SMALL)
    assert preview.ready.wait(60) and preview.error == ""
    first = next(iter(Trainer(SMALL, shelf.load("digits"), torch.device("cpu"))))
    rows = [list(QUANTITIES).index(name) for name in ("weight_grad_rms", "signal_rms", "activation_rms", "weight_rms")]
    assert np.array_equal(preview.record.layers[rows], first.layers[rows])
    assert preview.record.loss == first.loss
    assert preview.seconds_per_step > 0
    assert manager.get_preview(preview.id) is preview


def test_previews_are_shared_by_all_configs_that_begin_alike(managed: Callable, stage: Stage) -> None:
    manager = managed(train=stage)
    preview = manager.preview(seeded(1), client="a")
    alike = seeded(1, optimizer="sgd", lr=0.1, steps=99, treatment="clip-norm", threshold=3.0)
    assert manager.preview(alike, client="b") is preview
    stage[1].allow(1)
    assert preview.ready.wait(60)
    assert manager.preview(alike, client="c") is preview
    assert stage.made == [1]
    for other in (replace(SMALL, batch_size=17), replace(SMALL, blocks=2), replace(SMALL, init_range=0.5)):
        assert manager.preview(other, client=other.run_id) is not preview


def test_a_newer_preview_drops_the_older_ones_of_the_same_client_only(managed: Callable, stage: Stage) -> None:
    manager = managed(train=stage)
    running = manager.preview(seeded(1), client="a")
    stage[1]  # has begun
    shared = manager.preview(seeded(2), client="b")
    assert manager.preview(seeded(2), client="a") is shared
    assert running.ready.wait(60) and running.record is None and running.error  # was interrupted in its middle
    stage[2]
    waiting = manager.preview(seeded(3), client="a")
    newest = manager.preview(seeded(4), client="a")
    assert waiting.ready.is_set() and waiting.record is None and waiting.error
    assert not shared.ready.is_set()  # b still wants it
    stage[2].allow(1)
    stage[4].allow(1)
    assert shared.ready.wait(60) and shared.record and newest.ready.wait(60) and newest.record
    assert stage.made == [1, 2, 4]
    assert manager.get_preview(waiting.id) is None


def test_a_preview_does_not_wait_for_trainings(managed: Callable, stage: Stage) -> None:
    manager = managed(train=stage)
    runs = [manager.start(seeded(seed)) for seed in (1, 2)]
    stage[1]
    preview = manager.preview(seeded(3))
    stage[3].allow(1)
    assert preview.ready.wait(60) and preview.record
    assert [run.status for run in runs] == ["running", "queued"]


def test_a_preview_that_fails_says_so_and_is_tried_again(managed: Callable, stage: Stage) -> None:
    manager = managed(train=stage)
    preview = manager.preview(seeded(1))
    stage[1].error = MemoryError()
    stage[1].allow(1)
    assert preview.ready.wait(60)
    assert preview.record is None and "memory does not suffice" in preview.error and preview.seconds_per_step is None
    assert manager.get_preview(preview.id) is preview
    del stage.puppets[1]
    again = manager.preview(seeded(1))
    stage[1].allow(1)
    assert again.ready.wait(60) and again.record


def test_only_so_many_previews_are_held(managed: Callable, stage: Stage) -> None:
    stage.free = True
    manager = managed(train=stage)
    previews = []
    for seed in range(70):
        previews.append(manager.preview(seeded(seed)))
        assert previews[-1].ready.wait(60)
    assert manager.get_preview(previews[0].id) is None and manager.get_preview(previews[-1].id) is previews[-1]
    assert manager.preview(seeded(30)) is previews[30]


# With the real trainer


def test_a_run_gives_the_same_numbers_alone_and_among_three_others(managed: Callable, shelf: Shelf) -> None:
    config = replace(SMALL, steps=25, batch_norm=True, activation="relu", blocks=2)
    alone = list(Trainer(config, shelf.load("digits"), torch.device("cpu")))
    manager = managed(workers=4)
    runs = [manager.start(replace(config, seed=seed)) for seed in (0, 1, 2, 3)]
    manager.pause(runs[0].id)  # and, going on, perhaps with another worker
    until(lambda: runs[0].status == Status.PAUSED)
    manager.step(runs[0].id)
    manager.resume(runs[0].id)
    for run in runs:
        assert manager.wait(run.id, 60) and run.status == Status.FINISHED and run.device == "cpu, 1 thread"
    assert runs[0].history.loss.tolist() == [record.loss for record in alone]
    assert np.array_equal(runs[0].history.columns, np.stack([record.layers for record in alone]), equal_nan=True)
    assert runs[1].history.loss.tolist() != runs[0].history.loss.tolist()
    assert runs[0].test_accuracy is not None


def test_a_thousand_blocks_stop_in_the_middle_of_a_step(managed: Callable) -> None:
    manager = managed()
    run = manager.start(replace(SMALL, blocks=1000, shortcut=True, batch_size=256, activation="relu"))
    until(lambda: manager._jobs[run.id].training is not None)
    started = time.monotonic()
    manager.stop(run.id)
    assert manager.wait(run.id, 60)
    assert time.monotonic() - started < 3  # one step is some 25 s
    assert run.status == Status.STOPPED


def test_every_worker_keeps_its_number_of_threads(managed: Callable) -> None:
    seen: list[int] = []

    class Training:
        device, outcome = torch.device("cpu"), Outcome(Status.FINISHED)

        def __init__(self, config: RunConfig, interrupt: Callable[[], bool]):
            self.config = config

        def __iter__(self) -> Iterator[StepRecord]:
            torch.ones(300, 300) @ torch.ones(300, 300)
            seen.append(torch.get_num_threads())
            yield record(self.config, 0)

    manager = managed(train=Training, threads=2)
    main = torch.get_num_threads()
    run = manager.start(SMALL)
    assert manager.wait(run.id, 60) and run.device == "cpu, 2 threads"
    assert seen == [2] and torch.get_num_threads() == main
