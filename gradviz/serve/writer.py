"""Writer: who writes to the store, when, and what is said when the disk refuses."""

from __future__ import annotations

import json
import logging
import math
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradviz.lenet.config import RunConfig
from gradviz.messages import Message, say
from gradviz.record.run import Run, Status
from gradviz.serve.admission import Refused
from gradviz.serve.age import Dates, giving_way
from gradviz.serve.failures import in_words
from gradviz.serve.job import Job, instead
from gradviz.serve.jobs import Jobs
from gradviz.serve.kept import Kept
from gradviz.serve.spools import Spools
from gradviz.serve.troubles import Troubles
from gradviz.settings import Limits
from gradviz.store.states import States
from gradviz.store.store import INTERRUPTED, RunStore, StoreError

log = logging.getLogger("gradviz")

EVERY = 0.4  # seconds; with the time of the writing itself a kill costs less than one second of records
_SAID = 15.0  # seconds for which a page says that a run could not be deleted

State = tuple[Status, int]  # status and steps of a run at one moment


@dataclass(frozen=True)
class _Due:
    """What the store does not have yet, as it was when the lock was held."""

    jobs: list[tuple[Job, State]]  # to be written
    runs: dict[Job, Run[RunConfig]]  # what of each: the run, or the one that it was to replace
    others: list[Run[RunConfig]]  # ended runs to be written again
    turned: list[Job]  # held back, and now waiting or no longer
    waiting: Collection[str]  # ids of runs that go on with the next server


