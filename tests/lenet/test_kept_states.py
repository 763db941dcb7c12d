"""A training that goes on from a kept state has the numbers of one that was never interrupted, to the last bit."""

from __future__ import annotations

import json
import math
import random
import zlib
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from gradviz.lenet.branch import same_until, taken_over
from gradviz.lenet.config import INITS, OPTIMIZERS, OTHER_NORMS, TREATMENTS, RunConfig
from gradviz.lenet.data import Shelf
from gradviz.lenet.experiment import trainer_on
from gradviz.lenet.keeping import kept_steps
from gradviz.record.history import max_columns
from gradviz.record.run import Run, Status
from gradviz.store.states import States
from gradviz.train.state import StateGone, packed, put, read, weights
from gradviz.train.training import never

SMALL = RunConfig(blocks=1, dataset="digits", steps=10, batch_size=16, device="cpu")
SHELF = Shelf(Path("none"), download=False)


def generated(count: int) -> list[RunConfig]:
    """So many settings with every optimiser, norm, treatment and initialisation among them, mixed by chance."""
    chance = random.Random(19)
    choices = {
        "optimizer": OPTIMIZERS, "norm": [*OTHER_NORMS, "batch"], "treatment": TREATMENTS, "init": [*INITS, 0.3],
        "activation": ["relu", "sigmoid", "tanh"], "branch_scale": ["none", "one", "skip-init", "fixed"],
    }  # fmt: skip
    rows = {name: cycle(chance.sample([*words], len(words))) for name, words in choices.items()}
    return [setting({name: next(words) for name, words in rows.items()}) for _ in range(count)]


def setting(row: dict[str, object]) -> RunConfig:
    norm, init, scale = row.pop("norm"), row.pop("init"), row.pop("branch_scale")
    row |= {"batch_norm": True} if norm == "batch" else {"other_norm": norm}
    row |= {"init": init} if isinstance(init, str) else {"init_range": init}
    row |= {} if scale == "none" else {"shortcut": True, "branch_scale": scale}
    return replace(SMALL, lr=0.001 if row["optimizer"] == "adam" else 0.02, threshold=1e-3, **row)


@pytest.fixture
def states(tmp_path: Path) -> States:
    return States(tmp_path / "states", 1e9, free=0)


def trained(config: RunConfig, states: States, begin: Path | None = None, run: Run | None = None) -> tuple[Run, object]:
    """On one thread, all of it or, with what an earlier run of the same settings has recorded, the rest."""
    run, threads = run or Run.begun(config), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        trainer = trainer_on(SHELF, states)(config, never, begin)
        for record in trainer:
            run.take(record)
    finally:
        torch.set_num_threads(threads)
    run.end(trainer.outcome)
    return run, trainer


def gone_on(short: Run, config: RunConfig, states: States, step: int) -> tuple[Run, object]:
    run = Run.begun(config)
    run.history = taken_over(short.history, config, step)
    return trained(config, states, states.path(short.id, step), run)


def assert_same(one: Run, other: Run) -> None:
    for name in ("columns", "loss", "accuracy"):
        np.testing.assert_array_equal(getattr(one.history, name), getattr(other.history, name), name)
    assert one.history.tests == other.history.tests and one.history.samples == other.history.samples
    assert (one.status, one.test_accuracy, one.deletion, str(one.message)) == (
        other.status, other.test_accuracy, other.deletion, str(other.message))  # fmt: skip


def test_the_generated_settings_have_every_optimiser_norm_treatment_and_initialisation():
    configs = generated(12)
    for name, words in (("optimizer", OPTIMIZERS), ("other_norm", OTHER_NORMS), ("treatment", TREATMENTS), ("init", INITS)):
        assert {getattr(config, name) for config in configs} == set(words)
    assert any(config.batch_norm for config in configs) and any(config.init_range for config in configs)
    assert len({config.id for config in configs}) == 12


