"""A run of a watched net as one file, written while it trains and read by whoever looks.

The first line is JSON: what the run is about. Frames follow, each appended at once: numbers of new steps, or a state. The
columns of layer numbers are those of History; when it merges them, and when frames that are out of date have come to outweigh
the rest, the file is written anew and takes the old one's place. Whatever part of it has been written is a run.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import struct
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from gradviz.messages import Message, Told, say
from gradviz.record.arithmetic import Arithmetic
from gradviz.record.history import History
from gradviz.record.measuring import is_small, put_measuring, whole
from gradviz.record.run import Run, Status
from gradviz.record.watched import ABSENT, MEASURED, Watched

try:
    import fcntl
except ImportError:  # Windows: nobody can tell there whether the writer lives
    fcntl = None  # type: ignore[assignment]

FOLDER = "watched"  # beside a store
SUFFIX = ".spool"
EVERY = 0.5  # seconds between two looks at what is new: what a killed process loses
_VERSION = 1
_FRAME = struct.Struct("<BII")  # kind, bytes, their crc32
_NUMBERS = struct.Struct("<QIIII")  # first step, steps, stride, first column, columns
_KIND_NUMBERS, _KIND_STATE = 1, 2
_LATE = 1024  # steps back at which a loss may still come: one that lay on a GPU
_SLACK = 8_000_000  # bytes of frames out of date that are let be
HEAD = 16_000_000  # bytes of the first line, at most
_LAYERS, _COLUMNS = 20_000, 10_000
_SILENT = 3600.0  # seconds without a word after which a run has ended, where nobody can see whether its writer lives
_Scalars = np.ndarray[Any, np.dtype[np.float64]]


def max_columns(layers: int) -> int:
    """Columns kept of so many layers: at most some 32 MB of them, a thousand for a usual net."""
    most = 8_000_000 // (len(MEASURED) * max(1, layers))
    return max(50, min(1000, most)) // 2 * 2


class SpoolWriter:
    """Of one run. `write` may be called from any one thread at a time; it raises OSError where the disk takes no more."""

    def __init__(self, path: Path, head: Mapping[str, Any]):
        """`head`: the recipe and what else is known from the start, as JSON has it."""
        self.path = path
        self._head = dict(head) | {"writer": secrets.token_hex(8)}  # who writes anew what he has written, and nobody else
        self._written = 0  # times that the whole file was written
        self._file: IO[bytes] | None = None
        self._least = self._size = self._steps = self._stride = 0
        self._state: bytes = b""
        self._tail = np.empty((0, 2))  # loss and accuracy of the last steps as they were written: some come late

    def write(self, history: History, state: Mapping[str, Any]) -> None:
        """What is new since the last time."""
        view = history.snapshot()
        packed = json.dumps(state, sort_keys=True).encode()
        anew = self._file is None or view.stride != self._stride or self._size > 2 * self._least + _SLACK
        start = 0 if anew else self._steps - len(self._tail)
        scalars = _scalars(view, start)  # once: a loss that is noted meanwhile differs from it the next time
        if anew:
            self._anew(view, scalars, packed)
            return
        frames = b""
        first = start + self._first_new(scalars)
        if first < view.steps:
            frames += _numbers(view, scalars[first - start :], view.column_of(max(0, self._steps - 1)))
        if packed != self._state:
            frames += _frame(_KIND_STATE, packed)
        if frames:
            self._append(frames)
        self._noted(view, scalars, packed)

    def close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None

    def _append(self, frames: bytes) -> None:
        assert self._file is not None
        try:
            self._file.write(frames)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file.fileno(), self._size)  # no half frame, where another may yet follow
            raise
        self._size += len(frames)

    def _noted(self, view: History, scalars: _Scalars, state: bytes) -> None:
        self._steps, self._stride, self._state = view.steps, view.stride, state
        self._tail = scalars[-_LATE:, :2].copy()

    def _first_new(self, scalars: _Scalars) -> int:
        """The first place whose numbers are not written, or not as they are now; `scalars` begin where the tail does."""
        now = scalars[: len(self._tail), :2]
        differ = ((now != self._tail) & ~(np.isnan(now) & np.isnan(self._tail))).any(1)
        return int(differ.argmax()) if differ.any() else len(self._tail)

    def _anew(self, view: History, scalars: _Scalars, state: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._written += 1
        head = {"gradviz-spool": _VERSION, "quantities": list(view.quantities), "max_columns": view.max_columns}
        head |= {"written": self._written} | self._head
        text = json.dumps(head).encode() + b"\n" + _numbers(view, scalars, 0) + _frame(_KIND_STATE, state)
        new = self.path.with_suffix(".new")
        file: IO[bytes] = new.open("wb", buffering=0)
        try:
            lock_file(file)
            file.write(text)
            file = put_in_place(file, self.path, self._file)
        except OSError:
            file.close()
            new.unlink(missing_ok=True)
            raise
        self.close()
        self._file, self._size, self._least = file, len(text), len(text)
        self._noted(view, scalars, state)


def _scalars(view: History, first: int) -> _Scalars:
    """(steps, 3): loss, accuracy and seconds of the steps from `first` on; a copy."""
    return np.stack([view.loss[first:], view.accuracy[first:], view.seconds[first:]], axis=1)


def _numbers(view: History, scalars: _Scalars, column: int) -> bytes:
    """Of the last steps, and the columns from `column` on."""
    columns = view.columns[column:].astype("<f4")
    head = _NUMBERS.pack(view.steps - len(scalars), len(scalars), view.stride, column, len(columns))
    return _frame(_KIND_NUMBERS, head + scalars.astype("<f8").tobytes() + columns.tobytes())


def _frame(kind: int, content: bytes) -> bytes:
    return _FRAME.pack(kind, len(content), zlib.crc32(content)) + content


def lock_file(file: IO[bytes]) -> None:
    """As long as the writer lives, others can see that it does."""
    if fcntl:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def put_in_place(file: IO[bytes], path: Path, old: IO[bytes] | None) -> IO[bytes]:
    """Gives the open file the name `path`, that of `old` till now, and gives back what is open then. Raises OSError."""
    if fcntl:
        os.replace(file.name, path)
        return file
    for held in (file, old):  # Windows renames and replaces nothing that is open, be it by a reader: who reads is soon done
        if held:
            held.close()
    for patience in reversed(range(40)):
        try:
            os.replace(file.name, path)
            break
        except PermissionError:
            if not patience:
                raise
            time.sleep(0.05)
    return path.open("ab", buffering=0)


class Recorder:
    """Writes a run down from a thread of its own, until `close`. Where that fails it says so once, and ends."""

    def __init__(
        self,
        writer: SpoolWriter,
        history: Callable[[], History],
        state: Callable[[], dict[str, Any]],
        failed: Callable[[Exception], None],
    ):
        self._writer, self._history, self._state, self._failed = writer, history, state, failed
        self._ending = threading.Event()
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._work, name="gradviz-watch", daemon=True)
        self._thread.start()

    @property
    def here(self) -> bool:
        """Whether this is its thread."""
        return threading.current_thread() is self._thread

    def close(self) -> None:
        """With the last numbers written."""
        if os.getpid() == self._pid:  # else: a copy of the process, which has no such thread
            self._ending.set()
            if not self.here:  # where the net's end was found out by the garbage collector
                self._thread.join()

    def _work(self) -> None:
        try:
            ending = False
            while not ending:
                ending = self._ending.wait(EVERY)
                self._writer.write(self._history(), self._state())
        except Exception as error:
            self._failed(error)
        finally:
            self._writer.close()


# --- reading -------------------------------------------------------------------------------------------------------


class SpoolError(Told, ValueError):
    """A file that is no run of a watched net; the message says why in half a sentence."""


def read_spool(path: Path) -> Run[Watched]:
    """What the file holds, up to the first frame that is not whole. Raises SpoolError, or OSError."""
    return SpoolReader(path).read()


class SpoolReader:
    """Of one file, which may be written meanwhile. One thread may call `read`; the run that it gives is for all of them."""

    def __init__(self, path: Path):
        self.path = path
        self._file = (0, b"")  # inode and first line of the file that was read: it may be written anew, and replaced
        self._at = 0  # bytes of it that were understood
        self._state: dict[str, Any] = {}
        self._head: dict[str, Any] = {}
        self._run: Run[Watched] | None = None

    def read(self) -> Run[Watched]:
        """The run with all that is new; the same object as long as the file is one. Raises SpoolError, or OSError."""
        while True:
            with self.path.open("rb") as file:
                writing = _is_locked(file)  # before what it holds: who has ended by now has written all
                state = os.fstat(file.fileno())
                line = file.readline(HEAD)
                same = (state.st_ino, line) == self._file and state.st_size >= self._at
                file.seek(self._at if same else len(line))
                content = file.read()
                if state.st_ino == self.path.stat().st_ino:
                    break  # else it has been written anew meanwhile, and the lock of this one says nothing
        if writing is None and time.time() - state.st_mtime > _SILENT:
            writing = False
        run = self._more(self._run, content) if self._run and same else self._whole(line, content)
        self._file = state.st_ino, line
        _end(run, self._state, writing)
        self._run = run
        return run

    def _whole(self, line: bytes, content: bytes) -> Run[Watched]:
        recipe, self._head = _read_head(line)
        self._at, self._state = len(line), {}
        numbers = self._take(content, 0, 0, len(recipe.layout))
        steps = max((part.first + len(part.scalars) for part in numbers), default=0)
        run = Run(recipe, _history(numbers, steps, len(recipe.layout), self._head), created=float(self._head["created"]))
        run.device = str(self._head.get("device", ""))[:300]
        run.arithmetic = Arithmetic.from_dict(self._head.get("arithmetic"))
        return run

    def _more(self, run: Run[Watched], content: bytes) -> Run[Watched]:
        history = run.history
        for part in self._take(content, history.steps, len(history.columns), history.layers):
            ends, steps = part.column + len(part.columns), part.first + len(part.scalars)
            if part.stride != history.stride or ends != -(-steps // part.stride) or ends > history.max_columns:
                raise SpoolError(say("spool-columns"))
            history.extend(part.first, part.scalars, part.column, _as_measured(part.columns, self._head["quantities"]))
        return run

    def _take(self, content: bytes, steps: int, columns: int, layers: int) -> list[_Numbers]:
        """Those that go on from so many steps and columns; the state that the last frame of its kind tells."""
        numbers = []
        for kind, frame in _frames(content):
            if kind == _KIND_STATE:
                self._state = _json(frame)
            elif kind == _KIND_NUMBERS:
                part = _read_numbers(frame, len(self._head["quantities"]), layers)
                if part is None or part.first > steps or part.column > columns:
                    break
                steps, columns = part.first + len(part.scalars), part.column + len(part.columns)
                numbers.append(part)
            self._at += _FRAME.size + len(frame)
        return numbers


def _history(numbers: Sequence[_Numbers], steps: int, layers: int, head: Mapping[str, Any]) -> History:
    most = head["max_columns"]
    stride = numbers[0].stride if numbers else 1
    count = -(-steps // stride)
    if count != max((part.column + len(part.columns) for part in numbers), default=0) or count > most:
        raise SpoolError(say("spool-columns"))
    columns = np.full((count, len(MEASURED), layers), ABSENT, np.float32)
    scalars = np.full((steps, 3), np.nan)
    for part in numbers:
        ends = part.column + len(part.columns)
        if part.stride != stride or ends > count or part.first + len(part.scalars) > steps:
            raise SpoolError(say("spool-columns"))
        scalars[part.first : part.first + len(part.scalars)] = part.scalars
        columns[part.column : ends] = _as_measured(part.columns, head["quantities"])
    return History.restored(columns, scalars, [], stride, most, quantities=MEASURED)


def _as_measured(columns: np.ndarray[Any, np.dtype[np.float32]], names: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Columns of the quantities `names` as those of MEASURED; what the file's version did not measure is absent too."""
    if tuple(names) == MEASURED:
        return columns
    table = np.full((len(columns), len(MEASURED), columns.shape[2]), ABSENT, np.float32)
    for place, name in enumerate(names):
        if name in MEASURED:
            table[:, MEASURED.index(name)] = columns[:, place]
    return table


