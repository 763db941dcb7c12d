"""The objects that belong to the process, not to a browser: settings, data, store and manager."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradviz import machine
from gradviz.lenet.config import READERS, RunConfig
from gradviz.lenet.data import Shelf
from gradviz.lenet.experiment import arithmetic_of, trainer_on
from gradviz.lenet.lessons.catalogue import LESSONS
from gradviz.messages import NOTHING
from gradviz.record.arithmetic import FREE, Arithmetic
from gradviz.record.spool import FOLDER
from gradviz.record.watched import Watched
from gradviz.serve.classroom import Classroom
from gradviz.serve.cradle import Started
from gradviz.serve.desk import Desk
from gradviz.serve.inbox import Inbox
from gradviz.serve.manager import RunManager
from gradviz.serve.people import People
from gradviz.serve.processes import Nursery
from gradviz.serve.sweeps import SweepRunner
from gradviz.settings import Settings
from gradviz.store.states import FOLDER as FOLDER_OF_STATES
from gradviz.store.states import States
from gradviz.store.store import RunStore
from gradviz.train.cores import Had
from gradviz.train.state import StateGone, weights_file
from gradviz.train.training import Train

if TYPE_CHECKING:
    from gradviz.cluster.cluster import Cluster


@dataclass(frozen=True)
class Server:
    settings: Settings
    shelf: Shelf
    store: RunStore[RunConfig]
    manager: RunManager
    sweeps: SweepRunner
    classroom: Classroom
    people: People
    nursery: Nursery | None  # None: trainings are threads of this process, or elsewhere
    desk: Desk  # for pictures of many runs
    inbox: Inbox  # of runs that are watched on other machines
    exports: Desk  # for files to take home; a slow line keeps its place for long
    cluster: Cluster | None = None  # whose computers train


class Once:
    """Builds a thing when it is first asked for, and gives the same one ever after, to every thread.

    Not a cache of Streamlit's: any browser may have those emptied, and a second server cannot open the first one's store.
    """

    def __init__(self, build: Callable[[], Server]):
        self.build = build  # may be another before the first call: a program with trainings of its own, say
        self._lock = threading.Lock()
        self._built: Server | None = None

    def __call__(self) -> Server:
        with self._lock:
            if self._built is None:
                self._built = self.build()
            return self._built

    def clear(self) -> None:
        """Forgets the thing, which must be closed: the next call builds another. For tests; no page and no route asks for it."""
        with self._lock:
            self._built = None


def build(
    train: Train[RunConfig] | None = None,
    arithmetic: Callable[[RunConfig], Arithmetic | None] | None = None,
    started: Started | None = None,
) -> Server:
    """By the GRADVIZ_* variables. `train` makes the trainings in the place of those that GRADVIZ_TRAIN_IN names; then
    `arithmetic` says what they compute with here (see RunManager), and without it nothing is said of their digits. `started`:
    the process of the nursery, if it is there already."""
    settings = Settings.from_environment()
    shelf = Shelf(settings.data, settings.download)
    store: RunStore[Any] = RunStore(settings.store, {**READERS, "watched": Watched.from_dict})
    limits, states, nursery, numbers = settings.limits, None, None, None
    cluster = _cluster(settings, shelf) if settings.ray and train is None else None
    if cluster:
        train = cluster  # whose computers may have several kinds of arithmetic
        manager = RunManager(store, train, None, 0, settings.threads, limits, memory_left=cluster.memory_left)
    else:
        if train is None:
            if limits.states:
                states = States(settings.store / FOLDER_OF_STATES, limits.states * 1e9, limits.free_disk)
            numbers = Numbers(settings)
            if settings.train_in == "process":
                nursery = Nursery(shelf, settings.threads, states=states, free=numbers.free, started=started)
            train, arithmetic = nursery or trainer_on(shelf, states), numbers.arithmetic
        manager = RunManager(store, train, arithmetic, settings.workers, settings.threads, limits, states=states)
        if numbers:
            numbers.manager = manager
    # One worker stays free of sweeps, for whoever presses Start.
    sweeps = SweepRunner(manager, settings.store / "sweeps", at_once=max(1, settings.workers - 1))
    if cluster:
        cluster.follow(partial(_resize, manager, sweeps))
    classroom = Classroom(settings.store / "classroom.json", settings.pin)
    people = People(settings.store / "people.secret")
    desk, exports = Desk(2, hope=15.0), Desk(4, share=2, hope=15.0)
    inbox = Inbox(settings.store / FOLDER, settings.limits)
    return Server(settings, shelf, store, manager, sweeps, classroom, people, nursery, desk, inbox, exports, cluster)


def _cluster(settings: Settings, shelf: Shelf) -> Cluster:
    from gradviz.cluster.cluster import Cluster  # here: who trains on this machine alone needs none of it

    cluster = Cluster(shelf, settings.ray, settings.threads, settings.workers)
    cluster.load(RunConfig().dataset)
    return cluster


def _resize(manager: RunManager, sweeps: SweepRunner, slots: int) -> None:
    """Computers have come or gone. Sweeps take all slots: a run of theirs gives its own to whoever presses Start."""
    manager.resize(slots)
    sweeps.at_once = max(1, slots)


def _of_lessons() -> frozenset[str]:
    """Ids of their nets, on one data set with one seed: the digits of a lesson are the same in every class."""
    return frozenset(replace(config, seed=0).id for lesson in LESSONS.values() for config in lesson.configs("digits"))


class Numbers:
    """With how many threads a run is computed: a fixed number where its digits are to be the same each time, those that it had
    where it is done again, else as many as cores are free."""

    def __init__(self, settings: Settings):
        self.manager: RunManager | None = None  # not yet there when it takes up what was waiting
        self._threads, self._of_lessons = settings.threads, _of_lessons()
        # Not in the server's own process: pages and a training would wait for each other, and its threads with it.
        self._may = settings.train_in == "process" and not settings.fixed

    def free(self, config: RunConfig) -> Had | None:
        """None of one with a fixed number; else what it repeats first."""
        if not self._follows(config):
            return None
        run = self.manager.at_hand(config.id) if self.manager else None
        if run and run.status.live and not run.clients:  # a sweep's, whose runs are compared with each other
            return None
        old = self.manager.repeated(config.id) if self.manager else None
        if old is None or not (had := self._again(config, old.arithmetic)):
            return Had()
        return Had(tuple((had.threads_from or {0: had.threads}).items()), old.history.steps)

    def arithmetic(self, config: RunConfig) -> Arithmetic | None:
        """What it would be computed with here; None if its device is not on this machine."""
        if not self._follows(config):
            return arithmetic_of(config, self._threads)
        run = self.manager.at_hand(config.id) if self.manager else None
        return (run and self._again(config, run.arithmetic)) or self._now(config)

    def _follows(self, config: RunConfig) -> bool:
        return self._may and replace(config, dataset="digits", seed=0).id not in self._of_lessons

    def _now(self, config: RunConfig) -> Arithmetic | None:
        found = arithmetic_of(config, self._threads)
        return replace(found, threads=1, thread_changes=FREE) if found and found.device == "cpu" else found

    def _again(self, config: RunConfig, had: Arithmetic | None) -> Arithmetic | None:
        """`had`, if its digits come again from the same numbers of threads, and this machine has so many cores."""
        if had is None or replace(had, threads=1, thread_changes=FREE) != self._now(config):
            return None
        return had if max(had.threads, *had.threads_from.values(), 1) <= int(machine.cores()) else None


# The only thing of a module that changes: pages and routes are given nothing by Streamlit that they could hold it by. One for
# all sessions and for the routes. Raises SettingsError for a GRADVIZ_* variable that cannot be used.
server = Once(build)


def newest_state(run_id: str) -> Path | None:
    """The file of the last state of its training that is kept."""
    states = States(server().settings.store / FOLDER_OF_STATES, 0)
    steps = states.steps(run_id)
    return states.path(run_id, steps[-1]) if steps else None


def weights(run_id: str) -> bytes | None:
    """The weights of that state as a safetensors file; None if none is kept."""
    try:
        return weights_file(path) if (path := newest_state(run_id)) else None
    except StateGone:
        return None


def notice() -> dict[str, str | bool]:
    """What every page follows: the class's lesson, lock and wall, and whether runs are kept."""
    return server().classroom.notice() | {"kept": kept_words()}


def kept_words(places: bool = False) -> str:
    """What is wrong with the keeping of runs, now or since the start, in sentences; empty if all is well. With `places` they
    say where on the server."""
    here = server()
    here.classroom.tend()
    away = here.cluster.trouble if here.cluster else NOTHING
    told = [away, here.manager.warning, *here.store.told, here.classroom.damage, here.sweeps.damage]
    return " ".join(str(message if places else message.without_places()) for message in told if message)


def close_server() -> None:
    here = server()
    here.sweeps.close()
    here.manager.close(timeout=1.5)
    if here.nursery:
        here.nursery.close()
    if here.cluster:
        here.cluster.close()
    here.inbox.close()
    here.store.close()
