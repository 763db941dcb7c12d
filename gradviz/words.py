"""The one door for words on the screen: gettext catalogues in gradviz/locale/<language>/LC_MESSAGES/gradviz.mo.

Today there is none, so every text is its own English self.
"""

from __future__ import annotations

import gettext as _gettext
import math
import re
from pathlib import Path

_catalogue = _gettext.translation("gradviz", Path(__file__).parent / "locale", fallback=True)
gettext, ngettext = _catalogue.gettext, _catalogue.ngettext


def N_(text: str) -> str:  # the name by which extractors know it
    """Marks a text for the catalogue; translated when it is shown."""
    return text


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
