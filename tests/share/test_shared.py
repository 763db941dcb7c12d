"""A shared file: how it is made, by the command and for a page, and how large it is."""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from asgi import ask
from recorded import extend, finished_run, new_run
from spooled import READERS as WATCHED
from spooled import Spooled
from starlette.applications import Starlette

from gradviz.__main__ import main
from gradviz.lenet.config import READERS, RunConfig
from gradviz.lenet.lessons.catalogue import LESSONS
from gradviz.record.history import History
from gradviz.record.quantities import QUANTITIES
from gradviz.record.run import Run, Status
from gradviz.record.spool import read_spool
from gradviz.serve.desk import Desk
from gradviz.share import page
from gradviz.share.kept import MOST_EXACT, Body, kept
from gradviz.share.outcome import run_shared
from gradviz.share.routes import shared_pages
from gradviz.store.store import RunStore
from gradviz.web.download import download_routes
from gradviz.words import speaking

SMALL = RunConfig(blocks=1, steps=5, dataset="digits")


def contents(file: bytes) -> str:
    """What the file has packed, as far as it is text."""
    packed = re.search(rb'id="content">([A-Za-z0-9+/=]+)</script>', file)
    return gzip.decompress(base64.b64decode(packed[1])).decode("utf-8", "ignore")


def drifting(blocks: int, steps: int) -> Run:
    """A run whose numbers move as those of a net do: slowly, with noise in every digit."""
    config = RunConfig(blocks=blocks, steps=steps)
    random = np.random.default_rng(0)
    moved = random.normal(0, 0.03, (steps, len(QUANTITIES), config.layers)).cumsum(axis=0)
    level = np.linspace(-9, -2, config.layers) + moved + random.normal(0, 0.15, moved.shape)
    scalars = np.column_stack([random.normal(2.3, 0.1, steps), random.random(steps), np.arange(steps)])
    history = History.restored((10.0**level).astype(np.float32), scalars, [(0, 0.1)], 1, 1000)
    return Run(config, history, Status.FINISHED, "cpu, 1 thread")


@pytest.mark.parametrize(("blocks", "steps", "most"), [(12, 300, 2e6), (40, 500, 3e6)])
def test_a_file_is_as_small_as_it_is_promised(blocks, steps, most):
    size = len(page.written(run_shared(drifting(blocks, steps))))
    print(f"{blocks} blocks, {steps} steps: {size:,} bytes")
    assert size < most


def test_of_a_run_with_too_many_numbers_some_columns_are_exact_the_ends_among_them_and_it_is_said():
    run = drifting(500, 300)
    body = Body()
    told = kept(run, body)["kept"]
    exact = told["exact"]
    assert exact[0] == 0 and exact[-1] == 299 and 50 < len(exact) < 300
    assert len(exact) * run.history.columns[0].nbytes < 1.1 * MOST_EXACT
    assert "exact numbers of some steps" in contents(page.written(run_shared(run)))
    assert "exact numbers of some steps" not in contents(page.written(run_shared(drifting(2, 20))))


def test_a_run_that_goes_on_is_shared_as_it_is_now_and_one_without_a_step_is_not():
    run = new_run(blocks=1)
    with pytest.raises(ValueError, match="no step"):
        kept(run, Body())
    extend(run, 5)
    run.status = Status.RUNNING
    told = kept(run, Body())["kept"]
    extend(run, 3)
    assert told["header"]["steps"] == 5 and told["header"]["live"] is False and told["header"]["status"] == "running"


# The command


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "Läufe # 数"
    store = RunStore(place, {**READERS, **WATCHED})
    store.save(finished_run(SMALL, 5), finished_run(replace(SMALL, seed=1), 5))
    store.close()
    return place


def test_the_command_writes_a_page_beside_a_server_that_uses_the_folder(folder, capsys):
    server = RunStore(folder, READERS)
    out = folder / "a 'b' \"c\" # ü <d>.html"
    assert main(["share", SMALL.id[:8], "--folder", str(folder), "-o", str(out), "--server", "https://a.example/x"]) == 0
    assert f"{out.stat().st_size:,} bytes" in capsys.readouterr().out
    text = contents(out.read_bytes())
    assert "https://a.example/x/?" in text and SMALL.id in text and "python -m gradviz train --blocks 1" in text
    assert server.load(SMALL.id).status is Status.FINISHED
    server.close()


