"""The colours of a heatmap: viridis for numbers, and what is no number on the scale has one of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gradviz.record import raster

VIRIDIS = ("#440154", "#482878", "#3e4a89", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6dcd59", "#b4de2c", "#fde725")
ABSENT_COLOUR = "#a9a9a9"  # of what was not measured
ZERO_COLOUR, DENORMAL_COLOUR, BELOW_COLOUR, ABOVE_COLOUR, BROKEN_COLOUR = "#ffffff", "#f7a8cf", "#ac18f2", "#ff8c1a", "#e3001b"


def between(colours: Sequence[str], levels: int) -> list[tuple[int, ...]]:
    """`levels` colours (r, g, b) from the first of `colours` to the last, each in the middle of its share."""
    stops = np.array([[int(colour[k : k + 2], 16) for k in (1, 3, 5)] for colour in colours], float)
    places = (np.arange(levels) + 0.5) / levels * (len(stops) - 1)
    return [tuple(np.interp(place, range(len(stops)), channel).round().astype(int) for channel in stops.T) for place in places]


def _marks(*colours: str) -> list[tuple[int, ...]]:
    return [between([colour], 1)[0] for colour in colours]


PALETTE = [  # one for each code of `raster`
    *_marks(ZERO_COLOUR, BELOW_COLOUR), *between(VIRIDIS, raster.LEVELS),
    *_marks(ABOVE_COLOUR, ABSENT_COLOUR, DENORMAL_COLOUR, BROKEN_COLOUR, BROKEN_COLOUR),
]  # fmt: skip
