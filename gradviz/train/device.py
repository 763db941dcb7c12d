"""What a training computes with: the device, its name in words, and its arithmetic."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch

from gradviz.messages import Told, say
from gradviz.record.arithmetic import Arithmetic

# They hold PyTorch's libraries to other kernels than the processor's best. ATEN_CPU_CAPABILITY is not among them: PyTorch
# says what came of it. oneDNN, whose kernels are the convolutions, does not. DNNL_ is its older name.
_HOLDS = (
    "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE",
    "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "NVIDIA_TF32_OVERRIDE",
)  # fmt: skip


class NoDevice(Told):
    """This machine has not the device that was asked for."""


def find_device(word: str) -> torch.device:
    """cpu, cuda, mps, or auto for the fastest there is. Raises NoDevice."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if word == "auto":
        word = next(name for name, available in there.items() if available)
    if not there[word]:
        have = ", ".join(name for name, available in there.items() if available)
        raise NoDevice(say("no-device", device=word, have=have))
    return torch.device(word)


def device_text(device: torch.device) -> str:
    """What the run got, in words: 'cpu, 1 thread' or 'cuda, NVIDIA H100'."""
    if device.type == "cpu":
        return cpu_text(torch.get_num_threads())
    return f"cuda, {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type


def cpu_text(threads: int) -> str:
    return f"cpu, {threads} thread{'s' * (threads != 1)}"


def limit_threads(threads: int) -> None:
    """Of one operation of the calling thread, on the processor."""
    # The first torch operation of a thread sets its number of threads to the last one that any thread asked for,
    # unless the number was read before it was set.
    torch.get_num_threads()
    torch.set_num_threads(threads)


def keep_float32() -> None:
    """A card's convolutions keep the 24 bits of float32; PyTorch lets them round both factors to 11 (TensorFloat-32)."""
    torch.backends.cudnn.allow_tf32 = False


def warm_up() -> None:
    """Has PyTorch load what it loads late."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    torch.optim.Adam([parameter], fused=True)
    torch.nn.functional.conv2d(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 3, 3))


def here(
    device: torch.device,
    threads: int | None = None,
    environment: Mapping[str, str] = os.environ,
    cpuinfo: Path = Path("/proc/cpuinfo"),
) -> Arithmetic:
    """What a training on this device of this machine computes with; `threads`: by default those of the calling thread."""
    processor = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(cpuinfo)
    held = sorted(f"{name}={environment[name].strip().upper()}" for name in _HOLDS if environment.get(name, "").strip())
    threads = torch.get_num_threads() if threads is None else threads
    return Arithmetic(device.type, processor, " ".join(held), threads, str(torch.__version__))


def _processor(cpuinfo: Path) -> str:
    """The vendor too: Intel's library of matrix products chooses by it."""
    vendor = ""
    with suppress(OSError), cpuinfo.open(encoding="utf-8", errors="replace") as lines:  # Linux only
        vendor = next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")
    return " ".join(filter(None, (torch.backends.cpu.get_cpu_capability(), platform.machine(), vendor)))
