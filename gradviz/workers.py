"""Trainings in processes of their own, over the seam of the run manager: the same records from the same Trainer.

One nursery process has imported PyTorch and read the data sets; it forks a child for each training, so that a child is
there in milliseconds and all children share one copy of the data. Between server and child runs a socket that carries
plain bytes: a letter to the child for each record that is asked for, a frame back for each record.

Who dies does so alone. A child that crashes or is ended by the system is the end of its own run. A child whose socket
closes ends itself, whatever it is doing: so a dropped training, and a server that was killed, leave no process behind.
The nursery ends with the server in the same way, and the next training starts another if it has died. For Linux.

    python -m gradviz.workers DESCRIPTOR FOLDER     # the nursery, as the server starts it
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from gradviz.anatomy import BlockDeletion, PackedSample
from gradviz.arithmetic import Arithmetic
from gradviz.config import ConfigError, RunConfig
from gradviz.data import DataError, Shelf
from gradviz.probe import Interrupted
from gradviz.runs import QUANTITIES, Outcome, Status, StepRecord
from gradviz.settings import of_children
from gradviz.trainer import Trainer, device_text, resolve_device
from gradviz.words import gettext as _

# Steps that a child may be ahead of what was asked for: lock-step, a server busy with pages would hold up the training.
# But not for longer than some time after the last question, lest a paused run goes on with work that nobody wants.
_AHEAD, _AHEAD_SECONDS = 8, 0.2
_LOOK = 0.05  # seconds between two looks at whether a training shall stop
_NEXT, _PREVIEW = b"n", b"p"
_FRAME = struct.Struct("<II")  # bytes of the header, bytes of the body
_NICE = 5  # pages are drawn first: they need little, and somebody waits for them


class WorkerDied(RuntimeError):
    """The process of a training ended without a word; the message is one sentence."""


class WorkerError(RuntimeError):
    """An error inside a child; `kind` is its class, the message its text with the child's traceback."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


class Nursery:
    """Makes trainings in processes: a `Train` of the run manager. Every method may be called from any thread."""

    def __init__(self, shelf: Shelf, threads: int = 1):
        """`threads`: processor threads of each training. `shelf` says what data is there; the nursery reads it itself."""
        self._shelf, self._threads = shelf, threads
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._closed = False
        with self._lock:
            self._start()

    @property
    def pid(self) -> int:
        """Of the nursery process."""
        return self._process.pid

    def __call__(self, config: RunConfig, interrupt: Callable[[], bool]) -> RemoteTraining:
        """Raises DataError, ConfigError, Interrupted or WorkerDied."""
        self._expect(config.dataset)
        request = {"config": config.to_dict(), "threads": self._threads}
        for last_try in (False, True):
            ours, theirs = socket.socketpair()
            try:
                with theirs, self._lock:  # closed here at once: else its end would not be the end of the line
                    process = self._send(request, theirs)
                return RemoteTraining(ours, config, interrupt)
            except OSError:  # the nursery is gone
                ours.close()
                if last_try:
                    raise WorkerDied(_("No worker process could be started; the server's log has the details.")) from None
            except WorkerDied:
                if last_try or not _ended(process):
                    raise
        raise AssertionError

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
        state = self._shelf.request(name)
        if state.status != "ready":
            raise DataError(state.message)

    def _send(self, request: dict[str, Any], *sockets: socket.socket) -> subprocess.Popen[bytes]:
        """The nursery that has it, another one if the last has ended. Raises OSError if it ends just now."""
        if self._process.poll() is not None and not self._closed:
            self._end()
            self._start()
        data = json.dumps(request).encode()
        # A short message is never split: it fits into the socket's buffer, which the nursery empties at once.
        socket.send_fds(self._control, [struct.pack("<I", len(data)) + data], [each.fileno() for each in sockets])
        return self._process

    def _start(self) -> None:
        self._control, theirs = socket.socketpair()
        command = [sys.executable, "-m", "gradviz.workers", str(theirs.fileno()), str(self._shelf.folder.absolute())]
        with theirs:
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, cwd=Path(__file__).parents[1], env=of_children()
            )

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


