"""Numbers that pages, verdicts and lessons read from a record: each has one definition, here."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gradviz.record.float32 import ADAM_EPS, SMALLEST, SMALLEST_NORMAL
from gradviz.record.quantities import QUANTITIES
from gradviz.record.raster import measured_columns
from gradviz.record.recipe import Recipe
from gradviz.record.run import Run

FEWEST = 3  # layers through which a factor is fitted
WAKE_RISE = 10.0  # a gradient that grew by less may just have met another batch
WAKE_STAY = 20  # steps in a row; a single loud batch lasts one

# Over depth


def measured(values: np.ndarray) -> np.ndarray:
    """With nan for what was not measured; it is kept as a number below 0 (ABSENT), because true nan is a finding."""
    return np.where(values < 0, np.nan, values)


def quantity_at(run: Run[Recipe], quantity: str, last: bool = False) -> np.ndarray:
    """float64 (layers,) at step 0, or in the last column; of a run that was watched in the first or last that was measured."""
    values = run.history.snapshot().quantity(quantity)
    if run.watched and len(measured := measured_columns(values)):
        values = values[measured]
    return np.asarray(values[-1 if last else 0], float)


def judged(run: Run[Recipe], quantity: str, last: bool = False) -> np.ndarray:
    """The same, of the layers between which a gradient's way is judged, both ends with it (Layout.ends)."""
    return quantity_at(run, quantity, last)[run.recipe.layout.judged]


def ends(run: Run[Recipe], quantity: str = "weight_grad_rms", last: bool = False) -> tuple[float, float]:
    """Of the first and of the last layer that is judged."""
    values = judged(run, quantity, last)
    return float(values[0]), float(values[-1])


def factor(run: Run[Recipe], quantity: str = "weight_grad_rms") -> float:
    """See `factor_of`: at step 0, over the layers that are judged."""
    return factor_of(judged(run, quantity))


def factor_of(values: np.ndarray) -> float:
    """By what each layer multiplies on the way to the input: least squares on log10, through the layers whose number is
    normal in float32 (`values`: (layers,)). nan with fewer than FEWEST of them."""
    values = values.astype(float)
    places = np.flatnonzero(np.isfinite(values) & (values > SMALLEST_NORMAL))
    if len(places) < FEWEST:
        return math.nan
    return float(10 ** -np.polyfit(places, np.log10(values[places]), 1)[0])


def length_of(rms: np.ndarray, entries: np.ndarray | Sequence[int]) -> np.ndarray:
    """float64: the 2-norm of so many entries with this root mean square. A gradient's length is what layers of different size
    have in common: how far a step of theirs moves the loss. nan where nothing is known of the entries (0)."""
    entries = np.asarray(entries, float)
    with np.errstate(invalid="ignore"):  # of inf
        return np.where(entries > 0, rms.astype(float) * np.sqrt(entries), np.nan)


def log_size(value: float) -> float:
    """log10 of a size, with 0 read as the smallest float32 number."""
    return math.log10(max(float(value), SMALLEST)) if not math.isnan(value) else math.nan


def decades(first: float, last: float) -> float:
    """log10(first / last), each 0 read as the smallest float32 number."""
    return log_size(first) - log_size(last)


def ratio(first: float, last: float) -> float:
    """first / last as a float64, in which two float32 cannot overflow; nan where it means nothing."""
    return first / last if last else math.nan


def first_nonfinite(table: np.ndarray, names: Sequence[str]) -> str | None:
    """The layer where inf or nan first appears in time: forward pass, then backward pass, then weights' gradients."""
    for quantity, order in (("activation_rms", 1), ("signal_rms", -1), ("weight_grad_rms", -1)):
        bad = np.flatnonzero(~np.isfinite(table[list(QUANTITIES).index(quantity)]))[::order]
        if len(bad):
            return names[int(bad[0])]
    return None


# Over time


def wake_steps(weight_grads: np.ndarray, stride: int = 1) -> np.ndarray:
    """First step from which a layer's weight gradient is WAKE_RISE times its step-0 value for WAKE_STAY steps in a row.

    `weight_grads`: (columns, layers), `stride` steps a column, as in History. Returns int (layers,), −1 for a layer that
    did not wake; layers that were awake from the start do not wake either. inf and nan are not awake.
    """
    columns, layers = weight_grads.shape
    window = math.ceil(WAKE_STAY / stride)
    if columns < 1 + window:
        return np.full(layers, -1)
    start = np.maximum(weight_grads[0], SMALLEST)
    with np.errstate(invalid="ignore"):
        risen = (weight_grads >= WAKE_RISE * start) & np.isfinite(weight_grads)
    sums = np.cumsum(np.concatenate([np.zeros((1, layers), int), risen]), axis=0)
    lasting = sums[window:] - sums[:-window] == window  # (columns − window + 1, layers), by first column
    return np.where(lasting.any(0), lasting.argmax(0) * stride, -1)


# Of a step


def adam_share(treated_grads: np.ndarray) -> np.ndarray:
    """g / (g + eps): by how much Adam's eps shortens the step of a gradient that keeps the size g. 1 is not at all."""
    with np.errstate(invalid="ignore"):
        share = treated_grads / (treated_grads + ADAM_EPS)
    return np.where(np.isposinf(treated_grads), 1.0, share)


def path_shares(paths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(identity, branch) shares of the backward signal at each block's input, (blocks,) each; together 1.

    The signal t = i + b is a sum of vectors; the share of i is its projection on t, i·t / t·t, which the three lengths
    give: (i² + t² − b²) / 2t². Above 1, the branch works against the identity. nan where the signal is 0 or not finite.
    """
    identity, branch, total = (np.asarray(row, float) for row in paths)
    with np.errstate(invalid="ignore", divide="ignore"):
        i, b = identity / total, branch / total  # the squares of a tiny signal would be 0
        share = (i * i + 1 - b * b) / 2
    return share, 1 - share
