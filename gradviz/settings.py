"""Settings of the server, read once from GRADVIZ_* environment variables."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from gradviz import machine
from gradviz.messages import Told, say

_SECRETS = {"GRADVIZ_PIN", "GRADVIZ_INGEST_TOKEN", "STREAMLIT_SERVER_COOKIE_SECRET", "RAY_AUTH_TOKEN"}
MOST_SLOTS = 1024  # trainings of one server on a cluster


class SettingsError(Told, ValueError):
    """An environment variable that cannot be used; the message names it and what it may be."""


def of_children(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment for processes of the server, without what is for the server's eyes only."""
    return {name: value for name, value in environment.items() if name not in _SECRETS}


def store_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Of the kept runs, those of watched nets too. Raises SettingsError."""
    return _folder(environment, "GRADVIZ_STORE", "runs")


def ingest_token(environment: Mapping[str, str] = os.environ) -> str:
    """The secret that senders of watched runs and their server share, or empty. Raises SettingsError."""
    token = environment.get("GRADVIZ_INGEST_TOKEN", "")
    if token and not re.fullmatch(r"[!-~]{16,200}", token):
        raise SettingsError(say("server-ingest"))  # and is not repeated here: logs are read
    return token


def _ray(environment: Mapping[str, str], platform: str, is_here: Callable[[str], object]) -> str:
    """auto, the address of a cluster's head, or empty for none. Raises SettingsError."""
    address = environment.get("GRADVIZ_RAY", "").strip()
    if address and address != "auto" and not re.fullmatch(r"[A-Za-z0-9._-]+:\d{1,5}", address, re.ASCII):
        raise SettingsError(say("server-ray", given=address[:40]))
    if address and environment.get("GRADVIZ_TRAIN_IN") == "process":
        raise SettingsError(say("server-ray-alone"))
    if address and platform != "linux":
        raise SettingsError(say("server-ray-linux"))
    if address and not is_here("ray"):
        raise SettingsError(say("server-ray-missing"))
    return address


def _folder(environment: Mapping[str, str], name: str, default: str) -> Path:
    try:
        return Path(environment.get(name) or default).expanduser()
    except RuntimeError:
        raise SettingsError(say("server-home", name=name, given=environment[name][:40])) from None


@dataclass(frozen=True)
class Limits:
    """What one server takes on. What is over a limit is refused in one sentence; the defaults are the settings' own ranges."""

    blocks: int = 1000  # GRADVIZ_MAX_BLOCKS, of one run
    steps: int = 100_000  # GRADVIZ_MAX_STEPS, of one run
    batch: int = 1024  # GRADVIZ_MAX_BATCH, of one run
    queue: int = 200  # GRADVIZ_MAX_QUEUE: runs that wait for their turn
    runs: int = 5000  # GRADVIZ_MAX_RUNS: runs kept
    disk: int = 20  # GRADVIZ_MAX_DISK: GB of the folder of runs
    states: int = 2  # GRADVIZ_MAX_STATES: GB of the states of nets from which runs go on; 0: none is kept
    free_disk: float = 300e6  # bytes that stay for everything else
    kept_bytes: float = 128e6  # of ended runs held in memory; the store has them all
    unsaved_bytes: float = 512e6  # of ended runs that wait in memory for a store that refuses


