"""What one step of an optimiser does to the weights, and the table of numbers that a step leaves."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gradviz.record.watched import ABSENT, MEASURED, STILL
from gradviz.train.hooks import Collected, Part, plain
from gradviz.train.lengths import Number, bring, length, lengths, memory, nonzero
from gradviz.train.modules import Row

MOST = 1 << 22  # entries of a weight that are kept for comparison; of a larger one every so-manieth
Table = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


@dataclass
class Moved:
    """Of one row in one step of its optimiser."""

    weight: Part
    treated: Part | None = None
    change: Part | None = None
    still: tuple[Number, Number] | None = None  # entries with a gradient that did not move, entries with a gradient


@dataclass
class _Before:
    k: int
    old: torch.Tensor  # (n,): entries of the weight before the step
    pushed: torch.Tensor | None = None  # (n,): where the treated gradient is not 0


class Updates:
    """One step of an optimiser: `weights` and `gradients` before it, `after` behind it. Memory: a copy of the weights."""

    def __init__(self, rows: Sequence[Row], mine: Sequence[int]):
        self._rows = [(k, weight) for k in mine if (weight := rows[k].weight) is not None and plain(weight)]
        self._before: list[_Before] = []
        self.moved: dict[int, Moved] = {}

    @torch.no_grad()
    def weights(self) -> None:
        parts = lengths([weight.detach() for _k, weight in self._rows])
        for (k, weight), part in zip(self._rows, parts, strict=True):
            self.moved[k] = Moved((part, weight.numel()))
            if weight.requires_grad:
                self._before.append(_Before(k, _taken(weight, weight).clone()))

    @torch.no_grad()
    def gradients(self) -> None:
        """As the optimiser gets them."""
        weights = dict(self._rows)
        for before in self._before:
            weight = weights[before.k]
            gradient = weight.grad
            if gradient is None or not plain(gradient):
                continue
            self.moved[before.k].treated = length(gradient), gradient.numel()
            if gradient.layout == torch.strided:
                before.pushed = _taken(gradient, weight) != 0

    @torch.no_grad()
    def after(self, skipped: bool) -> None:
        """`skipped`: a fused optimiser has left the weights alone, because the gradient had overflown."""
        weights = dict(self._rows)
        for before in self._before:
            moved = self.moved[before.k]
            if moved.treated is None:
                continue
            undone = before.old.sub_(_taken(weights[before.k], weights[before.k]))
            moved.change = length(undone), undone.numel()
            if before.pushed is not None and not skipped:
                pushed = nonzero(before.pushed)
                moved.still = pushed - nonzero(before.pushed & (undone != 0)), pushed
        self._before = []


def _taken(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """(n,): its entries, of a large one every p-th, in an order that is the same for all tensors `like` that one."""
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


# --- the table -----------------------------------------------------------------------------------------------------


class Tally:
    """Numbers that may still lie on a device, each with its place in a table; they are brought at once."""

    def __init__(self, layers: int):
        self._layers = layers
        self._sums: dict[tuple[str, int], list[tuple[int, int]]] = {}  # -> (place among the numbers, entries)
        self._numbers: list[Number] = []

    def lengths(self, quantity: str, k: int, parts: Sequence[Part]) -> None:
        """The root mean square over the parts."""
        for number, entries in parts:
            self._sums.setdefault((quantity, k), []).append((len(self._numbers), entries))
            self._numbers.append(number)

    def share(self, quantity: str, k: int, part: Number, whole: Number) -> None:
        self._sums[quantity, k] = [(len(self._numbers), -1), (len(self._numbers) + 1, -1)]
        self._numbers += [part, whole]

    def table(self) -> Table:
        """float32 (len(MEASURED), layers)"""
        brought = bring(self._numbers)
        table = np.full((len(MEASURED), self._layers), ABSENT, np.float32)
        for (quantity, k), places in self._sums.items():
            values = [brought[place] for place, _entries in places]
            if places[0][1] < 0:
                value = values[0] / values[1] if values[1] else ABSENT
            else:
                value = math.hypot(*values) / math.sqrt(sum(entries for _place, entries in places))
            with np.errstate(over="ignore"):
                table[MEASURED.index(quantity), k] = value
        return table


def tabled(collected: Sequence[Collected], moved: Mapping[int, Moved], scales: Mapping[int, Scale], world: int) -> Table:
    """What was measured of a step, float32 (len(MEASURED), layers), ABSENT where nothing was.

    `world`: processes whose mean the gradient is; 0 if that is not known, and with it the signals are not.
    """
    tally = Tally(len(collected))
    for k, found in enumerate(collected):
        if found.raw:
            tally.lengths("weight_grad_rms", k, [(found.raw.length, found.raw.entries)])
            if found.raw.nonzero is not None:
                tally.share("zero_share", k, found.raw.entries - found.raw.nonzero, float(found.raw.entries))
        if found.signals and world and not found.twice:
            tally.lengths("signal_rms", k, found.signals)
        if found.activations:
            tally.lengths("activation_rms", k, found.activations)
        if change := moved.get(k):
            tally.lengths("weight_rms", k, [change.weight])
            if change.treated:
                tally.lengths("treated_grad_rms", k, [change.treated])
            if change.change:
                tally.lengths("update_ratio", k, [change.change])
            if change.still:
                tally.share(STILL, k, *change.still)
    table = tally.table()
    for k, scale in scales.items():
        for name, by in (("weight_grad_rms", scale.loss), ("signal_rms", scale.loss), ("treated_grad_rms", scale.left)):
            if by != 1 and table[place := MEASURED.index(name), k] >= 0:
                table[place, k] = np.float32(float(table[place, k]) / by)
    if world > 1:
        signals = table[MEASURED.index("signal_rms")]
        signals[signals >= 0] /= world
    update, weight = table[MEASURED.index("update_ratio")], table[MEASURED.index("weight_rms")]
    known = (update >= 0) | np.isnan(update)
    with np.errstate(all="ignore"):
        update[known] = np.where(weight[known] == 0, ABSENT, update[known] / weight[known])
    return table


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
