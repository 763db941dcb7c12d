"""Equal settings are one run, whoever asks for it; what is started afresh is kept until the new one has as much."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from puppets import SMALL, Stage, seeded, steps
from timing import until

from gradviz.lenet.config import READERS
from gradviz.lenet.data import Shelf
from gradviz.record.run import Run, Status
from gradviz.serve.manager import RunManager
from gradviz.store.store import RunStore


def test_while_the_store_is_asked_for_a_run_that_starts_everybody_else_is_answered(tmp_path: Path, shelf: Shelf, stage: Stage):
    class Asked(RunStore):
        waited = 0

        def size(self, id: str) -> int | None:
            other = threading.Thread(target=manager.statistics, daemon=True)
            other.start()
            other.join(10)
            self.waited += other.is_alive()
            return super().size(id)

    store = Asked(tmp_path / "asked", READERS)
    manager = RunManager(store, stage)
    try:
        run = manager.start(seeded(1), client="ann")
        manager.stop(run.id)
        assert manager.wait(run.id, 60)
        manager.start(seeded(1), again=True, client="ann")
        manager.start(seeded(2), client="bob")
    finally:
        manager.close()
        store.close()
    assert store.waited == 0


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
        until(lambda: store.load(SMALL.id).status == Status.FINISHED)
        assert store.load(SMALL.id).created == afresh.created


@pytest.mark.parametrize("status", [Status.STOPPED, Status.INTERRUPTED, Status.FAILED])
def test_what_is_started_afresh_is_kept_until_the_new_one_has_as_much(
    managed: Callable, stage: Stage, store: RunStore, status: Status
) -> None:
    manager = managed(train=stage, workers=2)
    run = manager.start(seeded(1, steps=50), client="ann")
    stage[1].allow(12)
    until(lambda: steps(run) == 12)
    manager.stop(run.id)
    assert manager.wait(run.id, 60)
    until(lambda: not manager.unsaved())
    run.status = status
    store.save(run)

    def afresh(count: int) -> Run:
        del stage.puppets[1]
        fresh = manager.start(seeded(1, steps=50), again=True, client="ann")
        stage[1].allow(count)
        until(lambda: steps(fresh) == count)
        return fresh

    short = afresh(5)
    bystander = manager.start(seeded(2))
    until(lambda: store.load(bystander.id) is not None)  # the writer has been there meanwhile
    kept = store.load(run.id)  # what is there after a kill now
    assert (kept.created, steps(kept), kept.status) == (run.created, 12, status)
    manager.stop(short.id)
    until(lambda: manager.get(run.id) is not short)
    back = manager.get(run.id)
    assert (back.status, steps(back)) == (status, 12)
    assert "ended after 5 steps" in str(back.message) and "kept" in str(back.message)
    long = afresh(12)
    until(lambda: store.load(run.id).created == long.created)
    assert steps(store.load(run.id)) == 12


def test_what_was_started_afresh_twice_in_a_hurry_is_kept_too(managed: Callable, stage: Stage, store: RunStore) -> None:
    manager = managed(train=stage)
    run = manager.start(seeded(1, steps=50))
    stage[1].allow(12)
    until(lambda: steps(run) == 12)
    manager.stop(run.id)
    assert manager.wait(run.id, 60)
    for _ in range(3):
        manager.stop(manager.start(seeded(1, steps=50), again=True).id)
    assert manager.wait(run.id, 60)
    until(lambda: not manager.unsaved())
    assert steps(manager.get(run.id)) == steps(store.load(run.id)) == 12


def test_a_run_of_several_people_goes_on_until_the_last_has_left(managed: Callable, stage: Stage, store: RunStore) -> None:
    manager = managed(train=stage)
    run = manager.start(SMALL, client="ann")
    stage[0].allow(1)
    manager.join(run.id, "bob")
    manager.start(SMALL, client="cyd")
    assert run.clients == ("ann", "bob", "cyd")
    assert manager.leave(run.id, "ann") and manager.leave(run.id, "ann")  # who is not in it cannot stop it
    assert manager.leave(run.id, "cyd") and run.status.live and run.clients == ("bob",)
    until(lambda: (kept := store.load(run.id)) and kept.clients == ("bob",))
    assert not manager.leave(run.id, "bob")
    assert manager.wait(run.id, 60) and run.status == Status.STOPPED and run.clients == ("bob",)
    manager.join(run.id, "eve")  # what has ended is joined by nobody
    assert manager.get(run.id).clients == ("bob",)


def test_an_unknown_or_rubbish_id_does_nothing(managed: Callable, stage: Stage) -> None:
    manager = managed(train=stage)
    for id in ("", "0" * 12, "../x", "\ud800", "a" * 10_000):
        for wish in (manager.pause, manager.resume, manager.step, manager.stop):
            wish(id)
        assert manager.get(id) is None and manager.position(id) is None and manager.get_preview(id) is None