class Writer:
    """One transaction at a time: `flush` and `delete` wait for each other. Neither may be called under the lock."""

    def __init__(
        self,
        store: RunStore[RunConfig],
        jobs: Jobs,
        kept: Kept,
        spools: Spools,
        troubles: Troubles,
        limits: Limits,
        states: States | None = None,
    ):
        self._states = states
        self._store, self._jobs, self._kept, self._troubles = store, jobs, kept, troubles
        self._spools, self._limits = spools, limits
        self._saving = threading.Lock()  # taken before the lock over the jobs, never after
        self._refusal = -math.inf  # when a run could not be deleted, by the clock
        self._generation = store.generation  # of the file that `Job.saved` is about

    def flush(self, last: bool = False) -> None:
        """Writes what is new. `last`: there is no later call."""
        with self._saving:
            try:
                self._store.tend(last)
                if "read" in self._troubles:
                    self._store.check()
                    self._troubles.fine("read")
                begun_again = self._generation != (generation := self._store.generation)
                due = self._due(begun_again)
                if due.runs or due.others:
                    self._store.save(*due.others, *due.runs.values(), whole=begun_again, waiting=due.waiting)
            except StoreError as error:
                self._troubles.warn("write", self._with_what_waits(error.message))
                return
            except Exception as error:  # the writer must outlive it
                log.exception("event=store-error")
                self._troubles.warn("write", in_words(error))
                return
            if begun_again:
                self._spools.store_is_new()
            self._generation = generation
            self._troubles.fine("write")
            if self._jobs.clock() - self._refusal > _SAID:
                self._troubles.fine("delete")
            self._written(due)

    def delete(self, id: str) -> None:
        """Stops the run if it is live, and removes it from memory and from the store. Not one that another process trains."""
        if not self._spools.delete(id):
            return
        with self._saving:
            with self._jobs.lock:
                self._kept.forget(id)
                if job := self._jobs.all.get(id):
                    if job.run.status.live:
                        self._jobs.stop(job)
                    del self._jobs.all[id]
            try:
                self._store.delete(id)
                self._troubles.fine("delete")
            except StoreError as error:
                self._troubles.warn("delete", say("not-deleted", reason=error.message))
                self._refusal = self._jobs.clock()
            if self._states:
                self._states.delete(id)
            self._kept.forget(id, deleted=True)  # somebody may have read it while it was being deleted
        log.info("event=deleted run=%s", json.dumps(id))

    def take_in(self, run: Run[Any]) -> bool:
        """Brings an ended run of another process into the store. Says whether it can be read from there to the last bit."""
        with self._saving:
            try:
                if not _is_same(self._store.load(run.id), run):
                    self._store.save(run, whole=True)
                    if not _is_same(self._store.load(run.id), run):
                        return False
            except StoreError as error:
                self._troubles.warn("write", error.message)
                return False
        self._kept.keep(run)
        return True

    def newest(self) -> float:
        """When the newest kept run was created, Unix time; 0 if there is none, or nobody can say."""
        try:
            return self._store.newest()
        except StoreError as error:
            self._troubles.warn("read", error.message)
            return 0.0

    def left_waiting(self, dates: Dates) -> Iterator[tuple[Run[RunConfig], Run[RunConfig] | None]]:
        """What waited when the last server ended. What had begun is trained from the start, and what it had recorded is kept
        until the new one has as much; more than memory should be taken for stays interrupted."""
        taken = 0
        try:
            for run in self._store.waiting():
                size = self._store.size(run.id) or 0
                old = self._store.load(run.id) if size else None
                if old is not None:
                    taken += size
                    old.status, old.message = Status.INTERRUPTED, old.message or INTERRUPTED
                    if taken > self._limits.kept_bytes:
                        self._store.save(old)
                        continue
                    run.created = dates.now()
                yield run, old
        except StoreError as error:
            self._troubles.warn("read", error.message)

    def make_place(self, again: bool, client: str, dates: Dates) -> None:
        """For one more run of this person among those kept, unless it only replaces one (`again`). Raises Refused."""
        try:
            surplus = self._store.count() + (not again) - self._limits.runs
            old = giving_way(self._store.ended(), surplus, dates, client, self._limits.runs) if surplus > 0 else []
        except StoreError as error:
            self._troubles.warn("read", error.message)
            self._check_unsaved()
            return
        self._check_unsaved()
        if len(old) < surplus:
            raise Refused("runs", say("limit-runs", most=self._limits.runs))
        for id in old:
            if id not in self._jobs.all:
                self.delete(id)

    def _check_unsaved(self) -> None:
        """Raises Refused while the memory for runs that cannot be written is used up."""
        if "write" in self._troubles and sum(run.history.nbytes for run in self._jobs.unsaved()) > self._limits.unsaved_bytes:
            raise Refused("disk", say("limit-unsaved", reason=self._troubles.worst.without_places()))

    def _due(self, begun_again: bool) -> _Due:
        """`begun_again`: the store has a new file, and of what is in memory nothing. Takes the lock."""
        with self._jobs.lock:
            states = [(job, (job.run.status, job.run.history.steps)) for job in self._jobs.all.values()]
            waiting = {job.run.id for job in self._jobs.all.values() if self._jobs.outlives(job)}
            held = [job for job, state in states if state[0].live and job.held_back(*state)]
            changed = [(job, state) for job, state in states if begun_again or state != job.saved
                       or job.saved_waiting != (job.run.id in waiting)]  # fmt: skip
            due = [(job, state) for job, state in changed if job not in held]
            # What was started afresh and has come less far than what it was to replace is given up for that.
            runs = {job: instead(job, job.replaces) if job.replaces and job.held_back(*state) else job.run for job, state in due}
            turned = [job for job in held if job.saved_waiting != (job.run.id in waiting)]
            others = [run for run in self._kept.in_memory() if run.id not in self._jobs.all] if begun_again else []
            others += [job.replaces for job in (held if begun_again else turned) if job.replaces]
            return _Due(due, runs, others, turned, waiting)

    def _written(self, due: _Due) -> None:
        """Takes the lock."""
        with self._jobs.lock:
            for job in due.turned:
                job.saved_waiting = job.run.id in due.waiting
            for job, state in due.jobs:
                job.saved, job.saved_waiting = state, job.run.id in due.waiting
                if not state[0].live and self._jobs.all.get(job.run.id) is job:
                    del self._jobs.all[job.run.id]
                    self._kept.keep(due.runs[job])
                job.replaces = None

    def _with_what_waits(self, message: Message) -> Message:
        with self._jobs.lock:
            live = sum(job.run.status.live for job in self._jobs.all.values())
            ended = len(self._jobs.all) - live
        if not live and not ended:
            return message
        return say("sentences", first=message, second=say("not-kept-yet", live=live, ended=ended))


def _is_same(kept: Run[Any] | None, run: Run[Any]) -> bool:
    if kept is None or (kept.recipe, kept.status, kept.created) != (run.recipe, run.status, run.created):
        return False
    one, other, parts = kept.history, run.history, ("columns", "loss", "accuracy", "seconds")
    return (one.quantities, one.stride) == (other.quantities, other.stride) and all(
        np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True) for name in parts
    )
