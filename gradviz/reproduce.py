"""python -m gradviz reproduce: every claim of the article put to the test, written up with numbers of these runs alone."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from gradviz import machine
from gradviz.charts.draft import save
from gradviz.lenet import article_length
from gradviz.lenet.config import READERS, RunConfig
from gradviz.lenet.data import Dataset, Shelf
from gradviz.lenet.experiment import resolve_device, trainer_on, training
from gradviz.lenet.idx import DataError
from gradviz.lenet.lessons.catalogue import LESSONS
from gradviz.lenet.lessons.lesson import BATCH, DEEP_STEPS, STEPS
from gradviz.lenet.long_runs import KEPT, Keep, KeepError, train_all
from gradviz.lenet.naming import remedy_name
from gradviz.lenet.outcome import FAILED, TRAINED, UNFINISHED, result, trained_already
from gradviz.lenet.sweep import SLOW, estimate
from gradviz.messages import say
from gradviz.record import arithmetic
from gradviz.record.run import Run, Status
from gradviz.report import OPTIMISER_NETS, OPTIMISERS, Report
from gradviz.serve.processes import Nursery
from gradviz.settings import Settings
from gradviz.store.store import RunStore, StoreError
from gradviz.train.device import device_text, here, limit_threads
from gradviz.train.training import Interrupted, Train, Training
from gradviz.words import ENGLISH, N_, speaking
from gradviz.words import gettext as _

EARLY = say("stopped-early")
QUICK_MINUTES = 15
_OTHERS = N_("{n} kept runs were computed with other arithmetic, or with one not noted: their outcomes count, not their digits.")

_PLAIN = RunConfig(batch_size=BATCH, steps=STEPS)
_CURED = replace(_PLAIN, steps=DEEP_STEPS)
# Remedy -> depths to look at, rising; the search stops once two in a row fail.
BORDERS: tuple[tuple[RunConfig, tuple[int, ...]], ...] = (
    (_PLAIN, (1, 2, 3, 4, 5, 6, 7)),
    (replace(_PLAIN, activation="relu"), (4, 5, 6, 7, 8, 9, 10)),
    (replace(_CURED, activation="relu", batch_norm=True), (12, 20, 40, 60, 80)),
    (replace(_CURED, shortcut=True), (12, 40, 100, 200)),
    (replace(_CURED, activation="relu", shortcut=True), (12, 40, 100, 200, 400, 1000)),
)
THOUSAND = tuple(
    replace(_PLAIN, activation=activation, shortcut=True, batch_norm=norm, blocks=1000, batch_size=64, steps=300)
    for activation, norm in (("sigmoid", False), ("relu", False), ("relu", True))
)


class TimeUp(Exception):
    """A run that is not kept yet would begin after the time that was given."""


class Bench:
    """Trains runs and keeps each in a store, so that a second start goes on after the last whole run."""

    def __init__(
        self,
        data: Dataset,
        store: RunStore[RunConfig],
        say: Callable[[str], None],
        device: str = "auto",
        seconds: float | None = None,
    ):
        """`seconds` of wall time that no run is expected to pass; None for as long as it takes.

        `run` may be called from several threads; one that is stopped meanwhile keeps nothing of its run.
        """
        self.stopped = threading.Event()
        self._data, self._store, self._say = data, store, say
        self._device = resolve_device(device)
        self.device = device_text(self._device)
        self._end = None if seconds is None else time.monotonic() + seconds
        self._made_with = here(self._device, 1)
        self.used: dict[str, Run[RunConfig]] = {}  # every run that was asked for, by id
        self.others: set[str] = set()  # ids of kept ones of other arithmetic among them

    def run(self, config: RunConfig, early: bool = True) -> Run[RunConfig]:
        """The kept run of this config, or a new one. `early`: enough once it counts as trained. Raises TimeUp, if stopped too."""
        config = replace(config, dataset=self._data.name)
        kept = self._store.load(config.id)
        if kept and not kept.status.live and result(kept).outcome not in (UNFINISHED, FAILED):
            if early or kept.status is not Status.STOPPED:
                self.used[kept.id] = kept
                if arithmetic.differences(kept.arithmetic, self._made_with):
                    self.others.add(kept.id)
                return kept
        expected = 0.0 if self._device.type == "cuda" else estimate([config], SLOW)
        if self._end is not None and time.monotonic() + expected > self._end:
            raise TimeUp
        run = Run.begun(config, device=self.device)
        limit_threads(1)
        try:
            trainer = training(config, self._data, self._device, self.stopped.is_set)
        except Interrupted:
            raise TimeUp from None
        run.arithmetic = trainer.arithmetic
        for record in trainer:
            run.take(record)
            if record.step + 1 == config.steps:
                run.status = Status.FINISHED  # not asking on leaves out the full test, which takes longer than many a run here
                break
            if early and trained_already(run):
                run.status, run.message = Status.STOPPED, EARLY
                break
        else:
            assert trainer.outcome is not None  # the iteration has ended
            run.end(trainer.outcome)
            if self.stopped.is_set():
                raise TimeUp
        self._store.save(run)
        self.used[run.id] = run
        found = result(run)
        self._say(_("{net} · seed {seed}: {outcome} after {done} of {steps} steps, loss {loss:.3g}, {seconds:.0f} s").format(
            net=config.title, seed=config.seed, outcome=_(found.outcome), done=found.steps, steps=config.steps,
            loss=found.loss, seconds=found.seconds,
        ))  # fmt: skip
        return run

    def find_border(self, base: RunConfig, depths: Sequence[int], seeds: Sequence[int]) -> Iterable[Run[RunConfig]]:
        """The first seed over rising depths until two in a row fail; all seeds from two depths before the first failure on."""
        trained: list[bool] = []
        for blocks in depths:
            run = self.run(replace(base, blocks=blocks, seed=seeds[0]))
            yield run
            trained.append(result(run).outcome == TRAINED)
            if trained[-2:] == [False, False]:
                break
        edge = trained.index(False) if False in trained else len(trained)  # the first depth that failed
        near = range(max(0, edge - 2), len(trained))  # a deeper one may train again before two in a row fail
        for seed in seeds[1:]:
            for place in near:
                yield self.run(replace(base, blocks=depths[place], seed=seed))

def reproduce(
    settings: Settings,
    out: Path,
    quick: bool,
    seeds: int | None = None,
    minutes: float | None = None,
    dataset: str = "mnist",
    article: bool = False,
    at_once: int | None = None,
    kept: Path = KEPT,
) -> Path:
    """Runs what is not yet kept, and writes `out`/reproduction.md with its pictures. Returns the path of the text.

    `seeds` near each border: 1 if quick, else 3. `minutes` that no new run is expected to pass: QUICK_MINUTES if quick,
    else as long as it takes. `article`: the runs of the article's length first, kept in the file `kept`. `at_once`: trainings
    at the same time, one per core if None. Raises DataError if the data set cannot be had, StoreError if the store is in
    use, KeepError if `kept` cannot be used.
    """
    keep = Keep(kept)
    at_once = at_once or max(1, int(machine.cores()))
    minutes = QUICK_MINUTES if quick and minutes is None else minutes
    begun = time.monotonic()
    shelf = Shelf(settings.data, settings.download)
    shelf.request(dataset)
    shelf.wait(dataset)
    name, replaced = shelf.effective(dataset)
    if article:
        if name != "mnist":
            raise DataError(say("kept-need-mnist", why=replaced or say("other-data-set", name=dataset)))
        until = math.inf if minutes is None else begun + 60 * minutes
        with _trainings(shelf) as train:
            _long_runs(keep, train, at_once, until)
    if replaced:
        _say(str(replaced))
    data = shelf.load(name)
    places = range(seeds if seeds else 1 if quick else 3)
    store = RunStore(settings.store / "reproduction", READERS)
    try:
        left = None if minutes is None else 60 * minutes - (time.monotonic() - begun)
        bench = Bench(data, store, _say, seconds=left)
        command = "python -m gradviz reproduce" + " --article" * article + " --quick" * quick
        command += f" --seeds {seeds}" if seeds else ""
        report = Report(name, bench.device, command, places, {}, [], [], [], [], list(keep))
        with _ahead(bench, at_once) as ahead:
            for stage in (_lessons, _borders, _optimisers, _thousand_blocks):
                stage(bench, report, ahead)
                path = _write(report, out)
                _say(_("{path} is up to date").format(path=path))
        if bench.others:
            _say(_(_OTHERS).format(n=f"{len(bench.others)} of {len(bench.used)}"))
    finally:
        store.close()
    return path


@contextmanager
def _trainings(shelf: Shelf) -> Iterator[Train[RunConfig]]:
    """What makes a training of one thread: a process of its own where the system has such, else in the calling thread."""
    if sys.platform == "linux":
        nursery = Nursery(shelf, threads=1)
        try:
            yield nursery
        finally:
            nursery.close()
    else:
        trains_here = trainer_on(shelf)

        def train(config: RunConfig, interrupt: Callable[[], bool]) -> Training:
            limit_threads(1)
            return trains_here(config, interrupt)

        yield train


def _long_runs(keep: Keep, train: Train[RunConfig], at_once: int, until: float) -> None:
    """The plan, then what its results ask for, until nothing new is asked or the time is up."""
    show = _Progress()
    made_with = here(resolve_device("auto"), 1)
    others = sum(run.arithmetic != made_with for run in keep)
    if others:
        _say(_(_OTHERS).format(n=f"{others} of {len(keep)}"))
    before = -1
    while before < len(keep):
        before = len(keep)
        train_all(article_length.plan(), keep, train, made_with, at_once, article_length.WHOLE, show.say, show.state, until)
        train_all(article_length.follow_up(keep.get), keep, train, made_with, at_once, (), show.say, show.state, until)


class _Progress:
    """One line that moves on a terminal; elsewhere a line a minute."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._shown = -math.inf

    def state(self, line: str) -> None:
        if self._terminal:
            print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)
        elif time.monotonic() - self._shown >= 60:
            self._shown = time.monotonic()
            _say(line)

    def say(self, line: str) -> None:
        _say(f"\r{line}\x1b[K" if self._terminal else line)


