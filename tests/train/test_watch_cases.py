"""The ways in which people train, each with what watch promises of it (docs/watch.md)."""

import copy
import io
import math
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from watched_nets import Mlp, ResNet, Transformer, assert_near, features, images, loss_on, rms, row, tokens

import gradviz
from gradviz.messages import say
from gradviz.record.run import Status
from gradviz.record.spool import read_spool
from gradviz.record.watched import MEASURED

ALL = ("weight_grad_rms", "signal_rms", "activation_rms", "weight_rms", "update_ratio", "zero_share", "treated_grad_rms")


def mlp(seed: int = 0, width: int = 5) -> Mlp:
    torch.manual_seed(seed)
    return Mlp(width)


def watched(model, folder, optimizer=None, **settings):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), 0.1)
    return gradviz.watch(model, optimizer, every=1, folder=folder, **settings), optimizer


def plain_step(model, folder, loss=None):
    """The run of one plain step, to compare with."""
    run, optimizer = watched(model, folder)
    (loss or loss_on(features()))(model).backward()
    optimizer.step()
    run.close()
    return run


def assert_same(one, other, quantities=ALL, relative=1e-5):
    for quantity in quantities:
        assert_near(row(one, quantity), row(other, quantity), relative)


def test_micro_batches_that_are_accumulated_are_one_step_with_the_numbers_of_the_whole_batch(tmp_path):
    x, y = features(8)
    whole = plain_step(mlp(), tmp_path, loss_on((x, y)))
    model = mlp()
    run, optimizer = watched(model, tmp_path)
    for part in (slice(0, 4), slice(4, 8)):
        (F.cross_entropy(model(x[part]), y[part]) / 2).backward()
    optimizer.step()
    run.close()
    assert run.run.history.steps == 1
    assert_same(run, whole)


def test_what_the_user_clips_is_shown_beside_what_the_backward_pass_gave(tmp_path):
    model = mlp()
    run, optimizer = watched(model, tmp_path)
    loss_on(features())(model).backward()
    before = {name: rms(module.weight.grad) for name, module in model.named_children()}
    nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    after = {name: rms(module.weight.grad) for name, module in model.named_children()}
    model.first.weight.grad.data.mul_(0.5)  # behind the back of the version counter
    after["first"] /= 2
    optimizer.step()
    assert_near(row(run, "weight_grad_rms"), before, 1e-6)
    assert_near(row(run, "treated_grad_rms"), after, 1e-6)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("unscaled", [False, True])
def test_a_scaled_loss_leaves_no_trace_in_the_numbers(fused, unscaled, tmp_path):
    expected = plain_step(mlp(), tmp_path)
    model = mlp()
    run, optimizer = watched(model, tmp_path, torch.optim.SGD(model.parameters(), 0.1, fused=fused))
    scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
    scaler.scale(loss_on(features())(model)).backward()
    if unscaled:
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    run.close()
    assert_same(run, expected)


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_the_scaler_leaves_out_because_of_an_overflow_is_counted(fused, tmp_path):
    model = mlp()
    run, optimizer = watched(model, tmp_path, torch.optim.SGD(model.parameters(), 0.1, fused=fused))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126)
    for factor in (1e6, 1e-30):
        optimizer.zero_grad()
        scaler.scale(loss_on(features())(model) * factor).backward()
        scaler.step(optimizer)
        scaler.update()
    run.close()
    assert run.overflows == 1
    if fused:  # it is called all the same, and changes nothing
        assert run.run.history.steps == 2 and set(row(run, "update_ratio", 0).values()) == {0.0}
        assert not row(run, "still_share", 0)
        assert not math.isfinite(row(run, "weight_grad_rms", 0)["first"])
    else:
        assert run.run.history.steps == 1 and all(map(math.isfinite, row(run, "weight_grad_rms").values()))


