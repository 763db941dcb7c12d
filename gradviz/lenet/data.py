"""Data sets as tensors, held once per process: MNIST and its relatives from files in the IDX format, digits built in.

`python -m gradviz.lenet.data NAME FOLDER` downloads one through torchvision; the Shelf runs just that in a process of its own, so
that a connection that hangs can be ended and a half-finished download never stands where a whole one should.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F

from gradviz.lenet import idx
from gradviz.lenet.config import DATASETS
from gradviz.lenet.idx import PIXELS, DataError
from gradviz.messages import NOTHING, Message, say
from gradviz.settings import of_children
from gradviz.words import N_

TORCHVISION_CLASS = {"mnist": "MNIST", "fashion": "FashionMNIST", "kmnist": "KMNIST"}
_BYTES = {"mnist": 66.5e6, "fashion": 85.8e6, "kmnist": 75.9e6}  # archives and their contents, for the progress bar
_TITLE = idx.TITLE | {"digits": N_("the built-in digits")}
SILENCE = 20.0  # seconds without a byte after which a download is given up
_LEFT = 24 * 3600.0  # seconds after which nobody downloads into a folder any more
DIGITS_TRAIN = 1437  # the last 360 scans come from other writers and are the test

# What a failed download said -> why, as a code of MESSAGES.
_CAUSES = {
    r"CERTIFICATE_VERIFY_FAILED|SSLCertVerificationError": "download-certificate",
    r"No space left|quota exceeded": "download-disk-full",
    r"Name or service not known|name resolution|getaddrinfo|nodename nor servname|No address associated": "download-no-name",
    r"Tunnel connection failed|Proxy|HTTP Error 407": "download-proxy",
    r"Connection refused|Network is unreachable|No route to host": "download-no-network",
    r"timed out": "download-silent",
    r"not found or corrupted|BadGzipFile": "download-other-content",
    r"HTTP Error (\d+)": "download-server-error",
}


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
    message: Message = NOTHING  # empty when ready
    progress: float = 0.0  # 0 … 1 while downloading


# Downloads a data set into an empty folder as torchvision lays it out: (name, folder, tell(0 … 1)) -> what went wrong.
Fetch = Callable[[str, Path, Callable[[float], None]], Message]


class Shelf:
    """The data sets of one process. Every method may be called from any thread."""

    def __init__(self, folder: Path, download: bool = True, retry: float = 60.0, fetch: Fetch | None = None):
        """`retry`: seconds after which a download that failed is tried again when somebody asks for the data set."""
        self.folder, self.download = Path(os.path.abspath(Path(folder).expanduser())), download
        self._retry, self._fetch = retry, fetch or fetch_by_torchvision
        self._states: dict[str, DatasetState] = {"digits": DatasetState("ready")}
        self._looks: dict[str, tuple[object, ...]] = {}  # what the files were when a state other than ready was written down
        self._failed: dict[str, float] = {}  # when the last download ended in vain
        self._loaded: dict[str, Dataset] = {}
        self._lock = threading.Lock()
        self._loading = threading.Lock()

    def state(self, name: str) -> DatasetState:
        """Looks again, unless the data set is ready or on its way: files may have been copied in."""
        with self._lock:
            if (known := self._states.get(name)) and known.status in ("ready", "downloading"):
                return known
        found = idx.find(self.folder, name)
        with self._lock:
            known = self._states.get(name)
            if known is None or (known.status not in ("ready", "downloading") and self._looks.get(name) != found.look):
                self._states[name], self._looks[name] = DatasetState(found.status, found.message), found.look
            return self._states[name]

    def request(self, name: str) -> DatasetState:
        """Starts the download of an absent data set, or again of one that failed a while ago, and returns at once."""
        self.state(name)
        with self._lock:
            state = self._states[name]
            again = state.status == "unreachable" and time.monotonic() - self._failed.get(name, 0.0) >= self._retry
            if state.status == "absent" and not self.download:
                why = say("sentences", first=state.message, second=say("download-off"))
                state = self._states[name] = DatasetState("unreachable", why)
            if not self.download or not (again or state.status == "absent"):
                return state
            self._states[name] = DatasetState("downloading", say("download-begun", title=_TITLE[name]))
        threading.Thread(target=self._download, args=(name,), name=f"download-{name}", daemon=True).start()
        return self.state(name)

    def missing(self, name: str) -> Message:
        """As `request`; what its state says, NOTHING if it is ready."""
        return NOTHING if (state := self.request(name)).status == "ready" else state.message

    def effective(self, name: str) -> tuple[str, Message]:
        """The data set to use now for the one asked for, and what to say if it is another."""
        state = self.request(name)
        if state.status == "ready":
            return name, NOTHING
        return "digits", say("data-other", why=state.message, title=_TITLE["digits"], what=DATASETS["digits"])

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
        found = idx.find(self.folder, name)
        try:
            if found.status != "ready":
                raise DataError(found.message, found.status)
            return _normalised(name, found.files)
        except DataError as error:
            with self._lock:
                self._states[name], self._looks[name] = DatasetState(error.status, error.message), found.look
            raise

    def _download(self, name: str) -> None:
        """Downloads beside the files' place, and moves each file there only when all are whole."""
        raw = self.folder / TORCHVISION_CLASS[name] / "raw"
        scratch = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            near = next(folder for folder in (raw, *raw.parents) if folder.is_dir())  # on the same disk
            for left in near.glob(".download-*"):  # of a machine that went off
                if time.time() - left.stat().st_mtime > _LEFT:
                    shutil.rmtree(left, ignore_errors=True)
            scratch = Path(tempfile.mkdtemp(prefix=".download-", dir=near))
            problem = self._fetch(name, scratch, lambda share: self._tell(name, share))
            if not problem:
                _put(scratch / TORCHVISION_CLASS[name] / "raw", raw)
        except OSError as error:
            problem = say("download-no-folder", folder=str(self.folder), why=error.strerror)
        finally:
            if scratch:
                shutil.rmtree(scratch, ignore_errors=True)
        found = idx.find(self.folder, name)
        problem = problem or (found.message if found.status == "absent" else NOTHING)
        failed = say("download-failed", title=_TITLE[name], problem=problem, seconds=self._retry)
        with self._lock:
            self._failed[name] = time.monotonic()
            self._states[name] = DatasetState("unreachable", failed) if problem else DatasetState(found.status, found.message)
            self._looks[name] = found.look

    def _tell(self, name: str, share: float) -> None:
        with self._lock:
            self._states[name] = DatasetState("downloading", say("download", title=_TITLE[name], share=share), share)


