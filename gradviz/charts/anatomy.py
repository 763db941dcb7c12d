"""The pictures of a run's anatomy: samples and history in, plotly figures out.

Sizes are drawn as log10 on ranges that hold for the whole run, so that playing the steps moves the data and not the
axes. Exact zeros lie on a line of their own below, what is not finite above. Past 300 layers, neighbours are pooled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from gradviz.charts.draft import BLUE, GREEN, INK, ORANGE, PURPLE
from gradviz.lenet.theory.predict import Prediction
from gradviz.record import sample as anatomy
from gradviz.record.history import History
from gradviz.record.raster import MAX_ROWS, pool, rows_of
from gradviz.record.reading import adam_share, measured, path_shares
from gradviz.record.sample import AnatomySample, BlockDeletion, Picture
from gradviz.words import gettext as _
from gradviz.words import number

_HEIGHT = 330
_VALUE = {False: "%{y:.3g}", True: "10<sup>%{y:.1f}</sup>"}  # of a hover, by whether the axis holds logarithms


# --- over depth ------------------------------------------------------------------------------------------------------


def profile_figure(history: History, column: int, names: Sequence[str], prediction: Prediction | None) -> go.Figure:
    """Weight gradient and backward signal of every layer at one column; `prediction`: theory's lines, of step 0, and for the
    weight gradient the band of two standard deviations of one draw."""
    quantities = (("weight_grad_rms", _("weight gradient"), BLUE), ("signal_rms", _("backward signal"), ORANGE))
    figure = _over_depth(_("root mean square (nats per unit)"), len(names))
    low, high = _decades(np.concatenate([history.quantity(name).ravel() for name, _label, _colour in quantities]))
    for name, label, colour in quantities:
        if prediction is not None:
            theory, at = getattr(prediction, name), 1 + np.arange(len(names))
            if name == "weight_grad_rms":
                start = rows_of(len(names))
                edge = {"x": at[start], "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
                figure.add_scatter(y=(theory - 2 * prediction.std)[start], showlegend=False, **edge)
                figure.add_scatter(y=(theory + 2 * prediction.std)[start], fill="tonexty", fillcolor="rgba(43,134,197,0.2)",
                                   name=_("theory ± 2 sd"), **edge)  # fmt: skip
            _line(figure, at, theory, _("{name}, theory").format(name=label), colour, dash="dot", width=3, logs=True)
        _dots(figure, history.quantity(name)[column], names, label, colour, low, high)
    _log_axis(figure.layout.yaxis, low, high)
    return figure


def band_figure(
    sample: AnatomySample, kind: str, names: Sequence[str], logarithmic: bool, limits: tuple[float, float]
) -> go.Figure:
    """Quantile bands of one kind over depth: of the signed values, or of the magnitudes' log10 with zeros apart.

    `limits`: of the axis, from `band_limits`.
    """
    start = rows_of(len(names))
    at = 1 + _middle(start, len(names))
    if logarithmic:
        counts = sample.count(kind)
        levels = np.maximum(anatomy.magnitude_quantiles(counts), limits[0])  # 5, 25, 50, 75, 95 %
        bands = [(_("5–95 %"), 0, 4, 0.25), (_("25–75 %"), 1, 3, 0.45)]
        median = 2
    else:
        levels = sample.quantile(kind).astype(float)  # 0, 1, 5, 25, 50, 75, 95, 99, 100 %
        bands = [(_("1–99 %"), 1, 7, 0.18), (_("5–95 %"), 2, 6, 0.25), (_("25–75 %"), 3, 5, 0.45)]
        median = 4
    figure = _over_depth(_unit(kind), len(names))
    for label, low, high, opacity in bands:
        # A band of pooled layers holds the bands of all of them.
        lower, upper = pool(levels[:, low], by=np.fmin), pool(levels[:, high], by=np.fmax)
        fill = f"rgba(43,134,197,{opacity})"
        if len(start) == 1:
            at, lower, upper = np.array([0.7, 1.3]), np.repeat(lower, 2), np.repeat(upper, 2)
        edge = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
        figure.add_scatter(x=at, y=lower, showlegend=False, **edge)
        figure.add_scatter(x=at, y=upper, fill="tonexty", fillcolor=fill, name=label, **edge)
    middle = levels[start, median]
    hover = "%{text}<br>" + _("median {value}").format(value=_VALUE[logarithmic]) + "<extra></extra>"
    figure.add_scatter(x=1 + start, y=middle, mode="lines", line={"color": BLUE, "width": 2}, name=_("median"),
                       text=_labels(start, names), hovertemplate=hover)  # fmt: skip
    if logarithmic:
        bottom, top = limits
        share = pool(counts[:, anatomy.ZERO] / np.maximum(1, counts.sum(1)))
        zeros = np.flatnonzero(share > 0)
        if len(zeros):
            figure.add_scatter(
                x=1 + start[zeros], y=np.full(len(zeros), bottom - 1.2), mode="markers", name=_("exact zeros (size: share)"),
                marker={"symbol": "triangle-down", "color": PURPLE, "size": 4 + 8 * share[zeros]},
                text=_labels(start[zeros], names), customdata=100 * share[zeros],
                hovertemplate="%{text}<br>" + _("{share} % zeros").format(share="%{customdata:.3g}") + "<extra></extra>",
            )  # fmt: skip
        _log_axis(figure.layout.yaxis, bottom, top)
    else:
        for label, place, symbol in ((_("smallest"), 0, "triangle-up-open"), (_("largest"), -1, "triangle-down-open")):
            by = np.fmin if place == 0 else np.fmax
            figure.add_scatter(x=1 + start, y=pool(levels[:, place], by=by), mode="markers", name=label,
                               marker={"symbol": symbol, "size": 4, "color": BLUE}, hoverinfo="y")  # fmt: skip
        figure.update_yaxes(range=limits, exponentformat="power")
    return figure


def band_limits(samples: Sequence[AnatomySample], kind: str, logarithmic: bool) -> tuple[float, float]:
    """The axis that holds this kind at every sampled step: decades, or signed values."""
    held = [sample for sample in samples if kind in sample.kinds]
    if logarithmic:
        levels = np.concatenate([anatomy.magnitude_quantiles(sample.count(kind)).ravel() for sample in held] or [np.zeros(1)])
        levels = levels[np.isfinite(levels)]
        # One layer's twentieth smallest entries, at 1e-42 say, must not flatten all others: the band goes on below the axis.
        return _decades(10 ** levels[levels >= np.percentile(levels, 2)]) if len(levels) else _decades(levels)
    # Not the extremes: one entry in 6,400 must not flatten the bands of all layers.
    largest = max([float(np.nanmax(np.abs(sample.quantile(kind)[:, 1:-1]), initial=0)) for sample in held] or [1.0])
    reach = 1.3 * largest if 0 < largest < math.inf else 1.0
    return -reach, reach


def wake_figure(steps: np.ndarray, names: Sequence[str], last: int) -> go.Figure:
    """`reading.wake_steps` over depth; layers that did not wake are left out."""
    figure = _over_depth(_("step at which it woke up"), len(names))
    awake = np.flatnonzero(steps >= 0)
    figure.add_scatter(
        x=1 + awake, y=steps[awake], mode="lines+markers" if len(awake) < MAX_ROWS else "lines", showlegend=False,
        line={"color": BLUE, "width": 1}, marker={"size": 6}, text=[names[layer] for layer in awake.tolist()],
        hovertemplate="%{text}<br>" + _("step %{y}") + "<extra></extra>",
    )  # fmt: skip
    figure.update_yaxes(range=[-0.03 * last - 0.5, 1.03 * last + 0.5])
    return figure


def treatment_figure(history: History, column: int, sample: AnatomySample | None, names: Sequence[str]) -> go.Figure:
    """Above, the weight gradient before and after the treatment; below, share of entries altered and the cosine, or without
    `sample` the share of entries that stood still."""
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.09, row_heights=[0.6, 0.4])
    before, after = history.quantity("weight_grad_rms"), history.quantity("treated_grad_rms")
    low, high = _decades(np.concatenate([before.ravel(), after.ravel()]))
    _dots(figure, before[column], names, _("before"), BLUE, low, high)
    _dots(figure, after[column], names, _("after"), ORANGE, low, high, symbol="diamond-open")
    at = 1 + np.arange(len(names))
    if sample is None:
        still = measured(history.quantity("still_share")[column].astype(float))
        _line(figure, at, still, _("share of entries that did not move"), GREEN, row=2, text=names)
    else:
        altered, cosine = sample.number("altered_share"), sample.number("cosine")
        _line(figure, at, altered, _("share of entries altered"), GREEN, row=2, text=names)
        _line(figure, at, cosine, _("cosine before · after"), PURPLE, dash="dash", row=2, text=names, by=np.fmin)
    _finish(figure, 470, len(names), row=2)
    _log_axis(figure.layout.yaxis, low, high)
    figure.update_yaxes(title=_("RMS (nats per unit)"), row=1)
    figure.update_yaxes(title=_("share, cosine") if sample else _("share"), range=[-0.05, 1.05], row=2)
    return figure


def optimiser_figure(history: History, column: int, names: Sequence[str], adam: bool) -> go.Figure:
    """Update : weight over depth, and under Adam g / (g + eps)."""
    rows = 2 if adam else 1
    figure = make_subplots(rows=rows, cols=1, shared_xaxes=True, vertical_spacing=0.09, row_heights=[0.65, 0.35][:rows])
    ratio = history.quantity("update_ratio")
    low, high = _decades(ratio)
    _dots(figure, ratio[column], names, _("update : weight"), BLUE, low, high)
    if adam:
        share = adam_share(measured(history.quantity("treated_grad_rms")[column].astype(float)))
        _line(figure, 1 + np.arange(len(names)), share, _("g / (g + eps)"), ORANGE, row=2, text=names, by=np.fmin)
        figure.update_yaxes(title=_("share of a full step"), range=[-0.05, 1.05], row=2)
    _finish(figure, 450 if adam else _HEIGHT, len(names), row=rows)
    _log_axis(figure.layout.yaxis, low, high)
    figure.update_yaxes(title=_("length of step / of weights"), row=1)
    return figure


def paths_figure(sample: AnatomySample) -> go.Figure:
    """Above, the backward signal at each block's input, by path; below, the share that came through the convolutions."""
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.09, row_heights=[0.55, 0.45])
    blocks = sample.paths.shape[1]
    at = 1 + np.arange(blocks)
    low, high = _decades(sample.paths)
    labels = [f"block{block}" for block in range(blocks)]
    for row, label, colour, dash in (
        (0, _("over the shortcut"), BLUE, "solid"),
        (1, _("through the convolutions"), ORANGE, "dash"),
    ):
        _line(figure, at, _log10(sample.paths[row]), label, colour, dash=dash, text=labels, logs=True)
    share = 100 * path_shares(sample.paths)[1]
    _line(figure, at, share, _("share through the convolutions"), GREEN, row=2, text=labels)
    _finish(figure, 430, blocks, row=2)
    figure.update_xaxes(title=_("block (input → output)"), row=2)
    _log_axis(figure.layout.yaxis, low, high)
    figure.update_yaxes(title=_("RMS (nats per unit)"), row=1)
    finite = share[np.isfinite(share)]
    figure.update_yaxes(
        title=_("share (%)"), range=[min(0, np.min(finite, initial=0)) - 3, max(100, np.max(finite, initial=0)) + 3], row=2
    )
    return figure


