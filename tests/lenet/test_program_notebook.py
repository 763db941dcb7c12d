"""A run's program as a notebook: its cells, run one after the other, give the numbers of the run."""

import ast
import json
from contextlib import redirect_stdout
from io import StringIO

import numpy as np
import pytest

from gradviz.lenet.codegen import code
from gradviz.lenet.config import ACTIVATIONS, INITS, OPTIMIZERS, TREATMENTS, RunConfig
from gradviz.lenet.data import Shelf
from gradviz.lenet.experiment import resolve_device, training
from gradviz.lenet.notebook import notebook
from gradviz.words import languages, speaking

QUICK = RunConfig(blocks=1, activation="relu", batch_size=8, steps=4, dataset="digits", device="cpu")
KEYS = {"markdown": {"cell_type", "id", "metadata", "source"},
        "code": {"cell_type", "id", "metadata", "source", "execution_count", "outputs"}}  # fmt: skip


def cells(config: RunConfig, kind: str) -> list[str]:
    return ["".join(cell["source"]) for cell in json.loads(notebook(code(config)))["cells"] if cell["cell_type"] == kind]


def test_its_cells_executed_in_order_print_the_losses_of_the_run(one_thread, tmp_path):
    trainer = training(QUICK, Shelf(tmp_path, False).load("digits"), resolve_device("cpu"))
    truth = [record.loss for record in trainer]
    printed, names = StringIO(), {"__name__": "__main__"}
    with redirect_stdout(printed):
        for cell in cells(QUICK, "code"):
            exec(compile(cell, "cell", "exec"), names)
    losses = [float(line.split()[3]) for line in printed.getvalue().splitlines() if line.startswith("step")]
    assert [np.float32(loss) for loss in losses] == [np.float32(loss) for loss in truth] and len(losses) == 4


@pytest.mark.parametrize("config", [
    QUICK, RunConfig(), RunConfig(shortcut=True, batch_norm=True, activation_everywhere=True),
    *(RunConfig(treatment=word) for word in TREATMENTS), *(RunConfig(init=word) for word in INITS),
    *(RunConfig(optimizer=word) for word in OPTIMIZERS), *(RunConfig(activation=word, dataset="kmnist") for word in ACTIVATIONS),
], ids=lambda config: config.id)  # fmt: skip
def test_every_part_is_a_cell_that_can_be_run_by_itself_and_together_they_are_the_program(config):
    program = code(config)
    whole = ast.parse(program)
    parts = cells(config, "code")
    assert len(parts) > 4
    together = [node for part in parts for node in ast.parse(part).body]
    assert [ast.dump(node) for node in together] == [ast.dump(node) for node in whole.body[1:]]


def test_it_is_a_notebook_of_version_4_5_that_tells_what_the_program_tells():
    for language in languages():
        with speaking(language):
            program = code(QUICK)
            kept = json.loads(notebook(program))
        assert (kept["nbformat"], kept["nbformat_minor"]) == (4, 5) and kept["metadata"]["kernelspec"]["name"] == "python3"
        ids = [cell["id"] for cell in kept["cells"]]
        assert len(set(ids)) == len(ids) and all(set(cell) == KEYS[cell["cell_type"]] for cell in kept["cells"])
        about = "".join(kept["cells"][0]["source"]).replace("\\", "").replace("  \n", "\n")
        assert about == "# " + ast.get_docstring(ast.parse(program))
