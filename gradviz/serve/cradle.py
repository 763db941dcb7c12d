"""Starts the process of a nursery: at once with the server, if that has yet to import PyTorch, so that the two of them do so
side by side, and the first visitor finds both there."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Container
from pathlib import Path
from typing import NamedTuple

from gradviz import machine
from gradviz.settings import Settings, SettingsError, of_children


class Started(NamedTuple):
    process: subprocess.Popen[bytes]
    control: socket.socket  # its closing is the end of the process


def start(folder: Path, apart: bool = False) -> Started:
    """`folder`: of the data. `apart`: in a session of its own. Raises OSError."""
    control, theirs = socket.socketpair()
    control.settimeout(2.0)  # a nursery that takes nothing must not hold up whoever wants another
    command = [sys.executable, "-m", "gradviz.serve.forks", str(theirs.fileno()), str(folder.absolute())]
    with theirs:
        process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, cwd=Path(__file__).parents[2], env=of_children(),
            start_new_session=apart,
        )  # fmt: skip
    return Started(process, control)


def start_early(cores: float | None = None, modules: Container[str] = sys.modules) -> Started | None:
    """None where that gains nothing: PyTorch is among the `modules` already, trainings are elsewhere, or one core would have to
    do both, and the server would answer later. What cannot be used is for who needs it to say."""
    if "torch" in modules or (machine.cores() if cores is None else cores) < 2:
        return None
    try:
        settings = Settings.from_environment()
        return start(settings.data) if settings.train_in == "process" and not settings.ray else None
    except (SettingsError, OSError):
        return None
