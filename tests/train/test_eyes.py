"""What is asked of many tensors at once, against float64; by one thread and by two, by torch and by what numba has compiled."""

import sys
import threading

import numpy as np
import pytest
import torch
from watched_nets import row

import gradviz.train
from gradviz.lenet.config import RunConfig
from gradviz.lenet.net import DeepLeNet
from gradviz.record.watched import STILL
from gradviz.train import eyes
from gradviz.train.eyes import Eyes, find_compiled
from gradviz.train.lengths import lengths
from gradviz.train.updates import MOST

LARGE = 700_001  # entries: looked at in pieces, the last of them short


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    """A third of it exact zeros."""
    made = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=made) * (torch.rand(shape, generator=made) > 1 / 3)


KINDS = {
    "small": drawn(3, 5),
    "none": torch.empty(0, 4),
    "one number": torch.tensor(-2.5),
    "large": drawn(7, LARGE // 7 + 1),
    "large, of one dimension": drawn(LARGE),
    "large, the other way round": drawn(700, 1001).t(),
    "large, channels last": drawn(8, 9, 100, 101).to(memory_format=torch.channels_last),
    "large, with gaps": drawn(700, 1001)[:, :-1],
    "very large": drawn(3000, 1500),
    "very large, channels last": drawn(4, 64, 100, 110).to(memory_format=torch.channels_last),
    "very large, some channels": drawn(4, 64, 100, 110)[:, :48],
    "very large, with gaps": drawn(3000, 1501)[:, 1:],
    "large, every third": drawn(3 * LARGE)[::3],
    "large, one row repeated": drawn(1000).expand(800, 1000),
    "float64": drawn(800, 900).double() * 1e-200,
    "bfloat16": drawn(800, 900).bfloat16(),
    "too small for float32 squares": drawn(LARGE) * 1e-30,
    "too large for float32 squares": drawn(LARGE) * 1e30,
    "with an inf in the last piece": torch.cat([drawn(LARGE), torch.tensor([torch.inf])]),
    "with a nan in the first": torch.cat([torch.tensor([torch.nan]), drawn(LARGE)]),
    "all zero": torch.zeros(LARGE),
}


def true_length(tensor: torch.Tensor) -> float:
    """Scaled, so that no square leaves the range of float64."""
    entries = np.abs(tensor.double().numpy())
    largest = entries.max(initial=0)
    return float(largest * np.sqrt(np.square(entries / largest).sum())) if 0 < largest < np.inf else float(largest)


compiled = find_compiled([torch.empty(LARGE)])
WAYS = [pytest.param(None, id="torch"), pytest.param(compiled, id="numba")]


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    assert compiled, "numba is not installed"
    monkeypatch.setattr(eyes, "COMPILED", eyes.CACHED)  # so that what is large here is looked at in pieces either way
    return request.param


@pytest.fixture(params=["one", "two"])
def looking(request, way, monkeypatch, one_thread):
    """Eyes of so many threads, of which each looks at something."""
    monkeypatch.setattr(eyes, "cores", lambda: {"one": 1.0, "two": 2.0}[request.param])
    together, seen, ways = threading.Barrier(2), set(), set()

    def noted(name, function):
        def looks(*arguments):
            ways.add(name)
            if request.param == "two" and (me := threading.get_ident()) not in seen:
                seen.add(me)
                together.wait(60)  # for the other's first piece
            return function(*arguments)

        return looks

    for name in ("seen_by_torch", "seen_compiled"):
        monkeypatch.setattr(eyes, name, noted(name, getattr(eyes, name)))
    both = Eyes(way)
    yield both
    both.close()
    assert len(seen) == {"one": 0, "two": 2}[request.param] and ("seen_compiled" in ways) == bool(way)


def test_lengths_and_what_is_not_zero_are_those_of_float64_in_whatever_order_the_entries_lie(looking):
    looked = looking.see(list(KINDS.values()))
    for (name, tensor), found, count in zip(KINDS.items(), looked.lengths, looked.nonzero, strict=True):
        assert found == pytest.approx(true_length(tensor), rel=2e-5, nan_ok=True), name
        assert count == np.count_nonzero(tensor.double().numpy()), name


@pytest.mark.parametrize("name", KINDS)
def test_the_length_of_one_whole_tensor_is_that_of_float64(name, way):
    assert Eyes(way).length(KINDS[name]) == pytest.approx(true_length(KINDS[name]), rel=2e-5, nan_ok=True)


def own(tensor: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """As large and in that order of memory, and nothing of it yet."""
    return torch.full_like(tensor, torch.nan) if dtype is None else torch.ones_like(tensor, dtype=dtype)


FINITE = {name: tensor for name, tensor in KINDS.items() if not name.startswith("with a")}


def test_copies_are_the_tensors_entry_by_entry_beside_their_lengths(looking):
    tensors = [own(tensor).copy_(tensor) for tensor in FINITE.values()]
    copies = [own(tensor) for tensor in tensors]
    copies[3] = None
    found = looking.keep(tensors, copies)
    for name, tensor, copy, length in zip(FINITE, tensors, copies, found, strict=True):
        assert length == pytest.approx(true_length(FINITE[name]), rel=2e-5), name
        assert torch.equal(tensor, FINITE[name]) and (copy is None or torch.equal(copy, tensor)), name


def test_masks_are_true_where_an_entry_is_not_zero(looking):
    tensors = [own(tensor).copy_(tensor) for tensor in FINITE.values()]
    masks = [own(tensor, torch.bool) for tensor in tensors]
    masks[4] = None
    for mask in masks[:3]:
        mask.fill_(False)
    looked = looking.see(tensors, masks)
    for name, tensor, mask, count in zip(FINITE, tensors, masks, looked.nonzero, strict=True):
        assert count == (None if mask is None else torch.count_nonzero(tensor).item()), name
        assert mask is None or count == tensor.numel() or torch.equal(mask, tensor != 0), name


@pytest.mark.parametrize("zero", [0, LARGE - 1], ids=["the first piece", "the last"])
def test_a_mask_is_whole_where_only_one_piece_has_a_zero(zero, looking):
    tensors = [drawn(LARGE) + 10 for _ in range(3)]
    masks = [torch.zeros(LARGE, dtype=torch.bool) for _ in tensors]
    tensors[1][zero] = 0
    assert looking.see(tensors, masks).nonzero == [LARGE, LARGE - 1, LARGE]
    assert torch.equal(masks[1], tensors[1] != 0)


def test_differences_are_measured_and_counted_where_a_mask_is_true(looking):
    old = [own(tensor).copy_(tensor) for tensor in FINITE.values()]
    new = [own(tensor).copy_(tensor * (tensor > 0)) for tensor in old]
    masks = [own(tensor, torch.bool).copy_(tensor.abs() > 1) for tensor in old]
    masks[0] = masks[3] = None
    truths = [before.double() - after.double() for before, after in zip(old, new, strict=True)]
    looked = looking.compare(old, new, masks)
    for k, (name, true) in enumerate(zip(FINITE, truths, strict=True)):
        assert looked.lengths[k] == pytest.approx(true_length(true), rel=2e-5), name
        there = true != 0 if masks[k] is None else (true != 0) & masks[k]
        assert looked.nonzero[k] == torch.count_nonzero(there).item(), name
        assert torch.equal(new[k], FINITE[name] * (FINITE[name] > 0)), name


def test_what_is_subtracted_may_lie_in_another_order_than_that_from_which_it_is(looking):
    tensors = [drawn(700, 1001), drawn(700, 1001), drawn(LARGE), drawn(LARGE)]
    less = [drawn(1001, 700, seed=1).t(), drawn(700, 1002, seed=1)[:, :-1], drawn(5 * LARGE, seed=1)[::5], drawn(LARGE, seed=1)]
    truths = [tensor.double() - other.double() for tensor, other in zip(tensors, less, strict=True)]
    looked = looking.compare(tensors, less, [None] * 4)
    assert looked.lengths == [pytest.approx(true_length(true), rel=2e-5) for true in truths]
    assert looked.nonzero == [torch.count_nonzero(true).item() for true in truths]


def test_a_sparse_tensor_has_its_length_and_no_count(looking):
    sparse = torch.sparse_coo_tensor([[0, 0, 2]], [3.0, 1.0, 3.0], (4,), check_invariants=True)  # one entry in two parts
    looked = looking.see([sparse, *(drawn(LARGE) for _ in range(2))])
    assert looked.lengths[0] == 5 and looked.nonzero[0] is None and looked.nonzero[1] == torch.count_nonzero(drawn(LARGE))


def test_two_threads_have_the_numbers_of_one_to_the_last_bit(way, monkeypatch, one_thread):
    found = []
    for free in (1.0, 2.0, 2.0, 2.0):
        monkeypatch.setattr(eyes, "cores", lambda free=free: free)
        some = Eyes(way)
        found.append(some.see([drawn(LARGE, seed=seed) for seed in range(4)]))
        some.close()
    assert found[1:] == found[:1] * 3


def seconds() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("gradviz-watch")}


@pytest.mark.parametrize("free, threads, tensors", [
    (1.9, 1, [drawn(LARGE)] * 2), (2.0, 2, [drawn(LARGE)] * 2), (2.0, 1, [drawn(3, 5)] * 9),
], ids=["no core is free", "the training has two itself", "the tensors are small"])  # fmt: skip
def test_no_second_thread_looks_where(free, threads, tensors, monkeypatch, one_thread):
    monkeypatch.setattr(eyes, "cores", lambda: free)
    before, some = seconds(), Eyes()
    torch.set_num_threads(threads)
    some.see(tensors)
    assert seconds() <= before


def test_the_second_thread_is_kept_from_look_to_look_and_ends_with_the_eyes(monkeypatch, one_thread):
    monkeypatch.setattr(eyes, "cores", lambda: 2.0)
    before, some = seconds(), Eyes()
    for _ in range(3):
        some.see([drawn(LARGE)] * 2)
    (second,) = seconds() - before
    some.close()
    second.join(60)
    assert not second.is_alive()


def test_what_goes_wrong_in_the_second_thread_is_raised_in_the_training(monkeypatch, one_thread):
    monkeypatch.setattr(eyes, "cores", lambda: 2.0)
    here, fails = threading.get_ident(), threading.Event()

    def failing(tensors):
        if threading.get_ident() == here:
            fails.wait(60)
            return lengths(tensors)
        fails.set()
        raise MemoryError("no room for the second thread")

    monkeypatch.setattr(eyes, "lengths", failing)
    some = Eyes()
    with pytest.raises(MemoryError, match="second thread"):
        some.see([drawn(LARGE)] * 3)
    some.close()


def test_numba_has_no_part_in_a_deep_lenet_whose_digits_are_those_of_its_trainer():
    model = DeepLeNet(RunConfig(blocks=300, shortcut=True, batch_norm=True))
    assert sum(weight.numel() for weight in model.parameters()) > 1 << 20 and find_compiled(model.parameters()) is None


@pytest.mark.parametrize("weights", [
    [torch.empty(1 << 13)] * 1000, [torch.empty(1 << 20, dtype=torch.bfloat16)], [torch.empty(1 << 20, device="meta")],
    [torch.empty(300, 400)], [torch.nn.UninitializedParameter()],
], ids=["many small weights", "half precision", "no entries", "one that is soon looked at", "a lazy one"])  # fmt: skip
def test_numba_is_not_asked_for(weights):
    assert find_compiled(weights) is None


@pytest.mark.parametrize("error", [ImportError("Numba needs NumPy 2.4 or less"), RuntimeError("no locator available")])
def test_where_numba_does_not_work_torch_takes_the_same_numbers(error, monkeypatch, tmp_path):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "gradviz.train.compiled":
                raise error

    rows = []
    for numba in (True, False):
        if not numba:
            monkeypatch.delitem(sys.modules, "gradviz.train.compiled")
            monkeypatch.delattr(gradviz.train, "compiled")
            monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
        torch.manual_seed(0)
        net, x = torch.nn.Linear(600, 500), torch.randn(4, 600)
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        with gradviz.watch(net, optimizer, every=1, folder=tmp_path) as run:
            net(x).square().mean().backward()
            optimizer.step()
        assert bool(find_compiled(net.parameters())) is numba
        rows.append([row(run, quantity, 0)["weight"] for quantity in ("weight_grad_rms", "weight_rms", "update_ratio", STILL)])
    assert rows[0] == pytest.approx(rows[1], rel=1e-5)


def made(kind: str) -> torch.nn.Linear:
    net = torch.nn.Linear(1500, 400 if kind == "gaps" else MOST // 1500 + 1)
    if kind == "gaps":
        net.weight = torch.nn.Parameter((drawn(400, 1501) / 30)[:, :-1])
    return net


@pytest.mark.parametrize("kind", ["more entries than are compared", "gaps"])
def test_a_watch_goes_on_with_a_large_weight_of_whatever_kind(kind, tmp_path):
    torch.manual_seed(0)
    net, x = made(kind), torch.randn(2, 1500)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with gradviz.watch(net, optimizer, every=1, folder=tmp_path) as run:
        for _ in range(2):
            optimizer.zero_grad()
            net(x).square().mean().backward()
            weight, gradient = true_length(net.weight.detach()), true_length(net.weight.grad)
            optimizer.step()
    assert run.run.history.steps == 2
    asked = ("weight_grad_rms", "weight_rms", "update_ratio", STILL)
    measured = {quantity: row(run, quantity, 1)["weight"] for quantity in asked}
    root = net.weight.numel() ** 0.5
    assert measured["weight_rms"] == pytest.approx(weight / root, rel=2e-5)
    assert measured["weight_grad_rms"] == pytest.approx(gradient / root, rel=2e-5)
    assert measured["update_ratio"] == pytest.approx(0.1 * gradient / weight, rel=0.01)  # of the largest, some entries
    assert 0 <= measured[STILL] < 0.01
