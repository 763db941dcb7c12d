"""Depth sweep: where is the border of trainability?"""

from dataclasses import replace
from typing import Any

import pandas as pd
import streamlit as st

from gradviz.charts import HOW_TO_READ
from gradviz.charts.sweeps import border_figure, grid_figure, ratio_figure, theory_ratios
from gradviz.lenet.config import DATASETS, FIELDS, OPTIMIZERS, ConfigError, RunConfig, misspelt
from gradviz.lenet.naming import remedy_name, remedy_word
from gradviz.lenet.outcome import JUDGED, OUTCOMES, border
from gradviz.lenet.sweep import AXES, Sweep, cost, estimate, measured_rate
from gradviz.messages import say
from gradviz.record import export
from gradviz.ui import classroom, controls
from gradviz.ui.heavy import heavily
from gradviz.ui.language import fragment, write_address
from gradviz.ui.server import server
from gradviz.web.figure import figure_panel
from gradviz.words import as_text, duration, listed
from gradviz.words import gettext as _

_CURES = (
    {}, {"batch_norm": True}, {"shortcut": True}, {"batch_norm": True, "shortcut": True}, {"init": "critical"},
    {"treatment": "feedback", "threshold": 1e-3},
)  # fmt: skip
REMEDIES = {
    remedy_word(config): config
    for config in (RunConfig(activation=activation, **cure) for cure in _CURES for activation in ("sigmoid", "relu"))
}
FIRST = {  # what the page asks when it is opened
    "remedies": ["sigmoid", "relu"], "axis": "blocks", "values": "1, 2, 3, 4, 6, 8, 10", "axis2": "", "values2": "", "seeds": 1,
    "steps": 300, "batch_size": 32, "blocks": 4, "optimizer": "adam", "lr": 1e-3, "warmup": 0, "schedule": "constant",
    "dataset": "mnist", "early": True,
}  # fmt: skip
VALUES = {"blocks": "1, 2, 3, 4, 6, 8, 10", "init_range": "0.03, 0.05, 0.1, 0.14, 0.2, 0.5", "lr": "0.0001, 0.0003, 0.001, 0.003",
          "warmup": "0, 10, 30, 100"}  # fmt: skip
PROBLEMS = "sweep_problems"  # sentences about the URL that was opened
LONGEST_VALUES = 2000  # characters
manager, shelf, sweeps = server().manager, server().shelf, server().sweeps


def key(name: str) -> str:
    return f"sweep_{name}"


def open_session() -> None:
    """Once per session, and after another page took the widgets away: the question from the URL, else the usual one."""
    problems = st.session_state.setdefault(PROBLEMS, misspelt(st.query_params, FIRST))
    for name, usual in FIRST.items():
        if key(name) not in st.session_state:
            word = st.query_params.get(name)
            try:
                st.session_state[key(name)] = usual if word is None else understood(name, word)
            except ValueError as error:  # ConfigError too
                st.session_state[key(name)] = usual
                known = isinstance(error, ConfigError)
                problem = error.message if known else say("no-such-value", name=name, given=word[:40])
                problems.append(say("default-used", problem=problem))


def understood(name: str, word: str):
    """The value that a word of the URL means. Raises ValueError if it means none."""
    if name == "remedies":
        parts = [part for part in word.split(",") if part in REMEDIES]
        if not parts:
            raise ValueError(word)
        return parts
    if name in FIELDS:
        return getattr(RunConfig(**{name: word}), name)
    if name == "seeds":
        return min(10, max(1, int(word)))
    if name in ("axis", "axis2") and word not in AXES:
        raise ValueError(word)
    return word != "off" if name == "early" else word


def write_url(sweep_id: str | None) -> None:
    words = {}
    for name, usual in FIRST.items():
        value = st.session_state.get(key(name), usual)
        if value != usual:
            words[name] = ",".join(value) if name == "remedies" else ("on" if value else "off") if name == "early" else str(value)
    if sweep_id:
        words["sweep"] = sweep_id
    write_address(words)


def numbers(text: str, axis: str) -> list[float]:
    """'1, 2, 4' -> [1, 2, 4]. Raises ConfigError for what is not a value of the axis."""
    if len(text) > LONGEST_VALUES:  # a browser may send megabytes of them
        raise ConfigError(axis, _("Values: {n} characters at most.").format(n=LONGEST_VALUES))
    words = [word for word in text.replace(";", ",").replace(" ", ",").split(",") if word]
    return sorted({getattr(RunConfig(**{axis: word}), axis) for word in words})


def axis_changed(name: str, values: str) -> None:
    st.session_state[key(values)] = VALUES.get(st.session_state[key(name)], "")


def number(column: Any, name: str, label: str, low: float, high: float, **options: Any) -> None:
    column.number_input(label, low, high, st.session_state[key(name)], key=key(name), **options)


def choice(column: Any, name: str, label: str, options: list[str], **more: Any) -> None:
    column.selectbox(label, options, controls.place(key(name), options), key=key(name), **more)


