"""What is measured of every layer at every step: one row per quantity, and everything that is said or drawn of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradviz.words import gettext as _


@dataclass(frozen=True)
class Quantity:
    """Its numbers are never negative; one below 0 says that it was not measured (watched.ABSENT). The words are English,
    translated where they are shown."""

    label: str
    meaning: str
    unit: str  # of its axis
    # Colour ranges offered, in places of the scale; the first is the default. They are fixed, never fitted to the data, so
    # that two pictures can be compared by eye; the default holds every preset at initialisation.
    ranges: tuple[tuple[float, float], ...]
    linear: bool = False  # else it is shown as log10
    short: str = ""  # over a narrow column of text; else the label

    def places(self, values: np.ndarray | Sequence[float]) -> np.ndarray:
        """float64 places on its scale; an exact 0 of a logarithmic one is at −inf, what was not measured (below 0) at nan."""
        values = np.asarray(values, np.float64)
        values = np.where(values < 0, np.nan, values)
        if self.linear:
            return values
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.log10(values))

    def tick(self, place: float) -> str:
        """A place of its scale as the number that stands there, with HTML."""
        return f"{place:g}" if self.linear else f"10<sup>{place:g}</sup>"

    @property
    def axis(self) -> str:
        """Title of an axis that shows places."""
        return _(self.label) if self.linear else _("{quantity}, log10").format(quantity=_(self.label))


ORDINARY = (-8.0, 2.0)  # where the numbers of nets lie that are not made to vanish or explode
_GRADIENT = ((-30.0, 15.0), (-12.0, 0.0), (-38.0, 0.0), (0.0, 38.0), (-38.0, 38.0), ORDINARY)

# In this order in every array of a training of ours. All are measured, none is smoothed.
QUANTITIES: dict[str, Quantity] = {
    "weight_grad_rms": Quantity(
        "Weight gradient", "root mean square of ∂loss/∂weight, before any treatment",
        "RMS of ∂loss/∂weight (nats per unit)", _GRADIENT, short="weight grad",
    ),
    "signal_rms": Quantity(
        "Backward signal", "root mean square of ∂loss/∂z, z the layer's output before norm and activation",
        "RMS of ∂loss/∂z (nats per unit)", _GRADIENT, short="signal",
    ),
    "activation_rms": Quantity(
        "Activation", "root mean square of what the layer hands on (after norm and activation; of the last layer: the logits)",
        "RMS of the activation (no unit)", ((-6.0, 18.0), (-4.0, 4.0), (-38.0, 38.0), ORDINARY), short="activation",
    ),
    "weight_rms": Quantity(
        "Weight", "root mean square of the layer's weights",
        "RMS of the weights (no unit)", ((-4.0, 2.0), (-12.0, 12.0), (-38.0, 38.0), ORDINARY), short="weight",
    ),
    "update_ratio": Quantity(
        "Update : weight", "length of the step's change of the weights over the length of the weights",
        "length of step / length of weights", ((-12.0, 2.0), (-24.0, 2.0), (-38.0, 38.0), ORDINARY), short="update",
    ),
    "zero_share": Quantity(
        "Exact zeros", "share of the weight-gradient entries that are exactly 0 in float32",
        "share of exact zeros", ((0.0, 1.0),), linear=True, short="zeros",
    ),
    "treated_grad_rms": Quantity(
        "Treated gradient", "root mean square of ∂loss/∂weight as the optimiser gets it",
        "RMS of treated ∂loss/∂weight (nats per unit)", _GRADIENT, short="treated",
    ),
}  # fmt: skip
# What only a watched net has besides.
OF_WATCHED: dict[str, Quantity] = {
    "still_share": Quantity(
        "Standing still", "share of the weight's entries with a gradient that the step did not move",
        "share of entries that did not move", ((0.0, 1.0),), linear=True, short="still",
    ),
}  # fmt: skip


def described(name: str) -> Quantity:
    """The row of a quantity, of whatever net. Raises KeyError."""
    return QUANTITIES[name] if name in QUANTITIES else OF_WATCHED[name]


def ranges_of(name: str, watched: bool) -> tuple[tuple[float, float], ...]:
    """Colour ranges offered; of a watched net the ordinary one comes first, which is then the default."""
    ranges = described(name).ranges
    return tuple(sorted(ranges, key=lambda ends: ends != ORDINARY)) if watched else ranges


def is_described(name: str) -> bool:
    return name in QUANTITIES or name in OF_WATCHED
