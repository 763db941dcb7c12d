"""Adam with lists made once takes the steps of PyTorch's own, to the last digit."""

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from gradviz.train.adam import Adam

pytestmark = pytest.mark.trains


def twins():
    """The same parameters twice, of several sizes and memory formats, each with its optimiser; (parameters, optimiser)."""
    random = torch.Generator().manual_seed(1)
    shapes = [(16, 16, 5, 5), (16,), (6, 1, 5, 5), (6,), (), (84, 120)]
    values = [torch.randn(shape, generator=random) for shape in shapes]
    values[0] = values[0].to(memory_format=torch.channels_last)
    for make in (lambda some: Adam(some, lr=1e-3), lambda some: torch.optim.Adam(some, lr=1e-3, fused=True)):
        parameters = [nn.Parameter(value.clone()) for value in values]
        yield parameters, make(parameters)


def steps(pair, count, seed):
    parameters, optimizer = pair
    random = torch.Generator().manual_seed(seed)
    for _ in range(count):
        for parameter in parameters:
            size = 10.0 ** float(torch.randint(-20, 3, (), generator=random))
            parameter.grad = torch.empty_like(parameter).copy_(size * torch.randn(parameter.shape, generator=random))
        optimizer.step()


def assert_equal(one, other):
    for mine, theirs in zip(one[0], other[0], strict=True):
        assert torch.equal(mine, theirs)
        kept, known = one[1].state[mine], other[1].state[theirs]
        assert kept.keys() == known.keys() and all(torch.equal(kept[key], known[key]) for key in known)


def test_it_takes_the_steps_of_pytorchs_own_also_after_its_learning_rate_was_turned():
    one, other = twins()
    for pair in (one, other):
        steps(pair, 5, seed=2)
        pair[1].param_groups[0]["lr"] = 0.03
        steps(pair, 5, seed=3)
    assert_equal(one, other)
    assert one[1].state[one[0][0]]["step"] == 10


def test_whoever_listens_to_every_optimiser_hears_each_of_its_steps():
    pair, _other = twins()
    heard: list[str] = []
    handles = [
        register_optimizer_step_pre_hook(lambda *_: heard.append("before")),
        register_optimizer_step_post_hook(lambda *_: heard.append("behind")),
    ]
    for step in range(3):
        heard.clear()
        steps(pair, 1, seed=step)
        assert (heard[0], heard[-1]) == ("before", "behind")
    for handle in handles:
        handle.remove()


def test_a_state_that_is_put_in_the_place_of_its_own_is_what_it_goes_on_from():
    one, other = twins()
    for pair in (one, other):
        steps(pair, 3, seed=2)
        early = pair[1].state_dict()
        early = {**early, "state": {k: {key: v.clone() for key, v in kept.items()} for k, kept in early["state"].items()}}
        steps(pair, 3, seed=3)
        pair[1].load_state_dict(early)
        steps(pair, 3, seed=4)
        for parameter in pair[0]:
            pair[1].state[parameter] = {key: value.clone() for key, value in pair[1].state[parameter].items()}
        steps(pair, 2, seed=5)
    assert_equal(one, other)


def test_a_closure_is_called_as_by_pytorchs_own():
    one, _other = twins()
    steps(one, 2, seed=2)
    assert one[1].step(lambda: 5.0) == 5.0
