"""How the file of runs is opened: claimed, brought up to date, salvaged, or begun anew from what a lost one held."""

from __future__ import annotations

import itertools
import json
import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from gradviz.messages import NOTHING, Message, Told, say, text
from gradviz.record.recipe import Recipe
from gradviz.record.run import Status
from gradviz.store import reserve
from gradviz.store.rows import Recipes, Sound, Unsound, is_whole, message_text
from gradviz.store.salvage import salvaged
from gradviz.store.schema import PARTS, VERSION, bring_up_to_date, is_complete, is_ours
from gradviz.store.writeahead import mend

log = logging.getLogger("gradviz")

INTERRUPTED = say("interrupted")

_REASONS = {
    "SQLITE_BUSY": "sqlite-busy",
    "SQLITE_READONLY": "sqlite-readonly",
    "SQLITE_PERM": "sqlite-readonly",
    "SQLITE_FULL": "sqlite-full",
    "SQLITE_CANTOPEN": "sqlite-cantopen",
    "SQLITE_IOERR": "sqlite-ioerr",
    "SQLITE_CORRUPT": "sqlite-corrupt",
    "SQLITE_NOTADB": "sqlite-notadb",
}
_PART, _NEW = "runs-new.part", "runs-new.sqlite"  # a new file while it is being written, and once it is whole
_DAMAGE = ("SQLITE_CORRUPT", "SQLITE_NOTADB")


class StoreError(Told):
    """The store cannot be used; the message says why."""


@dataclass(frozen=True)
class Opened:
    db: sqlite3.Connection
    told: Message = NOTHING  # what became of the file
    reading_only: Message = NOTHING  # why nothing can be written


def opened(path: Path, recipes: Recipes[Recipe]) -> Opened:
    """The file, a new one, or what could be salvaged. For reading only, if the disk is full or may not be written."""
    try:
        return _opened(path, recipes)
    except sqlite3.OperationalError as error:
        if code(error) not in reserve.UNWRITABLE or not path.is_file():
            raise
        first = error
    if reserve.release(path.parent):
        try:
            return _opened(path, recipes)
        except sqlite3.OperationalError:
            pass  # it was not enough
    db = prepared(reserve.opened_for_reading(path))
    log.warning("event=store-reading-only why=%s", json.dumps(str(first)))
    return Opened(db, reading_only=say("store-reading-only", name=str(path), why=reason(first)))


def _opened(path: Path, recipes: Recipes[Recipe]) -> Opened:
    new = path.with_name(_NEW)
    if new.exists() and not path.exists():
        new.rename(path)  # the last server was ended between the two
    if not _begins_right(path):
        log.warning("event=store-header")
    else:
        try:
            return Opened(_connected(path, recipes))
        except UnicodeDecodeError:  # what SQLite has to say of the damage repeats it
            pass
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
    told = _salvage(path, recipes)
    return Opened(_connected(path, recipes), told)


def _begins_right(path: Path) -> bool:
    """Whether the first bytes can be those of our file. SQLite takes a file of no bytes for a new one and removes its log;
    one whose version of writing is unknown may only be read, says SQLite; and it knows no schema format above 4."""
    if not path.is_file():
        return True
    with path.open("rb") as file:
        head = file.read(100)
    return len(head) == 100 and head[18] <= 2 and head[44:47] == bytes(3) and head[47] <= 4


def claimed_or_not(path: Path, patience: float) -> sqlite3.Connection:
    """Without a claim where nothing can be written, if there is a file to be read."""
    try:
        return claimed(path, patience)
    except sqlite3.OperationalError as error:
        if code(error) not in reserve.UNWRITABLE or not path.is_file():
            raise
        return sqlite3.connect(":memory:", check_same_thread=False)


def marks_of(path: Path) -> dict[Path, tuple[int, int]]:
    """Which file lies under each of the names that SQLite opened."""
    names = (path, *(Path(f"{path}{ending}") for ending in ("-wal", "-shm")), path.with_name("runs.lock"))
    found = {}
    for name in names:
        try:
            state = name.stat()
        except OSError:
            continue
        found[name] = (state.st_dev, state.st_ino)
    return found


