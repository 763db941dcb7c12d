"""Who sits before this browser, and what he may do: the name, the teacher's PIN, the lock, and what the teacher announces."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

import streamlit as st

from gradviz import machine, messages
from gradviz.lenet.config import RunConfig
from gradviz.lenet.lessons.catalogue import LESSONS
from gradviz.lenet.sweep import Sweep
from gradviz.messages import Message
from gradviz.record.run import Run
from gradviz.serve.admission import Refused
from gradviz.serve.classroom import LONGEST_NAME, clean_name
from gradviz.serve.manager import AFRESH
from gradviz.serve.people import COOKIE, GUEST
from gradviz.serve.previews import Preview
from gradviz.ui import controls, first
from gradviz.ui.language import asked
from gradviz.ui.server import kept_words, notice, server
from gradviz.web import hosts
from gradviz.web.panels import notice_panel
from gradviz.words import as_text
from gradviz.words import gettext as _

log = logging.getLogger("gradviz")

NAME = "class_name"  # of this session, cleaned; absent until the student or his browser has said it
_FIELD = "class_name_field"
_TEACHER = "class_teacher"
_PIN = "class_pin"
_SAID = "class_said"  # a sentence for the next script run
_NOTICE = "class_notice"
_TAB = "class_tab"
_LOOPBACK = "127.0.0.1"
_LEFT = "class_left"  # id of the sweep that this session has left
WALL = "wall"  # its URL parameter: a run's id, or empty for what the teacher has chosen


# Who


def client() -> str:
    """Who sits before this browser, known by its cookie; without one, this session alone. It is no account."""
    people = server().people
    if controls.CLIENT not in st.session_state:
        st.session_state[controls.CLIENT] = people.person(st.context.cookies.get(COOKIE)) or GUEST + uuid.uuid4().hex
    people.seen(st.session_state[controls.CLIENT], address())
    return str(st.session_state[controls.CLIENT])


def tab() -> str:
    """Tells this page from others of the same person."""
    return str(st.session_state.setdefault(_TAB, uuid.uuid4().hex))


def preview(config: RunConfig, purpose: str = "") -> Preview:
    """This page's newest wish for that purpose; guests of one address, who may be one and the same, wait their turns as one."""
    person = GUEST + address() if client().startswith(GUEST) else client()
    return server().manager.preview(config, tab() + purpose, person)


def address() -> str:
    """Where this browser is: many people may share one. All addresses of this computer are one."""
    here = st.context.ip_address  # None for localhost
    return here if isinstance(here, str) and not machine.has_address(here) else _LOOPBACK


def at_the_server() -> bool:
    """Whether this browser runs on the server's own computer. A proxy may do so too, but asks for another host."""
    return address() == _LOOPBACK and hosts.is_here(st.context.headers.get("Host", "localhost"))


def name() -> str:
    return str(st.session_state.get(NAME, ""))


