"""What is asked of many tensors at once, against float64; by one thread and by two."""

import threading

import numpy as np
import pytest
import torch
from watched_nets import row

import gradviz
from gradviz.record.watched import STILL
from gradviz.train import eyes
from gradviz.train.eyes import Asked, Eyes
from gradviz.train.lengths import length, lengths
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


@pytest.fixture(params=["one", "two"])
def look(request, monkeypatch, one_thread):
    """By so many threads, of which each looks at something."""
    monkeypatch.setattr(eyes, "cores", lambda: {"one": 1.0, "two": 2.0}[request.param])
    together, seen = threading.Barrier(2), set()

    def noted(tensors):
        if request.param == "two" and (me := threading.get_ident()) not in seen:
            seen.add(me)
            together.wait(60)  # for the other's first piece
        return lengths(tensors)

    monkeypatch.setattr(eyes, "lengths", noted)
    both = Eyes()
    yield both.look
    both.close()
    assert len(seen) == {"one": 0, "two": 2}[request.param]


def test_lengths_and_what_is_not_zero_are_those_of_float64_in_whatever_order_the_entries_lie(look):
    looked = look(list(KINDS.values()), Asked())
    for (name, tensor), found, count in zip(KINDS.items(), looked.lengths, looked.nonzero, strict=True):
        assert found == pytest.approx(true_length(tensor), rel=2e-5, nan_ok=True), name
        assert count == np.count_nonzero(tensor.double().numpy()), name


@pytest.mark.parametrize("name", KINDS)
def test_the_length_of_one_whole_tensor_is_that_of_float64(name):
    assert length(KINDS[name]) == pytest.approx(true_length(KINDS[name]), rel=2e-5, nan_ok=True)


def test_what_is_subtracted_copied_and_masked_is_so_entry_by_entry(look):
    names = [name for name in KINDS if not name.startswith(("with a", "very large"))]
    tensors = [torch.empty_like(KINDS[name]).copy_(KINDS[name]) for name in names]  # in an order of memory of their own
    truths = [(KINDS[name].double() - (KINDS[name] * (KINDS[name] > 0)).double()) for name in names]
    less = [KINDS[name] * (KINDS[name] > 0) for name in names]
    beside = [torch.empty_like(tensor, dtype=torch.bool).copy_(tensor < 0) for tensor in tensors]
    beside[0] = None
    copies = [torch.empty_like(tensor) for tensor in tensors]
    copies[3] = None
    into = [torch.empty_like(tensor, dtype=torch.bool) for tensor in tensors]
    into[4] = None
    looked = look(tensors, Asked(less=less, copies=copies, beside=beside, into=into))
    for k, (name, true) in enumerate(zip(names, truths, strict=True)):
        assert torch.equal(tensors[k].double(), true), name
        assert looked.lengths[k] == pytest.approx(true_length(true), rel=2e-5), name
        assert copies[k] is None or torch.equal(copies[k], tensors[k]), name
        assert into[k] is None or torch.equal(into[k], true != 0), name
        assert looked.nonzero[k] == (None if into[k] is None else torch.count_nonzero(true).item()), name


def test_what_is_subtracted_may_lie_in_another_order_than_that_from_which_it_is(look):
    tensors = [drawn(700, 1001), drawn(700, 1001), drawn(LARGE), drawn(LARGE)]
    less = [drawn(1001, 700, seed=1).t(), drawn(700, 1002, seed=1)[:, :-1], drawn(5 * LARGE, seed=1)[::5], drawn(LARGE, seed=1)]
    truths = [tensor.double() - other.double() for tensor, other in zip(tensors, less, strict=True)]
    looked = look(tensors, Asked(less=less))
    assert looked.lengths == [pytest.approx(true_length(true), rel=2e-5) for true in truths]
    assert looked.nonzero == [torch.count_nonzero(true).item() for true in truths]


def test_a_sparse_tensor_has_its_length_and_no_count(look):
    sparse = torch.sparse_coo_tensor([[0, 0, 2]], [3.0, 1.0, 3.0], (4,), check_invariants=True)  # one entry in two parts
    looked = look([sparse, *(drawn(LARGE) for _ in range(2))], Asked())
    assert looked.lengths[0] == 5 and looked.nonzero[0] is None and looked.nonzero[1] == torch.count_nonzero(drawn(LARGE))


def test_two_threads_have_the_numbers_of_one_to_the_last_bit(monkeypatch, one_thread):
    found = []
    for free in (1.0, 2.0, 2.0, 2.0):
        monkeypatch.setattr(eyes, "cores", lambda free=free: free)
        some = Eyes()
        found.append(some.look([drawn(LARGE, seed=seed) for seed in range(4)], Asked()))
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
    some.look(tensors, Asked())
    assert seconds() <= before


def test_the_second_thread_is_kept_from_look_to_look_and_ends_with_the_eyes(monkeypatch, one_thread):
    monkeypatch.setattr(eyes, "cores", lambda: 2.0)
    before, some = seconds(), Eyes()
    for _ in range(3):
        some.look([drawn(LARGE)] * 2, Asked())
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
        some.look([drawn(LARGE)] * 3, Asked())
    some.close()


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
