"""Lessons: a verdict follows from the records alone and can go either way; and the page asks before it tells."""

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from playwright.sync_api import Page, expect
from streamlit.testing.v1 import AppTest
from viewing import opened, text

from gradviz.lenet import article_length
from gradviz.lenet.config import RunConfig
from gradviz.lenet.data import Shelf
from gradviz.lenet.experiment import training
from gradviz.lenet.lessons.catalogue import LESSONS
from gradviz.lenet.lessons.evidence import Evidence
from gradviz.lenet.lessons.lesson import NOT, OPEN, PARTLY, REPRODUCED, Finding, Part, ended
from gradviz.lenet.long_runs import Keep
from gradviz.lenet.theory.predict import predict
from gradviz.record.history import History
from gradviz.record.quantities import QUANTITIES
from gradviz.record.reading import decades, factor
from gradviz.record.run import Run, Status
from gradviz.ui.server import server
from gradviz.words import number, scientific

CHANCE = math.log(10)
DIGITS = Shelf(Path("nowhere"), download=False)


def trained(config: RunConfig) -> Run:
    """A real run on the built-in digits, as the server would keep it, without the test at its end."""
    config = replace(config, dataset="digits")
    run = Run(config, History(config.layers), Status.FINISHED)
    for record in training(config, DIGITS.load("digits"), torch.device("cpu")):
        run.history.append(record)
        run.nonfinite_layer = run.nonfinite_layer or record.nonfinite_layer
        if record.step + 1 == config.steps:
            return run
    run.status = Status.DIVERGED
    return run


def told(config: RunConfig, losses, gradient=1.0, signal=1.0, activation=1.0, late=1.0, update=1e-3) -> Run:
    """A record made by hand: per convolution the weight gradient, the signal and the activation change by these factors towards
    the input; `late` multiplies the weight gradient in the last column."""
    places = np.arange(config.layers)[::-1]
    columns = np.ones((len(losses), len(QUANTITIES), config.layers))
    with np.errstate(over="ignore"):
        for row, each in (("weight_grad_rms", gradient), ("signal_rms", signal), ("activation_rms", activation)):
            columns[:, list(QUANTITIES).index(row)] = 1e-2 * float(each) ** places
        columns[:, list(QUANTITIES).index("treated_grad_rms")] = columns[:, 0]
        columns[:, list(QUANTITIES).index("update_ratio")] = update
        columns[-1, 0] *= late
        columns = columns.astype(np.float32)
    scalars = np.column_stack([losses, np.full(len(losses), 0.1), np.arange(len(losses))])
    return Run(config, History.restored(columns, scalars, [], 1, 1000), Status.FINISHED)


def losses(config: RunConfig, trains: bool, at: int = 100) -> list[float]:
    return [CHANCE] * at + [0.5] * 40 if trains else [CHANCE] * config.steps


def part(finding: Finding, words: str) -> Part:
    return next(part for part in finding.parts if words in part.statement)


# The list of lessons


def test_every_claim_of_the_article_has_its_lesson_and_seven_more_show_what_it_missed():
    assert [lesson.claim for lesson in LESSONS.values()] == [*range(1, 11), *[None] * 7]


@pytest.mark.parametrize("lesson", LESSONS.values(), ids=LESSONS)
def test_every_lesson_asks_one_thing_and_can_be_run_on_a_laptop(lesson):
    assert bool(lesson.choices) != bool(lesson.number)
    assert lesson.question.strip()[-1] in "?.…)" and lesson.says and lesson.explanation
    configs = lesson.configs("digits")
    assert 1 <= len({replace(config, seed=0) for config in configs}) <= 12 and len(set(configs)) == len(configs)
    # 0.1 ms per image and block on one core (docs/performance.md): under four minutes if nothing is stopped early.
    assert sum(1e-4 * config.batch_size * (config.blocks + 4) * config.steps for config in configs) < 240
    assert {config.dataset for config in configs} == {"digits"}


def test_equal_nets_of_two_lessons_are_one_run():
    shared = set(LESSONS["sigmoid-depth"].configs()) & set(LESSONS["relu-depth"].configs())
    assert {config.blocks for config in shared} == {3, 4}


