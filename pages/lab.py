"""The Lab: set up a deep net, start it, watch its gradients."""

import uuid
from dataclasses import replace

import streamlit as st

from gradviz import codegen, export
from gradviz.live.element import live_panel, preview_panel
from gradviz.model import parameter_count
from gradviz.runs import Run, Status
from gradviz.ui import controls
from gradviz.ui.server import server
from gradviz.words import gettext as _

manager, shelf = server().manager, server().shelf


def show(run_id: str | None) -> None:
    st.session_state[controls.RUN] = run_id


def start(config, again: bool = False) -> None:
    show(manager.start(config, again=again).id)


def data_notice(wanted: str) -> None:
    """Which data set is in use if not the one asked for; while that one downloads, redrawn every second."""
    name, sentence = shelf.effective(wanted)
    state = shelf.state(wanted)
    if state.status == "downloading":
        _progress(wanted)
    elif name != wanted:
        st.info(sentence, icon=":material/info:")


@st.fragment(run_every=1)
def _progress(wanted: str) -> None:
    name, sentence = shelf.effective(wanted)
    state = shelf.state(wanted)
    if state.status != "downloading":
        st.rerun()  # the whole page: its data set has changed
    st.info(sentence, icon=":material/download:")
    st.progress(state.progress)


def buttons(config, run: Run | None) -> None:
    known = manager.get(config.run_id)
    with st.container(horizontal=True, key="buttons"):
        on_screen = run is not None and run.id == config.run_id
        if known is None:
            st.button(_("Start"), key="start", type="primary", icon=":material/play_arrow:", on_click=start, args=(config,))
        elif known.status in (Status.INTERRUPTED, Status.STOPPED, Status.FAILED):
            st.button(_("Start afresh"), key="start", type="primary", icon=":material/replay:", on_click=start,
                      args=(config, True), help=_("Trains the same settings from step 0 and replaces what was recorded."))
        if known is not None and not on_screen:
            st.button(_("Show the run of these settings"), key="join", type="primary", on_click=show, args=(known.id,),
                      help=_("The same settings are the same run: somebody has started it already."))
        if run is not None and run.status.live:
            if run.status is Status.PAUSED:
                st.button(_("Resume"), key="resume", icon=":material/play_arrow:", on_click=manager.resume, args=(run.id,))
                st.button(_("One step"), key="step", icon=":material/skip_next:", on_click=manager.step, args=(run.id,))
            else:
                st.button(_("Pause"), key="pause", icon=":material/pause:", on_click=manager.pause, args=(run.id,))
            st.button(_("Stop"), key="stop", icon=":material/stop:", on_click=manager.stop, args=(run.id,))
        if run is not None:
            st.button(_("Close the run"), key="close", type="tertiary", on_click=show, args=(None,),
                      help=_("Goes back to the picture at initialisation. The run itself goes on and is kept."))


def downloads(run: Run) -> None:
    files = {
        _("Layers as CSV"): ("layers.csv", lambda: export.csv(export.layer_table(run))),
        _("Layers as Parquet"): ("layers.parquet", lambda: export.parquet(export.layer_table(run))),
        _("Every step as CSV"): ("steps.csv", lambda: export.csv(export.step_table(run))),
        _("Every step as Parquet"): ("steps.parquet", lambda: export.parquet(export.step_table(run))),
    }
    with st.container(horizontal=True):
        for label, (name, make) in files.items():
            # A function, so that the file is made when it is asked for and not at every script run.
            st.download_button(label, make, f"gradviz-{run.id}-{name}", on_click="ignore", key=name)
    st.caption(_("Layers: every measured number of every layer. Every step: loss, accuracy and time. "
                 "Each chart saves itself as a picture, with the buttons above it."))


def earlier_runs() -> None:
    summaries = manager.list()
    if not summaries:
        return
    labels = {summary.id: f"{summary.config.summary} — {_(str(summary.status))}, {summary.steps}/{summary.config.steps}"
              for summary in summaries}
    with st.sidebar:
        st.subheader(_("Runs on this server"))
        st.selectbox(
            _("Open a run"), ["", *labels], key="open_run", label_visibility="collapsed",
            format_func=lambda run_id: labels.get(run_id, _("choose …")), on_change=open_run,
        )


def open_run() -> None:
    run = manager.get(st.session_state["open_run"] or "")
    if run is not None:
        show(run.id)
        controls.set_config(run.config)
    st.session_state["open_run"] = ""


controls.open_session(lambda run_id: run.config if (run := manager.get(run_id)) else None)
st.title(_("See gradients vanish, explode, and recover"), anchor=False)
controls.show_problems()
wanted = controls.sidebar()
earlier_runs()
data_notice(wanted.dataset)
config = replace(wanted, dataset=shelf.effective(wanted.dataset)[0])

run = manager.get(st.session_state.get(controls.RUN) or "")
if run is None and st.session_state.get(controls.RUN):
    st.warning(_("The run in this link is not on this server. Its settings are in the link: Start makes it anew."))
    show(None)

st.markdown(_("**{layers} weight layers · {parameters} parameters** · {summary}").format(
    layers=config.layers, parameters=f"{parameter_count(config):,}", summary=config.summary))
buttons(config, run)

if run is not None:
    if run.id != config.run_id:
        st.caption(_("On screen: {summary}. The controls on the left set up the next run and do not touch this one.").format(
            summary=run.config.summary))
    live_panel(run)
if run is None or run.id != config.run_id:
    if run is not None:
        st.subheader(_("The next run, at initialisation"), anchor=False)
    client = st.session_state.setdefault(controls.CLIENT, uuid.uuid4().hex)
    preview_panel(manager.preview(config, client))

with st.expander(_("The PyTorch code of these settings")):
    st.caption(_("Runs on its own and prints the numbers of this run."))
    code = codegen.code(config)
    st.download_button(_("Download the code"), code, f"gradviz-{config.run_id}.py", "text/x-python", on_click="ignore")
    st.code(code, language="python")
if run is not None and run.history.steps:
    with st.expander(_("The data of this run")):
        downloads(run)
controls.write_url()
