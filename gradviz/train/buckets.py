"""Small weights, measured by the bucket: of many small tensors a call for each takes longer than what is asked.

A bucket is one stretch of memory of our own. What is asked about is measured as it is at that moment, the smaller ones copied
there by one call; nothing is kept for later but the weights before a step and where their gradients are not 0. What does not
fit, a weight that is large, of another precision or on a device, is for the `Eyes`; where theirs are compiled, all is.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from itertools import accumulate, groupby

import numpy as np
import torch

from gradviz.train.lengths import ORDINARY, lengths, memory, safe_length

_SMALL = 1 << 17  # entries of a weight, at most
_COPIED = 1 << 14  # entries of what is copied to be measured, at most: larger ones are sooner asked by themselves
_BUCKET = 1 << 19  # entries of a bucket, at most: its stretch stays in the cache from one call to the next
_ALIKE = 4  # weights of one size that are measured as the rows of a matrix: fewer take no longer in a call with all others
Some = Sequence[torch.Tensor | None]
Measured = tuple[list[float], list[int]]  # of each tensor of a bucket: length, entries that are not 0; of None anything


def own_memory(entries: int, dtype: torch.dtype) -> torch.Tensor:
    """(entries,), uninitialised, from the system itself: memory taken from the heap in the middle of a training would move
    that training's tensors to where they have to be asked for anew at each step."""
    size = entries * dtype.itemsize
    if size <= mmap.PAGESIZE:
        return torch.empty(entries, dtype=dtype)
    # Not shared with a process that is forked off, as Python's default would be: it may train the same net.
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    return torch.frombuffer(mmap.mmap(-1, size, **private), dtype=dtype, count=entries)


class Bucket:
    """Of the weights of `rows`, by rising size. `keep`, `push` and `moved` belong to one step of an optimiser."""

    def __init__(self, rows: Sequence[int], weights: Sequence[torch.Tensor], scratch: tuple[torch.Tensor, torch.Tensor]):
        """`scratch`: memory that other buckets use as well, from one call to the next, float32 and bool."""
        self.rows = tuple(rows)
        self.sizes = [weight.numel() for weight in weights]
        self._asked = [(k, weight.shape) for k, weight in zip(rows, weights, strict=True)]
        ends = list(accumulate(self.sizes))
        self._parts = [slice(end - size, end) for size, end in zip(self.sizes, ends, strict=True)]
        self._few = sum(size <= _COPIED for size in self.sizes)  # that are copied to be measured: the first ones
        old, now = own_memory(ends[-1], torch.float32), scratch[0][: sum(self.sizes[: self._few])]
        mask, there = own_memory(ends[-1], torch.bool), scratch[1][: ends[-1]]
        strides = [weight.stride() for weight in weights]
        self._old, self._now = self._views(old, strides), self._views(now, strides[: self._few])
        self._old_rows, self._now_rows = _alike(old, self.sizes), _alike(now, self.sizes[: self._few])
        self._old_flat, self._now_flat = old.numpy(), now.numpy()
        self._mask, self._nonzero = (
            (flat.numpy(), [view.numpy() for view in self._views(flat, strides)[self._few :]]) for flat in (mask, there)
        )
        self._pushed: list[int] = []  # entries whose gradient was not 0

    def _views(self, flat: torch.Tensor, strides: Sequence[tuple[int, ...]]) -> list[torch.Tensor]:
        each = zip(self._asked, strides, self._parts, strict=False)
        return [flat.as_strided(shape, stride, flat.storage_offset() + part.start) for (_k, shape), stride, part in each]

    def old(self, k: int) -> torch.Tensor:
        """The weight of the row k before the step."""
        return self._old[self.rows.index(k)]

    def which(self, tensors: Some) -> list[torch.Tensor | None]:
        """Those of its rows that fit; `tensors` of all rows of the net."""
        found: list[torch.Tensor | None] = []
        for k, shape in self._asked:
            t = tensors[k]
            if t is not None and type(t) in ORDINARY and t.dtype is torch.float32 and t.is_cpu:
                found.append(t if t.layout is torch.strided and t.shape == shape else None)
            else:
                found.append(None)
        return found

    def measure(self, tensors: Some) -> Measured:
        return self._look(tensors, *self._nonzero)

    def keep(self, weights: Some) -> list[float]:
        """The weights before the step, and their lengths."""
        _fill(self._old, weights)
        return _lengths(self._old_rows, weights)

    def push(self, gradients: Some) -> Measured:
        """As the optimiser gets them."""
        lengths, self._pushed = self._look(gradients, *self._mask)
        return lengths, self._pushed

    def moved(self, weights: Some) -> Measured:
        """How far the step has moved each, and how many of the entries that had a gradient."""
        old, new = _there(self._old, weights)
        torch._foreach_sub_(old, new)
        there = self._nonzero[0]
        np.not_equal(self._old_flat, 0, out=there)
        if self._pushed != self.sizes:
            np.logical_and(there, self._mask[0], out=there)
        return _lengths(self._old_rows, weights), self._counts(there)

    def _look(self, tensors: Some, there: np.ndarray, views: Sequence[np.ndarray]) -> Measured:
        """`there` becomes true where an entry is not 0; `views` are its parts of the larger ones."""
        few = tensors[: self._few]
        _fill(self._now, few)
        np.not_equal(self._now_flat, 0, out=there[: len(self._now_flat)])
        larger = [None if tensor is None else tensor.detach() for tensor in tensors[self._few :]]
        for tensor, view in zip(larger, views, strict=True):
            if tensor is not None:
                np.not_equal(tensor.numpy(), 0, out=view)
        return _lengths(self._now_rows, few, larger), self._counts(there)

    def _counts(self, there: np.ndarray) -> list[int]:
        return self.sizes if there.all() else [int(np.count_nonzero(there[part])) for part in self._parts]


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
        """(bucket, what of it is there; the rows that are there and in none of these) of tensors like the weights, one for each
        row."""
        found, rest = [], [k for k in self._outside if tensors[k] is not None]
        for bucket in self._buckets:
            there = bucket.which(tensors)
            missing = [k for k, one in zip(bucket.rows, there, strict=True) if one is None]
            rest += [k for k in missing if tensors[k] is not None]
            if 2 * len(missing) <= len(there):
                found.append((bucket, there))
            else:  # a few of many are sooner asked by themselves
                rest += [k for k, one in zip(bucket.rows, there, strict=True) if one is not None]
        return found, rest


