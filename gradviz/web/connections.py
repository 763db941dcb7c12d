"""How many connections the server holds, and for how long a silent one: uvicorn waits for a request for ever. And that none
holds back half an answer."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

WAIT = 15.0  # seconds in which a connection has to bring a whole request
STALL = 30.0  # seconds for which a browser may take nothing of what it asked for
_LOOK = 2.0  # seconds between two looks


class Connections:
    """Watches over the connections that an event loop's servers accept while `watch` lasts.

    One that brings no request in time is closed, and so is one that takes no answer. Where `most` are open, the one that
    has waited longest for a request makes room for a new one, and if none waits the new one is closed.
    """

    def __init__(self, most: int, wait: float = WAIT, stall: float = STALL, clock: Callable[[], float] = time.monotonic):
        self._most, self._wait, self._stall, self._clock = most, wait, stall, clock
        self._open: dict[Any, list[Any]] = {}  # protocol -> [since when it waits or takes nothing, what it was about then]

    @contextlib.asynccontextmanager
    async def watch(self, look: float = _LOOK) -> AsyncIterator[None]:
        """From before the server begins to listen until it has ended."""
        loop = asyncio.get_running_loop()
        create_server = loop.create_server

        async def create_watched(factory: Callable[[], asyncio.Protocol], *args: Any, **kwargs: Any) -> asyncio.Server:
            # asyncio accepts as many at one go as may wait, before it tells any protocol: they must find descriptors too.
            kwargs["backlog"] = min(kwargs.get("backlog", 100), max(16, self._most // 4))
            return await create_server(lambda: self._watched(factory()), *args, **kwargs)

        # uvicorn calls it, and has no other place to put something between. A loop that is not Python's own is left alone.
        with contextlib.suppress(AttributeError):
            loop.create_server = create_watched  # type: ignore[method-assign, assignment]
        looking = asyncio.create_task(self._keep_looking(look))
        try:
            yield
        finally:
            with contextlib.suppress(AttributeError):
                loop.create_server = create_server  # type: ignore[method-assign]
            looking.cancel()

    def _watched(self, protocol: asyncio.Protocol) -> asyncio.Protocol:
        made = protocol.connection_made

        def connection_made(transport: asyncio.BaseTransport) -> None:
            made(transport)
            stream = transport.get_extra_info("socket")
            if stream is not None and stream.family in (socket.AF_INET, socket.AF_INET6):
                # asyncio does so for sockets that say they are TCP, which those of Streamlit and uvicorn do not. Else the body of
                # every answer but the first waits until the browser has acknowledged its head: 40 ms, elsewhere 200.
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open[protocol] = [self._clock(), transport, None]
            if len(self._open) > self._most:
                self._make_room()

        protocol.connection_made = connection_made  # type: ignore[method-assign]
        return protocol

    def _make_room(self) -> None:
        self._forget()
        if len(self._open) > self._most:
            # The newest is among them; it waits shortest.
            waiting = (protocol for protocol, seen in self._open.items() if self._about(protocol, seen[1]) == "waits")
            protocol = next(waiting)
            self._open.pop(protocol)[1].abort()

    def look(self) -> None:
        """Closes those whose time is over."""
        now = self._clock()
        self._forget()
        for protocol, seen in list(self._open.items()):
            since, transport, before = seen
            about = self._about(protocol, transport)
            if about is None or about != before and before is not None:
                seen[0], seen[2] = now, about
            elif now - since > (self._wait if about == "waits" else self._stall):
                del self._open[protocol]
                transport.abort()
            else:
                seen[2] = about

    def _forget(self) -> None:
        for protocol in [protocol for protocol, seen in self._open.items() if seen[1].is_closing()]:
            del self._open[protocol]

    @staticmethod
    def _about(protocol: Any, transport: asyncio.Transport) -> str | int | None:
        """'waits' for a request, the bytes that wait to be taken, or None: it is at work, or a websocket, which has pings."""
        if transport.get_protocol() is not protocol:
            return None
        cycle = getattr(protocol, "cycle", None)
        if cycle is None or cycle.response_complete:
            return transport.get_write_buffer_size() or "waits"
        return transport.get_write_buffer_size() or None

    async def _keep_looking(self, every: float) -> None:
        for _ in itertools.count():
            await asyncio.sleep(every)
            self.look()
