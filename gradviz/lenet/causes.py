"""What is likely the cause of what was found in a deep LeNet: theory's part, not measured, exact at initialisation only."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gradviz.diagnosis.findings import Verdict
from gradviz.diagnosis.state import DECADE, GAP, State
from gradviz.lenet.activations import ACTIVATIONS, Activation
from gradviz.lenet.config import RunConfig
from gradviz.messages import Message, say
from gradviz.record.float32 import ADAM_EPS, ADAM_OVERFLOW, RESOLUTION, SMALLEST
from gradviz.record.reading import log_size

DEFAULT_INIT = 0.05  # PyTorch's own for the blocks: U(−1/√400, 1/√400)


@dataclass(frozen=True)
class Case:
    """A deep LeNet with what was found in it."""

    state: State
    config: RunConfig
    findings: frozenset[Verdict]

    def found(self, *verdicts: Verdict) -> bool:
        """Whether one of them was."""
        return not self.findings.isdisjoint(verdicts)

    @property
    def activation(self) -> Activation:
        return ACTIVATIONS[self.config.activation]

    @property
    def init(self) -> float:
        """Range of the block convolutions' weights, as far as one is asked for."""
        if self.config.init == "critical":
            return self.critical
        return DEFAULT_INIT if self.config.init_range is None else self.config.init_range

    @property
    def critical(self) -> float:
        """Init range at which the backward signal of a plain net neither shrinks nor grows; nan where there is none."""
        return math.nan if self.activation.critical is None else self.activation.critical

    @property
    def steered(self) -> bool:
        """The treatment works on the signal on its way back: the recorded profile is the treatment's."""
        return self.config.treatment in ("normalise", "feedback")

    @property
    def normed(self) -> bool:
        return self.config.batch_norm or self.config.other_norm != "none"

    @property
    def plain(self) -> bool:
        """Whether the factor per convolution follows from the init range."""
        derived = self.config.init in ("default", "critical") and not self.steered
        return derived and not self.normed and not self.config.shortcut

    @property
    def convolutions(self) -> int:
        """In the blocks."""
        return 2 * self.config.blocks

    @property
    def loud_at_start(self) -> bool:
        """Far above chance at step 0, or no number at all."""
        return not self.state.start_loss < self.state.loud

    @property
    def exploding_at_start(self) -> bool:
        return self.state.gap("signal_rms", start=True) >= GAP

    @property
    def vanishing_at_start(self) -> bool:
        return self.state.gap("weight_grad_rms", start=True) <= -GAP

    @property
    def grown(self) -> bool:
        """Its gradient had vanished at step 0 and has grown since."""
        return self.vanishing_at_start and self.state.rise >= DECADE


def likely_cause(case: Case) -> list[Message]:
    causes = [message for rule in _RULES for message in rule(case)]
    return [say("cause-stuck")] if case.found(Verdict.STUCK) and not causes else causes


def _vanishing(case: Case) -> Iterator[Message]:
    if not case.found(Verdict.VANISHING, Verdict.VANISHED):
        return
    config, activation = case.config, case.activation
    if config.batch_norm and config.activation == "sigmoid":
        yield say("cause-printed-border", factor=activation.norm_factor)
    elif case.plain and case.init < case.critical:
        yield say(activation.why_it_vanishes, count=case.convolutions)
        if case.init == DEFAULT_INIT and activation.factor is not None:
            yield say("cause-default-factor", factor=activation.factor, init=DEFAULT_INIT)
        yield say("cause-under-critical", init=case.init, critical=case.critical)
    factor = case.state.factor("signal_rms")
    left = case.convolutions * math.log10(factor) if factor else 0.0
    if case.plain and left <= math.log10(RESOLUTION):
        yield say("cause-images-alike", left=left)
    if config.treatment == "floor":
        yield say("cause-floor")
    if not case.vanishing_at_start:
        yield say("cause-training-vanishes")