def test_a_run_that_lacks_makes_no_conclusion():
    with pytest.raises(KeyError):
        LESSONS["float32"].conclude([])


# Verdicts


@pytest.mark.parametrize(
    "holds, verdict",
    [
        ((True, True), REPRODUCED), ((True, False), PARTLY), ((False, False), NOT), ((None, None), OPEN),
        ((True, None), OPEN), ((False, None), OPEN), ((True, False, None), PARTLY),
    ],
)  # fmt: skip
def test_the_verdict_is_what_its_statements_say(holds, verdict):
    assert Finding(tuple(Part("", held, "") for held in holds), None, "").result == verdict


def test_a_prediction_is_right_if_it_is_the_choice_or_close_to_the_number():
    depth, choice = LESSONS["sigmoid-depth"], LESSONS["clipping"]
    seven = Finding((), 7, "")
    assert depth.judge("7", seven) and depth.judge("6", seven) and not depth.judge("4", seven)
    assert choice.judge("both", Finding((), "both", "")) and not choice.judge("neither", Finding((), "both", ""))
    assert depth.judge("7", Finding((), None, "")) is None
    assert LESSONS["batch-norm-explodes"].judge("1.2", Finding((), 1.14, ""))
    assert not LESSONS["batch-norm-explodes"].judge("0.5", Finding((), 1.14, ""))


def test_the_factor_per_convolution_is_the_slope_of_the_logarithm():
    assert factor(told(RunConfig(blocks=6), [2.3], gradient=0.25)) == pytest.approx(0.25, rel=1e-5)
    assert decades(1e-9, 1e-3) == pytest.approx(-6)
    assert decades(0, 1) < -44  # zero is a lower bound, not minus infinity


@pytest.mark.parametrize(
    "value, text",
    [(0, "exactly 0"), (math.inf, "inf"), (0.349, "0.35"), (2.2e-25, "2.2·10⁻²⁵"), (np.float32(-1e21), "−1.0·10²¹")],
)
def test_numbers_read_well(value, text):
    assert number(value) == text


def test_a_number_too_small_for_a_float_is_written_from_its_logarithm():
    assert scientific(-3000.5) == "3.2·10⁻³⁰⁰¹" and scientific(-math.inf) == "exactly 0" and scientific(-7e-4) == "1.0·10⁰"


def depth_lesson(lesson_id, works, factors, slower=1):
    """The conclusion if the nets that `works` says yes to train, each after `slower` steps more per block."""
    lesson = LESSONS[lesson_id]
    return lesson.conclude(
        told(net, losses(net, works(net), 40 + slower * net.blocks), factors[net.activation]) for net in lesson.configs()
    )


def test_claim_1_is_reproduced_by_records_as_the_article_tells_them_and_not_by_others():
    as_told = depth_lesson("sigmoid-depth", lambda config: config.blocks <= 6, {"sigmoid": 0.12})
    assert as_told.result == REPRODUCED and as_told.answer == 7
    earlier = depth_lesson("sigmoid-depth", lambda config: config.blocks <= 3, {"sigmoid": 0.12})
    assert earlier.result == PARTLY and earlier.answer == 4 and not part(earlier, "6 blocks still").holds
    other_way = depth_lesson("sigmoid-depth", lambda config: config.blocks in (1, 2, 7), {"sigmoid": 2.0}, slower=-5)
    assert other_way.result == NOT


def test_claim_4_needs_relu_to_fail_later_than_sigmoid():
    as_told = depth_lesson(
        "relu-depth", lambda config: config.blocks <= (9 if config.activation == "relu" else 3), {"relu": 0.35, "sigmoid": 0.12}
    )
    assert as_told.result == REPRODUCED and as_told.answer == 10
    same = depth_lesson("relu-depth", lambda config: config.blocks <= 3, {"relu": 0.1, "sigmoid": 0.12})
    assert part(same, "Only later").holds is False and part(same, "sigmoid merely").holds is False


