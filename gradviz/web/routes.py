"""What a browser asks beside the pages: runs, previews, cards, files and scripts; and /ready and /metrics, for who looks after
the server. Bad input is answered with one sentence."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import anyio
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from gradviz.messages import NOTHING, say
from gradviz.record.quantities import described, is_described
from gradviz.record.recipe import R, Recipe
from gradviz.record.run import Run, Status
from gradviz.serve.admission import Refused
from gradviz.serve.previews import Preview
from gradviz.web import wire
from gradviz.web.answers import NEVER, binary, noticed, refuse
from gradviz.web.given import Theory, Words
from gradviz.web.metrics import CONTENT_TYPE
from gradviz.web.scripts import script_routes
from gradviz.words import gettext as _

PREVIEW_SECONDS = 5.0  # how long a request waits for a preview before it answers 202, and the client asks again
# How long it waits if the client wants to hear before it is there: what theory says (1), or how much is done (2).
_AHEAD = {"1": 0.25, "2": 1.0}
_FEW_COLUMNS = 50
_MOST_GROUPS = 100  # of layers, unfolded
_AT_ONCE = 4  # runs that are read or packed at once: each takes some ten megabytes meanwhile
_SAID_AGAIN = 1.0  # seconds for which a training run's verdict is not worked out again


def build_routes(
    get_run: Callable[[str], Run[R] | None],
    get_preview: Callable[[str], Preview | None],
    describe: Callable[[Run[R]], Words],
    get_problem: Callable[[], str] = lambda: "",
    get_metrics: Callable[[], str] = lambda: "",
    look: Callable[[str], tuple[int | None, float | None]] = lambda _: (None, None),
    get_at_hand: Callable[[str], Run[R] | None] = lambda _: None,
    get_theory: Callable[[Recipe], Theory | None] = lambda _: None,
    get_notice: Callable[[], Mapping[str, str | bool]] = dict,
    patience: float = PREVIEW_SECONDS,
) -> list[Route]:
    """Routes for `st.App`.

    `describe(run)` gives the verdict and the sentence that the element shows; it is asked at every poll, so it had better
    be a Described. `get_problem()` gives the sentence of `/ready` while the server cannot keep runs, `get_metrics()` the
    text of `/metrics`. `look(id)` is called whenever somebody's page asks for the run, and gives its place in the queue
    and the seconds it is expected to wait. `get_at_hand(id)` gives the run if nothing need be read for that, and
    `get_theory(recipe)` what is drawn beside the first step, if there is a theory of such nets. `get_notice()`: see `noticed`.
    """

    async def ready(_: Request) -> Response:
        problem = await anyio.to_thread.run_sync(get_problem)
        return refuse(503, problem) if problem else PlainTextResponse("ready", headers=NEVER)

    async def metrics(_: Request) -> Response:
        return Response(await anyio.to_thread.run_sync(get_metrics), media_type=CONTENT_TYPE, headers=NEVER)

    return [
        *_run_routes(get_run, get_at_hand, describe, look, get_theory, get_notice),
        _preview_route(get_preview, get_theory, patience),
        Route("/ready", ready),
        Route("/metrics", metrics),
        *script_routes(),
    ]


def _run_routes(
    get_run: Callable[[str], Run[R] | None],
    get_at_hand: Callable[[str], Run[R] | None],
    describe: Callable[[Run[R]], Words],
    look: Callable[[str], tuple[int | None, float | None]],
    get_theory: Callable[[Recipe], Theory | None],
    get_notice: Callable[[], Mapping[str, str | bool]],
) -> list[Route]:
    few = anyio.CapacityLimiter(_AT_ONCE)

    async def answer(request: Request, make: Callable[[Run[R]], bytes]) -> Response:
        """In a thread, since reading an old run from the store or packing a long one would hold up everybody's pages."""

        def work() -> Response:
            try:
                return _made(get_run(request.path_params["id"]), make)
            except Refused as refusal:
                return refuse(503, str(refusal))

        return await anyio.to_thread.run_sync(work, limiter=few)

    async def delta(request: Request) -> Response:
        query = request.query_params

        def make(run: Run[R]) -> bytes:
            quantity = query.get("quantity", "weight_grad_rms")
            low, high = described(quantity).ranges[0] if is_described(quantity) else (0.0, 0.0)
            return wire.delta(
                run,
                _whole(query.get("since", "0"), "since"),
                _whole(query.get("stride", "0"), "stride"),
                quantity,
                _number(query.get("low", low), "low"),
                _number(query.get("high", high), "high"),
                *describe(run),
                *look(run.id),
                query.get("fit", "") == "1",
                _groups(query.get("open", "")),
            )

        run = get_at_hand(request.path_params["id"])
        little = run is not None and _little(run, query)
        return noticed(_made(run, make) if little else await answer(request, make), request, get_notice)

    async def profile(request: Request) -> Response:
        def make(run: Run[R]) -> bytes:
            step = _whole(request.query_params.get("step", "0"), "step")
            groups = _groups(request.query_params.get("open", ""))
            return wire.profile(run, step, groups, theory=None if step else get_theory(run.recipe))

        return await answer(request, make)

    return [Route("/api/runs/{id}", delta), Route("/api/runs/{id}/profile", profile)]


