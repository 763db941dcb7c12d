"""Workers: the threads that train. One does nothing but `for record in training`; a paused training is a generator that
nobody asks, so that it costs its memory and no worker. Nothing here knows how records come about: a training in another
process, with the same records, fits the same loop.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from dataclasses import replace
from functools import partial

from gradviz.lenet.config import RunConfig
from gradviz.messages import say
from gradviz.record.run import Outcome, Status
from gradviz.serve.begins import Begins
from gradviz.serve.failures import ComputerLost, WorkerDied, in_words
from gradviz.serve.job import Job
from gradviz.serve.jobs import Jobs
from gradviz.serve.memory import Memory
from gradviz.serve.threads import daemon
from gradviz.train.device import limit_threads
from gradviz.train.training import Interrupted, Train, Training

log = logging.getLogger("gradviz")


class Workers:
    """So many at once. The methods for other threads say whether they take the lock over the jobs."""

    def __init__(
        self,
        count: int,
        jobs: Jobs,
        memory: Memory,
        train: Train[RunConfig],
        threads: int,
        begins: Begins | None = None,
    ):
        """`threads`: processor threads of each training."""
        self.count = 0
        self.steps = self.crashes = 0  # recorded; of trainings in processes of their own
        self.ended = threading.Event()  # set by `close`
        self._jobs, self._memory, self._train, self._threads = jobs, memory, train, threads
        self._begins = begins
        self._all: list[threading.Thread] = []
        self._driving = 0  # workers that have a job
        with jobs.lock:
            self.resize(count)

    def resize(self, count: int) -> None:
        """So many from now on; those too many end what they have. Whoever calls holds the lock."""
        self.count = count
        self._all += [daemon(self._work, f"worker-{number}") for number in range(len(self._all), count)]
        self._jobs.lock.notify_all()

    def close(self, deadline: float) -> None:
        """Waits until all have given their jobs away, but not beyond `deadline`, by time.monotonic. `jobs.closing` is set."""
        for worker in self._all:
            worker.join(max(0.0, deadline - time.monotonic()))

    @property
    def settled(self) -> bool:
        """Whether nothing happens before a training has its next step or somebody wishes something. Takes the lock."""
        with self._jobs.lock:
            driven = [job for job in self._jobs.all.values() if job.driven]
            counted = all(job.counted == job.run.history.steps for job in self._jobs.all.values())
            return counted and (len(driven) >= self.count or self._memory.first_that_fits() is None)

    def _work(self) -> None:
        limit_threads(self._threads)
        while job := self._next():
            try:
                self._drive(job)
            finally:
                with self._jobs.lock:
                    self._driving -= 1
                    self._jobs.lock.notify_all()  # one that was one too many a moment ago may begin

    def _next(self) -> Job | None:
        jobs = self._jobs
        with jobs.lock:
            while True:
                if jobs.closing:
                    return None
                has_turn = self._driving < self.count
                if has_turn and (job := self._memory.first_that_fits()) is not None:
                    break
                if has_turn and jobs.queue.waiting:
                    self._memory.make_room()
                jobs.lock.wait(1.0 if has_turn and jobs.queue.waiting else None)  # memory comes back without a word
            self._driving += 1
            jobs.queue.take(job)
            job.driven, job.since, job.begun, job.urgent = True, jobs.clock(), job.run.history.steps, False
            if not job.held and job.run.status is not Status.RUNNING:
                jobs.set(job, Status.RUNNING)
            return job

    def _drive(self, job: Job) -> None:
        """Trains until the run ends, is paused, or has had its slice."""
        run = job.run
        try:
            training, records = job.training, job.records
            if training is None or records is None:
                self._memory.check(run.recipe)  # it may have waited long, or since a restart
                job.training = training = self._begun(job)
                self._say(job, training)
                job.records = records = iter(training)
            if not self._goes_on(job):
                return
            for record in records:
                run.take(replace(record, seconds=job.spent + record.seconds) if job.spent else record)
                self._say(job, training)  # the number of threads may change
                if not self._goes_on(job):
                    return
            if (outcome := training.outcome) is None:
                raise RuntimeError("the training does not say how it ended")
        except Interrupted:  # before the first step
            outcome = Outcome(Status.STOPPED)
        except ComputerLost as error:  # no fault of the run, which may be started afresh
            log.warning("event=computer-lost run=%s steps=%d reason=%s", run.id, run.history.steps, json.dumps(str(error)))
            outcome = Outcome(Status.INTERRUPTED, message=error.message)
        except Exception as error:  # whatever it is, it is the end of this run and not of the worker
            with self._jobs.lock:
                self.crashes += isinstance(error, WorkerDied)
            log.exception("event=error run=%s steps=%d", run.id, run.history.steps)
            outcome = Outcome(Status.FAILED, message=in_words(error))
        with self._jobs.lock:
            deleted = self._jobs.all.get(run.id) is not job
            self._jobs.end(job, outcome)
        if deleted and self._begins:
            self._begins.states.delete(run.id)  # what it kept in its last step

    def end(self, job: Job) -> None:
        """Stops one that rests or waits for its next slice: it keeps its state, and waits for no worker to do so. Whoever calls
        holds the lock."""
        job.stop.set()
        self._jobs.queue.remove(job)
        job.driven, job.since = True, self._jobs.clock()
        daemon(partial(self._drive, job), "last-word")

    def _begun(self, job: Job) -> Training:
        """The job's training, from the newest state of its origin that it can begin from; else from the start, and says so."""
        origin, job.origin, job.earlier = job.origin, None, None  # its records are not needed any longer
        if origin is not None:
            if self._begins is not None and (found := self._begins.training(origin, job.run.recipe, job.stop.is_set)):
                training, history = found
                with self._jobs.lock:
                    job.run.history, job.spent = history, history.latest[1]
                    job.earlier = origin.arithmetic
                    job.begun = job.counted = history.steps
                return training
            job.note = say("state-gone")
        return self._train(job.run.recipe, job.stop.is_set)

    @staticmethod
    def _say(job: Job, training: Training) -> None:
        """With what the run is computed."""
        arithmetic = training.arithmetic
        job.run.device = training.device
        job.run.arithmetic = arithmetic.after(job.earlier) if arithmetic and job.earlier else arithmetic

    def _goes_on(self, job: Job) -> bool:
        """Whether the worker may ask for another step. If not, the job is no longer the worker's."""
        jobs = self._jobs
        with jobs.lock:
            self.steps += job.run.history.steps - job.counted
            job.counted = job.run.history.steps
            if job.stop.is_set():
                return True
            if job.held:
                if job.steps:
                    job.steps -= 1
                    return True
                jobs.release(job)
                jobs.set(job, Status.PAUSED)
                return False
            if self.count and jobs.queue.yields(job, self._memory.first_that_fits):  # with no worker at all, to whom?
                jobs.release(job)
                jobs.line_up(job)
                return False
            return True
