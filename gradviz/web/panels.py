"""The elements of our own on a page: each mounts a module of static/, which polls the routes and draws, without script runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamlit as st

from gradviz.lenet.diagnosis import CHANCE
from gradviz.record.recipe import Recipe
from gradviz.record.run import Run, Status
from gradviz.serve.previews import Preview
from gradviz.web.cards import LOSS_TOP
from gradviz.web.given import chance_of, scales
from gradviz.web.scripts import plotly_url, script_url
from gradviz.web.texts import card_words, owners, streamlit_words, unloaded, words
from gradviz.words import language, tag

# Streamlit sends this text at every mount, so it only fetches the real script, which the browser keeps. Streamlit may call
# the returned clean-up late, after a newer call: whoever is not the newest does nothing.
_STUB = """
export default function (component) {
  const { data, parentElement: host } = component;
  const page = document.documentElement;
  if (page.dataset.lang !== data.lang) page.lang = page.dataset.lang = data.lang;
  const state = (host.gradviz ??= { calls: 0, part: null });
  const call = ++state.calls;
  import(new URL(data.script, document.baseURI).href).then((script) => {
    if (state.calls === call) script.render(state, component);
  }, () => {
    host.textContent = data.unloaded;
    if (data.mode === "notice") { // it has no place of its own on the page
      host.style.cssText = "position: fixed; left: 1rem; bottom: 1rem; z-index: 9; background: var(--st-background-color, #fff)";
    }
  });
  return () => setTimeout(() => {
    if (state.calls === call) { state.calls++; state.part?.destroy(); state.part = null; }
  }, 300);
}
"""
ACTIONS = ("open", "large", "wall", "pause", "resume", "stop", "delete")  # words of the cards' buttons
FOR_ALL = ("open", "large")
SEEN = "gradviz_seen"  # a cookie: this browser has had its first minute


def mount(
    script: str, key: str, data: dict[str, Any], triggers: dict[str, Callable[[], None] | None] | None = None,
    width: Any = "stretch", height: Any = "content",
) -> Any:  # fmt: skip
    """The element that `script`, a module of static/, draws in `render(state, component)`. What it wants undone when it is
    gone, it does in `state.part.destroy()`. `triggers`: those that it sets, with what to call before the page is rerun."""
    component = st.components.v2.component(f"gradviz_{script.removesuffix('.js')}", js=_STUB, isolate_styles=False)
    # Streamlit knows a component's values by their callbacks.
    callbacks: dict[str, Any] = {f"on_{name}_change": call or _nothing for name, call in (triggers or {}).items()}
    given = {"script": script_url(script), "unloaded": unloaded(), "lang": tag(language()), **data}
    return component(key=key, data=given, width=width, height=height, **callbacks)


def live_panel(
    run: Run[Recipe],
    key: str = "live",
    quantity: str = "weight_grad_rms",
    status: Status | None = None,
    on_done_change: Callable[[], None] | None = None,
    on_lost_change: Callable[[], None] | None = None,
) -> None:
    """The live view of a run, figures to heatmap; it updates itself until the run has ended.

    The page is rerun when the run's status is no longer `status`, for which the page has drawn its buttons (trigger `done`;
    None: what it is now), and when the server does not know the run (trigger `lost`, every 3 s). A click on the heatmap
    keeps its step and layer in the browser and shows a link to that layer on the Anatomy page.
    """
    status = status or run.status
    data = {"live": status.live, "status": status, "quantity": quantity, "chance": chance_of(run.recipe)}
    if run.watched:
        data |= scales(watched=True) | {"words": words(watched=True)}
    _live("live", run.id, key, data, {"done": on_done_change, "lost": on_lost_change})


def preview_panel(preview: Preview, key: str = "preview", on_lost_change: Callable[[], None] | None = None) -> None:
    """The measured profile at initialisation of a net that has not been trained; waits for it without blocking the page."""
    _live("preview", preview.id, key, {}, {"lost": on_lost_change})


def cards_panel(teacher: bool, ended: int, key: str, on_action_change: Callable[[], None]) -> None:
    """Everybody's runs. A button of a card sets the trigger `action`, `<word of ACTIONS> <run id>`; whether he may who
    pressed it is for the callback to say. The page is rerun when there are no longer `ended` ended runs."""
    data = {
        "mode": "cards",
        "actions": [*FOR_ALL, *(ACTIONS[len(FOR_ALL) :] if teacher else ())],
        "ended": ended,
        "loss_top": LOSS_TOP,
        "chance": CHANCE,
        "words": card_words(),
    }
    _class(data, key, action=on_action_change, ended=None)


def title_panel(names: tuple[str, ...], title: str, key: str = "class_title") -> None:
    """Whose run this is, large. The names are shown as they were typed: nothing in them is markup."""
    _class({"mode": "title", "names": owners(names), "summary": title}, key)


def notice_panel(
    drawn: dict[str, str | bool], name: str | None, key: str, on_name_change: Callable[[], None], seen: bool = False
) -> None:
    """Invisible: reruns the page when the server's notice differs from what the page has `drawn`, and keeps this browser's
    display name (None: not known yet) across reloads. A name that it remembers is the trigger `name`.
    `seen`: it is to remember that too, in the cookie SEEN."""
    data = {"mode": "notice", "drawn": drawn, "name": name, "seen": seen and SEEN, "streamlit": streamlit_words()}
    _class(data, key, name=on_name_change, changed=None)


def _class(data: dict[str, Any], key: str, **triggers: Callable[[], None] | None) -> None:
    mount("classroom.js", key, data, triggers)


def _live(mode: str, id: str, key: str, data: dict[str, Any], triggers: dict[str, Callable[[], None] | None]) -> None:
    data = {"mode": mode, "id": id, "plotly": plotly_url(), **scales(), "words": words(), **data}
    mount("live.js", key, data, triggers)


def _nothing() -> None:
    """Streamlit knows a component's values by their callbacks."""
