"""Why a number of a watched net is missing: for each, a code of `messages`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

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
_KNOWN = (*_GRADIENTS, *_PASSES, "weight_rms", "update_ratio", STILL)  # what `tabled` measures


@dataclass
class Circumstances:
    """Of the step that a table is of."""

    called: Collection[int]  # ids of modules
    held: Collection[int]  # rows that an optimiser holds
    world: int
    overflown: bool
    apart: Collection[tuple[str, int]] = ()  # (quantity, row) that was not measured in all processes that have a part of it
    waiting: Collection[int] = ()  # rows whose optimiser has not stepped in it, though another has


def missing(
    table: Table, rows: Sequence[Row], collected: Sequence[Collected], moved: Mapping[int, Moved], step: Circumstances
) -> Missing:
    found: Missing = {}
    for place, k in zip(*(each.tolist() for each in np.nonzero(table == ABSENT)), strict=True):
        why = _why(MEASURED[place], k, rows[k], collected[k], moved.get(k), step)
        found.setdefault(rows[k].name, {})[MEASURED[place]] = why
    return found


def _why(quantity: str, k: int, row: Row, found: Collected, moved: Moved | None, step: Circumstances) -> str:
    weight = row.weight
    if quantity not in _KNOWN:
        return "watch-not-measured"
    if weight is None:
        return "watch-gone"
    if (quantity, k) in step.apart:
        return "watch-apart"
    if not plain(local(weight)):
        return "watch-kind"
    if k in step.waiting:
        return "watch-not-stepped"
    if quantity in _PASSES:
        return _why_no_pass(quantity, row, weight, found, step)
    if quantity == "weight_rms":
        return "watch-not-stepped" if k in step.held else "watch-no-optimizer"
    if not weight.requires_grad:
        return "watch-frozen"
    if quantity in _GRADIENTS:
        if quantity == "zero_share" and found.raw:
            return "watch-sparse"
        if quantity != "treated_grad_rms" and moved and moved.treated:
            return "watch-unseen"
    if k not in step.held and (found.raw or quantity not in _GRADIENTS):
        return "watch-no-optimizer"
    if not found.raw and not (moved and moved.treated):
        return "watch-unused" if step.called and id(row.user()) not in step.called else "watch-no-gradient"
    if moved and not moved.treated:
        return "watch-cleared"
    if moved is None or moved.change is None:
        return "watch-not-stepped"
    return _why_no_update(quantity, moved, step)


def _why_no_pass(quantity: str, row: Row, weight: torch.Tensor, found: Collected, step: Circumstances) -> str:
    if row.why:
        return row.why
    if found.across:
        return "watch-across"
    if quantity == "signal_rms" and found.twice:
        return "watch-twice"
    if quantity == "signal_rms" and found.signals and not step.world:
        return "watch-ranks"
    if id(row.user()) in step.called:
        return "watch-no-pass"
    zeros = found.raw is not None and float(found.raw.length) == 0  # what zero_grad(set_to_none=False) has left
    return "watch-uncalled" if weight.grad is not None and not zeros or not step.called else "watch-unused"


def _why_no_update(quantity: str, moved: Moved, step: Circumstances) -> str:
    if quantity != STILL:
        return "watch-zero-weight"
    if moved.still:
        return "watch-nothing-pushed"
    return "watch-overflown" if step.overflown else "watch-sparse"
