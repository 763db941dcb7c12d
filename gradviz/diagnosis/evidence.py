"""What was measured, line by line; every number is out of the record, or of a line fitted through it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from gradviz.diagnosis.findings import Verdict
from gradviz.diagnosis.sentence import some
from gradviz.diagnosis.state import State
from gradviz.messages import Message
from gradviz.record.float32 import ADAM_EPS
from gradviz.record.quantities import QUANTITIES
from gradviz.record.reading import measured
from gradviz.record.watched import STILL

_ACTIVATION = list(QUANTITIES).index("activation_rms")

Findings = tuple[Verdict, ...]


def evidence(state: State, findings: Findings) -> Iterator[Message]:
    for lines in _LINES:
        yield from lines(state, findings)


def _gradient(state: State, findings: Findings) -> Iterator[Message]:
    front, back = state.ends("weight_grad_rms")
    if state.finite and math.isnan(front - back):
        return  # all were left out by a scaler
    words = {"front": state.front_name, "back": state.back_name, "a": front, "b": back}
    if front > 0 < back:
        yield state.say("measured-gradient-ratio", **words, ratio=state.gap("weight_grad_rms"))
    else:
        yield state.say("measured-gradient", **words)


def _signal(state: State, findings: Findings) -> Iterator[Message]:
    front, back = state.ends("signal_rms")
    if state.finite and math.isnan(front - back):
        return  # not measured
    first, last = (state.names[row] for row in state.rows_of("signal_rms"))
    line = state.say("measured-signal", front=first, back=last, a=front, b=back)
    factor = state.factor("signal_rms")
    yield line if factor is None else state.say("sentences", first=line, second=state.say("measured-factor", factor=factor))


def _loss(state: State, findings: Findings) -> Iterator[Message]:
    if not len(state.told):
        return
    words = {"loss": state.loss, "first": int(state.told[0]), "last": int(state.told[-1])}
    if state.facts.chance is None:
        line = state.say("measured-loss", **words)
    else:
        line = state.say("measured-loss-chance", **words, chance=state.facts.chance)
    tests = [(step, accuracy) for step, accuracy in state.history.tests if step < state.steps]
    if tests:
        step, accuracy = tests[-1]
        line = state.say("sentences", first=line, second=state.say("measured-test", share=accuracy, step=step))
    yield line


def _update(state: State, findings: Findings) -> Iterator[Message]:
    front, back = state.ends("update_ratio")
    if front > 0 and math.isnan(back) and state.finite:
        yield state.say("measured-update-front", front=state.front_name, a=front)
    elif front > 0:
        yield state.say("measured-update", front=state.front_name, back=state.back_name, a=front, b=back)
    elif not math.isnan(front):  # else no step has been taken yet
        yield state.say("measured-no-update", front=state.front_name)


def _treatment(state: State, findings: Findings) -> Iterator[Message]:
    treated = state.ends("treated_grad_rms")[0]
    if state.facts.treatment:
        gradient = float(state.recent["weight_grad_rms"][state.front])
        yield state.say(
            "measured-treatment", treatment=state.facts.treatment, front=state.front_name, a=gradient, b=treated
        )
    if state.facts.adam and 0 < treated < ADAM_EPS:
        yield state.say("measured-adam", g=treated, eps=ADAM_EPS, share=treated / (treated + ADAM_EPS))


def _pace(state: State, findings: Findings) -> Iterator[Message]:
    """Of a net of whose training nothing else is known."""
    if state.facts.longest is not None:
        return
    updates = state.recent["update_ratio"][state.rows]
    if not np.isnan(updates).all():
        typical, most = float(np.nanmedian(updates)), int(state.rows[np.nanargmax(updates)])
        yield state.say("measured-pace", typical=typical, most=state.names[most], share=float(np.nanmax(updates)))
    kept = [treated / raw for treated, raw in zip(*_treated(state), strict=True) if raw > 0 <= treated]
    if kept and abs(np.log10(max(np.median(kept), 1e-30))) > 0.01:
        yield state.say("measured-kept", ratio=float(np.log10(max(np.median(kept), 1e-30))))
    if STILL in state.history.quantities and not np.isnan(share := state.recent[STILL][state.rows]).all():
        yield state.say("measured-still", share=float(np.nanmedian(share)))
    if state.facts.overflows:
        yield state.say("measured-overflows", n=state.facts.overflows)


def _treated(state: State) -> tuple[list[float], list[float]]:
    treated, raw = (state.recent[name][state.rows].tolist() for name in ("treated_grad_rms", "weight_grad_rms"))
    return treated, raw


def _zeros(state: State, findings: Findings) -> Iterator[Message]:
    zeros = state.zeros
    if not len(zeros) or Verdict.DEAD in findings:
        return
    alive = int(zeros[-1]) + 1
    if alive == len(state.names) or not state.recent["weight_grad_rms"][alive] > 0:
        yield state.say("measured-zeros-all", n=len(zeros))
    else:
        gradient = float(state.recent["weight_grad_rms"][alive])
        yield state.say("measured-zeros", n=len(zeros), alive=state.names[alive], g=gradient)


def _silence(state: State, findings: Findings) -> Iterator[Message]:
    if state.dead:
        yield state.say("measured-dead", layer=some(state, state.dead))
    elif state.silent and state.facts.rectified is None:
        yield state.say("measured-silent", layer=some(state, state.silent))


def _saturation(state: State, findings: Findings) -> Iterator[Message]:
    if len(state.saturated):
        rms = state.recent["activation_rms"][state.saturated]
        yield state.say("measured-saturation", n=len(rms), low=float(rms.min()), high=float(rms.max()))


def _activation(state: State, findings: Findings) -> Iterator[Message]:
    if {Verdict.EXPLODING, Verdict.DIVERGED}.isdisjoint(findings):
        return
    front, back = state.ends("activation_rms")
    last = float(measured(state.now[_ACTIVATION])[-1])
    if not state.finite or not math.isnan(front + back + last):
        yield state.say(
            "measured-activation", front=state.front_name, back=state.back_name, a=front, b=back, last=state.names[-1], c=last
        )


_LINES: tuple[Callable[[State, Findings], Iterator[Message]], ...] = (
    _gradient, _signal, _loss, _update, _treatment, _pace, _zeros, _silence, _saturation, _activation,
)  # fmt: skip
