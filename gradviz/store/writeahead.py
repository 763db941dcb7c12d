"""SQLite's write-ahead log, looked at before SQLite does, which takes a damaged frame for the end of the log, without a word.

Frames carry a running checksum, so that each can be checked against the one before (sqlite.org/fileformat2.html). A frame
that ends a commit of this round and lies behind a bad one shows that the bad one is no end.
"""

from __future__ import annotations

import struct
from pathlib import Path

_HEADER, _FRAME = 32, 24  # bytes
_MAGIC = {0x377F0682: "<", 0x377F0683: ">"}  # the order of bytes in which sums are taken


def mended(log: bytes, page_size: int) -> tuple[bytes, int, int] | None:
    """The log without its bad frames, how many those are, and of how many; None if none is bad.

    `page_size`: of the file, if the log's own header is bad. Of a log that only ends too early nothing can be known.
    """
    if not log:
        return None
    head = log[:_HEADER].ljust(_HEADER, b"\0")
    order = _MAGIC.get(struct.unpack_from(">I", head)[0], "<")
    sound = len(log) >= _HEADER and _sum(order, (0, 0), head[:24]) == struct.unpack(">II", head[24:])
    page_size = struct.unpack_from(">I", head, 8)[0] if sound else page_size
    size = _FRAME + page_size
    frames = [log[at : at + size] for at in range(_HEADER, len(log) - size + 1, size)]
    salt = head[16:24] if sound else frames[0][8:16] if frames else b""
    commits = [place for place, frame in enumerate(frames) if frame[8:16] == salt and any(frame[4:8])]
    frames = frames[: commits[-1] + 1 if commits else 0]
    before = head[24:], *(frame[16:24] for frame in frames)
    good = [frame for frame, last in zip(frames, before, strict=False) if frame[8:16] == salt and _is_right(order, last, frame)]
    if sound and len(good) == len(frames):
        return None
    return _log(order, head, page_size, salt, good), len(frames) - len(good), len(frames)


def mend(path: Path) -> tuple[int, int]:
    """Mends the log of the file of runs `path`, which nobody may have open, and keeps the damaged one beside it as `…-damaged`.

    Returns how many of how many frames were bad, (0, 0) if all is well. Raises OSError.
    """
    log = Path(f"{path}-wal")
    if not path.is_file() or not log.is_file():
        return 0, 0
    with path.open("rb") as file:
        size = int.from_bytes(file.read(18)[16:], "big")
    found = mended(content := log.read_bytes(), 65536 if size == 1 else size or 4096)
    if found is None:
        return 0, 0
    Path(f"{log}-damaged").write_bytes(content)
    part = Path(f"{log}-mended")
    part.write_bytes(found[0])
    part.replace(log)
    return found[1], found[2]


def _log(order: str, head: bytes, page_size: int, salt: bytes, frames: list[bytes]) -> bytes:
    """With sums taken anew."""
    magic = next(number for number, name in _MAGIC.items() if name == order)
    head = struct.pack(">IIII", magic, 3007000, page_size, *struct.unpack_from(">I", head, 12)) + salt.ljust(8, b"\0")
    total = _sum(order, (0, 0), head)
    parts = [head, struct.pack(">II", *total)]
    for frame in frames:
        total = _sum(order, total, frame[:8] + frame[24:])
        parts += [frame[:16], struct.pack(">II", *total), frame[24:]]
    return b"".join(parts)


def _is_right(order: str, before: bytes, frame: bytes) -> bool:
    """`before`: the sum that the frame before it carries."""
    return _sum(order, struct.unpack(">II", before), frame[:8] + frame[24:]) == struct.unpack(">II", frame[16:24])


def _sum(order: str, start: tuple[int, int], data: bytes) -> tuple[int, int]:
    first, second = start
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for one, other in zip(words[::2], words[1::2], strict=True):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + other + first) & 0xFFFFFFFF
    return first, second
