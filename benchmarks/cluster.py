"""Trainings through a Ray cluster on this machine's loopback beside the same in processes, in turns:

    GRADVIZ_DATA=folder python -m benchmarks.cluster            # single trainings
    GRADVIZ_DATA=folder python -m benchmarks.cluster --sweep    # a sweep of 24 runs with two workers
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from clusters import TOKEN, LoopbackCluster

from gradviz.cluster.cluster import Cluster
from gradviz.lenet.config import READERS, RunConfig
from gradviz.lenet.data import Shelf
from gradviz.lenet.sweep import Sweep
from gradviz.serve.manager import RunManager
from gradviz.serve.processes import Nursery
from gradviz.serve.sweeps import SweepRunner
from gradviz.store.store import RunStore

CASES = ((12, 64, 60, 4), (60, 64, 20, 4), (1000, 8, 4, 3))  # blocks, batch, steps, turns


def once(train: Nursery | Cluster, blocks: int, batch: int, steps: int, seed: int) -> tuple[float, float, float]:
    """(seconds to the first record, steps per second after the second, processor ms of this process per step)."""
    config = RunConfig(blocks=blocks, shortcut=True, activation="relu", dataset="mnist", steps=100_000, batch_size=batch,
                       device="cpu", seed=seed)  # fmt: skip
    began = time.perf_counter()
    records = iter(train(config, lambda: False))
    next(records)
    first = time.perf_counter() - began
    next(records)
    began, work = time.perf_counter(), time.process_time()
    for _ in range(steps):
        next(records)
    seconds, work = time.perf_counter() - began, time.process_time() - work
    records.close()
    return first, steps / seconds, 1e3 * work / steps


def sweep(train: Nursery | Cluster, turn: int) -> float:
    """Seconds of 24 runs on two workers."""
    base = RunConfig(activation="relu", shortcut=True, dataset="mnist", steps=40, batch_size=32, device="cpu")
    wanted = Sweep.over("24", [base], {"blocks": [2, 6, 12]}, range(8 * turn, 8 * turn + 8), early=False)
    with tempfile.TemporaryDirectory() as scratch:
        store = RunStore(Path(scratch) / "runs", READERS)
        manager = RunManager(store, train, workers=2)
        sweeps = SweepRunner(manager, Path(scratch) / "sweeps", at_once=4, tick=0.05)  # no worker waits for the next
        try:
            began = time.perf_counter()
            sweeps.start(wanted, client="engineer")
            while sweeps.active(wanted.id):
                time.sleep(0.02)
            seconds = time.perf_counter() - began
            assert len(sweeps.results(wanted)) == 24
        finally:
            sweeps.close()
            manager.close()
            store.close()
    return seconds


def sweeps_in_turns(kinds: dict[str, Nursery | Cluster], turns: int = 3) -> None:
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    for turn in range(turns):
        for kind in sorted(kinds, reverse=turn % 2 == 0):
            found[kind].append(sweep(kinds[kind], turn))
        print({kind: round(each[-1], 1) for kind, each in found.items()}, flush=True)
    ratio = median(there / here for there, here in zip(found["cluster"], found["process"], strict=True))
    print(f"sweep of 24 runs, two workers: cluster over process {ratio:.3f}")


def main() -> None:
    os.environ["RAY_AUTH_TOKEN"] = TOKEN
    folder = Path(os.environ.get("GRADVIZ_DATA", "data")).absolute()
    loopback, shelf = LoopbackCluster(GRADVIZ_DATA=str(folder)), Shelf(folder, download=False)
    loopback.computer(slots=2)
    kinds = {"process": Nursery(shelf), "cluster": Cluster(shelf, loopback.address)}
    try:
        while not kinds["cluster"].sight.slots:
            time.sleep(0.1)
        for train in kinds.values():
            once(train, 2, 16, 5, 0)
        if "--sweep" in sys.argv[1:]:
            return sweeps_in_turns(kinds)
        for blocks, batch, steps, turns in CASES:
            found = {kind: [] for kind in kinds}
            for turn in range(turns):
                for kind in sorted(kinds, reverse=turn % 2 == 0):
                    found[kind].append(once(kinds[kind], blocks, batch, steps, 1 + turn))
            ratio = median(there[1] / here[1] for there, here in zip(found["cluster"], found["process"], strict=True))
            print(f"{blocks} blocks, batch {batch}: cluster over process {ratio:.3f}")
            for kind, each in found.items():
                first, pace, work = (median(turn[column] for turn in each) for column in range(3))
                print(f"  {kind}: first record {first:.3f} s, {pace:.1f} steps/s, server {work:.3f} ms per step", flush=True)
    finally:
        for train in kinds.values():
            train.close()
        loopback.close()


if __name__ == "__main__":
    main()
