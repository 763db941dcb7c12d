"""The tests of gradviz/train, and those that want a card, on this machine with the PyTorch that is there."""

from __future__ import annotations

import os
import subprocess
import sys

from benchmarks.common import ROOT

FILES = ["tests/train", "tests/record", "tests/lenet/test_net.py", "tests/lenet/test_experiment.py"]


def measure(device: str, quick: bool) -> str:
    files = ["tests/train/test_card.py"] if quick else [file for file in FILES if (ROOT / file).exists()]
    workers = max(1, min(12, (os.cpu_count() or 2) - 2))
    command = [sys.executable, "-m", "pytest", "-q", "-rf", "-p", "no:cacheprovider", "-n", str(workers), *files]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "GRADVIZ_TEST_CARD": device}, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines()
    print("\n".join(lines[-60:]), done.stderr[-3000:], file=sys.stderr, flush=True)
    found = [line[:400] for line in lines if line.startswith(("FAILED", "ERROR"))]
    return "\n".join([f"`pytest {' '.join(files)}`: {lines[-1] if lines else done.stderr[-300:]}", *found]) + "\n"
