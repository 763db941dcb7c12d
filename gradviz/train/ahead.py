"""A GPU's steps run ahead of their numbers: nobody looks at a step before some steps after it have been launched.

A look at one number of a GPU waits for all that was asked of it, and while the processor then thinks of the next step the
GPU idles. So routine steps are launched in chunks, the numbers of one chunk come over while the next one runs, and the step
is replayed as a CUDA graph: one launch in place of one for each of its kernels. Sampled steps are waited for, as on a CPU.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress

import numpy as np
import torch

from gradviz.train.step import Step

_log = logging.getLogger(__name__)

Capture = Callable[[Callable[[], None]], Callable[[], None]]  # a step -> what repeats it; RuntimeError if that is not possible

# Of the replay's numbers so many must be the same, relatively, or be as small: a kernel may add up in another order each time.
_SAME, _TINY, _MOST = 0.01, 1e-30, 0.95
_CAPTURING = threading.Lock()  # PyTorch allows one capture at a time in a process
# PyTorch has 32 streams and hands them out in turn, in use or not: two trainings on one would be captured together.
_FREE: deque[torch.cuda.Stream] = deque()


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


def repeated(step: Step, capture: Capture) -> Callable[[], None]:
    """Takes a step twice, as it is and by its capture; returns what takes the next ones: the capture, if both gave the same."""
    state = step.state
    before = [tensor.detach().clone() for tensor in state]

    @torch.no_grad()
    def put_back() -> None:
        for tensor, old in zip(state, before, strict=True):
            tensor.copy_(old)

    step.advance()
    expected = step.numbers
    step.scores.fill_(-1)  # a replay that does nothing would leave them
    step.probe.numbers.fill_(-1)
    put_back()
    try:
        replay = capture(step.advance)
        replay()
        same = torch.isclose(step.numbers, expected, rtol=_SAME, atol=_TINY, equal_nan=True).float().mean()
        if same >= _MOST:
            return replay
        _log.warning("The training step is not replayed, %.0f %% of its numbers come out other.", 100 * (1 - same))
    except RuntimeError:
        _log.warning("The training step is not captured; its kernels are launched one by one.", exc_info=True)
    put_back()
    step.advance()
    return step.advance


class Lane:
    """Where the steps of one training are launched, and the way of their numbers to the processor.

    On CUDA a stream that no other training has, until `close`; elsewhere the same without streams.
    """

    def __init__(self, device: torch.device, chunk: int, width: int):
        """`chunk` steps at most come over at once, each with `width` numbers."""
        self._device = device
        # Two of each: one chunk is being launched while the other is being read.
        self._there = [torch.empty(chunk, width, device=device) for _ in range(2)]
        self._here = self._there
        self._turn = 0
        self._stream = None
        if device.type == "cuda":
            self._here = [torch.empty(chunk, width, pin_memory=True) for _ in range(2)]
            self._stream = _take_stream(device)
            self._stream.wait_stream(torch.cuda.current_stream(device))

    @property
    def overlaps(self) -> bool:
        """Whether one chunk can be waited for while the next one runs. Apple's GPUs have one queue for all."""
        return self._device.type != "mps"

    def open(self) -> AbstractContextManager[object]:
        """What is asked of the device inside goes this way."""
        return torch.cuda.stream(self._stream) if self._stream else nullcontext()

    def keep(self, place: int, numbers: torch.Tensor) -> None:
        """Writes one step's numbers down, on the device."""
        self._there[self._turn][place].copy_(numbers)

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

    def close(self) -> None:
        """Waits for what was launched: its memory may belong to others from now on."""
        if self._stream:
            stream, self._stream = self._stream, None
            stream.synchronize()
            _FREE.append(stream)


def _take_stream(device: torch.device) -> torch.cuda.Stream:
    with suppress(IndexError):
        while (stream := _FREE.popleft()).device != device:
            pass  # of a card that this process no longer trains on
        return stream
    return torch.cuda.Stream(device)
