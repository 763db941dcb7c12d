"""The Lab: set up a deep net, start it, watch its gradients."""

import math
from dataclasses import replace

import pandas as pd
import streamlit as st

from gradviz.lenet import codegen
from gradviz.lenet.config import RunConfig, config_of
from gradviz.lenet.diagnosis import diagnose
from gradviz.lenet.loading import loader
from gradviz.lenet.net import parameter_count
from gradviz.lenet.notebook import notebook
from gradviz.lenet.theory.predict import critical_range, depth_marks, predict
from gradviz.record.arithmetic import Arithmetic, arithmetic_text, other_arithmetic
from gradviz.record.measuring import why_missing
from gradviz.record.quantities import described, is_described
from gradviz.record.run import Run, Status
from gradviz.serve.manager import AFRESH
from gradviz.share.outcome import sections
from gradviz.share.routes import RUN as RUN_FILE
from gradviz.ui import classroom, controls, first, going_on, projector, turning
from gradviz.ui.heavy import said_if_refused
from gradviz.ui.language import fragment, write_address
from gradviz.ui.meanings import MEANINGS
from gradviz.ui.server import newest_state, server
from gradviz.web.download import download_button
from gradviz.web.panels import live_panel, preview_panel, title_panel
from gradviz.words import as_text
from gradviz.words import gettext as _

manager, shelf, change = server().manager, server().shelf, classroom.change


def show(run_id: str | None) -> None:
    st.session_state[controls.RUN] = run_id


def start(config, again: bool = False) -> None:
    if run := classroom.start(config, again):
        show(run.id)


def join(run_id: str) -> None:
    classroom.join(run_id)
    show(run_id)


def data_notice(wanted: str) -> None:
    """Which data set is in use if not the one asked for; while that one downloads, redrawn every second."""
    name, sentence = shelf.effective(wanted)
    state = shelf.state(wanted)
    if state.status == "downloading":
        _progress(wanted)
    elif name != wanted:
        st.info(as_text(str(sentence)), icon=":material/info:")


@fragment(run_every=1)
def _progress(wanted: str) -> None:
    name, sentence = shelf.effective(wanted)
    state = shelf.state(wanted)
    if state.status != "downloading":
        st.rerun()  # the whole page: its data set has changed
    st.info(as_text(str(sentence)), icon=":material/download:")
    st.progress(state.progress)


def buttons(config, run: Run | None, status: Status | None) -> None:
    """`status`: the run's, read once for this and the live view; it may change any moment."""
    known, locked = manager.get(config.id), classroom.locked()
    off = locked or (run is not None and not classroom.may_change(classroom.people_of(run)))
    shared = run is not None and classroom.others(classroom.people_of(run)) > 0
    with st.container(horizontal=True, key="buttons"):
        on_screen = run is not None and run.id == config.id
        if known is None:
            st.button(_("Start"), key="start", type="primary", icon=":material/play_arrow:", on_click=start, args=(config,),
                      disabled=locked)  # fmt: skip
        elif (status if on_screen else known.status) in AFRESH:
            st.button(_("Start afresh"), key="start", type="primary", icon=":material/replay:", on_click=start,
                      args=(config, True), disabled=locked or not classroom.may_change(classroom.people_of(known)),
                      help=_("Trains the same settings from step 0. What was recorded is replaced once the new training has as "
                             "many steps."))
        if known is not None and not on_screen:
            st.button(_("Show the run of these settings"), key="join", type="primary", on_click=join, args=(known.id,),
                      help=_("The same settings are the same run: somebody has started it already."))
        if run is not None and status.live:
            if status is Status.PAUSED:
                st.button(_("Resume"), key="resume", icon=":material/play_arrow:", on_click=change, args=("resume", run.id),
                          disabled=off)  # fmt: skip
                st.button(_("One step"), key="step", icon=":material/skip_next:", on_click=change, args=("step", run.id),
                          disabled=off)  # fmt: skip
            else:
                st.button(_("Pause"), key="pause", icon=":material/pause:", on_click=change, args=("pause", run.id),
                          disabled=off or shared)  # fmt: skip
            st.button(_("Stop"), key="stop", icon=":material/stop:", on_click=change, args=("stop", run.id),
                      disabled=off)  # fmt: skip
            if off and not locked:
                st.button(_("Join"), key="join_run", icon=":material/group_add:", on_click=join, args=(run.id,),
                          help=_("It is then yours too: it goes on for you when those who asked for it leave."))
        if run is not None:
            st.button(_("Close the run"), key="close", type="tertiary", on_click=show, args=(None,),
                      help=_("Goes back to the picture at initialisation. The run itself goes on and is kept."))
            projector.button()
    shown = run or (known if known is not None and not known.status.live else None)
    if shown and (sentence := classroom.whose_sentence(shown)):
        st.caption(sentence)


