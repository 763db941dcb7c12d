"""`gradviz.watch` on a card: numbers against float64, mixed precision, CUDA graphs, `torch.compile`, and what it costs."""

from __future__ import annotations

import contextlib
import copy
import importlib
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import gradviz
from benchmarks.common import ROOT, table
from benchmarks.gpu.numbers import Said, tf32
from benchmarks.gpu.speed import wait

sys.path.insert(0, str(ROOT / "tests"))
nets = importlib.import_module("watched_nets")


def cases() -> dict[str, tuple[Callable[[], nn.Module], tuple[torch.Tensor, torch.Tensor]]]:
    found = {
        "resnet": (nets.ResNet, nets.images()), "lstm": (nets.Recurrent, nets.tokens()),
        "transformer": (nets.Transformer, nets.tokens()), "unet": (nets.UNet, nets.images()),
    }  # fmt: skip
    with contextlib.suppress(Exception):
        resnet18 = nets.torchvision_models().resnet18
        found["torchvision's resnet18"] = (lambda: resnet18(num_classes=10), nets.images(4, 64, 3))
    return found


PARAMETERS = {"place", "attend.in_proj_weight", "lstm.weight_ih_l0", "lstm.weight_hh_l0"}
INSIDE = {"place", "attend.in_proj_weight", "lstm.weight_ih_l0"}  # what has no output of its own
SPEAKERS = {"lstm.weight_hh_l0": "lstm", "attend.out_proj": "attend"}