def deletion_figure(deletion: BlockDeletion) -> go.Figure:
    """Accuracy without each block, beside that of the whole net and of guessing."""
    figure = go.Figure()
    first, last = deletion.blocks[0] + 0.4, deletion.blocks[-1] + 1.6
    noise = 100 * deletion.noise
    figure.add_hrect(100 * deletion.full - noise, 100 * deletion.full + noise, fillcolor=BLUE, opacity=0.15, line_width=0)
    for height, label, dash, colour in (
        (deletion.full, _("whole net"), "solid", BLUE),
        (deletion.without_all, _("without all blocks at once"), "dashdot", PURPLE),
        (0.1, _("guessing"), "dash", INK),
    ):
        _line(figure, np.array([first, last]), np.array([100 * height] * 2), label, colour, dash=dash)
    figure.add_scatter(
        x=[1 + block for block in deletion.blocks], y=[100 * share for share in deletion.accuracies], mode="markers",
        name=_("without this block"), marker={"color": ORANGE, "size": 8, "symbol": "diamond"},
        text=[f"block{block}" for block in deletion.blocks], hovertemplate="%{text}: %{y:.1f} %<extra></extra>",
    )  # fmt: skip
    _finish(figure, _HEIGHT, 0)
    figure.update_xaxes(title=_("block left out (input → output)"), range=[first, last])
    figure.update_yaxes(title=_("test accuracy (%)"), range=[0, 101])
    return figure


