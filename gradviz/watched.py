"""The kept runs of watched nets as text: what became of each, and of one all its layers at the last step that was measured."""

from __future__ import annotations

from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

from gradviz.diagnosis.examine import examine, headline
from gradviz.messages import say
from gradviz.record.measuring import why_missing
from gradviz.record.run import Run
from gradviz.record.sender import Delivery, NotSent, reason, receiver
from gradviz.record.spool import FOLDER, SUFFIX, SpoolError, read_spool
from gradviz.record.watched import Watched, as_text, last_measured
from gradviz.words import gettext as _


def lines(place: Path) -> Iterator[str]:
    """Of a file, or of each in the folder `watched` of a folder, the oldest first. Raises OSError or SpoolError for a file."""
    if place.is_file():
        yield from _whole(read_spool(place))
        return
    runs: list[Run[Watched]] = []
    for path in sorted((place / FOLDER).glob(f"*{SUFFIX}")):
        try:
            runs.append(read_spool(path))
        except (OSError, SpoolError) as error:
            yield f"{path.name}: {error}"
    if not runs:
        yield _("No run of a watched net is kept in {folder}.").format(folder=place / FOLDER)
    for run in sorted(runs, key=lambda run: run.created):
        yield f"{run.id}  {_headline(run)}"


def send(place: Path, to: str) -> str:
    """Brings the run of a file to a server, and says so. Raises OSError, SpoolError, SettingsError or NotSent."""
    run = read_spool(place)
    address, token = receiver(to)
    try:
        size = Delivery(place, address, token, run.id).bring()
    except (OSError, HTTPException) as error:
        raise NotSent(say("send-not", to=to, error=reason(error))) from None
    return _("{title}: {size:,} bytes are at {to} now.").format(title=run.recipe.title, size=size, to=to)


def _headline(run: Run[Watched]) -> str:
    text = _("{title}: {status} after {steps} steps. {verdict}").format(
        title=run.recipe.title, status=_(str(run.status)), steps=run.history.steps, verdict=headline(run)[1]
    )
    return f"{text} {run.message}" if run.message else text


def _whole(run: Run[Watched]) -> Iterator[str]:
    yield _headline(run)
    if (table := last_measured(run.history)) is not None:
        yield as_text(run.recipe.layout.names, table)
    diagnosis = examine(run)
    for message in (*diagnosis.advice, *diagnosis.evidence):
        yield str(message)
    for layer, reasons in run.missing.items():
        for quantity in reasons:
            yield f"{layer}, {quantity}: {why_missing(run, layer, quantity)}"