@pytest.mark.trains
@pytest.mark.parametrize("config", generated(12), ids=lambda config: config.title)
def test_ten_steps_and_ten_more_are_twenty_to_the_last_bit(config, states):
    short, _trainer = trained(config, states)
    longer = replace(config, steps=20)
    assert same_until(config, longer) == 10 == states.steps(config.id)[-1]
    both, last = gone_on(short, longer, states, 10)
    whole, other = trained(longer, states)
    assert_same(both, whole)
    for name, value in last.model.state_dict().items():
        assert torch.equal(value.nan_to_num(7), other.model.state_dict()[name].nan_to_num(7)), name
    kept = weights(states.path(longer.id, 20))
    assert kept.keys() == other.model.state_dict().keys()


@pytest.mark.trains
def test_a_training_that_was_stopped_in_the_middle_of_a_step_goes_on_as_if_it_had_not_been(states):
    config = replace(SMALL, batch_norm=True, treatment="feedback", threshold=1e-3, steps=30)
    asked = 0

    def interrupt() -> bool:  # once per layer and pass: 14 questions in a step of 7 layers, and one behind each
        nonlocal asked
        asked += 1
        return asked > 7 * 15 + 9

    trainer = trainer_on(SHELF, states)(config, interrupt)
    run = Run.begun(config)
    for record in trainer:
        run.take(record)
    run.end(trainer.outcome)
    stopped = run.history.steps
    assert run.status is Status.STOPPED and 0 < stopped < 30 and states.steps(config.id) == [stopped]
    both, _trainer = gone_on(run, config, states, stopped)
    whole, _trainer = trained(config, States(states.folder / "others", 1e9, free=0))
    assert_same(both, whole)


@pytest.mark.trains
def test_a_run_begins_in_the_middle_of_another_too_and_goes_over_the_end_of_an_epoch(states):
    config = replace(SMALL, steps=40, batch_size=50)  # 28 batches in an epoch
    whole, _trainer = trained(config, states)
    assert states.steps(config.id) == [10, 20, 30, 40]
    for step in (20, 30):
        part, _trainer = gone_on(whole, config, states, step)
        assert_same(part, whole)


@pytest.mark.trains
def test_weights_that_are_no_numbers_are_kept_and_put_back_as_they_are(states):
    _run, trainer = trained(SMALL, states)
    with torch.no_grad():
        for value, parameter in zip((math.nan, math.inf, -math.inf, -0.0), trainer.model.parameters(), strict=False):
            parameter[(0,) * parameter.ndim] = value
    assert not states.put("odd", 10, packed(trainer.task, {"step": 10}))
    _run, fresh = trained(replace(SMALL, steps=1), states)
    put(fresh.task, read(states.path("odd", 10)))
    for one, other in zip(trainer.model.parameters(), fresh.model.parameters(), strict=True):
        assert one.detach().contiguous().numpy().tobytes() == other.detach().contiguous().numpy().tobytes()
    assert trainer.model.conv1.weight.isnan().sum() == 1


@pytest.mark.trains
def test_what_goes_into_a_file_is_the_memory_of_the_training_and_no_copy_of_it(states):
    _run, trainer = trained(SMALL, states)
    found, adam = packed(trainer.task, {"step": 10}).tensors, trainer.task.optimizer.state
    for name, weight in trainer.model.named_parameters():
        assert found[f"model/{name}"].data_ptr() == weight.data_ptr(), name
        assert found[f"optimizer/exp_avg/{name}"].data_ptr() == adam[weight]["exp_avg"].data_ptr(), name


@pytest.mark.trains
def test_a_file_of_before_the_channels_lay_last_in_it_gives_the_same_weights(states, tmp_path):
    _run, trainer = trained(SMALL, states)
    about = {"step": 10, "place": 0}
    tensors = {f"model/{name}": value.detach().contiguous() for name, value in trainer.model.named_parameters()}
    crc = 0
    for name in sorted(tensors):
        crc = zlib.crc32(tensors[name].numpy().tobytes(), crc)
    save_file(tensors, tmp_path / "old", {"gradviz": json.dumps({**about, "crc": crc})})
    packed(trainer.task, about).write(tmp_path / "new")
    old, new = weights(tmp_path / "old"), weights(tmp_path / "new")
    for name, value in trainer.model.named_parameters():
        assert torch.equal(old[name], value) and torch.equal(new[name], value), name
    assert any(value.dim() == 4 for value in old.values())


