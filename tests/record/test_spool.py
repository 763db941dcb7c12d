"""A watched run as a file: what was written is read, whole or cut anywhere, and the file stays small."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from spooled import NET, started, steps

import gradviz
from gradviz.messages import say
from gradviz.record.history import History, StepRecord
from gradviz.record.run import Status
from gradviz.record.spool import SUFFIX, SpoolError, SpoolReader, SpoolWriter, max_columns, read_spool
from gradviz.record.watched import ABSENT, FOLDED, MEASURED, Watched, fold, new_id

ROOT = Path(gradviz.__file__).parents[1]


def assert_same(one: History, other: History) -> None:
    assert (one.steps, one.stride, one.max_columns) == (other.steps, other.stride, other.max_columns)
    for name in ("columns", "loss", "accuracy", "seconds"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_what_is_written_bit_by_bit_is_read_back_through_all_merges(tmp_path):
    writer, history = started(tmp_path, columns=8)
    for count in (1, 2, 7, 1, 30, 0, 100):
        steps(history, count, seed=count)
        writer.write(history, {"status": "running", "every": 5, "share": 0.02, "missing": {"c": {"signal_rms": "watch-frozen"}}})
        assert_same(read_spool(writer.path).history, history)
    spool = read_spool(writer.path)
    assert spool.recipe == NET and spool.status is Status.RUNNING and spool.created == 1.0e9
    assert (spool.every, spool.share, spool.missing) == (5, 0.02, {"c": {"signal_rms": "watch-frozen"}})
    assert spool.overflows == 0
    writer.write(history, {"status": "failed", "message": say("watch-failed", kind="OSError").to_json()})
    writer.close()
    ended = read_spool(writer.path)
    assert ended.status is Status.FAILED and str(ended.message) == "The training failed: OSError."


def test_a_loss_that_comes_late_is_read_back(tmp_path):
    writer, history = started(tmp_path)
    steps(history, 20)
    writer.write(history, {})
    history.note(3, loss=7.0)
    steps(history, 1)
    writer.write(history, {})
    history.note(20, accuracy=0.5)
    writer.write(history, {})
    assert_same(read_spool(writer.path).history, history)


def test_a_loss_that_comes_while_the_file_is_written_is_in_it_the_next_time(tmp_path, monkeypatch):
    writer, history = started(tmp_path)
    steps(history, 20)
    crc32, late = zlib.crc32, []

    def noting(content):
        for loss in late[:1]:  # the numbers are taken, and what was written is not yet noted
            history.note(3, loss=loss)
        late.clear()
        return crc32(content)

    monkeypatch.setattr("zlib.crc32", noting)
    for loss in (7.0, 8.0):  # the whole file, then new frames
        late.append(loss)
        writer.write(history, {})
        writer.write(history, {})
        assert history.loss[3] == loss
        assert_same(read_spool(writer.path).history, history)
        steps(history, 1)


def test_a_file_of_other_quantities_is_read_by_their_names_and_lacks_what_it_does_not_hold(tmp_path):
    names = ("later", *MEASURED[::-1][2:])  # of another version: without the two that come last in this one
    table = np.arange(1, 3 * len(names) + 1, dtype=np.float32).reshape(len(names), 3)
    history = History(3, 1000, names)
    history.append(StepRecord(0, 1.0, 0.5, table, 0.1))
    writer = SpoolWriter(tmp_path / (NET.id + SUFFIX), {"recipe": NET.to_dict(), "created": 1.0e9})
    writer.write(history, {"status": "running"})
    writer.close()
    read = read_spool(writer.path).history
    assert read.quantities == MEASURED and read.steps == 1
    for name in MEASURED:
        kept = table[names.index(name)] if name in names else np.full(3, ABSENT)
        np.testing.assert_array_equal(read.quantity(name)[0], kept)


def test_a_run_whose_writer_is_gone_without_an_end_was_interrupted(tmp_path):
    writer, history = started(tmp_path)
    steps(history, 3)
    writer.write(history, {"status": "running"})
    writer.close()
    run = read_spool(writer.path)
    assert run.status is Status.INTERRUPTED and "ended from outside" in str(run.message)


def test_a_file_that_is_cut_or_broken_anywhere_is_a_shorter_run_or_refused_in_a_sentence(tmp_path):
    writer, history = started(tmp_path, columns=8)
    for count in (2, 3, 1):
        steps(history, count)
        writer.write(history, {"status": "running"})
    writer.close()
    whole = writer.path.read_bytes()
    copy = tmp_path / "copy.spool"
    lengths = set()
    for end in range(len(whole) % 3, len(whole) + 1, 3):
        copy.write_bytes(whole[:end])
        try:
            lengths.add(read_spool(copy).history.steps)
        except SpoolError as refusal:
            assert str(refusal) and end <= whole.index(b"\n")
    assert lengths == {0, 2, 5, 6}
    random = np.random.default_rng(0)
    for _ in range(300):
        broken = bytearray(whole)
        broken[random.integers(len(whole))] ^= 1 << int(random.integers(8))
        copy.write_bytes(bytes(broken))
        try:
            assert read_spool(copy).history.steps in (0, 2, 5, 6)
        except SpoolError as refusal:
            assert str(refusal)


@pytest.mark.parametrize(
    "head",
    [
        {},
        {"gradviz-spool": 2},
        {"recipe": 3},
        {"recipe": {"id": "../x"}},
        {"recipe": NET.to_dict() | {"layers": ["a", "a"]}},
        {"max_columns": 7},
        {"created": "now"},
        {"created": 10**400},
        {"quantities": ["weight"]},
    ],
)
def test_a_first_line_that_says_something_else_is_refused(head, tmp_path):
    good = {"gradviz-spool": 1, "recipe": NET.to_dict(), "created": 1, "max_columns": 8, "quantities": list(MEASURED)}
    path = tmp_path / "x.spool"
    path.write_text(json.dumps(good | head if head else []) + "\n")
    with pytest.raises(SpoolError):
        read_spool(path)
    path.write_text(json.dumps(good) + "\n")
    assert read_spool(path).history.steps == 0


@pytest.mark.parametrize(
    "state",
    [
        '{"share": 1' + 400 * "0" + "}",
        '{"message": {"code": "pause-long", "minutes": 1' + 400 * "0" + "}}",
        '{"message": {"code": "text", "text": ' + 600 * "[" + 600 * "]" + "}}",
    ],
)
def test_a_state_that_no_writer_has_written_does_not_keep_a_run_from_being_read(state, tmp_path):
    writer, history = started(tmp_path)
    steps(history, 2)
    packed = json.dumps
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("json.dumps", lambda value, **how: state if value == {} else packed(value, **how))
        writer.write(history, {})
    spool = read_spool(writer.path)
    assert spool.history.steps == 2 and spool.share is None and len(str(spool.message)) < 2000


def test_the_file_of_a_long_run_stays_within_a_bound(tmp_path):
    writer, history = started(tmp_path, columns=100)
    for _ in range(400):
        steps(history, 25)
        writer.write(history, {"status": "running"})
    scalars = 24 * history.steps
    columns = 100 * history.columns[0].nbytes
    assert writer.path.stat().st_size < 2 * (scalars + columns) + 9_000_000
    assert_same(read_spool(writer.path).history, history)
    assert max_columns(3) == 1000 and max_columns(5000) * 5000 * len(MEASURED) * 4 < 40_000_000 and max_columns(10**6) == 50


CHILD = """
    import sys, time, torch, gradviz
    from torch import nn
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    run = gradviz.watch(model, optimizer, every=1, folder=sys.argv[1])
    {first}
    for step in range({steps}):
        loss = model(torch.randn(4, 6)).square().mean()
        optimizer.zero_grad(); loss.backward(); optimizer.step()
        run.log(loss=loss)
        print(step, time.time(), flush=True)
        time.sleep({pause})
    {last}
