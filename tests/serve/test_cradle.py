"""The nursery's process that is begun before the server has PyTorch: whether it is, and whose it then is."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gradviz.lenet.config import RunConfig
from gradviz.serve.cradle import start, start_early
from gradviz.serve.processes import Nursery

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="worker processes are for Linux")
NOTHING_YET: set[str] = set()


@pytest.fixture(autouse=True)
def trains_in_a_process(monkeypatch, tmp_path):
    monkeypatch.setenv("GRADVIZ_TRAIN_IN", "process")
    monkeypatch.setenv("GRADVIZ_DATA", str(tmp_path / "data"))


def nurseries_of(parent: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words, stat = (folder / "cmdline").read_bytes().split(b"\0"), (folder / "stat").read_text()
        except OSError:
            continue  # it has ended meanwhile
        if b"gradviz.serve.forks" in words and int(stat.rsplit(")", 1)[1].split()[1]) == parent:
            found.append(int(folder.name))
    return found


def test_a_process_that_is_there_already_trains_and_no_other_is_started(shelf):
    started = start(shelf.folder)
    nursery = Nursery(shelf, started=started)
    net = RunConfig(blocks=1, dataset="digits", steps=2, batch_size=8)
    records = list(nursery(net, lambda: False))
    assert [record.step for record in records] == [0, 1] and nursery.pid == started.process.pid
    nursery.close()
    assert started.process.returncode == 0


def test_another_takes_its_place_once_it_has_died(shelf):
    started = start(shelf.folder)
    nursery = Nursery(shelf, started=started)
    started.process.kill()
    started.process.wait()
    assert len(list(nursery(replace(RunConfig(), blocks=1, dataset="digits", steps=1, batch_size=8), lambda: False))) == 1
    assert nursery.pid != started.process.pid
    nursery.close()


def test_who_starts_early_has_it_before_pytorch_and_it_ends_with_him():
    process, control = start_early(cores=2, modules=NOTHING_YET)
    control.close()
    assert process.wait(60) == 0


@pytest.mark.parametrize("cores, modules", [(1, NOTHING_YET), (1.5, NOTHING_YET), (2, {"torch"})])
def test_nothing_is_started_early_on_one_core_or_by_who_has_pytorch(cores, modules):
    assert start_early(cores, modules) is None
    assert not nurseries_of(os.getpid())


@pytest.mark.parametrize(
    "name, value",
    [("GRADVIZ_TRAIN_IN", "thread"), ("GRADVIZ_TRAIN_IN", "nowhere"), ("GRADVIZ_WORKERS", "0"), ("GRADVIZ_RAY", "auto")],
)
def test_nothing_is_started_early_where_trainings_are_elsewhere_or_a_setting_cannot_be_used(monkeypatch, name, value):
    if name == "GRADVIZ_RAY":
        monkeypatch.delenv("GRADVIZ_TRAIN_IN")
    monkeypatch.setenv(name, value)
    assert start_early(cores=2, modules=NOTHING_YET) is None
    assert not nurseries_of(os.getpid())


def test_the_server_has_one_nursery(start_server):
    server = start_server(GRADVIZ_TRAIN_IN="process")
    assert len(nurseries_of(server.process.pid)) == 1
