"""What the server tells the live element: checked with a second reader of the bytes, and against the history itself."""

import asyncio
import gzip
import json
import math
import re
import struct
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from graphlib import CycleError
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

import numpy as np
import plotly.graph_objects as go
import pytest
from plotly_cut import dispensable, run_at_once
from starlette.applications import Starlette

from gradviz.charts import draft
from gradviz.lenet.config import RunConfig
from gradviz.lenet.experiment import preview_images
from gradviz.record import palette, raster
from gradviz.record.history import History, StepRecord, max_columns
from gradviz.record.quantities import QUANTITIES
from gradviz.record.run import Run, Status
from gradviz.record.watched import ABSENT
from gradviz.serve.previews import Preview
from gradviz.web import panels, plotly_cut, texts, wire
from gradviz.web.figure import figure_panel
from gradviz.web.routes import Described, build_routes
from gradviz.web.scripts import PLOTLY, joined, lighter, plotly_url, script_url

T = TypeVar("T")
STATIC = Path(wire.__file__).parent / "static"
MODULES = {path.name: path.read_text(encoding="utf-8") for path in STATIC.glob("*.js")}
SCRIPT = joined(MODULES, "live.js")


def a_record(step: int, layers: int, rng: np.random.Generator) -> StepRecord:
    numbers = 10.0 ** rng.uniform(-30, 5, (len(QUANTITIES), layers))
    numbers[list(QUANTITIES).index("zero_share")] = rng.uniform(0, 1, layers)
    test = rng.uniform() if step % 7 == 0 else None
    return StepRecord(step, rng.uniform(0, 3), rng.uniform(), numbers.astype(np.float32), 0.25 * step, test)


def a_run(blocks: int, steps: int, columns: int | None = None, seed: int = 0) -> Run:
    config = RunConfig(blocks=blocks, steps=max(1, steps))
    run = Run(config, History(config.layers, columns or max_columns(config.layers)), Status.RUNNING, "CPU")
    grow(run, steps, seed)
    return run


def grow(run: Run, steps: int, seed: int = 0) -> None:
    rng = np.random.default_rng([seed, run.history.steps])
    for step in range(run.history.steps, run.history.steps + steps):
        run.history.append(a_record(step, run.history.layers, rng))


def read(message: bytes) -> tuple[dict, bytes]:
    (length,) = struct.unpack_from("<I", message)
    assert (4 + length) % 4 == 0, "the arrays must be aligned for JavaScript"

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    return json.loads(message[4 : 4 + length], parse_constant=refuse), message[4 + length :]


class Client:
    """Keeps a run as the browser does, written afresh from the description of the bytes."""

    def __init__(self, quantity: str = "weight_grad_rms"):
        self.quantity, self.steps, self.stride = quantity, 0, 0
        self.loss, self.accuracy, self.codes, self.tests = [], [], [], []

    def ask(self, run: Run) -> int:
        low, high = QUANTITIES[self.quantity].ranges[0]
        message = wire.delta(run, self.steps, self.stride, self.quantity, low, high)
        header, body = read(message)
        first, sent, rows, tests = header["first"], header["columns"] - header["first"], header["rows"], header["tests"]
        layout = [("loss", "f", sent), ("accuracy", "f", sent), ("newest", "f", rows if header["columns"] else 0),
                  ("test_steps", "i", tests), ("test_values", "f", tests), ("codes", "B", sent * rows)]  # fmt: skip
        arrays = dict(zip([name for name, _, _ in layout], _unpack(body, layout), strict=True))
        self.loss[first:], self.accuracy[first:] = arrays["loss"], arrays["accuracy"]
        self.codes[first:] = [arrays["codes"][i * rows : (i + 1) * rows] for i in range(sent)]
        self.tests = [test for test in self.tests if test[0] < first * header["stride"]]
        self.tests += list(zip(arrays["test_steps"], arrays["test_values"], strict=True))
        self.steps, self.stride, self.header, self.newest = header["steps"], header["stride"], header, arrays["newest"]
        return len(message)


def _unpack(body: bytes, layout):
    at = 0
    for _, kind, count in layout:
        yield struct.unpack_from(f"<{count}{kind}", body, at)
        at += count * struct.calcsize(kind)
    assert at == len(body), "no byte is left over"


