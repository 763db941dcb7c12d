"""What a lesson is called, and its answers in words."""

from __future__ import annotations

from gradviz.lenet.lessons.lesson import Finding, Lesson
from gradviz.words import gettext as _
from gradviz.words import number


def title_of(lesson: Lesson) -> str:
    return (_("Claim {n}: ").format(n=lesson.claim) if lesson.claim else "") + _(lesson.title)


def answer_text(lesson: Lesson, word: str) -> str:
    return _(lesson.choices[word]) if lesson.choices else counted(lesson, word)


def counted(lesson: Lesson, value: str) -> str:
    # Words: a number and what it counts: "14 convolutions", "1.16 per convolution"
    return _("{n} {unit}").format(n=value, unit=_(lesson.number[2] if lesson.number else ""))


def measured_text(lesson: Lesson, finding: Finding) -> str:
    if finding.answer is None:
        return _("no answer in these runs")
    if isinstance(finding.answer, str):
        return _(lesson.choices[finding.answer])
    value = f"{finding.answer:.0f}" if float(finding.answer).is_integer() else number(finding.answer, 3)
    return counted(lesson, value)
