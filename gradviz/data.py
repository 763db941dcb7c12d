"""Data sets as tensors, held once per process: MNIST and its relatives through torchvision, digits built in.

`python -m gradviz.data NAME FOLDER` downloads one; the Shelf runs just that in a process of its own, so that a
connection that hangs can be ended and a half-finished download never stands where a whole one should.
"""

from __future__ import annotations

import importlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F

from gradviz.config import DATASETS

TORCHVISION_CLASS = {"mnist": "MNIST", "fashion": "FashionMNIST", "kmnist": "KMNIST"}
_TITLE = {"mnist": "MNIST", "fashion": "Fashion-MNIST", "kmnist": "KMNIST", "digits": "the built-in digits"}
# Mean and standard deviation of the training pixels, scaled to 0 … 1.
PIXELS = {"mnist": (0.1307, 0.3081), "fashion": (0.2860, 0.3530), "kmnist": (0.1918, 0.3483)}
_BYTES = {"mnist": 66.5e6, "fashion": 85.8e6, "kmnist": 75.9e6}  # archives and their contents, for the progress bar
_FILES = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
_SILENCE = 20.0  # seconds without a byte after which a download is given up
DIGITS_TRAIN = 1437  # the last 360 scans come from other writers and are the test


class DataError(RuntimeError):
    """A data set that cannot be used; the message is one sentence that says what to do."""


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
    status: str  # ready, absent, downloading, unreachable or damaged
    message: str = ""  # one sentence, empty when ready
    progress: float = 0.0  # 0 … 1 while downloading


class Shelf:
    """The data sets of one process. Every method may be called from any thread."""

    def __init__(self, folder: Path, download: bool = True):
        self.folder, self.download = Path(folder), download
        self._states: dict[str, DatasetState] = {"digits": DatasetState("ready")}
        self._loaded: dict[str, Dataset] = {}
        self._lock = threading.Lock()
        self._loading = threading.Lock()

    def state(self, name: str) -> DatasetState:
        with self._lock:
            if name not in self._states:
                found = self._found(name)
                if found == len(_FILES):
                    self._states[name] = DatasetState("ready")
                else:
                    part = f" ({found} of its {len(_FILES)} files are there)" if found else ""
                    self._states[name] = DatasetState("absent", f"{_TITLE[name]} is not in the data folder{part}.")
            return self._states[name]

    def request(self, name: str) -> DatasetState:
        """Starts the download of an absent data set, at most once, and returns at once."""
        state = self.state(name)
        with self._lock:
            if self._states[name].status != "absent":
                return self._states[name]
            if not self.download:
                self._states[name] = DatasetState("unreachable", state.message + " Downloads are switched off.")
                return self._states[name]
            self._states[name] = DatasetState("downloading", f"Downloading {_TITLE[name]} …")
        threading.Thread(target=self._fetch, args=(name,), name=f"download-{name}", daemon=True).start()
        return self.state(name)

    def effective(self, name: str) -> tuple[str, str]:
        """The data set to use now for the one asked for, and a sentence if it is another."""
        state = self.request(name)
        if state.status == "ready":
            return name, ""
        return "digits", f"{state.message} Using {_TITLE['digits']} instead: {DATASETS['digits']}"

    def wait(self, name: str) -> DatasetState:
        """`request`, and wait until the download has ended one way or the other."""
        while (state := self.request(name)).status == "downloading":
            time.sleep(0.1)
        return state

    def load(self, name: str) -> Dataset:
        """Reads and normalises the data set, once; later calls return the same tensors. Raises DataError."""
        with self._loading:
            if name not in self._loaded:
                try:
                    self._loaded[name] = _digits() if name == "digits" else self._read(name)
                except DataError as error:
                    with self._lock:
                        self._states[name] = DatasetState("damaged", str(error))
                    raise
            return self._loaded[name]

    def _raw(self, name: str) -> Path:
        return self.folder / TORCHVISION_CLASS[name] / "raw"

    def _found(self, name: str) -> int:
        return sum((self._raw(name) / file).is_file() for file in _FILES)

    def _read(self, name: str) -> Dataset:
        if self._found(name) < len(_FILES):
            raise DataError(f"{_TITLE[name]} is not complete in {self._raw(name)}.")
        maker = getattr(_torchvision_datasets(), TORCHVISION_CLASS[name])
        parts: list[torch.Tensor] = []
        try:
            for train in (True, False):
                part = maker(root=str(self.folder), train=train)
                if part.data.shape[1:] != (28, 28) or len(part.data) != len(part.targets) or not len(part.data):
                    raise ValueError("shapes")
                parts += [part.data, part.targets]
        except Exception as error:  # torchvision reports damage as whatever its parser stumbled over
            raise DataError(
                f"The files of {_TITLE[name]} in {self._raw(name)} are damaged ({type(error).__name__}): "
                "delete that folder and start again."
            ) from error
        mean, std = PIXELS[name]
        images = [parts[k].unsqueeze(1).float().div_(255).sub_(mean).div_(std) for k in (0, 2)]
        return Dataset(name, images[0], parts[1].long(), images[1], parts[3].long())

    def _fetch(self, name: str) -> None:
        """Downloads beside the data folder's own files, and moves the result into place only when it is whole."""
        scratch = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=".download-", dir=self.folder))
            problem = self._download(name, scratch)
            if not problem:
                target = self.folder / TORCHVISION_CLASS[name]
                shutil.rmtree(target, ignore_errors=True)
                os.replace(scratch / TORCHVISION_CLASS[name], target)
        except OSError as error:
            problem = f"the data folder {self.folder} cannot be written ({error.strerror})"
        finally:
            if scratch:
                shutil.rmtree(scratch, ignore_errors=True)
        message = f"{_TITLE[name]} could not be downloaded: {problem}." if problem else ""
        with self._lock:
            self._states[name] = DatasetState("unreachable" if problem else "ready", message)

    def _download(self, name: str, scratch: Path) -> str:
        """What went wrong, in a few words, or nothing."""
        command = [sys.executable, "-m", "gradviz.data", name, str(scratch)]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        size, heard = 0, time.monotonic()
        while child.poll() is None:
            now = sum(file.stat().st_size for file in scratch.rglob("*") if file.is_file())
            if now > size:
                size, heard = now, time.monotonic()
                share = min(0.99, size / _BYTES[name])
                with self._lock:
                    self._states[name] = DatasetState("downloading", f"Downloading {_TITLE[name]} … {share:.0%}", share)
            elif time.monotonic() - heard > _SILENCE:
                child.kill()
                child.communicate()
                return "the connection is silent"
            try:
                child.wait(0.2)
            except subprocess.TimeoutExpired:
                pass
        child.communicate()
        return "the network does not reach it" if child.returncode else ""


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
