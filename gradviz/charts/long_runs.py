"""What the runs of the article's length gave: which nets learnt under which optimiser and rate, and the course of one run."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from gradviz.charts.draft import AMBER, BLUE, GREEN, INK, ORANGE, SKY, Draft
from gradviz.lenet.article_length import DEPTHS, RATES, is_plain
from gradviz.lenet.diagnosis import CHANCE
from gradviz.lenet.lessons.catalogue import ARTICLE_BORDERS
from gradviz.lenet.long_runs import AT_CHANCE, DEAD, DIVERGED, LEARNT, UNDER_WAY, LongRun
from gradviz.words import gettext as _

_STYLE = {  # colour, symbol
    LEARNT: (BLUE, "circle"),
    UNDER_WAY: (SKY, "diamond"),
    AT_CHANCE: (AMBER, "x"),
    DEAD: ("#7f7f7f", "cross"),
    DIVERGED: (ORANGE, "triangle-up"),
}


def depth_figure(runs: Iterable[LongRun]) -> go.Figure:
    """Plain nets: a row per activation, optimiser and rate, a point per run at its number of blocks."""
    rows = [(activation, *rate) for activation in DEPTHS for rate in RATES]
    figure = Draft(_("blocks"), "")
    seen: dict[tuple[int, int], int] = {}
    for run in sorted(filter(lambda run: is_plain(run.recipe), runs), key=lambda run: run.recipe.seed):
        config = run.recipe
        row = rows.index((config.activation, config.optimizer, config.lr))
        place = seen[row, config.blocks] = seen.get((row, config.blocks), -1) + 1
        colour, symbol = _STYLE[run.outcome]
        figure.scatter(
            x=[config.blocks + 0.22 * place], y=[row], mode="markers", showlegend=False,
            marker={"color": colour, "symbol": symbol, "size": 11},
            hovertemplate=_("{title}, seed {seed}: {outcome} after {steps:,} steps").format(
                title=config.title, seed=config.seed, outcome=_(run.outcome), steps=run.steps) + "<extra></extra>",
        )  # fmt: skip
    for word, (colour, symbol) in _STYLE.items():
        figure.scatter(x=[None], y=[None], mode="markers", name=_(word), marker={"color": colour, "symbol": symbol, "size": 11})
    line = {"color": INK, "width": 2, "dash": "dash"}
    for number, activation in enumerate(DEPTHS):
        first = number * len(RATES)
        border = ARTICLE_BORDERS[activation] + 0.5
        figure.scatter(
            x=[border, border], y=[first - 0.4, first + len(RATES) - 0.6], mode="lines", line=line, hoverinfo="skip",
            name=_("the article's border"), showlegend=not number,
        )  # fmt: skip
    figure.layout["xaxis"].update(dtick=1, range=[0.5, 12.9])
    names = [f"{activation} · {optimizer} {lr:g}" for activation, optimizer, lr in rows]
    figure.layout["yaxis"].update(tickvals=list(range(len(rows))), ticktext=names, range=[len(rows) - 0.5, -0.5])
    figure.layout["margin"]["l"], figure.layout["height"] = 170, 90 + 32 * len(rows)
    return figure.done()


def course_figure(run: LongRun) -> go.Figure:
    """Loss above, weight gradient of the first and the last block below, over the steps of one long run."""
    steps, loss, _accuracy, first, last = np.array(run.curve).T
    figure = make_subplots(2, 1, shared_xaxes=True, vertical_spacing=0.08)
    figure.add_scatter(row=1, col=1, x=steps, y=loss, name=_("loss"), line={"color": BLUE, "width": 2})
    figure.add_scatter(row=1, col=1, x=steps[[0, -1]], y=[CHANCE, CHANCE], name=_("chance"), mode="lines",
                       line={"color": INK, "width": 1.2, "dash": "dash"})  # fmt: skip
    for values, name, colour in ((first, _("first block"), ORANGE), (last, _("last block"), GREEN)):
        # An exact zero has no place on a logarithmic axis: the line has a gap there.
        figure.add_scatter(row=2, col=1, x=steps, y=np.where(values > 0, values, np.nan), name=name,
                           line={"color": colour, "width": 2}, connectgaps=False)  # fmt: skip
    figure.update_yaxes(row=1, col=1, title_text=_("loss, mean of 100 steps (nats)"))
    figure.update_yaxes(row=2, col=1, title_text=_("weight gradient (RMS)"), type="log", exponentformat="power")
    figure.update_xaxes(row=2, col=1, title_text=_("step"))
    figure.update_layout(height=460, margin={"l": 70, "r": 10, "t": 20, "b": 50}, legend={"orientation": "h", "y": 1.02,
                         "yanchor": "bottom"})  # fmt: skip
    return figure
