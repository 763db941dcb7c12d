"""What a config is called on the page."""

from __future__ import annotations

from gradviz.lenet.config import RunConfig
from gradviz.words import ENGLISH, N_, ngettext, speaking
from gradviz.words import gettext as _


def net_name(config: RunConfig) -> str:
    """'7 blocks sigmoid', '10 blocks relu + batch norm momentum', ..."""
    parts = [ngettext("{n} block", "{n} blocks", config.blocks).format(n=config.blocks), remedy_name(config)]
    parts += [config.optimizer] if config.optimizer != "adam" else []
    parts += [f"±{config.init_range:g}"] if config.init_range is not None else []
    parts += [_("seed {seed}").format(seed=config.seed)] if config.seed else []
    return " ".join(parts)


def remedy_name(config: RunConfig) -> str:
    """'relu + batch norm', 'sigmoid + shortcut', 'relu + critical init', ..."""
    parts = config.built + [f"{config.init} init"] * (config.init != "default")
    return " + ".join(parts + [config.treatment] * (config.treatment != "none"))


def remedy_word(config: RunConfig) -> str:
    """Its name as a code, in English whoever asks: in a URL, and in the name of a sweep."""
    with speaking(ENGLISH):
        return remedy_name(config)


def setting_text(name: str, value: object) -> str:
    """One setting in words: 'adam', 'lr 0.001', 'batch norm', 'no shortcut', 'init ±0.5'."""
    label = _(_SHORT.get(name, name.replace("_", " ")))
    if isinstance(value, bool):
        return label if value else _("no {setting}").format(setting=label)
    if value is None:
        return _("no init range")
    if isinstance(value, str):
        return value if name in _SAID_ALONE and value != "none" else f"{label} {value}"
    if name == "blocks":
        return _("{n} blocks").format(n=value)
    return f"{label}{value:g}" if name == "init_range" else f"{label} {value:g}"


_SHORT = {"batch_size": N_("batch"), "init_range": N_("init ±"), "batch_norm": N_("batch norm")}
_SAID_ALONE = ("activation", "optimizer", "dataset", "treatment")