def _underflow(case: Case) -> Iterator[Message]:
    if not case.found(Verdict.VANISHED):
        return
    state, line = case.state, say("cause-underflow", smallest=SMALLEST)
    if factor := state.factor("weight_grad_rms"):
        true = log_size(state.ends("weight_grad_rms")[1]) + (state.back - state.front) * math.log10(factor)
        if true < math.log10(SMALLEST):  # else it is no line
            line = say("sentences", first=line, second=say("cause-underflow-line", true=true, front=state.front_name))
    yield line


def _explosion(case: Case) -> Iterator[Message]:
    recovered = case.found(Verdict.RECOVERING) and (case.exploding_at_start or case.state.start_loss >= case.state.loud)
    if case.found(Verdict.EXPLODING, Verdict.DIVERGED) or recovered:
        yield _why_it_explodes(case)


def _why_it_explodes(case: Case) -> Message:
    config, rectifies = case.config, case.activation.rectifies
    if rectifies and not config.batch_norm:
        if case.init > case.critical:
            return say("cause-over-critical", init=case.init, critical=case.critical)
        if config.shortcut and case.state.start_loss >= case.state.loud:
            return say("cause-shortcut-adds")
    if config.init_range is not None and case.loud_at_start:
        return say("cause-head-init", init=config.init_range)
    if rectifies and config.batch_norm and not config.shortcut and case.exploding_at_start:
        return say("cause-norm-explodes", factor=ACTIVATIONS["relu"].norm_factor)
    if case.loud_at_start or case.exploding_at_start:
        return say("cause-at-start")
    return say("cause-steps-too-large", lr=config.lr)


def _dead(case: Case) -> Iterator[Message]:
    if case.found(Verdict.DEAD):
        yield say("cause-dead")


def _saturated(case: Case) -> Iterator[Message]:
    if case.found(Verdict.SATURATED):
        wide = case.init > DEFAULT_INIT
        yield say("cause-saturated-at-start", init=case.init) if wide else say("cause-saturated-by-training")


def _unusable(case: Case) -> Iterator[Message]:
    if case.found(Verdict.UNUSABLE):
        yield _why_it_is_unusable(case)


def _why_it_is_unusable(case: Case) -> Message:
    state = case.state
    treated = state.ends("treated_grad_rms")[0]
    if treated == 0:
        return say("cause-zero-moves-nothing")
    if case.config.optimizer == "adam":
        if treated < ADAM_EPS:
            return say("cause-under-eps", eps=ADAM_EPS)
        if treated > ADAM_OVERFLOW:
            return say("cause-square-overflows")
    elif state.ends("update_ratio")[1] * (state.facts.longest or 0) >= 1:
        ratio = state.gap("weight_grad_rms")
        return say("cause-sgd-share", front=state.front_name, back=state.back_name, ratio=ratio)
    return say("cause-steps-too-small", lr=case.config.lr)


def _stuck(case: Case) -> Iterator[Message]:
    if case.found(Verdict.STUCK) and case.steered:
        yield say("cause-forward-lost")


def _grown(case: Case) -> Iterator[Message]:
    if case.found(Verdict.RECOVERING, Verdict.HEALTHY) and case.grown and case.config.optimizer == "adam":
        yield say("cause-adam-grows")


def _healthy(case: Case) -> Iterator[Message]:
    """The first reason that holds why nothing is wrong in the blocks."""
    if not case.found(Verdict.HEALTHY) or not case.config.blocks:
        return
    config, norm_factor = case.config, case.activation.norm_factor
    if case.steered:
        yield say("cause-steered", target=config.threshold)
    elif config.branch_scale == "skip-init" and case.state.ends("weight_grad_rms")[0] == 0:
        yield say("cause-skip-init")
    elif config.shortcut:
        yield say("cause-shortcut")
    elif config.batch_norm and norm_factor is not None:
        yield say("cause-norm", factor=norm_factor)
    elif case.plain and abs(math.log10(case.init / case.critical)) < 0.1:
        yield say("cause-critical", critical=case.critical)
    elif case.plain and not case.grown and case.init == DEFAULT_INIT:
        yield say("cause-few-convolutions", count=case.convolutions)


_RULES: tuple[Callable[[Case], Iterator[Message]], ...] = (  # in reading order
    _vanishing, _underflow, _explosion, _dead, _saturated, _unusable, _stuck, _grown, _healthy,
)  # fmt: skip
