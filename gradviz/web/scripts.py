"""The scripts that a page fetches: for each element of our own one, made of a module of static/ and all that it imports, and
plotly.js. A browser keeps them for ever, for their address changes with them."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Mapping
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import anyio
import anyio.to_thread
import plotly
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gradviz.web import plotly_cut
from gradviz.web.answers import NEVER, refuse, takes_gzip
from gradviz.words import gettext as _

_FOREVER = {"Cache-Control": "public, max-age=31536000, immutable"}
_FOLDER = Path(__file__).with_name("static")
PLOTLY = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
PLOTLY_ID = "gradviz-plotly"  # of its element in the head of a page, for chart.js
TRACES = ("scatter", "heatmap", "image")  # kinds that figures of ours have; scatter is always there
_IMPORT = re.compile(r'^import \{ ([^}]+) \} from "\./(\w+)\.js";$', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=async |class |const |function )", re.MULTILINE)


def script_url(name: str) -> str:
    """Address, relative to the page's base, of a module of static/ with all that it imports."""
    return f"live/{_version()}/{name}"


def plotly_url() -> str:
    """Address of plotly.js relative to the page's base, with its version and what it draws."""
    return f"live/plotly.js?v={plotly.__version__}-{'-'.join(TRACES)}"


def link_header(page: str) -> str:
    """The header Link by which the browser fetches, while Streamlit begins, what the elements of the `page` ("" is the Lab) will
    ask for. Relative to the page, as a proxy may have put it under another path."""
    modules = [script_url("classroom.js"), script_url("figure.js" if page else "live.js")]
    links = [*(f"<./{url}>; rel=modulepreload" for url in modules), f"<./{plotly_url()}>; rel=preload; as=script"]
    return ", ".join(links)


def head() -> str:
    """What the head of every page begins with."""
    begin = Path(__file__).with_name("begin.js").read_text(encoding="utf-8")
    # The drawing library is run while the browser waits for Streamlit's scripts: later the first picture would wait for it.
    plotly_script = f'<script async src="./{plotly_url()}" id="{PLOTLY_ID}" onerror="this.remove()"></script>'
    return f"<script>\n{begin}</script>{plotly_script}"


def bundle(name: str) -> str:
    """A module of static/ with all that it imports, which does by itself what its `render` does: for a page without a server."""
    return joined(_modules(), name) + "render();\n"


def plotly_text() -> str:
    """plotly.js as browsers get it."""
    return _plotly().decode()


def warm_up() -> None:
    """Packs plotly.js, so that the first reader does not wait for it."""
    _zipped_plotly()


def script_routes() -> list[Route]:
    """Serve what stands under the addresses above, and every module by itself without a version, which nobody may then keep."""
    modules, scripts, version, one = _modules(), _scripts(), _version(), anyio.CapacityLimiter(1)

    async def module(request: Request) -> Response:
        text = modules.get(request.path_params["name"])
        if text is None:
            return _unknown()
        return Response(text, media_type="text/javascript", headers=NEVER)

    async def script(request: Request) -> Response:
        both = scripts.get(request.path_params["name"])
        if both is None or request.path_params["version"] != version:
            return _unknown()
        return _kept(*both) if takes_gzip(request) else _kept(both[0])

    async def plotly_script(request: Request) -> Response:
        if not takes_gzip(request):
            return _kept(_plotly())
        return _kept(b"", await anyio.to_thread.run_sync(_zipped_plotly, limiter=one))  # thirty first visitors: once

    return [
        Route("/live/plotly.js", plotly_script),
        Route("/live/{name}", module),
        Route("/live/{version}/{name}", script),
    ]


def _kept(plain: bytes, zipped: bytes = b"") -> Response:
    # Packed once per process: the server's own compression would spend its time on every visitor.
    packed = {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"} if zipped else {}
    return Response(zipped or plain, media_type="text/javascript", headers={**_FOREVER, **packed})


def _unknown() -> Response:
    return refuse(404, _("There is no such script on this server."))


@cache
def _modules() -> Mapping[str, str]:
    # Once per process: where every descriptor is taken, the pages go on.
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(_FOLDER.glob("*.js"))}


@cache
def _scripts() -> Mapping[str, tuple[bytes, bytes]]:
    """By name, plain and packed, whatever has a `render` for a page to call."""
    modules = _modules()
    made = {name: joined(modules, name).encode() for name, text in modules.items() if "export function render(" in text}
    return {name: (body, gzip.compress(body, 9, mtime=0)) for name, body in made.items()}


def joined(modules: Mapping[str, str], name: str) -> str:
    """One module that does what `name` does with all that it imports: a request for each would wait its turn in a busy server.

    Each of them is a function, so that what is called the same in two of them stays apart; what it is asked for it returns.
    Raises graphlib.CycleError for modules that import each other.
    """
    found, order = [name], TopologicalSorter[str]()
    asked: dict[str, set[str]] = {name: {"render"}}
    for each in found:  # grows while it is read
        order.add(each)
        for names, other in _IMPORT.findall(modules[each]):
            order.add(each, f"{other}.js")
            asked.setdefault(f"{other}.js", set()).update(names.split(", "))
            if f"{other}.js" not in found:
                found.append(f"{other}.js")
    parts = []
    for each in order.static_order():
        text = _IMPORT.sub(r"const { \1 } = $\2;", _EXPORT.sub("", modules[each]))
        gives = ", ".join(sorted(asked[each]))
        parts.append(f"const ${each.removesuffix('.js')} = (function () {{\n{text}return {{ {gives} }};\n}})();\n")
    return "".join(parts) + f"export const {{ render }} = ${name.removesuffix('.js')};\n"


@cache
def _version() -> str:
    return hashlib.sha256(b"\0".join(name.encode() + b"\0" + body for name, (body, _) in _scripts().items())).hexdigest()[:12]


def lighter(text: str) -> str:
    """plotly.js without what only other kinds of traces than TRACES need: a third of it, which a browser reads in a tenth of the
    time. What mostly runs at once has brackets around it: browsers go by them, and compile it beside the page's own thread. As it
    is, if it is not the one whose parts are known."""
    if hashlib.sha256(text.encode()).hexdigest() != plotly_cut.OF:
        return text
    edits = [(begin, end, "") for begin, end in plotly_cut.PARTS]
    for begin, end in plotly_cut.AT_ONCE:
        edits += [(begin, begin, "("), (end, end, ")")]
    kept, at = [], 0
    for begin, end, instead in sorted(edits):
        kept += [text[at:begin], instead]
        at = end
    return "".join(kept) + text[at:]


@cache
def _plotly() -> bytes:
    return lighter(PLOTLY.read_text(encoding="utf-8")).encode()


@cache
def _zipped_plotly() -> bytes:
    return gzip.compress(_plotly(), 6, mtime=0)
