"""What a run's gradients do, for any net: what holds, one sentence on it, what was measured, and when it turned.

Why it is so, and what to try next, only they can tell who know the net: they hand it in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gradviz.diagnosis.evidence import evidence
from gradviz.diagnosis.findings import Verdict, findings
from gradviz.diagnosis.sentence import sentence
from gradviz.diagnosis.state import NOTHING_KNOWN, Facts, State
from gradviz.diagnosis.turns import Turn, turns
from gradviz.messages import Message, say
from gradviz.record.recipe import Recipe
from gradviz.record.run import Run


@dataclass(frozen=True)
class Diagnosis:
    """The state of a run at one of its columns. All of it is codes and numbers; `str` of a message is its sentence."""

    findings: tuple[Verdict, ...]  # all that holds, the one that matters most first
    sentence: Message  # one plain sentence with the numbers it rests on
    evidence: tuple[Message, ...] = ()  # measured
    turned_at: tuple[Turn, ...] = ()  # (step, what happened), in order
    likely_cause: tuple[Message, ...] = ()  # theory's part: likely, not measured
    next_experiment: tuple[Message, Recipe] | None = None

    @property
    def verdict(self) -> Verdict:
        return self.findings[0]


def _unexplained(state: State, diagnosis: Diagnosis) -> Diagnosis:
    return diagnosis


def examine(
    run: Run[Recipe],
    column: int | None = None,
    facts: Facts = NOTHING_KNOWN,
    explain: Callable[[State, Diagnosis], Diagnosis] = _unexplained,
) -> Diagnosis:
    """The diagnosis of `run` as it stands, or as it stood at `column` of its history (negative: from the end).

    `explain` adds cause and next experiment to what was found. Reads the record only, so it works during the run, after
    it, and on a run out of the store. Raises IndexError if there is no such column.
    """
    history = run.history.snapshot()
    count = len(history.columns)
    if column is not None and not -count <= column < count:
        raise IndexError(f"column {column} of a history of {count}")
    if not count:
        return Diagnosis((Verdict.WAITING,), say("waits" if run.status.live else "never-began"))
    state = State(run, history, count - 1 if column is None else column % count, facts)
    if not state.seen:
        return Diagnosis((Verdict.WAITING,), say("no-gradient"))
    found = findings(state)
    diagnosis = Diagnosis(found, sentence(state, found[0]), tuple(evidence(state, found)), tuple(turns(state)))
    return explain(state, diagnosis)