def test_evaluation_counts_for_nothing_with_gradients_or_without(tmp_path):
    expected = plain_step(mlp(), tmp_path)
    model = mlp()
    run, optimizer = watched(model, tmp_path)
    x, _y = features()
    loss = loss_on(features())(model)
    model.eval()
    with torch.no_grad():
        model(100 * x)
    model(100 * x)
    probe = (100 * x).requires_grad_()
    torch.autograd.grad(model(probe).sum(), probe)  # a saliency map
    model.train()
    loss.backward()
    torch.autograd.grad(model(probe).sum(), probe)
    optimizer.step()
    run.close()
    assert_same(run, expected)


def test_a_backward_pass_that_is_thrown_away_counts_for_nothing(tmp_path):
    expected = plain_step(mlp(), tmp_path)
    for to_none in (True, False):
        model = mlp()
        run, optimizer = watched(model, tmp_path)
        (100 * loss_on(features())(model)).backward()
        optimizer.zero_grad(set_to_none=to_none)
        loss_on(features())(model).backward()
        optimizer.step()
        run.close()
        assert_same(run, expected)


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_gives_the_numbers_of_the_plain_net(reentrant, tmp_path):
    torch.manual_seed(0)
    plain, loss = ResNet(), loss_on(images())
    model = copy.deepcopy(plain)

    def forward(x):
        h = F.relu(model.stem(x))
        for block in model.blocks:
            h = checkpoint(block, h, use_reentrant=reentrant)
        return model.fc(h.mean((2, 3)))

    expected = plain_step(plain, tmp_path, loss)
    run, optimizer = watched(model, tmp_path)
    x, y = images()
    F.cross_entropy(forward(x), y).backward()
    optimizer.step()
    run.close()
    assert run.layers == expected.layers
    assert_same(run, expected)


def test_a_quantity_that_a_watch_does_not_measure_is_absent_and_says_so(tmp_path, monkeypatch):
    for module in ("watch", "tables", "missing"):
        monkeypatch.setattr(f"gradviz.train.{module}.MEASURED", (*MEASURED, "sharpness"))
    run = plain_step(mlp(), tmp_path)
    assert run.missing == {layer: {"sharpness": "watch-not-measured"} for layer in run.layers}
    read = read_spool(run.path)
    assert read.missing == run.missing and str(say("watch-not-measured"))
    for quantity in MEASURED:
        assert (read.history.quantity(quantity) == run.quantity(quantity)).all() and (run.quantity(quantity) >= 0).all()


def test_a_module_called_twice_has_the_root_mean_square_over_its_calls(tmp_path):
    torch.manual_seed(0)
    model = nn.Linear(6, 6)
    kept = []

    def loss(net):
        z = net(features()[0])
        z.retain_grad()
        kept[:] = [z, net(torch.tanh(z))]
        kept[1].retain_grad()
        return kept[1].square().mean()

    run = plain_step(model, tmp_path, loss)
    assert row(run, "signal_rms")["weight"] == pytest.approx(rms(torch.cat([z.grad for z in kept])), rel=1e-5)
    assert row(run, "activation_rms")["weight"] == pytest.approx(rms(torch.cat(kept)), rel=1e-5)


def test_tied_weights_are_two_rows_with_one_gradient_and_are_marked(tmp_path):
    torch.manual_seed(0)
    run = plain_step(Transformer(), tmp_path, loss_on(tokens()))
    gradients = row(run, "weight_grad_rms")
    assert gradients["embed"] == gradients["head"] and run.run.recipe.tied == (("head", "embed"),)


def test_a_frozen_layer_keeps_its_row_and_says_that_it_is_frozen(tmp_path):
    model = mlp()
    model.second.weight.requires_grad_(False)
    run = plain_step(model, tmp_path)
    assert "second" in row(run, "weight_rms") and "second" in row(run, "signal_rms")
    for quantity in ("weight_grad_rms", "zero_share", "treated_grad_rms", "update_ratio", "still_share"):
        assert "second" not in row(run, quantity) and run.missing["second"][quantity] == "watch-frozen"


