"""python -m gradviz train: what it prints, what it refuses, how it ends."""

import io
import itertools
import json
import math
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import idx
import numpy as np
import pytest
import torch

from gradviz.__main__ import main
from gradviz.lenet.config import FIELDS, RunConfig, option
from gradviz.lenet.data import Shelf
from gradviz.lenet.experiment import training
from gradviz.record.arithmetic import Arithmetic
from gradviz.record.quantities import QUANTITIES
from gradviz.train.device import here
from gradviz.train.trainer import Trainer
from gradviz.ui import opening

ROOT = Path(__file__).parent.parent
SMALL = ["--dataset", "digits", "--blocks", "1", "--steps", "3", "--batch-size", "8", "--device", "cpu"]
COMMAND = [sys.executable, "-m", "gradviz", "train"]


def endless():
    """A training in a process of its own that would go on for a long time."""
    command = [*COMMAND, *SMALL, "--steps", "100000", "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)


def strict(line):
    """Raises for NaN and Infinity, which Python would read and other readers do not."""
    return json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def train(capsys, *options):
    """The step objects, the final object, the exit code and standard error."""
    code = main(["train", *options, "--json"])
    captured = capsys.readouterr()
    *steps, final = map(strict, captured.out.splitlines())
    return steps, final, code, captured.err


def test_json_ends_with_the_arithmetic_of_the_run(capsys):
    _, final, _, _ = train(capsys, *SMALL)
    assert Arithmetic.from_dict(final["arithmetic"]) == here(torch.device("cpu"))


def test_json_holds_the_very_numbers_of_the_trainer(capsys):
    steps, final, code, _ = train(capsys, *SMALL, "--activation", "relu", "--shortcut", "--batch-norm", "--seed", "5")
    config = RunConfig(
        dataset="digits", blocks=1, steps=3, batch_size=8, device="cpu", activation="relu", shortcut=True, batch_norm=True, seed=5
    )
    trainer = training(config, Shelf("nowhere", download=False).load("digits"), torch.device("cpu"))
    records = list(trainer)
    assert [(step["step"], step["loss"], step["accuracy"]) for step in steps] == [(r.step, r.loss, r.accuracy) for r in records]
    six = [name for name in QUANTITIES if name != "treated_grad_rms"]
    for step, record in zip(steps, records, strict=True):
        assert tuple(step["layers"]) == config.layout.names
        assert all(list(layer) == six for layer in step["layers"].values())
        table = np.array([list(layer.values()) for layer in step["layers"].values()], np.float32).T
        np.testing.assert_array_equal(table, record.layers[[list(QUANTITIES).index(name) for name in six]])
    assert code == 0
    assert (final["status"], final["test_accuracy"]) == ("finished", trainer.outcome.test_accuracy)
    assert final["verdict"] and final["seconds"] > 0


def test_a_treatment_is_recorded_before_and_after(capsys):
    steps, *_ = train(capsys, *SMALL, "--treatment", "clip-value", "--threshold", "1e-12")
    layer = steps[0]["layers"]["fc3"]
    assert 0 < layer["treated_grad_rms"] <= 1.0001e-12 < layer["weight_grad_rms"]


def test_a_diverged_run_prints_its_infinities_as_strings_and_says_where_they_began(capsys):
    steps, final, code, _ = train(capsys, *SMALL, "--blocks", "60", "--activation", "relu", "--init-range", "2")
    assert steps[-1]["loss"] in ("nan", "inf") and code == 0
    numbers = [number for layer in steps[-1]["layers"].values() for number in layer.values()]
    assert {number for number in numbers if isinstance(number, str)} <= {"nan", "inf", "-inf"}
    assert {"nan", "inf"} & set(numbers)
    assert (final["status"], final["test_accuracy"]) == ("diverged", None)
    assert "block" in final["message"]


def bad_values():
    for name, field in FIELDS.items():
        spec = field.spec
        if spec.kind is not bool:
            yield name, "nonsense"
            yield name, "nan"
        if spec.low is not None:
            yield name, str(spec.high * 2)
            yield name, str(spec.low - 1)


@pytest.mark.parametrize("name, value", list(bad_values()))
def test_a_bad_value_gives_one_line_with_option_and_range_and_exit_code_2(name, value, capsys):
    try:
        code = main(["train", option(name), value])
    except SystemExit as stop:  # argparse takes some values for options
        code = stop.code
    captured = capsys.readouterr()
    assert (code, captured.out, captured.err.count("\n")) == (2, "", 1)
    assert option(name) in captured.err and FIELDS[name].spec.range_text in captured.err


@pytest.mark.parametrize(
    "arguments",
    [["train", "--depth", "3"], ["train", "--batch-norm=7"], ["train", "--lr"], ["fly"], ["open", "--port", "x"]],
)
def test_a_wrong_command_line_gives_one_line_and_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    captured = capsys.readouterr()
    assert (stop.value.code, captured.out, captured.err.count("\n")) == (2, "", 1)


def test_a_device_that_is_not_there_is_refused_like_any_bad_value(capsys):
    device = next((name for name, there in (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available()))
                   if not there))  # fmt: skip
    assert main(["train", *SMALL, "--device", device]) == 2
    assert "--device" in capsys.readouterr().err


