"""What a browser may say over the websocket, to the judge and to the real server."""

import asyncio
import contextlib
import math
import tomllib
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from google.protobuf.message import Message
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ClientState_pb2 import ClientState
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from viewing import in_shell
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from gradviz.charts.runs import difference_figure
from gradviz.lenet.config import RunConfig
from gradviz.record.history import History, StepRecord
from gradviz.record.quantities import QUANTITIES
from gradviz.record.run import Run, Status
from gradviz.web import spoken

ROOT = Path(__file__).parents[2]
BIGGEST = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text(encoding="utf-8"))["server"]["maxMessageSize"]  # MB
ALL = {field.name for field in BackMsg.DESCRIPTOR.oneofs_by_name["type"].fields}
OF_ITS_OWN_SESSION = {"rerun_script", "stop_script", "app_heartbeat"}


def said(kind: str) -> BackMsg:
    message = BackMsg()
    if BackMsg.DESCRIPTOR.fields_by_name[kind].message_type:
        getattr(message, kind).SetInParent()
    else:
        setattr(message, kind, True)
    return message


@pytest.mark.parametrize("kind", sorted(ALL))
def test_only_messages_about_the_senders_own_session_are_heard(kind):
    wanted = spoken.HEARD if kind in OF_ITS_OWN_SESSION else spoken.IGNORED
    assert spoken.judge(said(kind).SerializeToString()).verdict == wanted


@pytest.mark.parametrize("payload", ["deferred_file", "dataframe_chunk", "install_skills", "dismiss_skills_nudge"])
def test_of_the_operations_those_that_write_on_the_server_are_not_heard(payload):
    message = BackMsg()
    getattr(message.backend_operation_request, payload).SetInParent()
    wanted = spoken.HEARD if payload in ("deferred_file", "dataframe_chunk") else spoken.IGNORED
    assert spoken.judge(message.SerializeToString()).verdict == wanted


def test_text_rubbish_and_what_is_too_long_close_the_websocket():
    assert spoken.judge(None).verdict == spoken.judge(b"\xff\xff\xff").verdict == spoken.NOT_UNDERSTOOD
    assert spoken.judge(bytes(spoken.LONGEST + 1)) == (spoken.TOO_BIG, False)
    message = BackMsg()
    message.rerun_script.query_string = "a" * spoken.LONGEST_QUERY
    assert spoken.judge(message.SerializeToString()).verdict == spoken.HEARD
    message.rerun_script.query_string += "a"
    assert spoken.judge(message.SerializeToString()).verdict == spoken.TOO_BIG


def test_what_has_a_whole_page_run_is_told_from_what_does_not():
    message = said("rerun_script")
    assert spoken.judge(message.SerializeToString()) == (spoken.HEARD, True)
    message.rerun_script.fragment_id = "0123"
    assert spoken.judge(message.SerializeToString()) == (spoken.HEARD, False)
    assert not any(spoken.judge(said(kind).SerializeToString()).whole_page for kind in ALL - {"rerun_script"})


@pytest.mark.parametrize("id", ["", "start", "class_teacher", "$$WIDGET_ID-x", "$$ID-" + "a" * spoken.LONGEST_NAME])
def test_a_value_for_what_is_no_widget_is_not_heard(id):
    message = BackMsg()
    message.rerun_script.widget_states.widgets.add(id="$$ID-0123-start", trigger_value=True)
    assert spoken.judge(message.SerializeToString()).verdict == spoken.HEARD
    message.rerun_script.widget_states.widgets.add(id=id, bool_value=True)
    assert spoken.judge(message.SerializeToString()).verdict == spoken.IGNORED
    message = BackMsg()
    message.rerun_script.fragment_id = "a" * (spoken.LONGEST_NAME + 1)  # a line of the log would say it
    assert spoken.judge(message.SerializeToString()).verdict == spoken.IGNORED


def socket(server) -> ClientConnection:
    return connect(f"ws://127.0.0.1:{server.port}/_stcore/stream", subprotocols=["streamlit"], origin=server.url, max_size=None)