def test_a_layer_that_thaws_is_measured_from_then_on(tmp_path):
    model = mlp()
    model.requires_grad_(False)
    model.last.requires_grad_(True)
    run, optimizer = watched(model, tmp_path)
    for step in range(2):
        loss_on(features())(model).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step == 0:
            assert row(run, "weight_grad_rms").keys() == {"last"} and run.missing["first"]["activation_rms"] == "watch-no-pass"
            model.requires_grad_(True)
    assert row(run, "weight_grad_rms").keys() == row(run, "update_ratio").keys() == {"first", "second", "last"}


def test_the_first_half_of_a_low_rank_adapter_has_a_gradient_of_0_at_the_start(tmp_path):
    class Lora(nn.Module):
        def __init__(self):
            super().__init__()
            self.base, self.a, self.b = nn.Linear(6, 3), nn.Linear(6, 2, bias=False), nn.Linear(2, 3, bias=False)
            self.base.requires_grad_(False)
            nn.init.zeros_(self.b.weight)

        def forward(self, x):
            return self.base(x) + self.b(self.a(x))

    run = plain_step(Lora(), tmp_path)
    assert row(run, "weight_grad_rms")["a"] == 0 and row(run, "weight_grad_rms")["b"] > 0
    assert run.missing["b"]["update_ratio"] == "watch-zero-weight"  # a ratio to nothing
    assert run.missing["base"]["weight_grad_rms"] == "watch-frozen"


