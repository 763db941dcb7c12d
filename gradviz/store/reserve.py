"""What a full disk leaves possible: kept runs are shown and can be deleted. Room for that is held back while there is some."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

from gradviz.store.schema import PARTS, VERSION, is_complete

NAME = "runs.reserve"
_BYTES = 2**20  # for what lies in the log (LOG pages) to be moved into the file, and for what SQLite needs to open it
LOG = 200  # pages in the log after which they are moved into the file
_ROWS = 20  # deleted at a time, and pages given back: the log of a whole run would not fit
FULL = ("SQLITE_FULL", "SQLITE_IOERR")
UNWRITABLE = (*FULL, "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")


def hold(folder: Path, share: int = 8) -> None:
    """Takes one part in `share` of the room that is left, and no more than it needs, unless some is held already."""
    path = folder / NAME
    try:
        if path.exists():
            return
        size = min(_BYTES, shutil.disk_usage(folder).free // share)
        with path.open("xb") as file:
            file.write(os.urandom(size))  # not zeros, which some disks do not write
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)  # half of it is held for nobody


def release(folder: Path) -> bool:
    """Gives the room back; whether there was any."""
    try:
        (folder / NAME).unlink()
    except OSError:
        return False
    return True


def delete(db: sqlite3.Connection, id: str) -> None:
    """Deletes a run with as short a log as can be. Raises sqlite3.Error; what is deleted then stays so."""
    _shorten(db)
    try:
        db.execute("DELETE FROM runs WHERE id = ?", (id,))
    except sqlite3.OperationalError:
        for table in PARTS:
            query = f"DELETE FROM {table} WHERE rowid IN (SELECT rowid FROM {table} WHERE run = ? LIMIT {_ROWS})"
            while db.execute(query, (id,)).rowcount:
                _shorten(db)
        db.execute("DELETE FROM runs WHERE id = ?", (id,))


def give_back(db: sqlite3.Connection) -> None:
    """Shortens the file by its free pages, as far as the room for that goes: what is left is written over later."""
    try:
        _shorten(db)
        while (free := db.execute("PRAGMA freelist_count").fetchone()[0]) > 0:
            db.executescript(f"PRAGMA incremental_vacuum({_ROWS})")
            _shorten(db)
            if db.execute("PRAGMA freelist_count").fetchone()[0] >= free:
                return
    except sqlite3.OperationalError:
        return


def _shorten(db: sqlite3.Connection) -> None:
    """Moves what is in the log into the file, which may have to grow for it."""
    try:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.OperationalError:
        pass


def opened_for_reading(path: Path) -> sqlite3.Connection:
    """A connection for a disk that takes nothing. Raises sqlite3.Error."""
    error: sqlite3.Error = sqlite3.OperationalError("it cannot be read either")
    # In the exclusive mode the index of the log lies in memory and not in a file; `immutable` needs no lock, but does not
    # see what is in the log.
    for words, mode in (("mode=rw", "EXCLUSIVE"), ("mode=ro&immutable=1", "NORMAL")):
        db = sqlite3.connect(f"{path.absolute().as_uri()}?{words}", uri=True, isolation_level=None, check_same_thread=False)
        try:
            db.execute(f"PRAGMA locking_mode = {mode}")
            db.execute("SELECT count(*) FROM runs").fetchone()
            if db.execute("PRAGMA user_version").fetchone()[0] == VERSION and is_complete(db):
                return db
        except sqlite3.Error as problem:
            error = problem
        db.close()
    raise error
