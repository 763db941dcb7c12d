"""The classroom page without a browser: who may do what, and that the server says so, not only the button."""

import io
import json
import zipfile
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest
from timing import until
from viewing import in_shell, keys, text

from gradviz.lenet.config import RunConfig
from gradviz.lenet.lessons.catalogue import LESSONS
from gradviz.lenet.sweep import Sweep
from gradviz.messages import text as told
from gradviz.record.run import Run, Status
from gradviz.serve.admission import Refused
from gradviz.serve.archive import archive
from gradviz.serve.people import AWAY, People
from gradviz.ui import classroom
from gradviz.ui.server import close_server, server

ROOT = Path(__file__).parents[2]
SMALL = RunConfig(activation="relu", blocks=1, batch_size=8, steps=6, dataset="digits")
LONG = RunConfig(activation="relu", blocks=1, batch_size=8, steps=100000, dataset="digits")
PIN = "secret-4711"


@pytest.fixture
def pin(monkeypatch):
    monkeypatch.setenv("GRADVIZ_PIN", PIN)


def as_teacher(page: str = "classroom", **query: str) -> AppTest:
    test = in_shell(page, **query)
    test.session_state["class_teacher"] = True
    test.run()
    assert not test.exception
    return test


def title(test: AppTest) -> dict:
    """What the wall's title got."""
    return next(data for data in panels(test) if data.get("mode") == "title")


def panels(test: AppTest) -> list[dict]:
    """What each element of our own got."""
    return [json.loads(element.proto.json) for element in test.get("bidi_component")]


def enter(test: AppTest, pin: str) -> None:
    test.text_input(key="class_pin").set_value(pin)
    test.button(key="class_pin_enter").click().run()
    assert not test.exception


def test_an_empty_class_is_told_where_to_begin_and_how_to_read_the_cards(page_server):
    test = in_shell("classroom")
    assert "Nobody has started a run yet" in text(test) and "layers upwards from the input" in text(test)


def test_without_a_pin_teacher_mode_is_off_and_the_page_says_how_to_turn_it_on(page_server):
    test = as_teacher()  # a session that claims to be the teacher's
    assert "GRADVIZ_PIN" in text(test) and not {"class_lock", "class_pin_enter"} & keys(test)


def test_the_right_pin_opens_teacher_mode_a_wrong_one_does_not_and_neither_is_kept(pin, page_server):
    test = in_shell("classroom")
    assert "class_lock" not in keys(test)
    enter(test, "secret-0000")
    assert "This is not the PIN" in text(test) and "class_lock" not in keys(test)
    enter(test, PIN)
    assert "class_lock" in keys(test)
    assert "secret" not in str(test.query_params) + repr(test.session_state) + repr(server())
    test.button(key="class_leave").click().run()
    assert "class_lock" not in keys(test)


def test_the_lock_stops_a_student_on_every_page_but_not_the_teacher(pin, page_server):
    server().manager.start(SMALL)
    assert server().manager.wait(SMALL.id, 60)
    first = next(lesson for lesson in LESSONS.values() if lesson.choices)
    pages = {  # drawn before the lock comes, each with the button that starts something
        "start": in_shell("lab", **{**SMALL.to_query(), "seed": "7"}),
        "change the next seed": in_shell("compare", runs=SMALL.id),
        "run": in_shell("lessons", lesson=first.id, prediction=next(iter(first.choices)), dataset="digits"),
        "start ": in_shell("sweep"),
    }
    teacher = as_teacher()
    teacher.button(key="class_lock").click().run()
    assert server().classroom.locked
    for key, student in pages.items():
        assert not student.button(key=key.strip()).disabled
        student.button(key=key.strip()).click().run()
        assert "locked the controls" in text(student) and student.button(key=key.strip()).disabled
    assert len(server().manager.list()) == 1 and not server().sweeps.list()
    assert pages["start"].number_input(key="control_blocks").disabled and pages["start "].number_input(key="sweep_seeds").disabled

    boss = as_teacher("lab", **{**SMALL.to_query(), "seed": "7"})
    boss.button(key="start").click().run()
    assert len(server().manager.list()) == 2
    teacher.button(key="class_lock").click().run()
    student = pages["start"].run()
    assert not student.number_input(key="control_blocks").disabled and "locked" not in text(student)


