"""The pictures of a lesson, of its runs that are there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go

from gradviz.charts.runs import loss_figure, profile_figure, ratio_to_start_figure, wake_figure
from gradviz.charts.sweeps import border_figure
from gradviz.lenet.config import RunConfig
from gradviz.lenet.diagnosis import CHANCE
from gradviz.lenet.lessons.catalogue import ARTICLE_BORDERS
from gradviz.lenet.lessons.lesson import Lesson
from gradviz.lenet.naming import net_name, setting_text
from gradviz.lenet.outcome import result
from gradviz.lenet.sweep import Sweep
from gradviz.lenet.theory.first_step import first_move
from gradviz.lenet.theory.predict import predict
from gradviz.record.run import Run


def lesson_figures(lesson: Lesson, runs: Sequence[Run[RunConfig]]) -> dict[str, go.Figure]:
    """Its pictures by kind, of the runs that are there: border, profile, wake, weights, loss."""
    named = _named([run for run in runs if run.history.steps])
    if not named:
        return {}
    one_each = {name: run for name, run in named.items() if not run.recipe.seed} or named  # at step 0 the seeds are alike
    makers = {
        "border": lambda: border_figure(
            Sweep(lesson.id, tuple(run.recipe for run in runs)), {run.recipe: result(run) for run in runs}, ARTICLE_BORDERS
        ),
        "profile": lambda: profile_figure(
            {name: run.history.quantity(lesson.quantity)[0] for name, run in one_each.items()},
            lesson.quantity,
            {name: _theory(run.recipe, lesson.quantity) for name, run in one_each.items()},
        ),
        "wake": lambda: wake_figure(one_each),
        "weights": lambda: ratio_to_start_figure(runs[0], "weight_rms"),
        "loss": lambda: loss_figure({name: run for name, run in named.items() if run.history.steps > 1}, CHANCE),
    }
    return {kind: makers[kind]() for kind in lesson.look_at}


def _theory(config: RunConfig, quantity: str) -> np.ndarray:
    """log10 of the quantity at step 0, (layers,); nan where there is no prediction."""
    if quantity != "update_ratio":
        line: np.ndarray = getattr(predict(config), quantity)
        return line
    line, move = np.full(config.layers, np.nan), first_move(config)
    if move is not None:
        line[config.layout.inside] = np.log10(move)
    return line


def _named(runs: Sequence[Run[RunConfig]]) -> dict[str, Run[RunConfig]]:
    """By the names of their nets, with the learning rate where one net has several."""
    rates = defaultdict(set)
    for run in runs:
        rates[net_name(replace(run.recipe, seed=0))].add(run.recipe.lr)

    def name(config: RunConfig) -> str:
        several = len(rates[net_name(replace(config, seed=0))]) > 1
        return " ".join([net_name(config)] + [setting_text("lr", config.lr)] * several)

    return {name(run.recipe): run for run in runs}
