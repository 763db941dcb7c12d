"""A language that nobody speaks, to see what escapes the catalogues: every text in ⟦brackets⟧ and a third longer."""

from __future__ import annotations

import re
from pathlib import Path

from babel.messages.catalog import Catalog
from catalogues import template, write

LANGUAGE = "en_XA"  # as CLDR calls it
LONGER = "ēīōū"
# Codes that stand in every language as they are: words of settings, of a URL or a file, layers, numbers and units.
CODES = re.compile(
    r"""https?://\S+ | python\ -m\ gradviz[ \w-]* | GRADVIZ_\w+ | [\w.-]+\.(?:csv|parquet|zip|json|md|jsonl|spool|py)\b
    | \b(?:stem|block|head|conv|fc|b)\d*(?:\.\w+)*\b | \bdigits\b | \b[a-z]+-[a-z]+\b | [0-9a-f]{4,12}\b | gradviz
    | \b(?:sigmoid|relu|tanh|gelu|silu|adam|sgd|momentum|mnist|fashion|kmnist|default|critical|orthogonal|lsuv|none|floor
      |normalise|feedback|fixed|one|group|layer|auto|cpu|cuda|mps|lr|on|off)\b
    | \b\d*\.?\d+e[-+]?\d+\b | \b(?:SkipInit|ms|s|a|inf|nan|NaN|U|PNG|SVG|CSV|MNIST|PIN|GB|MB)\b | a\*""",
    re.VERBOSE,
)


def spoken(text: str) -> str:
    """`text` in that language; what has no letters stays."""
    if not re.search(r"[^\W\d_]", re.sub(r"\{[^}]*\}|<[^>]*>|%\{[^}]*\}", "", text)):
        return text
    longer = -(-len(re.sub(r"\{[^}]*\}", "", text)) // 3) - 2
    padding = " ".join([LONGER] * (longer // len(LONGER)) + [LONGER[: longer % len(LONGER)]]).strip() if longer > 0 else ""
    body, end = (text[:-1], text[-1]) if text[-1:] in " \n" else (text, "")  # a space at the end belongs to what follows
    return f"⟦{body}{f' {padding}' if len(padding) > 1 else ''}⟧{end}"


def make(folder: Path) -> None:
    """Its catalogue in `folder`, for GRADVIZ_LOCALE."""
    source, made = template(), Catalog(None, domain="gradviz", fuzzy=False, charset="utf-8")
    for message in source:
        if message.id:
            made.add(message.id, tuple(map(spoken, message.id)) if message.pluralizable else spoken(message.id))
    path = folder / LANGUAGE / "LC_MESSAGES" / "gradviz.po"
    path.parent.mkdir(parents=True)
    write(path, made)


def unbracketed(text: str) -> str:
    """What of it stands outside of brackets and is no code: empty if all went through the catalogue."""
    depth, kept = 0, []
    for letter in text:
        depth += (letter == "⟦") - (letter == "⟧")
        if depth == 0 and letter != "⟧":
            kept.append(letter)
    left = CODES.sub(" ", "".join(kept))
    return " ".join(word for word in left.split() if any(map(str.isalpha, word)))
