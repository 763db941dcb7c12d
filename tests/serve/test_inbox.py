"""Runs that come from other machines: what arrives is what was sent, and what does not fit is not kept."""

import json
import os
import random
from pathlib import Path

import pytest
from spooled import NET, started, steps
from timing import Clock

from gradviz.record.run import Status
from gradviz.record.sender import head_hash
from gradviz.record.spool import SUFFIX, SpoolWriter, read_spool, whole_frames
from gradviz.serve import inbox as inboxes
from gradviz.serve.inbox import Inbox, Rejected
from gradviz.settings import Limits


def of(path: Path) -> tuple[str, bytes]:
    """(hash of the first line, the whole file)"""
    content = path.read_bytes()
    return head_hash(content[: content.find(b"\n") + 1]), content


def sent(folder: Path, count: int = 5) -> tuple[SpoolWriter, object]:
    writer, history = started(folder)
    steps(history, count)
    writer.write(history, {"status": "running"})
    return writer, history


@pytest.fixture
def here(tmp_path):
    inbox = Inbox(tmp_path / "here", Limits(), disk=lambda _: 10**12)
    yield inbox
    inbox.close()


def kept(tmp_path: Path) -> Path:
    return tmp_path / "here" / (NET.id + SUFFIX)


def test_what_is_sent_in_parts_lies_here_byte_by_byte_and_is_read_while_it_comes(here, tmp_path):
    writer, history = sent(tmp_path)
    head, first = of(writer.path)
    assert here.take(NET.id, head, 0, first) == (True, len(first))
    steps(history, 3, seed=1)
    writer.write(history, {"status": "running"})
    whole = writer.path.read_bytes()
    assert here.take(NET.id, head, len(first), whole[len(first) :]) == (True, len(whole))
    assert kept(tmp_path).read_bytes() == whole
    assert read_spool(kept(tmp_path)).status is Status.RUNNING


def test_a_part_that_comes_twice_or_too_early_is_answered_with_what_is_here(here, tmp_path):
    writer, history = sent(tmp_path)
    head, first = of(writer.path)
    assert here.take(NET.id, head, 7, b"x") == (False, 0)
    here.take(NET.id, head, 0, first)
    for offset in (0, 7, len(first) + 1):
        assert here.take(NET.id, head, offset, first) == (False, len(first))
    assert here.take(NET.id, head, len(first), b"") == (True, len(first))  # it lives
    assert kept(tmp_path).read_bytes() == first


def test_a_file_that_its_sender_has_written_anew_takes_the_place_of_the_one_before(here, tmp_path):
    writer, history = started(tmp_path, columns=4)
    for seed in range(8):  # merged columns again and again
        steps(history, 3, seed)
        writer.write(history, {"status": "running"})
        head, content = of(writer.path)
        taken, size = here.take(NET.id, head, 0, content)
        if not taken:
            assert here.take(NET.id, head, size, content[size:]) == (True, len(content))
        assert kept(tmp_path).read_bytes() == content


def test_another_who_sends_under_the_same_id_is_refused_and_so_is_what_is_out_of_date(here, tmp_path):
    writer, history = started(tmp_path, columns=4)
    steps(history, 3)
    writer.write(history, {"status": "running"})
    head, old = of(writer.path)
    steps(history, 3)
    writer.write(history, {"status": "running"})
    new_head, new = of(writer.path)
    assert new_head != head
    here.take(NET.id, new_head, 0, new)
    (tmp_path / "other").mkdir()
    other_head, other = of(sent(tmp_path / "other")[0].path)
    for wrong_head, content in ((head, old), (other_head, other)):
        with pytest.raises(Rejected, match="the run of this id is another's") as rejected:
            here.take(NET.id, wrong_head, 0, content)
        assert rejected.value.status == 403
    assert kept(tmp_path).read_bytes() == new


