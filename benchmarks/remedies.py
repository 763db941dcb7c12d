"""Every remedy on the same plain nets: does it train, and what reaches the first block? Writes the tables of docs/remedies.md.

    OMP_NUM_THREADS=1 GRADVIZ_DATA=folder python benchmarks/remedies.py [--quick] [--table]

Each result is one line of remedies.jsonl beside it, written as it lands: start again and only what is missing runs.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

import torch  # noqa: E402

from gradviz.lenet.config import RunConfig  # noqa: E402
from gradviz.lenet.data import Dataset, Shelf  # noqa: E402
from gradviz.lenet.experiment import training  # noqa: E402
from gradviz.settings import Settings  # noqa: E402

PAGE = ROOT / "docs" / "remedies.md"
TARGET = 1e-3  # rms of the controlled signal
LAST = 20  # steps whose mean loss is reported
CONTROL: dict[str, dict[str, object]] = {
    "nothing": {},
    "floor": dict(treatment="floor", threshold=1e-4),
    "normalise": dict(treatment="normalise", threshold=TARGET),
    "feedback": dict(treatment="feedback", threshold=TARGET),
    "feedback, critical init": dict(treatment="feedback", threshold=TARGET, init="critical"),
    "critical init": dict(init="critical"),
    "LSUV": dict(init="lsuv"),
    "batch norm": dict(batch_norm=True),
    "shortcut": dict(shortcut=True),
}
MORE: dict[str, dict[str, object]] = {
    "he-normal": dict(init="he-normal"),
    "he-uniform": dict(init="he-uniform"),
    "xavier-normal": dict(init="xavier-normal"),
    "xavier-uniform": dict(init="xavier-uniform"),
    "orthogonal": dict(init="orthogonal"),
    "delta-orthogonal": dict(init="delta-orthogonal"),
    "group norm": dict(other_norm="group"),
    "layer norm": dict(other_norm="layer"),
    "shortcut, branch 1/√blocks": dict(shortcut=True, branch_scale="fixed"),
    "shortcut, SkipInit": dict(shortcut=True, branch_scale="skip-init"),
}
COUNTER: dict[str, dict[str, object]] = {"Adam with eps 1e-30": dict(eps=1e-30)}  # the counter-check of the control
ACTIVATIONS = ("tanh", "leaky-relu", "gelu", "silu")
TABLES = ("Control of the backward signal beside the known remedies", "More remedies", "Activations")


def groups() -> list[list[tuple[str, str, int, dict[str, object]]]]:
    """(table, row, steps, settings), what matters most first."""
    def of(rows: tuple[str, ...] | list[str], steps: int, table: str = TABLES[0], **settings: object) -> list:
        return [(table, row, steps, {**settings, **{**CONTROL, **MORE, **COUNTER}[row]}) for row in rows]

    relu, sigmoid = dict(activation="relu", blocks=12), dict(activation="sigmoid", blocks=12)
    brief = ["nothing", "normalise", "feedback", "critical init", "feedback, critical init", "LSUV", "shortcut"]
    return [
        of([*brief, *COUNTER], 200, **relu, lr=3e-4),
        of([*CONTROL, *COUNTER], 400, **relu),
        of(brief, 200, **{**relu, "blocks": 40}, lr=3e-4),
        of(list(MORE), 200, TABLES[1], **relu, lr=3e-4),
        of(list(CONTROL), 150, **sigmoid)
        + [case for word in ACTIVATIONS for case in of(["nothing", "critical init", "LSUV"], 200, TABLES[2],
                                                       activation=word, blocks=12, lr=3e-4)],
        of(brief[:3], 150, **relu, optimizer="momentum", lr=0.01),
        of(list(CONTROL), 60, **{**sigmoid, "blocks": 40}),
    ]  # fmt: skip


def cases() -> list[tuple[str, str, int, dict[str, object]]]:
    return [case for group in groups() for case in group]


def share(model: torch.nn.Module, images: torch.Tensor) -> float:
    """How much of what the last block hands on differs between images: spread about the mean image over the rms, in float64."""
    layers, seen = len(model.weight_layers), []
    model = copy.deepcopy(model).double()

    def watch(index: int, z: torch.Tensor, h: torch.Tensor) -> None:
        if index == layers - 4:
            seen.append(float((h.var(0).mean() / h.square().mean()).sqrt()))

    with torch.no_grad():
        model(images.double(), watch)
    return seen[0]


def measure(config: RunConfig, steps: int, data: Dataset, eps: float | None) -> dict[str, object]:
    trainer = training(config, data, torch.device("cpu"))
    if eps is not None:
        trainer.task.optimizer.param_groups[0]["eps"] = eps  # no setting of the app: the counter-check of the control
    images = data.test_images[:64]
    before, records = share(trainer.model, images), []
    for record in trainer:
        records.append(record)
        if record.step == steps - 1:
            break  # before the full test, which would take longer than the training
    last = records[-LAST:]
    start, end = records[0].layers, records[-1].layers
    return dict(
        steps=len(records), loss=sum(r.loss for r in last) / len(last), accuracy=sum(r.accuracy for r in last) / len(last),
        front=float(start[0, 2]), back=float(start[0, -4]), end_front=float(end[0, 2]), end_back=float(end[0, -4]),
        share=before, end_share=share(trainer.model, images) if math.isfinite(records[-1].loss) else math.nan,
    )  # fmt: skip


def number(value: float) -> str:
    if value == 0 or not math.isfinite(value):  # exactly 0 in float32, inf, nan
        return f"{value:g}"
    return f"{value:.2g}" if 0.01 <= value < 1000 else f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e+").replace("e+", "e")


def report(results: dict[str, dict[str, object]], seeds: int, batch: int) -> str:
    """Markdown: medians over the seeds; the loss of each."""
    lines = []
    for title in TABLES:
        if not any(name(*case, seed, batch) in results for case in cases() if case[0] == title for seed in range(seeds)):
            continue
        lines += [f"### {title}", "", "| blocks | remedy | steps | loss per seed | accuracy | gradient of the first block, "
                  "start → end | image-dependent share, start → end |", "|---|---|---|---|---|---|---|"]  # fmt: skip
        for table, row, steps, settings in cases():
            found = [results[key] for seed in range(seeds) if (key := name(table, row, steps, settings, seed, batch)) in results]
            if table != title or not found:
                continue

            def middle(key: str, found: list = found) -> str:
                value = median(float(result[key]) for result in found)
                return "< 1e-15" if "share" in key and value < 1e-15 else number(value)  # where float64 ends

            accuracy = median(result["accuracy"] for result in found)
            losses = ", ".join(f"{result['loss']:.2f}" if result["loss"] < 100 else number(result["loss"]) for result in found)
            lines.append(
                f"| {settings['blocks']} {settings['activation']} | {row}{optimiser(settings)} | {steps} | "
                f"{losses} | {accuracy:.0%} | "
                f"{middle('front')} → {middle('end_front')} | {middle('share')} → {middle('end_share')} |"
            )
        lines.append("")
    return "\n".join(lines)


def name(table: str, row: str, steps: int, settings: dict[str, object], seed: int, batch: int) -> str:
    return f"{settings['blocks']} {settings['activation']}, {row}{optimiser(settings)}, {steps} steps of {batch}, seed {seed}"


def optimiser(settings: dict[str, object]) -> str:
    if "optimizer" in settings:
        return f", {settings['optimizer']} {settings['lr']:g}"
    return f", Adam {settings['lr']:g}" if "lr" in settings else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kept", type=Path, default=Path(__file__).with_suffix(".jsonl"), help="file of the results so far")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--quick", action="store_true", help="12 blocks only")
    parser.add_argument("--table", action="store_true", help="measure nothing, only write the tables of what is kept")
    options = parser.parse_args()
    results = {}
    if options.kept.exists():
        for line in options.kept.read_text().splitlines():
            result = json.loads(line)
            results[result.pop("name")] = result
    if not options.table:
        settings = Settings.from_environment()
        data = Shelf(settings.data, settings.download).load("mnist")
        # It can be looked at, and stopped, at any time: the first seed of a group goes before the third of the one before it.
        order = [(place + 1.5 * seed, seed, case) for place, group in enumerate(groups())
                 for seed in range(options.seeds) for case in group]  # fmt: skip
        for _rank, seed, (table, row, steps, changes) in sorted(order, key=lambda entry: entry[0]):
            key = name(table, row, steps, changes, seed, options.batch)
            if key in results or (options.quick and changes["blocks"] > 12):
                continue
            settings = {word: value for word, value in changes.items() if word != "eps"}
            config = RunConfig(batch_size=options.batch, seed=seed, steps=2000, device="cpu", **settings)
            results[key] = measure(config, steps, data, changes.get("eps"))
            with options.kept.open("a") as file:  # nan and inf stand in it as words that only Python's json reads back
                file.write(json.dumps({"name": key, **results[key]}) + "\n")
            print(key, {k: number(v) for k, v in results[key].items()}, file=sys.stderr, flush=True)
    before, begin, rest = PAGE.read_text(encoding="utf-8").partition("<!-- tables -->\n")
    _old, end, after = rest.partition("<!-- end of tables -->\n")
    PAGE.write_text(before + begin + report(results, options.seeds, options.batch) + end + after, encoding="utf-8")


if __name__ == "__main__":
    main()
