"""What a browser may say over the websocket, to the judge and to the real server."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from gradviz.live import spoken

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
    assert spoken.judge(said(kind).SerializeToString()) == wanted


@pytest.mark.parametrize("payload", ["deferred_file", "dataframe_chunk", "install_skills", "dismiss_skills_nudge"])
def test_of_the_operations_those_that_write_on_the_server_are_not_heard(payload):
    message = BackMsg()
    getattr(message.backend_operation_request, payload).SetInParent()
    wanted = spoken.HEARD if payload in ("deferred_file", "dataframe_chunk") else spoken.IGNORED
    assert spoken.judge(message.SerializeToString()) == wanted


def test_text_rubbish_and_what_is_too_long_close_the_websocket():
    assert spoken.judge(None) == spoken.judge(b"\xff\xff\xff") == spoken.NOT_UNDERSTOOD
    assert spoken.judge(bytes(spoken.LONGEST + 1)) == spoken.TOO_BIG
    message = BackMsg()
    message.rerun_script.query_string = "a" * spoken.LONGEST_QUERY
    assert spoken.judge(message.SerializeToString()) == spoken.HEARD
    message.rerun_script.query_string += "a"
    assert spoken.judge(message.SerializeToString()) == spoken.TOO_BIG


def socket(server) -> ClientConnection:
    return connect(f"ws://127.0.0.1:{server.port}/_stcore/stream", subprotocols=["streamlit"], origin=server.url, max_size=None)


async def page(stream: ClientConnection, query: str = "", name: str = "") -> str:
    """Runs the page; all that it has drawn, as one text."""
    message = said("rerun_script")
    message.rerun_script.query_string, message.rerun_script.page_name = query, name
    await stream.send(message.SerializeToString())
    texts = []
    while True:
        answer = ForwardMsg.FromString(await asyncio.wait_for(stream.recv(), 60))
        texts.append(str(answer.delta))
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
            await stream.send(bytes(20_000_000))
            while True:
                await asyncio.wait_for(stream.recv(), 10)
        assert stream.close_code == 1009

    with_a_socket(server, giant)
