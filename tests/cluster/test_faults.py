"""What is lost when a part of a real cluster dies or stands still, and what is said of it."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from clusters import MISSING, LoopbackCluster, Machine
from idx import contents, write
from running import ROOT
from timing import until

from gradviz.cluster.cluster import Cluster
from gradviz.lenet.config import READERS, RunConfig
from gradviz.lenet.data import Shelf
from gradviz.record.run import Run, Status
from gradviz.serve.manager import RunManager
from gradviz.store.store import RunStore

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(bool(MISSING), reason=MISSING), pytest.mark.timeout(300)]

LONG = RunConfig(blocks=1, activation="relu", shortcut=True, dataset="digits", steps=100_000, batch_size=8, device="cpu")


class School:
    """A server without its pages, on a cluster of a head and the computers that a test adds."""

    def __init__(self, folder: Path, loopback: LoopbackCluster):
        write(folder / "data" / "KMNIST" / "raw", contents())
        self.loopback = loopback
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


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


@pytest.fixture(scope="module")
def school(tmp_path_factory: pytest.TempPathFactory, loopback: LoopbackCluster) -> Iterator[School]:
    school = School(tmp_path_factory.mktemp("school"), loopback)
    yield school
    school.close()


@pytest.fixture(scope="module")
def first(school: School) -> Machine:
    until(lambda: school.cluster.sight.slots == 2)
    return school.loopback.machines[1]


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


def test_a_host_that_is_killed_takes_no_run_with_it_and_has_a_successor(school: School, first: Machine) -> None:
    run = school.begun()
    before = {each.port for each in school.cluster.sight.computers}
    (host,) = first.named("ray::Host")
    os.kill(host, signal.SIGKILL)
    until(lambda: any(each.ready and each.port not in before for each in school.cluster.sight.computers))
    school.goes_on(run)
    assert run.history.loss.tolist() == school.manager.get(run.id).history.loss.tolist()
    after = school.begun()
    school.goes_on(run)
    stop(school, run, after)


def test_computers_that_are_lost_take_their_own_runs_with_them_and_no_other(school: School, first: Machine) -> None:
    """One stands still, and while that is being noticed another is killed."""
    kept, machines, lost = school.begun(), list[Machine](), list[Run]()
    for name, how in (("frozen", signal.SIGSTOP), ("killed", signal.SIGKILL)):
        machines.append(school.loopback.computer(name))
        until(lambda name=name: any(each.name == name and each.ready for each in school.cluster.sight.computers))
        lost.append(school.begun())
        assert [len(school.children(machine)) for machine in (first, machines[-1])] == [1, 1]
        machines[-1].signal(how)
    for run in lost:
        until(lambda run=run: not run.status.live)
        assert run.status is Status.INTERRUPTED and run.history.steps >= 20
    assert sorted(str(run.message).partition(".")[0] for run in lost) == [
        f"The computer that trained this run is gone ({name})" for name in ("frozen", "killed")
    ]
    school.goes_on(kept)
    until(lambda: school.cluster.sight.slots == 2)
    for run in lost:
        assert run.history.loss.tolist() == school.manager.get(run.id).history.loss.tolist()
    stop(school, kept)
    again = [school.manager.start(run.recipe, again=True, client="bob") for run in lost]  # as Start afresh does
    for run in again:
        school.goes_on(run)
    stop(school, *again)
    for machine in machines:
        machine.end()
    until(lambda: len(school.cluster.sight.computers) == 1)


def test_a_computer_with_another_gradviz_trains_nothing_and_is_named(
    school: School, first: Machine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(ROOT / "gradviz", tmp_path / "gradviz", ignore=shutil.ignore_patterns("__pycache__", "static", "*.jsonl"))
    with (tmp_path / "gradviz" / "train" / "trainer.py").open("a") as file:
        file.write("# another\n")
    other = school.loopback.computer("other", root=tmp_path)
    until(lambda: any(message.code == "node-version" for message in school.cluster.sight.troubles))
    assert "The computer other has another version of gradviz" in str(school.cluster.sight.troubles[0])
    assert school.cluster.sight.slots == 2
    until(lambda: "The computer other has another version of gradviz" in caplog.text)
    other.end()
    until(lambda: not school.cluster.sight.troubles)


@pytest.mark.parametrize("token", ["another" * 5, ""], ids=["wrong", "missing"])
def test_a_server_without_the_token_says_so_and_the_others_train_on(
    school: School, first: Machine, tmp_path: Path, token: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = school.begun()
    with monkeypatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN", token)
        patch.setenv("HOME", str(tmp_path))  # which may have a token of its own
        stranger = Cluster(Shelf(tmp_path, download=False), school.loopback.address)
        try:
            until(lambda: stranger.trouble.code == "cluster-token")
        finally:
            stranger.close()
    assert "does not take this server's token" in str(stranger.trouble) and str(stranger.trouble) in caplog.text
    assert not stranger.sight.slots
    school.goes_on(run)
    stop(school, run)


@pytest.mark.parametrize(
    "changes, sentence",
    [
        (dict(RAY_AUTH_TOKEN="another" * 5), "The head at HEAD does not take this computer's RAY_AUTH_TOKEN: all computers must"),
        (dict(RAY_AUTH_TOKEN=""), "Set RAY_AUTH_TOKEN to the secret that all computers of the cluster share"),
        (dict(PYTHONPATH="OLD"), "Version mismatch: The cluster was started with: Ray: 2.60.0 Python"),
    ],
    ids=["wrong token", "no token", "another Ray"],
)
def test_a_computer_that_the_head_does_not_take_says_why_in_one_sentence(
    school: School, first: Machine, tmp_path: Path, changes: dict[str, str], sentence: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import ray\nray.__version__ = '2.59.0'\n")
    words = {name: str(tmp_path) if value == "OLD" else value for name, value in changes.items()}
    with pytest.raises(RuntimeError, match=sentence.replace("HEAD", school.loopback.address)):
        school.loopback.computer("other", HOME=str(tmp_path), **words)
    said = school.loopback.machines[-1].log.read_text().splitlines()
    assert sum("[" not in line[:1] for line in said) == 1, said  # beside what Ray logs
    assert [each.name for each in school.cluster.sight.computers] == ["first"]


def test_a_head_that_is_killed_takes_no_run_with_it_and_another_is_joined(
    school: School, first: Machine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The last test here: the tests after it have the new head and a new first computer."""
    loopback, late = school.loopback, None
    run = school.begun()
    loopback.head.end()
    try:
        late = Cluster(Shelf(tmp_path, download=False), loopback.address)  # a server that begins while the head is away
        until(lambda: school.cluster.trouble.code == "cluster-away")
        assert "The cluster that trains does not answer" in str(school.cluster.trouble)
        assert str(school.cluster.trouble) in caplog.text
        until(lambda: late.trouble.code == "cluster-away" and not late.sight.slots)
        until(lambda: first.process.poll() is not None)  # it leaves, but not what trains there
        waiting = school.manager.start(replace(LONG, seed=100, steps=5), client="late")
        school.goes_on(run, 50)
        loopback.begin_head()
        loopback.computer("first", slots=2)
        until(lambda: school.cluster.sight.slots == 2 and late.sight.slots == 2 and not school.cluster.trouble)
        school.goes_on(run, 50)
        stop(school, run)
        until(lambda: not waiting.status.live)
        if waiting.status is not Status.FINISHED:  # it was tried while nobody was there
            waiting = school.manager.start(waiting.recipe, again=True, client="late")
        assert school.manager.wait(waiting.id, 90) and waiting.status is Status.FINISHED, str(waiting.message)
    finally:
        if late:
            late.close()
