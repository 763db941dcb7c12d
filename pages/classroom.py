"""Classroom: everybody's runs, the wall, and the teacher's controls."""

import streamlit as st

from gradviz.charts.sweeps import border_figure
from gradviz.lenet.config import config_of
from gradviz.lenet.lessons.catalogue import LESSONS
from gradviz.lenet.outcome import JUDGED, OUTCOMES
from gradviz.messages import say
from gradviz.record.watched import Watched
from gradviz.serve.classroom import ClassSweep
from gradviz.ui import classroom, controls, machines, projector
from gradviz.ui.heavy import heavily, said_if_refused
from gradviz.ui.language import dialog, link, write_address
from gradviz.ui.server import server
from gradviz.web.download import download_button
from gradviz.web.figure import figure_panel
from gradviz.web.panels import ACTIONS, cards_panel, live_panel, title_panel
from gradviz.words import gettext as _

CARDS, DELETE, OPEN = "class_cards", "class_delete", "class_open"
manager, sweeps, room = server().manager, server().sweeps, server().classroom


# What the buttons do


@said_if_refused
def pressed() -> None:
    """A button of a card. Whoever can open the page can send this, so each action looks itself whether it may."""
    word, _space, run_id = str(st.session_state[CARDS].get("action") or "").partition(" ")
    run = manager.get(run_id) if word in ACTIONS else None
    if run is None:
        classroom.say(say("run-gone"))
    elif word == "large":
        st.query_params[classroom.WALL] = run.id
    elif word == "open":
        st.session_state[OPEN] = run.id
    elif word == "delete":
        ask_to_delete(run.id)
    else:
        {"wall": put_on_wall, "pause": pause, "resume": resume, "stop": stop}[word](run.id)


@classroom.only_teacher
def put_on_wall(run_id: str) -> None:
    room.wall = run_id


@classroom.only_teacher
def pause(run_id: str) -> None:
    manager.pause(run_id, firmly=True)


@classroom.only_teacher
def resume(run_id: str) -> None:
    manager.resume(run_id)


@classroom.only_teacher
def stop(run_id: str) -> None:
    manager.stop(run_id)


@classroom.only_teacher
def ask_to_delete(run_id: str) -> None:
    st.session_state[DELETE] = run_id


@classroom.only_teacher
def delete(run_id: str) -> None:
    manager.delete(run_id)
    room.forget(run_id)


@classroom.only_teacher
def pause_all() -> None:
    for summary in manager.list():
        if summary.status.live:
            manager.pause(summary.id, firmly=True)


@classroom.only_teacher
def resume_all() -> None:
    for summary in reversed(manager.list()):  # each goes to the front of the queue: the oldest last
        if summary.status.live:
            manager.resume(summary.id)


@classroom.only_teacher
def clear_queue() -> None:
    for sweep in sweeps.list():
        sweeps.stop(sweep.id)  # it would fill the queue again
    manager.clear_queue()


@classroom.only_teacher
def lock(locked: bool) -> None:
    room.locked = locked


@classroom.only_teacher
def point_to(lesson: str) -> None:
    room.lesson = lesson


# What is drawn


def teacher() -> None:
    if not room.pin.on:
        with st.expander(_("Teacher mode")):
            st.markdown(_(
                "Off on this server. To turn it on, start the server with a PIN of 4 to 64 characters in the environment "
                "variable `GRADVIZ_PIN`. Without a PIN those who started a run, others at their address, and whoever sits "
                "at the server's computer can stop it, and nobody can lock the controls, choose what is on the wall or delete "
                "runs."
            ))
        return
    with st.expander(_("Teacher mode"), expanded=classroom.is_teacher(), key="class_teacher_box"):
        if not classroom.is_teacher():
            st.caption(_("Lock the controls, pause and stop runs, choose the wall, send all to a lesson, take the class's runs "
                         "home. Lasts until this page is closed or reloaded."))
            classroom.pin_form()
            return
        with st.container(horizontal=True, vertical_alignment="center"):
            st.button(_("Unlock the controls") if room.locked else _("Lock the controls"), key="class_lock", type="primary",
                      icon=":material/lock_open:" if room.locked else ":material/lock:", on_click=lock, args=(not room.locked,),
                      help=_("While they are locked only you can start and change runs; runs that train go on."))
            st.button(_("Pause all"), key="class_pause", icon=":material/pause:", on_click=pause_all)
            st.button(_("Resume all"), key="class_resume", icon=":material/play_arrow:", on_click=resume_all)
            st.button(_("Clear the queue"), key="class_clear", icon=":material/playlist_remove:", on_click=clear_queue,
                      help=_("Stops what waits for its turn and what is paused, sweeps too; what trains now goes on."))
            download_button(_("All runs as one archive"), f"api/archive?key={room.key}", "gradviz-class.zip", key="class_archive")
        with st.container(horizontal=True, vertical_alignment="bottom"):
            lesson = st.selectbox(
                _("Send everybody to a lesson"), list(LESSONS), key="class_lesson", width=420,
                format_func=lambda id: _(LESSONS[id].title),
            )
            st.button(_("Announce"), key="class_announce", icon=":material/campaign:", on_click=point_to, args=(lesson,))
            if room.lesson:
                st.button(_("Take the announcement back"), key="class_quiet", on_click=point_to, args=("",))
        with st.container(horizontal=True, vertical_alignment="center"):
            if room.wall:
                st.button(_("Take the run off the wall"), key="class_bare", on_click=put_on_wall, args=("",))
            st.markdown(_("The projector shows what you put on the wall at [this address]({address}).").format(
                address=link("classroom", wall="")), width="content")
            st.button(_("Leave teacher mode"), key="class_leave", type="tertiary", on_click=classroom.leave)


