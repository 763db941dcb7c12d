"""A learning rate that changes by itself, in the program of a run."""

from __future__ import annotations

from gradviz.lenet.config import RunConfig
from gradviz.lenet.schedules import SCHEDULES, part
from gradviz.words import gettext as _

PACED = """\
    for group in optimizer.param_groups:
        group["lr"] = rate * share(step)
"""


def share_code(config: RunConfig) -> str:
    """The function of which the loop asks what a step takes of the learning rate; nothing where that is all of it always."""
    if not config.is_scheduled:
        return ""
    warm, left = config.warmup, max(1, config.steps - config.warmup)
    row = SCHEDULES[config.schedule if warm < config.steps else "constant"]  # a run that ends before it is warm has none
    rising = f"    if step < {warm}:\n        return (step + 1) / {warm}\n" if warm else ""
    told = _("What a step takes of the learning rate: {how}.").format(how=", ".join(config.pace))
    return f'''\
def share(step):
    """{told}"""
{rising}    return {row.code.format(step=f"(step - {warm})" if warm else "step", steps=left, part=part(left))}


rate = {config.lr!r}

'''
