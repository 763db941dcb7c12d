"""What one step of an optimiser does to the weights."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gradviz.train.buckets import Bucket, Some, own_memory
from gradviz.train.hooks import Part, Passes, plain
from gradviz.train.lengths import Number, memory, nonzero
from gradviz.train.spread import local

MOST = 1 << 22  # entries of a weight that are kept for comparison; of a larger one every so-manieth
Table = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
Numbers = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


@dataclass(slots=True)
class Moved:
    """Of one row in one step of its optimiser."""

    weight: Part
    trained: bool  # it wants a gradient
    treated: Part | None = None
    change: Part | None = None
    still: tuple[Number, Number] | None = None  # entries with a gradient that did not move, entries with a gradient


@dataclass(slots=True)
class _Before:
    k: int
    old: torch.Tensor  # entries of the weight before the step
    pushed: Number | None = None  # entries whose treated gradient is not 0; None: not known
    where: torch.Tensor | None = None  # they; None: all of them


class Room:
    """Memory for a copy of the larger weights, kept from step to step: to ask for it anew takes longer than to measure."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, torch.dtype], torch.Tensor] = {}

    def of(self, k: int, like: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """For the k-th row, uninitialised. A GPU's memory is cheap to ask for and dear to hold."""
        found = self._kept.get((k, dtype))
        if found is None or found.shape != like.shape or found.stride() != like.stride() or found.device != like.device:
            found = torch.empty_like(like, dtype=dtype)
            if found.device.type == "cpu":
                with torch.inference_mode(False):
                    found = own_memory(found.numel(), dtype).as_strided(found.shape, found.stride())
                self._kept[k, dtype] = found
        return found


class Updates:
    """One step of an optimiser: `weights` and `gradients` before it, `after` behind it. Memory: a copy of the weights."""

    def __init__(self, passes: Passes, mine: Sequence[int], room: Room):
        """`mine`: the rows that are looked at."""
        self._weights: list[torch.Tensor | None] = [None] * len(passes.rows)
        for k in mine:
            self._weights[k] = passes.rows[k].weight
        self._bucketed, others = passes.buckets.sort(self._weights)
        self._rows = [(k, here) for k in others if (w := self._weights[k]) is not None and plain(here := local(w))]
        self._room, self._eyes = room, passes.eyes
        self._before: list[_Before] = []
        self._pushed: list[tuple[Bucket, Some, list[int]]] = []  # weights with a gradient, entries of it that are not 0
        self.moved: dict[int, Moved] = {}

    @torch.no_grad()
    def weights(self) -> None:
        for bucket, weights in self._bucketed:
            for k, one, size, found in zip(bucket.rows, weights, bucket.sizes, bucket.keep(weights), strict=True):
                if one is not None:
                    self.moved[k] = Moved((found, size), one.requires_grad)
        copies: list[torch.Tensor | None] = []
        trained: list[bool] = []
        for k, weight in self._rows:
            copies.append(None)
            trained.append((whole := self._weights[k]) is not None and whole.requires_grad)
            if trained[-1]:
                entries = _taken(weight, weight)
                old = self._room.of(k, entries, entries.dtype)
                self._before.append(_Before(k, old))
                if entries.numel() == weight.numel():
                    copies[-1] = old
                else:
                    old.copy_(entries)
        lengths = self._eyes.keep([weight for _k, weight in self._rows], copies)
        for (k, weight), length, its in zip(self._rows, lengths, trained, strict=True):
            self.moved[k] = Moved((length, weight.numel()), its)

    @torch.no_grad()
    def gradients(self) -> None:
        """As the optimiser gets them."""
        for bucket, weights in self._bucketed:
            self._push(bucket, weights)
        given: list[_Before] = []
        gradients: list[torch.Tensor] = []
        into: list[torch.Tensor | None] = []
        for before in self._before:
            whole = self._weights[before.k]
            gradient = None if whole is None else whole.grad
            if gradient is not None and plain(gradient := local(gradient)):
                given.append(before)
                gradients.append(gradient)
                into.append(None)
                if gradient.layout is torch.strided:
                    before.where = self._room.of(before.k, before.old, torch.bool)
                    if gradient.stride() == before.where.stride():
                        into[-1] = before.where
        looked = self._eyes.see(gradients, into)
        for before, gradient, length, pushed in zip(given, gradients, looked.lengths, looked.nonzero, strict=True):
            self.moved[before.k].treated = length, gradient.numel()
            before.pushed = pushed
            if pushed is None and before.where is not None:  # of another order in memory, or too large to be compared as a whole
                entries = torch.empty_like(before.old).copy_(_taken(gradient, dict(self._rows)[before.k]))
                before.pushed = nonzero(entries, into=before.where)
            if before.where is not None and before.pushed == before.where.numel():
                before.where = None

    def _push(self, bucket: Bucket, weights: Some) -> None:
        gradients: list[torch.Tensor | None] = [None] * len(self._weights)
        for k, weight in zip(bucket.rows, weights, strict=True):
            if weight is not None and weight.requires_grad:
                gradients[k] = weight.grad
        there = bucket.which(gradients)
        stepped: list[torch.Tensor | None] = []
        for k, weight, one in zip(bucket.rows, weights, there, strict=True):
            stepped.append(None if one is None else weight)
            if weight is not None and one is None and gradients[k] is not None:  # a sparse one, say
                self._rows.append((k, weight))
                self._before.append(_Before(k, bucket.old(k)))
        if all(one is None for one in there):
            return
        found, pushed = bucket.push(there)
        self._pushed.append((bucket, stepped, pushed))
        for k, one, length, entries in zip(bucket.rows, there, found, bucket.sizes, strict=True):
            if one is not None:
                self.moved[k].treated = length, entries

    @torch.no_grad()
    def after(self, skipped: bool) -> None:
        """`skipped`: a fused optimiser has left the weights alone, because the gradient had overflown."""
        for bucket, some, pushed in self._pushed:
            for k, one, size, of, found, count in zip(bucket.rows, some, bucket.sizes, pushed, *bucket.moved(some), strict=True):
                if one is not None:
                    self.moved[k].change = found, size
                    if not skipped:
                        self.moved[k].still = of - count, of
        weights = dict(self._rows)
        stepped = [before for before in self._before if self.moved[before.k].treated is not None]
        new = [_taken(weights[before.k], weights[before.k]) for before in stepped]
        looked = self._eyes.compare([before.old for before in stepped], new, [before.where for before in stepped])
        for before, length, changed in zip(stepped, looked.lengths, looked.nonzero, strict=True):
            moved = self.moved[before.k]
            moved.change = length, before.old.numel()
            if before.pushed is not None and changed is not None and not skipped:
                moved.still = before.pushed - changed, before.pushed
        self._before, self._pushed = [], []


def _taken(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Its entries; of a large one every p-th, (n,), in an order that is the same for all tensors `like` that one."""
    if tensor.numel() <= MOST:
        return tensor.detach() if tensor.requires_grad else tensor
    flat = memory(tensor) if tensor.stride() == like.stride() else None
    flat = tensor.detach().reshape(-1) if flat is None or memory(like) is None else flat
    return flat[:: stride(tensor.numel())]


def stride(entries: int) -> int:
    """1, or a prime that divides the number of entries nowhere: a multiple of 3 would see one column of each 3 × 3 filter."""
    if entries <= MOST:
        return 1
    step = max(5, -(-entries // MOST)) | 1
    while entries % step == 0 or any(step % low == 0 for low in range(3, math.isqrt(step) + 1, 2)):
        step += 2
    return step


@dataclass(frozen=True)
class Scale:
    """What a GradScaler has done against underflow."""

    loss: float = 1.0  # the loss was multiplied by it, and with it every gradient of the backward pass
    left: float = 1.0  # what of it is still in the gradients that the optimiser gets
    overflown: bool = False  # a fused optimiser will leave the weights alone


def loss_scale(optimizer: torch.optim.Optimizer) -> Scale:
    """Asked in a step: a fused optimiser is given the scale; otherwise the scaler is found among the functions that run."""
    given, found = getattr(optimizer, "grad_scale", None), getattr(optimizer, "found_inf", None)
    overflown = isinstance(found, torch.Tensor) and bool(found.item())
    left = float(given.item()) if isinstance(given, torch.Tensor) else 1.0
    frame = sys._getframe().f_back
    for _depth in range(40):
        if frame is None:
            break
        if frame.f_code.co_name in ("step", "_maybe_opt_step"):
            scaler = frame.f_locals.get("self")
            if isinstance(scaler, torch.amp.GradScaler):
                return Scale(scaler.get_scale() if scaler.is_enabled() else 1.0, left, overflown)
        frame = frame.f_back
    return Scale(left, left, overflown)
