"""The figures of the server as Prometheus reads them (text format 0.0.4): one line each, nothing about who asks."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gradviz.serve.manager import Statistics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_OF_COMPUTERS = (("slots", "Trainings that it takes at once."), ("trainings", "Trainings there, of all servers."))
_WINDOW = 30.0  # seconds over which steps per second are taken


class Metrics:
    """Calling it gives the text; it remembers the steps of the last scrapes for the pace."""

    def __init__(
        self,
        statistics: Callable[[], Statistics],
        clock: Callable[[], float] = time.monotonic,
        memory: Callable[[], Mapping[str, int]] = lambda: resident_memory(),
        computers: Callable[[], Mapping[str, int]] | None = None,
        pages: Callable[[], int] | None = None,
        disk: Callable[[], Mapping[str, int]] | None = None,
        named: Callable[[], Mapping[tuple[str, str], tuple[int, int]]] | None = None,
    ):
        """`computers()`: of a cluster, by state. `pages()`: open in browsers. `disk()`: bytes, by what they are of. `named()`:
        name and state of each computer -> slots and trainings."""
        self._statistics, self._clock, self._memory, self._computers = statistics, clock, memory, computers
        self._pages, self._disk, self._named = pages, disk, named
        # (when, steps so far) of the scrapes of about the last half minute
        self.seen: deque[tuple[float, int]] = deque([(clock(), statistics().steps)])
        self._lock = threading.Lock()

    def __call__(self) -> str:
        now = self._statistics()
        there = self._computers() if self._computers else None
        named = self._named() if self._named else {}
        return "".join([
            _family("runs", "gauge", "Live runs now.", "status", now.live),
            _family("queue_length", "gauge", "Runs that wait for a worker.", None, {"": now.queue}),
            _family("workers", "gauge", "Trainings that may run at once.", None, {"": now.workers}),
            _family("steps_total", "counter", "Training steps recorded since the start.", None, {"": now.steps}),
            _family("steps_per_second", "gauge", "The same, per second of about the last 30.", None, {"": self._pace(now.steps)}),
            _family("runs_ended_total", "counter", "Runs that ended, by how.", "status", now.ended),
            _family("refusals_total", "counter", "Starts that were refused, by which limit.", "reason", now.refused),
            _family("worker_crashes_total", "counter", "Worker processes that the system ended.", None, {"": now.crashes}),
            _family("resident_memory_bytes", "gauge", "Memory in use.", "process", self._memory()),
            "" if there is None else _family("computers", "gauge", "Computers of the cluster.", "state", there),
            *[
                _family(f"computer_{of}", "gauge", meaning, ("computer", "state"), {key: each[k] for key, each in named.items()})
                for k, (of, meaning) in enumerate(_OF_COMPUTERS) if named
            ],
            "" if not self._pages else _family("pages_open", "gauge", "Pages open in browsers.", None, {"": self._pages()}),
            "" if not self._disk else _family("disk_bytes", "gauge", "Of kept runs, and free beside them.", "of", self._disk()),
            _family("start_time_seconds", "gauge", "When the server began, Unix time.", None, {"": now.started}),
        ])  # fmt: skip

    def _pace(self, steps: int) -> float:
        now = self._clock()
        with self._lock:
            while len(self.seen) > 1 and self.seen[1][0] <= now - _WINDOW:
                self.seen.popleft()
            then, before = self.seen[0]
            if now - self.seen[-1][0] >= 1:  # however often somebody asks, at most 30 are kept
                self.seen.append((now, steps))
        return (steps - before) / (now - then) if now > then else 0.0


def resident_memory(proc: Path = Path("/proc")) -> dict[str, int]:
    """Bytes of this process and of all that descend from it together, `{}` where there is no /proc (macOS).

    Pages that a fork shares count once for each process that has them.
    """
    page = os.sysconf("SC_PAGE_SIZE")

    def of(id: str) -> int:
        try:
            return int((proc / id / "statm").read_text().split()[1]) * page
        except (OSError, IndexError):
            return 0  # it has ended meanwhile

    children: dict[str, list[str]] = {}
    for stat in proc.glob("[0-9]*/stat"):
        try:
            # "pid (any name) state parent ..."
            children.setdefault(stat.read_text().rpartition(")")[2].split()[1], []).append(stat.parent.name)
        except (OSError, IndexError):
            pass
    descendants = [str(os.getpid())]
    for id in descendants:  # grows while it is read: the nursery's children train
        descendants += children.get(id, [])
    own = of(str(os.getpid()))
    return {"server": own, "workers": sum(map(of, descendants[1:]))} if own else {}


def _family(name: str, kind: str, meaning: str, label: str | tuple[str, ...] | None, values: Mapping[Any, float]) -> str:
    """`label`: whose values are the keys of `values`; of several, tuples of them."""
    names = (label,) if isinstance(label, str) else label or ()
    lines = [f"# HELP gradviz_{name} {meaning}", f"# TYPE gradviz_{name} {kind}"]
    for key, value in values.items():
        said = zip(names, (key,) if isinstance(label, str) else key, strict=True)
        labels = ",".join(f'{each}="{_escaped(word)}"' for each, word in said)
        lines.append(f"gradviz_{name}{f'{{{labels}}}' if labels else ''} {value:.17g}")
    return "\n".join(lines) + "\n"


def _escaped(word: str) -> str:
    """A label's value: the names of computers are their owners'."""
    return word.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
