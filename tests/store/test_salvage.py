"""A damaged file costs what lies on the damaged place and no more, and whatever it costs is said."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from puppets import Stage, seeded, steps
from recorded import assert_same, ended_run, extend, new_run
from timing import until

from gradviz.lenet.config import READERS
from gradviz.record.run import Run, Status
from gradviz.record.sample import PackedSample
from gradviz.serve.manager import RunManager
from gradviz.store.store import RunStore, StoreError
from gradviz.store.writeahead import mended

PAGE = 4096
COUNT = 90


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Run]]:
    """A folder with 90 runs, to be copied."""
    folder = tmp_path_factory.mktemp("kept")
    store = RunStore(folder, READERS)
    runs = [ended_run(seed=seed, blocks=seed % 9, count=3 + seed % 40) for seed in range(COUNT)]
    store.save(*runs)
    store.close()
    return folder, {run.id: run for run in runs}


def copied(kept: tuple[Path, dict[str, Run]], folder: Path) -> Path:
    shutil.copy(kept[0] / "runs.sqlite", folder)
    return folder / "runs.sqlite"


def judge(store: RunStore, runs: dict[str, Run]) -> tuple[int, int, int]:
    """Runs that are whole, with gaps, lost. Whatever is there must be right, and what is not must be said."""
    whole = gaps = 0
    listed = {line.id for line in store.list()}
    for id, run in runs.items():
        loaded = store.load(id)
        assert (loaded is not None) == (id in listed)
        if loaded is None:
            continue
        if "Damaged in the file" not in str(loaded.message):
            assert_same(loaded, run)
            whole += 1
            continue
        gaps += 1
        assert id in store.notice or " more" in store.notice
        for name in ("columns", "loss", "accuracy", "seconds"):
            mine, theirs = getattr(loaded.history, name), getattr(run.history, name)
            there = ~np.isnan(mine).reshape(len(mine), -1).all(1)  # a gap is nan through and through
            assert mine[there].tobytes() == theirs[there].tobytes()
    if whole < len(runs):
        assert store.notice
    return whole, gaps, len(runs) - whole - gaps


def pages_of(path: Path, table: str) -> list[int]:
    """Numbers of the pages of a table's tree, root first."""
    with sqlite3.connect(path) as db:
        root = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()[0]
    db.close()
    data = path.read_bytes()
    pages, todo = [], [root]
    while todo:
        number = todo.pop(0)
        pages.append(number)
        page = data[(number - 1) * PAGE : number * PAGE]
        if page[0] == 5:  # inner
            cells = int.from_bytes(page[3:5], "big")
            places = [int.from_bytes(page[12 + 2 * i : 14 + 2 * i], "big") for i in range(cells)]
            todo += [int.from_bytes(page[place : place + 4], "big") for place in places] + [int.from_bytes(page[8:12], "big")]
    return pages


@pytest.mark.parametrize("fill", [b"\x00", b"\xff", None], ids=["zeros", "ones", "noise"])
@pytest.mark.parametrize("table", ["the first page", "runs", "scalars", "columns", "tests", "sqlite_autoindex_runs_1"])
def test_the_root_of_a_table_costs_no_run(kept: tuple, tmp_path: Path, table: str, fill: bytes | None) -> None:
    path = copied(kept, tmp_path)
    number = 1 if table == "the first page" else pages_of(path, table)[0]
    data = bytearray(path.read_bytes())
    data[(number - 1) * PAGE : number * PAGE] = fill * PAGE if fill else random.Random(1).randbytes(PAGE)
    path.write_bytes(data)
    store = RunStore(tmp_path, READERS)
    assert judge(store, kept[1]) == (COUNT, 0, 0)
    assert f"{COUNT} of its runs were saved whole, 0 with gaps" in store.notice
    (aside,) = tmp_path.glob("runs-damaged-*.sqlite")
    assert aside.name in store.notice and aside.read_bytes()[100:] == data[100:]  # opening counts itself in the header
    store.close()
    again = RunStore(tmp_path, READERS)
    assert again.notice == "" and len(again.list()) == COUNT
    again.close()


