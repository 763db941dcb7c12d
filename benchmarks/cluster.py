"""Trainings through a Ray cluster on this machine's loopback beside the same in processes, in turns:

    GRADVIZ_DATA=folder python -m benchmarks.cluster
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from clusters import TOKEN, LoopbackCluster

from gradviz.cluster.cluster import Cluster
from gradviz.lenet.config import RunConfig
from gradviz.lenet.data import Shelf
from gradviz.serve.processes import Nursery

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