def test_a_module_that_is_not_used_in_a_step_is_absent_from_it_and_neither_0_nor_nan(tmp_path):
    model = mlp()
    run, optimizer = watched(model, tmp_path)
    x, y = features()
    for step in range(3):
        h = torch.tanh(model.first(x))
        F.cross_entropy(model.last(torch.tanh(model.second(h)) if step == 1 else h), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step != 1:
            assert "second" not in row(run, "weight_grad_rms") and run.missing["second"]["signal_rms"] == "watch-unused"
            assert run.missing["second"]["weight_grad_rms"] == "watch-unused"
    assert "second" in row(run, "weight_grad_rms", 1) and "second" in row(run, "weight_rms", 2)


def test_a_layer_behind_a_detach_is_told_from_one_that_is_not_used(tmp_path):
    class Detached(Mlp):
        def forward(self, x):
            return self.last(torch.tanh(self.second(self.first(x).detach())))

    run = plain_step(Detached(), tmp_path)
    assert run.missing["first"]["weight_grad_rms"] == "watch-no-gradient"
    assert run.missing["first"]["signal_rms"] == "watch-no-pass"


def test_each_net_of_a_gan_is_its_own_run_and_the_others_passes_do_not_count(tmp_path):
    torch.manual_seed(0)
    maker, judge = nn.Linear(4, 6), Mlp()
    noise, (real, _y) = torch.randn(8, 4), features()

    def judge_loss(net):
        return F.softplus(net(maker(noise).detach())).mean() + F.softplus(-net(real)).mean()

    expected = plain_step(copy.deepcopy(judge), tmp_path, judge_loss)
    making, of_maker = watched(maker, tmp_path)
    judging, of_judge = watched(judge, tmp_path)
    of_judge.param_groups[0]["lr"] = of_maker.param_groups[0]["lr"] = 0.0
    for _round in range(2):
        F.softplus(-judge(maker(noise))).mean().backward()
        of_maker.step()
        of_maker.zero_grad()
        of_judge.zero_grad()
        judge_loss(judge).backward()
        of_judge.step()
        of_judge.zero_grad()
    assert making.run.history.steps == judging.run.history.steps == 2
    for step in (0, 1):
        for quantity in ("weight_grad_rms", "signal_rms", "activation_rms"):
            assert_near(row(judging, quantity, step), row(expected, quantity), 1e-5)


@pytest.mark.parametrize("told", [True, False])
def test_two_optimisers_on_one_net_make_one_record_a_round_each_with_its_own_rows(told, tmp_path):
    expected = plain_step(mlp(), tmp_path)
    model = mlp()
    optimizers = [torch.optim.SGD(model.first.parameters(), 0.1)]
    optimizers.append(torch.optim.SGD([*model.second.parameters(), *model.last.parameters()], 0.1))
    run = gradviz.watch(model, optimizers if told else None, every=1, folder=tmp_path)
    for _round in range(3):
        loss_on(features())(model).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    run.close()
    assert run.run.history.steps == 3 and run.run.recipe.optimizers == ("SGD", "SGD")[: 2 if told else None]
    for quantity in ALL:
        assert_near(row(run, quantity, 0), row(expected, quantity), 1e-5)


def test_an_optimiser_that_calls_for_the_gradient_itself_shows_the_one_at_the_weights_before_its_step(tmp_path):
    expected = plain_step(mlp(), tmp_path)
    for make in (lambda p: torch.optim.SGD(p, 0.1), lambda p: torch.optim.LBFGS(p, 0.1, max_iter=4)):
        model = mlp()
        run, optimizer = watched(model, tmp_path, make(model.parameters()))

        def closure(model=model, optimizer=optimizer):
            optimizer.zero_grad()
            loss = loss_on(features())(model)
            loss.backward()
            return loss

        optimizer.step(closure)
        run.close()
        assert_same(run, expected, [name for name in ALL if name != "update_ratio"])
        assert all(ratio > 0 for ratio in row(run, "update_ratio").values())


def test_a_compiled_net_is_not_broken_into_pieces_and_says_what_cannot_be_seen(tmp_path):
    torch._dynamo.reset()
    expected = plain_step(mlp(), tmp_path)
    model = mlp()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    run, optimizer = watched(compiled, tmp_path)
    for _step in range(2):
        loss_on(features())(compiled).backward()
        optimizer.step()
        optimizer.zero_grad()
    for quantity in ("weight_grad_rms", "treated_grad_rms", "weight_rms", "update_ratio", "zero_share"):
        assert_near(row(run, quantity, 0), row(expected, quantity), 1e-4)
    assert not row(run, "signal_rms") and run.missing["first"]["signal_rms"] == "watch-uncalled"
    assert run.layers == ("first", "second", "last")


def test_small_entries_that_are_cleared_where_torch_does_not_see_it_did_not_have_a_gradient(tmp_path):
    torch.manual_seed(0)
    model = nn.Linear(64, 64)
    run, optimizer = watched(model, tmp_path)
    weight = model.weight
    (weight * torch.where(torch.arange(64) % 4 > 0, 1e-7, 1.0)).sum().backward()
    gradient = weight.grad.data
    gradient[gradient.abs() < 1e-5] = 0  # far too small for the length to tell
    optimizer.step()
    run.close()
    assert row(run, "still_share")[next(iter(row(run, "still_share")))] == 0


def test_a_gradient_that_is_changed_in_inference_mode_is_measured(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))
    run, optimizer = watched(model, tmp_path)
    loss_on(features())(model).backward()
    with torch.inference_mode():
        for parameter in model.parameters():
            parameter.grad = parameter.grad * 0.5
    optimizer.step()
    run.close()
    assert row(run, "treated_grad_rms")["0"] == pytest.approx(rms(model[0].weight.grad), rel=1e-6)


class Assigns(torch.optim.SGD):
    """As home-made optimisers are: the weight gets new memory."""

    @torch.no_grad()
    def step(self, closure=None):
        for parameter in self.param_groups[0]["params"]:
            parameter.data = parameter.data - 0.1 * parameter.grad


def test_an_optimiser_that_gives_a_weight_new_memory_has_moved_it(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))
    before = model[0].weight.detach().clone()
    run, optimizer = watched(model, tmp_path, Assigns(model.parameters(), 0.1))
    loss_on(features())(model).backward()
    optimizer.step()
    run.close()
    moved = rms(model[0].weight.detach() - before) / rms(before)
    assert row(run, "update_ratio")["0"] == pytest.approx(moved, rel=1e-4) and row(run, "still_share")["0"] == 0


