"""The records of a training, one per step, and the bounded history that keeps them."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradviz.record.quantities import QUANTITIES
from gradviz.record.sample import AnatomySample, PackedSample


@dataclass(frozen=True)
class StepRecord:
    """One training step. The gradients are those before this step's update; step 0 is the net at initialisation."""

    step: int
    loss: float  # mean cross-entropy of the batch, nats; may be inf or nan
    accuracy: float  # share of the batch classified right, 0 … 1
    layers: np.ndarray  # float32 (quantities of its History, layers)
    seconds: float  # since the training began, pauses not counted
    test_accuracy: float | None = None  # on the fixed test subset, with the weights before this step's update
    nonfinite_layer: str | None = None  # where inf or nan first appears, forward pass first
    anatomy: AnatomySample | PackedSample | None = None  # at sample.sampled_steps only


class History:
    """Every step's loss and accuracy, and at most `max_columns` columns of per-layer numbers.

    A column covers `stride` neighbouring steps and holds their maximum, so that a one-step explosion is never
    lost; when the columns are full, neighbours are merged and the stride doubles. One thread appends; other threads
    read through `snapshot`, so that stride, steps and columns always belong together.
    """

    def __init__(self, layers: int, max_columns: int = 1000, quantities: Sequence[str] | None = None):
        if max_columns < 2 or max_columns % 2:
            raise ValueError(f"max_columns must be an even number of 2 or more, not {max_columns}")
        self.layers, self.max_columns, self.quantities = layers, max_columns, tuple(quantities or QUANTITIES)
        self.stride = 1
        self.steps = 0
        self._columns = np.full((min(64, max_columns), len(self.quantities), layers), np.nan, np.float32)
        self._scalars = np.full((1024, 3), np.nan)  # loss, accuracy, seconds
        self.tests: list[tuple[int, float]] = []  # (step, accuracy on the fixed test subset)
        self.samples: list[PackedSample] = []  # by rising step
        self._lock = threading.RLock()  # the garbage collector may call what ends a run amid any of it

    @classmethod
    def restored(
        cls,
        columns: np.ndarray,
        scalars: np.ndarray,
        tests: list[tuple[int, float]],
        stride: int,
        max_columns: int,
        samples: Sequence[PackedSample] = (),
        quantities: Sequence[str] | None = None,
    ) -> History:
        """The history kept as `columns`, `scalars` (float64 (steps, 3): loss, accuracy, seconds), `tests` and `samples`."""
        history = cls(columns.shape[2], max_columns, quantities)
        history.stride, history.steps, history.tests = stride, len(scalars), list(tests)
        history.samples = list(samples)
        history._columns = _grown(columns, max(len(columns), len(history._columns)))
        history._scalars = _grown(scalars, max(len(scalars), len(history._scalars)))
        return history

    def snapshot(self, steps: int | None = None) -> History:
        """A consistent view for another thread, of all or of the first `steps`, which are whole columns. It shares the arrays:
        only its last column may still change, and those that `fill` is yet to have."""
        view = History.__new__(History)
        with self._lock:
            view.__dict__.update(self.__dict__)
            view.steps = self.steps if steps is None else min(steps, self.steps)
            view.tests = [test for test in self.tests if test[0] < view.steps]
            view.samples = [sample for sample in self.samples if sample.step < view.steps]
        return view

    def until(self, step: int) -> History | None:
        """A copy of the records of the steps before `step`; None if they do not end there with a column."""
        with self._lock:
            if not 0 < step <= self.steps or (step % self.stride and step != self.steps):
                return None
            tests = [test for test in self.tests if test[0] < step]
            samples = [sample for sample in self.samples if sample.step < step]
            columns = self._columns[: math.ceil(step / self.stride)].copy()
            return History.restored(
                columns, self._scalars[:step].copy(), tests, self.stride, self.max_columns, samples, self.quantities
            )

    @property
    def columns(self) -> np.ndarray:
        """float32 (columns, len(quantities), layers); the last column may still grow, and those that `fill` is yet to have."""
        return self._columns[: math.ceil(self.steps / self.stride)]

    @property
    def loss(self) -> np.ndarray:
        """float64 (steps,)"""
        return self._scalars[: self.steps, 0]

    @property
    def accuracy(self) -> np.ndarray:
        """float64 (steps,)"""
        return self._scalars[: self.steps, 1]

    @property
    def seconds(self) -> np.ndarray:
        """float64 (steps,), since the training began"""
        return self._scalars[: self.steps, 2]

    @property
    def latest(self) -> tuple[float, float]:
        """Loss and seconds of the last step; nan and 0 before the first."""
        return (float(self.loss[-1]), float(self.seconds[-1])) if self.steps else (math.nan, 0.0)

    def quantity(self, name: str) -> np.ndarray:
        """float32 (columns, layers) of one quantity."""
        return self.columns[:, self.quantities.index(name)]

    @property
    def nbytes(self) -> int:
        """Of what grows with the run, in memory."""
        return self.columns.nbytes + self._scalars.nbytes + sum(sample.nbytes for sample in self.samples)

    def column_of(self, step: int) -> int:
        return step // self.stride

    def note(self, step: int, loss: float | None = None, accuracy: float | None = None) -> None:
        """What comes to be known of a step only after its record."""
        with self._lock:
            for place, value in enumerate((loss, accuracy)):
                if value is not None and 0 <= step < self.steps:
                    self._scalars[step, place] = value

    def fill(self, step: int, layers: np.ndarray) -> None:
        """What was measured of a step that is recorded already, with numbers below these in its record."""
        with self._lock:
            column = self._columns[step // self.stride]
            np.maximum(column, layers, out=column)

    def append(self, record: StepRecord) -> None:
        """Raises ValueError if the record is not the next step."""
        sample = record.anatomy.packed() if record.anatomy else None
        with self._lock:
            self._append(record)
            if sample:
                self.samples.append(sample)

    def extend(self, first: int, scalars: np.ndarray, place: int, columns: np.ndarray) -> None:
        """Takes what another history of the same stride has: loss, accuracy and seconds, float64 (n, 3), from the step `first`
        on, and the columns from `place` on. Both begin in or right behind what is here; what is here of them is replaced."""
        with self._lock:
            steps, ends = first + len(scalars), place + len(columns)
            if steps > len(self._scalars):
                self._scalars = _grown(self._scalars, max(steps, 2 * len(self._scalars)))
            if ends > len(self._columns):
                self._columns = _grown(self._columns, min(max(ends, 2 * len(self._columns)), self.max_columns))
            self._scalars[first:steps], self._columns[place:ends] = scalars, columns
            self.steps = max(self.steps, steps)

    def _append(self, record: StepRecord) -> None:
        if record.step != self.steps:
            raise ValueError(f"step {record.step} came where step {self.steps} was due")
        column = record.step // self.stride
        if column == self.max_columns:
            self._merge()
            column = record.step // self.stride
        if column >= len(self._columns):
            self._columns = _grown(self._columns, min(2 * len(self._columns), self.max_columns))
        if record.step >= len(self._scalars):
            self._scalars = _grown(self._scalars, 2 * len(self._scalars))
        if record.step % self.stride == 0:
            self._columns[column] = record.layers
        else:
            # np.maximum keeps nan, and inf beats every number: what went wrong stays visible.
            np.maximum(self._columns[column], record.layers, out=self._columns[column])
        self._scalars[record.step] = record.loss, record.accuracy, record.seconds
        if record.test_accuracy is not None:
            self.tests.append((record.step, record.test_accuracy))
        self.steps = record.step + 1

    def _merge(self) -> None:
        merged = np.full_like(self._columns, np.nan)
        np.maximum(self._columns[0::2], self._columns[1::2], out=merged[: len(merged) // 2])
        self.stride *= 2
        self._columns = merged  # a new array: earlier snapshots keep theirs


def _grown(array: np.ndarray, length: int) -> np.ndarray:
    larger = np.full((length, *array.shape[1:]), np.nan, array.dtype)
    larger[: len(array)] = array
    return larger


def max_columns(layers: int) -> int:
    """Columns kept for a net of so many layers: bounds a run's memory to about 28 MB at 2005 layers."""
    return 1000 if layers <= 500 else 500
