"""The end of a server, wished for or not, and what the next one makes of it."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from puppets import Stage, do, seeded, steps
from timing import Clock, until

from gradviz.lenet.config import READERS
from gradviz.lenet.data import Shelf
from gradviz.record.run import Run, Status
from gradviz.serve.manager import RunManager
from gradviz.store.store import RunStore


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
        assert run.status == Status.INTERRUPTED and str(run.message)
        kept = store.load(run.id)
        assert kept.status == Status.INTERRUPTED and steps(kept) == count
    stage[1].allow(1)
    until(lambda: steps(stuck) == 3)  # it wakes up later, and disturbs nobody
    with pytest.raises(RuntimeError, match="closed"):
        manager.start(seeded(9))


def test_after_a_restart_what_waited_goes_on_in_its_order(managed: Callable, stage: Stage, store: RunStore) -> None:
    first = managed(train=stage)
    running, *waiting = (first.start(seeded(seed), client=f"person {seed}") for seed in (1, 3, 2))
    sweeps = first.start(seeded(4))
    do(first, stage, running, 2)
    first.close()
    assert [run.status for run in (running, *waiting, sweeps)] == ["interrupted", "queued", "queued", "interrupted"]
    assert not first.wait(waiting[0].id, 60)  # at once: this manager will not see its end
    stage.free = True
    second = managed(train=stage)
    for run in waiting:
        assert second.get(run.id) is not run and second.get(run.id).clients == run.clients
        assert second.wait(run.id, 60) and second.get(run.id).status == Status.FINISHED
        until(lambda run=run: store.load(run.id).status == Status.FINISHED)
        assert store.load(run.id).created == run.created and store.load(run.id).clients == run.clients
    assert stage.made == [1, 3, 2] and steps(second.get(running.id)) == 2


def as_killed(store: RunStore) -> RunStore:
    """What a kill at this moment would leave, opened."""
    folder = store.folder.with_name("killed")
    shutil.copytree(store.folder, folder, ignore=shutil.ignore_patterns("*-shm", "runs.lock"))
    return RunStore(folder, READERS)


def between_slices(managed: Callable, stage: Stage, clock: Clock) -> tuple[RunManager, Run, Run]:
    """A manager, a run of its that waits for its next slice after four steps, and one that has the worker."""
    manager = managed(train=stage, slice=10, clock=clock)
    waits = manager.start(seeded(1), client="person")
    do(manager, stage, waits, 3)
    trains = manager.start(seeded(2), client="other")
    clock.now += 11
    do(manager, stage, waits)
    return manager, waits, trains


def test_what_waited_for_its_next_slice_when_the_server_was_killed_is_trained_again_and_its_records_are_kept_until_then(
    managed: Callable, stage: Stage, store: RunStore, shelf: Shelf, clock: Clock
) -> None:
    first, waits, trains = between_slices(managed, stage, clock)
    do(first, stage, trains, 2)  # it has the worker, and may be why the server ends
    assert waits.status == Status.RUNNING and steps(waits) == 4
    until(lambda: (found := store.load(waits.id)) and found.status == Status.QUEUED and steps(store.load(trains.id)) == 2)
    again = as_killed(store)
    assert {line.id: line.status for line in again.list()} == {waits.id: Status.QUEUED, trains.id: Status.INTERRUPTED}
    stage.puppets.clear()
    manager = RunManager(again, stage, slice=10, clock=clock)
    run = manager.get(waits.id)
    assert run.clients == ("person",) and steps(run) == 0
    do(manager, stage, run, 2)
    until(lambda: again.load(run.id).status == Status.INTERRUPTED)  # now a worker has it
    assert steps(again.load(run.id)) == 4  # and what was recorded before is there
    manager.leave(run.id, "person")
    until(lambda: not manager.unsaved() and str(manager.get(run.id).message).startswith("Started afresh"))
    assert steps(again.load(run.id)) == 4 and again.load(run.id).status == Status.INTERRUPTED
    manager.close()
    again.close()


def test_what_waited_is_trained_again_to_its_end_also_if_the_server_ends_twice(
    managed: Callable, stage: Stage, store: RunStore, shelf: Shelf, clock: Clock
) -> None:
    _manager, waits, trains = between_slices(managed, stage, clock)
    until(lambda: (found := store.load(waits.id)) and found.status == Status.QUEUED)
    again = as_killed(store)
    idle = RunManager(again, stage, workers=0)  # ends before a worker has it
    assert idle.get(waits.id).status == Status.QUEUED
    idle.close()
    again.close()
    again = RunStore(again.folder, READERS)
    assert again.load(waits.id).status == Status.QUEUED and steps(again.load(waits.id)) == 4
    stage.free = True
    manager = RunManager(again, stage)
    assert manager.wait(waits.id, 60)
    until(lambda: again.load(waits.id).status == Status.FINISHED)
    assert steps(again.load(waits.id)) == waits.recipe.steps and steps(again.load(trains.id)) <= 1
    manager.close()
    again.close()


CHILD = r"""
import itertools, sys, time
from pathlib import Path
import numpy as np
import torch
from gradviz.lenet.config import READERS, RunConfig
from gradviz.serve.manager import RunManager
from gradviz.record.history import StepRecord
from gradviz.record.quantities import QUANTITIES
from gradviz.store.store import RunStore

