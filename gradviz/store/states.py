"""States of trainings on the disk, for who goes on or branches: <folder>/<run id>/<step>.safetensors.

They are no records: whatever becomes of them, it only costs the training again. So the oldest give way to new ones, and a disk
that refuses is said and otherwise ignored. Several processes may write and delete at the same time.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gradviz.messages import NOTHING, Message, say

FOLDER = "states"
_ID = re.compile(r"[0-9A-Za-z-]{1,64}")  # else it would be a path to somewhere else
_FILE = re.compile(r"\d{1,9}\.safetensors")
_LEFT = 3600.0  # seconds after which nobody writes a file any more that is not whole


@dataclass(frozen=True)
class _File:
    path: Path
    size: int
    written: float  # Unix time
    shared: int  # how many runs have it

    @property
    def step(self) -> int:
        return int(self.path.stem)


class Writable(Protocol):
    """What `States` keeps."""

    @property
    def size(self) -> int:
        """Bytes, about."""

    def write(self, path: Path) -> None:
        """Raises OSError."""


class States:
    """Every method may be called from any thread and process."""

    def __init__(self, folder: Path, most_bytes: float, free: float = 300e6):
        """`most_bytes`: of all together. `free`: bytes of the disk that stay for everything else."""
        self.folder, self.most_bytes, self.free = folder, most_bytes, free

    def steps(self, id: str) -> list[int]:
        """Those before which the run's state is kept, rising."""
        return sorted(file.step for file in self._of(self.folder / id)) if _ID.fullmatch(id) else []

    def path(self, id: str, step: int) -> Path:
        return self.folder / id / f"{step}.safetensors"

    def put(self, id: str, step: int, state: Writable) -> Message:
        """Keeps a state, or says why not. It is there whole or not at all."""
        if state.size > self.most_bytes:
            return say("state-not-kept", why=say("state-too-large", size=state.size / 1e6, most=self.most_bytes / 1e6))
        path = self.path(id, step)
        part = path.with_name(f"{step}.{os.getpid()}-{threading.get_ident()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._make_room(id, state.size)
            if shutil.disk_usage(self.folder).free - state.size < self.free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            state.write(part)
            os.replace(part, path)
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            why = say("sqlite-full") if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
            return say("state-not-kept", why=why)
        return NOTHING

    def share(self, id: str, other: str, until: int) -> None:
        """The states of a run before step `until`, and at it, are those of another that has begun with it too: without a copy."""
        for step in self.steps(id):
            if step <= until:
                with suppress(OSError):  # there already, gone, or a disk without links: it is trained again then
                    self.path(other, step).parent.mkdir(parents=True, exist_ok=True)
                    os.link(self.path(id, step), self.path(other, step))

    def delete(self, id: str) -> None:
        if _ID.fullmatch(id):
            shutil.rmtree(self.folder / id, ignore_errors=True)

    def _make_room(self, id: str, size: int) -> None:
        """The runs whose newest state is oldest go first, and of this run the first steps."""
        runs = {}
        for folder in self.folder.iterdir():
            if files := self._of(folder):
                runs[folder.name] = files
            elif folder.name != id:
                with suppress(OSError):
                    folder.rmdir()
        over = sum(file.size / file.shared for files in runs.values() for file in files) + size - self.most_bytes
        order = sorted(runs, key=lambda other: (other == id, max(file.written for file in runs[other])))
        for file in (file for run in order for file in sorted(runs[run], key=lambda file: file.step)):
            if over <= 0:
                return
            file.path.unlink(missing_ok=True)
            over -= file.size / file.shared

    @staticmethod
    def _of(folder: Path) -> list[_File]:
        files = []
        with suppress(OSError), os.scandir(folder) as found:
            for entry in found:
                with suppress(OSError):
                    state = entry.stat()
                    if _FILE.fullmatch(entry.name):
                        files.append(_File(Path(entry.path), state.st_size, state.st_mtime, max(1, state.st_nlink)))
                    elif time.time() - state.st_mtime > _LEFT:  # of a process that was killed
                        os.unlink(entry.path)
        return files