def deletion_words(deletion: BlockDeletion, blocks: int) -> str:
    """What leaving out blocks says of the article's claim 9: whether the convolutions are bypassed."""
    losses = deletion.full - np.array(deletion.accuracies)
    worst = int(losses.argmax())
    words = _(
        "Each diamond is the accuracy on {images} test images when the input of that block goes straight to the next; nothing is "
        "trained again. The band around the whole net's {full:.1f} %: what chance alone explains (± {noise:.1f}). "
    ).format(images=deletion.images, full=100 * deletion.full, noise=100 * deletion.noise)
    if len(deletion.blocks) < blocks:
        words += _("Of {blocks} blocks an even choice of {count} was tried. ").format(blocks=blocks, count=len(deletion.blocks))
    if deletion.full - deletion.noise <= 0.1:
        return words + _("The net is no better than guessing, so leaving out a block says nothing here.")
    count = len(deletion.harmless)
    words += _(
        "{count} of {tried} blocks can be left out without harm; the worst loss is {loss:.1f} points, block{block}. "
    ).format(count=count, tried=len(deletion.blocks), loss=100 * losses[worst], block=deletion.blocks[worst])
    words += _("Without all blocks at once {none:.1f} % are left. ").format(none=100 * deletion.without_all)
    if deletion.without_all >= deletion.full - deletion.noise:
        return words + _("So stem and head do the work alone, and the blocks are bypassed on the way forward too.")
    if count == len(deletion.blocks):
        return words + _("No single block is needed, all together are: they act like an ensemble, each a small correction.")
    if 2 * count >= len(deletion.blocks):
        return words + _("Most single blocks are dispensable, but not all: the work is done by some of them.")
    return words + _("Most blocks are needed: their convolutions are not bypassed.")


