"""What is trained: a net that shows its layers, its examples, and what is done at each step. Any classifier."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.autograd.graph import Node

from gradviz.record.layout import Layout
from gradviz.record.recipe import Recipe
from gradviz.record.sample import BlockDeletion

# Called for each weight layer with its row in the layout, in the order of the forward pass; its output z before norm and
# activation, or where h has taken its memory z's node in the backward pass; and what it hands on, h (for the logits z itself).
Watch = Callable[[int, torch.Tensor | Node | None, torch.Tensor], None]
Examples = tuple[torch.Tensor, torch.Tensor]  # images (n, …), labels int64 (n,)
Accuracy = Callable[[torch.Tensor, torch.Tensor], float]  # (images, labels) -> share that is right; raises Interrupted


@dataclass(frozen=True)
class Shortcut:
    """Adds a block's input to its output, so that the gradient comes back to it on two paths."""

    block: nn.Module
    entrance: nn.Module  # the first module of the branch, which the block's input goes into


@dataclass(eq=False)
class Task:
    """All of it lies on one device, and belongs to one training. `before` alone may exchange what stands here, `optimizer` and
    `treat`."""

    layout: Layout
    model: nn.Module  # (images, watch) -> logits (n, classes)
    weights: Sequence[torch.Tensor]  # parameters of the model, one for each row of the layout
    optimizer: torch.optim.Optimizer  # of all parameters of the model
    examples: Examples
    batches: Iterator[torch.Tensor]  # without end: the places of `batch_size` examples
    batch_size: int
    steps: int
    subset: Examples  # some of the test set, looked at now and then
    test: Examples  # the whole of it, for the end
    preview: int  # examples of the first batch that a preview looks at
    treat: Callable[[Sequence[nn.Parameter]], None] | None = None  # changes the gradients before each step, in place
    # Called before each step, in their order; says whether the step is another from now on.
    before: Callable[[Task, int], bool] | None = None
    recipe: Callable[[], Recipe] | None = None  # whose training it is now: where knobs are turned it becomes another's
    lost: Sequence[str | None] = ()  # for each row: its units can be "dead" (0 for every image) or "saturated" (near 0 or 1)
    shortcuts: Sequence[Shortcut] = ()  # in forward order, one above the other
    deletion: Callable[[Accuracy], BlockDeletion | None] | None = None  # asked once the training is finished
