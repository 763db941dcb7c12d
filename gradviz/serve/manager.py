"""RunManager: who trains when. The queue, the workers, pause and stop, and the writing of the store.

These are the only threads of gradviz. A worker does nothing but `for record in training`; a paused training is a
generator that nobody asks, so that it costs its memory and no worker. Nothing here knows how records come about: a
training in another process, with the same records, fits the same loop.

Who is next, when several people wait: everybody's one run before anybody's second; what somebody looks at before
what nobody does; what a button was pressed for; what has no picture yet; and then round and round, from address to
address. A run that has had its slice while others wait gives its worker away and goes to the back, its generator kept.
It stays "running".
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from weakref import WeakValueDictionary

from gradviz import machine
from gradviz.lenet.config import ConfigError, RunConfig
from gradviz.lenet.data import DataError, Shelf
from gradviz.record.arithmetic import Arithmetic
from gradviz.record.history import History, StepRecord, max_columns
from gradviz.record.run import Outcome, Run, Status, Summary
from gradviz.serve import admission as limits
from gradviz.serve.admission import Refused
from gradviz.serve.desk import Desk
from gradviz.serve.failures import WorkerDied, in_words
from gradviz.serve.people import GUEST, Pace, with_one_more
from gradviz.serve.previews import Preview, Previews
from gradviz.serve.threads import daemon, log_event
from gradviz.settings import Limits
from gradviz.store.store import INTERRUPTED, RunStore, StoreError
from gradviz.train.device import here, limit_threads, resolve_device
from gradviz.train.trainer import Trainer, preview_images
from gradviz.train.training import Interrupted, Train, Training
from gradviz.words import gettext as _

log = logging.getLogger("gradviz")

_SAVE_EVERY = 0.4  # seconds; with the time of the writing itself a kill costs less than one second of records
_KEPT_BYTES = 128e6  # of ended runs held in memory; the store has them all
_SAID = 15.0  # seconds for which a page says that a run could not be deleted
_UNSAVED_BYTES = 512e6  # of ended runs that wait in memory for a store that refuses
_LOADS = 2  # runs that are read from the store at once
_LOAD_COPIES = 3  # of its bytes that a run takes while it is read: SQLite's, joined, and as arrays
_WATCHED = 10.0  # seconds after the last look; a page in front looks every second, one in the background less often
_HURRY, _HURRY_THERE = (20, 0.5), (60, 1.0)  # first pictures and presses that go before the turns of others: at once, per second
_TOGETHER = 4  # turns of one address to one of another where both have people who wait; guests, who may be one and the same, one
_SHARE, _SHARE_THERE = 0.1, 0.5  # of the places in the queue that one person, and one address, may have
_GRACE = 60.0  # seconds for which a paused training is given up for nobody
_ROOM_EVERY = 5.0  # seconds between two that are: their memory takes a moment to come back
_FIRST = 0.25  # of a slice, then a worker may go to whom it matters more: enough for a first picture of most nets
_PRESENT = 24 * 3600.0  # seconds: what is younger is not deleted to make room, somebody may be working with it
AFRESH = (Status.INTERRUPTED, Status.STOPPED, Status.FAILED)




def trainer_on(shelf: Shelf) -> Train[RunConfig]:
    """Trains in the calling thread, on the data sets of `shelf`."""

    def train(config: RunConfig, interrupt: Callable[[], bool]) -> Trainer:
        state = shelf.request(config.dataset)
        if state.status != "ready":
            raise DataError(state.message)
        return Trainer(config, shelf.load(config.dataset), resolve_device(config.device), interrupt)

    return train


@dataclass(eq=False)
class _Job:
    """A run that is live, or ended and not yet in the store. Its fields change under the manager's lock."""

    run: Run
    number: int = 0  # counts the starts
    turn: int = 0  # counts the waitings: among equals the lower goes first
    tag: float = 0.0  # the round in which its address has its turn
    urgent: bool = False  # somebody pressed Resume or Step
    fresh: bool = True  # its first picture goes before the turns of others
    addresses: set[str] = field(default_factory=set)  # of those who asked for it, as far as they are known
    seen: float = -math.inf  # when somebody last looked, by the manager's clock
    since: float = 0.0  # when a worker took it
    begun: int = 0  # steps that it had then
    stop: threading.Event = field(default_factory=threading.Event)
    replaces: Run | None = None  # whose records the store keeps until this one has as many
    heirs: tuple[str, ...] = ()  # whose the run before was: it is theirs again once it has ended, whoever began it anew
    held: bool = False  # a pause was asked for
    rests: float = math.inf  # since when it is paused
    steps: int = 0  # single steps asked for while held
    driven: bool = False  # a worker has it
    training: Training | None = None
    records: Iterator[StepRecord] | None = None
    saved: tuple[Status, int] | None = None  # status and steps that are in the store
    saved_waiting: bool | None = None  # as one that waits for a worker
    counted: int = 0  # steps that are in the statistics

    @property
    def newcomer(self) -> bool:
        return self.fresh and not self.run.history.steps


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
        store: RunStore,
        shelf: Shelf,
        workers: int = 1,
        threads: int = 1,
        train: Train[RunConfig] | None = None,
        limits: Limits = Limits(),  # noqa: B008 (frozen)
        slice: float = 2.0,
        hold: float = 2 * 3600.0,
        memory_left: Callable[[], float | None] = machine.memory_left,
        clock: Callable[[], float] = time.monotonic,
    ):
        """`threads`: processor threads of each training. `train`: what makes a training, `trainer_on(shelf)` by default.

        `slice`: seconds after which a run gives its worker to another that waits. `hold`: seconds for which a paused training
        keeps its memory, if nobody needs it before. `memory_left`: bytes, or None if
        that cannot be known. `clock`: seconds, for slices and looks.
        """
        self._troubles: dict[str, str] = {}  # with reading, deleting, writing: one sentence each
        self._store, self._threads, self._limits = store, threads, limits
        self._slice, self._hold, self._memory_left, self._clock = slice, hold, memory_left, clock
        self._room_made = -math.inf  # when a paused training was last given up for its memory
        self._train = train or trainer_on(shelf)
        self._jobs: dict[str, _Job] = {}
        self._queue: list[_Job] = []  # whoever waits for a worker; see _order
        self._count = 0  # of starts and of waitings
        self._round = 0.0  # of whom a worker took last; see _tag
        self._tags: dict[tuple[str, bool], float] = {}
        self._hurry, self._hurry_there = Pace(*_HURRY, clock), Pace(*_HURRY_THERE, clock)
        self._turn = slice if math.isfinite(slice) else 0.0  # seconds that a worker is taken at a time, a running mean
        self._deletions = 0
        self._started, self._steady = time.time(), machine.steady()
        self._newest = self._newest_kept()
        self._first = max(self._started, self._newest + 0.001)  # what is begun now is newer than all that is kept
        self._steps = self._crashes = 0
        self._refused: Counter[str] = Counter()
        self._ended: Counter[Status] = Counter()
        self._kept: OrderedDict[str, Run] = OrderedDict()  # ended and in the store, last used last
        self._about: WeakValueDictionary[str, Run] = WeakValueDictionary()  # those, and what a page still holds
        self._loading: dict[str, Future[Run | None]] = {}  # who wants a run that somebody reads waits for that one
        self._loads = Desk(_LOADS, memory_left=memory_left)
        self._changed = threading.Condition(threading.RLock())
        self._saving = threading.Lock()  # taken before _changed, never after
        self._refusal = -math.inf  # when a run could not be deleted, by the clock
        self._generation = store.generation  # of the file that `_Job.saved` is about
        self._closing = False
        waiting = self._waiting()
        with self._changed:
            for run, old in waiting:
                self._begin(run, old=old)
        self._workers_ended = threading.Event()
        self._workers = [daemon(self._work, f"worker-{number}") for number in range(workers)]
        self._writer = daemon(self._write, "store-writer")
        self._previews = Previews(self._train_preview, threads)

    # Runs

    @property
    def warning(self) -> str:
        """One sentence while the store cannot be read or written, else empty."""
        troubles = self._troubles.copy()
        return next((troubles[word] for word in ("write", "read", "delete") if word in troubles), "")

    def start(self, config: RunConfig, again: bool = False, client: str = "", address: str = "") -> Run:
        """The run of this config: the live or kept one if there is one, else a new one in the queue.

        `again` starts an interrupted, stopped or failed run afresh; its records are kept until the new one has as many
        or has come to its own end. `client` is the person
        who asks, whose other runs then take second place; without one it is work that nobody sits before. `address`, where
        he is, keeps one who calls himself many people from having the turns of all.
        Raises Refused if this server does not take the run, RuntimeError once the manager is closed.
        """
        if (joined := self._join(self.get(config.id), config, again, client, address)) is not None:
            return joined
        try:
            self._admit(config, again)
            old = self.get(config.id) if again else None
            with self._changed:
                meanwhile = self.at_hand(config.id)  # what was started; nothing is read under the lock
                if (joined := self._join(meanwhile, config, again, client, address)) is not None:
                    return joined
                waiting = sum(bool(job.run.clients) for job in self._queue)  # to begin, or for another slice
                if client and waiting >= self._limits.queue:
                    raise Refused("queue", _("Too many runs wait already ({most}): wait until some have ended.").format(
                        most=self._limits.queue))  # fmt: skip
                self._check_share(client, address)
                history = History(config.layers, max_columns(config.layers))
                run = Run(config, history, created=self._now(), clients=(client,) if client else ())
                unsaved = self._jobs.get(run.id)
                old = unsaved.replaces or old if unsaved else old
                self._begin(run, address, old)
        except Refused as refusal:
            with self._changed:
                self._refused[refusal.reason] += 1
            log.info("event=refused reason=%s run=%s summary=%s", refusal.reason, config.id, json.dumps(config.title))
            raise
        log_event("queued", run, summary=config.title)
        return run

    def get(self, id: str) -> Run | None:
        """The live run, or the kept one with its records. Raises Refused if memory or patience do not suffice to read it."""
        with self._changed:
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
                with self._changed:
                    del self._loading[id]
        try:
            run = flight.result()
        except StoreError as error:
            self._warn("read", str(error))
            return None
        self._fine("read")
        with self._changed:
            if job := self._jobs.get(id):  # started meanwhile
                return job.run
            if run and deletions == self._deletions:
                self._keep(run)
                return run
        return self.get(id) if run else None  # something was deleted meanwhile, perhaps this

    def _load(self, id: str) -> Run | None:
        size = self._store.size(id)
        if size is None:
            return None
        with self._loads.place(need=_LOAD_COPIES * size):
            return self._store.load(id)

    def at_hand(self, id: str) -> Run | None:
        """The run if it is live or was looked at lately: nothing is read from the store."""
        with self._changed:
            if job := self._jobs.get(id):
                return job.run
            if run := self._kept.get(id):
                self._kept.move_to_end(id)
            elif run := self._about.get(id):  # in memory anyway
                self._keep(run)
            return run

    def list(self) -> list[Summary]:
        """All runs without their records, newest first."""
        with self._changed:
            live = {id: Summary.of(job.run) for id, job in self._jobs.items()}
        try:
            kept = self._store.list()
            self._fine("read")
        except StoreError as error:
            self._warn("read", str(error))
            kept = [Summary.of(run) for run in self._at_hand()]
        summaries = [*live.values(), *(summary for summary in kept if summary.id not in live)]
        return sorted(summaries, key=lambda summary: summary.created, reverse=True)

    def each(self, patience: float = 60.0) -> Iterator[Run]:
        """All runs with their records, newest first, read one after the other as they are asked for.

        While there is too little memory to read one it waits, `patience` seconds at most, and then raises Refused.
        """
        for summary in self.list():
            deadline = self._clock() + patience
            while True:
                try:
                    run = self.get(summary.id)
                    break
                except Refused:
                    if self._clock() > deadline:
                        raise
                    time.sleep(1.0)
            if run:
                yield run
            del run

    def position(self, id: str) -> int | None:
        """1 for the next in the queue; None if the run does not wait for a worker."""
        with self._changed:
            waits = any(job.run.id == id for job in self._queue)  # whoever trains need not know the order, which costs more
            return self.positions()[id] if waits else None

    def positions(self) -> dict[str, int]:
        """Run id -> place, of all that wait for a worker; 1 is the next."""
        with self._changed:
            return {job.run.id: place for place, job in enumerate(self._order(), 1)}

    def expected_wait(self, id: str) -> float | None:
        """Seconds until a worker takes the run, from how long turns have taken and the pace of runs that go before.

        None if the run does not wait, or if what goes before it has not shown its pace yet.
        """
        with self._changed:
            order, rank = self._order(), self._ranks()
            job = next((job for job in order if job.run.id == id), None)
            if job is None:
                return None
            mine, workers = rank(job), len(self._workers)
            before = [other for other in order[: order.index(job)] if rank(other) == mine]
            # Those of a higher rank keep their workers to the end.
            higher = [other for other in self._jobs.values() if (other.driven or other in order) and rank(other) < mine]
            left = sum(_seconds_left(other.run) for other in higher)
            busy = sum(other.driven for other in self._jobs.values()) >= workers
            seconds = left / workers + (len(before) + busy) * self._turn / workers
            return seconds if math.isfinite(seconds) else None

    def watched(self, id: str) -> None:
        """Somebody looks at this run: for some seconds it goes before those that nobody looks at."""
        with self._changed:
            if job := self._jobs.get(id):
                job.seen = self._clock()

    def arithmetic(self, config: RunConfig) -> Arithmetic | None:
        """What a training of this config would be computed with here; None if its device is not on this machine."""
        with suppress(ConfigError):
            return here(resolve_device(config.device), self._threads)
        return None

    def statistics(self) -> Statistics:
        with self._changed:
            live = Counter(job.run.status for job in self._jobs.values())
            return Statistics(
                self._started,
                len(self._workers),
                {status: live[status] for status in Status if status.live},
                len(self._queue),
                self._steps,
                {status: self._ended[status] for status in Status if not status.live},
                dict(self._refused),
                self._crashes,
            )

    def wait(self, id: str, timeout: float | None = None) -> bool:
        """Waits until the run is no longer live. False if it still is after `timeout` seconds, or at the end of the server."""

        def ended() -> bool:
            return id not in self._jobs or not self._jobs[id].run.status.live

        with self._changed:
            self._changed.wait_for(lambda: ended() or (self._closing and self._stays(self._jobs[id])), timeout)
            return ended()

    # Wishes

    def pause(self, id: str) -> None:
        """Takes effect after the step that is being done; the worker is then free for others."""
        with self._changed:
            job = self._live(id)
            if job and not job.held:
                job.held, job.steps = True, 0
                if not job.driven:
                    self._leave(job)
                    self._set(job, Status.PAUSED)

    def resume(self, id: str) -> None:
        """Goes on as soon as a worker is free, before runs of the same rank that have not begun."""
        with self._changed:
            job = self._live(id)
            if job and job.held:
                job.held, job.steps = False, 0
                if job.driven:
                    self._set(job, Status.RUNNING)
                else:
                    self._line_up(job, urgent=True)
                    self._set(job, Status.QUEUED)

    def step(self, id: str) -> None:
        """One more step of a paused run, which stays paused; several calls are several steps."""
        with self._changed:
            job = self._live(id)
            if job and job.held:
                job.steps += 1
                if not job.driven:
                    self._line_up(job, urgent=True)

    def stop(self, id: str) -> None:
        """Ends the run, also in the middle of a step. Its records are kept."""
        with self._changed:
            if job := self._live(id):
                self._stop(job)

    def join(self, id: str, client: str, address: str = "") -> None:
        """The live run is this person's too, from now on."""
        with self._changed:
            if job := self._live(id):
                self._join_job(job, client, address)

    def leave(self, id: str, client: str, stop: bool = True) -> bool:
        """The live run is no longer this person's; with `stop` it is stopped if he was the last. Says whether it goes on."""
        with self._changed:
            job = self._live(id)
            if not job or client not in job.run.clients:
                return bool(job)
            others = tuple(other for other in job.run.clients if other != client)
            if stop and not others:
                self._stop(job)  # and stays his: he may start it afresh
                return False
            job.run.clients, job.saved = others, None
            return True

    def clear_queue(self) -> int:
        """Stops every run that waits and has not begun, or was resumed and waits, or is paused; says how many."""
        with self._changed:
            waiting = [job for job in self._jobs.values() if job.run.status.live and not job.stop.is_set()]
            waiting = [job for job in waiting if job.held or job in self._queue and job.run.status is Status.QUEUED]
            for job in waiting:
                self._stop(job, _("The teacher has cleared the queue, and what was paused. What it recorded is kept."))
            return len(waiting)

    def delete(self, id: str) -> None:
        """Stops the run and removes it with its records, from the store too."""
        with self._saving:
            with self._changed:
                self._forget(id)
                if job := self._jobs.get(id):
                    if job.run.status.live:
                        self._stop(job)
                    del self._jobs[id]
            try:
                self._store.delete(id)
                self._fine("delete")
            except StoreError as error:
                self._warn("delete", _("The run was not deleted: {reason}").format(reason=error))
                self._refusal = self._clock()
            with self._changed:
                self._forget(id)  # somebody may have read it while it was being deleted
                self._deletions += 1
        log.info("event=deleted run=%s", json.dumps(id))

    def close(self, timeout: float = 2.0) -> None:
        """Ends all live runs as interrupted and writes everything that is not yet in the store. The store stays open.

        Runs that somebody asked for and that have not begun stay in the queue, for the next manager on this store.
        """
        deadline = time.monotonic() + timeout
        self._previews.close()
        with self._changed:
            self._closing = True
            for job in list(self._jobs.values()):
                if job.run.status.live and not self._stays(job):
                    self._stop(job)
            self._changed.notify_all()
        for worker in self._workers:
            worker.join(max(0.0, deadline - time.monotonic() - 0.5))  # half a second is the writer's
        with self._changed:
            rest = [job for job in self._jobs.values() if not self._stays(job)]
        for job in rest:
            self._end(job, Outcome(Status.STOPPED))  # of a worker that is stuck in an operation
        self._workers_ended.set()
        self._writer.join(max(0.1, deadline - time.monotonic()))

    # Previews

    def preview(self, config: RunConfig, client: str = "", person: str = "") -> Preview:
        """The first forward and backward pass of this config, computed in the background.

        The newest wish of a `client`, a page, counts: it drops an older one of the same client that is not ready. `person`
        is who sits before it, `client` itself where that is not known: people take turns.
        """
        return self._previews.ask(config, client, person or client)

    def _train_preview(self, config: RunConfig, interrupt: Callable[[], bool]) -> Training:
        limits.check(replace(config, steps=1), self._limits)
        limits.check_memory(replace(config, batch_size=preview_images(config)), self._memory_left())
        return self._train(config, interrupt)

    def get_preview(self, id: str) -> Preview | None:
        """The preview with this `Preview.id`, if it was asked for and is not forgotten."""
        return self._previews.get(id)

    # Starting

    def _join(self, kept: Run | None, config: RunConfig, again: bool, client: str, address: str) -> Run | None:
        """The run of this config, `kept` if none is live, unless there is none or it shall be started afresh."""
        with self._changed:
            if self._closing:
                raise RuntimeError("The run manager is closed.")
            job = self._jobs.get(config.id)
            kept = job.run if job else kept
            if kept and not (again and kept.status in AFRESH):
                if job and client:
                    self._join_job(job, client, address)
                return kept
            return None

    def _join_job(self, job: _Job, client: str, address: str) -> None:
        job.addresses |= {address} - {""}
        if (people := with_one_more(job.run.clients, client)) != job.run.clients:
            job.run.clients = people
            job.saved = None
        job.seen = self._clock()

    def _newest_kept(self) -> float:
        try:
            return self._store.newest()
        except StoreError as error:
            self._warn("read", str(error))
            return 0.0

    def _waiting(self) -> list[tuple[Run, Run | None]]:
        """What waited when the last server ended. What had begun is trained from the start, and what it had recorded is kept
        until the new one has as much; more than memory should be taken for stays interrupted."""
        found, taken = [], 0
        try:
            for run in self._store.waiting():
                size = self._store.size(run.id) or 0
                old = self._store.load(run.id) if size else None
                if old is not None:
                    taken += size
                    old.status, old.message = Status.INTERRUPTED, old.message or INTERRUPTED
                    if taken > _KEPT_BYTES:
                        self._store.save(old)
                        continue
                    run.created = self._now()
                found.append((run, old))
        except StoreError as error:
            self._warn("read", str(error))
        return found

    def _admit(self, config: RunConfig, again: bool) -> None:
        """Raises Refused for what is over a limit. Not under the lock: it looks at the disk."""
        limits.check(config, self._limits)
        limits.check_disk(self._store.folder, self._limits)
        self._check_memory(config)
        try:
            surplus = self._store.count() + (not again) - self._limits.runs  # `again` replaces one
            old = self._store.oldest_ended(surplus, self._is_old) if surplus > 0 else []
        except StoreError as error:
            self._warn("read", str(error))
            self._check_unsaved()
            return
        self._check_unsaved()
        if len(old) < surplus:
            raise Refused("runs", _("This server keeps {most} runs, and these are all of today: delete some first.").format(
                most=f"{self._limits.runs:,}"))  # fmt: skip
        for id in old:
            if id not in self._jobs:
                self.delete(id)

    def _now(self) -> float:
        """Unix time, by a clock that nobody sets while the server runs: a jump makes no run of minutes ago an old one."""
        return self._first + machine.steady() - self._steady

    def _is_old(self, created: float) -> bool:
        """Whether a run is surely a day old. How long ago the last server ran only a clock could say that may have been set."""
        if created >= self._first:
            return self._now() - created > _PRESENT
        return self._now() - self._first + max(0.0, (self._newest or self._first) - created) > _PRESENT

    def _check_memory(self, config: RunConfig) -> None:
        """Raises Refused if it does not fit even once the trainings that have taken their memory have given it back."""
        with self._changed:  # what is paused is given up if need be
            jobs = [job for job in self._jobs.values() if job.training is not None and job.run.history.steps]
        limits.check_memory(config, self._memory_left(), [job.run.recipe for job in jobs])

    # Under the lock

    def _live(self, id: str) -> _Job | None:
        job = self._jobs.get(id)
        return job if job and job.run.status.live and not job.stop.is_set() else None

    def _set(self, job: _Job, status: Status) -> None:
        job.run.status = status
        job.rests = self._clock() if status is Status.PAUSED else math.inf
        self._changed.notify_all()
        log_event(status, job.run, steps=job.run.history.steps)

    def _stays(self, job: _Job) -> bool:
        """Whether it outlives the server: it waits for a worker, and somebody asked for it. Sweeps start theirs again themselves.

        What a worker has when the server ends does not: it may be why.
        """
        return job in self._queue and not job.held and bool(job.run.clients)

    def _check_share(self, client: str, address: str) -> None:
        """Raises Refused if the person has his share of the queue already, or the address that of all who are there."""
        mine = sum(client in job.run.clients for job in self._queue)
        if client and mine >= max(1, _SHARE * self._limits.queue):
            raise Refused("queue", _("{n} runs of yours wait already: wait until some have ended, or stop some.").format(n=mine))
        there = sum(address in job.addresses for job in self._queue)
        if client and there >= max(1, _SHARE_THERE * self._limits.queue):
            raise Refused("queue", _("{n} runs from your network wait already: wait until some have ended.").format(n=there))

    def _hurries(self, client: str, addresses: Iterable[str]) -> bool:
        return self._hurry.allows(client) and all([self._hurry_there.allows(address) for address in addresses])

    def _tag(self, job: _Job) -> float:
        """Its round: a person has one turn in each, an address so many, and of two the lower round goes first."""
        further, now = self._ranks()(job) in (2, 4), self._round
        self._tags = {who: tag for who, tag in self._tags.items() if tag > now}

        def after(who: str, turns: int) -> float:
            return self._tags.get((who, further), now) + 1 / turns

        guest = bool(job.run.clients) and all(client.startswith(GUEST) for client in job.run.clients)
        turns = 1 if guest else _TOGETHER
        tag = min((after(client, 1) for client in job.run.clients), default=now + 1)
        if places := [GUEST * guest + address for address in job.addresses]:
            place = min(places, key=lambda place: after(place, turns))
            self._tags[place, further] = after(place, turns)
            tag = max(tag, self._tags[place, further])
        if further:  # while a first run that another try at the controls takes the place of costs its person no turn
            self._tags |= {(client, further): tag for client in job.run.clients}
        return tag

    def _begin(self, run: Run, address: str = "", old: Run | None = None) -> None:
        self._count += 1
        job = _Job(run, number=self._count, addresses={address} - {""})
        if old:
            job.replaces, job.heirs = old if old.history.steps else None, old.clients
        job.fresh = not run.clients or self._hurries(run.clients[0], job.addresses)
        if run.clients:
            job.seen = self._clock()  # who has just asked for it looks at it
        self._jobs[run.id] = job
        self._forget(run.id)
        self._line_up(job)

    def _line_up(self, job: _Job, urgent: bool = False) -> None:
        job.urgent = urgent and self._hurries(next(iter(job.run.clients), job.run.id), job.addresses)
        if job not in self._queue:
            self._count += 1
            job.turn, job.tag = self._count, self._tag(job)
            self._queue.append(job)
        self._changed.notify_all()

    def _leave(self, job: _Job) -> None:
        if job in self._queue:
            self._queue.remove(job)

    def _stop(self, job: _Job, message: str = "") -> None:
        job.stop.set()
        if not job.driven:
            self._leave(job)
            self._end(job, Outcome(Status.STOPPED, message=message))

    def _ranks(self) -> Callable[[_Job], int]:
        """The lower rank has the worker, to the end if need be: 0 a first run that is looked at, 1 one that is not, 2 somebody's
        further run that is, 4 one that is not. Work that nobody asked for alone is as 1, but waits for 2.

        A person's first run is the newest of those that are looked at: after another try at the controls it is that.
        """
        now = self._clock()

        def unseen(job: _Job) -> bool:
            return now - job.seen > _WATCHED

        firsts: dict[str, int] = {}
        live = [job for job in self._jobs.values() if (job.steps or not job.held) and job.run.status.live]
        for job in sorted(live, key=lambda job: (unseen(job), -job.number)):
            for client in job.run.clients:
                firsts.setdefault(client, job.number)
        first = set(firsts.values())
        wanted = any(job.run.clients and job.number not in first and not unseen(job) for job in live)

        def rank(job: _Job) -> int:
            if not job.run.clients:
                return 0 if not unseen(job) else 3 if wanted else 1
            return (0 if job.number in first else 2) + (unseen(job) if job.number in first else 2 * unseen(job))

        return rank

    def _order(self) -> list[_Job]:
        """The queue, next first."""
        rank = self._ranks()
        return sorted(self._queue, key=lambda job: (rank(job), not job.urgent, not job.newcomer, job.tag, job.turn))

    def _ready(self) -> _Job | None:
        """The first in the queue whose memory is there. A smaller net may thus overtake a large one."""
        room = None
        for job in self._order() if self._queue else []:
            if job.training is not None:
                return job
            room = self._room() if room is None else room
            if limits.memory_needed(job.run.recipe) <= room:
                return job
        return None

    def _resting(self, seconds: float) -> list[_Job]:
        """Paused for so long and with its memory; first the one whose person has most of them, of these the longest paused."""
        now = self._clock()
        resting = [job for job in self._jobs.values() if job.held and job.training is not None]
        resting = [job for job in resting if not job.driven and not job.steps]
        of = Counter(client for job in resting for client in job.run.clients)
        most = {job: max((of[client] for client in job.run.clients), default=0) for job in resting}
        return sorted((job for job in resting if now - job.rests >= seconds), key=lambda job: (-most[job], job.rests))

    def _make_room(self) -> None:
        """Gives one paused training up, if the first in the queue would else not fit whatever ends."""
        left, now = self._memory_left(), self._clock()
        if left is None or now - self._room_made < _ROOM_EVERY or not (resting := self._resting(_GRACE)):
            return
        passing = [job for job in self._jobs.values() if job.training is not None and not job.held]
        needed = limits.memory_needed(self._order()[0].run.recipe)
        if needed > left + sum(limits.memory_needed(job.run.recipe) for job in passing):
            self._room_made = now
            self._stop(resting[0], _("While it was paused, its memory was needed for another run: the training was given up. "
                                     "What it recorded is kept; Start afresh trains it anew."))  # fmt: skip

    def _end_long_rests(self) -> None:
        with self._changed:
            for job in self._resting(self._hold):
                text = _("Paused for {n:.0f} minutes, the training was given up, so that others have its memory. What it "
                         "recorded is kept; Start afresh trains it anew.")  # fmt: skip
                self._stop(job, text.format(n=self._hold / 60))

    def _room(self) -> float:
        """Bytes for one more training. What is alone need not wait: `_drive` looks whether it fits at all."""
        others = [job for job in self._jobs.values() if job.driven or job.training is not None]
        left = self._memory_left() if others else None
        if left is None:
            return math.inf
        # Those that have just begun have not taken their memory yet.
        return left - sum(limits.memory_needed(job.run.recipe) for job in others if not job.run.history.steps)

    def _keep(self, run: Run) -> None:
        self._kept[run.id] = self._about[run.id] = run
        self._kept.move_to_end(run.id)
        while len(self._kept) > 1 and sum(kept.history.nbytes for kept in self._kept.values()) > _KEPT_BYTES:
            self._kept.popitem(last=False)

    def _forget(self, id: str) -> None:
        self._kept.pop(id, None)
        self._about.pop(id, None)

    # Workers

    def _work(self) -> None:
        limit_threads(self._threads)
        while job := self._next():
            self._drive(job)

    def _next(self) -> _Job | None:
        with self._changed:
            while not self._closing and (job := self._ready()) is None:
                if self._queue:
                    self._make_room()
                self._changed.wait(1.0 if self._queue else None)  # memory comes back without a word
            if self._closing:
                return None
            self._leave(job)
            self._round = max(self._round, job.tag)
            self._tags |= {(client, False): job.tag for client in job.run.clients}
            job.driven, job.since, job.begun, job.urgent = True, self._clock(), job.run.history.steps, False
            if not job.held and job.run.status is not Status.RUNNING:
                self._set(job, Status.RUNNING)
            return job

    def _drive(self, job: _Job) -> None:
        """Trains until the run ends, is paused, or has had its slice."""
        run = job.run
        try:
            if job.training is None:
                self._check_memory(run.recipe)  # it may have waited long, or since a restart
                job.training = self._train(run.recipe, job.stop.is_set)
                run.device, run.arithmetic = job.training.device, job.training.arithmetic
                job.records = iter(job.training)
            training, records = job.training, job.records
            if not self._goes_on(job):
                return
            for record in records:
                run.nonfinite_layer = run.nonfinite_layer or record.nonfinite_layer
                run.history.append(record)
                if not self._goes_on(job):
                    return
            outcome = training.outcome
        except Interrupted:  # before the first step
            outcome = Outcome(Status.STOPPED)
        except Exception as error:  # whatever it is, it is the end of this run and not of the worker
            with self._changed:
                self._crashes += isinstance(error, WorkerDied)
            log.exception("event=error run=%s steps=%d", run.id, run.history.steps)
            outcome = Outcome(Status.FAILED, message=in_words(error))
        self._end(job, outcome)

    def _goes_on(self, job: _Job) -> bool:
        """Whether the worker may ask for another step. If not, the job is no longer the worker's."""
        with self._changed:
            self._steps += job.run.history.steps - job.counted
            job.counted = job.run.history.steps
            if job.stop.is_set():
                return True
            if job.held:
                if job.steps:
                    job.steps -= 1
                    return True
                self._release(job)
                self._set(job, Status.PAUSED)
                return False
            if self._yields(job):
                self._release(job)
                self._line_up(job)
                return False
            return True

    def _yields(self, job: _Job) -> bool:
        """Whether another should have the worker now."""
        had = self._clock() - job.since
        if job.run.history.steps == job.begun:
            return False  # a net that is long in the building has its first picture all the same
        if not self._queue or had < _FIRST * self._slice or (other := self._ready()) is None:
            return False
        rank = self._ranks()
        if rank(other) != rank(job):
            return rank(other) < rank(job)
        return other.urgent or other.newcomer or had >= self._slice

    def _release(self, job: _Job) -> None:
        job.driven = False
        self._turn += 0.2 * (self._clock() - job.since - self._turn)

    def _end(self, job: _Job, outcome: Outcome) -> None:
        with self._changed:
            run = job.run
            if job.driven:
                self._release(job)
            job.training = job.records = None
            if not run.status.live:
                return
            if self._closing and outcome.status is Status.STOPPED:
                outcome = Outcome(Status.INTERRUPTED, message=INTERRUPTED)
            self._ended[outcome.status] += 1
            for heir in job.heirs:
                run.clients = with_one_more(run.clients, heir)
            run.end(outcome)
            self._set(job, outcome.status)

    # Store

    def _write(self) -> None:
        ended = False
        while not ended:
            ended = self._workers_ended.wait(_SAVE_EVERY)
            self._end_long_rests()
            self._flush(last=ended)

    def _flush(self, last: bool = False) -> None:
        with self._saving:
            try:
                self._store.tend(last)
                if "read" in self._troubles:
                    self._store.check()
                    self._fine("read")
                begun_again = self._generation != (generation := self._store.generation)
                with self._changed:
                    states = [(job, (job.run.status, job.run.history.steps)) for job in self._jobs.values()]
                    waiting = {job.run.id for job in self._jobs.values() if self._stays(job)}
                    held = [job for job, state in states if state[0].live and _held_back(job, state)]
                    changed = [(job, state) for job, state in states if begun_again or state != job.saved
                               or job.saved_waiting != (job.run.id in waiting)]  # fmt: skip
                    due = [(job, state) for job, state in changed if job not in held]
                    # What was started afresh and has come less far than what it was to replace is given up for that.
                    runs = {job: _instead(job) if _held_back(job, state) else job.run for job, state in due}
                    ended = [run for run in self._kept.values() if run.id not in self._jobs] if begun_again else []
                    turned = [job for job in held if job.saved_waiting != (job.run.id in waiting)]
                    ended += [job.replaces for job in (held if begun_again else turned)]
                if due or ended:
                    self._store.save(*ended, *runs.values(), whole=begun_again, waiting=waiting)
            except StoreError as error:
                self._warn("write", " ".join(filter(None, (str(error), self._unsavedin_words()))))
                return
            except Exception as error:  # the writer must outlive it
                log.exception("event=store-error")
                self._warn("write", in_words(error))
                return
            self._generation = generation
            self._fine("write")
            if self._clock() - self._refusal > _SAID:
                self._fine("delete")
            with self._changed:
                for job in turned:
                    job.saved_waiting = job.run.id in waiting
                for job, state in due:
                    job.saved, job.saved_waiting = state, job.run.id in waiting
                    if not state[0].live and self._jobs.get(job.run.id) is job:
                        del self._jobs[job.run.id]
                        self._keep(runs[job])
                    job.replaces = None

    def unsaved(self) -> list[Run]:
        """Ended runs that are in memory and not in the store."""
        with self._changed:
            return [job.run for job in self._jobs.values() if not job.run.status.live]

    def _unsavedin_words(self) -> str:
        with self._changed:
            live = sum(job.run.status.live for job in self._jobs.values())
        ended = len(self.unsaved())
        if not live and not ended:
            return ""
        text = _("In memory, but not kept yet: {live} runs that go on and {ended} that have ended.")
        return text.format(live=live, ended=ended)

    def _check_unsaved(self) -> None:
        """Raises Refused while the memory for runs that cannot be written is used up."""
        if "write" in self._troubles and sum(run.history.nbytes for run in self.unsaved()) > _UNSAVED_BYTES:
            raise Refused("disk", _("The runs that cannot be written have used up the memory for them: {reason}").format(
                reason=self.warning))  # fmt: skip

    def _at_hand(self) -> list[Run]:
        with self._changed:
            return list(self._kept.values())

    def _warn(self, word: str, sentence: str) -> None:
        """`word`: what does not go now."""
        if sentence != self._troubles.get(word):
            log.warning("event=store-warning message=%s", json.dumps(sentence))
        self._troubles[word] = sentence

    def _fine(self, word: str) -> None:
        if self._troubles.pop(word, None):
            log.info("event=store-fine what=%s", word)


def _held_back(job: _Job, state: tuple[Status, int]) -> bool:
    """Whether the store has more of the run that this one replaces."""
    status, steps = state
    whole = status in (Status.FINISHED, Status.DIVERGED)
    return job.replaces is not None and not whole and steps < job.replaces.history.steps


def _instead(job: _Job) -> Run:
    """The run that was to be replaced, and is not."""
    job.replaces.message = _("Started afresh, it ended after {steps} steps ({status}): what was recorded before is kept.").format(
        steps=job.run.history.steps, status=_(str(job.run.status)))  # fmt: skip
    return job.replaces


def _seconds_left(run: Run) -> float:
    """Of training, at the pace so far; nan before the first step."""
    history = run.history.snapshot()
    return (run.recipe.steps - history.steps) * float(history.seconds[-1]) / history.steps if history.steps else math.nan