def fetch_by_torchvision(name: str, folder: Path, tell: Callable[[float], None]) -> Message:
    command = [sys.executable, "-m", "gradviz.lenet.data", name, str(folder), "child"]
    with tempfile.TemporaryFile() as output:  # a pipe that nobody reads would fill up and hold the child
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output, cwd=Path(__file__).parents[2],
                                 env=of_children())  # fmt: skip
        size, heard = 0, time.monotonic()
        while child.poll() is None:
            now = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            if now > size:
                size, heard = now, time.monotonic()
                tell(min(0.99, size / _BYTES[name]))
            elif time.monotonic() - heard > SILENCE:
                child.kill()
                child.wait()
                return say("download-silent")
            try:
                child.wait(0.2)
            except subprocess.TimeoutExpired:
                pass
        output.seek(0)
        return why_no_download(output.read().decode(errors="replace")) if child.returncode else NOTHING


def why_no_download(said: str) -> Message:
    """A few words for what the child process of a failed download said."""
    causes = (code for pattern, code in _CAUSES.items() if re.search(pattern, said, re.IGNORECASE))
    return say(next(causes, "download-no-network"))


def _put(new: Path, raw: Path) -> None:
    """Moves downloaded files into their place one by one. A whole file that is there stays, another is kept beside the new."""
    raw.mkdir(parents=True, exist_ok=True)
    for part in idx.PARTS:
        name = f"{part}-idx{'3' if 'images' in part else '1'}-ubyte"
        target = raw / name
        if os.path.lexists(target):
            try:
                idx.numbers(target, part, most=0)
                continue
            except DataError:
                aside = (raw / f"{name}.damaged{number or ''}" for number in range(1000))
                os.replace(target, next(path for path in aside if not os.path.lexists(path)))
        os.replace(new / name, target)


def _normalised(name: str, files: dict[str, Path]) -> Dataset:
    """Raises DataError."""
    parts = [torch.from_numpy(part) for part in idx.read(name, files).values()]
    mean, std = PIXELS[name]
    images = [parts[k].unsqueeze(1).float().div_(255).sub_(mean).div_(std) for k in (0, 2)]
    return Dataset(name, images[0], parts[1].long(), images[1], parts[3].long())


def _scans() -> tuple[np.ndarray, np.ndarray]:
    """What scikit-learn's load_digits gives, from its file: to import scikit-learn takes longer than all the rest of a start."""
    found = importlib.util.find_spec("sklearn")
    for place in (found.submodule_search_locations or ()) if found else ():
        file = Path(place, "datasets", "data", "digits.csv.gz")
        if file.is_file():
            table = np.loadtxt(file, delimiter=",")
            return table[:, :-1], table[:, -1]
    from sklearn.datasets import load_digits

    scans, labels = load_digits(return_X_y=True)
    return scans, labels


def _digits() -> Dataset:
    """scikit-learn's copy of the UCI handwritten digits, enlarged bilinearly to 28×28."""
    scans, labels = _scans()
    images = torch.tensor(scans, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    images = F.interpolate(images, size=(28, 28), mode="bilinear", align_corners=False)
    train = images[:DIGITS_TRAIN]
    images = (images - train.mean()) / train.std()
    digits = torch.tensor(labels, dtype=torch.int64)
    return Dataset("digits", images[:DIGITS_TRAIN], digits[:DIGITS_TRAIN], images[DIGITS_TRAIN:], digits[DIGITS_TRAIN:])


def torchvision_datasets() -> ModuleType:
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


def _end_with_server(folder: str) -> None:
    """A server that is killed can clear away nothing; the child notices, since then its standard input is at its end."""
    sys.stdin.buffer.read()
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _main(name: str, folder: str, child: str = "") -> None:
    if child:
        threading.Thread(target=_end_with_server, args=(folder,), daemon=True).start()
    socket.setdefaulttimeout(10)
    getattr(torchvision_datasets(), TORCHVISION_CLASS[name])(root=folder, download=True)


if __name__ == "__main__":
    _main(*sys.argv[1:4])
