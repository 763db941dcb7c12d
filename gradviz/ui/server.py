"""The objects that belong to the process, not to a browser: settings, data, store and manager."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from gradviz.classroom import Classroom
from gradviz.data import Shelf
from gradviz.desk import Desk
from gradviz.manager import RunManager
from gradviz.settings import Settings
from gradviz.store import RunStore
from gradviz.sweep import SweepRunner
from gradviz.workers import Nursery


@dataclass(frozen=True)
class Server:
    settings: Settings
    shelf: Shelf
    store: RunStore
    manager: RunManager
    sweeps: SweepRunner
    classroom: Classroom
    nursery: Nursery | None  # None: trainings are threads of this process
    desk: Desk  # for pictures of many runs
    exports: Desk  # for files to take home; a slow line keeps its place for long


@st.cache_resource(show_spinner=False)
def server() -> Server:
    """One for all sessions and for the routes. Raises SettingsError for a GRADVIZ_* variable that cannot be used."""
    settings = Settings.from_environment()
    shelf = Shelf(settings.data, settings.download)
    store = RunStore(settings.store)
    nursery = Nursery(shelf, settings.threads) if settings.train_in == "process" else None
    manager = RunManager(store, shelf, settings.workers, settings.threads, nursery, settings.limits)
    # One worker stays free of sweeps, for whoever presses Start.
    sweeps = SweepRunner(manager, settings.store / "sweeps", at_once=max(1, settings.workers - 1))
    classroom = Classroom(settings.store / "classroom.json", settings.pin)
    return Server(settings, shelf, store, manager, sweeps, classroom, nursery, Desk(2), Desk(6, share=3))


def close_server() -> None:
    server().sweeps.close()
    server().manager.close(timeout=1.5)
    if server().nursery:
        server().nursery.close()
    server().store.close()
