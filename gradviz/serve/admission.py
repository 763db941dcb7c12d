"""What a server takes on: limits on one run, on the disk, and whether the memory suffices. A refusal is one sentence."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterable
from pathlib import Path

from gradviz.lenet.config import RunConfig
from gradviz.messages import NOTHING, Message, Told, say
from gradviz.record.history import max_columns
from gradviz.record.quantities import QUANTITIES
from gradviz.record.recipe import Recipe
from gradviz.settings import Limits

# Bytes of one training, fitted from above to the peaks of a process of its own on a CPU (benchmarks/workers.py --memory).
_FIXED = 100e6  # what PyTorch takes with the first step, whatever the net
_PER_BLOCK = 0.5e6  # weights, gradients and Adam's two moments are 0.1e6; the rest is Python objects and fragments
_PER_IMAGE = 110e3  # of stem and head
_PER_MAP = 30e3  # of one image and block: the tensors that two convolutions, norm and shortcut keep for the way back


_NO_MEMORY = ("memoryerror", "out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")


class Refused(Told, RuntimeError):
    """What this server does not take; the message says why and what to do. `reason` is a word."""

    def __init__(self, reason: str, message: Message):
        super().__init__(message)
        self.reason = reason


def shortage(number: int | None, text: str) -> Message:
    """What an error with this errno or text says is used up; NOTHING if it says nothing of the kind."""
    text = text.lower()
    if number == errno.EAGAIN or "can't start new thread" in text or "cannot fork" in text:
        return say("short-processes")
    if number in (errno.EMFILE, errno.ENFILE):
        return say("short-files")
    if number == errno.ENOSPC:
        return say("short-disk")
    if number == errno.ENOMEM or any(words in text for words in _NO_MEMORY):
        return say("short-memory")
    return NOTHING


def check(config: RunConfig, limits: Limits) -> None:
    """Raises Refused if one run asks for more than this server's limits."""
    for code, name, most in (
        ("limit-blocks", "blocks", limits.blocks),
        ("limit-steps", "steps", limits.steps),
        ("limit-batch_size", "batch_size", limits.batch),
    ):
        asked = getattr(config, name)
        if asked > most:
            raise Refused(name, say(code, most=most, asked=asked))


def check_disk(folder: Path, limits: Limits) -> None:
    """Raises Refused if the folder of runs has all that it may, or the disk nearly nothing left."""
    if not (disk := disk_bytes(folder)):
        return  # the store says itself what is wrong with it
    if disk["runs"] >= limits.disk * 1e9:
        raise Refused("disk", say("limit-disk", most=limits.disk))
    if disk["free"] < limits.free_disk:
        raise Refused("disk", say("short-disk"))


def disk_bytes(folder: Path) -> dict[str, int]:
    """Of the database of runs, and free where it lies; `{}` if the folder cannot be read."""
    try:
        return {"runs": sum(path.stat().st_size for path in folder.glob("runs*")), "free": shutil.disk_usage(folder).free}
    except OSError:
        return {}


def check_memory(config: RunConfig, left: float | None, passing: Iterable[RunConfig] = ()) -> None:
    """Raises Refused if the run cannot fit into `left` bytes and what the `passing` runs give back when they end."""
    needed = memory_needed(config)
    if left is not None and needed > left + sum(map(memory_needed, passing)):
        raise Refused("memory", say("limit-memory", needed=needed / 1e6, left=left / 1e6))


def memory_needed(config: RunConfig) -> float:
    """Bytes that one training takes at its peak, meant to lie above it:
    100 MB + blocks · 0.5 MB + batch · 110 kB + blocks · batch · 30 kB + the history that the server keeps."""
    maps = config.blocks * config.batch_size
    return _FIXED + _PER_BLOCK * config.blocks + _PER_IMAGE * config.batch_size + _PER_MAP * maps + history_bytes(config)


def history_bytes(recipe: Recipe) -> float:
    """Of the records of one run in memory, at most."""
    layers = len(recipe.layout)
    columns = max_columns(layers) if recipe.steps is None else min(max_columns(layers), recipe.steps)
    return 4.0 * columns * len(QUANTITIES) * layers
