"""The file of runs, as a thing on a disk: opened, claimed, looked for under its name, begun again when it is gone."""

from __future__ import annotations

import itertools
import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from gradviz.rows import Sound, is_whole
from gradviz.runs import Status
from gradviz.salvage import salvaged
from gradviz.schema import PARTS, VERSION, bring_up_to_date, is_complete
from gradviz.words import gettext as _

log = logging.getLogger("gradviz")

INTERRUPTED = "The server ended while this run was live; its records up to then are kept."

_REASONS = {
    "SQLITE_BUSY": "another program holds it locked",
    "SQLITE_READONLY": "it may not be written",
    "SQLITE_PERM": "it may not be written",
    "SQLITE_FULL": "the disk is full",
    "SQLITE_CANTOPEN": "it cannot be opened or made",
    "SQLITE_IOERR": "reading or writing the disk failed",
    "SQLITE_CORRUPT": "it is damaged",
    "SQLITE_NOTADB": "it is not a database",
}
_PART, _NEW = "runs-new.part", "runs-new.sqlite"  # a new file while it is being written, and once it is whole
_DAMAGE = ("SQLITE_CORRUPT", "SQLITE_NOTADB")


class StoreError(RuntimeError):
    """The store cannot be used; the message is one sentence that says why."""


class StoreFile:
    """`runs.sqlite` in `folder`, with one connection `db` that writes. Every method may be called from any thread.

    `generation` rises whenever a new file was begun, and `told` says in sentences what became of the old one.
    """

    def __init__(self, folder: Path, patience: float, grace: float, clock: Callable[[], float]):
        """See RunStore."""
        self.folder, self.path = folder, folder / "runs.sqlite"
        self.generation, self.told = 0, ""
        self._grace, self._clock = grace, clock
        self._gone_since: float | None = None
        self._shut = False  # `db` is closed and no other could be opened yet
        self._damaged = False  # somebody met damage; `tend` looks into it
        self._marks: dict[Path, tuple[int, int]] = {}  # file -> what it was when it was opened
        self._lock = threading.Lock()
        with self._plainly():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._claim = _claimed(self.path, patience)
            try:
                self.db = self._opened()
            except BaseException:
                self._claim.close()
                raise
            self._marks = _found(self.path)

    def close(self) -> None:
        with self._lock:
            self._marks = {}
            self.db.close()
            self._claim.close()

    @contextmanager
    def writing(self, free: bool = False) -> Iterator[None]:
        """A transaction on `db`, all of it or, on StoreError, nothing; `free` gives the space back that it leaves."""
        with self._plainly(), self._lock:
            if gone := self._gone():
                raise StoreError(gone)
            with _transaction(self.db):
                yield
            if free:
                self.db.executescript("PRAGMA incremental_vacuum")  # execute would free a single page

    def tend(self, last: bool = False) -> None:
        """See RunStore."""
        with self._plainly(), self._lock:
            if last and self._gone():
                self.folder.mkdir(parents=True, exist_ok=True)
            if self.folder.is_dir():
                self._claim_again()
            gone = self._gone()
            if not gone:
                self._gone_since = None
                if self._damaged and self._marks:
                    self._look_into()
                return
            if self._gone_since is None:
                self._gone_since = self._clock()
                log.warning("event=store-gone what=%s", json.dumps(gone))
            if not self.folder.is_dir() or not last and self._clock() - self._gone_since < self._grace:
                raise StoreError(gone)
            self._begin_again()
            self._gone_since = None

    def check(self) -> None:
        """Reads the file now. Raises StoreError if what is saved would not be found."""
        with self._plainly():
            if gone := self._gone():
                raise StoreError(gone)
            with closing(self._reader()) as db:
                db.execute("SELECT id FROM runs ORDER BY rowid DESC LIMIT 1").fetchall()

    # Opening

    def _opened(self) -> sqlite3.Connection:
        new = self.path.with_name(_NEW)
        if new.exists() and not self.path.exists():
            new.rename(self.path)  # the last server was ended between the two
        try:
            return _connected(self.path)
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise
        self._tell(_salvage(self.path))
        return _connected(self.path)

    def _tell(self, sentence: str) -> None:
        self.told = " ".join(filter(None, (self.told, sentence)))

    def _reader(self) -> sqlite3.Connection:
        """A connection of its own, so that reading never waits for a write."""
        return _prepared(sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=rw", timeout=5, isolation_level=None, uri=True))

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection all whose reads see the same moment."""
        with self._plainly():
            if self._gone():
                with self._lock, _moment(self.db) as db:  # what is open can be read, whatever became of its name
                    yield db
            else:
                with closing(self._reader()) as reader, _moment(reader) as db:
                    yield db

    # The file and its name

    def _gone(self) -> str:
        """One sentence if what is written would not be found again, else empty."""
        if self._shut:
            return _("The file of runs {name} could not be opened again.").format(name=self.path)
        if not (marks := self._marks) or (found := _found(self.path)) == marks:
            return ""
        what = next((name for name in marks if found.get(name) != marks[name]), None)
        if what is None:
            return ""
        if not self.folder.is_dir():
            text = _("The folder of runs {folder} is gone: what is recorded is kept in memory until it is back.")
        elif what in found:
            text = _("The file {name} in the folder of runs {folder} was replaced by another one: "
                     "what is recorded is kept in memory until that one is opened.")  # fmt: skip
        else:
            text = _("The file {name} was removed from the folder of runs {folder}: "
                     "what is recorded is kept in memory until a new one is begun.")  # fmt: skip
        return text.format(folder=self.folder, name=what.name)

    def _claim_again(self) -> None:
        """Takes the lock anew if its file was removed. Raises StoreError if another server was quicker."""
        lock = self.path.with_name("runs.lock")
        if not self._marks or _found(self.path).get(lock) == self._marks[lock]:
            return
        claim = _claimed(self.path, 0)
        self._claim.close()
        self._claim = claim
        self._marks[lock] = _found(self.path)[lock]
        log.warning("event=store-claimed-again")

    def _look_into(self) -> None:
        """Opens the file anew, as at the start, since somebody met damage in it."""
        told, self._shut, self._damaged = self.told, True, False
        self.db.close()
        self.db = self._opened()
        text = _("The file of runs was met damaged while the server ran and was opened anew; there are {n} runs in it, and what "
                 "is in memory is written into it.")  # fmt: skip
        count = self.db.execute("SELECT count(*) FROM runs").fetchone()[0]
        self._go_on(text.format(n=count) if self.told == told else "")

    def _begin_again(self) -> None:
        """Goes on in the file that has the name now, or in a new one, and brings over what the lost one held."""
        found, marks, old = _found(self.path), self._marks, self.db
        if self._shut:
            told = ""
        elif found.get(self.path) == marks[self.path]:
            told = _log_written(self.path, old)
        elif self.path in found:
            return self._other_opened(old)
        else:
            told = _written_anew(self.path, old, self._marks)
        self._shut = True
        self.db = self._opened()
        self._go_on(told)

    def _go_on(self, told: str) -> None:
        self._shut = False
        self._tell(told)
        self.generation += 1
        self._marks = _found(self.path)
        log.warning("event=store-begun-again told=%s", json.dumps(told))

    def _other_opened(self, old: sqlite3.Connection) -> None:
        """Another file has the name now: somebody has put a copy of other days there, say."""
        _sweep(self.path, self._marks)
        other = self._opened()
        try:
            count = _brought_over(old, other)
        except BaseException:
            other.close()
            raise
        self.db = other
        own = Path(f"{self.path}-wal")
        put_by = own.with_suffix(".kept")
        own.rename(put_by)  # closing the old one removes what has the name of its log
        old.close()
        put_by.rename(own)
        text = _("The file of runs {name} was replaced by another one while the server ran; {n} runs that the other one did "
                 "not have were brought over.")  # fmt: skip
        self._go_on(text.format(name=self.path, n=count))

    @contextmanager
    def _plainly(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            self._damaged = self._damaged or _is_damage(error)
            reason = _REASONS.get(_code(error), str(error))
            raise StoreError(f"The file of runs {self.path} cannot be used: {reason}.") from error
        except OSError as error:
            raise StoreError(f"The folder {self.path.parent} cannot hold the runs: {error.strerror}.") from error


def _found(path: Path) -> dict[Path, tuple[int, int]]:
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


def _log_written(path: Path, old: sqlite3.Connection) -> str:
    """The file is there, its log alone is gone, and still open here."""
    try:
        old.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        old.close()
    text = _("The log of the file of runs {name} was removed while the server ran; what was in it is kept.")
    return text.format(name=path)


def _written_anew(path: Path, old: sqlite3.Connection, marks: dict[Path, tuple[int, int]]) -> str:
    """No file has the name any more."""
    part, new = path.with_name(_PART), path.with_name(_NEW)
    new.unlink(missing_ok=True)
    part.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(part)) as copy:
            old.backup(copy)
            count = copy.execute("SELECT count(*) FROM runs").fetchone()[0]
        text = _("The file of runs {name} was removed while the server ran; it was written anew, with its {n} runs.")
        told = text.format(name=path, n=count)
        part.rename(new)
    except sqlite3.DatabaseError as error:
        part.unlink(missing_ok=True)
        if _code(error) == "SQLITE_FULL":
            raise
        text = _("The file of runs {name} was removed while the server ran, and could not be read any more: {why}. "
                 "A new one was begun.")  # fmt: skip
        told = text.format(name=path, why=_REASONS.get(_code(error), str(error)))
    old.close()
    _sweep(path, marks)
    if new.exists():
        new.rename(path)
    return told


def _sweep(path: Path, marks: dict[Path, tuple[int, int]]) -> None:
    """Removes what the lost file left beside it: it would be read as part of the next one."""
    found = _found(path)
    for ending in ("-wal", "-shm"):
        name = Path(f"{path}{ending}")
        if path not in found or found.get(name) == marks.get(name):
            name.unlink(missing_ok=True)


def _salvage(path: Path) -> str:
    """Puts a damaged file aside, and a new one in its place with all that can be read; says so."""
    part, new = path.with_name(_PART), path.with_name(_NEW)
    for left in (part, new):
        left.unlink(missing_ok=True)
    log.warning("event=store-damaged")
    saved = salvaged(path, part)
    part.rename(new)
    aside = _free_name(path.with_name(f"runs-damaged-{time.strftime('%Y%m%d-%H%M%S')}.sqlite"))
    for ending in ("", "-wal", "-shm"):
        if (piece := Path(f"{path}{ending}")).exists():
            piece.rename(f"{aside}{ending}")
    new.rename(path)
    text = _("The file of runs was damaged and is kept as {aside}. {whole} of its runs were saved whole, {gaps} with gaps "
             "where records could not be read, and {lost} could not be saved.")  # fmt: skip
    log.warning("event=store-salvaged aside=%s whole=%d gaps=%d lost=%d", aside.name, saved.whole, saved.gaps, saved.lost)
    return text.format(aside=aside, whole=saved.whole, gaps=saved.gaps, lost=saved.lost)


def _brought_over(old: sqlite3.Connection, db: sqlite3.Connection) -> int:
    """Copies the runs of `old` of which `db` has none or fewer steps; says how many."""
    count = 0
    for run in old.execute("SELECT * FROM runs ORDER BY rowid").fetchall():
        here = db.execute("SELECT steps FROM runs WHERE id = ?", (run["id"],)).fetchone()
        if here and is_whole(here["steps"]) and is_whole(run["steps"]) and here["steps"] >= run["steps"]:
            continue
        with _transaction(db):
            db.execute("DELETE FROM runs WHERE id = ?", (run["id"],))
            _insert(db, "runs", run)
            for table in PARTS:
                for row in old.execute(f"SELECT * FROM {table} WHERE run = ?", (run["id"],)):
                    _insert(db, table, row)
        count += 1
    return count


def _claimed(path: Path, patience: float) -> sqlite3.Connection:
    """A lock that ends with the process, however it ends: a second server would declare our live runs interrupted."""
    claim = sqlite3.connect(path.with_name("runs.lock"), timeout=patience, isolation_level=None, check_same_thread=False)
    try:
        claim.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        claim.close()
        if _code(error) != "SQLITE_BUSY":
            raise
        raise StoreError(
            f"The folder {path.parent} is in use by another gradviz server: "
            "stop that one, or set GRADVIZ_STORE to another folder."
        ) from error
    return claim


def _connected(path: Path) -> sqlite3.Connection:
    db = _prepared(sqlite3.connect(path, timeout=5, isolation_level=None, check_same_thread=False))
    try:
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # heeded only before the first table
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")  # safe from kill -9; a power cut may cost the last commits, never the file
        db.execute("PRAGMA journal_size_limit = 67108864")
        db.execute("PRAGMA foreign_keys = ON")
        # Not quick_check: an entry missing in an index would hide a row that is there.
        if (found := db.execute("PRAGMA integrity_check(1)").fetchone()[0]) != "ok":
            raise _damage(found)
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise StoreError(
                f"The file of runs {path} was written by a newer gradviz: "
                "update this one, or set GRADVIZ_STORE to another folder."
            )
        bring_up_to_date(db)
        if not is_complete(db):
            raise _damage("a table is missing")
        live = [str(status) for status in Status if status.live]
        db.execute(
            f"UPDATE runs SET status = ?, message = ? WHERE status IN ({', '.join('?' * len(live))}) "
            "AND NOT (status = ? AND steps = 0 AND coalesce(clients, '[]') != '[]')",
            (str(Status.INTERRUPTED), INTERRUPTED, *live, str(Status.QUEUED)),
        )
        # A setting added since changes the id of the same content.
        for row in db.execute("SELECT * FROM runs").fetchall():
            try:
                config = Sound.of(row).config
            except ValueError:
                continue
            if config.run_id != row["id"]:
                db.execute("UPDATE OR IGNORE runs SET id = ? WHERE id = ?", (config.run_id, row["id"]))
    except BaseException:
        db.close()
        raise
    return db


def _code(error: sqlite3.Error) -> str:
    """SQLITE_BUSY for SQLITE_BUSY_SNAPSHOT, and so on."""
    return "_".join(getattr(error, "sqlite_errorname", "").split("_")[:2])


def _damage(what: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(what)
    error.sqlite_errorname = "SQLITE_CORRUPT"
    return error


def _is_damage(error: sqlite3.Error) -> bool:
    """Whether the file is to blame, not the disk and not the moment. A lost table is said as a mistake in the SQL."""
    return _code(error) in _DAMAGE or "no such table" in str(error) or "no such column" in str(error)


def _free_name(path: Path) -> Path:
    names = itertools.chain([path], (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2)))
    return next(name for name in names if not name.exists())


def _prepared(db: sqlite3.Connection) -> sqlite3.Connection:
    db.row_factory = sqlite3.Row
    db.text_factory = _text  # else one bad byte in one row would end the reading of all
    return db


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # a full disk has rolled back already
            db.execute("ROLLBACK")
        raise


@contextmanager
def _moment(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
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
