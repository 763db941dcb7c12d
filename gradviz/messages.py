"""What is said of a run, an error or a limit, as a code with arguments: kept, sent and compared like that.

The sentence is made where it is read, in the reader's language: `str(message)`.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradviz.sentences import MESSAGES as MESSAGES
from gradviz.words import gettext, ngettext, number, ratio

# How a number is written where Python's own formats will not do: "{gradient:number}".
FORMATS: dict[str, Callable[[Any], str]] = {
    "number": number,
    "word": gettext,  # of a table: a label, a choice
    "choice": lambda words: gettext(" or ").join(words),
    "list": lambda messages: gettext("; ").join(map(str, messages)),
    "clause": lambda message: str(message).rstrip(".。"),  # a sentence within another
    "number1": lambda value: number(value, 1),  # of one digit
    "ratio": ratio,  # given as its log10
    "loss": lambda value: f"{value:.2f}" if value < 100 else number(value, 3),
}


class _Formatter(string.Formatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        return FORMATS[format_spec](value) if format_spec in FORMATS else str(format(value, format_spec))


@dataclass(frozen=True)
class Message:
    """Raises KeyError for a code that is not in MESSAGES."""

    code: str
    arguments: Mapping[str, Any] = field(default_factory=dict)  # text, numbers, messages, lists of them

    def __post_init__(self) -> None:
        MESSAGES[self.code]

    def __str__(self) -> str:
        text = MESSAGES[self.code]
        if isinstance(text, tuple):
            sentence = ngettext(*text, self.arguments["n"])
        else:
            sentence = gettext(text)
        return _Formatter().vformat(sentence, (), self.arguments)

    def __bool__(self) -> bool:
        """Whether it says anything."""
        return self.code != "text" or bool(self.arguments["text"])

    def without_places(self) -> Message:
        """For who is not to know where things lie on the server: of an absolute path among the arguments only the last name."""

        def shown(value: Any) -> Any:
            if isinstance(value, Message):
                return value.without_places()
            if isinstance(value, (list, tuple)):
                return [shown(each) for each in value]
            return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value

        return Message(self.code, {name: shown(value) for name, value in self.arguments.items()})

    def to_json(self) -> dict[str, Any]:
        """{"code": …, argument: …}, for the store and for other processes."""
        return {"code": self.code} | {name: _to_json(value) for name, value in self.arguments.items()}

    @classmethod
    def from_json(cls, kept: object) -> Message:
        """What to_json gave. Anything else, a code of another version too, becomes the text that it is; never raises."""
        try:
            if isinstance(kept, dict) and isinstance(kept.get("code"), str) and kept["code"] in MESSAGES:
                arguments = {name: _from_json(value) for name, value in kept.items() if name != "code"}
                str(message := cls(kept["code"], arguments))
                return message
        except Exception:  # of whatever a file holds: arguments that do not fit, too large for their format, nested too deep
            pass
        try:
            return text("" if kept is None else str(kept))
        except Exception:  # Python writes out neither what is nested too deep nor the longest numbers
            return text("…")


def _to_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_to_json(each) for each in value]
    return value.to_json() if isinstance(value, Message) else value


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_json(each) for each in value]
    return Message.from_json(value) if isinstance(value, dict) else value


def say(code: str, /, **arguments: Any) -> Message:
    """`say("queue-full", most=3)`"""
    return Message(code, arguments)


def text(words: str) -> Message:
    """Words that are no message of this program."""
    return Message("text", {"text": words})


NOTHING = text("")


class Told(Exception):
    """An error whose message is for people: `str(error)` is a sentence in their language."""

    def __init__(self, message: Message):
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return str(self.message)
