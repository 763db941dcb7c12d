"""The pictures of a lesson, of its runs that are there."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from gradviz.charts.runs import loss_figure, profile_figure, ratio_to_start_figure, wake_figure
from gradviz.charts.sweeps import border_figure
from gradviz.lenet.config import RunConfig
from gradviz.lenet.diagnosis import CHANCE
from gradviz.lenet.lessons.catalogue import ARTICLE_BORDERS
from gradviz.lenet.lessons.lesson import Lesson
from gradviz.lenet.naming import net_name
from gradviz.lenet.outcome import result
from gradviz.lenet.sweep import Sweep
from gradviz.lenet.theory.predict import predict
from gradviz.record.run import Run


def lesson_figures(lesson: Lesson, runs: Sequence[Run[RunConfig]]) -> dict[str, go.Figure]:
    """Its pictures by kind, of the runs that are there: border, profile, wake, weights, loss."""
    named = {net_name(run.recipe): run for run in runs if run.history.steps}
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
            {name: getattr(predict(run.recipe), lesson.quantity) for name, run in one_each.items()},
        ),
        "wake": lambda: wake_figure(one_each),
        "weights": lambda: ratio_to_start_figure(runs[0], "weight_rms"),
        "loss": lambda: loss_figure({name: run for name, run in named.items() if run.history.steps > 1}, CHANCE),
    }
    return {kind: makers[kind]() for kind in lesson.look_at}
