"""Colours are told apart with each of the three kinds of colour blindness, in charts of the server and of the browser."""

from __future__ import annotations

import json
import re
from itertools import combinations, pairwise

import numpy as np
import pytest
from running import ROOT

from gradviz.charts import draft
from gradviz.record import palette

# Machado, Oliveira and Fernandes (2009), "A physiologically-based model for simulation of color vision deficiency", severity 1,
# for linear RGB. The eye without a lack stands beside them.
SEEN = {
    "all": np.eye(3),
    "protan": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    "deutan": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
    "tritan": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]),
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
WHITE = np.array([0.9505, 1.0, 1.089])
LIKE = 9.0  # of CIE 1976's distance, where 2.3 is just noticeable


def lab(colour: str, eye: str) -> np.ndarray:
    """CIE L*a*b* of '#rrggbb' as that eye sees it."""
    rgb = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    x, y, z = (f(v) for v in TO_XYZ @ np.clip(SEEN[eye] @ linear, 0, 1) / WHITE)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def f(t: float) -> float:
    return t ** (1 / 3) if t > (6 / 29) ** 3 else t / (3 * (6 / 29) ** 2) + 4 / 29


def nearest(colours: list[str], eye: str) -> tuple[float, str, str]:
    """The two that are most alike, and how far apart they are; 2.3 is just noticeable."""
    return min((float(np.linalg.norm(lab(a, eye) - lab(b, eye))), a, b) for a, b in combinations(colours, 2))


def constant(name: str) -> object:
    """A table of colours of look.js."""
    text = (ROOT / "gradviz/web/static/look.js").read_text(encoding="utf-8")
    literal = re.search(rf"const {name} = ([\[{{].*?[\]}}]);", text, re.DOTALL)[1]
    return json.loads(re.sub(r"(\w+):", r'"\1":', literal))


def test_the_simulation_does_to_primary_colours_what_is_known_of_it():
    """Red and green of like lightness fall together for those who lack the red or the green cones; blue and yellow do not."""
    for eye in ("protan", "deutan"):
        assert nearest(["#c65b4c", "#8b8b3a"], eye)[0] < 0.6 * nearest(["#c65b4c", "#8b8b3a"], "all")[0]
        assert nearest(["#0000ff", "#ffff00"], eye)[0] > 100
    assert nearest(["#56b4e9", "#009e73"], "tritan")[0] < 0.7 * nearest(["#56b4e9", "#009e73"], "all")[0]


@pytest.mark.parametrize("eye", SEEN)
def test_no_two_lines_of_a_chart_look_alike(eye):
    lines = list(draft.COLOURS[:6])
    assert nearest(lines, eye)[0] > LIKE, nearest(lines, eye)
    styles = [(style["color"], style["dash"]) for style in draft.line_styles()[:8]]
    for (a, dash), (b, other) in combinations(styles, 2):
        assert dash != other or np.linalg.norm(lab(a, eye) - lab(b, eye)) > LIKE, (a, b)


@pytest.mark.parametrize("eye", SEEN)
def test_the_lines_of_the_live_page_and_the_bars_of_the_slow_motion_do_not_look_alike(eye):
    colours = constant("COLOURS")
    assert nearest(list(colours.values()), eye)[0] > LIKE
    for first, second in (("#0072b2", colours["orange"]), (colours["sky"], colours["amber"])):  # light, dark
        assert nearest([first, second], eye)[0] > 2 * LIKE


@pytest.mark.parametrize("eye", SEEN)
def test_marks_are_told_from_one_another_and_from_the_scale_which_only_grows_lighter(eye):
    scale, marks = list(constant("VIRIDIS")), constant("MARKS")
    assert scale == list(palette.VIRIDIS)
    assert list(marks.values()) == [
        palette.ZERO_COLOUR, palette.DENORMAL_COLOUR, palette.BELOW_COLOUR, palette.ABOVE_COLOUR, palette.BROKEN_COLOUR,
    ]  # fmt: skip
    marks |= {"absent": palette.ABSENT_COLOUR}  # not measured
    light = [lab(colour, eye)[0] for colour in scale]
    assert all(b > a + 2 for a, b in pairwise(light))
    assert nearest(list(marks.values()), eye)[0] > LIKE
    steps = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in palette.between(palette.VIRIDIS, 60)]
    for mark in marks.values():
        distance = min(float(np.linalg.norm(lab(mark, eye) - lab(step, eye))) for step in steps)
        assert distance > LIKE, (mark, distance)


@pytest.mark.parametrize("eye", SEEN)
def test_the_two_ends_of_a_difference_are_told_apart(eye):
    low, middle, high = draft.BLUE_TO_RED[1], draft.BLUE_TO_RED[5], draft.BLUE_TO_RED[-2]
    assert nearest([low, middle, high], eye)[0] > 2 * LIKE
