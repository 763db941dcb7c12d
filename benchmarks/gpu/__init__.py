"""What gradviz does on a CUDA card: first whether its numbers are right, then how fast, then whole trainings, and the watch.

    python -m benchmarks --only gpu                             # the tables of docs/performance.md
    python -m benchmarks.gpu --out FOLDER [SECTION …]           # in gpu.md there, and what was said meanwhile in gpu.log
    python -m benchmarks.gpu --device cpu --quick               # whether the script itself works, where there is no card

Each section runs in a process of its own, since an error on a card spoils all that the process does there later, and ends
after some time whatever happens; what it prints is there at once. Some seven minutes in all.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.common import ROOT

# Name -> seconds that it may take, in the order of what matters most.
SECTIONS = {
    "numbers": 80, "tests": 60, "speed": 100, "ends": 110, "cores": 130, "watched": 75, "cost": 90, "together": 40,
    "compiled": 60,
}  # fmt: skip
OF_THE_PAGE = ("numbers", "speed", "ends", "together")


def measure(quick: bool, device: str = "cuda", sections=OF_THE_PAGE, out: Path | None = None, seconds: float = 450) -> str:
    """Markdown of all that came out; `seconds` for all together, `out`: a folder for it and for a log."""
    if device == "cuda" and not torch.cuda.is_available():
        return "No CUDA card was at hand.\n"
    texts = [f"On {card(device)}:\n"]
    until = time.monotonic() + seconds
    for name in sections:
        text = run(name, device, quick, min(SECTIONS[name], until - time.monotonic()), out)
        texts.append(text)
        if out:
            (out / "gpu.md").write_text("\n".join(texts), encoding="utf-8")
        print(f"\n{text}", file=sys.stderr, flush=True)
    return "\n".join(texts)


def card(device: str) -> str:
    name = torch.cuda.get_device_name() if device == "cuda" else "a processor, to try the script"
    return f"{name}, torch {torch.__version__}, CUDA {torch.version.cuda}"


def run(name: str, device: str, quick: bool, seconds: float, out: Path | None) -> str:
    """What the section printed, and how it ended if that is worth a word."""
    if seconds < 5:
        return f"**{name}**: no time was left.\n"
    log = out / "gpu.log" if out else Path(tempfile.gettempdir()) / f"gpu-{os.getpid()}.log"
    command = [sys.executable, "-m", "benchmarks.gpu", "--section", name, "--device", device, *["--quick"] * quick]
    begin = time.monotonic()
    with log.open("a+", encoding="utf-8") as lines:
        start = lines.seek(0, os.SEEK_END)
        child = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=lines, text=True, start_new_session=True
        )  # a group of its own: compilers that it started end with it
        try:
            said, _ = child.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            said, _ = child.communicate()
            said += f"Cut off after {seconds:.0f} s.\n"
        if child.returncode:
            lines.seek(start)
            said += f"\nEnded with {child.returncode}. It had said:\n\n{''.join(lines.readlines()[-40:])}"
    return f"**{name}**, {time.monotonic() - begin:.0f} s\n\n{said.strip()}\n"
