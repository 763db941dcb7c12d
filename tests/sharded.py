"""One of two processes that train a net of FSDP2 together, several times: each scenario is watched and told as JSON.

python -m sharded RANK FOLDER
"""

import json
import sys
import time
from collections import OrderedDict
from contextlib import ExitStack
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from watched_nets import features

import gradviz
from gradviz.train import watcher

STEPS = 4


def net() -> nn.Sequential:
    """(n, 6) -> (n, 3). Of its weights' 5, 1 and 3 rows two processes have 3 and 2, 1 and none, 2 and 1."""
    torch.manual_seed(0)
    parts = OrderedDict(first=nn.Linear(6, 5), tanh=nn.Tanh(), narrow=nn.Linear(5, 1), last=nn.Linear(1, 3))
    return nn.Sequential(parts)


def train(model, data, to=None, *, used=False, micro=1, to_none=True, clip=False, each=None, synced=True, **how) -> list[float]:
    """The losses, watched into `to` or not; `each(step, run, optimizer)` is called behind each step."""
    x, y = data
    optimizer = torch.optim.SGD(model.parameters(), 0.5, momentum=0.9)
    if used:
        model(x)  # FSDP2 leaves the whole of the outermost weights in place
    found = []
    with ExitStack() as stack:
        run = stack.enter_context(gradviz.watch(model, optimizer, folder=to, **{"every": 1} | how)) if to else None
        for step in range(STEPS):
            for k, part in enumerate(torch.arange(len(x)).chunk(micro)):
                if not synced:
                    model.set_requires_gradient_sync(k == micro - 1)
                loss = F.cross_entropy(model(x[part]), y[part]) / micro
                loss.backward()
                found.append(loss.item())
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad(set_to_none=to_none)
            if each:
                each(step, run, optimizer)
    return found


def closes_after_two(step, run, _optimizer):
    if step == 1 and run:
        run.close()


def breaks_after_two(step, run, _optimizer):
    if step == 1 and run:
        watcher.work_out = None  # measuring now fails; for good, so it is the last of the scenarios


# name -> (how the net is spread, what each of the two processes does)
SCENARIOS = {
    "whole": ("whole", {}, {}),
    "blocks": ("blocks", {}, {}),
    "clipped": ("blocks", {"clip": True}, {"clip": True}),
    "accumulated": ("blocks", {"micro": 2}, {"micro": 2}),
    "late sync": ("blocks", {"micro": 2, "synced": False}, {"micro": 2, "synced": False}),
    "to zero": ("whole", {"to_none": False}, {"to_none": False}),
    "used before": ("whole", {"used": True}, {"used": True}),
    "auto": ("blocks", {"every": "auto"}, {"every": "auto"}),
    "every second": ("blocks", {"every": 2}, {"every": 3}),
    "first alone": ("blocks", {}, {"to": None}),
    "second alone": ("blocks", {"to": None}, {}),
    "second closes": ("blocks", {}, {"each": closes_after_two}),
    "first closes": ("blocks", {"each": closes_after_two}, {}),
    "second breaks": ("blocks", {}, {"each": breaks_after_two}),
}


def spread(how: str) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    model = net()
    for block in (model.first, model.narrow) if how == "blocks" else ():
        fully_shard(block)
    return fully_shard(model)


def meeting(rank: int, told: Path) -> dist.TCPStore:
    """Of two processes; the first has whatever port is free, and writes it into the file `told`."""
    if rank == 0:
        store = dist.TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False)
        told.with_suffix(".new").write_text(str(store.port))
        told.with_suffix(".new").rename(told)
        return store
    while not told.exists():
        time.sleep(0.01)
    return dist.TCPStore("127.0.0.1", int(told.read_text()), 2, is_master=False)


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=meeting(rank, folder / "port"), rank=rank, world_size=2)
    x, y = features(8)
    mine = slice(4 * rank, 4 * rank + 4)
    for name, (how, *each) in SCENARIOS.items():
        options = {"to": folder / name, **each[rank]}
        watched, plain = spread(how), spread(how)
        losses = train(watched, (x[mine], y[mine]), **options)
        bare = train(plain, (x[mine], y[mine]), **{**options, "to": None})
        equal = all(
            torch.equal(one.to_local(), other.to_local())
            for one, other in zip(watched.parameters(), plain.parameters(), strict=True)
        )
        print(json.dumps([name, losses == bare and equal]), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
