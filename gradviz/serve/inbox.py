"""Inbox: runs that are watched on other machines, as their senders bring them piece by piece.

What has arrived lies in the folder of watched runs like a file written here, and as long as its sender is heard of it is
locked like one. Nothing is kept that does not fit to what came before.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from gradviz.messages import Message, Told, say
from gradviz.record.sender import ALIVE, head_hash
from gradviz.record.spool import SUFFIX, Check, SpoolError, lock_file, put_in_place, whole_frames
from gradviz.record.watched import is_id
from gradviz.serve.threads import daemon
from gradviz.settings import Limits

MOST_PART = 64_000_000  # bytes that come at once: all columns that a run keeps, and a million steps
MOST_RUN = 200_000_000  # bytes of one run
MOST_RUNS = 500  # files of watched runs in the folder
SILENT = 3 * ALIVE  # seconds after which a sender counts as gone
_OPEN = 100  # runs whose files are held open at once
_LOOK = 5.0  # seconds between two looks at who is silent


class Rejected(Told):
    """Why something is not kept; `status` is that of HTTP."""

    def __init__(self, status: int, message: Message):
        super().__init__(message)
        self.status = status


@dataclass
class _Arriving:
    """A file that grows. Rewritten by its sender it has another head."""

    head: str
    size: int
    check: Check
    file: IO[bytes] | None  # held open, and locked, while its sender is heard of
    heard: float


class Inbox:
    """Every method may be called from any thread."""

    def __init__(
        self,
        folder: Path,
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
        disk: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
    ):
        """`folder`: that of the watched runs. `disk` gives the bytes that are free where a folder is."""
        self._folder, self._limits, self._clock, self._disk = folder, limits, clock, disk
        self._lock = threading.Lock()
        self._arriving: OrderedDict[str, _Arriving] = OrderedDict()  # the one heard of last is the last
        self._ending = threading.Event()
        self._looking: threading.Thread | None = None

    def take(self, run_id: str, head: str, offset: int, content: bytes) -> tuple[bool, int]:
        """`content` is what follows on the first `offset` bytes of a file whose first line has the hash `head`.

        (whether it was kept, bytes that are kept of that file). Raises Rejected.
        """
        if not is_id(run_id):
            raise Rejected(404, say("inbox-id"))
        with self._lock:
            known = self._known(run_id)
            if known and known.head == head and (offset != known.size or not content):
                self._heard(run_id, known)
                return offset == known.size, known.size
            if offset and not (known and known.head == head):
                return False, 0
            try:
                self._refuse_without_room(run_id, known, content)
                grown = self._append(run_id, known, content) if offset and known else self._begin(run_id, head, known, content)
            except SpoolError as error:
                raise Rejected(400, say("inbox-content", reason=error.message)) from None
            except OSError as error:
                self._forget(run_id)
                raise Rejected(507, say("inbox-disk", reason=str(error.strerror or error)[:200])) from None
            self._heard(run_id, grown)
            return True, grown.size

    def close(self) -> None:
        """Lets go of every file: the senders come again."""
        self._ending.set()
        with self._lock:
            for run_id in list(self._arriving):
                self._forget(run_id)

    def look(self) -> None:
        """Lets go of the runs whose senders are silent."""
        with self._lock:
            for run_id, arriving in list(self._arriving.items()):
                if self._clock() - arriving.heard > SILENT:
                    self._forget(run_id)

    def _known(self, run_id: str) -> _Arriving | None:
        if known := self._arriving.get(run_id):
            if known.file is None or _is_same(known.file, self._path(run_id)):
                return known
            self._forget(run_id)  # deleted meanwhile, or written anew by whoever trains here
        try:
            with self._path(run_id).open("rb") as file:
                line = file.readline(MOST_PART)
                check = Check(line)
                content = file.read(MOST_RUN)
                check.take(content := content[: whole_frames(content)])
        except (OSError, SpoolError):
            return None
        return _Arriving(head_hash(line), len(line) + len(content), check, None, self._clock())

    def _begin(self, run_id: str, head: str, known: _Arriving | None, content: bytes) -> _Arriving:
        line, rest = content[: (end := content.find(b"\n") + 1)], content[end:]
        check = Check(line)
        if head_hash(line) != head or check.recipe.id != run_id:
            raise Rejected(400, say("inbox-other"))
        if known and (known.check.writer != check.writer or known.check.written >= check.written):
            raise Rejected(403, say("inbox-another"))
        check.take(rest)
        path, new = self._path(run_id), self._path(run_id).with_suffix(".arriving")
        self._folder.mkdir(parents=True, exist_ok=True)
        file: IO[bytes] = new.open("wb", buffering=0)
        try:
            lock_file(file)
            file.write(content)
            file = put_in_place(file, path, known.file if known else None)
        except OSError:
            file.close()
            with contextlib.suppress(OSError):
                new.unlink(missing_ok=True)
            raise
        self._forget(run_id)
        return _Arriving(head, len(content), check, file, self._clock())

    def _append(self, run_id: str, known: _Arriving, content: bytes) -> _Arriving:
        try:
            known.check.take(content)
        except SpoolError:
            self._forget(run_id)  # with the check, which is spoilt; the file is as it was
            raise
        if known.file is None:
            known.file = self._path(run_id).open("r+b", buffering=0)
            known.file.truncate(known.size)  # half a frame that a server left which was killed
            known.file.seek(known.size)
            lock_file(known.file)
        try:
            known.file.write(content)
        except OSError:
            with contextlib.suppress(OSError):
                known.file.truncate(known.size)
            raise
        known.size += len(content)
        return known

    def _refuse_without_room(self, run_id: str, known: _Arriving | None, content: bytes) -> None:
        if len(content) > MOST_PART or (known.size if known else 0) + len(content) > MOST_RUN:
            raise Rejected(413, say("inbox-large", most=MOST_RUN // 1_000_000))
        files = list(self._folder.glob(f"*{SUFFIX}"))
        if not known and len(files) >= MOST_RUNS:
            raise Rejected(507, say("inbox-runs", most=MOST_RUNS))
        self._folder.mkdir(parents=True, exist_ok=True)
        used = sum(_size(file) for file in files)
        if used + len(content) > self._limits.disk * 1e9 or self._disk(self._folder) - len(content) < self._limits.free_disk:
            raise Rejected(507, say("limit-disk", most=self._limits.disk))

    def _heard(self, run_id: str, arriving: _Arriving) -> None:
        arriving.heard = self._clock()
        self._arriving[run_id] = arriving
        self._arriving.move_to_end(run_id)
        if not arriving.check.live or len(self._arriving) > _OPEN:
            self._forget(run_id if not arriving.check.live else next(iter(self._arriving)))
        if self._looking is None:
            self._looking = daemon(self._look_on, "inbox")

    def _forget(self, run_id: str) -> None:
        if (arriving := self._arriving.pop(run_id, None)) and arriving.file:
            arriving.file.close()

    def _look_on(self) -> None:
        while not self._ending.wait(_LOOK):
            self.look()

    def _path(self, run_id: str) -> Path:
        return self._folder / (run_id + SUFFIX)


def _is_same(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # deleted meanwhile
        return 0
