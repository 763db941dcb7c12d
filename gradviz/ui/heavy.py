"""What a page does only when there is a place for it: reading and drawing many runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

import streamlit as st

from gradviz.record.recipe import Recipe
from gradviz.serve.admission import Refused, history_bytes
from gradviz.ui import classroom
from gradviz.ui.server import server
from gradviz.words import as_text
from gradviz.words import gettext as _

_DRAWING = 60e6  # bytes that pictures take beside the records


def heavily(draw: Callable[[], None], recipes: Iterable[Recipe] = ()) -> None:
    """Draws once this person's turn has come; says the place in the line meanwhile, or why it is not drawn.

    `recipes`: of the runs that it reads.
    """
    note = st.empty()
    place_said = None

    def said(place: int) -> None:
        nonlocal place_said
        words = _("Others are being served; place {n} in the line …").format(n=place)
        note.info(as_text(words), icon=":material/hourglass_empty:")
        place_said = place

    try:
        need = _DRAWING + sum(map(history_bytes, recipes))
        with server().desk.place(classroom.client(), need, said, classroom.address()):
            if place_said is not None:
                note.empty()
            draw()
    except Refused as refusal:
        note.warning(as_text(str(refusal)), icon=":material/memory:")
        st.button(_("Try again"), key=f"again {draw.__code__.co_firstlineno}")


def said_if_refused(action: Callable[..., Any]) -> Callable[..., Any]:
    """For callbacks that read a run: the sentence of a refusal stands at the top of the page."""

    @wraps(action)
    def tried(*args: Any, **kwargs: Any) -> Any:
        try:
            return action(*args, **kwargs)
        except Refused as refusal:
            classroom.say(refusal.message)

    return tried