def name_field() -> None:
    if st.session_state.get(_FIELD) != name():  # what is given to a field takes away what somebody is just typing there
        st.session_state[_FIELD] = name()
    st.text_input(
        _("Your name on the class's wall"), st.session_state[_FIELD], key=_FIELD, max_chars=LONGEST_NAME,
        on_change=_name_typed, autocomplete="off", placeholder=_("1 to {n} characters").format(n=LONGEST_NAME),
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
    known = not client().startswith(GUEST)
    refusal = server().classroom.pin.refuses(typed, client(), address(), known)
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
        say(messages.say("teacher-only"))

    return checked


# Whose run it is


def people_of(run: Run[RunConfig]) -> set[str]:
    """Who asked for it, and for the sweeps that wait for it, as far as they have a say: without a teacher, who could
    be asked, those that have long gone have none, nor have those at the same address, who may be one and the same."""
    everybody = {*run.clients, *(server().sweeps.people_of_run(run.id) if run.status.live else ())}
    return _with_a_say(everybody)


def _with_a_say(people: Iterable[str]) -> set[str]:
    if server().classroom.pin.on:
        return set(people)
    # Whoever sits at the computer that all this runs on needs no button to end it. He may also be alone with it and yet look
    # like several: two browsers, localhost and 127.0.0.1, no cookies; in a container or behind a proxy, at an address of those.
    if at_the_server():
        return set()
    me, place, elsewhere = client(), address(), server().people.elsewhere
    return {person for person in people if person == me or elsewhere(person, place)}


def may_change(people: set[str]) -> bool:
    return is_teacher() or not people or client() in people


def others(people: set[str]) -> int:
    """How many people would mind, for whom a run or a sweep goes on; the teacher need not ask."""
    return 0 if is_teacher() else len(people - {client()})


def whose_sentence(run: Run[RunConfig]) -> str:
    """Why not all buttons of this run do all that they say; empty if they do."""
    people = people_of(run)
    if not may_change(people):
        return str(OTHER_LIVE) if run.status.live else str(OTHER_ENDED) if run.status in AFRESH else ""
    if count := others(people) if run.status.live else 0:
        return _("Others have asked for this run too ({n}): Stop takes you out and leaves it to them, and nobody can pause it "
                 "for the others.").format(n=count)  # fmt: skip
    return ""


OTHER_LIVE, OTHER_ENDED = messages.say("other-live"), messages.say("other-ended")


def change(word: str, run_id: str) -> None:
    """Callback: pause, resume, step or stop a run, if he may: whoever can open the page can send this."""
    manager = server().manager
    run = manager.at_hand(run_id)  # a live one is
    if locked():
        return say(LOCKED)
    if run is None or not run.status.live:
        return None
    people = people_of(run)
    if not may_change(people):
        return say(OTHER_LIVE)
    if word == "pause" and others(people):
        return say(messages.say("run-shared"))
    if word == "pause":
        return manager.pause(run_id, firmly=is_teacher())
    if word != "stop":
        return {"resume": manager.resume, "step": manager.step}[word](run_id)
    if not others(people):
        return manager.stop(run_id)
    if manager.leave(run_id, client(), stop=not server().sweeps.people_of_run(run_id)):
        say(messages.say("run-left"))
    return None


def stop_sweep(sweep_id: str) -> None:
    """Callback: stops a sweep, or leaves it to the others who asked for it."""
    sweeps = server().sweeps
    people = _with_a_say(sweeps.people(sweep_id))
    if locked():
        return say(LOCKED)
    if not may_change(people):
        return say(messages.say("runs-of-others"))
    if not others(people):
        return sweeps.stop(sweep_id)
    if sweeps.leave(sweep_id, client()):
        st.session_state[_LEFT] = sweep_id
        say(messages.say("runs-left"))
    return None


def may_change_sweep(sweep_id: str) -> bool:
    return may_change(_with_a_say(server().sweeps.people(sweep_id)))


def forget_sweep(sweep_id: str) -> None:
    """Callback: removes a sweep; its runs are kept."""
    sweeps = server().sweeps
    if locked():
        return say(LOCKED)
    people = _with_a_say(sweeps.people(sweep_id))
    if not may_change(people) or others(people):
        return say(messages.say("sweep-of-others"))
    return sweeps.forget(sweep_id)


# The lock


def locked() -> bool:
    """Whether this session may not start or change anything now."""
    return server().classroom.locked and not is_teacher()


LOCKED = messages.say("locked")


def start(config: RunConfig, again: bool = False, origin: str = "", held: bool = False) -> Run[RunConfig] | None:
    """Callback: starts or joins the run in this session's name. None, and a sentence, if that is refused. `origin`: the run from
    whose kept state it begins, `held`: paused there (see RunManager.start)."""
    if locked():
        say(LOCKED)
        return None
    try:
        known = server().manager.get(config.id) if again else None
        if known and not known.status.live and not may_change(people_of(known)):
            say(OTHER_ENDED)
            return None
        run = server().manager.start(config, again=again, client=client(), address=address(), origin=origin, held=held)
    except Refused as refusal:
        say(refusal.message)
        return None
    join(run.id)
    return run


def join(run_id: str) -> None:
    """Callback: a run that exists already is this person's too; while the controls are locked he only looks on."""
    if locked():
        return
    server().manager.join(run_id, client(), address())
    server().classroom.join(client(), name(), run_id)


def start_sweep(sweep: Sweep) -> None:
    """Callback, in this person's name."""
    if locked():
        return say(LOCKED)
    return _start_sweep(sweep, sweep.id)


def join_lesson(sweep: Sweep) -> None:
    """Whoever waits for the runs of a lesson is one of those for whom they go on, until he leaves them."""
    if st.session_state.get(_LEFT) != sweep.id and not locked():
        server().sweeps.join(sweep.id, client())


def start_lesson(sweep: Sweep) -> None:
    """As `start_sweep`, in this session's name."""
    if locked():
        return say(LOCKED)
    st.session_state.pop(_LEFT, None)
    return _start_sweep(sweep, *(config.id for config in sweep.configs))


def _start_sweep(sweep: Sweep, *named: str) -> None:
    try:
        server().sweeps.start(sweep, client())
    except Refused as refusal:
        return say(refusal.message)
    server().classroom.join(client(), name(), *named)
    return None


# What every page shows


def say(message: Message) -> None:
    """A sentence at the top of the next script run. Callbacks say what they have to say like this: nobody has told Streamlit's
    thread yet which language this session speaks."""
    st.session_state[_SAID] = message


def frame(lessons_page: Any) -> None:
    """Draws what the teacher announced and whether runs are kept; it follows within some seconds. `lessons_page`: a st.Page."""
    room = server().classroom
    drawn = notice()
    if st.query_params.get(WALL) != "":
        del drawn["wall"]  # nobody else's page changes with the wall
    # st.container: an element that shows nothing must not take a line's room.
    with st.container(key="class_frame"):
        notice_panel(drawn, st.session_state.get(NAME), _NOTICE, _name_remembered, first.over())
    if room.lesson and WALL not in st.query_params:
        with st.container(border=True, horizontal=True, vertical_alignment="center", key="class_banner"):
            st.markdown(f":material/campaign: **{_('The teacher points to a lesson:')}**", width="content")
            st.page_link(lessons_page, label=_(LESSONS[room.lesson].title), query_params={"lesson": room.lesson, **asked()})
    if locked():
        st.info(as_text(str(LOCKED)), icon=":material/lock:")
    if said := st.session_state.pop(_SAID, None):
        st.warning(as_text(str(said)))
    if words := kept_words(places=is_teacher() or at_the_server()):
        st.warning(as_text(words), icon=":material/database_off:")
    if room.warning:
        st.warning(as_text(str(room.warning)))
