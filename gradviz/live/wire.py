"""What the server tells the live element: pure functions from a run to bytes.

A message is a uint32 with the length of the JSON header, the header (padded with spaces to a multiple of 4 bytes),
and the arrays that the header announces, float32 and int32 first, uint8 last. Everything is little-endian.
Numbers in JSON that are not finite are the strings "NaN", "Infinity" and "-Infinity", which JavaScript's Number reads.
"""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np

from gradviz.record.float32 import SMALLEST_NORMAL
from gradviz.runs import QUANTITIES, History, Run, Status

MAX_ROWS = 300  # rows of the heatmap: more layers than that are pooled, by maximum

# One byte of the heatmap: an exact zero, a value under or over the colour range, one of LEVELS steps between, ...
ZERO, BELOW, FIRST_LEVEL, LEVELS, ABOVE, DENORMAL, INFINITE, NOT_A_NUMBER = 0, 1, 2, 250, 252, 253, 254, 255

LINEAR = ("zero_share",)  # all other quantities are shown as log10

# Colour ranges offered for each quantity, as log10 (zero_share: as they are); the first is the default. They are fixed,
# never fitted to the data, so that two pictures can be compared by eye; the default holds every preset at initialisation.
_GRADIENT = ((-30.0, 15.0), (-12.0, 0.0), (-38.0, 0.0), (0.0, 38.0), (-38.0, 38.0))
_SIZE = ((-6.0, 18.0), (-4.0, 4.0), (-38.0, 38.0))
RANGES: dict[str, tuple[tuple[float, float], ...]] = {
    "weight_grad_rms": _GRADIENT,
    "signal_rms": _GRADIENT,
    "activation_rms": _SIZE,
    "weight_rms": ((-4.0, 2.0), (-12.0, 12.0), (-38.0, 38.0)),
    "update_ratio": ((-12.0, 2.0), (-24.0, 2.0), (-38.0, 38.0)),
    "zero_share": ((0.0, 1.0),),
    "treated_grad_rms": _GRADIENT,
}


class WireError(ValueError):
    """A request that cannot be answered; the message is one sentence that says what is allowed."""


def rows_of(layers: int) -> np.ndarray:
    """int (rows,): the first layer of each heatmap row, rows = min(layers, MAX_ROWS); the client computes the same."""
    rows = min(layers, MAX_ROWS)
    return np.arange(rows) * layers // rows


def pool(values: np.ndarray) -> np.ndarray:
    """(..., layers) to (..., rows) by maximum; nan beats inf, and inf beats every number."""
    return values if values.shape[-1] <= MAX_ROWS else np.maximum.reduceat(values, rows_of(values.shape[-1]), axis=-1)


def encode(values: np.ndarray, quantity: str, low: float, high: float) -> np.ndarray:
    """uint8 codes of non-negative `values`: LEVELS equal steps of log10 (zero_share: of the value) from low to high,
    and the marks named above. The middle of level k is low + (k + 0.5) · (high − low) / LEVELS."""
    values = np.asarray(values, np.float64)
    linear = quantity in LINEAR
    with np.errstate(divide="ignore", invalid="ignore"):
        position = (values if linear else np.log10(values)) - low
        level = np.floor(position * (LEVELS / (high - low)))
        # The upper end itself belongs to the last level: a share of exactly 1 is not above the range.
        level = np.where(position == high - low, LEVELS - 1, level)
        codes = np.clip(level, -1, LEVELS) + FIRST_LEVEL
    if not linear:
        codes[values < SMALLEST_NORMAL] = DENORMAL
        codes[values == 0] = ZERO
    codes[np.isinf(values)] = INFINITE
    codes[np.isnan(values)] = NOT_A_NUMBER
    return codes.astype(np.uint8)


def column_means(series: np.ndarray, first: int, stride: int) -> np.ndarray:
    """float32: the mean of `series` over each column from column `first` on; one value that is not finite wins its column."""
    part = series[first * stride :]
    if not len(part):
        return np.empty(0, np.float32)
    starts = np.arange(0, len(part), stride)
    with np.errstate(over="ignore", invalid="ignore"):
        return (np.add.reduceat(part, starts) / np.diff(np.append(starts, len(part)))).astype(np.float32)