Ahead = Callable[[Iterable[Callable[[], object]]], None]


@contextmanager
def _ahead(bench: Bench, at_once: int) -> Iterator[Ahead]:
    """Has `at_once` threads do pieces of work whose results the caller then finds kept; each ends at TimeUp."""
    with ThreadPoolExecutor(at_once) as pool:

        def work(piece: Callable[[], object]) -> None:
            try:
                piece()
            except TimeUp:
                pass

        def ahead(pieces: Iterable[Callable[[], object]]) -> None:
            list(pool.map(work, pieces))

        try:
            yield ahead
        finally:
            bench.stopped.set()


def _lessons(bench: Bench, report: Report, ahead: Ahead) -> None:
    asked = [(config, lesson.early) for lesson in LESSONS.values() for config in lesson.configs(report.data)]
    ahead(partial(bench.run, config, early) for config, early in dict.fromkeys(asked))
    missing = []
    for lesson in LESSONS.values():
        try:
            runs = [bench.run(config, lesson.early) for config in lesson.configs(report.data)]
        except TimeUp:
            missing.append(lesson.title)
            continue
        with speaking(ENGLISH):  # of the document
            report.lessons[lesson.id] = lesson.conclude(runs), runs
    if missing:
        report.left_out.append("The time was up before these were run: " + "; ".join(missing) + ".")


