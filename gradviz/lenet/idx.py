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

from gradviz.words import gettext as _

TITLE = {"mnist": "MNIST", "fashion": "Fashion-MNIST", "kmnist": "KMNIST"}
# Mean and standard deviation of the training pixels, scaled to 0 … 1.
PIXELS = {"mnist": (0.1307, 0.3081), "fashion": (0.2860, 0.3530), "kmnist": (0.1918, 0.3483)}
PARTS = ("train-images", "train-labels", "t10k-images", "t10k-labels")
# The letters of a folder's name -> its data set.
FOLDERS = {"mnist": "mnist", "fashionmnist": "fashion", "fashion": "fashion", "fmnist": "fashion", "kmnist": "kmnist",
           "kuzushijimnist": "kmnist", "kuzushiji": "kmnist"}  # fmt: skip
_FILE = re.compile(r"(train|t10k|test)[-_.](images|labels)[-_.]idx\d([-_.]ubyte)?(\.gz)?")  # of a name in small letters
_DEPTH, _MOST_FOLDERS = 3, 200  # so many folders deep files are looked for, and in so many at most
_NUMBERS = {8: "bytes", 9: "signed bytes", 11: "int16", 12: "int32", 13: "float32", 14: "float64"}  # the third byte of a file
_MOST = 300_000  # images of a file: 1 GB as float32
_ALIKE = 0.02  # how near the mean pixel of some images comes to that of their data set; 0.06 lies between two of them


