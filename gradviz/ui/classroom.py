"""Who sits before this browser, and what he may do: the name, the teacher's PIN, the lock, and what the teacher announces."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from functools import wraps
from typing import Any

import streamlit as st

from gradviz.classroom import LONGEST_NAME, clean_name
from gradviz.config import RunConfig
from gradviz.lessons import LESSONS
from gradviz.limits import Refused
from gradviz.live.classroom import notice_panel
from gradviz.runs import Run
from gradviz.sweep import Sweep
from gradviz.ui import controls
from gradviz.ui.server import server
from gradviz.words import gettext as _

log = logging.getLogger("gradviz")

NAME = "class_name"  # of this session, cleaned; absent until the student or his browser has said it
_FIELD = "class_name_field"
_TEACHER = "class_teacher"
_PIN = "class_pin"
_SAID = "class_said"  # a sentence for the next script run
_NOTICE = "class_notice"
WALL = "wall"  # its URL parameter: a run's id, or empty for what the teacher has chosen


# Who


def client() -> str:
    """Tells this browser session from others. It is no secret and no account."""
    return st.session_state.setdefault(controls.CLIENT, uuid.uuid4().hex)


def name() -> str:
    return st.session_state.get(NAME, "")


def name_field() -> None:
    st.session_state[_FIELD] = name()
    st.text_input(
        _("Your name on the class's wall"), key=_FIELD, max_chars=LONGEST_NAME, on_change=_name_typed, autocomplete="off",
        placeholder=_("1 to {n} characters").format(n=LONGEST_NAME),
        help=_("Everybody in the class sees it beside your runs. It is no account; this browser remembers it."),
    )


def _name_typed() -> None:
    _take_name(st.session_state[_FIELD] or "")


def _name_remembered() -> None:
    if NAME not in st.session_state:
        _take_name(str(st.session_state[_NOTICE].get("name") or ""))


def _take_name(text: str) -> None:
    st.session_state[NAME] = clean_name(text)
    server().classroom.rename(client(), name())


# The teacher


def is_teacher() -> bool:
    return server().classroom.pin.on and bool(st.session_state.get(_TEACHER))


def pin_form() -> None:
    with st.form("class_pin_form", border=False):
        st.text_input(_("The teacher's PIN"), key=_PIN, type="password", max_chars=64, autocomplete="off")
        st.form_submit_button(_("Enter"), key="class_pin_enter", on_click=_enter)


def _enter() -> None:
    typed, st.session_state[_PIN] = st.session_state[_PIN] or "", ""  # not kept a moment longer than it takes
    refusal = server().classroom.pin.refuses(typed, client())
    st.session_state[_TEACHER] = not refusal
    if refusal:
        say(refusal)
    else:
        log.info("event=teacher-entered")


def leave() -> None:
    st.session_state[_TEACHER] = False


def only_teacher(action: Callable[..., Any]) -> Callable[..., Any]:
    """For callbacks: a button that somebody sees is no proof that he may press it."""

    @wraps(action)
    def checked(*args: Any) -> Any:
        if is_teacher():
            return action(*args)
        say(_("Only the teacher may do that."))

    return checked


# The lock


def locked() -> bool:
    """Whether this session may not start or change anything now."""
    return server().classroom.locked and not is_teacher()


def unless_locked(action: Callable[..., Any], *args: Any) -> Any:
    """For callbacks: the lock may have come after the button was drawn."""
    if not locked():
        return action(*args)
    say(locked_sentence())


def locked_sentence() -> str:
    return _("The teacher has locked the controls: nobody can start or change runs now.")


def start(config: RunConfig, again: bool = False) -> Run | None:
    """Callback: starts or joins the run in this session's name. None, and a sentence, if that is refused."""
    if locked():
        return say(locked_sentence())
    try:
        run = server().manager.start(config, again=again, client=client())
    except Refused as refusal:
        return say(str(refusal))
    join(run.id)
    return run


def join(run_id: str) -> None:
    """This session looks at a run that exists already, as its own."""
    server().classroom.join(client(), name(), run_id)


def start_sweep(sweep: Sweep) -> None:
    unless_locked(server().sweeps.start, sweep)


def start_lesson(sweep: Sweep) -> None:
    """As `start_sweep`, in this session's name."""
    if locked():
        return say(locked_sentence())
    server().sweeps.start(sweep)
    server().classroom.join(client(), name(), *(config.run_id for config in sweep.configs))


# What every page shows


def say(sentence: str) -> None:
    """A sentence at the top of the next script run."""
    st.session_state[_SAID] = sentence


def frame(lessons_page: Any) -> None:
    """Draws what the teacher has announced, above the page; it follows within some seconds. `lessons_page`: a st.Page."""
    room = server().classroom
    drawn = room.notice()
    if st.query_params.get(WALL) != "":
        del drawn["wall"]  # nobody else's page changes with the wall
    # st.container: an element that shows nothing must not take a line's room.
    with st.container(key="class_frame"):
        notice_panel(drawn, st.session_state.get(NAME), _NOTICE, room.pin.on, _name_remembered)
    if room.lesson and WALL not in st.query_params:
        with st.container(border=True, horizontal=True, vertical_alignment="center", key="class_banner"):
            st.markdown(f":material/campaign: **{_('The teacher points to a lesson:')}**", width="content")
            st.page_link(lessons_page, label=_(LESSONS[room.lesson].title), query_params={"lesson": room.lesson})
    if locked():
        st.info(locked_sentence(), icon=":material/lock:")
    if sentence := st.session_state.pop(_SAID, ""):
        st.warning(sentence)
    if room.warning:
        st.warning(room.warning)
