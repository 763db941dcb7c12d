"""What of this machine is ours: the processors and the memory that its control groups (containers, systemd) really grant.

A container sees every core and all memory of its host; what it may use stands in files of the kernel, in two versions
(kernel.org: admin-guide/cgroup-v2 and cgroup-v1). `root` is where they are mounted, `proc` the kernel's /proc.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

ROOT, PROC = Path("/sys/fs/cgroup"), Path("/proc")


def cores(root: Path = ROOT, proc: Path = PROC) -> float:
    """Processors that may be busy at once: the affinity of this process or, if that is less, the granted share, such as 1.5."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [float(allowed)]
    for folder in _folders(root, proc, "cpu"):
        words = _text(folder / "cpu.max").split()  # "200000 100000", microseconds of every period, or "max 100000"
        if len(words) != 2:
            words = [_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")]
        if words[0].isdecimal() and words[1].isdecimal() and int(words[1]):  # version 1 writes -1 for no limit
            quotas.append(int(words[0]) / int(words[1]))
    return min(quotas)


def memory_left(root: Path = ROOT, proc: Path = PROC) -> float | None:
    """Bytes that can still be used before the system ends a process; None where it cannot be known (macOS)."""
    left = []
    for line in _text(proc / "meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            left.append(1024.0 * int(line.split()[1]))
    for folder in _folders(root, proc, "memory"):
        for limit, used, spare in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            granted, taken = _text(folder / limit), _text(folder / used)
            if granted.isdecimal() and taken.isdecimal():
                # Pages of files count as used, but the kernel drops them before it ends a process.
                stat = dict(line.split()[:2] for line in _text(folder / "memory.stat").splitlines() if len(line.split()) == 2)
                left.append(float(int(granted) - int(taken) + int(stat.get(spare, 0))))
    return max(0.0, min(left)) if left else None


def memory_kills(root: Path = ROOT, proc: Path = PROC) -> int | None:
    """Processes of our control group that the kernel has ended for want of memory; None where that cannot be read."""
    counts = [count for file in ("memory.events", "memory.oom_control") for folder in _folders(root, proc, "memory")
              if (count := _count(folder / file, "oom_kill")) is not None]  # fmt: skip
    return max(counts) if counts else _count(proc / "vmstat", "oom_kill")


def process_refusals(root: Path = ROOT, proc: Path = PROC) -> int:
    """Times that our control group was refused another process or thread."""
    return max((_count(folder / "pids.events", "max") or 0 for folder in _folders(root, proc, "pids")), default=0)


def activity(pid: int, proc: Path = PROC) -> tuple[str, int] | None:
    """(state as in proc(5): R, S, D, T …, processor time in ticks) of a process; None if there is none."""
    fields = _text(proc / str(pid) / "stat").rpartition(")")[2].split()
    return (fields[0], int(fields[11]) + int(fields[12])) if len(fields) > 12 else None


def used_by_others(proc: Path = PROC) -> tuple[float, float] | None:
    """(seconds that all processes but this one have used of the processors it may run on, since the machine began; how many).

    None where that cannot be read (macOS, Windows).
    """
    if not hasattr(os, "sched_getaffinity"):
        return None
    mine = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    lines = [words for line in _text(proc / "stat").splitlines() if (words := line.split()) and words[0] in mine]
    if not lines or not all(len(words) >= 9 and all(map(str.isdecimal, words[1:9])) for words in lines):
        return None
    # user, nice, system, idle, waiting for disks, interrupts, soft interrupts, stolen by another guest of the host
    busy = sum(sum(map(int, words[1:9])) - int(words[4]) - int(words[5]) for words in lines)
    return busy / os.sysconf("SC_CLK_TCK") - time.process_time(), float(len(lines))


def _count(path: Path, name: str) -> int | None:
    found = dict(line.split() for line in _text(path).splitlines() if len(line.split()) == 2).get(name, "")
    return int(found) if found.isdecimal() else None


def open_files(wanted: int = 65_536) -> int | None:
    """Raises what this process may hold open (files, connections) towards `wanted` and returns it; None where nothing limits it.

    The soft limit is 256 on macOS and 1024 on Linux, the hard one mostly far above.
    """
    try:
        import resource  # Windows has none
    except ImportError:
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for most in (wanted, 10_240, 4096):  # macOS takes no more than 10,240, whatever its hard limit says
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        if soft != resource.RLIM_INFINITY and soft < most:
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
                break
            except (OSError, ValueError):
                continue
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def has_address(text: str) -> bool:
    """Whether this IP address is one of this machine's own: a socket can be bound to no other."""
    try:
        family = socket.AF_INET if ipaddress.ip_address(text).version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_DGRAM) as here:
            here.bind((text, 0))
    except (OSError, ValueError):
        return False
    return True


def _folders(root: Path, proc: Path, controller: str) -> Iterator[Path]:
    """The control groups we are in, the mounted root included: each of them limits us."""
    yield from (root, root / controller)
    for line in _text(proc / "self" / "cgroup").splitlines():
        _number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers or controller in controllers.split(","):
            base = root / controller if controllers else root
            parts = [part for part in path.split("/") if part not in ("", "..")]
            yield from (base.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeError):
        return ""


def steady() -> float:
    """Seconds of a clock that nobody sets, and that goes on while the machine sleeps, where there is one."""
    clock = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))
    return time.monotonic() if clock is None else time.clock_gettime(clock)