def _is_small(weight: torch.Tensor) -> bool:
    if type(weight) not in ORDINARY or weight.dtype is not torch.float32 or not weight.is_cpu:
        return False
    return weight.layout is torch.strided and 0 < weight.numel() <= _SMALL and memory(weight) is not None


def _alike(flat: torch.Tensor, sizes: Sequence[int]) -> list[torch.Tensor]:
    """Of neighbours of one size a matrix, a row each; where they are few each by itself, (entries,)."""
    found, begin = [], 0
    for size, same in groupby(sizes):
        count = len(list(same))
        rows = flat[begin : begin + size * count].view(count, size)
        found += [rows] if count >= _ALIKE else list(rows)
        begin += size * count
    return found


def _lengths(alike: Sequence[torch.Tensor], there: Some, others: Some = ()) -> list[float]:
    """Of the rows that are alike, where something is `there`, and of others behind them; of None anything."""
    present = [one is not None for one in there]
    ends = list(accumulate(1 if rows.dim() == 1 else len(rows) for rows in alike))
    asked = [rows for rows, end in zip(alike, ends, strict=True) if rows.dim() == 1 and present[end - 1]]
    single, found = iter(lengths([*asked, *(one for one in others if one is not None)])), []
    for rows, end in zip(alike, ends, strict=True):
        if rows.dim() == 1:
            found.append(float(next(single)) if present[end - 1] else math.nan)
        elif any(some := present[end - len(rows) : end]):
            norms = torch.linalg.vector_norm(rows, dim=1).tolist()
            found += [safe_length(norm, rows, k) if some[k] else math.nan for k, norm in enumerate(norms)]
        else:
            found += [math.nan] * len(rows)
    return found + [math.nan if one is None else float(next(single)) for one in others]


def _there(views: list[torch.Tensor], tensors: Some) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    there = [tensor for tensor in tensors if tensor is not None]
    if len(there) != len(views):
        views = [view for view, tensor in zip(views, tensors, strict=True) if tensor is not None]
    return views, there


def _fill(views: list[torch.Tensor], tensors: Some) -> None:
    views, there = _there(views, tensors)
    if there:
        torch._foreach_copy_(views, there)
