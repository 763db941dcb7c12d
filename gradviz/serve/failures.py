"""How a training fails that does not end by itself, and what is said of it to a student."""

from __future__ import annotations

from gradviz.messages import Message, Told, say
from gradviz.serve.admission import shortage
from gradviz.words import N_

_STATES = {
    "T": N_("stopped by a signal"), "t": N_("stopped by a debugger"), "D": N_("waiting for a disk"), "S": N_("asleep"),
    "R": N_("ready"),
}  # fmt: skip


class WorkerDied(Told, RuntimeError):
    """The process of a training ended without a word."""


class WorkerSilent(WorkerDied):
    """A process of which an answer was waited for did nothing, for `seconds`."""

    def __init__(self, pid: int, seconds: float, state: str):
        super().__init__(say("process-silent", seconds=seconds, state=_STATES.get(state, N_("gone"))))
        self.pid = pid


class ComputerLost(WorkerDied):
    """The machine of a training is gone, or nobody there answers: no fault of the run."""


class WorkerError(RuntimeError):
    """An error inside a child; `kind` is its class, its text has the child's traceback, `errno` is the system's."""

    def __init__(self, kind: str, words: str, errno: int | None = None):
        super().__init__(words)
        self.kind, self.errno = kind, errno


def in_words(error: Exception) -> Message:
    """What went wrong, for a student; the log has the rest."""
    if isinstance(error, Told):
        return error.message
    kind = error.kind if isinstance(error, WorkerError) else type(error).__name__
    return shortage(getattr(error, "errno", None), f"{kind} {error}") or say("own-error", kind=kind)
