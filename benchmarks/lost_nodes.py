"""A sweep through a Ray cluster on this machine's loopback, of which a computer loses its power every few seconds and comes back:

    python -m benchmarks.lost_nodes [--runs 200] [--every 20] [--steps 60]

Prints what was lost, done twice and missing; ends with 1 if anything is missing, or was done twice that had not been lost.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from clusters import TOKEN, LoopbackCluster

from gradviz.cluster.cluster import Cluster
from gradviz.lenet.config import READERS, RunConfig
from gradviz.lenet.data import Shelf
from gradviz.lenet.sweep import Sweep
from gradviz.record.history import StepRecord
from gradviz.serve.failures import ComputerLost
from gradviz.serve.manager import RunManager
from gradviz.serve.processes import RemoteTraining
from gradviz.serve.sweeps import SweepRunner
from gradviz.store.store import RunStore

NAMES = ("left", "right")
LONGEST = 1800  # seconds


class Counted:
    """The cluster's trainings, and per run id how often each was asked for, lost and trained to its end."""

    def __init__(self, cluster: Cluster):
        self._cluster = cluster
        self.begun, self.lost, self.done = Counter[str](), Counter[str](), Counter[str]()

    def __call__(self, config: RunConfig, interrupt: Callable[[], bool]) -> Training:
        self.begun[config.id] += 1
        try:
            return Training(self._cluster(config, interrupt), config.id, self)
        except ComputerLost:
            self.lost[config.id] += 1
            raise


class Training:
    def __init__(self, training: RemoteTraining, id: str, counted: Counted):
        self._training, self._id, self._counted = training, id, counted

    def __getattr__(self, name: str) -> object:
        return getattr(self._training, name)

    def __iter__(self) -> Iterator[StepRecord]:
        try:
            yield from self._training
        except ComputerLost:
            self._counted.lost[self._id] += 1
            raise
        self._counted.done[self._id] += 1


def kill_in_turns(loopback: LoopbackCluster, every: float, over: threading.Event, kills: list[str]) -> None:
    """One computer after the other loses its power, and is started again at once."""
    machines = {name: loopback.computer(name) for name in NAMES}
    while not over.wait(every):
        name = NAMES[len(kills) % len(NAMES)]
        kills.append(name)
        machines[name].signal(signal.SIGKILL)
        while not over.is_set():
            try:
                machines[name] = loopback.computer(name)
                break
            except RuntimeError as error:  # Ray gives a busy machine half a minute to start
                print(error, file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--every", type=float, default=20.0, help="seconds between two losses")
    parser.add_argument("--steps", type=int, default=60, help="of each run")
    given = parser.parse_args()
    logging.getLogger("gradviz").setLevel(logging.CRITICAL)
    os.environ["RAY_AUTH_TOKEN"] = TOKEN
    base = RunConfig(activation="relu", shortcut=True, dataset="digits", steps=given.steps, batch_size=16, device="cpu")
    sweep = Sweep.over("lost nodes", [base], {"blocks": [2, 4]}, range(given.runs // 2), early=False)
    ids, over, kills = [config.id for config in sweep.configs], threading.Event(), list[str]()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        loopback = LoopbackCluster(GRADVIZ_DATA=str(folder / "there"))
        cluster = Cluster(Shelf(folder / "data", download=False), loopback.address)
        counted, store = Counted(cluster), RunStore(folder / "runs", READERS)
        manager = RunManager(store, counted, workers=0, memory_left=cluster.memory_left)
        sweeps = SweepRunner(manager, folder / "sweeps", at_once=len(NAMES))
        cluster.follow(manager.resize)
        killer = threading.Thread(target=kill_in_turns, args=(loopback, given.every, over, kills))
        killer.start()
        began = time.monotonic()
        try:
            sweeps.start(sweep, client="engineer")
            said = began
            while sweeps.active(sweep.id) and time.monotonic() - began < LONGEST:
                time.sleep(0.2)
                if time.monotonic() - said > 20:
                    said = time.monotonic()
                    print(f"{said - began:.0f} s: {len(counted.done)} done, {counted.lost.total()} lost", file=sys.stderr)
            seconds = time.monotonic() - began
            whole = [id for id in ids if (run := manager.get(id)) and run.history.steps == given.steps]
            missing = len(ids) - len(sweeps.results(sweep))
        finally:
            over.set()
            killer.join()
            sweeps.close()
            manager.close()
            cluster.close()
            store.close()
            loopback.close()
    needless = [id for id in ids if counted.begun[id] > 1 + counted.lost[id] or counted.done[id] > 1]
    print(
        f"{len(ids)} runs in {seconds:.0f} s, {len(kills)} times a computer killed: {counted.lost.total()} times a run lost "
        f"({max(counted.lost.values(), default=0)} times the same at most), {len(whole)} whole in the end, {missing} missing, "
        f"{len(needless)} done twice without need"
    )
    return int(bool(missing or needless or len(whole) < len(ids)))


if __name__ == "__main__":
    sys.exit(main())
