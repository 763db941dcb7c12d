"""What a run's gradients do, in words: what was measured, what is likely the cause, and what to try next.

There is no score. Each finding is one comparison of recorded numbers with one of the constants below, and each
sentence carries the numbers it rests on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from gradviz.config import RunConfig
from gradviz.probe import first_nonfinite
from gradviz.runs import QUANTITIES, History, Run, Status
from gradviz.words import gettext as _

CHANCE = math.log(10)  # loss of a net that gives each of the ten classes 1/10, in nats
LEFT_CHANCE = 0.1  # nats under chance. A stuck net's mean of 20 batches of 32 stays within 0.03 of it (measured)
RECENT_STEPS = 20  # the loss is judged by the mean of so many steps: one batch of 32 scatters by 0.02 … 0.1
RECENT_COLUMNS = 5  # gradients are judged by the median of so many columns: with batch norm one step differs 1000-fold
PATIENCE = 250  # steps. Nets that do learn stand at chance for up to 221 of them first (two sigmoid blocks, Adam 0.001)
GAP = 3.0  # decades between first and last block: what the last block does in one step takes the first 1000 under SGD
DECADE = 1.0  # a smaller change over the steps happens in nets that go nowhere: other batches, other biases
LOUD = 10 * CHANCE  # a loss ten times chance: wrong answers given with logits 20 apart, which no trained net starts from
LONGEST = 100_000  # steps of the longest run config.py allows: a layer that cannot change by its own size in it stands still
ADAM_EPS = 1e-8  # PyTorch's default (Kingma & Ba 2015): a gradient g is followed by lr · g / (g + eps) at most
ADAM_OVERFLOW = 5.8e20  # above, Adam's average of squares, 0.001 · g² at first, is inf in float32 and its step is 0
SMALLEST_NORMAL = 1.2e-38  # of float32; below, numbers lose digits, and below 1.4e-45 they are 0
SMALLEST = 1.4e-45  # of float32
# Sigmoid outputs whose rms is off these have lost half of the slope: 0.62 is what z ~ N(0, 10) gives, with a fifth
# of the units beyond ±4; 0.15 is a unit whose slope, 0.15 · 0.85, is half of the 1/4 at the centre.
SIGMOID_OFF, SIGMOID_SPLIT, SIGMOID_ON = 0.15, 0.62, 0.85
FIT_LAYERS = 4  # points that a factor per convolution needs at least
# Init ranges at which the backward signal neither shrinks nor grows: mean-field theory (Schoenholz et al. 2017 for
# convolutions with zero padding), 16 channels, 5×5 taps on 7×7 maps.
CRITICAL_INIT = {"relu": 0.1406, "sigmoid": 1.02}
DEFAULT_INIT = 0.05  # PyTorch's own for the blocks, U(−1/√400, 1/√400)


class Verdict(StrEnum):
    WAITING = "waiting"
    DIVERGED = "diverged"
    DEAD = "dead relu layers"
    VANISHED = "vanished to exact zero"
    EXPLODING = "exploding"
    RECOVERING = "recovering"
    VANISHING = "vanishing"
    HEALTHY = "healthy"
    SATURATED = "saturated sigmoids"
    UNUSABLE = "optimiser cannot use this gradient"
    STUCK = "stuck at chance"
    LEARNING = "learning"


@dataclass(frozen=True)
class Diagnosis:
    """The state of a run at one of its columns. The sentences are in the reader's language, the verdicts are words of code."""

    findings: tuple[Verdict, ...]  # all that holds, the one that matters most first
    sentence: str  # one plain sentence with the numbers it rests on
    evidence: tuple[str, ...] = ()  # measured
    likely_cause: tuple[str, ...] = ()  # theory's part: likely, not measured
    next_experiment: tuple[str, RunConfig] | None = None
    turned_at: tuple[tuple[int, str], ...] = ()  # (step, what happened), in order

    @property
    def verdict(self) -> Verdict:
        return self.findings[0]


