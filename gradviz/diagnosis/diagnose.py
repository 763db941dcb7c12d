"""What a run's gradients do, in words: what was measured, what is likely the cause, and what to try next.

There is no score. Each finding is one comparison of recorded numbers with one of the constants below, and each
sentence carries the numbers it rests on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from gradviz.lenet.activations import ACTIVATIONS
from gradviz.lenet.config import FIELDS, RunConfig
from gradviz.record.float32 import ADAM_EPS, ADAM_OVERFLOW, RESOLUTION, SMALLEST, SMALLEST_NORMAL
from gradviz.record.history import History
from gradviz.record.quantities import QUANTITIES
from gradviz.record.reading import first_nonfinite
from gradviz.record.run import Run
from gradviz.words import gettext as _
from gradviz.words import number, scientific

CHANCE = math.log(10)  # loss of a net that gives each of the ten classes 1/10, in nats
LEFT_CHANCE = 0.1  # nats under chance: a net that goes nowhere stays within 0.03 of it over 20 batches of 32 (measured)
RECENT_STEPS = 20  # the loss is judged by the mean of so many steps: one batch of 32 scatters by up to 0.1
RECENT_COLUMNS = 5  # gradients are judged by the median of so many columns: with batch norm one step may differ 1000-fold
PATIENCE = 250  # steps; nets that do learn stand at chance for up to 221 of them first (two sigmoid blocks, Adam 0.001)
GAP = 3.0  # decades between first and last block: what one step changes in the last takes the first 1000 steps of SGD
DECADE = 1.0  # changes below it come from other batches too
LOUD = 10 * CHANCE  # a loss ten times chance: wrong answers with logits 20 apart, in a net that should not yet prefer any
LONGEST = FIELDS["steps"].spec.high  # a layer that cannot change by its own size in the longest run allowed stands still
# Sigmoids hand on an rms of 0.5 where they work; outside of these about half of their slope is lost. 0.62 is what
# inputs from N(0, 10) give, a fifth of them beyond ±4 (all at 0 or 1: 0.71; all at 1: 1); 0.15 has the slope
# 0.15 · 0.85, half of the 1/4 in the middle.
SIGMOID_OFF, SIGMOID_SPLIT = 0.15, 0.62
SATURATED_SHARE = 0.5  # of the block convolutions; in training the last ones saturate first and may come back
FIT_LAYERS = 4  # a factor per convolution is fitted through so many layers at least
# Mean-field theory at initialisation for these convolutions (16 channels, 5×5 taps, zero padding on 7×7 maps):
# Of the signal per convolution under PyTorch's own init, ±0.05.
DEFAULT_FACTOR = {"relu": 0.349, "sigmoid": 0.124, "tanh": 0.501, "leaky-relu": 0.349}
NORM_FACTOR = {"relu": 1.16, "sigmoid": 0.735}  # the same with batch norm, whatever the init
DEFAULT_INIT = 0.05  # PyTorch's own for the blocks: U(−1/√400, 1/√400)
NORM_DEPTH = 30  # blocks of relu with batch norm above which its own explosion, 1.16 per convolution, passes GAP
ADAM_LR = 1e-3  # PyTorch's default

_ROWS = list(QUANTITIES)
_ACTIVATION = _ROWS.index("activation_rms")
# A treated gradient or an update may be unmeasured, which is nan too; inf or nan in these has gone wrong.
_JUDGED = [_ROWS.index(name) for name in ("weight_grad_rms", "signal_rms", "activation_rms", "weight_rms")]


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
        sentence = _("Waiting for the first step.") if run.status.live else _("No step was recorded.")
        return Diagnosis((Verdict.WAITING,), sentence)
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


class _Medians(dict):
    """Quantity -> float32 (layers,): the (lower) median over the columns, computed when asked for."""

    def __init__(self, columns: np.ndarray):
        super().__init__()
        self.columns = columns

    def __missing__(self, quantity: str) -> np.ndarray:
        middle = (len(self.columns) - 1) // 2
        self[quantity] = np.partition(self.columns[:, _ROWS.index(quantity)], middle, axis=0)[middle]
        return self[quantity]


class _State:
    """The few numbers everything is judged by. `front` and `back` are the first and the last convolution of the blocks."""

    def __init__(self, run: Run, history: History, column: int):
        self.run, self.config, self.history, self.column = run, run.recipe, history, column
        self.names = run.recipe.layout.names
        self.front, self.back = run.recipe.layout.ends
        self.front_name, self.back_name = self.names[self.front], self.names[self.back]
        self.steps = min((column + 1) * history.stride, history.steps)
        self.now = history.columns[column]  # float32 (quantities, layers)
        self.loss = float(np.mean(history.loss[: self.steps][-RECENT_STEPS:]))
        self.start_loss = float(history.loss[0])
        self.latest_loss = float(history.loss[self.steps - 1])
        self.finite = math.isfinite(self.latest_loss) and bool(np.isfinite(self.now[_JUDGED]).all())
        self.recent = _Medians(history.columns[max(0, column + 1 - RECENT_COLUMNS) : column + 1])
        self.start = {name: history.columns[0, row] for row, name in enumerate(QUANTITIES)}

    def ends(self, quantity: str) -> tuple[float, float]:
        """(front, back) now."""
        return float(self.recent[quantity][self.front]), float(self.recent[quantity][self.back])

    def gap(self, quantity: str, start: bool = False) -> float:
        """log10(front / back). A front of 0 counts as the smallest float32 number; from a back of 0 no gap is measured."""
        values = (self.start if start else self.recent)[quantity]
        return 0.0 if values[self.back] == 0 else _log(values[self.front]) - _log(values[self.back])

    @property
    def inside(self) -> slice:
        """The convolutions of the blocks."""
        inside = self.run.recipe.layout.inside
        return slice(inside.start, inside.stop)

    @property
    def zeros(self) -> np.ndarray:
        """Places of the block convolutions whose weight gradient is exactly 0."""
        return self.front + np.flatnonzero(self.recent["weight_grad_rms"][self.front : self.back + 1] == 0)

    @property
    def dead(self) -> np.ndarray:
        """Places of the relu layers that hand on exactly 0 for every image."""
        silent = np.flatnonzero(self.recent["activation_rms"][:-1] == 0)
        if self.config.activation != "relu":  # then only stem and head may be relu
            outside = (silent < self.front) | (silent > self.back)
            silent = silent[outside & (not self.config.activation_everywhere)]
        return silent

    @property
    def saturated(self) -> np.ndarray:
        """Places of the block convolutions whose sigmoids have lost half of their slope or more, if that is most of them."""
        if self.config.activation != "sigmoid":
            return np.array([], int)
        rms = self.recent["activation_rms"][self.inside]
        places = self.front + np.flatnonzero((rms < SIGMOID_OFF) | (rms > SIGMOID_SPLIT))
        return places if len(places) and len(places) >= SATURATED_SHARE * len(rms) else places[:0]

    def factor(self, quantity: str) -> float | None:
        """Per convolution towards the input, by least squares on log10 over the block convolutions above float32's dregs."""
        values = self.recent[quantity][self.inside].astype(float)
        places = np.flatnonzero(np.isfinite(values) & (values > SMALLEST_NORMAL))
        if len(places) < FIT_LAYERS:
            return None
        return float(10 ** -np.polyfit(places, np.log10(values[places]), 1)[0])

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
    def patient(self) -> bool:
        """Long enough without having learnt that it says something."""
        return self.steps >= PATIENCE and not self.learnt

    @property
    def rise(self) -> float:
        """Decades by which the front's weight gradient has grown since step 0."""
        return _log(self.ends("weight_grad_rms")[0]) - _log(self.start["weight_grad_rms"][self.front])

    @property
    def falling(self) -> bool:
        """The loss is a tenth lower than in the middle of the run so far."""
        middle = self.history.loss[: self.steps // 2][-RECENT_STEPS:]
        return len(middle) > 0 and self.loss < 0.9 * float(np.mean(middle))


def _findings(state: _State) -> tuple[Verdict, ...]:
    if not state.finite:
        return (Verdict.DIVERGED,)
    found = []
    gap, signal_gap = state.gap("weight_grad_rms"), state.gap("signal_rms")
    # SkipInit's branches start at 0 and have a gradient from the second step on.
    opening = state.config.branch_scale == "skip-init" and state.steps <= RECENT_COLUMNS
    vanished = state.ends("weight_grad_rms")[0] == 0 and not opening
    if len(state.dead):
        found.append(Verdict.DEAD)
    elif vanished:
        found.append(Verdict.VANISHED)
    if max(gap, signal_gap) >= GAP or state.loss >= LOUD:
        found.append(Verdict.EXPLODING)
    if _recovery(state) and not (found and found[0] in (Verdict.DEAD, Verdict.VANISHED)):
        found.append(Verdict.RECOVERING)
    if gap <= -GAP and not vanished:
        found.append(Verdict.VANISHING)
    sick = bool(found)
    if len(state.saturated) and not state.learnt:
        found.append(Verdict.SATURATED)
        sick = True
    if state.update * LONGEST < 1 and not opening:
        found.append(Verdict.UNUSABLE)
        sick = True
    if state.patient and not state.falling and state.loss < LOUD and Verdict.RECOVERING not in found:
        found.append(Verdict.STUCK)
        sick = True
    if state.learnt:
        found.append(Verdict.LEARNING)
    return tuple(found) if sick else (Verdict.HEALTHY, *found)


def _recovery(state: _State) -> str | None:
    """What was wrong at step 0, has shrunk by a decade or more, and is not yet over: still there, or the loss not yet low.

    "gradient": the first block's, vanished; "signal": exploded on its way back; "loss": far above chance.
    """
    before, now = state.gap("weight_grad_rms", start=True), state.gap("weight_grad_rms")
    if before <= -GAP and state.rise >= DECADE and now - before >= DECADE:
        return "gradient" if now <= -GAP or not state.learnt else None
    waiting = not state.learnt and not state.patient and now > -GAP
    before, now = state.gap("signal_rms", start=True), state.gap("signal_rms")
    if before >= GAP and now <= before - DECADE:
        return "signal" if now >= GAP or waiting else None
    return "loss" if state.start_loss >= LOUD > state.loss and waiting else None


def _sentence(state: _State, findings: tuple[Verdict, ...]) -> str:
    front, back = state.ends("weight_grad_rms")
    words = {
        "front": state.front_name,
        "back": state.back_name,
        "g_front": number(front),
        "g_back": number(back),
        "ratio": _power(state.gap("weight_grad_rms")),
        "loss": _loss_words(state),
        "chance": f"{CHANCE:.2f}",
        "step": state.steps - 1,
    }
    match findings[0]:
        case Verdict.DIVERGED:
            words |= {"latest": number(state.latest_loss), "layer": _where_nonfinite(state)}
            text = _("Diverged: at step {step} the loss is {latest}; inf or nan first appears in {layer}.")
            if not words["layer"]:
                text = _("Diverged: at step {step} the loss is {latest}, while every layer is still finite.")
        case Verdict.DEAD:
            words |= {"layer": _some(state, state.dead)}
            text = _("Dead relu layers: {layer} hands on exactly 0 for every image, so no gradient passes it; {loss}.")
        case Verdict.VANISHED:
            words |= {"count": len(state.zeros), "all": state.back + 1 - state.front, "last": state.names[state.zeros[-1]]}
            text = _(
                "Vanished to exact zero: in {count} of the {all} block convolutions, up to {last}, every gradient entry "
                "is 0 in float32, while {back} has {g_back}; {loss}."
            )
        case Verdict.EXPLODING:
            signal_front, signal_back = state.ends("signal_rms")
            words |= {"s_front": number(signal_front), "s_back": number(signal_back)}
            words |= {"growth": _power(state.gap("signal_rms")), "size": number(float(np.max(state.recent["weight_grad_rms"])))}
            if state.gap("signal_rms") >= GAP:
                text = _(
                    "Exploding: on its way back from {back} to {front} the signal grows {growth}-fold "
                    "({s_back} to {s_front}); {loss}."
                )
            elif state.gap("weight_grad_rms") >= GAP:
                text = _(
                    "Exploding: the gradient of {front} is {ratio} times that of {back} ({g_front} against {g_back}); {loss}."
                )
            else:
                text = _("Exploding: {loss}, and the largest weight gradient is {size}.")
        case Verdict.RECOVERING if _recovery(state) == "gradient":
            words |= {"g_start": number(float(state.start["weight_grad_rms"][state.front])), "growth": _power(state.rise)}
            text = _("Recovering: the gradient of {front} has grown {growth}-fold since step 0 ({g_start} to {g_front}); {loss}.")
        case Verdict.RECOVERING if _recovery(state) == "signal":
            words |= {"before": _power(state.gap("signal_rms", start=True)), "growth": _power(state.gap("signal_rms"))}
            text = _(
                "Recovering: on its way back from {back} to {front} the signal grew {before}-fold at step 0 and now "
                "grows {growth}-fold; {loss}."
            )
        case Verdict.RECOVERING:
            words |= {"before": _loss(state.start_loss)}
            text = _("Recovering: the loss began at {before}; now {loss}.")
        case Verdict.VANISHING:
            text = _("Vanishing: the gradient of {front} is {ratio} of {back}'s ({g_front} against {g_back}); {loss}.")
        case Verdict.SATURATED:
            words |= {"count": len(state.saturated), "all": state.back + 1 - state.front}
            words |= {"split": SIGMOID_SPLIT, "off": SIGMOID_OFF}
            text = _(
                "Saturated sigmoids: {count} of the {all} block convolutions hand on an rms above {split} or below {off} "
                "(0.5 is the middle), and {loss}."
            )
        case Verdict.UNUSABLE:
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
    words = {"loss": _loss(state.loss), "chance": f"{CHANCE:.2f}"}
    if state.learnt:
        return _("the loss is down to {loss} (chance is {chance})").format(**words)
    if state.loss < CHANCE + LEFT_CHANCE:
        return _("the loss stands at chance, {loss}").format(**words)
    return _("the loss is {loss}, above chance ({chance})").format(**words)


def _evidence(state: _State, findings: tuple[Verdict, ...]) -> list[str]:
    """What was measured; every number is out of the record, or a line fitted through it."""
    front, back = state.ends("weight_grad_rms")
    words = {"front": state.front_name, "back": state.back_name, "a": number(front), "b": number(back)}
    lines = [_("Weight gradient (rms): {a} in {front}, {b} in {back}.").format(**words)]
    if front > 0 < back:
        lines[0] = _("Weight gradient (rms): {a} in {front}, {b} in {back}; ratio {ratio}.").format(
            ratio=_power(state.gap("weight_grad_rms")), **words
        )
    front, back = state.ends("signal_rms")
    words |= {"a": number(front), "b": number(back)}
    factor = state.factor("signal_rms")
    lines.append(_("Backward signal (rms): {b} at {back}, {a} at {front}.").format(**words))
    if factor is not None:
        lines[-1] += " " + _("A line through its log gives a factor of {factor} per convolution.").format(factor=f"{factor:.3g}")
    lines.append(
        _("Loss: {loss}, mean of steps {first} to {last}; a guess among ten classes has {chance}.").format(
            loss=_loss(state.loss), first=max(0, state.steps - RECENT_STEPS), last=state.steps - 1, chance=f"{CHANCE:.3f}"
        )
    )
    tests = [(step, accuracy) for step, accuracy in state.history.tests if step < state.steps]
    if tests:
        lines[-1] += " " + _("Test accuracy {share} at step {step}.").format(share=f"{tests[-1][1]:.0%}", step=tests[-1][0])
    if math.isnan(state.recent["update_ratio"][state.front]):
        pass  # no step has been taken yet
    elif state.update > 0:
        lines.append(
            _("Update: a step changes the weights of {front} by {a} of their size, those of {back} by {b}.").format(
                front=state.front_name, back=state.back_name,
                a=number(state.update), b=number(state.ends("update_ratio")[1]),
            )  # fmt: skip
        )
    else:
        lines.append(_("Update: a step does not change a single float32 weight of {front}.").format(front=state.front_name))
    treated = state.ends("treated_grad_rms")[0]
    if state.config.treatment != "none":
        lines.append(
            _("Treatment: {treatment} turns the {a} of {front} into {b} before the step.").format(
                treatment=state.config.treatment, front=state.front_name,
                a=number(state.ends("weight_grad_rms")[0]), b=number(treated),
            )  # fmt: skip
        )
    if state.config.optimizer == "adam" and 0 < treated < ADAM_EPS:
        lines.append(
            _("Adam: {g} against its eps of {eps} leaves g/(g + eps) = {share} of a full step.").format(
                g=number(treated), eps=number(ADAM_EPS, 1), share=number(treated / (treated + ADAM_EPS))
            )
        )
    if len(state.zeros) and Verdict.DEAD not in findings:
        alive = int(state.zeros[-1]) + 1
        lines.append(
            _("Exact zeros: every gradient entry of {count} block convolutions is 0; the next, {alive}, has {g}.").format(
                count=len(state.zeros), alive=state.names[alive], g=number(float(state.recent["weight_grad_rms"][alive]))
            )
        )
    if len(state.dead):
        lines.append(_("Dead: {layer} hands on exactly 0 for every image.").format(layer=_some(state, state.dead)))
    if len(state.saturated):
        rms = state.recent["activation_rms"][state.saturated]
        lines.append(
            _("Saturation: {count} block convolutions hand on an rms from {low} to {high}, where 0.5 is the middle.").format(
                count=len(rms), low=number(float(rms.min())), high=number(float(rms.max()))
            )
        )
    if {Verdict.EXPLODING, Verdict.DIVERGED} & set(findings):
        front, back = state.ends("activation_rms")
        lines.append(
            _("Activation (rms): {a} in {front}, {b} in {back}, {logits} in the logits.").format(
                front=state.front_name, back=state.back_name,
                a=number(front), b=number(back), logits=number(float(state.now[_ACTIVATION][-1])),
            )  # fmt: skip
        )
    return lines


def _likely_cause(state: _State, findings: tuple[Verdict, ...]) -> list[str]:
    """What theory says about such a net. Likely, not measured; exact at initialisation only."""
    config, kind = state.config, state.config.activation
    critical = _critical(config)
    plain = not config.batch_norm and not config.shortcut and _derived(config)
    count = 2 * config.blocks
    causes = []
    if {Verdict.VANISHING, Verdict.VANISHED} & set(findings):
        if config.batch_norm and kind == "sigmoid":
            causes.append(
                _(
                    "Sigmoids are never negative, so the zero padding prints the same border on every map. Batch norm "
                    "divides by a spread that is mostly this border, and what tells two images apart shrinks by about "
                    "{factor} per convolution."
                ).format(factor=NORM_FACTOR[kind])
            )
        elif plain and _init(config) < critical:
            causes.append(_slope_words(kind).format(count=count))
            if _init(config) == DEFAULT_INIT:
                causes.append(
                    _("Theory expects a factor of {factor} per convolution from PyTorch's own init, ±{init}.").format(
                        factor=DEFAULT_FACTOR[kind], init=DEFAULT_INIT
                    )
                )
            causes.append(
                _("Weights from ±{init} are under the critical ±{critical}, at which the signal would keep its size.").format(
                    init=f"{_init(config):g}", critical=f"{critical:.3g}"
                )
            )
        factor = state.factor("signal_rms")
        if plain and factor is not None and count * math.log10(factor) <= math.log10(RESOLUTION):
            causes.append(
                _(
                    "Forward, what tells two images apart shrinks by the same factor: to about {left} of the activations, "
                    "and float32 resolves 10⁻⁷, so the last blocks see the same map for every image."
                ).format(left=_power(count * math.log10(factor)))
            )
        if config.treatment == "floor":
            causes.append(
                _(
                    "The floor gives small gradients a size, but of their direction only the signs remain, and it does "
                    "nothing for the forward pass."
                )
            )
        if state.gap("weight_grad_rms", start=True) > -GAP:
            causes.append(_("At step 0 the gradient did not vanish; training brought it, and theory speaks of step 0 only."))
    if Verdict.VANISHED in findings:
        causes.append(
            _("The true gradient is not 0: it lies under {smallest}, the smallest float32 number.").format(
                smallest=number(SMALLEST)
            )
        )
        factor = state.factor("weight_grad_rms")
        if factor is not None:
            true = _log(state.ends("weight_grad_rms")[1]) + (state.back - state.front) * math.log10(factor)
            causes[-1] += " " + _("The line through the layers that are not 0 leads to {true} in {front}.").format(
                true=_power(true), front=state.front_name
            )
    exploded = state.gap("signal_rms", start=True) >= GAP or state.start_loss >= LOUD
    if {Verdict.EXPLODING, Verdict.DIVERGED} & set(findings) or (Verdict.RECOVERING in findings and exploded):
        causes.append(_explosion_words(state, critical))
    if Verdict.DEAD in findings:
        causes.append(
            _(
                "Steps too large for this net pushed every unit of a relu layer below 0. A unit that is off for all images "
                "has gradient 0 and has no way back."
            )
        )
    if Verdict.SATURATED in findings:
        if _init(config) > DEFAULT_INIT:
            causes.append(
                _("Weights from ±{init} push the sigmoids to 0 or 1; for an input of ±4 the slope is 0.018, not 0.25.").format(
                    init=f"{_init(config):g}"
                )
            )
        else:
            causes.append(
                _(
                    "Training pushed the sigmoids to 0 or 1: the head asks for another mean, and the last blocks can give "
                    "it sooner than they can tell images apart."
                )
            )
    if Verdict.UNUSABLE in findings:
        causes.append(_unusable_words(state))
    if Verdict.STUCK in findings and _steered(config):
        causes.append(
            _("The treatment gives the signal a size on its way back; what the forward pass has lost it cannot give back.")
        )
    elif Verdict.STUCK in findings and not causes:
        causes.append(
            _(
                "The gradient arrives, so its direction is of no use or the step has the wrong size: too large and the net "
                "jumps about, too small and it does not move, or the forward pass has lost the image."
            )
        )
    grown = state.gap("weight_grad_rms", start=True) <= -GAP and state.rise >= DECADE
    if {Verdict.RECOVERING, Verdict.HEALTHY} & set(findings) and grown and config.optimizer == "adam":
        causes.append(
            _("Adam gives small gradients steps of normal size; the weights grow, and larger weights pass more of the signal.")
        )
    if Verdict.HEALTHY in findings and config.blocks:
        if _steered(config):
            target = number(config.threshold)
            causes.append(_("The treatment holds the signal at an rms of {target} on its way back.").format(target=target))
        elif config.branch_scale == "skip-init" and state.ends("weight_grad_rms")[0] == 0:
            causes.append(_("SkipInit starts every branch at 0: its convolutions get a gradient once its scale has moved."))
        elif config.shortcut:
            causes.append(_("The shortcut hands the signal past the convolutions, with a factor of exactly 1."))
        elif config.batch_norm and kind in NORM_FACTOR:
            causes.append(
                _("Batch norm rescales every layer; theory expects a factor of {factor} per convolution at step 0.").format(
                    factor=NORM_FACTOR[kind]
                )
            )
        elif plain and abs(math.log10(_init(config) / critical)) < 0.1:
            causes.append(_("The init range is close to the critical ±{critical}.").format(critical=f"{critical:.3g}"))
        elif plain and not grown and _init(config) == DEFAULT_INIT:
            causes.append(_("There are too few convolutions, {count}, for their factors to add up to much.").format(count=count))
    return causes


def _slope_words(kind: str) -> str:
    if kind == "sigmoid":
        return _("The factors of {count} convolutions multiply; a sigmoid's slope is at most 1/4.")
    if kind == "tanh":
        return _("The factors of {count} convolutions multiply; tanh's slope is 1 at 0, so it is the small weights that shrink.")
    return _("The factors of {count} convolutions multiply; relu blocks about half of the signal, and small weights do the rest.")


def _explosion_words(state: _State, critical: float) -> str:
    config, relu = state.config, _rectifies(state.config)
    if relu and not config.batch_norm and _init(config) > critical:
        return _(
            "Weights from ±{init} are over the critical ±{critical}: each convolution enlarges the activations forward and "
            "the signal backward. The weight gradient is a product of the two and looks flat over depth."
        ).format(init=f"{_init(config):g}", critical=f"{critical:.3g}")
    if relu and config.shortcut and not config.batch_norm and state.start_loss >= LOUD:
        return _(
            "Relu is never negative, so every block adds in the same direction, and the sum grows by a constant factor per "
            "block: 1.07 under PyTorch's own init."
        )
    if config.init_range is not None and not state.start_loss < LOUD:
        return _("The three layers of the head start from ±{init} as well, and make huge logits of ordinary activations.").format(
            init=f"{config.init_range:g}"
        )
    if relu and config.batch_norm and not config.shortcut and state.gap("signal_rms", start=True) >= GAP:
        return _(
            "Batch norm divides each layer by its spread; backward that multiplies the signal, by about {factor} per "
            "convolution, whatever the init."
        ).format(factor=NORM_FACTOR["relu"])
    if not state.start_loss < LOUD or state.gap("signal_rms", start=True) >= GAP:
        return _("It began at initialisation, before any step.")
    return _("The net started quietly, so it is the steps: the learning rate of {lr} is too large for it.").format(
        lr=number(config.lr)
    )


def _unusable_words(state: _State) -> str:
    treated = state.ends("treated_grad_rms")[0]
    if treated == 0:
        return _("A gradient of 0 moves nothing, whatever the optimiser.")
    if state.config.optimizer == "adam":
        if treated < ADAM_EPS:
            return _("Adam divides by the gradient's size plus its eps of {eps}; a gradient under eps no longer counts.").format(
                eps=number(ADAM_EPS, 1)
            )
        if treated > ADAM_OVERFLOW:
            return _("Adam keeps an average of squares; the square of this gradient is inf in float32, and a step is 0.")
    elif state.ends("update_ratio")[1] * LONGEST >= 1:
        return _("SGD moves a weight by learning rate × gradient, and {front} gets {ratio} of the gradient of {back}.").format(
            front=state.front_name, back=state.back_name, ratio=_power(state.gap("weight_grad_rms"))
        )
    return _("The gradient is large enough; the learning rate of {lr} is too small for it.").format(lr=number(state.config.lr))


def _next_experiment(state: _State, findings: tuple[Verdict, ...]) -> tuple[str, RunConfig] | None:
    """One change to this config, the one most likely to teach something."""
    config, found = state.config, set(findings)
    relu = _rectifies(config)
    plain = not config.batch_norm and config.other_norm == "none"

    def change(sentence: str, **changes: object) -> tuple[str, RunConfig]:
        if config.treatment == "floor" and "treatment" in changes:
            sentence += " " + _("Leave out the floor: it overwrites the small gradients of a cured net too.")
        return sentence, replace(config, **changes)

    def slower() -> tuple[str, RunConfig] | None:
        if config.lr < 10 * FIELDS["lr"].spec.low:
            return None
        return change(_("Take steps of a tenth of the size."), lr=config.lr / 10)

    def longer() -> tuple[str, RunConfig] | None:
        if config.steps >= LONGEST:
            return None
        return change(_("Give it three times the steps."), steps=int(min(LONGEST, 3 * config.steps)))

    def shortcut() -> tuple[str, RunConfig]:
        return change(_("Add the shortcut: a road for the gradient past the convolutions."), **cure, shortcut=True)

    cure = {"treatment": "none"} if config.treatment == "floor" or _steered(config) else {}
    if {Verdict.DIVERGED, Verdict.EXPLODING} & found:
        if relu and plain and not config.shortcut and _init(config) > _critical(config):
            return change(_("Start from the critical init range."), init="critical", init_range=None)
        if config.init_range is not None and not state.start_loss < LOUD:
            return change(_("Start from PyTorch's own init."), init_range=None)
        if relu and config.shortcut and not config.batch_norm and not state.start_loss < LOUD:
            return change(_("Add batch norm: it undoes the growth along the shortcut."), batch_norm=True)
        if config.batch_norm and not config.shortcut and state.gap("signal_rms", start=True) >= GAP:
            return shortcut()
        return slower()
    if Verdict.DEAD in found:
        return slower()
    if Verdict.RECOVERING in found:
        return longer()
    if {Verdict.VANISHED, Verdict.VANISHING} & found and not state.learnt:
        if config.shortcut:
            return longer()
        if relu and plain and config.blocks <= NORM_DEPTH:
            return change(_("Add batch norm: it rescales what each layer hands on."), **cure, batch_norm=True)
        return shortcut()
    if Verdict.SATURATED in found:
        return longer() if config.shortcut else shortcut()
    if {Verdict.UNUSABLE, Verdict.STUCK} & found and not state.learnt:
        if _steered(config) and not config.shortcut:
            return shortcut()
        if config.optimizer != "adam":
            return change(_("Let Adam divide each gradient by its own size."), optimizer="adam", lr=ADAM_LR)
        if config.lr < ADAM_LR:
            return change(_("Take steps ten times as large."), lr=10 * config.lr)
        return slower() if config.lr > ADAM_LR else longer()
    if state.learnt:
        if config.blocks >= FIELDS["blocks"].spec.high:
            return None
        blocks = int(min(FIELDS["blocks"].spec.high, max(4, 2 * config.blocks)))
        return change(_("It trains. Does it still with {blocks} blocks?").format(blocks=blocks), blocks=blocks)
    return None if state.run.status.live else longer()


def _turned_at(state: _State) -> list[tuple[int, str]]:
    """Steps at which the story changed, up to the column looked at."""
    history, stop = state.history, state.column + 1
    words = {"front": state.front_name}
    turns = []

    def crossings(over: np.ndarray, begins: str, ends: str) -> None:
        """Marks the first column at which `over` changes, and the last one if that was a change back."""
        changes = np.flatnonzero(over[1:] != over[:-1]) + 1
        back = changes[-1:] if len(changes) % 2 == 0 else changes[:0]
        for column in [*changes[:1].tolist(), *back.tolist()]:
            turns.append((column * history.stride, begins if over[column] else ends))

    front, gap = _steady(history, stop, "weight_grad_rms", state)
    _signal, signal_gap = _steady(history, stop, "signal_rms", state)
    if not len(state.dead):  # a dead layer is a wall, not a slope
        grown = np.flatnonzero(front >= front[0] + DECADE)
        if gap[0] <= -DECADE and len(grown):
            turns.append(
                (int(grown[0]) * history.stride, _("The gradient of {front} is ten times what it was at step 0.").format(**words))
            )
        crossings(
            gap <= -GAP,
            _("The gradient begins to vanish: more than 1000-fold from the last block to the first."),
            _("The gradient no longer vanishes: less than 1000-fold from the last block to the first."),
        )
        crossings(
            signal_gap >= GAP,
            _("The signal begins to explode: more than 1000-fold from the last block to the first."),
            _("The signal no longer explodes: less than 1000-fold from the last block to the first."),
        )
    crossings(
        history.quantity("weight_grad_rms")[:stop, state.front] == 0,
        _("The gradient of {front} is exactly 0.").format(**words),
        _("The gradient of {front} is no longer exactly 0.").format(**words),
    )
    if len(state.dead):
        layer = int(state.dead[0])
        crossings(
            history.quantity("activation_rms")[:stop, layer] == 0,
            _("{layer} is dead: it hands on exactly 0.").format(layer=state.names[layer]),
            _("{layer} is alive again.").format(layer=state.names[layer]),
        )
    turns += _loss_turns(state)
    if not state.finite:
        turns.append((_first_nonfinite_column(state) * history.stride, _("The first inf or nan.")))
    return turns


def _steady(history: History, stop: int, quantity: str, state: _State) -> tuple[np.ndarray, np.ndarray]:
    """log10 of the front, and of front over back, per column; medians of RECENT_COLUMNS, so that one odd step marks nothing."""
    values = history.quantity(quantity)[:stop, [state.front, state.back]].astype(float)
    logs = np.log10(np.maximum(values, SMALLEST))  # nan stays nan
    padded = np.concatenate([np.repeat(logs[:1], RECENT_COLUMNS - 1, axis=0), logs])
    windows = np.lib.stride_tricks.sliding_window_view(padded, RECENT_COLUMNS, axis=0)  # (columns, 2, RECENT_COLUMNS)
    middle = RECENT_COLUMNS // 2
    medians = np.partition(windows, middle, axis=2)[:, :, middle]
    return medians[:, 0], medians[:, 0] - medians[:, 1]


def _loss_turns(state: _State) -> list[tuple[int, str]]:
    loss = state.history.loss[: state.steps if state.finite else state.steps - 1]
    loss = np.minimum(loss, 100 * LOUD)  # beside a loss of 1e29 a running sum would forget 2.3
    if len(loss) <= RECENT_STEPS:
        return []
    sums = np.cumsum(loss)
    means = (sums[RECENT_STEPS:] - sums[:-RECENT_STEPS]) / RECENT_STEPS  # the last step of mean k is k + RECENT_STEPS
    turns = []
    left = means < CHANCE - LEFT_CHANCE
    if left.any():
        turns.append((int(np.argmax(left)) + RECENT_STEPS, _("The loss leaves chance.")))
    loud = means >= LOUD
    if loud.any() and not loud[0]:
        turns.append((int(np.argmax(loud)) + RECENT_STEPS, _("The loss passes ten times chance.")))
    if loud[0] and not loud.all():
        turns.append((int(np.argmin(loud)) + RECENT_STEPS, _("The loss falls below ten times chance.")))
    return turns


def _first_nonfinite_column(state: _State) -> int:
    """Steps back from the newest: a run ends where its loss is no longer finite, so there is hardly any way to go."""
    column = state.column
    while column and not np.isfinite(state.history.columns[column - 1, _JUDGED]).all():
        column -= 1
    return column


def _init(config: RunConfig) -> float:
    if config.init == "critical":
        return _critical(config)
    return DEFAULT_INIT if config.init_range is None else config.init_range


def _critical(config: RunConfig) -> float:
    """Init range at which the backward signal of a plain net neither shrinks nor grows; nan if there is none."""
    critical = ACTIVATIONS[config.activation].critical
    return math.nan if critical is None else critical


def _rectifies(config: RunConfig) -> bool:
    return config.activation in ("relu", "leaky-relu")


def _steered(config: RunConfig) -> bool:
    """The treatment works on the signal on its way back: the recorded profile is the treatment's."""
    return config.treatment in ("normalise", "feedback")


def _derived(config: RunConfig) -> bool:
    """Whether the factor per convolution follows from the init range."""
    return config.other_norm == "none" and config.init in ("default", "critical") and not _steered(config)


def _where_nonfinite(state: _State) -> str:
    return state.run.nonfinite_layer or first_nonfinite(state.now, state.names) or ""


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


def _loss(value: float) -> str:
    return f"{value:.2f}" if value < 100 else number(value, 3)


def _power(decades: float) -> str:
    """A ratio given as its log10: '6.3·10⁻²²', and near 1 a plain number: '0.71'."""
    return number(10**decades) if -2 < decades < 2 else scientific(decades)
