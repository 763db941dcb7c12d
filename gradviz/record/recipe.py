"""What a run is about, as far as the core asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from gradviz.messages import Message
from gradviz.record.layout import Layout
from gradviz.words import gettext as _


class Recipe(Protocol):
    """Hashable, and never changed. The settings of a deep LeNet are one, another net that was watched is another."""

    @property
    def id(self) -> str:
        """Names the run: letters, digits and hyphens. Equal where it is known that the same numbers come out."""

    @property
    def title(self) -> str:
        """One short line."""

    @property
    def layout(self) -> Layout: ...

    @property
    def steps(self) -> int | None:
        """Asked for; None where nobody knows."""

    def to_dict(self) -> Mapping[str, Any]:
        """All that makes it, as JSON has it. `kind` names what reads it (see RunStore); a deep LeNet's has none."""


class Turn(NamedTuple):
    """What was turned right before a step."""

    step: int
    word: str  # of the settings: "lr 0.0003"
    sentence: Message

    @property
    def mark(self) -> str:
        """The word as the reader says it."""
        name, _space, value = self.word.partition(" ")
        said = {"lr": _("lr"), "optimizer": _("optimizer"), "treatment": _("treatment"), "threshold": _("threshold")}
        return _("{setting} {value}").format(setting=said[name], value=value)


def turns_of(recipe: Recipe) -> Sequence[Turn]:
    """By rising step. Not every recipe knows of such."""
    return getattr(recipe, "turns", ())


R = TypeVar("R", bound=Recipe, covariant=True)  # whose run it is: Run[RunConfig] is one of a deep LeNet
