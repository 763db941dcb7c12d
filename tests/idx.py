"""Small data sets in the IDX format, as MNIST's files are, written without gradviz."""

import gzip
import struct
from pathlib import Path

import numpy as np

FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))


def images(count: int, height: int = 28, width: int = 28, seed: int = 0) -> bytes:
    """A whole file of random pictures."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, height, width), dtype=np.uint8)
    return struct.pack(">IIII", 0x803, count, height, width) + pixels.tobytes()


def labels(count: int, most: int = 9) -> bytes:
    """0, 1, ... `most`, 0, ..."""
    return struct.pack(">II", 0x801, count) + bytes(place % (most + 1) for place in range(count))


def contents(train: int = 100, test: int = 20) -> dict[str, bytes]:
    """File name -> content."""
    return dict(zip(FILES, (images(train), labels(train), images(test, seed=1), labels(test)), strict=True))


def write(folder: Path, files: dict[str, bytes], pack: bool = False) -> Path:
    """Writes the files into the folder, which is made; `pack`: as .gz."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / (name + ".gz" * pack)).write_bytes(gzip.compress(content) if pack else content)
    return folder
