"""How a run was measured that was watched and not trained here, to be kept with it: how often, at what cost, and why a number
is missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

from gradviz.messages import say
from gradviz.record.recipe import Recipe
from gradviz.record.run import Run


def measuring(run: Run[Recipe]) -> dict[str, Any] | None:
    """As JSON has it; None of a run that was trained here."""
    if run.every is None:
        return None
    return {"missing": run.missing, "every": run.every, "share": run.share, "overflows": run.overflows}


def put_measuring(run: Run[Recipe], kept: Mapping[str, Any]) -> None:
    """Notes in the run what `measuring` gave. What cannot be read is as if it had not been said."""
    missing, share = kept.get("missing"), kept.get("share")
    found = {name: _texts(why) for name, why in missing.items()} if isinstance(missing, dict) else {}
    run.missing = {name: why for name, why in found.items() if why}
    run.every, run.overflows = whole(kept.get("every"), 1), whole(kept.get("overflows"), 0)
    run.share = float(share) if is_small(share) else None


def why_missing(run: Run[Recipe], layer: str, quantity: str) -> str:
    """Why the layer has no such number, as half a sentence; empty where nobody has said it."""
    code = run.missing.get(layer, {}).get(quantity, "")
    try:
        return str(say(code)) if code else ""
    except KeyError:  # of another version
        return code


def is_small(value: object) -> TypeGuard[float]:
    """Whether it is a number that a float can hold; JSON has whole ones of any size."""
    return isinstance(value, (int, float)) and abs(value) < 1e15


def whole(value: object, otherwise: int) -> int:
    """The value, if it is a whole number that counts something."""
    return value if type(value) is int and value >= 0 else otherwise


def _texts(why: object) -> dict[str, str]:
    return {name: code for name, code in why.items() if isinstance(code, str)} if isinstance(why, dict) else {}
