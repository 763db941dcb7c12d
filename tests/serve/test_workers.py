"""Trainings in processes of their own: the same numbers, and whoever dies does so alone."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from clusters import MISSING
from timing import until

from gradviz import machine
from gradviz.cluster.cluster import Cluster
from gradviz.lenet.config import READERS, ConfigError, RunConfig
from gradviz.lenet.data import DataError, Shelf
from gradviz.lenet.experiment import training
from gradviz.messages import Told, say
from gradviz.record.codec import FRAME, pack
from gradviz.record.history import History, StepRecord
from gradviz.record.run import Run, Status
from gradviz.serve.failures import WorkerDied, WorkerError
from gradviz.serve.frames import pack_error
from gradviz.serve.manager import RunManager
from gradviz.serve.processes import Nursery, RemoteTraining
from gradviz.store.store import RunStore
from gradviz.train.cores import Had
from gradviz.train.training import Interrupted

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="worker processes are for Linux"),
    pytest.mark.timeout(300),  # some start a second and a third Python with PyTorch
]

CPU = torch.device("cpu")
SMALL = RunConfig(blocks=2, activation="relu", shortcut=True, dataset="digits", steps=12, batch_size=16, device="cpu")
DEEP = replace(SMALL, blocks=1000, batch_size=256)  # one step is some half minute


def never() -> bool:
    return False


def alive(pid: int) -> bool:
    """Whether the process is there and more than an entry that nobody has collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("data"), download=False)


BACKENDS = ["process", pytest.param("cluster", marks=[pytest.mark.cluster, pytest.mark.skipif(bool(MISSING), reason=MISSING)])]


@pytest.fixture(scope="module", params=BACKENDS)
def nursery(shelf: Shelf, request: pytest.FixtureRequest) -> Iterator[Nursery | Cluster]:
    """Children of this machine's, and of another that a cluster has."""
    if request.param == "cluster":
        nursery = Cluster(shelf, request.getfixturevalue("loopback").address)
        until(lambda: nursery.sight.slots == 2)
    else:
        nursery = Nursery(shelf)
    list(nursery(replace(SMALL, steps=1), never))  # is there, and has read the data
    yield nursery
    nursery.close()


@pytest.fixture(scope="module")
def impatient(shelf: Shelf) -> Iterator[Nursery]:
    """One that takes who is silent for two seconds for dead. A test may end its process: it has another then."""
    nursery = Nursery(shelf, patience=2.0)
    yield nursery
    nursery.close()


class Counted:
    """A nursery whose children are known by the ids of their runs."""

    def __init__(self, nursery: Nursery):
        self.nursery = nursery
        self.pids: dict[str, int] = {}

    def __call__(self, config: RunConfig, interrupt: Callable[[], bool]) -> RemoteTraining:
        training = self.nursery(config, interrupt)
        self.pids[config.id] = training.pid
        return training


@pytest.fixture
def counted(nursery: Nursery) -> Counted:
    return Counted(nursery)


@pytest.fixture
def managed(counted: Counted, tmp_path: Path) -> Iterator[RunManager]:
    store = RunStore(tmp_path / "runs", READERS)
    manager = RunManager(store, counted, workers=2)
    yield manager
    manager.close()
    store.close()


def history(records: list[StepRecord]) -> History:
    kept = History(records[0].layers.shape[1])
    for record in records:
        kept.append(record)
    return kept


