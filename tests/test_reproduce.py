"""The reproduction: no run is done twice, verdicts come from runs, and the command leaves a document that reads."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from recorded import long_run

from gradviz.lenet import article_length
from gradviz.lenet.config import READERS, RunConfig
from gradviz.lenet.data import Shelf
from gradviz.lenet.lessons.catalogue import LESSONS
from gradviz.lenet.lessons.lesson import NOT, OPEN, PARTLY, REPRODUCED, Finding, Part
from gradviz.lenet.long_runs import DEAD
from gradviz.lenet.outcome import STUCK, TRAINED, WINDOW, result
from gradviz.record.arithmetic import arithmetic_text
from gradviz.record.run import Status
from gradviz.report import Report
from gradviz.reproduce import EARLY, Bench, TimeUp
from gradviz.store.store import RunStore
from gradviz.train.device import here

ROOT = Path(__file__).parent.parent
DIGITS = Shelf(Path("nowhere"), download=False).load("digits")
NET = RunConfig(activation="relu", blocks=0, batch_size=16, steps=200, dataset="digits", lr=3e-3)


@pytest.fixture
def store(tmp_path):
    store = RunStore(tmp_path / "runs", READERS)
    yield store
    store.close()


def bench(store, **more) -> tuple[Bench, list[str]]:
    said: list[str] = []
    return Bench(DIGITS, store, said.append, device="cpu", **more), said


@pytest.mark.trains
def test_a_run_ends_as_soon_as_it_has_trained_and_a_second_start_takes_it_from_the_store(store):
    first, said = bench(store)
    run = first.run(NET)
    assert result(run).outcome == TRAINED and WINDOW <= run.history.steps < NET.steps
    assert run.status is Status.STOPPED and run.message == EARLY and len(said) == 1
    again, silent = bench(store)
    assert again.run(NET).created == run.created and not silent
    assert list(again.used) == [NET.id]


@pytest.mark.trains
def test_a_lesson_that_wants_the_whole_run_is_not_given_a_shortened_one(store):
    first, _said = bench(store)
    first.run(NET)
    whole = first.run(NET, early=False)
    assert whole.status is Status.FINISHED and whole.history.steps == NET.steps


@pytest.mark.trains
def test_no_run_begins_after_the_time_is_up_but_kept_ones_still_count(store):
    bench(store)[0].run(NET)
    late, _said = bench(store, seconds=-1)
    late.run(NET)
    with pytest.raises(TimeUp):
        late.run(replace(NET, seed=1))


def test_the_search_stops_after_two_failures_and_then_repeats_the_depths_around_the_border(store, monkeypatch):
    searcher, _said = bench(store)
    asked = []

    def run(config, early=True):
        asked.append((config.seed, config.blocks))
        return made(config, trained=config.blocks < 5)

    monkeypatch.setattr(searcher, "run", run)
    assert len(list(searcher.find_border(NET, (1, 2, 3, 4, 5, 6, 7, 8), (0, 1, 2)))) == 6 + 2 * 4
    assert asked[:6] == [(0, blocks) for blocks in (1, 2, 3, 4, 5, 6)]
    assert asked[6:10] == [(1, blocks) for blocks in (3, 4, 5, 6)]


def made(config, trained):
    import numpy as np

    from gradviz.record.history import History
    from gradviz.record.quantities import QUANTITIES
    from gradviz.record.run import Run

    loss = 0.5 if trained else 2.3
    columns = np.ones((30, len(QUANTITIES), config.layers), np.float32)
    scalars = np.tile([loss, 0.5, 0.1], (30, 1))
    return Run(replace(config, steps=30), History.restored(columns, scalars, [], 1, 1000), Status.FINISHED)


@pytest.mark.parametrize(
    "holds, verdict", [((True, True), REPRODUCED), ((True, False), PARTLY), ((False,), NOT), ((None,), OPEN),
                       ((True, None), OPEN), ((False, None), OPEN), ((True, False, None), PARTLY)]
)  # fmt: skip
def test_the_document_says_the_verdict_that_its_runs_give(holds, verdict):
    finding = Finding(tuple(Part("It is so.", held, "Measured 42.") for held in holds), None, "Forty-two.")
    lesson = LESSONS["clipping"]
    report = Report("digits", "cpu", "command", [0], {"clipping": (finding, [made(NET, True)])}, [], [], [], ["Nothing else."])
    text = report.text([])
    assert re.search(rf"\| 5 \| \[{lesson.title}\]\(#claim-5-gradient-clipping\) \| \*\*{verdict}\*\* \| Forty-two\. \|", text)
    assert f"Verdict: **{verdict}**" in text and "Measured 42." in text and "- Nothing else." in text
    assert text.count("not run") >= 15  # the other lessons are said to be missing


def test_kept_runs_of_other_arithmetic_are_used_and_said(store):
    run, same = made(NET, True), made(replace(NET, seed=1), True)
    same.arithmetic = here(torch.device("cpu"), 1)
    store.save(run, same)
    again, silent = bench(store)
    assert [again.run(kept.recipe).created for kept in (run, same)] == [run.created, same.created] and not silent
    assert again.others == {run.id}
    text = Report("digits", "cpu", "c", [0], {}, [run, same], [], [], []).text([])
    assert f"unknown arithmetic, not noted when it ran; {arithmetic_text(same.arithmetic)}" in text


def test_every_anchor_of_the_table_leads_to_a_heading():
    found = Finding((Part("s", True, "m"),), None, "a")
    report = Report("digits", "cpu", "c", [0], {id: (found, [made(NET, True)]) for id in LESSONS}, [], [], [], [])
    text = report.text([])
    headings = re.findall(r"^## (.*)$", text, re.M)
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    linked = re.findall(r"\]\(#(.*?)\)", text)
    assert len(linked) == len(LESSONS) and set(linked) <= anchors


def test_the_document_has_the_verdict_at_the_articles_length_beside_that_of_the_short_runs():
    """Nine relu blocks do not learn in 300 steps and do at the article's length."""
    short = Finding((Part("9 blocks still train.", False, "9 blocks relu stuck."),), None, "Border at 7.")
    sigmoid, ten = article_length.net("sigmoid", 4), article_length.net("relu", 10)
    long = [long_run(ten, DEAD), long_run(article_length.NINE_RELU), long_run(sigmoid, DEAD)]
    lessons = {"relu-depth": (short, [made(NET, False)])}
    text = Report("mnist", "cpu", "c", [0], lessons, [], [], [], [], long).text([])
    row = next(line for line in text.splitlines() if line.startswith("| 4 | "))
    assert "**not** | Border at 7. | **partly** |" in row
    assert "(#at-the-articles-length)" in text and "\n## At the article's length\n" in text
    assert "| adam 0.0003 | **learnt** 499 |  | adam 0.0003: learnt up to 9 blocks, the deepest that was tried |" in text
    assert "3 runs on MNIST" in text and "1,500 steps" in text
    assert "Not run yet: 5 blocks sigmoid 0.001" in text


