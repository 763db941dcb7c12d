"""A watched run as a notebook shows it: a small picture that follows the training, and a link where a server shows all of it.

What stays in a notebook that is put away says when it was true. Only the standard library, and IPython where it asks.
"""

from __future__ import annotations

import base64
import html
import shlex
import struct
import sys
import threading
import time
import urllib.request
import zlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gradviz.record import raster
from gradviz.record.history import History
from gradviz.record.palette import PALETTE
from gradviz.record.quantities import ORDINARY
from gradviz.record.run import Run, Status
from gradviz.record.watched import Watched, fold
from gradviz.words import gettext as _

QUANTITY = "weight_grad_rms"
ADDRESS = "address.txt"  # in a folder of runs: where `gradviz open` serves it
_PORT = "http://127.0.0.1:8501/"  # of a server that was begun in another way
_WIDE, _ROW, _MOST = 120, 6, 240  # columns of the picture; pixels of a row, and of the whole, high
_EVERY = 2.0  # seconds between two pictures


class Shown(Protocol):
    """A watched run."""

    id: str
    path: Path
    status: Status

    @property
    def run(self) -> Run[Watched] | None: ...


def picture(history: History, names: tuple[str, ...]) -> bytes:
    """PNG of the weight gradient, a row for each layer or group of layers, the first at the top; clear: not measured."""
    values = np.maximum.reduceat(history.quantity(QUANTITY), [rows.start for _name, rows in fold(names)], axis=1)
    values = np.maximum.reduceat(values, raster.rows_of(len(values), _WIDE), axis=0)
    colours = np.full((256, 4), 255, np.uint8)
    colours[:, :3] = PALETTE
    colours[raster.ABSENT] = 0
    return png(colours[raster.encode(values, QUANTITY, *ORDINARY)].transpose(1, 0, 2)[::-1])


def png(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    """Of uint8 (rows, columns, 4)."""

    def part(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows, columns, _channels = pixels.shape
    lines = np.concatenate([np.zeros((rows, 1), np.uint8), pixels.reshape(rows, -1)], axis=1)  # each begins with its filter, none
    head = struct.pack(">IIBBBBB", columns, rows, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", zlib.compress(lines.tobytes(), 6)) + part(b"IEND", b"")


def as_html(shown: Shown) -> str:
    """All of it in one element, with no script and nothing from elsewhere."""
    lines = [f"<b>{html.escape(str(shown).partition(chr(10))[0])}</b>"]
    when = time.strftime("%Y-%m-%d %H:%M:%S")
    if shown.run and shown.run.history.steps:
        history, names = shown.run.history.snapshot(), shown.run.recipe.layout.names
        rows = min(_MOST, _ROW * len(fold(names)))
        source = base64.b64encode(picture(history, names)).decode()
        told, loss = _("Steps: {steps}. Layers: {layers}. As of {when}."), history.latest[0]
        if loss == loss:
            told = _("Steps: {steps}. Layers: {layers}. Loss: {loss:.4g}. As of {when}.")
        lines.append(html.escape(told.format(steps=history.steps, layers=len(names), loss=loss, when=when)))
        about = html.escape(_("Weight gradient of every layer over the steps, the first layer at the bottom"))
        style = f"width:480px;height:{rows}px;image-rendering:pixelated;border:1px solid #9a9a9a"
        lines.append(f'<img alt="{about}" title="{about}" style="{style}" src="data:image/png;base64,{source}">')
        legend = _("Weight gradient, a row for each layer: dark 10⁻⁸, bright 10²; white is exactly 0, purple below, orange "
                   "above, red not finite.")  # fmt: skip
        lines.append(f"<small>{html.escape(legend)}</small>")
    else:
        lines.append(html.escape(_("No step yet; as of {when}").format(when=when)))
    lines.append(_where(shown))
    return "<div>" + "<br>".join(lines) + "</div>"


def _where(shown: Shown) -> str:
    folder = shown.path.parent.parent
    if address := serving(shown.id, folder):
        link = html.escape(f"{address}?run={shown.id}")
        return f'<a href="{link}" target="_blank">{html.escape(_("Every layer, live"))}</a>'
    place = f'"{folder}"' if sys.platform == "win32" else shlex.quote(str(folder))
    return f"<small>{html.escape(_('All of it: {command}').format(command=f'gradviz open {place}'))}</small>"


def serving(run_id: str, folder: Path) -> str:
    """The address of a server of this machine that shows the run, or ''."""
    try:
        told = (folder / ADDRESS).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        told = ""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for address in dict.fromkeys((told, _PORT)):
        try:
            if address.startswith("http://"):
                with direct.open(f"{address}api/runs/{run_id}", timeout=0.5) as answer:
                    if answer.status == 200:
                        return address
        except (OSError, ValueError):
            continue
    return ""


def show(shown: Shown) -> None:
    """Displays it and, in a notebook, follows it to its end from a thread of its own."""
    from IPython import get_ipython
    from IPython.display import display

    def bundle() -> dict[str, str]:
        return {"text/html": as_html(shown), "text/plain": str(shown)}

    live = shown.status.live and hasattr(get_ipython(), "kernel")  # a terminal would print it again and again
    handle = display(bundle(), raw=True, display_id=live or None)

    def follow() -> None:
        try:
            while shown.status.live:
                time.sleep(_EVERY)
                handle.update(bundle(), raw=True)
        except Exception:  # the notebook is gone, and the training goes on
            return

    if live:
        threading.Thread(target=follow, name="gradviz-notebook", daemon=True).start()
