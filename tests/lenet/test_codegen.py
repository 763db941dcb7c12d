"""The program handed to the student is the run: executed on its own, it prints the numbers of our Trainer."""

import gzip
import os
import random
import re
import subprocess
import sys
from dataclasses import replace

import idx
import numpy as np
import pytest
import torch

from gradviz.lenet.codegen import code
from gradviz.lenet.config import FIELDS, OPTIMIZERS, PRESETS, TREATMENTS, RunConfig
from gradviz.lenet.data import Shelf
from gradviz.lenet.experiment import training
from gradviz.record.arithmetic import arithmetic_text
from gradviz.record.run import Status
from gradviz.train.cores import Cores
from gradviz.train.device import here

# Marked is what compares numbers, in this process and in one of its own. Where a program looks for its data and how it refuses
# is the same in any arithmetic.
BASE = dict(dataset="digits", blocks=2, batch_size=16, steps=5, device="cpu")
# Together they turn every toggle on and off.
CASES = {
    "sigmoid": {},
    "relu, batch norm": dict(activation="relu", batch_norm=True, seed=3),
    "sigmoid, shortcut, sgd": dict(shortcut=True, optimizer="sgd", lr=0.1),
    "batch norm and shortcut, momentum": dict(batch_norm=True, shortcut=True, optimizer="momentum", lr=0.01),
    "init range, clip by norm": dict(activation="relu", init_range=0.3, treatment="clip-norm", threshold=0.5, optimizer="sgd"),
    "clip by value": dict(activation="relu", treatment="clip-value", threshold=1e-3, optimizer="sgd", lr=0.5),
    "floor": dict(blocks=4, treatment="floor", threshold=1e-10, optimizer="sgd", lr=0.5),
    "sigmoid everywhere": dict(activation_everywhere=True),
    "no block": dict(blocks=0),
    "more than an epoch": dict(blocks=0, batch_size=700, steps=5),
    "batches of one": dict(activation="relu", batch_size=1, optimizer="sgd"),
    "diverging": dict(activation="relu", blocks=80, init_range=2.0),
    "tanh, group norm, he normal": dict(activation="tanh", other_norm="group", init="he-normal"),
    "leaky relu, layer norm, he uniform": dict(activation="leaky-relu", other_norm="layer", init="he-uniform"),
    "gelu, fixed branch, xavier normal": dict(activation="gelu", shortcut=True, branch_scale="fixed", init="xavier-normal"),
    "silu, SkipInit, xavier uniform": dict(activation="silu", shortcut=True, branch_scale="skip-init", init="xavier-uniform"),
    "orthogonal, normalise": dict(blocks=4, init="orthogonal", treatment="normalise", threshold=1e-3),
    "delta-orthogonal, feedback": dict(blocks=4, init="delta-orthogonal", treatment="feedback", threshold=1e-3),
    "lsuv, batch norm, feedback": dict(activation="relu", init="lsuv", batch_norm=True, treatment="feedback"),
    "lsuv, no block": dict(activation="relu", init="lsuv", blocks=0),
    "critical": dict(activation="relu", init="critical", optimizer="sgd", lr=0.1),
    "turned: rate and optimisers": dict(
        activation="relu", changes="1:lr=0.01,2:optimizer=momentum,3:optimizer=adam,3:lr=0.001,4:optimizer=sgd"),
    "turned: treatments of the step": dict(
        activation="relu", optimizer="sgd", lr=0.1, treatment="floor", threshold=1e-3,
        changes="1:treatment=clip-norm,2:threshold=0.1,3:treatment=clip-value,4:treatment=none"),
    "turned: treatments of the way back": dict(
        init="lsuv", treatment="feedback", threshold=1e-3,
        changes="2:threshold=0.01,3:treatment=normalise,4:treatment=feedback"),
    "warm-up, cosine, turned": dict(
        activation="relu", warmup=3, schedule="cosine", lr=0.01, steps=9, changes="2:lr=0.02,5:optimizer=momentum,7:lr=0.003"),
    "step decay": dict(activation="relu", schedule="step-decay", optimizer="momentum", lr=0.1, steps=7),
    "critical, sigmoid everywhere, normalise": dict(init="critical", activation_everywhere=True, treatment="normalise"),
}
FLOAT = r"([-+.\dinfaem]+)"
LINE = re.compile(rf"step (\d+)  loss {FLOAT}  accuracy {FLOAT}  gradient: [\w ]+ {FLOAT}, [\w ]+ {FLOAT}")


