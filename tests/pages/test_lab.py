"""The Lab page in every state, without a browser: what is offered, what is said, what a click does."""

import sys
from functools import partial

import idx
import pytest
import torch
from puppets import Formula
from recorded import ARITHMETIC
from streamlit.runtime.scriptrunner.exec_code import modified_sys_path
from streamlit.testing.v1 import AppTest
from timing import until
from viewing import in_shell, keys, lab, text

from gradviz.lenet.config import PRESETS, RunConfig
from gradviz.lenet.experiment import training
from gradviz.record.arithmetic import arithmetic_text
from gradviz.record.history import History
from gradviz.record.run import Run, Status
from gradviz.ui.server import build, close_server, server

CPU = torch.device("cpu")


def finished(page: AppTest) -> Run:
    run_id = page.query_params["run"]
    run_id = run_id[0] if isinstance(run_id, list) else run_id
    assert server().manager.wait(run_id, timeout=60)
    return server().manager.get(run_id)


def test_without_a_run_the_page_offers_to_start_and_shows_the_net(page_server):
    page = lab()
    assert "start" in keys(page) and not keys(page) & {"pause", "resume", "step", "stop"}
    assert "7 weight layers" in text(page) and "120,618" in text(page)  # 107,786 + 2 · 6,416 by the article's table


def test_while_a_page_is_run_other_threads_find_what_they_import():
    import app  # here: it takes a second

    path = list(sys.path)
    with modified_sys_path(str(app.app.script_path.resolve())):  # as Streamlit does for each run of a script
        assert sys.path == path


def defaults(page):
    """What a browser shows of each control that it is told nothing of but its default, and what stands in the session."""
    for field in (*page.number_input, *page.text_input, *page.toggle):
        if field.key and field.key != "class_pin":
            yield field.key, field.proto.default, field.value
    for field in page.selectbox:
        if field.key:
            yield field.key, field.options[field.proto.default], field.options[field.index]
    for field in (*page.slider, *page.select_slider):
        options = list(getattr(field, "options", ()))
        shown = [options[int(each)] if options else each for each in field.proto.default]
        yield field.key, shown, [f"{field.value:g}" if options else field.value]
    for field in (*page.button_group, *page.multiselect):
        known = [option.content if hasattr(option, "content") else option for option in field.proto.options]
        now = field.value if isinstance(field.value, list) else [field.value]
        yield field.key, [known[k] for k in field.proto.default], [field.format_func(each) for each in now]


SET = dict(
    blocks="3", lr="0.02", batch_size="16", steps="77", seed="5", dataset="digits", activation="tanh", batch_norm="on",
    init_range="0.3", optimizer="momentum", schedule="cosine", warmup="4", treatment="clip-norm", early="off",
    axis="init_range", remedies="norm",
)  # fmt: skip


@pytest.mark.parametrize("name, least", [("lab", 20), ("sweep", 12)])
def test_a_browser_that_falls_back_to_the_defaults_of_controls_shows_what_is_set_all_the_same(name, least, page_server):
    page = in_shell(name, **SET)
    for _ in range(2):
        found = list(defaults(page))
        assert len(found) >= least and [each for each in found if each[1] != each[2]] == []
        page.run()


def test_start_trains_and_puts_the_run_into_the_url(page_server):
    page = lab()
    page.button(key="start").click().run()
    run = finished(page)
    assert run.status is Status.FINISHED and run.history.steps == 6
    page.run()
    assert not page.exception and not keys(page) & {"pause", "stop"}
    assert run.recipe == RunConfig(activation="relu", blocks=1, batch_size=8, steps=6, dataset="digits")


def test_a_schedule_says_the_learning_rates_of_the_run_and_how_far_the_first_step_goes(page_server):
    page = lab(lr="0.01", warmup="3", schedule="cosine")
    assert "The learning rate over the run: 0.0033 at step 0, 0.01 at step 2" in text(page)
    assert "Adam's first step moves the weights of a block by at most 0.12 of their size" in text(page)  # 0.01/3 · √3/0.05
    page.number_input(key="control_warmup").set_value(0).run()
    page.selectbox(key="control_schedule").select("constant").run()
    assert "over the run" not in text(page) and "warmup" not in page.query_params and not page.exception


