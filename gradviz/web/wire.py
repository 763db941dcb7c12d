"""What the server tells the live element: pure functions from a run to bytes.

A message is a uint32 with the length of the JSON header, the header (padded with spaces to a multiple of 4 bytes),
and the arrays that the header announces, float32 and int32 first, uint8 last. Everything is little-endian.
Numbers in JSON that are not finite are the strings "NaN", "Infinity" and "-Infinity", which JavaScript's Number reads.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gradviz.messages import Message, Told, say
from gradviz.record.arithmetic import device_said
from gradviz.record.history import History
from gradviz.record.layout import Layout
from gradviz.record.measuring import why_missing
from gradviz.record.quantities import OF_WATCHED, QUANTITIES, described
from gradviz.record.raster import MAX_ROWS, encode, fitted, means, measured_columns, pool, rows_of
from gradviz.record.reading import ratio
from gradviz.record.recipe import Recipe, turns_of
from gradviz.record.rows import Rows, folded
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
    fit: bool = False,
    opened: tuple[int, ...] | None = (),
) -> bytes:
    """The columns that a client lacks which holds `since` steps in columns of `stride` steps (0, 0: it holds nothing).

    `place` in the queue and expected `wait` in seconds are said of a queued run. `fit`: the colour range holds all that was
    measured; `low` and `high` are then what the client has. `opened`: groups of layers that are unfolded, see rows.folded;
    None: nothing is folded.
    Header: `total` steps are asked for, null where nobody knows; `first` is the first column sent and `columns` the number
    that exist, so columns − first are sent, each with mean loss, mean training accuracy and `rows` codes. A column that was
    incomplete is sent again, of a watched run those too whose loss may only now have come. Everything is sent (first = 0, and
    the layers' names) if the stride has changed, the client is ahead of the run, or the fitted range is another. `newest_step`
    is the last of the newest column that was measured; why it has no number of some rows, `missing` says for each reason.
    `turns`: step, word and sentence of what was turned.
    Arrays: float32 loss, accuracy; float32 (rows,) of `quantity` in that column; int32 steps and float32 values of
    the `tests` test points from the first column on; uint8 (columns − first, rows).
    Raises WireError for a quantity or range that does not exist.
    """
    status = run.status  # read before the history: a run that says it has ended is then complete
    history = run.history.snapshot()
    _check(quantity, low, high, fit, history.quantities)
    columns, values, rows = len(history.columns), history.quantity(quantity), _rows(run.recipe.layout, opened)
    if fit and (low, high) != (ends := fitted(values, quantity)):
        (low, high), since, stride = ends, 0, 0
    first = _first(run, since, stride, history)
    pooled = rows.pool if rows else pool
    column = newest_measured(run, values)
    newest = pooled(values[column]) if columns else np.empty(0, np.float32)
    tests = [test for test in history.tests if test[0] >= first * history.stride]
    header = {
        **_state(run, status, history),
        "verdict": verdict, "sentence": str(sentence), "first": first, "columns": columns, "tests": len(tests),
        "quantity": quantity, "low": low, "high": high,
        **{name: value if status is Status.QUEUED else None for name, value in (("place", place), ("wait", wait))},
        "newest_step": min(history.steps, (column + 1) * history.stride) - 1,
        "missing": _missing(run, quantity, newest, rows),
        "every": run.every,
        "turns": [[turn.step, turn.mark, str(turn.sentence)] for turn in turns_of(run.recipe)],
    }
    told = run.watched
    return pack(
        header | _names(run.recipe, rows, first == 0),
        *(column_means(series, first, history.stride, told) for series in (history.loss, history.accuracy)),
        newest.astype(np.float32),
        np.array([step for step, _ in tests], np.int32),
        np.array([accuracy for _, accuracy in tests], np.float32),
        encode(pooled(values[first:]), quantity, low, high),
    )


def _rows(layout: Layout, opened: tuple[int, ...] | None) -> Rows | None:
    return None if opened is None else folded(layout, opened)


def _first(run: Run[Recipe], since: int, stride: int, history: History) -> int:
    """The first column that a client lacks."""
    first = since // stride if stride == history.stride and 0 <= since <= history.steps else 0
    # Losses may come late: those that lie on a device, when the next step is measured.
    return first if run.every is None or not first else max(0, first - 8 - 2 * run.every // stride)


def _names(recipe: Recipe, rows: Rows | None, first: bool) -> dict[str, Any]:
    """What a header says of the rows; `first`: the client knows none of it. Where layers are folded, `layers` and `names` are
    those of the rows, which stand for so many layers (`sizes`) from `starts` on."""
    count = {"layers": len(rows.names), "rows": len(rows.names)} if rows else {}
    if not first:
        return count
    named = dict.fromkeys(("sizes", "starts")) | {"names": recipe.layout.names, "opened": ()}
    if rows:
        named = {"names": rows.names, "sizes": rows.sizes, "starts": rows.starts, "opened": rows.opened}
    return count | named | {"title": recipe.title}


def newest_measured(run: Run[Recipe], values: np.ndarray) -> int:
    """The last of `values`, (columns, layers), that holds a number; the very last where none does."""
    if not run.watched:
        return len(values) - 1
    measured = measured_columns(values)
    return int(measured[-1]) if len(measured) else len(values) - 1


def _missing(run: Run[Recipe], quantity: str, newest: np.ndarray, rows: Rows | None) -> dict[str, list[int]]:
    """Why there is no number -> the rows without one; of layers that are folded the first speaks for all."""
    reasons: dict[str, list[int]] = {}
    names, starts = run.recipe.layout.names, rows.starts if rows else rows_of(len(run.recipe.layout)).tolist()
    for row in np.flatnonzero(newest < 0).tolist():
        reasons.setdefault(why_missing(run, names[starts[row]], quantity), []).append(row)
    return reasons


def _state(run: Run[Recipe], status: Status, history: History) -> dict[str, Any]:
    """What a header says of the run itself."""
    figures = _figures(run, history)
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


def profile(run: Run[Recipe], step: int, opened: tuple[int, ...] = (), **extra: Any) -> bytes:
    """All quantities of all layers in the column that holds `step`, exactly: float32 (quantities, layers).

    Header: `quantities`, their names; `from_step` and `to_step`, the steps of which the column is the maximum; and whatever
    `extra` says. Where layers are folded, as `opened` says, `layers` are the rows.
    Raises WireError for a step that is not recorded.
    """
    history = run.history.snapshot()
    if not 0 <= step < history.steps:
        raise WireError(say("wire-step", last=history.steps - 1) if history.steps else say("wire-no-step"))
    column, rows = history.column_of(step), folded(run.recipe.layout, opened)
    values = rows.pool(history.columns[column]) if rows else history.columns[column]
    header = {
        "id": run.id,
        "created": run.created,
        "from_step": column * history.stride,
        "to_step": min((column + 1) * history.stride, history.steps) - 1,
        "stride": history.stride,
        "layers": values.shape[1],
        "quantities": history.quantities,
        **extra,
    }
    return pack(header, values)


def net_profile(
    layers: np.ndarray, names: tuple[str, ...], ends: tuple[int, int] = (0, -1), **extra: Any
) -> bytes:
    """A profile that belongs to no run, float32 (len(QUANTITIES), layers), with the layers' names and whatever `extra` says.

    `ends`: the rows of the first and the last layer, of Layout.ends.
    """
    first, last = (float(layers[0, row]) for row in ends)  # weight_grad_rms
    header = {
        "layers": layers.shape[-1],
        "quantities": list(QUANTITIES),
        "names": names,
        "first_layer": names[ends[0]],
        "last_layer": names[ends[1]],
        "first_gradient": first,
        "last_gradient": last,
        "ratio": ratio(first, last),
        **extra,
    }
    return pack(header, layers)


def foretold(
    names: tuple[str, ...], ends: tuple[int, int], theory: Mapping[str, Sequence[float | None]] | None, share: float | None
) -> bytes:
    """Of a net that is being measured: the profile without its quantities, with what theory says, and how much is done."""
    header: dict[str, Any] = {
        "ahead": True, "share": share, "theory": theory, "layers": len(names), "quantities": [], "names": names,
        "first_layer": names[ends[0]], "last_layer": names[ends[1]],
        **dict.fromkeys(("first_gradient", "last_gradient", "ratio", "loss", "accuracy")),
    }  # fmt: skip
    return pack(header)


def pack(header: dict[str, Any], *arrays: np.ndarray) -> bytes:
    """One message as described at the top of this module."""
    text = json.dumps(_plain(header), separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
    text += b" " * (-len(text) % 4)
    little = (np.ascontiguousarray(array, array.dtype.newbyteorder("<")) for array in arrays)
    return b"".join([struct.pack("<I", len(text)), text, *(array.tobytes() for array in little)])


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _check(quantity: str, low: float, high: float, fit: bool, measured: Sequence[str]) -> None:
    """`measured`: the quantities that the run has."""
    known = [name for name in (*QUANTITIES, *OF_WATCHED) if name in measured]
    if quantity not in known:
        raise WireError(say("wire-quantity", names=", ".join(known)))
    ranges = described(quantity).ranges
    if not fit and (low, high) not in ranges:
        raise WireError(say("wire-range", ranges=[say("wire-ends", low=a, high=b) for a, b in ranges]))


def column_means(series: np.ndarray, first: int, stride: int, told: bool = False) -> np.ndarray:
    """float32: the mean over each column from column `first` on; with `told` of what was told, and nan is what was not."""
    with np.errstate(over="ignore"):
        return means(series[first * stride :], stride, told).astype(np.float32)


def _figures(run: Run[Recipe], history: History) -> dict[str, Any]:
    """The newest step's loss and accuracy, the weight gradients between which it is judged in the newest column that has them,
    of which layers they are, and milliseconds per step."""
    names, (front, back) = run.recipe.layout.names, run.recipe.layout.ends
    layers: dict[str, Any] = {"first_layer": names[front], "last_layer": names[back]}
    if not history.steps:
        return layers | dict.fromkeys(("loss", "accuracy", "first_gradient", "last_gradient", "ratio", "ms_per_step"))
    gradient = history.quantity("weight_grad_rms")
    first, last = (float(gradient[newest_measured(run, gradient), row]) for row in (front, back))
    seconds = history.seconds[-21:]  # a recent mean: the machine may have become busier
    pace = (seconds[-1] - seconds[0]) / (len(seconds) - 1) if len(seconds) > 1 else seconds[-1]
    latest = _last_told if run.watched else lambda series: float(series[-1])
    return layers | {
        "loss": latest(history.loss),
        "accuracy": latest(history.accuracy),
        "first_gradient": None if first < 0 else first,
        "last_gradient": None if last < 0 else last,
        "ratio": None if first < 0 or last < 0 else ratio(first, last),
        "ms_per_step": round(float(pace) * 1000, 3),
    }


def _last_told(series: np.ndarray) -> float | None:
    """None where nobody has told any; nan is what was not told."""
    told = np.flatnonzero(~np.isnan(series))
    return float(series[told[-1]]) if len(told) else None


def _seconds_left(run: Run[Recipe], history: History, pace: float | None) -> float | None:
    """`pace`: milliseconds per step."""
    steps = run.recipe.steps
    return None if pace is None or steps is None else round((steps - history.steps) * pace / 1000, 1)
