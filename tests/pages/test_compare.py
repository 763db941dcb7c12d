"""Compare: what differs is told, one click makes a variant, and eight deep runs open at once."""

import re
import time
from dataclasses import replace

import pytest
from playwright.sync_api import Page, expect
from recorded import finished_run
from streamlit.testing.v1 import AppTest
from viewing import opened, text

from gradviz.lenet.config import READERS, RunConfig
from gradviz.record.arithmetic import Arithmetic, arithmetic_text
from gradviz.record.run import Run
from gradviz.store.store import RunStore
from gradviz.ui.server import server

BASE = RunConfig(activation="relu", blocks=1, batch_size=4, steps=20, dataset="digits", shortcut=True)


def compare(*runs: Run, **query: str) -> AppTest:
    return opened("compare", **{"runs": ",".join(run.id for run in runs), **query})


def test_an_empty_server_sends_the_reader_to_the_lab(page_server):
    assert "Nothing has been trained" in text(compare())


def test_the_table_shows_what_differs_and_the_line_below_it_what_is_shared(page_server):
    runs = [finished_run(BASE), finished_run(replace(BASE, lr=0.01))]
    page_server.store.save(*runs)
    page = compare(*runs)
    table = page.table[0].value
    assert list(table["Learning rate"]) == ["0.001", "0.01"] and "Blocks" not in table.columns and "Seed" not in table.columns
    assert "relu" in text(page) and "shortcut" in text(page) and "1 block" in text(page)


def test_runs_that_were_not_computed_alike_are_said_to_be(page_server):
    here = Arithmetic("cpu", "AVX2 x86_64", "", 1, "2.13.0")
    runs = [finished_run(replace(BASE, seed=seed)) for seed in range(3)]
    for run, arithmetic in zip(runs, (here, replace(here, threads=2), None), strict=True):
        run.arithmetic = arithmetic
    page_server.store.save(*runs)
    for chosen in (runs[:2], runs[::2]):
        said = text(compare(*chosen))
        assert "Not computed alike" in said and all(arithmetic_text(run.arithmetic) in said for run in chosen)
    page_server.store.save(same := replace(runs[0], recipe=replace(BASE, seed=9)))
    assert "Not computed alike" not in text(compare(runs[0], same))


def test_a_run_that_is_not_here_and_a_ninth_are_left_out(page_server):
    runs = [finished_run(replace(BASE, seed=seed)) for seed in range(9)]
    page_server.store.save(*runs)
    page = compare(*runs, runs=",".join(["0123456789ab", "../x", *(run.id for run in runs)]))
    assert len(page.multiselect(key="compare_runs").value) == 8


def test_one_click_starts_the_same_run_with_one_change_and_compares_it(page_server):
    run = finished_run(BASE)
    page_server.store.save(run)
    page = compare(run)
    page.button(key="change shortcut on or off").click().run()
    assert not page.exception
    variant = replace(BASE, shortcut=False)
    assert server().manager.get(variant.id) is not None
    assert page.multiselect(key="compare_runs").value == [run.id, variant.id]
    assert server().manager.wait(variant.id, 100)


def test_a_change_that_leads_out_of_range_is_refused_with_a_sentence(page_server):
    run = finished_run(replace(BASE, lr=10.0))
    page_server.store.save(run)
    page = compare(run)
    page.button(key="change learning rate × 10").click().run()
    assert "must be a number from 1e-07 to 10" in page.error[0].value


EIGHT = [RunConfig(activation="relu", blocks=40, shortcut=True, seed=seed, steps=300) for seed in range(8)]


def test_eight_runs_of_85_layers_open_within_a_second_of_computing(page_server):
    runs = [finished_run(config, 300) for config in EIGHT]
    page_server.store.save(*runs)
    compare(runs[0])  # imports and caches are the server's start, not the page's
    before = time.process_time()
    compare(*runs)
    spent = time.process_time() - before
    print(f"{spent:.2f} s of processor time")
    assert spent < 2.0  # one second of a quiet core; a busy machine's second counts for less


@pytest.mark.timeout(300)
def test_a_reader_sees_eight_heatmaps_and_a_difference(page: Page, start_server, tmp_path):
    server = start_server(GRADVIZ_DATA="/nonexistent")
    server.kill()
    store = RunStore(server.store, READERS)
    store.save(*(finished_run(config, 300) for config in EIGHT))
    store.close()
    server.start()
    page.goto(f"{server.url}/compare?runs={','.join(config.id for config in EIGHT)}")
    expect(page.get_by_text("Difference of two")).to_be_visible(timeout=100_000)
    page.wait_for_function("document.querySelectorAll('.imagelayer image').length >= 9", timeout=60_000)
    expect(page.get_by_text(re.compile("In common: relu"))).to_be_visible()
    # The page's own colours, not plotly's: a grid of text colour on the background.
    assert re.fullmatch(r"rgb\(\d+,\d+,\d+\)", page.evaluate("document.querySelector('.gv-figure')._fullLayout.xaxis.gridcolor"))
    page.get_by_role("link", name="Lab").first.click()
    page.locator("[data-mode=preview]").wait_for(timeout=60_000)
    page.get_by_role("link", name="Compare").first.click()  # what was chosen is chosen still
    page.wait_for_function("document.querySelectorAll('.imagelayer image').length >= 9", timeout=60_000)
