"""Knobs of the run on screen, turned while it trains. A run's settings are who it is: what is turned makes it another run, which
begins where this one stands, with what it has recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamlit as st

from gradviz.lenet.changes import KNOBS, Knobs
from gradviz.lenet.config import FIELDS, RunConfig, config_of
from gradviz.lenet.fields import ConfigError
from gradviz.messages import say
from gradviz.record.run import Run, Status
from gradviz.ui import classroom, controls
from gradviz.ui.heavy import said_if_refused
from gradviz.ui.server import server
from gradviz.words import as_text
from gradviz.words import gettext as _

_ORDER = ("lr", "optimizer", "treatment", "threshold")
_PATIENCE = 15.0  # seconds for a run to end where it stands, and to keep its state


def panel(run: Run[RunConfig], status: Status, show: Callable[[str], None]) -> None:
    """Above a live run: its knobs as they are, and one press that turns those that were moved."""
    if (config := config_of(run)) is None or not status.live:
        return
    with st.expander(_("Turn a knob while it trains"), icon=":material/tune:", key="turn_knobs", on_change="rerun") as shown:
        if not shown.open:
            return
        keeps = server().manager.begins is not None
        off = classroom.locked() or not keeps
        if not keeps:
            st.caption(_("This server keeps no states of nets: a run cannot be changed while it trains."))
        # A run that was just turned has taken its records over in a moment, and is shown as it will be then.
        now = config.knobs(run.history.steps or max((change.step for change in config.changes), default=0))
        with st.form("turn_form", border=False), st.container(horizontal=True, vertical_alignment="bottom"):
            for name in _ORDER:
                field(name, _(FIELDS[name].spec.label), getattr(now, name), _key(name, run.id), width=150)
            st.form_submit_button(_("Turn"), key="turn", on_click=_turn, args=(run.id, now, show), disabled=off)
        st.caption(_("From the next step on. It is kept with the settings, so the link does it again. Another optimiser or "
                     "treatment begins afresh; another learning rate or threshold keeps what has been gathered."))  # fmt: skip


def field(name: str, label: str, value: Any, key: str, width: int) -> None:
    """Where another value of this knob is given."""
    spec, value = FIELDS[name].spec, st.session_state.get(key, value)
    if spec.choices:
        choices = list(spec.choices)
        st.selectbox(label, choices, choices.index(value), key=key, width=width)
    else:
        ends = float(spec.low or 0), float(spec.high or 0)
        st.number_input(label, *ends, float(value), key=key, format="%g", width=width)


def words(run: Run[RunConfig]) -> None:
    """What was turned in the run."""
    if (config := config_of(run)) and config.changes:
        st.caption("  \n".join(as_text(str(turn.sentence)) for turn in config.turns))


def _key(name: str, run_id: str) -> str:
    return f"turn_{name}_{run_id}"


@said_if_refused
def _turn(run_id: str, drawn: Knobs, show: Callable[[str], None]) -> None:
    """Callback. `drawn`: what the fields said before somebody moved them."""
    run = server().manager.at_hand(run_id)
    if run is None or not run.status.live or (config := config_of(run)) is None:
        return classroom.say(say("turn-ended"))
    if not run.history.steps:
        return classroom.say(say("turn-not-begun"))
    wanted = {name: st.session_state[_key(name, run_id)] for name in KNOBS}
    knobs: dict[str, Any] = {name: value for name, value in wanted.items() if value != getattr(drawn, name)}
    if wanted["treatment"] == "none":
        knobs.pop("threshold", None)  # which nothing uses then
    if not knobs:
        return classroom.say(say("turn-nothing"))
    try:
        turned = _turned(run, config, knobs)
    except ConfigError as error:
        return classroom.say(error.message)
    if turned and (later := config_of(turned)):
        controls.set_config(later)
        show(turned.id)
    return None


def _turned(run: Run[RunConfig], config: RunConfig, knobs: dict[str, Any]) -> Run[RunConfig] | None:
    """The run that it becomes; where others have asked for it too it goes on for them, and this is a branch. None, and a
    sentence, if nothing was turned."""
    manager = server().manager
    if classroom.locked():
        classroom.say(classroom.LOCKED)
        return None
    config.turned(min(run.history.steps, config.steps - 1), **knobs)  # what is refused leaves the run alone
    people, held = classroom.people_of(run), run.status is Status.PAUSED
    waited_for = server().sweeps.people_of_run(run.id)  # his own sweep, too, needs the run to its end
    alone = not waited_for and not people - {classroom.client()}  # a teacher, too, takes nobody's run away
    if alone:
        manager.stop(run.id)
        manager.wait(run.id, _PATIENCE)
        if run.status is not Status.STOPPED:
            classroom.say(say("turn-late"))
            return None
    step = min(run.history.steps, config.steps - 1)
    turned = classroom.start(config.turned(step, **knobs), again=True, origin=run.id, held=held and alone)
    if turned and not alone:
        manager.leave(run.id, classroom.client(), stop=False)
        classroom.say(say("turn-branch", step=step))
    return turned
