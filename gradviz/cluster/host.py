"""The host: one process on each computer that trains, kept there by Ray. It has a nursery, and takes requests on a port of its
own from whoever knows its key, which Ray brings to the server. What a child says goes to the server without passing here; it
ends with its line.

It imports neither PyTorch, which the nursery has, nor Ray.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from gradviz import machine
from gradviz.cluster import line
from gradviz.cluster.edition import edition
from gradviz.lenet import idx
from gradviz.lenet.config import RunConfig
from gradviz.lenet.idx import DataError
from gradviz.messages import NOTHING, Message, Told, say
from gradviz.serve.admission import check_memory
from gradviz.serve.frames import pack_error
from gradviz.serve.processes import Here, Nursery

log = logging.getLogger("gradviz")

_SECONDS = 10.0  # for a request to come in whole
_ALONE = 60.0  # seconds after which a host leaves that no bridge has looked at and that trains nothing
_STOPPED = 5.0  # seconds after which a child is ended that somebody has stopped
_BEAT = 1.0
BUILT_IN = "digits"


class Host:
    """Its methods are called through Ray, from the bridges."""

    def __init__(self, name: str, address: str, leave: Callable[[], object] = lambda: os._exit(0)):
        """`name`: of this computer, in words. `address`: in the cluster's network. `leave()`: what is done once nobody has
        asked for it for long."""
        self._name, self._folder = name, data_folder()
        self._key, self._seen = secrets.token_bytes(32), time.monotonic()
        self._nursery = Nursery(_Files(self._folder), apart=True)  # Ray ends the group of a host that dies
        self._leave, self._over = leave, threading.Event()
        self._place, self._taking = Here(self._nursery.fate), threading.Lock()
        self._listener = socket.create_server((address, 0))
        self._facts = {
            "address": address, "port": self._listener.getsockname()[1], "key": self._key.hex(), "edition": edition(),
            "cores": machine.cores(), "pid": os.getpid(),
        }  # fmt: skip
        for work in (self._listen, self._tend):
            threading.Thread(target=work, name=work.__name__, daemon=True).start()

    def look(self) -> dict[str, Any]:
        """What a server must know of it now."""
        self._seen = time.monotonic()
        return self._facts | {"memory": machine.memory_left(), "trainings": len(self._children())}

    def close(self) -> None:
        """Takes nothing any more; what trains goes on until its line ends."""
        self._over.set()
        self._listener.close()
        self._nursery.close()

    def _listen(self) -> None:
        while not self._over.is_set():
            try:
                caller, _address = self._listener.accept()
            except OSError as error:  # no descriptors, for a while; or closed
                log.error("event=host-accept reason=%s", error.strerror)
                time.sleep(0.5)
                continue
            try:
                threading.Thread(target=self._answer, args=(caller,), name="request", daemon=True).start()
            except RuntimeError:  # no room for a thread: the server asks another host
                caller.close()

    def _answer(self, caller: socket.socket) -> None:
        with caller:
            try:
                line.accept(caller, self._key, _SECONDS)
                request, body = line.receive(caller)
                try:
                    self._do(request, body, caller)
                except OSError as error:
                    caller.sendall(pack_error(Told(self._no_room(error))))
                except Exception as error:
                    caller.sendall(pack_error(error))
            except OSError as error:  # a stranger, or the server has gone
                log.info("event=host-line reason=%s", error)

    def _no_room(self, error: OSError) -> Message:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return say("node-disk", name=self._name)
        return say("node-refuses", name=self._name, reason=error.strerror or str(error))

    def _do(self, request: dict[str, Any], body: bytes, caller: socket.socket) -> None:
        """Raises what shall be said to the caller."""
        if "config" in request:
            config = RunConfig.from_dict(request["config"])
            if missing := _Files(self._folder).missing(config.dataset):
                line.send(caller, {"wants": config.dataset, "why": missing.to_json()})
                return
            check_memory(config, machine.memory_left())
            line.send(caller, {"taken": True})
            caller.settimeout(None)
            self._nursery.bear(request | {"beat": _BEAT}, caller)
        elif "load" in request:
            missing = _Files(self._folder).missing(request["load"])
            if not missing:
                self._nursery.load(request["load"])
            line.send(caller, {"wants": request["load"]} if missing else {})
        elif "file" in request:
            self._take(request, body)
            line.send(caller, {})
        elif "end" in request:
            if request["end"] in self._children():
                self._place.kill(request["end"])
            line.send(caller, {})
        elif "farewell" in request:
            words = self._place.farewell(request["farewell"], request["kills"], request["refusals"])
            line.send(caller, {"words": words.to_json()})
        else:
            line.send(caller, {})  # whether somebody is there

    def _take(self, request: dict[str, Any], body: bytes) -> None:
        """Keeps a file of a data set, once it is whole. Raises DataError or OSError."""
        if hashlib.sha256(body).hexdigest() != request["sha256"] or request["set"] not in idx.TITLE:
            raise DataError(say("node-file", name=self._name))
        place = self._folder / FOLDERS[request["set"]] / "raw"
        with self._taking:
            place.mkdir(parents=True, exist_ok=True)
            half = place / f".{Path(request['file']).name}.{os.getpid()}"
            try:
                half.write_bytes(body)
                os.replace(half, place / Path(request["file"]).name)
            finally:
                half.unlink(missing_ok=True)

    def _children(self) -> list[int]:
        """Of the nursery that there is now."""
        pid = self._nursery.pid
        with suppress(OSError):
            return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return []

    def _tend(self) -> None:
        """Ends what was stopped and would never notice that its server is gone; and itself, once nobody asks for it."""
        stopped: dict[int, float] = {}
        while not self._over.wait(1.0):
            now, children = time.monotonic(), self._children()
            found = [pid for pid in children if (machine.activity(pid) or "X")[0] in ("T", "t")]
            stopped = {pid: stopped.get(pid, now) for pid in found}
            for pid, since in stopped.items():
                if now - since > _STOPPED:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            if now - self._seen > _ALONE and not children:
                self.close()
                self._leave()
                return


class _Files:
    """The data sets of this computer, for its nursery."""

    def __init__(self, folder: Path):
        self.folder = folder

    def missing(self, name: str) -> Message:
        if name == BUILT_IN:
            return NOTHING
        found = idx.find(self.folder, name)
        return NOTHING if found.status == "ready" else found.message


FOLDERS = {"mnist": "MNIST", "fashion": "FashionMNIST", "kmnist": "KMNIST"}


def data_folder() -> Path:
    """Of the data sets on this computer: GRADVIZ_DATA, or one of the user's own."""
    return Path(os.environ.get("GRADVIZ_DATA") or "~/.cache/gradviz").expanduser().absolute()
