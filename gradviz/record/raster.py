"""Layers × steps as a picture: pooled to as many rows and columns as a screen tells apart, one byte for each."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gradviz.record.float32 import SMALLEST_NORMAL
from gradviz.record.quantities import described

MAX_ROWS = 300  # more layers than that are pooled, by maximum

# One byte: an exact zero, a value under or over the colour range, one of LEVELS steps between, what was not measured, ...
ZERO, BELOW, FIRST_LEVEL, LEVELS, ABOVE, ABSENT, DENORMAL, INFINITE, NOT_A_NUMBER = 0, 1, 2, 249, 251, 252, 253, 254, 255


def rows_of(layers: int, most: int = MAX_ROWS) -> np.ndarray:
    """int (rows,): the first layer of each row, rows = min(layers, most); the browser computes the same."""
    rows = min(layers, most)
    return np.arange(rows) * layers // max(1, rows)


def pool(values: np.ndarray, most: int = MAX_ROWS, by: np.ufunc = np.maximum) -> np.ndarray:
    """(..., layers) to (..., rows), by maximum or what `by` says; nan beats inf, and inf beats every number."""
    layers = values.shape[-1]
    return values if layers <= most else np.asarray(by.reduceat(values, rows_of(layers, most), axis=-1))


def measured_columns(values: np.ndarray) -> np.ndarray:
    """int: those of the columns, (columns, …), that hold a number."""
    return np.flatnonzero(~(values < 0).all(axis=tuple(range(1, values.ndim))))


def held(values: np.ndarray) -> np.ndarray:
    """The columns, (columns, …); where nothing was measured, those of the last one before that was."""
    there, measured = np.zeros(len(values), int), measured_columns(values)
    there[measured] = measured
    return values[np.maximum.accumulate(there)] if len(values) else values


def fitted(values: np.ndarray, quantity: str) -> tuple[float, float]:
    """Whole decades that hold every number but exact zeros, denormal and not finite ones; the default range where there is
    none, and of a linear scale."""
    row = described(quantity)
    sizes = values[(values >= SMALLEST_NORMAL) & np.isfinite(values)]
    if row.linear or not len(sizes):
        return row.ranges[0]
    low, high = math.floor(math.log10(sizes.min())), math.ceil(math.log10(sizes.max()))
    return float(low), float(max(high, low + 1))


def means(series: np.ndarray, stride: int, told: bool = False) -> np.ndarray:
    """float64: the mean of each `stride` neighbours, see `means_from`."""
    return means_from(series, np.arange(0, len(series), stride), told)


def means_from(series: np.ndarray, starts: np.ndarray, told: bool = False) -> np.ndarray:
    """float64: the mean of each stretch, from its start to the next; one value that is not finite wins its stretch.

    `told`: nan is what nobody has told, and the mean is of the others; nan where there are none.
    """
    if not len(series):
        return np.empty(0)
    with np.errstate(over="ignore", invalid="ignore"):
        if not told:
            return np.add.reduceat(series, starts) / np.diff(np.append(starts, len(series)))
        there = ~np.isnan(series)
        return np.add.reduceat(np.where(there, series, 0.0), starts) / np.add.reduceat(there.astype(float), starts)


def encode(values: np.ndarray | Sequence[float], quantity: str, low: float, high: float) -> np.ndarray:
    """uint8 codes of `values`: LEVELS equal steps of the quantity's scale from low to high, and the marks named above; below 0
    is what was not measured. The middle of level k is low + (k + 0.5) · (high − low) / LEVELS."""
    values, scale = np.asarray(values, np.float64), described(quantity)
    with np.errstate(invalid="ignore"):
        position = scale.places(values) - low
        level = np.floor(position * (LEVELS / (high - low)))
        # The upper end itself belongs to the last level: a share of exactly 1 is not above the range.
        level = np.where(position == high - low, LEVELS - 1, level)
        codes = np.clip(level, -1, LEVELS) + FIRST_LEVEL
    if not scale.linear:
        codes[values < SMALLEST_NORMAL] = DENORMAL
        codes[values == 0] = ZERO
    codes[values < 0] = ABSENT
    codes[np.isinf(values)] = INFINITE
    codes[np.isnan(values)] = NOT_A_NUMBER
    return codes.astype(np.uint8)
