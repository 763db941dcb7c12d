"""The nursery: the process that forks a child for each training, and what the child does. gradviz.serve.cradle starts it.

    python -m gradviz.serve.forks DESCRIPTOR FOLDER
"""

from __future__ import annotations

import gc

if __name__ == "__main__":
    gc.disable()  # until all is imported, which stays

import json
import logging
import math
import os
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from gradviz import machine
from gradviz.lenet.config import RunConfig
from gradviz.lenet.data import Dataset, Shelf
from gradviz.lenet.experiment import resolve_device, training
from gradviz.record.codec import pack, pack_outcome, pack_record
from gradviz.serve.frames import NEXT, PREVIEW, STOP, pack_error
from gradviz.store.states import States
from gradviz.train.cores import Cores, Had
from gradviz.train.device import limit_threads, warm_up
from gradviz.train.trainer import Trainer

log = logging.getLogger("gradviz")

# Steps that a child may be ahead of what was asked for: lock-step, a server busy with pages would hold up the training.
# But not for longer than some time after the last question, lest a paused run goes on with work that nobody wants.
_AHEAD, _AHEAD_SECONDS = 32, 0.2
# Records that go together, and seconds for which they are gathered: each that is sent wakes a thread of the server on a core
# that trains. Half of what a child may be ahead, so that it does not wait for the answer.
_TOGETHER, _TOGETHER_SECONDS = _AHEAD // 2, 0.1
_NICE = 5  # pages are drawn first: they need little, and somebody waits for them


def _nursery(control: socket.socket, folder: Path) -> None:
    """Forks a child for each request, until the server is gone. One thread only: a fork copies no other."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, and the end of the server is the end here
    signal.signal(signal.SIGCHLD, lambda *_: _bury(control))
    limit_threads(1)  # a pool of threads would not survive the fork
    shelf = Shelf(folder, download=False)
    warm_up()  # before the first fork rather than after each
    gc.freeze()  # what no child looks through stays one copy for all of them
    gc.enable()
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
            elif not sockets:
                log.error("event=descriptor-lost")  # for want of descriptors; whoever waits sees its line close
            else:
                (descriptor,) = sockets
                _birth(control, socket.socket(fileno=descriptor), shelf, request)
        except EOFError:
            return


def _bury(control: socket.socket) -> None:
    """Tells the server of children that did not end as they should: how one ended says whether memory ran out."""
    with suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            if code := os.waitstatus_to_exitcode(found[1]):
                with suppress(OSError):  # nobody listens, and has not for long
                    control.send(b"%d %d\n" % (found[0], code), socket.MSG_DONTWAIT)


def _rest(control: socket.socket, data: bytes, length: int) -> bytes:
    while len(data) < length:
        more = control.recv(length - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def _birth(control: socket.socket, connection: socket.socket, shelf: Shelf, request: dict[str, Any]) -> None:
    with connection:
        try:
            config = RunConfig.from_dict(request["config"])
            data = shelf.load(config.dataset)
            child = os.fork()
        except Exception as error:  # a damaged data set, or no room for another process
            with suppress(OSError):  # nobody waits for it any more
                connection.sendall(pack_error(error))
            return
        if child == 0:
            control.close()
            _live(connection, config, data, request)


def _live(connection: socket.socket, config: RunConfig, data: Dataset, request: dict[str, Any]) -> NoReturn:
    """The child: trains, and never comes back. `beat` of the request: seconds between two words that it works, 0 for none."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        counts = {"kills": machine.memory_kills(), "refusals": machine.process_refusals()}
        connection.sendall(pack({"pid": os.getpid()} | counts))  # from now on it is the child that is waited for
        _volunteer()
        limit_threads(request["threads"])
        try:
            line = _Line(connection, request.get("beat", 0.0))
        except Exception as error:  # no room for its thread
            connection.sendall(pack_error(error))
            raise
        try:
            states = States(Path(request["states"].pop("folder")), **request["states"]) if request.get("states") else None
            begin = Path(request["begin"]) if request.get("begin") else None
            free = request.get("free")
            cores = Cores(had=Had(tuple((at, count) for at, count in free["threads"]), free["steps"])) if free else None
            device = resolve_device(config.device)
            trainer = training(config, data, device, line.stops, states=states, begin=begin, cores=cores)
            line.send(_computed_with(trainer))
            said = trainer.arithmetic
            if line.wants_preview():
                line.send(pack_record(trainer.preview()))
            else:
                for count, record in enumerate(trainer, 1):
                    if trainer.arithmetic is not said:
                        said = trainer.arithmetic
                        line.send(_computed_with(trainer))
                    line.gather(pack_record(record), last=record.step + 1 == config.steps)
                    if count == 1:  # somebody waits for the first picture
                        os.nice(_NICE)
                    line.wait(count)
                if trainer.outcome is None:
                    raise RuntimeError("the training does not say how it ended")
                line.send(pack_outcome(trainer.outcome))
            status = 0
        except Exception as error:
            line.send(pack_error(error))
        line.linger()
    finally:
        os._exit(status)  # nothing that the nursery prepared for its own end is the child's business


