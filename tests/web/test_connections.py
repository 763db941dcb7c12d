"""Connections that bring nothing or take nothing, files that run out, and a log that a storm does not fill."""

import asyncio
import http.client
import json
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvicorn
from asgi import ask
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from timing import Clock, until

from gradviz import machine
from gradviz.web.cards import classroom_routes
from gradviz.web.connections import Connections
from gradviz.web.logs import OFTEN, PERIOD, Bounded
from gradviz.web.routes import build_routes
from gradviz.web.scripts import plotly_url, script_url

MOST, BIG = 30, 30_000_000


@pytest.fixture
def port() -> Iterator[int]:
    """Of a small server that watches over its connections."""

    @asynccontextmanager
    async def lifespan(_):
        async with Connections(MOST, wait=1.0, stall=1.0).watch(look=0.1):
            yield

    routes = [Route("/", lambda _: PlainTextResponse("here")), Route("/big", lambda _: Response(bytes(BIG)))]
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes, lifespan=lifespan), log_level="error"))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        until(lambda: server.started)
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join(20)


def _half_open(port: int, words: bytes = b"") -> socket.socket:
    stream = socket.create_connection(("127.0.0.1", port), timeout=20)
    stream.sendall(words)
    return stream


def _answered(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", "/")
    return connection.getresponse().read() == b"here"


def _ended(stream: socket.socket) -> bool:
    try:
        return stream.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("words", [b"", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_a_connection_that_brings_no_whole_request_is_closed(port, words):
    streams = [_half_open(port, words) for _ in range(10)]
    assert _answered(port)
    assert all(_ended(stream) for stream in streams)


def test_a_second_request_that_never_ends_is_no_way_round(port):
    stream = _half_open(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    until(lambda: b"here" in stream.recv(4096))
    stream.sendall(b"GET / HTTP/1.1\r\nX")
    assert _ended(stream)


def test_the_body_of_an_answer_does_not_wait_until_its_head_has_arrived():
    async def held() -> int:
        accepted = asyncio.get_running_loop().create_future()

        class Server(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                accepted.set_result(transport)

        listening = socket.socket(family=socket.AF_INET)  # as uvicorn and Streamlit make it
        listening.bind(("127.0.0.1", 0))
        async with Connections(MOST).watch():
            server = await asyncio.get_running_loop().create_server(Server, sock=listening)
            with socket.create_connection(listening.getsockname()):
                transport = await accepted
                nodelay = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                transport.close()
            server.close()
        return nodelay

    assert asyncio.run(held()) != 0


def test_where_all_places_are_taken_who_waits_longest_makes_room(port):
    streams = [_half_open(port, b"GET") for _ in range(3 * MOST)]
    assert _answered(port)
    assert all(_ended(stream) for stream in streams)


def test_who_does_not_take_what_he_asked_for_is_closed(port):
    stream = socket.socket()
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stream.connect(("127.0.0.1", port))
    stream.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
    watch = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    watch.request("GET", "/big")
    assert len(watch.getresponse().read()) == BIG  # who takes it gets all of it
    stream.settimeout(20)
    threading.Event().wait(3)  # takes nothing: there is no condition to wait for but that time has passed
    taken = 0
    try:
        while more := stream.recv(1 << 20):
            taken += len(more)
    except ConnectionResetError:
        pass
    assert taken < BIG


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_the_limit_of_open_files_is_raised_as_far_as_it_may():
    script = (
        "import json, resource, sys; from gradviz import machine\n"
        "hard = min(int(sys.argv[1]), resource.getrlimit(resource.RLIMIT_NOFILE)[1])\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))\n"
        "print(json.dumps([machine.open_files(), *resource.getrlimit(resource.RLIMIT_NOFILE)]))"
    )

    def raised(hard: int) -> list[int]:
        command = [sys.executable, "-c", script, str(hard)]
        return json.loads(subprocess.run(command, capture_output=True, check=True, cwd=Path(__file__).parents[2]).stdout)

    assert raised(200) == [200, 200, 200]
    found, soft, _hard = raised(4096)
    assert found == soft == min(4096, _hard)
    assert machine.open_files(64) >= 64  # never lowered


def test_scripts_are_given_where_no_file_can_be_opened_any_more():
    resource = pytest.importorskip("resource")
    own = [*build_routes(lambda _: None, lambda _: None, lambda _: ("", "")), *classroom_routes(lambda: None, dict)]
    app = Starlette(routes=own)
    assert ask(app, "/" + plotly_url().partition("?")[0], accept_encoding="identity").status == 200
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, before[1]), before[1]))
        with pytest.raises(OSError):
            while True:
                held.append(socket.socket())
        for _ in range(3):  # what the loop of `ask` takes: all that are left
            held.pop().close()
        assert ask(app, "/live/live.js").status == ask(app, "/live/classroom.js").status == 200
        assert ask(app, "/" + script_url("live.js")).status == 200
    finally:
        for stream in held:
            stream.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_storm_of_one_error_is_a_few_lines_and_their_number(caplog):
    clock = Clock()
    log = logging.getLogger("asyncio.test-of-the-storm")
    log.addFilter(Bounded(clock))

    def storm(count: int) -> None:
        for n in range(count):
            try:
                raise OSError(24, "Too many open files")
            except OSError:
                log.exception("socket.accept() out of system resource, try %d", n)

    def other() -> None:
        log.error("something else")

    storm(10_000)
    assert len(caplog.records) == OFTEN
    other()
    assert caplog.messages[-1] == "something else"  # another error is heard in the storm
    clock.now = PERIOD + 1
    storm(10_000)
    assert len(caplog.records) == 2 * OFTEN + 1
    assert caplog.messages[OFTEN + 1] == f"({10_000 - OFTEN} like the next one were left out) " \
        "socket.accept() out of system resource, try 0"
    with caplog.at_level(logging.INFO, log.name):
        for n in range(1000):
            log.info("a browser asked for part %d of a page, which is gone", n)  # so Streamlit says of every message
    assert sum("which is gone" in message for message in caplog.messages) == OFTEN
