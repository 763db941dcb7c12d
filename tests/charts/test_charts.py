"""Charts against the numbers they were made from."""

import math
import re
from base64 import b64decode
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gradviz.charts import HOW_TO_READ
from gradviz.charts import runs as charts
from gradviz.charts.draft import BLUE_TO_RED, DIFFERENCES, MOST_POINTS
from gradviz.charts.lessons import lesson_figures
from gradviz.charts.sweeps import border_figure, grid_figure, ratio_figure, theory_ratios
from gradviz.lenet.config import RunConfig
from gradviz.lenet.diagnosis import CHANCE
from gradviz.lenet.lessons.catalogue import ARTICLE_BORDERS, LESSONS
from gradviz.lenet.outcome import DIVERGED, STUCK, TRAINED, Result
from gradviz.lenet.sweep import Sweep
from gradviz.record import raster
from gradviz.record.history import History
from gradviz.record.palette import VIRIDIS, between
from gradviz.record.quantities import QUANTITIES
from gradviz.record.run import Run, Status
from gradviz.web import wire

RANGE = (-24.0, 12.0)


def run_of(profile, losses=(2.3, 2.2), status=Status.FINISHED, **settings) -> Run:
    """A run whose weight gradient is `profile` (layers,) or (steps, layers) throughout."""
    layers = np.shape(profile)[-1]
    config = RunConfig(blocks=(layers - 5) // 2, **settings)
    columns = np.ones((len(losses), len(QUANTITIES), layers), np.float32)
    columns[:, 0] = profile
    scalars = np.column_stack([losses, np.linspace(0.1, 0.5, len(losses)), np.arange(len(losses))])
    return Run(config, History.restored(columns, scalars, [(0, 0.1), (1, 0.5)], 1, 1000), status)


def shown(figure, name):
    return next(trace for trace in figure.data if trace.name == name)


def pixels(trace) -> np.ndarray:
    """What an image trace shows, (rows, columns, rgb)."""
    return np.asarray(Image.open(BytesIO(b64decode(trace.source.removeprefix("data:image/png;base64,")))).convert("RGB"))


def test_the_heatmap_gives_each_kind_of_number_a_colour_of_its_own():
    values = np.array([0.0, 1e-40, 1e-30, 1e-24, 1e-6, 1e12, 1e13, math.inf, math.nan], np.float32)
    seen = [tuple(row[0]) for row in pixels(charts.heatmaps_figure({"a": run_of(values)}, "weight_grad_rms", RANGE).data[0])]
    assert seen[0] == (255, 255, 255) and seen[7] == seen[8] == (0xE3, 0, 0x1B)
    assert seen[1] == (0xF7, 0xA8, 0xCF) and seen[2] == (0xAC, 0x18, 0xF2) and seen[6] == (0xFF, 0x8C, 0x1A)
    assert len({*seen[:3], seen[4], *seen[6:]}) == 6
    middle = [int(VIRIDIS[k][i : i + 2], 16) for i in (1, 3, 5) for k in (4, 5)]  # 1e-6 is the middle of −24 … 12
    assert np.abs(np.array(seen[4], int) - np.mean(np.reshape(middle, (3, 2)), axis=1)).max() <= 2


def test_a_number_has_the_same_colour_in_a_comparison_as_in_the_live_heatmap():
    """The browser's palette is read out of the script; the bytes are those that it is sent."""
    script = (Path(wire.__file__).parent / "static" / "look.js").read_text(encoding="utf-8")
    names = dict(re.findall(r'(\w+): "(#\w{6})"', re.search(r"const MARKS = .*", script)[0]))
    colours = re.findall(r"#\w{6}", re.search(r"const VIRIDIS = .*", script)[0])
    marks = {raster.ZERO: "exact_zero", raster.DENORMAL: "denormal_short", raster.BELOW: "below", raster.ABOVE: "above",
             raster.INFINITE: "not_finite", raster.NOT_A_NUMBER: "not_finite"}  # fmt: skip

    def colour(code: int) -> np.ndarray:
        if code in marks:
            return np.array([int(names[marks[code]][i : i + 2], 16) for i in (1, 3, 5)])
        place = (code - raster.FIRST_LEVEL + 0.5) / raster.LEVELS * (len(colours) - 1)
        stops = [[int(each[i : i + 2], 16) for each in colours] for i in (1, 3, 5)]
        return np.array([np.interp(place, range(len(colours)), stop) for stop in stops])

    low, high = QUANTITIES["weight_grad_rms"].ranges[0]
    some = 10.0 ** np.random.default_rng(0).uniform(-34, 17, 293)
    values = np.array([0, 1e-45, 1.1e-38, 1.2e-38, 1e-31, 10.0**high, 1e16, math.inf, math.nan, *some, 1e-3], np.float32)
    run = run_of(values)
    shown = pixels(charts.heatmaps_figure({"a": run}, "weight_grad_rms", (low, high)).data[0])
    sent = np.frombuffer(wire.delta(run, 0, 0, "weight_grad_rms", low, high)[-2 * len(shown) :], np.uint8).reshape(2, -1)
    expected = np.array([[colour(code) for code in column] for column in sent]).swapaxes(0, 1)
    assert np.abs(shown - expected).max() <= 1 and len({tuple(each) for each in shown[:, 0]}) > 100


def test_all_heatmaps_share_one_scale_and_one_step_axis():
    runs = {"a": run_of([1, 1e-9, 0, math.inf, 1, 1, 1], [2.3] * 10), "b": run_of([1e-9] * 9, [2.3] * 30)}
    figure = charts.heatmaps_figure(runs, "weight_grad_rms", RANGE)
    first, second, bar = figure.data
    one, two = pixels(first), pixels(second)
    assert one.shape == (7, 10, 3) and two.shape == (9, 30, 3)
    assert (one[1] == two[0, 0]).all() and (one[0] != two[0, 0]).any()  # the same number has the same colour in both
    assert (one[2] == 255).all() and tuple(one[3, 0]) == (0xE3, 0, 0x1B)  # exactly zero, not finite
    assert (bar.marker.cmin, bar.marker.cmax) == RANGE and len(bar.marker.colorscale) == len(VIRIDIS)
    assert figure.layout.xaxis.range == figure.layout.xaxis2.range == (-0.5, 29.5)
    assert (first.x0, first.dx, first.y0, first.dy) == (0, 1, 1, 1)  # the middle of the first pixel: step 0, layer 1
    assert first.customdata[0][0] == 1  # hover tells the number itself


def test_a_picture_has_the_colours_that_the_scale_beside_it_shows():
    for colours, levels in ((VIRIDIS, 250), (BLUE_TO_RED, 255)):
        made = np.array(between(colours, levels))
        for k, colour in enumerate(colours):  # plotly draws straight lines between these
            at = min(levels - 1, int(k / (len(colours) - 1) * levels))
            assert np.abs(made[at] - [int(colour[i : i + 2], 16) for i in (1, 3, 5)]).max() <= 3


def test_a_long_run_of_a_deep_net_is_pooled_by_maximum_so_that_a_spike_survives():
    profile = np.full((2000, 405), 1e-6, np.float32)
    profile[1234, 321] = 1e3
    figure = charts.heatmaps_figure({"a": run_of(profile, [2.3] * 2000)}, "weight_grad_rms", RANGE)
    picture, values = figure.data[0], np.asarray(figure.data[0].customdata)  # (rows, columns)
    assert values.shape == (300, MOST_POINTS) and values.max() == np.float32(1e3)
    row, column = np.unravel_index(values.argmax(), values.shape)
    assert picture.dx * column == 1230 and picture.y0 + picture.dy * row == pytest.approx(322, abs=1)


def test_the_difference_of_equal_runs_is_0_and_white_and_of_a_tenfold_one_a_decade():
    one, ten = run_of([1e-3] * 7), run_of([1e-2] * 7, seed=1)
    same, more = (charts.difference_figure(run, one, "weight_grad_rms").data[0] for run in (one, ten))
    assert (np.asarray(same.customdata) == 0).all() and (pixels(same) == 0xF7).all()
    np.testing.assert_allclose(more.customdata, 1, rtol=1e-6)
    assert (pixels(more)[..., 0] > pixels(more)[..., 2]).all()  # the first is larger: red


def test_a_difference_to_exact_zero_is_at_the_end_of_the_scale_and_one_to_nan_is_grey():
    left, right = run_of([0, math.nan, 1, 0, 1, 1, 1]), run_of([1, 1, 1, 0, 1, 1, 1], seed=1)
    shown = pixels(charts.difference_figure(left, right, "weight_grad_rms").data[0])[:, 0]
    assert tuple(shown[0]) == DIFFERENCES[0] and tuple(shown[1]) == (0x9A,) * 3
    assert (shown[2] == 0xF7).all() and (shown[3] == 0xF7).all()


def test_the_difference_compares_layers_of_the_same_name_in_nets_of_different_depth():
    shallow, deep = run_of([1, 2, 3, 4, 5, 6, 7]), run_of([1, 2, 3, 4, 90, 91, 5, 6, 7])
    assert (np.asarray(charts.difference_figure(shallow, deep, "weight_grad_rms").data[0].customdata) == 0).all()


def test_a_huge_loss_makes_the_axis_logarithmic_and_an_ordinary_one_does_not():
    assert charts.loss_figure({"a": run_of([1] * 7)}, CHANCE).layout.yaxis.type is None
    assert charts.loss_figure({"a": run_of([1] * 7, [1e12, 1e9])}, CHANCE).layout.yaxis.type == "log"


def test_a_loss_that_is_no_longer_finite_gets_a_mark():
    figure = charts.loss_figure({"a": run_of([1] * 7, [2.3, math.nan], Status.DIVERGED)}, CHANCE)
    marks = [trace for trace in figure.data if trace.mode == "markers"]
    assert list(marks[0].x) == [1] and marks[0].marker.symbol == "x"


def test_the_profile_draws_logarithms_and_sets_exact_zeros_apart():
    theory = {"a": np.array([-50, -3, -2, -1])}
    figure = charts.profile_figure({"a": np.array([0, 1e-3, 1e-2, math.inf])}, "weight_grad_rms", theory)
    line = shown(figure, "a")
    np.testing.assert_allclose(np.asarray(line.y, float)[1:3], [-3, -2])
    assert np.isnan(np.asarray(line.y, float)[[0, 3]]).all()
    marks = {trace.marker.symbol: list(trace.x) for trace in figure.data if trace.mode == "markers"}
    assert marks == {"triangle-down-open": [1], "x": [4]}
    assert list(shown(figure, "theory").y) == [-50, -3, -2, -1]


def sweep_of(outcomes):
    configs = tuple(RunConfig(activation="relu", blocks=n, seed=seed) for n, words in outcomes for seed in range(len(words)))
    found = [word for _blocks, words in outcomes for word in words]
    results = {config: Result(word, 1.0, 300, None, 1e-3, 1, 1) for config, word in zip(configs, found, strict=True)}
    return Sweep("s", configs), results


def test_the_border_has_a_point_for_every_run_and_a_band_for_what_most_seeds_did():
    sweep, results = sweep_of([(1, [TRAINED] * 3), (5, [TRAINED, STUCK, STUCK]), (9, [DIVERGED] * 3)])
    figure = border_figure(sweep, results, ARTICLE_BORDERS)
    points = [trace for trace in figure.data if trace.mode == "markers" and trace.x[0] is not None]
    assert [trace.marker.symbol for trace in points].count("circle") == 4 and len(points) == 9
    bands = [trace for trace in figure.data if trace.mode == "lines" and trace.line.width == 30]
    assert [tuple(band.x) for band in bands] == [(0.6, 3.0), (3.0, 7.0), (7.0, 9.4)]
    assert len({band.line.color for band in bands}) == 3
    article = [trace for trace in figure.data if trace.mode == "lines" and trace.x[0] == 9]
    assert article  # relu: up to 9 blocks


def test_the_ratio_picture_holds_the_measured_ratio_and_theory_s_line():
    sweep, results = sweep_of([(1, [TRAINED]), (10, [STUCK])])
    theory = theory_ratios(sweep)
    figure = ratio_figure(sweep, results, theory)
    assert list(shown(figure, "relu").y) == [-3, -3]
    places, logs = theory["relu"]
    assert places == [1, 10] and -9.5 < logs[1] < -7 < logs[0] < 0.1  # 0.349 per convolution, 19 times, is 10^−8.7


def test_the_grid_tells_how_many_seeds_trained_at_each_point():
    configs = tuple(RunConfig(blocks=b, lr=lr, seed=s) for b in (1, 2) for lr in (1e-3, 1e-4) for s in (0, 1))
    words = [TRAINED, TRAINED, TRAINED, STUCK, STUCK, STUCK, STUCK, STUCK]
    results = {config: Result(word, 1, 1, None, 1, 1, 1) for config, word in zip(configs, words, strict=True)}
    figure = grid_figure(Sweep("g", configs), results)
    np.testing.assert_array_equal(figure.data[0].z, [[0.5, 0], [1, 0]])  # rows: lr 1e-4, 1e-3; columns: 1 and 2 blocks


@pytest.mark.parametrize("lesson", LESSONS.values(), ids=LESSONS)
def test_every_lesson_has_its_pictures_and_a_sentence_on_how_to_read_each(lesson):
    runs = []
    for config in lesson.configs():
        settings = {name: value for name, value in config.to_dict().items() if name not in ("blocks", "steps")}
        if config.blocks <= 60:
            runs.append(run_of([1e-3] * config.layers, [2.3] * 3, steps=30, **settings))
    figures = lesson_figures(lesson, runs)
    assert set(figures) == set(lesson.look_at) <= set(HOW_TO_READ)
    assert all(figure.data for figure in figures.values())
    assert lesson_figures(lesson, []) == {}


def test_what_was_turned_is_a_line_at_its_step_with_its_word_and_none_comes_before_its_step():
    run = run_of(np.ones(7), losses=(2.3,) * 5, changes="3:optimizer=sgd,3:lr=0.1,9:lr=0.01")
    for figure in (charts.loss_figure({"a": run}), charts.accuracy_figure({"a": run}),
                   charts.heatmaps_figure({"a": run}, "weight_grad_rms", RANGE)):  # fmt: skip
        (line,) = figure.layout.shapes
        (label,) = [note for note in figure.layout.annotations if note.hovertext]
        assert (line.x0, line.x1, label.x) == (2.5, 2.5, 2.5) and label.text == "optimizer sgd<br>lr 0.1"
        assert "At step 3 the learning rate became 0.1." in label.hovertext


def test_words_of_what_was_turned_stand_below_each_other_and_those_of_the_right_half_before_their_line():
    run = run_of(np.ones(7), losses=(2.3,) * 12, changes="1:optimizer=sgd,1:lr=0.1,3:lr=0.01,9:lr=0.001")
    notes = [note for note in charts.loss_figure({"a": run}).layout.annotations if note.hovertext]
    assert [(note.x, note.xanchor) for note in notes] == [(0.5, "left"), (2.5, "left"), (8.5, "right")]
    tops = [-note.yshift for note in notes]
    both = charts.heatmaps_figure({"a": run, "b": run}, "weight_grad_rms", RANGE).layout.annotations  # too narrow for words
    assert [(note.text, note.hovertext) for note in both if note.hovertext] == [("▾", note.hovertext) for note in notes] * 2
    assert tops[0] == 0 and tops[1] - tops[0] >= 2 * 11 and tops[2] - tops[1] >= 11  # of 11 pixels a line
