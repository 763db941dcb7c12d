"""All that is asked of many tensors, in one go over memory, and on a processor with a core to spare by two threads.

Of nets with large weights float32 without gaps is looked at by `compiled`, in a third of the time, where numba is installed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from types import ModuleType

import numpy as np
import torch

from gradviz.machine import cores
from gradviz.train.buckets import Some
from gradviz.train.lengths import ORDINARY, Number, in_order, is_safe, length, lengths, memory, nonzero, safe_length

CACHED = 1 << 19  # entries that torch looks at together: what one call has read, the next finds in the cache
COMPILED = 1 << 21  # that need no second call: the fewer pieces, the seldomer two threads wait for each other
_LARGE = 1 << 13  # entries of a weight
_WORTH = 1 << 17  # of all large weights together, for which numba's import is worth its second; a deep LeNet has 80,640
_Piece = tuple[int, slice | None]  # which tensor, and which of its entries in the order of the memory; None: all
_Found = tuple[_Piece, Number, Number | None]  # length, and entries that are not 0


@dataclass
class Looked:
    """Of each tensor."""

    lengths: list[Number]
    nonzero: list[Number | None]  # entries that are not 0; None: not asked for, or sparse


@dataclass
class _Asked:
    """One of the three questions of `Eyes`."""

    tensors: Sequence[torch.Tensor]
    into: Some | None = None
    copies: Some | None = None
    less: Sequence[torch.Tensor] | None = None
    beside: Some | None = None


class Eyes:
    """Two threads look where the training itself has one, a core is free and the tensors are large. `close` ends the second.

    Masks and copies have the shapes and strides of their tensors.
    """

    def __init__(self, compiled: ModuleType | None = None) -> None:
        """`compiled`: what `find_compiled` has found."""
        self._second: ThreadPoolExecutor | None = None
        self._may, self.compiled = cores() >= 2, compiled

    def length(self, tensor: torch.Tensor) -> Number:
        """Of one, without a second thread."""
        if self.compiled and _is_float32(tensor):
            found: float = self.compiled.length(tensor.data_ptr(), tensor.numel())
            if is_safe(found):
                return found
        return length(tensor.detach())

    def see(self, tensors: Sequence[torch.Tensor], masks: Some | None = None) -> Looked:
        """Lengths and counts; the masks become true where an entry is not 0, and may stay as they are where none is. Where there
        is no mask among masks nothing is counted."""
        return self._look(_Asked([each.detach() if each.requires_grad else each for each in tensors], into=masks))

    def keep(self, tensors: Sequence[torch.Tensor], copies: Some) -> list[Number]:
        """Lengths; the copies become what the tensors are."""
        return self._look(_Asked(tensors, copies=copies)).lengths

    def compare(self, old: Sequence[torch.Tensor], new: Sequence[torch.Tensor], masks: Some) -> Looked:
        """Of the differences; counted is only where a mask is true. What `old` holds is lost. `new` may have other strides."""
        return self._look(_Asked(old, less=new, beside=masks))

    def close(self) -> None:
        if self._second:
            self._second.shutdown(wait=False)

    def _look(self, asked: _Asked) -> Looked:
        looked = Looked([0.0] * len(asked.tensors), [None] * len(asked.tensors))
        batches = deque(_batches(asked, COMPILED if self.compiled else CACHED))
        if not batches:
            return looked
        cut: list[_Found] = []

        def work() -> None:
            while batches:
                try:
                    batch = batches.popleft()
                except IndexError:  # the other has taken the last
                    return
                for piece, found, count in self._seen(asked, batch):
                    if piece[1] is None:
                        looked.lengths[piece[0]], looked.nonzero[piece[0]] = found, count
                    else:
                        cut.append((piece, found, count))

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
            _fill(cut, looked, asked.into)
        return looked

    def _seen(self, asked: _Asked, batch: Sequence[_Piece]) -> Iterable[_Found]:
        if self.compiled and all(_is_plain_memory(asked, k) for k, _where in batch):
            return seen_compiled(self.compiled, asked, batch)
        return seen_by_torch(asked, batch)


def find_compiled(weights: Iterable[torch.Tensor]) -> ModuleType | None:
    """The module `compiled`, where numba works and these weights are worth it. Takes a second; at first on a machine three."""
    large = (w.numel() for w in weights if type(w) in ORDINARY and w.is_cpu and w.dtype is torch.float32 and w.numel() > _LARGE)
    if sum(large) < _WORTH:
        return None
    try:
        from gradviz.train import compiled
    except Exception:  # it is not installed, or not for this numpy, or finds no folder for what it compiles: torch does it all
        return None
    return compiled


@torch.no_grad()
def seen_by_torch(asked: _Asked, batch: Sequence[_Piece]) -> Iterable[_Found]:
    """What was asked of these pieces, of whatever kind."""
    pieces = [_part(asked.tensors[k], where) for k, where in batch]
    if asked.less is not None:
        torch._foreach_sub_(pieces, [_part(asked.less[k], where) for k, where in batch])
    found = lengths(pieces)
    counts: list[Number | None] = [None] * len(batch)
    if asked.copies is not None:
        to = [None if (copy := asked.copies[k]) is None else _part(copy, where) for k, where in batch]
        wanted = [(copy, piece) for copy, piece in zip(to, pieces, strict=True) if copy is not None]
        if wanted:
            torch._foreach_copy_([copy for copy, _piece in wanted], [piece for _copy, piece in wanted])
        return zip(batch, found, counts, strict=True)
    for place, ((k, where), piece) in enumerate(zip(batch, pieces, strict=True)):
        beside = None if asked.beside is None else asked.beside[k]
        into = None if asked.into is None else asked.into[k]
        if piece.layout is torch.strided and (asked.into is None or into is not None):
            beside, into = (None if mask is None else _part(mask, where) for mask in (beside, into))
            counts[place] = nonzero(piece, beside, into)
    return zip(batch, found, counts, strict=True)


def seen_compiled(compiled: ModuleType, asked: _Asked, batch: Sequence[_Piece]) -> Iterable[_Found]:
    """The same of float32 without gaps."""
    sizes = [_size(asked.tensors[k], where) for k, where in batch]
    given = _places(asked.tensors, batch), np.array(sizes, np.int64)
    found, counts = np.empty(len(batch)), np.empty(len(batch), np.int64)
    if asked.copies is not None:
        compiled.kept(*given, _places(asked.copies, batch), found)
        return zip(batch, _in_range(found, asked, batch), [None] * len(batch), strict=True)
    if asked.less is not None:
        compiled.moved(*given, _places(asked.less, batch), _places(asked.beside, batch), found, counts)
    else:
        compiled.seen(*given, _places(asked.into, batch), found, counts)
    counted: list[Number | None] = counts.astype(float).tolist()
    if asked.into is not None:
        counted = [None if asked.into[k] is None else count for (k, _where), count in zip(batch, counted, strict=True)]
    return zip(batch, _in_range(found, asked, batch), counted, strict=True)


def _in_range(found: np.ndarray, asked: _Asked, batch: Sequence[_Piece]) -> list[float]:
    """The lengths; those that were too small or too large for squares in float32 are taken again."""
    lengths: list[float] = found.tolist()
    for place, (k, where) in enumerate(batch):
        if not is_safe(lengths[place]):
            piece = _part(asked.tensors[k].detach(), where)
            if asked.less is not None:
                piece = piece - _part(asked.less[k], where)
            lengths[place] = safe_length(lengths[place], [piece], 0)
    return lengths


def _batches(asked: _Asked, most: int) -> Iterator[list[_Piece]]:
    batch: list[_Piece] = []
    entries = 0
    for k, tensor in enumerate(asked.tensors):
        size = tensor.numel()
        if batch and entries + size > most:
            yield batch
            batch, entries = [], 0
        if size > most and _is_cuttable(asked, k):
            for begin in range(0, size, most):
                yield [(k, slice(begin, min(begin + most, size)))]
        else:
            batch.append((k, None))
            entries += size
    if batch:
        yield batch


def _is_cuttable(asked: _Asked, k: int) -> bool:
    """Whether a piece of the tensor, and of what is subtracted, is the same entries."""
    tensor, less = asked.tensors[k], None if asked.less is None else asked.less[k]
    alike = less is None or tensor.dim() == 1 or less.stride() == tensor.stride()
    return alike and tensor.is_cpu and tensor.layout is torch.strided and memory(tensor) is not None


def _is_plain_memory(asked: _Asked, k: int) -> bool:
    """Whether the entries lie one after the other as float32, those of what is subtracted in the same order."""
    tensor, less = asked.tensors[k], None if asked.less is None else asked.less[k]
    if less is None:
        return _is_float32(tensor)
    return tensor.stride() == less.stride() and _is_float32(tensor) and _is_float32(less)


def _is_float32(tensor: torch.Tensor) -> bool:
    if tensor.dtype is not torch.float32 or not tensor.is_cpu or tensor.layout is not torch.strided:
        return False
    if type(tensor) not in ORDINARY or tensor.data_ptr() == 0:
        return False
    return tensor.is_contiguous() or memory(tensor) is not None


def _places(tensors: Some | None, batch: Sequence[_Piece]) -> np.ndarray:
    """Addresses, uint64 (len(batch),), 0 where there is no tensor."""

    def place(k: int, where: slice | None) -> int:
        if tensors is None or (tensor := tensors[k]) is None:
            return 0
        return tensor.data_ptr() + (where.start * tensor.element_size() if where else 0)

    return np.array([place(k, where) for k, where in batch], np.uint64)


def _size(tensor: torch.Tensor, where: slice | None) -> int:
    return tensor.numel() if where is None else where.stop - where.start


def _part(tensor: torch.Tensor, where: slice | None) -> torch.Tensor:
    if where is None:
        return tensor
    return tensor[where] if tensor.dim() == 1 else in_order(tensor)[where]


def _fill(cut: Sequence[_Found], looked: Looked, masks: Some | None) -> None:
    """Where only another piece of the tensor has a 0, its mask has been left as it was."""
    for (k, where), _length, count in cut:
        mask = None if masks is None else masks[k]
        if mask is not None and count == _size(mask, where) and looked.nonzero[k] != mask.numel():
            _part(mask, where).fill_(True)


def _join(cut: list[_Found], looked: Looked) -> None:
    """The numbers of whole tensors from those of their pieces, in the order of the pieces: a sum hangs on it."""
    cut.sort(key=lambda one: (one[0][0], one[0][1].start if one[0][1] else 0))
    for k, group in groupby(cut, key=lambda one: one[0][0]):
        pieces = list(group)
        looked.lengths[k] = math.sqrt(sum(float(length) * float(length) for _piece, length, _count in pieces))
        counts = [count for _piece, _length, count in pieces if count is not None]
        looked.nonzero[k] = sum(counts[1:], counts[0]) if counts else None
