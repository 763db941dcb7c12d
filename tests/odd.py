"""A second client of the core, as far from a deep LeNet as can be: three layers with dots in their names, nobody knows how
many steps, no part that repeats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradviz.record.history import History, StepRecord
from gradviz.record.layout import Layout
from gradviz.record.quantities import QUANTITIES
from gradviz.record.run import Run, Status
from gradviz.record.sample import BINS, KINDS, LAYER_NUMBERS, PERCENTS, AnatomySample

NAMES = ("encoder.0.weight", "mixer.π/in", "out.proj")


@dataclass(frozen=True)
class OddRecipe:
    id: str = "odd-7f"
    title: str = "A net that somebody watched"
    layout: Layout = Layout(NAMES)
    steps: None = None

    def to_dict(self) -> Mapping[str, Any]:
        return {"kind": "odd", "id": self.id, "title": self.title, "names": list(self.layout.names)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> OddRecipe:
        return cls(values["id"], values["title"], Layout(tuple(values["names"])))


READERS = {"odd": OddRecipe.from_dict}


def odd_run(recipe: OddRecipe | None = None, steps: int = 6, status: Status = Status.FINISHED) -> Run[OddRecipe]:
    """Its weight gradient falls tenfold a layer towards the input, at every step; step 4 has an inf, step 5 a denormal."""
    recipe = recipe or OddRecipe()
    run = Run(recipe, History(len(recipe.layout)), status, "cpu", created=1_700_000_000.0)
    for step in range(steps):
        layers = np.full((len(QUANTITIES), 3), 0.5, np.float32)
        layers[list(QUANTITIES).index("weight_grad_rms")] = 1e-4, 1e-3, 1e-2
        layers[list(QUANTITIES).index("zero_share")] = 0.0, 0.25, 1.0
        if step == 4:
            layers[list(QUANTITIES).index("signal_rms"), 1] = np.inf
        if step == 5:
            layers[list(QUANTITIES).index("signal_rms"), 2] = 1e-40
        tested = 0.5 if step == 3 else None
        sample = odd_sample() if step == 0 else None
        run.history.append(StepRecord(step, 2.0 / (1 + step), step / 8, layers, 0.5 * step, tested, None, sample))
    return run


def odd_sample() -> AnatomySample:
    """Distributions of step 0, of two kinds; no treatment, no paths, no pictures."""
    kinds = tuple(KINDS)[:2]
    quantiles = np.tile(np.linspace(-1, 1, len(PERCENTS), dtype=np.float32), (len(kinds), 3, 1))
    counts = np.zeros((len(kinds), 3, BINS), np.uint16)
    counts[:, :, 120] = 64
    nothing = np.full((len(LAYER_NUMBERS), 3), np.nan, np.float32)
    return AnatomySample(0, kinds, quantiles, counts, nothing, np.full(4, np.nan), np.empty((3, 0)))
