"""Trainings in processes of their own, over the seam of the run manager: the same records from the same Trainer.

One nursery process has imported PyTorch and read the data sets; it forks a child for each training, so that a child is
there in milliseconds and all children share one copy of the data. Between server and child runs a socket that carries
plain bytes: a letter to the child for each record that is asked for, a frame back for each record.

Who dies does so alone. A child that crashes or is ended by the system is the end of its own run. A child whose socket
closes ends itself, whatever it is doing: so a dropped training, and a server that was killed, leave no process behind.
The nursery ends with the server in the same way, and the next training starts another if it has died. For Linux.

Who owes an answer and does nothing for it is ended too: while the server waits it looks at the processor time that the
process uses, which a busy one does in the middle of the longest step, and one that is stopped or stuck does not.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import select
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from gradviz import machine
from gradviz.lenet.config import RunConfig
from gradviz.lenet.idx import DataError
from gradviz.messages import Message, say, text
from gradviz.record.arithmetic import Arithmetic
from gradviz.record.codec import FRAME, outcome_of, record_of
from gradviz.record.history import StepRecord
from gradviz.record.run import Outcome, Status
from gradviz.serve.admission import shortage
from gradviz.serve.cradle import Started, start
from gradviz.serve.failures import WorkerDied, WorkerSilent
from gradviz.serve.frames import NEXT, PREVIEW, STOP, error_of
from gradviz.store.states import States
from gradviz.train.cores import Had
from gradviz.train.training import Interrupted

log = logging.getLogger("gradviz")

_LOOK = 0.05  # seconds between two looks at whether a training shall stop
_PULSE = 0.5  # seconds between two looks at whether it does anything
_SILENCE = 20.0  # seconds in which it owes an answer and does nothing
_FAREWELL = 3.0  # seconds in which one that is stopped may keep its state
_CHUNK = 1 << 16  # bytes that are read at once
_HEADER, _BODY = 1 << 20, 1 << 28  # bytes of a frame at most; a step of 1000 blocks with pictures has some 2 MB


class Data(Protocol):
    """What a nursery asks of a Shelf: where the data sets are, and whether one is there. Without PyTorch, for who has none."""

    @property
    def folder(self) -> Path: ...

    def missing(self, name: str) -> Message:
        """Why the data set is not there, or not yet; NOTHING if it is."""


class Nursery:
    """Makes trainings in processes: a `Train` of the run manager. Every method may be called from any thread."""

    def __init__(
        self,
        shelf: Data,
        threads: int = 1,
        patience: float = _SILENCE,
        states: States | None = None,
        apart: bool = False,
        free: Callable[[RunConfig], Had | None] = lambda _: None,
        started: Started | None = None,
    ):
        """`threads`: processor threads of each training, but for those that are `free` to take the cores that are, after what
        they repeat.

        `shelf` says what data is there; the nursery reads it itself.

        `patience`: seconds after which a process is ended that owes an answer and does nothing. `states`: where the trainings
        keep states. `apart`: in a session of its own, so that whoever ends all processes of this one's group leaves it to end
        by itself. `started`: its process, if that is there already, with the same data.
        """
        self._states, self._apart = states, apart
        self._shelf, self._threads, self._patience, self._free = shelf, threads, patience, free
        self._fates: dict[int, int] = {}  # pid -> exit code, of children that did not end as they should
        self._heard = b""
        self._lock = threading.Lock()
        self._closed = False
        self._process, self._control = started or self._start()

    @property
    def pid(self) -> int:
        """Of the nursery process."""
        return self._process.pid

    def __call__(self, config: RunConfig, interrupt: Callable[[], bool], begin: Path | None = None) -> RemoteTraining:
        """A TrainFrom. Raises DataError, ConfigError, StateGone, Interrupted or WorkerDied."""
        self._expect(config.dataset)
        free = self._free(config)
        request: dict[str, Any] = {"config": config.to_dict(), "threads": self._threads, "free": free and asdict(free)}
        if self._states:
            folder = str(self._states.folder.absolute())
            request["states"] = {"folder": folder, "most_bytes": self._states.most_bytes, "free": self._states.free}
            request["begin"] = str(begin.absolute()) if begin else None
        for last_try in (False, True):
            ours, theirs = socket.socketpair()
            try:
                with theirs, self._lock:  # closed here at once: else its end would not be the end of the line
                    process = self._process
                    process = self._send(request, theirs)
                return RemoteTraining(ours, config, interrupt, process.pid, self._patience, Here(self.fate), bool(self._states))
            except OSError as error:  # the nursery is gone, or does not even take the request
                ours.close()
                if isinstance(error, TimeoutError):
                    self._replace(process)
                if last_try:
                    reason = shortage(error.errno, "") or text(error.strerror or str(error))
                    raise WorkerDied(say("no-process", reason=reason)) from error
            except WorkerSilent as error:
                if error.pid != process.pid:
                    raise
                log.warning("event=nursery-silent pid=%d", process.pid)
                self._replace(process)
                if last_try:
                    raise
            except WorkerDied:
                if last_try or not _ended(process):
                    raise
        raise AssertionError

    def bear(self, request: dict[str, Any], line: socket.socket) -> None:
        """Has a child born that speaks over this line, whoever is at its other end; as `RemoteTraining` expects it. Raises
        OSError if there is no nursery to do it."""
        for last_try in (False, True):
            try:
                with self._lock:
                    process = self._process
                    self._send(request, line)
                return
            except OSError as error:
                if isinstance(error, TimeoutError):
                    self._replace(process)
                if last_try:
                    raise

    def load(self, name: str) -> None:
        """Has the nursery read this data set now, so that the first training does not wait for it. Returns at once."""
        try:
            self._expect(name)
            with self._lock:
                self._send({"load": name})
        except (DataError, OSError):
            pass  # the first training says so

    def close(self) -> None:
        """Ends the nursery; trainings go on until they are dropped."""
        with self._lock:
            self._closed = True
            self._end()

    def _expect(self, name: str) -> None:
        if missing := self._shelf.missing(name):
            raise DataError(missing)

    def _send(self, request: dict[str, Any], *sockets: socket.socket) -> subprocess.Popen[bytes]:
        """The nursery that has it, another one if the last has ended. Raises OSError if it ends just now."""
        if self._process.poll() is not None and not self._closed:
            self._end()
            self._process, self._control = self._start()
        data = json.dumps(request).encode()
        # A short message is never split: it fits into the socket's buffer, which the nursery empties at once.
        socket.send_fds(self._control, [struct.pack("<I", len(data)) + data], [each.fileno() for each in sockets])
        return self._process

    def _replace(self, process: subprocess.Popen[bytes]) -> None:
        """Ends this nursery, if it is still the one, and starts another."""
        with self._lock:
            if self._process is process and not self._closed:
                process.kill()
                self._end()
                self._process, self._control = self._start()

    def fate(self, pid: int) -> int | None:
        """The exit code of a child that has just ended, negative for a signal; None if it ended as it should or nobody knows."""
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            with self._lock:
                self._listen()
                if pid in self._fates:
                    return self._fates.pop(pid)
            time.sleep(_LOOK)
        return None

    def _listen(self) -> None:
        """What the nursery has said about its children: a line `pid code` for each that did not end as it should."""
        poll = select.poll()  # not select: it takes no descriptor of 1024 and more
        poll.register(self._control, select.POLLIN)
        try:
            while poll.poll(0) and (data := self._control.recv(4096)):
                self._heard += data
        except OSError:
            pass
        *lines, self._heard = self._heard.split(b"\n")
        for line in lines:
            pid, code = map(int, line.split())
            self._fates[pid] = code
        while len(self._fates) > 256:
            del self._fates[next(iter(self._fates))]

    def _start(self) -> Started:
        self._heard = b""
        return start(self._shelf.folder, self._apart)

    def _end(self) -> None:
        self._control.close()
        try:
            self._process.wait(1.0)
        except subprocess.TimeoutExpired:  # busy with a data set, perhaps
            self._process.kill()
            self._process.wait()


def _ended(process: subprocess.Popen[bytes]) -> bool:
    with suppress(subprocess.TimeoutExpired):
        process.wait(1.0)
    return process.returncode is not None


class Here:
    """Children of this machine: what a RemoteTraining asks of where its child is."""

    def __init__(self, fate: Callable[[int], int | None] = lambda _pid: None):
        """`fate(pid)`: how a child ended, as `Nursery.fate`."""
        self._fate = fate

    def activity(self, pid: int) -> tuple[str, int] | None:
        """As `machine.activity`; None too where only what the child says shows that it lives."""
        return machine.activity(pid)

    def kill(self, pid: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def lost(self, quiet: float) -> Exception | None:
        """What has become of the place, if nobody there can answer any more; the child has been quiet for so many seconds."""

    def farewell(self, pid: int, kills: int | None, refusals: int) -> Message:
        """What was measured of the end of this child, since whose beginning the system has counted more than so many, or not.
        Raises ComputerLost."""
        code = self._fate(pid) if pid else None
        kills_now = machine.memory_kills()
        if code in (None, -signal.SIGKILL) and kills_now is not None and kills_now > (kills or 0):
            return say("process-memory")
        if code is None:
            if pid and machine.activity(pid):
                self.kill(pid)
            return say("process-mute")
        if code < 0:
            ended = say("process-signal", number=-code, name=_signal_name(-code))
            if code == -signal.SIGKILL and kills_now is not None:
                return say("sentences", first=ended, second=say("process-not-memory"))
            return ended
        if machine.process_refusals() > refusals:
            return shortage(errno.EAGAIN, "")
        return say("process-exit", number=code)


class RemoteTraining:
    """A training in a child process; the manager drives it as it does a Trainer."""

    def __init__(
        self,
        connection: socket.socket,
        config: RunConfig,
        interrupt: Callable[[], bool],
        nursery: int = 0,
        patience: float = _SILENCE,
        place: Here = Here(),  # noqa: B008 (it has nothing of its own)
        keeps: bool = False,
    ):
        """Waits until the child has built its net. Raises DataError, ConfigError, StateGone, Interrupted, WorkerDied or
        WorkerError.

        `nursery`: its pid, watched until the child is there. `place`: where the child is. `keeps`: whether it keeps states; one
        that is stopped is then given some time for its last.
        """
        self.config = config
        self.outcome: Outcome | None = None
        self._keeps, self._until = False, 0.0  # when one that is stopped has had its time, by time.monotonic; 0: it is not
        self._connection, self._interrupt = connection, interrupt
        self._arrived = memoryview(b"")  # and not read
        self._owed = 0  # records that are wanted and not asked for: those that have arrived come first
        self._watched, self._patience, self._place = nursery, patience, place
        self._kills, self._refusals = machine.memory_kills(), machine.process_refusals()
        connection.settimeout(_LOOK)  # by poll: select takes no descriptor of 1024 and more
        self.pid = 0
        try:
            born, _body = self._receive()
            self.pid = self._watched = born["pid"]
            self._kills, self._refusals = born.get("kills", self._kills), born.get("refusals", self._refusals)
            header, _body = self._receive()
        except BaseException:
            self._close()
            raise
        self._say(header)
        self._keeps = keeps

    def __iter__(self) -> Iterator[StepRecord]:
        layers = self.config.layers
        try:
            while not self._is_over():
                self._owed += 1
                header, body = self._receive()
                if "arithmetic" in header:  # it has another number of threads from now on
                    self._say(header)
                    header, body = self._receive()
                if "status" in header:
                    self.outcome = outcome_of(header)
                    return
                yield record_of(header, body, layers)
            self.outcome = Outcome(Status.STOPPED)
        except Interrupted:
            self.outcome = Outcome(Status.STOPPED)
        finally:
            self._close()

    def _is_over(self) -> bool:
        """Whether it is stopped, and nothing more is waited for. Steps that it had gone ahead come before its last word."""
        stopped = self._interrupt()
        if not (stopped and self._keeps):
            return stopped
        if not self._until:
            self._until = time.monotonic() + _FAREWELL
            self._send(STOP)
        return time.monotonic() > self._until

    def _say(self, header: dict[str, Any]) -> None:
        self.device: str = header["device"]  # in words
        self.arithmetic = Arithmetic.from_dict(header["arithmetic"])

    def preview(self) -> StepRecord:
        """As `Trainer.preview`."""
        try:
            self._send(PREVIEW)
            return record_of(*self._receive(), self.config.layers)
        finally:
            self._close()

    def __del__(self) -> None:
        if getattr(self, "_connection", None):
            self._close()

    def _close(self) -> None:
        """The child ends with its line; one that is stopped cannot."""
        if self._connection.fileno() >= 0:
            self._connection.close()
            if self.pid and (now := self._place.activity(self.pid)) and now[0] in "Tt":
                self._kill()

    def _kill(self) -> None:
        if self.pid:
            self._place.kill(self.pid)

    def _send(self, letter: bytes) -> None:
        try:
            self._connection.send(letter)
        except OSError:
            pass  # it has ended: what it said last may still be read

    def _receive(self) -> tuple[dict[str, Any], memoryview]:
        while "beat" in (frame := self._frame())[0]:
            pass  # it works, and has nothing else to say
        return frame

    def _frame(self) -> tuple[dict[str, Any], memoryview]:
        head, body = FRAME.unpack(self._read(FRAME.size))
        try:
            if head > _HEADER or body > _BODY:
                raise ValueError(f"a frame of {head} + {body} bytes")
            data = self._read(head + body)
            header = json.loads(bytes(data[:head]))
            if not isinstance(header, dict):
                raise ValueError("a header that is none")
        except ValueError as error:
            self._kill()
            raise WorkerDied(say("process-rubbish")) from error
        if "error" in header:
            raise error_of(header)
        return header, data[head:]

    def _read(self, count: int) -> memoryview:
        """Raises Interrupted if asked to stop meanwhile, WorkerDied if the child has ended or stands still."""
        data, have = memoryview(bytearray(count)), 0
        quiet, ticks = 0.0, -1  # by the number of looks: a server that was itself stopped has waited for nobody
        while have < count:
            if self._arrived:
                part, self._arrived = self._arrived[: count - have], self._arrived[count - have :]
                data[have : have + len(part)] = part
                have += len(part)
                continue
            if self._owed and not self._until:
                self._send(NEXT * self._owed)
                self._owed = 0
            try:
                self._arrived = memoryview(self._connection.recv(_CHUNK))
                got = len(self._arrived)
            except TimeoutError:
                if self._is_over():
                    raise Interrupted from None
                quiet += _LOOK
                if self._watched and quiet % _PULSE < _LOOK:
                    if lost := self._place.lost(quiet):
                        raise lost from None
                    state, now = self._place.activity(self._watched) or ("X", ticks)
                    if now != ticks:
                        quiet, ticks = 0.0, now
                    elif quiet >= self._patience:
                        self._kill()
                        raise WorkerSilent(self._watched, quiet, state) from None
                continue
            except OSError:
                got = 0
            if not got:
                raise WorkerDied(self._place.farewell(self.pid, self._kills, self._refusals))
            quiet = 0.0
        return data


def _signal_name(number: int) -> str:
    return signal.Signals(number).name if number in set(signal.Signals) else "?"
