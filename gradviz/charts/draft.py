"""What all charts share: colours, lines, and a figure while it is being made."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
from PIL import Image

from gradviz.record.palette import between
from gradviz.record.recipe import Recipe, turns_of

# Okabe and Ito's colours, those that stand out on white and on black alike.
BLUE, ORANGE, GREEN, PURPLE, AMBER, SKY = "#2b86c5", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"
INK = "#80868b"  # stands for the text colour of the page, which live.figure puts in its place
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, AMBER, SKY, "#8c6d31", "#7f7f7f")
DASHES = ("solid", "dash", "dashdot", "longdash") * 2  # dotted lines are theory
BLUE_TO_RED = ("#053061", "#2166ac", "#4393c3", "#92c5de", "#d1e5f0", "#f7f7f7", "#fddbc7", "#f4a582", "#d6604d", "#b2182b",
               "#67001f")  # fmt: skip
NOTHING_COLOUR = "#9a9a9a"  # of a difference that is no number
MOST_POINTS = 400  # of a line, and columns of a heatmap: more than a screen tells apart
ZERO_AT = -45.0  # log10 of float32's smallest number: where an exact zero is drawn
INFINITE_AT = 38.5  # log10 of its largest: where inf is drawn


class Draft:
    """A figure while it is being made: plain data, given to plotly whole. plotly checks every single change of a Figure at
    length, which took half of the time to open a page with many runs."""

    def __init__(self, x: str, y: str):
        self.traces: list[dict[str, Any]] = []
        self.layout: dict[str, Any] = {
            "xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}, "height": 340,
            "margin": {"l": 60, "r": 10, "t": 20, "b": 50}, "hovermode": "closest",
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 12}},
        }  # fmt: skip

    def scatter(self, **trace: object) -> None:
        self.traces.append({"type": "scatter", **trace})

    def raster(self, codes: np.ndarray, palette: Sequence[tuple[int, ...]], **trace: Any) -> None:
        """Codes (rows, columns) as one picture with a pixel each: drawn in a fraction of the time of a heatmap trace."""
        if not codes.size:
            return
        picture, file = Image.fromarray(np.ascontiguousarray(codes)), BytesIO()
        picture.putpalette(bytes(np.array(palette, np.uint8)))
        picture.save(file, "PNG")
        source = "data:image/png;base64," + b64encode(file.getvalue()).decode()
        self.traces.append({"type": "image", "source": source, "x0": 0, "y0": 0.5 + trace["dy"] / 2, "zsmooth": False, **trace})

    def turned(self, recipe: Recipe, colour: str = INK, axis: str = "", last: float = math.inf, narrow: bool = False) -> None:
        """A line right before each step at which something was turned, its word at the top, and on hover the sentence.

        `axis`: which of several step axes ("", "2", …); `last`: where it ends. `narrow`: there is no room for a word, and the
        sentence alone says what it was.
        """
        at, half = {"xref": f"x{axis}", "yref": f"y{axis} domain"}, last / 2
        turns = [turn for turn in turns_of(recipe) if turn.step <= last]
        lines = 0  # of words so far: in a narrow chart they would lie on each other
        for step, several in groupby(turns, key=lambda turn: turn.step):
            same, side = list(several), "left" if step <= half else "right"
            mark = {"type": "line", "x0": step - 0.5, "x1": step - 0.5, "y0": 0, "y1": 1, **at}
            self.layout.setdefault("shapes", []).append(mark | {"line": {"color": colour, "width": 1.5, "dash": "dot"}})
            self.layout.setdefault("annotations", []).append({
                "text": "▾" if narrow else "<br>".join(turn.mark for turn in same),
                "hovertext": "<br>".join(str(turn.sentence) for turn in same), "font": {"size": 11, "color": colour},
                "x": step - 0.5, "xanchor": "center" if narrow else side, "align": side, "showarrow": False,
                "y": 1, "yanchor": "top", "yshift": 0 if narrow else -13 * (lines % 8), **at,
            })  # fmt: skip
            lines += len(same)

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


def line_styles() -> list[dict[str, str]]:
    return [{"color": colour, "dash": dash} for colour, dash in zip(COLOURS, DASHES, strict=True)] * 4


def line(
    figure: Draft, x: np.ndarray, y: np.ndarray, name: str, style: Mapping[str, str], mode: str = "lines"
) -> None:
    figure.scatter(
        x=x, y=y, mode=mode, name=name, line={**style, "width": 2}, marker={"size": 5}, connectgaps=False,
        hovertemplate="%{x}: %{y:.4g}<extra>" + name + "</extra>",
    )  # fmt: skip


def level(figure: Draft, height: float, last: float, name: str, first: float = 0) -> None:
    figure.scatter(
        x=[first, last], y=[height, height], mode="lines", name=name, hoverinfo="skip",
        line={"color": "#888888", "width": 1.2, "dash": "dash"},
    )  # fmt: skip


DIFFERENCES = [*between(BLUE_TO_RED, 255), *between([NOTHING_COLOUR], 1)]


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
