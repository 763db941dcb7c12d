"""Small files: each is there whole or not at all, and one of JSON that cannot be read is put aside rather than written over."""

from __future__ import annotations

import errno
import itertools
import json
import os
from pathlib import Path
from typing import Any

UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)  # of what was read


def read(path: Path) -> Any:
    """Raises an error of UNREADABLE; waits for nobody, as reading a pipe would."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no file", str(path))
    return json.loads(path.read_text(encoding="utf-8"))


def write(path: Path, values: Any) -> None:
    """As JSON. Raises OSError; what was there before is there then."""
    write_bytes(path, json.dumps(values).encode())


def write_bytes(path: Path, data: bytes, mode: int = 0o666) -> None:
    """`mode`: who may read it, before the umask. Raises OSError; what was there before is there then."""
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError:
        try:
            part.unlink(missing_ok=True)  # half a file takes room on a full disk
        except OSError:
            pass
        raise


def put_aside(path: Path) -> str:
    """The name that it has now, or its own if it cannot be moved."""
    numbered = (path.with_suffix(f".damaged{number or ''}{path.suffix}") for number in itertools.count())
    aside = next(name for name in numbered if not name.exists())
    try:
        path.rename(aside)
    except OSError:
        return path.name
    return aside.name
