"""Which gradviz this is: of two that differ in anything that a training consists of, the numbers may differ."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

_ROOMS = ("record", "train", "lenet", "serve", "cluster")


@cache
def edition(root: Path = Path(__file__).parents[1]) -> str:
    """Twelve digits made of the files that train."""
    whole = hashlib.sha256()
    for path in sorted(path for room in _ROOMS for path in (root / room).rglob("*.py")):
        whole.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return whole.hexdigest()[:12]