"""


def child(folder: Path, steps: int, pause: float, first: str = "", last: str = "") -> subprocess.Popen:
    script = textwrap.dedent(CHILD).format(steps=steps, pause=pause, first=first, last=last)
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script, str(folder)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_training_killed_in_its_middle_loses_at_most_its_last_second(tmp_path):
    process = child(tmp_path, 100_000, 0.01)
    taken = []
    for line in process.stdout:
        step, when = line.split()
        taken.append(float(when))
        if int(step) > 20 and (paths := list((tmp_path / "watched").glob("*.spool"))):
            path = paths[0]
            alive = read_spool(path)
            assert alive.status is Status.RUNNING and alive.history.steps > 0
            os.kill(process.pid, signal.SIGKILL)
            break
    taken += [float(line.split()[1]) for line in process.stdout.read().splitlines() if len(line.split()) == 2]
    assert process.wait() == -signal.SIGKILL
    run = read_spool(path)
    assert run.status is Status.INTERRUPTED
    lost = taken[run.history.steps :]
    assert not lost or taken[-1] - lost[0] < 1.5  # a second, on a machine that does much else
    assert np.isfinite(run.history.loss).all() and run.recipe.layout.names == ("0", "2")


def test_a_script_that_ends_ends_its_run_and_one_that_dies_of_an_error_has_failed_of_it(tmp_path):
    for last, status in (("", Status.FINISHED), ("raise KeyError('mine')", Status.FAILED)):
        folder = tmp_path / status
        process = child(folder, 3, 0.0, last=last)
        _out, err = process.communicate(timeout=100)
        (path,) = (folder / "watched").iterdir()
        run = read_spool(path)
        assert run.status is status and run.history.steps == 3 and ("KeyError" in str(run.message)) == bool(last), err


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
def test_a_full_disk_stops_the_recording_with_a_sentence_and_not_the_training(tmp_path):
    first = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    first += "resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))"
    process = child(tmp_path, 200, 0.01, first=first, last="print(run.message)")
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0 and len(out.splitlines()) == 201, err
    assert "The recording has stopped, and the training goes on" in out.splitlines()[-1]
    assert err.count("The recording has stopped") == 1
    (path,) = (tmp_path / "watched").glob("*.spool")
    assert 0 < read_spool(path).history.steps < 200


def test_hundreds_of_layers_are_folded_by_the_module_tree_into_at_most_sixty_groups():
    names = [f"stage{s}.block{b}.{part}" for s in range(4) for b in range(25) for part in ("conv1", "conv2", "conv3")]
    names = ["stem", *names, "head.fc"]
    groups = fold(names)
    assert len(groups) <= FOLDED
    assert [row for _name, rows in groups for row in rows] == list(range(len(names)))
    assert groups[0] == ("stem", range(1)) and groups[-1][0] == "head.fc"
    for name, rows in groups:
        assert all(names[row].startswith(name.split(" … ")[0].split(".")[0]) for row in rows)
    assert any(name.startswith("stage0.block") for name, _rows in groups)
    assert fold(["a", "b.c", "b.d"]) == [("a", range(1)), ("b.c", range(1, 2)), ("b.d", range(2, 3))]
    flat = fold([str(number) for number in range(1000)])
    assert len(flat) <= FOLDED and flat[-1][1].stop == 1000


def test_a_watched_net_says_what_it_is_as_json_and_back():
    kept = json.loads(json.dumps(NET.to_dict()))
    assert Watched.from_dict(kept) == NET
    assert Watched.from_dict({name: value for name, value in kept.items() if name != "kind"}) == NET  # as files had it before
    before = {name: value for name, value in kept.items() if name not in ("outputs", "behind", "precisions")}
    assert Watched.from_dict(before) == replace(NET, outputs=(), behind=(), precisions=())
    with pytest.raises(ValueError, match="kind"):
        Watched.from_dict(kept | {"kind": "odd"})
    with pytest.raises(ValueError, match="fit together"):
        Watched.from_dict(kept | {"outputs": [1]})
    assert NET.steps is None and NET.id.startswith("watched-") and new_id() != new_id()


def test_a_file_that_is_followed_gives_the_same_run_with_what_is_new_through_merges_and_rewritings(tmp_path):
    writer, history = started(tmp_path, columns=8)
    steps(history, 3)
    writer.write(history, {"status": "running"})
    reader = SpoolReader(writer.path)
    run, seen = reader.read(), []
    assert_same(run.history, history)
    for count in (1, 2, 0, 1, 5, 30, 1, 100):  # strides 1 to 32: most of them write the file anew
        steps(history, count, seed=count)
        history.note(max(0, history.steps - 2), loss=float(count))
        writer.write(history, {"status": "running", "every": count + 1})
        run = reader.read()
        assert_same(run.history, history)
        assert run.every == count + 1 and run.status is Status.RUNNING
        seen.append(run)
    assert seen[0] is seen[1] is seen[2]  # as long as the file is one, whoever holds the run sees it grow
    whole = writer.path.read_bytes()
    steps(history, 1)
    writer.write(history, {"status": "finished"})
    end = writer.path.read_bytes()
    writer.path.write_bytes(end[: len(whole) + 7])  # a frame that is only begun waits for its rest
    assert reader.read().history.steps == history.steps - 1
    writer.path.write_bytes(end)
    run = reader.read()
    assert_same(run.history, history)
    assert run.status is Status.FINISHED
    writer.close()


def test_a_run_that_ends_while_it_is_read_is_no_interrupted_one(tmp_path, monkeypatch):
    writer, history = started(tmp_path)
    steps(history, 3)
    writer.write(history, {"status": "running"})
    plain = os.fstat

    def ending(file):  # between the look at the lock and what is read
        if writer.status == "running":
            writer.status = "finished"
            writer.write(history, {"status": "finished"})
            writer.close()
        return plain(file)

    writer.status = "running"
    monkeypatch.setattr("os.fstat", ending)
    assert read_spool(writer.path).status in (Status.RUNNING, Status.FINISHED)
    assert read_spool(writer.path).status is Status.FINISHED
