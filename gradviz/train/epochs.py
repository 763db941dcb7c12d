"""The order of the examples: shuffled epochs without end."""

from __future__ import annotations

from collections.abc import Iterator

import torch


class Epochs(Iterator[torch.Tensor]):
    """Places of `size` examples at a time; what is left over at an epoch's end is dropped. Raises StopIteration only where an
    epoch would have no batch at all."""

    def __init__(self, count: int, size: int, generator: torch.Generator, device: torch.device):
        """The generator is asked for nothing before the first batch is."""
        self._count, self._size, self._generator, self._device = count, size, generator, device
        self._order: torch.Tensor | None = None
        self._place = 0
        self._before = torch.empty(0, dtype=torch.uint8)  # the generator's state before it drew the order

    def __next__(self) -> torch.Tensor:
        if self._size > self._count:
            raise StopIteration
        if self._order is not None and self._place + self._size > self._count:
            self._order, self._place = None, 0
        if self._order is None:
            self._before = self._generator.get_state()
            order = torch.randperm(self._count, generator=self._generator)
            cuda = self._device.type == "cuda"
            self._order = order.pin_memory().to(self._device, non_blocking=True) if cuda else order.to(self._device)
        start, self._place = self._place, self._place + self._size
        return self._order[start : self._place]

    @property
    def state(self) -> tuple[torch.Tensor, int]:
        """The generator's state before the order of this epoch was drawn, and how many places of it are used."""
        return (self._generator.get_state() if self._order is None else self._before), self._place

    def go_to(self, generator: torch.Tensor, place: int) -> None:
        """To where another's `state` was. Raises RuntimeError, ValueError if it can be none."""
        if not 0 <= place <= self._count:
            raise ValueError(f"place {place} of {self._count}")
        self._generator.set_state(generator)
        self._order, self._place = None, place
