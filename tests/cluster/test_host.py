"""A host, played without Ray: what it takes, and what a computer says that cannot take it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from idx import contents, write

from gradviz.cluster.cluster import ask
from gradviz.cluster.computers import Computer
from gradviz.cluster.files import bring
from gradviz.cluster.host import Host
from gradviz.messages import Told

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="worker processes are for Linux")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Computer]:
    monkeypatch.setenv("GRADVIZ_DATA", str(tmp_path / "there"))
    host = Host("one", "127.0.0.1", leave=lambda: None)
    yield Computer.from_dict({"id": "1", "name": "one", "slots": 1, "ready": True, **host.look()})
    host.close()


def test_a_data_set_comes_once_and_whole(host: Computer, tmp_path: Path):
    write(tmp_path / "here" / "KMNIST" / "raw", contents())
    assert ask(host, {"load": "kmnist"}) == {"wants": "kmnist"}
    bring(partial(ask, host), tmp_path / "here", "kmnist")
    assert ask(host, {"load": "kmnist"}) == {}
    kept = sorted(path.name for path in (tmp_path / "there" / "KMNIST" / "raw").iterdir())
    assert len(kept) == 4 and not any(name.startswith(".") for name in kept)


def test_a_file_that_is_not_what_was_announced_is_not_kept(host: Computer, tmp_path: Path):
    request = {"file": "../../x", "set": "kmnist", "sha256": hashlib.sha256(b"other").hexdigest()}
    with pytest.raises(Told, match="did not come to the computer one as it was sent"):
        ask(host, request, b"body")
    with pytest.raises(Told, match="did not come to the computer one as it was sent"):
        ask(host, request | {"set": "../..", "sha256": hashlib.sha256(b"body").hexdigest()}, b"body")
    ask(host, request | {"sha256": hashlib.sha256(b"body").hexdigest()}, b"body")
    assert [path.relative_to(tmp_path / "there").as_posix() for path in (tmp_path / "there").rglob("x")] == ["KMNIST/raw/x"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_said_with_the_name_of_the_computer(host: Computer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(path: Path, body: bytes) -> None:
        Path("/dev/full").open("wb", buffering=0).write(body)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(Told, match="The disk of the computer one is full"):
        ask(host, {"file": "x", "set": "kmnist", "sha256": hashlib.sha256(b"body").hexdigest()}, b"body")
    monkeypatch.undo()
    assert not [path for path in (tmp_path / "there").rglob("*") if path.is_file()]


def test_a_host_ends_no_process_but_its_own_children(host: Computer):
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        ask(host, {"end": stranger.pid})
        assert ask(host, {}) == {} and stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
