"""Data sets as tensors, held once per process: MNIST and its relatives from files in the IDX format, digits built in.

`python -m gradviz.data NAME FOLDER` downloads one through torchvision; the Shelf runs just that in a process of its own, so
that a connection that hangs can be ended and a half-finished download never stands where a whole one should.
"""

from __future__ import annotations

import gzip
import importlib
import os
import re
import shutil
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from gradviz.config import DATASETS
from gradviz.words import gettext as _

TORCHVISION_CLASS = {"mnist": "MNIST", "fashion": "FashionMNIST", "kmnist": "KMNIST"}
_TITLE = {"mnist": "MNIST", "fashion": "Fashion-MNIST", "kmnist": "KMNIST", "digits": "the built-in digits"}
# Mean and standard deviation of the training pixels, scaled to 0 … 1.
PIXELS = {"mnist": (0.1307, 0.3081), "fashion": (0.2860, 0.3530), "kmnist": (0.1918, 0.3483)}
_BYTES = {"mnist": 66.5e6, "fashion": 85.8e6, "kmnist": 75.9e6}  # archives and their contents, for the progress bar
_SILENCE = 20.0  # seconds without a byte after which a download is given up
DIGITS_TRAIN = 1437  # the last 360 scans come from other writers and are the test

# Where files are looked for: in the data folder and so many folders deep, under the names that they have in the wild.
_DEPTH, _MOST_FOLDERS = 3, 200
_PARTS = ("train-images", "train-labels", "t10k-images", "t10k-labels")
_FILE = re.compile(r"(train|t10k|test)[-_.](images|labels)[-_.]idx[13]([-_.]ubyte)?(\.gz)?")  # of a name in small letters
FOLDERS = {"mnist": "mnist", "fashionmnist": "fashion", "fashion": "fashion", "fmnist": "fashion", "kmnist": "kmnist",
           "kuzushijimnist": "kmnist", "kuzushiji": "kmnist"}  # the letters of a folder's name -> its data set  # fmt: skip
_NUMBERS = {8: "bytes", 9: "signed bytes", 11: "int16", 12: "int32", 13: "float32", 14: "float64"}  # the third byte of IDX
_MOST_IMAGES = 300_000  # 1 GB as float32
_ALIKE = 0.02  # how near the mean pixel of some images comes to that of their data set; 0.06 lies between two of them
# What a failed download said -> why, in words.
_CAUSES = {
    r"CERTIFICATE_VERIFY_FAILED|SSLCertVerificationError": "the certificate of the server was refused (a wrong clock, or a "
    "network that opens encrypted connections and whose certificate this machine does not know)",
    r"No space left|quota exceeded": "the disk is full",
    r"Name or service not known|name resolution|getaddrinfo|nodename nor servname|No address associated":
    "its server is not found (no network, or no name service)",
    r"Tunnel connection failed|Proxy|HTTP Error 407": "the proxy refused the connection",
    r"Connection refused|Network is unreachable|No route to host": "the network does not reach it",
    r"timed out": "the connection is silent",
    r"not found or corrupted|BadGzipFile": "what came is not the data set (the sign-in page of a network, perhaps)",
    r"HTTP Error (\d+)": "its server answered with an error",
}


class DataError(RuntimeError):
    """A data set that cannot be used; the message says in one sentence or two why and what to do, `status` in a word."""

    def __init__(self, message: str, status: str = "damaged"):
        super().__init__(message)
        self.status = status  # of a DatasetState


@dataclass(frozen=True)
class Dataset:
    """Images are normalised to mean 0 and standard deviation 1 over the training pixels."""

    name: str
    train_images: torch.Tensor = field(repr=False)  # float32 (n, 1, 28, 28)
    train_labels: torch.Tensor = field(repr=False)  # int64 (n,)
    test_images: torch.Tensor = field(repr=False)  # float32 (m, 1, 28, 28)
    test_labels: torch.Tensor = field(repr=False)  # int64 (m,)

    def to(self, device: torch.device) -> Dataset:
        if device.type == "cpu":
            return self
        parts = ("train_images", "train_labels", "test_images", "test_labels")
        return replace(self, **{part: getattr(self, part).to(device) for part in parts})


@dataclass(frozen=True)
class DatasetState:
    status: str  # ready, absent, forbidden (may not be read), damaged, downloading or unreachable
    message: str = ""  # empty when ready
    progress: float = 0.0  # 0 … 1 while downloading