def test_claim_2_separates_the_weight_gradient_from_the_signal():
    def verdict(gradient, signal):
        configs = LESSONS["exploding-init"].configs()
        return LESSONS["exploding-init"].conclude(told(config, [1e9] * config.steps, gradient, signal) for config in configs)

    assert verdict(2, 2).result == REPRODUCED and verdict(1, 2).result == PARTLY
    assert verdict(1, 2).answer == "high"


def test_clipping_that_cures_vanishing_would_be_told():
    lesson = LESSONS["clipping"]

    def run(config, cures):
        if config.activation == "relu":
            last = 6000 if config.treatment == "none" else 300
            return told(config, list(np.linspace(6000, last, config.steps)))
        return told(config, losses(config, cures and config.treatment != "none"))

    assert lesson.conclude(run(config, False) for config in lesson.configs()).answer == "explosion"
    assert lesson.conclude(run(config, True) for config in lesson.configs()).answer == "both"


def test_a_hole_in_the_gradients_is_harmless_only_if_the_layers_behind_it_live():
    lesson = LESSONS["bypass"]
    config = lesson.configs()[0]
    run = told(config, [1.0] * config.steps)
    run.history.columns[-1, 0, 30] = 0
    found = lesson.conclude([run])
    assert found.result == REPRODUCED and found.answer == "middle"
    run.history.columns[-1, 0, 2:31] = 0
    assert part(lesson.conclude([run]), "no harm").holds is False


def seeds_of_border(lesson_id, net, trains):
    """The lesson's conclusion if of `net` so many seeds train, and all other nets as the article tells."""
    lesson, count, runs = LESSONS[lesson_id], 0, []
    for config in lesson.configs():
        works = config.blocks <= 9
        if replace(config, seed=0) == net:
            works, count = count < trains, count + 1
        runs.append(told(config, losses(config, works), {"relu": 0.35, "sigmoid": 0.12}[config.activation]))
    assert count == 3
    return lesson.conclude(runs), runs


@pytest.mark.parametrize("trains, holds", [(3, True), (2, True), (1, False), (0, False)])
def test_a_statement_near_a_border_is_that_of_most_seeds_and_says_how_many(trains, holds):
    net = next(config for config in LESSONS["relu-depth"].configs() if config.activation == "relu" and config.blocks == 9)
    finding, _runs = seeds_of_border("relu-depth", net, trains)
    nine = part(finding, "9 blocks still")
    assert nine.holds is holds and f"{trains} of 3 seeds trained" in nine.measured


def test_where_seeds_disagree_evenly_the_statement_is_open():
    net = next(config for config in LESSONS["relu-depth"].configs() if config.activation == "relu" and config.blocks == 10)
    _finding, runs = seeds_of_border("relu-depth", net, 1)
    two = [run for run in runs if run.recipe.blocks != 10 or run.recipe.seed < 2]
    ten = part(LESSONS["relu-depth"].conclude(two), "10 blocks do not")
    assert ten.holds is None and "1 of 2 seeds" in ten.measured


@pytest.mark.parametrize(
    "lesson_id", ["sigmoid-depth", "dynamics", "relu-depth", "clipping", "floor", "batch-norm", "shortcut", "bypass", "feedback",
                  "sigmoid-batch-norm", "adam-eps", "warm-up"],
)  # fmt: skip
def test_a_lesson_near_a_border_has_three_seeds_there_and_one_elsewhere(lesson_id):
    seeds = {}
    for config in LESSONS[lesson_id].configs("digits", seeds=(0,)):
        seeds.setdefault(replace(config, seed=0), []).append(config.seed)
    assert {tuple(each) for each in seeds.values()} <= {(0,), (0, 1, 2)} and (0, 1, 2) in map(tuple, seeds.values())


# Real runs


@pytest.mark.parametrize("lesson_id", ["float32", "batch-norm-explodes"])
def test_what_theory_says_of_initialisation_holds_in_real_nets(lesson_id):
    lesson = LESSONS[lesson_id]
    runs = [trained(config) for config in lesson.configs()]
    found = lesson.conclude(runs)
    assert found.result == REPRODUCED, [part.measured for part in found.parts]
    if lesson_id == "float32":
        # Theory's own line says how many of the 60 lie under half of float32's smallest number.
        expected = int((predict(runs[-1].recipe).weight_grad_rms[2:-3] < math.log10(7e-46)).sum())
        assert abs(found.answer - expected) <= 4
    else:
        assert found.answer == pytest.approx(predict(runs[1].recipe).signal_factor, rel=0.05)


