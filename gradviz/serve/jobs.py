"""All jobs of the manager, what may become of them, and the one lock over it all.

The parts of the manager share this lock: `queue`, `memory`, `workers` and `kept` bring none of their own for what they know
of jobs, and say where they expect it to be held.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from gradviz.lenet.config import RunConfig
from gradviz.messages import NOTHING, Message, say
from gradviz.record.run import Outcome, Run, Status
from gradviz.serve.job import Job
from gradviz.serve.people import with_one_more
from gradviz.serve.queue import Queue
from gradviz.serve.threads import log_event
from gradviz.store.store import INTERRUPTED


class Jobs:
    """Whoever calls a method holds `lock`, but for `unsaved`."""

    def __init__(self, places: int, slice: float, clock: Callable[[], float]):
        """`places`, `slice`: of the queue."""
        self.clock = clock
        self.lock = threading.Condition(threading.RLock())  # told of every change that somebody may wait for
        self.all: dict[str, Job] = {}  # by run id
        self.queue = Queue(self.all, places, slice, clock)
        self.ended: Counter[Status] = Counter()
        self.closing = False  # what is stopped now was interrupted
        self._count = 0

    def live(self, id: str) -> Job | None:
        """The job of a run that takes wishes."""
        job = self.all.get(id)
        return job if job and job.run.status.live and not job.stop.is_set() else None

    def begin(
        self,
        run: Run[RunConfig],
        address: str = "",
        old: Run[RunConfig] | None = None,
        origin: Run[RunConfig] | None = None,
        held: bool = False,
    ) -> None:
        """Puts the run in the queue. `old`: what it replaces once it has as many records. `origin`: what it begins from. `held`:
        it is paused there."""
        self._count += 1
        job = Job(run, number=self._count, addresses={address} - {""}, origin=origin, held=held)
        if old:
            job.replaces, job.heirs = old if old.history.steps else None, old.clients
        job.fresh = not run.clients or self.queue.hurries(run.clients[0], job.addresses)
        if run.clients:
            job.seen = self.clock()  # who has just asked for it looks at it
        self.all[run.id] = job
        self.line_up(job)

    def join(self, job: Job, client: str, address: str) -> None:
        job.addresses |= {address} - {""}
        if (people := with_one_more(job.run.clients, client)) != job.run.clients:
            job.run.clients = people
            job.saved = None
        job.seen = self.clock()

    def leave(self, job: Job, client: str, stop: bool) -> bool:
        """Whether the run goes on, once it is no longer this person's."""
        if client not in job.run.clients:
            return True
        others = tuple(other for other in job.run.clients if other != client)
        if stop and not others:
            self.stop(job)  # and stays his: he may start it afresh
            return False
        job.run.clients, job.saved = others, None
        return True

    def pause(self, job: Job, firmly: bool) -> None:
        job.firm |= firmly
        if not job.held:
            job.held, job.steps = True, 0
            if not job.driven:
                self.queue.remove(job)
                self.set(job, Status.PAUSED)

    def resume(self, job: Job, firmly: bool) -> None:
        if job.held and (firmly or not job.firm):
            job.held, job.firm, job.steps = False, False, 0
            if job.driven:
                self.set(job, Status.RUNNING)
            else:
                self.line_up(job, urgent=True)
                self.set(job, Status.QUEUED)

    def step(self, job: Job) -> None:
        if job.held:
            job.steps += 1
            if not job.driven:
                self.line_up(job, urgent=True)

    def line_up(self, job: Job, urgent: bool = False) -> None:
        self.queue.add(job, urgent)
        self.lock.notify_all()

    def set(self, job: Job, status: Status) -> None:
        job.run.status = status
        job.rests = self.clock() if status is Status.PAUSED else math.inf
        self.lock.notify_all()
        log_event(status, job.run, steps=job.run.history.steps)

    def release(self, job: Job) -> None:
        """Its worker has given it away."""
        job.driven = False
        self.queue.had(self.clock() - job.since)

    def stop(self, job: Job, message: Message = NOTHING) -> None:
        job.stop.set()
        if not job.driven:
            self.queue.remove(job)
            self.end(job, Outcome(Status.STOPPED, message=message))

    def end(self, job: Job, outcome: Outcome) -> None:
        run = job.run
        if job.driven:
            self.release(job)
        job.training = job.records = None
        if not run.status.live:
            return
        if self.closing and outcome.status is Status.STOPPED:
            outcome = Outcome(Status.INTERRUPTED, message=INTERRUPTED)
        self.ended[outcome.status] += 1
        if job.note:
            both = say("sentences", first=job.note, second=outcome.message)
            outcome = replace(outcome, message=both if outcome.message else job.note)
        for heir in job.heirs:
            run.clients = with_one_more(run.clients, heir)
        run.end(outcome)
        self.set(job, outcome.status)

    def clear(self) -> int:
        """Stops what waits and has not begun, or was resumed and waits, or is paused; says how many."""
        waiting = [job for job in self.all.values() if job.run.status.live and not job.stop.is_set()]
        waiting = [job for job in waiting if job.held or job in self.queue.waiting and job.run.status is Status.QUEUED]
        for job in waiting:
            self.stop(job, say("queue-cleared"))
        return len(waiting)

    def close(self) -> None:
        """Stops what does not outlive the server."""
        self.closing = True
        for job in [*self.all.values()]:
            if job.run.status.live and not self.outlives(job):
                self.stop(job)
        self.lock.notify_all()

    def outlives(self, job: Job) -> bool:
        """Whether it outlives the server: it waits for a worker, and somebody asked for it. Sweeps start theirs again themselves.

        What a worker has when the server ends does not: it may be why.
        """
        return job in self.queue.waiting and not job.held and bool(job.run.clients)

    def unsaved(self) -> list[Run[RunConfig]]:
        """Ended runs that are in memory and not in the store. Takes the lock."""
        with self.lock:
            return [job.run for job in self.all.values() if not job.run.status.live]