def delta(
    run: Run,
    since: int,
    stride: int,
    quantity: str,
    low: float,
    high: float,
    verdict: str = "",
    sentence: str = "",
    place: int | None = None,
    wait: float | None = None,
) -> bytes:
    """The columns that a client lacks which holds `since` steps in columns of `stride` steps (0, 0: it holds nothing).

    `place` in the queue and expected `wait` in seconds are said of a queued run.
    Header: `first` is the first column sent and `columns` the number that exist, so columns − first are sent, each with
    mean loss, mean training accuracy and `rows` codes. A column that was incomplete is sent again. Everything is sent
    (first = 0, and the layers' names) if the stride has changed or the client is ahead of the run.
    Arrays: float32 loss, accuracy; float32 (rows,) of `quantity` in the newest column; int32 steps and float32 values of
    the `tests` test points from the first column on; uint8 (columns − first, rows).
    Raises WireError for a quantity or range that does not exist.
    """
    _check(quantity, low, high)
    status = run.status  # read before the history: a run that says it has ended is then complete
    history = run.history.snapshot()
    columns = len(history.columns)
    first = since // stride if stride == history.stride and 0 <= since <= history.steps else 0
    values = history.quantity(quantity)
    newest = pool(values[-1]) if columns else np.empty(0, np.float32)
    tests = [test for test in history.tests if test[0] >= first * history.stride]
    header = {
        "id": run.id,
        "created": run.created,
        "status": status,
        "live": status.live,
        "device": run.device,
        "message": run.message,
        "verdict": verdict,
        "sentence": sentence,
        "nonfinite_layer": run.nonfinite_layer,
        "test_accuracy": run.test_accuracy,
        "steps": history.steps,
        "total": run.config.steps,
        "stride": history.stride,
        "first": first,
        "columns": columns,
        "layers": history.layers,
        "rows": min(history.layers, MAX_ROWS),
        "tests": len(tests),
        "quantity": quantity,
        "low": low,
        "high": high,
        **_figures(history),
        "place": place if status is Status.QUEUED else None,
        "wait": wait if status is Status.QUEUED else None,
        "seconds_left": _seconds_left(run, history) if status is Status.RUNNING else None,
    }
    if first == 0:
        header["names"] = run.config.layer_names
        header["title"] = run.config.summary
    return pack(
        header,
        column_means(history.loss, first, history.stride),
        column_means(history.accuracy, first, history.stride),
        newest.astype(np.float32),
        np.array([step for step, _ in tests], np.int32),
        np.array([accuracy for _, accuracy in tests], np.float32),
        encode(pool(values[first:]), quantity, low, high),
    )


def profile(run: Run, step: int, **extra: Any) -> bytes:
    """All quantities of all layers in the column that holds `step`, exactly: float32 (len(QUANTITIES), layers).

    Header: `from_step` and `to_step`, the steps of which the column is the maximum, and whatever `extra` says.
    Raises WireError for a step that is not recorded.
    """
    history = run.history.snapshot()
    if not 0 <= step < history.steps:
        raise WireError(f"step must be from 0 to {history.steps - 1}." if history.steps else "No step is recorded yet.")
    column = history.column_of(step)
    header = {
        "id": run.id,
        "created": run.created,
        "from_step": column * history.stride,
        "to_step": min((column + 1) * history.stride, history.steps) - 1,
        "stride": history.stride,
        "layers": history.layers,
        "quantities": list(QUANTITIES),
        **extra,
    }
    return pack(header, history.columns[column])


def net_profile(layers: np.ndarray, names: tuple[str, ...], **extra: Any) -> bytes:
    """A profile that belongs to no run, float32 (len(QUANTITIES), layers), with the layers' names and whatever `extra` says."""
    first, last = (float(layers[0, i]) for i in (0, -1))  # weight_grad_rms
    header = {
        "layers": layers.shape[-1],
        "quantities": list(QUANTITIES),
        "names": names,
        "first_gradient": first,
        "last_gradient": last,
        "ratio": _ratio(first, last),
        **extra,
    }
    return pack(header, layers)


def pack(header: dict[str, Any], *arrays: np.ndarray) -> bytes:
    """One message as described at the top of this module."""
    text = json.dumps(_plain(header), separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    little = (np.ascontiguousarray(array, array.dtype.newbyteorder("<")) for array in arrays)
    return b"".join([struct.pack("<I", len(text)), text, *(array.tobytes() for array in little)])


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _check(quantity: str, low: float, high: float) -> None:
    if quantity not in QUANTITIES:
        raise WireError(f"quantity must be one of {', '.join(QUANTITIES)}.")
    if (low, high) not in RANGES[quantity]:
        pairs = ", ".join(f"{a:g} to {b:g}" for a, b in RANGES[quantity])
        raise WireError(f"low and high must be one of the ranges {pairs}.")


def _figures(history: History) -> dict[str, float | None]:
    """The newest step's loss and accuracy, the newest column's first and last weight gradient, and milliseconds per step."""
    if not history.steps:
        return dict.fromkeys(("loss", "accuracy", "first_gradient", "last_gradient", "ratio", "ms_per_step"))
    gradient = history.quantity("weight_grad_rms")[-1]
    first, last = float(gradient[0]), float(gradient[-1])
    seconds = history.seconds[-21:]  # a recent mean: the machine may have become busier
    pace = (seconds[-1] - seconds[0]) / (len(seconds) - 1) if len(seconds) > 1 else seconds[-1]
    return {
        "loss": float(history.loss[-1]),
        "accuracy": float(history.accuracy[-1]),
        "first_gradient": first,
        "last_gradient": last,
        "ratio": _ratio(first, last),
        "ms_per_step": round(float(pace) * 1000, 3),
    }


def _ratio(first: float, last: float) -> float:
    """first / last as a float64, in which two float32 cannot overflow; nan where it means nothing."""
    return first / last if last else math.nan


def _seconds_left(run: Run, history: History) -> float | None:
    pace = _figures(history)["ms_per_step"]
    return None if pace is None else round((run.config.steps - history.steps) * pace / 1000, 1)
