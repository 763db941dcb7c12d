"""Runs that other processes write: offered while they are written, in the store once they have ended, and lost at no moment."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from puppets import Stage
from spooled import NAMES, READERS, Spooled
from timing import until

from gradviz.lenet.config import READERS as LENETS
from gradviz.messages import say
from gradviz.record.measuring import measuring, why_missing
from gradviz.record.run import Run, Status
from gradviz.serve.manager import RunManager
from gradviz.serve.spools import KEPT, Spools
from gradviz.store.store import RunStore

DAY = KEPT + 60


@pytest.fixture
def store(tmp_path: Path):
    store = RunStore(tmp_path / "runs", {**LENETS, **READERS})
    yield store
    store.close()


class Shelf:
    """A place for what is taken in."""

    def __init__(self):
        self.runs, self.takes = {}, True

    def take_in(self, run: Run) -> bool:
        if self.takes:
            self.runs[run.id] = run
        return self.takes


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def made(folder: Path, shelf: Shelf, **options: object) -> Spools:
    """Nobody looks but the test."""
    return Spools(folder / "watched", shelf.take_in, **options)


def assert_same(one: Run, other: Spooled) -> None:
    assert one.recipe == other.recipe and one.history.quantities == other.history.quantities
    for name in ("columns", "loss", "accuracy", "seconds"):
        np.testing.assert_array_equal(getattr(one.history, name), getattr(other.history, name))


def test_a_run_is_there_while_it_is_written_and_grows(tmp_path, shelf):
    spools, written = made(tmp_path, shelf), Spooled(tmp_path)
    spools.look()  # nothing is there yet
    written.steps(3)
    assert spools.get(written.id) is None
    spools.look()
    run = spools.get(written.id)
    assert_same(run, written)
    assert run.status is Status.RUNNING and run.every == 2 and spools.list() == [run]
    written.steps(40)
    spools.look()
    assert_same(spools.get(written.id), written)
    assert not shelf.runs


@pytest.mark.parametrize("last, status", [("end", Status.FINISHED), ("kill", Status.INTERRUPTED)])
def test_a_run_that_has_ended_or_was_killed_is_taken_in_once(last, status, tmp_path, shelf):
    spools, written = made(tmp_path, shelf), Spooled(tmp_path)
    written.steps(3)
    spools.look()
    getattr(written, last)()
    spools.look()
    run = shelf.runs.pop(written.id)
    assert run.status is status and spools.get(written.id) is None and written.path.exists()
    assert_same(run, written)
    spools.look()
    assert not shelf.runs


def test_what_the_store_does_not_take_stays_and_is_offered(tmp_path, shelf):
    spools, written, shelf.takes = made(tmp_path, shelf), Spooled(tmp_path), False
    written.steps(3)
    written.end()
    for _ in range(2):
        spools.look()
        assert spools.get(written.id).status is Status.FINISHED
    shelf.takes = True
    spools.look()
    assert written.id in shelf.runs and spools.get(written.id) is None


def test_a_file_goes_a_day_after_its_end_if_the_store_has_the_run_and_not_before(tmp_path, shelf):
    now = [0.0]
    spools, written, other = made(tmp_path, shelf, clock=lambda: now[0]), Spooled(tmp_path), Spooled(tmp_path)
    for each in (written, other):
        each.steps(3)
    written.end()
    now[0] = written.path.stat().st_mtime + DAY
    spools.look()  # takes it in
    shelf.takes = False
    spools.look()  # would remove it, and the store cannot say that it has it
    assert written.path.exists()
    shelf.takes = True
    now[0] -= DAY
    for _ in range(3):
        spools.look()
        assert written.path.exists()
    now[0] += DAY
    spools.look()
    assert not written.path.exists() and other.path.exists()


def test_a_run_that_goes_on_after_it_seemed_dead_is_live_again_and_is_taken_in_whole(tmp_path, shelf):
    spools, written = made(tmp_path, shelf), Spooled(tmp_path)
    written.steps(3)
    written.kill()
    spools.look()
    assert shelf.runs.pop(written.id).status is Status.INTERRUPTED
    content = written.path.read_bytes()
    again = Spooled(tmp_path)
    again.path.parent.mkdir(exist_ok=True)
    again.recipe = written.recipe
    again.writer = type(written.writer)(written.path, {"recipe": written.recipe.to_dict(), "created": 1.7e9, "device": "cpu"})
    again.steps(5)
    assert written.path.read_bytes() != content
    spools.look()
    assert spools.get(written.id).status is Status.RUNNING
    again.end()
    spools.look()
    assert shelf.runs[written.id].history.steps == 5


def test_what_is_no_run_of_its_name_is_left_alone_and_read_once(tmp_path, shelf, caplog):
    spools, written = made(tmp_path, shelf), Spooled(tmp_path)
    written.steps(2)
    written.end()
    copy = written.path.with_name("copy.spool")
    copy.write_bytes(written.path.read_bytes())
    (copy.parent / "rubbish.spool").write_text("nothing\n")
    (copy.parent / "notes.txt").write_text("mine")
    for _ in range(3):
        spools.look()
    assert set(shelf.runs) == {written.id} and len([line for line in caplog.messages if "unreadable" in line]) == 2
    assert len(list(copy.parent.iterdir())) == 4


def test_a_live_run_cannot_be_deleted_and_an_ended_one_does_not_come_back(tmp_path, shelf):
    spools, written = made(tmp_path, shelf), Spooled(tmp_path)
    written.steps(2)
    spools.look()
    assert not spools.delete(written.id) and written.path.exists()
    written.end()
    spools.look()
    assert spools.delete(written.id) and not written.path.exists()
    shelf.runs.clear()
    spools.look()
    assert not shelf.runs and spools.get(written.id) is None


def test_a_file_that_somebody_removes_is_forgotten(tmp_path, shelf):
    spools, written = made(tmp_path, shelf), Spooled(tmp_path)
    written.steps(2)
    spools.look()
    written.path.unlink()
    spools.look()
    assert spools.list() == []


# With a manager and a store


def test_the_manager_lists_a_watched_run_live_and_keeps_it_with_all_that_was_measured(
    managed: Callable, store: RunStore, stage: Stage, tmp_path: Path
):
    manager: RunManager = managed(train=stage)
    written = Spooled(tmp_path / "runs")
    written.steps(3)
    until(lambda: manager.at_hand(written.id))
    assert manager.at_hand(written.id) is manager.get(written.id)
    (summary,) = manager.list()
    assert (summary.id, summary.status, summary.progress) == (written.id, Status.RUNNING, "3")
    written.steps(4)
    written.end(Status.FAILED, say("watch-failed", kind="ValueError"))
    until(lambda: manager.get(written.id).status is Status.FAILED)
    until(lambda: store.load(written.id))
    kept = store.load(written.id)
    assert_same(kept, written)
    assert str(kept.message) == "The training failed: ValueError." and kept.created == 1.7e9
    assert (kept.every, kept.share, kept.overflows) == (2, 0.02, 3)
    assert why_missing(kept, NAMES[1], "signal_rms") == "it is frozen"
    assert [run.id for run in manager.each()] == [written.id]


def test_a_server_that_is_killed_and_begun_again_in_the_middle_goes_on(
    managed: Callable, store: RunStore, stage: Stage, tmp_path: Path
):
    written = Spooled(tmp_path / "runs")
    written.steps(3)
    manager: RunManager = managed(train=stage)
    until(lambda: manager.at_hand(written.id))
    manager.close()
    written.steps(5)
    manager = managed(train=stage)
    until(lambda: manager.at_hand(written.id) and manager.at_hand(written.id).history.steps == 8)
    manager.close()
    written.kill()  # while no server runs
    manager = managed(train=stage)
    until(lambda: store.load(written.id))
    assert_same(store.load(written.id), written)
    assert manager.get(written.id).status is Status.INTERRUPTED


def test_a_watched_run_that_is_deleted_is_gone_from_the_store_and_its_folder(
    managed: Callable, store: RunStore, stage: Stage, tmp_path: Path
):
    manager: RunManager = managed(train=stage)
    written, live = Spooled(tmp_path / "runs"), Spooled(tmp_path / "runs")
    for each in (written, live):
        each.steps(3)
    written.end()
    until(lambda: store.load(written.id) and manager.at_hand(live.id))
    for each in (written, live):
        manager.delete(each.id)
    assert store.load(written.id) is None and not written.path.exists()
    assert manager.at_hand(live.id) and live.path.exists()  # another process trains it


def test_a_store_of_before_takes_watched_runs(tmp_path: Path):
    folder = tmp_path / "runs"
    store = RunStore(folder, {**LENETS, **READERS})
    store.close()
    with sqlite3.connect(folder / "runs.sqlite") as db:
        db.execute("ALTER TABLE runs DROP COLUMN measuring")
        db.execute("PRAGMA user_version = 6")
    db.close()
    store = RunStore(folder, {**LENETS, **READERS})
    written, shelf = Spooled(folder), Shelf()
    written.steps(3)
    written.end()
    made(folder, shelf).look()
    store.save(shelf.runs[written.id])
    assert measuring(store.load(written.id)) == measuring(shelf.runs[written.id])
    store.close()
    assert os.listdir(folder / "watched") == [written.path.name]
