"""The weights of a trained net and the program that loads them, both taken home: the net is the one that was trained."""

import re
from contextlib import redirect_stdout
from io import StringIO

import pytest
import torch

from gradviz.lenet.codegen import code
from gradviz.lenet.config import RunConfig
from gradviz.lenet.data import Shelf
from gradviz.lenet.experiment import resolve_device
from gradviz.lenet.experiment import task as task_of
from gradviz.lenet.loading import loader
from gradviz.train.state import packed, weights_file

NETS = [
    {"activation": "relu"}, {"batch_norm": True, "shortcut": True}, {"other_norm": "group", "treatment": "feedback"},
    {"shortcut": True, "branch_scale": "skip-init", "init": "lsuv"},
]  # fmt: skip


@pytest.mark.parametrize("net", NETS, ids=lambda net: " ".join(net))
def test_the_program_loads_the_weights_that_were_kept_and_tests_the_same_net(net, one_thread, tmp_path, monkeypatch):
    config = RunConfig(blocks=2, batch_size=8, steps=3, dataset="digits", device="cpu", **net)
    data = Shelf(tmp_path, False).load("digits")
    task = task_of(config, data, resolve_device("cpu"))
    kept = tmp_path / "state.safetensors"
    packed(task, {"step": 3}).write(kept)
    (tmp_path / "w.safetensors").write_bytes(weights_file(kept))
    program = loader(code(config), "w.safetensors")
    monkeypatch.chdir(tmp_path)
    printed, names = StringIO(), {"__name__": "__main__"}
    with redirect_stdout(printed):
        exec(compile(program, "load.py", "exec"), names)
    assert re.fullmatch(r"test accuracy [01]\.\d{4}\n", printed.getvalue())
    truth = dict(task.model.state_dict())
    loaded = names["model"].state_dict()
    assert set(loaded) == {name for name in truth if not name.endswith("feedback_gain")}
    assert all(torch.equal(loaded[name], truth[name]) for name in loaded) and not names["model"].training
    assert "optimizer" not in program and "zip(range" not in program