def log_mended(path: Path) -> Message:
    """Before anybody has opened the file: looks whether its log is whole, mends it, and says so."""
    try:
        bad, frames = mend(path)
    except OSError:
        return NOTHING  # nothing can be read, or nothing written, and whoever opens the file meets that too
    if not frames:
        return NOTHING
    log.warning("event=store-log-damaged bad=%d of=%d", bad, frames)
    return say("store-log-damaged", aside=f"{path.name}-wal-damaged", bad=bad, all=frames)


def log_written(path: Path, old: sqlite3.Connection) -> Message:
    """The file is there, its log alone is gone, and still open here."""
    try:
        old.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        old.close()
    return say("store-log-removed", name=str(path))


def written_anew(path: Path, old: sqlite3.Connection, marks: dict[Path, tuple[int, int]]) -> Message:
    """No file has the name any more."""
    part, new = path.with_name(_PART), path.with_name(_NEW)
    new.unlink(missing_ok=True)
    part.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(part)) as copy:
            old.backup(copy)
            count = copy.execute("SELECT count(*) FROM runs").fetchone()[0]
        told = say("store-written-anew", name=str(path), n=count)
        part.rename(new)
    except sqlite3.DatabaseError as error:
        part.unlink(missing_ok=True)
        if code(error) == "SQLITE_FULL":
            raise
        told = say("store-begun-anew", name=str(path), why=reason(error))
    old.close()
    sweep(path, marks)
    if new.exists():
        new.rename(path)
    return told


def sweep(path: Path, marks: dict[Path, tuple[int, int]]) -> None:
    """Removes what the lost file left beside it: it would be read as part of the next one."""
    found = marks_of(path)
    for ending in ("-wal", "-shm"):
        name = Path(f"{path}{ending}")
        if path not in found or found.get(name) == marks.get(name):
            name.unlink(missing_ok=True)


def _salvage(path: Path, recipes: Recipes[Recipe]) -> Message:
    """Puts a damaged file aside, and a new one in its place with all that can be read; says so."""
    part, new = path.with_name(_PART), path.with_name(_NEW)
    for left in (part, new):
        left.unlink(missing_ok=True)
    log.warning("event=store-damaged")
    saved = salvaged(path, part, recipes)
    part.rename(new)
    aside = _free_name(path.with_name(f"runs-damaged-{time.strftime('%Y%m%d-%H%M%S')}.sqlite"))
    for ending in ("", "-wal", "-shm"):
        if (piece := Path(f"{path}{ending}")).exists():
            piece.rename(f"{aside}{ending}")
    new.rename(path)
    log.warning("event=store-salvaged aside=%s whole=%d gaps=%d lost=%d", aside.name, saved.whole, saved.gaps, saved.lost)
    told = say("store-salvaged", aside=str(aside), whole=saved.whole, gaps=saved.gaps, lost=saved.lost)
    return told if saved.complete else say("sentences", first=told, second=say("store-list-damaged"))


def brought_over(old: sqlite3.Connection, db: sqlite3.Connection, only: str | None = None) -> int:
    """Copies the runs of `old` of which `db` has none or fewer steps, or `only` the one with this id; says how many."""
    count = 0
    where, which = ("", ()) if only is None else ("WHERE id = ?", (only,))
    for run in old.execute(f"SELECT * FROM runs {where} ORDER BY rowid", which).fetchall():
        here = db.execute("SELECT steps FROM runs WHERE id = ?", (run["id"],)).fetchone()
        if here and is_whole(here["steps"]) and is_whole(run["steps"]) and here["steps"] >= run["steps"]:
            continue
        with transaction(db):
            db.execute("DELETE FROM runs WHERE id = ?", (run["id"],))
            _insert(db, "runs", run)
            for table in PARTS:
                for row in old.execute(f"SELECT * FROM {table} WHERE run = ?", (run["id"],)):
                    _insert(db, table, row)
        count += 1
    return count