@pytest.mark.timeout(300)
def test_the_command_refuses_the_articles_length_on_other_data_in_one_sentence(tmp_path):
    command = [sys.executable, "-m", "gradviz", "reproduce", "--article", "--dataset", "digits"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path), "--kept", str(tmp_path / "kept.jsonl")], cwd=ROOT, capture_output=True, text=True,
        timeout=280, env={"GRADVIZ_STORE": str(tmp_path / "runs"), "GRADVIZ_DOWNLOAD": "off", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 1 and done.stderr.strip().count("\n") == 0
    assert done.stderr.startswith("The runs of the article's length need MNIST")


@pytest.mark.timeout(300)
def test_a_file_of_another_version_is_refused_in_one_sentence_and_left_as_it_was(tmp_path):
    kept = tmp_path / "kept.jsonl"
    kept.write_text('{"version": 99}\n')
    command = [sys.executable, "-m", "gradviz", "reproduce", "--article", "--minutes", "0", "--kept", str(kept)]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=280,
        env={"GRADVIZ_STORE": str(tmp_path / "runs"), "GRADVIZ_DOWNLOAD": "off", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 1 and "is not a run of this version (version 99)" in done.stderr
    assert "Traceback" not in done.stderr and kept.read_text() == '{"version": 99}\n'


def test_the_border_of_the_document_is_counted_from_its_runs():
    runs = [made(replace(NET, blocks=blocks, seed=seed), blocks < 3) for blocks in (1, 2, 3) for seed in (0, 1, 2)]
    text = Report("digits", "cpu", "c", [0, 1, 2], {}, runs, [], [], []).text([])
    assert "| relu | trained up to 2 blocks, no longer at 3 | 1: 3 of 3, 2: 3 of 3, 3: 0 of 3 |" in text
    assert result(runs[-1]).outcome == STUCK


@pytest.mark.timeout(300)
def test_the_command_writes_a_document_even_if_the_time_is_up_at_once(tmp_path):
    command = [sys.executable, "-m", "gradviz", "reproduce", "--quick", "--minutes", "0", "--dataset", "digits"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=280,
        env={"GRADVIZ_STORE": str(tmp_path / "runs"), "GRADVIZ_DOWNLOAD": "off", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "reproduction.md").read_text()
    assert "python -m gradviz reproduce --quick" in text and "The time was up before these were run" in text


def test_the_kept_document_names_every_lesson_and_its_pictures_are_there():
    text = (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8")
    assert all(lesson.title in text for lesson in LESSONS.values())
    pictures = re.findall(r"\]\((reproduction/[\w-]+\.svg)\)", text)
    assert pictures and all((ROOT / "docs" / name).is_file() for name in pictures)