async def page(
    stream: ClientConnection, query: str = "", name: str = "", states: Mapping[str, dict] = MappingProxyType({}),
    found: dict[str, str] | None = None,
) -> str:  # fmt: skip
    """Runs the page; all that it has drawn, as one text. `states`: what its widgets hold; `found` is filled with them."""
    message = said("rerun_script")
    message.rerun_script.query_string, message.rerun_script.page_name = query, name
    for widget, value in states.items():
        message.rerun_script.widget_states.widgets.add(id=widget, **value)
    await stream.send(message.SerializeToString())
    texts = []
    while True:
        answer = ForwardMsg.FromString(await asyncio.wait_for(stream.recv(), 60))
        texts.append(str(answer.delta))
        if found is not None:
            widgets(answer.delta, found)
        if answer.WhichOneof("type") == "script_finished":
            return "\n".join(texts)


def with_a_socket(server, play: Callable[[ClientConnection], Awaitable[None]]) -> None:
    async def played() -> None:
        async with socket(server) as stream:
            await play(stream)

    with ThreadPoolExecutor(1) as pool:  # where no browser of another test has a loop of its own
        pool.submit(lambda: asyncio.run(played())).result()


def test_no_message_of_one_browser_ends_the_service_for_another(server):
    before = sorted(path.name for path in Path(server.store).parent.rglob("*"))

    async def hostile(stream: ClientConnection) -> None:
        await page(stream)
        for kind in sorted(ALL - {"rerun_script"}):
            await stream.send(said(kind).SerializeToString())
        for payload in ("install_skills", "dismiss_skills_nudge"):
            message = BackMsg()
            getattr(message.backend_operation_request, payload).SetInParent()
            await stream.send(message.SerializeToString())
        assert "exception {" not in await page(stream)  # and its own page works on

    async def another(stream: ClientConnection) -> None:
        for name in ("", "compare", "classroom"):
            shown = await page(stream, name=name)
            assert "heading {" in shown and "exception {" not in shown

    with_a_socket(server, hostile)
    with_a_socket(server, another)
    assert "Traceback" not in server.log.read_text() and "lock" not in server.log.read_text()
    assert sorted(path.name for path in Path(server.store).parent.rglob("*")) == before


@pytest.mark.parametrize("message", ["text", b"\xff\xff\xff", bytes(spoken.LONGEST + 1), bytes(2_000_000)])
def test_what_is_not_understood_closes_that_websocket_and_leaves_no_traceback(server, message):
    async def rubbish(stream: ClientConnection) -> None:
        await stream.send(message)
        with pytest.raises(ConnectionClosed):
            while True:
                await asyncio.wait_for(stream.recv(), 10)

    with_a_socket(server, rubbish)
    assert "Traceback" not in server.log.read_text()


