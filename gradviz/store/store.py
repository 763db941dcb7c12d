"""RunStore: every run and its records in one SQLite file, so that neither a restart nor a kill loses them.

What lies on disk is only ever whole: each `save` is one transaction of a write-ahead log. Numbers are kept as the
bytes of little-endian floats, because SQLite turns a nan into NULL.

The file belongs to people who remove, restore and move folders, and to disks that fill and fail. So a row is believed
only as far as it can be read, and what was opened is looked for again and again under its name (`tend`).
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import sqlite3
import time
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np

from gradviz.record.history import History
from gradviz.record.quantities import QUANTITIES
from gradviz.record.run import Run, Status, Summary
from gradviz.store.opening import INTERRUPTED, StoreError
from gradviz.store.rows import Parts, Sound, arithmetic, checksum, clients, deletion, is_whole
from gradviz.store.schema import PARTS
from gradviz.store.storefile import StoreFile
from gradviz.words import gettext as _

log = logging.getLogger("gradviz")

_YEAR = 366 * 86400.0  # seconds

__all__ = ["INTERRUPTED", "RunStore", "StoreError"]


class RunStore:
    """The runs of one server, in `folder`. Every method may be called from any thread.

    Opening marks runs that were live as interrupted, but for those of `waiting`. A damaged file is put aside under
    another name and a new one begun. Raises StoreError, here and in every method, if the disk refuses or if another
    server uses the folder. `generation` rises whenever a new file was begun: what is in memory had better be saved whole.
    """

    def __init__(self, folder: Path, patience: float = 3.0, grace: float = 2.0, clock: Callable[[], float] = time.monotonic):
        """`patience`: seconds to wait for another server to let go of the folder. `grace`: seconds for which a file that
        is gone may come back, before `tend` begins a new one; by `clock`."""
        self._file = StoreFile(Path(folder), patience, grace, clock)
        self._unreadable: dict[str, str] = {}  # what the latest list had to leave out -> why
        self._gaps: dict[str, str] = {}  # run id -> what is missing in it

    @property
    def folder(self) -> Path:
        return self._file.folder

    @property
    def path(self) -> Path:
        return self._file.path

    @property
    def generation(self) -> int:
        return self._file.generation

    @property
    def _db(self) -> sqlite3.Connection:
        return self._file.db

    @property
    def notice(self) -> str:
        """What became of the file and what in it cannot be read, one sentence each; empty if all is well."""
        sentences = [self._file.told] if self._file.told else []
        if unreadable := self._unreadable:
            text = _("This version cannot read {n} of the kept runs and leaves them in the file as they are: {which}.")
            sentences.append(text.format(n=len(unreadable), which=_some([f"{id} ({why})" for id, why in unreadable.items()])))
        if gaps := dict(self._gaps):
            text = _("Records of {n} kept runs are damaged in the file and left out: {which}.")
            sentences.append(text.format(n=len(gaps), which=_some([f"{id} ({what})" for id, what in gaps.items()])))
        return " ".join(sentences)

    def tend(self, last: bool = False) -> None:
        """Sees to it that what is saved is found again; to be called every second or so, and it is quick.

        Raises StoreError while the file or its folder is gone. Once the folder is there, the file that lies in it is
        used, or a new one begun, with all that the lost one held: as long as it is open, it can be read.
        `last`: there is no later call, so the folder is made if it is gone.
        """
        self._file.tend(last)

    def check(self) -> None:
        """Reads the file now. Raises StoreError if what is saved would not be found."""
        self._file.check()

    def close(self) -> None:
        """Ends the use of the folder, so that another server may open it. Later writes raise StoreError."""
        self._file.close()

    def save(self, *runs: Run, whole: bool = False, waiting: Collection[str] = ()) -> None:
        """Brings what is kept of `runs` up to date, all of it or, on StoreError, nothing.

        Writes only what is new since the last call, unless `whole`; a run with the id of a kept one but another time of
        creation replaces it. Another thread may be appending to the runs meanwhile. Those with an id of `waiting` are kept
        as queued unless they have come to an end of their own: if the server ends, `waiting()` has them.
        """
        with self._file.writing():
            for run in runs:
                self._save(run, whole, run.id in waiting)

    def load(self, id: str) -> Run | None:
        """The run with its records, as they were recorded; None if there is none that can be read.

        Records that are damaged read as nan, and its message says how many.
        """
        if not re.fullmatch("[0-9a-f]{1,64}", id):
            return None
        with self._file.reading() as db:
            row = db.execute("SELECT * FROM runs WHERE id = ?", (id,)).fetchone()
            if row is None:
                return None
            try:
                sound = self._sound(row)
            except ValueError as error:
                log.warning("event=run-unreadable run=%s why=%s", json.dumps(id), json.dumps(str(error)))
                return None
            parts = Parts(sound, row["quantities"], row["stride"], row["tests"], row["samples"])
            for table in PARTS:
                for values in db.execute(f"SELECT * FROM {table} WHERE run = ? ORDER BY 2", (id,)):
                    parts.take(table, *values[1:])
        message = sound.message
        if lost := parts.lost():
            message = " ".join(filter(None, (message, _("Damaged in the file and left out: {what}.").format(what=lost))))
            if id not in self._gaps:
                log.warning("event=run-damaged run=%s lost=%s", id, json.dumps(lost))
            self._gaps[id] = lost
        else:
            self._gaps.pop(id, None)
        return Run(
            sound.recipe,
            parts.history(),
            sound.status,
            sound.device,
            message,
            sound.nonfinite_layer,
            sound.test_accuracy,
            sound.created,
            deletion(row["deletion"]),
            clients(row["clients"]),
            arithmetic(row["arithmetic"]),
        )

    def size(self, id: str) -> int | None:
        """Bytes of the run's records; None if there is no such run."""
        if not re.fullmatch("[0-9a-f]{1,64}", id):
            return None
        parts = (("scalars", "length(data)"), ("columns", "length(data)"), ("samples", "length(numbers) + length(images)"))
        query = " + ".join(f"(SELECT coalesce(sum({size}), 0) FROM {table} WHERE run = runs.id)" for table, size in parts)
        with self._file.reading() as db:
            row = db.execute(f"SELECT {query} FROM runs WHERE id = ?", (id,)).fetchone()
        return row and row[0]

    def list(self) -> list[Summary]:
        """All runs that can be read, newest first."""
        with self._file.reading() as db:
            rows = db.execute("SELECT * FROM runs ORDER BY created DESC, id").fetchall()
        summaries, unreadable = [], {}
        for row in rows:
            try:
                sound = self._sound(row)
            except ValueError as error:
                name = str(row["id"])[:20]
                unreadable[name] = str(error)
                if name not in self._unreadable:
                    log.warning("event=run-unreadable run=%s why=%s", json.dumps(name), json.dumps(str(error)))
                continue
            summaries.append(
                Summary(
                    row["id"],
                    sound.recipe,
                    sound.status,
                    sound.created,
                    sound.steps,
                    sound.loss,
                    sound.seconds,
                    sound.test_accuracy,
                    sound.device,
                    sound.message,
                )
            )
        self._unreadable = unreadable
        return summaries

    def waiting(self) -> list[Run]:
        """The runs that somebody asked for and that waited when the last server ended, oldest first, without their records."""
        query = "SELECT * FROM runs WHERE status = ? ORDER BY rowid"
        with self._file.reading() as db:
            rows = db.execute(query, (str(Status.QUEUED),)).fetchall()
        runs = []
        for row in rows:
            try:
                sound = Sound.of(row)
            except ValueError:
                continue  # the list names it
            history = History(len(sound.recipe.layout), sound.max_columns)
            runs.append(Run(sound.recipe, history, created=sound.created, clients=clients(row["clients"])))
        return runs

    def count(self) -> int:
        """Runs in the file, those included that this version cannot read."""
        with self._file.reading() as db:
            return db.execute("SELECT count(*) FROM runs").fetchone()[0]

    def newest(self) -> float:
        """When the newest run was created, Unix time; 0 if there is none. Those from beyond next year are no help."""
        with self._file.reading() as db:
            query = "SELECT max(created) FROM runs WHERE typeof(created) IN ('real', 'integer') AND created BETWEEN 0 AND ?"
            return db.execute(query, (time.time() + _YEAR,)).fetchone()[0] or 0.0

    def oldest_ended(self, count: int, is_old: Callable[[float], bool]) -> list[str]:
        """Ids of at most `count` runs that have ended and whose time of creation `is_old`, the first that were kept first.

        What this version cannot read is not among them: another may.
        """
        ended = [str(status) for status in Status if not status.live]
        query = f"SELECT * FROM runs WHERE status IN ({', '.join('?' * len(ended))}) ORDER BY rowid"
        ids: list[str] = []
        with self._file.reading() as db:
            for row in db.execute(query, ended):
                if len(ids) == count:
                    break
                try:
                    if is_old(Sound.of(row).created):
                        ids.append(row["id"])
                except ValueError:
                    continue
        return ids

    def delete(self, id: str) -> None:
        """Removes the run and its records, if it is there, and gives the space back."""
        self._file.delete(id)
        self._gaps.pop(id, None)

    def _sound(self, row: sqlite3.Row) -> Sound:
        """Raises ValueError. What was live when the last server ended could not be marked where nothing can be written."""
        sound = Sound.of(row)
        if not self._file.reading_only and sound.recipe.id != row["id"]:  # opening gives it the right one, if that is free
            raise ValueError("the settings of another run")
        if self._file.reading_only and sound.status in (Status.RUNNING, Status.PAUSED):
            return dataclasses.replace(sound, status=Status.INTERRUPTED, message=INTERRUPTED)
        return sound

    # Writing

    def _save(self, run: Run, whole: bool, waits: bool) -> None:
        status = run.status  # before the snapshot: a run that reads as ended here has all its records there
        if waits and status in (Status.RUNNING, Status.INTERRUPTED, Status.STOPPED, Status.FAILED):
            status = Status.QUEUED
        history = run.history.snapshot()
        stride, steps = history.stride, history.steps
        old = self._db.execute("SELECT created, steps, stride FROM runs WHERE id = ?", (run.id,)).fetchone()
        if whole and old and run.id in self._gaps and old["created"] == run.created:
            return  # it was read from here: what lies in the file is all there is
        if old and (whole or old["created"] != run.created or not is_whole(old["steps"]) or not is_whole(old["stride"])):
            self._db.execute("DELETE FROM runs WHERE id = ?", (run.id,))
            self._gaps.pop(run.id, None)
            old = None
        if old is None:
            for table in PARTS:  # whoever has deleted a run by hand may have left its records, which would be in the way
                self._db.execute(f"DELETE FROM {table} WHERE run = ?", (run.id,))
        done = old["steps"] if old else 0
        loss, seconds = history.latest
        row = {
            "id": run.id,
            "config": json.dumps(run.recipe.to_dict()),
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
            "tests": len(history.tests),
            "samples": len(history.samples),
            "arithmetic": json.dumps(run.arithmetic.to_dict()) if run.arithmetic else None,
        }
        # An upsert, not INSERT OR REPLACE: that would delete the row first and, with it, all its records.
        self._db.execute(
            f"INSERT INTO runs ({', '.join(row)}) VALUES ({', '.join(':' + name for name in row)}) "
            f"ON CONFLICT (id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in row if name != 'id')}",
            row,
        )
        self._save_parts(run.id, history, done, old["stride"] if old else stride)

    def _save_parts(self, id: str, history: History, done: int, old_stride: int) -> None:
        """`done`: steps that are kept already, in columns of `old_stride` steps."""
        stride, steps = history.stride, history.steps
        if steps > done:
            scalars = np.column_stack((history.loss[done:], history.accuracy[done:], history.seconds[done:]))
            data = scalars.astype("<f8").tobytes()
            self._db.execute("INSERT INTO scalars VALUES (?, ?, ?, ?)", (id, done, data, checksum("scalars", done, data)))
        if old_stride != stride:
            self._db.execute("DELETE FROM columns WHERE run = ?", (id,))
            done = 0
        columns = history.columns
        self._db.executemany(
            "INSERT OR REPLACE INTO columns VALUES (?, ?, ?, ?)",
            # From the column that was partial at the last call: done // stride.
            (
                (id, place, data := columns[place].astype("<f4").tobytes(), checksum("columns", place, data))
                for place in range(done // stride, len(columns))
            ),
        )
        self._db.executemany(
            "INSERT OR IGNORE INTO tests VALUES (?, ?, ?, ?)",
            ((id, step, accuracy, checksum("tests", step, accuracy)) for step, accuracy in history.tests),
        )
        kept = {step for (step,) in self._db.execute("SELECT step FROM samples WHERE run = ?", (id,))}
        self._db.executemany(
            "INSERT INTO samples VALUES (?, ?, ?, ?, ?)",
            (
                (id, part.step, part.numbers, part.images, checksum("samples", part.step, part.numbers, part.images))
                for part in history.samples
                if part.step not in kept
            ),
        )


def _some(names: list[str], most: int = 5) -> str:
    """A list for a sentence, with the number of those left out."""
    text = ", ".join(names[:most])
    return text if len(names) <= most else _("{text} and {n} more").format(text=text, n=len(names) - most)
