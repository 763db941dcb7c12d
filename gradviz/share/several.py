"""Several runs in one file: a comparison, and the outcome of a lesson."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gradviz.charts import HOW_TO_READ
from gradviz.charts.lessons import lesson_figures
from gradviz.charts.runs import accuracy_figure, difference_figure, heatmaps_figure, loss_figure, profile_figure
from gradviz.lenet.config import FIELDS, config_of
from gradviz.lenet.diagnosis import headline
from gradviz.lenet.fields import to_word
from gradviz.lenet.lessons.lesson import RESULTS, Lesson
from gradviz.lenet.lessons.telling import answer_text, measured_text, title_of
from gradviz.lenet.naming import net_name, setting_text
from gradviz.record.arithmetic import arithmetic_text
from gradviz.record.quantities import ranges_of
from gradviz.record.reading import quantity_at
from gradviz.record.run import Run
from gradviz.share.outcome import Block, back, replay
from gradviz.share.page import Shared
from gradviz.web.given import chance_of
from gradviz.words import gettext as _
from gradviz.words import ngettext

ALWAYS_SAID = ("activation", "blocks", "optimizer", "lr", "dataset", "batch_size", "steps")
_MOST = 4  # replays of a lesson's runs, which may be dozens


def compared(runs: Sequence[Run[Any]], quantity: str = "weight_grad_rms", home: str | None = None) -> Shared:
    """What the page Compare shows of them. Raises KeyError for a quantity that one of them does not have."""
    named = names_of(runs)
    if missing := [run.id for run in runs if quantity not in run.history.quantities]:
        raise KeyError(f"{quantity} in {missing}")
    rows, common, otherwise = told(named)
    lenets, chance = all_lenets(runs), common_chance(runs)
    share = None if chance is None else math.exp(-chance)
    limits = ranges_of(quantity, all(run.watched for run in runs))[0]
    layers = None if lenets else {name: run.recipe.layout.names for name, run in named.items()}
    ends = {_("Profiles over depth at the start"): False, _("Profiles over depth at the end"): True}
    profiles = {}
    for title, last in ends.items():
        values = {name: quantity_at(run, quantity, last=last) for name, run in named.items()}
        profiles[title] = profile_figure(values, quantity, names=layers)
    blocks = [
        table(rows), *text(common, otherwise),
        figure(loss_figure(named, chance), _("Training loss over steps"), _(HOW_TO_READ["loss"]) if lenets else ""),
        figure(accuracy_figure(named, share), _("Accuracy over steps"), _(HOW_TO_READ["accuracy"]) if lenets else ""),
        *(figure(each, title, _(HOW_TO_READ["profile"])) for title, each in profiles.items()),
        figure(heatmaps_figure(named, quantity, limits), _("Heatmaps of all runs"), _(HOW_TO_READ["heatmap"])),
    ]  # fmt: skip
    one, *others = named.values()
    if len(others) == 1 and set(one.recipe.layout.names) & set(others[0].recipe.layout.names):
        difference = difference_figure(one, others[0], quantity)
        blocks.append(figure(difference, _("Difference of two heatmaps"), _(HOW_TO_READ["difference"])))
    title = ngettext("{n} run compared", "{n} runs compared", len(runs)).format(n=len(runs))
    way = back("compare", home, {"runs": ",".join(run.id for run in runs)})
    blocks += [heading(_("Each of them")), replay(runs, named), *way]
    return Shared(title, blocks, runs, home)


def lesson_shared(
    lesson: Lesson, runs: Sequence[Run[Any]], prediction: str | None, dataset: str, home: str | None = None
) -> Shared:
    """The outcome of a lesson, all of whose runs these are. `prediction`: one that it offers."""
    finding = lesson.conclude(runs)
    mark = {True: "✓", False: "✗", None: "?"}
    source = _("The article says: {claim}") if lesson.claim else _("Theory says: {claim}")
    blocks: list[Block] = [heading(_(lesson.question))]
    if prediction is not None:
        right = lesson.judge(prediction, finding)
        blocks += text(_("Predicted: {answer}").format(answer=answer_text(lesson, prediction)))
        if right is not None:
            blocks += text(_("This is what happened, or close to it.") if right else _("It went another way."))
    blocks += text(
        _("Measured: {answer}").format(answer=measured_text(lesson, finding)), finding.answer_text,
        source.format(claim=_(lesson.says)),
        _("In these runs: {result} — {meaning}.").format(result=_(finding.result), meaning=_(RESULTS[finding.result])),
    )  # fmt: skip
    head = [_("held"), _("statement"), _("measured")]
    blocks.append({"kind": "table", "head": head, "rows": [[mark[p.holds], p.statement, p.measured] for p in finding.parts]})
    blocks += [
        figure(each, _(HOW_TO_READ[kind]), _(HOW_TO_READ[kind])) for kind, each in lesson_figures(lesson, list(runs)).items()
    ]
    blocks += [heading(_("Why")), *text(_(lesson.explanation))]
    shown = sorted(runs, key=lambda run: -run.history.steps)[:_MOST]
    blocks += [heading(_("Runs of the lesson")), replay(shown, [f"{net_name(run.recipe)} · {run.recipe.title}" for run in shown])]
    query = {"lesson": lesson.id, "dataset": dataset} | ({} if prediction is None else {"prediction": prediction})
    return Shared(title_of(lesson), [*blocks, *back("lessons", home, query)], shown, home)


def names_of(runs: Sequence[Any]) -> dict[str, Any]:
    """A name for each run, or summary of one, that says what tells it from the others."""
    varied = varied_fields(runs)
    return {
        f"{number} · " + (" · ".join(setting_text(name, getattr(run.recipe, name)) for name in varied) or run.recipe.title): run
        for number, run in enumerate(runs, 1)
    }


def all_lenets(runs: Iterable[Any]) -> bool:
    """Whether they can be told apart by their settings, and judged by what is known of such nets."""
    return all(config_of(run) for run in runs)


def common_chance(runs: Iterable[Any]) -> float | None:
    """The loss of guessing, where it is the same for all of them."""
    chances = {chance_of(run.recipe) for run in runs}
    return chances.pop() if len(chances) == 1 else None


def varied_fields(runs: Sequence[Any]) -> list[str]:
    """Names of the settings in which they differ; none where one of them has no such settings."""
    return [name for name in FIELDS if len({getattr(run.recipe, name) for run in runs}) > 1] if all_lenets(runs) else []


def told(named: Mapping[str, Run[Any]]) -> tuple[list[dict[str, Any]], str, str]:
    """A row for each run; what they have in common; and a sentence if they were not computed alike."""
    runs = list(named.values())
    lenets, varied, rows = all_lenets(runs), varied_fields(runs), []
    for name, run in named.items():
        history = run.history.snapshot()
        row = {_("run"): name.split(" · ")[0]}
        row |= {} if lenets else {_("net"): run.recipe.title}
        row |= {_(FIELDS[field].spec.label): shown(getattr(run.recipe, field)) for field in varied}
        rows.append(row | {
            _("status"): _(str(run.status)), _("steps"): history.steps,
            _("last loss"): f"{history.loss[-1]:.4g}" if history.steps else "—",
            _("test accuracy"): f"{history.tests[-1][1]:.1%}" if history.tests else "—",
            _("gradients"): _(str(headline(run)[0])),
        })  # fmt: skip
    common = otherwise = ""
    if lenets:
        same = [
            setting_text(name, getattr(runs[0].recipe, name)) for name, field in FIELDS.items()
            if name not in varied and (name in ALWAYS_SAID or getattr(runs[0].recipe, name) != field.default)
        ]  # fmt: skip
        common = _("In common: {settings}.").format(settings=" · ".join(same))
    computed = {name.split(" · ")[0]: run.arithmetic for name, run in named.items() if run.history.steps}
    if len(set(computed.values())) > 1:
        otherwise = _(
            "Not computed alike, so these runs may differ, a little at first, by more than their settings: {runs}."
        ).format(runs="; ".join(f"{number}: {arithmetic_text(arithmetic)}" for number, arithmetic in computed.items()))
    return rows, common, otherwise


def shown(value: object) -> str:
    """A setting in the table: switches and changes in the reader's language, all else by its word."""
    if isinstance(value, tuple):
        return setting_text("changes", value)
    return (_("on") if value else _("off")) if isinstance(value, bool) else to_word(value)


def heading(words: str) -> Block:
    return {"kind": "heading", "text": words}


def text(*words: str) -> list[Block]:
    return [{"kind": "text", "text": each} for each in words if each]


def table(rows: Sequence[Mapping[str, Any]]) -> Block:
    return {"kind": "table", "head": list(rows[0]), "rows": [[str(cell) for cell in row.values()] for row in rows]}


def figure(drawn: Any, label: str, read: str) -> Block:
    """`read`: how to read it."""
    return {"kind": "figure", "figure": drawn.to_json(), "label": label, "id": label, "read": read}
