"""The frame around every page."""

from pathlib import Path

import streamlit as st

from gradviz.lenet.config import unescaped
from gradviz.serve.admission import Refused
from gradviz.ui import classroom, language, projector
from gradviz.ui.opening import HOME
from gradviz.ui.server import server
from gradviz.words import as_text
from gradviz.words import gettext as _

_PAGES = HOME / "pages"

# A picture of our own: Streamlit would fetch a material icon for the tab from outside, which a class without network waits for.
st.set_page_config(page_title="gradviz", page_icon=str(Path(__file__).with_name("icon.svg")), layout="wide")
st.html(Path(__file__).with_name("page.css"))
language.speak()
lessons = st.Page(_PAGES / "lessons.py", title=_("Lessons"), icon=":material/school:")
page = st.navigation(
    [
        st.Page(_PAGES / "lab.py", title=_("Lab"), icon=":material/science:", default=True),
        st.Page(_PAGES / "anatomy.py", title=_("Anatomy"), icon=":material/layers:"),
        lessons,
        st.Page(_PAGES / "compare.py", title=_("Compare"), icon=":material/compare:"),
        st.Page(_PAGES / "sweep.py", title=_("Depth sweep"), icon=":material/grid_on:"),
        st.Page(_PAGES / "classroom.py", title=_("Classroom"), icon=":material/groups:"),
    ],
    position="top",
)
if any(name.startswith("amp;") for name in st.query_params):
    st.query_params.from_dict(unescaped({name: st.query_params.get_all(name) for name in st.query_params}))
if st.query_params.get(classroom.WALL) is None and not projector.on():  # a projector shows no controls
    language.picker()
classroom.frame(lessons)
if short := server().desk.short():
    st.warning(as_text(str(short)), icon=":material/memory:")
    st.stop()
try:
    page.run()
except Refused as refusal:  # too little memory to read a run, say
    st.warning(as_text(str(refusal)), icon=":material/memory:")
language.keep_in_address()
