"""The language of a session: what its link asks for, what was picked, what this browser has picked before or prefers."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import streamlit as st

from gradviz import words
from gradviz.web.language import COOKIE, PARAMETER, wanted
from gradviz.words import gettext as _

_LANGUAGE = "language"
_ASKED = "language_asked"  # by a link or with the picker: pages keep it in their address, for whom it is given to
_PICKER = "language_picker"


def speak() -> None:
    """At the beginning of whatever Streamlit calls by itself: a page's script, a fragment. Callbacks say messages instead."""
    session = st.session_state
    if asked := words.found(st.query_params.get(PARAMETER)):
        session[_LANGUAGE], session[_ASKED] = asked, True
    if _LANGUAGE not in session:
        context = st.context
        told = (context.cookies.get(COOKIE), context.locale, context.headers.get("Accept-Language"))
        session[_LANGUAGE] = wanted(*(each if isinstance(each, str) else None for each in told))  # nothing is there in a test
    words.speak(session[_LANGUAGE])


def fragment(run_every: float | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`st.fragment`, which speaks the session's language also where Streamlit calls it by itself, in a thread of its own."""
    return lambda draw: st.fragment(_speaking(draw), run_every=run_every)


def dialog(title: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`st.dialog`, likewise."""
    return lambda draw: st.dialog(title)(_speaking(draw))


def _speaking(draw: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(draw)
    def drawn(*args: Any, **kwargs: Any) -> Any:
        speak()
        return draw(*args, **kwargs)

    return drawn


def picker() -> None:
    """Within reach on every page."""
    if len(words.languages()) < 2:
        return
    st.session_state[_PICKER] = words.language()
    with st.container(key="language"):
        st.selectbox(
            _("Language"), (known := words.languages()), known.index(words.language()), key=_PICKER,
            format_func=words.name_of, on_change=_picked, label_visibility="collapsed", width=128,
        )  # fmt: skip


def _picked() -> None:
    picked = st.session_state[_PICKER]
    st.session_state[_LANGUAGE], st.session_state[_ASKED] = picked, True
    st.query_params[PARAMETER] = words.word_of(picked)


def asked() -> dict[str, str]:
    """What an address says of the language: nothing where the reader's browser decides."""
    return {PARAMETER: words.word_of(st.session_state[_LANGUAGE])} if st.session_state.get(_ASKED) else {}


def write_address(parameters: dict[str, str]) -> None:
    """Makes them the page's address, with the language beside them. A change is a message to the browser."""
    wished = {**parameters, **asked()}
    if st.query_params.to_dict() != wished:
        st.query_params.from_dict(wished)


def keep_in_address() -> None:
    """Of a page that writes none of its own. After the page, for every change is a step of the browser's history."""
    if (said := asked()) and PARAMETER not in st.query_params:
        st.query_params.update(said)


def link(page: str, **parameters: str) -> str:
    """The relative address of a page, in the same language where one was asked for."""
    query = "&".join(f"{name}={value}" if value else name for name, value in {**parameters, **asked()}.items())
    return f"./{page}" + (f"?{query}" if query else "")