def test_a_kept_run_of_other_arithmetic_is_joined_with_a_sentence_that_says_so(page_server, monkeypatch):
    page = lab()
    assert "Runs on its own. With processor" in text(page)
    page.button(key="start").click().run()
    run = finished(page)
    page.run()
    assert f"Computed with: {arithmetic_text(run.arithmetic)}." in text(page) and "digits may differ" not in text(page)
    close_server()
    server.clear()
    monkeypatch.setenv("GRADVIZ_THREADS", str(run.arithmetic.threads + 1))
    page = lab()
    page.button(key="join").click().run()
    assert not page.exception
    assert f"This run was computed with {arithmetic_text(run.arithmetic)}. This machine would compute with" in text(page)
    assert f"torch.set_num_threads({run.arithmetic.threads})" in page.code[0].value  # the program is that of the run
    old = server().manager.get(run.id)
    old.arithmetic = None  # as one that was kept before it was noted
    page.run()
    assert "It was not noted what this run was computed with" in text(page) and not page.exception
    page = lab(seed="1")
    assert f"torch.set_num_threads({run.arithmetic.threads + 1})" in page.code[0].value


PAPER = Formula.arithmetic


def lab_after_a_run_of(engine: type[Formula], monkeypatch, arithmetic=None) -> AppTest:
    close_server()
    server.clear()
    monkeypatch.setattr(server, "build", partial(build, engine, arithmetic))
    page = lab()
    page.button(key="start").click().run()
    assert finished(page).device == "a formula"
    page.run()
    assert not page.exception
    return page


@pytest.mark.parametrize("noted, here", [(None, None), (PAPER, None), (ARITHMETIC, None), (PAPER, lambda config: PAPER)])
def test_of_another_engines_digits_nothing_is_said_but_what_it_noted(page_server, monkeypatch, noted, here):
    page = lab_after_a_run_of(type("Noting", (Formula,), {"arithmetic": noted}), monkeypatch, here)
    shown = text(page)
    for wrong in ("digit for digit", "digits may differ", "not on this machine", "not noted"):
        assert wrong not in shown
    assert ("Computed with: paper, a pencil." in shown) == (noted is PAPER) and ("omputed with" in shown) == (noted is not None)
    code = page.code[0].value
    assert "digit for digit" not in code and "made by another engine, whose losses may be others" in code


def test_an_engine_that_says_that_it_computes_as_the_program_does_is_promised_the_same_digits(page_server, monkeypatch):
    engine = type("Noting", (Formula,), {"arithmetic": ARITHMETIC})
    page = lab_after_a_run_of(engine, monkeypatch, lambda config: ARITHMETIC)
    assert f"With {arithmetic_text(ARITHMETIC)}, it prints the losses of the run digit for digit" in text(page)
    run = finished(page)
    run.arithmetic = None
    assert "digit for digit" not in text(page.run()) and not page.exception  # nobody noted what with


def test_a_live_run_can_be_paused_stepped_resumed_and_stopped(page_server):
    page = lab(steps="100000")
    page.button(key="start").click().run()
    assert {"pause", "stop"} <= keys(page)
    page.button(key="pause").click().run()
    run_id = server().manager.list()[0].id
    run = server().manager.get(run_id)
    until(lambda: run.status is Status.PAUSED)
    page.run()
    assert {"resume", "step", "stop"} <= keys(page)
    steps = run.history.steps
    page.button(key="step").click().run()
    until(lambda: run.history.steps == steps + 1)
    until(lambda: run.status is Status.PAUSED)
    page.run()
    page.button(key="resume").click().run()
    until(lambda: run.history.steps > steps + 1)
    page.button(key="stop").click().run()
    assert finished(page).status is Status.STOPPED
    page.run()
    assert "start" in keys(page)  # afresh


def test_a_diverged_run_is_shown_and_not_offered_again(page_server):
    page = lab(blocks="40", init_range="0.5")
    page.button(key="start").click().run()
    run = finished(page)
    page.run()
    assert run.status is Status.DIVERGED and "start" not in keys(page) and not page.exception


def test_an_interrupted_run_is_found_by_its_link_and_can_be_started_afresh(page_server):
    config = RunConfig(activation="relu", blocks=1, batch_size=8, steps=50, dataset="digits")
    shelf = server().shelf
    run = Run(config, History(config.layers), Status.RUNNING)
    for record, _ in zip(training(config, shelf.load("digits"), CPU), range(3), strict=False):
        run.history.append(record)
    server().store.save(run)
    close_server()
    server.clear()  # the server starts again
    page = in_shell("lab", run=config.id)
    assert "start" in keys(page)
    assert server().manager.get(config.id).status is Status.INTERRUPTED
    assert page.number_input(key="control_blocks").value == 1  # the controls took the run's settings


