"""The elements of our own on a page: each mounts a module of static/, which polls the routes and draws, without script runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamlit as st

from gradviz.diagnosis.findings import Verdict
from gradviz.lenet.config import RunConfig
from gradviz.lenet.diagnosis import CHANCE
from gradviz.record.quantities import QUANTITIES
from gradviz.record.recipe import Recipe
from gradviz.record.run import Run, Status
from gradviz.serve.previews import Preview
from gradviz.web.cards import LOSS_TOP
from gradviz.web.scripts import plotly_url, script_urls
from gradviz.words import gettext as _

# Streamlit sends this text at every mount, so it only fetches the real scripts, which the browser keeps. Streamlit may call
# the returned clean-up late, after a newer call: whoever is not the newest does nothing.
_STUB = """
export default function (component) {
  const { data, parentElement: host } = component;
  const state = (host.gradviz ??= { calls: 0, part: null });
  const call = ++state.calls;
  Promise.all(data.scripts.map((path) => import(new URL(path, document.baseURI).href))).then(([script]) => {
    if (state.calls === call) script.render(state, component);
  }, () => {
    host.textContent = data.unloaded;
    if (data.mode === "notice") { // it has no place of its own on the page
      host.style.cssText = "position: fixed; left: 1rem; bottom: 1rem; z-index: 9; background: var(--st-background-color, #fff)";
    }
  });
  return () => setTimeout(() => {
    if (state.calls === call) { state.calls++; state.part?.destroy(); state.part = null; }
  }, 300);
}
"""
ACTIONS = ("open", "large", "wall", "pause", "resume", "stop", "delete")  # words of the cards' buttons
FOR_ALL = ("open", "large")


def mount(
    script: str, key: str, data: dict[str, Any], triggers: dict[str, Callable[[], None] | None] | None = None,
    width: Any = "stretch", height: Any = "content",
) -> Any:  # fmt: skip
    """The element that `script`, a module of static/, draws in `render(state, component)`. What it wants undone when it is
    gone, it does in `state.part.destroy()`. `triggers`: those that it sets, with what to call before the page is rerun."""
    component = st.components.v2.component(f"gradviz_{script.removesuffix('.js')}", js=_STUB, isolate_styles=False)
    # Streamlit knows a component's values by their callbacks.
    callbacks: dict[str, Any] = {f"on_{name}_change": call or _nothing for name, call in (triggers or {}).items()}
    given = {"scripts": script_urls(script), "unloaded": unloaded(), **data}
    return component(key=key, data=given, width=width, height=height, **callbacks)


def live_panel(
    run: Run[Recipe],
    key: str = "live",
    quantity: str = "weight_grad_rms",
    status: Status | None = None,
    on_done_change: Callable[[], None] | None = None,
    on_lost_change: Callable[[], None] | None = None,
) -> Any:
    """The live view of a run, figures to heatmap; it updates itself until the run has ended.

    The page is rerun when the run's status is no longer `status`, for which the page has drawn its buttons (trigger `done`;
    None: what it is now), and when the server does not know the run (trigger `lost`, every 3 s). A click on the heatmap
    keeps its step and layer in the browser and shows a link to that layer on the Anatomy page.
    """
    status = status or run.status
    chance = CHANCE if isinstance(run.recipe, RunConfig) else None  # loss of a guess
    data = {"live": status.live, "status": status, "quantity": quantity, "chance": chance}
    return _live("live", run.id, key, data, {"done": on_done_change, "lost": on_lost_change})


def preview_panel(preview: Preview, key: str = "preview", on_lost_change: Callable[[], None] | None = None) -> Any:
    """The measured profile at initialisation of a net that has not been trained; waits for it without blocking the page."""
    return _live("preview", preview.id, key, {}, {"lost": on_lost_change})


def cards_panel(teacher: bool, ended: int, key: str, on_action_change: Callable[[], None]) -> None:
    """Everybody's runs. A button of a card sets the trigger `action`, `<word of ACTIONS> <run id>`; whether he may who
    pressed it is for the callback to say. The page is rerun when there are no longer `ended` ended runs."""
    texts = {name: _(text) for name, text in _CARD_TEXTS.items()}
    data = {
        "mode": "cards",
        "actions": [*FOR_ALL, *(ACTIONS[len(FOR_ALL) :] if teacher else ())],
        "ended": ended,
        "loss_top": LOSS_TOP,
        "chance": CHANCE,
        "words": {
            **words(),
            **texts,
            "verdicts": {str(verdict): _(str(verdict)) for verdict in Verdict},
            "actions": {word: _(_ACTION_TEXTS[word]) for word in ACTIONS},
        },
    }
    _class(data, key, action=on_action_change, ended=None)


def title_panel(names: tuple[str, ...], summary: str, key: str = "class_title") -> None:
    """Whose run this is, large. The names are shown as they were typed: nothing in them is markup."""
    _class({"mode": "title", "names": ", ".join(names) or _(_CARD_TEXTS["nobody"]), "summary": summary}, key)


def notice_panel(
    drawn: dict[str, str | bool], name: str | None, key: str, on_name_change: Callable[[], None]
) -> None:
    """Invisible: reruns the page when the server's notice differs from what the page has `drawn`, and keeps this browser's
    display name (None: not known yet) across reloads. A name that it remembers is the trigger `name`."""
    _class({"mode": "notice", "drawn": drawn, "name": name}, key, name=on_name_change, changed=None)


def _class(data: dict[str, Any], key: str, **triggers: Callable[[], None] | None) -> None:
    mount("classroom.js", key, data, triggers)


def unloaded() -> str:
    """What stands in the place of an element whose script did not come."""
    return _("A script of this page could not be loaded: reload the page. If it is still missing then, something between this "
             "browser and the server keeps it back.")  # fmt: skip


def words() -> dict[str, Any]:
    """Every text that the live element shows. `{name}` is filled in there."""
    return {
        "status": {status: _(text) for status, text in _STATUS.items()},
        "quantities": {name: {"label": _(row.label), "meaning": _(row.meaning)} for name, row in QUANTITIES.items()},
        "units": {name: _(row.unit) for name, row in QUANTITIES.items()},
        **{name: _(text) for name, text in _TEXTS.items()},
    }


def scales() -> dict[str, Any]:
    """The colour ranges offered for each quantity, and which quantities are not shown as log10."""
    return {
        "ranges": {name: row.ranges for name, row in QUANTITIES.items()},
        "linear": [name for name, row in QUANTITIES.items() if row.linear],
    }


def _live(mode: str, id: str, key: str, data: dict[str, Any], triggers: dict[str, Callable[[], None] | None]) -> Any:
    data = {"mode": mode, "id": id, "plotly": plotly_url(), **scales(), "words": words(), **data}
    return mount("live.js", key, data, triggers)


def _nothing() -> None:
    """Streamlit knows a component's values by their callbacks."""


