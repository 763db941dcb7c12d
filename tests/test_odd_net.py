"""The core has a second customer: a net of three layers, with dots in their names, that is no LeNet."""

from __future__ import annotations

import ast
import io
import json
import re
import struct

import numpy as np
import odd
import pyarrow.parquet
import pytest
from running import ROOT

from gradviz.charts import anatomy as charts_anatomy
from gradviz.charts.runs import difference_figure, heatmaps_figure, loss_figure, profile_figure
from gradviz.lenet.config import READERS, RunConfig
from gradviz.lenet.diagnosis import diagnose
from gradviz.record import export, raster, reading
from gradviz.record.history import History, StepRecord
from gradviz.record.layout import Layout
from gradviz.record.quantities import QUANTITIES
from gradviz.record.recipe import Recipe
from gradviz.record.run import Run, Status
from gradviz.record.watched import MEASURED, STILL, Watched
from gradviz.serve.admission import history_bytes
from gradviz.store.rows import Recipes
from gradviz.store.store import RunStore
from gradviz.web import texts, wire

WIDE = QUANTITIES["weight_grad_rms"].ranges[0]


def read(message: bytes) -> tuple[dict[str, object], bytes]:
    (length,) = struct.unpack_from("<I", message)
    return json.loads(message[4 : 4 + length]), message[4 + length :]


def test_the_odd_recipe_is_one_to_the_eye_of_the_core():
    recipe: Recipe = odd.OddRecipe()
    assert odd.OddRecipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe and hash(recipe)
    assert (recipe.layout.ends, recipe.layout.inside, recipe.steps) == ((0, 2), range(0), None)
    assert reading.ends(odd.odd_run()) == pytest.approx((1e-4, 1e-2)) and reading.factor(odd.odd_run()) == pytest.approx(0.1)


