"""The store gives back what was recorded, bit for bit, whatever ended the process that wrote it."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from recorded import ODD, assert_same, assert_same_records, bits, extend, new_run

from gradviz.lenet.config import READERS
from gradviz.messages import text
from gradviz.record.arithmetic import Arithmetic
from gradviz.record.history import StepRecord
from gradviz.record.quantities import QUANTITIES
from gradviz.record.run import Run, Status
from gradviz.store.store import RunStore, StoreError


@pytest.fixture
def store(tmp_path: Path):
    store = RunStore(tmp_path, READERS)
    yield store
    store.close()


def test_a_run_comes_back_equal(store: RunStore) -> None:
    run = new_run(blocks=2, init_range=0.5)
    extend(run, 37)
    run.status, run.device, run.message = Status.DIVERGED, "cpu, 1 thread", text("The loss is nan at step 36.")
    run.nonfinite_layer, run.test_accuracy = "block1.conv2", 0.25
    run.arithmetic = Arithmetic("cpu", "AVX2 x86_64", "ONEDNN_MAX_CPU_ISA=SSE41", 2, "2.13.0")
    store.save(run)
    assert_same(store.load(run.id), run)
    assert store.load("0" * 12) is None
    assert store.load("\ud800'; DROP TABLE runs") is None


def test_a_run_without_a_step_comes_back_equal(store: RunStore) -> None:
    run = new_run()
    store.save(run)
    assert_same(store.load(run.id), run)
    assert np.isnan(store.list()[0].loss)


@pytest.mark.parametrize("value", ODD, ids=repr)
def test_every_kind_of_float_comes_back_bit_for_bit(store: RunStore, value: np.float32) -> None:
    run = new_run()
    layers = np.full((len(QUANTITIES), run.recipe.layers), value, np.float32)
    run.history.append(StepRecord(0, float(value), float(value), layers, 0.0))
    store.save(run)
    loaded = store.load(run.id).history
    assert bits(loaded.columns[0]) == bits(layers)
    assert bits(loaded.loss) == bits(np.array([value], np.float64))
    assert np.array_equal(store.list()[0].loss, value, equal_nan=True)


def test_saving_often_keeps_the_same_as_saving_once_also_across_merged_strides(store: RunStore) -> None:
    run = new_run(columns=8)
    for count in (1, 2, 4, 1, 3, 0, 9, 20, 1, 50):  # strides 1, 2, 4, 8, 16, some saves in the middle of a column
        extend(run, count)
        store.save(run)
        assert_same(store.load(run.id), run)
    assert run.history.stride == 16


def test_a_loaded_history_can_be_appended_to(store: RunStore) -> None:
    run = new_run(columns=8)
    extend(run, 13)
    store.save(run)
    loaded = store.load(run.id)
    extend(run, 40, seed=1)
    extend(loaded, 40, seed=1)
    assert_same_records(loaded, run)


def test_a_thousand_blocks_come_back_equal(store: RunStore) -> None:
    run = new_run(blocks=1000)
    assert run.recipe.layers == 2005
    for count in (3, 2):
        extend(run, count)
        store.save(run)
    assert_same(store.load(run.id), run)


def test_only_what_is_new_is_written(store: RunStore) -> None:
    run = new_run(blocks=100)
    extend(run, 400)
    store.save(run)
    before = store.file.db.total_changes
    extend(run, 1)
    store.save(run)
    # The row of the run, the new scalars, one column, and the tests that are new (none).
    assert store.file.db.total_changes - before <= 3 + 1


def test_the_list_is_light_newest_first_and_deleting_gives_the_space_back(store: RunStore) -> None:
    runs = [new_run(blocks=blocks) for blocks in (0, 1, 200)]
    for age, run in enumerate(runs):
        extend(run, 10 + 300 * age)
        run.created = 1e9 + age
    store.save(*runs)
    assert [(line.id, line.steps, line.status) for line in store.list()] == [
        (run.id, run.history.steps, Status.QUEUED) for run in reversed(runs)
    ]
    assert store.list()[0].loss == runs[2].history.loss[-1]
    assert store.list()[0].recipe == runs[2].recipe
    store.delete(runs[2].id)
    store.delete("no such run")
    assert store.load(runs[2].id) is None
    assert [line.id for line in store.list()] == [runs[1].id, runs[0].id]
    assert_same(store.load(runs[1].id), runs[1])
    for table in ("columns", "scalars", "tests"):
        assert not store.file.db.execute(f"SELECT * FROM {table} WHERE run = ?", (runs[2].id,)).fetchall()
    store.close()
    assert store.path.stat().st_size < 2_000_000  # 610 columns of 11 kB are gone


def test_a_run_started_afresh_replaces_the_records_of_the_old_one(store: RunStore) -> None:
    old = new_run()
    extend(old, 30)
    store.save(old)
    fresh = new_run()
    fresh.created = old.created + 1
    extend(fresh, 4, seed=9)
    store.save(fresh)
    assert_same(store.load(old.id), fresh)


def test_live_runs_are_interrupted_when_the_store_opens_again_and_ended_ones_stay(tmp_path: Path) -> None:
    store = RunStore(tmp_path, READERS)
    runs = []
    for blocks, status in enumerate(Status):
        run = new_run(blocks=blocks)
        run.status = status
        extend(run, 6)
        runs.append(run)
    store.save(*runs)
    store.close()
    store = RunStore(tmp_path, READERS)
    for run in runs:
        loaded = store.load(run.id)
        assert loaded.status == (Status.INTERRUPTED if run.status.live else run.status)
        assert bool(loaded.message) == run.status.live
        assert_same_records(loaded, run)
    store.close()


CHILD = """
import sys, time
from pathlib import Path
import numpy as np
from gradviz.lenet.config import READERS, RunConfig
from gradviz.record.history import History, StepRecord
from gradviz.record.quantities import QUANTITIES
from gradviz.record.run import Run, Status
from gradviz.store.store import RunStore

