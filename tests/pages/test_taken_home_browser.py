"""What the page of a finished run gives to take home, each by its button: one file to show, a notebook, the trained weights."""

from __future__ import annotations

import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from urllib.request import urlopen

import pandas as pd
import pytest
import torch
from playwright.sync_api import Page, expect

from gradviz.lenet.config import RunConfig

SECONDS = 1000  # Playwright counts in milliseconds
CONFIG = RunConfig(
    activation="relu", blocks=1, batch_size=8, steps=12, dataset="digits", device="cpu", warmup=4, schedule="cosine", lr=0.01
)


@pytest.fixture
def threads():
    """The programs set torch's number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def pressed(page: Page, button: str, folder: Path) -> Path:
    """The file that the button gives."""
    with page.expect_download(timeout=60 * SECONDS) as download:
        page.get_by_role("button", name=button, exact=True).click(timeout=60 * SECONDS)
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def executed(parts: list[str]) -> tuple[list[str], dict]:
    """What pieces of a program print, one after the other, and the names they leave."""
    printed, names = StringIO(), {"__name__": "__main__"}
    with redirect_stdout(printed):
        for part in parts:
            exec(compile(part, "part", "exec"), names)
    return printed.getvalue().splitlines(), names


@pytest.mark.trains
@pytest.mark.usefixtures("threads")
def test_a_finished_run_is_taken_home_as_a_file_as_a_notebook_and_as_weights(page: Page, browser, server, tmp_path, monkeypatch):
    query = "&".join(f"{name}={word}" for name, word in CONFIG.to_query().items())
    page.goto(f"{server.url}/?{query}")
    page.get_by_role("button", name="Start").click(timeout=60 * SECONDS)
    page.wait_for_function("document.querySelector('[data-mode=live]')?.dataset.status === 'finished'", timeout=90 * SECONDS)
    steps = pd.read_csv(StringIO(urlopen(f"{server.url}/api/runs/{CONFIG.id}/steps.csv").read().decode()))

    shared = pressed(page, "Share as one file", tmp_path)
    offline = browser.new_context(offline=True)
    file, wrong = offline.new_page(), []
    file.on("pageerror", lambda error: wrong.append(str(error)))
    file.on("request", lambda asked: wrong.append(asked.url) if asked.url.startswith(("http", "ws")) else None)
    file.goto(shared.as_uri())
    live = file.locator(".gv")
    expect(live).to_have_attribute("data-plots", "drawn", timeout=60 * SECONDS)
    expect(live).to_have_attribute("data-steps", "12")
    expect(file.get_by_text("--warmup 4 --schedule cosine")).to_be_visible()
    back = file.get_by_role("link", name="The same on the pages of gradviz").get_attribute("href")
    assert back.startswith(f"{server.url}/?run={CONFIG.id}&") and not wrong
    offline.close()

    page.get_by_text("The PyTorch code of these settings").click()
    book = json.loads(pressed(page, "As a notebook", tmp_path).read_text(encoding="utf-8"))
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5) and book["cells"][0]["cell_type"] == "markdown"
    said, _names = executed(["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code"])
    assert [float(line.split()[3]) for line in said if line.startswith("step")] == pytest.approx(list(steps["loss"]), rel=1e-4)
    tested = said[-1]

    weights = pressed(page, "The trained weights", tmp_path)
    program = pressed(page, "The code that loads them", tmp_path)
    assert weights.suffix == ".safetensors" and weights.name in program.read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    (said,), _names = executed([program.read_text(encoding="utf-8")])
    assert said == tested and said.startswith("test accuracy 0.")
