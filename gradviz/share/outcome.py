"""What a shared file shows of one run: its replay, what is said of it, its settings, and the way back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlencode

from gradviz.diagnosis.examine import Diagnosis
from gradviz.lenet.config import FIELDS, RunConfig, config_of, option
from gradviz.lenet.diagnosis import diagnose
from gradviz.lenet.fields import to_word
from gradviz.record.arithmetic import arithmetic_text
from gradviz.record.run import Run
from gradviz.record.watched import Watched
from gradviz.share.page import Shared
from gradviz.words import gettext as _
from gradviz.words import listed

Block = dict[str, Any]


def run_shared(run: Run[Any], home: str | None = None) -> Shared:
    """`home`: the address of the pages, where the file knows one."""
    blocks = [replay([run]), *said(run), *about(run), *back("", home, {"run": run.id, **_query(run)})]
    return Shared(run.recipe.title, blocks, [run], home)


def replay(runs: Sequence[Run[Any]], names: Iterable[str] | None = None) -> Block:
    return {"kind": "runs", "ids": [run.id for run in runs], "names": list(names or (run.recipe.title for run in runs))}


def said(run: Run[Any]) -> list[Block]:
    """The diagnosis in full."""
    diagnosis = diagnose(run)
    blocks: list[Block] = [{"kind": "text", "text": str(line)} for line in diagnosis.advice]
    for title, lines in sections(diagnosis):
        blocks += [{"kind": "heading", "text": title}, {"kind": "list", "items": lines}]
    return blocks


def sections(diagnosis: Diagnosis) -> list[tuple[str, list[str]]]:
    """Title and lines of each part of it that says anything."""
    parts = (
        (_("Measured"), diagnosis.evidence),
        (_("Likely the cause (theory, not measured)"), diagnosis.likely_cause),
        (_("When it turned"), [_("step {step}: {what}").format(step=step, what=what) for step, what in diagnosis.turned_at]),
    )
    return [(title, [str(line) for line in lines]) for title, lines in parts if lines]


def about(run: Run[Any]) -> list[Block]:
    """Its settings, and what it was computed with."""
    rows = [[_("run"), run.id], [_("Computed with"), arithmetic_text(run.arithmetic)]]
    blocks: list[Block] = [{"kind": "heading", "text": _("Settings")}]
    if config := config_of(run):
        rows = [[_(field.spec.label), to_word(getattr(config, name))] for name, field in FIELDS.items()] + rows
        again = {"kind": "text", "text": _("The same again on a command line:")}
        return [*blocks, {"kind": "table", "head": [], "rows": rows}, again, {"kind": "code", "text": command(config)}]
    if isinstance(recipe := run.recipe, Watched):
        rows = [[_("layers"), str(len(recipe.layout))], [_(FIELDS["optimizer"].spec.label), listed(recipe.optimizers)], *rows]
    return [*blocks, {"kind": "table", "head": [], "rows": rows}]


def back(page: str, home: str | None, query: dict[str, str]) -> list[Block]:
    """The way to the same on the server."""
    if home is None:
        return []
    return [{"kind": "link", "text": _("The same on the pages of gradviz"), "href": f"{home}{page}?{urlencode(query)}"}]


def command(config: RunConfig) -> str:
    """That trains it anew."""
    words = ["python", "-m", "gradviz", "train"]
    for name, word in config.to_query().items():
        words += [option(name)] if FIELDS[name].spec.kind is bool else [option(name), word]
    return " ".join(words)


def _query(run: Run[Any]) -> dict[str, str]:
    config = config_of(run)
    return config.to_query() if config else {}