@pytest.fixture(scope="module")
def digits():
    return Shelf("nowhere", download=False)


def numbers(output):
    """[[step, loss, accuracy, first gradient, last gradient], ...]"""
    return [[float(number) for number in match] for match in LINE.findall(output)]


def run_here(config, capsys, arithmetic=None):
    """What the program prints in this process, and what it says where it ends early."""
    ended = ""
    try:
        exec(compile(code(config, arithmetic), "program.py", "exec"), {})
    except SystemExit as stop:
        ended = str(stop)
    return capsys.readouterr().out, ended


def run_alone(config, folder):
    """What the program prints in a process of its own that cannot see gradviz."""
    (folder / "program.py").write_text(code(config), encoding="utf-8")
    ended = subprocess.run([sys.executable, "-I", "program.py"], capture_output=True, text=True, cwd=folder)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def train(config, shelf):
    trainer = training(config, shelf.load(config.dataset), torch.device("cpu"))
    ends = [2, -4] if config.blocks else [0, -1]  # block0.conv1 and the last block's conv2, or conv1 and fc3
    rows = [[record.step, record.loss, record.accuracy, *record.layers[0, ends]] for record in trainer]
    return rows, trainer.outcome


def assert_equal(printed, rows):
    """The losses to the last bit; the other numbers as far as they are printed."""
    assert [line[0] for line in printed] == [row[0] for row in rows]
    np.testing.assert_array_equal(np.float32([line[1] for line in printed]), np.float32([row[1] for row in rows]))
    for line, row in zip(printed, rows, strict=True):
        assert line[2] == pytest.approx(row[2], abs=5.1e-4)  # three decimals are printed
        assert line[3:] == pytest.approx(row[3:], rel=2e-3, nan_ok=True)  # four digits are printed


@pytest.mark.trains
@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_the_program_prints_the_numbers_of_the_trainer(changes, capsys):
    compare(RunConfig(**BASE | changes), Shelf("nowhere", download=False), capsys)


@pytest.mark.trains
@pytest.mark.parametrize("name", PRESETS)
def test_the_program_of_a_preset_is_its_run(name, digits, capsys):
    preset = PRESETS[name].apply(RunConfig(dataset="digits", device="cpu"))
    compare(replace(preset, batch_size=8, steps=40), digits, capsys)


@pytest.mark.trains
@pytest.mark.parametrize("number", range(3))
def test_the_program_of_any_settings_is_their_run(number, digits, capsys):
    """Ten settings each, of all words and sizes: 40 steps, among them the looks at the test images, equal to the last bit."""
    long = sum(compare(config, digits, capsys) == 40 for config in generated(10, number))
    assert long >= 5  # the rest diverge


def generated(count, seed):
    draw = random.Random(seed)
    for _ in range(count):
        words = {name: draw.choice(list(field.spec.choices)) for name, field in FIELDS.items() if field.spec.choices}
        switches = {name: draw.random() < 0.4 for name, field in FIELDS.items() if field.spec.kind is bool}
        knobs = {"lr": 10 ** draw.uniform(-4, 0), "threshold": 10 ** draw.uniform(-9, 1),
                 "optimizer": draw.choice(list(OPTIMIZERS)), "treatment": draw.choice(list(TREATMENTS))}  # fmt: skip
        changes = {(draw.randrange(1, 40), name): knobs[name] for name in draw.choices(list(knobs), k=draw.choice([0, 0, 1, 3]))}
        yield RunConfig(**words | switches | dict(
            changes=[(step, name, value) for (step, name), value in changes.items()],
            blocks=draw.choice([0, 1, 1, 2]), init_range=draw.choice([None, None, None, 0.05, 0.3, 1.0]),
            threshold=10 ** draw.uniform(-9, 1), lr=10 ** draw.uniform(-4, 0), batch_size=draw.choice([1, 2, 3, 5, 8, 16]),
            seed=draw.randrange(2**31), steps=40, warmup=draw.choice([0, 0, 10]), dataset="digits", device="cpu"))  # fmt: skip


