"""Files to take home: routes that make them while they are sent, and the button that asks for them.

Streamlit's own button holds the whole file in the server's memory until the session ends.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import anyio
import anyio.to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from gradviz.record.export import ALL_FILES
from gradviz.record.run import Run
from gradviz.serve.admission import Refused
from gradviz.serve.desk import Desk
from gradviz.web.answers import NEVER, refuse
from gradviz.web.panels import mount
from gradviz.words import gettext as _

STALL = 30.0  # seconds that a browser may take nothing; then its place is another's
_NEED = 40e6  # bytes that a file takes while it is made, beside the run's records
_LOOK = 0.1  # seconds between two looks at the line


def download_routes(
    get_run: Callable[[str], Run[Any] | None],
    get_desk: Callable[[], Desk],
    get_archive: Callable[[], Iterable[bytes]],
    get_key: Callable[[], str],
    get_person: Callable[[Request], str] = lambda _: "",
    stall: float = STALL,
    pages: Mapping[str, Callable[[Request], bytes | None]] | None = None,
) -> list[Route]:
    """Routes for `st.App`: each of export.ALL_FILES of a run, and the class's archive for who knows its key.

    `pages`: path -> what makes the file that is asked for under it, a page in one file say; None if that is not there.

    `get_person(request)`: who asks, empty if that is not known; then his address is who he is.
    With `ask` in the query the answer is one sentence about the line, empty if there is none, or 503.
    """

    async def run_file(request: Request) -> Response:
        id, name = request.path_params["id"], request.path_params["name"]
        if name not in ALL_FILES:
            return refuse(404, _("There is no such file of a run."))
        make, media = ALL_FILES[name]

        def begin() -> Iterator[bytes] | None:
            run = get_run(id)
            return make(run) if run else None

        return await answer(request, begin, f"gradviz-{id}-{name}", media)

    async def archive(request: Request) -> Response:
        if not hmac.compare_digest(request.query_params.get("key", "").encode(), get_key().encode()):
            return refuse(403, _("The archive is for the teacher: reload the Classroom page and enter the PIN."))
        return await answer(request, lambda: iter(get_archive()), "gradviz-class.zip", "application/zip")

    async def answer(request: Request, begin: Callable[[], Iterator[bytes] | None], name: str, media: str) -> Response:
        there = request.client.host if request.client else ""
        return await _answer(request, get_desk(), (get_person(request) or there, _NEED, there), begin, name, media, stall)

    def shared(path: str, make: Callable[[Request], bytes | None]) -> Route:
        async def page(request: Request) -> Response:
            def begin() -> Iterator[bytes] | None:
                made = make(request)
                return None if made is None else iter([made])

            about, last = request.path_params.get("id", "comparison"), path.rpartition("/")[2]
            is_page = last == "shared.html"
            media = "text/html" if is_page else "application/octet-stream"
            return await answer(request, begin, f"gradviz-{about}{'.html' if is_page else f'-{last}'}", media)

        return Route(path, page)

    own = [shared(path, make) for path, make in (pages or {}).items()]
    return [*own, Route("/api/runs/{id}/{name}", run_file), Route("/api/archive", archive)]


async def _answer(
    request: Request, desk: Desk, wish: tuple[str, float, str], begin: Callable[[], Iterator[bytes] | None], name: str,
    media: str, stall: float,
) -> Response:  # fmt: skip
    """What `begin` makes, as the file `name`, once the `wish`, as of Desk.line_up, has its place."""
    headers = {
        **NEVER,
        "Content-Disposition": f'attachment; filename="{name}"',
        "Content-Encoding": "identity",  # else Streamlit compresses every byte on its way
    }
    if request.method == "HEAD":
        return Response(headers=headers, media_type=media)
    try:
        if "ask" in request.query_params:
            return PlainTextResponse(_said(await anyio.to_thread.run_sync(desk.forecast, *wish)), headers=NEVER)
        ticket = desk.line_up(*wish)
    except Refused as refusal:
        return refuse(503, str(refusal))
    try:
        while not desk.serve(ticket):
            await anyio.sleep(_LOOK)
        chunks = await anyio.to_thread.run_sync(begin)
    except Refused as refusal:
        desk.leave(ticket)
        return refuse(503, str(refusal))
    except BaseException:
        desk.leave(ticket)
        raise
    if chunks is None:
        desk.leave(ticket)
        return refuse(404, _("There is no such run on this server."))
    return _Sent(chunks, stall, lambda: desk.leave(ticket), headers, media)


class _Sent(StreamingResponse):
    """Sends the pieces as they are made, to whoever goes on taking them."""

    def __init__(self, chunks: Iterator[bytes], stall: float, done: Callable[[], None], headers: dict[str, str], media: str):
        super().__init__(chunks, headers=headers, media_type=media)
        self._stall, self._done = stall, done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def in_time(message: Message) -> None:
            with anyio.fail_after(self._stall):
                await send(message)

        try:
            await super().__call__(scope, receive, in_time)
        except (TimeoutError, ClientDisconnect):
            pass  # the server closes the connection of an answer that is not complete
        finally:
            self._done()


def _said(place: int) -> str:
    return _("Others are being served: the file comes as number {n}.").format(n=place) if place else ""


def download_button(label: str, url: str, file: str, key: str, home: bool = False) -> None:
    """Looks and works as st.download_button. `url`: of one of the routes above, relative to the page's base; with `home` it is
    told where the pages are, as this browser sees them."""
    offline = _("No connection to the server; try again.")
    data = {"label": label, "url": url, "file": file, "offline": offline, "home": home}
    mount("download.js", key, data, width="content")
