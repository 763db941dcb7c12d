"""What the benchmarks share: the data, the real server and browser, and tables."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from gradviz.lenet.config import RunConfig
from gradviz.lenet.data import Dataset, Shelf

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page, ViewportSize

    from tests.running import Server

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
WINDOW: ViewportSize = {"width": 1280, "height": 900}
COLUMNS = 500  # of a made-up history


def data_folder() -> Path:
    return Path(os.environ.get("GRADVIZ_DATA", ROOT / "data")).resolve()


@cache
def load_data() -> Dataset:
    """MNIST where it is, else the built-in digits."""
    shelf = Shelf(data_folder(), download=False)
    return shelf.load(shelf.effective("mnist")[0])


def relu_shortcut(blocks: int, batch: int) -> RunConfig:
    """The net that most tables are about, with more steps than anybody waits for."""
    return RunConfig(
        blocks=blocks, activation="relu", shortcut=True, dataset=load_data().name, steps=100_000, batch_size=batch
    )


@contextmanager
def running_app(program: str = "streamlit", **environment: str | None) -> Iterator[Server]:
    """The real server on an empty store, with one worker of one thread. None in `environment`: without this setting."""
    from tests.running import Server  # here: a machine with a card may know another `tests`

    with TemporaryDirectory() as scratch:
        settings = dict(GRADVIZ_WORKERS="1", GRADVIZ_THREADS="1", GRADVIZ_DATA=str(data_folder()), GRADVIZ_DOWNLOAD="off")
        wanted = {name: value for name, value in (settings | environment).items() if value is not None}
        server = Server(Path(scratch), wanted, program)
        server.start()
        try:
            yield server
        finally:
            server.kill()


@contextmanager
def chromium() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright  # here: most benchmarks need no browser

    from tests.chromium import find

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find(), args=CHROMIUM)
        yield browser
        browser.close()


@contextmanager
def new_profile() -> Iterator[BrowserContext]:
    """A browser as people open it, on its first day: its profile lies on disk, and what it compiles is kept there for the next
    visit. What `chromium` opens are private windows, which keep no such thing."""
    from playwright.sync_api import sync_playwright

    from tests.chromium import find

    with sync_playwright() as playwright, TemporaryDirectory() as profile:
        context = playwright.chromium.launch_persistent_context(profile, executable_path=find(), args=CHROMIUM, viewport=WINDOW)
        context.set_default_timeout(120_000)
        yield context
        context.close()


def live_page(browser: Browser, server: Server, blocks: int) -> tuple[Page, RunConfig]:
    """The Lab's page of a made-up run (benchmarks/replay.py) that goes on, once it shows COLUMNS columns; and the run."""
    page = browser.new_page(viewport=WINDOW)
    page.set_default_timeout(120_000)
    config = RunConfig(blocks=blocks, activation="relu", shortcut=True, dataset="digits", steps=100_000)
    page.goto(f"{server.url}/?" + "&".join(f"{key}={value}" for key, value in config.to_query().items()))
    page.get_by_role("button", name="Start").click()
    page.wait_for_function(f"document.querySelector('[data-mode=live]')?.dataset.steps > {COLUMNS}")
    page.wait_for_function("document.querySelector('[data-mode=live]')?.dataset.plots === 'drawn'")
    return page, config


def middle(values: Sequence[float], digits: int = 2) -> str:
    """Median and, in brackets, the quartiles; the ends if there are fewer than five."""
    ordered = sorted(values)
    place = len(ordered) // 4 if len(ordered) > 4 else 0
    return f"{statistics.median(ordered):.{digits}f} ({ordered[place]:.{digits}f} … {ordered[-1 - place]:.{digits}f})"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"
