"""RunManager: who trains when. It starts runs, takes wishes, answers questions; the work is done by its parts.

`queue` knows who is next, `memory` whether there is some, `workers` train, `kept` has what has ended and `writer` brings it
into the store; `jobs` has the one lock that they share. Every thread that trains or keeps is theirs.

The class is long because it is the one door to all of these: most of its methods are a sentence and a line.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import cast

from gradviz import machine
from gradviz.lenet.config import RunConfig
from gradviz.lenet.experiment import preview_images
from gradviz.messages import Message
from gradviz.record.arithmetic import Arithmetic
from gradviz.record.history import History, max_columns
from gradviz.record.run import Outcome, Run, Status, Summary
from gradviz.record.spool import FOLDER
from gradviz.serve.admission import Refused, check, check_disk, check_memory
from gradviz.serve.age import Dates
from gradviz.serve.begins import Begins
from gradviz.serve.jobs import Jobs
from gradviz.serve.kept import Kept
from gradviz.serve.memory import Memory
from gradviz.serve.previews import Preview, Previews
from gradviz.serve.spools import Spools
from gradviz.serve.threads import daemon, log_event
from gradviz.serve.troubles import Troubles
from gradviz.serve.workers import Workers
from gradviz.serve.writer import EVERY, Writer
from gradviz.settings import Limits
from gradviz.store.states import States
from gradviz.store.store import RunStore
from gradviz.train.training import Train, TrainFrom, Training

log = logging.getLogger("gradviz")

AFRESH = (Status.INTERRUPTED, Status.STOPPED, Status.FAILED)


@dataclass(frozen=True)
class Statistics:
    """Figures of one manager since it began."""

    started: float  # Unix time
    workers: int
    live: Mapping[Status, int]  # live runs now, for each live status; "running" counts those that wait for another slice
    queue: int  # runs that wait for a worker now, to begin or for another slice
    steps: int  # recorded
    ended: Mapping[Status, int]  # runs, for each status that is not live
    refused: Mapping[str, int]  # starts: by blocks, steps, batch_size, queue, runs, disk, memory
    crashes: int  # worker processes that were ended by the system


class RunManager:
    """Runs equal configs once, at most `workers` at a time, and keeps what they record. All methods return at once.

    Every method may be called from any thread. An id that is not known, or a wish that does not fit the state of the
    run (resuming one that runs, say), is ignored: two people press buttons at the same time.
    """

    def __init__(
        self,
        store: RunStore[RunConfig],
        train: Train[RunConfig],
        arithmetic: Callable[[RunConfig], Arithmetic | None] | None = None,
        workers: int = 1,
        threads: int = 1,
        limits: Limits = Limits(),  # noqa: B008 (frozen)
        slice: float = 2.0,
        hold: float = 2 * 3600.0,
        memory_left: Callable[[], float | None] = machine.memory_left,
        clock: Callable[[], float] = time.monotonic,
        states: States | None = None,
    ):
        """`train`: what makes a training: `trainer_on(shelf)`, a Nursery, any other. `arithmetic`: what a training of
        a config computes with here, None if its device is not on this machine; without it nobody knows. `threads`: processor
        threads of each.

        `slice`: seconds after which a run gives its worker to another that waits. `hold`: seconds for which a paused training
        keeps its memory, if nobody needs it before. `memory_left`: bytes, or None if that cannot be known. `clock`: seconds,
        for slices and looks. `states`: where states of trainings are kept; then `train` is a TrainFrom. Without, every training
        begins at step 0.
        """
        self.arithmetic = arithmetic
        self._store, self._threads, self._limits, self._memory_left = store, threads, limits, memory_left
        self._train = train
        self._troubles, self._refused = Troubles(), Counter[str]()
        self._jobs = Jobs(limits.queue, slice, clock)
        self._lock, self._queue = self._jobs.lock, self._jobs.queue
        self._spools = Spools(store.folder / FOLDER, lambda run: self._writer.take_in(run))
        self._kept = Kept(store, self._jobs, self._spools, self._troubles, memory_left, limits.kept_bytes)
        self.begins = Begins(states, cast("TrainFrom[RunConfig]", train)) if states else None
        self._writer = Writer(store, self._jobs, self._kept, self._spools, self._troubles, limits, states)
        self._memory = Memory(self._jobs, memory_left, hold)
        self._dates = Dates(self._writer.newest())
        for run, old in self._writer.left_waiting(self._dates):
            with self._lock:
                self._jobs.begin(run, old=old)
        self._workers = Workers(workers, self._jobs, self._memory, self._train, threads, self.begins)
        self._tending = daemon(self._tend, "store-writer")
        self._spools.begin()
        self._previews = Previews(self._train_preview, threads)

    # Runs

    @property
    def warning(self) -> Message:
        """Says so while the store cannot be read or written, else NOTHING."""
        return self._troubles.worst

    def start(
        self,
        config: RunConfig,
        again: bool = False,
        client: str = "",
        address: str = "",
        origin: str = "",
        held: bool = False,
    ) -> Run[RunConfig]:
        """The run of this config: the live or kept one if there is one, else a new one in the queue.

        `again` starts an interrupted, stopped or failed run afresh; its records are kept until the new one has as many
        or has come to its own end. `client` is the person
        who asks, whose other runs then take second place; without one it is work that nobody sits before. `address`, where
        he is, keeps one who calls himself many people from having the turns of all. `origin` is a run, live or ended, that is the
        same up to some step, or the run itself with `again`: the new one begins from its newest state that is kept before that,
        with its records until there; where there is none it begins at step 0, and its message says so. `held`: it is paused right
        there.
        Raises Refused if this server does not take the run, RuntimeError once the manager is closed.
        """
        if (joined := self._join(self.get(config.id), config, again, client, address)) is not None:
            return joined
        try:
            self._admit(config, again, client)
            old, parent = self.get(config.id) if again else None, self.get(origin) if origin else None
            with self._lock:
                meanwhile = self.at_hand(config.id)  # what was started; nothing is read under the lock
                if (joined := self._join(meanwhile, config, again, client, address)) is not None:
                    return joined
                self._queue.check(client, address)
                history = History(config.layers, max_columns(config.layers))
                run = Run(config, history, created=self._dates.now(), clients=(client,) if client else ())
                unsaved = self._jobs.all.get(run.id)
                self._jobs.begin(run, address, unsaved.replaces or old if unsaved else old, parent, held)
                self._kept.forget(run.id)
        except Refused as refusal:
            with self._lock:
                self._refused[refusal.reason] += 1
            log.info("event=refused reason=%s run=%s summary=%s", refusal.reason, config.id, json.dumps(config.title))
            raise
        log_event("queued", run, summary=config.title)
        return run

    def get(self, id: str) -> Run[RunConfig] | None:
        """The live run, of another process too, or the kept one with its records. Raises Refused if memory or patience do not
        suffice to read it."""
        return self._kept.get(id)

    def repeated(self, id: str) -> Run[RunConfig] | None:
        """The run that this live one does again, from its first step on or a later one."""
        with self._lock:
            job = self._jobs.all.get(id)
            return job.replaces if job and job.run.status.live else None

    def at_hand(self, id: str) -> Run[RunConfig] | None:
        """The run if it is live or was looked at lately: nothing is read from the store."""
        return self._kept.at_hand(id)

    def each(self, patience: float = 60.0) -> Iterator[Run[RunConfig]]:
        """All runs with their records, newest first, read one after the other as they are asked for.

        While there is too little memory to read one it waits, `patience` seconds at most, and then raises Refused.
        """
        return self._kept.each(patience)

    def unsaved(self) -> list[Run[RunConfig]]:
        """Ended runs that are in memory and not in the store."""
        return self._jobs.unsaved()

    def list(self) -> list[Summary[RunConfig]]:
        """All runs without their records, newest first."""
        return self._kept.list()

    def position(self, id: str) -> int | None:
        """1 for the next in the queue; None if the run does not wait for a worker."""
        with self._lock:
            return self._queue.position(id)

    def positions(self) -> dict[str, int]:
        """Run id -> place, of all that wait for a worker; 1 is the next."""
        with self._lock:
            return self._queue.positions()

    def expected_wait(self, id: str) -> float | None:
        """Seconds until a worker takes the run, from how long turns have taken and the pace of runs that go before.

        None if the run does not wait, or if what goes before it has not shown its pace yet.
        """
        with self._lock:
            return self._queue.expected_wait(id, self._workers.count)

    def has_worker(self, id: str) -> bool:
        """Whether a worker has the run now: it is "running" also while it waits for its next slice."""
        with self._lock:
            return id in self._jobs.all and self._jobs.all[id].driven

    def resize(self, workers: int) -> None:
        """So many at once from now on: computers come and go. Runs that have a worker keep it."""
        with self._lock:
            self._workers.resize(workers)

    @property
    def settled(self) -> bool:
        """Whether nothing happens before a training has its next step or somebody wishes something."""
        return self._workers.settled

    def watched(self, id: str) -> None:
        """Somebody looks at this run: for some seconds it goes before those that nobody looks at."""
        with self._lock:
            if job := self._jobs.all.get(id):
                job.seen = self._jobs.clock()

    def statistics(self) -> Statistics:
        with self._lock:
            live = Counter(job.run.status for job in self._jobs.all.values())
            return Statistics(
                self._dates.started,
                self._workers.count,
                {status: live[status] for status in Status if status.live},
                len(self._queue.waiting),
                self._workers.steps,
                {status: self._jobs.ended[status] for status in Status if not status.live},
                dict(self._refused),
                self._workers.crashes,
            )

    def wait(self, id: str, timeout: float | None = None) -> bool:
        """Waits until the run is no longer live. False if it still is after `timeout` seconds, or at the end of the server."""
        jobs = self._jobs

        def ended() -> bool:
            return id not in jobs.all or not jobs.all[id].run.status.live

        with self._lock:
            self._lock.wait_for(lambda: ended() or (jobs.closing and jobs.outlives(jobs.all[id])), timeout)
            return ended()

    # Wishes

    def pause(self, id: str, firmly: bool = False) -> None:
        """Takes effect after the step that is being done; the worker is then free for others. `firmly`: as the teacher does."""
        with self._lock:
            if job := self._jobs.live(id):
                self._jobs.pause(job, firmly)

    def resume(self, id: str, firmly: bool = True) -> None:
        """Goes on as soon as a worker is free, before runs of the same rank that have not begun. Without `firmly` not if it was
        paused so: a sweep that needs the run waits then."""
        with self._lock:
            if job := self._jobs.live(id):
                self._jobs.resume(job, firmly)

    def step(self, id: str) -> None:
        """One more step of a paused run, which stays paused; several calls are several steps."""
        with self._lock:
            if job := self._jobs.live(id):
                self._jobs.step(job)

    def stop(self, id: str) -> None:
        """Ends the run, also in the middle of a step. Its records are kept, and its state where states are."""
        with self._lock:
            if job := self._jobs.live(id):
                if self.begins and job.training is not None and not job.driven:
                    self._workers.end(job)
                else:
                    self._jobs.stop(job)

    def join(self, id: str, client: str, address: str = "") -> None:
        """The live run is this person's too, from now on."""
        with self._lock:
            if job := self._jobs.live(id):
                self._jobs.join(job, client, address)

    def leave(self, id: str, client: str, stop: bool = True) -> bool:
        """The live run is no longer this person's; with `stop` it is stopped if he was the last. Says whether it goes on."""
        with self._lock:
            job = self._jobs.live(id)
            return self._jobs.leave(job, client, stop) if job else False

    def clear_queue(self) -> int:
        """Stops every run that waits and has not begun, or was resumed and waits, or is paused; says how many."""
        with self._lock:
            return self._jobs.clear()

    def delete(self, id: str) -> None:
        """Stops the run and removes it with its records, from the store too. A live run of another process stays."""
        self._writer.delete(id)

    def close(self, timeout: float = 2.0) -> None:
        """Ends all live runs as interrupted and writes everything that is not yet in the store. The store stays open.

        Runs that somebody asked for and that have not begun stay in the queue, for the next manager on this store.
        """
        deadline = time.monotonic() + timeout
        self._spools.close()
        self._previews.close()
        with self._lock:
            self._jobs.close()
        self._workers.close(deadline - 0.5)  # half a second is the writer's
        with self._lock:
            for job in [job for job in self._jobs.all.values() if not self._jobs.outlives(job)]:
                self._jobs.end(job, Outcome(Status.STOPPED))  # of a worker that is stuck in an operation
        self._workers.ended.set()
        self._tending.join(max(0.1, deadline - time.monotonic()))

    # Previews

    def preview(self, config: RunConfig, client: str = "", person: str = "") -> Preview:
        """The first forward and backward pass of this config, computed in the background.

        The newest wish of a `client`, a page, counts: it drops an older one of the same client that is not ready. `person`
        is who sits before it, `client` itself where that is not known: people take turns.
        """
        return self._previews.ask(config, client, person or client)

    def get_preview(self, id: str) -> Preview | None:
        """The preview with this `Preview.id`, if it was asked for and is not forgotten."""
        return self._previews.get(id)

    def _train_preview(self, config: RunConfig, interrupt: Callable[[], bool]) -> Training:
        check(replace(config, steps=1, changes=()), self._limits)
        check_memory(replace(config, batch_size=preview_images(config)), self._memory_left())
        return self._train(config, interrupt)

    # Starting

    def _join(
        self, kept: Run[RunConfig] | None, config: RunConfig, again: bool, client: str, address: str
    ) -> Run[RunConfig] | None:
        """The run of this config, `kept` if none is live, unless there is none or it shall be started afresh."""
        with self._lock:
            if self._jobs.closing:
                raise RuntimeError("The run manager is closed.")
            job = self._jobs.all.get(config.id)
            kept = job.run if job else kept
            if kept and not (again and kept.status in AFRESH):
                if job and client:
                    self._jobs.join(job, client, address)
                return kept
            return None

    def _admit(self, config: RunConfig, again: bool, client: str) -> None:
        """Raises Refused for what is over a limit. Not under the lock: it looks at the disk."""
        check(config, self._limits)
        check_disk(self._store.folder, self._limits)
        self._memory.check(config)
        self._writer.make_place(again, client, self._dates)

    def _tend(self) -> None:
        """What has been paused for too long ends, and what is new is written."""
        ended = False
        while not ended:
            ended = self._workers.ended.wait(EVERY)
            with self._lock:
                self._memory.end_long_rests()
            self._writer.flush(last=ended)