# Downloads a data set into an empty folder as torchvision lays it out: (name, folder, tell(0 … 1)) -> what went wrong, or "".
Fetch = Callable[[str, Path, Callable[[float], None]], str]


class Shelf:
    """The data sets of one process. Every method may be called from any thread."""

    def __init__(self, folder: Path, download: bool = True, retry: float = 60.0, fetch: Fetch | None = None):
        """`retry`: seconds after which a download that failed is tried again when somebody asks for the data set."""
        self.folder, self.download = Path(os.path.abspath(Path(folder).expanduser())), download
        self._retry, self._fetch = retry, fetch or fetch_by_torchvision
        self._states: dict[str, DatasetState] = {"digits": DatasetState("ready")}
        self._looks: dict[str, tuple] = {}  # what the files were when a state other than ready was written down
        self._failed: dict[str, float] = {}  # when the last download ended in vain
        self._loaded: dict[str, Dataset] = {}
        self._lock = threading.Lock()
        self._loading = threading.Lock()

    def state(self, name: str) -> DatasetState:
        """Looks again, unless the data set is ready or on its way: files may have been copied in."""
        with self._lock:
            if (known := self._states.get(name)) and known.status in ("ready", "downloading"):
                return known
        found = _find(self.folder, name)
        with self._lock:
            known = self._states.get(name)
            if known is None or (known.status not in ("ready", "downloading") and self._looks.get(name) != found.look):
                self._states[name], self._looks[name] = found.state, found.look
            return self._states[name]

    def request(self, name: str) -> DatasetState:
        """Starts the download of an absent data set, or again of one that failed a while ago, and returns at once."""
        self.state(name)
        with self._lock:
            state = self._states[name]
            again = state.status == "unreachable" and time.monotonic() - self._failed.get(name, 0.0) >= self._retry
            if state.status == "absent" and not self.download:
                state = self._states[name] = DatasetState("unreachable", f"{state.message} " + _("Downloads are switched off."))
            if not self.download or not (again or state.status == "absent"):
                return state
            self._states[name] = DatasetState("downloading", f"Downloading {_TITLE[name]} …")
        threading.Thread(target=self._download, args=(name,), name=f"download-{name}", daemon=True).start()
        return self.state(name)

    def effective(self, name: str) -> tuple[str, str]:
        """The data set to use now for the one asked for, and a sentence if it is another."""
        state = self.request(name)
        if state.status == "ready":
            return name, ""
        return "digits", f"{state.message} Using {_TITLE['digits']} instead: {DATASETS['digits']}"

    def wait(self, name: str) -> DatasetState:
        """`request`, and wait until the download has ended one way or the other."""
        state = self.request(name)
        while state.status == "downloading":
            time.sleep(0.1)
            state = self.state(name)
        return state

    def load(self, name: str) -> Dataset:
        """Reads, checks and normalises the data set, once; later calls return the same tensors. Raises DataError."""
        with self._loading:
            if name not in self._loaded:
                self._loaded[name] = _digits() if name == "digits" else self._read(name)
            return self._loaded[name]

    def _read(self, name: str) -> Dataset:
        found = _find(self.folder, name)
        try:
            if found.state.status != "ready":
                raise DataError(found.state.message, found.state.status)
            return _read_set(name, found.files)
        except DataError as error:
            with self._lock:
                self._states[name], self._looks[name] = DatasetState(error.status, str(error)), found.look
            raise

    def _download(self, name: str) -> None:
        """Downloads beside the files' place, and moves each file there only when all are whole."""
        raw = self.folder / TORCHVISION_CLASS[name] / "raw"
        scratch = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            near = next(folder for folder in (raw, *raw.parents) if folder.is_dir())  # on the same disk
            scratch = Path(tempfile.mkdtemp(prefix=".download-", dir=near))
            problem = self._fetch(name, scratch, lambda share: self._tell(name, share))
            if not problem:
                _put(scratch / TORCHVISION_CLASS[name] / "raw", raw)
        except OSError as error:
            problem = f"the data folder {self.folder} cannot be written ({error.strerror})"
        finally:
            if scratch:
                shutil.rmtree(scratch, ignore_errors=True)
        found = _find(self.folder, name)
        problem = problem or (found.state.message if found.state.status == "absent" else "")
        text = _("{title} could not be downloaded: {problem}. It is tried again once {seconds:.0f} s have passed.").format(
            title=_TITLE[name], problem=problem.rstrip("."), seconds=self._retry)  # fmt: skip
        with self._lock:
            self._failed[name] = time.monotonic()
            self._states[name] = DatasetState("unreachable", text) if problem else found.state
            self._looks[name] = found.look

    def _tell(self, name: str, share: float) -> None:
        with self._lock:
            self._states[name] = DatasetState("downloading", f"Downloading {_TITLE[name]} … {share:.0%}", share)


