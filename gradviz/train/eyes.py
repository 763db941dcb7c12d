"""All that is asked of many tensors, in one go over memory, and on a processor with a core to spare by two threads."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby

import torch

from gradviz.machine import cores
from gradviz.train.lengths import Number, in_order, lengths, memory, nonzero

_CACHED = 1 << 19  # entries that are looked at together: what one call has read, the next finds in the cache
_Piece = tuple[int, slice | None]  # which tensor, and which of its entries in the order of the memory; None: all


@dataclass
class Looked:
    """Of each tensor."""

    lengths: list[Number]
    nonzero: list[Number | None]  # entries that are not 0; None: not asked for, or sparse


@dataclass
class Asked:
    """`less` is subtracted from the tensors first; `copies` become copies of them; `beside` and `into` are the masks of
    `nonzero`, and where `into` has none nothing is counted. All have the tensors' shapes, and but for `less` their strides."""

    count: bool = True
    less: Sequence[torch.Tensor] | None = None
    copies: Sequence[torch.Tensor | None] | None = None
    beside: Sequence[torch.Tensor | None] | None = None
    into: Sequence[torch.Tensor | None] | None = None


class Eyes:
    """Two threads look where the training itself has one, a core is free and the tensors are large. `close` ends the second."""

    def __init__(self) -> None:
        self._second: ThreadPoolExecutor | None = None
        self._may = cores() >= 2

    def look(self, tensors: Sequence[torch.Tensor], asked: Asked) -> Looked:
        looked = Looked([0.0] * len(tensors), [None] * len(tensors))
        batches = deque(_batches(tensors, asked.less))
        if not batches:
            return looked
        cut: list[tuple[_Piece, Number, Number | None]] = []

        def work() -> None:
            while batches:
                try:
                    batch = batches.popleft()
                except IndexError:  # the other has taken the last
                    return
                for piece, length, count in _seen(tensors, batch, asked):
                    if piece[1] is None:
                        looked.lengths[piece[0]], looked.nonzero[piece[0]] = length, count
                    else:
                        cut.append((piece, length, count))

        if len(batches) > 2 and self._may and torch.get_num_threads() == 1:
            self._second = self._second or ThreadPoolExecutor(1, "gradviz-watch")
            other = self._second.submit(work)
            work()
            if not other.cancel():
                other.result()
        else:
            work()
        if cut:
            _join(cut, looked)
        return looked

    def close(self) -> None:
        if self._second:
            self._second.shutdown(wait=False)


@torch.no_grad()
def _seen(
    tensors: Sequence[torch.Tensor], batch: Sequence[_Piece], asked: Asked
) -> Iterable[tuple[_Piece, Number, Number | None]]:
    pieces = [tensors[k] if where is None else _part(tensors[k], where) for k, where in batch]
    if asked.less is not None:
        torch._foreach_sub_(pieces, [_part(asked.less[k], where) for k, where in batch])
    found = lengths(pieces)
    if asked.copies is not None:
        to = [None if (copy := asked.copies[k]) is None else _part(copy, where) for k, where in batch]
        wanted = [(copy, piece) for copy, piece in zip(to, pieces, strict=True) if copy is not None]
        if wanted:
            torch._foreach_copy_([copy for copy, _piece in wanted], [piece for _copy, piece in wanted])
    counts: list[Number | None] = [None] * len(batch)
    for place, ((k, where), piece) in enumerate(zip(batch if asked.count else (), pieces, strict=False)):
        beside = None if asked.beside is None else asked.beside[k]
        into = None if asked.into is None else asked.into[k]
        if piece.layout is torch.strided and (asked.into is None or into is not None):
            if where is not None:
                beside, into = (None if mask is None else _part(mask, where) for mask in (beside, into))
            counts[place] = nonzero(piece, beside, into)
    return zip(batch, found, counts, strict=True)


def _batches(tensors: Sequence[torch.Tensor], less: Sequence[torch.Tensor] | None) -> Iterator[list[_Piece]]:
    batch: list[_Piece] = []
    entries = 0
    for k, tensor in enumerate(tensors):
        size = tensor.numel()
        if batch and entries + size > _CACHED:
            yield batch
            batch, entries = [], 0
        if size > _CACHED and _may_be_cut(tensor, None if less is None else less[k]):
            for begin in range(0, size, _CACHED):
                yield [(k, slice(begin, begin + _CACHED))]
        else:
            batch.append((k, None))
            entries += size
    if batch:
        yield batch


def _may_be_cut(tensor: torch.Tensor, less: torch.Tensor | None) -> bool:
    alike = less is None or tensor.dim() == 1 or less.stride() == tensor.stride()  # a piece of both is the same entries
    return alike and tensor.is_cpu and tensor.layout is torch.strided and memory(tensor) is not None


def _part(tensor: torch.Tensor, where: slice | None) -> torch.Tensor:
    if where is None:
        return tensor
    return tensor[where] if tensor.dim() == 1 else in_order(tensor)[where]


def _join(cut: list[tuple[_Piece, Number, Number | None]], looked: Looked) -> None:
    """The numbers of whole tensors from those of their pieces, in the order of the pieces: a sum hangs on it."""
    cut.sort(key=lambda one: (one[0][0], one[0][1].start if one[0][1] else 0))
    for k, group in groupby(cut, key=lambda one: one[0][0]):
        pieces = list(group)
        looked.lengths[k] = math.sqrt(sum(float(length) * float(length) for _piece, length, _count in pieces))
        counts = [count for _piece, _length, count in pieces if count is not None]
        looked.nonzero[k] = sum(counts[1:], counts[0]) if counts else None
