"""Cells: servers for a class or a few each, behind one entrance, all of whose trainings go to one cluster (docs/cluster.md).

    cells/_all.env       what all have, written with the first: the cluster's secret, and where its head is
    cells/NAME.env       of one: its path, its teacher's PIN, how many of its runs train at once
    cells/NAME.yaml      its container and its volume
    cells/compose.yaml   all of them, with the cluster and the entrance of deploy/
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from html import escape
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from unicodedata import east_asian_width
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

from gradviz.messages import NOTHING, Message, Told, say, text
from gradviz.record.sender import reason
from gradviz.serve import smallfile
from gradviz.settings import MOST_SLOTS
from gradviz.words import gettext as _
from gradviz.words import language, tag

ALL, COMPOSE = "_all.env", "compose.yaml"
_NAME = r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?"  # as a computer's name may be, which it becomes
_TAKEN = "compose"  # its files are all cells'
_PLAIN = r"[\w./ +@=-]+"  # a path that YAML, Compose and a shell's file of variables all read as it is written
_PIN = r"[A-Za-z0-9._-]{4,64}"  # what a shell, Docker and Kubernetes all read as it is written
_QUOTED = r'"(?:[^"\\\n]|\\.)*"'  # of a label
_ANSWER = 5.0  # seconds in which a cell answers
_AT_ONCE = 32  # cells that are asked at the same time

_OF_ALL = """\
# What all cells have, written by `python -m gradviz cell make`. More settings of the README may stand here, such as
# GRADVIZ_HOSTS=school.example. Who has the token belongs to the cluster.
RAY_AUTH_TOKEN={token}
GRADVIZ_RAY=head:6379
# The image says process, which is for one machine.
GRADVIZ_TRAIN_IN=thread
"""
_OF_ONE = """\
# The cell {name}, written by `python -m gradviz cell make`. More settings of the README may stand here.
STREAMLIT_SERVER_BASE_URL_PATH={name}
GRADVIZ_PIN={pin}
GRADVIZ_WORKERS={slots}
"""
_SERVICES = """\
services:
  cell-{name}:
    extends: {{file: {deploy}/compose.cell.yaml, service: cell}}
    env_file: [_all.env, {name}.env]
    volumes: ["cell-{name}:/data"]
volumes:
  cell-{name}:
"""
_TOGETHER = """\
# docker compose -f cells/compose.yaml up --build --detach     `python -m gradviz cell make` adds a line for each cell.
name: gradviz-cells
include:
  - {deploy}/compose.cluster.yaml
"""
# Where Compose reads it, and only in a folder that is not `cells` beside deploy/: compose.cluster.yaml reads _all.env there.
_HERE = """\
CELLS='{folder}'
"""


class CellError(Told, ValueError):
    """What a cell cannot be called or have."""


def make(folder: Path, name: str, slots: int, pin: str | None = None) -> str:
    """Writes the files of another cell and returns its PIN, one of its own if none is given. Overwrites nothing.
    Raises CellError, or OSError."""
    if not re.fullmatch(_NAME, name, re.ASCII) or name == _TAKEN:
        raise CellError(say("cell-name", given=name[:60]))
    if not 1 <= slots <= MOST_SLOTS:
        raise CellError(say("cell-slots", most=MOST_SLOTS, given=slots))
    if pin is not None and not re.fullmatch(_PIN, pin, re.ASCII):
        raise CellError(say("cell-pin"))  # and is not repeated here
    pin = pin or secrets.token_hex(6)
    deploy, is_usual = _deploy(folder)
    folder.mkdir(parents=True, exist_ok=True)
    contents = {ALL: _OF_ALL.format(token=secrets.token_hex()), COMPOSE: _TOGETHER.format(deploy=deploy)}
    for file, content in (contents if is_usual else {**contents, ".env": _HERE.format(folder=folder.absolute())}).items():
        if not (folder / file).exists():
            _write(folder / file, content)
    together = _with((folder / COMPOSE).read_text(encoding="utf-8"), f"  - {name}.yaml\n")
    try:
        _write(folder / f"{name}.env", _OF_ONE.format(name=name, pin=pin, slots=slots))
    except FileExistsError:
        raise CellError(say("cell-there", name=name, file=folder / f"{name}.env")) from None
    _write(folder / f"{name}.yaml", _SERVICES.format(name=name, deploy=deploy))
    smallfile.write_bytes(folder / COMPOSE, together.encode(), 0o600)
    return pin


def _deploy(folder: Path) -> tuple[str, bool]:
    """deploy/ as the files of this folder name it, and whether the folder is `cells` beside it. Raises CellError."""
    folder, own = folder.absolute(), Path(__file__).parents[1] / "deploy"
    is_beside = (folder.parent / "deploy" / "compose.cluster.yaml").exists() or not own.is_dir()
    is_usual = is_beside and folder.name == "cells"
    if not is_usual and not re.fullmatch(_PLAIN, f"{folder}{own}"):
        raise CellError(say("cell-folder", folder=folder))
    return "../deploy" if is_beside else str(own), is_usual


def _with(text: str, line: str) -> str:
    """`text` with another line at the end of its list `include`, whatever else somebody has written there. Raises CellError."""
    lines = text.splitlines(keepends=True)
    place = next((k for k, each in enumerate(lines) if each.rstrip() == "include:"), None)
    if place is None:
        raise CellError(say("cell-include", file=COMPOSE))
    place += 1
    while place < len(lines) and re.match(r"\s*(- |#|$)", lines[place]):
        place += 1
    while not lines[place - 1].strip():  # before the gap, if there is one
        place -= 1
    before = "".join(lines[:place])
    return before + "\n" * (not before.endswith("\n")) + line + "".join(lines[place:])


def _write(path: Path, content: str) -> None:
    """A new file for nobody else's eyes. Raises FileExistsError."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(content)