def fetch_by_torchvision(name: str, folder: Path, tell: Callable[[float], None]) -> str:
    command = [sys.executable, "-m", "gradviz.data", name, str(folder)]
    with tempfile.TemporaryFile() as output:  # a pipe that nobody reads would fill up and hold the child
        child = subprocess.Popen(command, stdout=output, stderr=output, cwd=Path(__file__).parents[1])
        size, heard = 0, time.monotonic()
        while child.poll() is None:
            now = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            if now > size:
                size, heard = now, time.monotonic()
                tell(min(0.99, size / _BYTES[name]))
            elif time.monotonic() - heard > _SILENCE:
                child.kill()
                child.wait()
                return "the connection is silent"
            try:
                child.wait(0.2)
            except subprocess.TimeoutExpired:
                pass
        output.seek(0)
        return why_no_download(output.read().decode(errors="replace")) if child.returncode else ""


def why_no_download(said: str) -> str:
    """A few words for what the child process of a failed download said."""
    causes = (words for pattern, words in _CAUSES.items() if re.search(pattern, said, re.IGNORECASE))
    return next(causes, "the network does not reach it")


def _put(new: Path, raw: Path) -> None:
    """Moves downloaded files into their place one by one. A whole file that is there stays, another is kept beside the new."""
    raw.mkdir(parents=True, exist_ok=True)
    for part in _PARTS:
        name = f"{part}-idx{'3' if 'images' in part else '1'}-ubyte"
        target = raw / name
        if os.path.lexists(target):
            try:
                _idx(target, part, most=0)
                continue
            except DataError:
                aside = (raw / f"{name}.damaged{number or ''}" for number in range(1000))
                os.replace(target, next(path for path in aside if not os.path.lexists(path)))
        os.replace(new / name, target)


# Finding files


@dataclass(frozen=True)
class _Found:
    files: dict[str, Path]  # part -> file
    state: DatasetState  # ready, absent, forbidden or damaged
    look: tuple  # changes when files or rights do


def _find(folder: Path, name: str) -> _Found:
    """The files of a data set in or near the data folder, their headers checked. Reads few bytes; never raises OSError."""
    denied: list[Path] = []
    oddities: list[str] = []
    candidates = []  # (files, whether the folder's name says which data set it is)
    for place, files in _places(folder, name, denied, oddities):
        owner = _owner(place)
        if files and owner in (None, name):
            candidates.append((files, owner == name))
    # Whole ones first; then those in a folder of that name; then as they were come upon.
    candidates.sort(key=lambda candidate: (-len(candidate[0]), not candidate[1]))
    files: dict[str, Path] = {}
    try:
        for found, named in candidates:
            if named or len(found) < len(_PARTS) or _looks_like(found["train-images"]) in (name, *[""] * (name == "mnist")):
                files = found
                break
        if len(files) < len(_PARTS):
            state = _absent(folder, name, files, denied, oddities)
        else:
            for part in _PARTS:
                _idx(files[part], part, most=0)
            state = DatasetState("ready")
    except DataError as error:
        state = DatasetState(error.status, _said_of(name, error))
    stamps = []
    for file in files.values():
        try:
            stamps.append((str(file), file.stat().st_size, file.stat().st_mtime_ns))
        except OSError:
            stamps.append((str(file),))
    return _Found(files, state, (state, *stamps))


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
            match, is_folder = _FILE.fullmatch(lower), _is_folder(path, entry)
            if match and is_folder and (path / entry.name).is_file():  # some unpackers give each file a folder of its name
                path, is_folder = path / entry.name, False
            if is_folder:
                if depth and not lower.startswith("."):
                    inside.append(path)
            elif match:
                try:
                    regular = stat.S_ISREG(path.stat().st_mode)
                except FileNotFoundError:
                    oddities.append(_("{file} is a link to nothing").format(file=path))
                    continue
                except OSError:
                    denied.append(path)
                    continue
                if not regular:  # nobody may ever write into a pipe
                    oddities.append(_("{file} is no file").format(file=path))
                elif not os.access(path, os.R_OK):
                    denied.append(path)
                else:  # the plain file comes after the packed one, and takes its place
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


