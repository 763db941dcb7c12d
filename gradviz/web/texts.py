"""Every text that an element of our own shows: the scripts of static/ have no words of theirs."""

from __future__ import annotations

from typing import Any

from gradviz.diagnosis.findings import Verdict
from gradviz.record.quantities import OF_WATCHED, QUANTITIES
from gradviz.record.run import Status
from gradviz.words import N_, listed
from gradviz.words import gettext as _


def unloaded() -> str:
    """What stands in the place of an element whose script did not come."""
    return _("A script of this page could not be loaded: reload the page. If it is still missing then, something between this "
             "browser and the server keeps it back.")  # fmt: skip


def words(watched: bool = False) -> dict[str, Any]:
    """Every text that the live element shows, of a run that was watched say. `{name}` is filled in there."""
    quantities = QUANTITIES | (OF_WATCHED if watched else {})
    return {
        "status": {status: _(text) for status, text in (_STATUS | (_STATUS_WATCHED if watched else {})).items()},
        "quantities": {name: {"label": _(row.label), "meaning": _(row.meaning)} for name, row in quantities.items()},
        "units": {name: _(row.unit) for name, row in quantities.items()},
        **{name: _(text) for name, text in _TEXTS.items()},
        **picture_words(),
    }


def picture_words() -> dict[str, str]:
    """What every picture says of itself to those who do not see it."""
    return {name: _(text) for name, text in _PICTURES.items()}


def card_words() -> dict[str, Any]:
    """Those of `words`, and what the cards say besides."""
    return {
        **words(),
        **{name: _(text) for name, text in _CARDS.items()},
        "status_watched": {status: _(text) for status, text in _STATUS_WATCHED.items()},
        "verdicts": {str(verdict): _(str(verdict)) for verdict in Verdict},
        "actions": {word: _(text) for word, text in _ACTIONS.items()},
    }


def shared_words() -> dict[str, str]:
    """Of a page in one file."""
    return {name: _(text) for name, text in _SHARED.items()}


def plotly_words() -> dict[str, str]:
    """What plotly.js says by itself -> the same in the reader's language."""
    return {text: _(text) for text in _PLOTLY}


def streamlit_words() -> dict[str, str]:
    """What Streamlit says by itself, in English -> what is said instead. `{name}` in it stands for anything."""
    said = {text: _(text) for text in _STREAMLIT} | {text: _(ours) for text, ours in _INSTEAD.items()}
    return {text: ours for text, ours in said.items() if ours != text}


def owners(names: tuple[str, ...]) -> str:
    """Whose a run is."""
    return listed(names) or _(_CARDS["nobody"])


_STATUS = {
    Status.QUEUED: N_("Waiting for its turn"),
    Status.RUNNING: N_("Training"),
    Status.PAUSED: N_("Paused"),
    Status.FINISHED: N_("Finished"),
    Status.STOPPED: N_("Stopped"),
    Status.DIVERGED: N_("Diverged"),
    Status.INTERRUPTED: N_("Interrupted: the server ended"),
    Status.FAILED: N_("Failed"),
}

_STATUS_WATCHED = {Status.INTERRUPTED: N_("Interrupted: its process ended")}

