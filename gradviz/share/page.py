"""The file itself: texts, figures and runs packed into one HTML page, with the scripts that the pages of the server have too.

What somebody typed, a net's or a layer's name say, stands in it as base64 alone, and in the title, escaped; its scripts are
known to it by their hashes, so that a browser runs nothing else, whatever a name says, and fetches nothing.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np

from gradviz.charts.draft import INK
from gradviz.record.run import Run
from gradviz.share.kept import Body, has_all, kept
from gradviz.web import wire
from gradviz.web.scripts import bundle, plotly_text
from gradviz.web.texts import picture_words, plotly_words, shared_words, unloaded
from gradviz.words import gettext as _
from gradviz.words import language, tag

_STYLE = Path(__file__).with_name("page.css")
_LONGEST_HOME = 300  # characters
# Plotly and our modules make style elements; what is typed reaches none of them.
_POLICY = (
    "default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)


class Shared(NamedTuple):
    """What a file shows: its title, blocks from top to bottom (see static/shared.js), and the runs that they name."""

    title: str
    blocks: Sequence[dict[str, Any]]
    runs: Sequence[Run[Any]]
    home: str | None = None  # the address of the pages that it leads back to, of safe_home


def written(shared: Shared) -> bytes:
    """The file, in the language of this context."""
    body = Body()
    runs = [{**kept(run, body, len(shared.runs)), "note": _note(run, len(shared.runs))} for run in shared.runs]
    page = {
        "title": shared.title, "blocks": shared.blocks, "home": shared.home, "words": shared_words(),
        "figures": {"words": picture_words(), "plotly_words": plotly_words(), "ink": INK, "unloaded": unloaded()},
    }  # fmt: skip
    header = {"page": page, "runs": runs, "size": body.size}
    content = wire.pack(header, np.frombuffer(b"".join(body.parts), np.uint8))
    return _document(shared.title, content).encode("utf-8", "replace")


def safe_home(given: str) -> str | None:
    """An address that a link may lead to, with a slash at its end; None for any other."""
    try:
        parts = urlsplit(given)
    except ValueError:
        return None
    fine = parts.scheme in ("http", "https") and parts.netloc and len(given) <= _LONGEST_HOME and given.isprintable()
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}/" if fine else None


def _note(run: Run[Any], share: int) -> str:
    if has_all(run, share):
        return ""
    return _("This file has the exact numbers of some steps; between them the profile is that of the nearest, and a cell says "
             "about how large its value is.")  # fmt: skip


def _document(title: str, content: bytes) -> str:
    scripts = {"module": bundle("shared.js"), "plotly": plotly_text()}
    known = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts.values())
    policy = _POLICY.format(scripts=known)
    waiting = _("Opening … A browser of 2023 or later shows this page, without a network, if it may run scripts.")
    return f"""<!doctype html>
<html lang="{tag(language())}" data-lang="{tag(language())}">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="gradviz">
<title>{html.escape(title)}</title>
<style>{_STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
<main><p>{html.escape(waiting)}</p></main>
<script type="text/plain" id="content">{_packed(content)}</script>
<script type="text/plain" id="plotly">{_packed_plotly()}</script>
<script type="module">{scripts["module"]}</script>
</body>
</html>
"""


def _packed(data: bytes) -> str:
    return base64.b64encode(gzip.compress(data, 9, mtime=0)).decode()


@cache
def _packed_plotly() -> str:
    return _packed(plotly_text().encode())
