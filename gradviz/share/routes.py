"""Which pages in one file a server makes, and of what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request

from gradviz.lenet.lessons.catalogue import LESSONS
from gradviz.lenet.lessons.lesson import ended
from gradviz.record.run import Run
from gradviz.share.outcome import run_shared
from gradviz.share.page import safe_home, written
from gradviz.share.several import compared, lesson_shared

RUN = "api/runs/{id}/shared.html"
COMPARISON = "api/comparison/shared.html"
LESSON = "api/lessons/{id}/shared.html"
_MOST = 8  # runs of a comparison


def shared_pages(get_run: Callable[[str], Run[Any] | None]) -> Mapping[str, Callable[[Request], bytes | None]]:
    """For download.download_routes. A request's `home` is the address of the pages, as its browser sees them."""

    def run(request: Request) -> bytes | None:
        found = get_run(request.path_params["id"])
        return written(run_shared(found, _home(request))) if found and found.history.steps else None

    def comparison(request: Request) -> bytes | None:
        asked = dict.fromkeys(request.query_params.get("runs", "").split(","))
        runs = [found for id in list(asked)[:_MOST] if (found := get_run(id)) and found.history.steps]
        quantity = request.query_params.get("quantity", "weight_grad_rms")
        if len(runs) < 2 or not all(quantity in found.history.quantities for found in runs):
            return None
        return written(compared(runs, quantity, _home(request)))

    def lesson(request: Request) -> bytes | None:
        told = LESSONS.get(request.path_params["id"])
        dataset = request.query_params.get("dataset", "mnist")
        if told is None or dataset not in ("mnist", "digits"):
            return None
        found = [get_run(config.id) for config in told.sweep(dataset).configs]
        runs = [run for run in found if run is not None and ended(run, told.early)]
        prediction = told.read(request.query_params.get("prediction"))
        return written(lesson_shared(told, runs, prediction, dataset, _home(request))) if len(runs) == len(found) else None

    return {f"/{RUN}": run, f"/{COMPARISON}": comparison, f"/{LESSON}": lesson}


def _home(request: Request) -> str | None:
    return safe_home(request.query_params.get("home", ""))
