"""Runs of a folder that a server may be using: read beside it, for whoever writes nothing there."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from gradviz.messages import say
from gradviz.record.recipe import R
from gradviz.record.run import Run
from gradviz.store.opening import StoreError, brought_over, moment, prepared, reason
from gradviz.store.rows import Readers
from gradviz.store.store import RunStore


def lent(folder: Path, id: str, readers: Readers[R]) -> Run[R] | None:
    """The run with its records, as they are now; None if there is none that can be read. Raises StoreError."""
    with TemporaryDirectory() as place, _readable(folder) as db:
        store = RunStore(Path(place), readers)
        try:
            with moment(db):
                brought_over(db, store.file.db, only=id)
            return store.load(id)
        finally:
            store.close()


def ids_of(folder: Path, begin: str = "") -> Sequence[str]:
    """Of the runs in the folder whose ids begin so, the newest first. Raises StoreError."""
    with _readable(folder) as db:
        found = db.execute("SELECT id FROM runs WHERE substr(id, 1, ?) = ? ORDER BY created DESC", (len(begin), begin))
        return [str(row["id"]) for row in found]


@contextmanager
def _readable(folder: Path) -> Iterator[sqlite3.Connection]:
    path = folder / "runs.sqlite"
    if not path.is_file():
        raise StoreError(say("store-none", folder=str(folder)))
    try:
        with closing(prepared(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None))) as db:
            yield db
    except sqlite3.Error as error:
        raise StoreError(say("store-unusable", name=str(path), why=reason(error))) from error
