"""What a run's gradients do, for any net: what holds, one sentence on it, what was measured, and when it turned.

Why it is so, and what to try next, only they can tell who know the net: they hand it in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gradviz.diagnosis.advice import advice
from gradviz.diagnosis.evidence import evidence
from gradviz.diagnosis.findings import Verdict, findings
from gradviz.diagnosis.sentence import sentence
from gradviz.diagnosis.state import Facts, State
from gradviz.diagnosis.turns import Turn, turns
from gradviz.diagnosis.watched import facts_of
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
    advice: tuple[Message, ...] = ()  # of a watched net: what to do next about the first finding
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
    facts: Facts | None = None,
    explain: Callable[[State, Diagnosis], Diagnosis] = _unexplained,
) -> Diagnosis:
    """The diagnosis of `run` as it stands, or as it stood at `column` of its history (negative: from the end).

    `facts`: by default what is known of a watched net. `explain` adds cause and next experiment to what was found. Reads
    the record only, so it works during the run, after it, and on a run out of the store. Raises IndexError if there is no such
    column.
    """
    state = _state(run, column, facts)
    found, words = _headline(run, state)
    if state is None:
        return Diagnosis(found, words)
    if not state.seen:
        return Diagnosis(found, words, advice=tuple(advice(state, found[0])))
    lines = tuple(evidence(state, found))
    return explain(state, Diagnosis(found, words, lines, tuple(turns(state)), tuple(advice(state, found[0]))))


def headline(run: Run[Recipe], column: int | None = None, facts: Facts | None = None) -> tuple[Verdict, Message]:
    """The verdict and the sentence of `examine`, without what lists and cards have no room for."""
    found, words = _headline(run, _state(run, column, facts))
    return found[0], words


def _headline(run: Run[Recipe], state: State | None) -> tuple[tuple[Verdict, ...], Message]:
    if state is None:
        return (Verdict.WAITING,), say("waits" if run.status.live else "never-began")
    found = findings(state)
    return found, sentence(state, found[0])


def _state(run: Run[Recipe], column: int | None, facts: Facts | None) -> State | None:
    """None before the first step. Raises IndexError if there is no such column."""
    history = run.history.snapshot()
    count = len(history.columns)
    if column is not None and not -count <= column < count:
        raise IndexError(f"column {column} of a history of {count}")
    return State(run, history, count - 1 if column is None else column % count, facts or facts_of(run)) if count else None
