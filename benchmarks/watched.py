"""What the diagnosis says of healthy nets and of trainings in which something was planted: real trainings, watched at every step.

    OMP_NUM_THREADS=1 python -m benchmarks.watched [--small] [--only NAME] [--seeds 3] [--jobs N] [--results FILE] [--write]

With --write the tables go into docs/diagnosis.md, between their marks. In full size a quarter of an hour for each seed on one
core, --small three minutes; --jobs trains so many nets at a time. FILE keeps what was said of each healthy net; what stands in
it is not trained again, be it from another machine. The tests judge the small ones (tests/diagnosis/test_watched_nets.py).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gradviz
from benchmarks.nets import HEALTHY, Supervised, Training
from benchmarks.planted import AFTERWARDS, FAULTS
from gradviz.diagnosis.examine import Diagnosis, examine

PAGE = Path(__file__).resolve().parents[1] / "docs" / "diagnosis.md"
LONG = ("ResNet-1001-like", "ConvNeXt-tiny", "VGG16-bn", "ResNet-50, zero-initialised residuals")
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
            told = history.loss[~np.isnan(history.loss)]
            if len(told):
                one.start_loss, one.loss = float(told[:3].mean()), float(told[-3:].mean())
    return list(found.values())


def told(one: Judged) -> dict[str, Any]:
    """What the table says of it, as JSON has it."""
    alarms = [f"step {step}: {what}" for step, what in one.alarms]
    numbers = {"layers": one.layers, "steps": one.steps, "loss": f"{one.start_loss:.2f} → {one.loss:.2f}"}
    return numbers | {"name": one.name, "looks": len(one.looks), "alarms": alarms}


Kept = dict[str, list[dict[str, Any]]]  # name/size/seed -> what is told of each of its nets


def _judged(name: str, seed: int, small: bool, folder: Path) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    return [told(one) for one in judge(HEALTHY[name], seed, small, folder / name)]


def healthy(names: Sequence[str], seeds: Sequence[int], small: bool, folder: Path, jobs: int, results: Path) -> Kept:
    """What `results` holds and, trained now and added to it as each ends, what it lacks; without a net that needs torchvision
    where that is not installed."""
    kept: Kept = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        lacking = [(name, seed) for name in names for seed in seeds if key(name, small, seed) not in kept]
        lacking.sort(key=lambda one: one[0] not in LONG)  # or the last of them is waited for alone
        works = {pool.submit(_judged, name, seed, small, folder): (name, seed) for name, seed in lacking}
        for work in as_completed(works):
            name, seed = works[work]
            try:
                kept[key(name, small, seed)] = work.result()
            except ImportError as error:
                print(f"{name}, seed {seed}: left out, {error}", file=sys.stderr)
                continue
            results.write_text(json.dumps(kept, indent=1), encoding="utf-8")
            print(f"{name}, seed {seed}: {len(kept)} are done", file=sys.stderr, flush=True)
    return kept


def key(name: str, small: bool, seed: int) -> str:
    return f"{name}/{'small' if small else 'full'}/{seed}"


def healthy_rows(names: Sequence[str], seeds: Sequence[int], small: bool, kept: Kept) -> Iterator[str]:
    yield "| net | layers | steps | loss | false alarms, of the looks |"
    yield "|---|---|---|---|---|"
    alarms = looks = 0
    for name in names:
        found = [one for seed in seeds for one in kept.get(key(name, small, seed), [])]
        for part in dict.fromkeys(one["name"] for one in found):
            mine = [one for one in found if one["name"] == part]
            said, looked = [what for one in mine for what in one["alarms"]], sum(one["looks"] for one in mine)
            alarms, looks = alarms + len(said), looks + looked
            for what in said:
                print(f"    {name} {part}, {what}", file=sys.stderr)
            title = f"{name}, {part}" if part else name
            yield f"| {title} | {mine[0]['layers']} | {mine[0]['steps']} | {mine[0]['loss']} | {len(said)} of {looked} |"
    yield f"| **together** | | | | **{alarms} of {looks}** |"


def planted_rows(only: str, folder: Path) -> Iterator[str]:
    yield "| planted | named | the diagnosis |"
    yield "|---|---|---|"
    named = count = 0
    for name, fault in (FAULTS | AFTERWARDS).items():
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
    parser.add_argument("--seeds", type=int, default=3, help="so many, from 0 on")
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--folder", type=Path, help="keeps the runs there")
    parser.add_argument("--jobs", type=int, default=1, help="processes, for the healthy nets")
    parser.add_argument("--results", type=Path, help="a file; what it holds of the healthy nets is not trained again")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--part", choices=("healthy", "planted"))
    options = parser.parse_args()
    seeds = range(options.seeds) if options.seed is None else [options.seed]
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        names = [name for name in HEALTHY if options.only in name]
        results = options.results or Path(scratch) / "results.json"

        def trained() -> Iterator[str]:
            kept = healthy(names, seeds, options.small, folder, options.jobs, results)
            return healthy_rows(names, seeds, options.small, kept)

        parts = {"planted": lambda: planted_rows(options.only, folder), "healthy": trained}
        for part, rows in parts.items():
            if options.part in (None, part):
                begin = time.perf_counter()
                table = []
                for row in rows():
                    print(row, flush=True)
                    table.append(row)
                print(f"{part}: {time.perf_counter() - begin:.0f} s", file=sys.stderr)
                if options.write:
                    write(f"{part}, full size" if part == "healthy" and not options.small else part, table)


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
