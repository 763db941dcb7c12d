"""A file of runs that an earlier version wrote, and runs of nets that are no LeNet, as the store shows them."""

from __future__ import annotations

import gzip
import json
import math
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import odd
import pytest
from recorded import assert_same

from gradviz.lenet.config import READERS, RunConfig
from gradviz.messages import Message, say, text
from gradviz.record.arithmetic import Arithmetic
from gradviz.record.quantities import QUANTITIES
from gradviz.record.run import Run, Status
from gradviz.record.sample import BlockDeletion
from gradviz.store.store import RunStore

KEPT_IN_VERSION_6 = (
    "weight_grad_rms", "signal_rms", "activation_rms", "weight_rms", "update_ratio", "zero_share", "treated_grad_rms",
)  # fmt: skip
VERSION_6 = Path(__file__).with_name("runs-version-6.sqlite.gz")  # written before recipes had kinds and messages had codes


@pytest.fixture
def kept(tmp_path: Path):
    (tmp_path / "runs.sqlite").write_bytes(gzip.decompress(VERSION_6.read_bytes()))
    store = RunStore(tmp_path, READERS)
    yield store
    store.close()


def test_a_file_of_version_6_shows_the_same_runs_with_the_same_words(kept: RunStore[RunConfig]) -> None:
    assert kept.notice == "" and kept.count() == 5
    shown = [(run.id, str(run.status), run.steps, run.created, run.device, str(run.message)) for run in kept.list()]
    assert shown == [
        ("694ebc37f1e7", "failed", 1, 1700000400.0, "", "Training failed: the disk is full (OSError)."),
        ("46eead356423", "queued", 0, 1700000300.0, "", ""),
        ("86c2e66986b7", "interrupted", 5, 1700000200.0, "cpu, 1 thread",
         "The server ended while this run was live; its records up to then are kept."),
        ("812ceae5584d", "diverged", 3, 1700000100.0, "cpu, 1 thread", "The loss is nan at step 3."),
        ("02cac475785a", "finished", 20, 1700000000.0, "cpu, 1 thread", ""),
    ]  # fmt: skip
    assert all(run.recipe.id == run.id for run in kept.list())
    assert [(run.id, run.clients) for run in kept.waiting()] == [("46eead356423", ("anna", "ben"))]


def test_a_file_of_version_6_has_the_same_numbers(kept: RunStore[RunConfig]) -> None:
    run = kept.load("02cac475785a")
    assert run.recipe == RunConfig(blocks=1, shortcut=True, steps=20, lr=0.001, seed=3, dataset="digits")
    assert (run.history.steps, run.history.stride, run.history.max_columns) == (20, 4, 8)
    assert run.history.loss.tolist() == [2.25 - step / 8 for step in range(20)]
    assert run.history.accuracy.tolist() == [step / 64 for step in range(20)]
    assert run.history.seconds.tolist() == [step / 4 for step in range(20)]
    assert run.history.tests == [(step, step / 32) for step in range(0, 20, 4)]
    largest = [max(2.0 ** -(step % 5) for step in range(first, first + 4)) for first in range(0, 20, 4)]
    expected = np.array(largest)[:, None, None] * np.ones((len(QUANTITIES), 1)) * np.arange(1, 8)
    later = [name not in KEPT_IN_VERSION_6 for name in QUANTITIES]
    expected[:, later] = np.nan
    expected[:, 0, 0], expected[:, 1, 0], expected[:, 2, 0], expected[:, 3, 0] = 0.0, np.float32(1e-40), np.inf, np.nan
    assert np.array_equal(run.history.columns, expected, equal_nan=True)
    assert (run.test_accuracy, run.deletion) == (0.875, BlockDeletion(100, 0.875, 0.5, (0,), (0.75,)))
    assert run.arithmetic == Arithmetic("cpu", "AVX2 x86_64 GenuineIntel", "", 1, "2.13.0+cpu")
    (packed,) = run.history.samples
    assert packed.sample().kinds == ("weight", "weight_grad") and packed.sample().paths.tolist() == [[3.0], [4.0], [5.0]]
    diverged = kept.load("812ceae5584d")
    assert (diverged.nonfinite_layer, diverged.history.steps, diverged.recipe.lr) == ("conv2", 3, 10.0)