@pytest.mark.parametrize("factor", [0.0, -1.0], ids=["half of it cleared", "nothing that its length would tell"])
def test_a_gradient_that_is_changed_where_torch_does_not_see_it_is_measured_as_the_optimiser_gets_it(factor, tmp_path):
    """Through `.data`, as older programs clamp theirs: the tensor's version stays."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))
    run, optimizer = watched(model, tmp_path)
    loss_on(features())(model).backward()
    gradient = model[0].weight.grad
    assert gradient.ne(0).all()
    gradient.data[::2] *= factor
    optimizer.step()
    run.close()
    assert row(run, "treated_grad_rms")["0"] == pytest.approx(rms(gradient), rel=1e-6)
    assert row(run, "zero_share")["0"] == 0 and row(run, "still_share")["0"] == 0  # of those that had a gradient all moved


def test_updates_too_small_to_change_a_bfloat16_weight_count_as_0_and_its_entries_as_still(tmp_path):
    torch.manual_seed(0)
    model = Mlp().bfloat16()
    nn.init.constant_(model.first.weight, 1.0)
    run, optimizer = watched(model, tmp_path, torch.optim.SGD(model.parameters(), 1e-5))
    x, y = features()
    F.cross_entropy(model(x.bfloat16()).float(), y).backward()
    optimizer.step()
    assert row(run, "update_ratio")["first"] == 0 and row(run, "still_share")["first"] == 1
    assert row(run, "weight_grad_rms")["first"] == pytest.approx(rms(model.first.weight.grad), rel=1e-3)


def test_a_sparse_gradient_is_measured_and_its_share_of_zeros_does_not_apply(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(20, 4, sparse=True), nn.Flatten(), nn.Linear(28, 10))
    run, optimizer = watched(model, tmp_path)
    loss_on(tokens())(model).backward()
    expected = rms(model[0].weight.grad.to_dense())
    optimizer.step()
    assert row(run, "weight_grad_rms")["0"] == pytest.approx(expected, rel=1e-5)
    assert run.missing["0"] == {"zero_share": "watch-sparse", "still_share": "watch-sparse"}


def test_a_layer_whose_forward_is_called_past_its_hooks_has_its_gradient_and_says_why_no_signal(tmp_path):
    class Direct(Mlp):
        def forward(self, x):
            return self.last(torch.tanh(self.second.forward(torch.tanh(self.first(x)))))

    torch.manual_seed(0)
    model = Direct()
    expected = plain_step(mlp(), tmp_path)
    run = plain_step(model, tmp_path)
    assert_same(run, expected, ("weight_grad_rms", "update_ratio"))
    assert run.missing["second"] == dict.fromkeys(("signal_rms", "activation_rms"), "watch-uncalled")


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    "scripted", [torch.jit.script, lambda module: torch.jit.trace(module, torch.ones(2, 5))], ids=["script", "trace"]
)
def test_a_scripted_part_of_a_net_has_its_gradient_and_says_why_no_signal(scripted, tmp_path):
    expected = plain_step(mlp(), tmp_path)
    model = mlp()
    model.second = scripted(model.second)
    run = plain_step(model, tmp_path)
    for quantity in ("weight_grad_rms", "treated_grad_rms", "weight_rms", "update_ratio", "zero_share"):
        assert_near(row(run, quantity), row(expected, quantity), 1e-5)
    assert run.missing["second"] == dict.fromkeys(("signal_rms", "activation_rms"), "watch-scripted")
    assert row(run, "signal_rms").keys() == {"first", "last"}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_wholly_scripted_net_shows_its_gradients_and_is_watched_once(tmp_path):
    expected = plain_step(mlp(), tmp_path)
    model = torch.jit.script(mlp())
    first, _optimizer = watched(model, tmp_path)
    run = plain_step(model, tmp_path)
    assert first.status is Status.STOPPED and run.layers == ("first", "second", "last")
    assert_same(run, expected, ("weight_grad_rms", "treated_grad_rms", "weight_rms", "update_ratio"))


def test_a_parametrised_layer_has_its_signal_on_the_last_of_its_weights(tmp_path):
    torch.manual_seed(0)
    model = mlp()
    nn.utils.parametrizations.weight_norm(model.second)
    run = plain_step(model, tmp_path)
    assert run.layers == ("first", "second.weight.original0", "second.weight.original1", "last")
    assert "second.weight.original1" in row(run, "signal_rms")
    assert run.missing["second.weight.original0"]["signal_rms"] == "watch-inside"
    assert_near(row(run, "signal_rms"), {k.replace("second", "second.weight.original1"): v for k, v in
                row(plain_step(mlp(), tmp_path), "signal_rms").items()}, 1e-5)  # fmt: skip


def test_lazy_layers_get_their_rows_at_the_first_forward_pass(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.LazyLinear(5), nn.Tanh(), nn.LazyLinear(3))
    run = gradviz.watch(model, every=1, folder=tmp_path)
    x, y = features()
    model(x)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _step in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert run.layers == ("0", "2")
    for quantity in ALL:
        assert row(run, quantity, 0).keys() == {"0", "2"}, quantity


def test_packed_numbers_are_no_weights_that_could_be_measured(tmp_path):
    model = mlp()
    model.second.weight = nn.Parameter(torch.zeros(5, 5, dtype=torch.uint8), requires_grad=False)

    def forward(net):
        return F.cross_entropy(net.last(torch.tanh(net.first(features()[0]))), features()[1])

    run = plain_step(model, tmp_path, forward)
    assert set(run.missing["second"].values()) == {"watch-kind"}


def test_two_backward_passes_through_one_forward_pass_have_no_signal_and_the_right_gradient(tmp_path):
    model = mlp()
    run, optimizer = watched(model, tmp_path)
    out = model(features()[0])
    out.square().mean().backward(retain_graph=True)
    out.sum().backward()
    expected = rms(model.first.weight.grad)
    optimizer.step()
    assert row(run, "weight_grad_rms")["first"] == pytest.approx(expected, rel=1e-5)
    assert not row(run, "signal_rms") and run.missing["first"]["signal_rms"] == "watch-twice"


def test_a_gradient_penalty_has_the_signal_of_the_whole_loss(tmp_path):
    torch.manual_seed(0)
    model = mlp()
    kept = {}

    def loss(net):
        x = features()[0].clone().requires_grad_()
        handle = net.second.register_forward_hook(lambda _m, _i, z: kept.update(z=z))
        out = net(x)
        handle.remove()
        (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
        return out.mean() + slope.square().mean()

    run = plain_step(model, tmp_path, loss)
    value = loss(fresh := mlp())
    (expected,) = torch.autograd.grad(value, kept["z"])
    assert row(run, "signal_rms")["second"] == pytest.approx(rms(expected), rel=1e-5)
    fresh.zero_grad()
    loss(fresh).backward()
    assert row(run, "weight_grad_rms")["second"] == pytest.approx(rms(fresh.second.weight.grad), rel=1e-5)


def test_a_copy_and_a_file_of_a_watched_net_are_free_of_the_watch(tmp_path):
    model = mlp()
    run, optimizer = watched(model, tmp_path)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        hooks = [hook for module in other.modules() for hook in module._forward_hooks.values()]
        assert not any("gradviz" in (type(hook).__module__ or "") for hook in hooks)
        other_optimizer = torch.optim.SGD(other.parameters(), 0.1)
        loss_on(features())(other).backward()
        other_optimizer.step()
    assert run.run is None
    loss_on(features())(model).backward()
    optimizer.step()
    assert run.run.history.steps == 1
    assert b"gradviz" not in file.getvalue().replace(b"watched_nets", b"")


@pytest.mark.parametrize("engine", ["DeepSpeedEngine", "FullyShardedDataParallel"])
def test_an_engine_that_keeps_weights_out_of_sight_is_refused_in_a_sentence_and_trains_on(engine, tmp_path, caplog):
    model = type(engine, (Mlp,), {})()
    before = model.last.weight.detach().clone()
    run = plain_step(model, tmp_path)
    assert run.run is None and run.status is Status.STOPPED and f"{engine} keeps weights" in str(run.message)
    assert engine in caplog.text and not torch.equal(before, model.last.weight)


def test_a_layer_that_is_put_away_is_said_to_be_gone_and_a_gradient_put_there_by_hand_was_not_seen(tmp_path):
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3), nn.Linear(3, 2))
    run, optimizer = watched(model, tmp_path)
    model(torch.ones(2, 5)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    assert not run.missing
    model[1] = nn.Identity()
    for each in (model[0], model[2]):
        each.weight.grad = torch.full_like(each.weight, 0.5)
    optimizer.step()
    assert {name: set(codes.values()) for name, codes in run.missing.items()}["1"] == {"watch-gone"}
    assert run.missing["0"]["weight_grad_rms"] == run.missing["2"]["weight_grad_rms"] == "watch-unseen"
    assert run.quantity("treated_grad_rms")[-1].tolist() == [0.5, -1.0, 0.5]
    run.close()


DISTRIBUTED = """
    import sys, torch, torch.distributed as dist, gradviz
    from pathlib import Path
    from watched_nets import Mlp, features
    import torch.nn.functional as F
    rank, folder, kind = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting-{kind}", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = Mlp()
    if kind == "ddp":
        model = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    run = gradviz.watch(model, optimizer, every=1, folder=Path(folder) / kind)
    x, y = features(8)
    mine = slice(4 * rank, 4 * rank + 4)
    F.cross_entropy(model(x[mine]), y[mine]).backward()
    optimizer.step()
    run.close()
    print(run.message)
    dist.destroy_process_group()
