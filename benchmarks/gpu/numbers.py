"""Are the numbers of a card right? Every quantity of every layer, over some steps, against float64 on the processor.

The card trains as the app does it: three steps kernel by kernel, one that is captured as a CUDA graph, the others replayed.
The processor trains the same net from the same weights on the same batches in float64, and measures by itself.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.common import load_data, table
from gradviz.lenet.config import RunConfig
from gradviz.lenet.experiment import task
from gradviz.record.quantities import QUANTITIES
from gradviz.train.trainer import Trainer

STEPS, DEPTHS = 6, (12, 60)
SMALL = 1e-34  # entries of a layer with less are no normal numbers of float32, and a card takes such for 0
CASES: dict[str, dict[str, object]] = {
    "relu, shortcut": dict(activation="relu", shortcut=True),
    "relu": dict(activation="relu"),
    "relu, weights too large": dict(activation="relu", init_range=0.13),
    "sigmoid": dict(),
    "sigmoid, feedback": dict(treatment="feedback", threshold=1e-4),
    "sigmoid, normalise": dict(treatment="normalise", threshold=1e-4),
    "sigmoid, floor": dict(treatment="floor", threshold=1e-6),
    "tanh, clip-norm": dict(activation="tanh", treatment="clip-norm", threshold=0.1),
    "tanh, clip-value": dict(activation="tanh", treatment="clip-value", threshold=0.001),
    "relu, batch norm, shortcut": dict(activation="relu", batch_norm=True, shortcut=True),
    "gelu, layer norm, SkipInit": dict(activation="gelu", other_norm="layer", shortcut=True, branch_scale="skip-init"),
}


def truth(config: RunConfig, steps: int) -> Iterator[tuple[float, np.ndarray]]:
    """Loss and float64 (len(QUANTITIES), layers) of each step."""
    todo = task(config, load_data(), torch.device("cpu"))
    todo.model.double()
    todo.model.overwrite(False)  # the outputs before the activation are looked at
    images, labels = todo.examples[0].double(), todo.examples[1]
    for _ in range(steps):
        seen: list[tuple[torch.Tensor, torch.Tensor]] = []

        def watch(_index: int, z: torch.Tensor, h: torch.Tensor, seen: list = seen) -> None:
            z.retain_grad()
            seen.append((z, h.detach()))

        batch = next(todo.batches)
        todo.optimizer.zero_grad()
        loss = F.cross_entropy(todo.model(images[batch], watch), labels[batch])
        loss.backward()
        old = [weight.detach().clone() for weight in todo.weights]
        raw = [weight.grad.clone() for weight in todo.weights]
        if todo.treat:
            todo.treat(list(todo.model.parameters()))
        treated = [weight.grad.clone() for weight in todo.weights]
        todo.optimizer.step()
        rows = dict(
            weight_grad_rms=[rms(each) for each in raw],
            signal_rms=[rms(z.grad) for z, _h in seen],
            activation_rms=[rms(h) for _z, h in seen],
            weight_rms=[rms(each) for each in old],
            update_ratio=[rms(new.detach() - each) / rms(each) for new, each in zip(todo.weights, old, strict=True)],
            zero_share=[(each.abs() < 1e-45).double().mean().item() for each in raw],
            treated_grad_rms=[rms(each) for each in treated],
        )
        yield loss.item(), np.array([rows[name] for name in QUANTITIES])


def rms(tensor: torch.Tensor) -> float:
    return tensor.detach().square().mean().sqrt().item()


class Said(logging.Handler):
    """What the library has said about captures."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        cause = f" {record.exc_info[1]}".splitlines()[0] if record.exc_info else ""
        self.lines.append(record.getMessage() + cause)


def compared(config: RunConfig, device: torch.device, expected: list[tuple[float, np.ndarray]]) -> list[str]:
    """The largest relative errors over layers and steps; of the updates those that are no rounding of the weights."""
    said = Said()
    logging.getLogger("gradviz").addHandler(said)
    found = []
    try:
        for record in Trainer(task(config, load_data(), device), sampled=()):
            found.append((record.loss, record.layers.astype(float)))
    finally:
        logging.getLogger("gradviz").removeHandler(said)
    cells = [error([one[0] for one in found], [one[0] for one in expected[: len(found)]])]
    for place, name in enumerate(QUANTITIES):
        mine, theirs = (np.array([one[1][place] for one in each]) for each in (found, expected[: len(found)]))
        if name == "zero_share":
            normal = np.array([one[1][list(QUANTITIES).index("weight_grad_rms")] for one in expected[: len(found)]]) > SMALL
            cells.append(f"{np.abs(mine - theirs)[normal].max():.1g}" if normal.any() else "–")
        elif name == "update_ratio":
            cells.append(error(mine[theirs > 1e-4], theirs[theirs > 1e-4]))
        else:
            cells.append(error(mine, theirs))
    cells.append("; ".join(said.lines) or ("replayed" if device.type == "cuda" else "–"))
    return cells


def error(mine: object, theirs: object) -> str:
    mine, theirs = np.asarray(mine, float), np.asarray(theirs, float)
    with np.errstate(all="ignore"):
        theirs = np.where(np.abs(theirs) > np.finfo(np.float32).max, np.inf, theirs)
        known = (theirs > SMALL) & np.isfinite(theirs)
        other = np.isfinite(mine) != np.isfinite(theirs)
        worst = np.abs(mine[known] - theirs[known]) / theirs[known]
    return (f"{np.nanmax(worst):.1g}" if worst.size else "–") + (f", {int(other.sum())} not finite alike" if other.any() else "")


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether a convolution may round its factors to TensorFloat-32: 10 bits in place of 23."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    yield
    torch.backends.cudnn.allow_tf32 = before


def measure(device: str, quick: bool) -> str:
    place, until = torch.device(device), time.monotonic() + 70
    exact, host, rounded = [], [], []
    for name, changes in list(CASES.items())[: 3 if quick else None]:
        for blocks in DEPTHS[: 1 if quick else None]:
            if time.monotonic() > until:
                continue
            config = RunConfig(blocks=blocks, dataset=load_data().name, batch_size=32, steps=STEPS, optimizer="sgd", lr=0.01)
            config = replace(config, **changes)
            expected = list(truth(config, STEPS))
            for rows, where, allowed in ((exact, place, False), (host, torch.device("cpu"), False), (rounded, place, True)):
                with tf32(allowed):
                    try:
                        cells = compared(config, where, expected)
                    except Exception as failure:
                        cells = [f"{type(failure).__name__}: {str(failure).splitlines()[0]}"[:200]]
                rows.append([name, blocks, *cells])
                print(f"{where.type}, TF32" if allowed else where.type, *rows[-1], sep=" | ", file=sys.stderr, flush=True)
    head = ["net", "blocks", "loss", *QUANTITIES, "the graph"]
    text = "Largest relative error against float64 (of the share of zeros: the largest difference), in float32:\n\n"
    text += f"{table(head, exact)}\nThe processor's own float32:\n\n{table(head, host)}"
    return f"{text}\nThe same with TensorFloat-32 for convolutions, PyTorch's default:\n\n{table(head, rounded)}"
