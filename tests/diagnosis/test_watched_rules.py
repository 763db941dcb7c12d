"""How a watched net is judged, on records made by hand: each rule, and the healthy neighbour that it must let be."""

from dataclasses import replace

import numpy as np
import pytest

from gradviz.diagnosis.examine import examine, headline
from gradviz.diagnosis.findings import Verdict
from gradviz.record.history import History
from gradviz.record.layout import Layout
from gradviz.record.run import Run, Status
from gradviz.record.watched import ABSENT, MEASURED, Watched

NAMES = tuple(f"layer{k}" for k in range(8))
NET = Watched(
    "watched-" + 16 * "0", "A net, AdamW", Layout(NAMES), ("Linear",) * 8, (100,) * 8, (), ("AdamW",), (10,) * 8, ("",) * 8,
    ("float32",) * 8,
)  # fmt: skip
USUAL = {"weight_grad_rms": 1e-3, "treated_grad_rms": 1e-3, "update_ratio": 1e-3, "zero_share": 0.0, "still_share": 0.0}


def recorded(columns: int = 12, recipe: Watched = NET, loss: object = 1.0, **quantities: object) -> Run[Watched]:
    """Quantity -> numbers that fit (columns, layers)."""
    table = np.full((columns, len(MEASURED), len(recipe.layout)), 0.1, np.float32)
    for name, values in (USUAL | quantities).items():
        table[:, MEASURED.index(name)] = values
    scalars = np.zeros((columns, 3))
    scalars[:, 0] = loss
    history = History.restored(table, scalars, [], 1, 1000, quantities=MEASURED)
    return Run(recipe, history, Status.FINISHED)


def found(run: Run[Watched], column: int | None = None) -> tuple[Verdict, ...]:
    return examine(run, column).findings


HEALTHY = (Verdict.HEALTHY,)


def test_layers_of_different_size_are_compared_by_the_length_of_their_gradients():
    rms = np.geomspace(1e-7, 1e-2, 8)
    assert found(recorded(weight_grad_rms=rms)) == (Verdict.VANISHING,)
    sizes = tuple((1e-4 / rms**2).astype(int).tolist())  # each of length 1e-2
    same = examine(recorded(recipe=replace(NET, entries=sizes), weight_grad_rms=rms))
    assert same.findings == HEALTHY and same.sentence.arguments["g_front"] == pytest.approx(1e-2, rel=0.05)


def test_the_signal_is_compared_by_its_length_too():
    rms = np.geomspace(1e3, 1e-2, 8)
    assert found(recorded(signal_rms=rms)) == (Verdict.EXPLODING,)
    assert found(recorded(signal_rms=rms, recipe=replace(NET, outputs=tuple((1e8 / rms**2).astype(int).tolist())))) == HEALTHY


def test_one_odd_layer_at_an_end_decides_nothing_and_the_sentence_names_a_layer_with_its_own_number():
    gradients = np.array([1e-9, *[1e-3] * 6, 1e3])
    assert found(recorded(weight_grad_rms=gradients)) == found(recorded(weight_grad_rms=gradients[::-1])) == HEALTHY
    vanishing = examine(recorded(weight_grad_rms=np.geomspace(1e-9, 1e-2, 8)))
    numbers = dict(zip(NAMES, np.geomspace(1e-9, 1e-2, 8) * 10, strict=True))
    words = vanishing.sentence.arguments
    for which in ("front", "back"):
        assert words[f"g_{which}"] == pytest.approx(numbers[words[which]], rel=1e-5)


@pytest.mark.parametrize("kind", ["Embedding", "tied", "bare"])
def test_what_has_no_place_on_the_way_of_the_gradient_is_passed_over(kind):
    gradients = np.array([1e-9, 1e-9, *[1e-3] * 6])
    run = recorded(weight_grad_rms=gradients)
    assert found(run) == (Verdict.VANISHING,)
    if kind == "Embedding":
        run.recipe = replace(NET, kinds=("Embedding", "Embedding", *["Linear"] * 6))
    elif kind == "tied":
        run.recipe = replace(NET, tied=(("layer0", "layer7"), ("layer1", "layer7")))
    else:
        run.missing = {name: {"signal_rms": "watch-bare"} for name in NAMES[:2]}
    assert found(run) == HEALTHY


def test_a_gradient_of_0_is_judged_after_five_steps():
    gradients = np.full((12, 8), 1e-3)
    gradients[:, :5] = 0
    run = recorded(weight_grad_rms=gradients)
    assert found(run, 0) == found(run, 4) == HEALTHY and found(run, 5) == (Verdict.VANISHED,)