"""


@pytest.mark.parametrize("kind", ["ddp", "bare"])
def test_of_processes_that_train_together_the_first_records_the_gradient_of_the_whole_batch(kind, tmp_path):
    root = Path(gradviz.__file__).parents[1]
    environment = {"PYTHONPATH": f"{root}:{root / 'tests'}", "PATH": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", textwrap.dedent(DISTRIBUTED)]
    children = [
        subprocess.Popen([*command, str(rank), str(tmp_path), kind], env=environment, stdout=-1, stderr=-1, text=True)
        for rank in (0, 1)
    ]
    said = [child.communicate(timeout=110) for child in children]
    assert [child.returncode for child in children] == [0, 0], said
    assert said[1][0].startswith("This process records nothing")
    (path,) = (tmp_path / kind / "watched").iterdir()
    spool = read_spool(path)
    names, numbers = spool.recipe.layout.names, spool.history
    expected = plain_step(mlp(), tmp_path / "alone", loss_on(features(8)))

    def found(quantity):
        values = numbers.quantity(quantity)[0].tolist()
        return {name: value for name, value in zip(names, values, strict=True) if value >= 0}

    if kind == "ddp":
        for quantity in ("weight_grad_rms", "treated_grad_rms", "weight_rms", "update_ratio"):
            assert_near(found(quantity), row(expected, quantity), 1e-5)
        x, y = features(8)
        part = plain_step(mlp(), tmp_path / "part", loss_on((x[:4], y[:4])))
        assert_near(found("signal_rms"), {name: value / 2 for name, value in row(part, "signal_rms").items()}, 1e-5)
    else:
        assert not found("signal_rms") and {whys["signal_rms"] for whys in spool.missing.values()} == {"watch-ranks"}


def test_a_weight_that_no_optimiser_holds_has_its_gradient_and_no_update_that_would_be_0(tmp_path):
    model = mlp()
    run, optimizer = watched(model, tmp_path, torch.optim.SGD([*model.first.parameters(), *model.last.parameters()], 0.1))
    loss_on(features())(model).backward()
    optimizer.step()
    run.close()
    assert row(run, "weight_grad_rms").keys() == row(run, "weight_rms").keys() == {"first", "second", "last"}
    for quantity in ("treated_grad_rms", "update_ratio", "still_share"):
        assert row(run, quantity).keys() == {"first", "last"} and run.missing["second"][quantity] == "watch-no-optimizer"


@pytest.mark.parametrize("to_none", [True, False])
def test_a_gradient_that_is_cleared_before_the_step_is_told_from_one_that_the_optimiser_gets(to_none, tmp_path):
    model = mlp()
    run, optimizer = watched(model, tmp_path)
    loss_on(features())(model).backward()
    optimizer.zero_grad(set_to_none=to_none)
    optimizer.step()
    run.close()
    assert all(number > 0 for number in row(run, "weight_grad_rms").values())
    if to_none:
        assert not row(run, "treated_grad_rms") and run.missing["first"]["treated_grad_rms"] == "watch-cleared"
    else:
        assert set(row(run, "treated_grad_rms").values()) == {0.0}
    assert run.run.missing == run.missing


class Ways(nn.Module):
    """Relu behind norm and pool, tanh at once, a sigmoid that is given normed numbers, and gelu."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)
        self.a, self.b, self.c, self.d = nn.Linear(18, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 10)

    def forward(self, x):
        h = F.max_pool2d(F.relu(self.norm(self.conv(x)), inplace=True), 2).flatten(1)
        h = torch.sigmoid(F.layer_norm(self.b(torch.tanh(self.a(h))), [6]))
        return self.d(F.gelu(self.c(h)))