@dataclass(frozen=True)
class Load:
    """A cell and what it says of itself; its `figures` are those of /metrics, none if it does not answer."""

    name: str
    quota: str  # GRADVIZ_WORKERS
    figures: dict[str, float] = field(default_factory=dict)
    trouble: Message = NOTHING

    def of(self, figure: str) -> float | None:
        return self.figures.get(f"gradviz_{figure}")


def loads(folder: Path, at: str) -> list[Load]:
    """Of every cell of the folder, asked at the entrance `at`, such as http://127.0.0.1:8501. Raises CellError."""
    if not re.match("https?://[^/]", at):
        raise CellError(say("cell-at", given=at[:60]))
    names = sorted(path.stem for path in folder.glob("*.env") if re.fullmatch(_NAME, path.stem, re.ASCII))
    if not names:
        raise CellError(say("cell-none", folder=folder))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(partial(_load, folder, at.rstrip("/")), names))


def _load(folder: Path, at: str, name: str) -> Load:
    told = partial(Load, name, _quota(folder / f"{name}.env"))
    opener = build_opener(ProxyHandler({}))  # the entrance is near
    try:
        with opener.open(f"{at}/{name}/metrics", timeout=_ANSWER) as answer:
            figures = read(answer.read(1_000_000).decode(errors="replace"))
        if not figures:
            return told(trouble=say("cell-strange"))
        try:
            opener.open(f"{at}/{name}/ready", timeout=_ANSWER).close()
        except HTTPError as error:  # what is wrong with it, in its own words
            return told(figures, text(" ".join(error.read(300).decode(errors="replace").split())))
        return told(figures)
    except HTTPError as error:
        return told(trouble=say("cell-status", status=error.code))
    except (OSError, HTTPException, ValueError) as error:
        return told(trouble=say("cell-silent", reason=reason(error)))


def _quota(path: Path) -> str:
    """Empty if the file does not say, or may not be read."""
    with suppress(OSError, UnicodeDecodeError):
        if found := re.search(r"^GRADVIZ_WORKERS=(\d{1,9})\s*$", path.read_text(encoding="utf-8"), re.MULTILINE):
            return found[1]
    return ""


def read(exposed: str) -> dict[str, float]:
    """Name with labels -> value, of gradviz's own in Prometheus' text format."""
    labels = rf"\{{(?:\w+={_QUOTED},?)*\}}"
    lines = re.findall(rf"^(gradviz_\w+(?:{labels})?) ([-+.\deE]+|NaN|[-+]?Inf)$", exposed, re.MULTILINE)
    return {name: float(value) for name, value in lines}


def table(cells: list[Load]) -> list[list[str]]:
    """A heading, a row for each cell, and one for all together."""
    rows = [[
        _("cell"), _("pages open"), _("runs at work"), _("slots"), _("quota"), _("runs that wait"), _("computers"),
        _("runs on disk"), _("disk free"), _("state"),
    ]]  # fmt: skip
    for cell in cells:
        away = cell.of('computers{state="not_ready"}')
        computers = _whole(cell.of('computers{state="ready"}')) + (f" (−{away:.0f})" if away else "")
        rows.append([
            cell.name, _whole(cell.of("pages_open")), _whole(cell.of('runs{status="running"}'), "0" * bool(cell.figures)),
            _whole(cell.of("workers")), cell.quota, _whole(cell.of("queue_length")), computers,
            _bytes(cell.of('disk_bytes{of="runs"}')), _bytes(cell.of('disk_bytes{of="free"}')),
            str(cell.trouble) if cell.trouble else _("ready"),
        ])  # fmt: skip
    there = sum(not cell.trouble for cell in cells)
    quotas = sum(int(cell.quota or 0) for cell in cells)
    rows.append([
        _("all"), _whole(_sum(cells, "pages_open")), _whole(_sum(cells, 'runs{status="running"}')), "", f"{quotas}",
        _whole(_sum(cells, "queue_length")), "", _bytes(_sum(cells, 'disk_bytes{of="runs"}')), "",
        _("{n} of {all} ready").format(n=there, all=len(cells)),
    ])  # fmt: skip
    return rows


