"""The pages of a run that is no deep LeNet's: what applies is there, and what does not is left out."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace

import odd
import pandas as pd
import pytest
from asgi import ask
from recorded import ARITHMETIC, finished_run
from streamlit.testing.v1 import AppTest
from viewing import QUICK, in_shell, keys, opened, text

from gradviz.lenet.config import READERS, RunConfig
from gradviz.lenet.lessons.catalogue import LESSONS
from gradviz.serve.archive import archive
from gradviz.ui.server import server

LENET = RunConfig(activation="relu", blocks=1, batch_size=4, steps=20, dataset="digits")


@pytest.fixture
def odd_server(monkeypatch, request):
    """A server whose store reads odd recipes too, with two odd runs and a LeNet in it."""
    monkeypatch.setitem(READERS, "odd", odd.OddRecipe.from_dict)
    page_server = request.getfixturevalue("page_server")
    page_server.store.save(odd.odd_run(), odd.odd_run(odd.OddRecipe("odd-8", "Another net"), 4), finished_run(LENET))
    return page_server


def test_compare_shows_two_odd_nets_without_settings_chance_or_a_new_run(odd_server):
    page = opened("compare", runs="odd-7f,odd-8")
    assert not page.exception and page.multiselect(key="compare_runs").value == ["odd-7f", "odd-8"]
    table = page.table[0].value
    assert list(table["net"]) == ["A net that somebody watched", "Another net"] and list(table["steps"]) == [6, 4]
    assert "Learning rate" not in table.columns and "In common" not in text(page) and "chance is 10 %" not in text(page)
    assert "A new run" not in text(page) and not any(key.startswith("change ") for key in keys(page))
    page.selectbox(key="compare_quantity").select("signal_rms").run()
    page.segmented_control(key="compare_when").set_value("end").run()
    assert not page.exception


def test_compare_sets_an_odd_net_beside_a_lenet_and_varies_the_lenet_only(odd_server):
    page = opened("compare", runs=f"odd-7f,{LENET.id}")
    assert not page.exception and list(page.table[0].value["net"]) == ["A net that somebody watched", LENET.title]
    assert page.selectbox(key="compare_base").options == [f"2 · {LENET.title}"]
    page.button(key="change the next seed").click().run()
    assert not page.exception and server().manager.get(replace(LENET, seed=1).id) is not None
    assert server().manager.wait(replace(LENET, seed=1).id, 100)


def test_anatomy_shows_the_layers_of_an_odd_net_and_neither_theory_nor_optimiser_nor_shortcut(odd_server):
    page = opened("anatomy", run="odd-7f", view="shortcut", step="0")
    assert not page.exception
    assert page.segmented_control(key="anatomy_view").options == ["All layers", "One layer"]
    headings = [heading.value for heading in page.header]
    assert "Gradient sizes, layer by layer" in headings and "When did each layer wake up?" in headings
    assert "Two ways back" not in headings and "Dotted: what theory predicts" not in text(page)
    assert "A net that somebody watched — finished, 6" in page.selectbox[0].options


def test_anatomy_shows_one_layer_of_an_odd_net_by_its_name(odd_server):
    page = opened("anatomy", run="odd-7f", view="layer", layer="mixer.π/in", step="0")
    assert not page.exception and page.selectbox(key="anatomy_layer").value == "mixer.π/in"
    assert page.selectbox(key="anatomy_layer").options == list(odd.NAMES)
    assert {"Its course", "How large its entries are"} <= {heading.value for heading in page.header}
    assert "No pictures were kept of this run." in text(page)


def test_anatomy_of_an_odd_run_without_distributions_shows_its_profile(odd_server):
    run = odd.odd_run(odd.OddRecipe("odd-9", "Bare"))
    run.history.samples.clear()
    odd_server.store.save(run)
    page = opened("anatomy", run="odd-9")
    assert not page.exception and "recorded without distributions" in text(page)


def panels(page: AppTest, mode: str) -> list[dict]:
    """What each element of our own got that is drawn in this mode."""
    given = [json.loads(element.proto.json) for element in page.get("bidi_component")]
    return [data for data in given if data.get("mode") == mode]


def test_the_lab_shows_an_odd_run_by_its_link_and_leaves_the_controls_alone(odd_server):
    page = in_shell("lab", run="odd-7f", **QUICK)
    (live,) = panels(page, "live")
    assert (live["id"], live["chance"]) == ("odd-7f", None)
    assert "On screen: A net that somebody watched." in text(page) and page.number_input(key="control_blocks").value == 1
    assert "omputed" not in " ".join(caption.value for caption in page.caption)  # nobody noted what with
    assert {expander.label for expander in page.expander} >= {"The data of this run"}
    page.session_state["diagnosis"] = True
    page.run()
    assert not page.exception and "Measured" in text(page) and "next" not in keys(page)
    assert in_shell("lab", run="odd-7f").number_input(key="control_blocks").value == RunConfig().blocks


def test_the_lab_says_what_an_odd_run_was_computed_with_and_not_what_this_server_would_compute_it_with(odd_server):
    run = odd.odd_run(odd.OddRecipe("odd-9", "Noted"))
    run.arithmetic = ARITHMETIC
    odd_server.store.save(run)
    page = in_shell("lab", run="odd-9", **QUICK)
    assert "Computed with: processor AVX2 x86_64" in text(page) and "This machine" not in text(page)


def test_the_lab_opens_an_odd_run_of_the_list_and_takes_no_settings_of_it(odd_server):
    page = in_shell("lab", **QUICK)
    box = page.selectbox(key="open_run")
    assert "A net that somebody watched — finished, 6" in box.options and f"{LENET.title} — finished, 20/20" in box.options
    box.select("odd-7f").run()
    assert not page.exception and panels(page, "live")[0]["id"] == "odd-7f"
    assert page.query_params["run"] in ("odd-7f", ["odd-7f"]) and page.number_input(key="control_batch_size").value == 8


def test_the_class_has_the_odd_runs_among_its_cards_and_not_in_its_border(odd_server):
    page = in_shell("classroom")
    assert not page.exception and panels(page, "cards")[0]["ended"] == 3 and "What the outcomes mean" in str(page.expander)
    page = in_shell("classroom", wall="odd-7f")
    assert not page.exception and panels(page, "live")[0]["id"] == "odd-7f"
    assert panels(page, "title")[0]["summary"] == "A net that somebody watched"


def test_a_class_of_odd_runs_alone_has_no_border_yet(odd_server):
    odd_server.manager.delete(LENET.id)
    page = in_shell("classroom")
    assert not page.exception and "becomes a point here once it has ended" in text(page)


def test_open_on_an_odd_card_leads_to_the_lab_with_its_run(odd_server):
    page = in_shell("classroom", {"class_open": "odd-7f"})
    assert not page.exception and panels(page, "live")[0]["id"] == "odd-7f"


@pytest.mark.parametrize("name, query", [("sweep", {}), ("lessons", {"lesson": next(iter(LESSONS))})])
def test_what_runs_take_is_estimated_from_the_lenets_alone(odd_server, name, query):
    odd_server.store.save(odd.odd_run(odd.OddRecipe("odd-9", "Long enough to be measured"), 30))
    assert not in_shell(name, **query).exception


def test_the_route_of_an_odd_runs_first_step_has_no_theory(odd_server):
    import app  # here: it takes a second

    odd_reply, lenet = (ask(app.app, f"/api/runs/{id}/profile", "step=0", host="localhost") for id in ("odd-7f", LENET.id))
    assert (odd_reply.status, lenet.status) == (200, 200)
    assert b'"theory":null' in odd_reply.body and b'"theory":{"weight_grad_rms":[' in lenet.body


def test_the_archive_has_the_odd_runs_with_their_people_beside_a_lenet(odd_server):
    made = b"".join(archive(odd_server.manager.each(), lambda run_id: ("Ann",)))
    with zipfile.ZipFile(io.BytesIO(made)) as file:
        rows = pd.read_csv(file.open("runs.csv")).set_index("run")
        assert json.loads(file.read("odd-7f/config.json"))["names"] == list(odd.NAMES)
        assert file.read("odd-7f/steps.csv").count(b"\n") == 1 + 6
    assert set(rows.index) == {"odd-7f", "odd-8", LENET.id} and set(rows["names"]) == {"Ann"}
    assert rows.loc["odd-8", "title"] == "Another net" and rows.loc[LENET.id, "blocks"] == 1
