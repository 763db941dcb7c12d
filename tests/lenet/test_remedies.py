"""The remedies beyond the article: each against a closed form, a count by hand, or a second implementation."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from viewing import lab

from gradviz.__main__ import main
from gradviz.diagnosis.findings import Verdict
from gradviz.lenet.activations import ACTIVATIONS
from gradviz.lenet.codegen import code
from gradviz.lenet.config import FIELDS, INITS, PRESETS, RunConfig
from gradviz.lenet.data import Dataset, Shelf
from gradviz.lenet.diagnosis import diagnose
from gradviz.lenet.experiment import training
from gradviz.lenet.net import DeepLeNet, initialise, parameter_count
from gradviz.lenet.theory import predict as theory
from gradviz.lenet.theory.gaussians import gaussians
from gradviz.record.history import History
from gradviz.record.layout import Layout
from gradviz.record.quantities import QUANTITIES
from gradviz.record.run import Run, Status
from gradviz.train.treatment import FEEDBACK_GAIN, steer
from gradviz.ui import controls

pytestmark = pytest.mark.trains
ROWS = {name: row for row, name in enumerate(QUANTITIES)}
IMAGES = torch.randn(32, 1, 28, 28, generator=torch.Generator().manual_seed(9))


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return Shelf("nowhere", download=False).load("digits")


def made(config: RunConfig) -> DeepLeNet:
    model = DeepLeNet(config)
    initialise(model, config.init_range or config.init, torch.Generator().manual_seed(config.seed), IMAGES)
    return model


def records(digits: Dataset, **settings) -> list:
    config = RunConfig(**{"dataset": "digits", "device": "cpu", "batch_size": 8, **settings})
    return list(training(config, digits, torch.device("cpu")))


def outputs(model: DeepLeNet, images: torch.Tensor) -> list[torch.Tensor]:
    """z of every weight layer."""
    seen: list[torch.Tensor] = []
    with torch.no_grad():
        model(images, lambda index, z, h: seen.append(z))
    return seen


# --- initialisations -------------------------------------------------------------------------------------------------

BLOCK = 400  # inputs, and outputs, of a block convolution: 16 channels × 25 taps
BY_HAND = {  # spread of the block convolutions' weights, and the largest they may be
    "he-normal": (math.sqrt(2 / BLOCK), math.inf),
    "he-uniform": (math.sqrt(2 / BLOCK), math.sqrt(6 / BLOCK)),
    "xavier-normal": (math.sqrt(1 / BLOCK), math.inf),
    "xavier-uniform": (math.sqrt(1 / BLOCK), math.sqrt(3 / BLOCK)),
    "critical": (0.14065 / math.sqrt(3), 0.14065),
}


@pytest.mark.parametrize("init", BY_HAND)
def test_weights_have_the_spread_and_the_bound_of_the_formula(init):
    spread, bound = BY_HAND[init]
    model = made(RunConfig(activation="relu", blocks=8, init=init))
    drawn = torch.cat([conv.weight.flatten() for block in model.blocks for conv in (block.conv1, block.conv2)])
    assert drawn.mean().abs() < 4 * spread / math.sqrt(len(drawn))
    assert drawn.std().item() == pytest.approx(spread, rel=0.01)  # 102,400 draws
    assert drawn.abs().max() <= bound
    assert drawn.abs().max() > (0.999 * bound if bound < math.inf else 3.5 * spread)  # uniform to the edge, or with tails


def test_he_and_xavier_look_at_each_layers_own_inputs_and_outputs():
    he, xavier = made(RunConfig(blocks=0, init="he-uniform")), made(RunConfig(blocks=0, init="xavier-uniform"))
    for layer, fan_in, fan_out in ((0, 25, 150), (1, 150, 400), (2, 784, 120), (3, 120, 84), (4, 84, 10)):
        for model, bound in ((he, math.sqrt(6 / fan_in)), (xavier, math.sqrt(6 / (fan_in + fan_out)))):
            assert 0.95 * bound < model.weight_layers[layer].weight.abs().max() <= bound


@pytest.mark.parametrize("activation, gain", [("relu", math.sqrt(2)), ("sigmoid", 1.0), ("tanh", 1.0)])
def test_orthogonal_rows_stand_at_right_angles(activation, gain):
    model = made(RunConfig(activation=activation, blocks=1, init="orthogonal"))
    for layer in model.weight_layers:
        matrix = layer.weight.detach().flatten(1).double()
        matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
        torch.testing.assert_close(matrix @ matrix.T, gain**2 * torch.eye(len(matrix), dtype=torch.double), atol=1e-5, rtol=0)


def test_a_delta_orthogonal_convolution_keeps_the_length_of_every_pixel():
    conv = made(RunConfig(activation="tanh", blocks=1, init="delta-orthogonal")).blocks[0].conv1
    x = torch.randn(3, 16, 7, 7, generator=torch.Generator().manual_seed(0))
    z = F.conv2d(x, conv.weight, padding=2)
    torch.testing.assert_close(z.norm(dim=1), x.norm(dim=1), rtol=1e-5, atol=0)  # also at the border
    assert conv.weight.count_nonzero() == 16 * 16


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_after_lsuv_every_layer_hands_on_variance_1_on_the_images_it_saw(activation, batch_norm):
    model = made(RunConfig(activation=activation, blocks=5, init="lsuv", batch_norm=batch_norm))
    for index, z in enumerate(outputs(model, IMAGES)):
        assert z.std().item() == pytest.approx(1, abs=0.0101), index
    statistics = dict(made(RunConfig(blocks=5, init="lsuv", batch_norm=True)).named_buffers())
    for name, value in statistics.items():
        assert value.abs().max() == (1 if name.endswith("var") else 0), f"{name} must not remember the pass of LSUV"


def test_lsuv_of_a_dead_net_leaves_finite_weights():
    model = DeepLeNet(RunConfig(activation="relu", blocks=2, init="lsuv"))
    initialise(model, "lsuv", torch.Generator().manual_seed(0), torch.zeros_like(IMAGES))
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("init", INITS)
def test_an_initialisation_is_the_same_each_time_and_leaves_the_global_random_state_alone(init):
    before = torch.random.get_rng_state()
    one, other = (made(RunConfig(blocks=2, init=init, seed=5)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("init", sorted(set(INITS) - {"default"}))
def test_biases_keep_their_default_range(init):
    for layer in made(RunConfig(blocks=2, init=init)).weight_layers:
        assert 0 < layer.bias.abs().max() <= 1 / math.sqrt(layer.weight[0].numel())


def test_critical_weights_are_those_that_theory_calls_critical_and_only_in_the_blocks():
    for activation in ("sigmoid", "relu", "tanh", "leaky-relu"):
        assert ACTIVATIONS[activation].critical == pytest.approx(theory.critical_range(activation), rel=5e-4)
    model, default = (made(RunConfig(activation="relu", blocks=1, init=init)) for init in ("critical", "default"))
    assert torch.equal(model.conv2.weight, default.conv2.weight) and torch.equal(model.fc3.weight, default.fc3.weight)
    scaled = default.blocks[0].conv1.weight * 0.14065 / 0.05
    torch.testing.assert_close(model.blocks[0].conv1.weight, scaled)  # the same draws


def test_an_init_range_goes_before_an_initialisation_and_makes_no_second_run():
    assert RunConfig(init="lsuv", init_range=0.3) == RunConfig(init_range=0.3)
    assert RunConfig(other_norm="group", batch_norm=True) == RunConfig(batch_norm=True)
    assert RunConfig(branch_scale="skip-init") == RunConfig()


# --- activations, norms, scaled shortcut -----------------------------------------------------------------------------

FORMULAS = {
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "relu": lambda z: np.maximum(z, 0),
    "tanh": lambda z: (np.exp(z) - np.exp(-z)) / (np.exp(z) + np.exp(-z)),
    "leaky-relu": lambda z: np.where(z > 0, z, 0.01 * z),
    "gelu": lambda z: z / 2 * (1 + np.vectorize(math.erf)(z / math.sqrt(2))),
    "silu": lambda z: z / (1 + np.exp(-z)),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_activation_is_its_formula(activation):
    seen = {}

    def watch(index, z, h):
        seen[index] = z.double().numpy(), h.double().numpy()

    with torch.no_grad():
        made(RunConfig(activation=activation, blocks=1, init_range=0.5))(IMAGES[:2], watch)
    for index in (2, 3):
        z, h = seen[index]
        np.testing.assert_allclose(h, FORMULAS[activation](z), rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(seen[4][1], np.maximum(seen[4][0], 0))  # the head keeps relu


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_a_norm_is_its_formula_and_looks_at_one_image_only(norm):
    model = made(RunConfig(activation="tanh", blocks=1, other_norm=norm))
    seen = {}
    with torch.no_grad():
        model(IMAGES[:4], lambda index, z, h: seen.update({index: (z.double(), h.double())}))
        alone = {}
        model(IMAGES[:1], lambda index, z, h: alone.update({index: h.double()}))
    z, h = seen[2]
    parts = z.reshape(4, 4 if norm == "group" else 1, -1)
    mean, variance = parts.mean(2, keepdim=True), parts.var(2, keepdim=True, unbiased=False)
    expected = ((parts - mean) / (variance + 1e-5).sqrt()).reshape(z.shape).tanh()
    torch.testing.assert_close(h, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(alone[2], h[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "changes, more",  # trainable numbers beyond those of the plain net of three blocks
    [
        (dict(other_norm="group"), 6 * 32),
        (dict(other_norm="layer"), 6 * 2 * 784),
        (dict(shortcut=True, branch_scale="skip-init"), 3),
        (dict(shortcut=True, branch_scale="fixed"), 0),
        (dict(batch_norm=True, shortcut=True, branch_scale="skip-init"), 6 * 32 + 3),
    ],
)
def test_the_stated_parameter_count_is_the_real_one(changes, more):
    config = RunConfig(blocks=3, **changes)
    assert sum(p.numel() for p in DeepLeNet(config).parameters()) == parameter_count(config)
    assert parameter_count(config) == parameter_count(RunConfig(blocks=3)) + more


def test_skip_init_starts_as_the_net_without_its_blocks():
    config = RunConfig(activation="relu", blocks=5, shortcut=True, branch_scale="skip-init")
    deep, shallow = made(config), made(RunConfig(activation="relu", blocks=0))
    for name in ("conv1", "conv2", "fc1", "fc2", "fc3"):
        getattr(shallow, name).load_state_dict(getattr(deep, name).state_dict())
    assert torch.equal(deep(IMAGES), shallow(IMAGES))


def test_a_skip_init_branch_has_no_gradient_at_step_0_and_one_from_step_1_on(digits):
    zero, one, *_ = records(digits, activation="relu", blocks=3, shortcut=True, branch_scale="skip-init", steps=3)
    assert (zero.layers[ROWS["weight_grad_rms"], 2:-3] == 0).all() and (zero.layers[ROWS["weight_grad_rms"], :2] > 0).all()
    assert (one.layers[ROWS["weight_grad_rms"], 2:-3] > 0).all()


def test_that_first_zero_is_not_called_vanished(digits):
    config = RunConfig(activation="relu", blocks=3, shortcut=True, branch_scale="skip-init", dataset="digits", batch_size=8)
    run = Run(config, History(config.layers), Status.RUNNING)
    for record, _ in zip(training(config, digits, torch.device("cpu")), range(3), strict=False):
        run.history.append(record)
        assert Verdict.VANISHED not in diagnose(run).findings and Verdict.UNUSABLE not in diagnose(run).findings


def test_a_fixed_branch_is_divided_by_the_root_of_the_depth():
    config = RunConfig(activation="relu", blocks=4, shortcut=True, branch_scale="fixed", init_range=0.2)
    model, h = made(config), {}
    with torch.no_grad():
        model(IMAGES, lambda index, z, out: h.update({index: out}))
        x = F.max_pool2d(h[1], 2)
        for block in range(4):
            x = x + h[3 + 2 * block] / 2
        expected = F.linear(x.flatten(1), model.fc1.weight, model.fc1.bias).clamp(min=0)
    torch.testing.assert_close(h[10], expected, rtol=1e-4, atol=1e-4)


# --- control of the backward signal ----------------------------------------------------------------------------------


def chain(treatment: str, target: float, factors: list[float]) -> tuple[list[torch.nn.Linear], torch.nn.Sequential]:
    """A chain of one-number layers z = factor · x with three layers of a head, which are left alone."""
    layers = [torch.nn.Linear(1, 1, bias=False) for _ in factors] + [torch.nn.Linear(1, 1, bias=False) for _ in range(3)]
    for layer, factor in zip(layers, [*factors, 1.0, 1.0, 1.0], strict=True):
        torch.nn.init.constant_(layer.weight, factor)
    names = tuple(f"layer {place}" for place in range(len(layers)))
    steer(treatment, target, layers, Layout(names, range(len(factors))))
    return layers, torch.nn.Sequential(*layers)


def signals(layers, net) -> list[float]:
    """|∂z_last/∂z| that each layer works with, read off its weight gradient: signal = weight gradient / input."""
    net.zero_grad()
    inputs = []
    hooks = [layer.register_forward_pre_hook(lambda layer, x: inputs.append(x[0].item())) for layer in layers]
    net(torch.ones(1, 1)).sum().backward()
    for hook in hooks:
        hook.remove()
    return [abs(layer.weight.grad.item() / x) for layer, x in zip(layers, inputs, strict=True)]


def test_normalise_gives_every_layer_below_the_head_the_target():
    layers, net = chain("normalise", 0.5, [1.0, 1e-3, 1e3, -2.0])
    assert signals(layers, net) == pytest.approx([0.5] * 4 + [1, 1, 1], rel=1e-5)


def test_normalise_reaches_a_signal_whose_square_is_no_float():
    layers, net = chain("normalise", 0.5, [1.0, 1e-35])
    assert signals(layers, net)[:2] == pytest.approx([0.5, 0.5], rel=1e-5)


def test_neither_control_restores_an_exact_zero():
    for treatment in ("normalise", "feedback"):
        layers, net = chain(treatment, 0.5, [1.0, 1.0, 0.0])
        for _ in range(3):
            net.zero_grad()
            net(torch.ones(1, 1)).sum().backward()
        assert layers[0].weight.grad.item() == layers[1].weight.grad.item() == 0


def test_feedback_closes_the_gap_of_every_layer_by_its_gain_at_every_step():
    # By hand: the logarithm of the error shrinks by (1 − gain) a step, in each layer by itself.
    factors = [1.0, 1e-2, 10.0, 1e-3]
    layers, net = chain("feedback", 0.5, factors)
    before = np.log(signals(layers, net)[:4])
    assert before == pytest.approx(np.log([1e-4, 1e-2, 1e-3, 1.0]), rel=1e-4)  # a gain of 1 at first
    for step in range(1, 30):
        expected = math.log(0.5) + (before - math.log(0.5)) * (1 - FEEDBACK_GAIN) ** step
        assert np.log(signals(layers, net)[:4]) == pytest.approx(expected, abs=1e-3)


def test_controllers_that_each_correct_their_whole_error_would_overshoot():
    # Why `feedback` corrects differences: the error of a string of n controllers goes by 1 − K·C, C the running sum.
    for layers, end in ((24, 50.0), (80, 167.0)):  # 12 and 40 sigmoid blocks: nats under the target at the first layer
        own = np.eye(layers) - FEEDBACK_GAIN * np.triu(np.ones((layers, layers)))
        error, most = np.linspace(end, 0, layers), 0.0
        for _ in range(200):
            error = own @ error
            most = max(most, -error.min())
        assert most == pytest.approx({24: 70, 80: 14_114}[layers], rel=1e-3)  # nats over the target; float32 ends at 95


def test_feedback_brings_the_vanished_signal_of_a_real_net_to_its_target(digits):
    history = records(digits, blocks=6, treatment="feedback", threshold=1e-3, steps=40, lr=1e-7)
    signal = [record.layers[ROWS["signal_rms"], :-3] for record in history]
    plain = records(digits, blocks=6, steps=1)[0].layers[ROWS["signal_rms"]]
    assert signal[0] == pytest.approx(plain[:-3], rel=1e-5) and signal[0][2] < 1e-13
    assert np.abs(np.log10(signal[-1] / 1e-3)).max() < 0.2  # each batch has a signal of its own


def test_normalise_holds_the_signal_of_a_real_net_from_the_first_step(digits):
    (record,) = records(digits, blocks=20, treatment="normalise", threshold=1e-3, steps=1)
    assert record.layers[ROWS["signal_rms"], :-3] == pytest.approx(1e-3, rel=1e-4)


def test_a_restored_gradient_does_not_bring_back_what_the_forward_pass_has_lost(digits):
    # 24 sigmoid convolutions leave nothing of the image in float32: the gradient is large and knows no image.
    config = RunConfig(blocks=12, treatment="normalise", threshold=1e-3, dataset="digits", device="cpu")
    model = training(config, digits, torch.device("cpu")).model
    logits, mixed = (model(images).detach() for images in (digits.train_images[:16], digits.train_images[16:32]))
    assert torch.allclose(logits, mixed, rtol=0, atol=1e-6)


# --- theory, program, page -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [dict(activation=word) for word in ("gelu", "silu")]
    + [dict(init=word) for word in sorted(set(INITS) - {"default", "critical"})]
    + [dict(other_norm="group"), dict(other_norm="layer"), dict(treatment="normalise")]
    + [dict(shortcut=True, branch_scale=word) for word in ("fixed", "skip-init")]
    + [dict(activation="tanh", batch_norm=True), dict(activation="tanh", activation_everywhere=True)],
)
def test_where_there_is_no_theory_predict_says_so_and_gives_no_number(changes):
    predicted = theory.predict(RunConfig(blocks=3, **changes))
    assert np.isnan(predicted.weight_grad_rms).all() and len(predicted.weight_grad_rms) == 11
    assert np.isnan(predicted.factor) and len(predicted.limits) == 1 and "no prediction" in predicted.limits[0]
    assert theory.depth_marks(RunConfig(blocks=3, **changes)).adam_eps is None


def measured_profile(digits: Dataset, quantity: str, seeds: int = 3, **settings) -> np.ndarray:
    runs = [records(digits, steps=1, seed=seed, **settings)[0].layers[ROWS[quantity]] for seed in range(seeds)]
    return np.log10(np.median(runs, 0))


@pytest.mark.parametrize(
    "settings",
    [
        dict(activation="tanh", blocks=8),
        dict(activation="tanh", blocks=4, shortcut=True),
        dict(activation="tanh", blocks=8, init="critical"),
        dict(activation="tanh", blocks=8, init_range=0.3),
        dict(activation="leaky-relu", blocks=8),
        dict(activation="relu", blocks=8, init="critical"),
        dict(activation="sigmoid", blocks=6, init="critical"),
    ],
    ids=str,
)
@pytest.mark.parametrize("quantity", ["weight_grad_rms", "signal_rms", "activation_rms"])
def test_the_predicted_profile_is_the_measured_one(digits, settings, quantity):
    predicted = theory.predict(RunConfig(dataset="digits", batch_size=8, **settings))
    off = np.abs(getattr(predicted, quantity) - measured_profile(digits, quantity, **settings))
    assert np.median(off) < 0.2 and off.max() < 0.6


def test_at_the_critical_range_the_predicted_signal_keeps_its_size():
    for activation in ("sigmoid", "relu", "tanh", "leaky-relu"):
        predicted = theory.predict(RunConfig(activation=activation, blocks=100, init="critical"))
        assert predicted.signal_factor == pytest.approx(1, abs=0.01)


def test_tanh_is_two_sigmoids_less_one_in_the_theory_too():
    z, weight = np.polynomial.hermite_e.hermegauss(120)
    weight = weight / weight.sum()
    for q in (1e-4, 0.3, 4.0):
        f = gaussians("tanh", np.array([q]))
        values = np.tanh(math.sqrt(q) * z)
        assert f.second[0] == pytest.approx(weight @ values**2, rel=1e-3)
        assert f.slope[0] == pytest.approx(weight @ (1 - values**2) ** 2, rel=1e-3)
        assert f.pair(np.ones(1))[0] == pytest.approx(f.second[0], rel=1e-3)
        assert f.pair(np.zeros(1))[0] == 0


@pytest.mark.parametrize("name", [name for name in FIELDS if FIELDS[name].spec.choices])
def test_every_word_has_a_teaching_sentence(name):
    for word, sentence in FIELDS[name].spec.choices.items():
        assert len(sentence.split()) >= 2 and sentence.endswith("."), word


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_trains_a_step_and_has_a_program(name, digits):
    config = PRESETS[name].apply(RunConfig(dataset="digits", device="cpu", seed=1))
    record = next(iter(training(config, digits, torch.device("cpu"))))
    assert math.isfinite(record.loss)
    compile(code(config), "program.py", "exec")


def test_the_critical_init_cures_a_net_that_default_weights_cannot_train(digits):
    def loss(**changes):
        kept = records(digits, activation="relu", blocks=8, batch_size=32, steps=80, **changes)[-20:]
        return sum(record.loss for record in kept) / 20

    assert loss() > 2.28 and loss(init="critical") < 2.1


def test_the_command_line_has_them_by_the_same_words(capsys):
    settings = ["--dataset", "digits", "--device", "cpu", "--blocks", "1", "--batch-size", "4", "--steps", "1", "--json"]
    words = ["--activation", "tanh", "--init", "lsuv", "--other-norm", "group", "--shortcut", "--branch-scale", "fixed"]
    assert main(["train", *settings, *words, "--treatment", "feedback"]) == 0
    assert '"status": "finished"' in capsys.readouterr().out
    assert main(["train", *settings, "--init", "glorot"]) == 2
    assert "--init: " in (refusal := capsys.readouterr().err) and "xavier-normal" in refusal


def test_the_page_offers_them_closed_and_opens_them_where_one_is_in_use(page_server):
    page = lab()
    assert not _expander(page).proto.expanded
    page.selectbox(key="control_init").select("lsuv").run()
    assert page.query_params["init"] in ("lsuv", ["lsuv"]) and _expander(page).proto.expanded
    page.selectbox(key="control_activation_more").select("gelu").run()
    assert not page.exception and page.session_state[controls.CONFIG].activation == "gelu"
    page.selectbox(key="control_activation_more").select("").run()
    assert page.session_state[controls.CONFIG].activation == "sigmoid"
    page.toggle(key="control_init_custom").set_value(True).run()
    assert page.selectbox(key="control_init").disabled and page.session_state[controls.CONFIG].init == "default"


def test_a_link_with_further_remedies_reproduces_the_page(page_server):
    page = lab(activation="silu", other_norm="layer", shortcut="on", branch_scale="skip-init", init="he-normal")
    config = page.session_state[controls.CONFIG]
    assert (config.activation, config.other_norm, config.branch_scale, config.init) == ("silu", "layer", "skip-init", "he-normal")
    assert _expander(page).proto.expanded


def _expander(page):
    return next(expander for expander in page.expander if expander.label == "More remedies")
