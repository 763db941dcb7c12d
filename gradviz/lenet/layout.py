"""The layers of a deep LeNet: two convolutions, two in each block, three linear layers."""

from __future__ import annotations

from functools import lru_cache

from gradviz.record.layout import Layout

STEM = ("conv1", "conv2")
HEAD = ("fc1", "fc2", "fc3")


@lru_cache(maxsize=64)
def layout(blocks: int) -> Layout:
    """Without blocks the stem is judged: its layers are convolutions too, the head's are not."""
    inside = tuple(f"block{block}.conv{conv}" for block in range(blocks) for conv in (1, 2))
    return Layout((*STEM, *inside, *HEAD), range(len(STEM), len(STEM) + len(inside)), None if blocks else (0, 1))
