"""One training step in slow motion: forward, loss, backward layer by layer, treatment, update, with measured numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gradviz.lenet.changes import Knobs
from gradviz.lenet.config import RunConfig
from gradviz.record.history import History
from gradviz.record.raster import pool, rows_of
from gradviz.record.reading import measured
from gradviz.record.recipe import Recipe
from gradviz.record.run import Run
from gradviz.record.sample import AnatomySample
from gradviz.web.panels import mount
from gradviz.web.texts import picture_words
from gradviz.words import gettext as _
from gradviz.words import number, power

MOST_BARS = 120


def motion_panel(run: Run[Recipe], history: History, column: int, sample: AnatomySample | None, key: str = "motion") -> None:
    """The step of this column of the run's history; `sample` gives the treatment's effect, if it is of this very step."""
    mount("motion.js", key, motion(run, history, column, sample))


def motion(run: Run[Recipe], history: History, column: int, sample: AnatomySample | None) -> dict[str, Any]:
    """What motion.js draws: names and rows of bars, and the stages with their sentences."""
    layers = run.recipe.layout.names
    start = rows_of(len(layers), MOST_BARS)
    several = len(layers) > len(start)
    names = [layers[place] + (" …" if several else "") for place in start]
    rows = [
        _row(history, column, "activation_rms", _("activation")),
        _row(history, column, "signal_rms", _("backward signal")),
        _row(history, column, "weight_grad_rms", _("weight gradient"), "treated_grad_rms"),
        _row(history, column, "treated_grad_rms", _("treated gradient"), "weight_grad_rms"),
        _row(history, column, "update_ratio", _("update : weight")),
    ]
    if isinstance(run.recipe, RunConfig):
        forward, loss, treatment, update = _of_a_lenet(run, run.recipe, history, column, sample)
    else:
        forward, loss, treatment, update = _of_any(history, column)
    backward = _("The derivative of the loss goes back from layer to layer. At {name} the signal has a root mean square of "
                 "{value}; the layer's own weight gradient has {below}.")  # fmt: skip
    if history.stride > 1:
        forward = _("The numbers are the largest of {count} neighbouring steps. ").format(count=history.stride) + forward
    stages: list[dict[str, Any]] = [
        {"kind": "forward", "row": 0, "title": _("Forward"), "text": forward},
        {"kind": "still", "row": 0, "title": _("Loss"), "text": loss},
        {"kind": "backward", "row": 1, "title": _("Backward"), "text": backward},
        {"kind": "still", "row": 3, "title": _("Treatment"), "text": treatment},
        {"kind": "still", "row": 4, "title": _("Update"), "text": update},
    ]
    words = {"play": _("Play"), "pause": _("Pause"), "time": _("Time within the step"),
             "layers": _("layers, input → output"),
             "scale": _("bars: log scale {low} … {high}"), "next": _("Next stage"), "layer": _("Layer"),
             "row_said": _("{label}: {first}; {last}."), **picture_words()}  # fmt: skip
    return {"names": names, "rows": rows, "stages": stages, "words": words, "id": f"{run.id} {column}"}


def _row(history: History, column: int, name: str, label: str, *alike: str) -> dict[str, Any]:
    """Bars of the layers, log10, on a scale that holds those of `alike` too; of pooled layers the largest."""
    values = pool(history.quantity(name)[column].astype(float), MOST_BARS)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log10(values)
        scale = np.log10([history.quantity(other)[column] for other in (name, *alike)])
    scale = scale[np.isfinite(scale)]
    low, high = (math.floor(scale.min()), math.ceil(scale.max())) if len(scale) else (-1, 0)
    low = min(low, high - 2)
    heights = np.where(np.isfinite(logs), (logs - low) / (high - low), np.where(values <= 0, 0, 1))
    return {
        "label": label,
        "heights": [round(float(height), 3) for height in heights],
        "texts": [number(value, 3) if not value < 0 else _("not measured") for value in values],
        "low": power(low),
        "high": power(high),
    }


def _of_a_lenet(
    run: Run[Recipe], config: RunConfig, history: History, column: int, sample: AnatomySample | None
) -> tuple[str, str, str, str]:
    """What is said of forward pass, loss, treatment and update."""
    step = column * history.stride
    now = config.knobs(step)
    forward = _("{count} images go in at the left. {{name}} hands on numbers with a root mean square of {{value}}.").format(
        count=config.batch_size)  # fmt: skip
    loss = _("The last layer's ten numbers per image are compared with the labels: the loss is {loss:.4g} nats "
             "(guessing: 2.303), {share:.0f} % are right.").format(
                 loss=history.loss[step], share=100 * history.accuracy[step])  # fmt: skip
    return forward, loss, _treatment_words(now, sample, step), _update_words(run, now.optimizer, history, column)


def _of_any(history: History, column: int) -> tuple[str, str, str, str]:
    """The same of a net that was watched."""
    loss = float(history.loss[column * history.stride])
    said = _("No loss was logged.") if math.isnan(loss) else _("The loss is {loss:.4g}.").format(loss=loss)
    raw, treated = (history.quantity(name)[column] for name in ("weight_grad_rms", "treated_grad_rms"))
    both = (raw >= 0) & (treated >= 0)
    altered = int((np.abs(raw[both] - treated[both]) > 1e-3 * raw[both]).sum())
    treatment = _("The optimiser got the gradient as it was.")
    if altered:
        treatment = _("In {count} of {all} layers the optimiser got another gradient than the backward pass had left.").format(
            count=altered, all=int(both.sum()))  # fmt: skip
    moved = measured(history.quantity("update_ratio")[column])
    update = _("No update was measured.")
    if np.isfinite(moved).any():
        update = _("The optimiser moves the weights by {low} to {high} of their length, layer by layer.").format(
            low=number(float(np.nanmin(moved))), high=number(float(np.nanmax(moved))))  # fmt: skip
    forward = _("The batch goes in at the left. {name} puts out numbers with a root mean square of {value}.")
    return forward, said, treatment, update


def _treatment_words(now: Knobs, sample: AnatomySample | None, step: int) -> str:
    if now.treatment == "none":
        return _("None is chosen: the optimiser gets the gradient as it is.")
    words = f"{now.treatment} {now.threshold:g}."
    if sample is not None and sample.step == step and np.isfinite(sample.overall[0]):
        altered, cosine, before, after = sample.overall
        words += " " + _("Entries altered: {share:.3g} %; the length of the whole gradient went from {before} to "
                         "{after}, the cosine between the two is {cosine:.3g}.").format(
                             share=100 * altered, before=number(before, 3), after=number(after, 3), cosine=cosine)
    return words


def _update_words(run: Run[Recipe], optimizer: str, history: History, column: int) -> str:
    ratio = history.quantity("update_ratio")[column].astype(float)
    if not np.isfinite(ratio).any():
        return _("There was no update: the loss is not finite.")
    first, last = run.recipe.layout.names[0], run.recipe.layout.names[-1]
    return _("{optimizer} moves the weights: {first} by {a} of its length, {last} by {b}. The next batch comes.").format(
        optimizer=optimizer, first=first, last=last, a=number(ratio[0]), b=number(ratio[-1]))
