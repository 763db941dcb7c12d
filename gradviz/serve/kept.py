"""Kept: the runs that have ended, those that lie in memory and those that are read when somebody asks for one."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from weakref import WeakValueDictionary

from gradviz.lenet.config import RunConfig
from gradviz.record.run import Run, Summary
from gradviz.serve.admission import Refused
from gradviz.serve.desk import Desk
from gradviz.serve.jobs import Jobs
from gradviz.serve.spools import Spools
from gradviz.serve.troubles import Troubles
from gradviz.store.store import RunStore, StoreError

_LOADS = 2  # runs that are read from the store at once
_LOAD_COPIES = 3  # of its bytes that a run takes while it is read: SQLite's, joined, and as arrays


class Kept:
    """Every method takes the lock over the jobs where it needs it; nothing is read under it."""

    def __init__(
        self,
        store: RunStore[RunConfig],
        jobs: Jobs,
        spools: Spools,
        troubles: Troubles,
        memory_left: Callable[[], float | None],
        most_bytes: float,
    ):
        """`most_bytes`: of ended runs held in memory; the store has them all."""
        self._store, self._jobs, self._troubles, self._most_bytes = store, jobs, troubles, most_bytes
        self._spools = spools
        self._kept: OrderedDict[str, Run[RunConfig]] = OrderedDict()  # ended and in the store, last used last
        self._about: WeakValueDictionary[str, Run[RunConfig]] = WeakValueDictionary()  # those, and what a page still holds
        self._loading: dict[str, Future[Run[RunConfig] | None]] = {}  # who wants a run that somebody reads waits for that one
        self._loads = Desk(_LOADS, memory_left=memory_left)
        self._deletions = 0

    def get(self, id: str) -> Run[RunConfig] | None:
        """The live run, or the kept one with its records. Raises Refused if memory or patience do not suffice to read it."""
        with self._jobs.lock:
            if run := self.at_hand(id):
                return run
            deletions = self._deletions
            flight, mine = self._loading.get(id), False
            if flight is None:
                flight, mine = self._loading.setdefault(id, Future()), True
        if mine:
            try:
                flight.set_result(self._load(id))
            except BaseException as error:
                flight.set_exception(error)
            finally:
                with self._jobs.lock:
                    del self._loading[id]
        try:
            run = flight.result()
        except StoreError as error:
            self._troubles.warn("read", error.message)
            return None
        self._troubles.fine("read")
        with self._jobs.lock:
            if job := self._jobs.all.get(id):  # started meanwhile
                return job.run
            if run and deletions == self._deletions:
                self.keep(run)
                return run
        return self.get(id) if run else None  # something was deleted meanwhile, perhaps this

    def _load(self, id: str) -> Run[RunConfig] | None:
        size = self._store.size(id)
        if size is None:
            return None
        with self._loads.place(need=_LOAD_COPIES * size):
            return self._store.load(id)

    def at_hand(self, id: str) -> Run[RunConfig] | None:
        """The run if it is live or was looked at lately: nothing is read from the store."""
        with self._jobs.lock:
            if job := self._jobs.all.get(id):
                return job.run
            if written := self._spools.get(id):
                return written
            if run := self._kept.get(id):
                self._kept.move_to_end(id)
            elif run := self._about.get(id):  # in memory anyway
                self.keep(run)
            return run

    def each(self, patience: float) -> Iterator[Run[RunConfig]]:
        """All runs with their records, newest first, read one after the other as they are asked for.

        While there is too little memory to read one it waits, `patience` seconds at most, and then raises Refused.
        """
        for summary in self.list():
            deadline = self._jobs.clock() + patience
            while True:
                try:
                    run = self.get(summary.id)
                    break
                except Refused:
                    if self._jobs.clock() > deadline:
                        raise
                    time.sleep(1.0)
            if run:
                yield run
            del run

    def in_memory(self) -> list[Run[RunConfig]]:
        with self._jobs.lock:
            return [*self._kept.values()]

    def keep(self, run: Run[RunConfig]) -> None:
        """The store has it, and somebody has just used it."""
        with self._jobs.lock:
            self._kept[run.id] = self._about[run.id] = run
            self._kept.move_to_end(run.id)
            while len(self._kept) > 1 and sum(kept.history.nbytes for kept in self._kept.values()) > self._most_bytes:
                self._kept.popitem(last=False)

    def forget(self, id: str, deleted: bool = False) -> None:
        """`deleted`: what is being read now may be gone."""
        with self._jobs.lock:
            self._kept.pop(id, None)
            self._about.pop(id, None)
            self._deletions += deleted

    def list(self) -> list[Summary[RunConfig]]:
        """All runs without their records, newest first."""
        with self._jobs.lock:
            live = {id: Summary.of(job.run) for id, job in self._jobs.all.items()}
        live |= {run.id: Summary.of(run) for run in self._spools.list()}
        try:
            kept = self._store.list()
            self._troubles.fine("read")
        except StoreError as error:
            self._troubles.warn("read", error.message)
            kept = [Summary.of(run) for run in self.in_memory()]
        summaries = [*live.values(), *(summary for summary in kept if summary.id not in live)]
        return sorted(summaries, key=lambda summary: summary.created, reverse=True)
