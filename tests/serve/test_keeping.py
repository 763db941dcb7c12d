"""Nothing recorded is lost when files are removed, replaced or damaged under a running server, and what is wrong is said."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from puppets import Stage, seeded, steps
from recorded import assert_same, ended_run, extend, new_run
from running import Server
from timing import Clock, until
from viewing import in_shell

from gradviz.lenet.config import READERS
from gradviz.lenet.sweep import Sweep
from gradviz.messages import text
from gradviz.record.run import Status
from gradviz.serve.admission import Refused
from gradviz.serve.classroom import Classroom
from gradviz.serve.manager import RunManager
from gradviz.serve.people import People
from gradviz.serve.sweeps import SweepRunner
from gradviz.settings import Limits
from gradviz.store.store import RunStore, StoreError
from gradviz.web.cards import classroom_routes


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunStore]:
    store = RunStore(tmp_path / "runs", READERS, grace=0)
    yield store
    store.close()


@pytest.fixture
def manager(store: RunStore, stage: Stage, tmp_path: Path) -> Iterator[RunManager]:
    manager = RunManager(store, stage, workers=2, slice=1e9)
    yield manager
    manager.close()


# Files that are removed or replaced


def removed(store: RunStore) -> None:
    store.path.unlink()


def renamed(store: RunStore) -> None:
    store.path.rename(store.folder / "old.sqlite")


def remove_at_once(folder: Path) -> None:
    """All of it at once: while its files go one by one, somebody may write a new one."""
    gone = folder.with_name(f"{folder.name} gone")
    folder.rename(gone)
    shutil.rmtree(gone)


def folder_removed(store: RunStore) -> None:
    remove_at_once(store.folder)


def folder_renamed(store: RunStore) -> None:
    store.folder.rename(store.folder.with_name("elsewhere"))


def log_removed(store: RunStore) -> None:
    Path(f"{store.path}-wal").unlink()


def index_removed(store: RunStore) -> None:
    Path(f"{store.path}-shm").unlink()


def replaced(store: RunStore) -> None:
    with sqlite3.connect(store.folder / "copy.sqlite") as copy, sqlite3.connect(store.path) as original:
        original.backup(copy)
    copy.close(), original.close()
    os.replace(store.folder / "copy.sqlite", store.path)


def everything_removed(store: RunStore) -> None:
    for path in store.folder.glob("runs*"):
        path.unlink()


WAYS = [removed, renamed, folder_removed, folder_renamed, log_removed, index_removed, replaced, everything_removed]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_what_becomes_of_the_file_is_noticed_within_a_second_and_no_run_is_lost(
    manager: RunManager, store: RunStore, stage: Stage, tmp_path: Path, way: Callable[[RunStore], None]
) -> None:
    store.file.grace = 1.0  # so that the sentence can be read
    kept = ended_run(seed=7)
    store.save(kept)
    live, done = manager.start(seeded(1)), manager.start(seeded(2))
    stage[1].allow(2)
    until(lambda: store.load(live.id) and steps(store.load(live.id)) == 2)
    way(store)
    started = time.monotonic()
    with pytest.raises(StoreError) as problem:
        store.check()
    assert "\n" not in str(problem.value) and store.folder.name in str(problem.value)
    until(lambda: manager.warning, seconds=1)
    assert time.monotonic() - started < 1
    assert kept.id in {line.id for line in manager.list()}  # the file is open, whatever became of its name
    stage[2].allow(5)  # meanwhile one ends and one goes on
    assert manager.wait(done.id, 60)
    stage[1].allow(1)
    until(lambda: steps(live) == 3)
    if not store.folder.is_dir():
        until(lambda: "in memory" in str(manager.warning))
        store.folder.mkdir()
    until(lambda: not manager.warning, seconds=10)
    store.check()
    assert "removed" in store.notice or "replaced" in store.notice
    until(lambda: (found := store.load(live.id)) and steps(found) == 3 and found.status == Status.RUNNING)
    manager.close()
    store.close()
    again = RunStore(tmp_path / "runs", READERS, patience=0)
    assert_same(again.load(kept.id), kept)
    assert_same(again.load(done.id), done)
    assert steps(again.load(live.id)) == 3 and len(again.list()) == 3 and again.notice == ""
    again.close()


def test_a_file_that_comes_back_in_time_is_used_as_if_nothing_had_been(tmp_path: Path) -> None:
    clock = Clock()
    store = RunStore(tmp_path / "runs", READERS, grace=5, clock=clock)
    run = ended_run()
    store.save(run)
    store.folder.rename(tmp_path / "aside")
    for now in (0.5, 4.0):
        clock.now = now
        with pytest.raises(StoreError, match="is gone"):
            store.tend()
        with pytest.raises(StoreError, match="is gone"):
            store.save(ended_run(seed=1))
    assert_same(store.load(run.id), run)
    (tmp_path / "aside").rename(store.folder)
    clock.now = 100
    store.tend()
    assert store.notice == "" and store.generation == 0
    store.save(ended_run(seed=1))
    assert len(store.list()) == 2
    store.close()


def test_a_replaced_file_keeps_its_own_runs_and_gets_those_that_it_lacks(tmp_path: Path, store: RunStore) -> None:
    other = RunStore(tmp_path / "other", READERS)
    theirs, shared = ended_run(seed=1), ended_run(seed=2, count=4)
    other.save(theirs, shared)
    other.close()
    mine = ended_run(seed=3)
    further = ended_run(seed=2, count=9)
    further.created = shared.created
    store.save(mine, further)
    os.replace(other.path, store.path)
    store.tend()
    for run in (theirs, mine, further):
        assert_same(store.load(run.id), run)
    assert "replaced" in store.notice and "2 runs" in store.notice
    store.save(ended_run(seed=4))
    store.close()
    again = RunStore(tmp_path / "runs", READERS)
    assert len(again.list()) == 4
    again.close()


def test_a_removed_lock_is_taken_again_before_a_second_server_can_have_it(tmp_path: Path, store: RunStore) -> None:
    run = new_run()
    store.save(run)
    lock = tmp_path / "runs" / "runs.lock"
    lock.unlink()
    with pytest.raises(StoreError, match=r"runs\.lock"):
        store.check()
    store.tend()
    with pytest.raises(StoreError, match="in use by another"):
        RunStore(store.folder, READERS, patience=0)
    store.check()
    assert store.load(run.id).status == Status.QUEUED and store.generation == 0


def test_a_second_server_that_has_got_the_lock_is_said_and_not_written_over(tmp_path: Path, store: RunStore) -> None:
    store.save(new_run())
    (store.folder / "runs.lock").unlink()
    second = RunStore(store.folder, READERS, patience=0)
    with pytest.raises(StoreError, match="in use by another"):
        store.tend()
    with pytest.raises(StoreError):
        store.save(ended_run())
    second.close()
    store.tend()
    store.save(ended_run())
    assert len(store.list()) == 2


def test_a_server_that_ends_while_the_folder_is_gone_makes_it_for_its_records(
    manager: RunManager, store: RunStore, stage: Stage, tmp_path: Path
) -> None:
    kept = ended_run(seed=7)
    store.save(kept)
    run = manager.start(seeded(1))
    stage[1].allow(3)
    until(lambda: steps(run) == 3)
    folder_removed(store)
    until(lambda: manager.warning)
    stage[1].allow(1)
    until(lambda: steps(run) == 4)
    manager.close()
    store.close()
    again = RunStore(tmp_path / "runs", READERS)
    assert_same(again.load(kept.id), kept)
    assert steps(again.load(run.id)) == 4
    again.close()


def test_runs_that_cannot_be_written_are_bounded_and_a_start_is_then_refused(
    store: RunStore, stage: Stage, tmp_path: Path
) -> None:
    manager = RunManager(store, stage, limits=Limits(unsaved_bytes=1))
    folder_removed(store)
    until(lambda: manager.warning)
    stage.free = True
    done = manager.start(seeded(1))
    assert manager.wait(done.id, 60)
    until(lambda: "1 that have ended" in str(manager.warning))
    with pytest.raises(Refused, match="used up the memory"):
        manager.start(seeded(2))
    store.folder.mkdir()
    until(lambda: not manager.warning)
    assert manager.wait(manager.start(seeded(2)).id, 60)
    manager.close()


# Rows that cannot be read

BAD_RUN = {
    "an unknown status": ("status", "melted"),
    "no status": ("status", None),
    "broken settings": ("config", '{"blocks": '),
    "settings that are a number": ("config", 17),
    "no settings": ("config", None),
    "settings of another version": ("config", '{"unheard": 1}'),
    "words for a time": ("created", "yesterday"),
    "no time": ("created", None),
    "a time without an end": ("created", float("inf")),
    "words for steps": ("steps", "many"),
    "steps below zero": ("steps", -3),
    "more steps than there can be": ("steps", 10**15),
    "bytes for a status": ("status", b"\xff\xfe"),
}


@pytest.mark.parametrize("name", BAD_RUN)
def test_a_row_that_cannot_be_read_costs_that_row_and_is_named(tmp_path: Path, store: RunStore, name: str) -> None:
    good, bad = ended_run(seed=1), ended_run(seed=2)
    store.save(good, bad)
    column, value = BAD_RUN[name]
    store.file.db.execute(f"UPDATE runs SET {column} = ? WHERE id = ?", (value, bad.id))
    store.close()
    store = RunStore(tmp_path / "runs", READERS)
    assert [line.id for line in store.list()] == [good.id]
    assert_same(store.load(good.id), good)
    assert store.load(bad.id) is None and store.waiting() == []
    assert bad.id in store.notice and "\n" not in store.notice
    assert store.count() == 2  # it stays
    assert [id for id, _created, _people in store.ended()] == [good.id]  # and gives way to nobody
    store.check()
    store.save(ended_run(seed=3))
    store.delete(bad.id)
    assert len(store.list()) == 2 and store.notice == ""
    store.close()


REPAIRED = {
    "stride": (0, -4, 3, "x", None, 10**12),
    "max_columns": (0, 7, "x", None, 10**15),
    "quantities": (None, "", 5),
    "loss": ("x", None, b"x"),
    "seconds": ("x", None),
    "test_accuracy": ("x", b""),
    "deletion": ("{", "[1]", "7", '{"images": "x"}', b"\xff"),
    "clients": ("{", "7", '[1, "Ann"]', b"\xff"),
    "device": (None, b"\xff\xfe"),
    "message": (None, 3.5),
}


@pytest.mark.parametrize("column", REPAIRED)
def test_a_bad_word_beside_the_records_costs_no_record(store: RunStore, column: str) -> None:
    run = new_run(columns=None)
    extend(run, 2300)  # stride 4
    run.status = Status.FINISHED
    store.save(run)
    for value in REPAIRED[column]:
        store.file.db.execute(f"UPDATE runs SET {column} = ?", (value,))
        loaded = store.load(run.id)
        for name in ("columns", "loss", "accuracy"):
            assert getattr(loaded.history, name).tobytes() == getattr(run.history, name).tobytes(), value
        assert loaded.history.stride == 4 and len(store.list()) == 1
        assert loaded.deletion is None and set(loaded.clients) <= {"Ann"}
        store.save(loaded)


@pytest.mark.parametrize("data", [b"short", b"", None, "words", 5], ids=repr)
@pytest.mark.parametrize("table", ["scalars", "columns", "samples"])
def test_a_bad_part_costs_that_part_and_is_said(store: RunStore, table: str, data: object) -> None:
    run = new_run(blocks=2)
    extend(run, 6)
    store.save(run)
    extend(run, 4)
    run.status, run.message = Status.STOPPED, text("By hand.")
    store.save(run)
    if table == "samples":
        store.file.db.execute("INSERT INTO samples (run, step, numbers, images) VALUES (?, 3, ?, x'')", (run.id, data))
    else:
        store.file.db.execute(f"UPDATE {table} SET data = ? WHERE {'first' if table == 'scalars' else 'place'} = 6", (data,))
    loaded = store.load(run.id)
    there = [step not in ((6, 7, 8, 9) if table == "scalars" else ()) for step in range(10)]
    assert np.array_equal(loaded.history.loss[there], run.history.loss[there])
    assert np.isnan(loaded.history.loss[np.invert(there)]).all()
    there = [place != 6 or table != "columns" for place in range(10)]
    assert loaded.history.columns[there].tobytes() == run.history.columns[there].tobytes()
    said = {"scalars": "4 of 10 steps", "columns": "1 of 10 columns", "samples": "1 test or sample"}[table]
    assert str(loaded.message) == f"By hand. Damaged in the file and left out: {said}{' of layers' * (table == 'columns')}."
    assert loaded.history.samples == [] and run.id in store.notice


def test_with_a_bad_row_every_page_opens_names_it_and_the_server_is_ready(page_server, tmp_path: Path) -> None:
    store = page_server.store
    good, *bad = (ended_run(seed=seed, count=30) for seed in range(4))
    store.save(good, *bad)
    store.file.db.execute("UPDATE runs SET status = 'melted' WHERE id = ?", (bad[0].id,))
    store.file.db.execute("UPDATE columns SET data = x'00' WHERE run = ?", (bad[1].id,))
    store.file.db.execute("UPDATE runs SET config = NULL WHERE id = ?", (bad[2].id,))
    page_server.manager.list()  # is read by every page; the next one says what could not be
    for page in ("lab", "anatomy", "compare", "sweep", "classroom", "lessons"):
        shell = in_shell(page).run()  # what was found out while the first page was made stands on the next
        assert any(bad[0].id in element.value and "melted" in element.value for element in shell.warning), page
    assert {line.id for line in page_server.manager.list()} == {good.id, bad[1].id}
    assert page_server.manager.get(bad[1].id).history.steps == 30
    assert page_server.manager.get(bad[0].id) is None
    assert not page_server.manager.warning
    store.check()


def test_every_page_says_that_the_folder_is_gone_and_open_ones_are_told(page_server, monkeypatch: pytest.MonkeyPatch) -> None:
    from asgi import ask
    from starlette.applications import Starlette

    from gradviz.ui import classroom
    from gradviz.ui.server import notice

    monkeypatch.setattr(classroom, "address", lambda: "10.0.0.1")  # of somebody in the class
    told = Starlette(routes=classroom_routes(lambda: None, notice))
    assert json.loads(ask(told, "/api/classroom/notice").body)["kept"] == ""
    remove_at_once(page_server.store.folder)
    until(lambda: page_server.manager.warning)
    for page in ("lab", "anatomy", "compare", "sweep", "classroom", "lessons"):
        shell = in_shell(page).run()  # what was found out while the first page was made stands on the next
        assert any("is gone" in element.value for element in shell.warning), page
        assert not any(str(page_server.store.folder.parent) in element.value for element in shell.warning), page
    words = json.loads(ask(told, "/api/classroom/notice").body)["kept"]
    assert "is gone" in words and str(page_server.store.folder.parent) not in words  # where it was is not for a class to know
    assert str(page_server.store.folder) in str(page_server.manager.warning)  # but for the log and the teacher
    page_server.store.folder.mkdir()
    until(lambda: not page_server.manager.warning)


def test_a_server_is_not_ready_while_what_it_writes_would_not_be_found(server) -> None:
    import urllib.error
    import urllib.request

    def ready() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"{server.url}/ready", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    assert ready()[0] == 200
    remove_at_once(server.store)
    status, sentence = ready()
    assert status == 503 and "is gone" in sentence and "\n" not in sentence
    server.store.mkdir()
    until(lambda: ready()[0] == 200)
    assert (server.store / "runs.sqlite").exists()


# The small files beside it


BROKEN = ["", "{", "[]", "7", "null", "[" * 100_000, '"x"', "\x00\x01", '{"names": ']


@pytest.mark.parametrize("text", BROKEN, ids=range(len(BROKEN)))
def test_a_broken_file_of_names_is_put_aside_and_said(tmp_path: Path, text: str) -> None:
    for _turn in range(2):  # the second does not take the first one's place
        (tmp_path / "classroom.json").write_text(text)
        room = Classroom(tmp_path / "classroom.json", "4711")
        assert "could not be read" in str(room.damage) and room.names("a") == ()
    assert [path.read_text() for path in sorted(tmp_path.glob("classroom.damaged*"))] == [text, text]


def test_a_bad_name_costs_that_name(tmp_path: Path) -> None:
    path = tmp_path / "classroom.json"
    names = {"a": {"1": "Ann", "2": None, "3": 7}, "c": {"4": "Cy"}}
    path.write_text(json.dumps({"names": names, "wall": "", "lesson": "", "locked": False}))
    room = Classroom(path, "4711")
    assert room.names("a") == ("Ann",) and room.names("c") == ("Cy",) and not room.damage


def test_names_and_sweeps_are_written_again_where_their_folder_comes_back(manager: RunManager, store: RunStore) -> None:
    room, sweeps = Classroom(store.folder / "classroom.json", "4711"), SweepRunner(manager, store.folder / "sweeps", tick=0.01)
    room.join("1", "Ann", "a")
    sweep = Sweep("mine", (seeded(1),))
    sweeps.start(sweep)
    folder_removed(store)
    room.tend()
    assert not store.folder.exists()  # who removed it may be about to put another there
    store.folder.mkdir()
    room.tend()
    assert Classroom(store.folder / "classroom.json", "4711").names("a") == ("Ann",)
    until(lambda: (store.folder / "sweeps" / f"{sweep.id}.json").exists())
    sweeps.close()


NO_RUNS = '{"name": "x", "early": true, "configs": []}'


@pytest.mark.parametrize("text", [*BROKEN, NO_RUNS, '{"configs": [1], "name": 1, "early": 0}'])
def test_a_broken_sweep_costs_that_sweep_and_is_said(manager: RunManager, store: RunStore, text: str) -> None:
    (store.folder / "sweeps").mkdir()
    (store.folder / "sweeps" / "0123.json").write_text(text)
    sweeps = SweepRunner(manager, store.folder / "sweeps")
    assert sweeps.list() == [] and "0123.json" in str(sweeps.damage)
    assert (store.folder / "sweeps" / "0123.json").read_text() == text
    sweeps.close()


@pytest.mark.timeout(60)
def test_what_is_no_file_among_the_small_files_is_said_and_waited_for_by_nobody(manager: RunManager, store: RunStore) -> None:
    folder = store.folder / "sweeps"
    folder.mkdir()
    (folder / "circle.json").symlink_to("circle.json")
    (folder / "nowhere.json").symlink_to("gone")
    (folder / "folder.json").mkdir()
    os.mkfifo(folder / "pipe.json")
    runner = SweepRunner(manager, folder)
    assert runner.list() == [] and "4 kept sweeps could not be read" in str(runner.damage)
    runner.close()
    os.mkfifo(store.folder / "people.secret")
    assert People(store.folder / "people.secret")
    os.mkfifo(store.folder / "classroom.json")
    room = Classroom(store.folder / "classroom.json")
    assert "kept as classroom.damaged.json" in str(room.damage)
    room.join("client", "Ann", "0" * 12)
    assert Classroom(store.folder / "classroom.json").names("0" * 12) == ("Ann",)


@pytest.mark.parametrize("cause, words", [("lock", "runs.lock, by which a server claims"), ("file", "cannot be used"),
                                          ("setting", "GRADVIZ_WORKERS must be")])  # fmt: skip
def test_a_server_that_cannot_start_says_why_in_one_line(tmp_path: Path, cause: str, words: str) -> None:
    server = Server(tmp_path, {"GRADVIZ_WORKERS": "none"} if cause == "setting" else {})
    server.store.mkdir()
    if cause != "setting":
        (server.store / {"lock": "runs.lock", "file": "runs.sqlite"}[cause]).mkdir()
    with pytest.raises(RuntimeError):
        server.start()
    log = server.log.read_text()
    assert server.process.returncode == 2 and "Traceback" not in log
    (line,) = [line for line in log.splitlines() if "cannot start" in line]
    assert words in line