def test_a_leaf_of_the_runs_costs_those_that_lie_on_it(kept: tuple, tmp_path: Path) -> None:
    path = copied(kept, tmp_path)
    number = pages_of(path, "runs")[5]
    data = bytearray(path.read_bytes())
    lost = sum(id.encode() in data[(number - 1) * PAGE : number * PAGE] for id in kept[1])
    assert 1 <= lost <= 12
    data[(number - 1) * PAGE : number * PAGE] = bytes(PAGE)
    path.write_bytes(data)
    store = RunStore(tmp_path, READERS)
    assert judge(store, kept[1]) == (COUNT - lost, 0, lost)
    assert f"and {lost} could not be saved" in store.notice
    store.close()


def test_a_flipped_bit_in_the_records_is_noticed_every_time(kept: tuple, tmp_path: Path) -> None:
    """Thirty of them, each alone: in the records, where SQLite does not look."""
    rng = random.Random(3)
    flipped = 0
    while flipped < 30:
        path = copied(kept, tmp_path)
        with sqlite3.connect(path) as db:
            table = rng.choice(["scalars", "columns", "columns"])
            rows = db.execute(f"SELECT run, data FROM {table} ORDER BY run, 2").fetchall()
        db.close()
        run, data = rng.choice(rows)
        content = bytearray(path.read_bytes())
        if content.count(data[:200]) != 1:
            continue  # a page that was divided leaves copies behind that nobody reads
        flipped += 1
        content[content.find(data[:200]) + rng.randrange(min(200, len(data)))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        store = RunStore(tmp_path, READERS)
        assert judge(store, kept[1]) == (COUNT - 1, 1, 0)
        assert run in store.notice
        store.close()


def test_a_flipped_bit_in_a_sample_costs_that_sample(tmp_path: Path) -> None:
    store = RunStore(tmp_path, READERS)
    run = ended_run()
    run.history.samples = [PackedSample(step, bytes(range(200)), b"picture" * 9) for step in (0, 1, 5)]
    store.save(run)
    assert [part.step for part in store.load(run.id).history.samples] == [0, 1, 5]
    for column in ("numbers", "images"):
        value = bytearray(store.file.db.execute(f"SELECT {column} FROM samples WHERE step = 1").fetchone()[0])
        value[7] ^= 4
        store.file.db.execute(f"UPDATE samples SET {column} = ? WHERE step = 1", (bytes(value),))
        loaded = store.load(run.id)
        assert [part.step for part in loaded.history.samples] == [0, 5] and "1 test or sample" in str(loaded.message)
    store.close()


def test_a_test_that_is_missing_is_said(tmp_path: Path) -> None:
    store, run = RunStore(tmp_path, READERS), ended_run(count=12)
    store.save(run)
    store.file.db.execute("DELETE FROM tests WHERE step = 5")
    loaded = store.load(run.id)
    assert [step for step, _accuracy in loaded.history.tests] == [0, 10] and "1 test or sample" in str(loaded.message)
    store.close()


def test_what_was_written_and_not_yet_moved_into_the_file_is_salvaged_too(kept: tuple, tmp_path: Path) -> None:
    """As after a kill: the last records lie in the log beside the file."""
    folder = tmp_path / "live"
    folder.mkdir()
    copied(kept, folder)
    store = RunStore(folder, READERS)
    late = ended_run(seed=500, blocks=2)
    store.save(late)
    for name in ("runs.sqlite", "runs.sqlite-wal"):
        shutil.copy(folder / name, tmp_path)
    store.close()
    assert (tmp_path / "runs.sqlite-wal").stat().st_size
    path = tmp_path / "runs.sqlite"
    for table in ("scalars", "columns"):
        for number in pages_of(kept[0] / "runs.sqlite", table)[:1]:
            data = bytearray(path.read_bytes())
            data[(number - 1) * PAGE : number * PAGE] = bytes(PAGE)
            path.write_bytes(data)
    again = RunStore(tmp_path, READERS)
    assert judge(again, {**kept[1], late.id: late}) == (COUNT + 1, 0, 0)
    again.close()


def test_deleted_runs_do_not_come_back_from_freed_pages(kept: tuple, tmp_path: Path) -> None:
    copied(kept, tmp_path)
    store = RunStore(tmp_path, READERS)
    gone = list(kept[1])[10:30]
    for id in gone:
        store.delete(id)
    store.close()
    number = pages_of(store.path, "runs")[0]
    data = bytearray(store.path.read_bytes())
    data[(number - 1) * PAGE : number * PAGE] = bytes(PAGE)
    store.path.write_bytes(data)
    store = RunStore(tmp_path, READERS)
    assert {line.id for line in store.list()} == set(kept[1]) - set(gone)
    store.close()


def test_a_server_that_is_killed_while_it_salvages_begins_anew(kept: tuple, tmp_path: Path) -> None:
    path = copied(kept, tmp_path)
    data = bytearray(path.read_bytes())
    data[:PAGE] = bytes(PAGE)
    path.write_bytes(data)
    (tmp_path / "runs-new.part").write_bytes(b"half of it")
    store = RunStore(tmp_path, READERS)
    assert judge(store, kept[1]) == (COUNT, 0, 0)
    store.close()
    path.rename(tmp_path / "runs-new.sqlite")  # or between putting aside and putting in its place
    store = RunStore(tmp_path, READERS)
    assert judge(store, kept[1]) == (COUNT, 0, 0)
    store.close()


def overwritten(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"\xff" * path.stat().st_size)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("how", [overwritten, emptied], ids=lambda how: how.__name__)
def test_damage_under_a_running_server_is_met_said_and_mended(tmp_path: Path, how: Callable[[Path], None]) -> None:
    store, stage = RunStore(tmp_path / "runs", READERS), Stage()
    manager = RunManager(store, stage, slice=1e9)
    run = manager.start(seeded(1))
    stage[1].allow(2)
    until(lambda: store.load(run.id) and steps(store.load(run.id)) == 2)
    store.file.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    how(store.path)
    manager.list()  # somebody opens a page
    stage[1].allow(1)
    until(lambda: "damaged" in store.notice, seconds=10)
    until(lambda: not manager.warning)
    until(lambda: (found := store.load(run.id)) and steps(found) == 3)
    assert [line.id for line in manager.list()] == [run.id]
    manager.close()
    store.close()
    again = RunStore(tmp_path / "runs", READERS)
    assert steps(again.load(run.id)) == 3 and again.load(run.id).status == Status.INTERRUPTED
    again.close()


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_a_store_of_each_earlier_version_opens_as_it_did_and_is_checked_from_then_on(tmp_path: Path, version: int) -> None:
    store = RunStore(tmp_path, READERS)
    run = new_run(blocks=1)
    extend(run, 20)
    store.save(run)
    for table in ("scalars", "columns", "tests", "samples"):
        store.file.db.execute(f"ALTER TABLE {table} DROP COLUMN crc")
    for column in ("tests", "samples", "measuring"):
        store.file.db.execute(f"ALTER TABLE runs DROP COLUMN {column}")
    for since, column in ((4, "arithmetic"), (3, "clients"), (2, "deletion")):
        if version < since:
            store.file.db.execute(f"ALTER TABLE runs DROP COLUMN {column}")
    if version < 2:
        store.file.db.execute("DROP TABLE samples")
    store.file.db.execute(f"PRAGMA user_version = {version}")
    store.close()
    store = RunStore(tmp_path, READERS)
    assert store.notice == ""
    run.status, run.message = Status.INTERRUPTED, store.load(run.id).message
    assert_same(store.load(run.id), run)
    extend(run, 10)
    store.save(run)
    assert_same(store.load(run.id), run)
    assert store.file.db.execute("SELECT count(*) FROM columns WHERE crc IS NOT NULL").fetchone()[0] == 10
    store.file.db.execute("UPDATE columns SET data = zeroblob(length(data)) WHERE place = 25")
    assert "1 of 30 columns" in str(store.load(run.id).message)
    store.close()


# The log


def flipped(log: bytearray) -> None:
    log[32 + (24 + PAGE) * 5 + 24 + 100] ^= 4


def zeroed(log: bytearray) -> None:
    log[32 + (24 + PAGE) * 5 : 32 + (24 + PAGE) * 6] = bytes(24 + PAGE)


def headless(log: bytearray) -> None:
    log[:24] = b"\xff" * 24


def exchanged(log: bytearray) -> None:
    first, second = (slice(32 + (24 + PAGE) * number, 32 + (24 + PAGE) * (number + 1)) for number in (4, 6))
    log[first], log[second] = log[second], log[first]


@pytest.mark.parametrize("how", [flipped, zeroed, headless, exchanged], ids=lambda how: how.__name__)
def test_damage_in_the_log_is_said_and_what_lies_behind_it_is_kept(tmp_path: Path, how: Callable[[bytearray], None]) -> None:
    """SQLite takes it for the end of the log."""
    first, second = tmp_path / "first", tmp_path / "second"
    store = RunStore(first, READERS)
    runs = [ended_run(seed=seed, blocks=2) for seed in range(12)]
    for run in runs:
        store.save(run)
    second.mkdir()
    for name in ("runs.sqlite", "runs.sqlite-wal"):
        shutil.copy(first / name, second)
    store.close()
    log = second / "runs.sqlite-wal"
    data = bytearray(log.read_bytes())
    how(data)
    log.write_bytes(data)
    again = RunStore(second, READERS)
    assert "log of the file of runs was damaged" in again.notice and "runs.sqlite-wal-damaged" in again.notice
    assert (second / "runs.sqlite-wal-damaged").read_bytes() == data
    whole, gaps, lost = judge(again, {run.id: run for run in runs})
    assert whole >= 10 and lost <= 1 and whole + gaps + lost == 12
    assert again.load(runs[-1].id) is not None  # the last that was written
    again.close()
    once_more = RunStore(second, READERS)
    assert "log" not in once_more.notice
    once_more.close()


def test_a_whole_log_and_one_cut_off_by_a_kill_are_left_as_they_are(tmp_path: Path) -> None:
    store = RunStore(tmp_path, READERS)
    for seed in range(4):
        store.save(ended_run(seed=seed))
    log = Path(f"{store.path}-wal").read_bytes()
    store.file.db.execute("BEGIN")
    store.file.db.execute("DELETE FROM runs")
    store.file.db.execute("ROLLBACK")
    rolled_back = Path(f"{store.path}-wal").read_bytes()
    store.close()
    assert len(log) > 10 * PAGE
    for content in (b"", log, rolled_back, log[:-1000], log + b"\xff" * 5000, log[: 32 + (24 + PAGE) * 3]):
        assert mended(content, PAGE) is None


# Tables that somebody has changed

CHANGES = {
    "a column more": "ALTER TABLE scalars ADD COLUMN teacher TEXT",
    "a column less": "ALTER TABLE columns DROP COLUMN crc",
    "a column of another name": "ALTER TABLE columns RENAME COLUMN place TO spot",
    "a trigger": "CREATE TRIGGER t BEFORE UPDATE ON runs BEGIN SELECT RAISE(ABORT, 'no'); END",
    "a trigger that deletes": "CREATE TRIGGER t AFTER INSERT ON runs BEGIN DELETE FROM runs WHERE id = new.id; END",
    "a unique index": "CREATE UNIQUE INDEX u ON scalars (run)",
    "no primary key": "ALTER TABLE samples RENAME TO old; CREATE TABLE samples AS SELECT * FROM old; DROP TABLE old",
    "a view": "ALTER TABLE tests RENAME TO old; CREATE VIEW tests AS SELECT * FROM old",
    "another schema": "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = 'CREATE TABLE runs (id TEXT PRIMARY KEY)' "
    "WHERE name = 'runs'",
    "no utf-8": "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = CAST(x'435245415445f8' AS TEXT) WHERE name = 'runs'",
}


@pytest.mark.parametrize("change", CHANGES)
def test_tables_that_somebody_has_changed_cost_no_run_and_can_be_written(kept: tuple, tmp_path: Path, change: str) -> None:
    path = copied(kept, tmp_path)
    with sqlite3.connect(path) as db:
        db.executescript(CHANGES[change])
    db.close()
    store = RunStore(tmp_path, READERS)
    runs = kept[1]
    assert judge(store, runs) == (COUNT, 0, 0)
    assert f"{COUNT} of its runs were saved whole" in store.notice
    late = ended_run(seed=500)
    store.save(late)
    extend(late, 5)
    store.save(late)
    assert_same(store.load(late.id), late)
    store.delete(late.id)
    assert len(store.list()) == COUNT
    store.close()


def test_what_is_left_of_a_run_deleted_by_hand_is_not_in_the_way(tmp_path: Path) -> None:
    store = RunStore(tmp_path, READERS)
    run = ended_run(count=30)
    store.save(run)
    with sqlite3.connect(store.path) as db:
        db.execute("DELETE FROM runs")  # a connection heeds no foreign keys unless it is told to
    db.close()
    again = ended_run(seed=0, count=12)
    store.save(again, ended_run(seed=1))
    assert_same(store.load(again.id), again)
    store.close()


def test_the_settings_of_another_run_are_no_run(tmp_path: Path) -> None:
    store = RunStore(tmp_path, READERS)
    one, other = ended_run(seed=1), ended_run(seed=2)
    store.save(one, other)
    store.file.db.execute("UPDATE runs SET config = (SELECT config FROM runs WHERE id = ?) WHERE id = ?", (one.id, other.id))
    assert store.load(other.id) is None and [line.id for line in store.list()] == [one.id]
    assert f"{other.id} (the settings of another run)" in store.notice
    store.close()


def test_words_without_end_are_cut_short(tmp_path: Path) -> None:
    store = RunStore(tmp_path, READERS)
    run = ended_run()
    store.save(run)
    store.file.db.execute("UPDATE runs SET message = hex(zeroblob(5000000)), device = hex(zeroblob(5000000))")
    assert len(str(store.load(run.id).message)) + len(store.list()[0].device) < 5000
    store.close()


# The header


@pytest.mark.parametrize("at, value", [(16, b"\x20\x00"), (16, b"\x02\x00"), (16, b"\x00\x01"), (16, b"\x12\x34"), (18, b"\x03"),
                                       (44, b"\x00\x00\x00\x09"), (20, b"\x20")])  # fmt: skip
def test_a_wrong_byte_of_the_header_costs_no_run(kept: tuple, tmp_path: Path, at: int, value: bytes) -> None:
    path = copied(kept, tmp_path)
    data = bytearray(path.read_bytes())
    data[at : at + len(value)] = value
    path.write_bytes(data)
    store = RunStore(tmp_path, READERS)
    assert judge(store, kept[1]) == (COUNT, 0, 0)
    store.save(ended_run(seed=500))
    store.close()


@pytest.mark.parametrize("content", [b"", b"S", b"SQLite format 3\0"])
def test_an_emptied_file_is_said_and_its_log_is_read(kept: tuple, tmp_path: Path, content: bytes) -> None:
    store = RunStore(tmp_path / "first", READERS)
    run = ended_run()
    store.save(run)
    second = tmp_path / "second"
    second.mkdir()
    shutil.copy(tmp_path / "first" / "runs.sqlite-wal", second)
    store.close()
    (second / "runs.sqlite").write_bytes(content)
    again = RunStore(second, READERS)
    assert_same(again.load(run.id), run)
    assert "damaged" in again.notice and list(second.glob("runs-damaged-*.sqlite"))
    again.close()


def test_what_was_saved_with_gaps_in_the_tests_is_not_called_whole(kept: tuple, tmp_path: Path) -> None:
    path = copied(kept, tmp_path)
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE tests")
    db.close()
    store = RunStore(tmp_path, READERS)
    assert f"0 of its runs were saved whole, {COUNT} with gaps" in store.notice
    assert judge(store, kept[1]) == (0, COUNT, 0)
    store.close()


def test_a_damaged_list_of_runs_is_said_to_be_one(kept: tuple, tmp_path: Path) -> None:
    path = copied(kept, tmp_path)
    path.write_bytes(path.read_bytes()[: 3 * PAGE])
    store = RunStore(tmp_path, READERS)
    assert "there may have been more" in store.notice
    store.close()


# The lock


def test_rubbish_in_the_lock_keeps_nobody_out(tmp_path: Path) -> None:
    (tmp_path / "runs.lock").write_bytes(b"rubbish" * 1000)
    store = RunStore(tmp_path, READERS)
    with pytest.raises(StoreError, match="in use by another"):
        RunStore(tmp_path, READERS, patience=0)
    store.close()


def test_what_is_no_lock_is_said_and_two_servers_never_write(kept: tuple, tmp_path: Path) -> None:
    copied(kept, tmp_path)
    (tmp_path / "runs.lock").mkdir()
    with pytest.raises(StoreError, match=r"runs\.lock.*is no file"):
        RunStore(tmp_path, READERS)