def test_a_live_run_cannot_be_paused_or_stopped_by_a_student_while_it_is_locked(pin, page_server):
    student = in_shell("lab", **LONG.to_query())
    student.button(key="start").click().run()
    server().classroom.locked = True
    student.button(key="stop").click().run()
    assert server().manager.get(LONG.id).status.live and student.button(key="pause").disabled
    server().manager.stop(LONG.id)


def test_while_it_is_locked_a_student_can_look_at_a_run_and_not_join_it(pin, page_server):
    owner, friend = in_shell("lab", **LONG.to_query()), in_shell("lab", **LONG.to_query())
    pressed(owner, "start")
    run = server().manager.get(LONG.id)
    friend.run()
    server().classroom.locked = True
    friend.button(key="join").click().run()
    assert friend.session_state["run"] == run.id and run.clients == (person(owner),)
    server().classroom.locked = False
    other = in_shell("lab", run=run.id)
    pressed(other, "join_run")
    assert run.clients == (person(owner), person(other))
    server().manager.stop(run.id)


def test_the_teachers_buttons_do_nothing_for_a_session_that_is_no_longer_the_teachers(pin, page_server):
    test = as_teacher()
    run = server().manager.start(LONG)
    for button in ("class_lock", "class_pause", "class_clear", "class_announce"):
        test.session_state["class_teacher"] = False  # the buttons are still on his screen
        test.button(key=button).click().run()
        assert "Only the teacher" in text(test)
        test.session_state["class_teacher"] = True
        test.run()
    assert run.status in (Status.RUNNING, Status.QUEUED)
    assert server().classroom.notice() == {"lesson": "", "locked": False, "wall": ""}
    server().manager.stop(run.id)


def test_the_teacher_pauses_resumes_and_clears_all_that_waits(pin, page_server):
    test = as_teacher()
    runs = [server().manager.start(RunConfig(**{**LONG.to_dict(), "seed": seed})) for seed in range(4)]
    test.button(key="class_pause").click().run()
    until(lambda: all(run.status is Status.PAUSED for run in runs))
    test.button(key="class_resume").click().run()
    assert all(run.status in (Status.RUNNING, Status.QUEUED) for run in runs)
    until(lambda: any(run.status is Status.RUNNING for run in runs))
    test.button(key="class_clear").click().run()
    assert all(run.status in (Status.RUNNING, Status.STOPPED) for run in runs)
    for run in runs:
        server().manager.stop(run.id)


KEPT = RunConfig(**{**LONG.to_dict(), "seed": 77})


def person(test: AppTest) -> str:
    return test.session_state["client"]


def pressed(test: AppTest, key: str) -> str:
    """What the page warns of after a press of this button."""
    test.button(key=key).click().run()
    assert not test.exception
    return " ".join(warning.value for warning in test.warning)


def forced(test: AppTest, key: str) -> str:
    """The same where the button has just become grey, so that the server alone can refuse."""
    test.session_state["class_teacher"] = True
    test.run()
    test.session_state["class_teacher"] = False
    return pressed(test, key)


def goes_on(run: Run) -> bool:
    """Whether it trains: one that was asked to pause has no more than the step that it is in."""
    steps = run.history.steps
    until(lambda: run.history.steps > steps + 2)
    return True


