"""MNIST and its relatives as files in the IDX format: where they lie, and whether they are what they should be. numpy only."""

from __future__ import annotations

import gzip
import os
import re
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from gradviz.messages import NOTHING, Message, Told, say, text
from gradviz.words import N_

TITLE = {"mnist": N_("MNIST"), "fashion": N_("Fashion-MNIST"), "kmnist": N_("KMNIST")}
# Mean and standard deviation of the training pixels, scaled to 0 … 1.
PIXELS = {"mnist": (0.1307, 0.3081), "fashion": (0.2860, 0.3530), "kmnist": (0.1918, 0.3483)}
PARTS = ("train-images", "train-labels", "t10k-images", "t10k-labels")
# The letters of a folder's name -> its data set.
FOLDERS = {"mnist": "mnist", "fashionmnist": "fashion", "fashion": "fashion", "fmnist": "fashion", "kmnist": "kmnist",
           "kuzushijimnist": "kmnist", "kuzushiji": "kmnist"}  # fmt: skip
_FILE = re.compile(r"(train|t10k|test)[-_.](images|labels)[-_.]idx\d([-_.]ubyte)?(\.gz)?")  # of a name in small letters
_DEPTH, _MOST_FOLDERS = 3, 200  # so many folders deep files are looked for, and in so many at most
_NUMBERS = {8: N_("bytes"), 9: N_("signed bytes"), 11: "int16", 12: "int32", 13: "float32", 14: "float64"}  # third byte of a file
_MOST = 300_000  # images of a file: 1 GB as float32
_ALIKE = 0.02  # how near the mean pixel of some images comes to that of their data set; 0.06 lies between two of them


class DataError(Told, RuntimeError):
    """A data set that cannot be used; the message says in one sentence or two why and what to do, `status` in a word."""

    def __init__(self, message: Message | str, status: str = "damaged"):
        super().__init__(text(_shown(message)) if isinstance(message, str) else message)
        self.status = status  # absent, forbidden or damaged

    def __reduce__(self) -> tuple[type[DataError], tuple[Message, str]]:
        return DataError, (self.message, self.status)


class _Odd(Exception):
    """What is wrong with a file: a code of MESSAGES and its arguments, but for the file."""

    def __init__(self, code: str, **arguments: object):
        super().__init__(code)
        self.code, self.arguments = code, arguments


