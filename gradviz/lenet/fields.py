"""What a setting means and may be, and how a word becomes its value."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gradviz.messages import Message, Told, say, text


class ConfigError(Told, ValueError):
    """A setting outside what is allowed. `field` names it; the message is one sentence fit for a student."""

    def __init__(self, field: str, message: Message | str):
        super().__init__(text(message) if isinstance(message, str) else message)
        self.field = field

    def __reduce__(self) -> tuple[type[ConfigError], tuple[str, Message]]:
        return ConfigError, (self.field, self.message)


class Sentences(Mapping[str, str]):
    """Word -> teaching sentence of a table's rows, as the table stands when it is asked."""

    def __init__(self, table: Mapping[str, Any], sentence: Callable[[Any], str]):
        self._table, self._sentence = table, sentence

    def __getitem__(self, word: str) -> str:
        return self._sentence(self._table[word])

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)


_BOOLEANS = {"on": True, "off": False, "true": True, "false": False, "1": True, "0": False}


@dataclass(frozen=True)
class Spec:
    """What one setting means and may be: read by the page, the command line, the URL and the validation."""

    kind: type  # bool, int, float, str or tuple
    label: str
    help: str
    choices: Mapping[str, str] | None = None  # word -> teaching sentence
    low: float | None = None  # of a number, and high too
    high: float | None = None
    optional: bool = False  # None is allowed and means "the default of PyTorch"

    @property
    def ends(self) -> tuple[float, float]:
        """(low, high) of a number."""
        assert self.low is not None and self.high is not None
        return self.low, self.high

    @property
    def range_text(self) -> str:
        return str(self.range)

    @property
    def range(self) -> Message:
        """What it may be: 'one of …', 'a whole number from 1 to 1024'."""
        if self.choices:
            return say("range-choices", words=", ".join(self.choices))
        if self.kind is bool:
            return say("range-switch")
        low, high = (str(end) if self.kind is int else f"{end:g}" for end in (self.low, self.high))
        number = say("range-whole" if self.kind is int else "range-number", low=low, high=high)
        return say("range-optional", range=number) if self.optional else number

    def read(self, name: str, given: Any) -> Any:
        """`given` as the setting's own type; words of a URL or command line are understood. Raises ConfigError."""
        refusal = ConfigError(name, say("setting-range", label=self.label, name=name, range=self.range, given=str(given)[:40]))
        if self.optional and (given is None or given in ("default", "")):
            return None
        if self.choices is not None:
            if isinstance(given, str) and given in self.choices:
                return given
            raise refusal
        if self.kind is bool:
            if isinstance(given, bool):
                return given
            if isinstance(given, str) and given.lower() in _BOOLEANS:
                return _BOOLEANS[given.lower()]
            raise refusal
        if isinstance(given, bool) or not isinstance(given, (int, float, str)):
            raise refusal
        try:
            number = float(given)
            if self.kind is int:
                whole = int(given)  # a string such as "12" goes here; "1e3" and "12.5" do not
                if whole != number:
                    raise refusal
                number = whole
        except (ValueError, OverflowError):
            raise refusal from None
        low, high = self.ends
        if not math.isfinite(number) or not low <= number <= high:
            raise refusal
        return number


def setting(default: Any, kind: type, label: str, help: str, **limits: Any) -> Any:
    """A field of a dataclass, with its Spec."""
    return dataclasses.field(default=default, metadata={"spec": Spec(kind, label, help, **limits)})


def specs_of(**fields: Any) -> dict[str, Spec]:
    """Of fields made with `setting`, in the class's own text."""
    return {name: field.metadata["spec"] for name, field in fields.items()}


@dataclass(frozen=True)
class FieldInfo:
    default: Any
    spec: Spec


def field_table(settings: type) -> dict[str, FieldInfo]:
    """Name -> default and Spec of every field of a dataclass made with `setting`, in their order."""
    return {field.name: FieldInfo(field.default, field.metadata["spec"]) for field in dataclasses.fields(settings)}


def to_word(value: Any) -> str:
    """As a URL and a command line have it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None:
        return "default"
    if isinstance(value, float):
        return short if float(short := f"{value:g}") == value else repr(value)  # repr gives the float back exactly
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value)
