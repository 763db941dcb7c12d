"""Many runs, one question: the border of trainability, the gradient that is left at the input, and grids of two settings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from gradviz.charts.draft import AMBER, BLUE, ORANGE, SKY, ZERO_AT, Draft, level, line_styles
from gradviz.lenet.config import RunConfig
from gradviz.lenet.outcome import DIVERGED, STARTED, STUCK, TRAINED, UNFINISHED, Result
from gradviz.lenet.sweep import Sweep
from gradviz.lenet.theory.predict import predict
from gradviz.words import gettext as _
from gradviz.words import scientific

_OUTCOME_STYLE = {  # colour, symbol
    TRAINED: (BLUE, "circle"),
    STARTED: (SKY, "diamond"),
    STUCK: (AMBER, "x"),
    DIVERGED: (ORANGE, "triangle-up"),
}


def border_figure(sweep: Sweep, results: Mapping[RunConfig, Result], claims: Mapping[str, float] | None = None) -> go.Figure:
    """What trained along the first axis: a row per remedy, a region per outcome of most seeds, a point per run.

    `claims`: remedy -> the largest number of blocks that the article says still trains; drawn as a line.
    """
    axis = sweep.axes[0]
    remedies = sweep.remedies()
    figure = Draft(_axis_title(axis), "")
    values = sorted({_axis_value(config, axis) for config in sweep.configs})
    logarithmic = _is_logarithmic(axis, values)
    for row, remedy in enumerate(remedies):
        points: dict[float, list[tuple[RunConfig, str, Result | None]]] = {value: [] for value in values}
        for config in sweep.configs:
            if sweep.remedy(config) == remedy:
                found = results.get(config)
                points[_axis_value(config, axis)].append((config, found.outcome if found else UNFINISHED, found))
        here = [value for value in values if any(word in _OUTCOME_STYLE for _config, word, _found in points[value])]
        for value in here:
            words = [word for _config, word, _found in points[value] if word in _OUTCOME_STYLE]
            most = max(dict.fromkeys(words), key=lambda word: (words.count(word), word != TRAINED))
            left, right = _region(here, value, logarithmic)
            figure.scatter(
                x=[left, right], y=[row, row], mode="lines", line={"width": 30, "color": _OUTCOME_STYLE[most][0]}, opacity=0.3,
                hoverinfo="skip", showlegend=False,
            )  # fmt: skip
        for value in values:
            for place, (config, word, found) in enumerate(points[value]):
                if found and word in _OUTCOME_STYLE:
                    colour, symbol = _OUTCOME_STYLE[word]
                    y = row + (place - (len(points[value]) - 1) / 2) * 0.18
                    figure.scatter(
                        x=[value], y=[y], mode="markers", showlegend=False,
                        marker={"color": colour, "symbol": symbol, "size": 9, "line": {"width": 1, "color": "rgba(60,60,60,.6)"}},
                        hovertemplate=_("{title}, seed {seed}: {outcome}, loss {loss:.3g} after {steps} steps").format(
                            title=config.title, seed=config.seed, outcome=_(word), loss=found.loss, steps=found.steps
                        )
                        + "<extra></extra>",
                    )  # fmt: skip
        claim = (claims or {}).get(remedies[remedy])
        if claim:
            figure.scatter(
                x=[claim, claim], y=[row - 0.42, row + 0.42], mode="lines", line={"color": "#777777", "width": 2, "dash": "dash"},
                showlegend=False, hovertemplate=_("the article: up to here") + "<extra></extra>",
            )  # fmt: skip
    for word, (colour, symbol) in _OUTCOME_STYLE.items():
        marker = {"color": colour, "symbol": symbol, "size": 10}
        figure.scatter(x=[None], y=[None], mode="markers", name=_(word), marker=marker)
    if claims:
        line = {"color": "#777777", "width": 2, "dash": "dash"}
        figure.scatter(x=[None], y=[None], mode="lines", name=_("the article's border"), line=line)
    names = list(remedies.values())
    figure.layout["yaxis"].update(
        tickvals=list(range(len(names))), ticktext=[name.replace(" + ", "<br>+ ") for name in names],
        range=[len(names) - 0.4, -0.6],
    )  # fmt: skip
    drawn = {value for name, value in (claims or {}).items() if name in names}
    _axis_scale(figure, sorted({*values, *drawn}), logarithmic)
    figure.layout["margin"]["l"], figure.layout["height"] = 110, 130 + 70 * len(names)
    return figure.done()


def ratio_figure(
    sweep: Sweep, results: Mapping[RunConfig, Result], theory: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None
) -> go.Figure:
    """First over last block's weight gradient at step 0, log10, along the first axis: measured points, theory's line.

    `theory`: remedy -> (places, log10 ratio).
    """
    axis = sweep.axes[0]
    figure = Draft(_axis_title(axis), _("weight gradient, first / last block, log10"))
    for (remedy, name), style in zip(sweep.remedies().items(), line_styles(), strict=False):
        found = [(config, results[config]) for config in sweep.configs if config in results and sweep.remedy(config) == remedy]
        found = [(config, result) for config, result in found if not math.isnan(result.ratio)]
        if theory and name in theory:
            figure.scatter(
                x=theory[name][0], y=theory[name][1], mode="lines", name=_("{name}, theory").format(name=name),
                line={"color": style["color"], "width": 1.5, "dash": "dot"}, legendgroup=name,
            )  # fmt: skip
        zero = [result.ratio == 0 for _config, result in found]
        figure.scatter(
            x=[_axis_value(config, axis) for config, _result in found],
            y=[math.log10(result.ratio) if 0 < result.ratio < math.inf else ZERO_AT for _config, result in found],
            mode="markers", name=name, legendgroup=name,
            marker={"color": style["color"], "size": 8, "symbol": ["triangle-down-open" if z else "circle" for z in zero]},
            text=[_("exactly 0 in the first block") if z else scientific(math.log10(r.ratio)) if 0 < r.ratio < math.inf else "—"
                  for z, (_config, r) in zip(zero, found, strict=True)],
            hovertemplate="%{x}: %{text}<extra>" + name + "</extra>",
        )  # fmt: skip
    values = sorted({_axis_value(config, axis) for config in sweep.configs})
    level(figure, 0, values[-1] if values else 1, _("level"), first=values[0] if values else 0)
    _axis_scale(figure, values, _is_logarithmic(axis, values))
    figure.layout["height"] = 420
    return figure.done()


def theory_ratios(sweep: Sweep) -> dict[str, tuple[list[float], list[float]]]:
    """Remedy -> (places on the first axis, log10 of first over last block at step 0) for `ratio_figure`, without seeds."""
    axis, lines = sweep.axes[0], {}
    for remedy, name in sweep.remedies().items():
        configs = {_axis_value(config, axis): config for config in sweep.configs if sweep.remedy(config) == remedy}
        places = sorted(configs)
        ends = [configs[place].layout.ends for place in places]
        profiles = [predict(configs[place]).weight_grad_rms for place in places]
        lines[name] = places, [float(p[first] - p[last]) for p, (first, last) in zip(profiles, ends, strict=True)]
    return lines


def grid_figure(sweep: Sweep, results: Mapping[RunConfig, Result]) -> go.Figure:
    """Two axes: a small map per remedy, each cell the share of its seeds that trained, its word what most of the others did."""
    across, up = sweep.axes
    remedies = sweep.remedies()
    columns = min(len(remedies), 2)
    rows = math.ceil(len(remedies) / columns)
    figure = make_subplots(rows, columns, subplot_titles=list(remedies.values()), vertical_spacing=0.25 / rows)
    xs, ys = (sorted({_axis_value(config, axis) for config in sweep.configs}) for axis in (across, up))
    for place, remedy in enumerate(remedies):
        share = np.full((len(ys), len(xs)), np.nan)
        text = np.full((len(ys), len(xs)), "", object)
        for i, y in enumerate(ys):
            for j, x in enumerate(xs):
                words = [
                    results[config].outcome for config in sweep.configs
                    if config in results and sweep.remedy(config) == remedy
                    and _axis_value(config, across) == x and _axis_value(config, up) == y
                ]  # fmt: skip
                if words:
                    share[i, j] = words.count(TRAINED) / len(words)
                    most = max(dict.fromkeys(words), key=words.count)
                    text[i, j] = f"{_(most)}<br>{words.count(TRAINED)}/{len(words)}"
        figure.add_trace(
            go.Heatmap(
                x=[f"{x:g}" for x in xs], y=[f"{y:g}" for y in ys], z=share, text=text, texttemplate="%{text}", zmin=0, zmax=1,
                colorscale="Cividis", showscale=not place, xgap=2, ygap=2, hoverongaps=False,
                colorbar={"title": {"text": _("share of seeds trained"), "side": "right"}, "thickness": 14},
            ),
            place // columns + 1, place % columns + 1,
        )  # fmt: skip
    figure.update_xaxes(title_text=_axis_title(across), type="category")
    figure.update_yaxes(title_text=_axis_title(up), type="category", col=1)
    figure.update_yaxes(type="category")
    figure.update_layout(height=120 + 260 * rows, margin={"l": 70, "r": 10, "t": 40, "b": 50})
    return figure


def _axis_title(axis: str) -> str:
    return {"blocks": _("blocks"), "init_range": _("init range a"), "lr": _("learning rate"),
            "warmup": _("warm-up")}[axis]  # fmt: skip


def _is_logarithmic(axis: str, values: Sequence[float]) -> bool:
    return axis not in ("blocks", "warmup") or (min(values) > 0 and max(values) / min(values) > 20)


def _axis_value(config: RunConfig, axis: str) -> float:
    value = getattr(config, axis)
    return 0.05 if value is None else value  # PyTorch's own init is ±0.05 in the blocks


def _axis_scale(figure: Draft, values: Sequence[float], logarithmic: bool) -> None:
    if values and (logarithmic or len(values) <= 20):
        figure.layout["xaxis"].update(tickvals=list(values), ticktext=[f"{value:g}" for value in values])
    if logarithmic:
        figure.layout["xaxis"].update(type="log")


def _region(values: Sequence[float], value: float, logarithmic: bool) -> tuple[float, float]:
    """From half-way to the neighbour before, to half-way to the one after."""
    place = values.index(value)

    def halfway(a: float, b: float) -> float:
        return math.sqrt(a * b) if logarithmic else (a + b) / 2

    outside = value * 0.1 if logarithmic else 0.4
    left = halfway(values[place - 1], value) if place else value - outside
    right = halfway(value, values[place + 1]) if place + 1 < len(values) else value + outside
    return left, right
