"""The one door for words on the screen: every text goes through gettext here and comes out in the reader's language.

A language is a folder of gradviz/locale, such as zh_CN/LC_MESSAGES/gradviz.po; the texts themselves are English. Which one
is spoken belongs to the context, of a script run or a request: two people in one server read in two languages.
"""

from __future__ import annotations

import gettext as _gettext
import io
import math
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

ENGLISH = "en"
_FOLDER = Path(__file__).parent / "locale"
_spoken: ContextVar[str] = ContextVar("language", default=ENGLISH)


def language() -> str:
    """What is spoken in this context: "en", or a folder's name such as "zh_CN"."""
    return _spoken.get()


def speak(language: str) -> None:
    """From here on in this context: this script run, this request. A thread that is begun does not inherit it."""
    _spoken.set(language)


@contextmanager
def speaking(language: str) -> Iterator[None]:
    """For a while, in this context."""
    token = _spoken.set(language)
    try:
        yield
    finally:
        _spoken.reset(token)


def gettext(text: str) -> str:
    return _catalogue(_spoken.get()).gettext(text) if text else text  # of "" a catalogue would tell its head


def ngettext(one: str, more: str, n: int) -> str:
    return _catalogue(_spoken.get()).ngettext(one, more, n)


def N_(text: str) -> str:  # the name by which extractors know it
    """Marks a text for the catalogue; translated when it is shown."""
    return text


@cache
def languages() -> tuple[str, ...]:
    """English first, the others by their names."""
    return (ENGLISH, *sorted(_files()))


def found(*wishes: str | None) -> str | None:
    """The first wish that can be met: "zh", "zh-CN", "zh-Hant-TW", "zh_CN.UTF-8" are zh_CN; None if none can."""
    for wish in wishes:
        parts = re.split("[-_.@]", (wish or "")[:40].lower())
        exact = {re.sub("[-_]", "", name.lower()): name for name in languages()}
        for length in range(len(parts), 0, -1):
            if name := exact.get("".join(parts[:length])):
                return name
        if near := [name for name in languages() if re.split("[-_]", name.lower())[0] == parts[0]]:
            return near[0]
    return None


def accepted(header: str | None) -> list[str]:
    """The languages of an Accept-Language header, the dearest first: "de;q=0.5, zh-CN" -> ["zh-CN", "de"]. Never raises."""
    wishes: list[tuple[float, int, str]] = []
    for part in (header or "")[:400].split(","):
        match = re.fullmatch(r"\s*([A-Za-z0-9-]+)\s*(?:;\s*q=([01](?:\.[0-9]{0,3})?)\s*)?", part)
        if match and (weight := float(match[2] or 1)):
            wishes.append((-weight, len(wishes), match[1]))
    return [name for _weight, _place, name in sorted(wishes)]


def word_of(language: str) -> str:
    """In an address: "zh" as long as there is no other Chinese, else "zh-CN"."""
    short = language.split("_")[0]
    return short if sum(name.split("_")[0] == short for name in languages()) == 1 else tag(language)


def tag(language: str) -> str:
    """As HTML has it: "zh-CN"."""
    return language.replace("_", "-")


def name_of(language: str) -> str:
    """In itself."""
    with speaking(language):
        # Words: the name of this language in itself
        return gettext("English")


def _files() -> dict[str, Path]:
    """Language -> its catalogue, .po; a wheel has the .mo alone. Those of the folder GRADVIZ_LOCALE, for who translates, come
    in addition or go before."""
    folders = [_FOLDER, Path(given)] if (given := os.environ.get("GRADVIZ_LOCALE")) else [_FOLDER]
    files = [path for folder in folders for path in folder.glob("*/LC_MESSAGES/gradviz.[mp]o")]
    return {path.parent.parent.name: path.with_suffix(".po") for path in files}