@pytest.mark.parametrize(
    "changes",
    [
        dict(),
        dict(batch_norm=True, treatment="clip-norm", threshold=0.5, optimizer="momentum", lr=0.1, seed=5),
        dict(shortcut=False, blocks=60, init_range=2.0),  # inf and nan from the start
    ],
    ids=["shortcut", "batch-norm", "diverging"],
)
@pytest.mark.usefixtures("one_thread")
@pytest.mark.trains
def test_a_process_gives_the_same_bits_as_a_thread(nursery: Nursery, shelf: Shelf, changes: dict) -> None:
    config = replace(SMALL, **changes)
    trainer = training(config, shelf.load("digits"), CPU)
    here = list(trainer)
    remote = nursery(config, never)
    there = list(remote)
    assert remote.arithmetic == trainer.arithmetic and remote.arithmetic.threads == 1
    assert remote.device == "cpu, 1 thread" and remote.pid not in (os.getpid(), nursery.pid)
    for mine, its in zip(here, there, strict=True):
        assert mine.layers.tobytes() == its.layers.tobytes()
        for name in ("step", "loss", "accuracy", "test_accuracy"):
            assert np.array_equal(getattr(mine, name), getattr(its, name), equal_nan=getattr(mine, name) is not None), name
        assert mine.nonfinite_layer == its.nonfinite_layer and its.seconds > 0
    kept, its = history(here), history(there)
    assert [sample.step for sample in kept.samples] == [sample.step for sample in its.samples] and kept.samples
    for mine, other in zip(kept.samples, its.samples, strict=True):
        assert mine.sample().counts.tobytes() == other.sample().counts.tobytes()
        assert mine.images == other.images
    end, its_end = trainer.outcome, remote.outcome
    assert replace(its_end, seconds=0.0) == replace(end, seconds=0.0)
    if config.init_range:
        assert end.status == Status.DIVERGED


@pytest.mark.usefixtures("one_thread")
def test_a_preview_is_that_of_the_trainer(nursery: Nursery, shelf: Shelf) -> None:
    mine, its = training(SMALL, shelf.load("digits"), CPU).preview(), nursery(SMALL, never).preview()
    assert mine.layers.tobytes() == its.layers.tobytes() and mine.loss == its.loss and its.seconds > 0


def test_a_child_that_is_killed_fails_its_own_run_in_one_sentence(managed: RunManager, counted: Counted) -> None:
    config = replace(SMALL, steps=100_000)
    victim, other = managed.start(config, client="ann"), managed.start(replace(config, seed=1), client="bob")
    until(lambda: victim.history.steps > 2 and other.history.steps > 2)
    os.kill(counted.pids[victim.id], signal.SIGKILL)
    assert managed.wait(victim.id, 60)
    assert victim.status == Status.FAILED and victim.history.steps > 2
    # Measured: the signal, and that the system has not counted it as a want of memory.
    assert str(victim.message).startswith("The training's process was ended by signal 9 (SIGKILL).")
    assert "ran out" not in str(victim.message)
    assert managed.statistics().crashes == 1
    before = other.history.steps
    until(lambda: other.history.steps > before + 2)
    assert other.status == Status.RUNNING
    again = managed.start(config, again=True, client="ann")
    until(lambda: again.history.steps > 2)


def test_pause_step_and_stop_are_exact(managed: RunManager, counted: Counted) -> None:
    run = managed.start(replace(SMALL, steps=100_000))
    until(lambda: run.history.steps > 2)
    pid = counted.pids[run.id]
    managed.pause(run.id)
    until(lambda: run.status == Status.PAUSED)
    before = run.history.steps
    managed.step(run.id)
    managed.step(run.id)
    until(lambda: run.history.steps == before + 2 and not managed.has_worker(run.id))
    assert run.status == Status.PAUSED and run.history.steps == before + 2 and alive(pid)
    managed.stop(run.id)
    assert run.status == Status.STOPPED
    until(lambda: not alive(pid))  # the memory is back


def test_a_paused_child_does_little_ahead(nursery: Nursery) -> None:
    training = nursery(replace(SMALL, steps=100_000), never)
    records = iter(training)
    for _ in range(3):
        next(records)

    def work() -> float:
        fields = Path(f"/proc/{training.pid}/stat").read_text().rpartition(")")[2].split()
        return float(fields[11]) + float(fields[12])  # user and system time, in ticks

    seen = -1.0
    while seen != (seen := work()):
        threading.Event().wait(1.0)
    assert next(records).step == 3
    records.close()
    until(lambda: not alive(training.pid))


def test_a_stop_acts_in_the_middle_of_a_step_within_a_second(nursery: Nursery) -> None:
    stop = threading.Event()
    training = nursery(DEEP, stop.is_set)
    records: list[StepRecord] = []
    worker = threading.Thread(target=lambda: records.extend(training), daemon=True)
    worker.start()
    threading.Event().wait(1.0)  # in the middle of step 0 by then, or of the test before it
    begin = time.monotonic()
    stop.set()
    worker.join(30)
    assert time.monotonic() - begin < 1.5 and not records and training.outcome.status == Status.STOPPED
    until(lambda: not alive(training.pid), seconds=10)