_TEXTS = {
    "step": N_("Step"),
    "step_of": N_("{step} of {total}"),
    "loss": N_("Loss"),
    "accuracy": N_("Accuracy"),
    "gradient_at": N_("Gradient at {layer}"),
    "ratio": N_("First / last"),
    "ms_per_step": N_("Time per step"),
    "device": N_("Device"),
    "test_accuracy": N_("Test accuracy"),
    "milliseconds": N_("{n} ms"),
    "seconds_left": N_("about {time} left"),
    "place": N_("place {place} in the queue"),
    "wait": N_("about {time} to wait"),
    "seconds": N_("{n} s"),
    "minutes": N_("{n} min"),
    "hours": N_("{n} h"),
    "loading": N_("Loading the run …"),
    "measuring": N_("Measuring this net at initialisation …"),
    "measuring_share": N_("Measuring this net at initialisation: {n} % …"),
    "no_point": N_("The first step is being computed …"),
    "lost": N_("The server does not know this run; asking again."),
    "offline": N_("No connection to the server; trying again."),
    "no_plotly": N_("The drawing library could not be loaded; reload the page."),
    "every": N_("Measured"),
    "every_one": N_("every step"),
    "every_n": N_("1 of {n} steps"),
    "untold": N_("Not logged: run.log(loss=…, accuracy=…) tells it."),
    "loss_axis_any": N_("loss"),
    "loss_axis_any_log": N_("loss, log scale"),
    "loss_read_any": N_("As it was logged. Dashed: guessing (nothing learnt)."),
    "accuracy_read_any": N_("As it was logged. Dashed: guessing."),
    "loss_title": N_("Loss"),
    "loss_axis": N_("cross-entropy (nats)"),
    "loss_axis_log": N_("cross-entropy (nats), log"),
    "loss_read": N_("Mean over each batch. Dashed: guessing among ten classes, ln 10 = 2.303 (nothing learnt)."),
    "accuracy_title": N_("Accuracy"),
    "accuracy_axis": N_("classified right (%)"),
    "accuracy_read": N_("Share classified right, in each training batch and in a fixed set of unseen images. Dashed: guessing."),
    "heatmap_title": N_("Every layer at every step"),
    "column_one": N_("A column is one training step."),
    "columns_of": N_("A column is {stride} training steps, the largest value of them."),
    "heatmap_read": N_(
        "A row is one layer; the input is at the bottom. "
        "Colours mean the same in every run. Point at a cell for its value and that step's profile; click to keep that step and "
        "layer; drag to zoom, double-click to zoom out."
    ),
    "keys_read": N_("By keyboard: arrow keys go from cell to cell, Enter keeps one, + and − zoom, 0 shows all."),
    "heatmap_read_fit": N_(
        "A row is one layer; the input is at the bottom. The colours are fitted to this run: for a comparison choose a fixed "
        "range. Point at a cell for its value and that step's profile; click to keep that step and layer; drag to zoom, "
        "double-click to zoom out."
    ),
    "folded_read": N_("▸ stands for several layers and shows the largest of them; a click unfolds it."),
    "held_read": N_("A step that was not measured has the colours of the last one before it that was."),
    "fit": N_("fitted to this run"),
    "unfold": N_("Unfold {layer}: {n} layers"),
    "fold": N_("Fold all"),
    "largest_in": N_("{layer}: the largest of {n} layers"),
    "not_measured_step": N_("{step}: not measured"),
    "pooled_read": N_("Each row shows the largest of about {n} neighbouring layers."),
    "profile_title": N_("Profile over depth"),
    "profile_read": N_(
        "Each layer's value, the input at the bottom. A straight slanted line: each layer multiplies the size by the same "
        "factor. The shaded band holds about 19 of 20 random draws. ◁ at the left edge: exactly zero; ✕ at the right edge: "
        "not finite."
    ),
    "profile_read_any": N_(
        "Each layer's value, the input at the bottom. A straight slanted line: each layer multiplies the size by the same "
        "factor. At the left edge ◁: exactly zero, ✳: not measured; ✕ at the right edge: not finite."
    ),
    "profile_read_linear": N_("Each layer's value, the input at the bottom."),
    "preview_title": N_("Gradients at initialisation, layer by layer"),
    "preview_read": N_(
        "Measured on one real batch before any training. Layers stand in order, the input on the left. A straight slanted "
        "line: each layer multiplies the size by the same factor. ▽ at the lower edge: exactly zero; ✕ at the upper edge: "
        "not finite."
    ),
    "theory": N_("theory at step 0"),
    "theory_band": N_("theory at step 0, ± 2 sd"),
    "preview_axis": N_("root mean square (nats per unit)"),
    "train": N_("training batch"),
    "test": N_("test images"),
    "chance": N_("guessing"),
    "not_finite": N_("not finite"),
    "not_measured": N_("not measured"),
    "infinite": N_("infinite"),
    "not_a_number": N_("not a number"),
    "exact_zero": N_("exact zero"),
    "denormal": N_("under float32's smallest normal number"),
    "denormal_short": N_("denormal (< 1.2·10⁻³⁸)"),
    "below": N_("below range"),
    "above": N_("above range"),
    "step_axis": N_("training step"),
    "layer_axis": N_("layer"),
    "layer_axis_up": N_("layer (input → output)"),
    "newest": N_("step {step}, newest"),
    "hovered": N_("step {step}"),
    "hovered_steps": N_("steps {from}–{to}, maximum"),
    "pinned": N_("{text}, kept: click it again to let go"),
    "quantity": N_("Quantity"),
    "layer": N_("Layer"),
    "no_layer": N_("click a row, or choose"),
    "open_layer": N_("Open layer {layer} in Anatomy"),
    "range": N_("Colour range"),
    "percent_range": N_("0 … 100 %"),
    "largest_of": N_("largest of {from} … {to}"),
    "png": N_("PNG"),
    "svg": N_("SVG"),
    "save": N_("Save this chart as {format}"),
}

