"""Knobs of a live run, turned in the Lab: alone, beside others, under the lock, without a browser."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest
from timing import until
from viewing import QUICK, in_shell, text

from gradviz.lenet.config import RunConfig
from gradviz.lenet.sweep import Sweep
from gradviz.record.run import Run, Status
from gradviz.ui.server import server

pytestmark = [pytest.mark.trains, pytest.mark.timeout(300)]
LONG = QUICK | {"steps": "4000"}


def on_screen(page: AppTest) -> Run:
    run_id = page.query_params["run"]
    return server().manager.get(run_id[0] if isinstance(run_id, list) else run_id)


def begun(page: AppTest, steps: int = 3) -> Run:
    run = on_screen(page)
    until(lambda: run.history.steps >= steps)
    return run


def pressed(page: AppTest, key: str) -> None:
    page.button(key=key).click().run()
    assert not page.exception


def turn(page: AppTest, run: Run, **knobs: object) -> None:
    """On the page as it was drawn last, unless its knobs are folded."""
    if not any(button.key == "turn" for button in page.button):
        page.session_state["turn_knobs"] = True
        page.run()
    for name, value in knobs.items():
        field = page.selectbox if isinstance(value, str) else page.number_input
        field(key=f"turn_{name}_{run.id}").set_value(value)
    submit = next(button for button in page.button if button.label == "Turn")
    submit.click().run()
    assert not page.exception


def stopped(run: Run) -> Run:
    server().manager.stop(run.id)
    assert server().manager.wait(run.id, 60)
    return run


def test_a_knob_is_turned_and_the_page_shows_the_run_that_it_made(page_server):
    page = in_shell("lab", **LONG)
    pressed(page, "start")
    run = begun(page)
    turn(page, run, lr=0.02)
    other = on_screen(page)
    step = run.history.steps
    assert run.status is Status.STOPPED and other.recipe == run.recipe.turned(step, lr=0.02)
    assert f"At step {step} the learning rate became 0.02." in text(page) and page.query_params["changes"]
    until(lambda: other.history.steps > step)
    turn(page, other, lr=0.02)
    assert "the run has these values already" in text(page) and on_screen(page) is other and other.status.live
    turn(page, other, treatment="clip-norm", threshold=0.5, optimizer="sgd")
    last = on_screen(page)
    assert {change.field for change in last.recipe.changes} == {"lr", "treatment", "threshold", "optimizer"}
    page.session_state["turn_knobs"] = True
    page.run()
    assert not stopped(last).message and last.clients == run.clients
    turn(page, last, lr=0.01)
    assert "nothing of it can be turned any more" in text(page) and on_screen(page) is last


@pytest.fixture
def pin(monkeypatch):
    """With a teacher everybody who asked for a run has a say."""
    monkeypatch.setenv("GRADVIZ_PIN", "2468")


def test_who_turns_a_run_of_several_has_a_branch_and_theirs_goes_on(pin, page_server):
    owner, friend = in_shell("lab", **LONG), in_shell("lab", **LONG)
    pressed(owner, "start")
    run = begun(owner, 15)
    friend.run()
    pressed(friend, "join")
    turn(friend, run, lr=0.02)
    branch = on_screen(friend)
    assert run.status.live and len(run.clients) == 1 and branch.clients != run.clients
    ((step, field, value),) = branch.recipe.changes
    assert (field, value) == ("lr", 0.02) and f"a branch from step {step}" in text(friend)
    until(lambda: branch.history.steps > step)
    assert branch.history.loss[:step].tolist() == run.history.loss[:step].tolist()
    assert on_screen(owner) is run and run.status.live
    for each in (run, branch):
        stopped(each)


def test_nothing_is_turned_under_the_lock(pin, page_server):
    page = in_shell("lab", **LONG)
    pressed(page, "start")
    run = begun(page)
    turn(page, run)
    server().classroom.locked = True
    turn(page, run, lr=0.02)
    assert on_screen(page) is run and run.status.live and "locked the controls" in text(page)
    server().classroom.locked = False
    assert stopped(run).recipe.changes == ()


def test_a_run_that_a_sweep_waits_for_goes_on_and_who_turns_it_has_a_branch(page_server):
    config, _problems = RunConfig.from_query(LONG)
    sweep = Sweep.over("mine", [config], {"lr": [0.001, 0.002]}, [0], early=False)
    server().sweeps.start(sweep, "ann")
    until(lambda: server().sweeps.live(sweep))
    run_id = server().sweeps.live(sweep)[0].id
    page = in_shell("lab", run=run_id)
    run = begun(page, 12)
    turn(page, run, lr=0.02)
    branch = on_screen(page)
    assert branch is not run and run.status.live and server().sweeps.active(sweep.id)
    assert f"a branch from step {branch.recipe.changes[0].step}" in text(page)
    server().sweeps.stop(sweep.id)
    stopped(branch)
