"""The one sentence on a run, with the numbers that its first finding rests on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from gradviz.diagnosis.findings import Verdict, recovery
from gradviz.diagnosis.state import GAP, LEFT_CHANCE, SIGMOID_OFF, SIGMOID_SPLIT, State
from gradviz.messages import Message
from gradviz.record.reading import first_nonfinite


def sentence(state: State, verdict: Verdict) -> Message:
    return _SENTENCES[verdict](state)


def loss_words(state: State) -> Message:
    """Half a sentence."""
    if not len(state.told):
        return state.say("loss-untold")
    if state.facts.chance is None:
        return state.say("loss-since", loss=state.loss, start=state.start_loss, step=state.start_told)
    if state.learnt:
        return state.say("loss-down", loss=state.loss, chance=state.facts.chance)
    if state.loss < state.facts.chance + LEFT_CHANCE:
        return state.say("loss-at-chance", loss=state.loss)
    return state.say("loss-above-chance", loss=state.loss, chance=state.facts.chance)


def some(state: State, rows: Sequence[int]) -> str | Message:
    """The first of these layers, and how many more there are."""
    if len(rows) == 1:
        return state.names[rows[0]]
    return state.say("layer-and-more", layer=state.names[rows[0]], n=len(rows) - 1)


def _of_gradients(state: State, code: str) -> Message:
    """A sentence on the weight gradients of front and back."""
    front, back = state.ends("weight_grad_rms")
    return state.say(
        code, front=state.front_name, back=state.back_name, g_front=front, g_back=back, ratio=state.gap("weight_grad_rms"),
        loss=loss_words(state),
    )  # fmt: skip


def _diverged(state: State) -> Message:
    layer = state.run.nonfinite_layer or first_nonfinite(state.now, state.names)
    if not layer:
        return state.say("diverged-in-loss", step=state.steps - 1, loss=state.latest_loss)
    return state.say("diverged", step=state.steps - 1, loss=state.latest_loss, layer=layer)


def _dead(state: State) -> Message:
    return state.say("dead", layer=some(state, state.dead), loss=loss_words(state))


def _vanished(state: State) -> Message:
    zeros = state.zeros
    return state.say(
        "vanished", count=len(zeros), all=state.back + 1 - state.front, last=state.names[zeros[-1]], back=state.back_name,
        g_back=state.ends("weight_grad_rms")[1], loss=loss_words(state),
    )  # fmt: skip


def _exploding(state: State) -> Message:
    if state.gap("signal_rms") >= GAP:
        front, back = state.ends("signal_rms")
        return state.say(
            "exploding-signal", front=state.front_name, back=state.back_name, s_front=front, s_back=back,
            growth=state.gap("signal_rms"), loss=loss_words(state),
        )  # fmt: skip
    if state.gap("weight_grad_rms") >= GAP:
        return _of_gradients(state, "exploding-gradient")
    return state.say("exploding-loss", loss=loss_words(state), size=float(np.max(state.recent["weight_grad_rms"])))


def _recovering(state: State) -> Message:
    match recovery(state):
        case "gradient":
            return state.say(
                "recovering-gradient", front=state.front_name, growth=state.rise, loss=loss_words(state),
                g_start=float(state.start["weight_grad_rms"][state.front]), g_front=state.ends("weight_grad_rms")[0],
            )  # fmt: skip
        case "signal":
            return state.say(
                "recovering-signal", front=state.front_name, back=state.back_name, loss=loss_words(state),
                before=state.gap("signal_rms", start=True), growth=state.gap("signal_rms"),
            )  # fmt: skip
    return state.say("recovering-loss", before=state.start_loss, loss=loss_words(state))


def _saturated(state: State) -> Message:
    return state.say(
        "saturated", count=len(state.saturated), all=len(state.facts.sigmoids), split=SIGMOID_SPLIT, off=SIGMOID_OFF,
        loss=loss_words(state),
    )  # fmt: skip


def _unusable(state: State) -> Message:
    pace = state.say("pace", steps=-math.log10(state.update)) if state.update else state.say("pace-none")
    front = state.ends("weight_grad_rms")[0]
    return state.say("unusable", front=state.front_name, g_front=front, pace=pace, loss=loss_words(state))


def _stuck(state: State) -> Message:
    front, back = state.ends("weight_grad_rms")
    return state.say(
        "stuck", step=state.steps - 1, loss=loss_words(state), front=state.front_name, back=state.back_name,
        g_front=front, g_back=back,
    )  # fmt: skip


_SENTENCES: dict[Verdict, Callable[[State], Message]] = {
    Verdict.DIVERGED: _diverged,
    Verdict.DEAD: _dead,
    Verdict.VANISHED: _vanished,
    Verdict.EXPLODING: _exploding,
    Verdict.RECOVERING: _recovering,
    Verdict.VANISHING: lambda state: _of_gradients(state, "vanishing"),
    Verdict.SATURATED: _saturated,
    Verdict.UNUSABLE: _unusable,
    Verdict.STUCK: _stuck,
    Verdict.HEALTHY: lambda state: _of_gradients(state, "healthy" if state.learnt else "healthy-so-far"),
}
