"""Spools: the runs of watched nets, as other processes write them into the folder `watched` beside the store.

A thread of its own reads what is new. A run that has ended is brought into the store; its file stays for a day, and goes then
if the store has the run. So nothing of it is lost whatever ends in between: this server, the disk, the process that trains.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from gradviz.messages import say
from gradviz.record.run import Run
from gradviz.record.spool import SUFFIX, SpoolError, SpoolReader
from gradviz.record.watched import Watched
from gradviz.serve.threads import daemon

log = logging.getLogger("gradviz")

EVERY = 0.5  # seconds between two looks
KEPT = 24 * 3600.0  # seconds for which the file of a run that is in the store stays
_MOST = 500  # files that are looked at, the newest
_UNSAVED = 256e6  # bytes of ended runs in memory that the store would not take


class _Mark(NamedTuple):
    """A file as it was at one look."""

    inode: int
    size: int
    changed: int  # nanoseconds


class Spools:
    """Every method may be called from any thread."""

    def __init__(
        self,
        folder: Path,
        take_in: Callable[[Run[Watched]], bool],
        every: float = EVERY,
        clock: Callable[[], float] = time.time,
    ):
        """`take_in` brings an ended run into the store, and says whether it has it with all that it recorded. `clock`: Unix
        time, as files have it."""
        self.folder = folder
        self._take_in, self._clock = take_in, clock
        self._runs: dict[str, Run[Watched]] = {}  # those that are written, and ended ones that the store has not taken
        self._readers: dict[str, SpoolReader] = {}
        self._kept: dict[str, _Mark] = {}  # what is in the store: the file as it was then
        self._unreadable: dict[str, _Mark] = {}
        self._store_is_new = False
        self._looking = threading.Lock()
        self._ending, self._looked = threading.Event(), threading.Event()
        self._every = every
        self._thread: threading.Thread | None = None

    def begin(self, patience: float = 2.0) -> None:
        """Waits for the first look, as far as patience goes: a page that was open knows its run at once."""
        self._thread = daemon(self._work, "spools")
        self._looked.wait(patience)

    def get(self, id: str) -> Run[Any] | None:
        """The run, if it is one that somebody writes at present, or has just written."""
        return self._runs.get(id)

    def list(self) -> list[Run[Any]]:
        return [*self._runs.values()]

    def look(self) -> None:
        """Reads what is new now."""
        with self._looking:
            if self._store_is_new:
                self._store_is_new = False
                self._kept.clear()
            found = self._files()
            for id in [id for id in self._runs if id not in found]:
                self._forget(id)  # somebody has removed it
            for id in found:
                self._look_at(id, found[id])

    def delete(self, id: str) -> bool:
        """Removes the file of an ended run. False: it is still written, by a process that knows nothing of this."""
        with self._looking:
            run = self._runs.get(id)
            if run and run.status.live:
                return False
            if run or self._kept.pop(id, None):
                self._forget(id)
                self._path(id).unlink(missing_ok=True)
            return True

    def store_is_new(self) -> None:
        """It may have lost what it had: the next look brings all that is there into it."""
        self._store_is_new = True  # without the lock: who calls may hold what `take_in` waits for

    def close(self) -> None:
        self._ending.set()
        if self._thread:
            self._thread.join(1)

    def _work(self) -> None:
        while not self._ending.is_set():
            try:
                self.look()
            except Exception:  # of whatever a disk says: the next look may succeed
                log.exception("event=spools-error")
            self._looked.set()
            self._ending.wait(self._every)

    def _files(self) -> dict[str, _Mark]:
        found = {}
        try:
            for path in self.folder.glob(f"*{SUFFIX}"):
                state = path.stat()
                found[path.stem] = _Mark(state.st_ino, state.st_size, state.st_mtime_ns)
        except OSError:  # the folder is not there yet, or a file was replaced at this moment
            return {id: mark for id, mark in found.items() if id in self._runs} | dict.fromkeys(self._runs, _Mark(0, 0, 0))
        newest = sorted(found, key=lambda id: found[id].changed, reverse=True)[:_MOST]
        return {id: found[id] for id in newest}

    def _look_at(self, id: str, mark: _Mark) -> None:
        if self._unreadable.get(id) == mark:
            return
        if self._kept.get(id) == mark:
            if self._clock() - mark.changed / 1e9 > KEPT:
                self._remove(id, mark)
            return
        if id not in self._runs and sum(run.history.nbytes for run in self._runs.values() if not run.status.live) > _UNSAVED:
            return  # the store takes nothing; the files wait
        reader = self._readers.get(id) or SpoolReader(self._path(id))
        try:
            run = reader.read()
            if run.id != id:
                raise SpoolError(say("spool-other-name"))
        except FileNotFoundError:
            return  # the next look sees that
        except (OSError, SpoolError, MemoryError) as error:
            log.warning("event=spool-unreadable file=%s why=%s", json.dumps(id + SUFFIX), json.dumps(str(error)[:300]))
            self._forget(id)
            self._unreadable[id] = mark
            return
        if id not in self._runs:
            log.info("event=watched run=%s status=%s summary=%s", id, run.status, json.dumps(run.recipe.title))
        self._runs[id], self._readers[id] = run, reader
        if not run.status.live and self._take_in(run):
            log.info("event=watched-kept run=%s status=%s steps=%d", id, run.status, run.history.steps)
            self._kept[id] = mark
            self._forget(id)

    def _remove(self, id: str, mark: _Mark) -> None:
        """The file of a run that is in the store, once more; not if it has changed meanwhile."""
        try:
            run = SpoolReader(self._path(id)).read()
        except (OSError, SpoolError):
            del self._kept[id]
            return
        if run.status.live or not self._take_in(run) or self._files().get(id) != mark:
            del self._kept[id]  # it goes on, or the store cannot be reached: another look
            return
        self._path(id).unlink(missing_ok=True)
        log.info("event=spool-removed run=%s", id)

    def _path(self, id: str) -> Path:
        return self.folder / (id + SUFFIX)

    def _forget(self, id: str) -> None:
        self._runs.pop(id, None)
        self._readers.pop(id, None)
