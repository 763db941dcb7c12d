"""What the rows of a kept run say, as far as they can be believed: they may come from another version, a bad disk, or a hand."""

from __future__ import annotations

import io
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Any, Generic, Protocol, TypeGuard

import numpy as np

from gradviz.messages import Message, Told, say, text
from gradviz.record.arithmetic import Arithmetic
from gradviz.record.history import History, max_columns
from gradviz.record.quantities import OF_WATCHED, QUANTITIES
from gradviz.record.recipe import R
from gradviz.record.run import Status
from gradviz.record.sample import BlockDeletion, PackedSample

_YEAR_9999 = 253_370_764_800  # Unix time
_LONGEST = 2000  # characters of what a page shows
# Of a run, however many its recipe asks for, and of one whose recipe does not say: a number beyond comes from a bad disk.
_MOST_STEPS, _MOST_UNKNOWN = 100_000, 10_000_000

Readers = Mapping[str, Callable[[Mapping[str, Any]], R]]  # kind of recipe -> from what its to_dict gave; "": names no kind


class Row(Protocol):
    """Of a table: a sqlite3.Row, or a dict."""

    def __getitem__(self, name: str, /) -> Any: ...


class Unsound(Told):
    """This version can make no run of a row; the message says why in a few words."""


class Recipes(Generic[R]):
    """How kept recipes are read, by the `kind` that they name."""

    def __init__(self, readers: Readers[R]):
        self._readers = dict(readers)
        self.read = lru_cache(maxsize=8192)(self._read)  # a page lists thousands of runs at each of its script runs

    def _read(self, kept: Any) -> R:
        """Raises Unsound."""
        try:
            values = json.loads(kept)
            return self._readers[values.get("kind", "")](values)
        except (Told, TypeError, ValueError, KeyError, AttributeError, OverflowError, RecursionError):
            raise Unsound(say("row-recipe")) from None


@dataclass(frozen=True)
class Sound(Generic[R]):
    """A row of `runs`."""

    recipe: R
    status: Status
    created: float
    steps: int
    loss: float
    seconds: float
    test_accuracy: float | None
    device: str
    message: Message
    nonfinite_layer: str | None
    max_columns: int

    @classmethod
    def of(cls, row: Row, recipes: Recipes[R]) -> Sound[R]:
        """Raises Unsound."""
        if not isinstance(row["id"], str):
            raise Unsound(say("row-id"))
        recipe = recipes.read(row["config"])
        try:
            status = Status(row["status"])
        except ValueError:
            raise Unsound(say("row-status", status=repr(str(row["status"])[:20]))) from None
        created, steps, most = row["created"], row["steps"], row["max_columns"]
        if not is_number(created) or not 0 <= created < _YEAR_9999:
            raise Unsound(say("row-created"))
        if not is_whole(steps) or not 0 <= steps <= (_MOST_UNKNOWN if recipe.steps is None else max(recipe.steps, _MOST_STEPS)):
            raise Unsound(say("row-steps"))
        if not is_whole(most) or not 2 <= most <= 10_000 or most % 2:
            most = max_columns(len(recipe.layout))
        accuracy, layer = row["test_accuracy"], row["nonfinite_layer"]
        return cls(
            recipe,
            status,
            float(created),
            steps,
            float(row["loss"]) if is_number(row["loss"]) else math.nan,
            float(row["seconds"]) if is_number(row["seconds"]) else 0.0,
            float(accuracy) if is_number(accuracy) else None,
            row["device"][:_LONGEST] if isinstance(row["device"], str) else "",
            message_of(row["message"]),
            layer[:_LONGEST] if isinstance(layer, str) else None,
            most,
        )


def message_text(message: Message) -> str:
    """As it is kept: plain words as they are, all else as JSON."""
    return message.arguments["text"] if message.code == "text" else json.dumps(message.to_json())


def message_of(kept: object) -> Message:
    """What `message_text` gave, and the sentences of runs kept before there were codes; as much of it as a page shows."""
    words = kept if isinstance(kept, str) else ""
    if words.startswith("{"):
        try:
            message = Message.from_json(json.loads(words))
        except (ValueError, RecursionError):
            message = text(words)
        if message.code != "text":
            return message if len(str(message)) <= _LONGEST else text(str(message)[:_LONGEST])
    return text(words[:_LONGEST])


