"""Rubbish in every place where somebody may put it: no traceback, no 5xx, the server alive, the store as it was."""

import asyncio
import http.client
import json
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import quote, urlencode

import numpy as np
import pytest
from asgi import Question, ask_all
from starlette.applications import Starlette
from starlette.middleware import Middleware

from benchmarks.classroom import PAGES, Tab, Tally
from gradviz.lenet.config import FIELDS, READERS, ConfigError, RunConfig
from gradviz.lenet.data import Shelf
from gradviz.lenet.experiment import trainer_on
from gradviz.record.history import History, StepRecord
from gradviz.record.quantities import QUANTITIES
from gradviz.record.run import Run, Status
from gradviz.serve.classroom import Classroom
from gradviz.serve.manager import RunManager
from gradviz.serve.previews import Preview
from gradviz.store.store import RunStore
from gradviz.web.cards import Board, classroom_routes
from gradviz.web.guard import Guard
from gradviz.web.metrics import Metrics
from gradviz.web.routes import build_routes

REQUESTS, CONFIGS, OVER_HTTP, QUERIES_A_PAGE = 10_000, 1_000, 300, 6
NASTY = [
    "", " ", "0", "-1", "1e999", "nan", "inf", "-inf", "NaN", "0x10", "1_000", "²", "१२", "9" * 20, "9" * 1000,
    "true", "None", "null", "[]", "{}", '{"a":', "'; DROP TABLE runs; --", "../../etc/passwd", "..%2f..%2f", "%00",
    "\x00", "\x7f", "\n", "\r\nX: y", "<script>", "<img src=x onerror=alert(1)>", "${7*7}", "{0}", "{__class__}",
    "%s%n", "🦊", "\u202e", "é", "𝟙", "a" * 500, ",", ",,,", "&", "=", ";", "on", "off", "default", "relu", "sigmoid",
    "weight_grad_rms", "digits", "1000", "12", "100000", "-30", "15", "0.5",
]  # fmt: skip
NAMES = ["since", "stride", "quantity", "low", "high", "step", "run", "runs", "lesson", "prediction", "controls", "sweep",
         "layer", "view", "wall", "seen", "embed", "embed_options", *FIELDS]  # fmt: skip
PATHS = ["/api/runs/{}", "/api/runs/{}/profile", "/api/previews/{}", "/api/{}", "/live/{}", "/{}", "/metrics", "/ready",
         "/api/runs/", "//api//runs//{}", "/api/runs/{}/../x", "/live/live.js", "/api/classroom",
         "/api/classroom/notice"]  # fmt: skip


def word(chance: random.Random) -> str:
    kind = chance.randrange(4)
    if kind < 2:
        return chance.choice(NASTY)
    if kind == 2:
        return str(chance.choice((-1, 1)) * chance.randrange(10 ** chance.randrange(1, 15)))
    return "".join(chr(chance.choice((chance.randrange(32, 127), chance.randrange(0x2000)))) for _ in range(chance.randrange(12)))


def query(chance: random.Random) -> str:
    pairs = [(chance.choice(NAMES), word(chance)) for _ in range(chance.randrange(6))]
    text = urlencode(pairs)
    return text if chance.random() < 0.8 else text + chance.choice(("&&&", "=", "%", "%zz", "&" * 50, "?", "#", "+", "\x00"))


def path(chance: random.Random, ids: list[str]) -> str:
    id = chance.choice(ids) if chance.random() < 0.6 else word(chance)
    return chance.choice(PATHS).replace("{}", id)


def a_run(config: RunConfig, steps: int, status: Status) -> Run:
    run = Run(config, History(config.layers, 64), Status.RUNNING, "CPU")
    chance = np.random.default_rng(config.blocks)
    for step in range(steps):
        numbers = (10.0 ** chance.uniform(-50, 30, (len(QUANTITIES), config.layers))).astype(np.float32)
        numbers[0, 0] = (0.0, np.inf, np.nan)[step % 3]
        run.history.append(StepRecord(step, 2.3, 0.1, numbers, 0.01 * step, 0.1 if step % 5 == 0 else None))
    run.status = status
    return run


def kept(store: RunStore) -> dict[str, tuple]:
    runs = {summary.id: store.load(summary.id) for summary in store.list()}
    return {id: (run.status, run.history.steps, run.history.loss.tobytes(), run.history.snapshot().columns.tobytes())
            for id, run in runs.items()}  # fmt: skip