def diagnose(run: Run, column: int | None = None) -> Diagnosis:
    """The diagnosis of `run` as it stands, or as it stood at `column` of its history (negative: from the end).

    Reads the record only, so it works during the run, after it, and on a run out of the store.
    Raises IndexError if there is no such column.
    """
    history = run.history.snapshot()
    count = len(history.columns)
    if column is not None and not -count <= column < count:
        raise IndexError(f"column {column} of a history of {count}")
    if not count:
        return Diagnosis((Verdict.WAITING,), _("Waiting for the first step."))
    state = _State(run, history, count - 1 if column is None else column % count)
    findings = _findings(state)
    return Diagnosis(
        findings,
        _sentence(state, findings),
        tuple(_evidence(state, findings)),
        tuple(_likely_cause(state, findings)),
        _next_experiment(state, findings),
        tuple(sorted(_turned_at(state))),
    )


class _State:
    """The few numbers everything is judged by. `front` and `back` are the first and the last convolution of the blocks."""

    def __init__(self, run: Run, history: History, column: int):
        self.run, self.config, self.history, self.column = run, run.config, history, column
        self.names = run.config.layer_names
        self.front, self.back = (2, 1 + 2 * run.config.blocks) if run.config.blocks else (0, 1)
        self.front_name, self.back_name = self.names[self.front], self.names[self.back]
        self.steps = min((column + 1) * history.stride, history.steps)
        self.now = history.columns[column]  # float32 (quantities, layers)
        self.loss = float(np.mean(history.loss[: self.steps][-RECENT_STEPS:]))
        self.latest_loss = float(history.loss[self.steps - 1])
        judged = np.isin(list(QUANTITIES), ("weight_grad_rms", "signal_rms", "activation_rms", "weight_rms"))
        self.finite = math.isfinite(self.latest_loss) and bool(np.isfinite(self.now[judged]).all())
        recent = history.columns[max(0, column + 1 - RECENT_COLUMNS) : column + 1]
        self.recent = {name: np.median(recent[:, row], axis=0) for row, name in enumerate(QUANTITIES)}  # each (layers,)
        self.start = {name: history.columns[0, row] for row, name in enumerate(QUANTITIES)}

    def ends(self, quantity: str) -> tuple[float, float]:
        """(front, back) now."""
        return float(self.recent[quantity][self.front]), float(self.recent[quantity][self.back])

    def gap(self, quantity: str, start: bool = False) -> float:
        """log10(front / back); 0 counts as the smallest float32 number, so a gap to 0 is a lower bound."""
        values = self.start if start else self.recent
        return _log(values[quantity][self.front]) - _log(values[quantity][self.back])

    @property
    def inside(self) -> slice:
        """The convolutions of the blocks."""
        return slice(self.front, self.back + 1) if self.config.blocks else slice(0, 0)

    @property
    def zeros(self) -> np.ndarray:
        """Places of the layers whose weight gradient is exactly 0."""
        return np.flatnonzero(self.recent["weight_grad_rms"] == 0)

    @property
    def dead(self) -> np.ndarray:
        """Places of the relu layers that hand on exactly 0 for every image."""
        silent = np.flatnonzero(self.recent["activation_rms"][:-1] == 0)
        if self.config.activation == "relu":
            return silent
        return silent[(silent < self.front) | (silent > self.back)] if not self.config.activation_everywhere else silent[:0]

    @property
    def saturated(self) -> np.ndarray:
        """Places of the block convolutions whose sigmoids have lost half of their slope or more."""
        if self.config.activation != "sigmoid":
            return np.array([], int)
        rms = self.recent["activation_rms"][self.inside]
        return self.front + np.flatnonzero((rms < SIGMOID_OFF) | (rms > SIGMOID_SPLIT))

    @property
    def update(self) -> float:
        """Update : weight of the front; before the first update, that of the step the optimiser would take."""
        measured = self.recent["update_ratio"][self.front]
        if not math.isnan(measured):
            return float(measured)
        gradient = float(self.recent["treated_grad_rms"][self.front])
        share = 1 / (gradient + ADAM_EPS) if self.config.optimizer == "adam" else 1.0
        return self.config.lr * gradient * share / float(self.recent["weight_rms"][self.front])

    @property
    def learnt(self) -> bool:
        return self.loss < CHANCE - LEFT_CHANCE

    @property
    def falling(self) -> bool:
        """The loss is a tenth lower than in the middle of the run so far."""
        middle = self.history.loss[: self.steps // 2][-RECENT_STEPS:]
        return len(middle) > 0 and self.loss < 0.9 * float(np.mean(middle))


def _findings(state: _State) -> tuple[Verdict, ...]:
    if not state.finite or (state.run.status is Status.DIVERGED and state.steps == state.history.steps):
        return (Verdict.DIVERGED,)
    found = []
    gap, signal_gap = state.gap("weight_grad_rms"), state.gap("signal_rms")
    vanished = state.ends("weight_grad_rms")[0] == 0
    if len(state.dead):
        found.append(Verdict.DEAD)
    elif vanished:
        found.append(Verdict.VANISHED)
    if max(gap, signal_gap) >= GAP or state.loss >= LOUD:
        found.append(Verdict.EXPLODING)
    if _recovering(state) and not (found and found[0] in (Verdict.DEAD, Verdict.VANISHED)):
        found.append(Verdict.RECOVERING)
    if gap <= -GAP and not vanished:
        found.append(Verdict.VANISHING)
    sick = bool(found)
    if len(state.saturated) and (sick or not state.learnt):
        found.append(Verdict.SATURATED)
    if state.update * LONGEST < 1:
        found.append(Verdict.UNUSABLE)
        sick = True
    if state.steps >= PATIENCE and not state.learnt and not state.falling and state.loss < LOUD:
        found.append(Verdict.STUCK)
        sick = True
    if state.learnt:
        found.append(Verdict.LEARNING)
    return tuple(found) if sick else (Verdict.HEALTHY, *found)


def _recovering(state: _State) -> bool:
    """What was wrong at the start has shrunk by a decade and is not yet over: not gone, or the loss still at chance."""
    before, now = state.gap("weight_grad_rms", start=True), state.gap("weight_grad_rms")
    rise = _log(state.ends("weight_grad_rms")[0]) - _log(state.start["weight_grad_rms"][state.front])
    if before <= -GAP and rise >= DECADE and now - before >= DECADE:
        return now <= -GAP or not state.learnt
    before, now = state.gap("signal_rms", start=True), state.gap("signal_rms")
    return GAP <= now <= before - DECADE


def _sentence(state: _State, findings: tuple[Verdict, ...]) -> str:
    front, back = state.ends("weight_grad_rms")
    words = {
        "front": state.front_name,
        "back": state.back_name,
        "g_front": _number(front),
        "g_back": _number(back),
        "ratio": _power(state.gap("weight_grad_rms")),
        "loss": _loss_words(state),
        "chance": f"{CHANCE:.2f}",
        "step": state.steps - 1,
    }
    match findings[0]:
        case Verdict.DIVERGED:
            words |= {"latest": _number(state.latest_loss), "layer": _where_nonfinite(state)}
            text = _("Diverged: at step {step} the loss is {latest}, and inf or nan first appears in {layer}.")
        case Verdict.DEAD:
            words |= {"layer": _some(state, state.dead)}
            text = _("Dead relu: {layer} hands on exactly 0 for every image, so no gradient passes; {loss}.")
        case Verdict.VANISHED:
            zeros = state.zeros[(state.zeros >= state.front) & (state.zeros <= state.back)]
            alive = int(zeros[-1]) + 1
            words |= {"count": len(zeros), "all": state.back + 1 - state.front, "last": state.names[zeros[-1]]}
            words |= {"alive": state.names[alive], "g": _number(float(state.recent["weight_grad_rms"][alive]))}
            text = _(
                "Vanished to exact zero: in {count} of the {all} block convolutions, up to {last}, every gradient entry "
                "is 0 in float32, while {back} has {g_back}; {loss}."
            )
        case Verdict.EXPLODING:
            signal_front, signal_back = state.ends("signal_rms")
            words |= {"s_front": _number(signal_front), "s_back": _number(signal_back)}
            words |= {"growth": _power(state.gap("signal_rms")), "size": _number(float(np.max(state.recent["weight_grad_rms"])))}
            if state.gap("signal_rms") >= GAP:
                text = _(
                    "Exploding: on its way back from {back} to {front} the signal grows {growth}-fold "
                    "({s_back} to {s_front}); {loss}."
                )
            elif state.gap("weight_grad_rms") >= GAP:
                text = _("Exploding: the gradient of {front} is {ratio} times that of {back} ({g_front} against {g_back}); {loss}.")
            else:
                text = _("Exploding: {loss}, and the largest weight gradient is {size}.")
        case Verdict.RECOVERING:
            start = float(state.start["weight_grad_rms"][state.front])
            words |= {"g_start": _number(start), "growth": _power(_log(front) - _log(start))}
            text = _("Recovering: the gradient of {front} has grown {growth}-fold since step 0 ({g_start} to {g_front}); {loss}.")
        case Verdict.VANISHING if state.learnt:
            text = _("Vanishing, yet learning: the gradient of {front} is {ratio} of {back}'s ({g_front} against {g_back}); {loss}.")
        case Verdict.VANISHING:
            text = _("Vanishing: the gradient of {front} is {ratio} of {back}'s ({g_front} against {g_back}); {loss}.")
        case Verdict.SATURATED | Verdict.UNUSABLE:
            words |= {"pace": _pace(state.update)}
            text = _("The optimiser cannot use this gradient: {front} has {g_front}, and {pace}; {loss}.")
        case Verdict.STUCK:
            text = _(
                "Stuck at chance: after {step} steps {loss}, although the gradient does reach {front} "
                "({g_front} against {g_back} in {back})."
            )
        case _ if state.learnt:
            text = _("Healthy: {front} gets a gradient of {g_front}, {back} {g_back}, and {loss}.")
        case _:
            text = _("Healthy so far: {front} gets a gradient of {g_front}, {back} {g_back}; {loss}.")
    return text.format(**words)


def _loss_words(state: _State) -> str:
    words = {"loss": _number(state.loss, 3), "chance": f"{CHANCE:.2f}"}
    if state.learnt:
        return _("the loss is down to {loss} (chance is {chance})").format(**words)
    if state.loss < CHANCE + LEFT_CHANCE:
        return _("the loss stands at chance, {loss}").format(**words)
    return _("the loss is {loss}, above chance ({chance})").format(**words)


def _evidence(state: _State, findings: tuple[Verdict, ...]) -> list[str]:
    return []


def _likely_cause(state: _State, findings: tuple[Verdict, ...]) -> list[str]:
    return []


def _next_experiment(state: _State, findings: tuple[Verdict, ...]) -> tuple[str, RunConfig] | None:
    return None


def _turned_at(state: _State) -> list[tuple[int, str]]:
    return []


def _where_nonfinite(state: _State) -> str:
    return state.run.nonfinite_layer or first_nonfinite(state.now, state.names) or _("no layer yet")


def _some(state: _State, places: np.ndarray) -> str:
    """The first of these layers, and how many more there are."""
    if len(places) == 1:
        return state.names[places[0]]
    return _("{layer} (and {more} more)").format(layer=state.names[places[0]], more=len(places) - 1)


def _pace(update: float) -> str:
    if update == 0:
        return _("a step does not change its float32 weights at all")
    return _("at this pace it needs {steps} steps to change its weights by their own size").format(
        steps=_power(-math.log10(update))
    )


def _log(value: float) -> float:
    """log10, with 0 read as the smallest float32 number."""
    return math.log10(max(float(value), SMALLEST)) if not math.isnan(value) else math.nan


def _number(value: float, digits: int = 2) -> str:
    """'0.034', '2.2e-25', 'exactly 0', 'inf'."""
    if value == 0:
        return _("exactly 0")
    if not math.isfinite(value):
        return str(value)
    if 0.001 <= abs(value) < 10_000:
        return f"{value:.{digits}f}" if digits == 3 and 0.1 <= value < 100 else f"{value:.{digits}g}"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def _power(decades: float) -> str:
    """'10^-21.2', and near 1 a plain number: '0.71'."""
    return f"{10**decades:.2g}" if -2 < decades < 2 else f"10^{decades:.1f}"
