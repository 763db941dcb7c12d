"""What is kept: written within a second, read when somebody asks, and by few at once."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from puppets import SMALL, Stage, seeded, steps
from timing import until

from gradviz.lenet.config import READERS
from gradviz.lenet.data import Shelf
from gradviz.lenet.experiment import trainer_on
from gradviz.record.history import History
from gradviz.record.run import Run, Status
from gradviz.serve.admission import Refused
from gradviz.serve.manager import RunManager
from gradviz.settings import Limits
from gradviz.store.store import RunStore


def test_a_record_is_in_the_store_within_a_second(managed: Callable, stage: Stage, store: RunStore) -> None:
    manager = managed(train=stage)
    run = manager.start(SMALL)
    for step in range(1, 4):
        stage[0].allow(1)
        until(lambda step=step: steps(run) == step)
        until(lambda step=step: store.load(run.id) and steps(store.load(run.id)) == step, seconds=1)
    assert store.load(run.id).status == Status.RUNNING


def test_an_ended_run_leaves_memory_for_the_store_and_comes_back(managed: Callable, stage: Stage) -> None:
    stage.free = True
    manager = managed(train=stage, limits=Limits(kept_bytes=1))
    runs = [manager.start(seeded(seed)) for seed in range(3)]
    for run in runs:
        assert manager.wait(run.id, 60)
    until(lambda: not manager.unsaved())
    id, columns, gone = runs[0].id, runs[0].history.columns, weakref.ref(runs[0])
    assert manager.get(id) is runs[0]  # what a page holds is in memory anyway
    manager.get(runs[1].id)
    del runs, run
    until(lambda: gone() is None)
    assert manager.at_hand(id) is None
    again = manager.get(id)
    assert np.array_equal(again.history.columns, columns) and again.test_accuracy == 0.75


class SlowStore(RunStore):
    """Reads runs when it is allowed to, and counts."""

    def __init__(self, folder: Path):
        super().__init__(folder, READERS)
        self.allowed, self.counting = threading.Event(), threading.Lock()
        self.loads: list[str] = []
        self.most = self._now = 0

    def load(self, id: str) -> Run | None:
        with self.counting:
            self.loads.append(id)
            self._now += 1
            self.most = max(self.most, self._now)
        assert self.allowed.wait(60)
        try:
            return super().load(id)
        finally:
            with self.counting:
                self._now -= 1


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[SlowStore]:
    slow = SlowStore(tmp_path / "slow")
    slow.save(*(Run(seeded(seed), History(SMALL.layers), Status.FINISHED) for seed in range(10)))
    yield slow
    slow.close()


def test_a_run_that_many_ask_for_is_read_once_and_few_runs_are_read_at_once(slow: SlowStore, shelf: Shelf) -> None:
    manager = RunManager(slow, trainer_on(shelf))
    ids = [seeded(seed).id for seed in range(10)]
    with ThreadPoolExecutor(60) as people:
        asked = [people.submit(manager.get, id) for id in ids * 6]
        until(lambda: slow.loads)
        assert not any(answer.done() for answer in asked)
        slow.allowed.set()
        got = [answer.result(60) for answer in asked]
    assert [run.id for run in got] == ids * 6 and len({id(run) for run in got}) == 10
    assert sorted(slow.loads) == sorted(ids) and slow.most <= 2
    manager.close()


def test_a_run_is_not_read_while_too_little_memory_is_left(slow: SlowStore, shelf: Shelf) -> None:
    slow.allowed.set()
    left = 1e6
    manager = RunManager(slow, trainer_on(shelf), memory_left=lambda: left)
    with pytest.raises(Refused, match="too little memory left for this now: 1 MB, ") as refusal:
        manager.get(SMALL.id)
    assert refusal.value.reason == "memory" and manager.get("0123456789ab") is None
    left = 1e9
    assert manager.get(SMALL.id).recipe == SMALL
    left = 1e6
    assert manager.get(SMALL.id).recipe == SMALL  # it is there
    manager.close()


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
    pages = store.file.db.execute("PRAGMA page_count").fetchone()[0]
    store.file.db.execute(f"PRAGMA max_page_count = {pages}")
    stage.free = True
    manager = managed(train=stage)
    config = seeded(1, blocks=60, steps=50)
    run = manager.start(config)
    assert manager.wait(run.id, 60) and run.status == Status.FINISHED
    until(lambda: manager.warning)
    assert "the disk is full" in str(manager.warning) and "\n" not in str(manager.warning)
    assert manager.get(run.id) is run and store.list() == []
    store.file.db.execute("PRAGMA max_page_count = 1000000")
    until(lambda: not manager.warning)
    assert steps(store.load(run.id)) == 50
