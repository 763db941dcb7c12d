"""A small residual net on scikit-learn's handwritten digits, watched: runs offline, in a minute on a processor.

    python examples/watch_digits.py [STEPS [FOLDER]]
"""

from __future__ import annotations

import sys

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import gradviz
from gradviz.record.spool import read_spool


class Block(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(x + inner)


class ResNet(nn.Module):
    """Images (n, 1, 8, 8) -> scores (n, 10)."""

    def __init__(self, channels: int = 16, blocks: int = 4):
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        self.blocks = nn.Sequential(*(Block(channels) for _ in range(blocks)))
        self.head = nn.Linear(channels, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(F.relu(self.stem(x))).mean((2, 3)))


def main(steps: int = 200, folder: str = "runs") -> None:
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32).reshape(-1, 1, 8, 8), torch.tensor(labels)
    model = ResNet()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    with gradviz.watch(model, optimizer, folder=folder, title="ResNet on the digits") as run:
        for _step in range(steps):
            batch = torch.randint(len(x), (64,))
            out = model(x[batch])
            loss = F.cross_entropy(out, y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=loss, accuracy=(out.argmax(1) == y[batch]).float().mean())
    print(run)
    kept = read_spool(run.path)
    print(f"{kept.history.steps} steps, loss {kept.history.loss[0]:.2f} to {kept.history.loss[-1]:.2f}, kept in {run.path}")


if __name__ == "__main__":
    main(*(convert(word) for convert, word in zip((int, str), sys.argv[1:], strict=False)))
