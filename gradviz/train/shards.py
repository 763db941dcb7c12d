"""Weights of which each process has a part (DTensor: FSDP2 and its like): numbers of the parts become those of the whole.

No process ever enters a collective for this: one that came alone would wait for ever, and the training with it. Each process
lays what it has measured of its part into the store in which the processes have found each other, a place for each, and goes
on. The first one reads it there before it makes a record. It waits for a process only if that has said that it will look at
this very step, and once in a training at most for some ten seconds.

Which step a part is of is told by the number of collectives that the training itself has entered: it is the same in all
processes, and larger at each step. Whatever is not there, or of another step, is missed: the numbers of a weight are those of
all its entries or none.
"""

from __future__ import annotations

import contextlib
import json
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from gradviz.record.watched import MEASURED, STILL
from gradviz.train.modules import find_rows, is_lazy_net
from gradviz.train.pace import Pace
from gradviz.train.spread import fsdp_groups, is_spread
from gradviz.train.updates import Numbers

_POLLS = 1500  # looks into the store for what is to come, the first ones soon after each other, the others each ten milliseconds
_OF_WEIGHTS = ("weight_grad_rms", "zero_share", "treated_grad_rms", "weight_rms", "update_ratio", STILL)
_PLACES = [MEASURED.index(quantity) for quantity in _OF_WEIGHTS]
_WEIGHT, _UPDATE, _STILL = (_OF_WEIGHTS.index(quantity) for quantity in ("weight_rms", "update_ratio", STILL))


@dataclass
class _Said:
    """By one of the others: the step that it has looked at last, after how many collectives, and the one it looks at next."""

    step: int = -1
    stamp: int = -1
    next: int = 0  # -1: none
    part: bytes = b""  # float64 (2, len(_OF_WEIGHTS), rows): sums and wholes, see `tables`

    def to_bytes(self) -> bytes:
        return json.dumps([self.step, self.stamp, self.next]).encode() + b"\n" + self.part

    @classmethod
    def of(cls, kept: bytes) -> _Said:
        head, _line, part = kept.partition(b"\n")
        step, stamp, following = json.loads(head)
        return cls(step, stamp, following, part)


