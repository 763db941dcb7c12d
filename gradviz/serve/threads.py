"""Threads that keep no process from ending, and the line that each event of a run has in the log."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable

from gradviz.record.recipe import Recipe
from gradviz.record.run import Run

log = logging.getLogger("gradviz")


def daemon(work: Callable[[], None], name: str) -> threading.Thread:
    """A thread that does not keep the process from ending."""
    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    return thread


def log_event(event: str, run: Run[Recipe], **more: object) -> None:
    """One line of key=value for each event of a run."""
    pairs = {"event": str(event), "run": run.id, **more}
    if run.message:
        pairs["message"] = str(run.message)
    log.info(" ".join(f"{key}={json.dumps(value) if ' ' in str(value) else value}" for key, value in pairs.items()))
