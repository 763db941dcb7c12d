"""Settings of the server, read once from GRADVIZ_* environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


class SettingsError(ValueError):
    """An environment variable that cannot be used; the message names it and what it may be."""


@dataclass(frozen=True)
class Settings:
    """Where things live and how much may run at once. All paths are folders, made when first needed."""

    data: Path = Path("data")  # GRADVIZ_DATA: MNIST and its relatives, as torchvision lays them out
    store: Path = Path("runs")  # GRADVIZ_STORE: the database of runs
    workers: int = 1  # GRADVIZ_WORKERS: trainings at the same time
    threads: int = 1  # GRADVIZ_THREADS: processor threads of one training
    download: bool = True  # GRADVIZ_DOWNLOAD=off: never ask the network for a data set

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Raises SettingsError for a value that is no whole number from 1 to 64, or no on/off."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

        def whole(name: str, default: int) -> int:
            text = environment.get(name, str(default))
            if not text.isdecimal() or not 1 <= int(text) <= 64:
                raise SettingsError(f"{name} must be a whole number from 1 to 64, not {text!r}.")
            return int(text)

        download = environment.get("GRADVIZ_DOWNLOAD", "on")
        if download not in ("on", "off"):
            raise SettingsError(f"GRADVIZ_DOWNLOAD must be on or off, not {download!r}.")
        workers = whole("GRADVIZ_WORKERS", max(1, min(cores, 8)))
        return cls(
            data=Path(environment.get("GRADVIZ_DATA", "data")),
            store=Path(environment.get("GRADVIZ_STORE", "runs")),
            workers=workers,
            threads=whole("GRADVIZ_THREADS", max(1, cores // workers)),
            download=download == "on",
        )
