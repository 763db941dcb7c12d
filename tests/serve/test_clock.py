"""A clock that is set while the server runs, or between two servers, makes no run old and puts none in the wrong order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from puppets import Stage, seeded
from timing import until

from gradviz.lenet.config import READERS
from gradviz.record.run import Run
from gradviz.serve.admission import Refused
from gradviz.serve.age import Dates, giving_way
from gradviz.serve.manager import RunManager
from gradviz.settings import Limits
from gradviz.store.store import RunStore

DAY = 24 * 3600.0


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[[], RunManager]]:
    """Servers one after the other, on one store with room for three runs."""
    open_ones: list[tuple[RunManager, RunStore]] = []

    def start() -> RunManager:
        stop()
        store, stage = RunStore(tmp_path / "runs", READERS), Stage()
        stage.free = True
        manager = RunManager(store, stage, slice=1e9, limits=Limits(runs=3))
        open_ones.append((manager, store))
        return manager

    def stop() -> None:
        while open_ones:
            manager, store = open_ones.pop()
            manager.close()
            store.close()

    yield start
    stop()


@pytest.fixture
def jump(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the clock of the machine."""
    real = time.time

    def set_by(seconds: float) -> None:
        monkeypatch.setattr("time.time", lambda: real() + seconds)

    return set_by


def trained(manager: RunManager, seed: int) -> Run:
    run = manager.start(seeded(seed))
    assert manager.wait(run.id, 60)
    until(lambda: not manager.unsaved())
    return run


@pytest.mark.parametrize("days", [2, 400, -2])
def test_a_jump_of_the_clock_costs_no_run_of_minutes_ago(started: Callable, jump: Callable, days: float) -> None:
    manager = started()
    runs = [trained(manager, seed) for seed in (1, 2, 3)]
    jump(days * DAY)
    with pytest.raises(Refused, match="all of today"):
        manager.start(seeded(4))
    assert [line.id for line in manager.list()] == [run.id for run in reversed(runs)]


@pytest.mark.parametrize("days", [2, 300, -2])
def test_a_jump_between_two_servers_costs_no_run_either(started: Callable, jump: Callable, days: float) -> None:
    manager = started()
    runs = [trained(manager, seed) for seed in (1, 2, 3)]
    jump(days * DAY)
    manager = started()
    with pytest.raises(Refused, match="all of today"):
        manager.start(seeded(4))
    manager.delete(runs[1].id)
    latest = trained(manager, 4)
    assert [line.id for line in manager.list()] == [latest.id, runs[2].id, runs[0].id]  # the newest first, all the same


def test_what_is_older_than_the_others_by_a_day_still_gives_way(started: Callable, jump: Callable) -> None:
    jump(-3 * DAY)
    old = [trained(started(), seed) for seed in (1, 2)]
    jump(0)
    manager = started()
    recent = [trained(manager, seed) for seed in (3,)]
    recent += [trained(started(), seed) for seed in (4, 5)]
    assert [line.id for line in started().list()] == [run.id for run in reversed(recent)]
    assert not {run.id for run in old} & {run.id for run in recent}


def kept(*groups: tuple[str, int, float]) -> list[tuple[str, float, tuple[str, ...]]]:
    """Ended runs of (whose, how many, days ago), the oldest first."""
    now, lines = time.time(), []
    for place, (whose, count, days) in enumerate(groups):
        lines += [(f"{place}-{k}", now - days * DAY, (whose,)) for k in range(count)]
    return lines


def test_where_more_must_go_than_one_person_has_of_today_the_next_persons_go() -> None:
    """As after a restart with room for fewer runs."""
    runs = kept(("anna", 50, 3.0), ("anna", 50, 0.0), ("berta", 50, 0.0))
    gone = giving_way(runs, 91, Dates(time.time()), "clara", 100)
    assert gone[:50] == [f"0-{k}" for k in range(50)]
    assert {id.split("-")[0] for id in gone[50:]} == {"1", "2"} and len(gone) == len(set(gone)) == 91
    few = [(f"other{k}", 5, 0.0) for k in range(20)]
    assert len(giving_way(kept(("anna", 50, 3.0), *few), 51, Dates(time.time()), "clara", 100)) == 50


def test_who_gives_his_old_runs_keeps_those_of_today_if_they_are_few() -> None:
    runs = kept(("anna", 8, 3.0), ("anna", 9, 0.0))
    assert giving_way(runs, 12, Dates(time.time()), "clara", 100) == [f"0-{k}" for k in range(8)]
