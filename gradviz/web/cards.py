"""The class's runs as cards, and the small routes that everybody polls."""

from __future__ import annotations

import math
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import anyio.to_thread
import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gradviz.messages import Message, say
from gradviz.record import raster
from gradviz.record.quantities import ranges_of
from gradviz.record.recipe import Recipe
from gradviz.record.run import Run, Status, Summary
from gradviz.record.watched import Watched
from gradviz.serve.admission import Refused
from gradviz.serve.classroom import Classroom
from gradviz.serve.manager import RunManager
from gradviz.web import wire
from gradviz.web.answers import NEVER, binary, noticed, refuse
from gradviz.words import language

MOST_CARDS = 40
ROWS, COLUMNS = 20, 32  # of a card's heatmap, at most
LOSS_TOP = 3.0  # nats: the upper edge of every sparkline; a net that learns nothing stands at 2.3
_MOST_NAMES = 4  # on a card
_EVERY = 1.0  # seconds between two looks at the runs, however many browsers ask
_BUDGET = 0.25  # seconds of one look for reading old runs from the store; the rest comes with the next looks


# Cards


def frame_of(steps: int, total: int | None, live: bool) -> int:
    """Steps that the width of a card stands for: all that an ended run has; of a live one a doubling number, so that
    what is drawn stays where it is for as long as there is room."""
    if not live:
        return max(1, steps)
    frame = COLUMNS
    while frame < steps:
        frame *= 2
    return frame if total is None else min(frame, total)