def test_an_unknown_run_in_the_link_is_said_and_the_settings_are_kept(page_server):
    page = lab(run="0123456789ab")
    assert "not on this server" in text(page) and "start" in keys(page)


def test_a_link_with_impossible_settings_says_so_and_the_page_goes_on(page_server):
    page = lab(blocks="1001", lr="<script>", activation="softsign")
    assert "Blocks" in text(page) and "from 0 to 1000" in text(page) and "Learning rate" in text(page)
    assert "start" in keys(page)


def test_the_built_in_digits_stand_in_for_an_absent_mnist_and_the_page_says_so(page_server):
    page = lab(dataset="mnist")
    assert "built-in digits" in text(page)
    page.button(key="start").click().run()
    assert finished(page).recipe.dataset == "digits"


def test_a_preset_sets_all_controls_and_keeps_the_seed(page_server):
    page = lab(seed="7")
    page.selectbox(key="preset").select("exploding-init").run()
    assert page.number_input(key="control_init_range").value == 0.5
    assert page.number_input(key="control_seed").value == 7
    assert page.number_input(key="control_blocks").value == RunConfig(**PRESETS["exploding-init"].changes).blocks


def test_changing_a_control_during_a_run_leaves_the_run_alone_and_offers_another(page_server):
    page = lab(steps="100000")
    page.button(key="start").click().run()
    first = server().manager.list()[0].id
    page.number_input(key="control_blocks").set_value(2).run()
    assert server().manager.get(first).recipe.blocks == 1 and server().manager.get(first).status.live
    page.button(key="start").click().run()
    assert len(server().manager.list()) == 2


def test_the_page_names_the_factor_of_theory_the_critical_range_and_the_depth_marks(page_server):
    page = lab(blocks="12", init_range="0.5")
    assert "backward signal by **3.53**" in text(page)
    assert "a* = 0.1406 is critical for relu" in text(page)
    page.session_state["theory"] = True  # opens the panel
    page.run()
    assert not page.exception
    assert "Critical init range" in text(page) and "34 blocks and more: some numbers exceed float32" in text(page)


def test_the_next_experiment_of_the_diagnosis_moves_the_controls(page_server):
    page = lab(activation="sigmoid", blocks="12", steps="3")
    page.button(key="start").click().run()
    finished(page)
    page.session_state["diagnosis"] = True
    page.run()
    assert not page.exception and "next" in keys(page)
    assert [block.value.count("anishing") for block in page.markdown if "anishing:" in block.value] == [1]
    before = dict(page.query_params)
    page.button(key="next").click().run()
    assert not page.exception and dict(page.query_params) != before


def test_a_link_copied_out_of_html_opens_as_it_was_meant_and_what_is_nearly_a_setting_is_named(page_server):
    page = lab(**{"amp;seed": "7", "amp;shortcut": "on", "batchnorm": "on", "utm_source": "mail", "blocks": ["1", "2"]})
    assert "2 blocks · relu · shortcut" in text(page)
    assert page.number_input(key="control_seed").value == 7
    said = [warning.value for warning in page.warning]
    assert len(said) == 2 and "more than once" in said[0] and "batch_norm" in said[1]
    assert not any(name.startswith("amp;") or name == "batchnorm" for name in page.query_params)


def test_odd_data_in_the_folder_leave_the_page_standing_and_are_said(page_server):
    folder = server().shelf.folder
    idx.write(folder / "MNIST" / "raw", idx.contents() | {idx.FILES[0]: b"<html>"})
    page = lab(dataset="mnist")
    assert "train-images-idx3-ubyte is not in the IDX format" in text(page) and "digits" in text(page)
    (folder / "MNIST" / "raw" / idx.FILES[0]).unlink()
    assert "3 of its 4 files" in text(page.run())
    idx.write(folder, idx.contents(train=7), pack=True)  # copied in while the server runs
    page.run()
    assert not page.exception and not page.info
    page.button(key="start").click().run()
    assert str(finished(page).message) == (
        "Batch size (batch_size) must be at most 7, the training images of this data set; 8 is not.")  # fmt: skip