class RemoteTraining:
    """A training in a child process; the manager drives it as it does a Trainer."""

    def __init__(self, connection: socket.socket, config: RunConfig, interrupt: Callable[[], bool]):
        """Waits until the child has built its net. Raises DataError, ConfigError, Interrupted, WorkerDied or WorkerError."""
        self.config = config
        self.outcome: Outcome | None = None
        self._connection, self._interrupt = connection, interrupt
        connection.settimeout(_LOOK)  # by poll: select takes no descriptor of 1024 and more
        try:
            header, _body = self._receive()
        except BaseException:
            connection.close()
            raise
        self.device: str = header["device"]  # in words
        self.arithmetic = Arithmetic.from_dict(header["arithmetic"])
        self.pid: int = header["pid"]

    def __iter__(self) -> Iterator[StepRecord]:
        layers = self.config.layers
        try:
            while not self._interrupt():
                self._send(_NEXT)
                header, body = self._receive()
                if "status" in header:
                    self.outcome = _outcome(header)
                    return
                yield _record(header, body, layers)
            self.outcome = Outcome(Status.STOPPED)
        except Interrupted:
            self.outcome = Outcome(Status.STOPPED)
        finally:
            self._connection.close()  # the child ends with it

    def preview(self) -> StepRecord:
        """As `Trainer.preview`."""
        with self._connection:
            self._send(_PREVIEW)
            return _record(*self._receive(), self.config.layers)

    def __del__(self) -> None:
        if connection := getattr(self, "_connection", None):
            connection.close()

    def _send(self, letter: bytes) -> None:
        try:
            self._connection.send(letter)
        except OSError:
            pass  # it has ended: what it said last may still be read

    def _receive(self) -> tuple[dict[str, Any], memoryview]:
        head, body = _FRAME.unpack(self._read(_FRAME.size))
        data = self._read(head + body)
        header = json.loads(bytes(data[:head]))
        if "error" in header:
            kind, message = header["error"], header["message"]
            if kind == "ConfigError":
                raise ConfigError(header["field"], message)
            raise DataError(message) if kind == "DataError" else WorkerError(kind, message)
        return header, data[head:]

    def _read(self, count: int) -> memoryview:
        """Raises Interrupted if asked to stop meanwhile, WorkerDied if the child has ended."""
        data, have = memoryview(bytearray(count)), 0
        while have < count:
            try:
                got = self._connection.recv_into(data[have:])
            except TimeoutError:
                if self._interrupt():
                    raise Interrupted from None
                continue
            except OSError:
                got = 0
            if not got:
                raise WorkerDied(_(
                    "The worker process of this run was ended by the system, most likely because memory ran out: "
                    "choose fewer blocks or a smaller batch."
                ))  # fmt: skip
            have += got
        return data


def _pack(header: dict[str, Any], *parts: bytes) -> bytes:
    text = json.dumps(header).encode()  # nan and inf pass: Python reads what it writes
    return b"".join([_FRAME.pack(len(text), sum(map(len, parts))), text, *parts])


def _pack_record(record: StepRecord) -> bytes:
    sample = record.anatomy.packed() if record.anatomy else None
    header = {
        "step": record.step,
        "loss": record.loss,
        "accuracy": record.accuracy,
        "seconds": record.seconds,
        "test_accuracy": record.test_accuracy,
        "nonfinite_layer": record.nonfinite_layer,
        "sample": [len(sample.numbers), len(sample.images)] if sample else None,
    }
    layers = np.ascontiguousarray(record.layers, "<f4").tobytes()
    return _pack(header, layers, *((sample.numbers, sample.images) if sample else ()))


def _record(header: dict[str, Any], body: memoryview, layers: int) -> StepRecord:
    size = 4 * len(QUANTITIES) * layers
    numbers = np.frombuffer(body[:size], "<f4").reshape(len(QUANTITIES), layers)
    lengths, sample = header.pop("sample"), None
    if lengths:
        middle = size + lengths[0]
        sample = PackedSample(header["step"], bytes(body[size:middle]), bytes(body[middle : middle + lengths[1]]))
    return StepRecord(layers=numbers, anatomy=sample, **header)


def _pack_outcome(outcome: Outcome) -> bytes:
    return _pack(dataclasses.asdict(outcome))


def _outcome(header: dict[str, Any]) -> Outcome:
    deletion = header.pop("deletion")
    if deletion:
        deletion = BlockDeletion(**deletion | {name: tuple(deletion[name]) for name in ("blocks", "accuracies")})
    return Outcome(Status(header.pop("status")), deletion=deletion, **header)


def _pack_error(error: BaseException) -> bytes:
    plain = isinstance(error, (ConfigError, DataError))
    return _pack(
        {
            "error": type(error).__name__,
            "message": str(error) if plain else f"{error}\n{traceback.format_exc()}",
            "field": getattr(error, "field", ""),
        }
    )


# The nursery process