# --- one layer -------------------------------------------------------------------------------------------------------


def course_figure(history: History, layer: int, step: int) -> go.Figure:
    """What the layer did at every step: sizes above, update : weight below."""
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.09, row_heights=[0.65, 0.35])
    at = np.arange(len(history.columns)) * history.stride
    rows = (
        ("weight_grad_rms", _("weight gradient"), BLUE, "solid", 1),
        ("signal_rms", _("backward signal"), ORANGE, "dash", 1),
        ("activation_rms", _("activation"), GREEN, "dot", 1),
        ("weight_rms", _("weight"), PURPLE, "dashdot", 1),
        ("update_ratio", _("update : weight"), INK, "solid", 2),
    )
    ranges: dict[int, list[np.ndarray]] = {1: [], 2: []}
    for name, label, colour, dash, row in rows:
        values = history.quantity(name)[:, layer]
        ranges[row].append(values)
        there = values >= 0 if (values < 0).any() else slice(None)  # a line goes on over what was not measured
        _line(figure, at[there], _log10(values[there]), label, colour, dash=dash, row=row, logs=True)
    spans = {row: _decades(np.concatenate(parts)) for row, parts in ranges.items()}
    for name, label, colour, _dash, row in rows:
        zero = np.flatnonzero(history.quantity(name)[:, layer] == 0)
        if len(zero):
            figure.add_scatter(
                x=at[zero], y=np.full(len(zero), spans[row][0] - 1.2), mode="markers", row=row, col=1,
                name=_("{name}: exactly zero").format(name=label), marker={"symbol": "triangle-down", "color": colour, "size": 7},
            )  # fmt: skip
    figure.add_vline(step, line={"color": INK, "width": 1, "dash": "dot"})
    _finish(figure, 430, 0)
    for row, axis in ((1, figure.layout.yaxis), (2, figure.layout.yaxis2)):
        _log_axis(axis, *spans[row])
    figure.update_xaxes(title=_("training step"), row=2)
    figure.update_yaxes(title=_("root mean square"), row=1)
    figure.update_yaxes(title=_("step / weights"), row=2)
    return figure


