"""The theory against closed forms, against brute force, and against real nets on real images."""

import dataclasses
import itertools
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks.theory_check import QUANTITIES, measured, medians, slope
from gradviz.lenet.config import RunConfig
from gradviz.lenet.data import Dataset, Shelf
from gradviz.lenet.theory import predict as theory
from gradviz.lenet.theory import stem, stem_statistics
from gradviz.lenet.theory.blocks import begin, mean_inverse
from gradviz.lenet.theory.depth import backward, forward
from gradviz.lenet.theory.gaussians import gaussians
from gradviz.lenet.theory.head import head_of, loss_gradient
from gradviz.lenet.theory.stem import stem_of
from gradviz.lenet.theory.taps import CHANNELS, FAN_IN, LAMBDA, TAPS, tap_correlation, tap_sum

BATCH = 32
# Decades that the median layer, and the profile per convolution, may lie off. The digits have a room of their own: few images
# whose stem theory knows less well, so that three of the nets lie a little over MNIST's (0.213, 0.211; 0.0111).
LEVEL, SLOPE = {"mnist": 0.2, "digits": 0.25}, {"mnist": 0.01, "digits": 0.013}


@pytest.fixture(scope="module")
def data() -> Dataset:
    shelf = Shelf(Path(os.environ.get("GRADVIZ_DATA", "data")), download=False)
    return shelf.load("mnist" if shelf.state("mnist").status == "ready" else "digits")


# --- real nets ---------------------------------------------------------------------------------------------------------

COMBINATIONS = list(itertools.product(("sigmoid", "relu"), (False, True), (False, True)))
CASES = [
    *(dict(activation=a, batch_norm=b, shortcut=s, blocks=3) for a, b, s in COMBINATIONS),
    *(dict(activation=a, batch_norm=b, shortcut=s, blocks=12) for a, b, s in COMBINATIONS),
    dict(activation="relu", blocks=12, init_range=0.02),
    dict(activation="relu", blocks=12, init_range=0.1406),
    dict(activation="relu", blocks=12, init_range=0.5),
    dict(activation="relu", blocks=12, init_range=0.5, shortcut=True),
    dict(activation="sigmoid", blocks=12, init_range=1.02),
    dict(activation="sigmoid", blocks=3, activation_everywhere=True),
    dict(activation="relu", blocks=1, dataset="digits"),
    dict(activation="relu", blocks=2, batch_norm=True, batch_size=5),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(f"{value}" for value in case.values()))
def test_the_prediction_lies_on_the_median_of_real_nets(case, data):
    config = RunConfig(**{"dataset": data.name, "batch_size": BATCH, **case})
    source = Shelf(Path("none"), download=False).load("digits") if config.dataset == "digits" else data
    plain_relu = config.activation == "relu" and not (config.batch_norm or config.shortcut)  # scatters most
    truth, predicted = medians(config, source, 9 if plain_relu else 5), theory.predict(config)
    for name in QUANTITIES:
        error = np.abs(getattr(predicted, name) - truth[name])
        if name == "share":
            error = error[truth[name] > -13]  # float64 itself ends at 1e-16
        assert np.median(error) < LEVEL[data.name], name
        assert error.max() < 0.6, name
    if config.blocks >= 12:
        assert abs(predicted.slope - slope(truth["weight_grad_rms"])) < SLOPE[data.name]
        assert abs(predicted.signal_slope - slope(truth["signal_rms"])) < 0.015


@pytest.mark.parametrize(("activation", "factor"), [("relu", 0.349), ("sigmoid", 0.1236)])
def test_thirty_blocks_vanish_far_below_float32_by_the_predicted_factor(activation, factor, data):
    config = RunConfig(activation=activation, blocks=30, dataset=data.name, batch_size=16)
    truth, predicted = medians(config, data, 3), theory.predict(config)
    assert abs(predicted.slope - slope(truth["weight_grad_rms"])) < SLOPE[data.name]
    assert predicted.factor == pytest.approx(factor, rel=0.02)
    assert np.median(np.abs(predicted.weight_grad_rms - truth["weight_grad_rms"])) < LEVEL[data.name]


def test_one_draw_lies_in_the_band_of_two_standard_deviations_nearly_always(data):
    inside = []
    for activation, norm, shortcut in COMBINATIONS:
        config = RunConfig(
            activation=activation, batch_norm=norm, shortcut=shortcut, blocks=4, dataset=data.name, batch_size=BATCH
        )
        predicted = theory.predict(config)
        for seed in range(4):
            off = np.abs(measured(config, data, seed)["weight_grad_rms"] - predicted.weight_grad_rms)
            inside.append(off < 2 * predicted.std)
    assert 0.9 < np.mean(inside)
    assert theory.predict(RunConfig(blocks=40, activation="relu")).std[2] < 0.7  # a band that held everything would say nothing


