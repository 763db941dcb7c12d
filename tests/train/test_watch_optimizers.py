"""Several optimisers, steps inside of steps, and optimisers that come and go (docs/watch.md)."""

import subprocess
import sys
import textwrap
from collections import defaultdict

import pytest
import torch
from torch import nn
from watched_nets import Mlp, assert_near, features, loss_on, rms, row

import gradviz
from gradviz.train.watch import WatchError


def train(model, optimizer, steps=1):
    """The gradients of the last step."""
    for _ in range(steps):
        optimizer.zero_grad()
        loss_on(features())(model).backward()
        found = gradients(model)
        optimizer.step()
    return found


def gradients(model):
    return {name: rms(module.weight.grad) for name, module in model.named_children() if module.weight.grad is not None}


def weights(model):
    return {name: module.weight.detach().clone() for name, module in model.named_children()}


def moved(model, before):
    return {name: rms(module.weight.detach() - before[name]) / rms(before[name]) for name, module in model.named_children()}


class Signals:
    """∂loss/∂z of each layer over the passes since `clear`, asked of autograd's own tensors."""

    def __init__(self, model):
        self._parts = defaultdict(list)
        for name, module in model.named_children():
            module.register_forward_hook(lambda _module, _inputs, z, name=name: self._listen(name, z))
        self.clear = self._parts.clear

    def _listen(self, name, z):
        if z.requires_grad:
            z.register_hook(lambda gradient: self._parts[name].append(gradient.detach()))

    def of(self, names):
        return {name: rms(torch.cat([part.flatten() for part in self._parts[name]])) for name in names}


