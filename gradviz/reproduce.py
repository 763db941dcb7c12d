"""python -m gradviz reproduce: every claim of the article put to the test, written up with numbers of these runs alone."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gradviz import charts
from gradviz.config import RunConfig
from gradviz.data import DataError, Dataset, Shelf
from gradviz.lessons import ARTICLE_BORDERS, BATCH, DEEP_STEPS, LESSONS, RESULTS, STEPS, Finding, Lesson, net_name, number
from gradviz.runs import History, Run, Status, max_columns
from gradviz.settings import Settings
from gradviz.store import RunStore, StoreError
from gradviz.sweep import FAILED, OUTCOMES, TRAINED, UNFINISHED, Sweep, border, remedy_name, result, trained_already
from gradviz.trainer import Trainer, device_text, resolve_device

EARLY = "Stopped as soon as it counted as trained."
QUICK_MINUTES = 15
_COST = 1e-4  # seconds per image and block on one processor core (docs/performance.md)

_PLAIN = RunConfig(batch_size=BATCH, steps=STEPS)
_CURED = replace(_PLAIN, steps=DEEP_STEPS)
# Remedy -> depths to look at, rising; the search stops once two in a row fail.
BORDERS: tuple[tuple[RunConfig, tuple[int, ...]], ...] = (
    (_PLAIN, (1, 2, 3, 4, 5, 6, 7)),
    (replace(_PLAIN, activation="relu"), (4, 5, 6, 7, 8, 9, 10)),
    (replace(_CURED, activation="relu", batch_norm=True), (12, 20, 40, 60, 80)),
    (replace(_CURED, shortcut=True), (12, 40, 100, 200)),
    (replace(_CURED, activation="relu", shortcut=True), (12, 40, 100, 200, 400, 1000)),
)
OPTIMISERS = (("adam", 1e-3), ("adam", 3e-4), ("adam", 1e-4), ("momentum", 1e-2), ("momentum", 1e-1))
OPTIMISER_NETS = (("sigmoid", 2), ("sigmoid", 4), ("relu", 6), ("relu", 8))
THOUSAND = tuple(
    replace(_PLAIN, activation=activation, shortcut=True, batch_norm=norm, blocks=1000, batch_size=64, steps=300)
    for activation, norm in (("sigmoid", False), ("relu", False), ("relu", True))
)


class TimeUp(Exception):
    """A run that is not kept yet would begin after the time that was given."""


class Bench:
    """Trains one run after the other and keeps each in a store, so that a second start goes on after the last whole run."""

    def __init__(
        self, data: Dataset, store: RunStore, say: Callable[[str], None], device: str = "auto", seconds: float | None = None
    ):
        """`seconds` of wall time that no run is expected to pass; None for as long as it takes."""
        self._data, self._store, self._say = data, store, say
        self._device = resolve_device(device)
        self.device = device_text(self._device)
        self._end = None if seconds is None else time.monotonic() + seconds
        self.used: dict[str, Run] = {}  # every run that was asked for, by id

    def run(self, config: RunConfig, early: bool = True) -> Run:
        """The kept run of this config, or a new one. `early`: enough once it counts as trained. Raises TimeUp."""
        config = replace(config, dataset=self._data.name)
        kept = self._store.load(config.run_id)
        if kept and not kept.status.live and result(kept).outcome not in (UNFINISHED, FAILED):
            if early or kept.status is not Status.STOPPED:
                self.used[kept.id] = kept
                return kept
        expected = 0.0 if self._device.type == "cuda" else _COST * config.blocks * config.batch_size * config.steps
        if self._end is not None and time.monotonic() + expected > self._end:
            raise TimeUp
        run = Run(config, History(config.layers, max_columns(config.layers)), Status.RUNNING, self.device)
        trainer = Trainer(config, self._data, self._device)
        run.arithmetic = trainer.arithmetic
        for record in trainer:
            run.history.append(record)
            run.nonfinite_layer = run.nonfinite_layer or record.nonfinite_layer
            if record.step + 1 == config.steps:
                run.status = Status.FINISHED  # not asking on leaves out the full test, which takes longer than many a run here
                break
            if early and trained_already(run):
                run.status, run.message = Status.STOPPED, EARLY
                break
        else:
            run.end(trainer.outcome)
        self._store.save(run)
        self.used[run.id] = run
        found = result(run)
        self._say(
            f"{config.summary} · seed {config.seed}: {found.outcome} after {found.steps} of {config.steps} steps, "
            f"loss {found.loss:.3g}, {found.seconds:.0f} s"
        )
        return run

    def find_border(self, base: RunConfig, depths: Sequence[int], seeds: Sequence[int]) -> Iterable[Run]:
        """The first seed over rising depths until two in a row fail; all seeds from two depths before the first failure on."""
        trained: list[bool] = []
        for blocks in depths:
            run = self.run(replace(base, blocks=blocks, seed=seeds[0]))
            yield run
            trained.append(result(run).outcome == TRAINED)
            if trained[-2:] == [False, False]:
                break
        edge = trained.index(False) if False in trained else len(trained)  # the first depth that failed
        near = range(max(0, edge - 2), len(trained))  # a deeper one may train again before two in a row fail
        for seed in seeds[1:]:
            for place in near:
                yield self.run(replace(base, blocks=depths[place], seed=seed))


@dataclass
class Report:
    """What was measured so far, and how it reads."""

    data: str
    device: str
    command: str
    seeds: Sequence[int]
    lessons: dict[str, tuple[Finding, list[Run]]]
    borders: list[Run]
    optimisers: list[Run]
    thousand: list[Run]
    left_out: list[str]

    def figures(self, folder: Path) -> dict[Path, object]:
        """The pictures by the file that the text names."""
        found = {}
        if self.borders:
            sweep, results = self.border_sweep, self.border_results
            found[folder / "border.svg"] = charts.border_figure(sweep, results, ARTICLE_BORDERS)
            found[folder / "ratio.svg"] = charts.ratio_figure(sweep, results, charts.theory_ratios(sweep))
        for id, (_finding, runs) in self.lessons.items():
            for kind, figure in charts.lesson_figures(LESSONS[id], runs).items():
                found[folder / f"{id}-{kind}.svg"] = figure
        return found

    @property
    def border_sweep(self) -> Sweep:
        return Sweep("border", tuple(run.config for run in self.borders))

    @property
    def border_results(self) -> dict:
        return {run.config: result(run) for run in self.borders}

    def text(self, pictures: Iterable[str]) -> str:
        """Markdown. `pictures`: names of the files that exist in the folder beside it."""
        pictures = set(pictures)
        everything = {run.id: run for run in self._runs()}
        seconds = sum(result(run).seconds for run in everything.values())
        lines = [
            "# The article's claims, put to the test",
            "",
            f"Written by `{self.command}`; every number and every verdict below is computed from the runs of that command. "
            f"{len(everything)} runs on {self.data}, {self.device}, {seconds / 60:.0f} minutes of training in all. "
            f"Unless a table says otherwise: batches of {BATCH}, Adam with learning rate 0.001, at most {STEPS} steps, or "
            f"{DEEP_STEPS} with batch norm or shortcut (the article's runs last about 10 epochs, some 18,750 steps). "
            "A run is stopped as soon as it counts as trained.",
            "",
            "What the outcomes mean:",
            "",
            *(f"- **{word}**: {meaning}." for word, meaning in OUTCOMES.items()),
            "",
            "What the verdicts mean:",
            "",
            *(f"- **{word}**: {meaning}." for word, meaning in RESULTS.items()),
            "",
            "## Verdicts",
            "",
            "| claim | experiment | verdict | measured |",
            "|---|---|---|---|",
            *(
                f"| {lesson.claim or '–'} | [{lesson.title}](#{_anchor(lesson)}) | "
                + ("**{0.result}** | {0.answer_text} |".format(self.lessons[id][0]) if id in self.lessons else "not run | |")
                for id, lesson in LESSONS.items()
            ),
            "",
        ]
        lines += self._border_lines(pictures) + self._optimiser_lines() + self._thousand_lines()
        for id, lesson in LESSONS.items():
            if id in self.lessons:
                lines += self._lesson_lines(lesson, *self.lessons[id], pictures)
        steps = f"- {STEPS} steps are a sixtieth of the article's 10 epochs: a net that is stuck here may still train later."
        lines += ["## What these runs leave open", "", steps, *(f"- {sentence}" for sentence in self.left_out), ""]
        return "\n".join(lines)

    def _runs(self) -> list[Run]:
        of_lessons = [run for _finding, runs in self.lessons.values() for run in runs]
        return of_lessons + self.borders + self.optimisers + self.thousand

    def _border_lines(self, pictures: set[str]) -> list[str]:
        if not self.borders:
            return []
        lines = [
            "## The border of trainability", "", *_picture("border.svg", "Outcome of every run over depth", pictures),
            charts.HOW_TO_READ["border"], "", "| remedy | border | trained of seeds, by blocks | steps |", "|---|---|---|---|",
        ]  # fmt: skip
        sweep, results = self.border_sweep, self.border_results
        for remedy, name in sweep.remedies().items():
            found = border((config, one) for config, one in results.items() if sweep.remedy(config) == remedy)
            shares = ", ".join(f"{blocks}: {trained} of {ended}" for blocks, (trained, ended) in found.shares.items())
            lines.append(f"| {name} | {found.text} | {shares} | {remedy.steps} |")
        return [*lines, "", *_picture("ratio.svg", "First over last block at step 0", pictures), charts.HOW_TO_READ["ratio"], ""]

    def _optimiser_lines(self) -> list[str]:
        if not self.optimisers:
            return []
        nets = OPTIMISER_NETS
        table = {(run.config.activation, run.config.blocks, run.config.optimizer, run.config.lr): run for run in self.optimisers}
        lines = [
            "## Optimiser and learning rate", "",
            f"The article does not state them, and the border moves with them. Outcome and loss of seed {self.seeds[0]}, "
            f"{STEPS} steps:",
            "", "| optimiser | " + " | ".join(f"{blocks} {activation} blocks" for activation, blocks in nets) + " |",
            "|---|" + "---|" * len(nets),
        ]  # fmt: skip
        for optimizer, lr in OPTIMISERS:
            cells = [table.get((*net, optimizer, lr)) for net in nets]
            lines.append(f"| {optimizer} {lr:g} | " + " | ".join(_outcome(run) if run else "not run" for run in cells) + " |")
        return [*lines, ""]

    def _thousand_lines(self) -> list[str]:
        if not self.thousand:
            return []
        return [
            "## 1000 blocks for real", "", "| net | steps | batch | outcome |", "|---|---|---|---|",
            *(f"| {net_name(c := run.config)} | {c.steps} | {c.batch_size} | {_outcome(run)} |" for run in self.thousand),
            "",
        ]  # fmt: skip

    def _lesson_lines(self, lesson: Lesson, finding: Finding, runs: list[Run], pictures: set[str]) -> list[str]:
        held = {True: "yes", False: "**no**", None: "cannot tell"}
        lines = [
            f"## {_title(lesson)}", "", ("The article: " if lesson.claim else "Theory: ") + f"*{lesson.says}*", "",
            f"Verdict: **{finding.result}**. {finding.answer_text}", "",
            "| statement | held | measured |", "|---|---|---|",
            *(f"| {part.statement} | {held[part.holds]} | {part.measured} |" for part in finding.parts), "",
        ]  # fmt: skip
        for kind in lesson.look_at:
            lines += _picture(f"{lesson.id}-{kind}.svg", f"{lesson.title}: {kind}", pictures)
        lines += ["<details><summary>Runs</summary>", "", "| run | settings | seed | steps | outcome |", "|---|---|---|---|---|"]
        for run in runs:
            config = run.config
            lines.append(
                f"| `{run.id}` | {config.summary} · batch {config.batch_size} | {config.seed} | "
                f"{run.history.steps} of {config.steps} | {_outcome(run)} |"
            )
        return [*lines, "", "</details>", "", lesson.explanation, ""]


def reproduce(
    settings: Settings, out: Path, quick: bool, seeds: int | None = None, minutes: float | None = None, dataset: str = "mnist"
) -> Path:
    """Runs what is not yet kept, and writes `out`/reproduction.md with its pictures. Returns the path of the text.

    `seeds` near each border: 1 if quick, else 3. `minutes` that no new run is expected to pass: QUICK_MINUTES if quick,
    else as long as it takes. Raises DataError if the data set cannot be had, StoreError if the store is in use.
    """
    shelf = Shelf(settings.data, settings.download)
    shelf.request(dataset)
    shelf.wait(dataset)
    name, replaced = shelf.effective(dataset)
    if replaced:
        _say(replaced)
    data = shelf.load(name)
    minutes = QUICK_MINUTES if quick and minutes is None else minutes
    places = range(seeds if seeds else 1 if quick else 3)
    store = RunStore(settings.store / "reproduction")
    try:
        bench = Bench(data, store, _say, seconds=None if minutes is None else 60 * minutes)
        command = "python -m gradviz reproduce" + " --quick" * quick + (f" --seeds {seeds}" if seeds else "")
        report = Report(name, bench.device, command, places, {}, [], [], [], [])
        for stage in (_lessons, _borders, _optimisers, _thousand_blocks):
            stage(bench, report)
            path = _write(report, out)
            _say(f"{path} is up to date")
    finally:
        store.close()
    return path


def _lessons(bench: Bench, report: Report) -> None:
    missing = []
    for lesson in LESSONS.values():
        try:
            runs = [bench.run(config, lesson.early) for config in lesson.configs(report.data)]
        except TimeUp:
            missing.append(lesson.title)
            continue
        report.lessons[lesson.id] = lesson.conclude(runs), runs
    if missing:
        report.left_out.append("The time was up before these were run: " + "; ".join(missing) + ".")


def _borders(bench: Bench, report: Report) -> None:
    for base, depths in BORDERS:
        try:
            report.borders.extend(bench.find_border(base, depths, report.seeds))
        except TimeUp:
            report.left_out.append(f"The time was up before the border of {remedy_name(base)} was searched to its end.")


def _optimisers(bench: Bench, report: Report) -> None:
    try:
        for optimizer, lr in OPTIMISERS:
            for activation, blocks in OPTIMISER_NETS:
                config = replace(_PLAIN, activation=activation, blocks=blocks, optimizer=optimizer, lr=lr)
                report.optimisers.append(bench.run(config))
    except TimeUp:
        report.left_out.append("The time was up before all optimisers were tried.")


def _thousand_blocks(bench: Bench, report: Report) -> None:
    if not report.device.startswith("cuda"):
        report.left_out.append(
            "Whether 1000 blocks train to the end: 300 steps of a batch of 64 take half an hour for each net on a processor, so "
            "they are run only where a CUDA card is at hand. None was; the runs of claim 8 show the first steps of them."
        )
        return
    try:
        for config in THOUSAND:
            report.thousand.append(bench.run(config))
    except TimeUp:
        report.left_out.append("The time was up before 1000 blocks were trained.")


def _write(report: Report, out: Path) -> Path:
    folder = out / "reproduction"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        charts.save(report.figures(folder))
    except RuntimeError as error:
        _say(str(error))
    path = out / "reproduction.md"
    path.write_text(report.text(file.name for file in folder.glob("*.svg")), encoding="utf-8")
    return path


def _anchor(lesson: Lesson) -> str:
    """The one that GitHub gives the heading."""
    kept = "".join(letter for letter in _title(lesson).lower() if letter.isalnum() or letter in " -")
    return kept.replace(" ", "-")


def _title(lesson: Lesson) -> str:
    return f"Claim {lesson.claim}: {lesson.title}" if lesson.claim else lesson.title


def _outcome(run: Run) -> str:
    found = result(run)
    return f"{found.outcome}, loss {number(found.loss, 3)} after {found.steps}"


def _picture(name: str, words: str, pictures: set[str]) -> list[str]:
    return [f"![{words}](reproduction/{name})", ""] if name in pictures else []


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(given: dict[str, Any]) -> int:
    """The command line's half: 0 done, 1 failed."""
    try:
        reproduce(Settings.from_environment(), Path(given.pop("out")), **given)
    except (DataError, StoreError, OSError) as error:
        _say(str(error))
        return 1
    return 0
