"""The loops that people write, to compare the app with. All train the same net with PyTorch's default Adam, batch 64.

    bare         images in memory as one tensor, nothing recorded
    dataloader   the article's way: a DataLoader over PIL images with ToTensor and Normalize, nothing recorded
    tensorboard  bare, and a TensorBoard histogram of every layer's weight gradient at every step
    wandb        bare, and `wandb.watch` of every gradient at every step, offline
    wandb-all    the same with log="all": every weight too

and, beside them, the app's own Trainer (app), and the batch in parts, one for each thread (benchmarks/shards.py).

`OMP_NUM_THREADS=1 python -m benchmarks.loops ARM BLOCKS` reads a number of seconds from each line of its input, trains for
so long, and prints steps per second: so that another process can take turns with it.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F

from benchmarks.common import data_folder, load_data, relu_shortcut
from gradviz.lenet.config import RunConfig
from gradviz.lenet.data import PIXELS, Dataset, torchvision_datasets
from gradviz.lenet.experiment import task
from gradviz.lenet.net import DeepLeNet, initialise
from gradviz.train.cores import Cores
from gradviz.train.trainer import Trainer

ARMS = ("bare", "dataloader", "tensorboard", "wandb", "wandb-all")
BATCH = 64


CPU = torch.device("cpu")


def net(config: RunConfig, tuned: bool = False, device: torch.device = CPU) -> tuple[DeepLeNet, torch.optim.Optimizer]:
    """A new net and its Adam; `tuned` with the Trainer's own memory format and fused optimiser."""
    model = DeepLeNet(config)
    initialise(model, config.init_range, torch.Generator().manual_seed(config.seed))
    model.to(device)
    if tuned:
        model.to(memory_format=torch.channels_last)
    return model, torch.optim.Adam(model.parameters(), lr=config.lr, fused=True if tuned else None)


def in_memory(
    config: RunConfig, data: Dataset, tuned: bool = False, record: Callable | None = None, device: torch.device = CPU
) -> Iterator[None]:
    """Trains without end, yielding after each step; `record(model, step)` is called after the backward pass.

    `data` lies on the device.
    """
    model, optimizer = net(config, tuned, device)
    if record:
        record(model, None)
    generator, step = torch.Generator().manual_seed(config.seed), 0
    while True:
        order = torch.randperm(len(data.train_labels), generator=generator).to(device)
        for batch in order[: len(order) // config.batch_size * config.batch_size].split(config.batch_size):
            optimizer.zero_grad()
            F.cross_entropy(model(data.train_images[batch]), data.train_labels[batch]).backward()
            if record:
                record(model, step)
            optimizer.step()
            step += 1
            yield


def dataloader(config: RunConfig) -> Iterator[None]:
    datasets = torchvision_datasets()
    from torchvision import transforms

    mean, std = PIXELS["mnist"]
    steps = transforms.Compose([transforms.ToTensor(), transforms.Normalize((mean,), (std,))])
    images = datasets.MNIST(root=str(data_folder()), train=True, transform=steps)
    loader = torch.utils.data.DataLoader(images, batch_size=config.batch_size, shuffle=True, drop_last=True)
    model, optimizer = net(config)
    while True:
        for batch, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(batch), labels).backward()
            optimizer.step()
            yield


def tensorboard_record(folder: str) -> Callable:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(folder)

    def record(model: DeepLeNet, step: int | None) -> None:
        if step is not None:
            for name, parameter in model.named_parameters():
                if name.endswith("weight"):
                    writer.add_histogram(name, parameter.grad, step)

    return record


def wandb_record(what: str, folder: str) -> Callable:
    os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true", WANDB_DIR=folder)
    import wandb

    run = wandb.init(project="gradviz-benchmark", dir=folder)

    def record(model: DeepLeNet, step: int | None) -> None:
        if step is None:
            wandb.watch(model, log=what, log_freq=1)
        else:
            run.log({"step": step})

    return record


def arm(name: str, config: RunConfig, folder: str) -> Iterator[None]:
    """Raises ImportError if the arm's package is not installed."""
    if name.startswith("app"):
        return iter(Trainer(task(config, load_data(), CPU), sampled=(), cores=Cores() if name == "app-free" else None))
    if name.startswith("part-"):
        from benchmarks import shards  # here: it asks this file for its net

        divided = {"part-threads": shards.by_threads, "part-processes": shards.by_processes}[name]
        return divided(config, load_data(), int(os.environ["OMP_NUM_THREADS"]))
    if name == "dataloader":
        return dataloader(config)
    recorders = {
        "tensorboard": tensorboard_record,
        "wandb": partial(wandb_record, "gradients"),
        "wandb-all": partial(wandb_record, "all"),
    }
    record = recorders.get(name)
    return in_memory(config, load_data(), record=record(folder) if record else None)


def main(name: str, blocks: str) -> None:
    if cores := os.environ.get("GRADVIZ_BENCHMARK_CORES"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(cores)])
    config = relu_shortcut(int(blocks), BATCH)
    folder = tempfile.mkdtemp(prefix="gradviz-benchmark-")
    try:
        loop = arm(name, config, folder)
        next(loop), next(loop)
        print("ready", flush=True)
        for line in sys.stdin:
            seconds, steps, begin = float(line), 0, time.perf_counter()
            while time.perf_counter() - begin < seconds:
                next(loop)
                steps += 1
            print(steps / (time.perf_counter() - begin), flush=True)
    except ImportError as error:
        print(f"not installed: {error.name}", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        sys.stdout.flush()
        os._exit(0)  # wandb's own processes would keep it waiting


if __name__ == "__main__":
    main(*sys.argv[1:3])