def test_the_server_does_not_keep_a_message_beyond_its_limit(server):
    async def giant(stream: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            await stream.send(bytes(BIGGEST * 1_000_000 + 1000))
            while True:
                await asyncio.wait_for(stream.recv(), 10)
        assert stream.close_code == 1009 and "exceeds limit" in stream.close_reason  # before it is whole

    with_a_socket(server, giant)


def test_the_largest_figure_fits_into_a_message():
    chance = np.random.default_rng(0)
    runs = []
    for seed in (0, 1):
        config = RunConfig(blocks=1000, steps=1000, seed=seed)
        columns = (10.0 ** chance.uniform(-30, 3, (1000, len(QUANTITIES), config.layers))).astype(np.float32)
        history = History(config.layers)
        for step in range(1000):
            history.append(StepRecord(step, 2.3, 0.1, columns[step], 0.01, None))
        runs.append(Run(config, history, Status.FINISHED))
    assert 2 * len(difference_figure(*runs, "weight_grad_rms").to_json()) < BIGGEST * 1_000_000


def test_a_step_of_5000_digits_is_a_link_to_the_last_step(page_server):
    config = RunConfig(activation="relu", blocks=0, batch_size=8, steps=3, dataset="digits")
    run = Run(config, History(config.layers), Status.FINISHED)
    for step in range(3):
        run.history.append(StepRecord(step, 2.3, 0.1, np.full((len(QUANTITIES), config.layers), 0.1, np.float32), 0.01, None))
    page_server.store.save(run)
    for step in ("9" * 5000, "9" * 4301, "\u0661", "-1", "1e3", ""):
        assert in_shell("anatomy", run=run.id, step=step).main.select_slider


def widgets(message: Message, found: dict[str, str]) -> dict[str, str]:
    """Every widget of an element: its id and its kind."""
    for field, value in message.ListFields():
        if field.name == "id" and isinstance(value, str) and value.startswith("$$ID"):
            found[value] = message.DESCRIPTOR.name
        elif field.type == field.TYPE_MESSAGE:
            for part in value if field.is_repeated else [value]:
                if isinstance(part, Message):
                    widgets(part, found)
    return found


NASTY = [
    {"double_value": math.nan}, {"double_value": 1e308}, {"int_value": -(2**63)}, {"int_value": 10**9},
    {"string_value": "9" * 5000}, {"string_value": "1," * 400_000},
    {"json_value": "[" * 100_000}, {"json_value": "{"}, {"json_value": "1"},
    {"json_value": '{"action": {"a": 1}, "name": [1]}'}, {"json_trigger_value": "[" * 100_000}, {"trigger_value": True},
    {"json_trigger_value": '{"action": "pause x", "name": "\\ud800", "changed": 5}'}, {"bytes_value": b"\xff"},
    {"string_array_value": {"data": ["x"]}}, {"double_array_value": {"data": [math.nan]}}, {"int_array_value": {}},
]  # fmt: skip


@pytest.mark.parametrize("name", ["", "classroom", "compare", "sweep", "lessons"])
def test_whatever_a_browser_says_its_widgets_hold_gets_a_page_or_one_sentence(server, name):
    async def hostile(stream: ClientConnection) -> None:
        found: dict[str, str] = {}
        await page(stream, name=name, found=found)
        kinds = {kind: widget for widget, kind in found.items()}
        assert kinds
        for widget in kinds.values():
            for value in NASTY:
                drawn = await page(stream, name=name, states={widget: value})
                assert "exception {" not in drawn
                # One sentence is in the place of the page, or the page goes on.
                assert "heading {" in drawn or "This page met an error" in drawn

    with_a_socket(server, hostile)
    with_a_socket(server, lambda stream: said_again(stream, name))


async def said_again(stream: ClientConnection, name: str) -> None:
    drawn = await page(stream, name=name)
    assert "heading {" in drawn and "This page met an error" not in drawn


def test_whatever_a_message_says_of_page_fragment_and_context_the_service_goes_on(server):
    long = "x" * 200_000
    fields = [
        {"page_script_hash": long}, {"page_name": long}, {"page_name": "../../etc/passwd"}, {"fragment_id": long},
        {"fragment_id": "x"}, {"is_auto_rerun": True, "fragment_id": "none"}, {"cached_message_hashes": ["x" * 10] * 20_000},
        {"query_string": "%ff&=&&;"}, {"query_string": "blocks=1&" * 800}, {"query_string": "run=" + "%00" * 2000},
        {"context_info": {"timezone": long, "locale": long, "url": "http://evil.example/" + long}},
    ]  # fmt: skip

    async def hostile(stream: ClientConnection, field: dict) -> None:
        message = BackMsg()
        message.rerun_script.CopyFrom(ClientState(**field))
        await stream.send(message.SerializeToString())
        await page(stream)  # whatever came of that, the next message is answered
        assert "heading {" in await page(stream)

    for field in fields:
        with_a_socket(server, lambda stream, field=field: hostile(stream, field))
    with_a_socket(server, lambda stream: said_again(stream, ""))
    assert server.healthy()
