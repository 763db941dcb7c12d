"""A display for the whole room: large type, thick lines, black and white, nothing to press but the way back."""

from __future__ import annotations

import streamlit as st

from gradviz.words import gettext as _

PARAMETER = "projector"  # of the URL; on the class's wall it is always so


def on() -> bool:
    return PARAMETER in st.query_params


def begin() -> None:
    """The page becomes it. CSS zooms what is drawn, its lines too."""
    st.html(
        "<style>[data-testid=stHeader], .stSidebar, .st-key-language, .gv-head button, "
        ".gv-head .gv-table-button, .gv-controls, .gv-read {display: none !important} "
        # light-dark(): the theme may change, and the script does not run again for that.
        ".stApp, .stMain {background: light-dark(#ffffff, #000000)} .stMainBlockContainer {padding: 1rem 2rem} "
        ".stMain [data-testid=stBidiComponentRegular] {--st-text-color: light-dark(#000000, #ffffff) !important; "
        "--st-background-color: light-dark(#ffffff, #000000) !important} "
        ".gv, .gvc {color: light-dark(#000000, #ffffff)} .gv-figure b, .gv-meaning {opacity: 1} "
        ".gv-figures, .gv-progress, .gv-state {zoom: 1.5} .gv-charts {gap: 0 14px} .gv-bar {height: 12px} "
        "@media (min-width: 700px) {.gv-charts {zoom: 1.35}} "  # on a phone they are as large as there is room
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
