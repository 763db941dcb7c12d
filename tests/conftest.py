"""What several tests need: the data of the lessons, a real server, a real browser."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

# One thread: no fight for the cores. Two are another arithmetic, under which the tests hold too. Before torch is imported.
os.environ["OMP_NUM_THREADS"] = os.environ.get("GRADVIZ_TEST_THREADS", "1")
os.environ.setdefault("GRADVIZ_TRAIN_IN", "thread")  # a server of a test is there the sooner; processes have tests of their own
os.environ.setdefault("GRADVIZ_THREADS", "1")  # nor do numbers hang on which cores are free, but where a test says so
os.environ.setdefault("GRADVIZ_DOWNLOAD", "off")  # no test waits for the network

import pytest

pytest.register_assert_rewrite("recorded", "timing", "viewing")

from chromium import MISSING, find
from clusters import TOKEN, LoopbackCluster
from running import ROOT, Server
from timing import Clock

UNMARKED_STEPS = 19  # of an optimiser, which a test may take without the mark `trains`; an outcome is judged by 20


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder that holds MNIST; a lesson on real MNIST is skipped where there is none."""
    folder = Path(os.environ.get("GRADVIZ_DATA", ROOT / "data")).resolve()
    if not (folder / "MNIST" / "raw").is_dir():
        pytest.skip(f"MNIST is not in {folder}: set GRADVIZ_DATA to a folder that holds it")
    return folder


@pytest.fixture(scope="module")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """start_server(GRADVIZ_WORKERS="1", ...) gives a running Server on an empty store; all are killed after the module."""
    servers: list[Server] = []

    def start(**environment: str) -> Server:
        servers.append(Server(tmp_path_factory.mktemp("server"), environment))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@pytest.fixture(scope="module")
def server(start_server: Callable[..., Server]) -> Server:
    """One running server for the tests of a module."""
    return start_server()


@pytest.fixture(scope="session")
def loopback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackCluster]:
    """One Ray cluster for all tests of a process: its head, and the computer "first" with two slots and without data sets, which
    waits 5 s for another head where 60 are usual."""
    before = os.environ.get("RAY_AUTH_TOKEN")
    os.environ["RAY_AUTH_TOKEN"] = TOKEN
    loopback = LoopbackCluster(GRADVIZ_DATA=str(tmp_path_factory.mktemp("there")), RAY_gcs_rpc_server_reconnect_timeout_s="5")
    try:
        loopback.computer("first", slots=2)
        yield loopback
    finally:
        loopback.close()
        os.environ.pop("RAY_AUTH_TOKEN")
        os.environ.update({"RAY_AUTH_TOKEN": before} if before else {})


@pytest.fixture
def page_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """What the pages share, gradviz.ui.server.Server, for a test that runs a page without a browser: on an empty store and
    without MNIST; `close_server()` and `server.clear()` make it start again."""
    from gradviz.ui.server import close_server, server  # here: few tests need it, and it takes a second

    monkeypatch.setenv("GRADVIZ_STORE", str(tmp_path / "runs"))
    monkeypatch.setenv("GRADVIZ_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("GRADVIZ_DOWNLOAD", "off")
    server.clear()
    yield server()
    close_server()
    server.clear()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For a test that compares its own numbers with those of a worker of one thread, however many the suite is played with."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def browser_type_launch_args() -> dict[str, object]:
    """Read by pytest-playwright. Without a Chromium every test that asks for a page is skipped, with the reason."""
    path = find()
    if path is None:
        pytest.skip(MISSING)
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    return {"executable_path": path, "args": ["--headless=new", "--no-sandbox", "--disable-gpu", *quiet]}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test that opens a page carries the mark `browser`: `pytest -m "not browser"` leaves them out."""
    for item in items:
        if {"page", "context", "browser"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.browser)


_taken = pytest.StashKey[list[int]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_taken] = []


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Counts the steps that tests take themselves; those in a manager's threads come and go with time."""
    taken = item.config.stash[_taken]
    if not taken and "torch" in sys.modules:
        from torch.optim.optimizer import register_optimizer_step_post_hook

        taken.append(0)

        def count(*_: object) -> None:
            taken[0] += threading.current_thread() is threading.main_thread()

        register_optimizer_step_post_hook(count)
    if taken:
        taken[0] = 0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """What trains must say so: only then is it run again under other arithmetics."""
    yield
    steps = sum(item.config.stash[_taken])
    if steps > UNMARKED_STEPS and not item.get_closest_marker("trains"):
        pytest.fail(f"{item.name} takes {steps} steps of an optimiser: mark it `trains`", pytrace=False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Repeats what `make audit` had to say before, where nobody who reads the end can miss it."""
    said = ROOT / ".venv" / "audit.txt"
    if said.exists() and (text := said.read_text(encoding="utf-8").strip()).startswith("NOT AUDITED"):
        terminalreporter.write_line(f"dependencies {text}", yellow=True)
