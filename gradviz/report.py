"""The document on the article's claims: what was measured, as Markdown and pictures. Every verdict in it comes from its runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gradviz.charts import HOW_TO_READ
from gradviz.charts.lessons import lesson_figures
from gradviz.charts.long_runs import course_figure, depth_figure
from gradviz.charts.sweeps import border_figure, ratio_figure, theory_ratios
from gradviz.lenet import article_length
from gradviz.lenet.config import RunConfig
from gradviz.lenet.lessons.catalogue import ARTICLE_BORDERS, LESSONS
from gradviz.lenet.lessons.lesson import BATCH, DEEP_STEPS, RESULTS, STEPS, Finding, Lesson
from gradviz.lenet.long_runs import BATCH as LONG_BATCH
from gradviz.lenet.long_runs import OUTCOMES as LONG_OUTCOMES
from gradviz.lenet.long_runs import STEPS as LONG_STEPS
from gradviz.lenet.long_runs import LongRun
from gradviz.lenet.naming import net_name
from gradviz.lenet.outcome import OUTCOMES, Result, border, result
from gradviz.lenet.sweep import Sweep
from gradviz.record import arithmetic
from gradviz.record.run import Run
from gradviz.words import number

OPTIMISERS = article_length.RATES
OPTIMISER_NETS = (("sigmoid", 2), ("sigmoid", 4), ("relu", 6), ("relu", 8))


@dataclass
class Report:
    """What was measured so far, and how it reads."""

    data: str
    device: str
    command: str
    seeds: Sequence[int]
    lessons: dict[str, tuple[Finding, list[Run[RunConfig]]]]
    borders: list[Run[RunConfig]]
    optimisers: list[Run[RunConfig]]
    thousand: list[Run[RunConfig]]
    left_out: list[str]
    long: Sequence[LongRun] = ()  # those at the article's length

    def figures(self, folder: Path) -> dict[Path, object]:
        """The pictures by the file that the text names."""
        found = {}
        if self.borders:
            sweep, results = self.border_sweep, self.border_results
            found[folder / "border.svg"] = border_figure(sweep, results, ARTICLE_BORDERS)
            found[folder / "ratio.svg"] = ratio_figure(sweep, results, theory_ratios(sweep))
        if self.long:
            found[folder / "long-depth.svg"] = depth_figure(self.long)
        if nine := next((run for run in self.long if run.recipe == article_length.NINE_RELU), None):
            found[folder / "long-course.svg"] = course_figure(nine)
        for id, (_finding, runs) in self.lessons.items():
            for kind, figure in lesson_figures(LESSONS[id], runs).items():
                found[folder / f"{id}-{kind}.svg"] = figure
        return found

    @property
    def border_sweep(self) -> Sweep:
        return Sweep("border", tuple(run.recipe for run in self.borders))

    @property
    def border_results(self) -> dict[RunConfig, Result]:
        return {run.recipe: result(run) for run in self.borders}

    def text(self, pictures: Iterable[str], beside: Iterable[str] = ()) -> str:
        """Markdown. `pictures`: names of the files that exist in the folder beside it; `beside`: of those in its own."""
        pictures = set(pictures)
        everything = {run.id: run for run in self._runs()}
        seconds = sum(result(run).seconds for run in everything.values())
        lines = [
            "# The article's claims, put to the test",
            "",
            *(["English · [简体中文](reproduction.zh-CN.md)", ""] if "reproduction.zh-CN.md" in beside else []),
            f"Written by `{self.command}`; every number and every verdict below is computed from the runs of that command. "
            f"{len(everything)} runs on {self.data}, {_made_with(everything.values()) or self.device}, "
            f"{seconds / 60:.0f} minutes of training in all. "
            f"Unless a table says otherwise: batches of {BATCH}, Adam with learning rate 0.001, at most {STEPS} steps, or "
            f"{DEEP_STEPS} with batch norm or shortcut. "
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
            f"Short runs have at most {STEPS} steps; the long ones go on to the article's length of {LONG_STEPS:,}"
            + (" ([below](#at-the-articles-length))" if self.long else ", and none was run")
            + ". Where the two differ, the long ones are nearer to what the article did.",
            "",
            "| claim | experiment | short runs | measured | long runs | measured |",
            "|---|---|---|---|---|---|",
            *(
                f"| {lesson.claim or '–'} | [{lesson.title}](#{_anchor(lesson)}) | "
                + ("**{0.result}** | {0.answer_text} |".format(self.lessons[id][0]) if id in self.lessons else "not run | |")
                + (" **{0.result}** | {0.answer_text} |".format(self.long_findings[id]) if id in self.long_findings else " – | |")
                for id, lesson in LESSONS.items()
            ),
            "",
        ]
        lines += self._long_lines(pictures)
        lines += self._border_lines(pictures) + self._optimiser_lines() + self._thousand_lines()
        for id, lesson in LESSONS.items():
            if id in self.lessons:
                lines += self._lesson_lines(lesson, *self.lessons[id], pictures)
        share = STEPS * BATCH / (LONG_STEPS * LONG_BATCH)
        steps = f"- {STEPS} steps of {BATCH} images are {share:.1%} of 10 epochs: a net that is stuck here may still train later."
        lines += ["## What these runs leave open", "", steps, *(f"- {sentence}" for sentence in self.left_out), ""]
        return "\n".join(lines)

    def _runs(self) -> list[Run[RunConfig]]:
        of_lessons = [run for _finding, runs in self.lessons.values() for run in runs]
        return of_lessons + self.borders + self.optimisers + self.thousand

    @cached_property
    def long_findings(self) -> Mapping[str, Finding]:
        return article_length.findings(self.long)

    def _long_lines(self, pictures: set[str]) -> list[str]:
        if not self.long:
            return []
        steps, hours = sum(run.steps for run in self.long), sum(run.seconds for run in self.long) / 3600
        lines = [
            "## At the article's length", "",
            f"`python -m gradviz reproduce --article`: {len(self.long)} runs on MNIST, batches of {LONG_BATCH}, up to "
            f"{LONG_STEPS:,} steps (10 epochs); {steps:,} steps and {hours:.1f} hours of training in all "
            f"({_made_with(self.long)}). The kept runs are lines of `gradviz/lenet/long_runs.jsonl`, with their curves and first "
            "and last profiles; the command trains what is missing there.", "",
            *(f"- **{word}**: {meaning}." for word, meaning in LONG_OUTCOMES.items()), "",
            "### Depth, optimiser and learning rate", "",
            *_picture("long-depth.svg", "Outcome of every long run over depth, optimiser and rate", pictures),
            "In a cell the outcome of each seed; for *learnt* the step at which it had.", "",
        ]  # fmt: skip
        evidence = article_length.LongEvidence(self.long)
        for activation in article_length.DEPTHS:
            lines += _rate_table(evidence, activation)
        lines += _picture("long-course.svg", "9 relu blocks, Adam 0.0003: loss and gradient over 10 epochs", pictures)
        others = [run for run in self.long if not article_length.is_plain(run.recipe)]
        lines += ["### Remedies", "", *_LONG_HEAD, *map(_long_row, others), ""]
        lines += ["<details><summary>All long runs</summary>", "", *_LONG_HEAD, *map(_long_row, self.long), "", "</details>", ""]
        if missing := article_length.missing({run.recipe: run for run in self.long}.get):
            names = "; ".join(f"{net_name(config)} {config.lr:g}" for config in missing)
            lines += [f"Not run yet: {names}.", ""]
        return lines

    def _border_lines(self, pictures: set[str]) -> list[str]:
        if not self.borders:
            return []
        lines = [
            "## The border of trainability", "", *_picture("border.svg", "Outcome of every run over depth", pictures),
            HOW_TO_READ["border"], "", "| remedy | border | trained of seeds, by blocks | steps |", "|---|---|---|---|",
        ]  # fmt: skip
        sweep, results = self.border_sweep, self.border_results
        for remedy, name in sweep.remedies().items():
            found = border((config, one) for config, one in results.items() if sweep.remedy(config) == remedy)
            shares = ", ".join(f"{blocks}: {trained} of {ended}" for blocks, (trained, ended) in found.shares.items())
            lines.append(f"| {name} | {found.text} | {shares} | {remedy.steps} |")
        return [*lines, "", *_picture("ratio.svg", "First over last block at step 0", pictures), HOW_TO_READ["ratio"], ""]

    def _optimiser_lines(self) -> list[str]:
        if not self.optimisers:
            return []
        nets = OPTIMISER_NETS
        table = {(run.recipe.activation, run.recipe.blocks, run.recipe.optimizer, run.recipe.lr): run for run in self.optimisers}
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
            *(f"| {net_name(c := run.recipe)} | {c.steps} | {c.batch_size} | {_outcome(run)} |" for run in self.thousand),
            "",
        ]  # fmt: skip

    def _lesson_lines(self, lesson: Lesson, finding: Finding, runs: list[Run[RunConfig]], pictures: set[str]) -> list[str]:
        held = {True: "yes", False: "**no**", None: "cannot tell"}
        lines = [
            f"## {_title(lesson)}", "", ("The article: " if lesson.claim else "Theory: ") + f"*{lesson.says}*", "",
            f"Verdict: **{finding.result}**. {finding.answer_text}", "",
            "| statement | held | measured |", "|---|---|---|",
            *(f"| {part.statement} | {held[part.holds]} | {part.measured} |" for part in finding.parts), "",
        ]  # fmt: skip
        if lesson.id in self.long_findings:
            long = self.long_findings[lesson.id]
            lines += [
                f"At the article's length: **{long.result}**.", "", "| statement | held | measured |", "|---|---|---|",
                *(f"| {part.statement} | {held[part.holds]} | {part.measured} |" for part in long.parts), "",
            ]  # fmt: skip
        for kind in lesson.look_at:
            lines += _picture(f"{lesson.id}-{kind}.svg", f"{lesson.title}: {kind}", pictures)
        lines += ["<details><summary>Runs</summary>", "", "| run | settings | seed | steps | outcome |", "|---|---|---|---|---|"]
        for run in runs:
            config = run.recipe
            lines.append(
                f"| `{run.id}` | {config.title} · batch {config.batch_size} | {config.seed} | "
                f"{run.history.steps} of {config.steps} | {_outcome(run)} |"
            )
        return [*lines, "", "</details>", "", lesson.explanation, ""]


def _made_with(runs: Iterable[Run[RunConfig] | LongRun]) -> str:
    return "; ".join(dict.fromkeys(arithmetic.arithmetic_text(run.arithmetic) for run in runs))


def _anchor(lesson: Lesson) -> str:
    """The one that GitHub gives the heading."""
    kept = "".join(letter for letter in _title(lesson).lower() if letter.isalnum() or letter in " -")
    return kept.replace(" ", "-")


def _title(lesson: Lesson) -> str:
    return f"Claim {lesson.claim}: {lesson.title}" if lesson.claim else lesson.title


_LONG_HEAD = (
    "| net | outcome | steps | loss | accuracy | test accuracy | left chance at | time |",
    "|---|---|---|---|---|---|---|---|",
)


def _rate_table(evidence: article_length.LongEvidence, activation: str) -> list[str]:
    found = article_length.borders(evidence, activation)
    depths = sorted({blocks for line in found for blocks in line.trains})
    rows = [f"| {activation} | " + " | ".join(map(str, depths)) + " | border |", "|---" * (len(depths) + 2) + "|"]
    for line in found:
        nets = [article_length.net(activation, blocks, optimizer=line.optimizer, lr=line.lr) for blocks in depths]
        cells = " | ".join(_cell(evidence.runs(config)) for config in nets)
        rows.append(f"| {line.optimizer} {line.lr:g} | {cells} | {line.text} |")
    return [*rows, ""]


def _cell(runs: Sequence[LongRun]) -> str:
    return "; ".join(f"**learnt** {run.learnt_at:,}" if run.trains else run.outcome for run in runs)


def _long_row(run: LongRun) -> str:
    config = run.recipe
    tested = "" if run.test_accuracy is None else f"{run.test_accuracy:.1%}"
    left = "" if run.left_chance_at is None else f"{run.left_chance_at:,}"
    return (
        f"| {config.title} · seed {config.seed} | {run.outcome} | {run.steps:,} | {number(run.loss, 3)} | {run.accuracy:.0%} | "
        f"{tested} | {left} | {run.seconds / 60:.0f} min |"
    )


def _outcome(run: Run[RunConfig]) -> str:
    found = result(run)
    return f"{found.outcome}, loss {number(found.loss, 3)} after {found.steps}"


def _picture(name: str, words: str, pictures: set[str]) -> list[str]:
    return [f"![{words}](reproduction/{name})", ""] if name in pictures else []
