"""The server: `streamlit run app.py`. Pages come from gradviz/ui/shell.py, live data from the routes of gradviz.live."""

import atexit
import os
import sys
import threading
from contextlib import asynccontextmanager

import streamlit as st

from gradviz.diagnosis import diagnose
from gradviz.live.routes import build_routes
from gradviz.ui.server import close_server, server


def _describe(run):
    diagnosis = diagnose(run)
    return str(diagnosis.verdict), diagnosis.sentence


@asynccontextmanager
async def _lifespan(_):
    server()  # before the first page: two pages that open at once must not build two
    threading.Thread(target=_warm_up, name="warm-up", daemon=True).start()
    yield
    close_server()
    atexit.register(_leave)


def _leave() -> None:
    """Ends the process now: everything is kept, and Python would spend seconds on taking torch apart object by object."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(130)  # as the shell reports Ctrl-C


def _warm_up() -> None:
    """Reads the default data set, so that the first reader does not wait for it."""
    shelf = server().shelf
    if shelf.wait("mnist").status == "ready":
        try:
            shelf.load("mnist")
        except RuntimeError:
            pass  # the page says so, from the shelf's state


app = st.App(
    "gradviz/ui/shell.py",
    routes=build_routes(
        get_run=lambda run_id: server().manager.get(run_id),
        get_preview=lambda preview_id: server().manager.get_preview(preview_id),
        describe=_describe,
    ),
    lifespan=_lifespan,
)
