"""python -m gradviz share: kept runs, or the file of a watched net, as one page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from gradviz.lenet.config import READERS
from gradviz.messages import Told, say
from gradviz.record.run import Run
from gradviz.record.spool import FOLDER, SUFFIX, read_spool
from gradviz.record.watched import Watched
from gradviz.share.outcome import run_shared
from gradviz.share.page import safe_home, written
from gradviz.store.lending import ids_of, lent
from gradviz.store.rows import Readers


class NotShared(Told, ValueError):
    """The message says why."""


def share(name: str, folder: Path, out: Path, home: str | None) -> int:
    """Writes the file `out`, whole or not at all, and says how many bytes. `name`: how an id in the folder of runs begins, or
    the .spool file of a watched net. Raises NotShared, StoreError, SpoolError or OSError."""
    link = safe_home(home) if home else None
    if home and link is None:
        raise NotShared(say("share-home", given=home[:80]))
    run = found(name, folder)
    if not run.history.steps:
        raise NotShared(say("share-no-step", run=run.id))
    data = written(run_shared(run, link))
    part = out.with_name(f"{out.name[:200]}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        os.replace(part, out)
    finally:
        part.unlink(missing_ok=True)
    return len(data)


def found(name: str, folder: Path) -> Run[Any]:
    if name.endswith(SUFFIX) or os.sep in name:
        return read_spool(Path(name))
    spooled = folder / FOLDER / f"{name}{SUFFIX}"
    ids = ids_of(folder, name) if name and (folder / "runs.sqlite").exists() or not spooled.is_file() else []
    if not ids and spooled.is_file():
        return read_spool(spooled)
    if len(ids) != 1:
        some = ", ".join((ids or ids_of(folder))[:5]) or "–"
        raise NotShared(say("share-many" if ids else "share-none", given=name[:80], folder=str(folder), some=some))
    readers: Readers[Any] = {**READERS, "watched": Watched.from_dict}
    run: Run[Any] | None = lent(folder, ids[0], readers)
    if run is None:
        raise NotShared(say("share-unreadable", run=ids[0]))
    return run