def claimed(path: Path, patience: float) -> sqlite3.Connection:
    """A lock that ends with the process, however it ends: a second server would declare our live runs interrupted."""
    lock = path.with_name("runs.lock")
    if lock.exists() and not lock.is_file():
        raise StoreError(say("store-lock-no-file", name=str(lock)))
    claim = sqlite3.connect(lock, timeout=patience, isolation_level=None, check_same_thread=False)
    try:
        try:
            claim.execute("BEGIN EXCLUSIVE")
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            os.truncate(lock, 0)  # nothing is in it, and nobody holds it: who does is met before it is read
            claim.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        claim.close()
        if code(error) != "SQLITE_BUSY":
            raise
        raise StoreError(say("store-in-use", folder=str(path.parent))) from error
    return claim


def _connected(path: Path, recipes: Recipes[Recipe]) -> sqlite3.Connection:
    db = prepared(sqlite3.connect(path, timeout=5, isolation_level=None, check_same_thread=False))
    try:
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # heeded only before the first table
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")  # safe from kill -9; a power cut may cost the last commits, never the file
        db.execute("PRAGMA journal_size_limit = 1048576")
        db.execute(f"PRAGMA wal_autocheckpoint = {reserve.LOG}")
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("PRAGMA secure_delete = OFF")  # else deleting writes as much as was deleted, which a full disk does not take
        # Not quick_check: an entry missing in an index would hide a row that is there.
        if (found := db.execute("PRAGMA integrity_check(1)").fetchone()[0]) != "ok":
            raise _damage(found)
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise StoreError(say("store-newer", name=str(path)))
        bring_up_to_date(db)
        if not is_complete(db):
            raise _damage("a table is missing")
        if not is_ours(db):
            raise _damage("a table has another shape")
        _take_over(db, recipes)
    except BaseException:
        db.close()
        raise
    return db


def _take_over(db: sqlite3.Connection, recipes: Recipes[Recipe]) -> None:
    """What was live when the last server ended is interrupted, but for what waits for its turn."""
    live = [str(status) for status in Status if status.live]
    db.execute(
        f"UPDATE runs SET status = ?, message = ? WHERE status IN ({', '.join('?' * len(live))}) "
        "AND NOT (status = ? AND coalesce(clients, '[]') != '[]')",
        (str(Status.INTERRUPTED), message_text(INTERRUPTED), *live, str(Status.QUEUED)),
    )
    for row in db.execute("SELECT * FROM runs").fetchall():
        try:
            recipe = Sound.of(row, recipes).recipe
        except Unsound:
            continue
        if recipe.id != row["id"]:  # a setting added since changes the id of the same content
            db.execute("UPDATE OR IGNORE runs SET id = ? WHERE id = ?", (recipe.id, row["id"]))


def code(error: sqlite3.Error) -> str:
    """SQLITE_BUSY for SQLITE_BUSY_SNAPSHOT, and so on."""
    return "_".join(getattr(error, "sqlite_errorname", "").split("_")[:2])


def reason(error: sqlite3.Error) -> Message:
    """Why SQLite would not, for a sentence."""
    known = _REASONS.get(code(error))
    return say(known) if known else text(str(error))


def _damage(what: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(what)
    error.sqlite_errorname = "SQLITE_CORRUPT"
    return error


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file is to blame, not the disk and not the moment. A lost table is said as a mistake in the SQL."""
    return code(error) in _DAMAGE or "no such table" in str(error) or "no such column" in str(error)


def _free_name(path: Path) -> Path:
    names = itertools.chain([path], (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2)))
    return next(name for name in names if not name.exists())


def prepared(db: sqlite3.Connection) -> sqlite3.Connection:
    db.row_factory = sqlite3.Row
    db.text_factory = _text  # else one bad byte in one row would end the reading of all
    return db


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # a full disk has rolled back already
            db.execute("ROLLBACK")
        raise


@contextmanager
def moment(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    db.execute("BEGIN")
    try:
        yield db
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


def _insert(db: sqlite3.Connection, table: str, row: sqlite3.Row) -> None:
    names = [name for name in row.keys() if name in _columns_of(db, table)]
    holes = ", ".join("?" * len(names))
    db.execute(f"INSERT OR IGNORE INTO {table} ({', '.join(names)}) VALUES ({holes})", [row[name] for name in names])


def _columns_of(db: sqlite3.Connection, table: str) -> set[str]:
    return {row["name"] for row in db.execute(f"PRAGMA table_info({table})")}
