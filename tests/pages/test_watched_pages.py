"""The pages of a net that another process trains: what applies is there, and nothing is said that was not measured."""

from __future__ import annotations

import io
import json
import struct
import zipfile

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
from recorded import finished_run
from spooled import NAMES, Spooled
from streamlit.testing.v1 import AppTest
from timing import until
from viewing import QUICK, in_shell, keys, opened, text

from gradviz.lenet.config import RunConfig
from gradviz.record import export
from gradviz.record.run import Status
from gradviz.record.watched import MEASURED
from gradviz.serve.archive import archive
from gradviz.ui.server import server
from gradviz.web import cards

LENET = RunConfig(activation="relu", blocks=1, batch_size=4, steps=20, dataset="digits")


@pytest.fixture
def watched(page_server) -> Spooled:
    """A live run of four layers, of whose steps each second is measured; beside a LeNet."""
    page_server.store.save(finished_run(LENET))
    written = Spooled(page_server.settings.store, title="My *own* net", chance=0.25)
    written.steps(9, every=2)
    until(lambda: page_server.manager.at_hand(written.id))
    return written


def live(page: AppTest) -> dict:
    given = [json.loads(element.proto.json) for element in page.get("bidi_component")]
    (data,) = [data for data in given if data.get("mode") == "live"]
    return data


def test_the_lab_shows_it_live_without_what_sets_up_or_starts_a_net_here(watched):
    page = in_shell("lab", run=watched.id)
    data = live(page)
    assert (data["id"], data["status"], data["chance"]) == (watched.id, "running", pytest.approx(np.log(4)))
    assert data["ranges"]["weight_grad_rms"][0] == [-8, 2] and "still_share" in data["ranges"]
    assert data["words"]["status"]["interrupted"] == "Interrupted: its process ended"
    assert page.title[0].value == r"My \*own\* net" and "close" in keys(page)
    assert not {"start", "pause", "stop", "step"} & keys(page) and not page.number_input and "theory" not in str(page.expander)
    assert "Measured: 1 of 2 steps" in text(page) and "that takes 2 %" in text(page)
    (frame,) = [frame.value for frame in page.dataframe]
    assert frame.values.tolist() == [[NAMES[1], "Backward signal", "it is frozen"]]
    page.button(key="close").click().run()
    assert not page.exception and page.number_input(key="control_blocks").value == RunConfig().blocks


def test_the_lab_lists_it_beside_the_others(watched):
    page = in_shell("lab", **QUICK)
    box = page.selectbox(key="open_run")
    assert any("own" in option and "running, 9" in option for option in box.options) and len(box.options) == 3
    box.select(watched.id).run()
    assert not page.exception and live(page)["id"] == watched.id


@pytest.mark.parametrize("view", ["layers", "treatment", "layer", "motion"])
def test_anatomy_shows_its_measured_steps_in_the_views_that_apply(watched, view):
    page = opened("anatomy", run=watched.id, view=view, step="3", layer=NAMES[1])
    assert not page.exception
    assert page.segmented_control(key="anatomy_view").options == [
        "All layers", "Optimiser and treatment", "One layer", "One step in slow motion",
    ]  # fmt: skip
    assert "**Step 2.**" in text(page) or "**Step 4.**" in text(page)  # the third was not measured
    assert "recorded without distributions" not in text(page)
    if view == "layer":
        table = page.table[0].value
        assert table.loc["Backward signal"].tolist() == ["not measured", "it is frozen"]
        assert table.loc["Standing still"].tolist()[0] == "0.333"


def test_compare_sets_it_beside_a_lenet_over_relative_depth_and_beside_its_like_with_all_it_has(watched, page_server):
    page = opened("compare", runs=f"{watched.id},{LENET.id}")
    assert not page.exception and "The depth is relative" in text(page) and "no layer of the same name" in text(page)
    assert page.selectbox(key="compare_quantity").options[0] == "Weight gradient"
    assert "Standing still" not in page.selectbox(key="compare_quantity").options
    other = Spooled(page_server.settings.store)
    other.steps(5, loss=None)
    until(lambda: page_server.manager.at_hand(other.id))
    page = opened("compare", runs=f"{watched.id},{other.id}")
    assert not page.exception
    page.selectbox(key="compare_quantity").select("still_share").run()
    page.selectbox(key="compare_quantity").select("signal_rms").run()
    box = page.selectbox(key="compare_range")
    assert box.options[0] == "10⁻⁸ … 10²" and box.options[-1] == "fitted to these runs"
    box.select("fit").run()
    page.segmented_control(key="compare_when").set_value("end").run()
    assert not page.exception and "no layer of the same name" not in text(page)


def test_the_class_has_its_card_which_says_that_nobody_here_can_stop_it(watched):
    board = cards.Board(server().manager, server().classroom, lambda run: ("healthy", "It is."))
    answer = board.answer()
    header = json.loads(answer[4 : 4 + struct.unpack_from("<I", answer)[0]])["cards"]
    assert header[watched.id]["watched"] and not header[LENET.id]["watched"]
    assert (header[watched.id]["status"], header[watched.id]["total"]) == ("running", None)
    bins, rows, loss, gradient = cards.picture(server().manager.get(watched.id))
    assert (bins, rows, len(loss)) == (32, 4, 9) and loss.max() < 251
    np.testing.assert_array_equal(gradient[1], gradient[0])  # the step between two that were measured
    page = in_shell("classroom", wall=watched.id)
    assert not page.exception and live(page)["id"] == watched.id


def test_its_files_have_nothing_where_nothing_was_measured_and_say_why(watched):
    run = server().manager.get(watched.id)
    back = pd.read_csv(io.BytesIO(b"".join(export.FILES["layers.csv"][0](run))), keep_default_na=False)
    assert back["signal_rms"].tolist()[:8] == ["0.25", "", "0.25", "0.25", "", "", "", ""]
    assert back["weight_grad_rms"].tolist()[2] == "0.0" and (back["still_share"] != "-1.0").all()
    table = pyarrow.parquet.read_table(io.BytesIO(b"".join(export.FILES["layers.parquet"][0](run))))
    assert table["signal_rms"].to_pylist()[:8] == [0.25, None, 0.25, 0.25, None, None, None, None]
    assert set(MEASURED) <= set(table.column_names)
    lines = b"".join(export.ALL_FILES["missing.csv"][0](run)).decode().splitlines()
    assert lines == ["layer,quantity,why", f"{NAMES[1]},signal_rms,it is frozen"]


def test_the_class_archive_has_it_once_it_has_ended(watched, page_server):
    watched.end()
    until(lambda: page_server.store.load(watched.id))
    with zipfile.ZipFile(io.BytesIO(b"".join(archive(server().manager.each(), lambda run_id: ())))) as file:
        assert {name for name in file.namelist() if watched.id in name} == {
            f"{watched.id}/{name}" for name in ("config.json", "steps.csv", "layers.parquet", "missing.csv")
        }  # fmt: skip
        rows = pd.read_csv(file.open("runs.csv")).set_index("run")
        assert rows.loc[watched.id, "status"] == "finished" and rows.loc[watched.id, "title"] == "My *own* net"


def test_a_killed_one_is_said_to_have_lost_its_last_second_at_most(watched):
    watched.kill()
    until(lambda: server().manager.get(watched.id).status is Status.INTERRUPTED)
    assert str(server().manager.get(watched.id).message) == (
        "The process that trained was ended from outside; what it recorded is here, but for the last second."
    )
    page = in_shell("lab", run=watched.id)
    assert not page.exception and live(page)["status"] == "interrupted"
