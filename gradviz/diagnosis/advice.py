"""What to do next about what was found in a watched net, in words: nobody here has its settings, only its record."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from gradviz.diagnosis.findings import Verdict
from gradviz.diagnosis.pace import detached, first_nonfinite_column, overtaken, still, why_still
from gradviz.diagnosis.state import State
from gradviz.messages import Message
from gradviz.record.watched import Watched


def advice(state: State, verdict: Verdict) -> Iterator[Message]:
    """Nothing of a net that was not watched: who knows it has an experiment to offer."""
    if isinstance(state.run.recipe, Watched) and verdict in _ADVICE:
        yield state.say(_ADVICE[verdict](state))


def _behind(state: State) -> str:
    """What stands behind most of the layers behind which anything was seen."""
    recipe = state.run.recipe
    words = [word for word in recipe.behind if word] if isinstance(recipe, Watched) else []
    return max(sorted(set(words)), key=words.count) if words else ""


def _on_the_way(state: State) -> str:
    return {"relu": "advice-signal-relu", "sigmoid": "advice-signal-sigmoid", "tanh": "advice-signal-tanh"}.get(
        _behind(state), "advice-signal"
    )


def _diverged(state: State) -> str:
    table = state.history.columns[first_nonfinite_column(state)]
    names = state.history.quantities
    activations, weights = (table[names.index(name)] for name in ("activation_rms", "weight_rms"))
    broken = np.flatnonzero(~np.isfinite(activations))
    if len(broken) and np.isfinite(weights).all() and broken[0] == np.flatnonzero(~(activations < 0))[0]:
        return "advice-batch"  # the first layer, from weights that are whole
    return "advice-steps" if overtaken(state) else "advice-diverged"


def _still(state: State) -> str:
    return {"clipped": "advice-clip", "eps": "advice-eps", "rate": "advice-rate"}[why_still(state, still(state))]


_ADVICE: dict[Verdict, Callable[[State], str]] = {
    Verdict.DIVERGED: _diverged,
    Verdict.OVERFLOWING: lambda state: "advice-scaler",
    Verdict.DETACHED: lambda state: "advice-detached" if detached(state) else "advice-lost",
    Verdict.UNHELD: lambda state: "advice-unheld",
    Verdict.DEAD: lambda state: "advice-dead",
    Verdict.VANISHED: _on_the_way,
    Verdict.VANISHING: _on_the_way,
    Verdict.EXPLODING: lambda state: "advice-exploding",
    Verdict.LARGE: lambda state: "advice-steps",
    Verdict.COARSE: lambda state: "advice-coarse",
    Verdict.STILL: _still,
    Verdict.UNUSABLE: lambda state: "advice-eps",
    Verdict.SATURATED: lambda state: "advice-saturated",
}