def _end(run: Run[Watched], state: dict[str, Any], writing: bool | None) -> None:
    """How the run stands, by its last state. One that says no end and is not written any more was interrupted."""
    try:
        status = Status(state.get("status", Status.RUNNING))
    except ValueError:
        status = Status.RUNNING
    layer = state.get("nonfinite_layer")
    run.nonfinite_layer = layer if isinstance(layer, str) else None
    put_measuring(run, state)
    message = Message.from_json(state.get("message"))
    if status.live and writing is False:
        status, message = Status.INTERRUPTED, say("watch-interrupted")
    run.message = message
    run.status = status  # last, so that who reads an ended run finds it complete


def _read_head(line: bytes) -> tuple[Watched, dict[str, Any]]:
    head = _json(line)
    if head.get("gradviz-spool") != _VERSION:
        raise SpoolError(say("spool-other"))
    names = head.get("quantities")
    if not isinstance(names, list) or not set(MEASURED) & {name for name in names if isinstance(name, str)}:
        raise SpoolError(say("spool-quantities"))
    most, created = head.get("max_columns"), head.get("created")
    if type(most) is not int or not 2 <= most <= _COLUMNS or most % 2 or not is_small(created):
        raise SpoolError(say("spool-head"))
    try:
        recipe = Watched.from_dict(head["recipe"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise SpoolError(say("spool-recipe")) from error
    if len(recipe.layout) > _LAYERS:
        raise SpoolError(say("spool-layers", most=_LAYERS))
    return recipe, head


def whole_frames(content: bytes) -> int:
    """Bytes of the frames in it up to the first that is not whole."""
    return sum(_FRAME.size + len(frame) for _kind, frame in _frames(content))


class Check:
    """Takes what is to be appended to a file of watched numbers only if that leaves it one; for what strangers send."""

    def __init__(self, line: bytes):
        """`line`: the first one of the file. Raises SpoolError."""
        self.recipe, self._head = _read_head(line)
        self.writer, self.written = str(self._head.get("writer", ""))[:64], whole(self._head.get("written"), 0)
        self.live = True  # whether its last state says that it trains
        self._steps = self._columns = self._stride = 0

    def take(self, content: bytes) -> None:
        """Whole frames, which fit to those before. Raises SpoolError, and then the check is of no more use."""
        frames = _frames(content)
        if sum(_FRAME.size + len(frame) for _kind, frame in frames) != len(content):
            raise SpoolError(say("spool-frames"))
        for kind, frame in frames:
            if kind == _KIND_STATE:
                self.live = str(_json(frame).get("status", "running")) in [status for status in Status if status.live]
            elif kind == _KIND_NUMBERS:
                self._take(_read_numbers(frame, len(self._head["quantities"]), len(self.recipe.layout)))
            else:
                raise SpoolError(say("spool-frames"))
        if not self._steps:
            raise SpoolError(say("spool-frames"))

    def _take(self, part: _Numbers | None) -> None:
        if part is None or part.first > self._steps or part.column > self._columns:
            raise SpoolError(say("spool-frames"))
        if self._stride and part.stride != self._stride:
            raise SpoolError(say("spool-frames"))
        steps, columns = part.first + len(part.scalars), part.column + len(part.columns)
        if steps < self._steps or columns != -(-steps // part.stride) or columns > self._head["max_columns"]:
            raise SpoolError(say("spool-columns"))
        self._steps, self._columns, self._stride = steps, columns, part.stride


def _frames(content: bytes) -> list[tuple[int, bytes]]:
    """Those that are whole, up to the first that is not."""
    frames, at = [], 0
    while at + _FRAME.size <= len(content):
        kind, size, check = _FRAME.unpack_from(content, at)
        frame = content[at + _FRAME.size : at + _FRAME.size + size]
        if len(frame) < size or zlib.crc32(frame) != check:
            break
        frames.append((kind, frame))
        at += _FRAME.size + size
    return frames


@dataclass
class _Numbers:
    first: int
    stride: int
    column: int
    scalars: _Scalars
    columns: np.ndarray[Any, np.dtype[np.float32]]


def _read_numbers(frame: bytes, quantities: int, layers: int) -> _Numbers | None:
    """None for numbers that do not fill their frame."""
    if len(frame) < _NUMBERS.size:
        return None
    first, steps, stride, column, columns = _NUMBERS.unpack_from(frame)
    if stride < 1 or len(frame) != _NUMBERS.size + 24 * steps + 4 * columns * quantities * layers:
        return None
    scalars = np.frombuffer(frame, "<f8", 3 * steps, _NUMBERS.size).reshape(steps, 3)
    numbers = np.frombuffer(frame, "<f4", -1, _NUMBERS.size + 24 * steps).reshape(columns, quantities, layers)
    return _Numbers(first, stride, column, scalars, numbers)


def _json(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise SpoolError(say("spool-unreadable"))
    return found


def _is_locked(file: IO[bytes]) -> bool | None:
    """Whether its writer lives; None if that cannot be known."""
    if not fcntl:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return None
    fcntl.flock(file, fcntl.LOCK_UN)
    return False
