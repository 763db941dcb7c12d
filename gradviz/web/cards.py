"""The class's runs as cards: one small route that everybody polls, and the element that draws what it says."""

from __future__ import annotations

import math
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio.to_thread
import numpy as np
import streamlit as st
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from gradviz.diagnosis.diagnose import CHANCE, Verdict
from gradviz.record import raster
from gradviz.record.quantities import QUANTITIES
from gradviz.record.run import Run, Status, Summary
from gradviz.serve.admission import Refused
from gradviz.serve.classroom import Classroom
from gradviz.serve.manager import RunManager
from gradviz.web import wire
from gradviz.web.panels import unloaded
from gradviz.web.panels import words as live_words
from gradviz.web.routes import NEVER, script_route, script_url
from gradviz.words import gettext as _

MOST_CARDS = 40
ROWS, COLUMNS = 20, 32  # of a card's heatmap, at most
LOSS_TOP = 3.0  # nats: the upper edge of every sparkline; a net that learns nothing stands at 2.3
_MOST_NAMES = 4  # on a card
_EVERY = 1.0  # seconds between two looks at the runs, however many browsers ask
_BUDGET = 0.25  # seconds of one look for reading old runs from the store; the rest comes with the next looks
_SCRIPT = Path(__file__).with_name("static") / "classroom.js"


# Cards


def frame_of(steps: int, total: int, live: bool) -> int:
    """Steps that the width of a card stands for: all that an ended run has; of a live one a doubling number, so that
    what is drawn stays where it is for as long as there is room."""
    if not live:
        return max(1, steps)
    frame = min(total, COLUMNS)
    while frame < steps:
        frame *= 2
    return min(frame, total)