def _nursery(control: socket.socket, folder: Path) -> None:
    """Forks a child for each request, until the server is gone. One thread only: a fork copies no other."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, and the end of the server is the end here
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children need no burial
    torch.set_num_threads(1)  # a pool of threads would not survive the fork
    shelf = Shelf(folder, download=False)
    _warm_up()
    while True:
        data, sockets, _flags, _address = socket.recv_fds(control, 4, 1)
        if not data:
            return
        try:
            length = struct.unpack("<I", _rest(control, data, 4))[0]
            request = json.loads(_rest(control, b"", length))
            if "load" in request:
                with suppress(Exception):  # the training that wants it meets the same and says so
                    shelf.load(request["load"])
            else:
                (descriptor,) = sockets
                _birth(control, socket.socket(fileno=descriptor), shelf, request)
        except EOFError:
            return


def _rest(control: socket.socket, data: bytes, length: int) -> bytes:
    while len(data) < length:
        more = control.recv(length - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def _warm_up() -> None:
    """Has PyTorch load what it loads late, before the first fork rather than after each."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    torch.optim.Adam([parameter], fused=True)
    torch.nn.functional.conv2d(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 3, 3))


def _birth(control: socket.socket, connection: socket.socket, shelf: Shelf, request: dict[str, Any]) -> None:
    with connection:
        try:
            config = RunConfig.from_dict(request["config"])
            data = shelf.load(config.dataset)
            child = os.fork()
        except Exception as error:  # a damaged data set, or no room for another process
            with suppress(OSError):  # nobody waits for it any more
                connection.sendall(_pack_error(error))
            return
        if child == 0:
            control.close()
            _live(connection, config, data, request["threads"])


def _live(connection: socket.socket, config: RunConfig, data: Any, threads: int) -> NoReturn:
    """The child: trains, and never comes back."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _volunteer()
        torch.set_num_threads(threads)
        line = _Line(connection)
        try:
            trainer = Trainer(config, data, resolve_device(config.device))
            arithmetic = trainer.arithmetic.to_dict()
            line.send(_pack({"device": device_text(trainer.device), "arithmetic": arithmetic, "pid": os.getpid()}))
            if line.wants_preview():
                line.send(_pack_record(trainer.preview()))
            else:
                for record in trainer:
                    line.send(_pack_record(record))
                    if record.step == 0:  # somebody waits for the first picture
                        os.nice(_NICE)
                    line.wait(record.step + 1)
                line.send(_pack_outcome(trainer.outcome))
            status = 0
        except Exception as error:
            line.send(_pack_error(error))
        line.linger()
    finally:
        os._exit(status)  # nothing that the nursery prepared for its own end is the child's business


def _volunteer() -> None:
    """If memory runs out, let it be this process and not the server that the system ends."""
    try:
        Path("/proc/self/oom_score_adj").write_text("700")
    except OSError:
        pass


class _Line:
    """The child's end of the socket. A thread reads it, so that its closing ends the child in the middle of a step."""

    def __init__(self, connection: socket.socket):
        self._connection = connection
        self._asked, self._heard, self._preview = 0, time.monotonic(), False
        self._changed = threading.Condition()
        threading.Thread(target=self._read, name="line", daemon=True).start()

    def _read(self) -> None:
        try:
            while letters := self._connection.recv(64):
                with self._changed:
                    self._asked += letters.count(_NEXT)
                    self._preview |= _PREVIEW in letters
                    self._heard = time.monotonic()
                    self._changed.notify_all()
        finally:
            os._exit(0)  # nobody is there any more

    def send(self, frame: bytes) -> None:
        self._connection.sendall(frame)

    def wants_preview(self) -> bool:
        """Waits for the first wish."""
        with self._changed:
            self._changed.wait_for(lambda: self._asked or self._preview)
            return self._preview

    def wait(self, step: int) -> None:
        """Until this step may begin: it is asked for, or soon will be to judge by what is asked right now."""

        def may_begin() -> bool:
            return step < self._asked or step < self._asked + _AHEAD and time.monotonic() - self._heard < _AHEAD_SECONDS

        with self._changed:
            self._changed.wait_for(may_begin)

    def linger(self) -> None:
        """Until the server has read the last frame and closes."""
        threading.Event().wait()


if __name__ == "__main__":
    try:
        _nursery(socket.socket(fileno=int(sys.argv[1])), Path(sys.argv[2]))
    except BaseException:
        traceback.print_exc()
    os._exit(0)  # Python would spend seconds on taking torch apart