def picture(run: Run[Recipe]) -> tuple[int, int, np.ndarray, np.ndarray]:
    """(bins, rows, loss codes (filled,), gradient codes (filled, rows)) of the run now; bins are what the width has room for.

    A bin's gradient is the maximum over its steps and, where layers outnumber ROWS, over neighbouring layers, in the
    codes of `raster` and the default range. Its loss is the mean, in the same codes over 0 … LOSS_TOP nats, linear. Of a run
    that was watched the loss is on a scale of its own, absent where it was not told, and a bin that was not measured has the
    gradient of the one before.
    """
    live = run.status.live  # before the snapshot: an ended run is then complete
    history = run.history.snapshot()
    frame = frame_of(history.steps, run.recipe.steps, live)
    bins, rows = min(COLUMNS, frame), min(ROWS, history.layers)
    if not history.steps:
        return bins, rows, np.empty(0, np.uint8), np.empty((0, rows), np.uint8)

    def starts(steps: np.ndarray) -> np.ndarray:
        """Where in `steps` each bin begins."""
        return np.flatnonzero(np.diff(steps * bins // frame, prepend=-1))

    gradient = history.quantity("weight_grad_rms")
    columns = starts(np.arange(len(gradient)) * history.stride)
    watched = run.watched
    pooled = raster.pool(np.maximum.reduceat(gradient, columns, axis=0), ROWS)
    loss = raster.means_from(history.loss, starts(np.arange(history.steps)), watched)
    low, high = ranges_of("weight_grad_rms", watched)[0]
    codes = raster.encode(raster.held(pooled) if watched else pooled, "weight_grad_rms", low, high)
    return bins, rows, _own_scale(loss) if watched else loss_codes(loss), codes


def _own_scale(loss: np.ndarray) -> np.ndarray:
    """uint8 codes between the smallest of them, or 0, and the largest."""
    finite = loss[np.isfinite(loss)]
    low, high = min(0.0, np.min(finite, initial=0.0)), np.max(finite, initial=0.0)
    codes = loss_codes((loss - low) / (high - low or 1.0) * LOSS_TOP * (1 - 1e-9))
    return np.where(np.isnan(loss), raster.ABSENT, codes).astype(np.uint8)


def loss_codes(loss: np.ndarray) -> np.ndarray:
    """uint8: raster.LEVELS equal steps from 0 to LOSS_TOP nats, and raster's marks for above, inf and nan."""
    with np.errstate(invalid="ignore", over="ignore"):
        codes = np.clip(np.floor(loss * (raster.LEVELS / LOSS_TOP)), 0, raster.LEVELS) + raster.FIRST_LEVEL
    codes = np.where(np.isnan(loss), raster.NOT_A_NUMBER, np.where(np.isinf(loss), raster.INFINITE, codes))
    return codes.astype(np.uint8)


class Board:
    """What the class trains, as cards, looked up at most once in `every` seconds.

    Each card has the number of the look at which it last changed, so a browser that says which look it has seen gets
    the cards that changed since and the order of all. Every method may be called from any thread.
    """

    def __init__(
        self,
        manager: RunManager,
        classroom: Classroom,
        describe: Callable[[Run[Any]], tuple[str, Message]],
        clock: Callable[[], float] = time.monotonic,
        every: float = _EVERY,
    ):
        """`describe(run)` gives the verdict, and a sentence that cards have no room for; it never raises."""
        self._manager, self._classroom, self._describe = manager, classroom, describe
        self._clock, self._every = clock, every
        # A server that starts again counts from 1 again: what a browser has seen of the last one means nothing here.
        self._epoch = os.urandom(4).hex()
        self._look = 0
        self._next = -np.inf
        self._states: dict[str, tuple[object, ...]] = {}  # run id -> what its card was made from
        self._cards: dict[str, tuple[int, dict[str, Any], bytes]] = {}  # run id -> (look, header, codes)
        self._order: list[str] = []
        self._head: dict[str, Any] = {"more": 0, "ended": 0, "waiting": 0}
        self._answers: dict[tuple[int, str], bytes] = {}  # of this look, by what was seen and the language
        self._looking, self._swapping = threading.Lock(), threading.Lock()

    def answer(self, seen: str = "") -> bytes:
        """All cards, or those that changed after `seen`, the header's `seen` of an earlier answer.

        Header: `seen`, `order` (run ids), `cards` (run id -> card), `more` runs that have no card, `ended` and
        `waiting` runs. Arrays, uint8, for each of `cards`: loss codes (filled,), gradient codes (filled, rows).
        Raises WireError if `seen` is none.
        """
        if seen and not re.fullmatch(r"[0-9a-f]{8}-[0-9]{1,12}", seen, re.ASCII):
            raise wire.WireError(say("wire-seen"))
        self._refresh()
        epoch, _dash, look = seen.partition("-")
        with self._swapping:
            since = int(look) if epoch == self._epoch and int(look) <= self._look else 0
            asked = since, language()
            if asked not in self._answers:
                self._answers[asked] = self._packed(since)
            return self._answers[asked]

    def _packed(self, since: int) -> bytes:
        changed = {id: self._cards[id] for id in self._order if self._cards[id][0] > since}
        header = {"seen": f"{self._epoch}-{self._look}", **self._head, "order": self._order}
        header["cards"] = {id: {**card, "summary": card["summary"].title} for id, (_look, card, _codes) in changed.items()}
        return wire.pack(header, *(np.frombuffer(codes, np.uint8) for _look, _card, codes in changed.values()))

    def _refresh(self) -> None:
        # Who comes while another looks gets the last look: thirty browsers must not queue behind one reading of the store.
        if self._clock() < self._next or not self._looking.acquire(blocking=not self._look):
            return
        try:
            if self._clock() >= self._next:
                self._take_a_look()
                self._next = self._clock() + self._every
        finally:
            self._looking.release()

    def _take_a_look(self) -> None:
        summaries = self._manager.list()
        names = {summary.id: self._classroom.names(summary.id) for summary in summaries}
        waiting = sorted((s for s in summaries if s.status is Status.QUEUED), key=lambda s: s.created)
        order = self._manager.positions() if waiting else {}
        places = {summary.id: order.get(summary.id) for summary in waiting}
        summaries.sort(key=lambda s: _rank(s, places.get(s.id), bool(names[s.id])))
        shown = summaries[:MOST_CARDS]
        deadline = self._clock() + _BUDGET
        look, cards = self._look + 1, {}
        for summary in shown:
            state = (summary.created, summary.status, summary.steps, places.get(summary.id), names[summary.id])
            old = self._cards.get(summary.id)
            if old and self._states[summary.id] == state:
                cards[summary.id] = old
                continue
            late = self._clock() > deadline and not summary.status.live
            try:
                run = None if late else self._manager.get(summary.id)
            except Refused:
                run = None  # with one of the next looks
            self._states[summary.id] = () if run is None else state
            card = _card(summary, places.get(summary.id), names[summary.id])
            codes = b""
            if run is not None:
                bins, rows, loss, gradient = picture(run)
                codes = loss.tobytes() + gradient.tobytes()
                card |= {"bins": bins, "rows": rows, "filled": len(loss), "verdict": self._describe(run)[0]}
            if old and run is None and old[1] == card:
                cards[summary.id] = old
            else:
                cards[summary.id] = (look, card, codes)
        with self._swapping:
            self._look, self._cards, self._order = look, cards, [summary.id for summary in shown]
            self._head = {
                "more": len(summaries) - len(shown),
                "ended": sum(not summary.status.live for summary in summaries),
                "waiting": len(waiting),
            }
            self._answers.clear()
        self._states = {id: self._states[id] for id in cards}


def _rank(summary: Summary[Recipe], place: int | None, named: bool) -> tuple[float, float, float]:
    """What trains, then what waits in its order, then ended runs with a name before those of sweeps; the newest first."""
    live = (Status.RUNNING, Status.PAUSED, Status.QUEUED)
    if summary.status.live:
        return (live.index(summary.status), place or math.inf, summary.created)
    return (len(live) + (not named), 0, -summary.created)


def _card(summary: Summary[Recipe], place: int | None, names: tuple[str, ...]) -> dict[str, Any]:
    watched = isinstance(summary.recipe, Watched)
    return {
        "names": list(names[:_MOST_NAMES]),
        "others": max(0, len(names) - _MOST_NAMES),
        "summary": summary.recipe,  # its title is said in the reader's language
        "status": summary.status,
        "place": place if summary.status is Status.QUEUED else None,
        "steps": summary.steps,
        "total": summary.recipe.steps,
        "loss": float(f"{summary.loss:.3g}") if summary.steps and not (watched and math.isnan(summary.loss)) else None,
        "watched": watched,  # another process trains it: nobody here can stop it
        "bins": 0,
        "rows": 0,
        "filled": 0,
        "verdict": "",
    }


# Routes


def classroom_routes(get_board: Callable[[], Board], get_notice: Callable[[], Mapping[str, str | bool]]) -> list[Route]:
    """Routes for `st.App` beside those of gradviz.web.routes."""

    async def cards(request: Request) -> Response:
        try:
            body = await anyio.to_thread.run_sync(get_board().answer, request.query_params.get("seen", ""))
        except wire.WireError as error:
            return refuse(400, str(error))
        return noticed(binary(body), request, get_notice)

    async def notice(_: Request) -> Response:
        return JSONResponse(get_notice(), headers=NEVER)

    return [
        Route("/api/classroom", cards),
        Route("/api/classroom/notice", notice),
    ]
