"""Gives every browser its cookie with the page that it opens; the page's websocket then brings it along."""

from __future__ import annotations

from collections.abc import Callable

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gradviz.serve.people import COOKIE, People, place
from gradviz.web.guard import is_ours

_AGE = 365 * 24 * 3600  # seconds


class Badge:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, get_people: Callable[[], People], base: str = ""):
        """`base`: as of Guard."""
        self._app, self._people, self._base = app, get_people, base

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._wants(Request(scope)):
            await self._app(scope, receive, send)
            return

        async def send_with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 400:
                if value := self._people().cookie(place(scope["client"][0]) if scope.get("client") else ""):
                    # Without a path it holds for the folder of the page, which a proxy may have put under another path.
                    words = f"{COOKIE}={value}; Max-Age={_AGE}; HttpOnly; SameSite=Lax"
                    words += "; Secure" * (scope.get("scheme") == "https")
                    MutableHeaders(scope=message).append("Set-Cookie", words)
            await send(message)

        await self._app(scope, receive, send_with_cookie)

    def _wants(self, request: Request) -> bool:
        """Whether it opens a page, also one that the browser has in its cache, and is of nobody known."""
        opens = request.method == "GET" and "text/html" in request.headers.get("Accept", "")
        return opens and not is_ours(request.url.path, self._base) and not self._people().person(request.cookies.get(COOKIE))
