"""Compare: two to eight runs on common axes."""

import math
from dataclasses import replace
from urllib.parse import urlencode

import numpy as np
import pandas as pd
import streamlit as st

from gradviz.charts import HOW_TO_READ
from gradviz.charts.runs import (
    accuracy_figure,
    difference_figure,
    heatmaps_figure,
    loss_figure,
    parted,
    profile_figure,
    quantity_name,
)
from gradviz.lenet.branch import partings
from gradviz.lenet.config import ConfigError, config_of
from gradviz.messages import say
from gradviz.record.quantities import OF_WATCHED, QUANTITIES, described, ranges_of
from gradviz.record.raster import fitted
from gradviz.record.reading import quantity_at
from gradviz.share.routes import COMPARISON
from gradviz.share.several import all_lenets, common_chance, names_of, told
from gradviz.ui import classroom
from gradviz.ui.controls import place
from gradviz.ui.heavy import heavily, said_if_refused
from gradviz.ui.language import fragment, write_address
from gradviz.ui.server import server
from gradviz.web.download import download_button
from gradviz.web.figure import figure_panel
from gradviz.words import N_, as_text, power
from gradviz.words import gettext as _

MOST, CHOSEN = 8, "compare_runs"
KEPT = "compare_kept"  # what was chosen: Streamlit forgets a widget that a page change took off the screen
FIT = "fit"  # the colour range that holds all that was measured
CHANGES = {  # one click each: what is different in the new run
    N_("batch norm on or off"): lambda config: replace(config, batch_norm=not config.batch_norm),
    N_("shortcut on or off"): lambda config: replace(config, shortcut=not config.shortcut),
    N_("relu or sigmoid"): lambda config: replace(config, activation="relu" if config.activation == "sigmoid" else "sigmoid"),
    N_("twice the blocks"): lambda config: replace(config, blocks=2 * config.blocks or 1),
    N_("half the blocks"): lambda config: replace(config, blocks=config.blocks // 2),
    N_("learning rate × 10"): lambda config: replace(config, lr=10 * config.lr),
    N_("learning rate ÷ 10"): lambda config: replace(config, lr=config.lr / 10),
    N_("the next seed"): lambda config: replace(config, seed=config.seed + 1),
}
manager = server().manager


def choose(ids) -> None:
    st.session_state[CHOSEN] = list(dict.fromkeys(ids))[-MOST:]


@said_if_refused
def start_changed(run_id: str, change: str) -> None:
    base = config_of(manager.get(run_id))
    if base is None:
        classroom.say(say("run-gone"))
        return
    try:
        if run := classroom.start(CHANGES[change](base)):
            choose([*st.session_state[CHOSEN], run.id])
    except ConfigError as error:
        st.session_state["compare_refusal"] = error.message


def label(summary) -> str:
    config = config_of(summary)
    seed = " · " + _("seed {seed}").format(seed=config.seed) if config else ""
    return f"{summary.recipe.title}{seed} · {summary.id.removeprefix('watched-')[:4]}"


def settings_table(runs: dict) -> None:
    rows, common, otherwise = told(runs)
    net = _("net")
    st.table(pd.DataFrame([row | {net: as_text(row[net])} if net in row else row for row in rows]).set_index(_("run")))
    if common:
        st.caption(common)
        for one, other, step in partings([run.recipe for run in runs.values()]):
            st.caption(_("Until step {step} run {other} is run {one}: one and the same training.").format(
                step=f"{step:,}", one=one + 1, other=other + 1))
    if otherwise:
        st.info(as_text(otherwise), icon=":material/memory:")


def leave(figure, runs: dict) -> None:
    """Marks where a run leaves the one that it begins with."""
    for one, other, step in partings([run.recipe for run in runs.values()]) if all_lenets(runs.values()) else []:
        parted(figure, step, _("{other} leaves {one}").format(one=one + 1, other=other + 1))


def curves(runs: dict, ids: str) -> bool:
    """Loss and accuracy. Whether all are deep LeNets, of which the page knows how to read a picture."""
    left, right = st.columns(2)
    guess, chance = all_lenets(runs.values()), common_chance(runs.values())
    with left:
        loss = loss_figure(runs, chance)
        leave(loss, runs)
        figure_panel(loss, "loss", _("Training loss over steps"), f"{ids} {loss.layout.yaxis.type}")
        if guess:
            st.caption(_(HOW_TO_READ["loss"]))
    with right:
        title = _("Accuracy over steps") if any(run.watched for run in runs.values()) else _("Test accuracy over steps")
        accuracy = accuracy_figure(runs, None if chance is None else math.exp(-chance))
        leave(accuracy, runs)
        figure_panel(accuracy, "accuracy", title, ids)
        if guess:
            st.caption(_(HOW_TO_READ["accuracy"]))
    return guess


def pictures(runs: dict) -> None:
    ids = " ".join(run.id for run in runs.values())
    guess = curves(runs, ids)
    first, second, third = st.columns(3)
    measured = [name for name in (*QUANTITIES, *OF_WATCHED) if all(name in run.history.quantities for run in runs.values())]
    quantity = first.selectbox(
        _("Quantity"), measured, place("compare_quantity", measured), key="compare_quantity", format_func=quantity_name
    )
    ranges = ranges_of(quantity, all(run.watched for run in runs.values()))
    ranges = ranges if described(quantity).linear else (*ranges, FIT)
    limits = second.selectbox(
        _("Colour range of all"), ranges, place("compare_range", ranges), key="compare_range",
        format_func=lambda ends: _("fitted to these runs") if ends == FIT else
        " … ".join(f"{end:g}" if described(quantity).linear else power(end) for end in ends),
    )  # fmt: skip
    when = third.segmented_control(
        _("Profile at"), [N_("start"), N_("end")], default="start", key="compare_when", format_func=lambda word: _(word),
    )
    recorded = {name: run for name, run in runs.items() if run.history.steps}
    if not recorded:
        return  # deleted meanwhile
    if limits == FIT:
        limits = fitted(np.concatenate([run.history.quantity(quantity).ravel() for run in recorded.values()]), quantity)
    profiles = {name: quantity_at(run, quantity, last=when == "end") for name, run in recorded.items()}
    layers = None if guess else {name: run.recipe.layout.names for name, run in recorded.items()}
    figure_panel(profile_figure(profiles, quantity, names=layers), "profile", _("Profiles over depth"), f"{ids} {quantity}")
    st.caption(_("Each line is one run, input at the left. A line that falls to the left vanishes on the way back; one that "
                 "rises to the left explodes."))
    if layers is not None:
        st.caption(_("The depth is relative, so that nets of any kind stand beside each other: the first layer at 0 %, the last "
                     "at 100 %."))
    figure_panel(heatmaps_figure(recorded, quantity, limits), "heatmaps", _("Heatmaps of all runs"), ids)
    st.caption(_(HOW_TO_READ["heatmap"]))
    if any(run.watched for run in recorded.values()):
        st.caption(_("Grey was not measured; a step between two that were has the colours of the one before."))
    query = urlencode({"runs": ",".join(run.id for run in recorded.values()), "quantity": quantity})
    download_button(_("Share as one file"), f"{COMPARISON}?{query}", "gradviz-comparison.html", key="share", home=True)
    difference(recorded, quantity)


def difference(recorded: dict, quantity: str) -> None:
    st.header(_("Difference of two"), anchor=False)
    one, other = st.columns(2)
    a = one.selectbox(_("This run"), list(recorded), key="compare_a")
    b = other.selectbox(_("over that run"), list(recorded), index=min(1, len(recorded) - 1), key="compare_b")
    if not set(recorded[a].recipe.layout.names) & set(recorded[b].recipe.layout.names):
        st.info(_("These two nets have no layer of the same name, so there is no difference to draw."), icon=":material/info:")
        return
    figure_panel(difference_figure(recorded[a], recorded[b], quantity), "difference", _("Difference of two heatmaps"),
                 f"{recorded[a].id} {recorded[b].id}")  # fmt: skip
    st.caption(_(HOW_TO_READ["difference"]))


summaries = {summary.id: summary for summary in manager.list()}
if CHOSEN not in st.session_state:
    asked = st.query_params["runs"].split(",") if "runs" in st.query_params else st.session_state.get(KEPT, [])
    choose(run_id for run_id in asked if run_id in summaries)
st.session_state[CHOSEN] = [run_id for run_id in st.session_state[CHOSEN] if run_id in summaries]

st.title(_("Compare runs"), anchor=False)
st.multiselect(
    _("Runs, two to eight"), list(summaries), st.session_state[CHOSEN], key=CHOSEN, max_selections=MOST,
    format_func=lambda run_id: label(summaries[run_id]),
)
chosen = [summaries[run_id] for run_id in st.session_state[CHOSEN] if run_id in summaries]
st.session_state[KEPT] = [summary.id for summary in chosen]
write_address({"runs": ",".join(summary.id for summary in chosen)} if chosen else {})
if not summaries:
    st.info(_("Nothing has been trained on this server yet. The Lab is the place to begin."), icon=":material/info:")
elif len(chosen) < 2:
    st.info(_("Choose two runs or more, or make a second one with a click below."), icon=":material/info:")
if chosen:
    named = names_of(chosen)
    recipes = [summary.recipe for summary in chosen]
    if bases := [name for name, summary in named.items() if config_of(summary)]:
        with st.container(horizontal=True, vertical_alignment="bottom"):
            base = st.selectbox(_("A new run: the same as this one, but …"), bases, place("compare_base", bases),
                                key="compare_base", width=320)  # fmt: skip
            for change in CHANGES:
                st.button(_(change), key=f"change {change}", on_click=start_changed, args=(named[base].id, change),
                          disabled=classroom.locked())  # fmt: skip
    if refusal := st.session_state.pop("compare_refusal", None):
        st.error(as_text(str(refusal)))

    # A session keeps what is named here until its next script run, so the records of eight deep runs are not.
    given = []

    def read() -> dict:
        return {name: run for name, summary in named.items() if (run := manager.get(summary.id))}

    @fragment(run_every=3 if any(summary.status.live for summary in chosen) else None)
    def drawn() -> None:
        if given:
            pictures(given.pop())
        else:
            heavily(lambda: pictures(read()), recipes)

    def all_of_it() -> None:
        runs = read()
        if runs:
            settings_table(runs)
        if any(run.history.steps for run in runs.values()):
            given.append(runs)
            drawn()

    heavily(all_of_it, recipes)