def test_layers_that_stood_behind_a_weight_of_0_are_compared_with_each_other():
    """The two halves of low-rank adapters: a's gradient is as small as b still is."""
    gradients = np.full((12, 8), 1e-2)
    gradients[:, :6:2] = np.linspace(0, 1e-7, 12)[:, None]  # a, b, a, b, a, b, and a head
    assert found(recorded(weight_grad_rms=gradients)) == HEALTHY
    body = np.full((12, 8), 1e-2)  # all but the head, behind which the gradient comes with the head's weight
    body[:, :7] = np.linspace(0, 1e-7, 12)[:, None]
    assert found(recorded(weight_grad_rms=body)) == HEALTHY
    body[:, :3] *= 1e-6  # and within it, it vanishes
    assert found(recorded(weight_grad_rms=body))[-1] is Verdict.VANISHING


def test_what_a_scaler_has_left_out_is_no_divergence_unless_it_goes_on():
    gradients, updates = np.full((12, 8), 1e-3), np.full((12, 8), 1e-3)
    gradients[[0, 1, 11]], updates[[0, 1, 11]] = np.inf, 0
    run = recorded(weight_grad_rms=gradients, treated_grad_rms=gradients, update_ratio=updates)
    assert found(run) == (Verdict.DIVERGED,)
    run.overflows = 3
    assert found(run) == HEALTHY and "left out 3 steps" in " ".join(map(str, examine(run).evidence))
    run.overflows = 10
    assert found(run) == (Verdict.OVERFLOWING,) and "growth every 2000 steps" in str(examine(run).advice[0])


def test_a_divergence_names_its_step_its_layer_and_the_last_loss_and_sends_to_the_data_where_they_are_to_blame():
    activations = np.full((12, 8), 0.5)
    activations[7:] = np.nan
    loss = [2.5] * 7 + [np.nan] * 5
    diagnosis = examine(recorded(activation_rms=activations, loss=loss))
    assert str(diagnosis.sentence) == (
        "Diverged: at step 7 inf or nan first appears, in layer0; the last loss that was told, of step 6, was 2.50."
    )
    assert diagnosis.advice[0].code == "advice-batch"
    activations[7:, :3] = 0.5
    assert examine(recorded(activation_rms=activations, loss=loss)).advice[0].code == "advice-diverged"
    fast = np.full((12, 8), 1e-3)
    fast[5] = 3
    assert examine(recorded(activation_rms=activations, update_ratio=fast, loss=loss)).advice[0].code == "advice-steps"


def test_a_layer_without_a_gradient_and_one_that_no_optimiser_holds_are_named():
    gradients, updates = np.full(8, 1e-3), np.full(8, 1e-3)
    gradients[:3] = updates[:3] = ABSENT
    run = recorded(weight_grad_rms=gradients, treated_grad_rms=gradients, update_ratio=updates)
    assert found(run) == HEALTHY  # frozen, for all that is known
    run.missing = {name: {"weight_grad_rms": "watch-no-gradient"} for name in NAMES[:3]}
    assert found(run) == (Verdict.DETACHED,) and "reaches layer2 (and 2 more)" in str(examine(run).sentence)
    run = recorded(update_ratio=updates)
    run.missing = {name: {"update_ratio": "watch-no-optimizer"} for name in NAMES[:3]}
    assert found(run) == (Verdict.UNHELD,) and "layer0 (and 2 more)" in str(examine(run).sentence)


def test_a_net_without_any_gradient_says_which_layers_lack_it():
    nothing = dict.fromkeys(("weight_grad_rms", "treated_grad_rms", "update_ratio"), ABSENT)
    run = recorded(**nothing)
    assert found(run) == (Verdict.WAITING,)
    run.missing = {name: {"weight_grad_rms": "watch-no-gradient"} for name in NAMES}
    assert found(run) == (Verdict.DETACHED,) and examine(run).advice


def test_a_gradient_that_is_gone_before_the_step_is_no_gradient():
    run = recorded(treated_grad_rms=0.0, update_ratio=0.0)
    assert found(run)[0] is Verdict.DETACHED and examine(run).advice[0].code == "advice-lost"


