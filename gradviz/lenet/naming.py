"""What a config is called on the page."""

from __future__ import annotations

from gradviz.lenet.changes import Change
from gradviz.lenet.config import RunConfig
from gradviz.words import ENGLISH, N_, listed, ngettext, speaking
from gradviz.words import gettext as _


def net_name(config: RunConfig) -> str:
    """'7 blocks sigmoid', '10 blocks relu + batch norm momentum', ..."""
    parts = [ngettext("{n} block", "{n} blocks", config.blocks).format(n=config.blocks), remedy_name(config)]
    parts += [config.optimizer] if config.optimizer != "adam" else []
    parts += [f"±{config.init_range:g}"] if config.init_range is not None else []
    parts += config.pace
    parts += [_("seed {seed}").format(seed=config.seed)] if config.seed else []
    parts += [setting_text("changes", config.changes)] if config.changes else []
    return " ".join(parts)


def remedy_name(config: RunConfig) -> str:
    """'relu + batch norm', 'sigmoid + shortcut', 'relu + critical init', ..."""
    parts = config.built + [_("{init} init").format(init=config.init)] * (config.init != "default")
    return " + ".join(parts + [config.treatment] * (config.treatment != "none"))


def remedy_word(config: RunConfig) -> str:
    """Its name as a code, in English whoever asks: in a URL, and in the name of a sweep."""
    with speaking(ENGLISH):
        return remedy_name(config)


def setting_text(name: str, value: object) -> str:
    """One setting in words: 'adam', 'lr 0.001', 'batch norm', 'no shortcut', 'init ±0.5'."""
    label = _(_SHORT[name])
    if isinstance(value, bool):
        return label if value else _("no {setting}").format(setting=label)
    if value is None:
        return _("no init range")
    if isinstance(value, tuple):
        return listed([changed_text(change) for change in value]) or _("no changes")
    if isinstance(value, str):
        alone = name in _SAID_ALONE and value != "none"
        return value if alone else _("{setting} {value}").format(setting=label, value=value)
    if name == "blocks" and isinstance(value, int):
        return ngettext("{n} block", "{n} blocks", value).format(n=value)
    said = f"±{value:g}" if name == "init_range" else f"{value:g}"
    return _("{setting} {value}").format(setting=label, value=said)


def changed_text(change: Change) -> str:
    """'lr 0.0003 from step 120'."""
    return _("{setting} from step {step}").format(setting=setting_text(change.field, change.value), step=change.step)


_SHORT = {
    "activation": N_("activation function"), "batch_norm": N_("batch norm"), "other_norm": N_("other norm"),
    "shortcut": N_("shortcut"), "branch_scale": N_("branch scale"), "blocks": N_("blocks"),
    "activation_everywhere": N_("activation everywhere"), "init": N_("init"), "init_range": N_("init"),
    "treatment": N_("treatment"), "threshold": N_("threshold"), "optimizer": N_("optimizer"), "lr": N_("lr"),
    "dataset": N_("data set"), "batch_size": N_("batch"), "steps": N_("steps"), "seed": N_("seed"), "device": N_("device"),
    "warmup": N_("warm-up"), "schedule": N_("schedule"), "changes": N_("changes"),
}  # fmt: skip
_SAID_ALONE = ("activation", "optimizer", "dataset", "treatment")