def _borders(bench: Bench, report: Report, ahead: Ahead) -> None:
    # The deepest nets last: they take longest, and each search is one piece of work.
    ahead(partial(list, bench.find_border(base, depths, report.seeds)) for base, depths in BORDERS)
    for base, depths in BORDERS:
        try:
            report.borders.extend(bench.find_border(base, depths, report.seeds))
        except TimeUp:
            report.left_out.append(f"The time was up before the border of {remedy_name(base)} was searched to its end.")


def _optimisers(bench: Bench, report: Report, ahead: Ahead) -> None:
    configs = [
        replace(_PLAIN, activation=activation, blocks=blocks, optimizer=optimizer, lr=lr)
        for optimizer, lr in OPTIMISERS for activation, blocks in OPTIMISER_NETS
    ]  # fmt: skip
    ahead(partial(bench.run, config) for config in configs)
    try:
        report.optimisers.extend(map(bench.run, configs))
    except TimeUp:
        report.left_out.append("The time was up before all optimisers were tried.")


def _thousand_blocks(bench: Bench, report: Report, _ahead: Ahead) -> None:
    if not report.device.startswith("cuda"):
        report.left_out.append(
            "Whether 1000 blocks train to the end: 300 steps of a batch of 64 take half an hour for each net on a processor, so "
            "they are run only where a CUDA card is at hand. None was; the runs of claim 8 show the first steps of them."
        )
        return
    try:
        for config in THOUSAND:
            report.thousand.append(bench.run(config))
    except TimeUp:
        report.left_out.append("The time was up before 1000 blocks were trained.")


def _write(report: Report, out: Path) -> Path:
    """The document is English, whatever the terminal speaks."""
    with speaking(ENGLISH):
        return _written(report, out)


def _written(report: Report, out: Path) -> Path:
    folder = out / "reproduction"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        save(report.figures(folder))
    except RuntimeError as error:
        _say(str(error))
    path = out / "reproduction.md"
    text = report.text((file.name for file in folder.glob("*.svg")), beside=[file.name for file in out.iterdir()])
    path.write_text(text, encoding="utf-8")
    return path

def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(given: dict[str, Any]) -> int:
    """The command line's half: 0 done, 1 failed."""
    given["kept"] = Path(given.get("kept") or KEPT)
    try:
        reproduce(Settings.from_environment(), Path(given.pop("out")), **given)
    except (DataError, StoreError, KeepError, OSError) as error:
        _say(str(error))
        return 1
    return 0