def moved(data: tuple[torch.Tensor, torch.Tensor], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    return data[0].to(device), data[1].to(device)


def against(run: gradviz.train.watch.WatchedRun, expected: dict[str, dict[str, float]], of: tuple[str, ...] = ()) -> list[str]:
    """The largest relative error of each quantity."""
    cells = []
    for quantity, numbers in expected.items():
        if of and quantity not in of:
            cells.append("–")
            continue
        mine = nets.row(run, quantity)
        if mine.keys() != numbers.keys():
            cells.append(f"{len(mine)} of {len(numbers)} layers")
        else:
            cells.append(f"{max(abs(mine[name] - numbers[name]) / numbers[name] for name in numbers):.1g}")
    return cells


def truth_of(before: nn.Module, layers: tuple[str, ...], data: tuple[torch.Tensor, torch.Tensor]) -> dict[str, dict[str, float]]:
    weights = {name: name if name in PARAMETERS else f"{name}.weight" for name in layers}
    outputs = {name: SPEAKERS.get(name, name) for name in layers if name not in INSIDE}
    return nets.truth(before, nets.loss_on(data), weights, outputs, lr=0.1)


def watched(device: str, quick: bool) -> str:
    place, rows = torch.device(device), []
    quantities: list[str] = []
    with tempfile.TemporaryDirectory() as folder, tf32(False):
        for name, (make, data) in cases().items():
            torch.manual_seed(0)
            before = make()
            model = copy.deepcopy(before).to(place)
            optimizer = torch.optim.SGD(model.parameters(), 0.1)
            try:
                with gradviz.watch(model, optimizer, every=1, folder=folder) as run:
                    value = nets.loss_on(moved(data, place))(model)
                    value.backward()
                    optimizer.step()
                    run.log(loss=value)
                expected = truth_of(before, run.layers, data)
                quantities = list(expected)
                rows.append([name, *against(run, expected), str(run.message) or "–"])
            except Exception as failure:
                rows.append([name, f"{type(failure).__name__}: {failure}"[:300]])
            print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
        others = [attempt(which, place, folder) for which in (same_bits, half, overflow, whole_graph, graphed_callable)]
    text = "Largest relative error against float64 on the processor:\n\n" + table(["net", *quantities, "said"], rows)
    return text + "\n" + "\n".join(f"- {line}" for line in others) + "\n"


def attempt(which: Callable[[torch.device, str], str], device: torch.device, folder: str) -> str:
    said = Said()
    logging.getLogger("gradviz").addHandler(said)
    try:
        line = which(device, folder)
    except Exception as failure:
        line = f"{type(failure).__name__}: {failure}"[:400]
    finally:
        logging.getLogger("gradviz").removeHandler(said)
    line = f"{which.__name__.replace('_', ' ')}: {line}" + (f"; said: {'; '.join(said.lines)[:400]}" if said.lines else "")
    print(line, file=sys.stderr, flush=True)
    return line


def same_bits(device: torch.device, folder: str) -> str:
    """Losses and weights with a watch and without."""
    found = []
    for watching in (False, True, False):
        torch.manual_seed(0)
        model = nets.ResNet().to(device)
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        run = gradviz.watch(model, optimizer, every=1, folder=folder) if watching else None
        torch.backends.cudnn.deterministic = True
        losses = []
        for _ in range(10):
            optimizer.zero_grad()
            loss = nets.loss_on(moved(nets.images(32), device))(model)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        if run:
            run.close()
        found.append((losses, [parameter.detach().cpu() for parameter in model.parameters()]))
    torch.backends.cudnn.deterministic = False
    equal = [one[0] == found[0][0] and all(map(torch.equal, one[1], found[0][1])) for one in found[1:]]
    return f"10 steps of Adam, watched and not: {'the same bits' if equal[0] else 'other bits'}; twice without: {equal[1]}"


def half(device: torch.device, folder: str) -> str:
    """fp16 by autocast and a GradScaler, against float64."""
    lines = []
    for fused in (False, True):
        torch.manual_seed(0)
        before = nets.ResNet()
        model = copy.deepcopy(before).to(device)
        kind = {"fused": True} if fused else {}
        optimizer = torch.optim.SGD(model.parameters(), 0.1, **kind)
        scaler = torch.amp.GradScaler(device.type, init_scale=2.0**12)
        x, y = moved(nets.images(), device)
        with gradviz.watch(model, optimizer, every=1, folder=folder) as run:
            with torch.autocast(device.type, torch.float16 if device.type == "cuda" else torch.bfloat16):
                loss = F.cross_entropy(model(x), y)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            run.log(loss=loss)
        expected = truth_of(before, run.layers, nets.images())
        cells = dict(zip(expected, against(run, expected), strict=True))
        lines.append(f"{'fused' if fused else 'plain'} {cells}")
    return "; ".join(lines)


def overflow(device: torch.device, folder: str) -> str:
    """A scale that is too large: the steps are left out until it fits."""
    lines = []
    for fused in (False, True):
        torch.manual_seed(0)
        model = nets.ResNet().to(device)
        optimizer = torch.optim.SGD(model.parameters(), 0.1, **({"fused": True} if fused else {}))
        scaler = torch.amp.GradScaler(device.type, init_scale=2.0**24)
        x, y = moved(nets.images(), device)
        with gradviz.watch(model, optimizer, every=1, folder=folder) as run:
            for _ in range(12):
                optimizer.zero_grad()
                with torch.autocast(device.type, torch.float16 if device.type == "cuda" else torch.bfloat16):
                    loss = F.cross_entropy(model(x), y)
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
        gradient = run.quantity("weight_grad_rms")[-1]
        steps = run.run.history.steps
        lines.append(
            f"{'fused' if fused else 'plain'}: {run.overflows} overflows and {steps} records of 12 steps, scale at the end "
            f"2^{np.log2(max(scaler.get_scale(), 1)):.0f}, last gradients {gradient.min():.1e} … {gradient.max():.1e}"
        )
    return "; ".join(lines)


def trained_as_a_graph(device: torch.device, folder: str | None) -> list[float]:
    """PyTorch's own recipe: some steps on a side stream, one captured, five replayed. Losses of those."""
    torch.manual_seed(0)
    model = nets.ResNet().to(device)
    optimizer = torch.optim.Adam(model.parameters(), 0.01, capturable=True)
    run = gradviz.watch(model, optimizer, every=1, folder=folder) if folder else None
    x, y = moved(nets.images(), device)

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()
    losses = []
    for _ in range(5):
        graph.replay()
        losses.append(loss.item())
    if run:
        run.close()
        losses.append(run.run.history.steps)
    return losses


def whole_graph(device: torch.device, folder: str) -> str:
    """A whole step in a CUDA graph, with a watch: nothing of the training may change."""
    if device.type != "cuda":
        return "needs a card"
    bare = trained_as_a_graph(device, None)
    *seen, steps = trained_as_a_graph(device, folder)
    return f"largest difference of five replayed losses {max(map(lambda a, b: abs(a - b), bare, seen)):.1g}; records {steps}"


def graphed_callable(device: torch.device, folder: str) -> str:
    """`make_graphed_callables`: passes are replayed, the optimiser is not."""
    if device.type != "cuda":
        return "needs a card"
    torch.manual_seed(0)
    model = nets.Mlp().to(device)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    x, y = moved(nets.features(), device)
    graphed = torch.cuda.make_graphed_callables(model, (x,))
    with gradviz.watch(model, optimizer, every=1, folder=folder) as run:
        for _ in range(4):
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(graphed(x), y).backward()
            gradient = model.first.weight.grad.square().mean().sqrt().item()
            optimizer.step()
    codes = {name: sorted(run.missing.get(name, {})) for name in run.layers[:1]}
    mine = nets.row(run, "weight_grad_rms").get("first")
    treated = nets.row(run, "treated_grad_rms").get("first")
    steps = run.run.history.steps
    both = f"gradient {mine} and as the optimiser got it {treated}, asked another way {gradient:.4g}"
    return f"{steps} records of 4; {both}; missing {codes}"


def compiled(device: str, quick: bool) -> str:
    """`torch.compile` by its default compiler."""
    place, lines = torch.device(device), []
    with tempfile.TemporaryDirectory() as folder, tf32(False):
        for first in ("watched, then compiled", "compiled, then watched"):
            torch.manual_seed(0)
            before = nets.ResNet()
            model = copy.deepcopy(before).to(place)
            optimizer = torch.optim.SGD(model.parameters(), 0.1)
            begin = time.perf_counter()
            try:
                if first.startswith("watched"):
                    run = gradviz.watch(model, optimizer, every=1, folder=folder)
                    net = torch.compile(model)
                else:
                    net = torch.compile(model)
                    run = gradviz.watch(net, optimizer, every=1, folder=folder)
                x, y = moved(nets.images(), place)
                loss = F.cross_entropy(net(x), y)
                loss.backward()
                optimizer.step()
                run.log(loss=loss)
                run.close()
                names = ("weight_grad_rms", "treated_grad_rms", "weight_rms", "update_ratio")
                expected = truth_of(before, run.layers, nets.images())
                errors = dict(zip(expected, against(run, expected, names), strict=True))
                counts = dict(torch._dynamo.utils.counters["graph_break"])
                lines.append(f"- {first}: {errors}, breaks in the graph {counts or 0}, {time.perf_counter() - begin:.0f} s")
            except Exception as failure:
                lines.append(f"- {first}: {type(failure).__name__}: {str(failure)[:300]}")
            print(lines[-1], file=sys.stderr, flush=True)
            torch._dynamo.reset()
    return "\n".join(lines) + "\n"


class Gpt(nn.Module):
    """Tokens (n, length) -> logits (n, length, 8192)."""

    def __init__(self, depth: int, width: int):
        super().__init__()
        self.embed, self.place = nn.Embedding(8192, width), nn.Parameter(torch.randn(1, 256, width) * 0.02)
        self.blocks = nn.ModuleList(GptBlock(width) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 8192, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.embed(x) + self.place[:, : x.shape[1]]
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h))