# ---- Codes ----


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_a_decoded_value_is_within_half_a_level_of_the_measured_one(quantity):
    for low, high in QUANTITIES[quantity].ranges:
        linear = QUANTITIES[quantity].linear
        scale = np.random.default_rng(0).uniform(max(low, -37), min(high, 38), 5000)
        values = (scale if linear else 10.0**scale).astype(np.float32)
        codes = raster.encode(values, quantity, low, high)
        assert codes.min() >= raster.FIRST_LEVEL and codes.max() < raster.ABOVE
        width = (high - low) / raster.LEVELS
        decoded = low + (codes.astype(float) - raster.FIRST_LEVEL + 0.5) * width
        truth = values.astype(float) if linear else np.log10(values.astype(float))
        assert np.abs(decoded - truth).max() <= width / 2 * 1.001


def test_zero_denormal_out_of_range_and_not_finite_each_have_their_own_mark():
    tiny = np.finfo(np.float32).smallest_normal
    values = [0, np.float32(1e-45), tiny / 2, tiny, 1e-31, 1e20, np.inf, np.nan]
    marks = [
        raster.ZERO, raster.DENORMAL, raster.DENORMAL, raster.BELOW, raster.BELOW, raster.ABOVE, raster.INFINITE,
        raster.NOT_A_NUMBER,
    ]  # fmt: skip
    assert raster.encode(np.array(values, np.float32), "weight_grad_rms", -30, 15).tolist() == marks
    assert len(set(marks)) == 6


@pytest.mark.parametrize("quantity", ["weight_grad_rms", "zero_share"])
def test_what_was_not_measured_has_a_mark_of_its_own_and_none_where_a_neighbour_of_its_row_was_measured(quantity):
    absent = np.float32([[ABSENT, 0.5], [ABSENT, ABSENT]])
    low, high = QUANTITIES[quantity].ranges[0]
    codes = raster.encode(absent, quantity, low, high)
    assert codes[0, 0] == codes[1, 0] == codes[1, 1] == raster.ABSENT and codes[0, 1] == raster.encode([0.5], quantity, low, high)
    np.testing.assert_array_equal(raster.encode(raster.pool(absent, 1), quantity, low, high)[:, 0], [codes[0, 1], raster.ABSENT])


def test_a_denormal_is_marked_even_in_a_range_that_reaches_below_it():
    assert raster.encode(np.float32([3e-39]), "weight_grad_rms", -38, 38).tolist() == [raster.DENORMAL]


def test_a_share_of_zero_and_of_one_are_the_ends_of_its_scale():
    ends = raster.encode(np.float32([0, 1]), "zero_share", 0, 1)
    assert ends.tolist() == [raster.FIRST_LEVEL, raster.FIRST_LEVEL + raster.LEVELS - 1]


