"""The steps at which a run's story changed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gradviz.diagnosis.pace import first_nonfinite_column
from gradviz.diagnosis.state import DECADE, GAP, LEFT_CHANCE, RECENT_COLUMNS, RECENT_STEPS, State
from gradviz.messages import Message
from gradviz.record.float32 import SMALLEST

Turn = tuple[int, Message]  # (step, what happened)


def turns(state: State) -> list[Turn]:
    """Up to the column looked at, by rising step; at one step in the order of these lines."""
    looked, front, gap = _steady(state, "weight_grad_rms")
    signal_looked, _signal, signal_gap = _steady(state, "signal_rms")
    zero = state.history.quantity("weight_grad_rms")[looked, state.front] == 0
    unborn = zero & (looked * state.history.stride < RECENT_COLUMNS) & state.facts.opens_at_zero
    found: list[Turn] = []
    if not state.finite:
        found.append((first_nonfinite_column(state) * state.history.stride, state.say("turn-nonfinite")))
    if not state.dead:  # a dead layer is a wall, not a slope
        found += _crossings(state, looked, (gap <= -GAP) & ~unborn, "turn-vanishes", "turn-vanishes-no-longer")
    found += _crossings(state, looked, zero, "turn-zero", "turn-zero-no-longer")
    if not state.dead:
        grown = looked[front >= front[:1] + DECADE]
        if (gap[:1] <= -DECADE).any() and len(grown) and not unborn[0]:
            found.append((int(grown[0]) * state.history.stride, state.say("turn-grown", front=state.front_name)))
    found += _loss_turns(state)
    if state.dead:
        columns = np.arange(state.column + 1)
        silent = state.history.quantity("activation_rms")[columns, state.dead[0]] == 0
        found += _crossings(state, columns, silent, "turn-dead", "turn-alive", layer=state.names[state.dead[0]])
    else:
        found += _crossings(state, signal_looked, signal_gap >= GAP, "turn-explodes", "turn-explodes-no-longer")
    return sorted(found, key=lambda turn: turn[0])


def _crossings(
    state: State, columns: np.ndarray, over: np.ndarray, begins: str, ends: str, **words: str
) -> Iterator[Turn]:
    """Marks the first of `columns` at which `over` changes, and the last one if that was a change back."""
    changes = np.flatnonzero(over[1:] != over[:-1]) + 1
    back = changes[-1:] if len(changes) % 2 == 0 else changes[:0]
    for change in [*changes[:1].tolist(), *back.tolist()]:
        code = begins if over[change] else ends
        yield int(columns[change]) * state.history.stride, state.say(code, front=state.front_name, back=state.back_name, **words)


def _steady(state: State, quantity: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The columns in which front and back were measured, log10 of the front there, and of front over back.

    Medians of RECENT_COLUMNS, so that one odd step marks nothing.
    """
    rows = list(state.rows_of(quantity))
    values = state.history.quantity(quantity)[: state.column + 1, rows].astype(float)
    values = np.where(values < 0, -1.0, state.as_lengths(quantity, values, rows))
    looked = np.flatnonzero(~(values < 0).any(axis=1))
    logs = np.log10(np.maximum(values[looked], SMALLEST))  # nan stays nan
    if not len(looked):
        return looked, logs[:, 0], logs[:, 0]
    padded = np.concatenate([np.repeat(logs[:1], RECENT_COLUMNS - 1, axis=0), logs])
    windows = np.lib.stride_tricks.sliding_window_view(padded, RECENT_COLUMNS, axis=0)  # (columns, 2, RECENT_COLUMNS)
    middle = RECENT_COLUMNS // 2
    medians = np.partition(windows, middle, axis=2)[:, :, middle]
    with np.errstate(invalid="ignore"):  # of two inf
        return looked, medians[:, 0], medians[:, 0] - medians[:, 1]


def _loss_turns(state: State) -> Iterator[Turn]:
    chance, loud = state.facts.chance, state.loud
    loss = state.history.loss[: state.steps if state.finite else state.steps - 1]
    if chance is None or len(loss) <= RECENT_STEPS:
        return
    sums = np.cumsum(np.minimum(loss, 100 * loud))  # beside a loss of 1e29 a running sum would forget 2.3
    means = (sums[RECENT_STEPS:] - sums[:-RECENT_STEPS]) / RECENT_STEPS  # the last step of mean k is k + RECENT_STEPS
    above, left = means >= loud, means < chance - LEFT_CHANCE
    for code, over in (
        ("turn-falls", ~above if above[0] else above[:0]),
        ("turn-leaves-chance", left),
        ("turn-loud", above if not above[0] else above[:0]),
    ):
        if over.any():
            yield int(np.argmax(over)) + RECENT_STEPS, state.say(code)
