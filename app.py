"""The server: `streamlit run app.py`. Pages come from gradviz/ui/shell.py, live data from the routes of gradviz.web."""

import atexit
import gc
import logging
import os
import sys
import threading
from contextlib import asynccontextmanager
from functools import cache, partial
from pathlib import Path

import streamlit as st

from gradviz import machine
from gradviz.serve.cradle import start_early
from gradviz.web.frontend import Files, Frontend
from gradviz.web.scripts import head, link_header
from gradviz.web.scripts import warm_up as pack_scripts

_files = Files(Path(st.__file__).parent / "static")

# While this process imports PyTorch below, for seconds, other cores do what the first visitor would wait for.
_started = start_early()  # on one of them
if _has_third := machine.cores() >= 3:
    threading.Thread(target=lambda: (_files.warm_up(), pack_scripts()), name="pack", daemon=True).start()
gc.disable()  # what is imported stays: to look through it again and again while it grows is a sixth of the start

from starlette.middleware import Middleware
from starlette.routing import Route

from gradviz.lenet.config import RunConfig
from gradviz.record.sender import ROUTE
from gradviz.serve.admission import disk_bytes
from gradviz.serve.archive import archive
from gradviz.serve.people import COOKIE
from gradviz.settings import SettingsError
from gradviz.share.routes import shared_pages
from gradviz.store.store import StoreError
from gradviz.ui.opening import PAGE_FILES, SHELL
from gradviz.ui.server import build, close_server, notice, server, weights
from gradviz.ui.warm import warm_up
from gradviz.web.badge import Badge
from gradviz.web.cards import Board, classroom_routes
from gradviz.web.connections import Connections
from gradviz.web.download import download_routes
from gradviz.web.given import theory_of, words_of
from gradviz.web.guard import Guard
from gradviz.web.ingest import ingest_routes
from gradviz.web.language import Language
from gradviz.web.logs import Bounded
from gradviz.web.metrics import Metrics
from gradviz.web.routes import Described, build_routes
from gradviz.web.sockets import Sockets
from gradviz.words import gettext as _

MOST_CONNECTIONS = 8000
PAGES = ["" if page.stem == "lab" else page.stem for page in PAGE_FILES]  # in an address
gc.freeze()
gc.enable()
if _started:
    server.build = partial(build, started=_started)


_describe = Described(words_of)


def _problem() -> str:
    """One sentence while runs are not kept, else empty."""
    try:
        server().store.check()
    except StoreError as error:
        return str(error.message.without_places())
    return str(server().manager.warning.without_places())


def _look(run_id):
    manager = server().manager
    manager.watched(run_id)
    place = manager.position(run_id)
    return place, None if place is None else manager.expected_wait(run_id)  # asked at every poll, and few runs wait


def _archive():
    manager = server().manager
    return archive(manager.each(), server().classroom.names)


@cache
def _board() -> Board:
    return Board(server().manager, server().classroom, Described(words_of, again=0))  # a card keeps what it was told


@cache
def _metrics() -> Metrics:
    cluster = server().cluster
    folder = server().settings.store
    return Metrics(
        server().manager.statistics, computers=cluster.by_state if cluster else None, pages=lambda: _sockets.open,
        disk=lambda: disk_bytes(folder), named=cluster.by_name if cluster else None,
    )  # fmt: skip


def _names() -> set[str]:
    """What the server may be called, beside its own names: the setting's, and those that Streamlit was told."""
    told = (st.get_option("browser.serverAddress"), st.get_option("server.address"))
    return {*server().settings.hosts, *(name.lower() for name in told if name)}


def _person(cookie: str | None) -> str:
    return server().people.person(cookie)


def _failed(_error: Exception) -> bool:
    """Says on the page, instead of Streamlit's words for whoever wrote it, that it failed; the log has the error."""
    st.error(_("This page met an error, which the server's log has. Reload it; runs go on meanwhile."))
    return True


