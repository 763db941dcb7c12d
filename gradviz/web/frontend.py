"""Streamlit's own scripts, from memory and packed. Streamlit reads a file anew for every browser, in pieces and other threads:
most of what a page costs the server that somebody opens for the first time."""

from __future__ import annotations

import gzip
import mimetypes
import re
from collections.abc import Callable
from pathlib import Path

import anyio.to_thread
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gradviz.web.answers import takes_gzip

_TEXT = (".js", ".css", ".svg", ".json")  # the fonts are packed already


class Files:
    """What lies below `static/` of a folder with an index.html, as Streamlit's own, kept once asked for: 20 MB at most."""

    def __init__(self, folder: Path):
        self._index = folder / "index.html"
        self._paths = {path.relative_to(folder).as_posix(): path for path in (folder / "static").rglob("*") if path.is_file()}
        self._kept: dict[tuple[str, bool], bytes] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._paths

    def kept(self, name: str, packed: bool) -> bytes | None:
        return self._kept.get((name, packed))

    def read(self, name: str, packed: bool) -> bytes:
        """Raises OSError."""
        body = self._paths[name].read_bytes()
        self._kept[name, packed] = gzip.compress(body, 6, mtime=0) if packed else body
        return self._kept[name, packed]

    def warm_up(self) -> None:
        """Reads what every page begins with."""
        for name in re.findall(r'(?:src|href)="\./(static/[^"]+)"', self._index.read_text(encoding="utf-8")):
            if name in self:
                self.read(name, name.endswith(_TEXT))


class Frontend:
    """ASGI middleware. Whatever is none of its files, asked for as a whole, is for the app behind it to answer."""

    def __init__(self, app: ASGIApp, files: Files, base: str = "", get_link: Callable[[str], str] = lambda _: ""):
        """`base`: as of Guard. `get_link(page)`: the header Link of that page of the app, or empty."""
        self._app, self._files, self._base, self._get_link = app, files, base, get_link

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = f"{scope.get('path', '')}/".removeprefix(f"{self._base}/").removesuffix("/")
        if scope["type"] != "http" or scope["method"] != "GET" or name not in self._files or Request(scope).headers.get("Range"):
            await self._app(scope, receive, self._with_link(name, send))
            return
        text = name.endswith(_TEXT)
        packed = text and takes_gzip(Request(scope))
        body = self._files.kept(name, packed) or await anyio.to_thread.run_sync(self._files.read, name, packed)
        headers = {"Cache-Control": "public, immutable, max-age=31536000"}  # the name holds a hash of the content
        headers |= {"Vary": "Accept-Encoding"} if text else {}
        headers |= {"Content-Encoding": "gzip"} if packed else {}
        media = mimetypes.guess_type(name)[0] or "application/octet-stream"
        await Response(body, headers=headers, media_type=media)(scope, receive, send)

    def _with_link(self, page: str, send: Send) -> Send:
        async def send_with_link(message: Message) -> None:
            if message["type"] == "http.response.start" and (headers := MutableHeaders(scope=message)):
                if headers.get("Content-Type", "").startswith("text/html") and (link := self._get_link(page)):
                    headers["Link"] = link
            await send(message)

        return send_with_link
