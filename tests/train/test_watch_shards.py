"""A net whose weights lie on two processes (FSDP2): the numbers are those of the whole batch, and nobody waits for the absent."""

import json
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sharded import SCENARIOS, STEPS, net, train
from timing import until
from torch.distributed.fsdp import fully_shard
from watched_nets import assert_near, features

import gradviz
from gradviz.record.spool import read_spool
from gradviz.record.watched import MEASURED
from gradviz.train.pace import Pace
from gradviz.train.shards import Shards

OF_WEIGHTS = ("weight_grad_rms", "treated_grad_rms", "weight_rms", "update_ratio", "zero_share", "still_share")
pytestmark = pytest.mark.timeout(300)  # the first test waits for the two processes


def played(folder: Path) -> list[str]:
    """What each of two processes has printed. Fails, with all that both have said, as soon as one does or when one hangs."""
    root = Path(gradviz.__file__).parents[1]
    environment = {"PYTHONPATH": f"{root}:{root / 'tests'}", "PATH": "", "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    printed, complained = ([folder / f"{rank}.{kind}" for rank in (0, 1)] for kind in ("out", "err"))
    children = []
    for rank in (0, 1):
        with printed[rank].open("wb") as out, complained[rank].open("wb") as err:
            command = [sys.executable, "-m", "sharded", str(rank), str(folder)]
            children.append(subprocess.Popen(command, env=environment, stdout=out, stderr=err))
    try:
        with suppress(AssertionError):
            until(lambda: any(child.poll() for child in children) or all(child.poll() == 0 for child in children), 240)
        for child in children if any(child.poll() != 0 for child in children) else ():
            with suppress(subprocess.TimeoutExpired):
                child.wait(5)  # the other one may have its own to say
            child.send_signal(signal.SIGABRT)  # it says where it stands
        codes = [child.wait(30) for child in children]
    finally:
        for child in children:
            child.kill()
            child.wait()
    said = [file.read_text(errors="replace")[-6000:] for file in (*printed, *complained)]
    assert codes == [0, 0], "\n\n".join([f"exit codes {codes}", *said])
    return [file.read_text() for file in printed]


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """(folder of the runs, what each of two processes has said of each scenario)"""
    folder = tmp_path_factory.mktemp("together")
    return folder, [dict(map(json.loads, out.splitlines())) for out in played(folder)]


def the_run(together, name):
    (path,) = (together[0] / name / "watched").iterdir()
    return read_spool(path)


def numbers(run, quantity, step):
    values = run.history.quantity(quantity)[step].tolist()
    return {layer: value for layer, value in zip(run.recipe.layout.names, values, strict=True) if not value < 0}


@pytest.mark.parametrize("name", SCENARIOS)
def test_losses_and_parts_of_weights_are_those_without_a_watch_to_the_last_bit(name, together):
    assert [said[name] for said in together[1]] == [True, True]


@pytest.mark.parametrize("name", ["whole", "blocks", "clipped", "accumulated", "late sync", "to zero", "used before"])
def test_the_numbers_of_every_step_are_those_of_the_whole_batch_in_one_process(name, together, tmp_path):
    run = the_run(together, name)
    train(net(), features(8), tmp_path, clip=name == "clipped")
    (path,) = (tmp_path / "watched").iterdir()
    expected = read_spool(path)
    assert run.history.steps == expected.history.steps == STEPS and run.recipe.layout.names == ("first", "narrow", "last")
    assert run.recipe.entries == (30, 5, 3) and not run.missing
    for step in range(STEPS):
        for quantity in OF_WEIGHTS:
            found = numbers(run, quantity, step)
            assert found.keys() == {"first", "narrow", "last"}
            assert_near(found, numbers(expected, quantity, step), 1e-5)
    raw, treated = (numbers(run, quantity, 0)["first"] for quantity in ("weight_grad_rms", "treated_grad_rms"))
    assert treated < 0.9 * raw if name == "clipped" else treated == raw


@pytest.mark.parametrize("name, batch, passes", [("blocks", 4, 1), ("accumulated", 4, 2), ("late sync", 4, 2)])
def test_signal_and_activation_are_those_of_the_first_processs_part(name, batch, passes, together, tmp_path):
    run = the_run(together, name)
    x, y = features(8)
    train(net(), (x[:batch], y[:batch]), tmp_path, micro=passes)
    (path,) = (tmp_path / "watched").iterdir()
    expected = read_spool(path)
    assert_near(numbers(run, "activation_rms", 0), numbers(expected, "activation_rms", 0), 1e-5)
    signals = {layer: value / 2 for layer, value in numbers(expected, "signal_rms", 0).items()}
    assert_near(numbers(run, "signal_rms", 0), signals, 1e-5)


def test_the_first_process_says_at_which_steps_all_of_them_look(together):
    run = the_run(together, "every second")
    steps = [bool(numbers(run, "activation_rms", step)) for step in range(STEPS)]
    assert steps == [True, False, True, False] and not run.missing
    for quantity in OF_WEIGHTS:
        assert [len(numbers(run, quantity, step)) for step in range(STEPS)] == [3, 0, 3, 0]


def test_a_pace_that_is_found_out_never_mixes_parts_of_different_steps(together, tmp_path):
    run, exact = the_run(together, "auto"), the_run(together, "blocks")
    assert run.history.steps == STEPS and len(numbers(run, "weight_grad_rms", 0)) == 3
    for step in range(STEPS):
        for quantity in OF_WEIGHTS:
            found, whole = numbers(run, quantity, step), numbers(exact, quantity, step)
            assert_near(found, {layer: whole[layer] for layer in found}, 1e-6)


@pytest.mark.parametrize("name, whole", [("first alone", 0), ("second closes", 2), ("second breaks", 2)])
def test_where_a_process_does_not_look_its_weights_are_missing_and_say_so(name, whole, together):
    run = the_run(together, name)
    assert run.history.steps == STEPS
    for step in range(STEPS):
        for quantity in ("weight_grad_rms", "treated_grad_rms", "weight_rms", "update_ratio", "zero_share"):
            there = numbers(run, quantity, step)
            assert there.keys() == ({"first", "narrow", "last"} if step < whole else {"narrow"}), (quantity, step)
        assert len(numbers(run, "activation_rms", step)) == len(numbers(run, "signal_rms", step)) == 3
    for layer in ("first", "last"):
        assert set(run.missing[layer].values()) == {"watch-apart"} and set(run.missing[layer]) == set(OF_WEIGHTS)


def test_the_first_process_may_be_gone_or_never_have_watched_and_nobody_waits(together):
    assert the_run(together, "first closes").history.steps == 2
    assert not (together[0] / "second alone").exists()
    assert set(MEASURED) >= set(OF_WEIGHTS)


@pytest.mark.parametrize(("entries", "compared"), [(4_266_089, 2_133_044), (4_323_915, 2_161_957), (8_000_000, 4_000_000)])
def test_a_weight_of_which_some_entries_were_compared_is_whole_however_its_size_is_divided(entries, compared):
    group = SimpleNamespace(_get_sequence_number_for_group=lambda: 0)
    update = MEASURED.index("update_ratio")
    sums, wholes = np.ones((len(MEASURED), 1)), np.full((len(MEASURED), 1), float(entries))
    wholes[update] = compared
    missing = Shards(0, [0], np.array([float(entries)]), [[0]], group, 1).join(0, Pace(1), sums, wholes)
    assert missing == set() and wholes[update, 0] == entries and sums[update, 0] == pytest.approx(entries / compared)


def test_processes_that_met_in_a_file_lay_nothing_into_it(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/met", rank=0, world_size=1)
    try:
        model = torch.nn.Linear(4, 4)
        fully_shard(model, mesh=torch.distributed.init_device_mesh("cpu", (1,)))
        shards = Shards.of(model, Pace(1))
        assert shards is not None and shards.over and shards.place == ""
    finally:
        torch.distributed.destroy_process_group()
