"""The rows of a record: which layers they are, in which order, and between which of them a gradient's way is read."""

from __future__ import annotations

from dataclasses import InitVar, dataclass, field


@dataclass(frozen=True)
class Layout:
    """The weight layers of a net, in the order of the forward pass: row k of every record is layer k.

    Raises ValueError if the rows of `inside` or `ends` are not rows of `names`, first before last.
    """

    names: tuple[str, ...]
    inside: range = range(0)  # rows of the part that repeats a layer of one size; empty if there is none
    # The two rows that stand for the first and the last layer where a gradient's way is judged; by default those of
    # `inside`, else of the whole net.
    between: InitVar[tuple[int, int] | None] = None
    ends: tuple[int, int] = field(init=False)

    def __post_init__(self, between: tuple[int, int] | None) -> None:
        if not self.names:
            raise ValueError("a net has at least one layer with weights")
        if between is None:
            between = (self.inside[0], self.inside[-1]) if self.inside else (0, len(self.names) - 1)
        object.__setattr__(self, "ends", between)
        if not all(0 <= row < len(self.names) for row in (*self.inside, *self.ends)) or self.front > self.back:
            raise ValueError(f"inside {self.inside} and ends {self.ends} must be rows of {len(self.names)} layers")

    def __len__(self) -> int:
        """Number of layers."""
        return len(self.names)

    @property
    def front(self) -> int:
        """Row of the first layer that is judged: far from the loss."""
        return self.ends[0]

    @property
    def back(self) -> int:
        """Row of the last layer that is judged: near the loss."""
        return self.ends[1]

    @property
    def judged(self) -> slice:
        """The rows from front to back."""
        return slice(self.front, self.back + 1)
