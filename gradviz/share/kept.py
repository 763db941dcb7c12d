"""A run as a shared file holds it: the bytes that a page would be sent, for every quantity and colour range, the exact columns,
and what was said of it at each step of its replay. static/kept.js answers from them as the server's routes do."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from gradviz.messages import NOTHING
from gradviz.record.history import History
from gradviz.record.raster import MAX_ROWS, measured_columns
from gradviz.record.recipe import Recipe
from gradviz.record.run import Run, Status
from gradviz.record.sample import even_choice
from gradviz.web import wire
from gradviz.web.given import Theory, Words, chance_of, scales, theory_of, words_of
from gradviz.web.texts import words

FILM = 80  # moments of a replay, beside its end
MOST_EXACT = 3_000_000  # bytes of exact columns in one file; of a larger run it has so many of them, evenly chosen
MOST_CODES = 1_200_000  # bytes of pictures; of a larger run each quantity has its first range and the fitted one
_OF_ITS_PICTURE = {"first", "quantity", "low", "high", "missing", "seconds_left"}  # what a moment's header says of no moment


class Body:
    """Bytes one after the other, and where each part lies."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = 0
        self._there: dict[bytes, list[int]] = {}

    def put(self, data: bytes) -> list[int]:
        """[where it begins, its length]; the same bytes lie there once: those of a gradient that nothing treats, say."""
        if data not in self._there:
            self._there[data] = [self.size, len(data)]
            self.parts.append(data)
            self.size += len(data)
        return self._there[data]


def kept(
    run: Run[Any], body: Body, share: int = 1,
    describe: Callable[[Run[Any]], Words] = words_of, get_theory: Callable[[Recipe], Theory | None] = theory_of,
) -> dict[str, Any]:  # fmt: skip
    """What the file says of a run, its numbers into `body`. `share`: of how many runs it is one; they share the room.

    Raises ValueError for a run without a step.
    """
    if not run.history.steps:
        raise ValueError("no step was recorded")
    run = replace(run, history=run.history.snapshot())  # it may go on meanwhile
    history = run.history
    ranges = _ranges(run, share)
    pictures = [_picture(run, name, ends, fit, describe, body) for name, ends, fit in _wishes(ranges)]
    header, rest = _read(_asked(run, next(iter(ranges)), next(iter(ranges.values()))[0], False, describe))
    columns, rows, tests = header["columns"], header["rows"], header["tests"]
    exact = _exact_columns(run, [picture["newest"] for picture in pictures], share)
    told = {
        "header": header | {"live": False, "seconds_left": None},
        "series": body.put(rest[: 8 * columns]),
        "tested": body.put(rest[8 * columns + 4 * rows :][: 8 * tests]),
        "pictures": pictures,
        "exact": exact.tolist(),
        "planes": body.put(planes(history.columns[exact])),
        "quantities": list(history.quantities),
        "theory": get_theory(run.recipe),
        "film": [_moment(run, column, header, describe) for column in _moments(exact)],
    }
    return {"id": run.id, "data": _data(run, ranges), "kept": told}


def _data(run: Run[Any], ranges: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    """What the element is given, as by panels.live_panel."""
    return {
        "mode": "live", "id": run.id, "live": False, "status": run.status, "quantity": next(iter(ranges)),
        "chance": chance_of(run.recipe), "ranges": ranges, "linear": scales(run.watched)["linear"], "words": words(run.watched),
    }  # fmt: skip


def _ranges(run: Run[Any], share: int) -> dict[str, list[tuple[float, float]]]:
    """Those of the quantities that the run has."""
    found = {name: list(all) for name, all in scales(run.watched)["ranges"].items() if name in run.history.quantities}
    cells = len(run.history.columns) * min(MAX_ROWS, run.history.layers)
    if cells * sum(len(each) + 1 for each in found.values()) > MOST_CODES / share:
        return {name: each[:1] for name, each in found.items()}
    return found


def _wishes(ranges: dict[str, list[tuple[float, float]]]) -> Iterable[tuple[str, tuple[float, float], bool]]:
    linear = scales(watched=True)["linear"]
    for name, all in ranges.items():
        yield from ((name, ends, False) for ends in all)
        if name not in linear:
            yield name, (0.0, 0.0), True


def _asked(
    run: Run[Any], quantity: str, ends: tuple[float, float], fit: bool, describe: Callable[[Run[Any]], Words], since: int = 0
) -> bytes:
    return wire.delta(run, since, run.history.stride, quantity, *ends, *describe(run), fit=fit, opened=None)


def _picture(
    run: Run[Any], quantity: str, ends: tuple[float, float], fit: bool, describe: Callable[[Run[Any]], Words], body: Body
) -> dict[str, Any]:
    header, rest = _read(_asked(run, quantity, ends, fit, describe))
    newest = header["newest_step"]
    return {
        "quantity": quantity, "low": header["low"], "high": header["high"], "fit": fit, "missing": header["missing"],
        "newest_step": newest, "newest": run.history.column_of(newest),
        "codes": body.put(rest[len(rest) - header["columns"] * header["rows"] :]),
    }  # fmt: skip


def _exact_columns(run: Run[Any], needed: Iterable[int], share: int) -> np.ndarray:
    """Those that the file has exactly: all, or so many that they have room, with the first, the last and those `needed`."""
    history = run.history
    columns = measured_columns(history.columns) if run.watched else np.arange(len(history.columns))
    room = max(2, int(MOST_EXACT / share / history.columns[0].nbytes))
    chosen = columns[even_choice(len(columns), room)]
    return np.unique([0, *chosen.tolist(), *needed, len(history.columns) - 1]).astype(int)


def _moments(exact: np.ndarray) -> list[int]:
    """Columns after which a replay stands for a moment; its end, the run itself, is none of them."""
    return [int(exact[place]) for place in even_choice(len(exact) - 1, FILM)] if len(exact) > 1 else []


def _moment(run: Run[Any], column: int, header: dict[str, Any], describe: Callable[[Run[Any]], Words]) -> dict[str, Any]:
    """What was said of the run after this column, as far as it differs from what is said in the end."""
    history = run.history.snapshot((column + 1) * run.history.stride)
    then = replace(
        run, history=history, status=Status.RUNNING, message=NOTHING, test_accuracy=None, nonfinite_layer=None, deletion=None
    )
    name, ends = header["quantity"], (header["low"], header["high"])
    said, _rest = _read(_asked(then, name, ends, False, describe, since=history.steps))
    said["tests"] = len(history.tests)  # all, where the message has those of its columns
    differs = {key: value for key, value in said.items() if key not in _OF_ITS_PICTURE and value != header.get(key)}
    return {"column": column, "header": differs}


def planes(values: np.ndarray) -> bytes:
    """float32 as their first bytes, then all second ones, and so on: packed, that is a fifth smaller."""
    return np.ascontiguousarray(np.ascontiguousarray(values, "<f4").view(np.uint8).reshape(-1, 4).T).tobytes()


def _read(message: bytes) -> tuple[dict[str, Any], bytes]:
    """The header of a message of wire.pack, and its arrays."""
    (length,) = struct.unpack_from("<I", message)
    return json.loads(message[4 : 4 + length]), message[4 + length :]


def has_all(run: Run[Any], share: int = 1) -> bool:
    """Whether a file has every column of the run exactly."""
    history: History = run.history
    return history.columns.nbytes <= MOST_EXACT / share
