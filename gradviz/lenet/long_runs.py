"""Trainings at the article's length, judged while they run; each is kept as one line of a file as soon as it has ended.

A short run tells what a net does in its first minute. The article trained for 10 epochs, and a net that is still at chance
after 300 steps may leave it after 6,700. These runs go that far, and stop before only where nothing can change any more.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from gradviz import messages
from gradviz.diagnosis.state import LEFT_CHANCE
from gradviz.lenet.config import FIELDS, RunConfig
from gradviz.lenet.diagnosis import CHANCE
from gradviz.lenet.fields import ConfigError
from gradviz.lenet.sweep import SLOW, cost
from gradviz.record.arithmetic import Arithmetic
from gradviz.record.history import StepRecord
from gradviz.record.quantities import QUANTITIES
from gradviz.train.training import Interrupted, Train
from gradviz.words import N_

EPOCH = 937  # steps: 60,000 images in batches of 64, what is left over dropped
STEPS = 10 * EPOCH
BATCH = 64
WINDOW = 100  # steps whose mean loss and accuracy are judged
LEARNT_AT = 0.9  # share of right answers
KEPT = Path(__file__).with_name("long_runs.jsonl")  # the runs that come with gradviz

LEARNT, UNDER_WAY, AT_CHANCE, DEAD, DIVERGED = N_("learnt"), N_("under way"), N_("at chance"), N_("dead"), N_("diverged")
OUTCOMES: dict[str, messages.Message] = {
    LEARNT: messages.say("means-learnt", steps=WINDOW, reached=LEARNT_AT),
    UNDER_WAY: messages.say("means-under-way", steps=WINDOW, below=CHANCE - LEFT_CHANCE, margin=LEFT_CHANCE),
    AT_CHANCE: messages.say("means-at-chance", above=CHANCE - LEFT_CHANCE, steps=STEPS),
    DEAD: messages.say("means-dead", steps=EPOCH),
    DIVERGED: messages.say("means-not-finite"),
}

_VERSION = 1  # of a kept line
_POINTS = 100  # of a kept curve
_PROFILES = ("weight_grad_rms", "signal_rms", "activation_rms", "weight_rms")  # kept of the first and the last step
# Treatments under which a layer that is dead stays dead: they leave a gradient of exactly 0 as it is.
_LEAVE_ZERO = ("none", "clip-norm", "clip-value")


class KeepError(messages.Told, RuntimeError):
    """The file of kept runs cannot be used; the message is one sentence."""


@dataclass(frozen=True)
class LongRun:
    """What is kept of one training."""

    recipe: RunConfig
    arithmetic: Arithmetic | None  # None: not known
    outcome: str  # a word of OUTCOMES
    steps: int  # done
    loss: float  # mean of the last WINDOW steps, nats
    accuracy: float  # mean of the last WINDOW steps, 0 … 1
    left_chance_at: int | None  # first step at which the mean loss of WINDOW steps was under chance − LEFT_CHANCE
    learnt_at: int | None  # first step at which the mean accuracy of WINDOW steps was LEARNT_AT
    test_accuracy: float | None  # on the whole test set, where the run went to its end
    seconds: float  # of training
    curve: tuple[tuple[float, ...], ...]  # (step, loss, accuracy, gradient of the first block, of the last), some POINTS
    start: Mapping[str, tuple[float, ...]] = field(repr=False)  # quantity -> number of each layer, at step 0
    end: Mapping[str, tuple[float, ...]] = field(repr=False)  # the same at the last step

    @property
    def trains(self) -> bool:
        return self.outcome == LEARNT

    def to_line(self) -> str:
        """One line of strict JSON; numbers that are not finite are the strings "nan", "inf", "-inf"."""
        values = asdict(self) | {"version": _VERSION, "config": self.recipe.to_query()}
        del values["recipe"]
        return json.dumps(_jsonable(values), allow_nan=False)

    @classmethod
    def from_line(cls, line: str) -> LongRun:
        """Raises ValueError, KeyError, TypeError or ConfigError for what is no such line."""
        values = json.loads(line)
        if (version := values.pop("version")) != _VERSION:
            raise ValueError(f"version {version}")
        query = values.pop("config")
        unknown = [name for name in query if name not in FIELDS]
        config, problems = RunConfig.from_query(query)
        if unknown or problems:
            no_such = messages.say("no-setting", given=", ".join(unknown)[:40], settings=", ".join(FIELDS))
            raise ConfigError("config", no_such if unknown else problems[0])
        for name in ("loss", "accuracy", "seconds"):
            values[name] = float(values[name])
        values["arithmetic"] = Arithmetic.from_dict(values["arithmetic"])
        values["curve"] = tuple(tuple(map(float, point)) for point in values["curve"])
        for name in ("start", "end"):
            values[name] = {quantity: tuple(map(float, row)) for quantity, row in values[name].items()}
        return cls(config, **values)


class Keep:
    """The long runs in one file, by their config. A run that was kept is never trained again.

    A line is on the disk before the next run begins, so that an interruption costs the run under way and nothing else.
    """

    def __init__(self, path: Path = KEPT):
        """Raises KeepError for a line that is not a run of this version. A last line that was cut off is left out."""
        self.path = Path(path)
        self._runs: dict[RunConfig, LongRun] = {}
        self._lock = threading.Lock()
        if self.path.exists() and not self.path.is_file():  # some devices are read for ever
            raise KeepError(messages.say("kept-no-file", path=str(self.path)))
        try:
            lines = self.path.read_text(encoding="utf-8").split("\n") if self.path.exists() else []
        except (OSError, UnicodeError) as error:
            raise KeepError(messages.say("kept-unreadable", path=str(self.path), why=type(error).__name__)) from error
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                run = LongRun.from_line(line)
            except (ValueError, KeyError, TypeError) as error:  # ConfigError is a ValueError
                if number == len(lines):
                    break  # no end of line: the writer was ended in the middle of it
                raise KeepError(
                    messages.say("kept-other-version", line=number, path=str(self.path), why=str(error))
                ) from error
            self._runs[run.recipe] = run

    def __iter__(self) -> Iterator[LongRun]:
        return iter(list(self._runs.values()))

    def __len__(self) -> int:
        return len(self._runs)

    def get(self, config: RunConfig) -> LongRun | None:
        return self._runs.get(config)

    def add(self, run: LongRun) -> None:
        """Raises KeepError if the disk refuses."""
        with self._lock:
            try:
                with open(self.path, "a+b") as file:
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)  # without a last line that was cut off
                    file.write(run.to_line().encode() + b"\n")
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                raise KeepError(messages.say("kept-unwritable", path=str(self.path), why=error.strerror)) from error
            self._runs[run.recipe] = run


class Judge:
    """Follows the records of one training; `verdict` is a word of OUTCOMES as soon as the rest of it cannot matter."""

    def __init__(self, config: RunConfig, early: bool = True):
        """`early`: what comes after LEARNT does not matter."""
        self.verdict: str | None = None
        self.left_chance_at: int | None = None
        self.learnt_at: int | None = None
        self._config, self._early = config, early
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._accuracies: deque[float] = deque(maxlen=WINDOW)
        self._silent = np.zeros(config.layers, int)  # steps in a row in which a layer handed on exact zeros
        # With a shortcut nothing is lost when a block falls silent. The last layer's numbers are the answer itself.
        passed = slice(0, config.layers - 1)
        self._all_pass = np.zeros(config.layers, bool)
        self._all_pass[passed] = True
        if config.shortcut:
            self._all_pass[config.layout.inside] = False
        self._curve: list[tuple[float, ...]] = []
        self._every = max(1, config.steps // _POINTS)
        self._first, self._last = config.layout.ends
        self._start: np.ndarray | None = None
        self._record: StepRecord | None = None

    def take(self, record: StepRecord) -> None:
        self._record = record
        self._start = record.layers.copy() if self._start is None else self._start
        self._losses.append(record.loss)
        self._accuracies.append(record.accuracy)
        if record.step % self._every == 0:
            self._note(record)
        if not math.isfinite(record.loss):
            self.verdict = DIVERGED
            return
        if len(self._losses) == WINDOW:
            if self.left_chance_at is None and self.loss < CHANCE - LEFT_CHANCE:
                self.left_chance_at = record.step
            if self.learnt_at is None and self.accuracy >= LEARNT_AT:
                self.learnt_at = record.step
                if self._early:
                    self.verdict = LEARNT
                    return
        silent = record.layers[list(QUANTITIES).index("activation_rms")] == 0
        self._silent = np.where(silent & self._all_pass, self._silent + 1, 0)
        if self._config.treatment in _LEAVE_ZERO and self._silent.max() >= EPOCH:
            self.verdict = DEAD

    @property
    def loss(self) -> float:
        return float(np.mean(self._losses))

    @property
    def accuracy(self) -> float:
        return float(np.mean(self._accuracies))

    def result(self, arithmetic: Arithmetic | None, test_accuracy: float | None) -> LongRun:
        """What is kept of the run that ended with the last record. Raises ValueError before the first."""
        record = self._record
        if record is None or self._start is None:
            raise ValueError("no step was taken")
        if not self._curve or self._curve[-1][0] != record.step:
            self._note(record)
        at_the_end = AT_CHANCE if self.loss >= CHANCE - LEFT_CHANCE else UNDER_WAY if self.accuracy < LEARNT_AT else LEARNT
        return LongRun(
            self._config, arithmetic, self.verdict or at_the_end, record.step + 1, self.loss, self.accuracy,
            self.left_chance_at, self.learnt_at, test_accuracy, round(record.seconds, 1), tuple(self._curve),
            _profiles(self._start), _profiles(record.layers),
        )  # fmt: skip

    def _note(self, record: StepRecord) -> None:
        gradient = record.layers[list(QUANTITIES).index("weight_grad_rms")]
        self._curve.append(
            (record.step, *map(_short, (self.loss, self.accuracy, gradient[self._first], gradient[self._last])))
        )


def train_all(
    configs: Iterable[RunConfig],
    keep: Keep,
    train: Train[RunConfig],
    arithmetic: Arithmetic | None,
    workers: int = 1,
    whole: Collection[RunConfig] = (),
    say: Callable[[str], None] = print,
    show: Callable[[str], None] = lambda line: None,
    until: float = math.inf,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Trains those that are not kept, in this order, `workers` at a time, and keeps each as it ends.

    Those in `whole` are not stopped when they have learnt; one that was kept earlier, and was stopped, is done again.
    `say` gets a line for each run that ended, `show` the state of affairs about once a second. No run begins that is
    expected to end after `until` (by `clock`). Raises what a training raises, once those under way have been given up;
    KeyboardInterrupt likewise.
    """
    waiting = deque(config for config in dict.fromkeys(configs) if not _enough(keep.get(config), config in whole))
    crew = _Crew(waiting, keep, train, arithmetic, whole, say, until, clock)
    threads = [threading.Thread(target=crew.work, name=f"long-run-{n}", daemon=True) for n in range(workers)]
    try:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            show(crew.state(workers))
            for thread in threads:
                thread.join(1.0 / workers)
    finally:
        crew.stopped.set()
        for thread in threads:
            thread.join()
    if crew.error:
        raise crew.error