def test_a_run_that_is_saved_again_after_a_quantity_came_keeps_its_numbers(kept: RunStore[RunConfig], monkeypatch) -> None:
    before = kept.load("02cac475785a").history.columns
    monkeypatch.setitem(QUANTITIES, "new", replace(QUANTITIES["weight_rms"], label="New"))
    run = kept.load("02cac475785a")
    run.message = text("Looked at again.")
    kept.save(run)
    again = kept.load("02cac475785a")
    assert again.message == run.message and again.history.columns.shape[1] == len(QUANTITIES)
    assert np.array_equal(again.history.columns[:, :-1], before, equal_nan=True) and np.isnan(again.history.columns[:, -1]).all()
    assert (again.history.steps, again.history.stride) == (20, 4)


def test_what_is_kept_of_a_lenet_names_no_kind_and_stays_byte_for_byte(kept: RunStore[RunConfig], tmp_path: Path) -> None:
    before = gzip.decompress(VERSION_6.read_bytes())
    (tmp_path / "before.sqlite").write_bytes(before)
    query = "SELECT id, config FROM runs ORDER BY id"
    for run in map(kept.load, [summary.id for summary in kept.list()]):
        kept.save(run, whole=True)
    written = sqlite3.connect(tmp_path / "before.sqlite").execute(query).fetchall()
    assert [tuple(row) for row in kept.file.db.execute(query)] == written


def test_a_message_is_kept_as_its_code_and_words_from_elsewhere_as_they_are(kept: RunStore[RunConfig]) -> None:
    run = kept.load("812ceae5584d")
    for message in (say("interrupted"), text("Out of memory."), text(""), text("{not JSON"), text('{"code": "unheard of"}')):
        run.message = message
        kept.save(run)
        (summary,) = (summary for summary in kept.list() if summary.id == run.id)
        assert str(summary.message) == str(message) and kept.load(run.id).message == summary.message
    run.message = say("interrupted")
    kept.save(run)
    assert kept.load(run.id).message == say("interrupted")
    row = kept.file.db.execute("SELECT message FROM runs WHERE id = ?", (run.id,)).fetchone()
    assert Message.from_json(json.loads(row["message"])).code == "interrupted"


def test_a_net_that_is_no_lenet_is_kept_listed_and_read_after_a_restart_beside_one(tmp_path: Path) -> None:
    readers = READERS | odd.READERS
    store: RunStore = RunStore(tmp_path, readers)
    ended, live = odd.odd_run(), odd.odd_run(odd.OddRecipe("odd-8", "Still watched"), 3, Status.RUNNING)
    lenet = Run(RunConfig(blocks=0, dataset="digits"), odd.History(5), created=1.0)
    store.save(ended, live, lenet)
    store.close()
    store = RunStore(tmp_path, readers)
    assert_same(store.load("odd-7f"), ended)
    assert store.load("odd-7f").recipe.layout.names == odd.NAMES and store.load("odd-7f").recipe.steps is None
    assert store.load("odd-7f").history.samples == ended.history.samples
    assert store.load("odd-8").status is Status.INTERRUPTED
    assert [(run.id, run.steps, str(run.status)) for run in store.list()] == [
        ("odd-7f", 6, "finished"), ("odd-8", 3, "interrupted"), (lenet.id, 0, "interrupted")
    ]  # fmt: skip
    assert math.isclose(store.list()[0].loss, 2 / 6) and store.size("odd-7f") > 6 * 24
    store.close()


def test_a_kind_of_net_that_this_version_cannot_read_is_left_as_it_is_and_named(tmp_path: Path) -> None:
    store: RunStore = RunStore(tmp_path, odd.READERS)
    store.save(odd.odd_run())
    store.close()
    without = RunStore(tmp_path, READERS)
    assert without.list() == [] and without.load("odd-7f") is None and without.count() == 1
    assert "odd-7f (unknown settings)" in without.notice
    without.close()
    again: RunStore = RunStore(tmp_path, odd.READERS)
    assert_same(again.load("odd-7f"), odd.odd_run())
    again.close()


def test_an_odd_net_is_salvaged_from_a_damaged_file(tmp_path: Path) -> None:
    store: RunStore = RunStore(tmp_path, odd.READERS)
    store.save(odd.odd_run())
    store.close()
    data = bytearray(store.path.read_bytes())
    data[:16] = bytes(16)
    store.path.write_bytes(data)
    again: RunStore = RunStore(tmp_path, odd.READERS)
    assert "1 of its runs were saved whole" in again.notice
    assert_same(again.load("odd-7f"), odd.odd_run())
    again.close()
