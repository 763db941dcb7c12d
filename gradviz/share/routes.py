"""Which pages in one file a server makes, and of what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request

from gradviz.record.run import Run
from gradviz.share.outcome import run_shared
from gradviz.share.page import safe_home, written

RUN = "api/runs/{id}/shared.html"


def shared_pages(get_run: Callable[[str], Run[Any] | None]) -> Mapping[str, Callable[[Request], bytes | None]]:
    """For download.download_routes. A request's `home` is the address of the pages, as its browser sees them."""

    def run(request: Request) -> bytes | None:
        found = get_run(request.path_params["id"])
        return written(run_shared(found, _home(request))) if found and found.history.steps else None

    return {f"/{RUN}": run}


def _home(request: Request) -> str | None:
    return safe_home(request.query_params.get("home", ""))