def _shown(name: object) -> str:
    """A file's name may hold anything, and sentences go to pages, which take whole characters only, and to terminals."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(name))


# Finding


@dataclass(frozen=True)
class Found:
    files: dict[str, Path]  # part -> file
    status: str  # ready, absent, forbidden (may not be read) or damaged
    message: Message  # empty if ready
    look: tuple[object, ...]  # changes when files or rights do


def find(folder: Path, name: str) -> Found:
    """The files of a data set in or near the data folder, their headers checked. Reads few bytes; raises nothing."""
    denied: list[Path] = []
    oddities: list[Message] = []
    candidates = []  # (files, whether a folder's name says that they are of this data set)
    for place, files in _places(folder, name, denied, oddities):
        if files and (owner := _owner(place)) in (None, name):
            candidates.append((files, owner == name))
    candidates.sort(key=lambda candidate: (-len(candidate[0]), not candidate[1]))  # whole ones first, then named ones
    status, message = "ready", NOTHING
    chosen: dict[str, Path] = {}
    try:
        for files, named in candidates:
            if named or len(files) < len(PARTS) or looks_like(files["train-images"]) in (name, *[""] * (name == "mnist")):
                chosen = files
                break
        if len(chosen) < len(PARTS):
            raise _missing(folder, name, chosen, denied, oddities)
        for part in PARTS:
            numbers(chosen[part], part, most=0)
    except DataError as error:
        status, message = error.status, _about(name, error)
    stamps = []
    for file in chosen.values():
        with suppress(OSError):
            stamps.append((file, file.stat().st_size, file.stat().st_mtime_ns))
    return Found(chosen, status, message, (status, message, *stamps))


def _places(folder: Path, name: str, denied: list[Path], oddities: list[Message]) -> Iterator[tuple[Path, dict[str, Path]]]:
    """Each folder that may hold data files, and those it holds by part. Fills in what may not be read and what looks odd."""
    top, waiting = folder, [(folder, _DEPTH)]
    while _promises(top):
        top = top.parent  # the setting names MNIST or MNIST/raw; its relatives lie beside it
    if top != folder:
        with suppress(OSError):
            waiting[:0] = [(path, 1) for entry in _entries(top) if _promises(path := Path(entry.path))]
    seen: set[Path] = set()
    while waiting and len(seen) < _MOST_FOLDERS:
        place, depth = waiting.pop()
        if place in seen:
            continue
        seen.add(place)
        try:
            entries = _entries(place)
        except OSError:
            if place == folder or (_promises(place) and _owner(place) == name):  # and not, say, the lost+found of a disk
                denied.append(place)
            continue
        files: dict[str, Path] = {}
        inside: list[Path] = []
        for entry in entries:
            path, lower = Path(entry.path), entry.name.lower()
            match, is_folder = _FILE.fullmatch(lower), _is_folder(entry)
            if match and is_folder and (path / entry.name).is_file():  # some unpackers give each file a folder of its name
                path, is_folder = path / entry.name, False
            if is_folder:
                inside += [path] * (depth > 0 and not lower.startswith("."))
            elif match:
                if _is_readable(path, denied, oddities):  # the plain file comes after the packed one, and takes its place
                    files[f"{'train' if match[1] == 'train' else 't10k'}-{match[2]}"] = path
            elif "mnist" in lower or "ubyte" in lower:
                oddities.append(say("data-not-idx", file=_shown(path)))
        yield place, files
        waiting += [(path, depth - 1) for path in sorted(inside, key=_promises)]  # those that promise data go first


def _entries(place: Path) -> list[os.DirEntry[str]]:
    """Z to A; none of a folder that is not there. Raises OSError for one that may not be read."""
    try:
        with os.scandir(place) as entries:
            return sorted(entries, key=lambda entry: entry.name, reverse=True)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to where nobody may look
        return False


def _is_readable(path: Path, denied: list[Path], oddities: list[Message]) -> bool:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # nobody may ever write into a pipe
            oddities.append(say("data-no-file", file=_shown(path)))
            return False
    except FileNotFoundError:
        oddities.append(say("data-link-to-nothing", file=_shown(path)))
        return False
    except PermissionError:
        denied.append(path)
        return False
    except OSError as error:  # links that go round in a circle, say
        oddities.append(say("data-leads-nowhere", file=_shown(path), why=error.strerror))
        return False
    if not os.access(path, os.R_OK):
        denied.append(path)
        return False
    return True


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _promises(place: Path) -> bool:
    """Whether a folder is named after a data set, or 'raw' as torchvision's."""
    return place.name.lower() == "raw" or _letters(place.name) in FOLDERS


def _owner(place: Path) -> str | None:
    """The data set that the nearest folder is named after."""
    return next((FOLDERS[letters] for folder in (place, *place.parents) if (letters := _letters(folder.name)) in FOLDERS), None)


def _missing(folder: Path, name: str, files: dict[str, Path], denied: list[Path], oddities: list[Message]) -> DataError:
    """Says what was looked for, where, and what was found."""
    if denied:
        return DataError(say("data-closed", file=_shown(denied[0])), "forbidden")
    if files:
        missing = ", ".join(part for part in PARTS if part not in files)
        there = say("data-has-no", place=_shown(next(iter(files.values())).parent), missing=missing)
    elif os.path.isdir(folder):
        there = say("data-none-inside")
    else:
        there = say("data-file-no-folder" if folder.exists() else "data-no-such-folder")
    code, found = ("data-part", {"have": len(files), "all": len(PARTS)}) if files else ("data-absent", {})
    return DataError(say(code, title=TITLE[name], folder=_shown(folder), found=[there, *oddities[:3]], **found), "absent")


def _about(name: str, error: DataError) -> Message:
    """What is wrong with one file, as a message about the data set."""
    code = {"damaged": "data-damaged", "forbidden": "data-forbidden"}.get(error.status)
    return say(code, title=TITLE[name], what=error.message) if code else error.message


# Reading


