"""A run that has ended goes on for more steps, or branches from one of its steps with something changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import streamlit as st

from gradviz.lenet.changes import KNOBS
from gradviz.lenet.config import FIELDS, MOST_STEPS, RunConfig, config_of
from gradviz.lenet.fields import ConfigError
from gradviz.messages import say
from gradviz.record.run import Run, Status
from gradviz.serve.manager import AFRESH
from gradviz.ui import classroom, controls
from gradviz.ui.heavy import said_if_refused
from gradviz.ui.server import server
from gradviz.ui.turning import field
from gradviz.words import gettext as _
from gradviz.words import listed, ngettext

Show = Callable[[str], None]  # puts a run on the screen, by its id


def panel(run: Run[RunConfig], show: Show) -> None:
    """Below a run that has ended and recorded something."""
    config, begins = config_of(run), server().manager.begins
    if config is None or run.status.live or not run.history.steps:
        return
    with st.expander(_("Go on, or branch"), key="going_on", on_change="rerun") as shown:
        if not shown.open:
            return
        kept = begins.steps(run) if begins else []
        if kept:
            st.caption(_("The state of its net is kept before step {steps}. What begins there has the numbers of a run that was "
                         "asked for at once.").format(steps=listed([f"{step:,}" for step in kept])))  # fmt: skip
        else:
            st.caption(_("No state of its net is kept any more: what goes on or branches is trained again from the start, with "
                         "the same numbers."))  # fmt: skip
        _more(run, config, show)
        _branch(run, config, kept, show)


def _more(run: Run[RunConfig], config: RunConfig, show: Show) -> None:
    if run.status in AFRESH:
        st.button(
            _("Go on to step {steps}").format(steps=f"{config.steps:,}"), key="go_on", icon=":material/play_arrow:",
            on_click=_go_on, args=(run.id, show), disabled=classroom.locked() or not _mine(run),
        )  # fmt: skip
    elif run.status is Status.FINISHED and config.steps < MOST_STEPS:
        most = MOST_STEPS - config.steps
        with st.container(horizontal=True, vertical_alignment="bottom"):
            st.number_input(_("More steps"), 1, most, min(config.steps, most), key=_key("more", run.id), width=180)
            st.button(_("Go on"), key="go_on", icon=":material/play_arrow:", on_click=_go_on, args=(run.id, show),
                      disabled=classroom.locked())  # fmt: skip


def _branch(run: Run[RunConfig], config: RunConfig, kept: Sequence[int], show: Show) -> None:
    last = min(run.history.steps, config.steps - 1)
    if last < 1:
        return
    keys = [_key(word, run.id) for word in ("step", "knob", "value")]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        before = max((step for step in kept if step <= last), default=last)
        step = st.number_input(_("Branch from step"), 1, last, before, key=keys[0], width=180)
        knob = st.selectbox(_("change"), KNOBS, KNOBS.index("lr"), key=keys[1], width=220,
                            format_func=lambda name: _(FIELDS[name].spec.label))  # fmt: skip
        field(knob, _("to"), getattr(config.knobs(step or 1), knob), f"{keys[2]}_{knob}", width=200)
        st.button(_("Branch"), key="branch", icon=":material/alt_route:", on_click=_branch_off, args=(run.id, show),
                  disabled=classroom.locked())  # fmt: skip
    if step:
        st.caption(_from_where(step, [each for each in kept if each <= step]))


def _from_where(step: int, before: Sequence[int]) -> str:
    if not before:
        return _("No state before step {step} is kept: the branch is trained from the start.").format(step=f"{step:,}")
    if before[-1] == step:
        return _("The branch begins right there, with the records of this run up to step {step}.").format(step=f"{step:,}")
    sentence = ngettext(
        "Step {step} is not kept; kept before it: {kept}. The branch begins at the last of these and trains {n} step again.",
        "Step {step} is not kept; kept before it: {kept}. The branch begins at the last of these and trains {n} steps again.",
        step - before[-1],
    )
    return sentence.format(step=f"{step:,}", kept=listed([f"{each:,}" for each in before]), n=step - before[-1])


def _key(word: str, run_id: str) -> str:
    return f"going_on_{word}_{run_id}"


def _mine(run: Run[RunConfig]) -> bool:
    return classroom.may_change(classroom.people_of(run))


@said_if_refused
def _go_on(run_id: str, show: Show) -> None:
    """Callback."""
    run = server().manager.get(run_id)
    if run is None or (config := config_of(run)) is None:
        return classroom.say(say("run-gone"))
    if run.status in AFRESH:
        return _begin(config, run_id, show, again=True)
    try:
        return _begin(replace(config, steps=config.steps + (st.session_state[_key("more", run_id)] or 0)), run_id, show)
    except ConfigError as error:
        return classroom.say(error.message)


@said_if_refused
def _branch_off(run_id: str, show: Show) -> None:
    """Callback."""
    if (config := config_of(server().manager.get(run_id))) is None:
        return classroom.say(say("run-gone"))
    step, knob = (st.session_state[_key(word, run_id)] for word in ("step", "knob"))
    try:
        branch = config.turned(step, **{knob: st.session_state[f"{_key('value', run_id)}_{knob}"]})
    except ConfigError as error:
        return classroom.say(error.message)
    if branch == config:
        return classroom.say(say("branch-same", step=step))
    return _begin(branch, run_id, show)


def _begin(config: RunConfig, origin: str, show: Show, again: bool = False) -> None:
    if run := classroom.start(config, again, origin):
        controls.set_config(config)
        show(run.id)
