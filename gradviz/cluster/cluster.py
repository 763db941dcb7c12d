"""Trainings on a cluster's computers, over the seam of the run manager: the same records from the same children as in processes.

    server --- bridge (Ray) ---- who is there: each computer's host, its port and its key
       \\------ TCP ------------- host -> nursery -> child, which has the line from then on

Ray knows who belongs to the cluster and keeps a host on each computer. What is asked of a child and what it records goes straight
between it and the server: a bridge that dies takes no training with it.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gradviz.cluster import line
from gradviz.cluster.computers import Computer, Computers
from gradviz.cluster.files import bring
from gradviz.cluster.needs import TOKEN, needed
from gradviz.lenet.config import RunConfig
from gradviz.lenet.idx import DataError
from gradviz.messages import NOTHING, Message, Told, say
from gradviz.serve.admission import Refused
from gradviz.serve.failures import ComputerLost
from gradviz.serve.frames import error_of
from gradviz.serve.processes import Data, Here, RemoteTraining
from gradviz.settings import of_children
from gradviz.train.training import Interrupted

log = logging.getLogger("gradviz")

_SILENCE = 20.0  # seconds in which a child owes an answer and does nothing, as in processes
_GONE = 3.0  # seconds of silence after which a training ends whose computer the cluster no longer knows
_ANSWER = 3.0  # seconds in which a host answers
_NOBODY = 15.0  # seconds for which a training waits for a computer that takes it
_MUTE = 6.0  # seconds without a word after which the bridge counts as stuck: the cluster's head is away
_RECENT = 0.5  # seconds after its last answer for which a training counts as at work
_AGAIN = 0.2, 5.0  # seconds until another bridge is tried, from the first time to the last


@dataclass(frozen=True)
class Sight:
    """What a page shows of the cluster."""

    computers: list[Computer]
    slots: int
    trouble: Message  # of the cluster as a whole
    troubles: list[Message]  # of single computers


class Cluster:
    """Makes trainings on a cluster's computers: a `Train` of the run manager. Every method may be called from any thread."""

    def __init__(self, shelf: Data, address: str = "auto", threads: int = 1, most: int = 1024, patience: float = _SILENCE):
        """`shelf`: the server's data sets, which computers without them are given. `address`: of the head, or auto for the
        cluster that this machine is in. `threads`: processor threads of each training. `most`: trainings at once."""
        self.shelf, self._address, self._threads, self._patience = shelf, address, threads, patience
        self._computers = Computers(most)
        self._trouble = say("cluster-begins", address=address)
        self._heard = time.monotonic()
        self._bridge: subprocess.Popen[bytes] | None = None
        self._bringing: dict[tuple[str, str], threading.Lock] = {}
        self._tell: Callable[[int], object] = lambda _slots: None
        self._preload = ""
        self._over, self._lock = threading.Event(), threading.Lock()
        threading.Thread(target=self._follow, name="bridge", daemon=True).start()

    def follow(self, tell: Callable[[int], object]) -> None:
        """Calls `tell(slots)` now and whenever they have changed."""
        self._tell = tell
        tell(self._computers.slots)

    @property
    def sight(self) -> Sight:
        return Sight(self._computers.all, self._computers.slots, self.trouble, self._computers.troubles)

    def by_state(self) -> dict[str, int]:
        """How many computers are ready, and how many are not."""
        ready = [each.ready for each in self._computers]
        return {"ready": sum(ready), "not_ready": len(ready) - sum(ready)}

    def by_name(self) -> dict[tuple[str, str], tuple[int, int]]:
        """(name, ready or not_ready) of its computers -> (slots, trainings of all servers); those of one name together."""
        found: dict[tuple[str, str], tuple[int, int]] = {}
        for each in self._computers:
            slots, trainings = found.get(key := (each.name, "ready" if each.ready else "not_ready"), (0, 0))
            found[key] = slots + each.slots, trainings + each.trainings
        return found

    @property
    def trouble(self) -> Message:
        """What is wrong with the cluster as a whole, NOTHING if all is well."""
        if self._trouble:
            return self._trouble
        return NOTHING if self._computers.slots else say("cluster-empty")

    @property
    def pid(self) -> int:
        """Of the bridge, 0 before there is one."""
        return self._bridge.pid if self._bridge else 0

    def memory_left(self) -> float | None:
        """Bytes for one training, on the computer that has most of them."""
        return self._computers.memory

    def __call__(self, config: RunConfig, interrupt: Callable[[], bool]) -> RemoteTraining:
        """Raises DataError, ConfigError, Refused, Interrupted or WorkerDied; ComputerLost if no computer takes it."""
        if missing := self.shelf.missing(config.dataset):
            raise DataError(missing)
        deadline = time.monotonic() + _NOBODY
        refusal: Told | None = None
        while True:
            for computer in self._computers.best_for(config):
                try:
                    return self._begin(computer, config, interrupt)
                except Refused as refused:
                    refusal = refused
                except (OSError, ComputerLost) as error:
                    log.warning("event=computer-not-there name=%s reason=%s", computer.name, error)
                    self._computers.doubt(computer.id)
                except Told as error:
                    if error.message.code not in ("node-disk", "node-refuses", "node-file"):
                        raise
                    refusal = error
                    self._computers.complain(computer.id, config.dataset, error.message)
                    log.warning("event=computer-refuses name=%s reason=%s", computer.name, json.dumps(str(error)))
                if interrupt():
                    raise Interrupted
            if refusal:
                raise refusal
            if time.monotonic() > deadline:
                raise ComputerLost(self.trouble or say("cluster-empty"))
            self._computers.await_change(0.2)
            if interrupt():
                raise Interrupted

    def load(self, name: str) -> None:
        """Has all computers read this data set, those that come later too. Returns at once."""
        self._preload = name
        for computer in self._computers:
            self._prepare(computer)

    def close(self) -> None:
        """Leaves the cluster; trainings go on until they are dropped."""
        self._over.set()
        self._end_bridge()

    # Trainings

    def _begin(self, computer: Computer, config: RunConfig, interrupt: Callable[[], bool]) -> RemoteTraining:
        for last_try in (False, True):
            connection = line.connect(computer.address, computer.port, computer.key, _ANSWER)
            try:
                line.send(connection, {"config": config.to_dict(), "threads": self._threads})
                answer, _body = line.receive(connection)
                if "error" in answer:
                    raise error_of(answer)
                if "taken" in answer:
                    return FarTraining(connection, config, interrupt, self._patience, computer, self._computers)
            except BaseException:
                connection.close()
                raise
            connection.close()
            if last_try:
                raise DataError(Message.from_json(answer["why"]))
            self._bring(computer, config.dataset)
        raise AssertionError

    def _bring(self, computer: Computer, name: str) -> None:
        """Has it there, once however many ask for it at the same time."""
        with self._lock:
            place = self._bringing.setdefault((computer.id, name), threading.Lock())
        with place:
            if "wants" in ask(computer, {"load": name}):
                bring(partial(ask, computer), self.shelf.folder, name)

    def _prepare(self, computer: Computer) -> None:
        name = self._preload

        def work() -> None:
            with suppress(OSError, Told):
                if "wants" in ask(computer, {"load": name}) and not self.shelf.missing(name):
                    self._bring(computer, name)
                    ask(computer, {"load": name})

        if computer.ready and name:
            threading.Thread(target=work, name="preload", daemon=True).start()

    # The bridge

    def _follow(self) -> None:
        pause = _AGAIN[0]
        while not self._over.is_set():
            began = time.monotonic()
            try:
                self._listen()
            except TimeoutError:
                log.warning("event=bridge-mute")
            except Exception:  # whatever it said: another bridge may do better
                log.exception("event=bridge-error")
            self._end_bridge()
            if not self._over.is_set():
                self._doubt(self._trouble or say("cluster-away", address=self._address))
            pause = _AGAIN[0] if time.monotonic() - began > 60 else min(_AGAIN[1], 2 * pause)
            self._over.wait(pause)

    def _listen(self) -> None:
        """Starts a bridge and takes what it says until it ends or says nothing for too long."""
        ours, theirs = socket.socketpair()
        environment = of_children() | needed(os.environ) | {name: os.environ[name] for name in TOKEN if name in os.environ}
        command = [sys.executable, "-m", "gradviz.cluster.bridge", str(theirs.fileno()), self._address]
        with ours:
            with theirs:
                self._bridge = subprocess.Popen(
                    command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                    cwd=Path(__file__).parents[2], env=environment, start_new_session=True,
                )  # fmt: skip
            ours.settimeout(60.0)  # Ray takes some seconds to begin, and half a minute to say that nobody is there
            data = b""
            while not self._over.is_set() and (more := ours.recv(1 << 16)):
                ours.settimeout(_MUTE)
                *lines, data = (data + more).split(b"\n")
                for each in lines:
                    self._take(json.loads(each))

    def _take(self, words: dict[str, Any]) -> None:
        if "trouble" in words:
            return self._say(Message.from_json(words["trouble"]))
        nodes = words["nodes"]
        assert isinstance(nodes, list)
        before, known = self._computers.slots, {each.id for each in self._computers if each.ready}
        said = [each.trouble for each in self._computers]
        come, gone = self._computers.know([Computer.from_dict(each) for each in nodes])
        for each in come:
            log.info("event=computer-there name=%s slots=%d", each.name, each.slots)
        for each in gone:
            log.warning("event=computer-gone name=%s", each.name)
        for each in self._computers:
            if each.trouble and each.trouble not in said:
                log.warning("event=computer-trouble name=%s reason=%s", each.name, json.dumps(str(each.trouble)))
            if each.ready and each.id not in known:
                self._prepare(each)
        self._say(NOTHING)
        if (slots := self._computers.slots) != before:
            self._tell(slots)
        return None

    def _doubt(self, trouble: Message) -> None:
        """Nobody says who is there: those that do not answer are not counted on. The others take trainings as before."""
        self._say(trouble)
        for computer in self._computers:
            try:
                ask(computer, {})
            except (OSError, Told):
                self._computers.doubt(computer.id)
        self._tell(self._computers.slots)

    def _say(self, trouble: Message) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            if trouble:
                log.warning("event=cluster-trouble reason=%s", json.dumps(str(trouble)))
            else:
                log.info("event=cluster-there address=%s", self._address)

    def _end_bridge(self) -> None:
        if (bridge := self._bridge) is not None:
            bridge.kill()
            bridge.wait()


