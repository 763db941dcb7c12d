"""The one sentence on a run, with the numbers that its first finding rests on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from gradviz.diagnosis.findings import Verdict, recovery
from gradviz.diagnosis.pace import SLOWEST, coarse, detached, first_nonfinite_column, large, lost, still, unheld
from gradviz.diagnosis.state import GAP, LEFT_CHANCE, SIGMOID_OFF, SIGMOID_SPLIT, State
from gradviz.messages import Message
from gradviz.record.float32 import ADAM_EPS
from gradviz.record.reading import first_nonfinite
from gradviz.record.watched import STILL


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
    began = first_nonfinite_column(state) * state.history.stride
    words = {"step": state.steps - 1, "loss": state.latest_loss, "began": began, "before": before_words(state)}
    return state.say("diverged", **words, layer=layer) if layer else state.say("diverged-in-loss", **words)


def before_words(state: State) -> Message:
    """Half a sentence on the last loss that was told as a number."""
    if not len(state.told):
        return state.say("loss-untold")
    return state.say("loss-last", loss=state.latest_loss, step=int(state.told[-1]))


def _dead(state: State) -> Message:
    return state.say("dead", layer=some(state, state.dead), loss=loss_words(state))


def _vanished(state: State) -> Message:
    zeros = state.zeros
    return state.say(
        "vanished", count=len(zeros), all=len(state.rows), last=state.names[zeros[-1]], back=state.back_name,
        g_back=state.ends("weight_grad_rms")[1], loss=loss_words(state),
    )  # fmt: skip


def _exploding(state: State) -> Message:
    if state.gap("signal_rms") >= GAP:
        front, back = state.ends("signal_rms")
        first, last = (state.names[row] for row in state.rows_of("signal_rms"))
        return state.say(
            "exploding-signal", front=first, back=last, s_front=front, s_back=back,
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
                g_start=float(state.lengths("weight_grad_rms", state.start)[state.front]),
                g_front=state.ends("weight_grad_rms")[0],
            )  # fmt: skip
        case "signal":
            return state.say(
                "recovering-signal", front=state.names[state.rows_of("signal_rms")[0]],
                back=state.names[state.rows_of("signal_rms")[1]], loss=loss_words(state),
                before=state.gap("signal_rms", start=True), growth=state.gap("signal_rms"),
            )  # fmt: skip
    return state.say("recovering-loss", before=state.start_loss, loss=loss_words(state))


def _saturated(state: State) -> Message:
    return state.say(
        "saturated", count=len(state.saturated), all=len(state.facts.squashed or state.facts.sigmoids), split=SIGMOID_SPLIT,
        off=SIGMOID_OFF, layer=state.names[state.saturated[0]],
        rms=float(state.recent["activation_rms"][state.saturated[0]]), loss=loss_words(state),
    )  # fmt: skip


def _unusable(state: State) -> Message:
    if state.facts.longest is None:
        treated = state.recent["treated_grad_rms"][state.rows]
        return state.say("under-eps", g=float(np.nanmedian(treated)), eps=ADAM_EPS, loss=loss_words(state))
    pace = state.say("pace", steps=-math.log10(state.update)) if state.update else state.say("pace-none")
    front = state.ends("weight_grad_rms")[0]
    return state.say("unusable", front=state.front_name, g_front=front, pace=pace, loss=loss_words(state))


def _stuck(state: State) -> Message:
    front, back = state.ends("weight_grad_rms")
    return state.say(
        "stuck", step=state.steps - 1, loss=loss_words(state), front=state.front_name, back=state.back_name,
        g_front=front, g_back=back,
    )  # fmt: skip


def _without_gradient(state: State) -> Message:
    if rows := detached(state)[::-1]:  # the one next to the loss
        return state.say("detached", layer=some(state, rows))
    return state.say("lost", layer=some(state, lost(state)))


def _overflowing(state: State) -> Message:
    return state.say("overflowing", count=state.facts.overflows, steps=state.steps)


def _coarse(state: State) -> Message:
    rows = coarse(state)
    share = float(np.median(state.recent[STILL][rows]))
    return state.say(
        "coarse", count=len(rows), all=len(state.rows), layer=state.names[rows[0]], share=share, loss=loss_words(state)
    )  # fmt: skip


def _still(state: State) -> Message:
    rows = still(state)
    fastest = max(rows, key=lambda row: float(state.recent["update_ratio"][row]))
    return state.say(
        "still", count=len(rows), all=len(state.rows), layer=state.names[fastest],
        share=float(state.recent["update_ratio"][fastest]), slowest=SLOWEST, loss=loss_words(state),
    )  # fmt: skip


_SENTENCES: dict[Verdict, Callable[[State], Message]] = {
    Verdict.WAITING: lambda state: state.say("no-gradient"),
    Verdict.DIVERGED: _diverged,
    Verdict.OVERFLOWING: _overflowing,
    Verdict.DETACHED: _without_gradient,
    Verdict.UNHELD: lambda state: state.say("unheld", layer=some(state, unheld(state))),
    Verdict.DEAD: _dead,
    Verdict.VANISHED: _vanished,
    Verdict.EXPLODING: _exploding,
    Verdict.RECOVERING: _recovering,
    Verdict.VANISHING: lambda state: _of_gradients(state, "vanishing"),
    Verdict.SATURATED: _saturated,
    Verdict.LARGE: lambda state: state.say("large", share=large(state), loss=loss_words(state)),
    Verdict.COARSE: _coarse,
    Verdict.STILL: _still,
    Verdict.UNUSABLE: _unusable,
    Verdict.STUCK: _stuck,
    Verdict.HEALTHY: lambda state: _of_gradients(state, "healthy" if state.learnt else "healthy-so-far"),
}
