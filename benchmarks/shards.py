"""The batch of each step in parts, each trained by one thread of its own: threads of this process, or processes.

Nothing is recorded: this is what dividing the batch could gain at most, against PyTorch's way, which divides every
operation. Both loops give the gradient of the whole batch but for rounding; a batch norm would need the others' images.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F

from benchmarks.loops import net
from gradviz.lenet.config import RunConfig
from gradviz.lenet.data import Dataset
from gradviz.lenet.net import DeepLeNet
from gradviz.train.device import limit_threads


def by_threads(config: RunConfig, data: Dataset, parts: int) -> Iterator[None]:
    model, optimizer = net(config, tuned=True)
    replicas = [model]
    for _ in range(parts - 1):
        replicas.append(net(config, tuned=True)[0])
        for mine, whole in zip(replicas[-1].parameters(), model.parameters(), strict=True):
            mine.data = whole.data  # the same memory; gradients are each replica's own
    pool = ThreadPoolExecutor(parts, initializer=limit_threads, initargs=(1,))
    for batch in batches(config, data):
        pieces = batch.chunk(parts)
        list(pool.map(lambda replica, piece: part_of(replica, data, piece, len(batch)), replicas, pieces))  # noqa: B023
        gradients = [[parameter.grad for parameter in replica.parameters()] for replica in replicas[: len(pieces)]]
        for others in gradients[1:]:
            torch._foreach_add_(gradients[0], others)
        optimizer.step()
        yield


def by_processes(config: RunConfig, data: Dataset, parts: int) -> Iterator[None]:
    limit_threads(1)  # before the fork: it copies no pool of threads
    model, optimizer = net(config, tuned=True)
    parameters = list(model.parameters())
    for parameter in parameters:
        parameter.share_memory_()
    size = sum(parameter.numel() for parameter in parameters)
    flat = torch.zeros(parts, size).share_memory_()
    places = torch.zeros(config.batch_size, dtype=torch.long).share_memory_()
    pokes = [(os.pipe(), os.pipe()) for _ in range(parts - 1)]
    children = []

    def gradients(part: int) -> None:
        """Gradients are views of this part's own row."""
        start = 0
        for parameter in parameters:
            row = flat[part, start : start + parameter.numel()]
            parameter.grad = row.as_strided(parameter.shape, parameter.stride())
            start += parameter.numel()

    def pass_through(part: int) -> None:
        flat[part].zero_()
        part_of(model, data, places.chunk(parts)[part], config.batch_size, keep=True)

    for part, (asked, done) in enumerate(pokes, 1):
        if (pid := os.fork()) == 0:
            for writing, _done in pokes:
                os.close(writing[1])  # else no child would see the end of who asks
            gradients(part)
            while os.read(asked[0], 1):
                pass_through(part)
                os.write(done[1], b".")
            os._exit(0)
        children.append(pid)
    gradients(0)
    try:
        for batch in batches(config, data):
            places.copy_(batch)
            for asked, _done in pokes:
                os.write(asked[1], b".")
            pass_through(0)
            for _asked, done in pokes:
                os.read(done[0], 1)
            for part in range(1, parts):
                flat[0] += flat[part]
            optimizer.step()
            yield
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def batches(config: RunConfig, data: Dataset) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(config.seed)
    while True:
        order = torch.randperm(len(data.train_labels), generator=generator)
        yield from order[: len(order) // config.batch_size * config.batch_size].split(config.batch_size)


def part_of(model: DeepLeNet, data: Dataset, piece: torch.Tensor, size: int, keep: bool = False) -> None:
    if not keep:
        model.zero_grad()
    loss = F.cross_entropy(model(data.train_images[piece]), data.train_labels[piece], reduction="sum") / size
    loss.backward()
