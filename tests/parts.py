"""Runs all tests, part by part, and closes with one line over all parts. Plain Python: `make test`, `.ci/run`.

    python tests/parts.py             the tests without a browser, then those with one
    python tests/parts.py --others    before them, the tests that train under two other arithmetics
    python tests/parts.py --cluster   instead, those on a real Ray cluster, for which Ray is installed
    python tests/parts.py --all       all of these, but under one other arithmetic: two take longer than whoever waits for a
                                      CI has; Ray comes last, so that the others do without it

A part that fails does not keep the next from running. Ends with 0 only if every part has ended with 0: one that finds no
test, cannot be given what it needs, or dies without a report, has failed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
# Name -> what plays it, and what PyTorch calls its kernels. Each sums in another order, so each rounds otherwise. First what
# most readers' computers have; it trains three times as fast as the next.
ARITHMETICS: dict[str, tuple[dict[str, str], str]] = {
    "AVX2": ({"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}, "AVX2"),
    "SSE4.1": ({"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"}, "DEFAULT"),
    "two threads": ({"GRADVIZ_TEST_THREADS": "2"}, ""),
}


@dataclass(frozen=True)
class Part:
    name: str
    options: tuple[str, ...]  # of pytest
    environment: dict[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()  # what is done before, by this Python


OWN = (
    # Three for two cores: its tests wait for a third of their time, for processes, files and clocks.
    Part("without a browser", ("-m", "not browser and not cluster", "-n", "3", "--dist", "loadfile")),
    Part("in a browser", ("-m", "browser and not timed", "-n", "2", "--dist", "loadfile")),
    Part("in a browser, by the clock", ("-m", "browser and timed")),
)


# In one process: its tests share a cluster.
CLUSTER = (
    Part(
        "on a cluster", ("-m", "cluster", "tests/cluster", "tests/serve/test_workers.py"),
        needs=("deploy/install.py", "requirements-ray.txt"),
    ),
)  # fmt: skip


def others(best: str) -> list[Part]:
    """The tests that train under two arithmetics other than `best`, the kernels of this machine (one where it has no other)."""
    x86 = best in ("DEFAULT", "AVX2", "AVX512")
    names = [name for name, (_, kernels) in ARITHMETICS.items() if not kernels or x86 and kernels != best]
    if best == "DEFAULT":
        names.remove("AVX2")  # it has no such instructions
    return [
        Part(
            f"that train, {name}", ("-m", "trains and not browser and not cluster", "-n", "2", "--dist", "loadfile"),
            ARITHMETICS[name][0],
        )
        for name in names[:2]
    ]


def run(parts: Sequence[Part], command: Sequence[str] = (sys.executable, "-m", "pytest")) -> int:
    """Runs them one after the other; prints the closing line and returns the exit code."""
    begin, counts, failed = time.monotonic(), Counter(), 0
    with tempfile.TemporaryDirectory() as folder:
        for place, part in enumerate(parts):
            print(f"\nTests {part.name}:", flush=True)
            report = Path(folder) / f"{place}.xml"
            code = subprocess.run([sys.executable, *part.needs], cwd=ROOT).returncode if part.needs else 0
            if not code:
                words = [*command, *part.options, f"--junitxml={report}"]
                code = subprocess.run(words, cwd=ROOT, env={**os.environ, **part.environment}).returncode
            found = _counts(report)
            if code and not found["failed"] + found["error"]:
                found["error"] += 1  # nothing to run it with, no test found, a crash, a wrong option: pytest counts nothing then
            failed = failed or code
            counts += found
            print(f"Tests {part.name}: {_line(found)}", flush=True)
    print(f"\n{f' {_line(counts)} in {time.monotonic() - begin:.0f}s ':=^100}", flush=True)
    return failed


def _counts(report: Path) -> Counter:
    try:
        suites = list(ElementTree.parse(report).getroot())
    except (OSError, ElementTree.ParseError):
        return Counter()
    kinds = {"failed": "failures", "error": "errors", "skipped": "skipped"}
    found = Counter({word: sum(int(suite.get(name, 0)) for suite in suites) for word, name in kinds.items()})
    found["passed"] = sum(int(suite.get("tests", 0)) for suite in suites) - found.total()
    return found


def _line(counts: Counter) -> str:
    """'3 failed, 1088 passed, 2 skipped', as pytest has it."""
    words = ("failed", "passed", "skipped", "error")
    return ", ".join(
        f"{counts[word]} {word}{'s' * (word == 'error' and counts[word] > 1)}" for word in words if counts[word] > 0
    ) or "no tests ran"


def main() -> int:
    everything = "--all" in sys.argv[1:]
    asked = {"--others", "--cluster"} if everything else {*sys.argv[1:]}
    parts = [] if asked == {"--cluster"} else list(OWN)
    if "--others" in asked:
        import torch

        # First, so that the closing lines of the whole suite come last.
        parts = others(torch.backends.cpu.get_cpu_capability())[: 1 if everything else None] + parts
    if "--cluster" in asked:
        parts += CLUSTER
    return run(parts)


if __name__ == "__main__":
    sys.exit(main())
