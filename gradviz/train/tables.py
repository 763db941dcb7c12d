"""What was found at a step becomes a table of numbers, and of what is missing in it the reasons."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from gradviz.record.watched import ABSENT, MEASURED, STILL
from gradviz.train.hooks import Collected
from gradviz.train.lengths import Number, bring
from gradviz.train.missing import Circumstances, Missing, missing
from gradviz.train.modules import Row
from gradviz.train.updates import Moved, Numbers, Scale, Table

Join = Callable[[Numbers, Numbers], None]
_GRADIENT, _TREATED, _SIGNAL, _ACTIVATION, _WEIGHT, _UPDATE, _ZEROS, _STILL = (
    MEASURED.index(quantity)
    for quantity in (
        "weight_grad_rms", "treated_grad_rms", "signal_rms", "activation_rms", "weight_rms", "update_ratio", "zero_share", STILL
    )
)  # fmt: skip
_SHARES = ("zero_share", STILL)


@dataclass(slots=True)
class Look:
    """What was found at one step, as it was found. `work_out` makes a table of it."""

    rows: Sequence[Row]
    places: Sequence[int]  # of the rows, in the order in which the table has them
    collected: Sequence[Collected]
    moved: Mapping[int, Moved]
    scales: Mapping[int, Scale]
    at: Circumstances
    table: Table | None = None  # float32 (len(MEASURED), layers), ABSENT where nothing was measured
    missing: Missing = field(default_factory=dict)


def work_out(looks: Sequence[Look], join: Join | None = None) -> None:
    """Of looks at one net, in whatever thread if all that they have found are floats: of several at once it takes a fraction of
    the time. `join` makes the sums of one look, of what lies here, those of several processes."""
    tables = _tabled(looks, join)
    for look, table in zip(looks, tables.swapaxes(0, 1), strict=True):
        if alone := [k for k in range(len(look.rows)) if k not in look.at.held]:
            for row in (_TREATED, _UPDATE, _STILL):  # what no optimiser does is not 0, it is not done
                table[row, alone] = ABSENT
        look.missing = missing(table, look.rows, look.collected, look.moved, look.at)
        look.table = table[:, look.places]


def _tabled(looks: Sequence[Look], join: Join | None) -> Table:
    """(len(MEASURED), looks, rows)"""
    layers = len(looks[0].rows)
    tally = _Tally(len(looks) * layers)
    for n, look in enumerate(looks):
        tally.take(look, n * layers)
    tables = tally.table(join).reshape(-1, len(looks), layers)
    for n, look in enumerate(looks):
        for k, scale in look.scales.items():
            if scale.loss == 1 and scale.left == 1:
                continue
            for row, by in ((_GRADIENT, scale.loss), (_SIGNAL, scale.loss), (_TREATED, scale.left)):
                if by != 1 and tables[row, n, k] >= 0:
                    tables[row, n, k] = np.float32(float(tables[row, n, k]) / by)
        if look.at.world > 1:
            signals = tables[_SIGNAL, n]
            signals[signals >= 0] /= look.at.world
    update, weight = tables[_UPDATE], tables[_WEIGHT]
    known = (update >= 0) | np.isnan(update)
    with np.errstate(all="ignore"):
        update[known] = np.where(weight[known] == 0, ABSENT, update[known] / weight[known])
    return tables


class _Tally:
    """Numbers that may still lie on a device, each with its place in a table; they are brought at once."""

    def __init__(self, layers: int):
        self._layers = layers
        # Place in the table, a length, and of how many entries: of several the root mean square comes of it. Or a share, and of
        # how much.
        self._taken: list[tuple[int, Number, Number]] = []

    def take(self, look: Look, first: int) -> None:
        """All of it, its layers from the `first` on."""
        take, layers = self._taken.append, self._layers
        gradient, zeros, signals, activations, weight, treated, update, still = (
            row * layers for row in (_GRADIENT, _ZEROS, _SIGNAL, _ACTIVATION, _WEIGHT, _TREATED, _UPDATE, _STILL)
        )
        for k, found in enumerate(look.collected, first):
            if raw := found.raw:
                take((gradient + k, raw.length, raw.entries))
                if raw.nonzero is not None:
                    take((zeros + k, raw.entries - raw.nonzero, raw.entries))
            if look.at.world and not found.twice:
                for length, entries in found.signals:
                    take((signals + k, length, entries))
            for length, entries in found.activations:
                take((activations + k, length, entries))
        for k, moved in look.moved.items():
            k += first
            take((weight + k, *moved.weight))
            if moved.treated:
                take((treated + k, *moved.treated))
            if moved.change:
                take((update + k, *moved.change))
            if moved.still:
                take((still + k, *moved.still))

    def table(self, join: Join | None = None) -> Table:
        """float32 (len(MEASURED), layers)"""
        size = len(MEASURED) * self._layers
        at, numbers, of = zip(*self._taken, strict=True) if self._taken else [()] * 3
        lengths = np.array([quantity not in _SHARES for quantity in MEASURED])
        places = np.array(at, int)
        brought = np.array(bring(numbers + of), float).reshape(2, -1)
        with np.errstate(all="ignore"):
            np.multiply(brought[0], brought[0], out=brought[0], where=lengths[places // self._layers])
            both = np.bincount(np.concatenate((places, places + size)), brought.ravel(), 2 * size)
            sums, wholes = both = both.astype(float, copy=False).reshape(2, len(MEASURED), self._layers)
            if join:
                join(sums, wholes)
            np.sqrt(both, out=both, where=lengths[:, None])
            return np.where(wholes > 0, sums / wholes, ABSENT).astype(np.float32)
