"""Runs a command of gradviz as far as Linux can play Windows, for the tests: `python tests/windows.py FOLDER open …`.

Modules of gradviz and app.py do not find what Windows has not: signals, modules, functions of os. And no file of FOLDER can be
renamed, replaced or removed while somebody holds it open, as Python opens files there.
"""

from __future__ import annotations

import builtins
import os
import signal
import sys
import types
from pathlib import Path

NO_MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "posix"}
SIGNALS = {"SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM"}
NO_FUNCTIONS = """fork forkpty register_at_fork getuid geteuid getgid getegid getgroups getpgid setpgid getsid setsid killpg
    nice getpriority sched_getaffinity sched_setaffinity sched_yield statvfs fstatvfs wait wait3 wait4 waitid WNOHANG
    WIFEXITED WEXITSTATUS WIFSIGNALED WTERMSIG posix_fallocate posix_fadvise posix_spawn sendfile uname getloadavg mkfifo
    chown fchown lchown
    pidfd_open memfd_create sysconf confstr O_DIRECTORY O_NOFOLLOW O_CLOEXEC O_NONBLOCK O_SYNC openpty pread pwrite preadv
    pwritev fdatasync sync set_blocking""".split()


class As(types.ModuleType):
    """A module as Windows has it."""

    def __init__(self, module: types.ModuleType, hidden: set[str], **other: object):
        super().__init__(module.__name__)
        self.__dict__.update({name: value for name, value in vars(module).items() if name not in hidden} | other)


def hide() -> None:
    """From gradviz and app.py; the libraries are those of this system, and need what they find."""
    no_signals = {name for name in dir(signal) if name.startswith("SIG") and name[3] != "_" and name not in SIGNALS}
    no_signals |= {"setitimer", "pthread_sigmask", "pthread_kill", "sigwait", "pause", "alarm"}
    seen = {"os": As(os, set(NO_FUNCTIONS)), "signal": As(signal, no_signals), "sys": As(sys, set(), platform="win32")}
    find = builtins.__import__

    def imported(name, globals=None, locals=None, fromlist=(), level=0):
        asker = str((globals or {}).get("__name__", ""))
        if asker.partition(".")[0] in ("gradviz", "app"):
            if name.partition(".")[0] in NO_MODULES:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            if name in seen:
                return seen[name]
        return find(name, globals, locals, fromlist, level)

    builtins.__import__ = imported


def hold(folder: Path) -> None:
    """Files of the folder that this process has open."""

    def held(path: object) -> bool:
        path = os.path.abspath(os.fsdecode(path))
        if not path.startswith(f"{folder}{os.sep}"):
            return False
        links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
        return any(os.path.lexists(link) and os.readlink(link) == path for link in links)

    def careful(function):
        def checked(*paths, **named):
            for path in paths:
                if held(path):
                    raise PermissionError(13, "it is used by another process", path)
            return function(*paths, **named)

        return checked

    for name in ("rename", "replace", "remove", "unlink"):
        setattr(os, name, careful(getattr(os, name)))


if __name__ == "__main__":
    place, *words = sys.argv[1:]
    hold(Path(place).resolve())  # before `os` is copied
    hide()
    if words[0].endswith(".py"):
        sys.argv = words
        exec(compile(Path(words[0]).read_text(encoding="utf-8"), words[0], "exec"), {"__name__": "__main__"})
    else:
        from gradviz.__main__ import main

        sys.exit(main(words))
