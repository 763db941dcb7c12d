"""A log that a storm of one error does not fill."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

OFTEN, PERIOD = 5, 60.0  # so many times in so many seconds
_KINDS = 500  # that are remembered
_STORMY = ("asyncio", "streamlit", "uvicorn", "starlette", "websockets")  # loggers whose lines a client can cause


class Bounded(logging.Filter):
    """Lets lines of one kind pass OFTEN times in PERIOD seconds; the next one says how many were left out.

    A kind is a place in the code, and the place of the error that it reports. Attached to loggers, not to handlers.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        super().__init__()
        self._clock, self._lock = clock, threading.Lock()
        # kind -> (when its period began, passed, left out)
        self._seen: OrderedDict[tuple[object, ...], tuple[float, int, int]] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.INFO:
            return True
        now, kind = self._clock(), (record.pathname, record.lineno, *_raised(record))
        with self._lock:
            begun, passed, left_out = self._seen.pop(kind, (now, 0, 0))
            if now - begun >= PERIOD:
                begun, passed = now, 0
            passing = passed < OFTEN
            self._seen[kind] = begun, passed + passing, 0 if passing else left_out + 1
            if len(self._seen) > _KINDS:
                self._seen.popitem(last=False)
        if passing and left_out:
            record.msg, record.args = f"({left_out} like the next one were left out) {record.getMessage()}", None
        return passing

    def attach(self) -> None:
        """To every logger of today that writes what a client can cause."""
        for name in list(logging.root.manager.loggerDict):
            if name.partition(".")[0] in _STORMY:
                logging.getLogger(name).addFilter(self)


def _raised(record: logging.LogRecord) -> tuple[object, ...]:
    """(type, file, line) of the error that a record reports."""
    error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    if error is None:
        return ()
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return (type(error), *((place.tb_frame.f_code.co_filename, place.tb_lineno) if place else ()))