def test_a_preview_and_a_net_that_is_being_built_can_be_interrupted(nursery: Nursery) -> None:
    for ask in (lambda training: training.preview(), list):
        calls = iter([False] * 3)
        training = None
        try:
            training = nursery(DEEP, lambda calls=calls: next(calls, True))
            ask(training)
            assert ask is list and training.outcome.status == Status.STOPPED
        except Interrupted:
            pass


def test_errors_of_a_child_cross_as_they_are(nursery: Nursery) -> None:
    with pytest.raises(DataError, match="MNIST is not in the data folder"):
        nursery(replace(SMALL, dataset="mnist"), never)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="cuda is not on this machine") as caught:
            nursery(replace(SMALL, device="cuda"), never)
        assert caught.value.field == "device"
    broken = object.__new__(RunConfig)
    broken.__dict__.update(SMALL.__dict__ | {"batch_size": 10**6})
    with pytest.raises(ConfigError, match="batch_size"):
        nursery(broken, never)


def said_by_a_child(*words: bytes) -> RemoteTraining:
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(b"".join(words))
    return RemoteTraining(ours, SMALL, never)


@pytest.mark.parametrize(
    "error",
    [ConfigError("device", say("no-device", device="cuda", have="cpu")), DataError(say("download-off"))],
    ids=lambda error: type(error).__name__,
)
def test_an_error_for_people_crosses_as_a_code_with_its_arguments(error: Told) -> None:
    with pytest.raises(type(error)) as caught:
        said_by_a_child(pack_error(error))
    assert caught.value.message == error.message and getattr(caught.value, "field", "") == getattr(error, "field", "")


def test_another_error_crosses_with_its_class_and_a_broken_word_is_the_end() -> None:
    try:
        1 // 0  # noqa: B018
    except ZeroDivisionError as error:
        word = pack_error(error)
    with pytest.raises(WorkerError, match="division.*(?s:.)*Traceback") as caught:
        said_by_a_child(word)
    assert caught.value.kind == "ZeroDivisionError"
    for part in (b"", word[:5], word[:-3]):
        with pytest.raises(WorkerDied, match="ended without a word"):
            said_by_a_child(part)


def test_a_damaged_data_set_is_said_and_the_nursery_goes_on(nursery: Nursery, shelf: Shelf) -> None:
    raw = shelf.folder / "KMNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)  # of the same test on another backend
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (raw / f"{part}-{kind}-ubyte").write_bytes(b"rubbish")
    pid = nursery.pid
    with pytest.raises(DataError, match="Kuzushiji|KMNIST.*damaged"):
        nursery(replace(SMALL, dataset="kmnist"), never)
    assert len(list(nursery(SMALL, never))) == SMALL.steps and nursery.pid == pid


def test_a_nursery_that_died_is_replaced_and_its_children_go_on(shelf: Shelf) -> None:
    nursery = Nursery(shelf)
    try:
        records = iter(nursery(SMALL, never))
        next(records)
        old = nursery.pid
        os.kill(old, signal.SIGKILL)
        until(lambda: not alive(old))
        assert len(list(nursery(replace(SMALL, seed=1), never))) == SMALL.steps
        assert nursery.pid != old
        assert len(list(records)) == SMALL.steps - 1
    finally:
        nursery.close()
    until(lambda: not alive(nursery.pid))


def test_training_goes_on_while_the_server_is_busy(nursery: Nursery) -> None:
    """The child is some steps ahead, so that a server that comes late does not hold it up."""
    training = nursery(replace(SMALL, steps=30), never)
    records = iter(training)
    next(records)
    threading.Event().wait(0.5)
    begin = time.process_time()
    ahead = [next(records) for _ in range(3)]
    assert [record.step for record in ahead] == [1, 2, 3]
    assert time.process_time() - begin < 0.5
    records.close()


