"""An activation is a row: whoever adds one has added the choice, the net, the program and what is said of it."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from streamlit.testing.v1 import AppTest

from gradviz.__main__ import main
from gradviz.charts.runs import profile_figure
from gradviz.lenet.activations import ACTIVATIONS, Activation
from gradviz.lenet.codegen import code
from gradviz.lenet.config import FIELDS, ConfigError, RunConfig
from gradviz.lenet.data import Shelf
from gradviz.lenet.diagnosis import diagnose
from gradviz.lenet.experiment import training
from gradviz.lenet.net import activation_function
from gradviz.lenet.theory.predict import critical_range, depth_marks, predict
from gradviz.record.history import History
from gradviz.record.run import Run, Status

SENTENCE = "z / (1 + |z|): like tanh, but it nears its ends slowly."


@pytest.fixture
def softsign(monkeypatch):
    """A row with nothing but what no default can know."""
    monkeypatch.setitem(ACTIVATIONS, "softsign", Activation(SENTENCE, "F.softsign"))
    return RunConfig(activation="softsign", dataset="digits", blocks=2, batch_size=16, steps=3, device="cpu")


def trained(config):
    run = Run(config, History(config.layers), Status.FINISHED)
    for record in training(config, Shelf("nowhere", download=False).load("digits"), torch.device("cpu")):
        run.history.append(record)
    return run


def test_a_row_is_a_setting_by_its_word_and_without_the_row_the_word_is_refused(softsign, monkeypatch):
    assert RunConfig.from_query({"activation": "softsign"})[0].activation == "softsign"
    assert FIELDS["activation"].spec.choices["softsign"] == SENTENCE and "softsign" in FIELDS["activation"].spec.range_text
    monkeypatch.delitem(ACTIVATIONS, "softsign")
    with pytest.raises(ConfigError, match="silu; 'softsign' is not"):
        RunConfig(activation="softsign")


def test_a_row_is_a_choice_of_the_page_with_its_sentence(softsign):
    def page():
        from gradviz.ui import controls

        controls.open_session(lambda run_id: None)
        controls.sidebar()

    app = AppTest.from_function(page, default_timeout=30).run()
    more = next(box for box in app.selectbox if "softsign" in box.options)
    more.select("softsign").run()
    assert not app.exception
    assert SENTENCE in [caption.value for caption in app.caption]
    app.toggle(key="control_init_custom").set_value(True).run()
    assert not app.exception and not [caption for caption in app.caption if "is critical for" in caption.value]


def test_a_row_is_a_choice_of_the_command_line(softsign, capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "|silu|softsign" in "".join(capsys.readouterr().out.split())
    assert main("train --activation softsign --dataset digits --blocks 1 --batch-size 8 --steps 2".split()) == 0
    assert "softsign" in capsys.readouterr().out


def test_a_row_is_a_net_and_its_program_has_the_same_losses(softsign, tmp_path):
    run = trained(softsign)
    z = torch.linspace(-3, 3, 7)
    assert torch.equal(activation_function("softsign")(z), z / (1 + z.abs()))
    (tmp_path / "program.py").write_text(code(softsign), encoding="utf-8")
    ended = subprocess.run([sys.executable, "-I", "program.py"], capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    losses = [float(line.split()[3]) for line in ended.stdout.splitlines() if line.startswith("step ")]
    assert losses == pytest.approx([float(loss) for loss in run.history.loss], rel=1e-8) and len(losses) == 3


def test_theory_says_that_it_has_none_for_a_row_and_the_chart_is_drawn_without(softsign):
    prediction = predict(softsign)
    assert prediction.limits == (
        "There is no prediction for this combination (Activation function: softsign): what you see is measured only.",
    )
    assert critical_range("softsign") != critical_range("softsign") and depth_marks(softsign).adam_eps is None  # nan
    measured = trained(softsign).history.quantity("weight_grad_rms")[0]
    figure = profile_figure({softsign.title: measured}, "weight_grad_rms", {softsign.title: prediction.weight_grad_rms})
    line, *_more = [trace for trace in figure.data if softsign.title in trace.name]
    assert [10**y for y in line.y] == pytest.approx(list(measured), rel=1e-5)


@pytest.mark.parametrize("changes", [{}, {"init_range": 0.01}, {"init_range": 1.0}, {"init": "critical"}, {"batch_norm": True},
                                     {"shortcut": True}, {"activation_everywhere": True}, {"blocks": 12}], ids=str)  # fmt: skip
def test_nothing_that_is_said_of_a_run_with_a_new_row_speaks_of_relu_or_sigmoid(softsign, changes):
    run = trained(RunConfig(**softsign.to_dict() | changes))
    found = diagnose(run)
    messages = [found.sentence, *found.evidence, *found.likely_cause, *(found.next_experiment or ("",))[:1]]
    said = " ".join(map(str, messages)).lower()
    assert said and "relu" not in said and "sigmoid" not in said


@pytest.mark.parametrize("word", ACTIVATIONS)
def test_every_row_names_a_function_that_is_there_and_a_gain_that_keeps_or_doubles_the_variance(word):
    z = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    h = activation_function(word)(z)
    assert h.shape == z.shape and torch.isfinite(h).all()
    assert ACTIVATIONS[word].gain ** 2 in (1.0, pytest.approx(2.0))


@pytest.mark.parametrize("word", [word for word, row in ACTIVATIONS.items() if row.leak is not None])
def test_what_rectifies_has_the_slope_of_its_row_below_zero(word):
    z = torch.tensor([-2.0, 3.0])
    torch.testing.assert_close(activation_function(word)(z), F.leaky_relu(z, ACTIVATIONS[word].leak))