class DataError(RuntimeError):
    """A data set that cannot be used; the message says in one sentence or two why and what to do, `status` in a word."""

    def __init__(self, message: str, status: str = "damaged"):
        # A file's name may hold anything, and the sentence goes to pages, which take whole characters only, and to terminals.
        super().__init__("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in message))
        self.status = status  # absent, forbidden or damaged


# Finding


@dataclass(frozen=True)
class Found:
    files: dict[str, Path]  # part -> file
    status: str  # ready, absent, forbidden (may not be read) or damaged
    message: str  # empty if ready
    look: tuple  # changes when files or rights do


def find(folder: Path, name: str) -> Found:
    """The files of a data set in or near the data folder, their headers checked. Reads few bytes; raises nothing."""
    denied: list[Path] = []
    oddities: list[str] = []
    candidates = []  # (files, whether a folder's name says that they are of this data set)
    for place, files in _places(folder, name, denied, oddities):
        if files and (owner := _owner(place)) in (None, name):
            candidates.append((files, owner == name))
    candidates.sort(key=lambda candidate: (-len(candidate[0]), not candidate[1]))  # whole ones first, then named ones
    status, message, chosen = "ready", "", {}
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


def _places(folder: Path, name: str, denied: list[Path], oddities: list[str]) -> Iterator[tuple[Path, dict[str, Path]]]:
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
                oddities.append(_("{file} is not taken for a file in the IDX format").format(file=path))
        yield place, files
        waiting += [(path, depth - 1) for path in sorted(inside, key=_promises)]  # those that promise data go first


def _entries(place: Path) -> list[os.DirEntry]:
    """Z to A; none of a folder that is not there. Raises OSError for one that may not be read."""
    try:
        with os.scandir(place) as entries:
            return sorted(entries, key=lambda entry: entry.name, reverse=True)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to where nobody may look
        return False


def _is_readable(path: Path, denied: list[Path], oddities: list[str]) -> bool:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # nobody may ever write into a pipe
            oddities.append(_("{file} is no file").format(file=path))
            return False
    except FileNotFoundError:
        oddities.append(_("{file} is a link to nothing").format(file=path))
        return False
    except PermissionError:
        denied.append(path)
        return False
    except OSError as error:  # links that go round in a circle, say
        oddities.append(_("{file} leads nowhere ({why})").format(file=path, why=error.strerror))
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


def _missing(folder: Path, name: str, files: dict[str, Path], denied: list[Path], oddities: list[str]) -> DataError:
    """Says what was looked for, where, and what was found."""
    if denied:
        return DataError(_("{path} is closed to the user that gradviz runs as.").format(path=denied[0]), "forbidden")
    part = f" ({len(files)} of its {len(PARTS)} files are there)" if files else ""
    if files:
        missing = ", ".join(part for part in PARTS if part not in files)
        there = _("{place} has no {missing}").format(place=next(iter(files.values())).parent, missing=missing)
    elif os.path.isdir(folder):
        there = _("no train-images-idx3-ubyte, packed or not, in it or in the folders inside")
    else:
        there = _("there is a file of this name, and no folder") if folder.exists() else _("that folder does not exist")
    text = f"{TITLE[name]} is not in the data folder {folder}{part}: " + "; ".join([there, *oddities[:3]]) + "."
    return DataError(text, "absent")


def _about(name: str, error: DataError) -> str:
    """What is wrong with one file, as a message about the data set."""
    if error.status == "damaged":
        text = _("The files of {title} are damaged or mixed up: {what} Put a whole file in its place, or take it away.")
    elif error.status == "forbidden":
        text = _("{title} may not be read: {what} Let its owner give the right to read it (and to enter it, if a folder).")
    else:
        text = "{what}"
    return text.format(title=TITLE[name], what=error)


# Reading


def read(name: str, files: dict[str, Path]) -> dict[str, np.ndarray]:
    """Part -> labels (n,) or images (n, 28, 28), uint8. Raises DataError if something is wrong with a file or between them."""
    try:
        parts = {part: numbers(files[part], part) for part in PARTS}
        for side in ("train", "t10k"):
            images, labels = files[f"{side}-images"], files[f"{side}-labels"]
            pictures, answers = parts[f"{side}-images"], parts[f"{side}-labels"]
            if len(pictures) != len(answers):
                raise DataError(_("{images} holds {pictures:,} images, and {labels} {answers:,} labels.").format(
                    images=images, pictures=len(pictures), labels=labels, answers=len(answers)))  # fmt: skip
            if answers.max() > 9:
                place = int(np.argmax(answers > 9))
                raise DataError(_("{labels} holds the label {label} (number {place:,}); labels are 0 to 9.").format(
                    labels=labels, label=answers[place], place=place))  # fmt: skip
            if (like := looks_like(images)) not in ("", name):
                raise DataError(_("{images} holds the pictures of {other}.").format(images=images, other=TITLE[like]))
        if (len(parts["train-images"]), len(parts["t10k-images"])) == (10_000, 60_000):
            raise DataError(_("{train} and {test} have each other's content.").format(
                train=files["train-images"], test=files["t10k-images"]))  # fmt: skip
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
            content = gzip.open(plain) if packed else plain
            count, start = _header(content, shape)
            item = 28 * 28 if shape else 1
            size, whole = os.fstat(plain.fileno()).st_size, start + count * item
            if not packed and size != whole:
                raise _cut(size, whole) if size < whole else ValueError(_("goes on after its end"))
            taken = count if most is None else min(most, count)
            data = bytearray(content.read(taken * item))
            if len(data) < taken * item:
                raise _cut(start + len(data), whole)
            if most is None and content.read(1):  # which checks the sum of a packed one, too
                raise ValueError(_("goes on after its end"))
    except PermissionError:
        raise DataError(_("{file} is closed to the user that gradviz runs as.").format(file=file), "forbidden") from None
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise DataError(_("{file} cannot be unpacked: it is cut short or damaged.").format(file=file)) from None
    except FileNotFoundError:
        raise DataError(_("{file} is gone.").format(file=file), "absent") from None
    except OSError as error:
        raise DataError(_("{file} cannot be read ({why}).").format(file=file, why=error.strerror), "forbidden") from None
    except ValueError as what:
        raise DataError(f"{file} {what}.") from None
    return np.frombuffer(data, np.uint8).reshape(taken, *shape)


def _header(content: BinaryIO, shape: tuple[int, ...]) -> tuple[int, int]:
    """How many items of this shape follow, and after how many bytes. Raises ValueError with what is wrong."""
    head = content.read(4)
    if not head:
        raise ValueError(_("is empty"))
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _NUMBERS or not 1 <= head[3] <= 8:
        raise ValueError(_("is not in the IDX format: it begins with {bytes!r}").format(bytes=head))
    if head[2] != 8:
        raise ValueError(_("holds {kind}, and not bytes").format(kind=_NUMBERS[head[2]]))
    sizes = content.read(4 * head[3])
    if len(sizes) < 4 * head[3]:
        raise ValueError(_("is cut short: it ends in its header"))
    count, *found = struct.unpack(f">{head[3]}I", sizes)
    if len(found) != len(shape):
        kinds = {0: _("labels"), 2: _("images")}
        held = kinds.get(len(found), _("{n}-dimensional numbers").format(n=head[3]))
        raise ValueError(_("holds {held} where {wanted} should be").format(held=held, wanted=kinds[len(shape)]))
    if tuple(found) != shape:
        raise ValueError(_("has images of {0} × {1} pixels, and not 28 × 28").format(*found))
    if not 1 <= count <= _MOST:
        raise ValueError(_("says that it holds {count:,} of them; it may be 1 to {most:,}").format(count=count, most=_MOST))
    return count, 4 + len(sizes)


def _cut(have: int, need: int) -> ValueError:
    return ValueError(_("is cut short: it has {have:,} of {need:,} bytes").format(have=have, need=need))
