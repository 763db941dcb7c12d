"""The sidebar's controls: from widgets to a RunConfig, and between the RunConfig and the URL."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from gradviz.lenet.activations import ACTIVATIONS
from gradviz.lenet.config import FIELDS, PRESETS, RunConfig, unescaped
from gradviz.lenet.fields import ConfigError
from gradviz.lenet.naming import changed_text
from gradviz.lenet.theory.first_step import first_move
from gradviz.record.run import Summary
from gradviz.ui.language import write_address
from gradviz.words import as_text, listed
from gradviz.words import gettext as _

CONFIG = "config"  # the last valid RunConfig of this session
RUN = "run"  # id of the run on screen; also its URL parameter
CLIENT = "client"  # who sits before this browser; see gradviz/ui/classroom.py
_PROBLEMS = "problems"  # sentences about the URL that was opened
_PRESET = "preset"
_LOCKED = "controls_locked"  # for this script run

_QUICK_BLOCKS = 60
_QUICK_RANGES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.1406, 0.2, 0.3, 0.5, 0.7, 1.022, 1.4, 2.0)
_QUICK_RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
_ARTICLE_ACTIVATIONS = ("sigmoid", "relu")
# Where each begins to be interesting.
_TREATMENT_THRESHOLD = {"clip-norm": 1.0, "clip-value": 0.1, "floor": 1e-10, "normalise": 1e-3, "feedback": 1e-3}
_FIRST_RANGE = 0.5
_BESIDE = {"blocks": "blocks_quick", "init_range": "init_custom", "activation": "activation_more", "lr": "lr_quick"}  # see _place


def _key(name: str) -> str:
    return f"control_{name}"


# A browser that is told of two script runs at once shows a control's default, and sends it as if somebody had moved it: the
# smallest number there is, the first choice, off. So what a control shows is its default too, here and on every page.


def place(key: str, options: Sequence[Any]) -> int:
    """Among the options, of what the control with this key shows; the first, where it shows nothing yet."""
    now = st.session_state.get(key)
    return options.index(now) if now in options else 0


def open_session(config_of_run: Callable[[str], RunConfig | None]) -> None:
    """Once per session: settings and run from the URL. A link with a run alone shows that run's settings."""
    if CONFIG in st.session_state:
        return
    query = unescaped(st.query_params.to_dict())
    config, problems = RunConfig.from_query({name: st.query_params.get_all(name) for name in st.query_params})
    st.session_state[RUN] = query.get(RUN)
    if query.get(RUN) and not any(name in query for name in FIELDS):
        config = config_of_run(query[RUN]) or config
    st.session_state[CONFIG], st.session_state[_PROBLEMS] = config, problems


def show_problems() -> None:
    for problem in st.session_state.get(_PROBLEMS, ()):
        st.warning(as_text(_("Something in the link is not as it should be. {problem}").format(problem=problem)))


def label(summary: Summary[Any]) -> str:
    """A run in a list to choose from."""
    return _("{title} — {status}, {progress}").format(
        title=summary.recipe.title, status=_(str(summary.status)), progress=summary.progress
    )  # fmt: skip


def write_url() -> None:
    """The whole setting and the run in the URL: copying it reproduces the page."""
    query = st.session_state[CONFIG].to_query()
    if st.session_state.get(RUN):
        query[RUN] = st.session_state[RUN]
    write_address(query)


def set_config(config: RunConfig) -> None:
    """Moves every control to `config`. Call it from a callback: before the widgets of a script run are drawn."""
    st.session_state[CONFIG] = config
    for name in FIELDS:
        _place(name, getattr(config, name))


def _place(name: str, value: Any) -> None:
    st.session_state[_key(name)] = value
    if name == "blocks":
        st.session_state[_key("blocks_quick")] = min(value, _QUICK_BLOCKS)
    if name == "init_range":
        st.session_state[_key("init_custom")] = value is not None
        st.session_state[_key("init_range")] = value if value is not None else _FIRST_RANGE
        st.session_state[_key("init_quick")] = _nearest(_QUICK_RANGES, st.session_state[_key("init_range")])
    if name == "activation":
        st.session_state[_key("activation_more")] = "" if value in _ARTICLE_ACTIVATIONS else value
    if name == "lr":
        st.session_state[_key("lr_quick")] = _nearest(_QUICK_RATES, value)


def _nearest(options: tuple[float, ...], value: float) -> float:
    return min(options, key=lambda option: abs(option - value) / option)


def _copy(source: str, target: str, change: Callable[[float], float] = lambda value: value) -> None:
    value = st.session_state[_key(source)]
    if value is not None:
        st.session_state[_key(target)] = change(value)


def _apply_preset() -> None:
    name = st.session_state[_PRESET]
    if name in PRESETS:
        set_config(PRESETS[name].apply(st.session_state[CONFIG]))


def _activation_picked() -> None:
    st.session_state[_key("activation_more")] = ""


def _other_activation_picked() -> None:
    st.session_state[_key("activation")] = st.session_state[_key("activation_more")] or _ARTICLE_ACTIVATIONS[0]


