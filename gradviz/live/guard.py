"""What stands before every answer: security headers for all of them, limits on size and rate for the routes of our own, and
for the websocket what a browser may say there."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gradviz.live import spoken

OURS = ("/api/", "/live/", "/metrics", "/ready")  # what begins so is ours, the rest is Streamlit's
MAX_ADDRESS = 2000  # characters of path and query together; the longest that a page of ours asks for is under 200
RATE = 300  # requests per second and client address, in the long run: a class behind one address asks up to 30 × 3.3
BURST = 1500  # requests that may come at once: thirty pages that open together ask ten times a second until a point is there
_KEPT_CLIENTS = 4096

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
    # Streamlit needs inline styles, blob: workers and modules, and its charts need eval. What this adds is that a page
    # loads nothing from elsewhere, posts nothing elsewhere and is framed by nobody else.
    "Content-Security-Policy": (
        "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
        "style-src 'self' 'unsafe-inline'; connect-src 'self' ws: wss: data: blob:; "
        "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
    ),
}


class Guard:
    """ASGI middleware. A refusal is one sentence: 413, 414, or 429 with Retry-After."""

    def __init__(self, app: ASGIApp, rate: float = RATE, burst: int = BURST, clock: Callable[[], float] = time.monotonic):
        self._app, self._rate, self._burst, self._clock = app, rate, burst, clock
        self._clients: OrderedDict[str, tuple[float, float]] = OrderedDict()  # address -> requests left, and when that was

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._app(scope, *_by_what_may_be_said(receive, send))
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(scope) if scope["path"].startswith(OURS) else None
        await (refusal or self._app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        wait = self._wait(scope["client"][0] if scope.get("client") else "")
        if wait:
            sentence = f"Too many requests from one address; wait {wait} s."
            return PlainTextResponse(sentence, 429, {"Retry-After": str(wait)})
        if len(scope.get("raw_path") or scope["path"]) + len(scope["query_string"]) > MAX_ADDRESS:
            return PlainTextResponse(f"The address is too long: {MAX_ADDRESS} characters at most.", 414)
        if {b"transfer-encoding", b"content-length"} & {name for name, value in scope["headers"] if value != b"0"}:
            return PlainTextResponse("This address takes no content.", 413, {"Connection": "close"})
        return None

    def _wait(self, client: str) -> int:
        """Whole seconds until this client may ask again, 0 if now. A bucket that fills at `rate` and holds `burst`."""
        now = self._clock()
        left, then = self._clients.pop(client, (float(self._burst), now))
        left = min(self._burst, left + (now - then) * self._rate)
        allowed = left >= 1
        self._clients[client] = (left - allowed, now)
        if len(self._clients) > _KEPT_CLIENTS:
            self._clients.popitem(last=False)  # the one that was quiet longest
        return 0 if allowed else math.ceil((1 - left) / self._rate)


def _by_what_may_be_said(receive: Receive, send: Send) -> tuple[Receive, Send]:
    """The two ends of a websocket, at which the app behind hears only what `spoken` lets pass."""
    closed = False

    async def hear() -> Message:
        nonlocal closed
        while True:
            message = await receive()
            judged = spoken.judge(message.get("bytes")) if message["type"] == "websocket.receive" else spoken.HEARD
            if judged == spoken.HEARD:
                return message
            if judged != spoken.IGNORED:
                closed = True
                await send({"type": "websocket.close", "code": judged})
                return {"type": "websocket.disconnect", "code": judged}

    async def say(message: Message) -> None:
        if not closed:
            await send(message)

    return hear, say