def magnitude_figure(sample: AnatomySample, layer: int) -> go.Figure:
    """How large the layer's entries are: their share per octave of magnitude; zeros, and what is not finite, at the sides."""
    styles = {
        "weight": (PURPLE, "dashdot"), "weight_grad": (BLUE, "solid"), "treated_grad": (ORANGE, "dash"),
        "update": (INK, "solid"), "activation": (GREEN, "dot"),
    }  # fmt: skip
    figure = go.Figure()
    spread = [np.flatnonzero(sample.count(kind)[layer, : anatomy.NONFINITE]) for kind in sample.kinds]
    found = np.concatenate(spread)
    edges = np.log10(anatomy.EDGES)
    first, last = (max(0, found.min() - 3), min(253, found.max() + 3)) if len(found) else (110, 130)
    low, high = edges[first], edges[last + 1]
    margin = 0.1 * (high - low)
    ends = {_("exactly 0"): (anatomy.ZERO, low - margin / 2), _("not finite"): (anatomy.NONFINITE, high + margin / 2)}
    for kind in sample.kinds:
        counts = sample.count(kind)[layer] / max(1, sample.count(kind)[layer].sum())
        colour, dash = styles[kind]
        label = _(anatomy.KINDS[kind]).split(":")[0].split(",")[0] if kind != "treated_grad" else _("Treated gradients")
        shown = np.arange(first, last + 1)
        figure.add_scatter(
            x=(edges[shown] + edges[shown + 1]) / 2, y=100 * counts[shown], mode="lines", name=label,
            line={"color": colour, "dash": dash, "shape": "hvh", "width": 2},
            hovertemplate=f"{label}: %{{y:.2g}} %<extra></extra>",
        )  # fmt: skip
        for words, (place, x) in ends.items():
            if counts[place]:
                figure.add_scatter(
                    x=[x], y=[100 * counts[place]], mode="markers+text", text=[words],
                    textposition="middle right" if place == anatomy.ZERO else "middle left", showlegend=False, cliponaxis=False,
                    marker={"color": colour, "size": 10, "symbol": "triangle-down" if place == anatomy.ZERO else "x"},
                    hovertemplate=f"{label}, {words}: %{{y:.3g}} %<extra></extra>",
                )  # fmt: skip
    _finish(figure, _HEIGHT, 0)
    _log_axis(figure.layout.xaxis, low, high)
    figure.update_xaxes(title=_("magnitude"), range=[low - margin, high + margin])
    figure.update_yaxes(title=_("share of entries per octave (%)"), rangemode="tozero")
    return figure


def units_figure(steps: Sequence[int], numbers: np.ndarray) -> go.Figure | None:
    """Dead or saturated share of one layer at `steps`; None for a layer that has neither.

    `numbers`: (steps, len(LAYER_NUMBERS)), as in AnatomySample.layers.
    """
    figure = go.Figure()
    for name, label, colour, dash in (
        ("dead_share", _("dead units"), ORANGE, "solid"),
        ("saturated_share", _("saturated outputs"), BLUE, "dash"),
    ):
        values = numbers[:, list(anatomy.LAYER_NUMBERS).index(name)].astype(float)
        if np.isfinite(values).any():
            figure.add_scatter(
                x=list(steps), y=100 * values, mode="lines+markers", name=label, showlegend=True,
                line={"color": colour, "dash": dash}, hovertemplate=_("step %{x}: %{y:.3g} %") + "<extra></extra>",
            )  # fmt: skip
    if not figure.data:
        return None
    _finish(figure, 260, 0)
    figure.update_xaxes(title=_("training step"))
    figure.update_yaxes(title=_("share (%)"), range=[-3, 103])
    return figure


