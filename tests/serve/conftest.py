"""A manager for the tests of this folder, whose trainings are led by hand."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from puppets import Stage

from gradviz.lenet.config import READERS
from gradviz.lenet.data import Shelf
from gradviz.lenet.experiment import trainer_on
from gradviz.serve.manager import RunManager
from gradviz.serve.processes import Nursery
from gradviz.store.states import States
from gradviz.store.store import RunStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunStore]:
    store = RunStore(tmp_path / "runs", READERS)
    yield store
    store.close()


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "data", download=False)


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture
def managed(store: RunStore, shelf: Shelf) -> Iterator[Callable[..., RunManager]]:
    managers: list[RunManager] = []

    def make(**options: object) -> RunManager:
        # On a busy machine a test's hand may take longer than a slice; the tests of slices bring a clock of their own.
        managers.append(RunManager(store, **{"train": trainer_on(shelf), "slice": math.inf, **options}))
        return managers[-1]

    yield make
    for manager in managers:
        manager.close()


@pytest.fixture
def states(tmp_path: Path) -> States:
    return States(tmp_path / "runs" / "states", 1e9, free=0)


@pytest.fixture(params=["thread", pytest.param("process", marks=pytest.mark.skipif(sys.platform != "linux", reason="Linux"))])
def manager(request, managed: Callable[..., RunManager], shelf: Shelf, states: States) -> Iterator[RunManager]:
    """One whose trainings keep states, in a thread and in a process."""
    nursery = Nursery(shelf, states=states) if request.param == "process" else None
    yield managed(train=nursery or trainer_on(shelf, states), states=states)
    if nursery:
        nursery.close()
