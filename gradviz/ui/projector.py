"""A display for the whole room: large type, thick lines, black and white, nothing to press but the way back."""

from __future__ import annotations

import streamlit as st

from gradviz.words import gettext as _

PARAMETER = "projector"  # of the URL; on the class's wall it is always so
_INK = {"light": ("#000000", "#ffffff"), "dark": ("#ffffff", "#000000")}


def on() -> bool:
    return PARAMETER in st.query_params


def begin() -> None:
    """The page becomes it. CSS zooms what is drawn, its lines too."""
    text, ground = _INK["dark" if st.context.theme.type == "dark" else "light"]
    st.html(
        "<style>[data-testid=stHeader], .stSidebar, .st-key-language, .gv-head button, "
        ".gv-head .gv-table-button, .gv-controls, .gv-read {display: none !important} "
        # What the page has drawn by itself changes with the theme at once, before the script has run again.
        ".stApp, .stMain {background: light-dark(#ffffff, #000000)} .stMainBlockContainer {padding: 1rem 2rem} "
        f".stMain [data-testid=stBidiComponentRegular] {{--st-text-color: {text} !important; "
        f"--st-background-color: {ground} !important}} "
        ".gv, .gvc {color: light-dark(#000000, #ffffff)} .gv-figure b, .gv-meaning {opacity: 1} "
        ".gv-figures, .gv-progress, .gv-state {zoom: 1.5} .gv-charts {zoom: 1.35; gap: 0 14px} .gv-bar {height: 12px} "
        ".gv-plot .js-line {stroke-width: 3.2px !important} .gv-state {font-weight: 600}</style>"
    )


def button() -> None:
    st.button(_("Projector"), key="projector", type="tertiary", icon=":material/present_to_all:", on_click=_enter,
              help=_("Large type and thick lines for the whole room, without controls. Its address can be given to others."))


def leave_button() -> None:
    st.button(_("Back to the Lab"), key="projector_leave", type="tertiary", icon=":material/arrow_back:", on_click=_leave)


def _enter() -> None:
    st.query_params[PARAMETER] = "on"


def _leave() -> None:
    st.query_params.pop(PARAMETER, None)
