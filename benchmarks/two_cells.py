"""Two cells behind one entrance, a class in each, and in one of them something is killed every few seconds:

    python -m benchmarks.two_cells                 # 2 × 30 viewers, 2 minutes without a loss and 2 minutes with
    python -m benchmarks.two_cells --shared        # both cells on one cluster, as deploy/compose.cluster.yaml has them
    python -m benchmarks.two_cells --directly      # without nginx, where there is none

Prints what the class of the other cell feels of it, and how many runs either has lost; ends with 1 if one is missing. The cells
are those of `python -m gradviz cell make`, their entrance is deploy/entrance.conf with addresses in the place of Docker's names;
each has a cluster of a head and two computers to itself, so that all of it can be killed. All listens on 127.0.0.1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from clusters import LoopbackCluster, Machine, family
from running import ROOT, Port, Server

from benchmarks.classroom import figures, kept
from gradviz import cells

NAMES = ("class-a", "class-b")  # it is the first that loses what it has
COMPUTERS = ("left", "right")


class Cell:
    """A server of one slot and the cluster that it trains on."""

    def __init__(self, folder: Path, name: str, cluster: LoopbackCluster, computers: dict[str, Machine]):
        self.name, self.cluster, self.computers = name, cluster, computers
        given = {**_variables(folder / cells.ALL), **_variables(folder / f"{name}.env"), "GRADVIZ_RAY": cluster.address}
        self.server = Server(folder / name, {"GRADVIZ_DOWNLOAD": "off", **given, "FORWARDED_ALLOW_IPS": "*"})
        self.server.store.parent.mkdir()
        self.server.start(120)
        self._turn = 0

    # What can be lost

    def computer(self) -> None:
        """The power of one goes, and it begins again."""
        name = COMPUTERS[self._turn % len(COMPUTERS)]
        self._turn += 1
        self.computers[name].end()
        self.computers[name] = self.cluster.computer(name)

    def host(self) -> None:
        for pid in self.computers[COMPUTERS[0]].named("ray::Host"):
            os.kill(pid, signal.SIGKILL)

    def bridge(self) -> None:
        for pid in family(self.server.process.pid):
            if b"gradviz.cluster.bridge" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)

    def process(self) -> None:
        """The server."""
        self.server.kill()
        self.server.start(120)

    def head(self) -> None:
        """With it the computers, which wait 5 s for another."""
        self.cluster.head.end()
        for machine in self.computers.values():
            machine.process.wait()
        self.cluster.begin_head()
        for name in COMPUTERS:
            self.computers[name] = self.cluster.computer(name)


LOSSES: tuple[Callable[[Cell], None], ...] = (Cell.computer, Cell.process, Cell.host, Cell.bridge, Cell.head)


def _variables(path: Path) -> dict[str, str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


@contextmanager
def entrance(folder: Path, servers: dict[str, Server]) -> Iterator[str]:
    """nginx with deploy/entrance.conf; its address."""
    port = Port()
    places = " ".join(f"{name} 127.0.0.1:{server.port};" for name, server in servers.items())
    conf = (ROOT / "deploy" / "entrance.conf").read_text(encoding="utf-8")
    for old, new in (
        (r"listen 8501;", f"listen 127.0.0.1:{port.number};"), (r"resolver .*;.*\n", ""), (r"resolver_timeout .*\n", ""),
        (r"http://cell-\$cell:8501;", "http://$place;"),
    ):  # fmt: skip
        conf, found = re.subn(old, new, conf)
        assert found == 1, f"{old} does not stand in deploy/entrance.conf once"
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    path = folder / "nginx.conf"
    path.write_text(
        f"daemon off; user root; pid {folder}/nginx.pid; error_log {folder}/nginx.log; events {{ worker_connections 4096; }}\n"
        f"http {{ access_log off; {temporary} map $cell $place {{ {places} }}\n{conf}}}\n",
        encoding="utf-8",
    )
    process = subprocess.Popen(["nginx", "-c", str(path), "-e", f"{folder}/nginx.log"], stdin=subprocess.DEVNULL)
    try:
        while not all(_answers(f"http://127.0.0.1:{port.number}/{name}") for name in servers):
            if process.poll() is not None:
                raise RuntimeError("nginx did not begin: " + (folder / "nginx.log").read_text()[-2000:])
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port.number}"
    finally:
        process.terminate()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return bool(asyncio.run(figures(url)))
    except (OSError, EOFError, ValueError):
        return False


def classes(folder: Path, urls: list[str], given: argparse.Namespace, chaos: bool) -> list[dict]:
    """A class in each cell at the same time, each played by a process of its own."""
    playing = []
    for place, url in enumerate(urls):
        out = folder / f"{place}.json"
        words = ["--url", url, "--viewers", given.viewers, "--configs", given.configs, "--minutes", given.minutes, "--json", out]
        words += ["--chaos"] if chaos and not place else ["--stay"]
        command = [sys.executable, "-m", "benchmarks.classroom", *map(str, words)]
        playing.append((subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL), out))
    results = []
    for process, out in playing:
        if process.wait():
            raise RuntimeError("a class ended with an error, as said above")
        results.append(json.loads(out.read_text()))
    return results


@contextmanager
def losses(cell: Cell, every: float) -> Iterator[list[str]]:
    """One after the other; what has been lost so far."""
    over, lost = threading.Event(), list[str]()

    def lose() -> None:
        while not over.wait(every):
            loss = LOSSES[len(lost) % len(LOSSES)]
            lost.append(loss.__name__)
            print(f"{time.strftime('%H:%M:%S')} {cell.name} loses its {loss.__name__}", file=sys.stderr)
            try:
                loss(cell)
            except (OSError, RuntimeError) as error:
                print(error, file=sys.stderr)

    thread = threading.Thread(target=lose)
    thread.start()
    try:
        yield lost
    finally:
        over.set()
        thread.join()


def told(name: str, result: dict) -> str:
    live, page = result["live_ms"], result["page_s"]
    errors = ", ".join(f"{count} × {error}" for error, count in result["errors"].items()) or "none"
    return (
        f"{name}: live update {_figure(live['median'])} ms median, {_figure(live['p95'])} 95th percentile ({live['count']:,}); "
        f"page {_figure(page['median'])} s; {_figure(result['steps_per_second'])} steps/s; errors: {errors}"
    )


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def missing(url: str, seen: set[str]) -> list[str]:
    """Runs that somebody has seen and that are not there now."""
    return sorted(seen - set(asyncio.run(kept(url, seen))))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--viewers", type=int, default=30, help="in each cell")
    parser.add_argument("--configs", type=int, default=2, help="runs of each cell")
    parser.add_argument("--minutes", type=float, default=2.0, help="without losses, and again with them")
    parser.add_argument("--every", type=float, default=12.0, help="seconds between a loss and the next")
    parser.add_argument("--shared", action="store_true", help="one cluster for both")
    parser.add_argument("--directly", action="store_true", help="without nginx")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="two-cells-", dir="/tmp"))
    gone: dict[str, list[str]] = {}
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        for name in NAMES:
            cells.make(folder, name, 1)
        os.environ["RAY_AUTH_TOKEN"] = _variables(folder / cells.ALL)["RAY_AUTH_TOKEN"]
        clusters: list[tuple[LoopbackCluster, dict[str, Machine]]] = []
        for _ in range(1 if given.shared else 2):
            cluster = LoopbackCluster(
                GRADVIZ_DATA=str(folder / "there"), RAY_gcs_rpc_server_reconnect_timeout_s="5",
                RAY_AUTH_TOKEN=os.environ["RAY_AUTH_TOKEN"],
            )  # fmt: skip
            stack.callback(cluster.close)
            clusters.append((cluster, {name: cluster.computer(name) for name in COMPUTERS}))
        both = []
        for place, name in enumerate(NAMES):
            both.append(Cell(folder, name, *clusters[place % len(clusters)]))
            stack.callback(both[-1].server.kill)
        at = "" if given.directly else stack.enter_context(entrance(folder, {cell.name: cell.server for cell in both}))
        urls = [f"{at}/{cell.name}" if at else cell.server.url for cell in both]
        before = classes(folder, urls, given, chaos=False)
        print("\n".join(["without losses", *map(told, NAMES, before)]), flush=True)
        with losses(both[0], given.every) as lost:
            after = classes(folder, urls, given, chaos=True)
        counts = ", ".join(f"{lost.count(loss)} × {loss}" for loss in dict.fromkeys(lost))
        print("\n".join([f"with losses in {NAMES[0]}: {counts}", *map(told, NAMES, after)]), flush=True)
        for place, (name, url) in enumerate(zip(NAMES, urls, strict=True)):
            seen = {*before[place]["runs_seen"], *after[place]["runs_seen"]}
            gone[name] = missing(url, seen)
            ended = asyncio.run(figures(url)).get('gradviz_runs_ended_total{status="interrupted"}', 0.0)
            print(f"{name}: {len(seen)} runs, {len(gone[name])} lost; {ended:.0f} interrupted since its server began")
    return int(any(gone.values()))


if __name__ == "__main__":
    sys.exit(main())
