"""Small weights, measured together in one stretch of memory, against numpy's float64; and what does not fit there."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from watched_nets import assert_near, features, loss_on, rms, row

import gradviz
from gradviz.train.buckets import Buckets


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    """A third of it exact zeros."""
    made = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=made) * (torch.rand(shape, generator=made) > 1 / 3)


WEIGHTS = [
    drawn(3, 5), drawn(16, 8, seed=1), drawn(8, 16, seed=2), drawn(128, seed=3), drawn(5, 3).t(),
    drawn(2, 4, 3, 3).to(memory_format=torch.channels_last), drawn(130, 131), drawn(132, 130).t(), drawn(300, 300),
    drawn(64, 33, 3, 3).to(memory_format=torch.channels_last), torch.zeros(4, 4), drawn(3, 3) * 1e-30, drawn(3, 3, seed=4) * 1e30,
    torch.tensor([[torch.inf, 1.0]]), torch.tensor([[torch.nan, 0.0]]), torch.tensor(-2.5),
]  # fmt: skip
OUTSIDE = [None, drawn(4, 4).double(), drawn(4, 4).bfloat16(), drawn(4, 5)[:, :-1], torch.empty(0, 4), drawn(400, 400)]


def length(tensor: torch.Tensor) -> float:
    return float(np.linalg.norm(tensor.double().numpy().ravel()))


def zeros_not(tensor: torch.Tensor) -> int:
    return int(np.count_nonzero(tensor.numpy()))


def test_lengths_and_what_is_not_zero_are_those_of_float64_whatever_lies_beside_them():
    buckets = Buckets([*OUTSIDE, *WEIGHTS])
    others = [None if w is None else w + 1 for w in OUTSIDE]
    given = [*others, *(w * torch.where(drawn(*w.shape, seed=9) == 0, 0.0, 1.0) for w in WEIGHTS)]
    found, rest = buckets.sort(given)
    assert rest == [1, 2, 3, 4, 5]
    for bucket, there in found:
        for k, one, long, count in zip(bucket.rows, there, *bucket.measure(there), strict=True):
            assert one is given[k] and long == pytest.approx(length(one), rel=1e-6, nan_ok=True), k
            assert count == zeros_not(one), k
    assert sorted(k for bucket, _there in found for k in bucket.rows) == list(range(len(OUTSIDE), len(given)))


def test_of_a_step_it_has_lengths_before_of_the_gradient_and_of_the_change_for_those_rows_alone_that_are_there():
    weights = [w for w in WEIGHTS if w.isfinite().all() and w.abs().max() < 1e3]  # of all kinds, in two orders of memory
    buckets = Buckets(weights)
    for turn in range(2):  # the second time what was kept of others lies beside
        some = [None if k % 3 == turn else w for k, w in enumerate(weights)]
        ((bucket, before),), rest = buckets.sort(some)
        gradients = [None if one is None else drawn(*one.shape, seed=turn + 5) for one in before]
        for k, one, long in zip(bucket.rows, before, bucket.keep(before), strict=True):
            assert (one is None) == (k % 3 == turn) and (one is None or long == pytest.approx(length(one), rel=1e-6))
        lengths, pushed = bucket.push(gradients)
        for gradient, long, count in zip(gradients, lengths, pushed, strict=True):
            assert gradient is None or (long == pytest.approx(length(gradient), rel=1e-6) and count == zeros_not(gradient))
        new = [None if one is None else torch.where(drawn(*one.shape, seed=7) == 0, one, one - 0.1) for one in before]
        pushed_where = [None if gradient is None else gradient != 0 for gradient in gradients]
        pushed = list(pushed)
        for gradient in gradients:
            if gradient is not None:
                gradient.zero_()  # by the optimiser, say: where it was not 0 is known from before
        for one, after, where, long, count in zip(before, new, pushed_where, *bucket.moved(new), strict=True):
            if one is not None:
                assert long == pytest.approx(length(one - after), rel=2e-5)  # equal squares round alike
                assert count == int(((one - after != 0) & where).sum())
        assert rest == []


def test_a_bucket_of_which_only_the_larger_are_there_has_their_numbers():
    buckets = Buckets([drawn(3, 5), drawn(200, 200)])
    ((bucket, there),), rest = buckets.sort([None, drawn(200, 200, seed=1)])
    lengths, counts = bucket.measure(there)
    assert not rest and lengths[1] == pytest.approx(length(there[1]), rel=1e-6) and counts[1] == zeros_not(there[1])


def test_what_has_come_to_be_of_another_kind_is_not_for_the_bucket():
    buckets = Buckets([drawn(5, 3), drawn(5, 5)])
    sparse = torch.sparse_coo_tensor([[0], [1]], [2.0], (5, 3), check_invariants=True)
    for other in (sparse, drawn(5, 3).double(), drawn(3, 5), drawn(15), drawn(5, 5)):
        ((_bucket, there),), rest = buckets.sort([other, drawn(5, 5)])
        assert rest == [0] and [one is None for one in there] == [True, False]


class Shifted(torch.optim.SGD):
    """Leaves a third of each weight's entries where they are."""

    @torch.no_grad()
    def step(self, closure=None):
        for weight in self.param_groups[0]["params"]:
            stays = torch.arange(weight.numel()).view(weight.shape) % 3 == 0
            weight.copy_(torch.where(stays, weight, weight - 0.1 * weight.grad))
            weight.grad.zero_()


def test_the_share_that_stands_still_is_of_the_entries_that_had_a_gradient(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 7), nn.Linear(7, 9, bias=False), nn.Linear(9, 7), nn.Linear(7, 6))
    optimizer = Shifted(model.parameters(), 0.1)
    with gradviz.watch(model, optimizer, every=1, folder=tmp_path) as run:
        for _step in range(2):
            loss_on(features())(model).backward()
            for layer in model:
                layer.weight.grad[0] = 0
            gradients = {str(k): layer.weight.grad.clone() for k, layer in enumerate(model)}
            weights = {str(k): layer.weight.detach().clone() for k, layer in enumerate(model)}
            optimizer.step()
    stays = {name: torch.arange(g.numel()).view(g.shape) % 3 == 0 for name, g in gradients.items()}
    share = {name: ((g != 0) & stays[name]).sum().item() / (g != 0).sum().item() for name, g in gradients.items()}
    moved = {name: rms(torch.where(stays[name], 0.0, 0.1 * g)) / rms(weights[name]) for name, g in gradients.items()}
    assert_near(row(run, "still_share"), share, 1e-6)
    assert_near(row(run, "update_ratio"), moved, 1e-4)
    assert_near(row(run, "treated_grad_rms"), {name: rms(g) for name, g in gradients.items()}, 1e-6)


def test_steps_in_inference_mode_and_outside_of_it_are_measured_alike(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 7), nn.Linear(7, 6), nn.Linear(6, 200), nn.Linear(200, 200))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, foreach=False)
    with gradviz.watch(model, optimizer, every=1, folder=tmp_path) as run:
        with torch.inference_mode():
            optimizer.step()  # before there is any gradient
        for step in range(1, 4):
            optimizer.zero_grad()
            F.mse_loss(model(features()[0]), torch.ones(8, 200)).backward()
            gradients = {str(k): rms(layer.weight.grad) for k, layer in enumerate(model)}
            with torch.inference_mode(step % 2 == 0):
                optimizer.step()
            assert_near(row(run, "treated_grad_rms", step), gradients, 1e-6)
            assert row(run, "update_ratio", step).keys() == gradients.keys()
    assert not run.message
