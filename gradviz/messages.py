"""What is said of a run, an error or a limit, as a code with arguments: kept, sent and compared like that.

The sentence is made where it is read, in the reader's language: `str(message)`.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gradviz.words import gettext, ngettext, number, ratio


def N_(text: str) -> str:  # noqa: N802, the name by which extractors know it
    """Marks a text for the catalogue; translated when it is shown."""
    return text


# How a number is written where Python's own formats will not do: "{gradient:number}".
FORMATS: dict[str, Callable[[Any], str]] = {
    "number": number,
    "word": gettext,  # of a table: a label, a choice
    "choice": lambda words: gettext(" or ").join(words),
    "number1": lambda value: number(value, 1),  # of one digit
    "ratio": ratio,  # given as its log10
    "loss": lambda value: f"{value:.2f}" if value < 100 else number(value, 3),
}


class _Formatter(string.Formatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        return FORMATS[format_spec](value) if format_spec in FORMATS else str(format(value, format_spec))


# Code -> sentence with {arguments}, in English; two sentences where the number {n} decides, for one and for more.
MESSAGES: dict[str, str | tuple[str, str]] = {
    "text": "{text}",  # words that came from elsewhere: the system's, a library's, those of runs kept before there were codes
    "sentences": "{first} {second}",
    # settings of the server
    "range-two": "{first} or {other}",
    "server-setting": "{name} must be {range}, not {given!r}.",
    "server-home": "{name} names the home of a user who is not there: {given!r}.",
    "server-linux": "GRADVIZ_TRAIN_IN must be thread here: trainings in processes of their own need Linux.",
    "server-pin": "GRADVIZ_PIN must have 4 to 64 characters.",
    "server-hosts": "GRADVIZ_HOSTS must be names such as school.example or *.school.example, with commas between them and "
    "without port, not {given!r}.",
    # settings of a net
    "range-choices": "one of {words}",
    "range-switch": "on or off",
    "range-whole": "a whole number from {low} to {high}",
    "range-number": "a number from {low} to {high}",
    "range-optional": "{range}, or default",
    "setting-range": "{label:word} ({name}) must be {range}; {given!r} is not.",
    "default-used": "{problem} The default is used.",
    "given-twice": "{label:word} ({name}) is given more than once ({words}). The last one is used.",
    "no-setting": "{given!r} is not a setting; the settings are {settings}.",
    "no-setting-but": "{given!r} is not a setting, and is left out; did you mean {meant:choice}?",
}


@dataclass(frozen=True)
class Message:
    """Raises KeyError for a code that is not in MESSAGES."""

    code: str
    arguments: Mapping[str, Any] = field(default_factory=dict)  # text, numbers, messages

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

    def to_json(self) -> dict[str, Any]:
        """{"code": …, argument: …}, for the store and for other processes."""
        return {"code": self.code} | {
            name: value.to_json() if isinstance(value, Message) else value for name, value in self.arguments.items()
        }

    @classmethod
    def from_json(cls, kept: object) -> Message:
        """What to_json gave. Anything else, a code of another version too, becomes the text that it is; never raises."""
        if isinstance(kept, dict) and isinstance(kept.get("code"), str) and kept["code"] in MESSAGES:
            arguments = {name: cls.from_json(value) if isinstance(value, dict) else value for name, value in kept.items()}
            del arguments["code"]
            try:
                str(message := cls(kept["code"], arguments))
                return message
            except (KeyError, ValueError, TypeError, IndexError, AttributeError):
                pass
        return text("" if kept is None else str(kept))


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
