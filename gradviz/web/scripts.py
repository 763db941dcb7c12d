"""The scripts that a page fetches: the modules of static/ and plotly.js. A browser keeps them for ever, for their address changes
with them: all modules stand under one version, so that none is ever met by an older one that imports it."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import anyio
import anyio.to_thread
import plotly
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gradviz.web.answers import NEVER, refuse
from gradviz.words import gettext as _

_FOREVER = {"Cache-Control": "public, max-age=31536000, immutable"}
_FOLDER = Path(__file__).with_name("static")
_PLOTLY = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
_IMPORTED = re.compile(r'^(?:import|export)\b[^;"]*"\./(\w+\.js)";', re.MULTILINE)


def script_urls(name: str) -> list[str]:
    """Addresses, relative to the page's base, of a module of static/ and of all that it imports, itself first.

    Asked for together, they come in the time of one.
    """
    names, modules = [name], _modules()
    for each in names:  # grows while it is read
        names += [found for found in _IMPORTED.findall(modules[each].decode()) if found not in names]
    return [f"live/{_version()}/{each}" for each in names]


def plotly_url() -> str:
    """Address of plotly.js relative to the page's base, with its version."""
    return f"live/plotly.js?v={plotly.__version__}"


def script_routes() -> list[Route]:
    """Serve what stands under the addresses above, and the modules without a version too, which nobody may then keep."""
    modules, version, one = _modules(), _version(), anyio.CapacityLimiter(1)

    async def module(request: Request) -> Response:
        body = modules.get(request.path_params["name"])
        asked = request.path_params.get("version")
        if body is None or asked not in (None, version):
            return refuse(404, _("There is no such script on this server."))
        return Response(body, media_type="text/javascript", headers=_FOREVER if asked else NEVER)

    async def plotly_script(request: Request) -> Response:
        if "gzip" not in request.headers.get("Accept-Encoding", ""):
            return Response(_plotly(), media_type="text/javascript", headers=_FOREVER)
        body = await anyio.to_thread.run_sync(_zipped_plotly, limiter=one)  # thirty first visitors: once
        zipped = {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
        return Response(body, media_type="text/javascript", headers={**_FOREVER, **zipped})

    return [
        Route("/live/plotly.js", plotly_script),
        Route("/live/{name}", module),
        Route("/live/{version}/{name}", module),
    ]


@cache
def _modules() -> Mapping[str, bytes]:
    # Once per process: where every descriptor is taken, the pages go on.
    return {path.name: path.read_bytes() for path in sorted(_FOLDER.glob("*.js"))}


@cache
def _version() -> str:
    return hashlib.sha256(b"\0".join(name.encode() + b"\0" + body for name, body in _modules().items())).hexdigest()[:12]


@cache
def _plotly() -> bytes:
    return _PLOTLY.read_bytes()


@cache
def _zipped_plotly() -> bytes:
    # Once per process: the server's own compression would spend 0.2 s on every visitor.
    return gzip.compress(_plotly(), 6, mtime=0)
