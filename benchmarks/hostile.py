"""One client that plays against a class: twenty ways to take from the others what is theirs, one after the other.

    python benchmarks/classroom.py --viewers 9 --configs 9 --hostile

It comes from an address of its own on the loopback where the system has one, and asks nobody but this machine.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import random
import re
import struct
import time
from collections.abc import Awaitable, Callable
from urllib.parse import urlencode, urlsplit

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

ADDRESS = "127.0.0.2"
BROKEN = (OSError, EOFError, WebSocketException, TimeoutError)
_PAUSE = 0.005  # seconds between two of a storm: its own work takes of the same cores


class Page:
    """A page whose every widget can be set and pressed, also what is grey."""

    def __init__(self, stream: ClientConnection):
        self.stream, self.query, self.widgets = stream, "", {}  # label -> id

    async def run(self, page: str = "", query: str = "", values: dict[str, dict] | None = None, wait: float = 20.0) -> None:
        message = BackMsg()
        state = message.rerun_script
        state.page_name, state.query_string = page, query or self.query
        for label, value in (values or {}).items():
            if label in self.widgets:
                state.widget_states.widgets.add(id=self.widgets[label], **value)
        await self.stream.send(message.SerializeToString())
        end = time.monotonic() + wait
        while wait and time.monotonic() < end:
            answer = ForwardMsg.FromString(await asyncio.wait_for(self.stream.recv(), wait))
            kind = answer.WhichOneof("type")
            if kind == "page_info_changed":
                self.query = answer.page_info_changed.query_string
            elif kind == "delta" and answer.delta.WhichOneof("type") == "new_element":
                what = answer.delta.new_element.WhichOneof("type")
                widget = getattr(answer.delta.new_element, what)
                if getattr(widget, "id", "") and hasattr(widget, "label"):
                    self.widgets[widget.label] = widget.id
            elif kind == "script_finished":
                return

    async def press(self, label: str, page: str = "") -> None:
        await self.run(page, values={label: {"trigger_value": True}})


class Hostile:
    """`play(until)` does all ways in turn until time.monotonic() is that."""

    def __init__(self, url: str, get_runs: Callable[[], list[str]], settings: list[dict[str, str]]):
        """`get_runs()`: ids of the others' runs. `settings`: their links."""
        self._url, self._get_runs, self._settings = url, get_runs, settings
        place = urlsplit(url)
        self._place, self._chance = (place.hostname, place.port), random.Random(1)
        self._from = (ADDRESS, 0) if place.hostname == "127.0.0.1" else None
        self._until, self._person = 0.0, ""  # its cookie, where it plays one person
        self.times: list[tuple[str, float, float]] = []  # (way, begin, end)
        self.wishes = 0  # that were sent

    async def play(self, until: float) -> None:
        self._person = await self._cookie()
        ways = [getattr(self, name) for name in WAYS]
        for number, way in enumerate(ways):
            begin = time.monotonic()
            self._until = begin + (until - begin) / (len(ways) - number)
            async with contextlib.AsyncExitStack() as held:
                while time.monotonic() < self._until:
                    with contextlib.suppress(*BROKEN):
                        await asyncio.wait_for(way(held), max(0.1, self._until - time.monotonic()))
                    self.wishes += 1
                    await asyncio.sleep(_PAUSE)
                self.times.append((way.__name__, begin, time.monotonic()))

    # What it is made of

    async def _socket(self, held: contextlib.AsyncExitStack, cookie: str = "") -> Page:
        stream = await connect(
            self._url.replace("http", "ws", 1) + "/_stcore/stream", subprotocols=["streamlit"], origin=self._url,
            max_size=None, compression=None, local_addr=self._from, close_timeout=0.1,
            additional_headers={"Cookie": cookie} if cookie else None,
        )  # fmt: skip
        held.push_async_callback(stream.close)
        return Page(stream)

    async def _raw(self, held: contextlib.AsyncExitStack, words: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*self._place, local_addr=self._from)
        held.callback(writer.close)
        writer.write(words)
        return reader, writer

    async def _get(self, path: str, **headers: str) -> str:
        """The answer's head."""
        async with contextlib.AsyncExitStack() as held:
            more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            reader, _writer = await self._raw(held, f"GET {path} HTTP/1.1\r\nHost: {self._place[0]}:{self._place[1]}\r\n"
                                                    f"Connection: close\r\n{more}\r\n".encode())  # fmt: skip
            return (await asyncio.wait_for(reader.read(4000), 5)).decode("latin-1")

    async def _cookie(self) -> str:
        head = await self._get("/", Accept="text/html")
        found = re.search(r"set-cookie: (gradviz_person=[^;]+)", head, re.IGNORECASE)
        return found[1] if found else ""

    def _run(self) -> str:
        return self._chance.choice(self._get_runs() or ["0" * 12])

    async def _many(self, way: Callable[[], Awaitable[None]], count: int) -> None:
        await asyncio.gather(*(way() for _ in range(count)), return_exceptions=True)

    def _link(self, **more: object) -> str:
        return urlencode({"dataset": "digits", "steps": 100_000, "seed": self._chance.randrange(10**6), **more})

    # The ways

    async def nothing(self, _held):
        """To compare with: what the machine and the class are like meanwhile."""
        await asyncio.sleep(1)

    async def nothing_again(self, _held):
        await asyncio.sleep(1)

    async def many_websockets(self, held):
        await self._socket(held)

    async def reconnect_storm(self, held):
        async with contextlib.AsyncExitStack() as short:
            await (await self._socket(short)).run(wait=0)

    async def floods_of_whole_pages(self, held):
        pages = [await self._socket(held) for _ in range(10)]
        for number in range(1000):
            await pages[number % 10].run("classroom", wait=0)
            await asyncio.sleep(_PAUSE)

    async def floods_of_parts(self, held):
        page = await self._socket(held)
        message = BackMsg()
        message.rerun_script.fragment_id = "none"
        for _ in range(1000):
            await page.stream.send(message.SerializeToString())
            await asyncio.sleep(_PAUSE)

    async def half_a_frame(self, held):
        key = base64.b64encode(os.urandom(16)).decode()
        _reader, writer = await self._raw(held, f"GET /_stcore/stream HTTP/1.1\r\nHost: {self._place[0]}:{self._place[1]}\r\n"
                  f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
                  "Sec-WebSocket-Protocol: streamlit\r\n\r\n".encode())  # fmt: skip
        writer.write(b"\x82\xff" + struct.pack(">Q", 900_000) + b"\0\0\0\0" + bytes(1000))

    async def half_a_request(self, held):
        await self._raw(held, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ")

    async def slow_readers(self, held):
        await self._raw(held, f"GET /api/runs/{self._run()}/layers.csv HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())

    async def floods_of_updates(self, held):
        await self._many(lambda: self._get(f"/api/runs/{self._run()}"), 20)

    async def previews(self, held):
        page = await self._socket(held)
        await page.run("", self._link(blocks=1000, init="lsuv", activation="relu"), wait=2)

    async def starts(self, held):
        page = await self._socket(held, self._person)
        await page.run("", self._link(blocks=12))
        await page.press("Start")

    async def starts_and_stops(self, held):
        page = await self._socket(held, self._person)
        await page.run("", self._link(blocks=1))
        for label in ("Start", "Pause", "Resume", "Stop", "Start afresh", "Stop"):
            await page.press(label)

    async def presses_on_others(self, held):
        page = await self._socket(held, self._person)
        await page.run("", f"run={self._run()}")
        for label in ("Pause", "One step", "Stop", "Start afresh"):
            await page.press(label)

    async def joins_and_leaves(self, held):
        page = await self._socket(held)
        await page.run("", f"run={self._run()}")
        for label in ("Join", "Pause", "Stop", "Stop"):
            await page.press(label)

    async def farmed_cookies(self, held):
        page = await self._socket(held, await self._cookie())
        await page.run("", self._link(blocks=12))
        await page.press("Start")

    async def names(self, held):
        page = await self._socket(held)
        await page.run("classroom")
        await page.run("classroom", values={"Your name on the class's wall": {"string_value": f"{self._chance.random()}"}})
        await page.run("", f"run={self._run()}")
        await page.press("Join")

    async def sweeps(self, held):
        page = await self._socket(held, self._person)
        values = ",".join(str(n) for n in range(1, 100))
        await page.run("sweep", urlencode({"values": values, "steps": 100_000 - self._chance.randrange(99), "seeds": 10,
                                           "dataset": "digits"}))  # fmt: skip
        await page.press("Start", "sweep")

    async def compares(self, held):
        page = await self._socket(held)
        await page.run("compare", "runs=" + ",".join(self._get_runs()[:8]), wait=1)

    async def pins(self, held):
        page = await self._socket(held)
        await page.run("classroom")
        for _ in range(3):
            guess = {"The teacher's PIN": {"string_value": str(self._chance.random())}, "Enter": {"trigger_value": True}}
            await page.run("classroom", values=guess)

    async def teachers_words(self, held):
        page = await self._socket(held)
        await page.run("classroom", "wall=" + self._run())
        message = BackMsg()
        message.rerun_script.page_name = "classroom"
        for label in ("Clear the queue", "Pause all", "Delete", "Lock the controls"):
            message.rerun_script.widget_states.widgets.add(id=f"$$ID-0-{label}", trigger_value=True)
        await page.stream.send(message.SerializeToString())
        message = BackMsg()
        message.clear_cache = True
        await page.stream.send(message.SerializeToString())
        await self._get("/api/archive?key=guess")

    async def large_messages(self, held):
        page = await self._socket(held)
        message = BackMsg()
        for number in range(900):
            message.rerun_script.widget_states.widgets.add(id=f"$$ID-{number}-x", string_value="x" * 1000)
        for _ in range(20):
            await page.stream.send(message.SerializeToString())


WAYS = (
    "nothing", "many_websockets", "reconnect_storm", "floods_of_whole_pages", "floods_of_parts", "half_a_frame", "half_a_request",
    "slow_readers", "floods_of_updates", "previews", "starts", "starts_and_stops", "presses_on_others", "joins_and_leaves",
    "farmed_cookies", "names", "sweeps", "compares", "pins", "teachers_words", "large_messages",
    "nothing_again",
)  # fmt: skip