def test_a_bad_environment_setting_is_named(monkeypatch, capsys):
    monkeypatch.setenv("GRADVIZ_THREADS", "many")
    assert main(["train", *SMALL]) == 2
    error = capsys.readouterr().err
    assert "GRADVIZ_THREADS" in error and error.count("\n") == 1


def test_without_a_command_the_pages_open_on_the_folder_of_runs_and_with_one_on_the_folder_it_names(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(opening, "open_app", lambda *given: asked.append(given))
    monkeypatch.setattr(sys, "argv", ["gradviz"])
    monkeypatch.setenv("GRADVIZ_STORE", str(tmp_path / "later"))
    assert main() == main(["open", str(tmp_path), "--port", "8600", "--no-browser"]) == 0
    assert asked == [(tmp_path / "later", None, True), (tmp_path, 8600, False)]


@pytest.mark.parametrize("options, said", [(["no such # folder"], "no such # folder is no folder"), (["--port", "0"], "1…65535")])
def test_a_folder_or_port_that_cannot_be_is_one_line_and_exit_code_2(options, said, capsys):
    assert main(["open", *options]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_port_that_somebody_has_is_refused_where_it_was_asked_for(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["open", str(tmp_path), "--port", str(port)]) == 2
    assert f"Port {port} is taken" in capsys.readouterr().err


def test_servers_that_are_opened_at_once_come_by_a_port_each(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "STREAMLIT_SERVER_PORT"}
    opened = [
        subprocess.Popen(
            [sys.executable, "-m", "gradviz", "open", str(tmp_path / name), "--no-browser"], cwd=ROOT, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )
        for name in ("one", "two") if not (tmp_path / name).mkdir()
    ]  # fmt: skip
    try:
        said = [[*itertools.takewhile(lambda line: "gradviz is open at" not in line, each.stdout)] for each in opened]
        assert all(each.poll() is None for each in opened), said
        addresses = [(tmp_path / name / "address.txt").read_text() for name in ("one", "two")]
        ports = {int(address.rstrip("/").rpartition(":")[2]) for address in addresses}
        assert len(ports) == 2 and all(8501 <= port < 8601 for port in ports)
    finally:
        for each in opened:
            os.killpg(each.pid, signal.SIGKILL)
            each.wait()


def test_help_names_every_option_and_every_word(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert all(option(name) in text for name in FIELDS)
    assert all(word in text for field in FIELDS.values() for word in field.spec.choices or ())


def test_every_setting_of_the_page_is_an_option_with_the_same_words(monkeypatch):
    class Seen(BaseException):
        pass

    def seen(values):
        raise Seen(values)

    monkeypatch.setattr(RunConfig, "from_dict", seen)
    settings = {"activation": "relu", "batch_norm": True, "shortcut": True, "activation_everywhere": True, "blocks": "3",
                "init_range": "0.5", "treatment": "floor", "threshold": "1e-10", "optimizer": "momentum", "lr": "0.1",
                "other_norm": "group", "branch_scale": "fixed", "init": "lsuv",
                "dataset": "fashion", "batch_size": "32", "steps": "7", "seed": "9", "device": "cpu",
                "warmup": "30", "schedule": "cosine", "changes": "3:lr=1"}  # fmt: skip
    assert settings.keys() == FIELDS.keys()
    words = [word for name, value in settings.items() for word in ([option(name)] if value is True else [option(name), value])]
    with pytest.raises(Seen) as given:
        main(["train", *words])
    assert given.value.args[0] == settings


def test_without_the_asked_data_the_digits_step_in_with_one_sentence(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("GRADVIZ_DATA", str(tmp_path))
    steps, final, code, error = train(capsys, *SMALL, "--dataset", "mnist")
    assert (len(steps), final["dataset"], code) == (3, "digits", 0)
    assert "MNIST" in error and "digits" in error and error.count("\n") == 1


def test_damaged_data_are_reported_and_replaced_too(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("GRADVIZ_DATA", str(tmp_path))
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (raw / f"{part}-{kind}-ubyte").write_bytes(b"\0\0\10\1 half a download")
    _, final, code, error = train(capsys, *SMALL, "--dataset", "mnist")
    assert (final["dataset"], code) == ("digits", 0)
    assert "damaged" in error and error.count("\n") == 1


def test_text_shows_progress_and_closes_with_first_and_last_layer(capsys):
    assert main(["train", *SMALL, "--treatment", "clip-norm"]) == 0
    text = capsys.readouterr().out
    assert "step 0 of 3  loss 2." in text and "step 2 of 3" in text
    assert "conv1, start" in text and "fc3, end" in text
    assert all(f"\n{name} " in text for name in QUANTITIES)
    assert "finished after 3 steps" in text and "test accuracy" in text.splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_signal_ends_the_run_cleanly_with_a_final_object(number):
    process = endless()
    assert strict(process.stdout.readline())["step"] == 0
    process.send_signal(number)
    output, error = process.communicate(timeout=60)
    final = strict(output.splitlines()[-1])
    assert (final["status"], final["test_accuracy"]) == ("stopped", None)
    assert (process.returncode, error) == (128 + number, b"")


def test_a_reader_that_has_seen_enough_ends_the_run_quietly():
    process = endless()
    process.stdout.readline()
    process.stdout.close()
    assert (process.stderr.read(), process.wait(60)) == (b"", 128 + signal.SIGPIPE)


def test_a_refusal_does_not_wait_for_torch():
    command = [sys.executable, "-X", "importtime", *COMMAND[1:], "--blocks", "5000"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 2 and "import time" in ended.stderr
    assert not any(line.split("|")[-1].strip() == "torch" for line in ended.stderr.splitlines())


def test_a_vanished_gradient_is_printed_as_the_number_it_is(capsys):
    steps, final, *_ = train(capsys, *SMALL, "--blocks", "12", "--steps", "1")
    layers = steps[0]["layers"]
    first, last = layers["block0.conv1"]["weight_grad_rms"], layers["block11.conv2"]["weight_grad_rms"]
    assert 0 < first < 1e-15 * last and math.isfinite(last)
    assert "vanish" in final["verdict"]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_fewer_images_than_a_batch_give_one_line_with_the_option_and_the_most_it_may_be(form, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("GRADVIZ_DATA", str(tmp_path))
    idx.write(tmp_path / "MNIST" / "raw", idx.contents(train=50))
    assert main(["train", *SMALL, "--dataset", "mnist", "--batch-size", "51", *form]) == 2
    captured = capsys.readouterr()
    assert "--batch-size: " in captured.err and "at most 50" in captured.err
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert main(["train", *SMALL, "--dataset", "mnist", "--batch-size", "50", *form]) == 0


class Terminal:
    """Standard output and error as of a terminal with another alphabet."""

    def __init__(self, monkeypatch, encoding):
        self.out, self.err = io.BytesIO(), io.BytesIO()
        for name, stream in (("stdout", self.out), ("stderr", self.err)):
            monkeypatch.setattr(sys, name, io.TextIOWrapper(stream, encoding, errors="strict", write_through=True))
        self._encoding = encoding

    @property
    def text(self):
        return (self.out.getvalue() + self.err.getvalue()).decode(self._encoding)


@pytest.mark.parametrize("encoding", ["cp1252", "cp437", "gbk", "ascii", "latin-1", "utf-16-le"])
def test_every_line_can_be_read_on_a_terminal_of_any_alphabet(encoding, monkeypatch, tmp_path):
    for name in ("GRADVIZ_DATA", "GRADVIZ_STORE"):
        monkeypatch.setenv(name, str(tmp_path / "größe √ 数据"))
    terminal = Terminal(monkeypatch, encoding)
    for command in (["train"], ["reproduce"], []):
        with pytest.raises(SystemExit) as stop:
            main([*command, "--help"])
        assert stop.value.code == 0
    assert all(option(name) in terminal.text for name in FIELDS)
    assert main(["train", *SMALL, "--dataset", "mnist", "--init-range", "0.5", "--treatment", "floor"]) == 0
    assert main(["train", *SMALL, "--json"]) == 0
    assert main(["train", "--lr", "η"]) == 2
    if encoding == "ascii":  # has the fewest letters, and this takes ten seconds
        assert main(["reproduce", "--quick", "--minutes", "0", "--out", str(tmp_path)]) == 0
        assert "reproduction.md is up to date" in terminal.text
    assert "MNIST is not in the data folder" in terminal.text
    assert "finished after 3 steps" in terminal.text and "--lr" in terminal.text


def test_any_other_error_is_one_line_and_the_traceback_is_there_for_who_asks(monkeypatch, capsys):
    def broken(self):
        raise IndexError("list index\nout of range")

    monkeypatch.setattr(Trainer, "__iter__", broken)
    assert main(["train", *SMALL]) == 1
    error = capsys.readouterr().err
    assert "IndexError: list index out of range" in error and error.count("\n") == 1 and "GRADVIZ_DEBUG=1" in error
    monkeypatch.setenv("GRADVIZ_DEBUG", "1")
    with pytest.raises(IndexError):
        main(["train", *SMALL])


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_full_disk_is_one_line(form):
    with open("/dev/full", "wb") as full:
        ended = subprocess.run([*COMMAND, *SMALL, *form], stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1) and "No space left" in ended.stderr


def test_labels_that_cannot_be_are_one_line_and_the_digits_step_in(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("GRADVIZ_DATA", str(tmp_path))
    idx.write(tmp_path, idx.contents() | {idx.FILES[1]: idx.labels(100, most=20)})
    _, final, code, error = train(capsys, *SMALL, "--dataset", "mnist")
    assert (final["dataset"], code, error.count("\n")) == ("digits", 0, 1)
    assert f"{tmp_path / idx.FILES[1]} holds the label 10" in error