def read(name: str, files: dict[str, Path]) -> dict[str, np.ndarray]:
    """Part -> labels (n,) or images (n, 28, 28), uint8. Raises DataError if something is wrong with a file or between them."""
    try:
        parts = {part: numbers(files[part], part) for part in PARTS}
        for side in ("train", "t10k"):
            images, labels = files[f"{side}-images"], files[f"{side}-labels"]
            pictures, answers = parts[f"{side}-images"], parts[f"{side}-labels"]
            if len(pictures) != len(answers):
                raise DataError(say("data-unequal", images=_shown(images), pictures=len(pictures), labels=_shown(labels),
                                    answers=len(answers)))  # fmt: skip
            if answers.max() > 9:
                place = int(np.argmax(answers > 9))
                raise DataError(say("data-label", labels=_shown(labels), label=int(answers[place]), place=place))
            if (like := looks_like(images)) not in ("", name):
                raise DataError(say("data-pictures-of", images=_shown(images), other=TITLE[like]))
        if (len(parts["train-images"]), len(parts["t10k-images"])) == (10_000, 60_000):
            raise DataError(
                say("data-swapped", train=_shown(files["train-images"]), test=_shown(files["t10k-images"]))
            )
    except DataError as error:
        raise DataError(_about(name, error), error.status) from None
    return parts


def looks_like(file: Path) -> str:
    """The data set whose pictures are as bright as the first of this file, "" if none is. Raises DataError."""
    mean = numbers(file, "images", most=1000).mean() / 255
    return next((name for name, (usual, _spread) in PIXELS.items() if abs(mean - usual) < _ALIKE), "")


def numbers(file: Path, part: str, most: int | None = None) -> np.ndarray:
    """The labels (n,) or images (n, 28, 28) of a file, packed or not, or the first `most`; uint8.

    Raises DataError, naming the file, if it may not be read, is not whole or not what its name says.
    """
    shape = (28, 28) if part.endswith("images") else ()
    try:
        with file.open("rb") as plain:
            packed = plain.read(2) == b"\x1f\x8b"
            plain.seek(0)
            content: BinaryIO | gzip.GzipFile = gzip.open(plain) if packed else plain
            count, start = _header(content, shape)
            item = 28 * 28 if shape else 1
            size, whole = os.fstat(plain.fileno()).st_size, start + count * item
            if not packed and size != whole:
                raise _cut(size, whole) if size < whole else _Odd("idx-goes-on")
            taken = count if most is None else min(most, count)
            data = bytearray(content.read(taken * item))
            if len(data) < taken * item:
                raise _cut(start + len(data), whole)
            if most is None and content.read(1):  # which checks the sum of a packed one, too
                raise _Odd("idx-goes-on")
    except PermissionError:
        raise DataError(say("data-closed", file=_shown(file)), "forbidden") from None
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise DataError(say("idx-not-unpacked", file=_shown(file))) from None
    except FileNotFoundError:
        raise DataError(say("data-gone", file=_shown(file)), "absent") from None
    except OSError as error:
        raise DataError(say("data-unreadable", file=_shown(file), why=error.strerror), "forbidden") from None
    except _Odd as odd:
        raise DataError(say(odd.code, file=_shown(file), **odd.arguments)) from None
    return np.frombuffer(data, np.uint8).reshape(taken, *shape)


def _header(content: BinaryIO | gzip.GzipFile, shape: tuple[int, ...]) -> tuple[int, int]:
    """How many items of this shape follow, and after how many bytes. Raises _Odd with what is wrong."""
    head = content.read(4)
    if not head:
        raise _Odd("idx-empty")
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _NUMBERS or not 1 <= head[3] <= 8:
        raise _Odd("idx-other-format", start=repr(head))
    if head[2] != 8:
        raise _Odd("idx-no-bytes", kind=_NUMBERS[head[2]])
    sizes = content.read(4 * head[3])
    if len(sizes) < 4 * head[3]:
        raise _Odd("idx-ends-in-header")
    count, *found = struct.unpack(f">{head[3]}I", sizes)
    if len(found) != len(shape):
        kinds = {0: say("idx-labels"), 2: say("idx-images")}
        held = kinds.get(len(found), say("idx-of-dimension", n=head[3]))
        raise _Odd("idx-holds", held=held, wanted=kinds[len(shape)])
    if tuple(found) != shape:
        raise _Odd("idx-size", rows=found[0], columns=found[1])
    if not 1 <= count <= _MOST:
        raise _Odd("idx-count", count=count, most=_MOST)
    return count, 4 + len(sizes)


def _cut(have: int, need: int) -> _Odd:
    return _Odd("idx-cut", have=have, need=need)