def compare(config, shelf, capsys):
    """How many steps there were."""
    output, ended = run_here(config, capsys)
    rows, outcome = train(config, shelf)
    assert_equal(numbers(output), rows)
    assert ("diverged" in ended) == (outcome.status is Status.DIVERGED)
    if not ended:
        assert float(output.split()[-1]) == pytest.approx(outcome.test_accuracy, abs=5.1e-5)  # four decimals are printed
    return len(rows)


def test_the_program_takes_as_many_threads_as_the_run_had(tmp_path, one_thread, capsys):
    config = RunConfig(**BASE | dict(activation="relu", batch_norm=True, batch_size=32, steps=4))
    torch.set_num_threads(2)
    arithmetic = here(torch.device("cpu"))
    rows, _outcome = train(config, Shelf(tmp_path, download=False))
    assert "torch.set_num_threads(2)" in code(config, arithmetic) and arithmetic_text(arithmetic) in code(config, arithmetic)
    torch.set_num_threads(1)
    assert_equal(numbers(run_here(config, capsys, arithmetic)[0]), rows)
    assert torch.get_num_threads() == 2


def test_the_program_of_a_run_that_followed_the_free_cores_has_its_threads_step_by_step(tmp_path, one_thread, capsys):
    """And with them its losses, to the last bit; with one thread throughout they are others."""

    class Given(Cores):
        def took(self, seconds, routine=True):
            self.threads = 3 - self.threads
            torch.set_num_threads(self.threads)

    config = RunConfig(**BASE | dict(activation="relu", batch_norm=True, batch_size=32, steps=3))
    data = Shelf(tmp_path, download=False).load("digits")
    trainer = training(config, data, torch.device("cpu"), cores=Given(1.0))
    losses = [record.loss for record in trainer]
    assert trainer.arithmetic.threads_from == {0: 1, 1: 2, 2: 1, 3: 2}
    printed = [line[1] for line in numbers(run_here(config, capsys, trainer.arithmetic)[0])]
    np.testing.assert_array_equal(np.float32(printed), np.float32(losses))


def test_the_program_says_that_a_gpu_need_not_repeat_itself_where_it_may_run_on_one():
    said = {device for device in FIELDS["device"].spec.choices if "not even two runs" in code(RunConfig(device=device))}
    assert said == {"auto", "cuda", "mps"}


def test_the_program_runs_on_its_own(tmp_path):
    config = RunConfig(**BASE)
    assert_equal(numbers(run_alone(config, tmp_path)), train(config, Shelf(tmp_path, download=False))[0])


def test_the_program_reads_mnist_as_the_trainer_does(data_folder, monkeypatch, capsys):
    monkeypatch.setenv("GRADVIZ_DATA", str(data_folder))
    config = RunConfig(**BASE | dict(dataset="mnist", activation="relu", steps=3, batch_norm=True))
    assert compare(config, Shelf(data_folder, download=False), capsys) == 3


def refusal(config, folder, **environment):
    """The one line with which the program ends."""
    (folder / "program.py").write_text(code(config), encoding="utf-8")
    ended = subprocess.run([sys.executable, "-I", "program.py"], capture_output=True, text=True, cwd=folder, timeout=100,
                           env={**os.environ, **environment})  # fmt: skip
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (1, "", 1), ended.stderr
    return ended.stderr


