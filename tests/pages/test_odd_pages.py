"""The pages of a run that is no deep LeNet's: what applies is there, and what does not is left out."""

from __future__ import annotations

from dataclasses import replace

import odd
import pytest
from recorded import finished_run
from viewing import keys, opened, text

from gradviz.lenet.config import READERS, RunConfig
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
    assert "Learning rate" not in table.columns and "In common" not in text(page) and "10 % is chance" not in text(page)
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
    headings = [heading.value for heading in page.subheader]
    assert "Gradient sizes, layer by layer" in headings and "When did each layer wake up?" in headings
    assert "Two ways back" not in headings and "Dotted: what theory predicts" not in text(page)
    assert "A net that somebody watched — finished, 6" in page.selectbox[0].options


def test_anatomy_shows_one_layer_of_an_odd_net_by_its_name(odd_server):
    page = opened("anatomy", run="odd-7f", view="layer", layer="mixer.π/in", step="0")
    assert not page.exception and page.selectbox(key="anatomy_layer").value == "mixer.π/in"
    assert page.selectbox(key="anatomy_layer").options == list(odd.NAMES)
    assert {"Its course", "How large its entries are"} <= {heading.value for heading in page.subheader}
    assert "No pictures were kept of this run." in text(page)


def test_anatomy_of_an_odd_run_without_distributions_shows_its_profile(odd_server):
    run = odd.odd_run(odd.OddRecipe("odd-9", "Bare"))
    run.history.samples.clear()
    odd_server.store.save(run)
    page = opened("anatomy", run="odd-9")
    assert not page.exception and "recorded without distributions" in text(page)
