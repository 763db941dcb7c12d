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
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Generic

from gradviz.messages import Message, say
from gradviz.record.history import History
from gradviz.record.measuring import put_measuring
from gradviz.record.recipe import R
from gradviz.record.run import Run, Status, Summary
from gradviz.store.opening import INTERRUPTED, StoreError
from gradviz.store.rows import Parts, Readers, Recipes, Sound, Unsound, arithmetic, clients, deletion, measuring
from gradviz.store.saving import save
from gradviz.store.schema import PARTS
from gradviz.store.storefile import StoreFile

log = logging.getLogger("gradviz")

_YEAR = 366 * 86400.0  # seconds
_ID = "[0-9A-Za-z-]{1,64}"

__all__ = ["INTERRUPTED", "RunStore", "StoreError"]


class RunStore(Generic[R]):
    """The runs of one server, in `folder`. Every method may be called from any thread.

    Opening marks runs that were live as interrupted, but for those of `waiting`. A damaged file is put aside under
    another name and a new one begun. Raises StoreError, here and in every method, if the disk refuses or if another
    server uses the folder. `generation` rises whenever a new file was begun: what is in memory had better be saved whole.
    """

    def __init__(
        self,
        folder: Path,
        readers: Readers[R],
        patience: float = 3.0,
        grace: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        """`readers`: how what a recipe's to_dict gave becomes a recipe again, by its `kind` ("" where it names none).

        `patience`: seconds to wait for another server to let go of the folder. `grace`: seconds for which a file that
        is gone may come back, before `tend` begins a new one; by `clock`.
        """
        self._recipes = Recipes(readers)
        self.file = StoreFile(Path(folder), self._recipes, patience, grace, clock)
        self._unreadable: dict[str, Message] = {}  # what the latest list had to leave out -> why
        self._gaps: dict[str, Message] = {}  # run id -> what is missing in it

    @property
    def folder(self) -> Path:
        return self.file.folder

    @property
    def path(self) -> Path:
        return self.file.path

    @property
    def generation(self) -> int:
        return self.file.generation

    @property
    def notice(self) -> str:
        """What is told, in sentences; empty if all is well."""
        return " ".join(map(str, self.told))

    @property
    def told(self) -> Sequence[Message]:
        """What became of the file and what in it cannot be read."""
        told = [self.file.told] if self.file.told else []
        for code, found in (("store-unreadable", dict(self._unreadable)), ("store-gaps", dict(self._gaps))):
            if found:
                which = _some([f"{id} ({what})" for id, what in found.items()])
                told.append(say(code, n=len(found), which=which))
        return told

    def tend(self, last: bool = False) -> None:
        """Sees to it that what is saved is found again; to be called every second or so, and it is quick.

        Raises StoreError while the file or its folder is gone. Once the folder is there, the file that lies in it is
        used, or a new one begun, with all that the lost one held: as long as it is open, it can be read.
        `last`: there is no later call, so the folder is made if it is gone.
        """
        self.file.tend(last)

    def check(self) -> None:
        """Reads the file now. Raises StoreError if what is saved would not be found."""
        self.file.check()

    def close(self) -> None:
        """Ends the use of the folder, so that another server may open it. Later writes raise StoreError."""
        self.file.close()

    def save(self, *runs: Run[R], whole: bool = False, waiting: Collection[str] = ()) -> None:
        """Brings what is kept of `runs` up to date, all of it or, on StoreError, nothing.

        Writes only what is new since the last call, unless `whole`; a run with the id of a kept one but another time of
        creation replaces it. Another thread may be appending to the runs meanwhile. Those with an id of `waiting` are kept
        as queued unless they have come to an end of their own: if the server ends, `waiting()` has them.
        """
        with self.file.writing():
            for run in runs:
                if save(self.file.db, run, whole, run.id in waiting, run.id in self._gaps):
                    self._gaps.pop(run.id, None)

    def load(self, id: str) -> Run[R] | None:
        """The run with its records, as they were recorded; None if there is none that can be read.

        Records that are damaged read as nan, and its message says how many.
        """
        if not re.fullmatch(_ID, id):
            return None
        with self.file.reading() as db:
            row = db.execute("SELECT * FROM runs WHERE id = ?", (id,)).fetchone()
            if row is None:
                return None
            try:
                sound = self._sound(row)
            except Unsound as error:
                log.warning("event=run-unreadable run=%s why=%s", json.dumps(id), json.dumps(str(error)))
                return None
            parts = Parts(sound, row["quantities"], row["stride"], row["tests"], row["samples"])
            for table in PARTS:
                for values in db.execute(f"SELECT * FROM {table} WHERE run = ? ORDER BY 2", (id,)):
                    parts.take(table, *values[1:])
        run = Run(
            sound.recipe,
            parts.history(),
            sound.status,
            sound.device,
            self._with_lost(id, sound.message, parts.lost()),
            sound.nonfinite_layer,
            sound.test_accuracy,
            sound.created,
            deletion(row["deletion"]),
            clients(row["clients"]),
            arithmetic(row["arithmetic"]),
        )
        if kept := measuring(row["measuring"]):
            put_measuring(run, kept)
        return run

    def _with_lost(self, id: str, message: Message, lost: Message | None) -> Message:
        """Remembers what is missing in a run, and says it with its message."""
        if lost is None:
            self._gaps.pop(id, None)
            return message
        if id not in self._gaps:
            log.warning("event=run-damaged run=%s lost=%s", id, json.dumps(str(lost)))
        self._gaps[id] = lost
        said = say("records-lost", what=lost)
        return say("sentences", first=message, second=said) if message else said

    def size(self, id: str) -> int | None:
        """Bytes of the run's records; None if there is no such run."""
        if not re.fullmatch(_ID, id):
            return None
        parts = (("scalars", "length(data)"), ("columns", "length(data)"), ("samples", "length(numbers) + length(images)"))
        query = " + ".join(f"(SELECT coalesce(sum({size}), 0) FROM {table} WHERE run = runs.id)" for table, size in parts)
        with self.file.reading() as db:
            row = db.execute(f"SELECT {query} FROM runs WHERE id = ?", (id,)).fetchone()
        return row and int(row[0])

    def list(self) -> list[Summary[R]]:
        """All runs that can be read, newest first."""
        with self.file.reading() as db:
            rows = db.execute("SELECT * FROM runs ORDER BY created DESC, id").fetchall()
        summaries, unreadable = [], {}
        for row in rows:
            try:
                summaries.append(_summary(row["id"], self._sound(row)))
            except Unsound as error:
                name = str(row["id"])[:20]
                unreadable[name] = error.message
                if name not in self._unreadable:
                    log.warning("event=run-unreadable run=%s why=%s", json.dumps(name), json.dumps(str(error)))
        self._unreadable = unreadable
        return summaries

    def waiting(self) -> Sequence[Run[R]]:
        """The runs that somebody asked for and that waited when the last server ended, oldest first, without their records."""
        query = "SELECT * FROM runs WHERE status = ? ORDER BY rowid"
        with self.file.reading() as db:
            rows = db.execute(query, (str(Status.QUEUED),)).fetchall()
        runs = []
        for row in rows:
            try:
                sound = Sound.of(row, self._recipes)
            except Unsound:
                continue  # the list names it
            history = History(len(sound.recipe.layout), sound.max_columns)
            runs.append(Run(sound.recipe, history, created=sound.created, clients=clients(row["clients"])))
        return runs

    def count(self) -> int:
        """Runs in the file, those included that this version cannot read."""
        with self.file.reading() as db:
            return int(db.execute("SELECT count(*) FROM runs").fetchone()[0])

    def newest(self) -> float:
        """When the newest run was created, Unix time; 0 if there is none. Those from beyond next year are no help."""
        with self.file.reading() as db:
            query = "SELECT max(created) FROM runs WHERE typeof(created) IN ('real', 'integer') AND created BETWEEN 0 AND ?"
            return float(db.execute(query, (time.time() + _YEAR,)).fetchone()[0] or 0.0)

    def ended(self) -> Sequence[tuple[str, float, tuple[str, ...]]]:
        """(id, when it was created, whose it is) of all runs that have ended, the first that were kept first.

        What this version cannot read is not among them: another may.
        """
        statuses = [str(status) for status in Status if not status.live]
        query = f"SELECT * FROM runs WHERE status IN ({', '.join('?' * len(statuses))}) ORDER BY rowid"
        found = []
        with self.file.reading() as db:
            for row in db.execute(query, statuses):
                with suppress(Unsound):
                    found.append((row["id"], Sound.of(row, self._recipes).created, clients(row["clients"])))
        return found

    def delete(self, id: str) -> None:
        """Removes the run and its records, if it is there, and gives the space back."""
        self.file.delete(id)
        self._gaps.pop(id, None)

    def _sound(self, row: sqlite3.Row) -> Sound[R]:
        """Raises Unsound. What was live when the last server ended could not be marked where nothing can be written."""
        sound = Sound.of(row, self._recipes)
        if not self.file.reading_only and sound.recipe.id != row["id"]:  # opening gives it the right one, if that is free
            raise Unsound(say("row-other-id"))
        if self.file.reading_only and sound.status in (Status.RUNNING, Status.PAUSED):
            return dataclasses.replace(sound, status=Status.INTERRUPTED, message=INTERRUPTED)
        return sound


def _summary(id: str, sound: Sound[R]) -> Summary[R]:
    """Under the id that it is kept under."""
    return Summary(
        id,
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


def _some(names: Sequence[str], most: int = 5) -> Message | str:
    """A list for a sentence, with the number of those left out."""
    text = ", ".join(names[:most])
    return text if len(names) <= most else say("some-and-more", text=text, n=len(names) - most)