def theory_words(config: RunConfig) -> None:
    prediction = predict(config)
    activation = config.activation
    if not math.isnan(prediction.slope):
        st.markdown(_(
            "On the way back to the input each convolution of the blocks multiplies the weight gradient by "
            "**{factor:.3g}** and the backward signal by **{signal:.3g}**. Computed, not measured: the dotted line."
        ).format(factor=prediction.factor, signal=prediction.signal_factor))  # fmt: skip
    with st.expander(_("What theory says about this net"), key="theory", on_change="rerun") as panel:
        if not panel.open:
            return  # what nobody looks at is not computed
        a = critical_range(activation)
        if not math.isnan(a):
            st.markdown("- " + _(
                "Critical init range of {activation} without norm and shortcut: **a\\* = {a:.4g}**. With smaller weights the "
                "backward signal vanishes with depth, with larger ones it explodes."
            ).format(activation=activation, a=a))  # fmt: skip
        marks = depth_marks(replace(config, optimizer="adam", lr=1e-3, treatment="none"))
        texts = {
            "adam_eps": _("{blocks} blocks and more: the first block's weight gradient lies under Adam's eps, 10⁻⁸"),
            "float32_normal": _("{blocks} blocks and more: it lies under float32's smallest normal number, 1.2·10⁻³⁸"),
            "float32_zero": _("{blocks} blocks and more: the signal at the first block is exactly 0 in float32"),
            "float32_overflow": _("{blocks} blocks and more: some numbers exceed float32, the loss is inf or nan at step 0"),
        }
        found = {name: getattr(marks, name) for name in texts if getattr(marks, name)}
        for name, blocks in found.items():
            st.markdown("- " + texts[name].format(blocks=blocks))
        if not found:
            st.markdown("- " + _("Up to 1000 blocks the first block's gradient is not too small for Adam and within float32."))
        st.caption(_("Where the prediction may be off:"))
        for limit in prediction.limits:
            st.markdown(f"- {limit}")


def diagnosis_words(run: Run) -> None:
    with st.expander(_("The diagnosis in full: what was measured, what is likely the cause, what to try next"),
                     key="diagnosis", on_change="rerun") as panel:  # fmt: skip
        if panel.open:
            fragment(run_every=2 if run.status.live else None)(_diagnosis)(run.id)


@said_if_refused
def _diagnosis(run_id: str) -> None:
    """Reads the run itself: what is handed to a fragment stays in memory as long as its page is open."""
    if (run := manager.get(run_id)) is None:
        return
    diagnosis = diagnose(run)
    st.markdown(diagnosis.sentence)
    for line in diagnosis.advice:
        st.markdown(as_text(str(line)))
    for title, lines in sections(diagnosis):
        st.markdown(f"**{title}**\n" + "\n".join(f"- {line}" for line in lines))
    if diagnosis.next_experiment:
        sentence, config = diagnosis.next_experiment
        st.markdown(f"**{_('Next experiment')}**\n- {sentence}")
        st.button(_("Set it up"), key="next", icon=":material/arrow_forward:", on_click=controls.set_config, args=(config,))


def otherwise_computed(run: Run) -> str:
    """A sentence if this server would compute the run otherwise; empty if it would not, or if that cannot be known."""
    config = config_of(run)
    return other_arithmetic(run.arithmetic, manager.arithmetic(config)) if config and manager.arithmetic else ""


def program(config: RunConfig, same: Run | None) -> tuple[str, Arithmetic | None]:
    """Its text, and with what it prints the losses digit for digit that the run of these settings has, or will have; None if
    that is not known."""
    if same is not None and same.history.steps:
        arithmetic = same.arithmetic
    else:
        arithmetic = manager.arithmetic(config) if manager.arithmetic else None
    if manager.arithmetic is None or (arithmetic and not arithmetic.torch):  # another engine need not do what the program does
        return codegen.code(config, own=False), None
    return codegen.code(config, arithmetic), arithmetic


