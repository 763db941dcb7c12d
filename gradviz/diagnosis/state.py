"""The few numbers that every finding is judged by, for any net.

There is no score. Each finding is one comparison of recorded numbers with one of the constants below.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradviz.messages import Message, say
from gradviz.record.float32 import ADAM_EPS, SMALLEST
from gradviz.record.history import History
from gradviz.record.quantities import QUANTITIES
from gradviz.record.raster import measured_columns
from gradviz.record.reading import decades, factor_of, length_of, measured
from gradviz.record.recipe import Recipe
from gradviz.record.run import Run

LEFT_CHANCE = 0.1  # nats under chance: a net that goes nowhere stays within 0.03 of it over 20 batches of 32 (measured)
LOUD_TIMES = 10  # a loss so many times chance: wrong answers with logits 20 apart, in a net that should not yet prefer any
RECENT_STEPS = 20  # the loss is judged by the mean of so many steps: one batch of 32 scatters by up to 0.1
RECENT_COLUMNS = 5  # gradients are judged by the median of so many columns: with batch norm one step may differ 1000-fold
PATIENCE = 250  # steps; nets that do learn stand at chance for up to 221 of them first (two sigmoid blocks, Adam 0.001)
GAP = 3.0  # decades between first and last layer: what one step changes in the last takes the first 1000 steps of SGD
DECADE = 1.0  # changes below it come from other batches too
# Sigmoids hand on an rms of 0.5 where they work; outside of these about half of their slope is lost. 0.62 is what
# inputs from N(0, 10) give, a fifth of them beyond ±4 (all at 0 or 1: 0.71; all at 1: 1); 0.15 has the slope
# 0.15 · 0.85, half of the 1/4 in the middle.
SIGMOID_OFF, SIGMOID_SPLIT = 0.15, 0.62
NEAR = 3  # layers behind a dead one, among which the next of its way is
FAR_ABOVE_ZERO = 1e-30  # a signal of this size does not become 0 by passing one more layer
SATURATED_SHARE = 0.5  # of the sigmoid layers; in training the last ones saturate first and may come back

_ROWS = list(QUANTITIES)
_GRADIENT, _WEIGHT = _ROWS.index("weight_grad_rms"), _ROWS.index("weight_rms")
# A treated gradient or an update may be unmeasured, which is nan too; inf or nan in these has gone wrong.
JUDGED = [_ROWS.index(name) for name in ("weight_grad_rms", "signal_rms", "activation_rms", "weight_rms")]


@dataclass(frozen=True)
class Facts:
    """What a record does not show of its net. Whoever knows it hands it in; what nobody knows is not judged."""

    chance: float | None = None  # loss of a guess, nats
    # Steps of the longest training: what cannot change by its own size in them stands still. None: nobody can say.
    longest: int | None = 100_000
    rectified: Collection[int] | None = None  # rows of the layers behind which relu stands
    sigmoids: range = range(0)  # rows of the layers behind which a sigmoid stands, as far as they are judged
    adam: bool = False  # the optimiser is Adam, with PyTorch's eps
    lr: float = math.nan
    treatment: str = ""  # of the gradient before the step, in a word
    opens_at_zero: bool = True  # gradients of exactly 0 may be meant so in the first steps: a part of the net starts at 0
    own_words: Mapping[str, str] = field(default_factory=dict)  # code -> the code that says it in the words of this kind of net
    entries: Sequence[int] = ()  # of each layer's weight, and of its output: gradients and signals are then compared by
    outputs: Sequence[int] = ()  # their lengths; without, by their rms
    passed_over: Collection[int] = ()  # rows that have no place on the way of the gradient: embeddings, weights in no layer
    detached: Sequence[int] = ()  # rows that are called and are to be trained, and that no gradient has reached
    cleared: Sequence[int] = ()  # rows whose gradient was gone by the time the optimiser stepped
    unheld: Sequence[int] = ()  # rows that are to be trained, and that no optimiser holds
    coarse: Sequence[int] = ()  # rows of weights of 16 bits
    squashed: Mapping[int, float] = field(default_factory=dict)  # row -> rms of its output at which what squashes it is saturated
    before: bool = False  # what is recorded as the activation is a layer's output before relu, tanh or sigmoid
    overflows: int = 0  # steps that a scaler left out: it keeps inf and nan of a gradient from the weights


NOTHING_KNOWN = Facts()


class _Medians(dict[str, np.ndarray]):
    """Quantity -> float32 (layers,): the (lower) median over the columns, computed when asked for. nan: not measured."""

    def __init__(self, columns: np.ndarray, quantities: Sequence[str]):
        super().__init__()
        self.columns, self.quantities = columns, quantities

    def __missing__(self, quantity: str) -> np.ndarray:
        middle = (len(self.columns) - 1) // 2
        median: np.ndarray = np.partition(self.columns[:, self.quantities.index(quantity)], middle, axis=0)[middle]
        self[quantity] = measured(median)
        return self[quantity]


def looked_at(columns: np.ndarray) -> np.ndarray:
    """int: the columns in which anything was measured."""
    return measured_columns(columns[:, _GRADIENT])


def _recent(columns: np.ndarray) -> np.ndarray:
    """The last RECENT_COLUMNS of them, without those in which nothing was measured if there are others."""
    recent = columns[-RECENT_COLUMNS:]
    if len(looked_at(recent)) == len(recent):
        return recent
    looked = looked_at(columns)[-RECENT_COLUMNS:]
    return columns[looked] if len(looked) else recent


class State:
    """How a run stands at one column of its history.

    `front` and `back` are the rows between which it is judged: the ends that its layout names, or, where their gradients were
    not measured, the next ones towards the middle. Of a net whose layout names none, they are the layers in the middle of
    its first and its last quarter, by the length of their gradient: one layer of another kind at an end decides nothing.
    """

    def __init__(self, run: Run[Recipe], history: History, column: int, facts: Facts):
        self.run, self.facts, self.history, self.column = run, facts, history, column
        self.names, judged = run.recipe.layout.names, run.recipe.layout.judged
        self.steps = min((column + 1) * history.stride, history.steps)
        recent = _recent(history.columns[: column + 1])
        self.now = recent[-1]  # float32 (quantities, layers)
        if facts.overflows:  # what was left out because it was not finite says nothing
            recent = np.where(np.isfinite(recent), recent, -1.0).astype(np.float32)
        self.recent = _Medians(recent, history.quantities)
        self.start = {name: measured(history.columns[0, row]) for row, name in enumerate(history.quantities)}
        seen = ~np.isnan(self.recent["weight_grad_rms"]) | np.isnan(self.now[_GRADIENT])
        rows = judged.start + np.flatnonzero(seen[judged])
        self.rows = self._compared(rows)  # of those that are judged
        self.seen = len(rows) > 0  # any gradient at all
        whole = run.recipe.layout.ends == (0, len(self.names) - 1)
        self._quarter = -(-len(self.rows) // 4) if whole else 1
        self.front, self.back = self._ends_of("weight_grad_rms", self.recent) if self.seen else run.recipe.layout.ends
        self.front_name, self.back_name = self.names[self.front], self.names[self.back]
        loss = history.loss[: self.steps]
        # Who knows what a guess costs tells the loss of every step. Else nan is a loss that was not told: where it has become
        # nan, the gradients have too.
        told = np.arange(self.steps) if facts.chance is not None else np.flatnonzero(~np.isnan(loss))
        self.told = told[-RECENT_STEPS:]  # steps whose loss is judged; none where no loss was told
        self.loss = float(np.mean(loss[self.told])) if len(told) else math.nan
        self.start_loss, self.latest_loss = (float(loss[told[0]]), float(loss[told[-1]])) if len(told) else (math.nan, math.nan)
        self.start_told = int(told[0]) if len(told) else 0
        if facts.overflows:
            self.finite = bool(np.isfinite(self.now[_WEIGHT]).all())
        else:
            lost = len(told) and not math.isfinite(self.latest_loss)
            self.finite = not lost and bool(np.isfinite(self.now[JUDGED]).all())

    def _compared(self, rows: np.ndarray) -> np.ndarray:
        """Of these rows those whose gradients can be compared with each other, if there are any."""
        compared = rows[~np.isin(rows, list(self.facts.passed_over))]
        zero = self.recent["weight_grad_rms"][compared] == 0
        if self.young:
            compared, zero = compared[~zero], zero[~zero]
        if self.facts.opens_at_zero:  # what stood behind a weight of 0 has a gradient as small as that weight still is
            late = (self.start["weight_grad_rms"][compared] == 0) & ~zero
            compared = compared[late if late.sum() > len(late) / 2 else ~late]
        return compared if len(compared) else rows

    def _ends_of(self, quantity: str, values: Mapping[str, np.ndarray]) -> tuple[int, int]:
        """The rows that stand for front and back: in the middle of the first and of the last quarter, by their length."""
        lengths = self.lengths(quantity, values)
        rows = self.rows[~np.isnan(lengths[self.rows])] if self._quarter > 1 else self.rows
        rows = rows if len(rows) else self.rows
        logs = np.log10(np.maximum(lengths, SMALLEST))  # nan stays nan, and is sorted last
        common = np.median(logs[rows])

        def middle(part: np.ndarray) -> int:
            ordered = part[np.argsort(logs[part], kind="stable")]
            pair = ordered[(len(part) - 1) // 2], ordered[len(part) // 2]
            return int(min(pair, key=lambda row: abs(logs[row] - common)))  # of two the one more like the rest

        return middle(rows[: self._quarter]), middle(rows[-self._quarter :])

    def say(self, code: str, /, **arguments: Any) -> Message:
        """The message, in this kind of net's own words if it has any."""
        # One nan is not another, and two diagnoses of the same numbers are the same.
        same = {name: math.nan if isinstance(value, float) and math.isnan(value) else value for name, value in arguments.items()}
        return say(self.facts.own_words.get(code, code), **same)

    def lengths(self, quantity: str, values: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
        """(layers,) of `values`, by default of now: lengths where it is known of how many entries, else the rms itself."""
        return self.as_lengths(quantity, (self.recent if values is None else values)[quantity])

    def as_lengths(self, quantity: str, found: np.ndarray, rows: Sequence[int] | None = None) -> np.ndarray:
        """`found`: (…, layers), of all layers or of these rows"""
        of = {"weight_grad_rms": self.facts.entries, "signal_rms": self.facts.outputs}.get(quantity, ())
        if not len(of):
            return found
        return length_of(found, of if rows is None else [of[row] for row in rows])

    def rows_of(self, quantity: str) -> tuple[int, int]:
        """(front, back) of this quantity: the signal may be known of other layers than the gradient."""
        return self._ends_of(quantity, self.recent) if quantity == "signal_rms" else (self.front, self.back)

    def ends(self, quantity: str) -> tuple[float, float]:
        """(front, back) now."""
        lengths, (front, back) = self.lengths(quantity), self.rows_of(quantity)
        return float(lengths[front]), float(lengths[back])

    def gap(self, quantity: str, start: bool = False) -> float:
        """log10(front / back). A front of 0 counts as the smallest float32 number; from a back of 0 no gap is measured."""
        values, (front, back) = self.lengths(quantity, self.start if start else None), self.rows_of(quantity)
        return 0.0 if values[back] == 0 else decades(values[front], values[back])

    def factor(self, quantity: str) -> float | None:
        """Per layer towards the input; None where too few layers are above float32's dregs."""
        values = np.full(len(self.names), np.nan)
        values[self.rows] = self.lengths(quantity)[self.rows]
        factor = factor_of(values[self.rows[0] : self.rows[-1] + 1])
        return None if math.isnan(factor) else factor

    @property
    def young(self) -> bool:
        """Gradients of exactly 0 mean nothing yet."""
        return self.facts.opens_at_zero and self.steps <= RECENT_COLUMNS

    @property
    def zeros(self) -> np.ndarray:
        """Rows of the judged layers whose weight gradient is exactly 0."""
        rows: np.ndarray = self.rows[self.recent["weight_grad_rms"][self.rows] == 0]
        return rows

    @property
    def silent(self) -> list[int]:
        """Rows of the layers that hand on exactly 0 for every input."""
        rows: list[int] = np.flatnonzero(self.recent["activation_rms"] == 0).tolist()
        return rows

    @property
    def dead(self) -> list[int]:
        """Rows of the relu layers that are silent, or through whose relu no signal comes back though one stands behind it."""
        rectified = self.facts.rectified or ()
        if not self.facts.before:
            return [row for row in self.silent if row in rectified]
        signal, gradient = self.recent["signal_rms"], self.recent["weight_grad_rms"]
        shut = signal == 0
        dead = []
        for row in [] if self.young else sorted(rectified):
            near = slice(row + 1, row + 1 + NEAR)
            through = np.flatnonzero(signal[near] > FAR_ABOVE_ZERO)
            # What lies before a dead layer gets no signal either; it is the last of them that is dead.
            if shut[row] and gradient[row] == 0 and len(through) and not shut[near][: through[0]].any():
                dead.append(row)
        return dead

    @property
    def saturated(self) -> np.ndarray:
        """Rows of the layers whose sigmoids (or tanh) have lost half of their slope or more, if that is most of them."""
        squashed = self.facts.squashed
        rows = np.array(sorted(squashed) if squashed else self.facts.sigmoids, int)
        rms = self.recent["activation_rms"][rows]
        if squashed:
            lost: np.ndarray = rows[rms >= np.array([squashed[row] for row in rows.tolist()])]
        else:
            lost = rows[(rms < SIGMOID_OFF) | (rms > SIGMOID_SPLIT)]
        return lost if len(lost) >= SATURATED_SHARE * len(rows) else lost[:0]

    @property
    def update(self) -> float:
        """Update : weight of the front; before the first update, that of the step the optimiser would take. nan: unknown."""
        measured = float(self.recent["update_ratio"][self.front])
        if not math.isnan(measured):
            return measured
        gradient = self.ends("treated_grad_rms")[0]
        share = 1 / (gradient + ADAM_EPS) if self.facts.adam else 1.0
        weight = float(self.recent["weight_rms"][self.front])
        return self.facts.lr * gradient * share / weight if weight else math.nan

    @property
    def loud(self) -> float:
        """The loss from which on it is far above chance."""
        return math.inf if self.facts.chance is None else LOUD_TIMES * self.facts.chance

    @property
    def learnt(self) -> bool:
        return self.facts.chance is not None and self.loss < self.facts.chance - LEFT_CHANCE

    @property
    def idle(self) -> bool:
        """It has not learnt, as far as that can be said."""
        return self.facts.chance is not None and not self.learnt

    @property
    def rise(self) -> float:
        """Decades by which the front's weight gradient has grown since step 0."""
        return decades(self.recent["weight_grad_rms"][self.front], self.start["weight_grad_rms"][self.front])

    @property
    def falling(self) -> bool:
        """The loss is a tenth lower than in the middle of the run so far."""
        middle = self.history.loss[: self.steps // 2][-RECENT_STEPS:]
        return len(middle) > 0 and self.loss < 0.9 * float(np.mean(middle))
