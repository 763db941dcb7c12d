"""What stands behind a layer, relu, tanh or sigmoid, as the graph of one forward pass tells it to the layer that comes next."""

from __future__ import annotations

from typing import Any

import torch

_WORDS = {"ReluBackward0": "relu", "TanhBackward0": "tanh", "SigmoidBackward0": "sigmoid"}
_NORMS = {"NativeBatchNormBackward0", "CudnnBatchNormBackward0", "NativeLayerNormBackward0", "NativeGroupNormBackward0"}
_THROUGH = {  # they hand on what they are given, or an average of it
    "MaxPool2DWithIndicesBackward0", "AvgPool2DBackward0", "AdaptiveAvgPool2DBackward0", "MeanBackward1", "ViewBackward0",
    "ReshapeAliasBackward0", "UnsafeViewBackward0", "TransposeBackward0", "PermuteBackward0", "SqueezeBackward1",
    "UnsqueezeBackward0", "NativeDropoutBackward0", "CloneBackward0",
}  # fmt: skip
_FAR = 8  # nodes that are looked at
_MARK = "gradviz"


def mark(z: torch.Tensor, module: int) -> None:
    """`z` is the output of this module (its id). It holds nothing alive."""
    node: Any = z.grad_fn
    if node is not None:
        node.metadata[_MARK] = module


def behind(x: object) -> tuple[int, str] | None:
    """(id of the module whose output was marked, what stands between it and `x`, "" for none of them); None if that is not seen.

    A norm may stand between it and a relu; tanh and sigmoid are told only where they are given the output itself.
    """
    node: Any = x.grad_fn if isinstance(x, torch.Tensor) else None
    word, normed = "", False
    for _node in range(_FAR):
        if node is None:
            return None
        if (module := node.metadata.get(_MARK)) is not None:
            return module, word if word == "relu" or not normed else ""
        name = node.name()
        if name in _WORDS and not word:
            word = _WORDS[name]
        elif name in _NORMS:
            normed = True
        elif name not in _THROUGH:
            return None
        node = node.next_functions[0][0] if node.next_functions else None
    return None
