"""A data set on its way to a computer without it: each file once, with its SHA-256, by which the host takes it or not."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any, Protocol

from gradviz.lenet import idx
from gradviz.lenet.idx import DataError

log = logging.getLogger("gradviz")


class Host(Protocol):
    def __call__(self, request: dict[str, Any], body: bytes = b"", /) -> dict[str, Any]:
        """Raises OSError, or what the host says that went wrong."""


def bring(host: Host, folder: Path, name: str) -> None:
    """Sends the files of this data set from `folder`. Raises DataError, OSError, Told."""
    found = idx.find(folder, name)
    if found.status != "ready":
        raise DataError(found.message)
    total = 0
    for path in found.files.values():
        body = path.read_bytes()
        host({"file": path.name, "set": name, "sha256": hashlib.sha256(body).hexdigest()}, body)
        total += len(body)
    log.info("event=data-brought set=%s bytes=%d", name, total)