def axis_inputs(name: str, values: str, label: str, options: list[str]) -> None:
    (left, right), off = st.columns([1, 2]), classroom.locked()
    choice(left, name, label, options, on_change=axis_changed, args=(name, values), disabled=off,
           format_func=lambda axis: _(FIELDS[axis].spec.label) if axis else _("nothing"))
    if axis := st.session_state[key(name)]:
        right.text_input(_("Values"), st.session_state[key(values)], key=key(values), disabled=off,
                         help=_("Separated by commas; each {range}.").format(range=FIELDS[axis].spec.range_text))


def question() -> Sweep | None:
    """The controls, and the sweep that they ask for; None, with a sentence on the page, if they ask for none."""
    off = classroom.locked()
    st.pills(_("Remedies to compare"), list(REMEDIES), selection_mode="multi", default=st.session_state[key("remedies")],
             key=key("remedies"), disabled=off,
             format_func=lambda word: remedy_name(REMEDIES[word]))  # fmt: skip
    axis_inputs("axis", "values", _("Vary"), list(AXES))
    axis_inputs("axis2", "values2", _("and also vary"), ["", *(axis for axis in AXES if axis != st.session_state[key("axis")])])
    axes = {st.session_state[key("axis")]: "values", st.session_state[key("axis2")]: "values2"}
    axes.pop("", None)
    with st.expander(_("The runs: seeds, steps, optimiser, data"), key="box_runs"):
        first, second, third, fourth = st.columns(4)
        number(first, "seeds", _("Seeds for each point"), 1, 10, disabled=off)
        for column, name in ((second, "steps"), (third, "batch_size")):
            spec = FIELDS[name].spec
            number(column, name, _(spec.label), int(spec.low), int(spec.high), help=_(spec.help), disabled=off)
        choice(fourth, "dataset", _(FIELDS["dataset"].spec.label), list(DATASETS), disabled=off)
        choice(first, "optimizer", _(FIELDS["optimizer"].spec.label), list(OPTIMIZERS), disabled=off)
        if "lr" not in axes:
            number(second, "lr", _(FIELDS["lr"].spec.label), 1e-7, 10.0, format="%g", step=1e-4, disabled=off)
        if "blocks" not in axes:
            number(third, "blocks", _(FIELDS["blocks"].spec.label), 0, 1000, disabled=off)
        if "warmup" not in axes:
            spec = FIELDS["warmup"].spec
            number(fourth, "warmup", _(spec.label), int(spec.low), int(spec.high), help=_(spec.help), disabled=off)
        spec = FIELDS["schedule"].spec
        choice(first, "schedule", _(spec.label), list(spec.choices), help=_(spec.help), disabled=off)
        st.toggle(_("Stop a run as soon as it has trained"), st.session_state[key("early")], key=key("early"), disabled=off)
    asked = {name: st.session_state.get(key(name), usual) for name, usual in FIRST.items()}
    dataset, notice = shelf.effective(asked["dataset"])
    if notice:
        st.info(as_text(str(notice)), icon=":material/info:")
    try:
        shared = {name: asked[name] for name in ("steps", "batch_size", "optimizer", "lr", "warmup", "schedule", "blocks")}
        bases = [replace(REMEDIES[name], **shared, dataset=dataset) for name in asked["remedies"]]
        points = {axis: numbers(asked[values], axis) for axis, values in axes.items()}
        return Sweep.over(Sweep.name_over(asked["remedies"], axes), bases, points, range(asked["seeds"]), asked["early"])
    except ConfigError as error:
        st.error(as_text(str(error)))
        return None


def price(missing: list[RunConfig]) -> str:
    rate = measured_rate(manager.list())
    if rate is None and missing:
        preview = classroom.preview(min(missing, key=lambda config: config.blocks), "sweep")
        preview.ready.wait(0.5)
        if preview.seconds_per_step:
            rate = preview.seconds_per_step / cost(preview.config)
    if rate is None:
        return _("the time is being measured")
    return _("at most {time}, from the measured time of a step on this machine").format(
        time=duration(estimate(missing, rate, sweeps.at_once)))


def results_table(sweep: Sweep, results: dict) -> pd.DataFrame:
    return pd.DataFrame([
        {
            "run": config.id, **{name: getattr(config, name) for name in FIELDS},
            "outcome": found.outcome, "loss": found.loss, "steps_done": found.steps, "trained_at": found.trained_at,
            "first_over_last": found.ratio, "seconds": found.seconds,
        }
        for config, found in results.items()
    ])  # fmt: skip


