"""One row per quantity: a row that is added is there for every reader, without another line anywhere."""

import io
import json
import struct

import numpy as np
import pyarrow.parquet
import pytest
from viewing import opened

from gradviz.charts.runs import difference_figure, heatmaps_figure, profile_figure
from gradviz.lenet.config import RunConfig
from gradviz.record import export, raster
from gradviz.record.history import History
from gradviz.record.quantities import QUANTITIES, Quantity
from gradviz.record.run import Run, Status
from gradviz.web import panels, texts, wire

SHARPNESS = Quantity("Sharpness", "largest curvature of the layer", "curvature (nats)", ((-8.0, 8.0), (0.0, 4.0)))
ANGLE = Quantity("Angle", "between a step and the one before", "angle (degrees)", ((0.0, 180.0),), linear=True)
CONFIG = RunConfig(activation="relu", blocks=2, steps=12, dataset="digits")


@pytest.fixture(params=[SHARPNESS, ANGLE], ids=lambda row: row.label)
def added(request, monkeypatch) -> str:
    """The name of a quantity that this house has never heard of."""
    name = request.param.label.lower()
    monkeypatch.setitem(QUANTITIES, name, request.param)
    return name


def run_of(name: str, seed: int = 0) -> Run:
    """A finished run whose new quantity lies all over its default range."""
    config = RunConfig(**{**CONFIG.to_dict(), "seed": seed})
    columns = np.ones((12, len(QUANTITIES), config.layers), np.float32)
    places = np.random.default_rng(seed).uniform(*QUANTITIES[name].ranges[0], (12, config.layers))
    columns[:, list(QUANTITIES).index(name)] = places if QUANTITIES[name].linear else 10.0**places
    history = History.restored(columns, np.ones((12, 3)), [], 1, 1000)
    return Run(config, history, Status.FINISHED, "cpu, 1 thread")


def test_the_wire_sends_it_in_each_of_its_ranges_and_refuses_another_in_its_own_words(added):
    run, row = run_of(added), QUANTITIES[added]
    for low, high in row.ranges:
        message = wire.delta(run, 0, 0, added, low, high)
        header = json.loads(message[4 : 4 + struct.unpack_from("<I", message)[0]])
        codes = np.frombuffer(message[-header["columns"] * header["rows"] :], np.uint8).reshape(header["columns"], -1)
        np.testing.assert_array_equal(codes, raster.encode(run.history.quantity(added), added, low, high))
    assert ((codes >= raster.FIRST_LEVEL) & (codes < raster.ABOVE)).any()
    with pytest.raises(wire.WireError, match=f"{row.ranges[0][0]:g} to {row.ranges[0][1]:g}"):
        wire.delta(run, 0, 0, added, -1.0, 1.5)
    header = wire.profile(run, 3)
    assert added in json.loads(header[4 : 4 + struct.unpack_from("<I", header)[0]])["quantities"]


def test_the_live_element_is_told_its_words_its_ranges_and_its_scale(added):
    row, words, scales = QUANTITIES[added], texts.words(), panels.scales()
    assert words["quantities"][added] == {"label": row.label, "meaning": row.meaning} and words["units"][added] == row.unit
    assert scales["ranges"][added] == row.ranges and (added in scales["linear"]) is row.linear


def test_every_chart_of_a_quantity_draws_it(added):
    one, two, row = run_of(added), run_of(added, seed=1), QUANTITIES[added]
    values = one.history.quantity(added)
    line = profile_figure({"a": values[0]}, added)
    np.testing.assert_allclose(line.data[0].y, values[0] if row.linear else np.log10(values[0]), rtol=1e-6)
    assert row.label in line.layout.yaxis.title.text and ("log10" in line.layout.yaxis.title.text) is not row.linear
    bar = heatmaps_figure({"a": one, "b": two}, added, row.ranges[0]).data[-1].marker
    assert bar.colorbar.title.text == row.label and (bar.cmin, bar.cmax) == row.ranges[0]
    assert any("<sup>" in text for text in bar.colorbar.ticktext) is not row.linear
    difference = difference_figure(one, two, added)
    expected = row.places(values) - row.places(two.history.quantity(added))
    np.testing.assert_allclose(difference.data[0].customdata, expected.T, rtol=1e-4, atol=1e-6)
    assert difference.data[-1].marker.cmax == (180 if row.linear else 6)


def test_compare_offers_it_with_its_ranges(added, page_server):
    runs = [run_of(added), run_of(added, seed=1)]
    page_server.store.save(*runs)
    page = opened("compare", runs=",".join(run.id for run in runs))
    page.selectbox(key="compare_quantity").select(added).run()
    assert not page.exception
    low, high = QUANTITIES[added].ranges[0]
    raised = " … ".join("10" + f"{end:g}".translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")) for end in (low, high))
    expected = f"{low:g} … {high:g}" if QUANTITIES[added].linear else raised
    assert page.selectbox(key="compare_range").options[0] == expected
    fitted = not QUANTITIES[added].linear  # a share has its whole range
    assert len(page.selectbox(key="compare_range").options) == len(QUANTITIES[added].ranges) + fitted


def test_the_export_has_its_column(added):
    run = run_of(added)
    table = pyarrow.parquet.read_table(io.BytesIO(export.parquet(export.layer_table(run))))
    np.testing.assert_array_equal(table[added].to_numpy().reshape(12, -1), run.history.quantity(added))
    assert added in export.csv(export.layer_table(run)).splitlines()[0].split(",")
