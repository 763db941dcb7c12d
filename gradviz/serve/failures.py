"""How a training fails that does not end by itself, and what is said of it to a student."""

from __future__ import annotations

from gradviz.lenet.config import ConfigError
from gradviz.lenet.data import DataError
from gradviz.serve import admission as limits
from gradviz.serve.admission import Refused
from gradviz.store.store import StoreError
from gradviz.words import gettext as _

_STATES = {"T": "stopped by a signal", "t": "stopped by a debugger", "D": "waiting for a disk", "S": "asleep", "R": "ready"}


class WorkerDied(RuntimeError):
    """The process of a training ended without a word; the message is one sentence."""


class WorkerSilent(WorkerDied):
    """A process of which an answer was waited for did nothing, for `seconds`."""

    def __init__(self, pid: int, seconds: float, state: str):
        super().__init__(_(
            "The training's process has not answered for {n:.0f} s and used no processor time ({state}); it was ended. "
            "The run can be started afresh."
        ).format(n=seconds, state=_(_STATES.get(state, "gone"))))  # fmt: skip
        self.pid = pid


class WorkerError(RuntimeError):
    """An error inside a child; `kind` is its class, the message its text with the child's traceback, `errno` the system's."""

    def __init__(self, kind: str, message: str, errno: int | None = None):
        super().__init__(message)
        self.kind, self.errno = kind, errno


def in_words(error: Exception) -> str:
    """What went wrong, for a student; the log has the rest."""
    if isinstance(error, (ConfigError, DataError, StoreError, WorkerDied, Refused)):
        return str(error)
    kind = error.kind if isinstance(error, WorkerError) else type(error).__name__
    if sentence := limits.shortage(getattr(error, "errno", None), f"{kind} {error}"):
        return sentence
    return f"The training met an error of its own ({kind}); the server's log has the details."
