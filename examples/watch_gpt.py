"""A small GPT that learns its own source text, letter by letter, watched: runs offline, in a minute on a processor.

    python examples/watch_gpt.py [STEPS [FOLDER]]
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import gradviz

CONTEXT, WIDTH, HEADS, BLOCKS = 64, 64, 4, 4


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.wide, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, length, _ = x.shape
        q, k, v = self.attention(self.norm1(x)).view(n, length, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(n, length, WIDTH))
        return x + self.narrow(F.gelu(self.wide(self.norm2(x))))


class GPT(nn.Module):
    """Letters (n, length) -> scores of the next one (n, length, letters)."""

    def __init__(self, letters: int):
        super().__init__()
        self.letter, self.place = nn.Embedding(letters, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, letters, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        self.head.weight = self.letter.weight  # tied: two rows in the picture, one gradient

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places = torch.arange(x.shape[1], device=x.device)
        return self.head(self.norm(self.blocks(self.letter(x) + self.place(places))))


def main(steps: int = 200, folder: str = "runs") -> None:
    torch.manual_seed(0)
    source = Path(__file__).read_text(encoding="utf-8")
    alphabet = sorted(set(source))
    text = torch.tensor([alphabet.index(letter) for letter in source])
    model = GPT(len(alphabet))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    with gradviz.watch(model, optimizer, folder=folder, title="GPT on its own source") as run:
        for _step in range(steps):
            starts = torch.randint(len(text) - CONTEXT, (16,))
            windows = torch.stack([text[start : start + CONTEXT + 1] for start in starts.tolist()])
            out = model(windows[:, :-1])
            loss = F.cross_entropy(out.flatten(0, 1), windows[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            run.log(loss=loss, accuracy=(out.argmax(-1) == windows[:, 1:]).float().mean())
    print(run)


if __name__ == "__main__":
    main(*(convert(word) for convert, word in zip((int, str), sys.argv[1:], strict=False)))