def test_wide_relu_has_flat_weight_gradients_and_a_growing_signal_in_a_real_net():
    lesson = LESSONS["two-gradients"]
    run = trained(replace(lesson.configs()[0], steps=1))
    run = Run(lesson.configs()[0], run.history, Status.FINISHED)
    assert lesson.conclude([run]).result == REPRODUCED


@pytest.mark.trains
@pytest.mark.timeout(600)
def test_adam_trains_four_real_blocks_and_momentum_does_not():
    adam, momentum, deep = (config for config in LESSONS["adam-eps"].configs() if config.seed == 0)
    stuck = told(deep, [CHANCE] * deep.steps, gradient=0.3)
    first = LESSONS["adam-eps"].conclude([trained(adam), trained(momentum), stuck]).parts[0]
    assert first.holds is True, first.measured


def warmed(cold: str, warm: str, plain: str, normed: str, jump: float = 100.0) -> Finding:
    """The lesson of the warm-up with runs made by hand, of which each trains ("yes") or does not."""
    lesson, runs = LESSONS["warm-up"], []
    for config in lesson.configs():
        word = normed if config.batch_norm else plain if not config.shortcut else warm if config.warmup else cold
        word = "yes" if config.lr == 0.001 and config.shortcut else word
        course = losses(config, word == "yes")
        course[1] = course[1] * (jump if config.lr == 0.01 and not config.warmup else 1)
        runs.append(told(config, course, update=config.rate(0) / 1e-2))  # of weights whose rms would be 0.01
        quantities = list(QUANTITIES)
        runs[-1].history.columns[:, quantities.index("weight_rms")] = 1e-2
    return lesson.conclude(runs)


def test_the_lesson_of_the_warm_up_says_what_it_cures_and_what_not():
    held = warmed("no", "yes", "no", "no")
    assert held.result == REPRODUCED and held.answer == "warm", [part.measured for part in held.parts]
    both = warmed("yes", "yes", "no", "no", jump=1.1)
    assert both.result == PARTLY and both.answer == "both"
    assert not part(both, "throws the net off").holds and not part(both, "without it not").holds
    cured = warmed("no", "no", "yes", "yes")
    assert cured.answer == "neither" and not part(cured, "no warm-up cures").holds and not part(cured, "too large for good").holds


@pytest.mark.trains
def test_in_real_nets_the_first_step_is_as_theory_says_and_a_warm_up_decides_who_trains():
    lesson = LESSONS["warm-up"]
    configs = [config for config in lesson.configs() if config.seed == 0]
    cold_and_warm, rest = configs[:2], configs[2:]
    by_hand = [told(config, losses(config, config.shortcut)) for config in rest]
    runs = [replace(run, recipe=config) for config, run in zip(cold_and_warm, map(trained, cold_and_warm), strict=True)] + by_hand
    found = lesson.conclude(runs)
    assert found.answer == "warm" and all(part.holds for part in found.parts[:3]), [part.measured for part in found.parts]


def test_a_shortcut_at_half_is_not_finite_at_its_first_step_in_a_real_net():
    config = LESSONS["shortcut-fails"].configs()[0]
    run = trained(config)
    assert run.status is Status.DIVERGED and not math.isfinite(run.history.loss[0])
    assert ended(run, early=True) and not ended(None, early=True)


def test_evidence_finds_runs_whatever_the_data_set_device_and_seed():
    run = told(RunConfig(blocks=2, dataset="digits", device="cpu", seed=7), [2.3])
    assert Evidence([run]).runs(RunConfig(blocks=2)) == [run]


# The page


def labels(page: AppTest) -> set[str]:
    return {button.label for button in page.button}


def test_the_page_lists_all_lessons_and_survives_a_wrong_link(page_server):
    page = opened("lessons", lesson="nonsense")
    assert "no lesson of that name" in text(page)
    assert all(lesson.title in text(page) for lesson in LESSONS.values())