def test_slow_steps_are_judged_after_five_of_them_and_neither_in_a_warm_up_nor_at_the_end_of_a_schedule():
    slow = recorded(update_ratio=1e-7)
    assert found(slow, 3) == HEALTHY and found(slow) == (Verdict.STILL,)
    warming = recorded(update_ratio=np.linspace(0, 1e-6, 12)[:, None])
    assert found(warming) == HEALTHY
    ended = recorded(update_ratio=np.geomspace(1e-2, 1e-9, 12)[:, None])
    assert found(ended) == HEALTHY
    part = recorded(update_ratio=np.array([1e-9] * 3 + [1e-3] * 5))
    assert found(part) == HEALTHY  # a slow group of an optimiser with several rates


@pytest.mark.parametrize(
    ("quantities", "advice"),
    [
        (dict(treated_grad_rms=1e-7), "advice-clip"),
        (dict(treated_grad_rms=1e-3), "advice-rate"),
        (dict(treated_grad_rms=2e-9, weight_grad_rms=2e-9), "advice-eps"),
    ],
)
def test_what_stands_still_is_told_why(quantities, advice):
    diagnosis = examine(recorded(update_ratio=1e-7, **quantities))
    assert diagnosis.findings == (Verdict.STILL,) and diagnosis.advice[0].code == advice


def test_a_gradient_under_adams_eps_is_useless_unless_it_was_once_larger_or_the_optimiser_is_another():
    tiny = dict(weight_grad_rms=1e-11, treated_grad_rms=1e-11)
    assert found(recorded(**tiny)) == (Verdict.UNUSABLE,)
    assert found(recorded(recipe=replace(NET, optimizers=("SGD",)), **tiny)) == HEALTHY
    learnt = np.geomspace(1e-3, 1e-11, 12)[:, None]
    assert found(recorded(weight_grad_rms=learnt, treated_grad_rms=learnt)) == HEALTHY


def test_steps_are_too_large_now_or_once_where_the_loss_has_not_fallen_since():
    assert found(recorded(update_ratio=0.6)) == (Verdict.LARGE,)
    once = np.full((12, 8), 1e-2)
    once[1] = 3
    assert found(recorded(update_ratio=once)) == (Verdict.LARGE,)
    assert found(recorded(update_ratio=once, loss=np.linspace(2, 0.1, 12))) == HEALTHY
    weights = np.full((12, 8), 0.1)
    weights[0, :6] = 0  # began at 0: its first step is of any size
    few = np.full((12, 8), 1e-2)
    few[1, :6] = 100
    assert found(recorded(update_ratio=few, weight_rms=weights)) == HEALTHY


def test_weights_of_16_bits_that_no_step_moves_are_named_and_those_of_32_bits_are_not():
    narrow = replace(NET, precisions=("bfloat16",) * 8)
    stuck = examine(recorded(recipe=narrow, still_share=0.9, update_ratio=1e-4))
    assert stuck.findings == (Verdict.COARSE,) and "90%" in str(stuck.sentence)
    assert found(recorded(recipe=narrow, still_share=0.3)) == HEALTHY
    assert found(recorded(still_share=0.9, update_ratio=1e-4)) == HEALTHY


def test_a_relu_is_dead_where_no_signal_comes_back_through_it_but_one_reaches_the_next_layer():
    signal, gradient = np.full(8, 1e-3), np.full(8, 1e-3)
    signal[:4] = gradient[:4] = 0
    relus = replace(NET, behind=("relu",) * 7 + ("",))
    run = recorded(recipe=relus, signal_rms=signal, weight_grad_rms=gradient)
    assert found(run)[0] is Verdict.DEAD and "behind layer3 relu" in str(examine(run).sentence)
    assert Verdict.DEAD not in found(recorded(signal_rms=signal, weight_grad_rms=gradient))  # no relu stands there
    assert Verdict.DEAD not in found(run, 3)


def test_tanh_and_sigmoid_are_saturated_by_what_they_are_given_and_nothing_else_is():
    assert found(recorded(recipe=replace(NET, behind=("tanh",) * 8), activation_rms=6.0)) == (Verdict.SATURATED,)
    assert found(recorded(recipe=replace(NET, behind=("sigmoid",) * 8), activation_rms=6.0)) == HEALTHY
    assert found(recorded(activation_rms=60.0)) == HEALTHY


@pytest.mark.parametrize("column", [0, 5, None])
def test_the_headline_is_that_of_the_whole_diagnosis(column):
    for run in (recorded(), recorded(weight_grad_rms=np.geomspace(1e-9, 1, 8)), recorded(update_ratio=1e-8)):
        diagnosis = examine(run, column)
        assert headline(run, column) == (diagnosis.verdict, diagnosis.sentence)
