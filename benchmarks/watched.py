"""What the diagnosis says of healthy nets and of trainings in which something was planted: real trainings, watched at every step.

    OMP_NUM_THREADS=1 python -m benchmarks.watched [--small] [--only NAME] [--seeds 3] [--folder FOLDER] [--write]

With --write the two tables go into docs/diagnosis.md, between their marks. An hour on one core, --small three minutes. The tests
judge a part of the small ones (tests/diagnosis/test_watched_nets.py).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

import gradviz
from benchmarks.nets import HEALTHY, Supervised, Training
from benchmarks.planted import FAULTS
from gradviz.diagnosis.examine import Diagnosis, examine

PAGE = Path(__file__).resolve().parents[1] / "docs" / "diagnosis.md"
LOOKS = (1, 5, 20)  # steps after which it is looked at, beside the end


@dataclass
class Judged:
    """One net of one training."""

    name: str
    layers: int = 0
    steps: int = 0
    looks: dict[int, Diagnosis] = field(default_factory=dict)  # after so many steps
    start_loss: float = float("nan")
    loss: float = float("nan")

    @property
    def last(self) -> Diagnosis:
        return self.looks[max(self.looks)]

    @property
    def alarms(self) -> Iterator[tuple[int, str]]:
        for step, diagnosis in self.looks.items():
            if set(diagnosis.findings) - {"healthy", "learning"}:
                yield step, f"{', '.join(diagnosis.findings)} — {diagnosis.sentence}"


def judge(make: Callable[[int, bool], Supervised | Training], seed: int, small: bool, folder: Path) -> list[Judged]:
    """Trains it, and looks at each of its nets after LOOKS steps and at the end."""
    torch.manual_seed(seed)
    made = make(seed, small)
    training = made.training() if isinstance(made, Supervised) else made
    with contextlib.ExitStack() as stack:
        runs = {
            name: stack.enter_context(gradviz.watch(model, optimizers, every=1, folder=folder, title=name))
            for name, (model, optimizers) in training.nets.items()
        }
        found = {name: Judged(name) for name in runs}
        for step in range(training.steps):
            for name, loss in training.step(step).items():
                runs[name].log(loss=loss)
            for name, run in runs.items():
                if step + 1 in (*LOOKS, training.steps) and run.run:
                    found[name].looks[step + 1] = examine(run.run)
    for name, run in runs.items():
        if run.run:
            history = run.run.history
            one = found[name]
            one.layers, one.steps = len(run.layers), history.steps
            one.start_loss, one.loss = (float(history.loss[part].mean()) for part in (slice(0, 3), slice(-3, None)))
    return list(found.values())


def healthy_rows(only: str, seeds: int, small: bool, folder: Path) -> Iterator[str]:
    yield "| net | layers | steps | loss | false alarms, of the looks |"
    yield "|---|---|---|---|---|"
    alarms = looks = 0
    for name, make in HEALTHY.items():
        if only not in name:
            continue
        found = [(seed, one) for seed in range(seeds) for one in judge(make, seed, small, folder / name)]
        for part in dict.fromkeys(one.name for _seed, one in found):
            mine = [(seed, one) for seed, one in found if one.name == part]
            said = [(seed, step, what) for seed, one in mine for step, what in one.alarms]
            alarms, looks = alarms + len(said), looks + sum(len(one.looks) for _seed, one in mine)
            for seed, step, what in said:
                print(f"    {name} {part}, seed {seed}, step {step}: {what}", file=sys.stderr)
            _seed, first = mine[0]
            title, loss = f"{name}, {part}" if part else name, f"{first.start_loss:.2f} → {first.loss:.2f}"
            looked = sum(len(one.looks) for _seed, one in mine)
            yield f"| {title} | {first.layers} | {first.steps} | {loss} | {len(said)} of {looked} |"
    yield f"| **together** | | | | **{alarms} of {looks}** |"


def planted_rows(only: str, folder: Path) -> Iterator[str]:
    yield "| planted | named | the diagnosis |"
    yield "|---|---|---|"
    named = count = 0
    for name, fault in FAULTS.items():
        if only not in name:
            continue
        (one,) = judge(fault.make, 0, True, folder / name)
        last = one.last if one.looks else None
        right = last is not None and last.findings[0] in fault.expected and fault.layer in str(last.sentence)
        named, count = named + right, count + 1
        text = ' '.join(map(str, [last.sentence, *last.advice])) if last else "No step was taken."
        yield f"| {name} | {'yes' if right else '**no**'} | {text.replace('|', '/')} |"
    yield f"| **together** | **{named} of {count}** | |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keeps the runs there")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--part", choices=("healthy", "planted"))
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        parts = {
            "planted": lambda: planted_rows(options.only, folder),
            "healthy": lambda: healthy_rows(options.only, options.seeds, options.small, folder),
        }
        for part, rows in parts.items():
            if options.part in (None, part):
                begin = time.perf_counter()
                table = []
                for row in rows():
                    print(row, flush=True)
                    table.append(row)
                print(f"{part}: {time.perf_counter() - begin:.0f} s", file=sys.stderr)
                if options.write:
                    write(part, table)


def write(part: str, table: list[str]) -> None:
    """Between the marks of the page. Raises ValueError if it has none."""
    begin, end = f"<!-- {part} -->", f"<!-- end of {part} -->"
    text = PAGE.read_text(encoding="utf-8")
    new, count = re.subn(f"{begin}.*?{end}", lambda _found: "\n".join([begin, *table, end]), text, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"{PAGE.name} has no marks of {part}")
    PAGE.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
