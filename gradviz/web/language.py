"""The language of an answer: what the address asks for, else what this browser has picked, else what it prefers."""

from __future__ import annotations

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from gradviz.words import ENGLISH, accepted, found, speaking

PARAMETER = "lang"  # of an address, of a page's too
COOKIE = "gradviz_lang"  # what was picked on a page


def wanted(asked: str | None, picked: str | None, header: str | None) -> str:
    """`asked`: by the address; `picked`: the cookie; `header`: Accept-Language."""
    return found(asked, picked, *accepted(header)) or ENGLISH


class Language:
    """ASGI middleware: whoever makes a sentence for this request speaks that language. The first of all, for refusals too."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asks = HTTPConnection(scope)
        language = wanted(asks.query_params.get(PARAMETER), asks.cookies.get(COOKIE), asks.headers.get("Accept-Language"))
        with speaking(language):
            await self._app(scope, receive, send)
