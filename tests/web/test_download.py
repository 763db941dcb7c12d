"""Files to take home are made while they are sent: the same contents, little memory, and a place in the line."""

from __future__ import annotations

import asyncio
import io
import re
import threading
import tracemalloc
import zipfile
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from asgi import ask
from axe import settled
from playwright.sync_api import Page, expect
from starlette.applications import Starlette

from gradviz.lenet.config import READERS, RunConfig
from gradviz.record import export
from gradviz.record.history import History
from gradviz.record.quantities import QUANTITIES
from gradviz.record.run import Run, Status
from gradviz.serve.archive import archive
from gradviz.serve.desk import Desk
from gradviz.store.store import RunStore
from gradviz.web.download import download_routes

SMALL = RunConfig(blocks=1, steps=30)


def recorded(config: RunConfig, steps: int) -> Run:
    random = np.random.default_rng(0)
    columns = (10 ** random.uniform(-9, 0, (steps, len(QUANTITIES), config.layers))).astype(np.float32)
    scalars = np.column_stack([np.linspace(2.3, 0.5, steps), np.linspace(0.1, 0.9, steps), np.arange(steps)])
    return Run(config, History.restored(columns, scalars, [(0, 0.1)], 1, 1000), Status.FINISHED, "cpu")


def app(run: Run | None = None, desk: Desk | None = None, **options: object) -> Starlette:
    desk = desk or Desk(memory_left=lambda: None)
    return Starlette(routes=download_routes(
        lambda id: run, lambda: desk, lambda: archive([run], lambda id: ("Ann",)), lambda: "the key", **options,
    ))  # fmt: skip


@pytest.mark.parametrize("name", export.FILES)
def test_a_file_of_a_run_comes_under_its_name_and_is_what_was_recorded(name):
    run = recorded(SMALL, 30)
    reply = ask(app(run), f"/api/runs/{run.id}/{name}")
    assert reply.status == 200 and reply.headers["content-disposition"] == f'attachment; filename="gradviz-{run.id}-{name}"'
    assert reply.headers["content-encoding"] == "identity"  # not packed again by whoever stands before
    read = pd.read_csv if name.endswith("csv") else pd.read_parquet
    table = read(io.BytesIO(reply.body))
    whole = export.layer_table(run) if name.startswith("layers") else export.step_table(run)
    assert list(table.columns) == list(whole.columns) and len(table) == len(whole)
    last = "weight_grad_rms" if name.startswith("layers") else "loss"
    assert np.array_equal(table[last].to_numpy(whole[last].dtype), whole[last].to_numpy())


def test_a_deep_run_is_made_in_small_pieces_of_one_file():
    run = recorded(RunConfig(blocks=400, steps=60), 60)  # 48,300 rows, 6 MB as CSV
    for name, (make, _media) in export.FILES.items():
        pieces = list(make(run))
        print(name, [len(piece) for piece in pieces])
        assert max(map(len, pieces)) < 2e6 and (len(pieces) >= 5 or name.startswith("steps"))
    assert b"".join(export.FILES["layers.csv"][0](run)).decode() == export.csv(export.layer_table(run))


def test_the_archive_of_many_runs_takes_the_memory_of_one():
    config = RunConfig(blocks=100, steps=100)

    def runs():
        for seed in range(12):
            yield recorded(replace(config, seed=seed), 100)

    tracemalloc.start()
    size = sum(len(piece) for piece in archive(runs(), lambda id: ()))
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"{size / 1e6:.1f} MB, peak {peak / 1e6:.1f} MB")
    assert size > 6e6 and peak < size


def test_the_archive_is_for_who_knows_its_key():
    run = recorded(SMALL, 30)
    for query in ("", "key=", "key=wrong", "key=%F0%9F%98%80"):
        reply = ask(app(run), "/api/archive", query)
        assert reply.status == 403 and "for the teacher" in reply.text
    body = ask(app(run), "/api/archive", "key=the%20key").body
    assert zipfile.ZipFile(io.BytesIO(body)).testzip() is None


def test_what_there_is_not_is_said_and_leaves_no_place_taken():
    desk = Desk(memory_left=lambda: None)
    assert ask(app(None, desk), "/api/runs/abc/layers.csv").status == 404
    assert ask(app(recorded(SMALL, 3), desk), "/api/runs/abc/passwd").status == 404
    head = ask(app(recorded(SMALL, 3), desk), "/api/runs/abc/layers.csv", method="HEAD")
    assert head.status == 200 and head.body == b"" and desk.busy == 0


def test_without_memory_a_file_is_refused_503_before_it_begins_and_the_question_too():
    desk = Desk(memory_left=lambda: 1e6)
    for query in ("", "ask="):
        reply = ask(app(recorded(SMALL, 3), desk), "/api/runs/abc/layers.csv", query)
        assert (reply.status, reply.headers["retry-after"]) == (503, "10") and "too little memory" in reply.text
    assert desk.busy == 0


def test_the_question_says_the_place_in_the_line():
    desk = Desk(places=1, memory_left=lambda: None)
    page = app(recorded(SMALL, 3), desk)
    assert ask(page, "/api/runs/abc/layers.csv", "ask=").text == ""
    assert desk.serve(desk.line_up("ann"))
    desk.line_up("bob")
    assert "as number 2" in ask(page, "/api/runs/abc/layers.csv", "ask=").text
    assert desk.busy == 2


def test_who_takes_nothing_gives_his_place_back():
    desk = Desk(places=1, memory_left=lambda: None)
    begun = threading.Event()

    async def stalled() -> None:
        async def receive() -> dict:
            await asyncio.Event().wait()

        async def send(message: dict) -> None:
            if message["type"] == "http.response.body":
                begun.set()
                assert desk.busy == 1
                await asyncio.Event().wait()

        scope = {"type": "http", "method": "GET", "path": "/api/runs/abc/layers.csv", "query_string": b"", "headers": [],
                 "client": ("10.0.0.1", 1), "root_path": "", "asgi": {"spec_version": "2.4"}}  # fmt: skip
        await app(recorded(SMALL, 30), desk, stall=0.2)(scope, receive, send)

    asyncio.run(stalled())
    assert begun.is_set() and desk.busy == 0


@pytest.mark.timeout(300)
def test_a_reader_takes_the_layers_home_and_a_refusal_stands_on_the_page(page: Page, start_server, tmp_path):
    server = start_server(GRADVIZ_DATA="/nonexistent")
    server.kill()
    store = RunStore(server.store, READERS)
    config = RunConfig(blocks=4, steps=30, dataset="digits")
    run = recorded(config, 30)
    store.save(run)
    store.close()
    server.start()
    page.goto(f"{server.url}/?run={config.id}")
    settled(page)
    page.get_by_text("The data of this run").click(timeout=60_000)
    button = page.get_by_role("button", name="Layers as CSV")
    with page.expect_download() as download:
        button.click(timeout=60_000)
    assert download.value.suggested_filename == f"gradviz-{config.id}-layers.csv"
    download.value.save_as(tmp_path / "layers.csv")
    assert (tmp_path / "layers.csv").read_text() == export.csv(export.layer_table(run))
    page.route(re.compile(r"/layers\.csv\?.*\bask="), lambda route: route.fulfill(status=503, body="Too little memory."))
    button.click()
    expect(page.get_by_text("Too little memory.")).to_be_visible()
    page.screenshot(path=str(tmp_path / "downloads.png"))
