"""What is said and drawn of a run beside its records, by whoever shows it: a page, or a file that is shared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gradviz.lenet.config import RunConfig
from gradviz.lenet.diagnosis import CHANCE, headline
from gradviz.lenet.theory.predict import predict
from gradviz.messages import Message
from gradviz.record.quantities import OF_WATCHED, QUANTITIES, described, ranges_of
from gradviz.record.recipe import Recipe
from gradviz.record.run import Run
from gradviz.record.watched import Watched

# What theory predicts of a net before its first step: name of a quantity -> log10 for each layer.
Theory = Mapping[str, Sequence[float | None]]
Words = tuple[str, Message]  # a run's verdict, as its word, and what is to say of it


def words_of(run: Run[Any]) -> Words:
    verdict, sentence = headline(run)
    return str(verdict), sentence


def theory_of(recipe: Recipe) -> Theory | None:
    """None where there is no theory of such nets."""
    prediction = predict(recipe) if isinstance(recipe, RunConfig) else None
    if prediction is None or np.isnan(prediction.weight_grad_rms).all():
        return None
    names = ("weight_grad_rms", "signal_rms", "activation_rms", "std")
    return {name: [round(x, 2) if math.isfinite(x) else None for x in getattr(prediction, name).tolist()] for name in names}


def chance_of(recipe: Recipe) -> float | None:
    """Loss of a guess, nats; None where it is not known."""
    if isinstance(recipe, Watched):
        return -math.log(recipe.chance) if recipe.chance else None
    return CHANCE if isinstance(recipe, RunConfig) else None


def scales(watched: bool = False) -> dict[str, Any]:
    """The colour ranges offered for each quantity, the default first, and which quantities are not shown as log10."""
    names = [*QUANTITIES, *(OF_WATCHED if watched else ())]
    return {
        "ranges": {name: ranges_of(name, watched) for name in names},
        "linear": [name for name in names if described(name).linear],
    }
