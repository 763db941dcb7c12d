"""What a run of somebody's own net is about, and how hundreds of its layers are folded."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeGuard

import numpy as np

from gradviz.record.history import History
from gradviz.record.layout import Layout
from gradviz.record.quantities import OF_WATCHED, QUANTITIES, described
from gradviz.record.raster import measured_columns
from gradviz.words import gettext as _

ABSENT = -1.0  # in a table: not measured, for a reason; no quantity is negative, and any number beats it where columns merge
STILL = "still_share"
MEASURED = (*QUANTITIES, *OF_WATCHED)  # rows of a watched net's table
FOLDED = 60  # groups that a screen shows at most

_ID = re.compile(r"watched-[0-9a-f]{16}")
_LONGEST = 300  # characters of a name or a title
_PLACE = 10**9  # depth of a group that is no module: nothing in the tree is deeper


@dataclass(frozen=True)
class Watched:
    """A net that was watched. Its id is random: nobody knows what would give the same numbers again."""

    id: str
    title: str
    layout: Layout
    kinds: tuple[str, ...] = ()  # of each layer, the class of its module: "Conv2d"
    entries: tuple[int, ...] = ()  # of each layer's weight
    tied: tuple[tuple[str, str], ...] = ()  # (layer, the one before it that is the same weight)
    optimizers: tuple[str, ...] = ()
    outputs: tuple[int, ...] = ()  # entries of each layer's output at the first step; 0 where it was not seen
    behind: tuple[str, ...] = ()  # of each layer what stands behind it: "relu", "tanh", "sigmoid", or "" for anything else
    precisions: tuple[str, ...] = ()  # of each layer's weights: "float32"
    chance: float | None = None  # share that a guess gets right, 1 over the number of classes; None where nobody has said it

    @property
    def steps(self) -> int | None:
        """Nobody knows them."""
        return None

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": "watched", "id": self.id, "title": self.title, "layers": list(self.layout.names), "kinds": list(self.kinds),
            "entries": list(self.entries), "tied": [list(pair) for pair in self.tied], "optimizers": list(self.optimizers),
            "outputs": list(self.outputs), "behind": list(self.behind), "precisions": list(self.precisions),
            "chance": self.chance,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> Watched:
        """Raises ValueError for what is no such thing. Files of before there were kinds name none."""
        if kept.get("kind", "watched") != "watched":
            raise ValueError("another kind of recipe")
        names = _texts(kept.get("layers"))
        tied = [tuple(_texts(pair)) for pair in _list(kept.get("tied", []))]
        if not (isinstance(kept.get("id"), str) and is_id(kept["id"]) and isinstance(kept.get("title"), str)):
            raise ValueError("no id or no title of a watched net")
        entries, outputs = _counts(kept.get("entries", [])), _counts(kept.get("outputs", []))
        kinds, behind, precisions = (_texts(kept.get(key, [])) for key in ("kinds", "behind", "precisions"))
        of_layers = (entries, outputs, kinds, behind, precisions)
        if not names or len(set(names)) != len(names) or {len(each) for each in of_layers} - {0, len(names)}:
            raise ValueError("the layers of a watched net do not fit together")
        pairs = tuple((pair[0], pair[1]) for pair in tied if len(pair) == 2)
        optimizers = tuple(_texts(kept.get("optimizers", [])))
        return cls(
            kept["id"], kept["title"][:_LONGEST], Layout(tuple(names)), tuple(kinds), tuple(entries), pairs, optimizers,
            tuple(outputs), tuple(behind), tuple(precisions), share if is_chance(share := kept.get("chance")) else None,
        )  # fmt: skip


def is_chance(value: object) -> TypeGuard[float]:
    """Whether it may be the share that a guess gets right."""
    return isinstance(value, float) and 0 < value < 1


def is_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def new_id() -> str:
    return f"watched-{secrets.token_hex(8)}"


def fold(names: Sequence[str], most: int = FOLDED) -> list[tuple[str, range]]:
    """Neighbouring rows put together by the module tree, into at most `most` groups: (what their names begin with, rows).

    Nothing is folded where there is room; else the largest group is unfolded first. Where more modules stand side by side
    than there is room for, neighbours of them are a group, "encoder.3 … 5".
    """
    paths = [name.split(".") for name in names]

    def parted(rows: range, depth: int) -> list[tuple[range, int]]:
        parts = [list(group) for _like, group in groupby(rows, lambda row: paths[row][:depth])]
        return [(range(part[0], part[-1] + 1), depth) for part in parts]

    groups = _by_place(parted(range(len(names)), 1), most)
    closed: set[range] = set()
    while open_groups := [group for group in groups if len(group[0]) > 1 and group[0] not in closed]:
        rows, depth = max(open_groups, key=lambda group: len(group[0]))
        deepest = max(len(paths[row]) for row in rows)
        deeper = next((inner for d in range(depth + 1, deepest + 1) if len(inner := parted(rows, d)) > 1), [])
        deeper = _by_place(deeper, most - len(groups) + 1)
        if len(deeper) < 2:
            closed.add(rows)
            continue
        at = groups.index((rows, depth))
        groups[at : at + 1] = deeper
    return [(_beginning([names[row] for row in rows], depth), rows) for rows, depth in groups]


def _by_place(groups: list[tuple[range, int]], most: int) -> list[tuple[range, int]]:
    """So many at most, neighbours put together."""
    size = -(-len(groups) // max(1, most))
    if size < 2:
        return groups
    together = [groups[at : at + size] for at in range(0, len(groups), size)]
    return [(range(part[0][0].start, part[-1][0].stop), _PLACE if len(part) > 1 else part[0][1]) for part in together]


def last_measured(history: History) -> np.ndarray[Any, np.dtype[np.float32]] | None:
    """The newest column that holds a number, (len(MEASURED), layers)."""
    columns = history.snapshot().columns
    measured = measured_columns(columns)
    return columns[measured[-1]] if len(measured) else None


def as_text(names: Sequence[str], table: np.ndarray[Any, np.dtype[np.float32]]) -> str:
    """One step as lines of text. `table`: (len(MEASURED), layers); of folded layers the largest; "–" where there is none."""
    short = [_(row.short or row.label) for row in map(described, MEASURED)]
    groups = fold(names)
    width = max(len(name) for name, _rows in groups) + 2
    lines = [" " * width + "".join(f"{word[:11]:>12}" for word in short)]
    for name, rows in groups:
        numbers = [float(row[rows.start : rows.stop].max()) for row in table]
        lines.append(name.ljust(width) + "".join(f"{'–' if number < 0 else f'{number:.2g}':>12}" for number in numbers))
    return "\n".join(lines)


def _beginning(names: Sequence[str], depth: int) -> str:
    if len(names) == 1:
        return names[0]
    first, last = names[0].split("."), names[-1].split(".")
    alike = 0
    while alike < min(len(first), len(last)) and first[alike] == last[alike]:
        alike += 1
    if depth == _PLACE:  # "encoder.3 … 5"
        return f"{'.'.join(first[: alike + 1])} … {'.'.join(last[alike : alike + 1])}"
    return ".".join(first[:alike])


def _list(kept: object) -> list[Any]:
    if not isinstance(kept, list):
        raise ValueError("a list is missing")
    return kept


def _counts(kept: object) -> list[int]:
    return [entry for entry in _list(kept) if type(entry) is int and entry >= 0]


def _texts(kept: object) -> list[str]:
    texts = _list(kept)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a text is missing")
    return [text[:_LONGEST] for text in texts]