def _enough(kept: LongRun | None, whole: bool) -> bool:
    return kept is not None and not (whole and kept.trains and kept.test_accuracy is None)


class _Crew:
    """The threads that take one config after the other."""

    def __init__(
        self,
        waiting: deque[RunConfig],
        keep: Keep,
        train: Train[RunConfig],
        arithmetic: Arithmetic | None,
        whole: Collection[RunConfig],
        say: Callable[[str], None],
        until: float,
        clock: Callable[[], float],
    ):
        self._waiting, self._all = waiting, len(waiting)
        self._keep, self._train, self._arithmetic = keep, train, arithmetic
        self._whole, self._say, self._until, self._clock = whole, say, until, clock
        self._lock = threading.Lock()
        self._under_way: dict[RunConfig, int] = {}  # -> steps done
        self._begun, self._work = clock(), 0.0  # units of sweep.cost done since then, by all workers
        self._ended = 0
        self.stopped = threading.Event()
        self.error: Exception | None = None

    def work(self) -> None:
        while (config := self._next()) is not None:
            try:
                run = self._one(config)
            except Exception as error:
                self.error = self.error or error
                self.stopped.set()
                return
            with self._lock:
                self._under_way.pop(config)
                self._ended += run is not None
            if run is None:
                return
            self._say(told(run))

    def _next(self) -> RunConfig | None:
        with self._lock:
            while self._waiting and not self.stopped.is_set():
                config = self._waiting.popleft()
                # Nothing measured yet: as slow as on a slow machine, so that what is surely too long is not begun.
                pace = self._pace() or 1 / SLOW
                if self._clock() + cost(config) * config.steps / pace * max(1, len(self._under_way)) > self._until:
                    continue  # a smaller one may still fit
                if self._clock() >= self._until:
                    return None
                self._under_way[config] = 0
                return config
        return None

    def _one(self, config: RunConfig) -> LongRun | None:
        """None if asked to stop meanwhile."""
        judge = Judge(config, early=config not in self._whole)
        try:
            training = self._train(config, self.stopped.is_set)
        except Interrupted:  # while the net was being made
            return None
        with closing(cast(Generator[StepRecord, None, None], iter(training))) as records:
            for record in records:
                judge.take(record)
                with self._lock:
                    self._under_way[config] = record.step + 1
                    self._work += cost(config)
                if judge.verdict or self.stopped.is_set():
                    break
        if not judge.verdict and (training.outcome is None or training.outcome.test_accuracy is None):
            return None
        run = judge.result(self._arithmetic, training.outcome.test_accuracy if training.outcome else None)
        self._keep.add(run)
        return run

    def _pace(self) -> float:
        """Work per second of all workers together; 0 if nothing is known yet."""
        spent = self._clock() - self._begun
        return self._work / spent if spent > 10 else 0.0

    def state(self, workers: int) -> str:
        """'[####----] 12 of 60 runs · at most 41 min left · 9 blocks relu step 812, …'"""
        with self._lock:
            left = sum(cost(config) * (config.steps - steps) for config, steps in self._under_way.items())
            left += sum(cost(config) * config.steps for config in self._waiting)
            done = self._ended / max(1, self._all)
            pace = self._pace()
            time_left = f"at most {left / pace / 60:.0f} min left" if pace else "the time is being measured"
            now = ", ".join(f"{config.blocks} {config.activation} step {steps:,}" for config, steps in self._under_way.items())
            bar = "#" * round(20 * done)
            return f"[{bar:-<20}] {self._ended} of {self._all} runs · {time_left} · {now}"


def told(run: LongRun) -> str:
    """'9 blocks · relu · adam 0.0003 · mnist · seed 0: learnt after 7,812 of 9,370 steps, accuracy 90 %, 301 s'"""
    config = run.recipe
    tested = "" if run.test_accuracy is None else f", test accuracy {run.test_accuracy:.1%}"
    return (
        f"{config.title} · seed {config.seed}: {run.outcome} after {run.steps:,} of {config.steps:,} steps, "
        f"loss {run.loss:.3g}, accuracy {run.accuracy:.0%}{tested}, {run.seconds:.0f} s"
    )


def _profiles(layers: np.ndarray) -> dict[str, tuple[float, ...]]:
    names = list(QUANTITIES)
    return {name: tuple(map(_short, layers[names.index(name)])) for name in _PROFILES}


def _short(value: float) -> float:
    """Three digits are enough for a picture."""
    return float(f"{float(value):.3g}")


def _jsonable(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {name: _jsonable(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return [_jsonable(each) for each in value]
    return value