def _treatment_changed() -> None:
    treatment = st.session_state[_key("treatment")]
    if treatment in _TREATMENT_THRESHOLD:
        st.session_state[_key("threshold")] = _TREATMENT_THRESHOLD[treatment]


def sidebar(locked: bool = False) -> RunConfig:
    """Draws the controls in the reader's order and returns what they say; a bad value leaves the last good config.

    `locked`: they show the settings and cannot be changed.
    """
    st.session_state[_LOCKED] = locked
    for name in FIELDS:  # Streamlit forgets widgets that a page change took off the screen
        if _key(name) not in st.session_state or _key(_BESIDE.get(name, name)) not in st.session_state:
            _place(name, getattr(st.session_state[CONFIG], name))
    with st.sidebar:
        st.selectbox(
            _("Start from a classic case"), (cases := ["", *PRESETS]), place(_PRESET, cases),
            key=_PRESET, on_change=_apply_preset,
            format_func=lambda word: _(PRESETS[word].label) if word else _("choose …"), disabled=locked,
        )
        if st.session_state[_PRESET] in PRESETS:
            st.caption(_(PRESETS[st.session_state[_PRESET]].sentence))
        values = _network() | _initialisation() | _treatment()
        values |= _more_remedies(values)
        optimiser, below = _optimiser()
        values |= optimiser | _run() | _changes()
        try:
            st.session_state[CONFIG] = RunConfig(**values)
        except ConfigError as error:
            st.error(as_text(str(error)))
        with below:
            _pace(st.session_state[CONFIG])
    config: RunConfig = st.session_state[CONFIG]
    return config


def _locked() -> bool:
    return bool(st.session_state[_LOCKED])


def _choices(name: str) -> Mapping[str, str]:
    """The words of a choice, each with its teaching sentence."""
    return FIELDS[name].spec.choices or {}


def _choice(name: str, widget: Callable[..., Any] = st.segmented_control, words: list[str] | None = None, **options: Any) -> str:
    """A choice, of `words` only if given, with its teaching sentence under it."""
    spec, words, now = FIELDS[name].spec, words or list(_choices(name)), st.session_state[_key(name)]
    options |= dict(required=True, default=now) if widget is st.segmented_control else dict(index=place(_key(name), words))
    options["disabled"] = options.get("disabled", False) or _locked()
    word: str = widget(_(spec.label), words, key=_key(name), help=_(spec.help), **options)
    st.caption(_(_choices(name)[word]))
    return word


def _toggle(name: str) -> bool:
    spec = FIELDS[name].spec
    return st.toggle(_(spec.label), st.session_state[_key(name)], key=_key(name), help=_(spec.help), disabled=_locked())


def _number(name: str, label: str | None = None, **options: Any) -> Any:
    spec = FIELDS[name].spec
    low, high = spec.kind(spec.low), spec.kind(spec.high)
    value = st.session_state[_key(name)]
    return st.number_input(
        label or _(spec.label), low, high, value, key=_key(name), help=_(spec.help), disabled=_locked(), **options
    )


def _network() -> dict[str, Any]:
    st.header(_("Network"))
    other = st.session_state[_key("activation_more")]
    words = [*_ARTICLE_ACTIVATIONS, *([other] if other else [])]
    activation = _choice("activation", words=words, on_change=_activation_picked)
    values = dict(activation=activation, batch_norm=_toggle("batch_norm"), shortcut=_toggle("shortcut"))
    spec = FIELDS["blocks"].spec
    st.slider(
        _(spec.label), 0, _QUICK_BLOCKS, st.session_state[_key("blocks_quick")], key=_key("blocks_quick"), help=_(spec.help),
        on_change=_copy, args=("blocks_quick", "blocks"), disabled=_locked(),
    )
    deep, everywhere = st.session_state[_key("blocks")] > _QUICK_BLOCKS, st.session_state[_key("activation_everywhere")]
    with st.expander(_("Advanced"), key="box_network", expanded=deep or everywhere):
        values["blocks"] = _number(
            "blocks", _("Blocks, up to 1000"), step=1,
            on_change=_copy, args=("blocks", "blocks_quick", lambda blocks: min(blocks, _QUICK_BLOCKS)),
        )
        values["activation_everywhere"] = _toggle("activation_everywhere")
    return values


