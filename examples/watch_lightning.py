"""A Lightning module on scikit-learn's handwritten digits, watched by its callback: runs offline, in a minute on a processor.

    pip install 'gradviz-lab[app,lightning]'
    python examples/watch_lightning.py [EPOCHS [FOLDER]]
"""

from __future__ import annotations

import sys

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gradviz


class Digits(pl.LightningModule):
    """A perceptron of eight layers; every second batch makes a step, and long gradients are clipped."""

    def __init__(self, width: int = 64, depth: int = 6):
        super().__init__()
        inside = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())]
        self.net = nn.Sequential(nn.Linear(64, width), nn.ReLU(), *inside, nn.Linear(width, 10))

    def training_step(self, batch: list[torch.Tensor], number: int) -> torch.Tensor:
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-3)


def main(epochs: int = 10, folder: str = "runs") -> None:
    pl.seed_everything(0)
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
    watching = gradviz.lightning.WatchCallback(folder=folder, title="Lightning on the digits")
    trainer = pl.Trainer(
        max_epochs=epochs, callbacks=[watching], accumulate_grad_batches=2, gradient_clip_val=1.0, accelerator="cpu",
        logger=False, enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Digits(), DataLoader(data, batch_size=64, shuffle=True))
    print(watching.run)


if __name__ == "__main__":
    main(*(convert(word) for convert, word in zip((int, str), sys.argv[1:], strict=False)))
