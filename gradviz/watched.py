"""The kept runs of watched nets as text: what became of each, and of one all its layers at the last step that was measured."""

from __future__ import annotations

from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

from gradviz.diagnosis.examine import examine, headline
from gradviz.messages import Told, say
from gradviz.record.measuring import why_missing
from gradviz.record.sender import Delivery, Rejected, is_address, reason
from gradviz.record.spool import SUFFIX, Spool, SpoolError, read_spool
from gradviz.record.watched import as_text, last_measured
from gradviz.settings import ingest_token
from gradviz.words import gettext as _


def lines(place: Path) -> Iterator[str]:
    """Of a file, or of each in the folder `watched` of a folder, the oldest first. Raises OSError or SpoolError for a file."""
    if place.is_file():
        yield from _whole(read_spool(place))
        return
    spools: list[Spool] = []
    for path in sorted((place / "watched").glob(f"*{SUFFIX}")):
        try:
            spools.append(read_spool(path))
        except (OSError, SpoolError) as error:
            yield f"{path.name}: {error}"
    if not spools:
        yield _("No run of a watched net is kept in {folder}.").format(folder=place / "watched")
    for spool in sorted(spools, key=lambda spool: spool.run.created):
        yield f"{spool.run.id}  {_headline(spool)}"


class NotSent(Told):
    """Why a file has not arrived at another machine's server."""


def send(place: Path, to: str) -> str:
    """Brings the run of a file to a server, and says so. Raises OSError, SpoolError, SettingsError or NotSent."""
    spool = read_spool(place)
    if not is_address(to):
        raise NotSent(say("watch-to", to=to[:100]))
    if not (token := ingest_token()):
        raise NotSent(say("watch-to-token"))
    try:
        size = Delivery(place, to, token, spool.run.id).bring()
    except Rejected as rejected:
        raise NotSent(rejected.message) from None
    except (OSError, HTTPException) as error:
        raise NotSent(say("send-not", to=to, error=reason(error))) from None
    return _("{title}: {size:,} bytes are at {to} now.").format(title=spool.run.recipe.title, size=size, to=to)


def _headline(spool: Spool) -> str:
    run = spool.run
    text = _("{title}: {status} after {steps} steps. {verdict}").format(
        title=run.recipe.title, status=_(str(run.status)), steps=run.history.steps, verdict=headline(run)[1]
    )
    return f"{text} {run.message}" if run.message else text


def _whole(spool: Spool) -> Iterator[str]:
    run = spool.run
    yield _headline(spool)
    if (table := last_measured(run.history)) is not None:
        yield as_text(run.recipe.layout.names, table)
    diagnosis = examine(run)
    for message in (*diagnosis.advice, *diagnosis.evidence):
        yield str(message)
    for layer, reasons in run.missing.items():
        for quantity in reasons:
            yield f"{layer}, {quantity}: {why_missing(run, layer, quantity)}"