class Parts(Generic[R]):
    """Puts a run's history together from its rows; a row that cannot be used leaves a gap of nan."""

    def __init__(self, sound: Sound[R], quantities: object, stride: object, *most: object):
        """`most`: the numbers of tests and of samples, if they were kept."""
        self._layers, self._steps, self._most = len(sound.recipe.layout), sound.steps, sound.max_columns
        names = quantities.split() if isinstance(quantities, str) else []
        self._names = names if set(names) & set(QUANTITIES) else list(QUANTITIES)
        self._rows = [*QUANTITIES, *(name for name in OF_WATCHED if name in self._names)]  # of the history
        self._stride: int = stride if is_whole(stride) and self._fits(stride) else 1
        while not self._fits(self._stride):
            self._stride *= 2  # as History does
        self._scalars = np.full((self._steps, 3), np.nan)
        self._columns = np.full((self._count(self._stride), len(self._rows), self._layers), np.nan, np.float32)
        self._there = np.zeros(self._steps, bool), np.zeros(len(self._columns), bool)
        self._tests: list[tuple[int, float]] = []
        self._samples: list[PackedSample] = []
        self._counts = sum(number for number in most if is_whole(number) and 0 <= number <= sound.steps)
        self._bad = 0  # tests and samples that cannot be used

    def _count(self, stride: int) -> int:
        return math.ceil(self._steps / stride)

    def _fits(self, stride: int) -> bool:
        return 0 < stride < 2**40 and stride & (stride - 1) == 0 and self._count(stride) <= self._most

    def take(self, table: str, place: object, *values: object) -> None:
        """A row without its run's id; its checksum is the last value."""
        right = is_whole(place) and is_right(table, place, *values)
        if not right or not getattr(self, f"_take_{table}")(place, *values):
            self._bad += table in ("tests", "samples")

    def _take_scalars(self, first: int, data: object, _checksum: object) -> bool:
        if not isinstance(data, bytes) or not data or len(data) % 24:
            return False
        count = len(data) // 24
        if first < 0 or first + count > self._steps:
            return False
        self._scalars[first : first + count] = np.frombuffer(data, "<f8").reshape(count, 3)
        self._there[0][first : first + count] = True
        return True

    def _take_columns(self, place: int, data: object, _checksum: object) -> bool:
        size = 4 * len(self._names) * self._layers
        if not isinstance(data, bytes) or len(data) != size or not 0 <= place < len(self._columns):
            return False
        kept = np.frombuffer(data, "<f4").reshape(len(self._names), self._layers)
        if self._names == self._rows:
            self._columns[place] = kept
        else:  # nan where a quantity was not kept
            for row, name in enumerate(self._rows):
                if name in self._names:
                    self._columns[place, row] = kept[self._names.index(name)]
        self._there[1][place] = True
        return True

    def _take_tests(self, step: int, accuracy: object, _checksum: object) -> bool:
        if not is_number(accuracy) or not 0 <= step < self._steps:
            return False
        self._tests.append((step, float(accuracy)))
        return True

    def _take_samples(self, step: int, numbers: object, images: object, kept: object) -> bool:
        if not isinstance(numbers, bytes) or not isinstance(images, bytes) or not 0 <= step < self._steps:
            return False
        if kept is None and (not _unzips(numbers) or images and not _unzips(images)):
            return False
        self._samples.append(PackedSample(step, numbers, images))
        return True

    def lost(self) -> Message | None:
        """What is missing; None if nothing is."""
        missing = []
        for there, code in zip(self._there, ("lost-steps", "lost-columns"), strict=True):
            if gone := len(there) - int(there.sum()):
                missing.append(say(code, count=gone, n=len(there)))
        if bad := max(self._bad, self._counts - len(self._tests) - len(self._samples)):
            missing.append(say("lost-others", n=bad))
        return reduce(lambda one, other: say("both", first=one, second=other), missing) if missing else None

    def history(self) -> History:
        return History.restored(
            self._columns, self._scalars, self._tests, self._stride, self._most, self._samples, self._rows
        )


def checksum(table: str, place: int, *values: bytes | float) -> int:
    """Of a row of a run's records; without the run's id, which may change."""
    total = zlib.crc32(f"{table} {place}".encode())
    for value in values:
        total = zlib.crc32(value if isinstance(value, bytes) else struct.pack("<d", value), total)
    return total


def is_right(table: str, place: object, *values: Any) -> bool:
    """Whether a row's last value, if it has one, is the checksum of the others."""
    *rest, kept = values
    if kept is None:
        return True  # written before there were any
    return is_whole(place) and all(isinstance(each, bytes) or is_number(each) for each in rest) and checksum(
        table, place, *rest) == kept  # fmt: skip


def is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and abs(value) < 2**53


def is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, (int, float))


def _unzips(data: bytes) -> bool:
    """Whether it is a whole .npz: each of its files carries a checksum of its own."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            return file.testzip() is None
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError, RuntimeError, zlib.error):
        return False


def clients(text: Any) -> tuple[str, ...]:
    """Nobody, if that cannot be read."""
    try:
        kept = json.loads(text) if text else []
    except (TypeError, ValueError, RecursionError):
        return ()
    return tuple(client for client in kept if isinstance(client, str)) if isinstance(kept, list) else ()


def arithmetic(text: Any) -> Arithmetic | None:
    """None, if that cannot be read."""
    try:
        return Arithmetic.from_dict(json.loads(text or "null"))
    except (TypeError, ValueError, RecursionError):
        return None


def measuring(text: Any) -> dict[str, Any] | None:
    """None, if that cannot be read."""
    try:
        kept = json.loads(text) if text else None
    except (TypeError, ValueError, RecursionError):
        return None
    return kept if isinstance(kept, dict) else None


def deletion(text: Any) -> BlockDeletion | None:
    """None, if that cannot be read."""
    try:
        kept = json.loads(text) if text else None
        if kept is None:
            return None
        kept = BlockDeletion.from_dict(kept)
        numbers = (kept.full, kept.without_all, *kept.accuracies)
        sound = all(map(is_whole, (kept.images, *kept.blocks))) and all(map(is_number, numbers)) and kept.images > 0
        return kept if sound and 0 < len(kept.blocks) == len(kept.accuracies) else None
    except (TypeError, ValueError, KeyError, RecursionError):
        return None