class Training:
    device, arithmetic = "cpu, 1 thread", None
    def __init__(self, config, interrupt):
        self.config = config
    def __iter__(self):
        for step in range(self.config.steps):
            time.sleep(0.002)
            yield StepRecord(step, 2.3, 0.1, np.full((len(QUANTITIES), self.config.layers), step, np.float32), 0.0)
            sys.stdout.write(f"{self.config.seed} {step} {time.monotonic()}\n")
            sys.stdout.flush()

manager = RunManager(RunStore(Path(sys.argv[1]), READERS), Training, workers=2, slice=1e9)
for seed in (1, 2, 4, 3):  # two that train, two that wait
    manager.start(RunConfig(blocks=12, dataset="digits", steps=100_000, seed=seed), client=f"person {seed}")
manager.wait(manager.list()[0].id)
"""


def test_a_kill_costs_at_most_the_last_second_and_what_waited_goes_on(tmp_path: Path, shelf: Shelf, stage: Stage) -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    lines: list[list[str]] = []

    def older(seed: str, moment: float) -> int:
        """Lines of one run from more than a second before."""
        return sum(len(line) == 3 and line[0] == seed and float(line[2]) < moment - 1 for line in lines)

    while not lines or len(lines) % 50 or min(older(seed, float(lines[-1][2])) for seed in "12") < 110:
        lines.append(child.stdout.readline().split())
        assert len(lines[-1]) == 3
    killed = time.monotonic()
    child.send_signal(signal.SIGKILL)
    lines += [line.split() for line in child.stdout.read().splitlines()]
    child.wait()
    store = RunStore(tmp_path, READERS)
    manager = RunManager(store, stage)
    assert store.notice == "" and len(manager.list()) == 4
    assert stage[4] and stage.made == [4]
    waiting = [manager.get(summary.id) for summary in manager.list() if summary.status.live]
    assert {(run.recipe.seed, run.status, run.clients) for run in waiting} == {
        (4, "running", ("person 4",)), (3, "queued", ("person 3",)),
    }  # fmt: skip
    for summary in manager.list():
        run = manager.get(summary.id)
        if run in waiting:
            continue
        assert run.status == Status.INTERRUPTED and str(run.message)
        recorded = [line for line in lines if len(line) == 3 and line[0] == str(run.recipe.seed)]
        assert 100 < older(str(run.recipe.seed), killed) <= steps(run) <= len(recorded) + 2
        assert (run.history.loss == 2.3).all()
        stride = run.history.stride
        last = [min(first + stride, steps(run)) - 1 for first in range(0, steps(run), stride)]
        # The column that was growing when the kill came may hold a step more.
        assert run.history.quantity("signal_rms")[:-1, 0].tolist() == last[:-1]
    manager.close()
    store.close()