def _initialisation() -> dict[str, Any]:
    st.header(_("Initialisation"))
    spec = FIELDS["init_range"].spec
    custom = _key("init_custom")
    if not st.toggle(_("Weights from U(−a, a)"), st.session_state[custom], key=custom, help=_(spec.help), disabled=_locked()):
        st.caption(_("PyTorch's default: U(−1/√n, 1/√n), n the inputs of a neuron; in the blocks a = 0.05."))
        return dict(init_range=None)
    activation = st.session_state[_key("activation")]
    critical = ACTIVATIONS[activation].critical
    marked = None if critical is None else _nearest(_QUICK_RANGES, critical)
    st.select_slider(
        "a", _QUICK_RANGES, st.session_state[_key("init_quick")], key=_key("init_quick"),
        format_func=lambda a: f"{a:g}" + " = a*" * (a == marked),
        on_change=_copy, args=("init_quick", "init_range"), label_visibility="collapsed",
        disabled=_locked(),
    )
    if critical is not None:
        st.caption(_("a* = {a:.4g} is critical for {activation}: below it the backward signal shrinks with every layer, above it "
                     "grows (theory, without norm and shortcut).").format(a=critical, activation=activation))
    return dict(init_range=_number(
        "init_range", _("a, exactly"), format="%g", step=0.01,
        on_change=_copy, args=("init_range", "init_quick", lambda a: _nearest(_QUICK_RANGES, a)),
    ))


def _treatment() -> dict[str, Any]:
    st.header(_("Gradient treatment"))
    word = _choice("treatment", st.selectbox, label_visibility="collapsed", on_change=_treatment_changed)
    if word == "none":
        return dict(treatment=word)
    return dict(treatment=word, threshold=_number("threshold", format="%g"))


def _more_remedies(values: dict[str, Any]) -> dict[str, Any]:
    """What the article does not try. Closed, unless the settings have one of them."""
    names = ("other_norm", "branch_scale", "init")
    used = any(st.session_state[_key(name)] != FIELDS[name].default for name in names)
    other = values["activation"] not in _ARTICLE_ACTIVATIONS
    with st.expander(_("More remedies"), key="box_remedies", expanded=used or other):  # the key: it stays open if it is moved
        others = [word for word in _choices("activation") if word not in _ARTICLE_ACTIVATIONS]
        st.selectbox(
            _("Another activation"), (more := ["", *others]), place(_key("activation_more"), more),
            key=_key("activation_more"), on_change=_other_activation_picked,
            format_func=lambda word: word or _("sigmoid or relu"), disabled=_locked(),
        )
        return dict(
            init=_choice("init", st.selectbox, disabled=values["init_range"] is not None),
            other_norm=_choice("other_norm", st.selectbox, disabled=values["batch_norm"]),
            branch_scale=_choice("branch_scale", st.selectbox, disabled=not values["shortcut"]),
        )


def _optimiser() -> tuple[dict[str, Any], DeltaGenerator]:
    """And a place below its schedule."""
    st.header(_("Optimiser"))
    word = _choice("optimizer", label_visibility="collapsed")
    st.select_slider(
        _(FIELDS["lr"].spec.label), _QUICK_RATES, st.session_state[_key("lr_quick")], key=_key("lr_quick"),
        format_func=lambda rate: f"{rate:g}",
        on_change=_copy, args=("lr_quick", "lr"), help=_(FIELDS["lr"].spec.help),
        disabled=_locked(),
    )
    values = dict(optimizer=word, lr=_number(
        "lr", _("Learning rate, exactly"), format="%g", step=1e-4,
        on_change=_copy, args=("lr", "lr_quick", lambda rate: _nearest(_QUICK_RATES, rate)),
    ))  # fmt: skip
    used = any(st.session_state[_key(name)] != FIELDS[name].default for name in ("warmup", "schedule"))
    with st.expander(_("Warm-up and schedule"), key="box_pace", expanded=used):
        values |= dict(warmup=_number("warmup", step=10), schedule=_choice("schedule", st.selectbox))
        return values, st.container()


def _pace(config: RunConfig) -> None:
    """The learning rate over the steps, where it changes by itself."""
    if not config.is_scheduled:
        return
    warm, last = config.warmup, config.steps - 1
    quarters = [] if config.schedule == "constant" else [warm + (last - warm) * part // 4 for part in range(5)]
    steps = sorted({0, min(max(0, warm - 1), last), *(step for step in quarters if step <= last)})
    rates = [_("{rate} at step {step}").format(rate=f"{config.rate(step):.2g}", step=f"{step:,}") for step in steps]
    st.caption(_("The learning rate over the run: {rates}.").format(rates=listed(rates)))
    if (moved := first_move(config)) is not None:
        st.caption(_("By theory Adam's first step moves the weights of a block by at most {moved} of their size.").format(
            moved=f"{moved:.2g}"))  # fmt: skip


def _changes() -> dict[str, Any]:
    """Those of a link, or of a run in which somebody turned a knob: they go with the settings until they are left out."""
    changes = st.session_state[_key("changes")]
    if changes:
        spec = FIELDS["changes"].spec
        st.header(_(spec.label), help=_(spec.help))
        st.markdown("\n".join(f"- {changed_text(change)}" for change in changes))
        st.button(_("Leave the changes out"), key="changes_out", on_click=_place, args=("changes", ()), disabled=_locked())
    return dict(changes=changes)


def _run() -> dict[str, Any]:
    st.header(_("Run"))
    return dict(
        dataset=_choice("dataset", st.selectbox),
        batch_size=_number("batch_size", step=1),
        steps=_number("steps", step=100),
        seed=_number("seed", step=1),
        device=_choice("device", st.selectbox),
    )