def test_a_stranger_can_watch_a_run_but_not_stop_pause_step_or_replace_it(pin, page_server):
    owner, manager = in_shell("lab", **KEPT.to_query()), server().manager
    owner.button(key="start").click().run()
    run = manager.get(KEPT.id)
    until(lambda: run.history.steps > 20)
    stranger = in_shell("lab", run=KEPT.id)
    for key in ("pause", "stop"):
        assert stranger.button(key=key).disabled
        assert "somebody else's" in forced(stranger, key)
    assert run.status.live and goes_on(run)
    pressed(owner, "pause")
    until(lambda: run.status is Status.PAUSED)
    steps = run.history.steps
    stranger.run()
    for key in ("resume", "step", "stop"):
        assert stranger.button(key=key).disabled
        assert "somebody else's" in forced(stranger, key)
    assert run.status is Status.PAUSED and run.history.steps == steps
    pressed(owner, "stop")
    assert manager.wait(run.id, 60)
    stranger.run()
    assert stranger.button(key="start").disabled and "another seed" in text(stranger)
    assert "somebody else's" in forced(stranger, "start")
    assert manager.get(run.id).history.steps == steps and not manager.get(run.id).status.live
    owner.run()
    assert not owner.button(key="start").disabled
    pressed(owner, "start")
    assert manager.get(run.id).status.live
    as_teacher("lab", run=KEPT.id).button(key="stop").click().run()
    assert manager.wait(run.id, 60)


def test_a_run_that_several_have_joined_is_left_by_one_and_stopped_by_the_last(pin, page_server):
    owner, manager = in_shell("lab", **KEPT.to_query()), server().manager
    pressed(owner, "start")
    run = manager.get(KEPT.id)
    friend = in_shell("lab", run=KEPT.id)
    pressed(friend, "join_run")
    assert run.clients == (person(owner), person(friend))
    assert "once they have left" in pressed(owner, "pause") and goes_on(run)
    assert owner.button(key="pause").disabled and "leaves it to them" in text(owner)
    assert "You have left" in pressed(owner, "stop") and run.status.live and run.clients == (person(friend),)
    assert owner.button(key="stop").disabled and "somebody else's" in forced(owner, "stop") and run.status.live
    friend.run()
    pressed(friend, "stop")
    assert manager.wait(run.id, 60) and run.status is Status.STOPPED


def test_without_a_pin_whoever_sits_at_the_server_stops_his_run_from_another_browser(page_server):
    first = in_shell("lab", **KEPT.to_query())
    pressed(first, "start")
    other = in_shell("lab", run=KEPT.id)
    assert person(other) != person(first) and not other.button(key="stop").disabled
    pressed(other, "stop")
    assert server().manager.wait(KEPT.id, 60)
    other.run()
    pressed(other, "start")
    assert server().manager.get(KEPT.id).status.live
    pressed(other, "stop")


def at(place: str, **query: str) -> AppTest:
    """A browser of its own at this address; see `places`."""
    return in_shell("lab", {"place": place}, **query)


@pytest.fixture
def places(monkeypatch):
    """Each browser is where its session says, and none at the server's own computer."""
    monkeypatch.setattr(classroom, "address", lambda: st.session_state["place"])


def test_without_a_pin_a_run_of_the_network_is_its_own_peoples_until_they_have_gone(page_server, places, clock, tmp_path):
    people = People(tmp_path / "people.secret", clock)
    object.__setattr__(page_server, "people", people)
    owner = at("10.0.0.1", **KEPT.to_query())
    pressed(owner, "start")
    stranger = at("10.0.0.2", run=KEPT.id)
    assert stranger.button(key="stop").disabled
    clock.now += AWAY  # and whoever is there is seen again
    assert not stranger.run().button(key="stop").disabled
    people.seen(person(owner), "10.0.0.1")  # he is back, and the stranger's button has not become grey yet
    assert "somebody else's" in pressed(stranger, "stop") and server().manager.get(KEPT.id).status.live
    clock.now += AWAY
    stranger.run()
    pressed(stranger, "stop")
    assert server().manager.wait(KEPT.id, 60)