class GptBlock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, length, width = x.shape
        q, k, v = (each.view(n, length, width // 64, 64).transpose(1, 2) for each in self.qkv(self.norm1(x)).split(width, 2))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(n, length, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


def resnet_training(device: torch.device, batch: int) -> tuple[nn.Module, torch.optim.Optimizer, Callable[[], torch.Tensor]]:
    model = nets.torchvision_models().resnet18(num_classes=10).to(device)
    x, y = torch.randn(batch, 3, 64, 64, device=device), torch.randint(0, 10, (batch,), device=device)
    return model, torch.optim.SGD(model.parameters(), 0.01, momentum=0.9), lambda: F.cross_entropy(model(x), y)


def gpt_training(device: torch.device, batch: int) -> tuple[nn.Module, torch.optim.Optimizer, Callable[[], torch.Tensor]]:
    cuda = device.type == "cuda"
    model = Gpt(12 if cuda else 2, 768 if cuda else 128).to(device)
    x = torch.randint(0, 8192, (batch, 257 if cuda else 33), device=device)

    def loss() -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return F.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())

    return model, torch.optim.AdamW(model.parameters(), 1e-4), loss


def steps_of(parts: tuple[nn.Module, torch.optim.Optimizer, Callable[[], torch.Tensor]], run: object) -> Iterator[None]:
    _model, optimizer, forward = parts
    while True:
        optimizer.zero_grad(set_to_none=True)
        loss = forward()
        loss.backward()
        optimizer.step()
        if run:
            run.log(loss=loss)
        yield


def cost(device: str, quick: bool) -> str:
    """Time of a step with a watch over that without, in turns; nobody looks at a number of the training."""
    place, rows = torch.device(device), []
    cuda = place.type == "cuda"
    if not cuda:
        torch.set_num_threads(1)
    trainings = {
        "ResNet-18, 64 × 64, batch 32": (resnet_training, 32 if cuda else 2),
        "ResNet-18, 64 × 64, batch 512": (resnet_training, 512 if cuda else 2),
        "GPT, 12 blocks of 768, 8 × 256 tokens, bfloat16": (gpt_training, 8 if cuda else 1),
        "GPT, 12 blocks of 768, 32 × 256 tokens, bfloat16": (gpt_training, 32 if cuda else 1),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, (make, batch) in list(trainings.items())[: 1 if quick else None]:
            loops, runs = [], []
            for every in (None, 1, "auto"):
                parts = make(place, batch)
                run = gradviz.watch(parts[0], parts[1], every=every, folder=folder) if every else None
                loops.append(steps_of(parts, run))
                runs.append(run)
            for loop in loops:
                for _ in range(3 if quick else 40 if loop is loops[2] else 10):
                    next(loop)
            times = []
            for _ in range(2 if quick else 5):
                times.append([timed(loop, 2 if quick else 40, place) for loop in loops])
            bare, each, auto = (statistics.median(column) for column in zip(*times, strict=True))
            share = f"{runs[2].share:.1%}" if runs[2].share is not None else "–"
            rows.append([name, f"{1000 * bare:.1f}", f"{each / bare:.2f}", f"{auto / bare:.3f}", runs[2].every, share])
            print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
            for run in runs[1:]:
                run.close()
            del loops, runs, parts
    head = ["training", "ms per step", "every=1, times as long", 'every="auto"', "it settled at", "and thinks it costs"]
    return table(head, rows)


def timed(loop: Iterator[None], steps: int, device: torch.device) -> float:
    wait(device)
    begin = time.perf_counter()
    for _ in range(steps):
        next(loop)
    wait(device)
    return (time.perf_counter() - begin) / steps