@cache
def _catalogue(language: str) -> _gettext.NullTranslations:
    """Compiled in the set-up; a catalogue that is newer than that is compiled here, which takes a moment."""
    if (path := _files().get(language)) is None:
        return _gettext.NullTranslations()
    compiled = path.with_suffix(".mo")
    if compiled.exists() and (not path.exists() or compiled.stat().st_mtime >= path.stat().st_mtime):
        return _gettext.GNUTranslations(io.BytesIO(compiled.read_bytes()))
    from babel.messages.mofile import write_mo
    from babel.messages.pofile import read_po

    file = io.BytesIO()
    write_mo(file, read_po(io.BytesIO(path.read_bytes())))
    file.seek(0)
    return _gettext.GNUTranslations(file)


def listed(parts: Iterable[str]) -> str:
    """One after the other: 'a, b, c'."""
    # Words: between the things of a list
    return gettext(", ").join(parts)


def linked(clauses: Iterable[str]) -> str:
    """'loss 1.8; loss 2.3'"""
    return gettext("; ").join(clauses)


def sentence(clause: str) -> str:
    """A clause that stands alone: 'Loss 1.8.'"""
    return gettext("{clause}.").format(clause=clause)


def joined(sentences: Iterable[str]) -> str:
    """Sentences after each other."""
    # Words: between two sentences
    return gettext(" ").join(sentence for sentence in sentences if sentence)


# What Streamlit's Markdown takes for markup, and what it makes of plain text afterwards, where a backslash is gone already:
# links, :smile:, :material/icon:, arrows and dashes.
_MARKUP = re.compile(r"[\\`*\[\]<>$~|&]|(?<![^\W_])_|_(?![^\W_])")
_MADE_LATER = re.compile(r"[:@](?=\S)|www(?=\.)|[<~>-](?=\\?[=>-])|^(?=[#=+-]|\d+[.)])", re.IGNORECASE)
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def as_text(text: str) -> str:
    """Markdown that shows `text` as it is, on one line: for what somebody typed, and for words of links, files and the system.

    Some places get an invisible character (U+2060) for that. What turns text about (bidirectional overrides) goes.
    """
    text = " ".join("".join(c if c.isprintable() else " " if c.isspace() else "" for c in text).split())
    return _MADE_LATER.sub("\\g<0>\u2060", _MARKUP.sub(r"\\\g<0>", text))


def power(exponent: float) -> str:
    """10 to a whole power: '10⁻⁸'."""
    return "10" + f"{exponent:.0f}".translate(_SUPERSCRIPT)


def scientific(decades: float, digits: int = 2) -> str:
    """A number given as its log10, which may lie far beyond what a float holds: '6.3·10⁻²²' for -21.2."""
    if not math.isfinite(decades):
        return gettext("exactly 0") if decades < 0 else str(decades)
    exponent = math.floor(decades)
    mantissa = f"{10 ** (decades - exponent):.{digits - 1}f}"
    if float(mantissa) == 10:
        mantissa, exponent = f"{1:.{digits - 1}f}", exponent + 1
    return f"{mantissa}·{power(exponent)}"


def number(value: float, digits: int = 2) -> str:
    """'0.35', '2.2·10⁻²⁵', 'exactly 0', 'inf'."""
    if value == 0:
        return gettext("exactly 0")
    if not math.isfinite(value):
        return str(value)
    if 0.001 <= abs(value) < 10_000:
        return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"
    return ("−" if value < 0 else "") + scientific(math.log10(abs(value)), digits)


def ratio(decades: float) -> str:
    """A ratio given as its log10: '6.3·10⁻²²', and near 1 a plain number: '0.71'."""
    return number(10**decades) if -2 < decades < 2 else scientific(decades)


def duration(seconds: float) -> str:
    """About how long: '40 seconds', '3 minutes'."""
    if seconds < 90:
        n = max(1, round(seconds))
        return ngettext("{n} second", "{n} seconds", n).format(n=n)
    n = round(seconds / 60)
    return ngettext("{n} minute", "{n} minutes", n).format(n=n)