def program_words(config: RunConfig, run: Run | None) -> None:
    """Only where somebody looks: the element that colours code is the largest script that the Lab's browsers would fetch."""
    with st.expander(_("The PyTorch code of these settings"), key="code", on_change="rerun") as panel:
        if not panel.open:
            return
        code, arithmetic = program(config, run if run is not None and run.id == config.id else manager.get(config.id))
        if arithmetic:
            st.caption(_(
                "Runs on its own. With {arithmetic}, it prints the losses of the run digit for digit; another processor, number "
                "of threads or PyTorch rounds sums otherwise, and the losses part sooner or later. A GPU need not repeat even "
                "its own."
            ).format(arithmetic=arithmetic_text(arithmetic)))  # fmt: skip
        with st.container(horizontal=True):
            st.download_button(_("Download the code"), code, f"gradviz-{config.id}.py", "text/x-python", on_click="ignore")
            st.download_button(_("As a notebook"), notebook(code), f"gradviz-{config.id}.ipynb", "application/x-ipynb+json",
                               on_click="ignore")  # fmt: skip
            if newest_state(config.id):
                file = f"gradviz-{config.id}-weights.safetensors"
                download_button(_("The trained weights"), f"api/runs/{config.id}/weights.safetensors", file, key="weights")
                st.download_button(_("The code that loads them"), loader(code, file), f"gradviz-{config.id}-load.py",
                                   "text/x-python", on_click="ignore")  # fmt: skip
        st.code(code, language="python")


def share(run: Run) -> None:
    if run.history.steps:
        download_button(_("Share as one file"), RUN_FILE.format(id=run.id), f"gradviz-{run.id}.html", key="share", home=True)


def downloads(run: Run) -> None:
    labels = {
        "layers.csv": _("Layers as CSV"), "layers.parquet": _("Layers as Parquet"),
        "steps.csv": _("Every step as CSV"), "steps.parquet": _("Every step as Parquet"),
    }  # fmt: skip
    if run.missing:
        labels["missing.csv"] = _("What is missing, and why")
    with st.container(horizontal=True):
        for name, label in labels.items():
            download_button(label, f"api/runs/{run.id}/{name}", f"gradviz-{run.id}-{name}", key=name)
    st.caption(_("Layers: every measured number of every layer. Every step: loss, accuracy and time. "
                 "Each chart saves itself as a picture, with the buttons above it."))


def watched_net(run: Run) -> None:
    """A net that another process trains: what was measured of it, and nothing that sets up or starts one here."""
    status = run.status
    st.title(as_text(run.recipe.title), anchor=False)
    st.button(_("To the Lab"), key="close", type="tertiary", icon=":material/arrow_back:", on_click=show, args=(None,),
              help=_("To the nets that are trained here. This run goes on where it is, and is kept."))
    live_panel(run, status=status)
    share(run)
    if run.history.steps:
        st.caption(_("Computed with: {arithmetic}.").format(arithmetic=arithmetic_text(run.arithmetic)))
    diagnosis_words(run)
    if run.history.steps:
        with st.expander(_("How it was measured, and what is missing"), key="box_measured"):
            fragment(run_every=3 if status.live else None)(measured_words)(run.id)
        with st.expander(_("The data of this run"), key="box_data"):
            downloads(run)
    earlier_runs()
    with st.sidebar:
        classroom.name_field()
    write_address({"run": run.id})