def test_what_each_recipe_keeps_names_what_reads_it():
    watched = Watched("watched-" + 16 * "0", "A net, SGD", Layout(("a", "b")))
    readers = {**READERS, **odd.READERS, "watched": Watched.from_dict}
    recipes = Recipes(readers)
    for recipe in (RunConfig(blocks=1), watched, odd.OddRecipe()):
        assert recipes.read(json.dumps(recipe.to_dict())) == recipe
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "gradviz").rglob("*.py")]
    classes = {node.name: ast.unparse(node) for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    kept = {name for name, text in classes.items() if "def to_dict(" in text}
    with_layout = {name for name in kept if re.search(r"\blayout(\(self\) ->|:) Layout", classes[name])}
    assert with_layout == {"Recipe", "RunConfig", "Watched"}


def test_the_wire_says_that_nobody_knows_the_end_and_sends_its_three_rows_in_their_codes():
    for status in (Status.RUNNING, Status.FINISHED):
        header, body = read(wire.delta(odd.odd_run(status=status), 0, 0, "weight_grad_rms", *WIDE))
        assert (header["total"], header["seconds_left"], header["steps"], header["layers"]) == (None, None, 6, 3)
        assert (header["title"], header["names"]) == ("A net that somebody watched", list(odd.NAMES))
        assert header["ratio"] == pytest.approx(1e-2)
        numbers = np.frombuffer(body[: 4 * (6 + 6 + 3)], "<f4")
        np.testing.assert_allclose(numbers[:6], [2.0 / (1 + step) for step in range(6)], rtol=1e-6)
        np.testing.assert_allclose(numbers[6:12], np.arange(6) / 8)
        np.testing.assert_allclose(numbers[12:], [1e-4, 1e-3, 1e-2], rtol=1e-6)
        step, accuracy = np.frombuffer(body[60:64], "<i4"), np.frombuffer(body[64:68], "<f4")
        assert (step.tolist(), accuracy.tolist()) == ([3], [0.5])
        codes = np.frombuffer(body[68:], np.uint8).reshape(6, 3)
        level = (WIDE[1] - WIDE[0]) / raster.LEVELS  # decades
        middles = WIDE[0] + (codes.astype(float) - raster.FIRST_LEVEL + 0.5) * level
        np.testing.assert_allclose(middles, [[-4, -3, -2]] * 6, atol=level)


def test_the_wire_marks_its_inf_and_its_denormal():
    _header, body = read(wire.delta(odd.odd_run(), 4, 1, "signal_rms", *QUANTITIES["signal_rms"].ranges[0]))
    codes = np.frombuffer(body[-6:], np.uint8).reshape(2, 3)  # steps 4 and 5
    assert codes[0, 1] == raster.INFINITE and codes[1, 2] == raster.DENORMAL


def test_a_profile_of_the_wire_has_all_its_numbers():
    run = odd.odd_run()
    header, body = read(wire.profile(run, 5))
    assert (header["from_step"], header["to_step"], header["layers"]) == (5, 5, 3)
    assert np.frombuffer(body, "<f4").tolist() == run.history.columns[5].ravel().tolist()
    header, _body = read(wire.net_profile(run.history.columns[0], odd.NAMES))
    assert tuple(header["names"]) == odd.NAMES


def test_the_live_panel_has_the_words_for_its_status_and_its_quantities():
    words = texts.words()
    header, _body = read(wire.delta(odd.odd_run(status=Status.RUNNING), 0, 0, "zero_share", 0.0, 1.0))
    assert words["status"][header["status"]] == "Training" and set(words["quantities"]) == set(QUANTITIES)


def test_its_diagnosis_speaks_of_its_layers_and_offers_no_next_experiment():
    found = diagnose(odd.odd_run(steps=4))
    assert "encoder.0.weight" in str(found.sentence) or "out.proj" in str(found.sentence)
    assert found.next_experiment is None and not found.likely_cause
    assert "block" not in str(found.sentence)


def test_its_charts_draw_it_live_or_ended_and_know_no_chance():
    run, live = odd.odd_run(), odd.odd_run(odd.OddRecipe("odd-2"), 4, Status.RUNNING)
    figure = loss_figure({"a": run, "b": live})
    assert [trace.name for trace in figure.data] == ["a", "b"]  # no line of chance
    line = profile_figure({"a": run.history.quantity("weight_grad_rms")[0]}, "weight_grad_rms").data[0]
    np.testing.assert_allclose(line.y, [-4, -3, -2], atol=1e-6)
    maps = heatmaps_figure({"a": run, "b": live}, "weight_grad_rms", WIDE)
    assert maps.layout.yaxis.range == (0.5, 3.5) and maps.layout.xaxis.range[1] == 31.5  # the live one may go on
    assert list(difference_figure(run, live, "weight_grad_rms").layout.yaxis.ticktext) == [
        f"{place} · {name}" for place, name in enumerate(odd.NAMES, 1)
    ]


def test_the_layer_charts_of_its_anatomy_name_its_layers():
    history, sample = odd.odd_run().history, odd.odd_sample()
    figure = charts_anatomy.profile_figure(history, 0, odd.NAMES, None)
    assert "encoder.0.weight" in figure.data[0].text[0] and not any("theory" in trace.name for trace in figure.data)
    limits = charts_anatomy.band_limits([sample], "weight_grad", True)
    assert list(charts_anatomy.band_figure(sample, "weight_grad", odd.NAMES, True, limits).data[-1].text) == list(odd.NAMES)
    course = charts_anatomy.course_figure(history, 1, 0)
    np.testing.assert_allclose(course.data[0].y, [-3] * 6, atol=1e-6)
    assert len(charts_anatomy.magnitude_figure(sample, 2).data) == len(sample.kinds)


def test_its_export_has_every_number_in_csv_and_parquet():
    run: Run = odd.odd_run()
    table = export.layer_table(run)
    assert list(table["layer"][:3]) == list(odd.NAMES) and list(table["step"][::3]) == list(range(6))
    for name in QUANTITIES:
        np.testing.assert_array_equal(table[name].to_numpy().reshape(6, 3), run.history.quantity(name))
    back = pyarrow.parquet.read_table(io.BytesIO(b"".join(export.FILES["layers.parquet"][0](run)))).to_pandas()
    assert back["signal_rms"].tolist() == table["signal_rms"].tolist() and list(back["layer"]) == list(table["layer"])
    lines = b"".join(export.FILES["layers.csv"][0](run)).decode().splitlines()
    assert len(lines) == 1 + 18 and lines[1].startswith("0,1,2.0,0.0,encoder.0.weight,") and ",inf," in lines[14]
    steps = export.step_table(run)
    assert steps["loss"].tolist() == run.history.loss.tolist() and steps["test_accuracy"].tolist()[3] == 0.5
    assert b"".join(export.FILES["steps.parquet"][0](run))[:4] == b"PAR1"


def test_a_run_that_has_a_quantity_of_its_own_is_sent_exported_and_saved_with_it(tmp_path):
    table = np.arange(3 * len(MEASURED), dtype=np.float32).reshape(len(MEASURED), 3)
    run = Run(odd.OddRecipe(), History(3, quantities=MEASURED), Status.FINISHED, created=1_700_000_000.0)
    run.history.append(StepRecord(0, 1.0, 0.5, table, 0.1))
    header, body = read(wire.profile(run, 0))
    assert header["quantities"] == list(MEASURED) and np.frombuffer(body, "<f4").tolist() == table.ravel().tolist()
    assert export.layer_table(run)[STILL].tolist() == table[MEASURED.index(STILL)].tolist()
    store = RunStore(tmp_path, odd.READERS)
    store.save(run)
    kept = store.load(run.id).history
    store.close()
    assert all(kept.quantity(name)[0].tolist() == run.history.quantity(name)[0].tolist() for name in QUANTITIES)


def test_the_memory_of_a_run_that_nobody_knows_the_end_of_is_counted_at_its_most():
    assert history_bytes(odd.OddRecipe()) == 4 * 1000 * len(QUANTITIES) * 3