def test_what_stands_behind_a_layer_and_how_large_its_output_is_is_read_off_the_first_step(tmp_path):
    torch.manual_seed(0)
    recipe = plain_step(Ways(), tmp_path, loss_on(images())).run.recipe
    assert dict(zip(recipe.layout.names, recipe.behind, strict=True)) == {
        "conv": "relu", "a": "tanh", "b": "", "c": "", "d": "",
    }  # fmt: skip
    assert recipe.outputs == (4 * 2 * 36, 24, 24, 24, 40) and recipe.entries == (18, 108, 36, 36, 60)
    assert recipe.precisions == ("float32",) * 5


@pytest.mark.parametrize("first", ["judges", "makes"])
def test_what_is_logged_of_two_nets_at_the_end_of_a_round_is_of_the_steps_of_that_round(first, tmp_path):
    torch.manual_seed(0)
    makes, judges = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 1))
    runs, optimizers = zip(*(watched(net, tmp_path) for net in (makes, judges)), strict=True)

    def judge():
        optimizers[1].zero_grad()
        (judges(torch.ones(4, 2)).mean() - judges(makes(torch.ones(4, 3)).detach()).mean()).backward()
        optimizers[1].step()

    def make():
        optimizers[0].zero_grad()
        judges(makes(torch.ones(4, 3))).mean().backward()
        optimizers[0].step()

    for number in range(4):
        for turn in (judge, make) if first == "judges" else (make, judge):
            turn()
        for run in runs:
            run.log(loss=float(number))
    for run in runs:
        run.close()
        assert run.run.history.loss.tolist() == [0.0, 1.0, 2.0, 3.0]


def test_what_is_logged_now_and_then_before_the_step_is_of_that_step(tmp_path):
    model = mlp()
    run, optimizer = watched(model, tmp_path)
    for step in range(6):
        loss = loss_on(features())(model)
        if step % 3 == 2:
            run.log(loss=float(step))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    run.close()
    assert [place for place, number in enumerate(run.run.history.loss) if number == place] == [2, 5]