@pytest.fixture
def served(tmp_path) -> Iterator[tuple[Starlette, RunStore, list[str]]]:
    store = RunStore(tmp_path, READERS)
    kinds = ((0, 0, Status.STOPPED), (3, 150, Status.FINISHED), (200, 5, Status.DIVERGED))
    runs = [a_run(RunConfig(blocks=blocks, steps=200), steps, status) for blocks, steps, status in kinds]
    store.save(*runs)
    manager = RunManager(store, trainer_on(Shelf(tmp_path / "none", download=False)))
    preview = Preview(replace(runs[1].recipe, steps=200))
    preview.record = StepRecord(0, 2.3, 0.1, np.zeros((len(QUANTITIES), runs[1].recipe.layers), np.float32), 0.1, None)
    preview.ready.set()
    routes = build_routes(manager.get, {preview.id: preview}.get, lambda run: ("healthy", "All is well."),
                          get_problem=lambda: str(manager.warning), get_metrics=Metrics(manager.statistics))  # fmt: skip
    room = Classroom(tmp_path / "classroom.json")
    board = Board(manager, room, lambda run: ("healthy", "All is well."))
    routes += classroom_routes(lambda: board, room.notice)
    guard = Middleware(Guard, rate=1e9, burst=10**9)  # the rate is tested elsewhere
    yield Starlette(routes=routes, middleware=[guard]), store, [run.id for run in runs]
    manager.close()
    store.close()


def test_ten_thousand_rubbish_requests_meet_a_sentence_or_an_answer_and_leave_the_store_as_it_was(served):
    app, store, ids = served
    before, chance = kept(store), random.Random(0)
    methods = ["GET"] * 12 + ["HEAD", "POST", "PUT", "DELETE", "OPTIONS", "BREW"]
    questions = [
        Question(path(chance, ids), query(chance), chance.choice(methods),
                 chance.choice(((), (("Accept-Encoding", "gzip"),), (("Content-Length", "7"),), (("X-Forwarded-For", "\xff"),))))
        for _ in range(REQUESTS)
    ]  # fmt: skip
    replies = ask_all(app, questions)  # raises what a server would answer with 500
    statuses = {reply.status for reply in replies}
    assert statuses <= {200, 307, 400, 404, 405, 409, 413, 414} and {200, 400, 404, 405, 413} <= statuses
    for question, reply in zip(questions, replies, strict=True):
        assert b"Traceback" not in reply.body and reply.headers["x-content-type-options"] == "nosniff"
        if reply.status >= 400 and question.path.startswith("/api/runs/") and question.method == "GET":
            assert len(reply.text) < 300 and "\n" not in reply.text, question
    assert kept(store) == before


def test_a_thousand_rubbish_configs_become_a_config_or_a_sentence_that_names_the_setting():
    chance, labels = random.Random(1), [info.spec.label for info in FIELDS.values()]
    odd = [None, True, -1, 10**400, 1.5, float("nan"), float("inf"), [], {}, [1], {"a": 1}, b"x"]
    for _ in range(CONFIGS):
        values = {chance.choice((*FIELDS, word(chance))): word(chance) for _ in range(chance.randrange(8))}
        config, problems = RunConfig.from_query(values)
        assert RunConfig.from_query(config.to_query()) == (config, [])
        assert len(problems) <= len(values)
        for sentence in map(str, problems):
            assert "\n" not in sentence and len(sentence) < 600 and any(label in sentence for label in labels)
        for bad in (values, {**values, chance.choice(list(FIELDS)): chance.choice(odd)}):
            try:
                kept = RunConfig.from_dict(bad)
            except ConfigError as error:
                assert "\n" not in str(error) and len(str(error)) < 1000
            else:
                assert RunConfig.from_dict(json.loads(json.dumps(kept.to_dict()))) == kept


def test_rubbish_over_real_http_gets_no_5xx_and_the_server_lives(server):
    chance, statuses = random.Random(2), set()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    for _ in range(OVER_HTTP):
        where = quote(path(chance, ["x"]), safe="/%.&=;,")
        method = chance.choice(["GET"] * 6 + ["HEAD", "POST", "DELETE", "OPTIONS"])
        try:
            connection.request(method, f"{where}?{quote(query(chance), safe='=&%+')}")
            reply = connection.getresponse()
            body = reply.read()
        except (http.client.HTTPException, ConnectionError):  # the server refused to speak on; it must speak again
            connection.close()
            continue
        statuses.add(reply.status)
        assert reply.status < 500 and b"Traceback" not in body, where
    assert {200, 404} <= statuses
    assert server.healthy() and "Traceback" not in server.log.read_text()


def test_rubbish_in_the_address_of_any_page_shows_no_exception(server):
    chance, tally = random.Random(3), Tally()
    names = {"": ["run", "prediction", *FIELDS], "lessons": ["lesson", "prediction", "controls", "dataset"],
             "compare": ["runs"], "anatomy": ["run", "step", "layer", "view"]}  # fmt: skip

    async def visit() -> None:
        for page in ("", *PAGES):
            for number in range(QUERIES_A_PAGE):
                known = names.get(page, NAMES)
                values = [(chance.choice(known), word(chance)) for _ in range(1 + number % 4)]
                tab = Tab(server.url, tally)
                await tab.open(page, urlencode(values))
                await tab.close()

    asyncio.run(visit())
    assert not [error for error in tally.errors if not error.startswith("error shown")], tally.errors
    # The pages' own errors are sentences.
    assert all(re.fullmatch(r"error shown: [^\n]+", error) for error in tally.errors)
    assert server.healthy() and "Traceback" not in server.log.read_text()