# --- the lessons -------------------------------------------------------------------------------------------------------


def test_large_init_explodes_the_signal_and_leaves_the_weight_gradient_flat():
    predicted = theory.predict(RunConfig(activation="relu", init_range=0.5, blocks=40))
    assert predicted.signal_factor == pytest.approx(3.5, rel=0.05)
    assert predicted.factor == pytest.approx(1, abs=0.02)
    assert any("flat" in sentence for sentence in predicted.limits)


def test_batch_norm_explodes_with_relu_and_vanishes_with_sigmoid():
    assert 1.1 < theory.predict(RunConfig(activation="relu", batch_norm=True, blocks=60)).factor < 1.18
    assert 0.7 < theory.predict(RunConfig(activation="sigmoid", batch_norm=True, blocks=60)).factor < 0.77


def test_relu_with_shortcut_grows_by_seven_percent_per_block():
    size = theory.predict(RunConfig(activation="relu", shortcut=True, blocks=1000)).activation_rms[2:-3:2]
    assert np.diff(size)[500:].mean() == pytest.approx(math.log10(1.072), abs=0.001)


def test_no_shortcut_and_no_norm_predicts_no_less_vanishing_than_either():
    plain = theory.predict(RunConfig(activation="sigmoid", blocks=12)).weight_grad_rms[2]
    for changes in (dict(shortcut=True), dict(batch_norm=True)):
        assert theory.predict(RunConfig(activation="sigmoid", blocks=12, **changes)).weight_grad_rms[2] > plain + 10


def test_critical_ranges_divide_vanishing_from_exploding():
    assert theory.critical_range("relu") == pytest.approx(0.14065, abs=5e-6)
    assert theory.critical_range("sigmoid") == pytest.approx(1.02, abs=5e-3)
    for activation in ("relu", "sigmoid"):
        critical = theory.critical_range(activation)
        below, above = (
            theory.predict(RunConfig(activation=activation, init_range=a, blocks=100)).signal_factor
            for a in (0.9 * critical, 1.2 * critical)
        )
        assert below < 1 < above


def test_depth_marks_are_the_first_depth_that_crosses():
    marks = theory.depth_marks(RunConfig(activation="relu", blocks=700))
    assert (marks.adam_eps, marks.float32_normal, marks.float32_zero) == (6, 39, 45)
    assert marks.float32_overflow is None
    for blocks, under in ((marks.adam_eps - 1, False), (marks.adam_eps, True)):
        predicted = theory.predict(RunConfig(activation="relu", blocks=blocks))
        assert (predicted.weight_grad_rms[2] < math.log10(1e-8)) is np.bool_(under)
    assert 33 <= theory.depth_marks(RunConfig(activation="relu", init_range=0.5)).float32_overflow <= 36
    assert theory.depth_marks(RunConfig(activation="sigmoid")).adam_eps == 3


def test_depth_marks_are_found_once_for_all_ways_to_train_a_net():
    marks = theory.depth_marks(RunConfig(activation="relu", batch_size=32))
    for changes in (dict(lr=0.1), dict(optimizer="sgd"), dict(steps=7), dict(seed=5), dict(blocks=900),
                    dict(treatment="clip-norm", threshold=2.0)):  # fmt: skip
        assert theory.depth_marks(RunConfig(activation="relu", batch_size=32, **changes)) is marks
    assert theory.depth_marks(RunConfig(activation="relu", batch_size=32, init_range=0.1)) is not marks


# --- closed forms and brute force ----------------------------------------------------------------------------------------