@dataclass
class Shards:
    """The parts of one net, as one process sees them. How often the first one looks, the others look."""

    rank: int
    rows: list[int]  # those that lie on several processes
    entries: Numbers  # of each of them, on all processes
    sharers: list[list[int]]  # of each of them: the processes that have a part, this one too
    group: Any  # whose collectives are counted
    world: int  # processes whose mean a gradient is; 0 if that is not known
    place: str = ""  # in the store
    over: bool = False  # no look is of use any more
    _every: int = 0  # what the others know
    _last: _Said = field(default_factory=_Said)  # what the first process knows of this one
    _lost: set[int] = field(default_factory=set)  # processes that have not come where they had said

    @classmethod
    def of(cls, model: nn.Module, pace: Pace) -> Shards | None:
        """None for a net of which this process has the whole, or of which it is not clear who has what."""
        try:
            return cls._of(model, pace)
        except Exception:  # of a torch that names things otherwise
            return None

    @classmethod
    def _of(cls, model: nn.Module, pace: Pace) -> Shards | None:
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()) or is_lazy_net(model):
            return None
        rows = find_rows(model)
        weights: dict[int, Any] = {k: weight for k, row in enumerate(rows) if is_spread(weight := row.weight)}
        several = list(weights.values())
        if not several or any(weight.device_mesh.get_coordinate() is None for weight in several):
            return None
        shards = cls(
            torch.distributed.get_rank(), list(weights), np.array([weight.numel() for weight in several], float),
            [_sharers(weight) for weight in several], _group(several), _averaged(model, several),
        )  # fmt: skip
        shards._announce([(row.name, None if row.weight is None else tuple(row.weight.shape)) for row in rows], pace)
        return shards

    def _announce(self, net: object, pace: Pace) -> None:
        name = f"gradviz/{zlib.crc32(repr(net).encode()):08x}"
        try:
            if _kind(_store()) == "FileStore":
                raise ValueError("a store that keeps all that was ever laid into it")
            turn = _store().add(f"{name}/turns/{self.rank}", 1)  # of nets that are alike, and of one that is watched anew
            self.place = f"{name}/{turn}"
            if self.rank:
                self._say(self._last.to_bytes())
            self.paced(pace)
        except Exception:  # without a store of use nobody hears of anybody
            self.over = True

    def join(self, step: int, pace: Pace, sums: Numbers, wholes: Numbers) -> set[tuple[str, int]]:
        """Of a look at `step`. In the first process the arrays become those of the whole; (quantity, row) of what is not.

        `sums` and `wholes` (len(MEASURED), rows) are those of `tables`. The other processes lay them into the store.
        """
        at = np.ix_([0, 1], _PLACES, self.rows)
        both = np.stack([sums, wholes])
        mine = both[at]
        by = np.divide(mine[1, _WEIGHT], mine[1, _UPDATE], out=np.ones(len(self.rows)), where=mine[1, _UPDATE] > 0)
        mine[:, [_UPDATE, _STILL]] *= by  # of a large part only some entries were compared, of a small one all
        mine[1, _UPDATE] = np.where(mine[1, _UPDATE] > 0, mine[1, _WEIGHT], 0.0)  # k · (n / k) is not always n
        parts: Mapping[int, bytes] = {}
        try:
            stamp = _stamp(self.group)
            if self.rank:
                self._follow(step, stamp, pace, mine)
            elif not self.over:
                parts = self._gathered(step, stamp)
        except Exception:  # of the store
            self.over = True
        for rank, part in parts.items():
            its = [rank in sharers for sharers in self.sharers]
            mine[:, :, its] += np.frombuffer(part).reshape(mine.shape)[:, :, its]
        some = mine[1] > 0
        partly = some & (mine[1] != self.entries)
        partly[_STILL] = some[_STILL] & (mine[1, _UPDATE] != self.entries)
        mine[1][partly] = 0
        both[at] = mine
        sums[:], wholes[:] = both
        return {(_OF_WEIGHTS[place], self.rows[k]) for place, k in np.argwhere(partly).tolist()}

    def paced(self, pace: Pace) -> None:
        """The first process says how often it looks."""
        if not self.rank and not self.over and pace.every != self._every:
            self._every = pace.every
            self._say(str(pace.every).encode())

    def gone(self) -> None:
        """This process looks no more. Nobody waits for it."""
        if self.place and not self.over:
            self._last.next = -1  # its last part may not have been read yet
            with contextlib.suppress(Exception):  # the processes may have parted before
                self._say(self._last.to_bytes() if self.rank else b"0")
        self.over = True

    def _gathered(self, step: int, stamp: int) -> Mapping[int, bytes]:
        """Of the other processes what they have measured at this very step."""
        found: dict[int, bytes] = {}
        waiting = {rank for sharers in self.sharers for rank in sharers} - self._lost - {self.rank}
        for poll in range(_POLLS):
            for rank in sorted(waiting):
                kept = self._heard(rank)
                said = _Said(next=-1) if kept is None else _Said.of(kept)
                if said.stamp < stamp and 0 <= said.next <= step:
                    continue  # it is on its way
                if (said.step, said.stamp) == (step, stamp):
                    found[rank] = said.part
                waiting.discard(rank)
            if not waiting:
                return found
            time.sleep(min(0.0002 * 1.1 ** min(poll, 100), 0.01))
        self._lost |= waiting
        return found

    def _follow(self, step: int, stamp: int, pace: Pace, mine: Numbers) -> None:
        kept = self._heard(0)
        if kept is None or kept == b"0":
            self.over = True
            return
        every = pace.every = int(kept)
        self._last = _Said(step, stamp, step - step % every + every, mine.tobytes())
        self._say(self._last.to_bytes())

    def _say(self, what: bytes) -> None:
        _store().set(f"{self.place}/{self.rank}", what)

    def _heard(self, rank: int) -> bytes | None:
        store, place = _store(), f"{self.place}/{rank}"
        return bytes(store.get(place)) if store.check([place]) else None


def _store() -> Any:
    """Asked for each time: one that is held would keep its port from the next training of this process."""
    return torch.distributed.distributed_c10d._get_default_store()


def _kind(store: Any) -> str:
    """Of what lies beneath the prefixes."""
    while beneath := getattr(store, "underlying_store", None):
        store = beneath
    return type(store).__name__


def _stamp(group: Any) -> int:
    """Collectives that the training has entered."""
    return int(group._get_sequence_number_for_group())


def _sharers(weight: Any) -> list[int]:
    """The processes whose parts make up what this one has a part of."""
    at = tuple(
        place if placement.is_replicate() else slice(None)
        for place, placement in zip(weight.device_mesh.get_coordinate(), weight.placements, strict=True)
    )
    ranks: list[int] = weight.device_mesh.mesh[at].flatten().tolist()
    return ranks


def _group(weights: Sequence[Any]) -> Any:
    for weight in weights:
        for dimension, placement in enumerate(weight.placements):
            if not placement.is_replicate():
                return weight.device_mesh.get_group(dimension)
    return weights[0].device_mesh.get_group(0)


def _averaged(model: nn.Module, weights: Sequence[Any]) -> int:
    """Processes whose mean a gradient is, where FSDP2 is all that has spread the weights; else 0."""
    groups, world = list(fsdp_groups(model)), torch.distributed.get_world_size()
    mean = groups and all(getattr(group, "gradient_divide_factor", 0) is None for group in groups)
    for weight in weights:
        *others, last = weight.placements
        mean = mean and weight.device_mesh.size() == world and type(last).__name__ == "Shard"
        mean = mean and all(other.is_replicate() for other in others)
    return world if mean else 0
