from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page
from running import Server

from gradviz.lenet.config import READERS
from gradviz.record.run import Run
from gradviz.store.store import RunStore


@pytest.fixture(scope="module")
def serve_runs(tmp_path_factory) -> Iterator[Callable[..., Server]]:
    """serve_runs(run, …, GRADVIZ_PIN="1234") gives a running Server whose store holds these; killed after the module."""
    servers = []

    def serve(*runs: Run, **environment: str) -> Server:
        settings = {"GRADVIZ_DATA": "/nonexistent", "GRADVIZ_WORKERS": "1"}
        servers.append(Server(tmp_path_factory.mktemp("site"), settings | environment))
        store = RunStore(servers[-1].store, READERS)
        store.save(*runs)
        store.close()
        servers[-1].start()
        return servers[-1]

    yield serve
    for server in servers:
        server.kill()


@pytest.fixture(scope="module")
def reader(browser) -> Iterator[Page]:
    """One tab for the whole module: a page that opens anew finds its scripts there."""
    page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
    page.set_default_timeout(60_000)
    yield page
    page.context.close()
