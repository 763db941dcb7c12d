"""The example and the lines of the README run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from watched_nets import Mlp, features, loss_on

import gradviz
from gradviz.settings import Settings
from gradviz.train.watch import WatchError

ROOT = Path(gradviz.__file__).parents[1]


def test_the_example_runs_offline_and_shows_every_layer(tmp_path):
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "examples/watch_digits.py"), "12", str(tmp_path)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=110)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "ResNet on the digits: finished" and len(lines) == 2 + 10 + 1
    assert lines[2].startswith("stem ") and "12 steps, loss" in lines[-1]


def test_the_lines_of_the_readme_run(tmp_path, monkeypatch, capsys):
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## Your own net\n")[1].split("\n## ")[0]
    code = "\n".join(re.findall(r"^    (.*)$", text, re.MULTILINE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GRADVIZ_STORE", raising=False)
    model = Mlp()
    known = dict(model=model, optimizer=torch.optim.SGD(model.parameters(), 0.1), loader=[features()])
    known["criterion"] = nn.CrossEntropyLoss()
    exec(code, known)
    assert list((tmp_path / "runs" / "watched").glob("watched-*.spool")) == [known["run"].path]
    assert capsys.readouterr().out.startswith("Mlp: finished")


def test_a_watch_keeps_its_run_where_the_server_looks(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GRADVIZ_STORE", "~/kept")
    with gradviz.watch(Mlp()) as run:
        assert run.path.parent == Settings.from_environment().store / "watched" == tmp_path / "kept" / "watched"
    monkeypatch.setenv("GRADVIZ_STORE", "~nobody_of_this_name/kept")
    with pytest.raises(WatchError, match="GRADVIZ_STORE"):
        gradviz.watch(Mlp())


def test_a_run_as_text_has_a_dash_where_nothing_was_measured_and_says_what_happened(tmp_path):
    model = Mlp()
    model.second.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    run = gradviz.watch(model, optimizer, every=1, folder=tmp_path, title="Mine")
    assert str(run) == "Mine: running"
    loss_on(features())(model).backward()
    optimizer.step()
    run.close()
    lines = str(run).splitlines()
    assert len(lines) == 5 and lines[3].split()[1] == "–" and lines[2].split()[1] != "–"


@pytest.mark.parametrize("name, words, title, rows", [
    ("watch_gpt", ["6"], "GPT on its own source", 19), ("watch_lightning", ["1"], "Lightning on the digits", 8),
])  # fmt: skip
def test_the_other_examples_run_offline_too(name, words, title, rows, tmp_path):
    script = str(ROOT / "examples" / f"{name}.py")
    # torchvision, which Lightning imports, may be built for another torch than is here: then its operators are declared first.
    start = "import runpy, sys, watched_nets; watched_nets.torchvision_models(); del sys.argv[0]; "
    start += "runpy.run_path(sys.argv[0], run_name='__main__')"
    environment = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "PATH": "", "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}
    command = [sys.executable, "-W", "ignore", "-c", start, script, *words, str(tmp_path)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=110, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.partition(f"{title}: finished")[2].splitlines()
    assert len(lines) == 2 + rows and len(list((tmp_path / "watched").glob("*.spool"))) == 1
