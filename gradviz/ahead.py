"""A GPU's steps run ahead of their numbers: nobody looks at a step before some steps after it have been launched.

A look at one number of a GPU waits for all that was asked of it, and while the processor then thinks of the next step the
GPU idles. So steps are launched in chunks, the numbers of one chunk come over while the next one runs, and a step that
has become routine is replayed as a CUDA graph: one launch in place of one for each of its kernels.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch

Capture = Callable[[Callable[[], None]], Callable[[], None]]  # a step -> what repeats it; RuntimeError if that is not possible

_CAPTURING = threading.Lock()  # PyTorch allows one capture at a time in a process


def cuda_graph(step: Callable[[], None]) -> Callable[[], None]:
    """Captures `step` on the current stream, without running it, and returns its replay.

    `step` must have run three times on this stream before, must look at no number, and must find all it reads in the
    memory where it lies now. Raises RuntimeError where it cannot be captured.
    https://pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
    """
    graph = torch.cuda.CUDAGraph()
    with _CAPTURING, torch.cuda.graph(graph, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"):
        step()
    return graph.replay


class Lane:
    """Where the steps of one training are launched, and the way of their numbers to the processor.

    On CUDA a stream of its own; elsewhere the same without streams.
    """

    def __init__(self, device: torch.device, chunk: int, width: int):
        """`chunk` steps at most come over at once, each with `width` numbers."""
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        if self._stream:
            self._stream.wait_stream(torch.cuda.current_stream(device))
        # Two of each: one chunk is being launched while the other is being read.
        self._there = [torch.empty(chunk, width, device=device) for _ in range(2)]
        self._here = [torch.empty(chunk, width, pin_memory=True) for _ in range(2)] if self._stream else self._there
        self._turn = 0

    def open(self) -> AbstractContextManager:
        """What is asked of the device inside goes this way."""
        return torch.cuda.stream(self._stream) if self._stream else nullcontext()

    def keep(self, place: int, *numbers: torch.Tensor) -> None:
        """Writes one step's numbers down, on the device."""
        torch.cat([part.flatten() for part in numbers], out=self._there[self._turn][place])

    def send(self, steps: int) -> Callable[[], np.ndarray]:
        """Starts the transfer of a chunk; what it returns waits for that, and gives float32 (steps, width)."""
        turn, self._turn = self._turn, 1 - self._turn
        there, here = self._there[turn][:steps], self._here[turn][:steps]
        if not self._stream:
            return lambda: there.cpu().numpy().copy()
        here.copy_(there, non_blocking=True)
        arrived = self._stream.record_event()

        def wait() -> np.ndarray:
            arrived.synchronize()
            return here.numpy().copy()

        return wait