def _is_folder(path: Path, entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to where nobody may look
        return False


def _promises(place: Path) -> bool:
    """Whether a folder is named after a data set, or 'raw' as torchvision's."""
    return place.name.lower() == "raw" or _letters(place.name) in FOLDERS


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _owner(place: Path) -> str | None:
    """The data set that the nearest folder is named after."""
    return next((FOLDERS[letters] for folder in (place, *place.parents) if (letters := _letters(folder.name)) in FOLDERS), None)


def _absent(folder: Path, name: str, files: dict[str, Path], denied: list[Path], oddities: list[str]) -> DatasetState:
    """Says what was looked for, where, and what was found."""
    title = _TITLE[name]
    if denied:
        return DatasetState("forbidden", _(
            "{title} may not be read: {path} is closed to the user that gradviz runs as. Let its owner give the right to read "
            "(and, for a folder, to enter) it.").format(title=title, path=denied[0]))  # fmt: skip
    if not os.path.isdir(folder):
        there = _("there is a file of this name, and no folder") if os.path.lexists(folder) else _("that folder does not exist")
    elif files:
        missing = ", ".join(part for part in _PARTS if part not in files)
        place = next(iter(files.values())).parent
        there = _("{place} has no {missing}").format(place=place, missing=missing)
    else:
        there = _("no train-images-idx3-ubyte, packed or not, in it or in the folders inside")
    part = f" ({len(files)} of its {len(_PARTS)} files are there)" if files else ""
    text = f"{title} is not in the data folder {folder}{part}: " + "; ".join([there, *oddities[:3]]) + "."
    return DatasetState("absent", text)


# Reading files


def _idx(file: Path, part: str, most: int | None = None) -> np.ndarray:
    """The labels (n,) or images (n, 28, 28) of an IDX file, packed or not, or the first `most`; uint8.

    Raises DataError, naming the file, if it is not whole or not what its name says.
    """

    def damaged(what: str) -> DataError:
        return DataError(f"{file} {what}.")

    shape_wanted = (28, 28) if part.endswith("images") else ()
    try:
        with file.open("rb") as plain:
            packed = plain.read(2) == b"\x1f\x8b"
            plain.seek(0)
            content = gzip.open(plain) if packed else plain
            head = content.read(4)
            if not head:
                raise damaged(_("is empty"))
            if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _NUMBERS or not 1 <= head[3] <= 8:
                raise damaged(_("is not in the IDX format: it begins with {bytes!r}").format(bytes=head))
            if head[2] != 8:
                raise damaged(_("holds {kind}, and not bytes").format(kind=_NUMBERS[head[2]]))
            sizes = content.read(4 * head[3])
            if len(sizes) < 4 * head[3]:
                raise damaged(_("is cut short: it ends in its header"))
            count, *shape = struct.unpack(f">{head[3]}I", sizes)
            if len(shape) != len(shape_wanted):
                held = {0: _("labels"), 2: _("images")}.get(len(shape), _("{n}-dimensional numbers").format(n=head[3]))
                wanted = _("images") if shape_wanted else _("labels")
                raise damaged(_("holds {held} where {wanted} should be").format(held=held, wanted=wanted))
            if tuple(shape) != shape_wanted:
                raise damaged(_("has images of {0} × {1} pixels, and not 28 × 28").format(*shape))
            if not 1 <= count <= _MOST_IMAGES:
                raise damaged(_("says that it holds {count:,} of them; it may be 1 to {most:,}").format(
                    count=count, most=_MOST_IMAGES))
            item = int(np.prod(shape_wanted, dtype=int))
            start = 4 + len(sizes)
            if not packed:
                have, need = os.fstat(plain.fileno()).st_size, start + count * item
                if have < need:
                    raise damaged(_("is cut short: it has {have:,} of {need:,} bytes").format(have=have, need=need))
                if have > need:
                    raise damaged(_("goes on for {more:,} bytes after its end").format(more=have - need))
            taken = count if most is None else min(most, count)
            numbers = bytearray(content.read(taken * item))
            if len(numbers) < taken * item:
                raise damaged(_("is cut short: it has {have:,} of {need:,} bytes").format(
                    have=start + len(numbers), need=start + count * item))
            if most is None and content.read(1):
                raise damaged(_("goes on after its end"))
    except PermissionError:
        raise DataError(_("{file} may not be read by the user that gradviz runs as.").format(file=file), "forbidden") from None
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise damaged(_("cannot be unpacked: it is cut short or damaged")) from None
    except OSError as error:
        raise DataError(_("{file} cannot be read ({why}).").format(file=file, why=error.strerror), "forbidden") from None
    return np.frombuffer(numbers, np.uint8).reshape(taken, *shape_wanted)


def _looks_like(file: Path) -> str:
    """The data set whose pictures are as bright as those of this file, "" if none is."""
    mean = _idx(file, "images", most=1000).mean() / 255
    return next((name for name, (usual, _spread) in PIXELS.items() if abs(mean - usual) < _ALIKE), "")


def _read_set(name: str, files: dict[str, Path]) -> Dataset:
    try:
        parts = {part: _idx(files[part], part) for part in _PARTS}
        for side in ("train", "t10k"):
            images, labels = files[f"{side}-images"], files[f"{side}-labels"]
            pictures, answers = parts[f"{side}-images"], parts[f"{side}-labels"]
            if len(pictures) != len(answers):
                raise DataError(_("{images} holds {pictures:,} images, and {labels} {answers:,} labels.").format(
                    images=images, pictures=len(pictures), labels=labels, answers=len(answers)))
            if answers.max() > 9:
                place = int(np.argmax(answers > 9))
                raise DataError(_("{labels} holds the label {label} (number {place:,}); labels are 0 to 9.").format(
                    labels=labels, label=answers[place], place=place))
            if (like := _looks_like(images)) not in ("", name):
                raise DataError(_("{images} holds the pictures of {other}.").format(images=images, other=_TITLE[like]))
        if len(parts["train-images"]) == 10_000 and len(parts["t10k-images"]) == 60_000:
            raise DataError(_("{train} and {test} have each other's content.").format(
                train=files["train-images"], test=files["t10k-images"]))
    except DataError as error:
        raise DataError(_said_of(name, error), error.status) from None
    mean, std = PIXELS[name]
    tensors = [torch.from_numpy(parts[part]) for part in _PARTS]
    images = [tensors[k].unsqueeze(1).float().div_(255).sub_(mean).div_(std) for k in (0, 2)]
    return Dataset(name, images[0], tensors[1].long(), images[1], tensors[3].long())


def _said_of(name: str, error: DataError) -> str:
    """What is wrong with one file, as a message about the data set."""
    if error.status == "damaged":
        return _("The files of {title} are damaged or mixed up: {what} Put a whole file in its place, or take it away."
                 ).format(title=_TITLE[name], what=error)  # fmt: skip
    return _("{title} may not be read: {what} Let its owner give the right to read it.").format(title=_TITLE[name], what=error)


def _digits() -> Dataset:
    """scikit-learn's copy of the UCI handwritten digits, enlarged bilinearly to 28×28."""
    from sklearn.datasets import load_digits

    scans, labels = load_digits(return_X_y=True)
    images = torch.tensor(scans, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    images = F.interpolate(images, size=(28, 28), mode="bilinear", align_corners=False)
    train = images[:DIGITS_TRAIN]
    images = (images - train.mean()) / train.std()
    labels = torch.tensor(labels, dtype=torch.int64)
    return Dataset("digits", images[:DIGITS_TRAIN], labels[:DIGITS_TRAIN], images[DIGITS_TRAIN:], labels[DIGITS_TRAIN:])


def _torchvision_datasets():
    """torchvision.datasets, also where torchvision was built for CUDA and torch was not.

    Such a torchvision cannot load its compiled operators, and its import then stops because Python code of its
    own wants to register shapes for operators that do not exist. The data sets need none of them, so declaring
    the names is enough. A matching pair imports at the first try and is left alone.
    """
    try:
        return importlib.import_module("torchvision.datasets")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    for schema in ("nms", "qnms"):
        torch.library.define(f"torchvision::{schema}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    for module in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[module]
    return importlib.import_module("torchvision.datasets")


def _main(name: str, folder: str) -> None:
    socket.setdefaulttimeout(10)
    getattr(_torchvision_datasets(), TORCHVISION_CLASS[name])(root=folder, download=True)


if __name__ == "__main__":
    _main(*sys.argv[1:3])
