"""How many websockets one client may hold, and how much of what it says is heard."""

import asyncio
import contextlib
import http.client
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.websockets import WebSocket, WebSocketDisconnect
from streamlit.proto.BackMsg_pb2 import BackMsg
from timing import Clock
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from gradviz.web.guard import Guard
from gradviz.web.sockets import OPEN, OPEN_GUESTS, OPEN_THERE, Sockets

HERE, THERE = "10.0.0.1", "10.0.0.2"


@pytest.fixture
def sockets(clock: Clock) -> Sockets:
    return Sockets(clock)


def _holds(sockets: Sockets, held: contextlib.ExitStack, person: str, address: str, count: int) -> int:
    return sum(held.enter_context(sockets.one(person, address)) for _ in range(count))


def test_a_person_and_an_address_hold_so_many_websockets_and_no_more_and_others_have_theirs(sockets, clock):
    with contextlib.ExitStack() as held:
        assert _holds(sockets, held, "a", HERE, OPEN + 5) == OPEN
        assert _holds(sockets, held, "b", HERE, 1) == 1
        clock.now += 60
        assert _holds(sockets, held, "", HERE, 2 * OPEN_GUESTS) == OPEN_GUESTS
        clock.now += 60
        rest = OPEN_THERE - OPEN_GUESTS - OPEN - 1
        assert sum(_holds(sockets, held, f"person {n}", HERE, 1) for n in range(2 * rest)) == rest
        assert _holds(sockets, held, "c", HERE, 1) == 0 and _holds(sockets, held, "c", THERE, 1) == 1
        assert sockets.open == OPEN_THERE + 1
    assert sockets.open == 0
    clock.now += 60
    with sockets.one("a", HERE) as may:
        assert may  # what was closed is free again


def test_a_storm_of_reloads_is_refused_after_a_while_and_a_class_behind_one_address_is_not(sockets, clock):
    def reload(person: str, address: str = HERE) -> bool:
        with sockets.one(person, address) as may:
            return may

    assert all(reload(f"student {n % 30}") for n in range(120))  # thirty open their page and reload three times at once
    stormed = [reload("hostile", THERE) for _ in range(1000)]
    assert stormed[0] and not stormed[-1] and reload("student 1")
    clock.now += 2
    assert reload("hostile", THERE)


def test_what_one_says_too_often_is_heard_later_and_what_others_say_at_once(sockets, clock):
    async def said(person: str, address: str, count: int, whole: bool = True) -> int:
        """How many of so many messages are heard at once."""
        heard = [asyncio.ensure_future(sockets.heard(person, address, whole)) for _ in range(count)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        done = sum(task.done() for task in heard)
        if done < count:
            clock.now += 1e4  # nothing is lost
            waiting = [task for task in heard if not task.done()][:20]
            await asyncio.wait_for(asyncio.gather(*waiting), 10)
        for task in heard:
            task.cancel()
        return done

    async def play() -> None:
        assert await said("a", HERE, 200) < 40
        for student in range(30):  # a class behind one address, five clicks each
            assert await said(f"student {student}", THERE, 5) == 5
            clock.now += 0.1
        assert await said("", "10.0.0.3", 1000) < 200  # guests, on however many websockets
        assert await said("b", "10.0.0.4", 5) == 5
        assert await said("c", "10.0.0.5", 40, whole=False) == 40  # parts of pages

    asyncio.run(play())


def test_guests_of_an_address_do_not_take_all_that_is_heard_from_it(sockets, clock):
    async def play() -> None:
        flood = [asyncio.ensure_future(sockets.heard("", HERE, True)) for _ in range(1000)]
        await asyncio.sleep(0)
        await asyncio.wait_for(sockets.heard("known", HERE, True), 1)
        for task in flood:
            task.cancel()

    asyncio.run(play())


def test_a_browser_that_has_gone_while_what_it_said_waits_is_a_disconnect_and_no_error():
    words = {"type": "websocket.receive", "bytes": BackMsg(app_heartbeat=True).SerializeToString()}
    said = [{"type": "websocket.connect"}, words, words, words, {"type": "websocket.disconnect", "code": 1005}]

    async def receive() -> dict:
        return said.pop(0)

    async def send(message: dict) -> None:
        if message["type"] == "websocket.send":
            raise OSError("gone")

    async def app(scope: dict, receive: Callable, send: Callable) -> None:
        stream = WebSocket(scope, receive, send)
        await stream.accept()
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                await stream.receive_bytes()
                with contextlib.suppress(WebSocketDisconnect):  # another task's
                    await stream.send_bytes(b"x")

    scope = {"type": "websocket", "headers": [(b"host", b"127.0.0.1")], "client": (HERE, 1), "path": "/_stcore/stream"}
    asyncio.run(Guard(app)(scope, receive, send))


def test_the_real_server_refuses_a_persons_websockets_beyond_his_share_and_serves_the_next_person(server):
    def cookie() -> str:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.request("GET", "/", headers={"Accept": "text/html"})
        return connection.getresponse().headers["Set-Cookie"].partition(";")[0]

    def opened(who: str) -> AsyncIterator[ClientConnection]:
        return connect(f"ws://127.0.0.1:{server.port}/_stcore/stream", subprotocols=["streamlit"], origin=server.url,
                       additional_headers={"Cookie": who})  # fmt: skip

    async def play() -> None:
        hostile, other = cookie(), cookie()
        async with contextlib.AsyncExitStack() as held:
            for _ in range(OPEN):
                await held.enter_async_context(opened(hostile))
            with pytest.raises(InvalidStatus) as refused:
                await held.enter_async_context(opened(hostile))
            assert refused.value.response.status_code == 403
            await held.enter_async_context(opened(other))
        async with opened(hostile):
            pass
        assert "Traceback" not in server.log.read_text()

    with ThreadPoolExecutor(1) as pool:  # where no browser of another test has a loop of its own
        pool.submit(lambda: asyncio.run(play())).result()