def test_a_watched_net_is_shared_from_its_file_and_by_its_id(tmp_path, capsys):
    spool = Spooled(tmp_path)
    spool.steps(6, every=2)
    spool.end()
    for name in (str(spool.path), spool.id):
        out = tmp_path / "out.html"
        assert main(["share", name, "--folder", str(tmp_path), "-o", str(out)]) == 0, capsys.readouterr().err
        assert "A net, SGD" in contents(out.read_bytes()) and "still_share" in contents(out.read_bytes())
        out.unlink()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nosuch"], 2, "has an id that begins with nosuch; the newest there: "),
        ([""], 2, "Several runs of "),
        ([SMALL.id, "--server", "javascript:alert(1)"], 2, "--server must be an address"),
        ([SMALL.id, "-o", "{folder}/none/x.html"], 1, "{folder}/none/x.html: No such file or directory"),
        ([SMALL.id, "-o", "{folder}"], 1, "{folder}: "),
        ([SMALL.id, "--folder", "{folder}/none"], 1, "No runs are kept in the folder {folder}/none."),
    ],
)
def test_what_cannot_be_shared_is_said_in_one_sentence_and_nothing_is_left(words, code, said, folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    before = sorted(folder.parent.rglob("*"))
    named = [word.format(folder=folder) for word in words]
    assert main(["share", *named, *([] if "--folder" in named else ["--folder", str(folder)])]) == code
    told = capsys.readouterr().err
    assert said.format(folder=folder) in told and told.count("\n") == 1
    assert [path for path in sorted(folder.parent.rglob("*")) if not path.name.startswith("runs.")] == [
        path for path in before if not path.name.startswith("runs.")
    ]


# For a page


def test_a_page_gets_the_file_in_its_readers_language_with_the_way_back_that_its_browser_knows():
    run = finished_run(SMALL, 5)
    own = download_routes(lambda _: run, lambda: Desk(memory_left=lambda: None), list, lambda: "key", pages=shared_pages(
        lambda id: run if id == run.id else None))  # fmt: skip
    app = Starlette(routes=own)
    with speaking("zh_CN"):
        reply = ask(app, f"/api/runs/{run.id}/shared.html", "home=https%3A%2F%2Fschool.example%2Fgradviz%2F")
    assert reply.headers["content-disposition"] == f'attachment; filename="gradviz-{run.id}.html"'
    text = contents(reply.body)
    assert '"href":"https://school.example/gradviz/?' in text and "重放" in text and '<html lang="zh-CN"' in reply.text
    assert '"home":null' in contents(ask(app, f"/api/runs/{run.id}/shared.html", "home=javascript:alert(1)//").body)
    assert ask(app, "/api/runs/nosuch/shared.html").status == 404
    assert ask(app, f"/api/runs/{run.id}/layers.csv").status == 200


def asked(runs: list[Run], path: str, query: str) -> str:
    """What a page of these runs has packed; empty if there is none."""
    known = {run.id: run for run in runs}
    own = download_routes(known.get, lambda: Desk(memory_left=lambda: None), list, lambda: "key", pages=shared_pages(known.get))
    reply = ask(Starlette(routes=own), f"/api/{path}/shared.html", query)
    assert (reply.status == 200) == reply.text.startswith("<!doctype")
    return contents(reply.body) if reply.status == 200 else ""


def test_a_comparison_is_one_file_of_all_its_runs_with_their_differences_and_pictures(tmp_path):
    spool = Spooled(tmp_path)
    spool.steps(6)
    spool.end()
    one, two, other = finished_run(SMALL, 5), finished_run(replace(SMALL, lr=0.01), 5), read_spool(spool.path)
    text = asked([one, two, other], "comparison", f"runs={one.id},{two.id},{one.id}&quantity=activation_rms&home=http://a.b")
    assert "2 runs compared" in text and "lr 0.01" in text and "In common: " in text and f"runs={one.id}%2C{two.id}" in text
    assert text.count('"kind":"figure"') == 6 and text.count('"pictures":') == 2
    mixed = asked([one, two, other], "comparison", f"runs={one.id},{other.id}")
    assert "A net, SGD" in mixed and text.count('"pictures":') == 2
    for query in ("", f"runs={one.id}", f"runs={one.id},nosuch", f"runs={one.id},{two.id}&quantity=colour"):
        assert asked([one, two, other], "comparison", query) == ""


def test_the_outcome_of_a_lesson_is_one_file_with_the_prediction_and_what_was_measured():
    lesson = LESSONS["shortcut-fails"] if "shortcut-fails" in LESSONS else next(iter(LESSONS.values()))
    runs = [finished_run(config, min(config.steps, 30)) for config in lesson.sweep("digits").configs]
    word = next(iter(lesson.choices), None) or f"{lesson.number[0]:g}"
    text = asked(runs, f"lessons/{lesson.id}", f"dataset=digits&prediction={word}&home=http://a.b")
    finding = lesson.conclude(runs)
    assert lesson.question in text and "Predicted: " in text and finding.answer_text.split(",")[0] in text
    assert all(json.dumps(part.statement, ensure_ascii=False)[1:-1] in text for part in finding.parts)
    assert f"lessons?lesson={lesson.id}" in text and '"kind":"figure"' in text
    assert "Predicted: " not in asked(runs, f"lessons/{lesson.id}", "dataset=digits&prediction=%3Cscript%3E")
    assert asked(runs[1:], f"lessons/{lesson.id}", "dataset=digits") == asked(runs, "lessons/nosuch", "") == ""


@pytest.mark.parametrize("given", [
    "javascript:alert(1)", "file:///etc", "//a.b", "http://", "http://[", "data:text/html,x", "http://a b\x00", "x" * 400, "ftp://a",
])  # fmt: skip
def test_no_other_address_than_one_of_the_web_is_linked_to(given):
    assert page.safe_home(given) is None
    assert page.safe_home("http://10.0.0.1:8501/a?b#c") == "http://10.0.0.1:8501/a/"


def test_what_stands_in_the_file_outside_its_packed_parts_is_escaped_and_no_script_could_end_early():
    run = finished_run(SMALL, 5)
    shared = page.Shared('</title><script>alert("1")</script>&\ud800', [], [run])
    text = page.written(shared).decode()
    assert f"<title>{html.escape(shared.title).replace(chr(0xD800), '?')}</title>" in text
    scripts = ['<script type="text/plain" id="content">', '<script type="text/plain" id="plotly">', '<script type="module">']
    assert re.findall(r"<script[^>]*>", text) == scripts
    assert text.count("</script") == 3 and "<!--" not in text.partition('<script type="module">')[2]
