"""Which rows a screen shows of a net: hundreds of layers are folded by the module tree, and a group may be unfolded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from gradviz.record.layout import Layout
from gradviz.record.raster import MAX_ROWS
from gradviz.record.watched import FOLDED, fold


@dataclass(frozen=True)
class Rows:
    """A row stands for one layer or for several neighbours."""

    names: tuple[str, ...]  # of several, what their names begin with
    starts: tuple[int, ...]  # first layer of each row
    sizes: tuple[int, ...]  # layers of each row
    opened: tuple[int, ...]  # first layers of the groups that were unfolded, in this order

    def pool(self, values: np.ndarray) -> np.ndarray:
        """(..., layers) to (..., rows), by maximum: nan beats inf, inf every number, and a number what was not measured."""
        return np.asarray(np.maximum.reduceat(values, self.starts, axis=-1))


@lru_cache(maxsize=256)
def folded(layout: Layout, opened: tuple[int, ...] = ()) -> Rows | None:
    """None where every layer has a row: of nets that are not so deep, and of those whose middle repeats one layer.

    `opened`: first layers of groups to unfold, one after the other; what begins no group is left out. Where the rows became
    more than a screen tells apart, the group that was unfolded first is folded again.
    """
    if len(layout) <= FOLDED or layout.inside:
        return None
    while True:
        rows, done = _unfolded(layout.names, opened)
        if len(rows) <= MAX_ROWS:
            break
        opened = done[1:]
    names, ranges = zip(*rows, strict=True)
    return Rows(names, tuple(each.start for each in ranges), tuple(map(len, ranges)), done)


def _unfolded(names: Sequence[str], opened: Sequence[int]) -> tuple[list[tuple[str, range]], tuple[int, ...]]:
    rows, done = fold(names), []
    for start in opened:
        place = next((k for k, (_name, group) in enumerate(rows) if group.start == start and len(group) > 1), None)
        if place is None:
            continue
        parts = fold([names[layer] for layer in rows[place][1]])
        rows[place : place + 1] = [(name, range(start + part.start, start + part.stop)) for name, part in parts]
        done.append(start)
    return rows, tuple(done)