def _computed_with(trainer: Trainer) -> bytes:
    return pack({"device": trainer.device, "arithmetic": trainer.arithmetic.to_dict()})


def _volunteer() -> None:
    """If memory runs out, let it be this process and not the server that the system ends."""
    try:
        Path("/proc/self/oom_score_adj").write_text("700")
    except OSError:
        pass


class _Line:
    """The child's end of the socket. A thread reads it, so that its closing ends the child in the middle of a step."""

    def __init__(self, connection: socket.socket, beat: float):
        self._connection, self._sending = connection, threading.Lock()
        self._held: list[bytes] = []  # frames that are gathered
        self._sent = -math.inf  # when the last one went, by time.monotonic
        self._asked, self._heard, self._preview, self._stop = 0, time.monotonic(), False, False
        self._changed = threading.Condition()
        threading.Thread(target=self._read, name="line", daemon=True).start()
        if beat:
            threading.Thread(target=self._beat, args=(beat,), name="beat", daemon=True).start()

    def _read(self) -> None:
        try:
            while letters := self._connection.recv(64):
                with self._changed:
                    self._asked += letters.count(NEXT)
                    self._preview |= PREVIEW in letters
                    self._stop |= STOP in letters
                    self._heard = time.monotonic()
                    self._changed.notify_all()
        finally:
            os._exit(0)  # nobody is there any more

    def _beat(self, every: float) -> None:
        """For who cannot see this process: says that it works, as long as it takes some of the processor for that."""
        worked = time.process_time()
        while True:
            time.sleep(every)
            if (now := time.process_time()) - worked > 0.01 * every:
                worked = now
                with suppress(OSError):  # the thread that reads knows what that means
                    self.send(pack({"beat": now}))

    def send(self, frame: bytes = b"") -> None:
        """At once, after all that is held."""
        with self._sending:
            frames, self._held = b"".join((*self._held, frame)), []
            self._connection.sendall(frames)
            self._sent = time.monotonic()

    def gather(self, frame: bytes, last: bool) -> None:
        """At once if none has gone lately, or it is the `last` before longer work; else with those that follow."""
        with self._sending:
            self._held.append(frame)
            held = len(self._held) < _TOGETHER and time.monotonic() - self._sent < _TOGETHER_SECONDS
        if last or not held:
            self.send()

    def wants_preview(self) -> bool:
        """Waits for the first wish."""
        with self._changed:
            self._changed.wait_for(lambda: self._asked or self._preview)
            return self._preview

    def stops(self) -> bool:
        return self._stop

    def wait(self, step: int) -> None:
        """Until this step, counted from the first that is trained here, may begin: it is asked for, or soon will be to judge by
        what is asked right now; or none shall."""

        def may_begin() -> bool:
            soon = step < self._asked + _AHEAD and time.monotonic() - self._heard < _AHEAD_SECONDS
            return self._stop or step < self._asked or soon

        with self._changed:
            begins = may_begin()
        if not begins:
            self.send()
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