def computers(cells: list[Load]) -> list[list[str]]:
    """A heading and a row for each computer of their cluster, as the first cell sees it that knows it; empty without one."""
    found: dict[str, list[str]] = {}
    for cell in cells:
        for figure, slots in cell.figures.items():
            if said := re.fullmatch(rf'gradviz_computer_slots\{{computer=({_QUOTED}),state="(\w+)"\}}', figure):
                name = re.sub(r"\\(.)", lambda each: {"n": " "}.get(each[1], each[1]), said[1][1:-1])
                trainings = _whole(cell.figures.get(figure.replace("_slots", "_trainings", 1)))
                state = _("ready") if said[2] == "ready" else _("not ready")
                found.setdefault(name, [name, trainings, _whole(slots), state])
    heading = [_("computer"), _("runs at work"), _("slots"), _("state")]
    return [heading, *(found[name] for name in sorted(found))] if found else []


def overbooked(cells: list[Load]) -> str:
    """That the quotas are more than there are slots; empty if they are not, or nobody knows."""
    quotas, slots = sum(int(cell.quota or 0) for cell in cells), sum(int(row[2]) for row in computers(cells)[1:])
    if not 0 < slots < quotas:
        return ""
    return _(
        "The quotas are {quotas} together, and the computers have {slots} slots: when all cells are busy, trainings share cores."
    ).format(quotas=quotas, slots=slots)


def aligned(rows: list[list[str]]) -> Iterator[str]:
    """The rows as lines; the first column and the last to the left, figures to the right."""
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        name, *figures, state = row
        middle = (" " * (width - _width(each)) + each for each, width in zip(figures, widths[1:-1], strict=True))
        yield "  ".join([name + " " * (widths[0] - _width(name)), *middle, state]).rstrip()


def _width(words: str) -> int:
    """Of a terminal's columns: Chinese signs take two."""
    return sum(2 if east_asian_width(sign) in "WF" else 1 for sign in words)


def _sum(cells: Iterable[Load], figure: str) -> float:
    return sum(cell.of(figure) or 0.0 for cell in cells)


def _whole(value: float | None, absent: str = "") -> str:
    return absent if value is None else f"{value:.0f}"


def _bytes(value: float | None) -> str:
    return "" if value is None else f"{value / 1e9:.1f} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB"


_PAGE = """<!doctype html><html lang="{language}"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="10"><title>{title}</title><style>:root {{ color-scheme: light dark }}
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem }} table {{ border-collapse: collapse }}
th, td {{ padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #8888; font-variant-numeric: tabular-nums }}
th:first-child, td:first-child, th:last-child, td:last-child {{ text-align: left }}
table:first-of-type tr:last-child {{ font-weight: 600 }} table {{ margin-bottom: 1.5rem }}
</style><h1>{title}</h1>{tables}{notes}</html>"""


def page(*tables: list[list[str]], note: str = "") -> str:
    """The tables as a page that asks again by itself."""
    asked = _("Asked at {time}; again every 10 seconds.").format(time=time.strftime("%H:%M:%S"))
    return _PAGE.format(
        language=tag(language()), title=escape(_("Cells")), tables="".join(map(_html, tables)),
        notes="".join(f"<p>{escape(each)}</p>" for each in (note, asked) if each),
    )  # fmt: skip


def _html(rows: list[list[str]]) -> str:
    lines = ["".join(f"<{'td' if at else 'th'}>{escape(each)}</{'td' if at else 'th'}>" for each in row)
             for at, row in enumerate(rows)]  # fmt: skip
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def pages(look: Callable[[], list[Load]], port: int) -> HTTPServer:
    """Serves `page` of what it finds to this computer alone; one request at a time, in the language and the thread of
    `serve_forever`. Raises OSError."""

    class Answer(BaseHTTPRequestHandler):
        timeout = 2  # seconds; a browser opens connections on which it says nothing

        def do_GET(self) -> None:
            # A foreign page whose name leads here learns nothing.
            if re.sub(r":\d+$", "", self.headers.get("Host", "")) not in ("127.0.0.1", "localhost"):
                return self.send_error(403)
            if self.path != "/":
                return self.send_error(404)
            try:
                found = look()
                shown = page(table(found), *filter(None, [computers(found)]), note=overbooked(found))
            except CellError as error:  # the folder has been emptied
                shown = page([[str(error)]])
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(shown.encode())
            return None

        def log_message(self, format: str, *args: object) -> None:
            pass

    return HTTPServer(("127.0.0.1", port), Answer)
