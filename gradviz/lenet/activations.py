"""The activations: one row each, read by the settings, the net, the program, the theory and the diagnosis.

A new one is a row here. What theory and diagnosis say of it is silence until the columns with a default are filled in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Activation:
    sentence: str  # what it teaches, beside its word on the page and the command line
    # The function as a program writes it that has `import torch` and `import torch.nn.functional as F`. The net takes the
    # function from this name too.
    code: str
    # What orthogonal weights are multiplied by: √2 where about half of the variance is lost, 1 where the slope at 0 is 1 or
    # the init would not bring back what is lost.
    gain: float = 1.0
    # a* of block weights from U(−a*, a*): at it the backward signal keeps its size in a plain net (χ = 1 in theory). None: it
    # has none, or nobody has worked it out. `critical_start` is what such a net starts from.
    critical: float | None = None
    # Slope below 0 of one that is linear on both sides of 0; None for one that is bent. Who rectifies scales with its input.
    leak: float | None = None
    # The word whose mathematics the theory works with (theory.gaussians): its own, or that of one that differs by less than
    # is seen. None: there is no prediction.
    derived_as: str | None = None
    # The same function in the memory of its input: its backward pass asks for its output alone. None: it does not.
    in_place: str | None = None
    # Of the backward signal per block convolution at step 0, from mean-field theory for these convolutions (16 channels, 5×5
    # taps, zero padding on 7×7 maps): under PyTorch's own init, ±0.05; and with batch norm, whatever the init. None: unknown.
    factor: float | None = None
    norm_factor: float | None = None
    # How its units are lost, as far as probe and diagnosis look for it: "dead", at exactly 0 for every image, or "saturated",
    # at 0 or 1.
    lost: str | None = None
    # Code of the message on why the gradient vanishes where weights are under a*; the diagnosis says it.
    why_it_vanishes: str = "cause-product"

    @property
    def rectifies(self) -> bool:
        """Linear on both sides of 0, so a net of it is homogeneous: twice the weights of a layer give twice its output."""
        return self.leak is not None


ACTIVATIONS: dict[str, Activation] = {
    "sigmoid": Activation(
        "Squeezes every value into 0…1; its slope is at most 1/4, so each layer shrinks the signal that flows back.",
        "torch.sigmoid",
        in_place="torch.sigmoid_",
        critical=1.0221, derived_as="sigmoid", factor=0.124, norm_factor=0.735, lost="saturated",
        why_it_vanishes="cause-product-sigmoid",
    ),
    "relu": Activation(
        "Passes positive values, blocks negative ones; its slope is 0 or 1, so about half of the signal passes.",
        "F.relu",
        in_place="torch.relu_",
        gain=math.sqrt(2), critical=0.14065, leak=0.0, derived_as="relu", factor=0.349, norm_factor=1.16, lost="dead",
        why_it_vanishes="cause-product-relu",
    ),
    "tanh": Activation(
        "Squeezes every value into −1…1, around 0; its slope is 1 at 0, so only large inputs shrink the signal.",
        "torch.tanh",
        in_place="torch.tanh_",
        critical=0.1081, derived_as="tanh", factor=0.501,
        why_it_vanishes="cause-product-tanh",
    ),
    "leaky-relu": Activation(
        "Relu that lets a hundredth of negative values pass: no unit is ever quite dead, else it behaves as relu does.",
        "F.leaky_relu",
        in_place="F.leaky_relu_",
        gain=math.sqrt(2), critical=0.14064, leak=0.01, factor=0.349,
        derived_as="relu",  # second moments differ by 10⁻⁴ per layer
        why_it_vanishes="cause-product-relu",
    ),
    # They shrink small signals, and from the range on at which they do not, signals grow without end: no a*.
    "gelu": Activation(
        "A smooth relu; its slope at 0 is 1/2, so signals that have become small shrink faster than with relu.",
        "F.gelu",
        gain=math.sqrt(2),
    ),
    "silu": Activation(
        "z · sigmoid(z), a smooth relu with a wider bend than gelu; small signals meet a slope of 1/2 here too.",
        "F.silu",
        gain=math.sqrt(2),
    ),
}  # fmt: skip


def critical_start(word: str) -> float:
    """a of the init "critical": a*; without one that of relu, which gelu and silu become for large inputs."""
    critical = ACTIVATIONS[word].critical
    return ACTIVATIONS["relu"].critical or math.nan if critical is None else critical