def test_the_program_does_not_wait_for_a_batch_that_the_data_do_not_have(tmp_path):
    idx.write(tmp_path / "data" / "MNIST" / "raw", idx.contents(train=50))
    config = RunConfig(**BASE | dict(dataset="mnist", batch_size=51))
    assert "only 50 images to train, fewer than a batch of 51" in refusal(config, tmp_path, GRADVIZ_DATA="data")


SMALL = idx.contents()
LAYOUTS = {
    "torchvision's, and others beside it": lambda folder: [
        idx.write(folder / name / "raw", idx.contents(30 + place, 10))
        for place, name in enumerate(("FashionMNIST", "KMNIST", "fmnist"))] + [idx.write(folder / "MNIST" / "raw", SMALL)],
    "packed in the folder itself": lambda folder: idx.write(folder, SMALL, pack=True),
    "with a dot, below": lambda folder: idx.write(folder / "a" / "mnist", {n.replace("-idx", ".idx"): SMALL[n] for n in SMALL}),
    "a folder for each file": lambda folder: [idx.write(folder / n, {n: SMALL[n]}) for n in SMALL],
    "packed without saying so": lambda folder: idx.write(folder / "raw", {n: gzip.compress(SMALL[n]) for n in SMALL}),
}  # fmt: skip


@pytest.mark.parametrize("lay", LAYOUTS.values(), ids=LAYOUTS)
def test_the_program_finds_the_data_where_the_app_does(lay, tmp_path, monkeypatch, capsys):
    lay(tmp_path / "my sets")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GRADVIZ_DATA", "~/my sets")
    config = RunConfig(**BASE | dict(dataset="mnist", activation="relu", steps=2))
    assert compare(config, Shelf(tmp_path / "my sets", download=False), capsys) == 2


def test_the_program_takes_no_other_data_set_and_says_where_it_looked(tmp_path):
    idx.write(tmp_path / "data" / "MNIST" / "raw", SMALL)
    idx.write(tmp_path / "data", SMALL)
    (tmp_path / "program.py").write_text(code(RunConfig(**BASE | dict(dataset="fashion"))), encoding="utf-8")
    nowhere = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    ended = subprocess.run([sys.executable, "-I", "program.py"], capture_output=True, text=True, cwd=tmp_path,
                           env={**os.environ, **nowhere, "GRADVIZ_DATA": ""})  # fmt: skip
    assert f"FashionMNIST is neither in {tmp_path / 'data'} nor in the folders inside" in ended.stdout
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1) and "cannot be downloaded" in ended.stderr


@pytest.mark.parametrize("changes", [*CASES.values(), dict(dataset="fashion", device="auto"), dict(dataset="kmnist")])
def test_the_program_is_clean_python_without_unused_parts(changes):
    text = code(RunConfig(**BASE | changes))
    checked = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--line-length=130", "--select=E,W,F,I,UP", "-"],
        input=text, capture_output=True, text=True,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize(
    "changes, word",
    [
        (dict(batch_norm=True), "BatchNorm"),
        (dict(shortcut=True), "shortcut"),
        (dict(activation="sigmoid"), "sigmoid"),
        (dict(treatment="clip-norm"), "clip_grad_norm_"),
        (dict(treatment="floor"), "torch.where"),
        (dict(optimizer="momentum"), "momentum"),
        (dict(other_norm="group"), "GroupNorm"),
        (dict(other_norm="layer"), "LayerNorm"),
        (dict(shortcut=True, branch_scale="skip-init"), "SkipInit"),
        (dict(init="lsuv"), "LSUV"),
        (dict(init="he-normal"), "kaiming_normal_"),
        (dict(treatment="feedback"), "class Feedback"),
        (dict(treatment="normalise"), "def scaled"),
    ],
)
def test_a_part_stands_in_the_program_exactly_if_the_config_has_it(changes, word):
    def body(config):
        return code(config).split('"""', 2)[2]

    plain = RunConfig(activation="relu", optimizer="sgd")
    assert word not in body(plain)
    assert word in body(RunConfig(**plain.to_dict() | changes))
