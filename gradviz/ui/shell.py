"""The frame around every page."""

from pathlib import Path

import streamlit as st

from gradviz.words import gettext as _

_PAGES = Path(__file__).parents[2] / "pages"

st.set_page_config(page_title="gradviz", page_icon=":material/gradient:", layout="wide")
st.navigation(
    [st.Page(_PAGES / "lab.py", title=_("Lab"), icon=":material/science:", default=True)],
    position="top",
).run()