_STATUS = {
    Status.QUEUED: "Waiting for its turn",
    Status.RUNNING: "Training",
    Status.PAUSED: "Paused",
    Status.FINISHED: "Finished",
    Status.STOPPED: "Stopped",
    Status.DIVERGED: "Diverged",
    Status.INTERRUPTED: "Interrupted: the server ended",
    Status.FAILED: "Failed",
}

_TEXTS = {
    "step": "Step",
    "step_of": "{step} of {total}",
    "loss": "Loss",
    "accuracy": "Accuracy",
    "first_gradient": "First-layer gradient",
    "last_gradient": "Last-layer gradient",
    "ratio": "First / last",
    "ms_per_step": "Time per step",
    "device": "Device",
    "test_accuracy": "Test accuracy",
    "milliseconds": "{n} ms",
    "seconds_left": "about {time} left",
    "place": "place {place} in the queue",
    "wait": "about {time} to wait",
    "seconds": "{n} s",
    "minutes": "{n} min",
    "hours": "{n} h",
    "loading": "Loading the run …",
    "measuring": "Measuring this net at initialisation …",
    "no_point": "The first step is being computed …",
    "lost": "The server does not know this run; asking again.",
    "offline": "No connection to the server; trying again.",
    "no_plotly": "The drawing library could not be loaded; reload the page.",
    "loss_title": "Loss",
    "loss_axis": "cross-entropy (nats)",
    "loss_axis_log": "cross-entropy (nats), log scale",
    "loss_read": "Mean over each batch. Dashed: guessing among ten classes, ln 10 = 2.303 (nothing learnt).",
    "accuracy_title": "Accuracy",
    "accuracy_axis": "classified right (%)",
    "accuracy_read": "Share classified right, in each training batch and in a fixed set of unseen images. Dashed: guessing.",
    "heatmap_title": "Every layer at every step",
    "column_one": "A column is one training step.",
    "columns_of": "A column is {stride} training steps, the largest value of them.",
    "heatmap_read": (
        "A row is one layer; the input is at the bottom. "
        "Colours mean the same in every run. Point at a cell for its value and that step's profile; click to keep that step and "
        "layer; drag to zoom, double-click to zoom out."
    ),
    "pooled_read": "Each row shows the largest of about {n} neighbouring layers.",
    "profile_title": "Profile over depth",
    "profile_read": (
        "Each layer's value, the input at the bottom. A straight slanted line: each layer multiplies the size by the same "
        "factor. The shaded band holds about 95 % of random draws. ◁ at the left edge: exactly zero; ✕ at the right edge: "
        "not finite."
    ),
    "profile_read_linear": "Each layer's value, the input at the bottom.",
    "preview_title": "Gradients at initialisation, layer by layer",
    "preview_read": (
        "Measured on one real batch before any training. Layers stand in order, the input on the left. A straight slanted "
        "line: each layer multiplies the size by the same factor. ▽ at the lower edge: exactly zero; ✕ at the upper edge: "
        "not finite."
    ),
    "theory": "theory at step 0",
    "theory_band": "theory at step 0, ± 2 sd",
    "preview_axis": "root mean square (nats per unit)",
    "train": "training batch",
    "test": "test images",
    "chance": "guessing",
    "not_finite": "not finite",
    "infinite": "infinite",
    "not_a_number": "not a number",
    "exact_zero": "exact zero",
    "denormal": "under float32's smallest normal number",
    "denormal_short": "denormal (< 1.2·10⁻³⁸)",
    "below": "below range",
    "above": "above range",
    "step_axis": "training step",
    "layer_axis": "layer",
    "layer_axis_up": "layer (input → output)",
    "newest": "step {step}, newest",
    "hovered": "step {step}",
    "hovered_steps": "steps {from}–{to}, maximum",
    "pinned": "{text}, kept: click it again to let go",
    "quantity": "Quantity",
    "layer": "Layer",
    "no_layer": "click a row, or choose",
    "open_layer": "Open layer {layer} in Anatomy",
    "range": "Colour range",
    "percent_range": "0 … 100 %",
    "largest_of": "largest of {from} … {to}",
    "png": "PNG",
    "svg": "SVG",
    "save": "Save this chart as {format}",
}

_ACTION_TEXTS = {
    "open": "Open",
    "large": "Large",
    "wall": "Put on the wall",
    "pause": "Pause",
    "resume": "Resume",
    "stop": "Stop",
    "delete": "Delete",
}
_CARD_TEXTS = {
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