store = RunStore(Path(sys.argv[1]), READERS)
config = RunConfig(blocks=50, dataset="digits")
run = Run(config, History(config.layers, 64), Status.RUNNING)
for step in range(1_000_000):
    layers = np.full((len(QUANTITIES), config.layers), step, np.float32)
    run.history.append(StepRecord(step, float(step), 0.5, layers, 0.0, 0.5 if step % 10 == 0 else None))
    if step % 3 == 0:
        store.save(run)
        print(step, flush=True)
"""


def test_a_kill_in_the_middle_of_writing_loses_nothing_that_was_saved(tmp_path: Path) -> None:
    for kill_after in (60, 301):
        folder = tmp_path / str(kill_after)
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(folder)], stdout=subprocess.PIPE, text=True)
        saved = -1
        while saved < kill_after:
            saved = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)  # it is writing on and on
        rest = child.stdout.read().split()
        child.wait()
        saved = int(rest[-1]) if rest else saved
        store = RunStore(folder, READERS)
        assert store.notice == ""
        (line,) = store.list()
        run = store.load(line.id)
        assert run.status == Status.INTERRUPTED
        assert run.history.steps > saved >= kill_after
        steps, stride = run.history.steps, run.history.stride
        assert run.history.loss.tolist() == list(range(steps))
        # Each column holds its largest, thus last, step.
        expected = [min(first + stride, steps) - 1 for first in range(0, steps, stride)]
        assert run.history.quantity("signal_rms").tolist() == [[float(step)] * 105 for step in expected]
        assert run.history.tests == [(step, 0.5) for step in range(0, steps, 10)]
        store.close()


def test_many_threads_save_and_read_at_once(store: RunStore) -> None:
    runs = [new_run(blocks=blocks, columns=16) for blocks in range(4)]
    problems: list[BaseException] = []

    def write(run: Run) -> None:
        try:
            for _ in range(25):
                extend(run, 3)
                store.save(run)
                loaded = store.load(run.id)
                assert loaded.history.steps == run.history.steps
                store.list()
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=write, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    for run in runs:
        assert_same(store.load(run.id), run)


def test_a_failed_save_keeps_the_state_before_it(store: RunStore) -> None:
    run = new_run()
    extend(run, 5)
    store.save(run)
    kept = store.load(run.id)
    broken = new_run(blocks=1)
    extend(broken, 5)
    broken.test_accuracy = object()  # SQLite cannot hold it
    extend(run, 5)
    with pytest.raises(StoreError):
        store.save(run, broken)
    assert_same(store.load(run.id), kept)
    store.save(run)
    assert_same(store.load(run.id), run)


@pytest.mark.parametrize("damage", ["not a database", "cut off", "overwritten inside", "torn pages"])
def test_a_damaged_file_is_put_aside_and_said_so(tmp_path: Path, damage: str) -> None:
    store = RunStore(tmp_path, READERS)
    run = new_run(blocks=20)
    extend(run, 300)
    store.save(run)
    store.close()
    data = bytearray(store.path.read_bytes())
    if damage == "not a database":
        data = bytearray(b"hello " * 1000)
    elif damage == "cut off":
        data = data[: len(data) // 2]
    elif damage == "overwritten inside":
        data[4096 : len(data) // 2] = b"\xff" * (len(data) // 2 - 4096)
    else:
        data[20 * 4096 : 60 * 4096] = bytes(40 * 4096)
    store.path.write_bytes(data)
    store = RunStore(tmp_path, READERS)
    assert "damaged" in store.notice and store.notice.count("\n") == 0
    (aside,) = tmp_path.glob("runs-damaged-*.sqlite")
    assert aside.name in store.notice
    assert aside.read_bytes()[100:] == bytes(data[100:])  # all but SQLite's header, where opening counts itself
    assert [line.id for line in store.list()] == ([run.id] if damage in ("cut off", "torn pages") else [])
    store.save(run, whole=True)
    assert_same(store.load(run.id), run)
    store.close()


def test_a_second_server_on_the_same_folder_is_refused_in_one_sentence(tmp_path: Path, store: RunStore) -> None:
    run = new_run()
    store.save(run)
    with pytest.raises(StoreError, match="in use by another gradviz server") as refusal:
        RunStore(tmp_path, READERS, patience=0)
    assert "\n" not in str(refusal.value)
    assert store.load(run.id).status == Status.QUEUED  # not declared interrupted
    store.close()
    later = RunStore(tmp_path, READERS, patience=0)
    assert later.load(run.id).status == Status.INTERRUPTED
    later.close()


def test_a_locked_file_is_refused_in_one_sentence(store: RunStore) -> None:
    store.file.db.execute("PRAGMA busy_timeout = 0")
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="another program holds it locked"):
        store.save(new_run())
    other.execute("ROLLBACK")
    other.close()
    store.save(new_run())
    assert len(store.list()) == 1


def test_a_folder_that_cannot_be_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot hold the runs"):
        RunStore(tmp_path / "file", READERS)
    (tmp_path / "runs.sqlite").mkdir()
    with pytest.raises(StoreError, match="cannot be opened"):
        RunStore(tmp_path, READERS)
    (tmp_path / "runs.sqlite").rmdir()
    RunStore(tmp_path, READERS, patience=0).close()  # the refused opening holds no claim


def test_a_full_disk_is_said_and_the_store_goes_on_when_there_is_room(store: RunStore) -> None:
    store.file.db.execute(f"PRAGMA max_page_count = {store.file.db.execute('PRAGMA page_count').fetchone()[0] + 10}")
    run = new_run(blocks=50)
    extend(run, 200)
    with pytest.raises(StoreError, match="the disk is full"):
        store.save(run)
    assert store.list() == []
    store.file.db.execute("PRAGMA max_page_count = 1000000")
    store.save(run)
    assert_same(store.load(run.id), run)


def test_the_arithmetic_of_a_run_from_before_it_was_noted_is_unknown(tmp_path: Path) -> None:
    store, run = RunStore(tmp_path, READERS), new_run()
    run.status, run.arithmetic = Status.FINISHED, Arithmetic("cpu", "AVX2 x86_64", "", 1, "2.13.0")
    extend(run, 5)
    store.save(run)
    store.file.db.execute("ALTER TABLE runs DROP COLUMN arithmetic")
    store.file.db.execute("PRAGMA user_version = 3")
    store.close()
    store = RunStore(tmp_path, READERS)
    assert store.load(run.id).arithmetic is None and len(store.load(run.id).history.loss) == 5
    store.save(run)
    assert store.load(run.id).arithmetic == run.arithmetic
    store.file.db.execute("UPDATE runs SET arithmetic = '{damaged'")
    assert store.load(run.id).arithmetic is None
    store.close()


def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    store = RunStore(tmp_path, READERS)
    store.file.db.execute("PRAGMA user_version = 99")
    store.close()
    with pytest.raises(StoreError, match="newer gradviz"):
        RunStore(tmp_path, READERS)


def test_a_run_is_found_under_its_new_id_after_a_setting_was_added(tmp_path: Path) -> None:
    store = RunStore(tmp_path, READERS)
    run = new_run()
    extend(run, 3)
    store.save(run)
    config = run.recipe.to_dict()
    del config["shortcut"]  # as if an older version had not known it
    store.file.db.execute("UPDATE runs SET id = 'abc', config = ?", (json.dumps(config),))
    store.file.db.execute("INSERT INTO runs (id, config, status, created) VALUES ('def', '{\"unheard\": 1}', 'finished', 0)")
    store.close()
    store = RunStore(tmp_path, READERS)
    run.status, run.message = Status.INTERRUPTED, store.load(run.id).message
    assert_same(store.load(run.id), run)
    assert [line.id for line in store.list()] == [run.id]  # the unheard one is skipped, not fatal
    assert store.load("def") is None
    store.close()


def test_a_quantity_added_since_reads_as_not_measured(store: RunStore) -> None:
    run = new_run()
    extend(run, 4)
    store.save(run)
    names = list(QUANTITIES)
    kept = [names[2], names[0]]
    for place, column in enumerate(run.history.columns):
        store.file.db.execute("UPDATE columns SET data = ?, crc = NULL WHERE place = ?", (column[[2, 0]].tobytes(), place))
    store.file.db.execute("UPDATE runs SET quantities = ?", (" ".join(kept),))
    loaded = store.load(run.id).history
    for name in names:
        if name in kept:
            assert bits(loaded.quantity(name)) == bits(run.history.quantity(name))
        else:
            assert np.isnan(loaded.quantity(name)).all() and loaded.quantity(name).shape == (4, run.recipe.layers)


def test_a_thousand_steps_of_29_layers_take_little_more_than_their_numbers(store: RunStore) -> None:
    run = new_run(blocks=12)
    extend(run, 1000)
    store.save(run)
    store.close()
    assert store.path.stat().st_size < 1.3 * (run.history.columns.nbytes + 1000 * 24) + 100_000


def test_a_file_that_was_destroyed_in_its_place_is_not_ready(store: RunStore) -> None:
    run = new_run()
    extend(run, 3)
    store.save(run)
    store.check()
    with store.path.open("r+b") as file:  # the same file under the same name, as a bad disk leaves it
        file.write(bytes(store.path.stat().st_size))
    store.file.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    with store.path.open("r+b") as file:
        file.write(bytes(store.path.stat().st_size))
    with pytest.raises(StoreError, match="cannot be used"):
        store.check()