@asynccontextmanager
async def _lifespan(_app):
    _log_to_stderr()
    Bounded().attach()
    files = machine.open_files()
    # A training thread asks for Python's lock some ten times per layer; by default whoever has it may keep it for 5 ms.
    sys.setswitchinterval(0.0005)
    _begin()  # before the first page: two pages that open at once must not build two
    threading.Thread(target=_warm_up, name="warm-up", daemon=True).start()
    # The other half of the files is for the store, the data and the trainings.
    async with Connections(MOST_CONNECTIONS if files is None else min(MOST_CONNECTIONS, files // 2)).watch():
        yield
    close_server()
    atexit.register(_leave)


def _begin() -> None:
    """Ends the process with one sentence if a setting or the folder of runs cannot be used."""
    try:
        server()
    except (SettingsError, StoreError) as error:
        if _started:
            _started.process.kill()
        print(_("gradviz cannot start: {why}").format(why=error), file=sys.stderr, flush=True)
        os._exit(2)


def _log_to_stderr() -> None:
    """One line for each event of a run; Streamlit leaves any logger but its own at warnings."""
    log = logging.getLogger("gradviz")
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("time=%(asctime)s level=%(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S%z"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False


def _leave() -> None:
    """Ends the process now: everything is kept, and Python would spend seconds on taking torch apart object by object."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(130)  # as the shell reports Ctrl-C


def _warm_up() -> None:
    """Reads the default data set, packs the scripts and prepares the pages, so that the first reader does not wait for that."""
    # In the order in which a page asks.
    if not _has_third:
        _files.warm_up()
    warm_up()
    if not _has_third:
        pack_scripts()
    shelf, nursery = server().shelf, server().nursery
    if shelf.wait("mnist").status == "ready":
        try:
            (nursery or shelf).load("mnist")  # where the trainings are
        except RuntimeError:
            pass  # the page says so, from the shelf's state
    if nursery is None:
        # PyTorch loads some hundred modules with the first net and optimiser that are made, for a second.
        server().manager.preview(RunConfig(dataset=shelf.effective("mnist")[0], blocks=1))


_routes = [*build_routes(
    get_run=lambda run_id: server().manager.get(run_id),
    get_preview=lambda preview_id: server().manager.get_preview(preview_id),
    describe=_describe,
    get_problem=_problem,
    get_metrics=lambda: _metrics()(),
    look=_look,
    get_at_hand=lambda run_id: server().manager.at_hand(run_id),
    get_theory=theory_of,
    get_notice=notice,
), *classroom_routes(_board, notice), *download_routes(
    get_run=lambda run_id: server().manager.get(run_id),
    get_desk=lambda: server().exports,
    get_archive=_archive,
    get_key=lambda: server().classroom.key,
    get_person=lambda request: _person(request.cookies.get(COOKIE)),
    pages={
        **shared_pages(lambda run_id: server().manager.get(run_id)),
        "/api/runs/{id}/weights.safetensors": lambda request: weights(request.path_params["id"]),
    },
), *ingest_routes(lambda: server().inbox, lambda: server().settings.ingest)]
_sockets = Sockets()
# Streamlit lays the folder of SHELL before sys.path for each run of a script, and takes it away again: what another thread is
# importing just then passes over one entry, and is "not found". It lets be what the path has already.
if (_folder := str(SHELL.resolve().parent)) not in sys.path:
    sys.path.append(_folder)
# Streamlit puts its own routes under the base path, but not ours.
_base = "".join(f"/{part}" for part in st.get_option("server.baseUrlPath").split("/") if part)
app = st.App(
    SHELL,
    routes=[Route(_base + route.path, route.endpoint, methods=route.methods) for route in _routes],
    middleware=[
        Middleware(Language),
        Middleware(Guard, get_names=_names, base=_base, get_person=_person, uploads=f"/{ROUTE}/", sockets=_sockets),
        Middleware(Badge, get_people=lambda: server().people, base=_base),
        Middleware(Frontend, files=_files, base=_base, get_link=link_header, pages=PAGES, head=head()),
    ],
    lifespan=_lifespan,
    on_script_error=_failed,
)