def test_without_a_pin_who_is_alone_at_an_address_that_is_not_the_servers_is_never_refused_his_own_runs(page_server, places):
    """In a container or behind a proxy, without cookies or with another browser, and after a restart."""
    first = at("172.17.0.1", **KEPT.to_query())
    pressed(first, "start")
    second = at("172.17.0.1", run=KEPT.id)
    assert person(second) != person(first) and not second.button(key="pause").disabled
    pressed(second, "pause")
    until(lambda: server().manager.get(KEPT.id).status is Status.PAUSED)
    second.run()
    pressed(second, "stop")
    assert server().manager.wait(KEPT.id, 60)
    until(lambda: not server().manager.unsaved())
    close_server()
    server.clear()
    third = at("172.17.0.1", run=KEPT.id)
    assert not third.button(key="start").disabled and not pressed(third, "start")
    assert server().manager.get(KEPT.id).status.live


@pytest.mark.parametrize("key", ["start", "stop"])
def test_a_button_whose_run_cannot_be_read_now_says_so(page_server, monkeypatch, key):
    def refused(_id):
        raise Refused("memory", told("There is too little memory left for this now."))

    page, manager = in_shell("lab", **KEPT.to_query()), server().manager
    pressed(page, "start")
    if key == "start":
        pressed(page, "stop")
        assert manager.wait(KEPT.id, 60)
        page.run()
    monkeypatch.setattr(manager, "get", refused)
    assert "too little memory" in pressed(page, key)
    monkeypatch.undo()
    assert manager.wait(KEPT.id, 60) and manager.get(KEPT.id).status is Status.STOPPED


def test_the_sweep_of_another_and_its_runs_are_not_a_strangers_to_stop(pin, page_server):
    sweep = Sweep.over("mine", [LONG], {"lr": [0.001, 0.002]}, [0], early=False)
    server().sweeps.start(sweep, "ann")
    until(lambda: server().sweeps.live(sweep))
    run_id = server().sweeps.live(sweep)[0].id
    stranger = in_shell("sweep", sweep=sweep.id)
    assert stranger.button(key="stop").disabled
    assert "somebody else's" in forced(stranger, "stop") and server().sweeps.active(sweep.id)
    assert "somebody else's" in forced(in_shell("lab", run=run_id), "stop")
    assert server().manager.get(run_id).status.live
    friend = in_shell("lab", run=run_id)
    pressed(friend, "join_run")
    assert "You have left" in pressed(friend, "stop")  # the sweep still waits for it
    assert server().manager.get(run_id).status.live and server().manager.get(run_id).clients == ()
    server().sweeps.stop(sweep.id)


def test_sweeps_are_listed_and_removed_by_their_owner_or_the_teacher(pin, page_server):
    sweep = Sweep.over("mine", [LONG], {"lr": [0.001, 0.002]}, [0], early=False)
    server().classroom.join("ann", "Ann", sweep.id)

    def listed(test: AppTest) -> AppTest:
        test.session_state["sweeps"] = True
        return test.run()

    server().sweeps.start(sweep, "ann")
    stranger = listed(in_shell("sweep"))
    assert "mine · Ann · 0 of 2 runs ended" in text(stranger) and f"forget-{sweep.id}" not in keys(stranger)
    teacher = listed(as_teacher("sweep"))
    teacher.session_state["class_teacher"] = False
    assert "removed by the one" in pressed(teacher, f"forget-{sweep.id}") and server().sweeps.get(sweep.id)
    listed(as_teacher("sweep")).button(key=f"forget-{sweep.id}").click().run()
    assert not server().sweeps.list() and not any(summary.status.live for summary in server().manager.list())


def test_a_lesson_for_which_several_wait_goes_on_when_one_of_them_stops_it(pin, page_server):
    lesson = next(lesson for lesson in LESSONS.values() if lesson.choices)
    query = dict(lesson=lesson.id, prediction=next(iter(lesson.choices)), dataset="digits")
    first, second = (in_shell("lessons", **query) for _ in range(2))
    pressed(first, "run")
    sweep = lesson.sweep("digits")
    second.run()
    assert set(server().sweeps.people(sweep.id)) == {person(first), person(second)}
    assert "You have left" in pressed(first, "stop") and server().sweeps.active(sweep.id)
    assert person(first) not in server().sweeps.people(sweep.id)
    pressed(second, "stop")
    assert not server().sweeps.active(sweep.id)


