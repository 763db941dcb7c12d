"""What is lost when a part of a real cluster dies or stands still, and what is said of it."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from clusters import MISSING, TOKEN, LoopbackCluster, Machine
from idx import contents, write
from running import ROOT
from timing import until

from gradviz.cluster.cluster import Cluster
from gradviz.lenet.config import READERS, RunConfig
from gradviz.lenet.data import Shelf
from gradviz.record.run import Run, Status
from gradviz.serve.manager import RunManager
from gradviz.store.store import RunStore

pytestmark = [pytest.mark.skipif(bool(MISSING), reason=MISSING), pytest.mark.timeout(300)]

LONG = RunConfig(blocks=1, activation="relu", shortcut=True, dataset="digits", steps=100_000, batch_size=8, device="cpu")


class School:
    """A server without its pages, on a cluster of a head and the computers that a test adds."""

    def __init__(self, folder: Path):
        os.environ["RAY_AUTH_TOKEN"] = TOKEN
        write(folder / "data" / "KMNIST" / "raw", contents())
        self.loopback = LoopbackCluster(GRADVIZ_DATA=str(folder / "there"))
        self.store = RunStore(folder / "runs", READERS)
        self.cluster = Cluster(Shelf(folder / "data", download=False), self.loopback.address)
        self.manager = RunManager(self.store, self.cluster, workers=0, memory_left=self.cluster.memory_left)
        self.cluster.follow(self.manager.resize)
        self._seed = 0

    def begun(self, **changes: object) -> Run:
        """A run that trains."""
        self._seed += 1
        run = self.manager.start(replace(LONG, seed=self._seed, **changes), client=f"person {self._seed}")
        self.goes_on(run)
        return run

    def goes_on(self, run: Run, steps: int = 20) -> None:
        before = run.history.steps
        until(lambda: run.history.steps >= before + steps or not run.status.live)
        assert run.status is Status.RUNNING, str(run.message)

    def children(self, machine: Machine) -> list[int]:
        """Of its nursery."""
        nurseries = machine.named("gradviz.serve.forks")
        return [pid for pid in nurseries if _parent(pid) in nurseries]

    def close(self) -> None:
        self.manager.close()
        self.cluster.close()
        self.store.close()
        self.loopback.close()
        os.environ.pop("RAY_AUTH_TOKEN", None)


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


@pytest.fixture(scope="module")
def school(tmp_path_factory: pytest.TempPathFactory) -> Iterator[School]:
    school = School(tmp_path_factory.mktemp("school"))
    yield school
    school.close()


@pytest.fixture(scope="module")
def first(school: School) -> Machine:
    machine = school.loopback.computer("first")
    until(lambda: school.cluster.sight.slots >= 1)
    return machine


@pytest.fixture
def second(school: School, first: Machine) -> Iterator[Callable[[], Machine]]:
    """Adds a computer for the test, on which the next run goes while the first one trains another."""
    added: list[Machine] = []

    def add() -> Machine:
        added.append(school.loopback.computer("second"))
        until(lambda: school.cluster.sight.slots == 2)
        return added[-1]

    yield add
    for machine in added:
        machine.end()
    until(lambda: len(school.cluster.sight.computers) == 1, 30)


def stop(school: School, *runs: Run) -> None:
    for run in runs:
        school.manager.stop(run.id)
        until(lambda run=run: not run.status.live)


def test_a_data_set_that_a_computer_has_not_got_comes_from_the_server(school: School, first: Machine, tmp_path: Path) -> None:
    run = school.manager.start(replace(LONG, dataset="kmnist", steps=3), client="ann")
    assert school.manager.wait(run.id, 60) and run.status is Status.FINISHED, str(run.message)


def test_a_bridge_that_is_killed_takes_no_run_with_it_and_has_a_successor(school: School, first: Machine) -> None:
    run, bridge = school.begun(), school.cluster.pid
    os.kill(bridge, signal.SIGKILL)
    school.goes_on(run)
    until(lambda: school.cluster.pid != bridge and not school.cluster.trouble)
    school.goes_on(run)
    stop(school, run)


def test_a_host_that_is_killed_has_a_successor_that_takes_runs(school: School, first: Machine) -> None:
    run = school.begun()
    before = {each.port for each in school.cluster.sight.computers}
    (host,) = first.named("ray::Host")
    os.kill(host, signal.SIGKILL)
    until(lambda: any(each.ready and each.port not in before for each in school.cluster.sight.computers))
    stop(school, run)  # Ray may have ended it too
    assert run.history.steps >= 20
    stop(school, school.begun())


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_a_computer_that_is_lost_takes_its_own_run_with_it_and_no_other(
    school: School, first: Machine, second: Callable[[], Machine], how: int
) -> None:
    kept = school.begun()
    machine = second()
    lost = school.begun()
    assert len(school.children(machine)) == 1 and len(school.children(first)) == 1
    machine.signal(how)
    until(lambda: not lost.status.live, 30)
    assert lost.status is Status.INTERRUPTED and lost.history.steps >= 20
    assert str(lost.message).startswith("The computer that trained this run is gone (second).")
    school.goes_on(kept)
    until(lambda: school.cluster.sight.slots == 1, 30)
    assert lost.history.loss.tolist() == school.manager.get(lost.id).history.loss.tolist()
    stop(school, kept)
    again = school.manager.start(lost.recipe, again=True, client="bob")  # as Start afresh does
    school.goes_on(again)
    stop(school, again)


def test_a_computer_with_another_gradviz_trains_nothing_and_is_named(
    school: School, first: Machine, second: Callable[[], Machine], tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "gradviz", tmp_path / "gradviz", ignore=shutil.ignore_patterns("__pycache__", "static", "*.jsonl"))
    with (tmp_path / "gradviz" / "train" / "trainer.py").open("a") as file:
        file.write("# another\n")
    other = school.loopback.computer("other", root=tmp_path)
    until(lambda: any(message.code == "node-version" for message in school.cluster.sight.troubles))
    assert "The computer other has another version of gradviz" in str(school.cluster.sight.troubles[0])
    assert school.cluster.sight.slots == 1
    other.end()
    until(lambda: not school.cluster.sight.troubles, 30)
