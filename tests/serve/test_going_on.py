"""Runs that go on from a kept state of another: in a thread and in a process, with what is said where the state is gone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from puppets import SMALL, ended
from safetensors import SafetensorError

from gradviz.lenet.experiment import trainer_on
from gradviz.record.run import Run, Status
from gradviz.store.states import States
from gradviz.train import state
from gradviz.train.state import weights

pytestmark = [pytest.mark.trains, pytest.mark.timeout(300)]

SHORT = replace(SMALL, steps=12, batch_norm=True)
LONG = replace(SHORT, steps=30)


def assert_same(one: Run, other: Run) -> None:
    assert one.status is other.status is Status.FINISHED and one.test_accuracy == other.test_accuracy
    for name in ("columns", "loss", "accuracy"):
        np.testing.assert_array_equal(getattr(one.history, name), getattr(other.history, name), name)
    assert one.history.tests == other.history.tests and one.history.samples == other.history.samples
    assert (np.diff(one.history.seconds) > 0).all()


def test_a_finished_run_goes_on_and_a_deleted_one_takes_its_states_with_it(manager, states):
    short = ended(manager, manager.start(SHORT))
    longer = ended(manager, manager.start(LONG, origin=short.id))
    assert longer.history.seconds[11] == short.history.seconds[11] and not longer.message
    assert manager.statistics().steps == 30  # trained, of 42 that were recorded
    assert weights(manager.begins.final(longer)).keys() and states.steps(LONG.id)[-1] == 30
    assert states.steps(LONG.id) == [10, 12, 20, 30]  # those of the first are its own too
    manager.delete(LONG.id)
    assert states.steps(LONG.id) == [] and states.steps(SHORT.id) == [10, 12]
    assert_same(longer, ended(manager, manager.start(LONG)))


def test_a_stopped_run_goes_on_under_its_own_name(managed, shelf, states):
    manager = managed(train=trainer_on(shelf, states), states=states)
    run = manager.start(replace(SHORT, steps=2000))
    manager.pause(run.id)
    while run.history.steps < 25:
        manager.step(run.id)
    manager.stop(run.id)
    stopped = ended(manager, run)
    kept = states.steps(run.id)
    again = manager.start(run.recipe, again=True, origin=run.id)
    manager.pause(again.id)
    while again.history.steps < stopped.history.steps + 5:
        manager.step(again.id)
    manager.stop(again.id)
    ended(manager, again)
    assert kept == [stopped.history.steps] and again.history.steps > stopped.history.steps
    np.testing.assert_array_equal(again.history.loss[: kept[0]], stopped.history.loss)
    assert manager.statistics().steps == again.history.steps


def test_where_the_state_is_gone_it_trains_from_the_start_and_says_so(managed, shelf, states):
    manager = managed(train=trainer_on(shelf, states), states=states)
    short = ended(manager, manager.start(SHORT))
    states.path(SHORT.id, 12).write_bytes(b"rubbish")
    middle = ended(manager, manager.start(LONG, origin=short.id))  # from the one before it
    assert not middle.message and manager.statistics().steps == 12 + 20
    manager.delete(LONG.id)
    states.delete(SHORT.id)
    anew = ended(manager, manager.start(LONG, origin=short.id))
    assert "not kept any more" in str(anew.message) and "from the start" in str(anew.message)
    assert_same(anew, middle)
    other = ended(manager, manager.start(replace(SHORT, seed=3), origin=short.id))
    assert "not kept any more" in str(other.message) and other.status is Status.FINISHED


def dots(size: int) -> SimpleNamespace:
    return SimpleNamespace(size=size, write=lambda path: path.write_bytes(b"." * size))


def test_the_oldest_states_give_way_and_a_full_disk_is_said_while_the_run_goes_on(managed, shelf, states, monkeypatch):
    manager = managed(train=trainer_on(shelf, states), states=states)
    first = ended(manager, manager.start(SHORT))
    size = states.path(SHORT.id, 12).stat().st_size
    tight = States(states.folder, 3.5 * size, free=0)
    assert not tight.put("later", 5, dots(size)) and tight.steps(SHORT.id) == [10, 12]
    assert not tight.put("later", 6, dots(size)) and tight.steps(SHORT.id) == [12]
    assert not tight.put("later", 7, dots(size)) and not tight.put("later", 8, dots(size))
    assert tight.steps(SHORT.id) == [] and tight.steps("later") == [6, 7, 8]
    assert "GRADVIZ_MAX_STATES" in str(tight.put("large", 1, dots(4 * size))) and tight.steps("large") == []

    def full(tensors: object, path: Path, header: object) -> None:
        raise SafetensorError(f'Error while serializing: I/O error: No space left on device (os error 28) at path "{path}"')

    monkeypatch.setattr(state, "save_file", full)
    run = ended(manager, manager.start(LONG))
    assert run.status is Status.FINISHED and run.history.steps == 30 and states.steps(LONG.id) == []
    assert str(run.message).startswith("The state of its net was not kept (the disk is full)")
    assert manager.get(first.id).history.steps == 12 and not list(states.folder.glob("*/*.part"))
    assert "the disk is full" in str(States(states.folder, 1e9, free=1e18).put("odd", 1, dots(3)))


def test_what_the_system_says_against_the_file_of_a_state_is_said_as_the_system_does(tmp_path):
    with pytest.raises(FileNotFoundError):
        state.Packed({"order": torch.zeros(3)}, {"gradviz": "{}"}).write(tmp_path / "nowhere" / "1.safetensors")


def test_no_id_leads_out_of_the_folder_of_states(states):
    states.folder.mkdir(parents=True)
    beside = states.folder.parent / "other"
    beside.mkdir()
    (beside / "7.safetensors").touch()
    for id in ("../other", "..", "", ".", str(beside)):
        states.delete(id)
        assert states.steps(id) == []
    assert states.folder.is_dir() and (beside / "7.safetensors").exists()
