"""One step of training, measured on its way: backward pass, what is done to the gradients, and the optimiser's step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.nn.functional as F

from gradviz.train.anatomy_probe import AnatomyProbe
from gradviz.train.layer_probe import LayerProbe
from gradviz.train.task import Task


class Step:
    """Takes the steps of a task; `numbers` of `probe` and `scores` are those of the last one.

    With `anatomy`, on which `begin` was called, the step is taken apart too.
    """

    def __init__(self, task: Task, interrupt: Callable[[], bool], deferred: bool):
        """`interrupt`, `deferred`: see LayerProbe."""
        device = task.weights[0].device
        self.task = task
        self.probe = LayerProbe(task.weights, interrupt, deferred)
        self.anatomy = AnatomyProbe(task)
        self.indices = torch.empty(task.batch_size, dtype=torch.long, device=device)  # of the step that `advance` takes
        self.scores = torch.empty(2, device=device)  # loss and accuracy of its batch
        self._parameters = list(task.model.parameters())

    @property
    def numbers(self) -> torch.Tensor:
        """(2 + quantities · layers,) of the last `advance`, in a new tensor."""
        return torch.cat((self.scores, self.probe.numbers.flatten()))

    @property
    def state(self) -> list[torch.Tensor]:
        """What one step leaves for the next, as far as there is any yet."""
        found = [*self._parameters, *self.task.model.buffers(), *self.probe.state]
        kept = self.task.optimizer.state.values()
        return found + [value for values in kept for value in values.values() if torch.is_tensor(value)]

    def advance(self, anatomy: AnatomyProbe | None = None) -> None:
        """One whole step on the batch of `indices`, without a look at its numbers unless it is taken apart."""
        self.scores.copy_(self.backward(self.indices, anatomy))
        if anatomy and not self.scores[0].isfinite():
            return  # as on a CPU; a routine step finds out later, when nobody asks any more what it has learnt
        self.learn(anatomy)

    def backward(self, indices: torch.Tensor, anatomy: AnatomyProbe | None = None) -> torch.Tensor:
        """Forward and backward pass, measured; (2,): loss and accuracy."""
        model, (images, labels) = self.task.model, self.task.examples
        if not model.training:  # after a look at the test images
            model.train()
        for parameter in self._parameters:  # what zero_grad does, which takes ten times as long for it
            parameter.grad = None
        answers = labels[indices]
        watch = anatomy.watching(self.probe.watch) if anatomy else self.probe.watch
        with anatomy.on_the_paths() if anatomy else nullcontext():
            logits = model(images[indices], watch)
            loss = F.cross_entropy(logits, answers)
            loss.backward()
        self.probe.after_backward()
        if anatomy:
            anatomy.after_backward()
        return torch.stack((loss.detach(), (logits.detach().argmax(1) == answers).float().mean()))

    def learn(self, anatomy: AnatomyProbe | None = None) -> None:
        if self.task.treat:
            self.task.treat(self._parameters)
            self.probe.after_treatment()
            if anatomy:
                anatomy.after_treatment()
        self.task.optimizer.step()
        self.probe.after_step()
        if anatomy:
            anatomy.after_step(self.probe.undone)