SERVER = """
import sys, time
from pathlib import Path
from gradviz.lenet.config import READERS, RunConfig
from gradviz.lenet.data import Shelf
from gradviz.serve.manager import RunManager
from gradviz.store.store import RunStore
from gradviz.serve.processes import Nursery
shelf = Shelf(Path(sys.argv[1]), download=False)
nursery, pids = Nursery(shelf), []
def train(config, interrupt):
    training = nursery(config, interrupt)
    pids.append(training.pid)
    return training
manager = RunManager(RunStore(Path(sys.argv[1]) / "runs", READERS), train, workers=1, slice=0.2)
configs = [RunConfig(blocks=blocks, dataset="digits", steps=100_000, batch_size=16, device="cpu") for blocks in (1, 2)]
runs = [manager.start(config, client=str(config.blocks)) for config in configs]
while not all(run.history.steps > 1 for run in runs):
    time.sleep(0.01)
print(nursery.pid, *pids, flush=True)
sys.stdin.read()
"""


def test_a_server_that_is_killed_leaves_no_process_behind(tmp_path: Path) -> None:
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    pids = [int(word) for word in server.stdout.readline().split()]
    assert len(set(pids)) == 3 and all(map(alive, pids))  # one child trains, one is parked between its slices
    server.kill()
    server.communicate()
    until(lambda: not any(map(alive, pids)), seconds=15)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.trains
def test_a_run_through_the_manager_is_the_run_of_a_thread(managed: RunManager, shelf: Shelf) -> None:
    here = list(training(SMALL, shelf.load("digits"), CPU))
    run: Run = managed.start(SMALL)
    assert managed.wait(run.id, 60) and run.status == Status.FINISHED and run.device == "cpu, 1 thread"
    assert run.arithmetic.threads == 1
    assert run.history.loss.tolist() == [record.loss for record in here] and run.deletion is not None
    preview = managed.preview(SMALL)
    assert preview.ready.wait(60) and preview.record.loss == here[0].loss


def test_a_process_that_may_take_free_cores_says_with_how_many_threads_each_step_was_computed(
    shelf: Shelf, tmp_path: Path
) -> None:
    nursery = Nursery(shelf, free=lambda config: Had() if config.seed == 1 else None)
    try:
        assert not [remote for remote in [nursery(SMALL, never)] if list(remote) and remote.arithmetic.thread_changes]
        remote, said = nursery(replace(SMALL, seed=1), never), []
        for record in remote:
            said.append((record.step, remote.device, remote.arithmetic.thread_changes))
        assert remote.outcome.status is Status.FINISHED and said[0][1:] == ("cpu, 1 thread", "0:1")
        for step, device, changes in said:  # on a machine with free cores some steps have more
            had = [word.split(":") for word in changes.split()]
            assert device.split()[1] == (had[-1][1] if had else "1") and all(int(at) <= step + 1 for at, _threads in had)
    finally:
        nursery.close()


def test_a_child_that_is_stopped_is_ended_and_the_run_says_for_how_long_it_was_silent(
    impatient: Nursery, tmp_path: Path
) -> None:
    store, counted = RunStore(tmp_path / "runs", READERS), Counted(impatient)
    manager = RunManager(store, counted, workers=1)
    try:
        run = manager.start(replace(SMALL, steps=100_000), client="ann")
        until(lambda: run.history.steps > 2)
        pid = counted.pids[run.id]
        os.kill(pid, signal.SIGSTOP)
        assert manager.wait(run.id, 60)
        assert run.status == Status.FAILED and run.history.steps > 2
        assert "has not answered for 2 s and used no processor time (stopped by a signal)" in str(run.message)
        until(lambda: not alive(pid))
        other = manager.start(SMALL, client="bob")
        assert manager.wait(other.id, 60) and other.status == Status.FINISHED  # the worker is free again
    finally:
        manager.close()
        store.close()


def test_a_busy_child_is_left_alone_in_the_middle_of_the_longest_step_and_one_that_goes_on_in_time_too(
    impatient: Nursery,
) -> None:
    stop = threading.Event()
    long = impatient(replace(DEEP, steps=2), stop.is_set)
    worker = threading.Thread(target=lambda: list(long), daemon=True)
    worker.start()
    short = impatient(replace(SMALL, steps=100_000), never)
    records = iter(short)
    next(records)
    os.kill(short.pid, signal.SIGSTOP)
    resume = threading.Timer(0.8, os.kill, (short.pid, signal.SIGCONT))
    resume.start()
    for _ in range(40):
        next(records)
    worker.join(4.0)  # more than the patience, in one step
    assert alive(long.pid) and long.outcome is None
    stop.set()
    worker.join(30)
    assert long.outcome.status == Status.STOPPED
    records.close()


