"""What watch does not do: change a number, stay behind, raise an error in somebody's training, or grow without end."""

import contextlib
import copy
import gc
import math
import os
import platform
import subprocess
import sys
import textwrap
import threading
import weakref
from pathlib import Path

import pytest
import torch
from timing import until
from torch import nn
from watched_nets import Mlp, Recurrent, ResNet, Transformer, UNet, features, images, loss_on, row, tokens

import gradviz
from gradviz.record.run import Status
from gradviz.record.spool import read_spool
from gradviz.train.watch import WatchError

ROOT = Path(gradviz.__file__).parents[1]
NETS = [(ResNet, images()), (Recurrent, tokens()), (Transformer, tokens()), (UNet, images()), (Mlp, features())]


def losses(model, loss, make_optimizer, steps, run=None, closure=False):
    optimizer = make_optimizer(model.parameters())
    run = run and run(model, optimizer)
    found = []
    for _step in range(steps):

        def again():
            optimizer.zero_grad()
            value = loss(model)
            value.backward()
            return value

        value = optimizer.step(again) if closure else again()
        if not closure:
            optimizer.step()
        found.append(value.item())
        if run:
            run.log(loss=value)
    if run:
        run.close()
        assert run.run.history.loss.tolist() == pytest.approx(found, rel=1e-7)
    return found, [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.trains
@pytest.mark.parametrize("make, data", NETS, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("every", [1, 2, "auto"])
def test_losses_and_weights_are_those_without_a_watch_to_the_last_bit(make, data, every, tmp_path):
    torch.manual_seed(0)
    model = make()
    for optimizer in (lambda p: torch.optim.Adam(p, 0.01), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True)):
        bare = losses(copy.deepcopy(model), loss_on(data), optimizer, 5)
        seen = losses(
            copy.deepcopy(model), loss_on(data), optimizer, 5, lambda m, o: gradviz.watch(m, o, every=every, folder=tmp_path)
        )
        assert seen[0] == bare[0]
        assert all(torch.equal(one, other) for one, other in zip(seen[1], bare[1], strict=True))


def test_an_optimiser_with_a_closure_trains_the_same_to_the_last_bit(tmp_path):
    torch.manual_seed(0)
    model = Mlp()
    for optimizer in (lambda p: torch.optim.LBFGS(p, 0.1, max_iter=3), lambda p: torch.optim.Adam(p, 0.01)):
        bare = losses(copy.deepcopy(model), loss_on(features()), optimizer, 4, closure=True)
        seen = losses(
            copy.deepcopy(model), loss_on(features()), optimizer, 4,
            lambda m, o: gradviz.watch(m, o, every=1, folder=tmp_path), closure=True,
        )  # fmt: skip
        assert seen[0] == bare[0]
        assert all(torch.equal(one, other) for one, other in zip(seen[1], bare[1], strict=True))


def hooks_of(model, optimizer) -> int:
    of_modules = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
    of_weights = sum(len(weight._post_accumulate_grad_hooks or ()) for weight in model.parameters())
    return of_modules + of_weights + len(optimizer._optimizer_step_pre_hooks) + len(optimizer._optimizer_step_post_hooks)


def test_after_close_no_hook_is_left(tmp_path):
    model = Mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    run = gradviz.watch(model, optimizer, folder=tmp_path)
    assert hooks_of(model, optimizer)
    loss_on(features())(model).backward()
    optimizer.step()
    run.close()
    run.close()
    assert hooks_of(model, optimizer) == 0 and run.status is Status.FINISHED


@pytest.mark.parametrize("told", [True, False])
def test_a_watched_net_can_be_collected_and_its_run_then_ends(told, tmp_path):
    from torch.optim import optimizer as of_all

    before = len(of_all._global_optimizer_pre_hooks), len(of_all._global_optimizer_post_hooks)
    model = Mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    run = gradviz.watch(model, optimizer if told else None, every=1, folder=tmp_path)
    loss_on(features())(model).backward()
    optimizer.step()
    gone = [weakref.ref(model), weakref.ref(model.first), weakref.ref(optimizer)]
    del model, optimizer
    gc.collect()
    assert [ref() for ref in gone] == [None] * 3
    assert run.status is Status.FINISHED and read_spool(run.path).status is Status.FINISHED
    assert before == (len(of_all._global_optimizer_pre_hooks), len(of_all._global_optimizer_post_hooks))


def test_a_second_watch_of_a_net_replaces_the_first_also_with_another_optimiser(tmp_path):
    model = Mlp()
    first = gradviz.watch(model, torch.optim.SGD(model.parameters(), 0.1), every=1, folder=tmp_path)
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    second = gradviz.watch(model, optimizer, every=1, folder=tmp_path)
    one_set = hooks_of(model, optimizer)
    loss_on(features())(model).backward()
    optimizer.step()
    assert first.status is Status.STOPPED and first.run is None and second.run.history.steps == 1
    second.close()
    gradviz.watch(model, optimizer, every=1, folder=tmp_path)
    assert hooks_of(model, optimizer) == one_set
    part = gradviz.watch(model.first, optimizer, every=1, folder=tmp_path)  # another net: both go on
    loss_on(features())(model).backward()
    optimizer.step()
    assert part.layers == ("weight",)


def test_a_block_that_ends_in_an_error_has_failed_of_that_kind_and_the_error_goes_on(tmp_path):
    model = Mlp()
    with pytest.raises(ZeroDivisionError), gradviz.watch(model, folder=tmp_path) as run:
        1 / 0  # noqa: B018
    assert run.status is Status.FAILED and str(run.message) == "The training failed: ZeroDivisionError."
    with pytest.raises(KeyboardInterrupt), gradviz.watch(model, folder=tmp_path) as run:
        raise KeyboardInterrupt
    assert run.status is Status.STOPPED


def test_after_an_error_in_a_backward_pass_the_next_step_is_measured_right(tmp_path):
    torch.manual_seed(0)
    model = Mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    run = gradviz.watch(model, optimizer, every=1, folder=tmp_path)

    def stumble(_gradient):
        raise RuntimeError("the user's own")

    for breaks in (True, False):
        optimizer.zero_grad()
        h = torch.tanh(model.first(features()[0]))
        if breaks:
            h.register_hook(stumble)
        loss = model.last(torch.tanh(model.second(h))).square().mean()
        if breaks:
            with pytest.raises(RuntimeError, match="own"):
                loss.backward()
        else:
            loss.backward()
            optimizer.step()
    assert run.run.history.steps == 1
    for layer in run.layers:
        gradient = getattr(model, layer).weight.grad.square().mean().sqrt().item()
        assert row(run, "weight_grad_rms")[layer] == pytest.approx(gradient, rel=1e-6)
    assert row(run, "signal_rms").keys() == {"first", "second", "last"}


class Closed(nn.Linear):
    def register_forward_pre_hook(self, *_, **__):
        raise RuntimeError("no hooks here")


def test_a_net_that_takes_no_hooks_is_refused_in_a_sentence_and_trains_on_without_any(tmp_path):
    model = nn.Sequential(nn.Linear(6, 5), Closed(5, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(WatchError, match="This net cannot be watched: RuntimeError: no hooks here"):
        gradviz.watch(model, optimizer, folder=tmp_path)
    assert hooks_of(model, optimizer) == 0
    loss_on(features())(model).backward()
    optimizer.step()


class Sealed(torch.optim.SGD):
    def register_step_post_hook(self, hook):
        raise RuntimeError("no hooks here")


def test_an_optimiser_that_takes_no_hooks_is_refused_and_none_is_left_on_the_net(tmp_path):
    model = Mlp()
    optimizer = Sealed(model.parameters(), 0.1)
    with pytest.raises(WatchError, match="no hooks here"):
        gradviz.watch(model, optimizer, folder=tmp_path)
    assert hooks_of(model, optimizer) == 0


class Slow(torch.optim.SGD):
    """Something happens in the middle of its step."""

    def __init__(self, parameters, happens):
        super().__init__(parameters, 0.1)
        self.happens = happens

    @torch.no_grad()
    def step(self, closure=None):
        self.happens()
        for weight in self.param_groups[0]["params"]:
            weight.sub_(0.1 * weight.grad)


def copies(weight: torch.Tensor) -> int:
    """Of its entries, as they are compared before and after a step."""
    gc.collect()
    like = [each for each in gc.get_objects() if type(each) is torch.Tensor and each.numel() == weight.numel()]
    return sum(each is not weight.grad for each in like)


@pytest.mark.parametrize("how", ["closed", "broken", "not written"])
def test_a_watch_that_stops_in_the_middle_of_a_step_keeps_no_copy_of_the_weights(how, tmp_path, monkeypatch):
    full, seen = threading.Event(), []

    def replace(*_paths):
        full.wait(60)
        raise OSError(28, "no space left")

    def happens():
        seen.append(copies(model.weight))
        if len(seen) == 2 and how == "closed":
            raise ZeroDivisionError
        if len(seen) == 2 and how == "not written":
            full.set()
            until(lambda: run.message)

    if how == "not written":
        monkeypatch.setattr("os.replace", replace)
    model = nn.Linear(6, 31)
    optimizer = Slow(model.parameters(), happens)
    run = gradviz.watch(model, optimizer, every=1, folder=tmp_path)
    for _step in range(2):
        loss_on(features())(model).backward()
        with contextlib.suppress(ZeroDivisionError):
            optimizer.step()
        if how == "broken":
            optimizer.found_inf = torch.ones(2)  # nobody does that; measuring now fails
    if how == "closed":
        run.close()
    assert copies(model.weight) == 0 < seen[0] and bool(run.message) == (how != "closed")
    run.close()


def test_what_goes_wrong_in_the_measuring_is_said_once_and_training_goes_on(tmp_path, caplog):
    model = Mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    run = gradviz.watch(model, optimizer, every=1, folder=tmp_path)
    batched = torch.func.vmap(model)(torch.randn(2, 4, 6))  # outputs that are no ordinary tensors are passed over
    assert batched.shape == (2, 4, 3)
    optimizer.param_groups[0]["params"] = None  # nobody does that; measuring now fails
    loss_on(features())(model).backward()
    with pytest.raises(TypeError):  # the optimiser's own
        optimizer.step()
    optimizer.param_groups[0]["params"] = list(model.parameters())
    for _step in range(3):
        loss_on(features())(model).backward()
        optimizer.step()
    assert caplog.text.count("The recording has stopped, and the training goes on") == 1
    assert "TypeError" in str(run.message)
    run.close()
    assert hooks_of(model, optimizer) == 0


@pytest.mark.parametrize(
    "given, sentence",
    [
        (lambda: dict(model=[1]), "takes a torch.nn.Module; list is none"),
        (lambda: dict(model=nn.BatchNorm1d(3)), "no weight of two dimensions or more"),
        (lambda: dict(model=Mlp(), every=0), 'every must be a whole number of steps, 1 or more, or "auto"; 0 is not'),
        (lambda: dict(model=Mlp(), every="often"), "every must be"),
        (lambda: dict(model=Mlp(), optimizer=3), "takes an optimiser of torch.optim, a list of them, or none; int is neither"),
        (lambda: dict(model=Mlp(), optimizer=torch.optim.SGD(Mlp().parameters(), 0.1)), "holds no weight"),
    ],
)
def test_what_cannot_be_watched_is_refused_in_one_sentence(given, sentence, tmp_path):
    with pytest.raises(ValueError) as refusal:
        gradviz.watch(**{"folder": tmp_path} | given())
    assert sentence in str(refusal.value) and "\n" not in str(refusal.value)


class Odd:
    def __float__(self):
        raise RuntimeError("no number at all")


def test_log_takes_numbers_and_says_of_anything_else_in_one_sentence_that_it_is_left_out(tmp_path, caplog):
    model = Mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    run = gradviz.watch(model, optimizer, every=1, folder=tmp_path)
    for _step in range(2):
        loss_on(features())(model).backward()
        optimizer.step()
        run.log(loss=torch.ones(3), accuracy="good", rate=0.1)
        run.log(loss=Odd())
        run.log(accuracy=torch.tensor(0.25))
    run.close()
    run.log(loss=1.0)
    run.log(loss=1.0)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 4 and said[-1] == "This run is closed: log keeps nothing more."
    assert all(f"{name} is not one, and is left out" in said[k] for k, name in enumerate(("loss", "accuracy")))
    assert said[2] == "log takes loss and accuracy, by these names; rate is neither, and is left out."
    assert run.run.history.accuracy.tolist() == [0.25, 0.25] and all(map(math.isnan, run.run.history.loss))


@pytest.mark.parametrize("when", ["before", "after", "between"])
def test_what_is_logged_belongs_to_its_step_whether_it_comes_before_or_after_the_optimisers(when, tmp_path):
    model = Mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    run = gradviz.watch(model, optimizer, every=1, folder=tmp_path)
    for step in range(6):
        loss = loss_on(features())(model)
        logs = step % 2 == 0
        if when == "between" and logs:
            run.log(loss=step)
        loss.backward()
        if when == "before" and logs:
            run.log(loss=step)
        optimizer.step()
        optimizer.zero_grad()
        if when == "after" and logs:
            model.eval()
            model(features()[0])
            model.train()
            run.log(loss=step)
    run.close()
    assert [int(loss) for loss in run.run.history.loss if not math.isnan(loss)] == [0, 2, 4]
    assert [step for step, loss in enumerate(run.run.history.loss) if not math.isnan(loss)] == [0, 2, 4]


class Far(torch.Tensor):
    """A number that says it lies on another device."""

    @property
    def device(self):
        return torch.device("cuda")


def test_a_number_on_a_device_is_what_it_was_when_it_was_logged(tmp_path):
    model = Mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    run = gradviz.watch(model, optimizer, every=2, folder=tmp_path)
    loss = torch.zeros(()).as_subclass(Far)  # one buffer for all steps
    for step in range(4):
        loss.fill_(step)
        run.log(loss=loss)
        loss_on(features())(model).backward()
        optimizer.step()
    run.close()
    assert run.run.history.loss.tolist() == [0, 1, 2, 3]


def test_a_quantity_that_is_none_is_empty_and_no_error(tmp_path):
    model = Mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    run = gradviz.watch(model, optimizer, every=1, folder=tmp_path)
    loss_on(features())(model).backward()
    optimizer.step()
    run.close()
    assert run.quantity("weight_rms").shape == (1, 3) and run.quantity("nope").size == 0


SESSION = """
import atexit, sys, gradviz
from watched_nets import Mlp
atexit.register(lambda: print(run.status))  # registered first, called last
{before}
net = Mlp()
run = gradviz.watch(net, folder={folder!r})
{after}
"""


@pytest.mark.parametrize(
    "options, before, after, status",
    [
        (["-"], "sys.last_value = ValueError()", "", Status.FINISHED),
        (["-"], "sys.last_value = ValueError()", "sys.last_value = KeyError()", Status.FAILED),
        (["-i", "-q"], "", "1 / 0", Status.FINISHED),
    ],
)
def test_an_error_of_before_the_watch_or_of_one_typed_line_is_none_of_the_training(options, before, after, status, tmp_path):
    script = SESSION.format(before=before, after=after, folder=str(tmp_path))
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PATH": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *options]
    result = subprocess.run(command, input=script, env=environment, capture_output=True, text=True, timeout=100)
    assert result.stdout.split()[-1:] == [status], result.stderr


def test_a_folder_that_cannot_be_written_is_said_in_a_sentence_and_the_training_goes_on(tmp_path, caplog):
    (tmp_path / "file").write_text("no folder")
    model = Mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with gradviz.watch(model, optimizer, every=1, folder=tmp_path / "file") as run:
        loss_on(features())(model).backward()
        optimizer.step()
    assert "The recording has stopped" in str(run.message) and "cannot be written" in caplog.text


def test_a_net_of_five_thousand_weights_and_tiny_steps_costs_a_bounded_amount(tmp_path):
    model = nn.ModuleList(nn.Linear(2, 2, bias=False) for _ in range(5000))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    run = gradviz.watch(model, optimizer, folder=tmp_path)
    for _step in range(19):  # looked at are the first few; nothing here is a number of the training
        optimizer.zero_grad()
        h = torch.ones(1, 2)
        for layer in model:
            h = layer(h) + 1
        h.sum().backward()
        optimizer.step()
    run.close()
    history = run.run.history
    assert history.steps == 19 and len(run.layers) == 5000 and run.every > 1
    assert history.max_columns * history.columns[0].nbytes < 40_000_000
    assert run.path.stat().st_size < 40_000_000


def test_gradviz_brings_none_of_the_pages_libraries_and_watch_only_torch_and_numpy():
    script = """
        import sys, gradviz
        assert not {"torch", "streamlit", "plotly", "pandas"} & set(sys.modules), sorted(sys.modules)
        gradviz.watch
        assert "torch" in sys.modules
        assert not {"streamlit", "plotly", "pandas", "torchvision", "sklearn"} & set(sys.modules)
    """
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    with pytest.raises(AttributeError):
        gradviz.nothing  # noqa: B018


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the heap's end is a matter of glibc")
def test_with_a_watch_the_heap_keeps_what_a_step_gives_back(tmp_path):
    """glibc gives back what is free at the heap's end beyond twice the size from which on a piece is not of the heap at all."""
    script = f"""
    import ctypes, torch, gradviz
    held = []
    def apart():
        held.append(torch.empty(30 << 20, dtype=torch.uint8))
        size = ctypes.c_size_t.from_address(held[-1].data_ptr() - ctypes.sizeof(ctypes.c_size_t)).value
        return bool(size & 2)  # glibc's own mark of such a piece: what other threads ask for meanwhile does not matter
    before = apart()
    model = torch.nn.Linear(2, 2)
    with gradviz.watch(model, torch.optim.SGD(model.parameters(), 0.1), folder={str(tmp_path)!r}):
        print(before, apart())
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    result = subprocess.run(command, env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert result.stdout.split() == ["True", "False"], result.stdout + result.stderr
