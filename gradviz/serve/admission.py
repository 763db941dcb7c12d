"""What a server takes on: limits on one run, on the disk, and whether the memory suffices. A refusal is one sentence."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterable
from pathlib import Path

from gradviz.lenet.config import RunConfig
from gradviz.record.history import max_columns
from gradviz.record.quantities import QUANTITIES
from gradviz.record.recipe import Recipe
from gradviz.settings import Limits
from gradviz.words import gettext as _

_UNITS = {"blocks": "blocks", "steps": "steps", "batch_size": "images per step"}

# Bytes of one training, fitted from above to the peaks of a process of its own on a CPU (benchmarks/workers.py --memory).
_FIXED = 100e6  # what PyTorch takes with the first step, whatever the net
_PER_BLOCK = 0.5e6  # weights, gradients and Adam's two moments are 0.1e6; the rest is Python objects and fragments
_PER_IMAGE = 110e3  # of stem and head
_PER_MAP = 30e3  # of one image and block: the tensors that two convolutions, norm and shortcut keep for the way back


_NO_MEMORY = ("memoryerror", "out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")


class Refused(RuntimeError):
    """A run that this server does not take; the message is one sentence that says why and what to do. `reason` is a word."""

    def __init__(self, reason: str, sentence: str):
        super().__init__(sentence)
        self.reason = reason


def shortage(number: int | None, text: str) -> str:
    """What an error with this errno or text says is used up, as a sentence; empty if it says nothing of the kind."""
    text = text.lower()
    if number == errno.EAGAIN or "can't start new thread" in text or "cannot fork" in text:
        return _("The limit of processes and threads of this server was met: let fewer trainings run at once, or raise it.")
    if number in (errno.EMFILE, errno.ENFILE):
        return _("The limit of open files and connections of this server was met: raise it (ulimit -n), or try again later.")
    if number == errno.ENOSPC:
        return _("The server's disk is full: delete runs first.")
    if number == errno.ENOMEM or any(words in text for words in _NO_MEMORY):
        return _("The memory does not suffice for this net: choose fewer blocks or a smaller batch.")
    return ""


def check(config: RunConfig, limits: Limits) -> None:
    """Raises Refused if one run asks for more than this server's limits."""
    for name, most in (("blocks", limits.blocks), ("steps", limits.steps), ("batch_size", limits.batch)):
        asked = getattr(config, name)
        if asked > most:
            text = _("This server takes runs of at most {most} {unit}, not {asked}: choose a smaller number.")
            raise Refused(name, text.format(most=f"{most:,}", asked=f"{asked:,}", unit=_(_UNITS[name])))


def check_disk(folder: Path, limits: Limits) -> None:
    """Raises Refused if the folder of runs has all that it may, or the disk nearly nothing left."""
    try:
        used = sum(path.stat().st_size for path in folder.glob("runs*"))
        free = shutil.disk_usage(folder).free
    except OSError:
        return  # the store says itself what is wrong with it
    if used >= limits.disk * 1e9:
        raise Refused("disk", _("The {most} GB for runs are used up: delete runs first.").format(most=limits.disk))
    if free < limits.free_disk:
        raise Refused("disk", _("The server's disk is full: delete runs first."))


def check_memory(config: RunConfig, left: float | None, passing: Iterable[RunConfig] = ()) -> None:
    """Raises Refused if the run cannot fit into `left` bytes and what the `passing` runs give back when they end."""
    needed = memory_needed(config)
    if left is not None and needed > left + sum(map(memory_needed, passing)):
        text = _("This run needs some {needed:,.0f} MB of memory, and the server has {left:,.0f} MB left: "
                 "choose fewer blocks or a smaller batch, or stop paused runs.")  # fmt: skip
        raise Refused("memory", text.format(needed=needed / 1e6, left=left / 1e6))


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