def test_a_preview_of_a_child_that_is_stopped_ends_too(impatient: Nursery) -> None:
    training = impatient(SMALL, never)
    os.kill(training.pid, signal.SIGSTOP)
    with pytest.raises(WorkerDied, match="has not answered for"):
        training.preview()
    until(lambda: not alive(training.pid))


def test_a_nursery_that_is_stopped_is_replaced_and_the_training_begins(impatient: Nursery) -> None:
    list(impatient(replace(SMALL, steps=1), never))
    old = impatient.pid
    os.kill(old, signal.SIGSTOP)
    assert len(list(impatient(SMALL, never))) == SMALL.steps
    assert impatient.pid != old and not alive(old)


def test_a_stopped_child_that_nobody_wants_any_more_leaves_its_memory(nursery: Nursery) -> None:
    training = nursery(replace(SMALL, steps=100_000), never)
    records = iter(training)
    next(records)
    os.kill(training.pid, signal.SIGSTOP)
    until(lambda: Path(f"/proc/{training.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    records.close()
    until(lambda: not alive(training.pid))


def test_a_crash_is_told_by_its_signal(managed: RunManager, counted: Counted) -> None:
    run = managed.start(replace(SMALL, steps=100_000), client="ann")
    until(lambda: run.history.steps > 2)
    os.kill(counted.pids[run.id], signal.SIGSEGV)
    assert managed.wait(run.id, 60)
    assert str(run.message) == "The training's process was ended by signal 11 (SIGSEGV)."


def test_a_child_that_floods_or_talks_nonsense_is_the_end_of_its_run_alone() -> None:
    for words in (FRAME.pack(2**31, 2**31), FRAME.pack(3, 0) + b"{]}", pack({"pid": 0})[:8] + b"[1, 2, 3]", b"\xff" * 4096):
        with pytest.raises(WorkerDied, match="no record|without a word"):
            said_by_a_child(words)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "limit of processes and threads"),
        (RuntimeError("can't start new thread"), "limit of processes and threads"),
        (OSError(errno.EMFILE, "Too many open files"), "limit of open files"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory does not suffice"),
        (MemoryError(), "memory does not suffice"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk is full"),
        (ZeroDivisionError("division by zero"), r"error of its own \(ZeroDivisionError\)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_was_used_up_is_named_by_what_was_measured(tmp_path: Path, shelf: Shelf, error: Exception, sentence: str) -> None:
    def refuse(config: RunConfig, interrupt: Callable[[], bool]) -> RemoteTraining:
        return said_by_a_child(pack_error(error))

    store = RunStore(tmp_path / "runs", READERS)
    manager = RunManager(store, refuse)
    run = manager.start(SMALL)
    assert manager.wait(run.id, 60) and re.search(sentence, str(run.message)), str(run.message)
    manager.close()
    store.close()


def test_the_counters_of_the_kernel_are_read(tmp_path: Path) -> None:
    group, proc = tmp_path / "cgroup" / "box", tmp_path / "proc"
    group.mkdir(parents=True)
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text("0::/box\n")
    assert machine.memory_kills(tmp_path / "cgroup", proc) is None and machine.process_refusals(tmp_path / "cgroup", proc) == 0
    (proc / "vmstat").write_text("nr_free_pages 5\noom_kill 7\n")
    assert machine.memory_kills(tmp_path / "cgroup", proc) == 7
    (group / "memory.events").write_text("low 0\nmax 12\noom 3\noom_kill 2\n")
    (group / "pids.events").write_text("max 4\n")
    assert machine.memory_kills(tmp_path / "cgroup", proc) == 2 and machine.process_refusals(tmp_path / "cgroup", proc) == 4
    state, ticks = machine.activity(os.getpid())
    assert state in "RS" and ticks >= 0 and machine.activity(2**22 + 1) is None