@dialog(_("Delete this run?"))
def confirm(run_id: str) -> None:
    run = manager.get(run_id)
    if run is None:
        st.markdown(_("It is gone already."))
        return
    title_panel(room.names(run.id), run.recipe.title, key="class_delete_title")
    st.markdown(_("Its {n} recorded steps cannot be brought back, for nobody.").format(n=run.history.steps))
    with st.container(horizontal=True):
        if st.button(_("Delete"), key="class_delete_yes", type="primary"):
            delete(run_id)
            st.rerun()
        if st.button(_("Keep"), key="class_delete_no"):
            st.rerun()


def wall(run_id: str) -> None:
    projector.begin()
    run = manager.get(run_id) if run_id else None
    if run is None:
        st.title(_("The class's wall"), anchor=False)
        st.info(_("This run is not on this server.") if run_id else
                _("Nothing is on the wall yet. The teacher puts a run here; this page follows by itself."))  # fmt: skip
    else:
        title_panel(room.names(run.id), run.recipe.title)
        live_panel(run, key="class_wall")
    st.button(_("All runs of the class"), key="class_back", type="tertiary", icon=":material/arrow_back:", on_click=to_cards)


def to_cards() -> None:
    write_address({})


def border(summaries: list) -> None:
    st.header(_("The border of trainability, by this class"), anchor=False)
    sweep = ClassSweep.of(config for summary in summaries if not summary.status.live and (config := config_of(summary)))
    results = {config: found for config, found in sweeps.results(sweep).items() if found.outcome in JUDGED}
    if not results:
        st.caption(_("Each of the class's runs becomes a point here once it has ended."))
        return
    figure_panel(border_figure(ClassSweep.of(results), results), "class_border", _("The class's border of trainability"))
    st.caption(_(
        "A point is one ended run of the class, at its number of blocks and in the row of its remedy, whatever its optimiser, "
        "learning rate and data. The band behind the points has the colour of what most did there. Runs that were stopped "
        "before they showed either way are left out."
    ))  # fmt: skip
    with st.expander(_("What the outcomes mean"), key="box_outcomes"):
        st.markdown("\n".join(_("- **{word}**: {meaning}").format(word=_(word), meaning=OUTCOMES[word]) for word in JUDGED))


def everybody() -> None:
    st.title(_("The class"), anchor=False)
    left, right = st.columns([1, 2], vertical_alignment="bottom")
    with left:
        classroom.name_field()
    with right:
        st.caption(_(
            "A card is one run. Curve: its loss, from 0 to 3 nats; dashed: guessing among ten classes. Coloured field: its "
            "weight gradient, training steps to the right, layers upwards from the input; dark is small, bright is large, and "
            "the colours mean the same in all cards and in the Lab. White: exactly zero; pink: all but zero; orange: above the "
            "scale; red: not finite."
        ))  # fmt: skip
    teacher()
    if server().cluster:
        machines.computers()
    summaries = manager.list()
    if any(isinstance(summary.recipe, Watched) for summary in summaries):
        st.caption(_("Nets that other processes train have scales of their own: the loss from 0 to its largest, the weight "
                     "gradient from 10⁻⁸ to 10². Grey was not measured."))
    if not summaries:
        st.info(_("Nobody has started a run yet. Start one in the Lab, and its card appears here by itself."),
                icon=":material/info:")  # fmt: skip
    cards_panel(classroom.is_teacher(), sum(not summary.status.live for summary in summaries), CARDS, pressed)
    heavily(lambda: border(summaries))


if run := manager.get(st.session_state.pop(OPEN, "")):
    st.session_state[controls.RUN] = run.id
    if config := config_of(run):
        controls.set_config(config)
    st.switch_page("../../pages/lab.py")
if classroom.WALL in st.query_params:
    wall(st.query_params[classroom.WALL] or room.wall)
else:
    everybody()
    if run_id := st.session_state.pop(DELETE, None):
        confirm(run_id)
