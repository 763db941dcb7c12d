"""Runs on common axes: their loss, accuracy and profiles, their heatmaps, and the difference of two."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from gradviz.charts.draft import (
    BLUE_TO_RED,
    COLOURS,
    DIFFERENCES,
    INFINITE_AT,
    INK,
    MOST_POINTS,
    ZERO_AT,
    Draft,
    level,
    line,
    line_styles,
)
from gradviz.record import raster
from gradviz.record.palette import BROKEN_COLOUR, PALETTE, VIRIDIS
from gradviz.record.quantities import QUANTITIES, described
from gradviz.record.recipe import Recipe
from gradviz.record.run import Run
from gradviz.record.sample import even_choice
from gradviz.words import gettext as _

DIFFERENCE = 6.0  # decades to either side in a picture of differences
_STRETCHED = {"scaleanchor": False, "constrain": "range"}  # else plotly gives an image square pixels


def quantity_name(quantity: str) -> str:
    return _(described(quantity).label)


def loss_figure(runs: Mapping[str, Run[Recipe]], chance: float | None = None) -> go.Figure:
    """Training loss over steps. Logarithmic when one of them passes ten times chance, for 10^12 must not flatten the rest.

    `chance`: loss of a guess, drawn as a line; where it is not known, the largest loss at step 0 stands for it.
    """
    own = not any(run.watched for run in runs.values())
    figure = Draft(_("step"), _("training loss (nats)") if own else _("training loss"))
    worst, first, longest = 0.0, 0.0, 1
    for (name, run), style in zip(runs.items(), line_styles(), strict=False):
        history = run.history.snapshot()
        steps, loss = _thinned(history.loss, told=run.watched)
        if run.watched:  # nan is what was not told
            steps, loss = steps[~np.isnan(loss)], loss[~np.isnan(loss)]
        finite = np.isfinite(loss)
        worst = max(worst, float(np.max(loss[finite], initial=0)))
        first = max(first, float(np.max(loss[:1][finite[:1]], initial=0)))
        longest = max(longest, history.steps)
        line(figure, steps, np.where(finite, loss, np.nan), name, style)
        figure.turned(run.recipe, style["color"], last=history.steps)
        if len(loss) and not finite.all():
            figure.scatter(
                x=steps[~finite], y=np.full((~finite).sum(), loss[finite][-1] if finite.any() else chance or 1.0), mode="markers",
                marker={"symbol": "x", "color": BROKEN_COLOUR, "size": 10}, showlegend=False,
                hovertemplate=_("loss not finite at step %{x}") + f"<extra>{name}</extra>",
            )  # fmt: skip
    if chance is not None:
        level(figure, chance, longest, _("chance"))
    if worst > 10 * (first if chance is None else chance):
        figure.layout["yaxis"].update(type="log", exponentformat="power", dtick=max(1, math.ceil(math.log10(worst) / 6)))
    else:
        figure.layout["yaxis"].update(rangemode="tozero")
    return figure.done()


def accuracy_figure(runs: Mapping[str, Run[Recipe]], chance: float | None = None) -> go.Figure:
    """Accuracy on the test subset, in per cent; of a run that was watched what it told. `chance`: the share that a guess gets
    right, drawn as a line."""
    own = not any(run.watched for run in runs.values())
    figure = Draft(_("step"), _("test accuracy (%)") if own else _("accuracy (%)"))
    longest = 1
    for (name, run), style in zip(runs.items(), line_styles(), strict=False):
        history = run.history.snapshot()
        if run.watched:
            steps, shares = _thinned(history.accuracy, told=True)
            line(figure, steps[~np.isnan(shares)], 100 * shares[~np.isnan(shares)], name, style)
            continue
        figure.turned(run.recipe, style["color"], last=history.steps)
        tests = np.array(history.tests, float).reshape(-1, 2)
        longest = max(longest, int(np.max(tests[:, 0], initial=0)))
        line(figure, tests[:, 0], 100 * tests[:, 1], name, style, mode="lines+markers")
    if chance is not None:
        level(figure, 100 * chance, longest, _("chance"))
    figure.layout["yaxis"].update(range=[0, 101])
    return figure.done()


def profile_figure(
    profiles: Mapping[str, np.ndarray], quantity: str, theory: Mapping[str, np.ndarray] | None = None,
    names: Mapping[str, Sequence[str]] | None = None,
) -> go.Figure:
    """One line per run over depth, first layer at the left. `profiles`: name -> (layers,); `theory`: the same in log10.

    `names`: of each run's layers; then the depth is relative, so that nets of any kind stand beside each other.
    """
    scale = described(quantity)
    figure = Draft(_("layer, from input to output") if names is None else _("depth, input to output (%)"), scale.axis)
    known = np.concatenate([np.empty(0), *(scale.places(values) for values in profiles.values())])
    lowest = float(np.min(known[np.isfinite(known)], initial=0.0))
    few = sum(map(len, profiles.values())) < 300  # a marker costs the browser as much as a line
    for place, ((name, values), style) in enumerate(zip(profiles.items(), line_styles(), strict=False)):
        values = np.asarray(values, float)
        at = np.arange(1, len(values) + 1) if names is None else np.linspace(0, 100, len(values))
        places = scale.places(values)
        drawn = np.where(np.isfinite(places), places, np.nan)
        alone = not np.isfinite(drawn).all()  # a number between two gaps is no line
        line(figure, at, drawn, name, style, mode="lines+markers" if few or alone else "lines")
        if names is not None:
            figure.traces[-1] |= {"text": list(names[name]), "hovertemplate": "%{text}: %{y:.4g}<extra>" + name + "</extra>"}
        for mask, height, symbol, words in (
            ((values == 0) & (not scale.linear), ZERO_AT - 0.6 * place, "triangle-down-open", _("exactly 0")),
            (~np.isfinite(values), INFINITE_AT + 0.6 * place, "x", _("not finite")),
            (values < 0, scale.ranges[0][0] if scale.linear else lowest - 1.0 - 0.3 * place, "asterisk-open", _("not measured")),
        ):
            if mask.any():
                figure.scatter(
                    x=at[mask], y=np.full(mask.sum(), height), mode="markers", showlegend=False,
                    marker={"symbol": symbol, "color": style["color"], "size": 8},
                    hovertemplate=f"{words} · %{{x}}<extra>{name}</extra>",
                )  # fmt: skip
        if theory and name in theory:
            figure.scatter(
                x=at, y=theory[name], mode="lines", name=_("theory"), legendgroup="theory", showlegend=not place,
                line={"color": style["color"], "width": 1.5, "dash": "dot"}, hoverinfo="skip",
            )  # fmt: skip
    if scale.linear:
        low, high = scale.ranges[0]
        figure.layout["yaxis"].update(range=[low - 0.02 * (high - low), high + 0.02 * (high - low)])
    return figure.done()


def wake_figure(runs: Mapping[str, Run[Recipe]], quantity: str = "weight_grad_rms") -> go.Figure:
    """The first block convolution over steps: does it recover?"""
    figure = Draft(_("step"), _("{quantity} of the first block, log10").format(quantity=quantity_name(quantity)))
    for (name, run), style in zip(runs.items(), line_styles(), strict=False):
        history = run.history.snapshot()
        values = history.quantity(quantity)[:, run.recipe.layout.front].astype(float)
        places = QUANTITIES[quantity].places(values)
        places = np.where(np.isneginf(places), ZERO_AT, np.where(np.isfinite(places), places, np.nan))
        line(figure, np.arange(len(values)) * history.stride, places, name, style)
        figure.turned(run.recipe, style["color"], last=history.steps)
    return figure.done()


def ratio_to_start_figure(run: Run[Recipe], quantity: str) -> go.Figure:
    """The last column over step 0, per layer."""
    history = run.history.snapshot()
    values = history.quantity(quantity).astype(float)
    with np.errstate(all="ignore"):
        ratio = values[-1] / values[0]
    figure = Draft(
        _("layer, from input to output"), _("{quantity}, at the end over the start").format(quantity=quantity_name(quantity))
    )
    style = {"color": COLOURS[0], "dash": "solid"}
    line(figure, np.arange(1, len(ratio) + 1), ratio, run.recipe.title, style, "lines+markers")
    level(figure, 1.0, len(ratio), _("unchanged"))
    figure.layout["yaxis"].update(rangemode="tozero")
    return figure.done()


# Heatmaps


def heatmaps_figure(runs: Mapping[str, Run[Recipe]], quantity: str, limits: tuple[float, float]) -> go.Figure:
    """Layers × steps of every run, one colour range and one step axis for all. `limits`: places of the quantity's scale."""
    columns = 1 if len(runs) == 1 else 2
    rows = math.ceil(len(runs) / columns)
    longest = max(map(_frame, runs.values()), default=1)
    wide, high = (1 - 0.09 * (columns - 1)) / columns, (1 - (rows - 1) * (gap := min(0.12, 0.3 / max(1, rows)))) / max(1, rows)
    figure = Draft("", "")
    figure.layout |= {
        "height": 90 + 210 * rows, "margin": {"l": 60, "r": 10, "t": 40, "b": 50}, "annotations": [], "showlegend": False,
        "meta": {"titles": wide},  # the share of the width that each has; where it is drawn, it is made to fit
    }  # fmt: skip
    for place, (name, run) in enumerate(runs.items()):
        stride, values = _columns(run, quantity, MOST_POINTS if rows < 3 else MOST_POINTS // 3)
        axis = str(place + 1) if place else ""
        left, top = (wide + 0.09) * (place % columns), 1 - (high + gap) * (place // columns)
        figure.raster(
            raster.encode(values, quantity, *limits).T, PALETTE, dx=stride, dy=len(run.recipe.layout) / max(1, values.shape[1]),
            customdata=(said := _said(values)).T, xaxis=f"x{axis}", yaxis=f"y{axis}",
            hovertemplate=_("step %{x:.0f}, layer %{y:.0f}") + (": %{customdata:.3g}" if said is values else ": %{customdata}")
            + "<extra></extra>",
        )  # fmt: skip
        lowest = place + columns >= len(runs)
        figure.layout[f"xaxis{axis}"] = {
            "anchor": f"y{axis}", "domain": [left, left + wide], "range": [-0.5, longest - 0.5], "showticklabels": lowest,
            "title": {"text": _("step") if lowest else ""}, "showgrid": False, "constrain": "range",
            **({"matches": "x"} if place else {}),
        }  # fmt: skip
        figure.layout[f"yaxis{axis}"] = {
            "anchor": f"x{axis}", "domain": [max(0.0, top - high), top],  # rounding may lead below 0
            "range": [0.5, len(run.recipe.layout) + 0.5], "showgrid": False,  # the input at the bottom, as in the Lab
            "title": {"text": "" if place % columns else _("layer")}, **_STRETCHED,
        }  # fmt: skip
        figure.turned(run.recipe, "#ffffff", axis, run.history.steps, narrow=len(runs) > 1)
        figure.layout["annotations"].append({
            "text": name, "x": left + wide / 2, "y": top, "xref": "paper", "yref": "paper", "xanchor": "center",
            "yanchor": "bottom", "showarrow": False, "font": {"size": 13},
        })  # fmt: skip
    low, high = limits
    ticks = np.linspace(low, high, 5 if (high - low) % 4 == 0 else 4)
    words = [described(quantity).tick(tick) for tick in ticks]
    figure.colour_bar(quantity_name(quantity), limits, VIRIDIS, 1.0 if rows < 3 else 0.5, tickvals=ticks, ticktext=words)
    return figure.done()


def difference_figure(first: Run[Recipe], second: Run[Recipe], quantity: str) -> go.Figure:
    """log10 of the first over the second, where both have a layer of that name and a step. White is no difference."""
    scale = described(quantity)
    one, two = first.history.snapshot(), second.history.snapshot()
    names = [name for name in first.recipe.layout.names if name in set(second.recipe.layout.names)]
    common = min(one.steps, two.steps)
    stride = max(1, math.ceil(common / (MOST_POINTS // 2)))
    steps = np.arange(0, common, stride)
    parts = [
        run.history.quantity(quantity)[np.minimum(steps // history.stride, max(0, len(history.columns) - 1))][
            :, [run.recipe.layout.names.index(name) for name in names]
        ].astype(float)
        for run, history in ((first, one), (second, two))
    ]
    with np.errstate(all="ignore"):
        difference = scale.places(parts[0]) - scale.places(parts[1])
        difference[(parts[0] == 0) & (parts[1] == 0)] = 0
        span = float(np.ptp(scale.ranges[0])) if scale.linear else DIFFERENCE
        codes = np.nan_to_num(np.clip(np.round(127 + 127 * difference / span), 0, 254), nan=255).astype(np.uint8)
    figure = Draft(_("step"), _("layer"))
    figure.raster(
        codes.T, DIFFERENCES, dx=stride, dy=1, customdata=np.clip(difference, -1e3, 1e3).astype(np.float32).T,
        hovertemplate="%{y:.0f}, %{x:.0f}: %{customdata:.2f}<extra></extra>",
    )  # fmt: skip
    for run, colour in ((first, COLOURS[0]), (second, COLOURS[1])):
        figure.turned(run.recipe, colour, last=common)
    figure.colour_bar(_(scale.unit) if scale.linear else _("decades"), (-span, span), BLUE_TO_RED)
    labels = [f"{place + 1} · {name}" for place, name in enumerate(names)]
    shown = even_choice(len(names), 12)
    figure.layout["xaxis"] |= {"showgrid": False, "constrain": "range", "range": [-0.5, min(_frame(first), _frame(second)) - 0.5]}
    figure.layout["yaxis"] |= {
        "range": [0.5, len(names) + 0.5], "tickvals": [int(i) + 1 for i in shown], "ticktext": [labels[i] for i in shown],
        "showgrid": False, **_STRETCHED, "automargin": True, "title": {"text": _("layer"), "standoff": 8},
    }  # fmt: skip
    figure.layout["margin"]["l"], figure.layout["height"], figure.layout["showlegend"] = 130, 380, False
    return figure.done()


def _frame(run: Run[Recipe]) -> int:
    """Steps that the axis shows: of a live run a doubling number, so that it rarely moves under the reader's zoom."""
    steps = max(1, run.history.steps)
    if not run.status.live:
        return steps
    frame = max(32, 1 << math.ceil(math.log2(steps)))
    return frame if run.recipe.steps is None else min(run.recipe.steps, frame)


def _columns(run: Run[Recipe], quantity: str, most: int) -> tuple[int, np.ndarray]:
    """(steps of a column, float32 (columns, rows)), pooled by maximum to what a screen shows; nan beats inf beats any number.
    A step that was not measured has the numbers of the last one before it that was."""
    history = run.history.snapshot()
    values = history.quantity(quantity)
    stride = max(1, math.ceil(len(values) / most))
    if len(values):
        values = raster.pool(np.maximum.reduceat(values, np.arange(0, len(values), stride), axis=0))
    return stride * history.stride, raster.held(values) if run.watched else values


def _said(values: np.ndarray) -> np.ndarray:
    """What a hover shows; words where something was not measured."""
    if not (values < 0).any():
        return values
    return np.array([[_("not measured") if value < 0 else f"{value:.3g}" for value in column] for column in values])


def _thinned(values: np.ndarray, told: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """(steps, means over equal stretches), at most MOST_POINTS; a value that is not finite makes its stretch so; with `told`
    nan is one that was not told."""
    stride = max(1, math.ceil(len(values) / MOST_POINTS))
    return np.arange(0, len(values), stride), raster.means(values, stride, told)


def parted(figure: go.Figure, step: int, words: str) -> None:
    """A mark on the axis of steps where a run leaves another, whose training it was until there."""
    figure.add_vline(step, line={"color": INK, "width": 1.5, "dash": "dash"}, annotation={
        "text": words, "textangle": -90, "xanchor": "right", "yanchor": "top", "y": 1, "font": {"size": 11, "color": INK}})
