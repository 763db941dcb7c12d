"""RunManager: who trains when. The queue, the workers, pause and stop, and the writing of the store.

These are the only threads of gradviz. A worker does nothing but `for record in training`; a paused training is a
generator that nobody asks, so that it costs its memory and no worker. Nothing here knows how records come about: a
training in another process, with the same records, fits the same loop.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch

from gradviz.config import FIELDS, ConfigError, RunConfig
from gradviz.data import DataError, Shelf
from gradviz.probe import Interrupted
from gradviz.runs import History, Outcome, Run, Status, StepRecord, max_columns
from gradviz.store import INTERRUPTED, RunStore, StoreError, Summary
from gradviz.trainer import Trainer, device_text, resolve_device

log = logging.getLogger("gradviz")

_SAVE_EVERY = 0.4  # seconds; with the time of the writing itself a kill costs less than one second of records
_KEPT_BYTES = 128e6  # of ended runs held in memory; the store has them all
_KEPT_PREVIEWS = 64
_AFRESH = (Status.INTERRUPTED, Status.STOPPED, Status.FAILED)
# What the first forward and backward pass does not depend on. Two configs that differ only here share a preview.
_AFTER_PREVIEW = ("treatment", "threshold", "optimizer", "lr", "steps")


class Training(Protocol):
    """What the manager asks of a Trainer."""

    device: torch.device
    outcome: Outcome | None  # how it ended, once the iteration has

    def __iter__(self) -> Iterator[StepRecord]: ...

    def preview(self) -> StepRecord: ...


Train = Callable[[RunConfig, Callable[[], bool]], Training]  # (config, interrupt)


def trainer_on(shelf: Shelf) -> Train:
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
    stop: threading.Event = field(default_factory=threading.Event)
    held: bool = False  # a pause was asked for
    steps: int = 0  # single steps asked for while held
    driven: bool = False  # a worker has it
    training: Training | None = None
    records: Iterator[StepRecord] | None = None
    saved: tuple[Status, int] | None = None  # status and steps that are in the store


class RunManager:
    """Runs equal configs once, at most `workers` at a time, and keeps what they record. All methods return at once.

    Every method may be called from any thread. An id that is not known, or a wish that does not fit the state of the
    run (resuming one that runs, say), is ignored: two people press buttons at the same time.
    """

    def __init__(self, store: RunStore, shelf: Shelf, workers: int = 1, threads: int = 1, train: Train | None = None):
        """`threads`: processor threads of each training. `train`: what makes a training, `trainer_on(shelf)` by default."""
        self.warning = ""  # one sentence while the store refuses to write, else empty
        self._store, self._threads = store, threads
        self._train = train or trainer_on(shelf)
        self._jobs: dict[str, _Job] = {}
        self._queue: deque[_Job] = deque()
        self._kept: OrderedDict[str, Run] = OrderedDict()  # ended and in the store, last used last
        self._changed = threading.Condition(threading.RLock())
        self._saving = threading.Lock()  # taken before _changed, never after
        self._closing = False
        self._workers_ended = threading.Event()
        self._workers = [_daemon(self._work, f"worker-{number}") for number in range(workers)]
        self._writer = _daemon(self._write, "store-writer")
        self._previews = _Previews(self._train, threads)

    # Runs

    def start(self, config: RunConfig, again: bool = False) -> Run:
        """The run of this config: the live or kept one if there is one, else a new one at the end of the queue.

        `again` starts an interrupted, stopped or failed run afresh, in place of its records. Raises RuntimeError once
        the manager is closed.
        """
        kept = self.get(config.run_id)
        with self._changed:
            if self._closing:
                raise RuntimeError("The run manager is closed.")
            job = self._jobs.get(config.run_id)
            kept = job.run if job else kept
            if kept and not (again and kept.status in _AFRESH):
                return kept
            job = _Job(Run(config, History(config.layers, max_columns(config.layers))))
            self._jobs[config.run_id] = job
            self._kept.pop(config.run_id, None)
            self._queue.append(job)
            self._changed.notify_all()
        _log("queued", job.run, summary=config.summary)
        return job.run

    def get(self, id: str) -> Run | None:
        """The live run, or the kept one with its records."""
        with self._changed:
            if job := self._jobs.get(id):
                return job.run
            if run := self._kept.get(id):
                self._kept.move_to_end(id)
                return run
        try:
            run = self._store.load(id)
        except StoreError as error:
            self._warn(str(error))
            return None
        with self._changed:
            if job := self._jobs.get(id):  # started meanwhile
                return job.run
            if run:
                self._keep(run)
        return run

    def list(self) -> list[Summary]:
        """All runs without their records, newest first."""
        with self._changed:
            live = {id: Summary.of(job.run) for id, job in self._jobs.items()}
        try:
            kept = self._store.list()
        except StoreError as error:
            self._warn(str(error))
            kept = []
        summaries = [*live.values(), *(summary for summary in kept if summary.id not in live)]
        return sorted(summaries, key=lambda summary: summary.created, reverse=True)

    def position(self, id: str) -> int | None:
        """1 for the next in the queue; None if the run does not wait for a worker."""
        with self._changed:
            return next((place for place, job in enumerate(self._queue, 1) if job.run.id == id), None)

    def wait(self, id: str, timeout: float | None = None) -> bool:
        """Waits until the run is no longer live. False if it still is after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: id not in self._jobs or not self._jobs[id].run.status.live, timeout)

    # Wishes

    def pause(self, id: str) -> None:
        """Takes effect after the step that is being done; the worker is then free for others."""
        with self._changed:
            job = self._live(id)
            if job and not job.held:
                job.held, job.steps = True, 0
                if not job.driven:
                    self._queue.remove(job)
                    self._set(job, Status.PAUSED)

    def resume(self, id: str) -> None:
        """Goes on as soon as a worker is free, before runs that have not begun."""
        with self._changed:
            job = self._live(id)
            if job and job.held:
                job.held, job.steps = False, 0
                if job.driven:
                    self._set(job, Status.RUNNING)
                else:
                    self._to_the_front(job)
                    self._set(job, Status.QUEUED)

    def step(self, id: str) -> None:
        """One more step of a paused run, which stays paused; several calls are several steps."""
        with self._changed:
            job = self._live(id)
            if job and job.held:
                job.steps += 1
                if not job.driven:
                    self._to_the_front(job)

    def stop(self, id: str) -> None:
        """Ends the run, also in the middle of a step. Its records are kept."""
        with self._changed:
            if job := self._live(id):
                self._stop(job)

    def delete(self, id: str) -> None:
        """Stops the run and removes it with its records, from the store too."""
        with self._saving:
            with self._changed:
                self._kept.pop(id, None)
                if job := self._jobs.get(id):
                    if job.run.status.live:
                        self._stop(job)
                    del self._jobs[id]
            try:
                self._store.delete(id)
            except StoreError as error:
                self._warn(str(error))
        log.info("event=deleted run=%s", json.dumps(id))

    def close(self, timeout: float = 2.0) -> None:
        """Ends all live runs as interrupted and writes everything that is not yet in the store. The store stays open."""
        deadline = time.monotonic() + timeout
        self._previews.close()
        with self._changed:
            self._closing = True
            for job in list(self._jobs.values()):
                if job.run.status.live:
                    self._stop(job)
            self._changed.notify_all()
        for worker in self._workers:
            worker.join(max(0.0, deadline - time.monotonic() - 0.5))  # half a second is the writer's
        for job in list(self._jobs.values()):
            self._end(job, Outcome(Status.STOPPED))  # of a worker that is stuck in an operation
        self._workers_ended.set()
        self._writer.join(max(0.1, deadline - time.monotonic()))

    # Previews

    def preview(self, config: RunConfig, client: str = "") -> Preview:
        """The first forward and backward pass of this config, computed in the background.

        The newest wish of a `client` counts: it drops an older one of the same client that is not ready.
        """
        return self._previews.ask(config, client)

    def get_preview(self, id: str) -> Preview | None:
        """The preview with this `Preview.id`, if it was asked for and is not forgotten."""
        return self._previews.get(id)

    # Under the lock

    def _live(self, id: str) -> _Job | None:
        job = self._jobs.get(id)
        return job if job and job.run.status.live and not job.stop.is_set() else None

    def _set(self, job: _Job, status: Status) -> None:
        job.run.status = status
        self._changed.notify_all()
        _log(status, job.run, steps=job.run.history.steps)

    def _to_the_front(self, job: _Job) -> None:
        if job not in self._queue:
            self._queue.appendleft(job)
            self._changed.notify_all()

    def _stop(self, job: _Job) -> None:
        job.stop.set()
        if not job.driven:
            if job in self._queue:
                self._queue.remove(job)
            self._end(job, Outcome(Status.STOPPED))

    def _keep(self, run: Run) -> None:
        self._kept[run.id] = run
        self._kept.move_to_end(run.id)
        while len(self._kept) > 1 and sum(kept.history.nbytes for kept in self._kept.values()) > _KEPT_BYTES:
            self._kept.popitem(last=False)

    # Workers

    def _work(self) -> None:
        _limit_threads(self._threads)
        while job := self._next():
            self._drive(job)

    def _next(self) -> _Job | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            if self._closing:
                return None
            job = self._queue.popleft()
            job.driven = True
            if not job.held:
                self._set(job, Status.RUNNING)
            return job

    def _drive(self, job: _Job) -> None:
        """Trains until the run ends or is paused."""
        run = job.run
        try:
            if job.training is None:
                job.training = self._train(run.config, job.stop.is_set)
                run.device = device_text(job.training.device)
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
        except Exception as error:  # whatever it is, it is the end of this run and not of the worker
            log.exception("event=error run=%s steps=%d", run.id, run.history.steps)
            outcome = Outcome(Status.FAILED, message=_sentence(error))
        self._end(job, outcome)

    def _goes_on(self, job: _Job) -> bool:
        """Whether the worker may ask for another step. If not, the job is no longer the worker's."""
        with self._changed:
            if not job.held or job.stop.is_set():
                return True
            if job.steps:
                job.steps -= 1
                return True
            job.driven = False
            self._set(job, Status.PAUSED)
            return False

    def _end(self, job: _Job, outcome: Outcome) -> None:
        with self._changed:
            run = job.run
            job.driven, job.training, job.records = False, None, None
            if not run.status.live:
                return
            if self._closing and outcome.status is Status.STOPPED:
                outcome = Outcome(Status.INTERRUPTED, message=INTERRUPTED)
            run.test_accuracy, run.message, run.deletion = outcome.test_accuracy, outcome.message, outcome.deletion
            self._set(job, outcome.status)  # last: who reads an ended run finds it complete

    # Store

    def _write(self) -> None:
        ended = False
        while not ended:
            ended = self._workers_ended.wait(_SAVE_EVERY)
            self._flush()

    def _flush(self) -> None:
        with self._saving:
            with self._changed:
                states = [(job, (job.run.status, job.run.history.steps)) for job in self._jobs.values()]
                due = [(job, state) for job, state in states if state != job.saved]
            if not due:
                return
            try:
                self._store.save(*(job.run for job, _ in due))
            except StoreError as error:
                self._warn(f"{error} The runs go on, but what they record is not kept.")
                return
            except Exception as error:  # the writer must outlive it
                log.exception("event=store-error")
                self._warn(_sentence(error))
                return
            self.warning = ""
            with self._changed:
                for job, state in due:
                    job.saved = state
                    if not state[0].live and self._jobs.get(job.run.id) is job:
                        del self._jobs[job.run.id]
                        self._keep(job.run)

    def _warn(self, sentence: str) -> None:
        if sentence != self.warning:
            log.warning("event=store-warning message=%s", json.dumps(sentence))
        self.warning = sentence


