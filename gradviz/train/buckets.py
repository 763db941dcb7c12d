"""Small weights, measured by the bucket: of many small tensors a call for each takes longer than what is asked.

A bucket is one stretch of memory of our own. What is asked about is copied there by one call as it is at that moment, and
measured there; nothing is kept for later but the weights before a step and where their gradients are not 0. What does not fit, a
weight that is large, of another precision or on a device, is for the `Eyes`.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from itertools import accumulate, groupby

import numpy as np
import torch
from torch import nn

from gradviz.train.lengths import lengths, memory, safe_length

_SMALL = 1 << 17  # entries of a weight, at most: to copy a larger one takes longer than to ask it
_BUCKET = 1 << 19  # entries of a bucket, at most: its stretch stays in the cache from one call to the next
_ALIKE = 4  # weights of one size that are measured as the rows of a matrix: fewer take no longer in a call with all others
_ORDINARY = (torch.Tensor, nn.Parameter)
Some = Sequence[torch.Tensor | None]
Measured = tuple[list[float], list[int]]  # of each tensor of a bucket: length, entries that are not 0; of None anything


def own_memory(entries: int, dtype: torch.dtype) -> torch.Tensor:
    """(entries,), uninitialised, from the system itself: memory taken from the heap in the middle of a training would move
    that training's tensors to where they have to be asked for anew at each step."""
    size = entries * dtype.itemsize
    if size <= mmap.PAGESIZE:
        return torch.empty(entries, dtype=dtype)
    return torch.frombuffer(mmap.mmap(-1, size), dtype=dtype, count=entries)