class There(Here):
    """Children of another computer."""

    def __init__(self, computer: Computer, computers: Computers, patience: float):
        super().__init__()
        self.computer, self._computers, self._patience = computer, computers, patience

    def activity(self, pid: int) -> tuple[str, int] | None:
        return None  # what comes of the child shows that it lives

    def kill(self, pid: int) -> None:
        with suppress(OSError, Told):
            ask(self.computer, {"end": pid})

    def lost(self, quiet: float) -> Exception | None:
        if quiet >= _GONE and not self._computers.is_there(self.computer.id):
            return self._lost()
        if quiet >= self._patience:  # the child alone, or the whole computer?
            try:
                ask(self.computer, {})
            except (OSError, Told):
                return self._lost()
        return None

    def farewell(self, pid: int, kills: int | None, refusals: int) -> Message:
        try:
            answer = ask(self.computer, {"farewell": pid, "kills": kills, "refusals": refusals})
            time.sleep(0.2)  # where a whole machine goes, the host may be the last of it
            ask(self.computer, {})
        except (OSError, Told):
            raise self._lost() from None
        return Message.from_json(answer["words"])

    def _lost(self) -> ComputerLost:
        return ComputerLost(say("computer-lost", name=self.computer.name))


class FarTraining(RemoteTraining):
    """A training on another computer, which counts there while it has something to do."""

    def __init__(
        self, connection: socket.socket, config: RunConfig, interrupt: Callable[[], bool], patience: float, computer: Computer,
        computers: Computers,
    ):  # fmt: skip
        self.computer, self._computers = computer, computers
        self._owes, self._answered = True, 0.0
        computers.add(computer.id, self)
        super().__init__(connection, config, interrupt, patience=patience, place=There(computer, computers, patience))

    @property
    def at_work(self) -> bool:
        return self._owes or time.monotonic() - self._answered < _RECENT

    def _receive(self) -> tuple[dict[str, Any], memoryview]:
        self._owes = True
        try:
            return super()._receive()
        finally:
            self._owes, self._answered = False, time.monotonic()

    def _close(self) -> None:
        super()._close()
        self._computers.remove(self.computer.id, self)


def ask(computer: Computer, request: dict[str, Any], body: bytes = b"", /) -> dict[str, Any]:
    """What the host there answers. Raises OSError, or what it says that went wrong."""
    with line.connect(computer.address, computer.port, computer.key, _ANSWER) as connection:
        line.send(connection, request, body)
        answer, _body = line.receive(connection)
    if "error" in answer:
        raise error_of(answer)
    return answer
