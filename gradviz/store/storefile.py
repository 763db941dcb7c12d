"""The file of runs, as a thing on a disk: opened, claimed, looked for under its name, begun again when it is gone."""

from __future__ import annotations

import json
import logging
import math
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from gradviz.messages import NOTHING, Message, say
from gradviz.record.recipe import Recipe
from gradviz.store import reserve
from gradviz.store.opening import (
    Opened,
    StoreError,
    brought_over,
    claimed,
    claimed_or_not,
    code,
    is_damage,
    log_mended,
    log_written,
    marks_of,
    moment,
    opened,
    prepared,
    reason,
    sweep,
    transaction,
    written_anew,
)  # fmt: skip
from gradviz.store.rows import Recipes

log = logging.getLogger("gradviz")


class StoreFile:
    """`runs.sqlite` in `folder`, with one connection `db` that writes. Every method may be called from any thread.

    `generation` rises whenever a new file was begun, and `told` says what became of the old one.
    """

    def __init__(self, folder: Path, recipes: Recipes[Recipe], patience: float, grace: float, clock: Callable[[], float]):
        """See RunStore."""
        self.folder, self.path = folder, folder / "runs.sqlite"
        self.generation, self.told = 0, NOTHING
        self._recipes = recipes
        self.grace, self._clock = grace, clock
        self._gone_since: float | None = None
        self._shut = False  # `db` is closed and no other could be opened yet
        self.reading_only = NOTHING  # why nothing can be written; `db` then reads, and `tend` tries again
        self._tried = -math.inf  # when that was tried last, by the clock
        self._damaged = False  # somebody met damage; `tend` looks into it
        self._marks: dict[Path, tuple[int, int]] = {}  # file -> what it was when it was opened
        self._lock = threading.Lock()
        with self._plainly():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._claim = claimed_or_not(self.path, patience)
            try:
                self._tell(log_mended(self.path))  # only here: later somebody may be reading it
                self._take(opened(self.path, self._recipes))
                if not self.reading_only and not self._claims():
                    self._claim = claimed(self.path, patience)  # it can be written, and two servers must not
            except BaseException:
                self._claim.close()
                raise
            self._marks = marks_of(self.path)
            reserve.hold(self.folder, share=2 if self.reading_only else 8)

    def close(self) -> None:
        with self._lock:
            self._marks = {}
            self.db.close()
            self._claim.close()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A transaction on `db`, all of it or, on StoreError, nothing."""
        with self._plainly(), self._lock:
            if gone := self._gone():
                raise StoreError(gone)
            with transaction(self.db):
                yield

    def delete(self, id: str) -> None:
        """Removes the run and its records, also on a full disk, and gives the space back."""
        with self._plainly(), self._lock:
            if self.reading_only:
                self._try_to_write()
            if gone := self._gone():
                raise StoreError(gone)
            try:
                self.db.execute("DELETE FROM runs WHERE id = ?", (id,))
                self.db.executescript("PRAGMA incremental_vacuum")  # execute would free a single page
            except sqlite3.OperationalError as error:
                if code(error) not in reserve.FULL:
                    raise
                reserve.release(self.folder)
                try:
                    reserve.delete(self.db, id)
                    reserve.give_back(self.db)
                finally:
                    reserve.hold(self.folder, share=2)

    def tend(self, last: bool = False) -> None:
        """See RunStore."""
        with self._plainly(), self._lock:
            if last and self._gone():
                self.folder.mkdir(parents=True, exist_ok=True)
            if self.folder.is_dir():
                self._claim_again()
            if self.reading_only:
                self._try_to_write()
            gone = self._gone()
            if not gone:
                self._gone_since = None
                if self._damaged and self._marks:
                    self._look_into()
                return
            if self._gone_since is None:
                self._gone_since = self._clock()
                log.warning("event=store-gone what=%s", json.dumps(str(gone)))
            if not self.folder.is_dir() or not last and self._clock() - self._gone_since < self.grace:
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

    def _try_to_write(self) -> None:
        """Raises StoreError if the disk still takes nothing."""
        if self._clock() - self._tried < self.grace:
            raise StoreError(self.reading_only)
        self._tried = self._clock()
        self.db.close()
        self._shut, said, self.reading_only = True, self.reading_only, NOTHING
        try:
            if not self._claims():
                self._claim = claimed(self.path, 0)
            self._take(opened(self.path, self._recipes))
        except BaseException:
            self.reading_only = said
            raise
        if self.reading_only:
            self._shut = False
            raise StoreError(self.reading_only)
        self._go_on(NOTHING)

    def _claims(self) -> bool:
        return bool(self._claim.execute("PRAGMA database_list").fetchone()[2])

    def _take(self, opened: Opened) -> None:
        self.db, self.reading_only = opened.db, opened.reading_only
        self._tell(opened.told)

    def _tell(self, message: Message) -> None:
        if message:
            self.told = say("sentences", first=self.told, second=message) if self.told else message

    def _reader(self) -> sqlite3.Connection:
        """A connection of its own, so that reading never waits for a write."""
        return prepared(sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=rw", timeout=5, isolation_level=None, uri=True))

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection all whose reads see the same moment."""
        with self._plainly():
            if self._gone():
                with self._lock, moment(self.db) as db:  # what is open can be read, whatever became of its name
                    yield db
            else:
                with closing(self._reader()) as reader, moment(reader) as db:
                    yield db

    # The file and its name

    def _gone(self) -> Message:
        """Why what is written would not be found again, else NOTHING."""
        if self.reading_only:
            return self.reading_only
        if self._shut:
            return say("store-shut", name=str(self.path))
        if not (marks := self._marks) or (found := marks_of(self.path)) == marks:
            return NOTHING
        what = next((name for name in marks if found.get(name) != marks[name]), None)
        if what is None:
            return NOTHING
        if not self.folder.is_dir():
            return say("store-folder-gone", folder=str(self.folder))
        return say("store-replaced" if what in found else "store-removed", name=what.name, folder=str(self.folder))

    def _claim_again(self) -> None:
        """Takes the lock anew if its file was removed. Raises StoreError if another server was quicker."""
        lock = self.path.with_name("runs.lock")
        if lock not in self._marks or marks_of(self.path).get(lock) == self._marks[lock]:
            return
        claim = claimed(self.path, 0)
        self._claim.close()
        self._claim = claim
        self._marks[lock] = marks_of(self.path)[lock]
        log.warning("event=store-claimed-again")

    def _look_into(self) -> None:
        """Opens the file anew, as at the start, since somebody met damage in it."""
        told, self._shut, self._damaged = self.told, True, False
        self.db.close()
        self._take(opened(self.path, self._recipes))
        count = self.db.execute("SELECT count(*) FROM runs").fetchone()[0]
        self._go_on(say("store-met-damaged", n=count) if self.told == told else NOTHING)

    def _begin_again(self) -> None:
        """Goes on in the file that has the name now, or in a new one, and brings over what the lost one held."""
        found, marks, old = marks_of(self.path), self._marks, self.db
        if self._shut:
            told = NOTHING
        elif found.get(self.path) == marks[self.path]:
            told = log_written(self.path, old)
        elif self.path in found:
            return self._other_opened(old)
        else:
            told = written_anew(self.path, old, self._marks)
        self._shut = True
        self._take(opened(self.path, self._recipes))
        self._go_on(told)

    def _go_on(self, told: Message) -> None:
        self._shut = False
        self._tell(told)
        self.generation += 1
        self._marks = marks_of(self.path)
        log.warning("event=store-begun-again told=%s", json.dumps(str(told)))

    def _other_opened(self, old: sqlite3.Connection) -> None:
        """Another file has the name now: somebody has put a copy of other days there, say."""
        sweep(self.path, self._marks)
        new = opened(self.path, self._recipes)
        try:
            count = brought_over(old, new.db)
        except BaseException:
            new.db.close()
            raise
        self._take(new)
        own = Path(f"{self.path}-wal")
        put_by = own.with_suffix(".kept")
        own.rename(put_by)  # closing the old one removes what has the name of its log
        old.close()
        put_by.rename(own)
        self._go_on(say("store-other-opened", name=str(self.path), n=count))

    @contextmanager
    def _plainly(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            self._damaged = self._damaged or is_damage(error)
            raise StoreError(say("store-unusable", name=str(self.path), why=reason(error))) from error
        except OSError as error:
            raise StoreError(say("store-folder-unusable", folder=str(self.path.parent), why=str(error.strerror))) from error
