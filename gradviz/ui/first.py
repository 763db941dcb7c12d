"""The first minute: on an empty Lab three steps in place, for a browser that has never been here."""

from __future__ import annotations

import streamlit as st

from gradviz.web.panels import SEEN
from gradviz.words import N_
from gradviz.words import gettext as _

PARAMETER = "first"  # of the URL: shows them to whoever has seen them too
_STEP = "first_step"  # of this session: 1 to 3, and 0 once they are over
_STEPS = (  # what it says, and what it points at
    (N_("**What you see.** This net is not trained yet. Each dot is one of its layers, the input at the left: how large its "
        "gradient is, by which it learns. A line that falls to the left: gradients vanish on their way back. One that rises to "
        "the left: they explode."),
     ".gv-preview .gv-plot"),
    (N_("**Press Start.** The net is trained here and now, and every layer is shown at every step."), ".st-key-start button"),
    (N_("**Change one thing**, Batch norm or Shortcut say, and press Start again. What does it cure?"),
     ".st-key-control_batch_norm, .st-key-control_shortcut"),
)  # fmt: skip


def over() -> bool:
    """Whether this session has seen or skipped them: its browser then remembers it."""
    return st.session_state.get(_STEP) == 0


def steps(trained: bool) -> None:
    """`trained`: a run is on screen, so that Start has been pressed."""
    session = st.session_state
    if _STEP not in session:
        if trained or (isinstance(st.context.cookies.get(SEEN), str) and PARAMETER not in st.query_params):
            return
        session[_STEP] = 1
    if trained and session[_STEP] in (1, 2):
        session[_STEP] = 3
    if not (step := session[_STEP]):
        return
    text, place = _STEPS[step - 1]
    ring = "outline: 3px solid light-dark(#1659c4, #58a6ff); outline-offset: 1px; border-radius: 6px"
    st.html(f"<style>:is({place}) {{{ring}}} .gv-preview .gv-read {{margin-top: 8px}}</style>")
    with st.container(border=True, horizontal=True, vertical_alignment="center", key="first"):
        st.markdown(_("{n} of 3 · {text}").format(n=step, text=_(text)), width="stretch")
        if step < len(_STEPS):
            st.button(_("Next"), key="first_next", on_click=_go, args=(step + 1,))
        st.button(_("Skip") if step < len(_STEPS) else _("Done"), key="first_skip", type="tertiary", on_click=_go, args=(0,))


def _go(step: int) -> None:
    st.session_state[_STEP] = step