@pytest.mark.trains
def test_a_kept_state_that_is_gone_damaged_or_of_another_net_or_machine_is_said_to_be_gone(states):
    trained(SMALL, states)
    path = states.path(SMALL.id, 10)
    begin = trainer_on(SHELF, states)
    for other in (replace(SMALL, blocks=2), replace(SMALL, optimizer="sgd", batch_norm=True)):
        with pytest.raises(StateGone, match="not kept any more"):
            begin(other, never, path)
    whole = path.read_bytes()
    for damaged in (whole[:-9], whole[:9], b"", whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:], whole.replace(b'AVX', b'SSE')):
        path.write_bytes(damaged)
        if damaged != whole:
            with pytest.raises(StateGone, match="not kept any more"):
                begin(replace(SMALL, steps=20), never, path)
    path.unlink()
    with pytest.raises(StateGone):
        begin(replace(SMALL, steps=20), never, path)


@pytest.mark.parametrize(("steps", "layers"), [(1, 5), (10, 29), (300, 29), (3000, 29), (100_000, 29), (100_000, 2005)])
def test_kept_steps_are_few_and_stand_where_a_column_of_the_records_ends(steps, layers):
    kept, stride = kept_steps(steps, layers), 1
    while stride * max_columns(layers) < steps:
        stride *= 2
    assert len(kept) <= 8 and all(0 < step < steps and step % stride == 0 for step in kept)
    assert len({step - before for before, step in zip([0, *sorted(kept)], sorted(kept), strict=False)}) <= 1
    assert bool(kept) == (steps > 10) and not kept_steps(steps, layers, most=0)


def test_two_settings_are_the_same_until_the_shorter_ends_or_not_at_all():
    assert same_until(replace(SMALL, steps=300), SMALL) == 10
    assert same_until(SMALL, replace(SMALL, seed=1, steps=300)) == 0
    turned = SMALL.turned(4, lr=0.01).turned(7, optimizer="sgd")
    assert same_until(SMALL, turned) == 4 and same_until(turned, turned.turned(7, lr=0.1)) == 7
    assert same_until(turned, replace(turned, steps=300)) == 10 and same_until(turned, SMALL.turned(4, lr=0.02)) == 4


@pytest.mark.trains
@pytest.mark.parametrize(
    "knobs", [dict(optimizer="sgd", lr=0.02), dict(threshold=1e-3), dict(treatment="none", lr=1e-4)], ids=str
)
def test_what_is_turned_at_or_after_a_kept_step_is_turned_in_the_branch_and_what_was_before_stays(knobs, states):
    config = replace(SMALL, steps=30, treatment="feedback", threshold=1e-2, batch_norm=True).turned(5, optimizer="momentum")
    parent, _trainer = trained(config, states)
    for step in (10, 20):
        branch = config.turned(step, **knobs)
        assert same_until(config, branch) == step
        part, _trainer = gone_on(parent, branch, states, step)
        whole, _trainer = trained(branch, States(states.folder / "others", 1e9, free=0))
        assert_same(part, whole)
        assert not np.array_equal(whole.history.loss, parent.history.loss)


@pytest.mark.trains
def test_a_state_is_not_kept_in_the_middle_of_a_step_that_began_with_another_optimiser(states):
    config = replace(SMALL, steps=30).turned(7, optimizer="sgd", lr=0.01)
    trainers = []
    questions = 0

    def interrupt() -> bool:
        nonlocal questions
        questions += any(isinstance(trainer.task.optimizer, torch.optim.SGD) for trainer in trainers)
        return questions > 3

    trainers.append(trainer := trainer_on(SHELF, states)(config, interrupt))
    assert len(list(trainer)) == 7 and trainer.outcome.status is Status.STOPPED and states.steps(config.id) == []
