"""Where shall trainings run: in threads of the server or in processes of their own? Speed, first record, memory.

    python benchmarks/workers.py [--blocks 12] [--rounds 3] [--seconds 6]
    python benchmarks/workers.py --memory      # peaks of a process against limits.memory_needed

One training at a time, driven by a thread as the run manager does it, while the main thread plays the server: idle,
half busy (5 ms of Python, 5 ms of rest) or fully busy with Python. Kinds and loads take turns; medians are printed,
and the ratio to the thread beside an idle main thread. Believe it only on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from gradviz.lenet.config import RunConfig  # noqa: E402
from gradviz.lenet.data import Shelf  # noqa: E402
from gradviz.lenet.experiment import trainer_on  # noqa: E402
from gradviz.serve.admission import memory_needed  # noqa: E402
from gradviz.serve.processes import Nursery  # noqa: E402
from gradviz.train.training import Train  # noqa: E402

LOADS = {"idle": 0.0, "half busy": 0.5, "busy": 1.0}


def occupy(share: float, ended: Callable[[], bool]) -> None:
    """Plays the server in this thread until `ended`: so much of the time in Python, in turns of 10 ms."""
    while not ended():
        until = time.perf_counter() + 0.01 * share
        while time.perf_counter() < until:
            sum(range(100))
        if share < 1:
            time.sleep(0.01 * (1 - share))


def turn(train: Train[RunConfig], config: RunConfig, share: float, seconds: float) -> tuple[float, float]:
    """Seconds until the first record, and steps per second from then on."""
    first, rate, done = 0.0, 0.0, threading.Event()

    def work() -> None:
        nonlocal first, rate
        begin = time.perf_counter()
        records = iter(train(config, lambda: False))
        next(records)
        begun = time.perf_counter()
        first, steps = begun - begin, 0
        while time.perf_counter() - begun < seconds:
            next(records)
            steps += 1
        rate = steps / (time.perf_counter() - begun)
        records.close()
        done.set()

    threading.Thread(target=work, daemon=True).start()
    occupy(share, done.is_set)
    return first, rate


def speed(options: argparse.Namespace, shelf: Shelf, name: str) -> None:
    kinds: dict[str, Train[RunConfig]] = {"thread": trainer_on(shelf), "process": Nursery(shelf)}
    base = RunConfig(activation="relu", shortcut=True, dataset=name, steps=100_000, device="cpu")
    for train in kinds.values():
        turn(train, replace(base, blocks=1), 0.0, 0.1)  # has read the data
    for blocks in options.blocks:
        found: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for round in range(options.rounds):
            for load, share in LOADS.items():
                for kind, train in kinds.items():
                    config = replace(base, blocks=blocks, seed=round)
                    found.setdefault((load, kind), []).append(turn(train, config, share, options.seconds))
        print(f"\n{blocks} blocks, batch {base.batch_size}, {name}, one processor thread; medians of {options.rounds}")
        print(f"{'main thread':<12} {'training in':<12} {'steps/s':>9} {'ratio':>7} {'first record':>14}")
        unit = statistics.median(rate for _, rate in found["idle", "thread"])
        for (load, kind), turns in found.items():
            first, rate = (statistics.median(values) for values in zip(*turns, strict=True))
            print(f"{load:<12} {kind:<12} {rate:9.1f} {rate / unit:7.2f} {1000 * first:11.0f} ms")
    kinds["process"].close()


def memory(shelf: Shelf) -> None:
    nursery = Nursery(shelf)
    nursery(RunConfig(dataset="digits", blocks=0, steps=1), lambda: False)
    base = anonymous(nursery.pid)
    print(f"{'blocks':>6} {'batch':>6}  {'kind':<36} {'peak':>8} {'formula':>8}   (MB beyond what all share)")
    plain, full = {}, dict(activation="gelu", other_norm="group", shortcut=True, branch_scale="fixed")
    for blocks, batch, changes in (
        (0, 64, plain), (0, 1024, plain), (12, 64, plain), (12, 64, full), (12, 1024, full), (60, 64, plain), (60, 64, full),
        (60, 256, full), (200, 64, full), (1000, 8, full),
    ):  # fmt: skip
        config = RunConfig(blocks=blocks, batch_size=batch, dataset="digits", steps=3, device="cpu", **changes)
        training = nursery(config, lambda: False)
        peak, ended = 0.0, threading.Event()

        def watch(pid: int = training.pid, ended: threading.Event = ended) -> None:
            nonlocal peak
            while not ended.wait(0.002):
                peak = max(peak, anonymous(pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        for record in training:
            if record.step == 1:
                break
        ended.set()
        watcher.join()
        text = " ".join(map(str, changes.values())) or "sigmoid"
        print(f"{blocks:>6} {batch:>6}  {text:<36} {(peak - base) / 1e6:8.0f} {memory_needed(config) / 1e6:8.0f}")
    nursery.close()


def anonymous(pid: int) -> float:
    """Bytes of a process that lie in no file; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, nargs="+", default=[12])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    shelf = Shelf(Path(os.environ.get("GRADVIZ_DATA", ROOT / "data")).resolve(), download=False)
    if options.memory:
        memory(shelf)
    else:
        speed(options, shelf, shelf.effective("mnist")[0])


if __name__ == "__main__":
    main()
