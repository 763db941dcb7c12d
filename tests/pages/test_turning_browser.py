"""A knob that is turned by hand while a net trains, in a browser: the mark, the sentence, and the link that does it again."""

import re
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import torch
from playwright.sync_api import Page, expect

from gradviz.lenet.config import READERS, RunConfig
from gradviz.lenet.data import Shelf
from gradviz.lenet.experiment import training
from gradviz.store.store import RunStore

LIVE = "[data-mode=live]"
SECONDS = 1000  # Playwright counts in milliseconds
STUCK = "activation=relu&blocks=9&lr=0.001&batch_size=8&dataset=digits&steps=3000&device=cpu"


@pytest.mark.trains
@pytest.mark.usefixtures("one_thread")
def test_the_rate_of_a_stuck_net_is_turned_by_hand_and_its_link_gives_the_same_run(start_server, page: Page, tmp_path) -> None:
    server = start_server(GRADVIZ_THREADS="1", GRADVIZ_WORKERS="1")
    page.set_default_timeout(90 * SECONDS)
    page.set_viewport_size({"width": 1280, "height": 1500})
    page.goto(f"{server.url}/?{STUCK}")
    page.get_by_role("button", name="Start").click()
    page.wait_for_function(f"Number(document.querySelector('{LIVE}')?.dataset.steps) > 20")
    parent = page.locator(LIVE).get_attribute("data-id")
    page.get_by_text("Turn a knob while it trains").click()
    field = page.get_by_test_id("stForm").get_by_label("Learning rate", exact=True)
    field.fill("0.0003")
    page.get_by_role("button", name="Turn", exact=True).click()
    page.wait_for_function(f"document.querySelector('{LIVE}')?.dataset.id !== '{parent}'")
    sentence = page.get_by_text(re.compile(r"^At step \d+ the learning rate became 0.0003\."))
    expect(sentence.first).to_be_visible(timeout=60 * SECONDS)
    page.wait_for_function("['loss', 'accuracy', 'heatmap'].every((name) => "
                           "document.querySelectorAll(`.gv-${name} .shapelayer path`).length)")  # fmt: skip
    assert page.locator(".gv-loss .annotation-text").all_text_contents() == ["lr 0.0003"]
    page.get_by_role("button", name="Stop").click()
    page.wait_for_selector(f"{LIVE}[data-status=stopped]")
    page.wait_for_url(re.compile("changes="))
    query = {name: words for name, (words,) in parse_qs(urlsplit(page.url).query).items()}
    run_id, config = query["run"], RunConfig.from_query(query)[0]
    ((step, *turned),) = config.changes
    assert turned == ["lr", 3e-4] and config.id == run_id != parent and step > 20
    server.stop()
    store = RunStore(server.store, READERS)
    run, before = store.load(run_id), store.load(parent)
    store.close()
    losses = run.history.loss.tolist()
    assert before.history.loss.tolist() == losses[:step] and before.recipe == RunConfig.from_query(
        {name: words for name, words in query.items() if name != "changes"})[0]  # fmt: skip
    again = training(config, Shelf(tmp_path, download=False).load("digits"), torch.device("cpu"))
    assert [record.loss for record, _ in zip(again, losses, strict=False)] == losses
    assert np.isfinite(losses).all()
