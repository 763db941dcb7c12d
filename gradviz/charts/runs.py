"""Records in, plotly figures out: the finished pictures of comparisons, sweeps, lessons and reports.

A chart never trains. All scales are fixed by the caller or by the quantity, never fitted so as to flatter; zero, inf
and nan have marks of their own; colours follow Okabe and Ito, and no meaning hangs on a colour alone.
"""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
from PIL import Image
from plotly.subplots import make_subplots

from gradviz.config import RunConfig
from gradviz.diagnosis import CHANCE
from gradviz.lenet.theory.predict import predict
from gradviz.lessons import ARTICLE_BORDERS, Lesson, net_name
from gradviz.record import raster
from gradviz.record.quantities import QUANTITIES
from gradviz.runs import History, Run
from gradviz.sweep import DIVERGED, STARTED, STUCK, TRAINED, UNFINISHED, Result, Sweep, result
from gradviz.words import gettext as _
from gradviz.words import scientific

COLOURS = ("#2b83c6", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7f7f7f")
DASHES = ("solid", "dash", "dashdot", "longdash") * 2  # dotted lines are theory
VIRIDIS = ("#440154", "#482878", "#3e4a89", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6dcd59", "#b4de2c", "#fde725")
BLUE_TO_RED = ("#053061", "#2166ac", "#4393c3", "#92c5de", "#d1e5f0", "#f7f7f7", "#fddbc7", "#f4a582", "#d6604d", "#b2182b",
               "#67001f")  # fmt: skip
NOTHING_COLOUR = "#9a9a9a"  # of a difference that is no number
ZERO_COLOUR, DENORMAL_COLOUR, BELOW_COLOUR, ABOVE_COLOUR, BROKEN_COLOUR = "#ffffff", "#f7a8cf", "#a34a7d", "#ff8c1a", "#e3001b"
MOST_POINTS = 400  # of a line, and columns of a heatmap: more than a screen tells apart
SMALLEST = -45.0  # log10 of float32's smallest number: where an exact zero is drawn
LARGEST = 38.5  # log10 of its largest: where inf is drawn
DIFFERENCE = 6.0  # decades to either side in a picture of differences

_OUTCOME_STYLE = {  # colour, symbol
    TRAINED: ("#2b83c6", "circle"),
    STARTED: ("#56b4e9", "diamond"),
    STUCK: ("#e69f00", "x"),
    DIVERGED: ("#d55e00", "triangle-up"),
}


def quantity_name(quantity: str) -> str:
    return _(QUANTITIES[quantity].label)


# Runs on common axes


def loss_figure(runs: Mapping[str, Run]) -> go.Figure:
    """Training loss over steps. Logarithmic when one of them passes ten times chance, for 10^12 must not flatten the rest."""
    figure = _Draft(_("step"), _("training loss (nats)"))
    worst, longest = 0.0, 1
    for (name, run), style in zip(runs.items(), _line_styles(), strict=False):
        history = run.history.snapshot()
        steps, loss = _thinned(history.loss)
        finite = np.isfinite(loss)
        worst = max(worst, float(np.max(loss[finite], initial=0)))
        longest = max(longest, history.steps)
        _line(figure, steps, np.where(finite, loss, np.nan), name, style)
        if len(loss) and not finite.all():
            figure.scatter(
                x=steps[~finite], y=np.full((~finite).sum(), loss[finite][-1] if finite.any() else CHANCE), mode="markers",
                marker={"symbol": "x", "color": BROKEN_COLOUR, "size": 10}, showlegend=False,
                hovertemplate=_("loss not finite at step %{x}") + f"<extra>{name}</extra>",
            )  # fmt: skip
    _level(figure, CHANCE, longest, _("chance"))
    if worst > 10 * CHANCE:
        figure.layout["yaxis"].update(type="log", exponentformat="power", dtick=max(1, math.ceil(math.log10(worst) / 6)))
    else:
        figure.layout["yaxis"].update(rangemode="tozero")
    return figure.done()


def accuracy_figure(runs: Mapping[str, Run]) -> go.Figure:
    """Accuracy on the test subset, in per cent."""
    figure = _Draft(_("step"), _("test accuracy (%)"))
    longest = 1
    for (name, run), style in zip(runs.items(), _line_styles(), strict=False):
        tests = np.array(run.history.snapshot().tests, float).reshape(-1, 2)
        longest = max(longest, int(np.max(tests[:, 0], initial=0)))
        _line(figure, tests[:, 0], 100 * tests[:, 1], name, style, mode="lines+markers")
    _level(figure, 10, longest, _("chance"))
    figure.layout["yaxis"].update(range=[0, 101])
    return figure.done()


def profile_figure(
    profiles: Mapping[str, np.ndarray], quantity: str, theory: Mapping[str, np.ndarray] | None = None
) -> go.Figure:
    """One line per run over depth, first layer at the left. `profiles`: name -> (layers,); `theory`: the same in log10."""
    scale = QUANTITIES[quantity]
    figure = _Draft(_("layer, from input to output"), scale.axis)
    few = sum(map(len, profiles.values())) < 300  # a marker costs the browser as much as a line
    for place, ((name, values), style) in enumerate(zip(profiles.items(), _line_styles(), strict=False)):
        values = np.asarray(values, float)
        at = np.arange(1, len(values) + 1)
        places = scale.places(values)
        drawn = np.where(np.isfinite(places), places, np.nan)
        alone = not np.isfinite(drawn).all()  # a number between two gaps is no line
        _line(figure, at, drawn, name, style, mode="lines+markers" if few or alone else "lines")
        for mask, height, symbol, words in (
            ((values == 0) & (not scale.linear), SMALLEST - 0.6 * place, "triangle-down-open", _("exactly 0")),
            (~np.isfinite(values), LARGEST + 0.6 * place, "x", _("not finite")),
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


def wake_figure(runs: Mapping[str, Run], quantity: str = "weight_grad_rms") -> go.Figure:
    """The first block convolution over steps: does it recover?"""
    figure = _Draft(_("step"), _("{quantity} of the first block, log10").format(quantity=quantity_name(quantity)))
    for (name, run), style in zip(runs.items(), _line_styles(), strict=False):
        history = run.history.snapshot()
        values = history.quantity(quantity)[:, 2 if run.config.blocks else 0].astype(float)
        places = QUANTITIES[quantity].places(values)
        places = np.where(np.isneginf(places), SMALLEST, np.where(np.isfinite(places), places, np.nan))
        _line(figure, np.arange(len(values)) * history.stride, places, name, style)
    return figure.done()


def ratio_to_start_figure(run: Run, quantity: str) -> go.Figure:
    """The last column over step 0, per layer."""
    history = run.history.snapshot()
    values = history.quantity(quantity).astype(float)
    with np.errstate(all="ignore"):
        ratio = values[-1] / values[0]
    figure = _Draft(
        _("layer, from input to output"), _("{quantity}, at the end over the start").format(quantity=quantity_name(quantity))
    )
    style = {"color": COLOURS[0], "dash": "solid"}
    _line(figure, np.arange(1, len(ratio) + 1), ratio, run.config.summary, style, "lines+markers")
    _level(figure, 1.0, len(ratio), _("unchanged"))
    figure.layout["yaxis"].update(rangemode="tozero")
    return figure.done()


# Heatmaps


def heatmaps_figure(runs: Mapping[str, Run], quantity: str, limits: tuple[float, float]) -> go.Figure:
    """Layers × steps of every run, one colour range and one step axis for all. `limits`: places of the quantity's scale."""
    columns = 1 if len(runs) == 1 else 2
    rows = math.ceil(len(runs) / columns)
    longest = max(map(_frame, runs.values()), default=1)
    wide, high = (1 - 0.09 * (columns - 1)) / columns, (1 - (rows - 1) * (gap := min(0.12, 0.3 / max(1, rows)))) / max(1, rows)
    figure = _Draft("", "")
    figure.layout |= {
        "height": 90 + 210 * rows, "margin": {"l": 60, "r": 10, "t": 40, "b": 50}, "annotations": [], "showlegend": False,
    }  # fmt: skip
    for place, (name, run) in enumerate(runs.items()):
        stride, values = _columns(run.history.snapshot(), quantity, MOST_POINTS if rows < 3 else MOST_POINTS // 3)
        axis = str(place + 1) if place else ""
        left, top = (wide + 0.09) * (place % columns), 1 - (high + gap) * (place // columns)
        figure.raster(
            raster.encode(values, quantity, *limits).T, _PALETTE, dx=stride, dy=run.config.layers / max(1, values.shape[1]),
            customdata=values.T, xaxis=f"x{axis}", yaxis=f"y{axis}",
            hovertemplate=_("step %{x:.0f}, layer %{y:.0f}") + ": %{customdata:.3g}<extra></extra>",
        )  # fmt: skip
        lowest = place + columns >= len(runs)
        figure.layout[f"xaxis{axis}"] = {
            "anchor": f"y{axis}", "domain": [left, left + wide], "range": [-0.5, longest - 0.5], "showticklabels": lowest,
            "title": {"text": _("step") if lowest else ""}, "showgrid": False, "constrain": "range",
            **({"matches": "x"} if place else {}),
        }  # fmt: skip
        figure.layout[f"yaxis{axis}"] = {
            "anchor": f"x{axis}", "domain": [top - high, top], "range": [run.config.layers + 0.5, 0.5], "showgrid": False,
            "title": {"text": "" if place % columns else _("layer")}, **_STRETCHED,
        }  # fmt: skip
        figure.layout["annotations"].append({
            "text": name, "x": left + wide / 2, "y": top, "xref": "paper", "yref": "paper", "xanchor": "center",
            "yanchor": "bottom", "showarrow": False, "font": {"size": 13},
        })  # fmt: skip
    low, high = limits
    ticks = np.linspace(low, high, 5 if (high - low) % 4 == 0 else 4)
    words = [QUANTITIES[quantity].tick(tick) for tick in ticks]
    figure.colour_bar(quantity_name(quantity), limits, VIRIDIS, 1.0 if rows < 3 else 0.5, tickvals=ticks, ticktext=words)
    return figure.done()


def difference_figure(first: Run, second: Run, quantity: str) -> go.Figure:
    """log10 of the first over the second, where both have a layer of that name and a step. White is no difference."""
    scale = QUANTITIES[quantity]
    one, two = first.history.snapshot(), second.history.snapshot()
    names = [name for name in first.config.layer_names if name in set(second.config.layer_names)]
    common = min(one.steps, two.steps)
    stride = max(1, math.ceil(common / (MOST_POINTS // 2)))
    steps = np.arange(0, common, stride)
    parts = [
        run.history.quantity(quantity)[np.minimum(steps // history.stride, max(0, len(history.columns) - 1))][
            :, [run.config.layer_names.index(name) for name in names]
        ].astype(float)
        for run, history in ((first, one), (second, two))
    ]
    with np.errstate(all="ignore"):
        difference = scale.places(parts[0]) - scale.places(parts[1])
        difference[(parts[0] == 0) & (parts[1] == 0)] = 0
        span = float(np.ptp(scale.ranges[0])) if scale.linear else DIFFERENCE
        codes = np.nan_to_num(np.clip(np.round(127 + 127 * difference / span), 0, 254), nan=255).astype(np.uint8)
    figure = _Draft(_("step"), _("layer"))
    figure.raster(
        codes.T, _DIFFERENCES, dx=stride, dy=1, customdata=np.clip(difference, -1e3, 1e3).astype(np.float32).T,
        hovertemplate="%{y:.0f}, %{x:.0f}: %{customdata:.2f}<extra></extra>",
    )  # fmt: skip
    figure.colour_bar(_(scale.unit) if scale.linear else _("decades"), (-span, span), BLUE_TO_RED)
    labels = [f"{place + 1} · {name}" for place, name in enumerate(names)]
    shown = np.unique(np.linspace(0, len(names) - 1, min(len(names), 12)).astype(int)) if names else []
    figure.layout["xaxis"] |= {"showgrid": False, "constrain": "range", "range": [-0.5, min(_frame(first), _frame(second)) - 0.5]}
    figure.layout["yaxis"] |= {
        "range": [len(names) + 0.5, 0.5], "tickvals": [int(i) + 1 for i in shown], "ticktext": [labels[i] for i in shown],
        "showgrid": False, **_STRETCHED,
    }  # fmt: skip
    figure.layout["margin"]["l"], figure.layout["height"], figure.layout["showlegend"] = 130, 380, False
    return figure.done()


def _frame(run: Run) -> int:
    """Steps that the axis shows: of a live run a doubling number, so that it rarely moves under the reader's zoom."""
    steps = max(1, run.history.steps)
    return min(run.config.steps, max(32, 2 ** math.ceil(math.log2(steps)))) if run.status.live else steps


def _columns(history: History, quantity: str, most: int) -> tuple[int, np.ndarray]:
    """(steps of a column, float32 (columns, rows)), pooled by maximum to what a screen shows; nan beats inf beats any number."""
    values = history.quantity(quantity)
    stride = max(1, math.ceil(len(values) / most))
    if len(values):
        values = raster.pool(np.maximum.reduceat(values, np.arange(0, len(values), stride), axis=0))
    return stride * history.stride, values


def _between(colours: Sequence[str], levels: int) -> list[tuple[int, ...]]:
    """`levels` colours (r, g, b) from the first of `colours` to the last, each in the middle of its share."""
    stops = np.array([[int(colour[k : k + 2], 16) for k in (1, 3, 5)] for colour in colours], float)
    places = (np.arange(levels) + 0.5) / levels * (len(stops) - 1)
    return [tuple(np.interp(place, range(len(stops)), channel).round().astype(int) for channel in stops.T) for place in places]


def _marks(*colours: str) -> list[tuple[int, ...]]:
    return [_between([colour, colour], 1)[0] for colour in colours]


_PALETTE = [  # one for each code of `raster`
    *_marks(ZERO_COLOUR, BELOW_COLOUR), *_between(VIRIDIS, raster.LEVELS),
    *_marks(ABOVE_COLOUR, DENORMAL_COLOUR, BROKEN_COLOUR, BROKEN_COLOUR),
]  # fmt: skip
_DIFFERENCES = [*_between(BLUE_TO_RED, 255), *_marks(NOTHING_COLOUR)]
_STRETCHED = {"scaleanchor": False, "constrain": "range"}  # else plotly gives an image square pixels


# Sweeps


def border_figure(sweep: Sweep, results: Mapping[RunConfig, Result], claims: Mapping[str, float] | None = None) -> go.Figure:
    """What trained along the first axis: a row per remedy, a region per outcome of most seeds, a point per run.

    `claims`: remedy -> the largest number of blocks that the article says still trains; drawn as a line.
    """
    axis = sweep.axes[0]
    remedies = sweep.remedies()
    figure = _Draft(_axis_title(axis), "")
    values = sorted({_axis_value(config, axis) for config in sweep.configs})
    logarithmic = axis != "blocks" or (min(values) > 0 and max(values) / min(values) > 20)
    for row, remedy in enumerate(remedies):
        points = {value: [] for value in values}
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
                        hovertemplate=_("{summary}, seed {seed}: {outcome}, loss {loss:.3g} after {steps} steps").format(
                            summary=config.summary, seed=config.seed, outcome=_(word), loss=found.loss, steps=found.steps
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
        tickvals=list(range(len(names))), ticktext=[_(name).replace(" + ", "<br>+ ") for name in names],
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
    figure = _Draft(_axis_title(axis), _("weight gradient, first / last block, log10"))
    for (remedy, name), style in zip(sweep.remedies().items(), _line_styles(), strict=False):
        found = [(config, results[config]) for config in sweep.configs if config in results and sweep.remedy(config) == remedy]
        found = [(config, result) for config, result in found if not math.isnan(result.ratio)]
        if theory and name in theory:
            figure.scatter(
                x=theory[name][0], y=theory[name][1], mode="lines", name=_("{name}, theory").format(name=_(name)),
                line={"color": style["color"], "width": 1.5, "dash": "dot"}, legendgroup=name,
            )  # fmt: skip
        zero = [result.ratio == 0 for _config, result in found]
        figure.scatter(
            x=[_axis_value(config, axis) for config, _result in found],
            y=[math.log10(result.ratio) if 0 < result.ratio < math.inf else SMALLEST for _config, result in found],
            mode="markers", name=_(name), legendgroup=name,
            marker={"color": style["color"], "size": 8, "symbol": ["triangle-down-open" if z else "circle" for z in zero]},
            text=[_("exactly 0 in the first block") if z else scientific(math.log10(r.ratio)) if 0 < r.ratio < math.inf else "—"
                  for z, (_config, r) in zip(zero, found, strict=True)],
            hovertemplate="%{x}: %{text}<extra>" + _(name) + "</extra>",
        )  # fmt: skip
    values = sorted({_axis_value(config, axis) for config in sweep.configs})
    _level(figure, 0, values[-1] if values else 1, _("level"), first=values[0] if values else 0)
    _axis_scale(figure, values, axis != "blocks" or (min(values) > 0 and max(values) / min(values) > 20))
    figure.layout["height"] = 420
    return figure.done()


def theory_ratios(sweep: Sweep) -> dict[str, tuple[list[float], list[float]]]:
    """Remedy -> (places on the first axis, log10 of first over last block at step 0) for `ratio_figure`, without seeds."""
    axis, lines = sweep.axes[0], {}
    for remedy, name in sweep.remedies().items():
        configs = {_axis_value(config, axis): config for config in sweep.configs if sweep.remedy(config) == remedy}
        places = sorted(configs)
        ends = [(2, -4) if configs[place].blocks else (0, 1) for place in places]
        profiles = [predict(configs[place]).weight_grad_rms for place in places]
        lines[name] = places, [float(p[first] - p[last]) for p, (first, last) in zip(profiles, ends, strict=True)]
    return lines


def grid_figure(sweep: Sweep, results: Mapping[RunConfig, Result]) -> go.Figure:
    """Two axes: a small map per remedy, each cell the share of its seeds that trained, its word what most of the others did."""
    across, up = sweep.axes
    remedies = sweep.remedies()
    columns = min(len(remedies), 2)
    rows = math.ceil(len(remedies) / columns)
    figure = make_subplots(rows, columns, subplot_titles=[_(name) for name in remedies.values()], vertical_spacing=0.25 / rows)
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
    return {"blocks": _("blocks"), "init_range": _("init range a"), "lr": _("learning rate")}[axis]


def _axis_value(config: RunConfig, axis: str) -> float:
    value = getattr(config, axis)
    return 0.05 if value is None else value  # PyTorch's own init is ±0.05 in the blocks


def _axis_scale(figure: _Draft, values: Sequence[float], logarithmic: bool) -> None:
    if values and (logarithmic or len(values) <= 20):
        figure.layout["xaxis"].update(tickvals=list(values), ticktext=[f"{value:g}" for value in values])
    if logarithmic:
        figure.layout["xaxis"].update(type="log")


def _region(values: Sequence[float], value: float, logarithmic: bool) -> tuple[float, float]:
    """From half-way to the neighbour before, to half-way to the one after."""
    place = values.index(value)

    def between(a: float, b: float) -> float:
        return math.sqrt(a * b) if logarithmic else (a + b) / 2

    outside = value * 0.1 if logarithmic else 0.4
    left = between(values[place - 1], value) if place else value - outside
    right = between(value, values[place + 1]) if place + 1 < len(values) else value + outside
    return left, right


# Small parts


class _Draft:
    """A figure while it is being made: plain data, given to plotly whole. plotly checks every single change of a Figure at
    length, which took half of the time to open a page with many runs."""

    def __init__(self, x: str, y: str):
        self.traces: list[dict] = []
        self.layout = {
            "xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}, "height": 340,
            "margin": {"l": 60, "r": 10, "t": 20, "b": 50}, "hovermode": "closest",
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 12}},
        }  # fmt: skip

    def scatter(self, **trace: object) -> None:
        self.traces.append({"type": "scatter", **trace})

    def raster(self, codes: np.ndarray, palette: Sequence[tuple[int, ...]], **trace: object) -> None:
        """Codes (rows, columns) as one picture with a pixel each: drawn in a fraction of the time of a heatmap trace."""
        if not codes.size:
            return
        picture, file = Image.fromarray(np.ascontiguousarray(codes)), BytesIO()
        picture.putpalette(bytes(np.array(palette, np.uint8)))
        picture.save(file, "PNG")
        source = "data:image/png;base64," + b64encode(file.getvalue()).decode()
        self.traces.append({"type": "image", "source": source, "x0": 0, "y0": 0.5 + trace["dy"] / 2, "zsmooth": False, **trace})

    def colour_bar(
        self, title: str, limits: tuple[float, float], colours: Sequence[str], length: float = 1, **ticks: object
    ) -> None:
        """Pictures have none of their own, so an empty trace carries it."""
        bar = {"title": {"text": title, "side": "right"}, "thickness": 14, "len": length, "y": 1, "yanchor": "top", **ticks}
        self.scatter(x=[None], y=[None], mode="markers", hoverinfo="skip", marker={
            "color": [limits[0]], "cmin": limits[0], "cmax": limits[1], "showscale": True, "colorbar": bar,
            "colorscale": list(zip(np.linspace(0, 1, len(colours)).tolist(), colours, strict=True)),
        })  # fmt: skip

    def done(self) -> go.Figure:
        return go.Figure({"data": self.traces, "layout": self.layout})


def _line_styles() -> list[dict[str, str]]:
    return [{"color": colour, "dash": dash} for colour, dash in zip(COLOURS, DASHES, strict=True)] * 4


def _line(
    figure: _Draft, x: np.ndarray, y: np.ndarray, name: str, style: Mapping[str, str], mode: str = "lines"
) -> None:
    figure.scatter(
        x=x, y=y, mode=mode, name=name, line={**style, "width": 2}, marker={"size": 5}, connectgaps=False,
        hovertemplate="%{x}: %{y:.4g}<extra>" + name + "</extra>",
    )  # fmt: skip


def _level(figure: _Draft, height: float, last: float, name: str, first: float = 0) -> None:
    figure.scatter(
        x=[first, last], y=[height, height], mode="lines", name=name, hoverinfo="skip",
        line={"color": "#888888", "width": 1.2, "dash": "dash"},
    )  # fmt: skip


def _thinned(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(steps, means over equal stretches), at most MOST_POINTS; a value that is not finite makes its stretch so."""
    stride = max(1, math.ceil(len(values) / MOST_POINTS))
    return np.arange(0, len(values), stride), raster.means(values, stride)


# Lessons


def lesson_figures(lesson: Lesson, runs: Sequence[Run]) -> dict[str, go.Figure]:
    """Its pictures by kind, of the runs that are there: border, profile, wake, weights, loss."""
    named = {net_name(run.config): run for run in runs if run.history.steps}
    if not named:
        return {}
    makers = {
        "border": lambda: border_figure(
            Sweep(lesson.id, tuple(run.config for run in runs)), {run.config: result(run) for run in runs}, ARTICLE_BORDERS
        ),
        "profile": lambda: profile_figure(
            {name: run.history.quantity(lesson.quantity)[0] for name, run in named.items()},
            lesson.quantity,
            {name: getattr(predict(run.config), lesson.quantity) for name, run in named.items()},
        ),
        "wake": lambda: wake_figure(named),
        "weights": lambda: ratio_to_start_figure(runs[0], "weight_rms"),
        "loss": lambda: loss_figure({name: run for name, run in named.items() if run.history.steps > 1}),
    }
    return {kind: makers[kind]() for kind in lesson.look_at}


HOW_TO_READ: dict[str, str] = {
    "border": "A point is one run. The band behind the points has the colour of what most seeds did; the dashed line is the "
    "last depth at which the article still trains.",
    "profile": "Each line is one net at step 0, input at the left. Going left is going back: a line that falls to the left "
    "vanishes, one that rises to the left explodes. Dotted lines are theory, the others are measured; triangles at the bottom "
    "are exact zeros, crosses at the top are not finite.",
    "wake": "The gradient of the first block over training. A line that rises is a layer that wakes up.",
    "weights": "Each point is one layer: the size of its weights at the end, over that at the start.",
    "loss": "The dashed line is chance: a net that has learnt nothing stays on it.",
    "accuracy": "Share of the test images that are classified right; 10 % is chance.",
    "heatmap": "A row is a layer, input at the top; a column is a step. White is exactly zero, pink under "
    "float32's smallest normal number (1.2·10⁻³⁸), purple below the scale, orange above it, red not finite.",
    "difference": "Red: the first run is larger there, blue: the second. White: no difference. The darkest ends: six decades or "
    "more, or exactly zero or infinite in one of them. Grey: not a number.",
    "ratio": "How much of the last block's gradient is left in the first, before any training. 0 is level, −6 is a millionth.",
    "grid": "Each cell is one point of the grid; its number is how many of its seeds trained.",
}


def save(figures: Mapping[Path, go.Figure]) -> None:
    """Writes SVG pictures for documents. Raises RuntimeError, with what to install, if kaleido or a Chromium is missing."""
    for figure in figures.values():
        figure.update_layout(template="plotly_white", font={"family": "DejaVu Sans, sans-serif"})
    heights = [figure.layout.height for figure in figures.values()]
    try:
        pio.write_images(list(figures.values()), [str(path) for path in figures], format="svg", width=860, height=heights)
    except (ImportError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RuntimeError(f"Pictures need kaleido (requirements-dev.txt) and a Chromium: {reason}") from error