def measured_words(run_id: str) -> None:
    run = manager.at_hand(run_id) or manager.get(run_id)
    if run is None:
        return
    lines = [_("Measured: {how}.").format(how=_("every step") if run.every == 1 else _("1 of {n} steps").format(n=run.every))]
    if run.share is not None:
        lines.append(_("Of the training's own time that takes {share:.1g} %.").format(share=100 * run.share))
    if run.overflows:
        lines.append(_("The scaler left out {n} of the measured steps, whose gradients had overflown.").format(n=run.overflows))
    if run.recipe.tied:
        pairs = "; ".join(f"{one} = {other}" for one, other in run.recipe.tied)
        lines.append(_("The same weight, and so the same gradient: {pairs}.").format(pairs=pairs))
    st.markdown("\n".join(f"- {as_text(line)}" for line in lines))
    rows = [
        {_("layer"): layer, _("quantity"): _(described(quantity).label), _("why"): why_missing(run, layer, quantity)}
        for layer, quantities in run.missing.items() for quantity in quantities if is_described(quantity)
    ]  # fmt: skip
    if rows:
        st.caption(_("Not measured in the last look:"))
        st.dataframe(pd.DataFrame(rows), hide_index=True)
    else:
        st.caption(_("In the last look nothing was missing."))


def earlier_runs() -> None:
    summaries = manager.list()
    if not summaries:
        return
    labels = {summary.id: controls.label(summary) for summary in summaries}
    with st.sidebar:
        st.header(_("Runs on this server"))
        st.selectbox(
            _("Open a run"), ["", *labels], key="open_run", label_visibility="collapsed",
            format_func=lambda run_id: labels.get(run_id, _("choose …")), on_change=open_run,
        )


@said_if_refused
def open_run() -> None:
    run = manager.get(st.session_state["open_run"] or "")
    if run is not None:
        show(run.id)
        if config := config_of(run):
            controls.set_config(config)
    st.session_state["open_run"] = ""


def on_the_projector(run: Run | None) -> None:
    """A run for the whole room, or the net that is set up."""
    projector.begin()
    config = st.session_state[controls.CONFIG]
    names, title = server().classroom.names(run.id) if run else (), run.recipe.title if run else config.title
    title_panel(names or (title,), title if names else "")
    if run:
        live_panel(run)
    else:
        preview_panel(classroom.preview(config))
    projector.leave_button()


controls.open_session(lambda run_id: config_of(manager.get(run_id)))
if (run := manager.get(st.session_state.get(controls.RUN) or "")) is not None and run.watched:
    watched_net(run)
    run = None  # as at the end
    st.stop()
if projector.on():
    on_the_projector(run)
    run = None
    st.stop()
st.title(_("See gradients vanish, explode, and recover"), anchor=False)
controls.show_problems()
wanted = controls.sidebar(classroom.locked())
data_notice(wanted.dataset)
config = replace(wanted, dataset=shelf.effective(wanted.dataset)[0])

run = manager.get(st.session_state.get(controls.RUN) or "")
if run is None and st.session_state.get(controls.RUN):
    st.warning(_("The run in this link is not on this server. Its settings are in the link: Start makes it anew."))
    show(None)

st.markdown(_("**{layers} weight layers · {parameters} parameters** · {title}").format(
    layers=config.layers, parameters=f"{parameter_count(config):,}", title=config.title))
status = run.status if run else None
buttons(config, run, status)
first.steps(run is not None)

if run is not None:
    if run.id != config.id:
        st.caption(_("On screen: {title}. The controls on the left set up the next run and do not touch this one.").format(
            title=run.recipe.title))
    other = otherwise_computed(run)
    if run.arithmetic and other:
        st.info(as_text(other), icon=":material/memory:")  # before the numbers, for who has just joined the run
    turning.panel(run, status, show)
    live_panel(run, status=status)
    turning.words(run)
    share(run)
    if run.history.steps and bool(run.arithmetic) != bool(other):
        st.caption(other or _("Computed with: {arithmetic}.").format(arithmetic=arithmetic_text(run.arithmetic)))
    diagnosis_words(run)
    going_on.panel(run, show)
if run is None or run.id != config.id:
    if run is not None:
        st.header(_("The next run, at initialisation"), anchor=False)
    preview_panel(classroom.preview(config))
with st.expander(_("What the words mean"), key="meanings", on_change="rerun") as panel:
    if panel.open:
        st.markdown("\n".join(f"- **{_(word)}**: {_(meaning)}" for word, meaning in MEANINGS.items()))
theory_words(config)
earlier_runs()  # in the sidebar, but nobody waits for them
with st.sidebar:
    classroom.name_field()

program_words(config, run)
if run is not None and run.history.steps:
    with st.expander(_("The data of this run"), key="box_data"):
        downloads(run)
controls.write_url()
run = None  # Streamlit keeps the page's names with the session; they must not keep the records