def filters_figure(picture: Picture) -> go.Figure:
    """The first filters as tiles, weights at the left and their gradients at the right, each on its own symmetric scale."""
    sides = (
        (_("weights"), picture.weight, picture.weight_scale),
        (_("gradients"), picture.gradient, picture.gradient_scale),
    )
    figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.16, subplot_titles=[title for title, _values, _scale in sides])
    for place, (_title, values, scale) in enumerate(sides):
        reach = scale if 0 < scale < math.inf else 1.0
        figure.add_heatmap(
            z=_tiles(values) * (reach / 127), zmin=-reach, zmax=reach, colorscale="RdBu", reversescale=True,
            row=1, col=1 + place, hoverongaps=False, hovertemplate="%{z:.3g}<extra></extra>",
            colorbar={"orientation": "h", "x": 0.21 + 0.58 * place, "y": -0.03, "yanchor": "top", "len": 0.42, "thickness": 10,
                      "tickvals": [-reach, 0, reach], "ticktext": [number(-reach), "0", number(reach)]},
        )  # fmt: skip
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False, autorange="reversed")
    for place in (1, 2):
        figure.update_yaxes(scaleanchor=f"x{place if place > 1 else ''}", row=1, col=place)
    figure.update_layout(height=400, margin={"l": 10, "r": 10, "t": 40, "b": 40})
    return figure