class Gan(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.draw, self.make = nn.Linear(3, 5), nn.Linear(5, 4)
        self.see, self.judge = nn.Linear(4, 6), nn.Linear(6, 1)

    def made(self, z):
        return self.make(self.draw(z).tanh())

    def judged(self, x):
        return self.judge(self.see(x).tanh())


@pytest.mark.trains
@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize("rounds", [1, 2, 5])
@pytest.mark.parametrize("every", [1, 3])
def test_a_critic_that_steps_more_often_than_its_generator_and_each_has_the_numbers_of_its_own_passes(
    every, rounds, to_none, tmp_path
):
    net = Gan()
    critic, generator = ("see", "judge"), ("draw", "make")
    optimizers = [torch.optim.SGD([p for n in each for p in getattr(net, n).parameters()], 0.1) for each in (critic, generator)]
    run = gradviz.watch(net, optimizers, every=every, folder=tmp_path)
    signals, expected = Signals(net), []
    for step in range(10):
        x, z = torch.randn(8, 4), torch.randn(8, 3)
        optimizers[0].zero_grad(to_none)
        signals.clear()
        (net.judged(net.made(z).detach()).mean() - net.judged(x).mean()).backward()
        found = {name: rms(getattr(net, name).weight.grad) for name in critic}, signals.of(critic)
        optimizers[0].step()
        if step % rounds == rounds - 1:
            optimizers[1].zero_grad(to_none)
            signals.clear()
            (-net.judged(net.made(z)).mean()).backward()  # gives the critic gradients too, which are thrown away
            found[0].update({name: rms(getattr(net, name).weight.grad) for name in generator})
            found[1].update(signals.of(generator))
            optimizers[1].step()
        expected.append(found)
    run.close()
    looked = [step for step in range(10) if row(run, "update_ratio", step)]
    assert run.run.history.steps == 10 and len(looked) >= (10 if every == 1 else 2)
    for step in looked:
        assert_near(row(run, "weight_grad_rms", step), expected[step][0], 1e-5)
        assert_near(row(run, "signal_rms", step), expected[step][1], 1e-5)


@pytest.mark.trains
@pytest.mark.parametrize("first", ["seldom", "often"])
@pytest.mark.parametrize("every", [1, 2, 3, 5])
def test_a_look_that_begins_between_two_optimisers_steps_takes_no_numbers_of_an_older_pass(every, first, tmp_path):
    """The gradients are not cleared by one for the other, and a look may fall between their steps."""
    model = Mlp()
    often = torch.optim.SGD([*model.first.parameters(), *model.second.parameters()], 0.1)
    seldom = torch.optim.SGD(model.last.parameters(), 0.1)
    run = gradviz.watch(model, [often, seldom], every=every, folder=tmp_path)
    signals, expected = Signals(model), []
    for step in range(13):
        loss_on(features())(model).backward()
        found, before = (gradients(model), signals.of(("first", "second"))), weights(model)
        due = [often] if step % 2 else [seldom, often] if first == "seldom" else [often, seldom]
        for optimizer in due:
            optimizer.step()
            optimizer.zero_grad()
        signals.clear()
        expected.append((moved(model, before), *found))
    run.close()
    steps = [step for step in range(run.run.history.steps) if "first" in row(run, "update_ratio", step)]
    assert len(steps) >= 13 // (every + 1)
    for step in steps:
        for name in ("first", "second"):  # which step it is of is seen by how far it went
            ratio, gradient, signal = (row(run, each, step)[name] for each in ("update_ratio", "weight_grad_rms", "signal_rms"))
            true = min(expected, key=lambda each: abs(each[0][name] - ratio))
            assert [ratio, gradient, signal] == [pytest.approx(each[name], rel=1e-4) for each in true]


def test_two_losses_in_turn_with_a_shared_trunk_have_each_their_own_signals(tmp_path):
    model = Mlp()
    trunk, heads = [*model.first.parameters()], (model.second, nn.Linear(5, 2))
    model.other = heads[1]
    optimizers = [torch.optim.SGD([*trunk, *head.parameters()], 0.1) for head in heads]
    run = gradviz.watch(model, optimizers, every=1, folder=tmp_path)
    signals, expected, x = Signals(model), [], features()[0]
    for step in range(6):
        signals.clear()
        optimizers[step % 2].zero_grad()
        heads[step % 2](torch.tanh(model.first(x))).pow(2).mean().backward()
        expected.append(signals.of(("first", ("second", "other")[step % 2])))
        optimizers[step % 2].step()
    run.close()
    assert run.run.history.steps == 6
    for step in range(6):
        assert_near(row(run, "signal_rms", step), expected[step], 1e-5)


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is forked off there")
def test_a_process_that_is_forked_off_and_trains_the_same_net_changes_no_number(tmp_path):
    program = """
        import os, sys, torch, gradviz
        from torch import nn
        torch.set_num_threads(1)
        net = nn.Sequential(*[nn.Linear(48, 48) for _ in range(6)])
        optimizer = torch.optim.SGD(net.parameters(), 0.01)
        run = gradviz.watch(net, optimizer, every=1, folder=sys.argv[1])
        data, child, wrong = torch.randn(16, 48), 0, 0
        for step in range(300):
            if step == 2:
                child = os.fork()
            if step > 2 and child == 0:
                data = 1000 * torch.randn(16, 48)
            optimizer.zero_grad()
            torch.tanh(net(data)).pow(2).mean().backward()
            old = [layer.weight.detach().clone() for layer in net]
            optimizer.step()
            moved = [float((layer.weight.detach() - one).norm() / one.norm()) for layer, one in zip(net, old)]
            if step < 2 or child:
                found = run.quantity("update_ratio")[-1] if run.run.history.steps == step + 1 else [-1.0] * 6
                wrong += sum(abs(a - b) > 1e-3 * b for a, b in zip(found, moved))
        if not child:
            os._exit(0)
        os.waitpid(child, 0)
        print(run.run.history.steps, wrong)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)], capture_output=True, text=True, timeout=100
    )
    assert done.stdout.split() == ["300", "0"], done.stderr


def test_what_gathers_over_several_steps_of_another_optimiser_stands_in_the_step_of_its_own(tmp_path):
    model = Mlp()
    often = torch.optim.SGD(model.first.parameters(), 0.1)
    seldom = torch.optim.SGD([*model.second.parameters(), *model.last.parameters()], 0.1)
    run = gradviz.watch(model, [often, seldom], every=1, folder=tmp_path)
    for _step in range(3):
        loss_on(features())(model).backward()
        found = gradients(model)
        often.step()
        often.zero_grad()
    seldom.step()
    run.close()
    assert [len(row(run, "weight_grad_rms", step)) for step in range(3)] == [1, 1, 3]
    assert_near(row(run, "weight_grad_rms", 2), found, 1e-5)
    assert set(row(run, "signal_rms", 2)) == {"first"}
    assert {layer: run.missing[layer]["signal_rms"] for layer in run.missing} == dict.fromkeys(("second", "last"), "watch-across")


def test_rows_whose_optimiser_never_steps_say_so(tmp_path):
    model = Mlp()
    first = torch.optim.SGD(model.first.parameters(), 0.1)
    rest = torch.optim.SGD([*model.second.parameters(), *model.last.parameters()], 0.1)
    run = gradviz.watch(model, [first, rest], every=1, folder=tmp_path)
    train(model, first, 3)
    run.close()
    assert run.run.history.steps == 3 and row(run, "weight_grad_rms").keys() == {"first"}
    assert set(run.missing["last"].values()) == {"watch-not-stepped"}


class Doubled(torch.optim.SGD):
    """A step inside of a step, with something before and something behind."""

    fails = False

    def step(self, closure=None):
        for group in self.param_groups:
            for weight in group["params"]:
                weight.grad = 2 * weight.grad
        result = super().step(closure)
        if self.fails:
            raise ZeroDivisionError
        with torch.no_grad():
            for group in self.param_groups:
                for weight in group["params"]:
                    weight.mul_(0.9)
        return result


@pytest.mark.parametrize("told", [True, False])
def test_a_step_that_calls_the_step_of_its_class_is_one_step_from_its_begin_to_its_end(told, tmp_path):
    model = Mlp()
    optimizer = Doubled(model.parameters(), 0.1)
    run = gradviz.watch(model, optimizer if told else None, every=1, folder=tmp_path)
    train(model, optimizer)
    before = weights(model)
    found = train(model, optimizer)
    run.close()
    assert run.run.history.steps == 2
    assert_near(row(run, "weight_grad_rms"), found, 1e-5)
    assert_near(row(run, "treated_grad_rms"), found, 1e-5)  # what happens inside a step is no treatment
    assert_near(row(run, "update_ratio"), moved(model, before), 1e-4)


def test_after_an_error_in_a_step_inside_of_a_step_the_next_one_is_measured_right(tmp_path):
    model = Mlp()
    optimizer = Doubled(model.parameters(), 0.1)
    run = gradviz.watch(model, optimizer, every=1, folder=tmp_path)
    optimizer.fails = True
    with pytest.raises(ZeroDivisionError):
        train(model, optimizer)
    optimizer.fails = False
    before = weights(model)
    found = train(model, optimizer)
    run.close()
    assert run.run.history.steps == 1
    assert_near(row(run, "weight_grad_rms"), found, 1e-5)
    assert_near(row(run, "update_ratio"), moved(model, before), 1e-4)


class Slow(torch.optim.Optimizer):
    """Around another: after each of its steps the weights go half of the way back."""

    def __init__(self, inner):
        self.inner = inner
        super().__init__([weight for group in inner.param_groups for weight in group["params"]], {})

    def step(self, closure=None):
        before = [weight.detach().clone() for weight in self.param_groups[0]["params"]]
        self.inner.step(closure)
        with torch.no_grad():
            for weight, old in zip(self.param_groups[0]["params"], before, strict=True):
                weight.lerp_(old, 0.5)


@pytest.mark.parametrize("told", [True, False])
def test_of_an_optimiser_around_another_the_whole_step_is_seen(told, tmp_path):
    model = Mlp()
    optimizer = Slow(torch.optim.SGD(model.parameters(), 0.1))
    run = gradviz.watch(model, optimizer if told else None, every=1, folder=tmp_path)
    train(model, optimizer)
    before = weights(model)
    train(model, optimizer)
    run.close()
    assert run.run.history.steps == 2
    assert_near(row(run, "update_ratio"), moved(model, before), 1e-4)


@pytest.mark.parametrize("kept", [True, False])
def test_a_new_optimiser_for_each_part_of_a_training_is_taken_note_of_where_none_was_told(kept, tmp_path):
    model, before = Mlp(), []
    run = gradviz.watch(model, every=1, folder=tmp_path)
    for _part in range(3):
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        before.append(optimizer if kept else None)
        found = train(model, optimizer, 2)
    run.close()
    assert run.run.history.steps == 6
    assert_near(row(run, "weight_grad_rms"), found, 1e-5)


def test_one_of_several_optimisers_may_hold_vectors_alone_and_none_may_be_another_nets(tmp_path):
    model = Mlp()
    optimizers = [torch.optim.SGD([p for p in model.parameters() if (p.ndim > 1) is large], 0.1) for large in (True, False)]
    run = gradviz.watch(model, optimizers, every=1, folder=tmp_path)
    for _step in range(2):
        found = train(model, optimizers[0])
        optimizers[1].step()
    run.close()
    assert run.run.history.steps == 2
    assert_near(row(run, "weight_grad_rms"), found, 1e-5)
    for wrong in (optimizers[1], [optimizers[0], torch.optim.SGD(Mlp().parameters(), 0.1)]):
        with pytest.raises(WatchError, match="holds no weight"):
            gradviz.watch(model, wrong, folder=tmp_path)


def test_of_a_gradient_whose_backward_pass_was_not_seen_all_that_is_missing_says_so(tmp_path):
    model = Mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    run = gradviz.watch(model, optimizer, every=1, folder=tmp_path)
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    run.close()
    assert {reasons["zero_share"] for reasons in run.missing.values()} == {"watch-unseen"}
    assert {reasons["weight_grad_rms"] for reasons in run.missing.values()} == {"watch-unseen"}


@pytest.mark.parametrize("before", [True, False])
def test_steps_amid_the_backward_pass_as_each_gradient_comes_have_its_numbers(before, tmp_path):
    model, found = Mlp(), {}
    optimizers = {weight: torch.optim.SGD([weight], 0.1) for weight in model.parameters()}
    names = {module.weight: name for name, module in model.named_children()}

    def step(weight):
        if weight in names:
            found[names[weight]] = rms(weight.grad)
        optimizers[weight].step()
        optimizers[weight].zero_grad()

    def listen():
        for weight in optimizers:
            weight.register_post_accumulate_grad_hook(step)

    if before:
        listen()
    run = gradviz.watch(model, list(optimizers.values()), every=1, folder=tmp_path)
    if not before:
        listen()
    signals = Signals(model)
    for _pass in range(2):
        signals.clear()
        old = weights(model)
        loss_on(features())(model).backward()
    run.close()
    assert run.run.history.steps == 2
    assert_near(row(run, "weight_grad_rms"), found, 1e-5)
    assert_near(row(run, "treated_grad_rms"), found, 1e-5)
    assert_near(row(run, "signal_rms"), signals.of(names.values()), 1e-5)
    assert_near(row(run, "update_ratio"), moved(model, old), 1e-4)


def test_a_module_that_is_not_called_is_said_to_be_unused_also_where_zero_grad_has_left_zeros(tmp_path):
    model = Mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    run = gradviz.watch(model, optimizer, every=1, folder=tmp_path)
    x, _y = features()
    for used in (True, False):
        optimizer.zero_grad(set_to_none=False)
        h = torch.tanh(model.first(x))
        model.last(torch.tanh(model.second(h)) if used else h).pow(2).mean().backward()
        optimizer.step()
    run.close()
    assert row(run, "weight_grad_rms")["second"] == 0
    assert run.missing["second"]["signal_rms"] == run.missing["second"]["activation_rms"] == "watch-unused"
