"""A real Ray cluster on this machine's loopback, for tests and benchmarks: a head and computers that train, as docs/cluster.md
starts them. The standard library only."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from running import ROOT, Port

MISSING = "" if find_spec("ray") and sys.platform == "linux" else "Ray is not here: pip install -r requirements-ray.txt (Linux)"
TOKEN = "loopback" * 4


def family(pid: int) -> list[int]:
    """This process and all that descend from it, the eldest first."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            children.setdefault(int(stat.read_text().rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


class Machine:
    """One computer of the cluster: a process and all that it started."""

    def __init__(self, process: subprocess.Popen[str], log: Path):
        self.process, self.log = process, log
        self._family: set[int] = set()

    def family(self) -> list[int]:
        """The eldest first; those too that have lost their parents."""
        now = family(self.process.pid)
        self._family |= {*now}
        return now + [pid for pid in self._family if pid not in now and Path(f"/proc/{pid}").exists()]

    def signal(self, number: int) -> None:
        """To all of them: the power goes (SIGKILL), or the machine stands still (SIGSTOP) and goes on (SIGCONT)."""
        for pid in self.family():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def named(self, part: str) -> list[int]:
        """Its processes with this in their command line."""
        found = []
        for pid in self.family():
            with contextlib.suppress(OSError):
                if part in Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"):
                    found.append(pid)
        return found

    def end(self) -> None:
        self.signal(signal.SIGKILL)
        self.process.wait()


class LoopbackCluster:
    """A head, and computers that `computer` adds. Everything listens on 127.0.0.1."""

    def __init__(self, **environment: str):
        self.folder = Path(tempfile.mkdtemp(prefix="gv-", dir="/tmp"))  # short: the paths of Ray's sockets have little room
        self.environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, **environment}
        self._port = Port()
        self.address = f"127.0.0.1:{self._port.number}"
        self.machines: list[Machine] = []
        self.head = self.begin_head()

    def begin_head(self) -> Machine:
        self.head = self._begin("head", "--port", str(self._port.number))
        return self.head

    def computer(self, name: str = "one", slots: int = 1, root: Path = ROOT, **environment: str) -> Machine:
        """`root`: of the gradviz that it has. Raises RuntimeError with what it says if it does not start."""
        return self._begin("node", self.address, "--slots", str(slots), "--name", name, root=root, **environment)

    def close(self) -> None:
        for machine in reversed(self.machines):
            machine.end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _begin(self, *words: str, root: Path = ROOT, **environment: str) -> Machine:
        for tries_left in (2, 1, 0):
            try:
                return self._begin_once(words, root, environment)
            except RuntimeError as error:  # Ray gives a busy machine half a minute, which cannot be set
                if not tries_left or "timed out during startup" not in str(error):
                    raise
        raise AssertionError

    def _begin_once(self, words: Sequence[str], root: Path, environment: Mapping[str, str]) -> Machine:
        command = [sys.executable, "-m", "gradviz.cluster", *words, "--address", "127.0.0.1", "--folder", str(self.folder)]
        with tempfile.NamedTemporaryFile("w", prefix=words[0], suffix=".log", dir=self.folder, delete=False) as errors:
            process = subprocess.Popen(
                command, cwd=root, env={**self.environment, **environment}, stdout=subprocess.PIPE, stderr=errors, text=True,
                start_new_session=True,
            )  # fmt: skip
        machine = Machine(process, Path(errors.name))
        self.machines.append(machine)
        line = process.stdout.readline()
        if not line.startswith(self.address):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)  # then it has said all
            raise RuntimeError(f"{words[0]} did not start: {line}{machine.log.read_text()[-3000:]}")
        return machine
