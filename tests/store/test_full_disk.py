"""A full disk is said; what is kept is shown and can be deleted; and when there is room again, everything goes on."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from puppets import Stage, seeded, steps
from recorded import assert_same, ended_run
from timing import until

from gradviz.lenet.config import READERS
from gradviz.record.run import Run, Status
from gradviz.serve.manager import RunManager
from gradviz.settings import Limits
from gradviz.store.store import RunStore, StoreError


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", place], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"mounting a small disk is not allowed here: {error}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def fill(disk: Path) -> Path:
    """Leaves no byte."""
    path = disk / "others"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    return path


def big(seed: int) -> Run:
    return ended_run(seed=seed, blocks=10, count=700)  # half a megabyte


def test_a_full_disk_is_said_what_is_kept_is_shown_and_deleting_makes_room(disk: Path) -> None:
    store = RunStore(disk / "runs", READERS)
    runs = [big(seed) for seed in range(4)]
    store.save(*runs)
    fill(disk)
    seeds = itertools.count(9)
    with pytest.raises(StoreError, match="the disk is full"):
        for seed in seeds:  # what the log has room for is still taken
            runs.append(big(seed))
            store.save(runs[-1])
    late = runs.pop()
    with pytest.raises(StoreError, match="the disk is full"):
        store.save(late)
    for run in runs:
        assert_same(store.load(run.id), run)
    free = shutil.disk_usage(disk).free
    for run in runs[:2]:
        store.delete(run.id)
    assert [line.id for line in store.list()] == [run.id for run in reversed(runs[2:])]
    assert shutil.disk_usage(disk).free > free + 500_000
    store.save(late)
    store.close()
    store = RunStore(disk / "runs", READERS)
    for run in (*runs[2:], late):
        assert_same(store.load(run.id), run)
    assert store.notice == ""
    store.close()


@pytest.mark.parametrize("held", [True, False], ids=["with a reserve", "without one"])
@pytest.mark.parametrize("end", ["closed", "killed"])
def test_a_start_on_a_full_disk_shows_the_kept_runs(disk: Path, end: str, held: bool) -> None:
    store = RunStore(disk / "before", READERS)
    runs = [big(seed) for seed in range(3)]
    live = big(4)
    live.status = Status.RUNNING
    store.save(*runs, live)
    if end == "killed":
        (disk / "runs").mkdir()
        for name in ("runs.sqlite", "runs.sqlite-wal", "runs.reserve"):
            (disk / "runs" / name).write_bytes((disk / "before" / name).read_bytes())
    store.close()
    if end == "closed":
        (disk / "before").rename(disk / "runs")
    else:
        shutil.rmtree(disk / "before")
    if not held:
        (disk / "runs" / "runs.reserve").unlink()
    others = fill(disk)
    store = RunStore(disk / "runs", READERS, grace=0)
    for run in runs:
        assert_same(store.load(run.id), run)
    found = {line.id: line.status for line in store.list()}
    assert len(found) == 4 and found[live.id] == Status.INTERRUPTED
    if not held:
        with pytest.raises(StoreError, match="can be read, but not written"):
            store.check()
        with pytest.raises(StoreError, match="can be read, but not written"):
            store.save(big(9))
        others.unlink()
    store.delete(runs[0].id)
    store.tend()
    store.check()
    assert len(store.list()) == 3
    if not held:
        store.save(big(9))
        assert len(store.list()) == 4
    assert_same(store.load(runs[1].id), runs[1])
    store.close()


def test_a_manager_on_a_full_disk_says_so_and_writes_what_it_recorded_once_there_is_room(
    disk: Path, tmp_path: Path
) -> None:
    store, stage = RunStore(disk / "runs", READERS, grace=0), Stage()
    kept = big(1)
    store.save(kept)
    limits = Limits(free_disk=0)  # else the start is refused
    manager = RunManager(store, stage, slice=1e9, limits=limits)
    run = manager.start(seeded(1, blocks=60, steps=50))
    until(lambda: 1 in stage.puppets and store.load(run.id))
    others = fill(disk)
    stage[1].allow(50)
    assert manager.wait(run.id, 60)
    until(lambda: "the disk is full" in str(manager.warning))
    assert manager.get(kept.id) is not None and manager.get(run.id) is run
    others.unlink()
    until(lambda: not manager.warning)
    assert steps(store.load(run.id)) == 50
    manager.close()
    store.close()
