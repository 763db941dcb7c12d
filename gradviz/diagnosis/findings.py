"""What holds of a run, as codes: the one that matters most first."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from gradviz.diagnosis.pace import coarse, detached, large, lost, overflowing, still, under_eps, unheld
from gradviz.diagnosis.state import DECADE, GAP, PATIENCE, State
from gradviz.words import N_


class Verdict(StrEnum):
    """A code that is also what it says, in English; kept, sent and compared like this."""

    WAITING = N_("waiting")
    DIVERGED = N_("diverged")
    DEAD = N_("dead relu layers")
    VANISHED = N_("vanished to exact zero")
    EXPLODING = N_("exploding")
    RECOVERING = N_("recovering")
    VANISHING = N_("vanishing")
    HEALTHY = N_("healthy")
    SATURATED = N_("saturated units")
    UNUSABLE = N_("optimiser cannot use this gradient")
    STUCK = N_("stuck at chance")
    LEARNING = N_("learning")
    DETACHED = N_("no gradient")
    UNHELD = N_("not in the optimiser")
    OVERFLOWING = N_("scaler keeps overflowing")
    LARGE = N_("steps too large")
    STILL = N_("stands still")
    COARSE = N_("weights too coarse to move")


def findings(state: State) -> tuple[Verdict, ...]:
    """All that holds, the one that matters most first; at least one."""
    if not state.seen:
        return (Verdict.DETACHED if detached(state) else Verdict.WAITING,)
    if not state.finite:
        return (Verdict.DIVERGED,)
    found = [verdict for verdict, holds in _FIRST if holds(state)]
    opening = state.ends("weight_grad_rms")[0] == 0
    gap, signal_gap = state.gap("weight_grad_rms"), state.gap("signal_rms")
    vanished = opening and not state.young
    if state.dead:
        found.append(Verdict.DEAD)
    elif vanished:
        found.append(Verdict.VANISHED)
    if max(gap, signal_gap) >= GAP or state.loss >= state.loud:
        found.append(Verdict.EXPLODING)
    if recovery(state) and {Verdict.DEAD, Verdict.VANISHED}.isdisjoint(found):
        found.append(Verdict.RECOVERING)
    if gap <= -GAP and not vanished:
        found.append(Verdict.VANISHING)
    found += [verdict for verdict, holds in _OF_PACE if holds(state)]
    if len(state.saturated) and not state.learnt:
        found.append(Verdict.SATURATED)
    if state.facts.longest is not None and state.update * state.facts.longest < 1 and not (state.young and opening):
        found.append(Verdict.UNUSABLE)
    waited = state.idle and state.steps >= PATIENCE
    if waited and not state.falling and state.loss < state.loud and Verdict.RECOVERING not in found:
        found.append(Verdict.STUCK)
    if not found:
        found.append(Verdict.HEALTHY)
    return (*found, Verdict.LEARNING) if state.learnt else tuple(found)


def _without_gradient(state: State) -> bool:
    return bool(detached(state) or lost(state))


_FIRST: tuple[tuple[Verdict, Callable[[State], object]], ...] = (
    (Verdict.OVERFLOWING, overflowing), (Verdict.DETACHED, _without_gradient), (Verdict.UNHELD, unheld),
)  # fmt: skip
_OF_PACE: tuple[tuple[Verdict, Callable[[State], object]], ...] = (
    (Verdict.LARGE, large), (Verdict.COARSE, coarse), (Verdict.UNUSABLE, under_eps), (Verdict.STILL, still),
)  # fmt: skip


def recovery(state: State) -> str | None:
    """What was wrong at step 0, has shrunk by a decade or more, and is not yet over: still there, or the loss not yet low.

    "gradient": the front's, vanished; "signal": exploded on its way back; "loss": far above chance.
    """
    before, now = state.gap("weight_grad_rms", start=True), state.gap("weight_grad_rms")
    if before <= -GAP and state.rise >= DECADE and now - before >= DECADE:
        return "gradient" if now <= -GAP or state.idle else None
    waiting = state.idle and state.steps < PATIENCE and now > -GAP
    before, now = state.gap("signal_rms", start=True), state.gap("signal_rms")
    if before >= GAP and now <= before - DECADE:
        return "signal" if now >= GAP or waiting else None
    return "loss" if state.start_loss >= state.loud > state.loss and waiting else None