def test_an_announced_lesson_stands_on_every_page_until_it_is_taken_back(pin, page_server):
    teacher = as_teacher()
    lesson = list(LESSONS)[3]
    teacher.selectbox(key="class_lesson").set_value(lesson).run()
    teacher.button(key="class_announce").click().run()
    assert server().classroom.lesson == lesson
    for page in ("lab", "compare", "sweep", "anatomy", "lessons"):
        test = in_shell(page)
        link = test.get("page_link")[0].proto
        assert "points to a lesson" in text(test) and link.label == LESSONS[lesson].title
        assert f"lesson={lesson}" in link.query_string
    teacher.button(key="class_quiet").click().run()
    assert "points to a lesson" not in text(in_shell("lab"))


def test_a_page_that_is_drawn_again_leaves_what_is_being_typed_as_a_name(page_server):
    page = in_shell("lab", **SMALL.to_query())
    page.run()
    assert not page.text_input(key="class_name_field").proto.set_value  # else the browser takes it for the field's text
    page.text_input(key="class_name_field").set_value("  Ann ").run()
    assert page.text_input(key="class_name_field").proto.set_value and page.text_input(key="class_name_field").value == "Ann"


def test_the_name_of_the_session_goes_with_the_runs_it_starts_and_joins(page_server):
    first, second = in_shell("lab", **SMALL.to_query()), in_shell("lab", **SMALL.to_query())
    first.text_input(key="class_name_field").set_value("  Ann\u202e ").run()
    first.button(key="start").click().run()
    assert server().manager.wait(SMALL.id, 60)
    second.run()
    second.button(key="join").click().run()
    assert server().classroom.names(SMALL.id) == ("Ann",)
    second.text_input(key="class_name_field").set_value("<b>Bo</b> [x](https://example.com)").run()
    assert server().classroom.names(SMALL.id) == ("Ann", "<b>Bo</b> [x](https://ex")
    test = in_shell("classroom", wall=SMALL.id)
    assert "Bo" not in text(test)  # it goes to the page as text only, through the element
    assert title(test)["names"] == "Ann, <b>Bo</b> [x](https://ex"


def test_the_wall_shows_the_run_of_its_link_else_the_teachers_choice(pin, page_server):
    server().manager.start(SMALL)
    assert server().manager.wait(SMALL.id, 60)
    assert title(in_shell("classroom", wall=SMALL.id))["summary"] == SMALL.title
    assert "Nothing is on the wall yet" in text(in_shell("classroom", wall=""))
    for rubbish in ("x", "../..", "0123456789ab"):
        assert "not on this server" in text(in_shell("classroom", wall=rubbish))
    server().classroom.wall = SMALL.id
    assert title(in_shell("classroom", wall=""))["summary"] == SMALL.title


def test_the_border_of_the_class_appears_with_its_first_judged_run(page_server):
    assert "becomes a point here" in text(in_shell("classroom"))
    config = RunConfig(activation="relu", blocks=1, batch_size=8, steps=30, dataset="digits")
    server().manager.start(config)
    assert server().manager.wait(config.id, 100)
    test = in_shell("classroom")
    assert not test.exception and [data for data in panels(test) if "figure" in data]


def test_the_archive_is_for_the_teacher_and_holds_the_class(pin, page_server):
    server().manager.start(SMALL)
    assert server().manager.wait(SMALL.id, 60)

    def offered(test: AppTest) -> list[dict]:
        return [data for data in panels(test) if "url" in data]

    assert not offered(in_shell("classroom"))
    (button,) = offered(as_teacher())
    assert button["label"] == "All runs as one archive" and button["url"] == f"api/archive?key={server().classroom.key}"
    body = b"".join(archive(server().manager.each(), server().classroom.names))
    assert f"{SMALL.id}/layers.parquet" in zipfile.ZipFile(io.BytesIO(body)).namelist()
