"""A plotly figure that changes in place: drawn with Plotly.react, where st.plotly_chart would blank and mount anew."""

from __future__ import annotations

import plotly.graph_objects as go

from gradviz.charts.draft import INK
from gradviz.web.panels import mount
from gradviz.web.scripts import TRACES, plotly_url
from gradviz.web.texts import picture_words, plotly_words


def figure_panel(figure: go.Figure, key: str, label: str, about: str = "") -> None:
    """`figure` with a layout height; its colour INK becomes the page's text colour. `label`: what it shows, for screen readers.

    `about`: what the axes mean; as long as it stays the same, so does the reader's zoom. Raises ValueError for a kind of
    trace that browsers are not given.
    """
    if strange := {trace.type for trace in figure.data} - {*TRACES}:
        raise ValueError(f"traces {sorted(strange)}; scripts.TRACES has what browsers draw")
    data = {
        "plotly": plotly_url(),
        "figure": figure.to_json(),  # Plotly's own: inf and nan become null
        "plotly_words": plotly_words(),
        "label": label,
        "words": picture_words(),
        "ink": INK,
        "id": f"{key} {about}",
    }
    mount("figure.js", key, data, height=int(figure.layout.height) + 34)  # and the button of its table
