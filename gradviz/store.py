"""RunStore: every run and its records in one SQLite file, so that neither a restart nor a kill loses them.

What lies on disk is only ever whole: each `save` is one transaction of a write-ahead log. Numbers are kept as the
bytes of little-endian floats, because SQLite turns a nan into NULL.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from gradviz.anatomy import BlockDeletion, PackedSample
from gradviz.arithmetic import Arithmetic
from gradviz.config import ConfigError, RunConfig
from gradviz.runs import QUANTITIES, History, Run, Status

log = logging.getLogger("gradviz")

INTERRUPTED = "The server ended while this run was live; its records up to then are kept."

_VERSION = 4  # PRAGMA user_version
_SCHEMA = """
CREATE TABLE runs (
    id TEXT PRIMARY KEY, config TEXT, status TEXT, device TEXT, message TEXT, nonfinite_layer TEXT,
    test_accuracy REAL, created REAL, steps INTEGER, loss REAL, seconds REAL,
    quantities TEXT, max_columns INTEGER, stride INTEGER
);
CREATE TABLE scalars ( -- data: float64 (n, 3), the loss, accuracy and seconds of steps first … first + n − 1
    run TEXT REFERENCES runs (id) ON DELETE CASCADE ON UPDATE CASCADE, first INTEGER, data BLOB, PRIMARY KEY (run, first)
);
CREATE TABLE columns ( -- data: float32 (quantities, layers)
    run TEXT REFERENCES runs (id) ON DELETE CASCADE ON UPDATE CASCADE, place INTEGER, data BLOB, PRIMARY KEY (run, place)
);
CREATE TABLE tests (
    run TEXT REFERENCES runs (id) ON DELETE CASCADE ON UPDATE CASCADE, step INTEGER, accuracy REAL, PRIMARY KEY (run, step)
);
"""
_SINCE_2 = """
ALTER TABLE runs ADD COLUMN deletion TEXT;
CREATE TABLE samples ( -- numbers, images: .npz, as in anatomy.PackedSample
    run TEXT REFERENCES runs (id) ON DELETE CASCADE ON UPDATE CASCADE, step INTEGER, numbers BLOB, images BLOB,
    PRIMARY KEY (run, step)
);
"""
_SINCE_3 = "ALTER TABLE runs ADD COLUMN clients TEXT;"  # as JSON
_SINCE_4 = "ALTER TABLE runs ADD COLUMN arithmetic TEXT;"  # as JSON
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
_DAMAGE = ("SQLITE_CORRUPT", "SQLITE_NOTADB")


class StoreError(RuntimeError):
    """The store cannot be used; the message is one sentence that says why."""


@dataclass(frozen=True)
class Summary:
    """A run without its records, for lists."""

    id: str
    config: RunConfig
    status: Status
    created: float  # Unix time
    steps: int  # recorded so far
    loss: float  # of the last step; may be inf or nan, and is nan before the first
    seconds: float  # of training
    test_accuracy: float | None
    device: str
    message: str

    @classmethod
    def of(cls, run: Run) -> Summary:
        history = run.history.snapshot()
        return cls(
            run.id,
            run.config,
            run.status,
            run.created,
            history.steps,
            *_last(history),
            run.test_accuracy,
            run.device,
            run.message,
        )


class RunStore:
    """The runs of one server, in `folder`. Every method may be called from any thread.

    Opening marks runs that were live as interrupted, but for those of `waiting`. A damaged file is put aside under
    another name and a new one begun; `notice` then says so in one sentence. Raises StoreError, here and in every
    method, if the disk refuses or if another server uses the folder.
    """

    def __init__(self, folder: Path, patience: float = 3.0):
        """`patience`: seconds to wait for another server to let go of the folder."""
        self.folder = Path(folder)
        self.path = self.folder / "runs.sqlite"
        self.notice = ""
        self._writing = threading.Lock()
        with self._plainly():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._claim = self._claimed(patience)
            try:
                self._db = self._opened()
            except BaseException:
                self._claim.close()
                raise

    def close(self) -> None:
        """Ends the use of the folder, so that another server may open it. Later writes raise StoreError."""
        with self._writing:
            self._db.close()
            self._claim.close()

    def save(self, *runs: Run) -> None:
        """Brings what is kept of `runs` up to date, all of it or, on StoreError, nothing.

        Writes only what is new since the last call; a run with the id of a kept one but another time of creation
        replaces it. Another thread may be appending to the runs meanwhile.
        """
        with self._plainly(), self._writing, self._transaction():
            for run in runs:
                self._save(run)

    def load(self, id: str) -> Run | None:
        """The run with all its records, as they were recorded; None if there is none."""
        if not re.fullmatch("[0-9a-f]{1,64}", id):
            return None
        with self._plainly(), closing(self._reader()) as db:
            db.execute("BEGIN")  # all reads see the same moment
            row = db.execute("SELECT * FROM runs WHERE id = ?", (id,)).fetchone()
            if row is None:
                return None
            scalars = b"".join(data for (data,) in db.execute("SELECT data FROM scalars WHERE run = ? ORDER BY first", (id,)))
            columns = b"".join(data for (data,) in db.execute("SELECT data FROM columns WHERE run = ? ORDER BY place", (id,)))
            tests = [tuple(test) for test in db.execute("SELECT step, accuracy FROM tests WHERE run = ? ORDER BY step", (id,))]
            query = "SELECT step, numbers, images FROM samples WHERE run = ? ORDER BY step"
            samples = [PackedSample(*sample) for sample in db.execute(query, (id,))]
        if (config := _config(row)) is None:
            return None
        try:
            history = History.restored(
                _by_quantity(np.frombuffer(columns, "<f4"), row["quantities"].split(), config.layers),
                np.frombuffer(scalars, "<f8").reshape(row["steps"], 3),
                tests,
                row["stride"],
                row["max_columns"],
                samples,
            )
        except ValueError as error:
            raise StoreError(f"The records of run {id} in {self.path} are damaged.") from error
        return Run(
            config,
            history,
            Status(row["status"]),
            row["device"],
            row["message"],
            row["nonfinite_layer"],
            row["test_accuracy"],
            row["created"],
            _deletion(row["deletion"]),
            _clients(row["clients"]),
            _arithmetic(row["arithmetic"]),
        )

    def size(self, id: str) -> int | None:
        """Bytes of the run's records; None if there is no such run."""
        if not re.fullmatch("[0-9a-f]{1,64}", id):
            return None
        parts = (("scalars", "length(data)"), ("columns", "length(data)"), ("samples", "length(numbers) + length(images)"))
        query = " + ".join(f"(SELECT coalesce(sum({size}), 0) FROM {table} WHERE run = runs.id)" for table, size in parts)
        with self._plainly(), closing(self._reader()) as db:
            row = db.execute(f"SELECT {query} FROM runs WHERE id = ?", (id,)).fetchone()
        return row and row[0]

    def list(self) -> list[Summary]:
        """All runs, newest first."""
        with self._plainly(), closing(self._reader()) as db:
            rows = db.execute("SELECT * FROM runs ORDER BY created DESC, id").fetchall()
        return [
            Summary(
                row["id"],
                config,
                Status(row["status"]),
                row["created"],
                row["steps"],
                math.nan if row["loss"] is None else row["loss"],
                row["seconds"],
                row["test_accuracy"],
                row["device"],
                row["message"],
            )
            for row in rows
            if (config := _config(row)) is not None
        ]

    def waiting(self) -> list[Run]:
        """The runs that somebody asked for and that had not begun when the last server ended, oldest first."""
        query = "SELECT * FROM runs WHERE status = ? ORDER BY created, rowid"
        with self._plainly(), closing(self._reader()) as db:
            rows = db.execute(query, (str(Status.QUEUED),)).fetchall()
        known = [(row, config) for row in rows if (config := _config(row)) is not None]
        return [
            Run(config, History(config.layers, row["max_columns"]), created=row["created"], clients=_clients(row["clients"]))
            for row, config in known
        ]

    def count(self) -> int:
        """Runs in the file, those included whose settings this version does not know."""
        with self._plainly(), closing(self._reader()) as db:
            return db.execute("SELECT count(*) FROM runs").fetchone()[0]

    def oldest_ended(self, count: int, before: float) -> list[str]:
        """Ids of at most `count` runs that have ended and were created before this Unix time, oldest first."""
        live = [str(status) for status in Status if status.live]
        query = f"SELECT id FROM runs WHERE status NOT IN ({', '.join('?' * len(live))}) AND created < ? ORDER BY created LIMIT ?"
        with self._plainly(), closing(self._reader()) as db:
            return [id for (id,) in db.execute(query, (*live, before, count))]

    def delete(self, id: str) -> None:
        """Removes the run and its records, if it is there, and gives the space back."""
        with self._plainly(), self._writing:
            with self._transaction():
                self._db.execute("DELETE FROM runs WHERE id = ?", (id,))
            self._db.executescript("PRAGMA incremental_vacuum")  # execute would free a single page

    # Writing

    def _save(self, run: Run) -> None:
        status = run.status  # before the snapshot: a run that reads as ended here has all its records there
        history = run.history.snapshot()
        stride, steps = history.stride, history.steps
        old = self._db.execute("SELECT created, steps, stride FROM runs WHERE id = ?", (run.id,)).fetchone()
        if old and old["created"] != run.created:
            self._db.execute("DELETE FROM runs WHERE id = ?", (run.id,))
            old = None
        done = old["steps"] if old else 0
        loss, seconds = _last(history)
        row = {
            "id": run.id,
            "config": json.dumps(run.config.to_dict()),
            "status": str(status),
            "device": run.device,
            "message": run.message,
            "nonfinite_layer": run.nonfinite_layer,
            "test_accuracy": run.test_accuracy,
            "created": run.created,
            "steps": steps,
            "loss": loss,
            "seconds": seconds,
            "quantities": " ".join(QUANTITIES),
            "max_columns": history.max_columns,
            "stride": stride,
            "deletion": json.dumps(dataclasses.asdict(run.deletion)) if run.deletion else None,
            "clients": json.dumps(run.clients),
            "arithmetic": json.dumps(run.arithmetic.to_dict()) if run.arithmetic else None,
        }
        # An upsert, not INSERT OR REPLACE: that would delete the row first and, with it, all its records.
        self._db.execute(
            f"INSERT INTO runs ({', '.join(row)}) VALUES ({', '.join(':' + name for name in row)}) "
            f"ON CONFLICT (id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in row if name != 'id')}",
            row,
        )
        if steps > done:
            scalars = np.column_stack((history.loss[done:], history.accuracy[done:], history.seconds[done:]))
            self._db.execute("INSERT INTO scalars VALUES (?, ?, ?)", (run.id, done, scalars.astype("<f8").tobytes()))
        if old and old["stride"] != stride:
            self._db.execute("DELETE FROM columns WHERE run = ?", (run.id,))
            done = 0
        columns = history.columns
        self._db.executemany(
            "INSERT OR REPLACE INTO columns VALUES (?, ?, ?)",
            # From the column that was partial at the last call: done // stride.
            ((run.id, place, columns[place].astype("<f4").tobytes()) for place in range(done // stride, len(columns))),
        )
        self._db.executemany(
            "INSERT OR IGNORE INTO tests VALUES (?, ?, ?)", ((run.id, step, accuracy) for step, accuracy in history.tests)
        )
        kept = {step for (step,) in self._db.execute("SELECT step FROM samples WHERE run = ?", (run.id,))}
        self._db.executemany(
            "INSERT INTO samples VALUES (?, ?, ?, ?)",
            ((run.id, part.step, part.numbers, part.images) for part in history.samples if part.step not in kept),
        )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # a full disk has rolled back already
                self._db.execute("ROLLBACK")
            raise

    # Opening

    def _claimed(self, patience: float) -> sqlite3.Connection:
        """A lock that ends with the process, however it ends: a second server would declare our live runs interrupted."""
        claim = sqlite3.connect(self.path.with_name("runs.lock"), timeout=patience, isolation_level=None, check_same_thread=False)
        try:
            claim.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            claim.close()
            if _code(error) != "SQLITE_BUSY":
                raise
            raise StoreError(
                f"The folder {self.path.parent} is in use by another gradviz server: "
                "stop that one, or set GRADVIZ_STORE to another folder."
            ) from error
        return claim

    def _opened(self) -> sqlite3.Connection:
        try:
            return self._connected()
        except sqlite3.DatabaseError as error:
            if _code(error) not in _DAMAGE:
                raise
        aside = self.path.with_name(f"runs-damaged-{time.strftime('%Y%m%d-%H%M%S')}.sqlite")
        for ending in ("", "-wal", "-shm"):
            if (part := Path(f"{self.path}{ending}")).exists():
                part.rename(f"{aside}{ending}")
        self.notice = f"The file of runs was damaged: it was put aside as {aside}, and a new, empty one begun."
        log.warning("event=store-damaged aside=%s", aside.name)
        return self._connected()

    def _connected(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=5, isolation_level=None, check_same_thread=False)
        try:
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # heeded only before the first table
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")  # safe from kill -9; a power cut may cost the last commits, never the file
            db.execute("PRAGMA journal_size_limit = 67108864")
            db.execute("PRAGMA foreign_keys = ON")
            if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                damage = sqlite3.DatabaseError("quick_check")
                damage.sqlite_errorname = "SQLITE_CORRUPT"
                raise damage
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > _VERSION:
                raise StoreError(
                    f"The file of runs {self.path} was written by a newer gradviz: "
                    "update this one, or set GRADVIZ_STORE to another folder."
                )
            if version < _VERSION:
                db.executescript(
                    f"BEGIN; {_SCHEMA if version == 0 else ''} {_SINCE_2 if version < 2 else ''} "
                    f"{_SINCE_3 if version < 3 else ''} {_SINCE_4} PRAGMA user_version = {_VERSION}; COMMIT;"
                )
            live = [str(status) for status in Status if status.live]
            db.execute(
                f"UPDATE runs SET status = ?, message = ? WHERE status IN ({', '.join('?' * len(live))}) "
                "AND NOT (status = ? AND steps = 0 AND coalesce(clients, '[]') != '[]')",
                (str(Status.INTERRUPTED), INTERRUPTED, *live, str(Status.QUEUED)),
            )
            # A setting added since changes the id of the same content.
            for row in db.execute("SELECT id, config FROM runs").fetchall():
                config = _config(row)
                if config is not None and config.run_id != row["id"]:
                    db.execute("UPDATE OR IGNORE runs SET id = ? WHERE id = ?", (config.run_id, row["id"]))
        except BaseException:
            db.close()
            raise
        return db

    def _reader(self) -> sqlite3.Connection:
        """A connection of its own, so that reading never waits for a write."""
        db = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=rw", timeout=5, isolation_level=None, uri=True)
        db.row_factory = sqlite3.Row
        return db

    @contextmanager
    def _plainly(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            reason = _REASONS.get(_code(error), str(error))
            raise StoreError(f"The file of runs {self.path} cannot be used: {reason}.") from error
        except OSError as error:
            raise StoreError(f"The folder {self.path.parent} cannot hold the runs: {error.strerror}.") from error


def _last(history: History) -> tuple[float, float]:
    """Loss and seconds of the last step."""
    return (float(history.loss[-1]), float(history.seconds[-1])) if history.steps else (math.nan, 0.0)


def _code(error: sqlite3.Error) -> str:
    """SQLITE_BUSY for SQLITE_BUSY_SNAPSHOT, and so on."""
    return "_".join(getattr(error, "sqlite_errorname", "").split("_")[:2])


def _config(row: sqlite3.Row) -> RunConfig | None:
    """None for a config that this version does not know; such a run stays in the file."""
    try:
        return _understood(row["config"])
    except (ConfigError, TypeError, ValueError):
        log.warning("event=config-unknown run=%s", row["id"])
        return None


@lru_cache(maxsize=8192)  # a page lists thousands of runs at each of its script runs
def _understood(config: str) -> RunConfig:
    return RunConfig.from_dict(json.loads(config))


def _clients(text: str | None) -> tuple[str, ...]:
    return tuple(json.loads(text)) if text else ()


def _arithmetic(text: str | None) -> Arithmetic | None:
    try:
        return Arithmetic.from_dict(json.loads(text or "null"))
    except ValueError:
        return None


def _deletion(text: str | None) -> BlockDeletion | None:
    if not text:
        return None
    kept = json.loads(text)
    return BlockDeletion(**kept | {name: tuple(kept[name]) for name in ("blocks", "accuracies")})


def _by_quantity(flat: np.ndarray, names: list[str], layers: int) -> np.ndarray:
    """float32 (columns, len(QUANTITIES), layers) of numbers kept in the order `names`; nan where a quantity was not kept."""
    kept = flat.reshape(-1, len(names), layers)
    if names == list(QUANTITIES):
        return kept
    columns = np.full((len(kept), len(QUANTITIES), layers), np.nan, np.float32)
    for row, name in enumerate(QUANTITIES):
        if name in names:
            columns[:, row] = kept[:, names.index(name)]
    return columns