def test_no_part_is_kept_that_is_cut_turned_or_of_another_place(here, tmp_path):
    writer, history = sent(tmp_path)
    head, first = of(writer.path)
    here.take(NET.id, head, 0, first)
    steps(history, 2, seed=1)
    writer.write(history, {"status": "running"})
    steps(history, 2, seed=2)
    writer.write(history, {"status": "finished"})
    rest = writer.path.read_bytes()[len(first) :]
    one = whole_frames(rest[: len(rest) // 2])
    chance = random.Random(0)
    wrong = [rest[one:], rest[:-1], rest + b"\0", rest[::-1], b"\0" * 50, b"[" * 5000]
    for _ in range(200):
        turned = bytearray(rest)
        turned[chance.randrange(len(rest))] ^= 1 << chance.randrange(8)
        wrong.append(bytes(turned))
    for content in wrong:
        with pytest.raises(Rejected) as rejected:
            here.take(NET.id, head, len(first), content)
        assert rejected.value.status == 400
        assert kept(tmp_path).read_bytes() == first
    assert here.take(NET.id, head, len(first), rest) == (True, len(first) + len(rest))
    assert read_spool(kept(tmp_path)).history.steps == 9


GOOD = "watched-0123456789abcdef"


@pytest.mark.parametrize("id", ["", "x", "../../etc/x", "watched-" + "g" * 16, GOOD + "\n", GOOD.upper(), f"{GOOD}/.."])
def test_an_id_that_is_none_is_refused_before_anything_is_touched(here, id, tmp_path):
    with pytest.raises(Rejected, match="no id"):
        here.take(id, "", 0, b"x")
    assert os.listdir(tmp_path) == []


def test_a_first_line_of_another_run_or_another_hash_is_refused(here, tmp_path):
    head, content = of(sent(tmp_path)[0].path)
    for run_id, wrong in ((NET.id, "0" * 32), ("watched-" + "0" * 16, head)):
        with pytest.raises(Rejected, match="first line"):
            here.take(run_id, wrong, 0, content)
    for line in (b"", b"{}\n", b"[]\n", json.dumps({"gradviz-spool": 1}).encode() + b"\n", b"\xff\n"):
        with pytest.raises(Rejected):
            here.take(NET.id, head_hash(line), 0, line + b"x")
    assert not list(tmp_path.glob("here/*"))


def test_a_server_that_was_killed_in_the_middle_of_a_frame_goes_on_behind_the_last_whole_one(here, tmp_path):
    writer, history = sent(tmp_path)
    head, first = of(writer.path)
    here.take(NET.id, head, 0, first)
    here.close()
    steps(history, 2, seed=1)
    writer.write(history, {"status": "running"})
    whole = writer.path.read_bytes()
    with kept(tmp_path).open("ab") as file:
        file.write(whole[len(first) : len(first) + 20])
    again = Inbox(tmp_path / "here", Limits(), disk=lambda _: 10**12)
    assert again.take(NET.id, head, len(whole), b"x") == (False, len(first))
    assert again.take(NET.id, head, len(first), whole[len(first) :]) == (True, len(whole))
    assert kept(tmp_path).read_bytes() == whole
    again.close()


def test_a_run_whose_sender_is_silent_is_interrupted_until_it_is_heard_again(tmp_path):
    clock = Clock()
    here = Inbox(tmp_path / "here", Limits(), clock, disk=lambda _: 10**12)
    writer, _history = sent(tmp_path)
    head, content = of(writer.path)
    here.take(NET.id, head, 0, content)
    for seconds, status in ((30, Status.RUNNING), (61, Status.INTERRUPTED)):
        clock.now = seconds
        here.look()
        assert read_spool(kept(tmp_path)).status is status
    steps(_history, 1)
    writer.write(_history, {"status": "running"})
    here.take(NET.id, head, len(content), writer.path.read_bytes()[len(content) :])
    assert read_spool(kept(tmp_path)).status is Status.RUNNING
    here.close()


def test_what_would_go_beyond_a_limit_is_refused_in_a_sentence_and_what_was_there_stays(tmp_path, monkeypatch):
    free = 10**12
    here = Inbox(tmp_path / "here", Limits(disk=1), disk=lambda _: free)
    writer, history = sent(tmp_path)
    head, first = of(writer.path)
    here.take(NET.id, head, 0, first)
    steps(history, 2)
    writer.write(history, {"status": "running"})
    rest = writer.path.read_bytes()[len(first) :]
    free = 100
    with pytest.raises(Rejected, match="1 GB") as rejected:
        here.take(NET.id, head, len(first), rest)
    assert rejected.value.status == 507
    free = 10**12
    monkeypatch.setattr(inboxes, "MOST_RUN", len(first) + 10)
    with pytest.raises(Rejected, match="MB at most") as rejected:
        here.take(NET.id, head, len(first), rest)
    assert rejected.value.status == 413
    monkeypatch.undo()
    monkeypatch.setattr(inboxes, "MOST_RUNS", 1)
    with pytest.raises(Rejected, match="keeps 1 files"):
        here.take("watched-" + "0" * 16, head, 0, first)
    assert here.take(NET.id, head, len(first), rest)[0] and kept(tmp_path).read_bytes() == first + rest
    here.close()


def test_a_run_that_was_deleted_here_is_sent_from_its_beginning(here, tmp_path):
    head, content = of(sent(tmp_path)[0].path)
    here.take(NET.id, head, 0, content)
    kept(tmp_path).unlink()
    assert here.take(NET.id, head, len(content), b"x") == (False, 0)
    assert here.take(NET.id, head, 0, content) == (True, len(content))