@pytest.mark.parametrize("layers", [5, 299, 300, 301, 2005])
def test_pooling_keeps_every_layer_in_one_row_and_its_largest_value(layers):
    values = np.random.default_rng(0).uniform(0, 1, (3, layers)).astype(np.float32)
    values[1, layers // 2], values[2, layers // 3] = np.inf, np.nan
    pooled = raster.pool(values)
    rows = min(layers, 300)
    assert pooled.shape == (3, rows)
    for row in range(rows):
        first, next_first = row * layers // rows, (row + 1) * layers // rows
        np.testing.assert_array_equal(pooled[:, row], values[:, first:next_first].max(axis=1))


def test_the_script_reads_the_codes_that_are_written():
    codes = dict(re.findall(r"([A-Z_]+) = (\d+)", re.search(r"^const ZERO.*$", SCRIPT, re.M)[0]))
    names = ("ZERO", "BELOW", "FIRST_LEVEL", "LEVELS", "ABOVE", "ABSENT", "DENORMAL", "INFINITE", "NOT_A_NUMBER")
    assert codes == {name: str(getattr(raster, name)) for name in names}


# ---- Deltas ----


@pytest.mark.parametrize("blocks, quantity", [(0, "weight_grad_rms"), (3, "zero_share"), (200, "signal_rms")])
def test_columns_fetched_bit_by_bit_are_the_history(blocks, quantity):
    run, client = a_run(blocks, 0, columns=16), Client(quantity)
    rng = np.random.default_rng(1)
    for _ in range(25):  # the stride doubles several times on the way
        grow(run, int(rng.integers(0, 12)))
        client.ask(run)
    history = run.history
    assert client.stride == history.stride > 4
    stride, low_high = history.stride, QUANTITIES[quantity].ranges[0]
    columns = np.array([list(column) for column in client.codes])
    truth = history.quantity(quantity)
    np.testing.assert_array_equal(columns, raster.encode(raster.pool(truth), quantity, *low_high))
    losses = [history.loss[c * stride : (c + 1) * stride].mean() for c in range(len(truth))]
    np.testing.assert_allclose(client.loss, losses, rtol=1e-6)
    accuracies = [history.accuracy[c * stride : (c + 1) * stride].mean() for c in range(len(truth))]
    np.testing.assert_allclose(client.accuracy, accuracies, rtol=1e-6)
    assert [step for step, _ in client.tests] == [step for step, _ in history.tests]
    np.testing.assert_allclose([value for _, value in client.tests], [value for _, value in history.tests], rtol=1e-6)
    np.testing.assert_array_equal(client.newest, raster.pool(truth[-1]))


def test_a_run_without_steps_is_said_to_have_none():
    client = Client()
    client.ask(a_run(2, 0))
    assert client.header["steps"] == client.header["columns"] == 0 and client.header["loss"] is None
    assert client.header["names"] == list(RunConfig(blocks=2).layout.names)


def test_only_new_columns_and_the_unfinished_one_are_sent():
    run, client = a_run(2, 40, columns=16), Client()  # stride 4
    client.ask(run)
    assert client.header["first"] == 0 and "names" in client.header
    grow(run, 1)
    client.ask(run)
    assert client.header["first"] == 10 and "names" not in client.header
    grow(run, 1)
    client.ask(run)
    assert client.header["first"] == 10, "column 10 was incomplete"


def test_a_client_ahead_of_the_run_gets_everything():
    header, _ = read(wire.delta(a_run(2, 5), 50, 1, "weight_grad_rms", -30, 15))
    assert header["first"] == 0 and header["columns"] == 5


def test_one_value_that_is_not_finite_wins_its_column():
    means = wire.column_means(np.array([1.0, 2.0, 3.0, np.inf, np.nan, 1.0, 5.0]), 0, 2)
    np.testing.assert_array_equal(means, np.float32([1.5, np.inf, np.nan, 5.0]))
    assert wire.column_means(np.array([1e300, 1.0]), 0, 2).tolist() == [math.inf]  # beyond float32, shown as such


def test_an_update_of_2005_layers_stays_under_6_kb_and_500_columns_under_200_kb():
    run, client = a_run(1000, 490), Client()
    client.ask(run)
    grow(run, 10)
    assert client.ask(run) < 6_000
    assert Client().ask(run) < 200_000


def test_figures_are_those_of_the_newest_step():
    run = a_run(2, 10)
    header, _ = read(wire.delta(run, 0, 0, "weight_grad_rms", -30, 15, "vanishing", "It vanishes."))
    gradient = run.history.quantity("weight_grad_rms")[-1]
    assert header["loss"] == run.history.loss[-1] and header["accuracy"] == run.history.accuracy[-1]
    assert (header["first_layer"], header["last_layer"]) == ("block0.conv1", "block1.conv2")  # as the verdict judges
    assert header["first_gradient"] == gradient[2] and header["last_gradient"] == gradient[5]
    assert header["ratio"] == pytest.approx(float(gradient[2]) / float(gradient[5]))
    assert header["ms_per_step"] == pytest.approx(250)
    assert (header["verdict"], header["sentence"]) == ("vanishing", "It vanishes.")


def test_time_left_is_told_while_it_runs_and_not_when_it_waits():
    run = Run(RunConfig(blocks=1, steps=100), History(7), Status.RUNNING)
    grow(run, 20)
    assert read(wire.delta(run, 0, 0, "weight_rms", -4, 2))[0]["seconds_left"] == pytest.approx(80 * 0.25)
    run.status = Status.PAUSED
    assert read(wire.delta(run, 0, 0, "weight_rms", -4, 2))[0]["seconds_left"] is None


def test_numbers_that_are_not_finite_travel_as_words():
    run = Run(RunConfig(blocks=0, steps=1), History(5), Status.DIVERGED)
    layers = np.zeros((len(QUANTITIES), 5), np.float32)
    layers[0, 0] = np.inf
    run.history.append(StepRecord(0, math.nan, 0.1, layers, 0.5))
    header, _ = read(wire.delta(run, 0, 0, "weight_grad_rms", -30, 15))
    assert (header["loss"], header["first_gradient"], header["ratio"]) == ("NaN", "Infinity", "NaN")


def test_a_profile_is_exact_and_says_which_steps_it_holds():
    run = a_run(3, 70, columns=16)  # stride 8
    header, body = read(wire.profile(run, 66))
    assert (header["from_step"], header["to_step"], header["stride"]) == (64, 69, 8)
    np.testing.assert_array_equal(np.frombuffer(body, "<f4").reshape(len(QUANTITIES), -1), run.history.columns[8])


def test_bytes_never_mix_two_states_of_a_run_that_grows_meanwhile():
    run = a_run(2, 1, columns=16)
    writer = threading.Thread(target=grow, args=(run, 3000))
    writer.start()
    client = Client()
    while writer.is_alive():
        client.ask(run)
        assert len(client.codes) == len(client.loss) == math.ceil(client.steps / client.stride)
    writer.join()
    client.ask(run)
    truth = raster.encode(run.history.quantity("weight_grad_rms"), "weight_grad_rms", *QUANTITIES["weight_grad_rms"].ranges[0])
    np.testing.assert_array_equal(np.array([list(column) for column in client.codes]), truth)


# ---- Routes ----


def wait_for(work: Coroutine[Any, Any, T]) -> T:
    """In a thread of its own: Playwright, once started by another test, keeps this thread's event loop for itself."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


@dataclass
class Reply:
    status_code: int
    headers: dict[str, str]
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode()


class Site:
    """The routes behind a real ASGI application, without a socket."""

    def __init__(
        self, describe=lambda run: ("healthy", "All is well."), patience: float = 60, get_theory=lambda _: None, get_notice=dict
    ):
        self.runs: dict[str, Run] = {}
        self.previews: dict[str, Preview] = {}
        own = build_routes(
            self.runs.get, self.previews.get, describe, get_theory=get_theory, get_notice=get_notice, patience=patience
        )
        self.app = Starlette(routes=own)

    def add(self, run: Run) -> str:
        self.runs[run.id] = run
        return f"/api/runs/{run.id}"

    def get(self, url: str, **headers: str) -> Reply:
        return wait_for(self.ask(url, **headers))

    async def ask(self, url: str, **headers: str) -> Reply:
        path, _, query = url.partition("?")
        scope = {
            "type": "http", "method": "GET", "path": unquote(path), "query_string": query.encode(),
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
        }  # fmt: skip
        sent = []

        async def receive():
            return {"type": "http.request"}

        async def send(message):
            sent.append(message)

        await self.app(scope, receive, send)  # an exception in a route is raised here
        names = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return Reply(sent[0]["status"], names, b"".join(message["body"] for message in sent[1:]))


def test_the_delta_route_answers_with_the_delta_and_the_description():
    site = Site()
    url = site.add(a_run(2, 9))
    reply = site.get(f"{url}?since=0&stride=0&quantity=signal_rms&low=-12&high=0")
    header, _ = read(reply.content)
    assert reply.status_code == 200 and reply.headers["cache-control"] == "no-store"
    assert (header["quantity"], header["low"], header["high"], header["verdict"]) == ("signal_rms", -12, 0, "healthy")
    assert read(site.get(f"{url}?since=9&stride=1").content)[0]["first"] == 9


def test_the_notice_of_the_class_comes_along_with_a_runs_news_where_it_is_asked_for():
    notice = {"lesson": "", "locked": True, "kept": "Läuft nicht: 磁盘\n."}
    site = Site(get_notice=lambda: notice)
    url = site.add(a_run(2, 9))
    reply = site.get(f"{url}?since=9&stride=1&notice=1")
    assert json.loads(reply.headers["gradviz-notice"]) == notice and read(reply.content)[0]["first"] == 9
    assert reply.headers["gradviz-notice"].isascii() and "\n" not in reply.headers["gradviz-notice"]
    assert json.loads(site.get("/api/runs/000000000000?notice=1").headers["gradviz-notice"]) == notice
    assert "gradviz-notice" not in site.get(f"{url}?since=9&stride=1").headers


@pytest.mark.parametrize("query, named", [
    ("since=-1", "since"), ("since=x", "since"), ("since=²", "since"), ("since=1" + "0" * 99, "since"), ("stride=1.5", "stride"),
    ("quantity=loss", "quantity"), ("low=a", "low"), ("low=-5&high=5", "range"), ("low=nan&high=nan", "range"),
])  # fmt: skip
def test_a_bad_question_is_refused_with_one_sentence_that_names_it(query, named):
    site = Site()
    reply = site.get(f"{site.add(a_run(1, 3))}?{query}")
    assert reply.status_code == 400 and named in reply.text
    assert reply.text.endswith(".") and "\n" not in reply.text and len(reply.text) < 300


def test_a_thousand_random_questions_meet_no_server_error():
    site, rng = Site(), np.random.default_rng(0)
    url = site.add(a_run(1, 3))
    pieces = "since stride quantity low high step = & = & -1 0 2 1e9 nan %00 %ff é / .. weight_rms".split()

    async def ask_all():
        for _ in range(1000):
            query = "".join(rng.choice(pieces, rng.integers(1, 9)))
            path = rng.choice([url, f"{url}/profile", "/api/runs/" + query, "/api/previews/" + query])
            assert (await site.ask(f"{path}?{query}")).status_code < 500

    wait_for(ask_all())


def test_what_the_server_does_not_know_is_not_found():
    site = Site()
    for url in ("/api/runs/000000000000", "/api/runs/000000000000/profile", "/api/previews/000000000000"):
        assert site.get(url).status_code == 404


def test_a_step_beyond_the_run_is_refused_and_the_range_named():
    site = Site()
    url = site.add(a_run(1, 3))
    assert read(site.get(f"{url}/profile?step=2").content)[0]["from_step"] == 2
    reply = site.get(f"{url}/profile?step=3")
    assert reply.status_code == 400 and "0 to 2" in reply.text
    assert site.get(f"{site.add(a_run(2, 0))}/profile").status_code == 400


def test_thirty_viewers_need_one_description_a_second_and_a_new_status_another():
    said, now = [], 0.0

    def describe(run: Run) -> tuple[str, str]:
        said.append((run.history.steps, run.status))
        return "healthy", f"After {run.history.steps}."

    described, run = Described(describe, again=1.0, clock=lambda: now), a_run(1, 0)
    assert described(run)[1] == "After 0."
    grow(run, 1)
    assert described(run)[1] == "After 1."  # the first step is news at once
    for tenth in range(1, 10):
        now = tenth / 10
        grow(run, 3)
        assert {described(run)[1] for _ in range(30)} == {"After 1."}
    now = 1.0
    assert described(run)[1] == f"After {run.history.steps}."
    grow(run, 1)
    run.status = Status.PAUSED
    assert described(run)[1] == f"After {run.history.steps}."
    grow(run, 1)  # one step more of a paused run: somebody pressed a button and waits for it
    assert described(run)[1] == f"After {run.history.steps}."
    run.status = Status.FINISHED
    assert {described(run)[1] for _ in range(30)} == {f"After {run.history.steps}."}
    assert len(said) == 6


def test_only_what_is_new_of_a_run_at_hand_is_answered_without_a_thread():
    run, asked = a_run(1, 5), []

    def of(where):
        return lambda id: asked.append((where, threading.current_thread().name)) or run

    app = Starlette(routes=build_routes(of("store"), lambda id: None, lambda run: ("", ""), get_at_hand=of("hand")))
    site = Site()
    site.app = app
    others = ("since=0", "", "since=3&stride=2", "since=9&stride=1", "since=²&stride=1")
    for query, where in (("since=3&stride=1", "hand"), *((query, "store") for query in others[:-1])):
        assert read(site.get(f"/api/runs/{run.id}?{query}").content)[0]["first"] == (3 if where == "hand" else 0)
        assert asked[-1][0] == where and ("AnyIO" in asked[-1][1]) == (where == "store")
    assert site.get(f"/api/runs/{run.id}?{others[-1]}").status_code == 400


def test_numbers_come_even_if_the_description_fails(caplog):
    site = Site(describe=Described(lambda run: 1 / 0))
    header, _ = read(site.get(site.add(a_run(1, 3))).content)
    assert header["steps"] == 3 and header["verdict"] == ""
    assert "describing run" in caplog.text


def test_only_the_first_step_of_a_run_and_a_preview_have_what_theory_says():
    asked = []
    site = Site(get_theory=lambda recipe: asked.append(recipe) or {"signal_rms": [1.0, None]})
    preview = Preview(RunConfig(blocks=2, batch_size=512), record=a_record(0, 9, np.random.default_rng(0)))
    preview.ready.set()
    site.previews[preview.id] = preview
    url = site.add(a_run(1, 3))
    assert read(site.get(f"{url}/profile?step=0").content)[0]["theory"] == {"signal_rms": [1.0, None]}
    assert read(site.get(f"{url}/profile?step=1").content)[0]["theory"] is None
    assert read(site.get(f"/api/previews/{preview.id}").content)[0]["theory"] == {"signal_rms": [1.0, None]}
    assert [recipe.batch_size for recipe in asked] == [RunConfig().batch_size, preview_images(preview.config)]


def test_a_preview_is_waited_for_and_then_exact():
    site, hasty = Site(), Site(patience=0.05)
    preview = Preview(RunConfig(blocks=2))
    site.previews[preview.id] = hasty.previews[preview.id] = preview
    url = f"/api/previews/{preview.id}"
    assert hasty.get(url).status_code == 202

    def finish():
        preview.record = a_record(0, 9, np.random.default_rng(0))
        preview.ready.set()

    timer = threading.Timer(0.05, finish)
    timer.start()
    header, body = read(site.get(url).content)
    np.testing.assert_array_equal(np.frombuffer(body, "<f4").reshape(len(QUANTITIES), -1), preview.record.layers)
    assert header["names"] == list(preview.config.layout.names)


def test_while_a_preview_is_measured_theory_is_there_and_how_much_is_done():
    site = Site(get_theory=lambda recipe: {"signal_rms": [1.0, None]})
    preview = Preview(RunConfig(blocks=2))
    site.previews[preview.id] = preview
    url = f"/api/previews/{preview.id}"
    reply = site.get(f"{url}?ahead=1")
    header, body = read(reply.content)
    assert reply.status_code == 202 and header["ahead"] and not header["quantities"] and not body
    assert header["theory"] == {"signal_rms": [1.0, None]} and header["share"] is None
    assert header["names"] == list(preview.config.layout.names) and header["layers"] == 9
    preview.looks, preview.looks_in_all = 9, 18
    assert read(site.get(f"{url}?ahead=2").content)[0] == header | {"theory": None, "share": 0.5}  # theory is known by now
    preview.record = a_record(0, 9, np.random.default_rng(0))
    preview.ready.set()
    reply = site.get(f"{url}?ahead=2")
    assert reply.status_code == 200 and reply.content == site.get(url).content and "ahead" not in read(reply.content)[0]


def test_a_preview_that_failed_says_why():
    site = Site()
    preview = Preview(RunConfig(blocks=2), error="The memory does not suffice.")
    preview.ready.set()
    site.previews[preview.id] = preview
    reply = site.get(f"/api/previews/{preview.id}")
    assert (reply.status_code, reply.text) == (409, "The memory does not suffice.")


def test_scripts_may_be_kept_for_ever_because_their_address_changes_with_them():
    site = Site()
    for name in ("live.js", "classroom.js", "figure.js", "motion.js", "download.js"):
        for accepted in ("identity", "gzip"):
            own = site.get("/" + script_url(name), accept_encoding=accepted)
            text = (gzip.decompress(own.content) if "content-encoding" in own.headers else own.content).decode()
            assert text == joined(MODULES, name) and ("content-encoding" in own.headers) == (accepted == "gzip")
            assert "immutable" in own.headers["cache-control"] and own.headers["content-type"].startswith("text/javascript")
    packed = site.get("/" + plotly_url(), accept_encoding="gzip")
    assert packed.headers["content-encoding"] == "gzip" and int(packed.headers["content-length"]) < 500_000
    plain = site.get("/" + plotly_url(), accept_encoding="identity")
    assert "content-encoding" not in plain.headers and b"Plotly" in plain.content
    assert gzip.decompress(packed.content) == plain.content


def test_plotly_is_given_without_what_is_not_drawn_and_as_it_is_if_it_is_another():
    text = PLOTLY.read_text(encoding="utf-8")
    assert list(plotly_cut.PARTS) == dispensable(text), "make plotly"
    assert list(plotly_cut.AT_ONCE) == run_at_once(text, plotly_cut.PARTS), "make plotly"
    assert len(lighter(text)) < 0.3 * len(text) and "Licensed under the MIT license" in lighter(text)[:200]
    assert lighter(text + " ") == text + " "
    with pytest.raises(ValueError, match="bar"):
        figure_panel(go.Figure([{"type": "bar"}]), "key", "label")


def test_a_module_is_never_met_by_an_older_one_that_imports_it():
    """What a page fetches imports nothing; what has another version, or none, nobody may keep."""
    site = Site()
    for name in ("live.js", "classroom.js", "figure.js", "motion.js", "download.js"):
        assert not re.search(r"^(import|export [^{]*from)\b|\bimport\(", joined(MODULES, name), re.MULTILINE)
    old = site.get("/live/0123456789ab/live.js")
    assert (old.status_code, old.text) == (404, "There is no such script on this server.")
    for name in ("live.js", "classroom.js"):
        plain = site.get(f"/live/{name}")
        assert plain.text == (STATIC / name).read_text(encoding="utf-8") and plain.headers["cache-control"] == "no-store"
    assert site.get("/live/routes.py").status_code == site.get("/live/none.js").status_code == 404


def test_joined_modules_keep_what_is_called_the_same_apart_and_each_stands_there_once():
    modules = {
        "top.js": 'import { left } from "./left.js";\nimport { far, right } from "./right.js";\n\nexport function render() {}\n',
        "left.js": 'import { far } from "./right.js";\nconst SAME = 1;\nexport const left = far + SAME;\n',
        "right.js": "const SAME = 2;\nexport const right = SAME, far = 3;\nexport class Unused {}\n",
    }
    assert joined(modules, "top.js").splitlines() == [
        "const $right = (function () {",
        "const SAME = 2;", "const right = SAME, far = 3;", "class Unused {}",
        "return { far, right };", "})();",
        "const $left = (function () {",
        "const { far } = $right;", "const SAME = 1;", "const left = far + SAME;",
        "return { left };", "})();",
        "const $top = (function () {",
        "const { left } = $left;", "const { far, right } = $right;", "", "function render() {}",
        "return { render };", "})();",
        "export const { render } = $top;",
    ]  # fmt: skip
    with pytest.raises(CycleError):
        joined(modules | {"right.js": 'import { left } from "./left.js";\n'}, "top.js")


def test_javascript_stands_in_modules_but_for_the_stub_that_mounts_them():
    texts = {path.name: path.read_text(encoding="utf-8") for path in STATIC.parent.parent.rglob("*.py")}
    assert [name for name, text in texts.items() if re.search(r"\bdocument\.|=> \{|\bconst \w+ =", text)] == ["panels.py"]


def test_the_palette_and_the_rows_stand_once_in_the_scripts():
    texts = {path.name: path.read_text(encoding="utf-8") for path in STATIC.glob("*.js")}
    marks = palette.DENORMAL_COLOUR, palette.BELOW_COLOUR, palette.ABOVE_COLOUR, palette.BROKEN_COLOUR
    for colour in (*palette.VIRIDIS, *marks, draft.BLUE, draft.ORANGE):
        assert [name for name, text in texts.items() if colour in text.lower()] == ["look.js"], colour
    assert [name for name, text in texts.items() if re.search(r"\* layers\) / rows", text)] == ["wire.js"]


# ---- Words ----


def test_every_word_that_the_script_shows_is_given_to_it_and_none_is_idle():
    words = texts.words()
    used = set(re.findall(r"\bwords\.(\w+)", SCRIPT))
    figures = set(re.findall(r'\["(\w+)", (?:run\.\w|\w+\()', SCRIPT)) - set(QUANTITIES)  # key figures: words[name]
    marks = set(re.findall(r"(\w+): \"#", re.search(r"const MARKS = .*", SCRIPT)[0]))
    assert used | figures | marks <= set(words), "missing"
    assert set(words) <= used | figures | marks | {"png", "svg"}, "idle"


def test_every_quantity_and_status_has_its_words_and_ranges():
    words = texts.words()
    assert set(words["quantities"]) == set(words["units"]) == set(panels.scales()["ranges"]) == set(QUANTITIES)
    assert all(text["label"] and text["meaning"] for text in words["quantities"].values())
    assert set(words["status"]) == set(Status)


def test_a_queued_run_says_its_place_and_how_long_it_may_wait() -> None:
    run = Run(RunConfig(blocks=1), History(7))
    header = read(wire.delta(run, 0, 0, "weight_rms", -4, 2, place=3, wait=4.5))[0]
    assert (header["status"], header["place"], header["wait"]) == ("queued", 3, 4.5)
    run.status = Status.RUNNING
    header = read(wire.delta(run, 0, 0, "weight_rms", -4, 2, place=3, wait=4.5))[0]
    assert header["place"] is None and header["wait"] is None
