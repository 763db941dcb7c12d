"""The routes that the live element asks: run data and scripts, nothing else. Bad input is answered with one sentence."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace

import anyio
import anyio.to_thread
import numpy as np
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from gradviz.lenet.config import RunConfig
from gradviz.lenet.experiment import preview_images
from gradviz.lenet.theory.predict import predict
from gradviz.record.quantities import QUANTITIES
from gradviz.record.run import Run, Status
from gradviz.serve.admission import Refused
from gradviz.serve.desk import RETRY
from gradviz.serve.previews import Preview
from gradviz.web import wire
from gradviz.web.metrics import CONTENT_TYPE
from gradviz.web.scripts import NEVER, script_routes

PREVIEW_SECONDS = 5.0  # how long a request waits for a preview before it answers 202, and the client asks again
_FEW_COLUMNS = 50
_AT_ONCE = 4  # runs that are read or packed at once: each takes some ten megabytes meanwhile
_SAID_AGAIN = 1.0  # seconds for which a training run's verdict is not worked out again


def build_routes(
    get_run: Callable[[str], Run | None],
    get_preview: Callable[[str], Preview | None],
    describe: Callable[[Run], tuple[str, str]],
    get_problem: Callable[[], str] = lambda: "",
    get_metrics: Callable[[], str] = lambda: "",
    look: Callable[[str], tuple[int | None, float | None]] = lambda _: (None, None),
    get_at_hand: Callable[[str], Run | None] = lambda _: None,
) -> list[Route]:
    """Routes for `st.App`.

    `describe(run)` gives the verdict and the sentence that the element shows; it is asked at every poll, so it had better
    be a Described. `get_problem()` gives the sentence of `/ready` while the server cannot keep runs, `get_metrics()` the
    text of `/metrics`. `look(id)` is called whenever somebody's page asks for the run, and gives its place in the queue
    and the seconds it is expected to wait. `get_at_hand(id)` gives the run if nothing need be read for that.
    """

    few = anyio.CapacityLimiter(_AT_ONCE)

    async def answer(request: Request, make: Callable[[Run], bytes]) -> Response:
        """In a thread, since reading an old run from the store or packing a long one would hold up everybody's pages."""

        def work() -> Response:
            try:
                return _made(get_run(request.path_params["id"]), make)
            except Refused as refusal:
                return _refuse(503, str(refusal))

        return await anyio.to_thread.run_sync(work, limiter=few)

    async def run_delta(request: Request) -> Response:
        query = request.query_params

        def make(run: Run) -> bytes:
            quantity = query.get("quantity", "weight_grad_rms")
            low, high = QUANTITIES[quantity].ranges[0] if quantity in QUANTITIES else (0.0, 0.0)
            return wire.delta(
                run,
                _whole(query.get("since", "0"), "since"),
                _whole(query.get("stride", "0"), "stride"),
                quantity,
                _number(query.get("low", low), "low"),
                _number(query.get("high", high), "high"),
                *describe(run),
                *look(run.id),
            )

        run = get_at_hand(request.path_params["id"])
        if run is not None and _little(run, query):
            return _made(run, make)
        return await answer(request, make)

    async def run_profile(request: Request) -> Response:
        def make(run: Run) -> bytes:
            step = _whole(request.query_params.get("step", "0"), "step")
            return wire.profile(run, step, theory=None if step else _theory(run.recipe))

        return await answer(request, make)

    async def preview_profile(request: Request) -> Response:
        preview = get_preview(request.path_params["id"])
        if preview is None:
            return _refuse(404, "There is no such preview on this server.")
        with anyio.move_on_after(PREVIEW_SECONDS):
            while not preview.ready.is_set():
                await anyio.sleep(0.02)
        record = preview.record
        if record is None:
            return _refuse(409, preview.error) if preview.error else _refuse(202, "The net is still being measured.")
        extra = {
            "loss": record.loss,
            "accuracy": record.accuracy,
            "nonfinite_layer": record.nonfinite_layer,
            "ms_per_step": round(1000 * preview.seconds_per_step, 3),
            "theory": await anyio.to_thread.run_sync(_theory, replace(preview.config, batch_size=preview_images(preview.config))),
        }
        return _binary(wire.net_profile(record.layers, preview.config.layout.names, **extra))

    async def ready(_: Request) -> Response:
        problem = await anyio.to_thread.run_sync(get_problem)
        return _refuse(503, problem) if problem else PlainTextResponse("ready", headers=NEVER)

    async def metrics(_: Request) -> Response:
        return Response(await anyio.to_thread.run_sync(get_metrics), media_type=CONTENT_TYPE, headers=NEVER)

    return [
        Route("/api/runs/{id}", run_delta),
        Route("/api/runs/{id}/profile", run_profile),
        Route("/api/previews/{id}", preview_profile),
        Route("/ready", ready),
        Route("/metrics", metrics),
        *script_routes(),
    ]


