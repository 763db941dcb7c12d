"""A script that is watched, from its first steps to its violent end, as a page shows it that is open all the while."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from heatmap import place
from playwright.sync_api import Page, expect
from running import ROOT, Server
from timing import until

from gradviz.record.spool import SUFFIX, read_spool

LIVE = "[data-mode=live]"
SECONDS = 1000  # Playwright counts in milliseconds
SCRIPT = """
    import time, torch, gradviz
    from torch import nn
    torch.set_num_threads(1)
    torch.manual_seed(0)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.feedforward = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return x + 0.1 * self.feedforward(torch.tanh(self.attention(x)))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.head = nn.Linear(4, 4), nn.Linear(4, 2)
            self.encoder = nn.Sequential(*(Block() for _ in range(149)))

        def forward(self, x):
            return self.head(self.encoder(self.stem(x)))

    net = Net()
    net.encoder[0].attention.weight.requires_grad_(False)
    optimizer = torch.optim.SGD(net.parameters(), 1e-3)
    run = gradviz.watch(net, optimizer, every=1, title="Three hundred layers")
    x, y = torch.randn(8, 4), torch.arange(8) % 2
    while True:
        loss = nn.functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.log(loss=loss)
        time.sleep(0.05)
"""


@pytest.fixture
def script(server: Server) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "GRADVIZ_STORE": str(server.store), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(SCRIPT)], env=environment)
    yield process
    process.kill()
    process.wait()


def spool_of(server: Server) -> Path:
    return next((server.store / "watched").glob(f"*{SUFFIX}"), Path())


def rows(page: Page) -> list[str]:
    """Names of the heatmap's rows."""
    return page.locator("select[name=layer] option").all_inner_texts()[1:]


def steps(page: Page) -> int:
    return int(page.locator(LIVE).get_attribute("data-steps", timeout=60 * SECONDS) or 0)


def grown(page: Page, least: int) -> None:
    page.wait_for_function(f"document.querySelector('{LIVE}')?.dataset.painted > {least}", timeout=90 * SECONDS)


def test_a_script_is_seen_live_folded_unfolded_over_a_restart_of_the_server_and_to_its_violent_end(
    page: Page, server: Server, script: subprocess.Popen[bytes]
):
    until(lambda: spool_of(server).name, seconds=60)
    id = spool_of(server).stem
    page.set_viewport_size({"width": 1280, "height": 1800})
    page.goto(f"{server.url}/?run={id}")
    grown(page, 2)
    expect(page.locator("h1")).to_have_text("Three hundred layers")
    expect(page.locator("[data-figure=first_gradient] b")).to_have_text("Gradient at stem")
    expect(page.locator("[data-figure=every] span")).to_have_text("every step")

    folded = rows(page)
    assert 40 < len(folded) <= 60 and (folded[0], folded[-1]) == ("stem", "head") and "encoder.3 … 5" in folded
    group = folded.index("encoder.0 … 2")
    page.mouse.move(*place(page, 1, group))
    expect(page.locator(".gv-tip")).to_contain_text("encoder.0 … 2: the largest of 6 layers")
    page.mouse.click(*place(page, 1, group))
    expect(page.locator("select[name=layer]")).to_contain_text("encoder.0.attention", timeout=30 * SECONDS)
    assert rows(page) == [*folded[:group], *[
        f"encoder.{block}.{part}" for block in range(3) for part in ("attention", "feedforward")
    ], *folded[group + 1 :]]  # fmt: skip
    grown(page, steps(page))
    page.mouse.move(*place(page, 1, group))
    expect(page.locator(".gv-tip")).to_contain_text("not measured: it is frozen")
    page.get_by_role("button", name="Fold all").click()
    expect(page.locator("select[name=layer]")).not_to_contain_text("encoder.0.attention", timeout=30 * SECONDS)
    assert rows(page) == folded

    before = steps(page)
    server.restart()
    grown(page, before)
    expect(page.locator("h1")).to_have_text("Three hundred layers")

    script.kill()
    script.wait()
    page.wait_for_selector(f"{LIVE}[data-status=interrupted]", timeout=60 * SECONDS)
    expect(page.locator(".gv-progress")).to_contain_text("Interrupted: its process ended")
    expect(page.locator(".gv-state")).to_contain_text("what it recorded is here, but for the last second")
    assert steps(page) == read_spool(spool_of(server)).history.steps > before
