"""Why a number of a watched net is missing: for each, a code of `messages`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from gradviz.record.watched import ABSENT, MEASURED, STILL
from gradviz.train.hooks import Collected, plain
from gradviz.train.modules import Row
from gradviz.train.spread import local
from gradviz.train.updates import Moved, Table

Missing = dict[str, dict[str, str]]  # layer -> quantity -> code

_GRADIENTS = ("weight_grad_rms", "zero_share", "treated_grad_rms")
_PASSES = ("signal_rms", "activation_rms")
_KNOWN = (*_GRADIENTS, *_PASSES, "weight_rms", "update_ratio", STILL)  # what a table of `tables` may have


@dataclass
class Circumstances:
    """Of the step that a table is of."""

    called: bool  # any module was
    reached: Collection[int]  # rows whose module was called
    held: Collection[int]  # rows that an optimiser holds
    world: int
    overflown: bool
    waiting: Collection[int]  # rows whose optimiser has not stepped in it, though another has
    weights: Mapping[int, str]  # of each row whose weight is not simply there and trained: what it is, as a code
    apart: set[tuple[str, int]] = field(default_factory=set)  # (quantity, row) not measured in all processes that have a part


def unlike(rows: Sequence[Row], moved: Mapping[int, Moved]) -> dict[int, str]:
    """The `weights` of Circumstances, as they are now."""
    others = (k for k in range(len(rows)) if not (one := moved.get(k)) or not one.trained)
    return {k: why for k in others if (why := _unlike(rows[k].weight))}


def _unlike(weight: torch.Tensor | None) -> str:
    if weight is None:
        return "watch-gone"
    if not plain(local(weight)):
        return "watch-kind"
    return "" if weight.requires_grad else "watch-frozen"


def missing(
    table: Table, rows: Sequence[Row], collected: Sequence[Collected], moved: Mapping[int, Moved], step: Circumstances
) -> Missing:
    found: Missing = {}
    for place, k in zip(*(each.tolist() for each in np.nonzero(table == ABSENT)), strict=True):
        why = _why(MEASURED[place], k, rows[k], collected[k], moved.get(k), step)
        found.setdefault(rows[k].name, {})[MEASURED[place]] = why
    return found


def _why(quantity: str, k: int, row: Row, found: Collected, moved: Moved | None, step: Circumstances) -> str:
    weight = step.weights.get(k)
    if quantity not in _KNOWN:
        return "watch-not-measured"
    if weight == "watch-gone":
        return weight
    if (quantity, k) in step.apart:
        return "watch-apart"
    if weight == "watch-kind":
        return weight
    if k in step.waiting:
        return "watch-not-stepped"
    if quantity in _PASSES:
        return _why_no_pass(quantity, k, row, found, moved, step)
    if quantity == "weight_rms":
        return "watch-not-stepped" if k in step.held else "watch-no-optimizer"
    if weight == "watch-frozen":
        return weight
    if quantity in _GRADIENTS:
        if quantity == "zero_share" and found.raw:
            return "watch-sparse"
        if quantity != "treated_grad_rms" and moved and moved.treated:
            return "watch-unseen"
    if k not in step.held and (found.raw or quantity not in _GRADIENTS):
        return "watch-no-optimizer"
    if not found.raw and not (moved and moved.treated):
        return "watch-unused" if step.called and k not in step.reached else "watch-no-gradient"
    if moved and not moved.treated:
        return "watch-cleared"
    if moved is None or moved.change is None:
        return "watch-not-stepped"
    return _why_no_update(quantity, moved, step)


def _why_no_pass(quantity: str, k: int, row: Row, found: Collected, moved: Moved | None, step: Circumstances) -> str:
    if row.why:
        return row.why
    if found.across:
        return "watch-across"
    if quantity == "signal_rms" and found.twice:
        return "watch-twice"
    if quantity == "signal_rms" and found.signals and not step.world:
        return "watch-ranks"
    if k in step.reached:
        return "watch-no-pass"
    gradient = bool(moved and moved.treated) if found.raw is None else float(found.raw.length) != 0
    # One of zeros is what zero_grad(set_to_none=False) has left.
    return "watch-uncalled" if gradient or not step.called else "watch-unused"


def _why_no_update(quantity: str, moved: Moved, step: Circumstances) -> str:
    if quantity != STILL:
        return "watch-zero-weight"
    if moved.still:
        return "watch-nothing-pushed"
    return "watch-overflown" if step.overflown else "watch-sparse"