@dataclass(eq=False)
class Preview:
    """What one forward and backward pass at initialisation shows. Once `ready` is set, `record` or `error` is there."""

    config: RunConfig  # what does not matter yet (optimiser, treatment, steps) at its default
    ready: threading.Event = field(default_factory=threading.Event)
    record: StepRecord | None = None
    error: str = ""  # one sentence
    clients: set[str] = field(default_factory=set)  # who waits for it
    dropped: threading.Event = field(default_factory=threading.Event)  # nobody does any more

    @property
    def id(self) -> str:
        return self.config.run_id

    @property
    def seconds_per_step(self) -> float | None:
        """Estimated from the measured pass."""
        return self.record.seconds if self.record else None


class _Previews:
    """One thread that computes previews, first come first served, the newest wish of each client only."""

    def __init__(self, train: Train, threads: int):
        self._train, self._threads = train, threads
        self._known: OrderedDict[str, Preview] = OrderedDict()  # waiting, running or ready; last asked for last
        self._queue: deque[Preview] = deque()
        self._changed = threading.Condition()
        self._closing = False
        _daemon(self._work, "preview")

    def ask(self, config: RunConfig, client: str) -> Preview:
        config = replace(config, **{name: FIELDS[name].default for name in _AFTER_PREVIEW})
        with self._changed:
            preview = self._known.get(config.run_id)
            if preview is None or preview.error:
                preview = Preview(config)
                self._known[preview.id] = preview
                self._queue.append(preview)
                self._changed.notify_all()
            preview.clients.add(client)
            self._known.move_to_end(preview.id)
            for other in [other for other in self._known.values() if client in other.clients and other is not preview]:
                other.clients.remove(client)
                if not other.clients and not other.ready.is_set():
                    self._drop(other)
            ready = [known.id for known in self._known.values() if known.ready.is_set()]
            for id in ready[: max(0, len(self._known) - _KEPT_PREVIEWS)]:
                del self._known[id]
        return preview

    def get(self, id: str) -> Preview | None:
        with self._changed:
            return self._known.get(id)

    def close(self) -> None:
        with self._changed:
            self._closing = True
            for preview in [known for known in self._known.values() if not known.ready.is_set()]:
                self._drop(preview)
            self._changed.notify_all()

    def _drop(self, preview: Preview) -> None:
        preview.dropped.set()
        del self._known[preview.id]
        if preview in self._queue:
            self._queue.remove(preview)
            self._finish(preview, None, "Another preview was asked for meanwhile.")

    def _work(self) -> None:
        _limit_threads(self._threads)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closing)
                if self._closing:
                    return
                preview = self._queue.popleft()
            record, error = None, ""
            try:
                record = self._train(preview.config, preview.dropped.is_set).preview()
            except Interrupted:
                error = "Another preview was asked for meanwhile."
            except Exception as problem:  # whatever it is, the next preview must not suffer
                log.exception("event=preview-error summary=%s", json.dumps(preview.config.summary))
                error = _sentence(problem)
            self._finish(preview, record, error)

    def _finish(self, preview: Preview, record: StepRecord | None, error: str) -> None:
        preview.record, preview.error = record, error
        preview.ready.set()


def _daemon(work: Callable[[], None], name: str) -> threading.Thread:
    """A thread that does not keep the process from ending."""
    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    return thread


def _limit_threads(threads: int) -> None:
    # The first torch operation of a thread sets its number of threads to the last one that any thread asked for,
    # unless the number was read before it was set.
    torch.get_num_threads()
    torch.set_num_threads(threads)


def _sentence(error: Exception) -> str:
    """What went wrong, for a student; the log has the rest."""
    if isinstance(error, (ConfigError, DataError, StoreError)):
        return str(error)
    text = str(error).lower()
    if (
        isinstance(error, MemoryError)
        or "out of memory" in text
        or "can't allocate memory" in text
        or "not enough memory" in text
    ):
        return "The memory does not suffice for this net: choose fewer blocks or a smaller batch."
    return f"The training met an error of its own ({type(error).__name__}); the server's log has the details."


def _log(event: str, run: Run, **more: object) -> None:
    """One line of key=value for each event of a run."""
    pairs = {"event": str(event), "run": run.id, **more}
    if run.message:
        pairs["message"] = run.message
    log.info(" ".join(f"{key}={json.dumps(value) if ' ' in str(value) else value}" for key, value in pairs.items()))
