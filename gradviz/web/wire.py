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

from gradviz.messages import Message, Told, say
from gradviz.record.arithmetic import device_said
from gradviz.record.history import History
from gradviz.record.quantities import QUANTITIES
from gradviz.record.raster import MAX_ROWS, encode, means, pool
from gradviz.record.reading import ratio
from gradviz.record.recipe import Recipe
from gradviz.record.run import Run, Status


class WireError(Told, ValueError):
    """A request that cannot be answered; the message is one sentence that says what is allowed."""


def delta(
    run: Run[Recipe],
    since: int,
    stride: int,
    quantity: str,
    low: float,
    high: float,
    verdict: str = "",
    sentence: Message | str = "",
    place: int | None = None,
    wait: float | None = None,
) -> bytes:
    """The columns that a client lacks which holds `since` steps in columns of `stride` steps (0, 0: it holds nothing).

    `place` in the queue and expected `wait` in seconds are said of a queued run.
    Header: `total` steps are asked for, null where nobody knows; `first` is the first column sent and `columns` the number
    that exist, so columns − first are sent, each with mean loss, mean training accuracy and `rows` codes. A column that was
    incomplete is sent again. Everything is sent (first = 0, and the layers' names) if the stride has changed or the client
    is ahead of the run.
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
        **_state(run, status, history),
        "verdict": verdict,
        "sentence": str(sentence),
        "first": first,
        "columns": columns,
        "tests": len(tests),
        "quantity": quantity,
        "low": low,
        "high": high,
        "place": place if status is Status.QUEUED else None,
        "wait": wait if status is Status.QUEUED else None,
    }
    if first == 0:
        header["names"] = run.recipe.layout.names
        header["title"] = run.recipe.title
    return pack(
        header,
        column_means(history.loss, first, history.stride),
        column_means(history.accuracy, first, history.stride),
        newest.astype(np.float32),
        np.array([step for step, _ in tests], np.int32),
        np.array([accuracy for _, accuracy in tests], np.float32),
        encode(pool(values[first:]), quantity, low, high),
    )


def _state(run: Run[Recipe], status: Status, history: History) -> dict[str, Any]:
    """What a header says of the run itself."""
    figures = _figures(history)
    return {
        "id": run.id,
        "created": run.created,
        "status": status,
        "live": status.live,
        "device": device_said(run.device),
        "message": str(run.message),
        "nonfinite_layer": run.nonfinite_layer,
        "test_accuracy": run.test_accuracy,
        "steps": history.steps,
        "total": run.recipe.steps,
        "stride": history.stride,
        "layers": history.layers,
        "rows": min(history.layers, MAX_ROWS),
        **figures,
        "seconds_left": _seconds_left(run, history, figures["ms_per_step"]) if status is Status.RUNNING else None,
    }


def profile(run: Run[Recipe], step: int, **extra: Any) -> bytes:
    """All quantities of all layers in the column that holds `step`, exactly: float32 (quantities, layers).

    Header: `quantities`, their names; `from_step` and `to_step`, the steps of which the column is the maximum; and whatever
    `extra` says.
    Raises WireError for a step that is not recorded.
    """
    history = run.history.snapshot()
    if not 0 <= step < history.steps:
        raise WireError(say("wire-step", last=history.steps - 1) if history.steps else say("wire-no-step"))
    column = history.column_of(step)
    header = {
        "id": run.id,
        "created": run.created,
        "from_step": column * history.stride,
        "to_step": min((column + 1) * history.stride, history.steps) - 1,
        "stride": history.stride,
        "layers": history.layers,
        "quantities": history.quantities,
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
        "ratio": ratio(first, last),
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
        raise WireError(say("wire-quantity", names=", ".join(QUANTITIES)))
    ranges = QUANTITIES[quantity].ranges
    if (low, high) not in ranges:
        raise WireError(say("wire-range", ranges=[say("wire-ends", low=a, high=b) for a, b in ranges]))


def column_means(series: np.ndarray, first: int, stride: int) -> np.ndarray:
    """float32: the mean over each column from column `first` on."""
    with np.errstate(over="ignore"):
        return means(series[first * stride :], stride).astype(np.float32)


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
        "ratio": ratio(first, last),
        "ms_per_step": round(float(pace) * 1000, 3),
    }


def _seconds_left(run: Run[Recipe], history: History, pace: float | None) -> float | None:
    """`pace`: milliseconds per step."""
    steps = run.recipe.steps
    return None if pace is None or steps is None else round((steps - history.steps) * pace / 1000, 1)
