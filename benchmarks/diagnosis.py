"""What the diagnosis says about a LeNet of each kind: trains them all and writes their part of docs/diagnosis.md.

    OMP_NUM_THREADS=1 GRADVIZ_DATA=folder python benchmarks/diagnosis.py [--data digits]

The tests judge the same runs (tests/diagnosis/test_diagnosis.py).
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

import torch  # noqa: E402

from benchmarks.watched import write  # noqa: E402
from gradviz.diagnosis.examine import Diagnosis  # noqa: E402
from gradviz.lenet.config import FIELDS, RunConfig  # noqa: E402
from gradviz.lenet.data import Dataset, Shelf  # noqa: E402
from gradviz.lenet.diagnosis import diagnose  # noqa: E402
from gradviz.lenet.experiment import training  # noqa: E402
from gradviz.record.history import History, max_columns  # noqa: E402
from gradviz.record.run import Run, Status  # noqa: E402

# Of each kind one that shows it on any arithmetic, and its neighbour of the other kind: what trains has twice the steps that
# the slowest of three seeds needed to leave chance, or a hundred more.
CASES: dict[str, dict[str, object]] = {
    "sigmoid": dict(blocks=12, steps=10),
    "sigmoid, few blocks": dict(blocks=2, steps=400),
    "sigmoid, a few more blocks": dict(blocks=4, batch_size=8, steps=255),
    "sigmoid, deep": dict(blocks=30, steps=2),
    "relu, few blocks": dict(activation="relu", blocks=2, steps=100),
    "relu": dict(activation="relu", blocks=12, steps=10),
    "relu, critical init": dict(activation="relu", blocks=6, init_range=0.1406, steps=80),
    "relu, large init": dict(activation="relu", blocks=12, init_range=0.5, steps=6),
    "relu, large init, deeper": dict(activation="relu", blocks=26, init_range=0.5, steps=2),
    "relu, large init, overflow": dict(activation="relu", blocks=40, init_range=0.5, steps=5),
    "relu, batch norm": dict(activation="relu", batch_norm=True, blocks=6, steps=35),
    "relu, batch norm, deep": dict(activation="relu", batch_norm=True, blocks=40, steps=2),
    "sigmoid, batch norm": dict(batch_norm=True, blocks=6, steps=50),
    "relu, shortcut": dict(activation="relu", shortcut=True, blocks=6, steps=40),
    "relu, shortcut, large init": dict(activation="relu", shortcut=True, blocks=12, init_range=0.2, steps=2),
    "sigmoid, shortcut": dict(shortcut=True, blocks=4, steps=80),
    "sigmoid, SGD": dict(blocks=12, optimizer="sgd", lr=0.1, steps=8),
    "sigmoid, floor": dict(blocks=12, treatment="floor", threshold=1e-4, steps=8),
    "sigmoid, huge init": dict(blocks=12, init_range=2.0, steps=8),
    "relu, tiny steps": dict(activation="relu", blocks=1, lr=1e-7, steps=30),
    "relu, small steps of SGD": dict(activation="relu", blocks=1, optimizer="sgd", lr=0.01, batch_size=8, steps=255),
    "relu, huge steps": dict(activation="relu", blocks=2, lr=0.3, steps=20),
    "no blocks, huge steps of SGD": dict(blocks=0, optimizer="sgd", lr=10.0, steps=20),
    "no blocks": dict(blocks=0, steps=40),
}


def case(name: str, dataset: str) -> RunConfig:
    return RunConfig(**{"batch_size": 32, "device": "cpu", "dataset": dataset, **CASES[name]})


def train(config: RunConfig, data: Dataset) -> Run:
    """The run of this config, without the test on all test images at its end, which no diagnosis reads."""
    run = Run(config, History(config.layers, max_columns(config.layers)), Status.FINISHED, "cpu")
    trainer = training(config, data, torch.device("cpu"))
    for record in itertools.islice(trainer, config.steps):
        run.history.append(record)
        run.nonfinite_layer = record.nonfinite_layer
    if trainer.outcome:
        run.status = trainer.outcome.status
    return run


def row(name: str, run: Run, diagnosis: Diagnosis) -> str:
    config = run.recipe
    steps = run.history.steps
    settings = [config.title.rsplit(" · ", 1)[0], f"batch {config.batch_size}", f"{steps} step{'s' * (steps != 1)}"]
    findings = ", ".join([f"**{diagnosis.findings[0]}**", *diagnosis.findings[1:]])
    return f"| {name}<br>{' · '.join(settings)} | {findings} | {diagnosis.sentence} |"


def details(name: str, diagnosis: Diagnosis) -> list[str]:
    lines = [f"#### {name}", "", str(diagnosis.sentence), "", "Measured:", ""]
    lines += [f"- {sentence}" for sentence in diagnosis.evidence]
    if diagnosis.likely_cause:
        lines += ["", "Likely:", "", *(f"- {sentence}" for sentence in diagnosis.likely_cause)]
    if diagnosis.turned_at:
        lines += ["", "Turned at:", "", *(f"- step {step}: {sentence}" for step, sentence in diagnosis.turned_at)]
    if diagnosis.next_experiment:
        sentence, config = diagnosis.next_experiment
        lines += ["", f"Next: {sentence} ({config.title}, {config.steps} steps)"]
    return [*lines, ""]


HEAD = """Made by `python benchmarks/diagnosis.py` on {data}: every line is a real training (one thread of a CPU, seed {seed}),
judged at its last step. Its layers are of one size inside the blocks, so the rms of the first and of the last is compared.

Saturated sigmoids are a finding of their own, yet they come first only where the gradient profile is otherwise level. In
the runs below they stand second: a saturated layer has a slope near 0, or huge weights that make up for it, so that where
half of the convolutions are saturated the gradient has vanished or exploded a thousandfold already. The verdict names
that, because it is what the picture shows; saturation follows as its mechanism, with its own evidence.

| Run | Findings | Sentence |
|---|---|---|
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="mnist", help="the data set")
    dataset = parser.parse_args().data
    torch.set_num_threads(1)
    data = Shelf(Path(os.environ.get("GRADVIZ_DATA", ROOT / "data")), download=False).load(dataset)
    rows, sections = [], []
    for name in CASES:
        begin = time.perf_counter()
        run = train(case(name, dataset), data)
        diagnosis = diagnose(run)
        print(f"{time.perf_counter() - begin:5.1f} s  {name}: {', '.join(diagnosis.findings)}", flush=True)
        rows.append(row(name, run, diagnosis))
        sections += details(name, diagnosis)
    head = HEAD.format(data=dataset, seed=FIELDS["seed"].default)
    text = head + "\n".join([*rows, "", "### Each in full", "", *sections])
    write("lenet", text.rstrip().split("\n"))


if __name__ == "__main__":
    main()