def picture(sweep: Sweep) -> None:
    active, results = sweeps.active(sweep.id), sweeps.results(sweep)

    @fragment(run_every=1 if active else None)
    def bar() -> None:
        done = len(sweeps.results(sweep))
        live = "".join(f" · {run.recipe.title}, {run.history.steps}/{run.recipe.steps}" for run in sweeps.live(sweep))
        text = _("{done} of {all} runs done").format(done=done, all=len(sweep.configs)) + live
        st.progress(done / len(sweep.configs), text=text)
        if reason := sweeps.waits_for(sweep.id):
            st.caption(str(reason))
        if active and (done != len(results) or not sweeps.active(sweep.id)):
            st.rerun()

    missing = [config for config in sweep.configs if config not in results]
    with st.container(horizontal=True, vertical_alignment="center"):
        if active:
            st.button(_("Stop"), key="stop", icon=":material/stop:", on_click=classroom.stop_sweep, args=(sweep.id,),
                      disabled=classroom.locked() or not classroom.may_change_sweep(sweep.id),
                      help=_("Those who asked for it, and the teacher, can stop it. If others asked for it too, it goes on for "
                             "them."))  # fmt: skip
        elif missing:
            label = _("Resume") if sweeps.get(sweep.id) else _("Start")
            st.button(label, key="start", type="primary", icon=":material/play_arrow:", on_click=classroom.start_sweep,
                      args=(sweep,), disabled=classroom.locked())  # fmt: skip
        if missing:
            st.markdown(_("{missing} of {all} runs to do: {price}.").format(
                missing=len(missing), all=len(sweep.configs), price=price(missing)))
        else:
            st.markdown(_("All {all} runs are there.").format(all=len(sweep.configs)))
    bar()
    if sweeps.warning:
        st.warning(as_text(str(sweeps.warning)))
    if not results:
        return
    if len(sweep.axes) == 1:
        figure_panel(border_figure(sweep, results), "border", _("Border of trainability"), sweep.id)
        st.caption(_("A point is one run; the band behind the points has the colour of what most seeds did."))
        if sweep.axes == ("blocks",):
            lines = {name: border((c, r) for c, r in results.items() if sweep.remedy(c) == remedy).text
                     for remedy, name in sweep.remedies().items()}
            st.markdown("\n".join(_("- **{word}**: {meaning}").format(word=name, meaning=text) for name, text in lines.items()))
        figure_panel(ratio_figure(sweep, results, theory_ratios(sweep)), "ratio",
                     _("First to last gradient over depth"), sweep.id)  # fmt: skip
        st.caption(_(HOW_TO_READ["ratio"]))
    else:
        figure_panel(grid_figure(sweep, results), "grid", _("Outcomes over the grid"), sweep.id)
        st.caption(_(HOW_TO_READ["grid"]))
    with st.expander(_("What the outcomes mean"), key="box_outcomes", expanded=True):
        st.markdown("\n".join(_("- **{word}**: {meaning}").format(word=_(word), meaning=OUTCOMES[word]) for word in JUDGED))
    with st.expander(_("Every run"), key="box_every"):
        table = results_table(sweep, results)
        st.dataframe(table, hide_index=True, width="stretch")
        st.download_button(_("Download as CSV"), lambda: export.csv(table), "gradviz-sweep.csv", on_click="ignore")


def overview(known: dict[str, Sweep]) -> None:
    """Who has asked for which, how far it is, and a way to be rid of it."""
    ended = {summary.id for summary in manager.list() if not summary.status.live and summary.steps}
    for id, sweep in sorted(known.items(), key=lambda item: not sweeps.active(item[0])):
        with st.container(horizontal=True, vertical_alignment="center", key=f"sweep-row-{id}"):
            who = listed(server().classroom.names(id)) or _("somebody without a name")
            state = str(sweeps.waits_for(id)) or _("goes on") if sweeps.active(id) else _("rests")
            done = sum(config.id in ended for config in sweep.configs)
            st.markdown(as_text(_("{name} · {who} · {done} of {all} runs ended · {state}").format(
                name=sweep.title, who=who, done=done, all=len(sweep.configs), state=state)), width="stretch")  # fmt: skip
            if classroom.may_change_sweep(id):
                st.button(_("Remove"), key=f"forget-{id}", icon=":material/delete:", on_click=classroom.forget_sweep, args=(id,),
                          disabled=classroom.locked(), help=_("Stops it and takes it off this list; its runs are kept."))


def open_sweep() -> None:
    write_address({"sweep": picked} if (picked := st.session_state["sweep_open"]) else {})


open_session()
st.title(_("Where is the border of trainability?"), anchor=False)
for problem in st.session_state[PROBLEMS]:
    st.warning(as_text(_("Something in the link is not as it should be. {problem}").format(problem=problem)))
kept = sweeps.get(st.query_params.get("sweep", ""))
if st.query_params.get("sweep") and kept is None:
    st.warning(_("The sweep in this link is not on this server."))
known = {sweep.id: sweep for sweep in sweeps.list() if not sweep.name.startswith("lesson ")}
if known:
    if st.session_state.get("sweep_open") not in known:
        st.session_state["sweep_open"] = ""
    st.selectbox(
        _("Sweeps on this server"), ["", *known], controls.place("sweep_open", ["", *known]), key="sweep_open",
        on_change=open_sweep,
        format_func=lambda id: _("{name} · {n} runs").format(name=known[id].title, n=len(known[id].configs)) if id
        else _("a new one"),
    )
    with st.expander(_("Whose sweeps they are, and how far"), key="sweeps", on_change="rerun") as panel:
        if panel.open:
            overview(known)
if kept:
    st.header(as_text(kept.title), anchor=False)
    heavily(lambda: picture(kept))
else:
    asked = question()
    if asked:
        heavily(lambda: picture(asked))
    write_url(None)
