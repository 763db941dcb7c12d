"""How the weights of a net are moved, layer by layer and over time: by too little, by too much, or not at all."""

from __future__ import annotations

import numpy as np

from gradviz.diagnosis.state import JUDGED, RECENT_COLUMNS, State, looked_at
from gradviz.record.float32 import ADAM_EPS
from gradviz.record.watched import STILL

PACE_FROM = RECENT_COLUMNS  # columns; a warm-up begins with a rate of 0, and a net with a step that is no measure
# Of its size, the most that any step so far has changed a layer: what moves less needs 100,000 steps to become another.
SLOWEST = 1e-5
RISING = 1.5  # times, from the first looks to the last: a warm-up is under way
# Of its size, what a step changes the typical layer by: now, and once. The healthy nets of docs/diagnosis.md stay under 0.06.
LARGE_NOW, LARGE_ONCE = 0.5, 1.0
FALLEN = 0.1  # of the loss at the start: what it must have lost since for such a step to have done no harm
COARSE_SHARE = 0.75  # of the entries with a gradient, those that no step moves: rounding is to the nearest, so they never move
MOST_LAYERS = 0.5  # of the layers that are judged, from which on it is the net's and not a layer's affair
OVERFLOWS, OVERFLOW_SHARE = 10, 0.25  # in number, a scaler halves its scale so often at the start; of the steps
EPS_SHARE = 0.1  # of Adam's eps: of a gradient so small a tenth of a step is left
CLIPPED = 1e-3  # of the gradient, what a treatment has left of it


def _over_time(state: State, quantity: str) -> np.ndarray:
    """float32 (columns that were looked at, layers that are judged); nan where it was not measured."""
    columns, rows = state.history.columns[: state.column + 1], state.rows
    if quantity not in state.history.quantities:
        return np.full((0, len(rows)), np.nan, np.float32)
    looked, values = looked_at(columns), columns[:, state.history.quantities.index(quantity)]
    if len(rows) and len(rows) == rows[-1] - rows[0] + 1:
        found = values[looked, rows[0] : rows[-1] + 1]  # in a fraction of the time that picking them one by one takes
    else:
        found = values[np.ix_(looked, rows)]
    found[found < 0] = np.nan  # in place, see `measured`: it may be 4 MB, and new memory takes longer than the rest
    return found


def _mostly(rows: np.ndarray, of: int) -> list[int]:
    return rows.tolist() if len(rows) and len(rows) >= MOST_LAYERS * of else []


def detached(state: State) -> list[int]:
    """Rows that are called, and that no gradient has reached."""
    return [row for row in state.facts.detached if np.isnan(state.recent["weight_grad_rms"][row])]


def lost(state: State) -> list[int]:
    """Rows in which the backward pass has left a gradient, and of which the optimiser gets none, or zeros alone."""
    if state.facts.longest is not None:
        return []
    raw, treated = state.recent["weight_grad_rms"], state.recent["treated_grad_rms"]
    gone = [row for row in state.facts.cleared if np.isnan(treated[row])]
    return sorted({*gone, *np.flatnonzero((raw > 0) & (treated == 0)).tolist()})


def unheld(state: State) -> list[int]:
    """Rows that are to be trained, and that no optimiser holds."""
    return [row for row in state.facts.unheld if np.isnan(state.recent["update_ratio"][row])]


def still(state: State) -> list[int]:
    """Rows that get a gradient and have never been changed by more than SLOWEST of their size, if they are most of the net.

    Not while the updates still rise, and not where the weights are too coarse to move (see `coarse`). Where the longest training
    is known, the front's pace is compared with that instead.
    """
    updates = _over_time(state, "update_ratio")
    if state.facts.longest is not None or len(updates) < PACE_FROM or coarse(state):
        return []
    first, last = updates[: PACE_FROM // 2 + 1], updates[-(PACE_FROM // 2) :]
    with np.errstate(invalid="ignore"):
        top = np.fmax.reduce(updates, axis=0)  # nan where none was measured
        rising = np.fmax.reduce(last, axis=0) > RISING * np.fmax.reduce(first, axis=0)
        slow = (top < SLOWEST) & ~rising & (state.recent["treated_grad_rms"][state.rows] > 0)
    return _mostly(state.rows[slow], int(np.count_nonzero(~np.isnan(top))))


def large(state: State) -> float:
    """Of their size, what a step changes the layers by: the typical layer, now, or once where the loss has hardly fallen since.

    0 where that is not too much. Layers whose weights began at 0 do not count: their first step is of any size.
    """
    if state.facts.longest is not None:
        return 0.0
    began = state.start["weight_rms"][state.rows] != 0
    typical = _typical(_over_time(state, "update_ratio")[:, began])
    if len(typical) < PACE_FROM:
        return 0.0
    now, most = float(np.median(typical[-RECENT_COLUMNS:])), float(typical.max())
    fallen = state.start_loss - state.loss >= FALLEN * abs(state.start_loss)
    return now if now >= LARGE_NOW else most if most >= LARGE_ONCE and not fallen else 0.0


def _typical(updates: np.ndarray) -> np.ndarray:
    """(columns,): the median over the layers, without the columns in which none was measured."""
    return np.array([np.median(row[~np.isnan(row)]) for row in updates if not np.isnan(row).all()])


def coarse(state: State) -> list[int]:
    """Rows of 16 bits in which most entries with a gradient stand still at every step, if they are most of those."""
    columns = _over_time(state, STILL)
    mine = np.isin(state.rows, state.facts.coarse)
    if len(columns) < PACE_FROM or not mine.any():
        return []
    known = columns[:, mine]
    with np.errstate(invalid="ignore"):
        often = np.median(known, axis=0) >= COARSE_SHARE
        now = np.median(known[-RECENT_COLUMNS:], axis=0) >= COARSE_SHARE
    return _mostly(state.rows[mine][often & now], int(mine.sum()))


def under_eps(state: State) -> bool:
    """Adam's eps has outweighed the gradient of the typical layer at every step so far."""
    treated = _over_time(state, "treated_grad_rms")
    if state.facts.longest is not None or not state.facts.adam or len(treated) < PACE_FROM:
        return False
    most = np.fmax.reduce(treated, axis=0)
    most = most[most > 0]
    return len(most) > 0 and float(np.median(most)) < EPS_SHARE * ADAM_EPS


def overflowing(state: State) -> bool:
    return state.facts.overflows >= max(OVERFLOWS, OVERFLOW_SHARE * state.steps)


def why_still(state: State, rows: list[int]) -> str:
    """What the record says of the reason: "clipped", "eps", or "rate"."""
    treated, raw = (state.recent[quantity][rows] for quantity in ("treated_grad_rms", "weight_grad_rms"))
    with np.errstate(invalid="ignore"):
        if np.median(treated / raw) <= CLIPPED:
            return "clipped"
    return "eps" if state.facts.adam and np.median(treated) < ADAM_EPS else "rate"


def first_nonfinite_column(state: State) -> int:
    """Steps back from the newest: a run mostly ends where its loss is no longer finite, so there is hardly any way to go."""
    column = state.column
    while column and not np.isfinite(state.history.columns[column - 1, JUDGED]).all():
        column -= 1
    return column


def overtaken(state: State) -> bool:
    """Whether some step before the first that was not finite changed the typical layer by LARGE_NOW of its size or more."""
    return bool((_typical(_over_time(state, "update_ratio")[: first_nonfinite_column(state)]) >= LARGE_NOW).any())
