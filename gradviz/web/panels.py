"""The live element on a Streamlit page: mounts live.js, which polls the routes and draws, without script runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamlit as st

from gradviz.record.quantities import QUANTITIES
from gradviz.record.run import Run, Status
from gradviz.serve.previews import Preview
from gradviz.web.routes import plotly_url, script_url
from gradviz.words import gettext as _

# Streamlit sends this text at every mount, so it only fetches the real script, which the browser keeps. Streamlit may call
# the returned clean-up late, after a newer call: whoever is not the newest does nothing.
_STUB = """
export default function (component) {
  const host = component.parentElement;
  const state = (host.gradviz ??= { calls: 0, panel: null });
  const call = ++state.calls;
  import(new URL(component.data.script, document.baseURI).href).then((live) => {
    if (state.calls === call) live.render(state, component);
  }, () => { host.textContent = component.data.unloaded; });
  return () => setTimeout(() => {
    if (state.calls === call) { state.calls++; state.panel?.destroy(); state.panel = null; }
  }, 300);
}
"""
_component = st.components.v2.component("gradviz_live", js=_STUB, isolate_styles=False)


def live_panel(
    run: Run,
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
    data = {"live": status.live, "status": status, "quantity": quantity}
    return _mount("live", run.id, key, data, done=on_done_change, lost=on_lost_change)


def preview_panel(preview: Preview, key: str = "preview", on_lost_change: Callable[[], None] | None = None) -> Any:
    """The measured profile at initialisation of a net that has not been trained; waits for it without blocking the page."""
    return _mount("preview", preview.id, key, {}, lost=on_lost_change)


def unloaded() -> str:
    """What stands in the place of an element whose script did not come."""
    return _("A script of this page could not be loaded: reload the page. If it is still missing then, something between this "
             "browser and the server keeps it back.")  # fmt: skip


def words() -> dict[str, Any]:
    """Every text that live.js shows. `{name}` is filled in there."""
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


def _mount(mode: str, id: str, key: str, data: dict[str, Any], **callbacks: Callable[[], None] | None) -> Any:
    return _component(
        key=key,
        data={
            "mode": mode,
            "id": id,
            "script": script_url(),
            "plotly": plotly_url(),
            "unloaded": unloaded(),
            **scales(),
            "words": words(),
            **data,
        },
        **{f"on_{name}_change": callback or _nothing for name, callback in callbacks.items()},
    )


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
