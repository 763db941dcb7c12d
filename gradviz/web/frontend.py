"""Streamlit's own scripts, from memory and packed. Streamlit reads a file anew for every browser, in pieces and other threads:
most of what a page costs the server that somebody opens for the first time. And the page itself, with scripts of ours in its
head."""

from __future__ import annotations

import gzip
import mimetypes
import re
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import anyio.to_thread
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gradviz.web.answers import takes_gzip
from gradviz.web.joining import Joining

_TEXT = (".js", ".css", ".svg", ".json")  # the fonts are packed already
_SCRIPTS = "static/js/"


class Files:
    """What lies below `static/` of a folder with an index.html, as Streamlit's own, packed and kept once asked for: 20 MB at
    most, 1 MB as a rule. Where it is known how, its page has joined scripts (gradviz.web.joining), in a folder of their own, in
    which all others stand as well."""

    def __init__(self, folder: Path):
        """Raises OSError."""
        index = (folder / "index.html").read_text(encoding="utf-8")
        self._paths = {path.relative_to(folder).as_posix(): path for path in (folder / "static").rglob("*") if path.is_file()}
        scripts = [name.removeprefix(_SCRIPTS) for name in self._paths if name.startswith(_SCRIPTS)]
        self._joining = Joining.known(index, scripts, lambda name: self._paths[_SCRIPTS + name].read_text(encoding="utf-8"))
        self._index = self._joining.page() if self._joining else index
        self._kept: dict[tuple[str, bool], bytes] = {}
        self._one = threading.Lock()  # thirty first visitors: packed once

    def __contains__(self, name: str) -> bool:
        script, path = self._place(name)
        return script is not None or path in self._paths

    def kept(self, name: str, packed: bool) -> bytes | None:
        script, path = self._place(name)
        return self._kept.get((script or path, packed))

    def read(self, name: str, packed: bool) -> bytes:
        """Raises OSError."""
        script, path = self._place(name)
        key = script or path, packed
        with self._one:
            if key in self._kept:
                return self._kept[key]
            body = self._joining.text(script).encode() if self._joining and script else self._paths[path].read_bytes()
            if packed:
                body = gzip.compress(body, 6, mtime=0)
            if packed or not name.endswith(_TEXT):  # hardly anybody takes a text as it is
                self._kept[key] = body
            return body

    def warm_up(self) -> None:
        """Reads what every page begins with, and what most of them ask for."""
        begun = re.findall(r'(?:src|href)="\./([^"]+)"', self._index)
        for name in [*begun, *(self._joining.early() if self._joining else ())]:
            if name in self:
                self.read(name, name.endswith(_TEXT))

    def page(self, head: str) -> bytes:
        """The index.html, whose head begins with `head`."""
        return self._index.replace("<head>", f"<head>{head}", 1).encode()

    def _place(self, name: str) -> tuple[str | None, str]:
        """Of a name in an address: the script that stands there beside the joined ones, if one does, and Streamlit's file."""
        folder, _, rest = name.partition("/")
        if self._joining is None or folder != self._joining.folder:
            return None, name
        script = rest.removeprefix("js/")
        return script if script != rest and script in self._joining else None, f"static/{rest}"


class Frontend:
    """ASGI middleware. Whatever is none of its files is for the app behind it to answer; the pages of the app it answers in its
    place, once that has said that there is one. Of a file it gives the whole to who asks for a part, as HTTP lets a server do."""

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
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD") or name not in self._files:
            await self._app(scope, receive, self._as_page(name, scope, send))
            return
        text = name.endswith(_TEXT)
        packed = text and takes_gzip(Request(scope))
        body = self._files.kept(name, packed)
        if body is None:
            body = await anyio.to_thread.run_sync(self._files.read, name, packed)
        headers = {"Cache-Control": "public, immutable, max-age=31536000"}  # the name holds a hash of the content
        headers |= {"Vary": "Accept-Encoding"} if text else {}
        headers |= {"Content-Encoding": "gzip"} if packed else {}
        headers["Content-Length"] = str(len(body))
        media = mimetypes.guess_type(name)[0] or "application/octet-stream"
        await Response(body if scope["method"] == "GET" else b"", headers=headers, media_type=media)(scope, receive, send)

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