@dataclass(frozen=True)
class Settings:
    """Where things live and how much may run at once. All paths are folders, made when first needed."""

    data: Path = Path("data")  # GRADVIZ_DATA: MNIST and its relatives
    store: Path = Path("runs")  # GRADVIZ_STORE: the database of runs
    workers: int = 1  # GRADVIZ_WORKERS: trainings at the same time
    threads: int = 1  # GRADVIZ_THREADS: processor threads of one training
    # Whether it was given: else only what must be repeatable has so many, and other trainings those that are free.
    fixed: bool = field(default=False, compare=False, kw_only=True)
    download: bool = True  # GRADVIZ_DOWNLOAD=off: never ask the network for a data set
    train_in: str = "thread"  # GRADVIZ_TRAIN_IN: of the server, or a process of its own for each training
    limits: Limits = Limits()
    pin: str = field(default="", repr=False)  # GRADVIZ_PIN: the teacher's; empty, there is no teacher's mode
    ingest: str = field(default="", repr=False)  # GRADVIZ_INGEST_TOKEN: of who may bring watched runs; empty, nobody may
    hosts: tuple[str, ...] = ()  # GRADVIZ_HOSTS: names the server may be called, beside addresses and the machine's own
    ray: str = ""  # GRADVIZ_RAY: the cluster that trains instead, auto or the address of its head; GRADVIZ_WORKERS are its slots

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ, cores: float | None = None) -> Settings:
        """Raises SettingsError for a value that cannot be used. `cores` are those the machine grants."""
        cores = machine.cores() if cores is None else cores

        def refusal(name: str, code: str, **ends: object) -> SettingsError:
            return SettingsError(say("server-setting", name=name, range=say(code, **ends), given=environment[name][:40]))

        def whole(name: str, default: int, low: int = 1, high: int = 64) -> int:
            text = environment.get(name, str(default))
            if not (text.isascii() and text.isdecimal() and len(text) <= 9 and low <= int(text) <= high):
                raise refusal(name, "range-whole", low=low, high=high)
            return int(text)

        def word(name: str, first: str, other: str, default: str) -> str:
            text = environment.get(name, default)
            if text not in (first, other):
                raise refusal(name, "range-two", first=first, other=other)
            return text

        train_in = word("GRADVIZ_TRAIN_IN", "thread", "process", "process" if sys.platform == "linux" else "thread")
        if train_in == "process" and sys.platform != "linux":
            raise SettingsError(say("server-linux"))
        pin = environment.get("GRADVIZ_PIN", "")
        if pin and not 4 <= len(pin) <= 64:
            raise SettingsError(say("server-pin"))  # and is not repeated here: logs are read
        words = [name.strip() for name in environment.get("GRADVIZ_HOSTS", "").split(",")]
        hosts = tuple(name.lower().rstrip(".") for name in words if name)
        for name in hosts:
            if not re.fullmatch(r"\*|(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*", name, re.ASCII):
                raise SettingsError(say("server-hosts", given=name[:40]))
        highest = Limits()
        ray = _ray(environment, sys.platform, find_spec)
        workers = whole("GRADVIZ_WORKERS", MOST_SLOTS if ray else max(1, min(int(cores), 8)), high=MOST_SLOTS if ray else 64)
        return cls(
            data=_folder(environment, "GRADVIZ_DATA", "data"),
            store=store_folder(environment),
            workers=workers,
            fixed="GRADVIZ_THREADS" in environment,
            # Threads of one training wait for each other: one core too few costs them more than the others give.
            threads=whole("GRADVIZ_THREADS", max(1, min((int(cores) - 1) // workers, 64))),
            download=word("GRADVIZ_DOWNLOAD", "on", "off", "on") == "on",
            ray=ray,
            train_in=train_in,
            limits=Limits(
                blocks=whole("GRADVIZ_MAX_BLOCKS", highest.blocks, 0, highest.blocks),
                steps=whole("GRADVIZ_MAX_STEPS", highest.steps, 1, highest.steps),
                batch=whole("GRADVIZ_MAX_BATCH", highest.batch, 1, highest.batch),
                queue=whole("GRADVIZ_MAX_QUEUE", highest.queue, 1, 10_000),
                runs=whole("GRADVIZ_MAX_RUNS", highest.runs, 10, 1_000_000),
                disk=whole("GRADVIZ_MAX_DISK", highest.disk, 1, 100_000),
                states=whole("GRADVIZ_MAX_STATES", highest.states, 0, 100_000),
            ),
            pin=pin,
            ingest=ingest_token(environment),
            hosts=hosts,
        )
