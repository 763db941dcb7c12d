"""Go on and branch, in the Lab and in Compare, without a browser."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest
from viewing import QUICK, in_shell, keys, opened, text

from gradviz.record.run import Run, Status
from gradviz.ui.server import server

pytestmark = pytest.mark.trains


def on_screen(page: AppTest) -> Run:
    run_id = page.query_params["run"]
    run_id = run_id[0] if isinstance(run_id, list) else run_id
    assert server().manager.wait(run_id, timeout=120)
    return server().manager.get(run_id)


def unfolded(page: AppTest) -> None:
    """Streamlit forgets what is unfolded where it was not on the page."""
    page.session_state["going_on"] = True
    page.run()
    assert not page.exception


def test_a_finished_run_goes_on_and_branches_and_compare_shows_where_it_leaves(page_server):
    page = in_shell("lab", **QUICK | {"steps": "25"})
    assert "go_on" not in keys(page)
    page.button(key="start").click().run()
    short = on_screen(page)
    unfolded(page)
    assert "kept before step 10, 20, 25" in text(page)
    page.number_input(key=f"going_on_more_{short.id}").set_value(15).run()
    page.button(key="go_on").click().run()
    longer = on_screen(page)
    assert not page.exception and longer.recipe.steps == 40 and longer.status is Status.FINISHED and not longer.message
    assert server().manager.statistics().steps == 40

    unfolded(page)
    page.number_input(key=f"going_on_step_{longer.id}").set_value(27).run()
    assert "Step 27 is not kept; kept before it: 10, 20, 25." in text(page) and "trains 2 steps again" in text(page)
    page.button(key="branch").click().run()
    assert "choose another value" in text(page) and on_screen(page).id == longer.id
    page.number_input(key=f"going_on_value_{longer.id}_lr").set_value(0.02).run()
    page.button(key="branch").click().run()
    branch = on_screen(page)
    assert branch.recipe == longer.recipe.turned(27, lr=0.02) and branch.status is Status.FINISHED
    assert server().manager.statistics().steps == 40 + 15
    assert list(branch.history.loss[:28]) == list(longer.history.loss[:28]) and branch.history.loss[28] != longer.history.loss[28]

    compare = opened("compare", runs=f"{longer.id},{branch.id},{short.id}")
    said = text(compare)
    assert "Until step 27 run 2 is run 1" in said and "Until step 25 run 3 is run 1" in said

    server().manager.begins.states.delete(branch.id)
    unfolded(page)
    assert "No state of its net is kept any more" in text(page) and "the branch is trained from the start" in text(page)


def test_a_stopped_run_goes_on_to_its_end(page_server):
    page = in_shell("lab", **QUICK | {"steps": "3000"})
    page.button(key="start").click().run()
    manager = server().manager
    (summary,) = manager.list()
    manager.pause(summary.id)
    for _ in range(3):
        manager.step(summary.id)
    while manager.get(summary.id).history.steps < 3:
        pass
    manager.stop(summary.id)
    stopped = on_screen(page)
    unfolded(page)
    assert stopped.status is Status.STOPPED and {"go_on", "start"} <= keys(page)
    page.button(key="go_on").click().run()
    assert not page.exception
    while manager.get(summary.id).history.steps < 3:
        pass
    manager.stop(summary.id)
    again = on_screen(page)
    assert again is not stopped and list(again.history.loss[:3]) == list(stopped.history.loss[:3])