def picture(run: Run) -> tuple[int, int, np.ndarray, np.ndarray]:
    """(bins, rows, loss codes (filled,), gradient codes (filled, rows)) of the run now; bins are what the width has room for.

    A bin's gradient is the maximum over its steps and, where layers outnumber ROWS, over neighbouring layers, in the
    codes of `raster` and the default range. Its loss is the mean, in the same codes over 0 … LOSS_TOP nats, linear.
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
    pooled = raster.pool(np.maximum.reduceat(gradient, columns, axis=0), ROWS)
    first = starts(np.arange(history.steps))
    with np.errstate(over="ignore", invalid="ignore"):
        loss = np.add.reduceat(history.loss, first) / np.diff(np.append(first, history.steps))
    codes = raster.encode(pooled, "weight_grad_rms", *QUANTITIES["weight_grad_rms"].ranges[0])
    return bins, rows, loss_codes(loss), codes


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
        describe: Callable[[Run], tuple[str, str]],
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
        self._states: dict[str, tuple] = {}  # run id -> what its card was made from
        self._cards: dict[str, tuple[int, dict[str, Any], bytes]] = {}  # run id -> (look, header, codes)
        self._order: list[str] = []
        self._head: dict[str, Any] = {"more": 0, "ended": 0, "waiting": 0}
        self._answers: dict[int, bytes] = {}  # of this look, by what was seen
        self._looking, self._swapping = threading.Lock(), threading.Lock()

    def answer(self, seen: str = "") -> bytes:
        """All cards, or those that changed after `seen`, the header's `seen` of an earlier answer.

        Header: `seen`, `order` (run ids), `cards` (run id -> card), `more` runs that have no card, `ended` and
        `waiting` runs. Arrays, uint8, for each of `cards`: loss codes (filled,), gradient codes (filled, rows).
        Raises WireError if `seen` is none.
        """
        if seen and not re.fullmatch(r"[0-9a-f]{8}-[0-9]{1,12}", seen, re.ASCII):
            raise wire.WireError("seen must be what the last answer said.")
        self._refresh()
        epoch, _dash, look = seen.partition("-")
        with self._swapping:
            since = int(look) if epoch == self._epoch and int(look) <= self._look else 0
            if since not in self._answers:
                self._answers[since] = self._packed(since)
            return self._answers[since]

    def _packed(self, since: int) -> bytes:
        changed = {id: self._cards[id] for id in self._order if self._cards[id][0] > since}
        header = {"seen": f"{self._epoch}-{self._look}", **self._head, "order": self._order}
        header["cards"] = {id: card for id, (_look, card, _codes) in changed.items()}
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


def _rank(summary: Summary, place: int | None, named: bool) -> tuple:
    """What trains, then what waits in its order, then ended runs with a name before those of sweeps; the newest first."""
    live = (Status.RUNNING, Status.PAUSED, Status.QUEUED)
    if summary.status.live:
        return (live.index(summary.status), place or math.inf, summary.created)
    return (len(live) + (not named), 0, -summary.created)


def _card(summary: Summary, place: int | None, names: tuple[str, ...]) -> dict[str, Any]:
    return {
        "names": list(names[:_MOST_NAMES]),
        "others": max(0, len(names) - _MOST_NAMES),
        "summary": summary.recipe.title,
        "status": summary.status,
        "place": place if summary.status is Status.QUEUED else None,
        "steps": summary.steps,
        "total": summary.recipe.steps,
        "loss": float(f"{summary.loss:.3g}") if summary.steps else None,
        "bins": 0,
        "rows": 0,
        "filled": 0,
        "verdict": "",
    }


# Routes


def classroom_routes(get_board: Callable[[], Board], get_notice: Callable[[], dict[str, str | bool]]) -> list[Route]:
    """Routes for `st.App` beside those of gradviz.web.routes."""

    async def cards(request: Request) -> Response:
        try:
            body = await anyio.to_thread.run_sync(get_board().answer, request.query_params.get("seen", ""))
        except wire.WireError as error:
            return PlainTextResponse(str(error), 400, headers=NEVER)
        return Response(body, media_type="application/octet-stream", headers=NEVER)

    async def notice(_: Request) -> Response:
        return JSONResponse(get_notice(), headers=NEVER)

    return [
        Route("/api/classroom", cards),
        Route("/api/classroom/notice", notice),
        script_route(_SCRIPT),
    ]


# The element

# As in element.py: Streamlit sends this at every mount, and may clean up late.
_STUB = """
export default function (component) {
  const host = component.parentElement;
  const state = (host.gradvizClass ??= { calls: 0, part: null });
  const call = ++state.calls;
  const load = (name) => import(new URL(component.data[name], document.baseURI).href);
  Promise.all([load("script"), load("live")]).then(([classroom, live]) => {
    if (state.calls === call) classroom.render(state, component, live);
  }, () => {
    host.textContent = component.data.unloaded;
    if (component.data.mode === "notice") { // it has no place of its own on the page
      host.style.cssText = "position: fixed; left: 1rem; bottom: 1rem; z-index: 9; background: var(--st-background-color, #fff)";
    }
  });
  return () => setTimeout(() => {
    if (state.calls === call) { state.calls++; state.part?.destroy(); state.part = null; }
  }, 300);
}
"""
_component = st.components.v2.component("gradviz_classroom", js=_STUB, isolate_styles=False)
ACTIONS = ("open", "large", "wall", "pause", "resume", "stop", "delete")  # words of the cards' buttons
FOR_ALL = ("open", "large")


def cards_panel(teacher: bool, ended: int, key: str, on_action_change: Callable[[], None]) -> None:
    """Everybody's runs. A button of a card sets the trigger `action`, `<word of ACTIONS> <run id>`; whether he may who
    pressed it is for the callback to say. The page is rerun when there are no longer `ended` ended runs."""
    texts = {name: _(text) for name, text in _TEXTS.items()}
    data = {
        "mode": "cards",
        "actions": [*FOR_ALL, *(ACTIONS[len(FOR_ALL) :] if teacher else ())],
        "ended": ended,
        "loss_top": LOSS_TOP,
        "chance": CHANCE,
        "words": {
            **live_words(),
            **texts,
            "verdicts": {str(verdict): _(str(verdict)) for verdict in Verdict},
            "actions": {word: _(_ACTION_TEXTS[word]) for word in ACTIONS},
        },
    }
    _mount(data, key, on_action_change=on_action_change, on_ended_change=_nothing)


def title_panel(names: tuple[str, ...], summary: str, key: str = "class_title") -> None:
    """Whose run this is, large. The names are shown as they were typed: nothing in them is markup."""
    _mount({"mode": "title", "names": ", ".join(names) or _(_TEXTS["nobody"]), "summary": summary}, key)


def notice_panel(
    drawn: dict[str, str | bool], name: str | None, key: str, on_name_change: Callable[[], None]
) -> None:
    """Invisible: reruns the page when the server's notice differs from what the page has `drawn`, and keeps this browser's
    display name (None: not known yet) across reloads. A name that it remembers is the trigger `name`."""
    _mount({"mode": "notice", "drawn": drawn, "name": name}, key,
           on_name_change=on_name_change, on_changed_change=_nothing)  # fmt: skip


def _mount(data: dict[str, Any], key: str, **callbacks: Callable[[], None]) -> None:
    data |= {"script": script_url(_SCRIPT), "live": script_url(), "unloaded": unloaded()}
    _component(key=key, data=data, **callbacks)


def _nothing() -> None:
    """Streamlit knows a component's values by their callbacks."""


_ACTION_TEXTS = {
    "open": "Open",
    "large": "Large",
    "wall": "Put on the wall",
    "pause": "Pause",
    "resume": "Resume",
    "stop": "Stop",
    "delete": "Delete",
}
_TEXTS = {
    "nobody": "No name",
    "others": "{names} and {n} more",
    "in_queue": "place {n} in the queue",
    "step_of_short": "step {step} of {total}",
    "loss_now": "loss {loss}",
    "waits": "nothing recorded yet",
    "more": "{n} more runs on this server have no card: the newest are shown, those with a name first.",
    "spark": "Loss over the steps, 0 to 3 nats; dashed: guessing.",
    "heat": "Weight gradient, layers (input at the bottom) × steps.",
}
