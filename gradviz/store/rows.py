"""What the rows of a kept run say, as far as they can be believed: they may come from another version, a bad disk, or a hand."""

from __future__ import annotations

import io
import json
import math
import sqlite3
import struct
import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from gradviz.lenet.config import FIELDS, ConfigError, RunConfig
from gradviz.record.arithmetic import Arithmetic
from gradviz.record.history import History, max_columns
from gradviz.record.quantities import QUANTITIES
from gradviz.record.run import Status
from gradviz.record.sample import BlockDeletion, PackedSample
from gradviz.words import gettext as _

_YEAR_9999 = 253_370_764_800  # Unix time
_LONGEST = 2000  # characters of what a page shows


@dataclass(frozen=True)
class Sound:
    """A row of `runs`."""

    recipe: RunConfig
    status: Status
    created: float
    steps: int
    loss: float
    seconds: float
    test_accuracy: float | None
    device: str
    message: str
    nonfinite_layer: str | None
    max_columns: int

    @classmethod
    def of(cls, row: sqlite3.Row) -> Sound:
        """Raises ValueError, in a few words, if this version can make no run of it."""
        if not isinstance(row["id"], str):
            raise ValueError("no id")
        try:
            config = _understood(row["config"])
        except (ConfigError, TypeError, ValueError, KeyError, AttributeError, OverflowError, RecursionError):
            raise ValueError("unknown settings") from None
        try:
            status = Status(row["status"])
        except ValueError:
            raise ValueError(f"unknown status {str(row['status'])[:20]!r}") from None
        created, steps, most = row["created"], row["steps"], row["max_columns"]
        if not is_number(created) or not 0 <= created < _YEAR_9999:
            raise ValueError("no time of creation")
        if not is_whole(steps) or not 0 <= steps <= max(config.steps, FIELDS["steps"].spec.high):
            raise ValueError("no number of steps")
        if not is_whole(most) or not 2 <= most <= 10_000 or most % 2:
            most = max_columns(config.layers)
        accuracy, layer = row["test_accuracy"], row["nonfinite_layer"]
        return cls(
            config,
            status,
            float(created),
            steps,
            float(row["loss"]) if is_number(row["loss"]) else math.nan,
            float(row["seconds"]) if is_number(row["seconds"]) else 0.0,
            float(accuracy) if is_number(accuracy) else None,
            row["device"][:_LONGEST] if isinstance(row["device"], str) else "",
            row["message"][:_LONGEST] if isinstance(row["message"], str) else "",
            layer[:_LONGEST] if isinstance(layer, str) else None,
            most,
        )


class Parts:
    """Puts a run's history together from its rows; a row that cannot be used leaves a gap of nan."""

    def __init__(self, sound: Sound, quantities: object, stride: object, *most: object):
        """`most`: the numbers of tests and of samples, if they were kept."""
        self._layers, self._steps, self._most = len(sound.recipe.layout), sound.steps, sound.max_columns
        names = quantities.split() if isinstance(quantities, str) else []
        self._names = names if set(names) & set(QUANTITIES) else list(QUANTITIES)
        self._stride = stride if is_whole(stride) and self._fits(stride) else 1
        while not self._fits(self._stride):
            self._stride *= 2  # as History does
        self._scalars = np.full((self._steps, 3), np.nan)
        self._columns = np.full((self._count(self._stride), len(QUANTITIES), self._layers), np.nan, np.float32)
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
        count = len(data) // 24 if isinstance(data, bytes) else 0
        if not count or len(data) % 24 or first < 0 or first + count > self._steps:
            return False
        self._scalars[first : first + count] = np.frombuffer(data, "<f8").reshape(count, 3)
        self._there[0][first : first + count] = True
        return True

    def _take_columns(self, place: int, data: object, _checksum: object) -> bool:
        size = 4 * len(self._names) * self._layers
        if not isinstance(data, bytes) or len(data) != size or not 0 <= place < len(self._columns):
            return False
        kept = np.frombuffer(data, "<f4").reshape(len(self._names), self._layers)
        if self._names == list(QUANTITIES):
            self._columns[place] = kept
        else:  # nan where a quantity was not kept
            for row, name in enumerate(QUANTITIES):
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

    def lost(self) -> str:
        """What is missing, in words; empty if nothing is."""
        words = []
        for there, text in zip(self._there, (_("{n} of {all} steps"), _("{n} of {all} columns of layers")), strict=True):
            if missing := len(there) - int(there.sum()):
                words.append(text.format(n=missing, all=len(there)))
        if bad := max(self._bad, self._counts - len(self._tests) - len(self._samples)):
            words.append(_("{n} tests and samples").format(n=bad))
        return ", ".join(words)

    def history(self) -> History:
        return History.restored(self._columns, self._scalars, self._tests, self._stride, self._most, self._samples)


def checksum(table: str, place: int, *values: bytes | float) -> int:
    """Of a row of a run's records; without the run's id, which may change."""
    total = zlib.crc32(f"{table} {place}".encode())
    for value in values:
        total = zlib.crc32(value if isinstance(value, bytes) else struct.pack("<d", value), total)
    return total


def is_right(table: str, place: object, *values: object) -> bool:
    """Whether a row's last value, if it has one, is the checksum of the others."""
    *rest, kept = values
    if kept is None:
        return True  # written before there were any
    return is_whole(place) and all(isinstance(each, bytes) or is_number(each) for each in rest) and checksum(
        table, place, *rest) == kept  # fmt: skip


def is_whole(value: object) -> bool:
    return isinstance(value, int) and abs(value) < 2**53


def is_number(value: object) -> bool:
    return isinstance(value, (int, float))


def _unzips(data: bytes) -> bool:
    """Whether it is a whole .npz: each of its files carries a checksum of its own."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            return file.testzip() is None
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError, RuntimeError, zlib.error):
        return False


@lru_cache(maxsize=8192)  # a page lists thousands of runs at each of its script runs
def _understood(config: str) -> RunConfig:
    return RunConfig.from_dict(json.loads(config))


def clients(text: object) -> tuple[str, ...]:
    """Nobody, if that cannot be read."""
    try:
        kept = json.loads(text) if text else []
    except (TypeError, ValueError, RecursionError):
        return ()
    return tuple(client for client in kept if isinstance(client, str)) if isinstance(kept, list) else ()


def arithmetic(text: object) -> Arithmetic | None:
    """None, if that cannot be read."""
    try:
        return Arithmetic.from_dict(json.loads(text or "null"))
    except (TypeError, ValueError, RecursionError):
        return None


def deletion(text: object) -> BlockDeletion | None:
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