class Described:
    """Remembers what was last said of each of the latest runs: thirty viewers of one run ask the same thing every second.

    Of a training run, whose every step is news, the same is said again for `again` seconds. What cannot be described
    has the words ("", ""), for its numbers are still right and still wanted; the log has the error.
    """

    def __init__(
        self,
        describe: Callable[[Run], tuple[str, str]],
        keep: int = 64,
        again: float = _SAID_AGAIN,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._describe, self._keep, self._again, self._clock = describe, keep, again, clock
        self._said: OrderedDict[str, tuple[tuple, int, float, tuple[str, str]]] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, run: Run) -> tuple[str, str]:
        state, steps = (run.created, run.status), run.history.steps
        with self._lock:
            known = self._said.get(run.id)
            if known is not None and known[0] == state:
                _, then, when, words = known
                if then == steps or run.status is Status.RUNNING and then and self._clock() < when + self._again:
                    return words
        try:
            words = self._describe(run)
        except Exception:
            logging.getLogger(__name__).exception("describing run %s failed", run.id)
            words = ("", "")
        with self._lock:
            self._said[run.id] = (state, steps, self._clock(), words)
            self._said.move_to_end(run.id)
            while len(self._said) > self._keep:
                self._said.popitem(last=False)
        return words


def _theory(config: RunConfig) -> dict[str, list[float | None]] | None:
    """The prediction for this net at initialisation as the element draws it, log10; None where there is no theory."""
    prediction = predict(config)
    if np.isnan(prediction.weight_grad_rms).all():
        return None
    names = ("weight_grad_rms", "signal_rms", "activation_rms", "std")
    return {name: [round(x, 2) if math.isfinite(x) else None for x in getattr(prediction, name).tolist()] for name in names}


def _little(run: Run, query: Mapping[str, str]) -> bool:
    """Whether so few columns are new to this client that to pack them takes less time than to wake a thread."""
    history = run.history.snapshot()
    since, stride = query.get("since", ""), query.get("stride", "")
    if not (since.isdecimal() and since.isascii() and len(since) < 12) or stride != str(history.stride):
        return False
    return 0 <= history.steps - int(since) <= _FEW_COLUMNS * history.stride


def _made(run: Run | None, make: Callable[[Run], bytes]) -> Response:
    if run is None:
        return _refuse(404, "There is no such run on this server.")
    try:
        return _binary(make(run))
    except wire.WireError as error:
        return _refuse(400, str(error))


def _binary(body: bytes) -> Response:
    return Response(body, media_type="application/octet-stream", headers=NEVER)


def _refuse(status: int, sentence: str) -> Response:
    later = {"Retry-After": str(RETRY)} if status == 503 else {}
    return PlainTextResponse(sentence, status, headers={**NEVER, **later})


def _whole(text: str, name: str) -> int:
    # isascii: "²" is a digit to Python, but not a number.
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise wire.WireError(f"{name} must be a whole number of 0 or more.")
    return int(text)


def _number(text: str | float, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise wire.WireError(f"{name} must be a number.") from None