def _tiles(filters: np.ndarray) -> np.ndarray:
    """(n, inputs, rows, columns) or (n, inputs) -> one image: a tile per filter, in it a patch per input; gaps are nan."""
    if filters.ndim == 2:
        inputs = filters.shape[1]
        shape = (16, 7, 7) if inputs == 784 else (1, inputs // 12, 12)  # fc1 sees 16 maps of 7×7; 120 = 10·12, 84 = 7·12
        filters = filters.reshape(len(filters), *shape)
    return _mosaic(np.stack([_mosaic(one.astype(float), 0) for one in filters]), 2)


def _mosaic(patches: np.ndarray, gap: int) -> np.ndarray:
    """(n, rows, columns) on a grid as square as can be."""
    count, rows, columns = patches.shape
    across = math.ceil(math.sqrt(count))
    down = math.ceil(count / across)
    image = np.full((down * (rows + gap) - gap, across * (columns + gap) - gap), np.nan)
    for place, patch in enumerate(patches):
        y, x = place // across * (rows + gap), place % across * (columns + gap)
        image[y : y + rows, x : x + columns] = patch
    return image


# --- parts -----------------------------------------------------------------------------------------------------------


def _unit(kind: str) -> str:
    return {
        "weight": _("weight (no unit)"),
        "weight_grad": _("∂loss/∂weight (nats per unit)"),
        "treated_grad": _("treated ∂loss/∂weight (nats per unit)"),
        "update": _("change of the weight (no unit)"),
        "activation": _("activation (no unit)"),
    }[kind]


def _over_depth(y: str, layers: int) -> go.Figure:
    figure = go.Figure()
    _finish(figure, _HEIGHT, layers)
    figure.update_yaxes(title=y)
    return figure


def _finish(figure: go.Figure, height: int, layers: int, row: int | None = None) -> None:
    figure.update_layout(
        height=height, margin={"l": 70, "r": 12, "t": 34, "b": 46}, hovermode="closest",
        legend={"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom"},
    )  # fmt: skip
    figure.update_xaxes(zeroline=False)
    if layers:
        figure.update_xaxes(range=[0.2, layers + 0.8])
        figure.update_xaxes(title=_("layer (1: nearest to the input)"), row=row, col=None if row is None else 1)


def _line(figure: go.Figure, x: np.ndarray, y: np.ndarray, name: str, colour: str, dash: str = "solid", row: int = 1,
          width: int = 2, text: Sequence[str] | None = None, logs: bool = False, by: np.ufunc = np.fmax) -> None:  # fmt: skip
    """Of many neighbours the largest, or what `by` says."""
    start = rows_of(len(x))
    x, y, text = x[start], pool(y, by=by), _labels(start, text) if text is not None else None
    place = {"row": row, "col": 1} if figure._has_subplots() else {}
    figure.add_scatter(
        x=x, y=np.where(np.isfinite(y), y, np.nan), mode="lines+markers" if len(x) == 1 else "lines", name=name, text=text,
        line={"color": colour, "dash": dash, "width": width},
        hovertemplate=("%{text}<br>" if text is not None else "") + f"{name}: {_VALUE[logs]}<extra></extra>", **place,
    )  # fmt: skip


def _dots(figure: go.Figure, values: np.ndarray, names: Sequence[str], label: str, colour: str, low: float, high: float,
          symbol: str = "circle") -> None:  # fmt: skip
    """log10 of a size per layer, the largest of pooled ones; zeros in a row below `low`, what is not finite above `high`."""
    start = rows_of(len(values))
    values = pool(values)
    at, labels = 1 + start, _labels(start, names)
    place = {"row": 1, "col": 1} if figure._has_subplots() else {}
    figure.add_scatter(
        x=at, y=_log10(values), mode="markers", name=label,
        marker={"color": colour, "size": 6 if len(at) < 120 else 4, "symbol": symbol},
        text=[f"{name}<br>{label} {number(value, 3)}" for name, value in zip(labels, values, strict=True)],
        hovertemplate="%{text}<extra></extra>", **place,
    )  # fmt: skip
    for mask, y, mark, words in (
        (values == 0, low - 1.2, "triangle-down", _("{name}: exactly zero")),
        (~np.isfinite(values), high + 0.8, "x", _("{name}: not finite")),
        (values < 0, low - 1.2, "asterisk-open", _("{name}: not measured")),
    ):
        if mask.any():
            figure.add_scatter(
                x=at[mask], y=np.full(mask.sum(), y), mode="markers", name=words.format(name=label),
                marker={"color": colour, "size": 8, "symbol": mark}, text=np.array(labels)[mask],
                hovertemplate="%{text}<extra></extra>", **place,
            )  # fmt: skip


def _labels(start: np.ndarray, names: Sequence[str]) -> list[str]:
    """Names of pooled layers: 'block7.conv1 …' where one stands for several."""
    several = len(start) > 1 and start[1] - start[0] > 1
    return [names[place] + (" …" if several else "") for place in start]


def _middle(start: np.ndarray, count: int) -> np.ndarray:
    return np.asarray((start + np.append(start[1:], count) - 1) / 2)


def _log10(values: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log10(np.asarray(values, float))
    return np.where(np.isfinite(logs), logs, np.nan)


def _decades(values: np.ndarray) -> tuple[float, float]:
    """Whole decades that hold all finite values but zero; at least two."""
    logs = _log10(values)
    logs = logs[np.isfinite(logs)]
    if not len(logs):
        return -2.0, 0.0
    low, high = math.floor(logs.min()), math.ceil(logs.max())
    return float(low), float(max(high, low + 2))


def _log_axis(axis: go.layout.YAxis, low: float, high: float) -> None:
    """Powers of ten, at most some eight of them; room below and above for the marks."""
    every = max(1, math.ceil((high - low) / 8))
    ticks = [power for power in range(math.ceil(low), math.floor(high) + 1) if power % every == 0]
    words = [f"10<sup>{power}</sup>".replace("-", "−") for power in ticks]
    axis.update(tickvals=ticks, ticktext=words, range=[low - 2, high + 1.4], zeroline=False)
