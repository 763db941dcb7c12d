"""Streamlit's own scripts, from memory and packed. Streamlit reads a file anew for every browser, in pieces and other threads:
most of what a page costs the server that somebody opens for the first time. And the page itself, with scripts of ours in its
head."""

from __future__ import annotations

import gzip
import mimetypes
import re
from collections.abc import Callable, Container, Iterable
from pathlib import Path

import anyio.to_thread
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gradviz.web.answers import takes_gzip

_TEXT = (".js", ".css", ".svg", ".json")  # the fonts are packed already
_IMPORT = re.compile(r'(?:from|import)"\./([^"/]+\.js)"')
# What most pages have of Streamlit that is a script of its own there, and what only the Lab and Compare have.
ELEMENTS = (
    "Html", "Selectbox", "BidiComponent", "Button", "ButtonGroup",
    "Checkbox", "Slider", "NumberInput", "TextInput", "Multiselect", "Table",
)  # fmt: skip


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

    def warm_up(self, elements: Iterable[str] = ()) -> None:
        """Reads what every page begins with, and what these elements of Streamlit need."""
        begun = re.findall(r'(?:src|href)="\./(static/[^"]+)"', self._index.read_text(encoding="utf-8"))
        for name in [*begun, *self._needed(elements, begun)]:
            if name in self:
                self.read(name, name.endswith(_TEXT))

    def page(self, head: str) -> bytes:
        """The index.html, whose head begins with `head`. Raises OSError."""
        return self._index.read_text(encoding="utf-8").replace("<head>", f"<head>{head}", 1).encode()

    def _needed(self, elements: Iterable[str], begun: Container[str]) -> list[str]:
        """The scripts of these elements and what they import, without those that a page has `begun` with."""
        wanted = {f"static/js/{element}" for element in elements}
        found = [name for name in self._paths if name.split(".")[0] in wanted]
        for name in found:  # grows while it is read
            others = (f"static/js/{other}" for other in _IMPORT.findall(self._paths[name].read_text(encoding="utf-8")))
            found += [other for other in dict.fromkeys(others) if other in self and other not in begun and other not in found]
        return found


class Frontend:
    """ASGI middleware. Whatever is none of its files, asked for as a whole, is for the app behind it to answer; the pages of the
    app it answers in its place, once that has said that there is one."""

    def __init__(
        self,
        app: ASGIApp,
        files: Files,
        base: str = "",
        get_link: Callable[[str], str] = lambda _: "",
        pages: Iterable[str] = (),
        head: str = "",
    ):
        """`base`: as of Guard. `get_link(page)`: the header Link of that page of the app, or empty. `pages`: of the app, by their
        names in an address; their heads begin with `head`, and what else it answers is not touched."""
        self._app, self._files, self._base, self._get_link = app, files, base, get_link
        self._pages = frozenset(pages)
        self._page = files.page(head) if self._pages else b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = f"{scope.get('path', '')}/".removeprefix(f"{self._base}/").removesuffix("/")
        if scope["type"] != "http" or scope["method"] != "GET" or name not in self._files or Request(scope).headers.get("Range"):
            await self._app(scope, receive, self._as_page(name, scope, send))
            return
        text = name.endswith(_TEXT)
        packed = text and takes_gzip(Request(scope))
        body = self._files.kept(name, packed) or await anyio.to_thread.run_sync(self._files.read, name, packed)
        headers = {"Cache-Control": "public, immutable, max-age=31536000"}  # the name holds a hash of the content
        headers |= {"Vary": "Accept-Encoding"} if text else {}
        headers |= {"Content-Encoding": "gzip"} if packed else {}
        media = mimetypes.guess_type(name)[0] or "application/octet-stream"
        await Response(body, headers=headers, media_type=media)(scope, receive, send)

    def _as_page(self, page: str, scope: Scope, send: Send) -> Send:
        body: bytes | None = None  # instead of the app's own

        async def send_page(message: Message) -> None:
            nonlocal body
            if message["type"] == "http.response.start" and (headers := MutableHeaders(scope=message)):
                if headers.get("Content-Type", "").startswith("text/html"):
                    if link := self._get_link(page):
                        headers["Link"] = link
                    if page in self._pages and scope["method"] == "GET" and message["status"] == 200:
                        body = self._page
                        for header in ("Content-Encoding", "ETag", "Last-Modified", "Accept-Ranges"):
                            del headers[header]
                        headers["Content-Length"] = str(len(body))
            elif body is not None:
                if message.get("more_body", False):
                    return
                message = {"type": "http.response.body", "body": body}
            await send(message)

        return send_page
