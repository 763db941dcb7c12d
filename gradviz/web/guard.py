"""What stands before every answer: by which name the server was called and from whose page, security headers, limits on
size, and on the rate for the routes of our own, and for websockets how many they are and what a browser may say there."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Iterable

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gradviz.serve.people import COOKIE, Pace, place
from gradviz.web import hosts, spoken
from gradviz.web.sockets import Sockets
from gradviz.words import gettext as _

OURS = ("/api/", "/live/", "/metrics", "/ready")  # what begins so is ours, the rest is Streamlit's
UPLOAD = "/_stcore/upload_file"
MAX_ADDRESS = 2000  # characters of path and query together; the longest that a page of ours asks for is under 200
MAX_LINK = 8000  # of a page's address, which names the settings
MAX_HEADERS = 32_000  # bytes; the cookies of everything else on this host are among them
RATE = 300  # requests per second and client address, in the long run: a class behind one address asks up to 30 × 3.3
BURST = 1500  # requests that may come at once: thirty pages that open together ask ten times a second until a point is there


def headers(authority: str = "") -> dict[str, str]:
    """Of every answer to whoever called the server `authority`, a `name:port` that it may be called, or empty."""
    # To an older Safari 'self' is not the websocket of the same host.
    sockets = f" ws://{authority} wss://{authority}" if authority else ""
    return {
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",
        "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
        # Streamlit needs inline styles, blob: workers and modules, and its charts need eval. What this adds is that a page
        # loads nothing from elsewhere, posts nothing elsewhere and is framed by nobody else.
        "Content-Security-Policy": (
            "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
            f"style-src 'self' 'unsafe-inline'; connect-src 'self'{sockets} data: blob:; "
            "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
        ),
    }


def is_ours(path: str, base: str = "") -> bool:
    """Whether a route of ours answers it, and not Streamlit."""
    return path.removeprefix(base).startswith(OURS)


class Guard:
    """ASGI middleware. A refusal is one sentence: 403, 413, 414, 431, or 429 with Retry-After."""

    def __init__(
        self,
        app: ASGIApp,
        rate: float = RATE,
        burst: int = BURST,
        clock: Callable[[], float] = time.monotonic,
        get_names: Callable[[], Iterable[str]] = lambda: (),
        base: str = "",
        get_person: Callable[[str | None], str] = lambda _: "",
        uploads: str = "",
        sockets: Sockets | None = None,
    ):
        """`get_names()`: what the server may be called beside what the machine calls itself; see hosts.py. `base`: what
        every path begins with, such as /gradviz. `get_person(cookie)`: whose it is, or empty.
        `uploads`: how the paths begin that take content, and look after it themselves; empty, none does. `sockets`: of the
        websockets, for who wants to know how many are open."""
        self._app = app
        self._own, self._get_names, self._base = hosts.own_names(), get_names, base
        self._get_person, self._sockets = get_person, sockets or Sockets(clock)
        self._uploads = base + uploads if uploads else ""
        self._requests = Pace(burst, rate, clock)  # by address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        stranger = self._stranger(scope)
        if scope["type"] == "websocket":
            await (_close(receive, send) if stranger else self._hold(scope, receive, send))
            return
        added = headers("" if stranger else _header(scope, b"host"))

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = MutableHeaders(scope=message)
                for name, value in added.items():
                    given.setdefault(name, value)
            await send(message)

        refusal = PlainTextResponse(stranger, 403, {"Connection": "close"}) if stranger else self._refusal(scope)
        await (refusal or self._app)(scope, receive, send_with_headers)

    async def _hold(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A websocket, if whoever opens it may have one more."""
        person, address = self._get_person(HTTPConnection(scope).cookies.get(COOKIE)), _address(scope)

        async def heard(whole: bool) -> None:
            await self._sockets.heard(person, address, whole)

        with self._sockets.one(person, address) as may:
            await (self._app(scope, *_by_what_may_be_said(receive, send, heard)) if may else _close(receive, send))

    def _stranger(self, scope: Scope) -> str:
        """Empty, or why the name that the server was called by, or the page that asks, is none of ours."""
        host, origin = _header(scope, b"host"), _header(scope, b"origin")
        names = set(self._get_names())
        if not hosts.may_be_called(host, names | self._own):
            return _(
                "This server does not answer to the name {host}. Whoever runs it can allow that with the setting GRADVIZ_HOSTS."
            ).format(host=hosts.name_of(host) or _("in this address"))
        if origin and not hosts.is_of(origin, host, names - self._own):
            return _("This server answers its own pages only; whoever runs it can allow others with the setting GRADVIZ_HOSTS.")
        return ""

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        path = scope["path"]
        ours = is_ours(path, self._base)
        wait = ours and math.ceil(self._requests.wait(_address(scope)))
        if wait:
            sentence = _("Too many requests from one address; wait {n} s.").format(n=wait)
            return PlainTextResponse(sentence, 429, {"Retry-After": str(wait)})
        most = MAX_ADDRESS if ours else MAX_LINK
        if len(scope.get("raw_path") or path) + len(scope["query_string"]) > most:
            return PlainTextResponse(_("The address is too long: {n} characters at most.").format(n=most), 414)
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADERS:
            sentence = _("The headers are too long: {n} bytes at most.").format(n=MAX_HEADERS)
            return PlainTextResponse(sentence, 431, {"Connection": "close"})
        if UPLOAD in path:  # Streamlit keeps what is uploaded in memory, as often as one likes
            return PlainTextResponse(_("Nothing can be uploaded here."), 403, {"Connection": "close"})
        if self._uploads and path.startswith(self._uploads) and scope["method"] == "PUT":
            return None
        if {b"transfer-encoding", b"content-length"} & {name for name, value in scope["headers"] if value != b"0"}:
            return PlainTextResponse(_("This address takes no content."), 413, {"Connection": "close"})
        return None


def _address(scope: Scope) -> str:
    return place(scope["client"][0]) if scope.get("client") else ""


async def _close(receive: Receive, send: Send) -> None:
    """Of a websocket, before it is accepted: 403. A page of ours tries again after a while."""
    await receive()
    await send({"type": "websocket.close", "code": 1008})


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode("latin-1") for header, value in scope["headers"] if header == name), "")


def _by_what_may_be_said(receive: Receive, send: Send, heard: Callable[[bool], Awaitable[None]]) -> tuple[Receive, Send]:
    """The two ends of a websocket, at which the app behind hears only what `spoken` lets pass, and no more often than `heard`."""
    closed = False

    async def hear() -> Message:
        nonlocal closed
        while True:
            message = await receive()
            if message["type"] != "websocket.receive":
                return message
            judged = spoken.judge(message.get("bytes"))
            await heard(judged.whole_page)
            if closed:  # meanwhile
                return {"type": "websocket.disconnect", "code": 1006}
            if judged.verdict == spoken.HEARD:
                return message
            if judged.verdict != spoken.IGNORED:
                closed = True
                await send({"type": "websocket.close", "code": judged.verdict})
                return {"type": "websocket.disconnect", "code": judged.verdict}

    async def say(message: Message) -> None:
        nonlocal closed
        if not closed:
            try:
                await send(message)
            except OSError:  # the browser has gone; told so at `hear`, Streamlit ends without a traceback
                closed = True

    return hear, say