def _preview_route(
    get_preview: Callable[[str], Preview | None], get_theory: Callable[[Recipe], Theory | None], patience: float
) -> Route:
    async def profile(request: Request) -> Response:
        preview = get_preview(request.path_params["id"])
        if preview is None:
            return refuse(404, _("There is no such preview on this server."))
        ahead, layout = request.query_params.get("ahead", ""), preview.config.layout
        with anyio.move_on_after(min(patience, _AHEAD.get(ahead, patience))):
            while not preview.ready.is_set():
                await anyio.sleep(0.02)
        record = preview.record
        if record is None and not preview.ready.is_set() and ahead in _AHEAD:
            theory = await anyio.to_thread.run_sync(get_theory, preview.measured) if ahead == "1" else None
            return binary(wire.foretold(layout.names, layout.ends, theory, preview.share), 202)
        if record is None:
            return refuse(409, str(preview.error)) if preview.error else refuse(202, _("The net is still being measured."))
        extra = {
            "loss": record.loss,
            "accuracy": record.accuracy,
            "nonfinite_layer": record.nonfinite_layer,
            "ms_per_step": round(1000 * record.seconds, 3),
            "theory": await anyio.to_thread.run_sync(get_theory, preview.measured),
        }
        return binary(wire.net_profile(record.layers, layout.names, layout.ends, **extra))

    return Route("/api/previews/{id}", profile)


class Described:
    """Remembers what was last said of each of the latest runs: thirty viewers of one run ask the same thing every second.

    Of a training run, whose every step is news, the same is said again for `again` seconds. What cannot be described
    has the words ("", NOTHING), for its numbers are still right and still wanted; the log has the error.
    """

    def __init__(
        self,
        describe: Callable[[Run[Any]], Words],
        keep: int = 64,
        again: float = _SAID_AGAIN,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._describe, self._keep, self._again, self._clock = describe, keep, again, clock
        self._said: OrderedDict[str, tuple[tuple[float, Status], int, float, Words]] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, run: Run[Any]) -> Words:
        state, steps = (run.created, run.status), run.history.steps
        words: Words
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
            words = ("", NOTHING)
        with self._lock:
            self._said[run.id] = (state, steps, self._clock(), words)
            self._said.move_to_end(run.id)
            while len(self._said) > self._keep:
                self._said.popitem(last=False)
        return words


def _little(run: Run[R], query: Mapping[str, str]) -> bool:
    """Whether so few columns are new to this client that to pack them takes less time than to wake a thread."""
    history = run.history.snapshot()
    since, stride = query.get("since", ""), query.get("stride", "")
    if not (since.isdecimal() and since.isascii() and len(since) < 12) or stride != str(history.stride):
        return False
    return 0 <= history.steps - int(since) <= _FEW_COLUMNS * history.stride


def _made(run: Run[R] | None, make: Callable[[Run[R]], bytes]) -> Response:
    if run is None:
        return refuse(404, _("There is no such run on this server."))
    try:
        return binary(make(run))
    except wire.WireError as error:
        return refuse(400, str(error))


def _whole(text: str, name: str) -> int:
    # isascii: "²" is a digit to Python, but not a number.
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise wire.WireError(say("wire-whole", name=name))
    return int(text)


def _groups(text: str) -> tuple[int, ...]:
    """First layers of groups that are unfolded: "3,17"."""
    parts = text.split(",") if text else []
    if len(parts) > _MOST_GROUPS:
        raise wire.WireError(say("wire-groups", most=_MOST_GROUPS))
    return tuple(_whole(part, "open") for part in parts)


def _number(text: str | float, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise wire.WireError(say("wire-number", name=name)) from None
