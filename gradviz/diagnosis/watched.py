"""What is known of a net that was watched, beside its record."""

from __future__ import annotations

from gradviz.diagnosis.state import NOTHING_KNOWN, Facts
from gradviz.record.recipe import Recipe
from gradviz.record.run import Run
from gradviz.record.watched import Watched

# Rms of what a tanh or a sigmoid is given, from which on more than half of its units have less than a hundredth of their slope:
# of N(0, 5²) 55 % lie beyond ±3, where tanh's slope is 0.01; a sigmoid is a tanh of half its input.
SATURATED = {"tanh": 5.0, "sigmoid": 10.0}
_SIXTEEN_BITS = ("bfloat16", "float16")
_EMBEDDINGS = ("Embedding", "EmbeddingBag")  # most of their rows are not used in a step

OWN_WORDS = {  # of lengths, since its layers are of different sizes
    "vanishing": "watched-vanishing",
    "exploding-signal": "watched-exploding-signal",
    "exploding-gradient": "watched-exploding-gradient",
    "dead": "watched-dead",
    "saturated": "watched-saturated",
    "diverged": "watched-diverged",
    "diverged-in-loss": "watched-diverged-in-loss",
    "healthy-so-far": "watched-healthy-so-far",
    "measured-gradient": "watched-measured-gradient",
    "measured-gradient-ratio": "watched-measured-gradient-ratio",
    "measured-signal": "watched-measured-signal",
    "measured-dead": "watched-measured-dead",
    "measured-saturation": "watched-measured-saturation",
    "recovering-gradient": "watched-recovering-gradient",
}


def facts_of(run: Run[Recipe]) -> Facts:
    """Of any other net nothing is known."""
    recipe = run.recipe
    if not isinstance(recipe, Watched):
        return NOTHING_KNOWN
    names = recipe.layout.names
    said = {name: set(reasons.values()) for name, reasons in run.missing.items()}
    embeddings = {name for name, kind in zip(names, recipe.kinds, strict=False) if kind in _EMBEDDINGS}
    aside = embeddings | {later for later, _first in recipe.tied} | {first for later, first in recipe.tied if later in embeddings}

    def rows(which: set[str]) -> tuple[int, ...]:
        return tuple(row for row, name in enumerate(names) if name in which)

    return Facts(
        longest=None,
        rectified=rows({name for name, word in zip(names, recipe.behind, strict=False) if word == "relu"}),
        adam=any("adam" in name.lower() for name in recipe.optimizers),
        own_words=OWN_WORDS,
        entries=recipe.entries,
        outputs=recipe.outputs,
        passed_over=rows(aside | {name for name, reasons in said.items() if "watch-bare" in reasons}),
        detached=rows({name for name, reasons in said.items() if "watch-no-gradient" in reasons}),
        cleared=rows({name for name, reasons in said.items() if "watch-cleared" in reasons}),
        unheld=rows({name for name, reasons in said.items() if "watch-no-optimizer" in reasons}),
        coarse=rows({name for name, kind in zip(names, recipe.precisions, strict=False) if kind in _SIXTEEN_BITS}),
        squashed={row: SATURATED[word] for row, word in enumerate(recipe.behind) if word in SATURATED},
        before=True,
        overflows=run.overflows,
    )