def test_nothing_can_be_run_and_no_claim_is_shown_before_a_prediction(page_server):
    page = opened("lessons", lesson="float32")
    assert "Run the experiment" not in labels(page) and LESSONS["float32"].says not in text(page)
    assert LESSONS["float32"].explanation not in text(page)


def test_a_prediction_in_the_url_that_is_no_answer_is_asked_again(page_server):
    assert "Commit my prediction" in labels(opened("lessons", lesson="clipping", prediction="<script>"))
    assert "Commit my prediction" in labels(opened("lessons", lesson="float32", prediction="1e9"))


def test_hidden_controls_leave_the_question_and_the_run(page_server):
    full = opened("lessons", lesson="clipping", prediction="both")
    plain = opened("lessons", lesson="clipping", prediction="both", controls="off")
    assert "All lessons" in labels(full) and "All lessons" not in labels(plain)
    assert "Run the experiment" in labels(plain)


def test_a_committed_prediction_stands_beside_what_was_measured(page_server):
    page = opened("lessons", lesson="float32", prediction="20")
    page.button(key="run").click().run()
    sweep = LESSONS["float32"].sweep("digits")
    for config in sweep.configs:
        while server().manager.get(config.id) is None:  # the sweep starts one after the other
            assert server().sweeps.active(sweep.id)
        assert server().manager.wait(config.id, 60)
    while server().sweeps.active(sweep.id):
        server().manager.wait(sweep.configs[-1].id, 1)
    page.run()
    assert not page.exception
    assert "20 convolutions" in text(page) and "reproduced" in text(page) and LESSONS["float32"].explanation in text(page)
    assert "1,437 scans" in text(page)  # says what differs without MNIST


def kept_relu_depth() -> None:
    """The store holds what the lesson's runs may have given."""
    server().store.save(*(
        told(config, losses(config, config.blocks < 7), {"relu": 0.35, "sigmoid": 0.12}[config.activation])
        for config in LESSONS["relu-depth"].configs("digits")
    ))  # fmt: skip


def test_the_page_says_that_its_runs_are_short_and_what_the_long_ones_gave(page_server):
    kept_relu_depth()
    page = opened("lessons", lesson="relu-depth", prediction="7")
    assert "These runs are short" in text(page) and "9 blocks still train, under some rate." in text(page)
    assert LESSONS["relu-depth"].explanation in text(page)


def test_where_the_kept_long_runs_cannot_be_read_the_page_says_so_and_shows_the_rest(page_server, monkeypatch, tmp_path):
    spoilt = tmp_path / "long_runs.jsonl"
    spoilt.write_text('{"version": 99}\n', encoding="utf-8")
    monkeypatch.setattr(article_length, "kept_runs", lambda: tuple(Keep(spoilt)))
    kept_relu_depth()
    page = opened("lessons", lesson="relu-depth", prediction="7")
    assert "not a run of this version" in text(page) and LESSONS["relu-depth"].explanation in text(page)


@pytest.mark.timeout(300)
def test_a_student_predicts_runs_and_compares(page: Page, start_server):
    server = start_server(GRADVIZ_DATA="/nonexistent")
    page.goto(f"{server.url}/lessons?lesson=float32&controls=off")
    page.get_by_role("spinbutton").fill("20", timeout=60_000)
    page.get_by_role("spinbutton").press("Tab")
    expect(page.get_by_role("link", name="Lab")).to_be_hidden()  # controls=off
    page.get_by_role("button", name="Commit my prediction").click()
    expect(page).to_have_url(re.compile("prediction=20"))
    page.get_by_role("button", name="Run the experiment").click(timeout=60_000)
    expect(page.get_by_text("In these runs")).to_be_visible(timeout=90_000)
    expect(page.get_by_text(re.compile(r"\d+ of 60 block convolutions")).first).to_be_visible()
    points = "document.querySelectorAll('.js-plotly-plot .scatterlayer .point').length"
    page.wait_for_function(f"{points} > 80", timeout=60_000)  # 29 + 45 + 65 layers
    page.reload()
    expect(page.get_by_text("You predicted")).to_be_visible(timeout=60_000)
