"""Previews: what a net shows at its first pass, before anybody has started it, computed in the background."""

from __future__ import annotations

import json
import logging
import threading
from collections import OrderedDict
from dataclasses import dataclass, field, replace

from gradviz.lenet.config import FIELDS, RunConfig
from gradviz.lenet.experiment import preview_images
from gradviz.messages import NOTHING, Message, say
from gradviz.record.history import StepRecord
from gradviz.serve.failures import in_words
from gradviz.serve.threads import daemon
from gradviz.train.device import limit_threads
from gradviz.train.training import Interrupted, Train

log = logging.getLogger("gradviz")

_KEPT_PREVIEWS = 64
_KEPT_PEOPLE = 1000  # whose turns with previews are remembered
_OF_ONE = 40  # previews that wait for one person; the newest
_LARGE = 8000  # images times blocks of a preview, LSUV ten times as many; about a second
_ASIDE = 3  # times that a large preview is laid aside for a small one
_SMALL_ONES = 8  # previews of small nets after which one of a large one has its turn
# What the first forward and backward pass does not depend on. Two configs that differ only here share a preview.
_AFTER_PREVIEW = ("treatment", "threshold", "optimizer", "lr", "warmup", "schedule", "steps", "changes")


@dataclass(eq=False)
class Preview:
    """What one forward and backward pass at initialisation shows. Once `ready` is set, `record` or `error` is there."""

    config: RunConfig  # what does not matter yet (optimiser, treatment, steps) at its default
    ready: threading.Event = field(default_factory=threading.Event)
    record: StepRecord | None = None
    error: Message = NOTHING
    clients: dict[str, str] = field(default_factory=dict)  # which pages wait for it -> whose they are
    dropped: threading.Event = field(default_factory=threading.Event)  # nobody does any more
    yields: threading.Event = field(default_factory=threading.Event)  # somebody else's small one goes before it
    aside: int = 0  # how often that has been
    looks: int = 0  # times that the measuring has asked whether to go on
    looks_in_all: int = 0  # 0: nobody knows

    def interrupted(self) -> bool:
        self.looks += 1
        return self.dropped.is_set() or self.yields.is_set()

    @property
    def id(self) -> str:
        return self.config.id

    @property
    def measured(self) -> RunConfig:
        """With the images that it is measured on."""
        return replace(self.config, batch_size=preview_images(self.config))

    @property
    def share(self) -> float | None:
        """How much of the measuring is done, 0 to 1; None where that is not known."""
        return min(1.0, self.looks / self.looks_in_all) if self.looks_in_all else None

    @property
    def seconds_per_step(self) -> float | None:
        """Estimated from the measured pass."""
        return self.record.seconds if self.record else None


class Previews:
    """One thread that computes previews: of each client only the newest wish, small nets first, people in turn.

    A large one is laid aside for a small one of somebody else, some times, and begun again after it.
    """

    def __init__(self, train: Train[RunConfig], threads: int):
        self._train, self._threads = train, threads
        self._known: OrderedDict[str, Preview] = OrderedDict()  # waiting, running or ready; last asked for last
        self._queue: list[Preview] = []
        self._running: Preview | None = None
        self._served: OrderedDict[str, int] = OrderedDict()  # person -> when he had his last one, counted
        self._count = self._small_ones = 0  # of previews begun; and of these the small ones since the last large one
        self._changed = threading.Condition()
        self._closing = False
        daemon(self._work, "preview")

    def ask(self, config: RunConfig, client: str, person: str) -> Preview:
        config = replace(config, **{name: FIELDS[name].default for name in _AFTER_PREVIEW})
        with self._changed:
            preview = self._known.get(config.id)
            if preview is None or preview.error:
                preview = Preview(config)
                self._known[preview.id] = preview
                self._queue.append(preview)
                self._changed.notify_all()
            preview.clients[client] = person
            self._known.move_to_end(preview.id)
            mine = [other for other in self._known.values() if other is not preview and client in other.clients]
            for other in mine:
                self._let_go(other, client)
            waiting = [other for other in self._queue if person and set(other.clients.values()) == {person}]
            for other in waiting[:-_OF_ONE]:  # more pages of one person than he can look at
                self._drop(other)
            ready = [known.id for known in self._known.values() if known.ready.is_set()]
            for id in ready[: max(0, len(self._known) - _KEPT_PREVIEWS)]:
                del self._known[id]
            running = self._running
            if running and preview in self._queue and _large(running) and not _large(preview) and running.aside < _ASIDE:
                if person not in running.clients.values():
                    running.yields.set()
        return preview

    def _let_go(self, preview: Preview, client: str) -> None:
        del preview.clients[client]
        if not preview.clients and not preview.ready.is_set():
            self._drop(preview)

    def _next(self) -> Preview:
        """Small before large, but after some small ones a large one; then whose people have waited longest."""
        def order(preview: Preview) -> tuple[bool, int]:
            large = _large(preview) != (self._small_ones >= _SMALL_ONES)
            return large, min((self._served.get(person, 0) for person in preview.clients.values()), default=0)

        preview = min(self._queue, key=order)
        self._queue.remove(preview)
        self._count += 1
        self._small_ones = 0 if _large(preview) else self._small_ones + 1
        for person in preview.clients.values():
            self._served[person] = self._count
            self._served.move_to_end(person)
        while len(self._served) > _KEPT_PEOPLE:
            self._served.popitem(last=False)
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
            self._finish(preview, None, say("preview-dropped"))

    def _work(self) -> None:
        limit_threads(self._threads)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closing)
                if self._closing:
                    return
                preview = self._running = self._next()
            record, error = None, NOTHING
            try:
                preview.looks_in_all = 0
                training = self._train(preview.config, preview.interrupted)
                preview.looks, preview.looks_in_all = 0, getattr(training, "looks_per_step", 0)  # a process does not say
                record = training.preview()
            except Interrupted:
                error = say("preview-dropped")
            except Exception as problem:  # whatever it is, the next preview must not suffer
                log.exception("event=preview-error summary=%s", json.dumps(preview.config.title))
                error = in_words(problem)
            with self._changed:
                self._running = None
                again = preview.yields.is_set() and record is None and not preview.dropped.is_set()
                if again and not self._closing:
                    preview.yields.clear()
                    preview.aside += 1
                    self._queue.append(preview)
                    continue
            self._finish(preview, record, error)

    def _finish(self, preview: Preview, record: StepRecord | None, error: Message) -> None:
        preview.record, preview.error = record, error
        preview.ready.set()


def _large(preview: Preview) -> bool:
    config = preview.config
    return config.blocks * preview_images(config) * (10 if config.init == "lsuv" else 1) >= _LARGE