_PICTURES = {
    "table": N_("Table"),
    "table_title": N_("The numbers of this picture"),
    "close": N_("Close"),
    "line": N_("line"),
    "point": N_("point and value"),
    "line_said": N_("{name}: first {first}; last {last}; lowest {low}; highest {high}."),
    "points_said": N_("Points: {n}, each in the table."),
}

_ACTIONS = {
    "open": N_("Open"),
    "large": N_("Large"),
    "wall": N_("Put on the wall"),
    "pause": N_("Pause"),
    "resume": N_("Resume"),
    "stop": N_("Stop"),
    "delete": N_("Delete"),
}
_CARDS = {
    "nobody": N_("No name"),
    "others": N_("{names} and {n} more"),
    "in_queue": N_("place {n} in the queue"),
    "step_of_short": N_("step {step} of {total}"),
    "loss_now": N_("loss {loss}"),
    "waits": N_("nothing recorded yet"),
    "more": N_("{n} more runs on this server have no card: the newest are shown, those with a name first."),
    "spark_any": N_("Loss over the steps, on a scale of its own."),
    "spark": N_("Loss over the steps, 0 to 3 nats; dashed: guessing."),
    "heat": N_("Weight gradient, layers (input at the bottom) × steps."),
}

_SHARED = {
    "run": N_("Run"),
    "replay": N_("Replay"),
    "pause": N_("Pause"),
    "until": N_("Up to which step the training is shown"),
    "step_of_all": N_("step {step} of {last}"),
    "dark": N_("Dark colours"),
    "light": N_("Light colours"),
}

_PLOTLY = (
    N_("Download plot as a PNG"), N_("Zoom"), N_("Pan"), N_("Zoom in"), N_("Zoom out"), N_("Autoscale"), N_("Reset axes"),
    N_("Double-click to zoom back out"), N_("Double-click on legend to isolate one trace"),
    N_("Taking snapshot - this may take a few seconds"), N_("Snapshot succeeded"),
)  # fmt: skip

# A test asks whether the Streamlit that is installed still says so.
_STREAMLIT = (
    # around the page
    N_("Skip to main content"), N_("App pages"), N_("Sidebar"), N_("Collapse sidebar"), N_("Expand sidebar"), N_("Notifications"),
    N_("Running..."), N_("Stop"), N_("Close"), N_("Connecting"), N_("Main menu"), N_("Link to heading"),
    # fields
    N_("Press Enter to apply"), N_("Press Enter to submit form"), N_("Show password"), N_("Hide password"), N_("Clear entry"),
    N_("Clear value"), N_("Increment"), N_("Decrement"), N_("Help"), N_("Help for {label}"), N_("progress"),
    # lists to choose from
    N_("Choose an option"), N_("Choose options"), N_("No results"), N_("Open"), N_("Dismiss"), N_("Clear all"),
    N_("Remove {value}"), N_("Selected values"), N_("Select all"),
    # programs and tables
    N_("Copy to clipboard"), N_("Show/hide columns"), N_("Download as CSV"), N_("Search"), N_("Fullscreen"),
    N_("Close fullscreen"), N_("Type to search"), N_("Close Search"), N_("Next Result"), N_("Previous Result"),
    N_("Dataframe column menu"), N_("Sort ascending"), N_("Sort descending"), N_("Format"), N_("Autosize"), N_("Pin column"),
    N_("Unpin column"), N_("Hide column"), N_("Copy column name"), N_("Statistics"), N_("Automatic"), N_("Localized"),
    N_("Plain"),
    N_("Compact"), N_("Dollar"), N_("Euro"), N_("Yen"), N_("Percent"), N_("Scientific"), N_("Accounting"),
)  # fmt: skip
_AWAY = N_("The server does not answer. This page goes on by itself as soon as it does; what it trains is kept there.")
_INSTEAD = {
    "Connection error": N_("No connection"),
    "Is Streamlit still running? If you accidentally stopped Streamlit, just restart it in your terminal:": _AWAY,
    "Streamlit server is not responding. Are you connected to the internet?": _AWAY,
    "Connecting to Streamlit server": N_("Connecting to the server"),
    "Unable to connect to Streamlit server": N_("The server cannot be reached"),
}