def test_the_tap_matrix_counts_valid_taps_and_its_largest_eigenvalue_is_18_956():
    for p, q in itertools.product(range(49), repeat=2):
        near = abs(p // 7 - q // 7) <= 2 and abs(p % 7 - q % 7) <= 2
        assert TAPS[p, q] == near
    v = np.ones(49)
    for _ in range(100):
        v = TAPS @ v
        v /= np.linalg.norm(v)
    assert v @ TAPS @ v == pytest.approx(LAMBDA, abs=1e-9)
    assert LAMBDA == pytest.approx(18.956, abs=5e-4)


def test_tap_sum_is_what_a_random_convolution_does_to_a_covariance():
    kernel = np.random.default_rng(0).standard_normal((49, 49))
    by_hand = np.zeros((7, 7, 7, 7))
    shifts = range(-2, 3)
    for i, j, k, m, s, t in itertools.product(*[range(7)] * 4, shifts, shifts):
        if min(i + s, j + t, k + s, m + t) >= 0 and max(i + s, j + t, k + s, m + t) < 7:
            by_hand[i, j, k, m] += kernel.reshape(7, 7, 7, 7)[i + s, j + t, k + s, m + t]
    np.testing.assert_allclose(tap_sum(kernel), by_hand.reshape(49, 49), atol=1e-12)


def test_the_tap_correlation_is_the_sum_over_pairs_one_tap_apart():
    g, h = np.random.default_rng(1).random((2, 3, 49))
    by_hand = np.zeros(3)
    for s, t in itertools.product(range(-2, 3), repeat=2):
        pairs = [(p, p + 7 * s + t) for p in range(49) if 0 <= p // 7 + s < 7 and 0 <= p % 7 + t < 7]
        by_hand += sum(g[:, p] * h[:, q] for p, q in pairs) ** 2
    np.testing.assert_allclose(tap_correlation(g, h), by_hand)


@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
@pytest.mark.parametrize("q", [1e-4, 0.3, 5.0, 200.0])
def test_gaussian_moments_agree_with_numerical_integration(activation, q):
    f, slope_of = {
        "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0) * 1.0),
        "sigmoid": (lambda z: 1 / (1 + np.exp(-z)), lambda z: 1 / (2 + 2 * np.cosh(np.minimum(np.abs(z), 700)))),
    }[activation]
    u = np.linspace(-8, 8, 4001)
    weight = np.exp(-u * u / 2)
    weight /= weight.sum()
    z = math.sqrt(q) * u
    gauss = gaussians(activation, np.array([q]))
    assert gauss.second[0] == pytest.approx(weight @ f(z) ** 2, rel=2e-3)
    assert gauss.slope[0] == pytest.approx(weight @ slope_of(z) ** 2, rel=2e-3)
    assert gauss.mean[0] == pytest.approx(weight @ f(z), rel=2e-3)
    u = u[::10]
    weight = np.exp(-u * u / 2)
    weight = np.outer(weight, weight) / weight.sum() ** 2
    for c in (0.0, 0.5, 0.95):
        one, two = math.sqrt(q) * u[:, None], math.sqrt(q) * (c * u[:, None] + math.sqrt(1 - c * c) * u[None, :])
        assert gauss.pair(np.array([c]))[0] == pytest.approx((weight * f(one) * f(two)).sum(), rel=0.02)
        if q < 100 or c < 0.9:  # the series ends where saturated sigmoids of nearly equal images would need its tail
            assert gauss.pair_slope(np.array([c]))[0] == pytest.approx((weight * slope_of(one) * slope_of(two)).sum(), rel=0.05)


def test_arc_cosine_kernels_have_their_known_limits():
    gauss = gaussians("relu", np.full(3, 2.0))
    np.testing.assert_allclose(gauss.pair(np.array([1.0, 0, -1])), [1, 1 / math.pi, 0], atol=1e-12)
    np.testing.assert_allclose(gauss.pair_slope(np.array([1.0, 0, -1])), [1 / 2, 1 / 4, 0], atol=1e-12)


@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_a_matrix_of_correlations_pairs_every_variance_with_every_other(activation):
    q, rows = np.array([0.5, 2.0]), np.array([[0, 0], [1, 1]])
    gauss, equal = gaussians(activation, q, (rows, rows.T)), gaussians(activation, q)
    for name in ("pair", "pair_slope"):
        kernel = getattr(gauss, name)(np.ones((2, 2)) * 0.3)
        np.testing.assert_allclose(np.diag(kernel), getattr(equal, name)(np.array([0.3, 0.3])))
        assert kernel[0, 1] == pytest.approx(kernel[1, 0])
    kernel = gauss.pair(np.ones((2, 2)) * 0.3)
    assert kernel[0, 0] < kernel[0, 1] < kernel[1, 1]


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh"])
def test_both_expectations_at_once_are_the_two_one_by_one(activation):
    gauss, c = gaussians(activation, np.array([0.5, 2.0, 30.0])), np.array([-0.4, 0.3, 1.0])
    np.testing.assert_allclose(gauss.pair_both(c), [gauss.pair(c), gauss.pair_slope(c)], rtol=1e-12)


def test_the_mean_inverse_of_a_chi_square_is_known():
    for n in (5, 40):
        assert mean_inverse(np.array([[1 / n]]), np.array([n])) == pytest.approx(n / (n - 2), rel=2e-3)
    two_groups = mean_inverse(np.full((2, 4), 1 / 40), np.array([1, 9]))  # 4 values once, 4 values 9 times each
    assert two_groups == pytest.approx(40 / 38, rel=2e-3)


def test_the_loss_gradient_has_its_two_simple_limits():
    """At logits 0 every class gets 1/10; at huge logits one class gets all, right in one case of ten."""
    alone, pairs, _ = loss_gradient(math.log(1e-4), 1.0, 64)
    assert (alone, pairs) == pytest.approx((0.9 / 64, 0), abs=1e-8)
    alone, pairs, along = loss_gradient(math.log(1e20), 1.0, 64)
    assert (alone, pairs) == pytest.approx((1.8 / 64, 0.9 * 63 / 64), rel=1e-3)
    assert math.exp(along) == pytest.approx(1.5388e20, rel=0.03)  # the largest of ten normals has mean 1.5388


def test_the_smallest_net_is_exact_where_it_can_be():
    """Tiny weights: the logits are 0 up to biases, so the signal at fc3 is (1/10 − one-hot)/64, of root mean square 0.3/64."""
    predicted = theory.predict(RunConfig(blocks=0, init_range=0.001))
    assert 10 ** predicted.signal_rms[-1] == pytest.approx(0.3 / 64, rel=0.01)
    # fc2 and fc3 see biases alone: variance 1/(3·120) below, half of it left by relu; then 1/(3·84) of fc3's own.
    assert 10 ** predicted.activation_rms[-2] == pytest.approx(math.sqrt(1 / 360 / 2), rel=0.01)
    assert 10 ** predicted.activation_rms[-1] == pytest.approx(math.sqrt(1 / 252), rel=0.01)


def test_strides_and_settling_change_nothing_that_can_be_seen():
    changes = [*itertools.product(("sigmoid", "relu"), (False, True), (False, True))]
    configs = [RunConfig(activation=a, batch_norm=b, shortcut=s, blocks=50) for a, b, s in changes]
    configs += [RunConfig(activation="relu", blocks=50, init_range=a) for a in (0.1406, 0.5)]
    for config in configs:
        fast, slow = theory.predict(config), theory.predict(config, exactly=True)
        assert fast.weight_grad_rms is not slow.weight_grad_rms
        for name in ("weight_grad_rms", "signal_rms", "activation_rms", "share"):
            np.testing.assert_allclose(getattr(fast, name), getattr(slow, name), atol=0.06)


@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
@pytest.mark.parametrize("norm", [False, True])
def test_blocks_alike_give_what_the_same_blocks_give_one_by_one(activation, norm):
    """The way back jumps over the blocks that are alike; given each of them, it has to walk."""
    blocks, variance = 150, 1 / (3 * FAN_IN)
    conv, state = begin(stem_of("mnist", "relu", None), activation, norm, False, variance, 64)
    way = forward(conv, state, blocks)
    assert len(way.slopes) < 60
    slopes, below = (np.concatenate([v, np.repeat(v[-1:], blocks - len(v), 0)]) for v in (way.slopes, way.below))
    every = dataclasses.replace(way, slopes=slopes, below=below)
    top = head_of("relu", way.end, None, 64).top
    jumped, walked = (backward(each, CHANNELS * variance * TAPS, top, False, blocks) for each in (way, every))
    for name, one, other in zip(("gradient", "signal"), jumped, walked, strict=False):
        np.testing.assert_allclose(one, other, atol=4e-7, err_msg=name)  # natural logarithms of squares
    (_, _, one, log_one, _), (_, _, other, log_other, _) = jumped, walked
    np.testing.assert_allclose(np.log(one[0]) + log_one, np.log(other[0]) + log_other, atol=4e-7)


# --- over the whole range ------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("init_range", [None, 0.001, 0.14, 2.0])
@pytest.mark.parametrize(("activation", "norm", "shortcut"), COMBINATIONS)
def test_every_net_has_a_finite_prediction_in_log10(activation, norm, shortcut, init_range):
    for blocks, batch, everywhere, dataset in ((0, 64, True, "digits"), (1, 1, False, "kmnist"), (9, 1024, True, "mnist"),
                                               (1000, 64, False, "mnist")):  # fmt: skip
        config = RunConfig(
            activation=activation, batch_norm=norm, shortcut=shortcut, blocks=blocks, init_range=init_range,
            batch_size=batch, activation_everywhere=everywhere, dataset=dataset,
        )  # fmt: skip
        predicted = theory.predict(config)
        for name in ("weight_grad_rms", "signal_rms", "activation_rms", "share", "std"):
            values = getattr(predicted, name)
            assert values.shape == (config.layers,)
            assert np.isfinite(values).all(), name
        assert (predicted.std > 0).all()
        assert (predicted.share <= 0.02).all()
        assert all(sentence.endswith(".") for sentence in predicted.limits)
        assert ("never measured on kmnist" in " ".join(predicted.limits)) is (dataset == "kmnist")


def test_equal_nets_share_one_answer_that_nobody_can_change():
    one, two = (theory.predict(RunConfig(blocks=7, seed=seed, lr=lr)) for seed, lr in ((0, 1e-3), (1, 1e-2)))
    assert one.signal_rms is two.signal_rms
    with pytest.raises(ValueError, match="read-only"):
        one.signal_rms[0] = 0


def test_what_the_theory_cannot_say_is_said_in_words():
    def said(**changes) -> str:
        return " ".join(theory.predict(RunConfig(**changes)).limits)

    assert "exactly 0" in said(activation="sigmoid", blocks=30)
    assert "exactly 0" not in said(activation="sigmoid", blocks=6)
    assert "inf or nan" in said(activation="relu", init_range=0.5, blocks=40)
    assert "lower bound" in said(activation="relu", batch_norm=True, shortcut=True, blocks=200)
    assert "saturated" in said(activation="sigmoid", init_range=0.5)
    assert "trainability" in said(activation="sigmoid", batch_norm=True, blocks=12)
    assert "Adam" in said(activation="relu", blocks=12) and "Adam" not in said(activation="relu", blocks=12, optimizer="sgd")
    assert "one map for all pictures" in said(activation="relu", blocks=12)


# --- the shipped table -----------------------------------------------------------------------------------------------------


def test_the_stem_that_the_table_was_measured_with_is_the_stem_of_the_net():
    """Forward and backward of the numpy stem against PyTorch's convolution, pooling and autograd."""
    random = np.random.default_rng(0)
    images, weight, bias = random.standard_normal((3, 2, 8, 8)), random.standard_normal((4, 50)), random.standard_normal(4)
    seed = random.standard_normal((3, 4, 4, 4))
    for name, activation in (("relu", torch.relu), ("sigmoid", torch.sigmoid)):
        layer = stem_statistics.StemLayer(stem_statistics.conv_patches(images), weight, bias, name)
        x = torch.tensor(images, requires_grad=True)
        w = torch.tensor(weight.reshape(4, 2, 5, 5), requires_grad=True)
        z = F.conv2d(x, w, torch.tensor(bias), padding=2)
        z.retain_grad()
        out = F.max_pool2d(activation(z), 2)
        out.backward(torch.tensor(seed))
        np.testing.assert_allclose(layer.pooled, out.detach(), atol=1e-12)
        grad_z, grad_w, grad_x = layer.backward(seed)
        np.testing.assert_allclose(grad_z.transpose(0, 2, 1).reshape(z.shape), z.grad, atol=1e-12)
        np.testing.assert_allclose(grad_w.reshape(w.shape), w.grad, atol=1e-12)
        np.testing.assert_allclose(grad_x, x.grad, atol=1e-12)


def test_the_shipped_table_is_what_its_command_measures(data):
    """A few new draws against the stored ones: within the scatter of so few."""
    stored = stem.table()["datasets"][data.name]
    for activation, index, init_range in (("relu", 0, None), ("sigmoid", 5, stem_statistics.INIT_RANGES[4])):
        fresh = stem_statistics.measure(data.train_images.numpy(), activation, init_range, 3, np.random.default_rng(5))
        for name in ("scale", "gap_scale", "conv1_activation", "conv2_activation", "conv2_image_part"):
            assert abs(math.log10(fresh[name] / stored[activation][index][name])) < 0.3, name
    assert stem.table()["command"].startswith(stem_statistics.COMMAND)


def test_between_two_measured_init_ranges_the_stem_is_interpolated():
    low, middle, high = (theory.predict(RunConfig(blocks=0, init_range=a)).activation_rms[1] for a in (0.2, 0.3, 0.5))
    assert low < middle < high
    for a in stem.table()["init_ranges"]:
        near = theory.predict(RunConfig(blocks=4, init_range=a))
        beside = theory.predict(dataclasses.replace(RunConfig(blocks=4), init_range=min(2.0, a * 1.001)))
        np.testing.assert_allclose(near.weight_grad_rms, beside.weight_grad_rms, atol=0.02)
