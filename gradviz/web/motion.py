"""One training step in slow motion: forward, loss, backward layer by layer, treatment, update, with measured numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gradviz.lenet.config import RunConfig
from gradviz.record.history import History
from gradviz.record.raster import pool, rows_of
from gradviz.record.run import Run
from gradviz.record.sample import AnatomySample
from gradviz.web.panels import mount
from gradviz.web.texts import picture_words
from gradviz.words import gettext as _
from gradviz.words import number, power

MOST_BARS = 120


def motion_panel(run: Run[RunConfig], history: History, column: int, sample: AnatomySample | None, key: str = "motion") -> None:
    """The step of this column of the run's history; `sample` gives the treatment's effect, if it is of this very step."""
    mount("motion.js", key, motion(run, history, column, sample))


def motion(run: Run[RunConfig], history: History, column: int, sample: AnatomySample | None) -> dict[str, Any]:
    """What motion.js draws: names and rows of bars, and the stages with their sentences."""
    config = run.recipe
    start = rows_of(config.layers, MOST_BARS)
    step = column * history.stride

    def row(name: str, label: str, *alike: str) -> dict[str, Any]:
        """Bars of the layers, log10, on a scale that holds those of `alike` too; of pooled layers the largest."""
        values = pool(history.quantity(name)[column].astype(float), MOST_BARS)
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log10(values)
            scale = np.log10([history.quantity(other)[column] for other in (name, *alike)])
        scale = scale[np.isfinite(scale)]
        low, high = (math.floor(scale.min()), math.ceil(scale.max())) if len(scale) else (-1, 0)
        low = min(low, high - 2)
        heights = np.where(np.isfinite(logs), (logs - low) / (high - low), np.where(values == 0, 0, 1))
        return {
            "label": label,
            "heights": [round(float(height), 3) for height in heights],
            "texts": [number(value, 3) for value in values],
            "low": power(low),
            "high": power(high),
        }

    several = config.layers > len(start)
    names = [config.layout.names[place] + (" …" if several else "") for place in start]
    loss, accuracy = float(history.loss[step]), float(history.accuracy[step])
    stages: list[dict[str, Any]] = [
        {"kind": "forward", "row": 0, "title": _("Forward"), "text": _(
            "{count} images go in at the left. {{name}} hands on numbers with a root mean square of {{value}}.").format(
                count=config.batch_size)},
        {"kind": "still", "row": 0, "title": _("Loss"), "text": _(
            "The last layer's ten numbers per image are compared with the labels: the loss is {loss:.4g} nats "
            "(guessing: 2.303), {share:.0f} % are right.").format(loss=loss, share=100 * accuracy)},
        {"kind": "backward", "row": 1, "title": _("Backward"), "text": _(
            "The derivative of the loss goes back from layer to layer. At {name} the signal has a root mean square of "
            "{value}; the layer's own weight gradient has {below}.")},
        {"kind": "still", "row": 3, "title": _("Treatment"), "text": _treatment_words(run, sample, step)},
        {"kind": "still", "row": 4, "title": _("Update"), "text": _update_words(run, history, column)},
    ]  # fmt: skip
    rows = [
        row("activation_rms", _("activation")),
        row("signal_rms", _("backward signal")),
        row("weight_grad_rms", _("weight gradient"), "treated_grad_rms"),
        row("treated_grad_rms", _("treated gradient"), "weight_grad_rms"),
        row("update_ratio", _("update : weight")),
    ]
    if history.stride > 1:
        largest = _("The numbers are the largest of {count} neighbouring steps. ").format(count=history.stride)
        stages[0]["text"] = largest + stages[0]["text"]
    words = {"play": _("Play"), "pause": _("Pause"), "time": _("Time within the step"),
             "layers": _("layers, input → output"),
             "scale": _("bars: log scale {low} … {high}"), "next": _("Next stage"), "layer": _("Layer"),
             "row_said": _("{label}: {first}; {last}."), **picture_words()}  # fmt: skip
    return {"names": names, "rows": rows, "stages": stages, "words": words, "id": f"{run.id} {column}"}


def _treatment_words(run: Run[RunConfig], sample: AnatomySample | None, step: int) -> str:
    config = run.recipe
    if config.treatment == "none":
        return _("None is chosen: the optimiser gets the gradient as it is.")
    words = f"{config.treatment} {config.threshold:g}."
    if sample is not None and sample.step == step and np.isfinite(sample.overall[0]):
        altered, cosine, before, after = sample.overall
        words += " " + _("Entries altered: {share:.3g} %; the length of the whole gradient went from {before} to "
                         "{after}, the cosine between the two is {cosine:.3g}.").format(
                             share=100 * altered, before=number(before, 3), after=number(after, 3), cosine=cosine)
    return words


def _update_words(run: Run[RunConfig], history: History, column: int) -> str:
    ratio = history.quantity("update_ratio")[column].astype(float)
    if not np.isfinite(ratio).any():
        return _("There was no update: the loss is not finite.")
    first, last = run.recipe.layout.names[0], run.recipe.layout.names[-1]
    return _("{optimizer} moves the weights: {first} by {a} of its length, {last} by {b}. The next batch comes.").format(
        optimizer=run.recipe.optimizer, first=first, last=last, a=number(ratio[0]), b=number(ratio[-1]))