class Bucket:
    """Of the weights of `rows`, by rising size. `keep`, `push` and `moved` belong to one step of an optimiser."""

    def __init__(self, rows: Sequence[int], weights: Sequence[torch.Tensor], scratch: tuple[torch.Tensor, torch.Tensor]):
        """`scratch`: memory that other buckets use as well, from one call to the next, float32 and bool."""
        self.rows = tuple(rows)
        self.sizes = [weight.numel() for weight in weights]
        self._asked = [(k, weight.shape) for k, weight in zip(rows, weights, strict=True)]
        ends = list(accumulate(self.sizes))
        self._parts = [slice(end - size, end) for size, end in zip(self.sizes, ends, strict=True)]
        old, now = own_memory(ends[-1], torch.float32), scratch[0][: ends[-1]]
        strides = [weight.stride() for weight in weights]
        self._old, self._now = (self._views(flat, strides) for flat in (old, now))
        self._runs = [(size, len(list(same))) for size, same in groupby(self.sizes)]
        self._old_rows, self._now_rows = (self._alike(flat) for flat in (old, now))
        self._old_flat, self._now_flat = old.numpy(), now.numpy()
        self._mask, self._there = own_memory(ends[-1], torch.bool).numpy(), scratch[1][: ends[-1]].numpy()
        self._pushed: list[int] = []  # entries whose gradient was not 0

    def _views(self, flat: torch.Tensor, strides: Sequence[tuple[int, ...]]) -> list[torch.Tensor]:
        each = zip(self._asked, strides, self._parts, strict=True)
        return [flat.as_strided(shape, stride, flat.storage_offset() + part.start) for (_k, shape), stride, part in each]

    def _alike(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """Of neighbours of one size a matrix, a row each; where they are few each by itself, (entries,)."""
        found, begin = [], 0
        for size, count in self._runs:
            rows = flat[begin : begin + size * count].view(count, size)
            found += [rows] if count >= _ALIKE else list(rows)
            begin += size * count
        return found

    def old(self, k: int) -> torch.Tensor:
        """The weight of the row k before the step."""
        return self._old[self.rows.index(k)]

    def which(self, tensors: Some) -> list[torch.Tensor | None]:
        """Those of its rows that fit; `tensors` of all rows of the net."""
        found: list[torch.Tensor | None] = []
        for k, shape in self._asked:
            t = tensors[k]
            if t is not None and type(t) in _ORDINARY and t.dtype is torch.float32 and t.is_cpu:
                found.append(t if t.layout is torch.strided and t.shape == shape else None)
            else:
                found.append(None)
        return found

    def measure(self, tensors: Some) -> Measured:
        _fill(self._now, tensors)
        return self._lengths(self._now_rows), self._count(self._now_flat, self._there)

    def keep(self, weights: Some) -> list[float]:
        """The weights before the step, and their lengths."""
        _fill(self._old, weights)
        return self._lengths(self._old_rows)

    def push(self, gradients: Some) -> Measured:
        """As the optimiser gets them."""
        _fill(self._now, gradients)
        self._pushed = self._count(self._now_flat, self._mask)
        return self._lengths(self._now_rows), self._pushed

    def moved(self, weights: Some) -> Measured:
        """How far the step has moved each, and how many of the entries that had a gradient."""
        old, new = _there(self._old, weights)
        torch._foreach_sub_(old, new)
        beside = None if self._pushed == self.sizes else self._mask
        return self._lengths(self._old_rows), self._count(self._old_flat, self._there, beside)

    def _count(self, flat: np.ndarray, there: np.ndarray, beside: np.ndarray | None = None) -> list[int]:
        """`there` becomes true where an entry is not 0, and where `beside` is."""
        np.not_equal(flat, 0, out=there)
        if beside is not None:
            np.logical_and(there, beside, out=there)
        return self.sizes if there.all() else [int(np.count_nonzero(there[part])) for part in self._parts]

    def _lengths(self, alike: Sequence[torch.Tensor]) -> list[float]:
        found: list[float] = []
        few = iter(lengths([one for one in alike if one.dim() == 1]))
        for rows in alike:
            if rows.dim() == 1:
                found.append(float(next(few)))
            else:
                norms = torch.linalg.vector_norm(rows, dim=1).tolist()
                found += [safe_length(norm, rows, k) for k, norm in enumerate(norms)]
        return found


class Buckets:
    """Of the weights of a net as they are when it is made, one for each row."""

    @torch.inference_mode(False)  # what is made in that mode cannot be written to outside of it
    def __init__(self, weights: Some):
        small = sorted((w.numel(), k) for k, w in enumerate(weights) if w is not None and _is_small(w))
        found: list[list[int]] = []
        entries = _BUCKET
        for size, k in small:
            if entries + size > _BUCKET:
                found.append([])
                entries = 0
            found[-1].append(k)
            entries += size
        like = [[w for k in rows if (w := weights[k]) is not None] for rows in found]
        most = max((sum(w.numel() for w in some) for some in like), default=0)
        scratch = own_memory(most, torch.float32), own_memory(most, torch.bool)
        self._buckets = [Bucket(rows, some, scratch) for rows, some in zip(found, like, strict=True)]
        self._outside = sorted(set(range(len(weights))) - {k for rows in found for k in rows})

    def sort(self, tensors: Some) -> tuple[list[tuple[Bucket, list[torch.Tensor | None]]], list[int]]:
        """(bucket, what of it is there; the rows that are there and in none) of tensors like the weights, one for each row."""
        found, rest = [], [k for k in self._outside if tensors[k] is not None]
        for bucket in self._buckets:
            there = bucket.which(tensors)
            missing = [k for k, one in zip(bucket.rows, there, strict=True) if one is None]
            rest += [k for k in missing if tensors[k] is not None]
            if len(missing) < len(there):
                found.append((bucket, there))
        return found, rest


def _is_small(weight: torch.Tensor) -> bool:
    if type(weight) not in _ORDINARY or weight.dtype is not torch.float32 or not weight.is_cpu:
        return False
    return weight.layout is torch.strided and 0 < weight.numel() <= _SMALL and memory(weight) is not None


def _there(views: list[torch.Tensor], tensors: Some) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    there = [tensor for tensor in tensors if tensor is not None]
    if len(there) != len(views):
        views = [view for view, tensor in zip(views, tensors, strict=True) if tensor is not None]
    return views, there


def _fill(views: list[torch.Tensor], tensors: Some) -> None:
    torch._foreach_copy_(*_there(views, tensors))
