"""Lessons: predict first, then run, then compare."""

from dataclasses import replace
from urllib.parse import urlencode

import pandas as pd
import streamlit as st

from gradviz.charts import HOW_TO_READ
from gradviz.charts.lessons import lesson_figures
from gradviz.lenet import article_length
from gradviz.lenet.lessons.catalogue import DIGITS_DIFFER, LESSONS
from gradviz.lenet.lessons.lesson import RESULTS, Finding, Lesson, ended
from gradviz.lenet.lessons.telling import answer_text, measured_text, title_of
from gradviz.lenet.long_runs import BATCH as LONG_BATCH
from gradviz.lenet.long_runs import STEPS as LONG_STEPS
from gradviz.lenet.long_runs import KeepError
from gradviz.lenet.naming import net_name
from gradviz.lenet.sweep import Sweep, cost, estimate, measured_rate
from gradviz.lenet.theory.predict import predict
from gradviz.share.routes import LESSON as LESSON_FILE
from gradviz.ui import classroom
from gradviz.ui.heavy import heavily
from gradviz.ui.language import fragment, link, write_address
from gradviz.ui.server import server
from gradviz.web.download import download_button
from gradviz.web.figure import figure_panel
from gradviz.web.panels import live_panel
from gradviz.words import as_text, duration, number
from gradviz.words import gettext as _

LESSON, PREDICTION, DATASET, CONTROLS = "lesson", "prediction", "dataset", "controls"  # words of the URL
COLOUR = {"reproduced": "green", "partly": "orange", "not": "red", "open": "gray"}
manager, shelf, sweeps = server().manager, server().shelf, server().sweeps


def go(**words) -> None:
    """Changes the URL, which holds the whole state of this page."""
    kept = {name: st.query_params[name] for name in (LESSON, PREDICTION, DATASET, CONTROLS) if name in st.query_params}
    write_address({name: value for name, value in {**kept, **words}.items() if value})


def overview() -> None:
    st.title(_("Lessons"), anchor=False)
    st.markdown(_("Say first what you expect, then let the net decide. Ten lessons test what an article on vanishing and "
                  "exploding gradients claims; seven more show what it missed."))
    for heading, lessons in (
        (_("The article's claims"), [lesson for lesson in LESSONS.values() if lesson.claim]),
        (_("What the article missed"), [lesson for lesson in LESSONS.values() if not lesson.claim]),
    ):
        st.header(heading, anchor=False)
        for place, lesson in enumerate(lessons):
            if place % 2 == 0:  # a row for each two, so that they keep their order on a narrow screen
                columns = st.columns(2)
            with columns[place % 2].container(border=True, key=f"card-{lesson.id}"):
                st.markdown(f"**{title_of(lesson)}**")
                st.caption(_(lesson.question))
                st.button(_("Open"), key=f"open-{lesson.id}", on_click=go, kwargs={LESSON: lesson.id, PREDICTION: None})


def ask(lesson: Lesson) -> None:
    with st.form("prediction", enter_to_submit=False):
        st.markdown(f"**{_('Your prediction')}**")
        if lesson.choices:
            word = st.radio(_("Your prediction"), list(lesson.choices), index=None, key=f"choice-{lesson.id}",
                            format_func=lambda word: _(lesson.choices[word]), label_visibility="collapsed")
        else:
            low, high, unit = lesson.number
            step = 0.01 if high <= 10 else 1.0
            value = st.number_input(_(unit), low * 1.0, high * 1.0, value=None, step=step, key=f"number-{lesson.id}", format="%g",
                                    placeholder=_("a number from {low:g} to {high:g}").format(low=low, high=high))
            word = None if value is None else f"{value:g}"
        if st.form_submit_button(_("Commit my prediction"), type="primary"):
            if word is None:
                st.warning(_("Choose an answer first: a guess is enough."))
            else:
                go(**{PREDICTION: word})
                st.rerun()
    st.caption(_("You can run the experiment once you have committed a prediction."))


def run_button(lesson: Lesson, sweep: Sweep, missing: list) -> None:
    rate = measured_rate(manager.list())
    if rate is None:
        preview = classroom.preview(max(missing, key=lambda config: config.blocks if config.blocks <= 100 else 0), "lessons")
        preview.ready.wait(0.5)
        if preview.seconds_per_step:
            rate = preview.seconds_per_step / cost(preview.config)
    price = _("at most {time} on this machine").format(time=duration(estimate(missing, rate, sweeps.at_once))) if rate else (
        _("the time is being measured"))
    label = _("Go on") if len(missing) < len(sweep.configs) else _("Run the experiment")
    st.button(label, type="primary", key="run", icon=":material/play_arrow:", on_click=classroom.start_lesson, args=(sweep,),
              disabled=classroom.locked())  # fmt: skip
    st.caption(_("{runs} runs, {cost}. Runs that exist already are not trained again.").format(runs=len(missing), cost=price))


def progress(sweep: Sweep) -> None:
    """How far it is; draws the run that is live now."""
    shown = [run.id for run in sweeps.live(sweep)]

    @fragment(run_every=1)
    def bar() -> None:
        done, live = len(sweeps.results(sweep)), sweeps.live(sweep)
        text = _("{done} of {all} runs done").format(done=done, all=len(sweep.configs))
        st.progress(done / len(sweep.configs), text=text + "".join(f" · {net_name(run.recipe)}" for run in live))
        if reason := sweeps.waits_for(sweep.id):
            st.caption(str(reason))
        if [run.id for run in live] != shown or not sweeps.active(sweep.id):
            st.rerun()

    bar()
    classroom.join_lesson(sweep)
    st.button(_("Stop"), key="stop", icon=":material/stop:", on_click=classroom.stop_sweep, args=(sweep.id,),
              disabled=classroom.locked() or not classroom.may_change_sweep(sweep.id),
              help=_("If others wait for these runs too, it takes you out and leaves them to the others."))  # fmt: skip
    for run in [manager.get(run_id) for run_id in shown[:1]]:
        live_panel(run, key="lesson-live")


def outcome(lesson: Lesson, prediction: str, finding: Finding) -> None:
    right = lesson.judge(prediction, finding)
    left, middle = st.columns(2)
    with left.container(border=True, height="stretch"):
        st.caption(_("You predicted"))
        st.markdown(f"### {answer_text(lesson, prediction)}")
        if right is not None:
            st.markdown(_(":green[This is what happened, or close to it.]") if right else _(":orange[It went another way.]"))
    with middle.container(border=True, height="stretch"):
        st.caption(_("Measured"))
        st.markdown(f"### {measured_text(lesson, finding)}")
        st.markdown(finding.answer_text)
    source = _("**The article says:** {claim}") if lesson.claim else _("**Theory says:** {claim}")
    st.markdown(source.format(claim=_(lesson.says)))
    st.markdown(_("**In these runs:** :{colour}-badge[{result}] — {meaning}.").format(
        colour=COLOUR[finding.result], result=_(finding.result), meaning=_(RESULTS[finding.result])))
    statements(finding)


def statements(finding: Finding) -> None:
    mark = {True: "✓", False: "✗", None: "?"}
    rows = [f"| {mark[part.holds]} | {part.statement} | {part.measured} |" for part in finding.parts]
    st.markdown("\n".join([_("| held | statement | measured |"), "|:-:|---|---|", *rows]))


def at_length(lesson: Lesson, sweep: Sweep) -> None:
    """What the runs of the article's length gave, which come with gradviz: the lesson's own are short."""
    try:
        long = article_length.findings(article_length.kept_runs()).get(lesson.id)
    except KeepError as error:
        st.caption(as_text(str(error)))
        return
    if long is None:
        return
    steps = max(config.steps for config in sweep.configs)
    st.markdown(
        _("**These runs are short**: at most {steps:,} steps of {batch} images. The article's lasted 10 epochs, {long:,} steps "
          "of {long_batch}. At that length, on MNIST and on another day: :{colour}-badge[{result}]").format(
            steps=steps, batch=sweep.configs[0].batch_size, long=LONG_STEPS, long_batch=LONG_BATCH,
            colour=COLOUR[long.result], result=_(long.result),
        )
    )  # fmt: skip
    with st.expander(_("What the long runs gave"), key="box_long"):
        statements(long)
        st.caption(_("Measured by `python -m gradviz reproduce --article`; every run is in gradviz/lenet/long_runs.jsonl, "
                     "the report in docs/reproduction.md."))


def pictures(lesson: Lesson, runs: list) -> None:
    for kind, figure in lesson_figures(lesson, runs).items():
        figure_panel(figure, f"picture-{kind}", _(HOW_TO_READ[kind]), lesson.id)
        st.caption(_(HOW_TO_READ[kind]))


def theory_table(configs: list) -> None:
    rows = []
    for config in dict.fromkeys(replace(config, seed=0, optimizer="adam", lr=1e-3, treatment="none") for config in configs):
        expected = predict(config)
        rows.append({
            _("net"): net_name(config), _("weight gradient, factor per convolution"): number(expected.factor, 3),
            _("backward signal, factor per convolution"): number(expected.signal_factor, 3),
            _("first block, log10 of the weight gradient"): f"{expected.weight_grad_rms[config.layout.front]:.1f}",
            _("last block"): f"{expected.weight_grad_rms[config.layout.back]:.1f}",
        })  # fmt: skip
    st.dataframe(pd.DataFrame(rows), hide_index=True, width="stretch")


def one(lesson: Lesson, plain: bool) -> None:
    """`plain`: with nothing but the question, the run and the answer."""
    if plain:
        st.html("<style>[data-testid^=stTopNav], [data-testid=stExpandSidebarButton] {display: none}</style>")
    else:
        st.button(_("All lessons"), key="back", type="tertiary", icon=":material/arrow_back:", on_click=go,
                  kwargs={LESSON: None, PREDICTION: None})
    st.title(title_of(lesson), anchor=False)
    wanted = st.query_params.get(DATASET, "mnist")
    wanted = wanted if wanted in ("mnist", "digits") else "mnist"
    if not plain:
        names = {"mnist": _("MNIST"), "digits": _("built-in digits")}
        picked = st.segmented_control(_("Data set"), list(names), default=wanted, key="lesson-data", required=True,
                                      format_func=names.get, label_visibility="collapsed")
        if picked != wanted:
            go(**{DATASET: None if picked == "mnist" else picked})
            st.rerun()
    dataset, notice = shelf.effective(wanted)
    if dataset == "digits":
        st.info(as_text((f"{notice} " if notice else "") + _(DIGITS_DIFFER)), icon=":material/info:")
    st.header(_(lesson.question), anchor=False)

    prediction = lesson.read(st.query_params.get(PREDICTION))
    if prediction is None:
        ask(lesson)
        return
    sweep = lesson.sweep(dataset)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(_("Your prediction: **{answer}**").format(answer=answer_text(lesson, prediction)))
        st.button(_("Predict anew"), key="anew", type="tertiary", on_click=go, kwargs={PREDICTION: None})
    heavily(lambda: answered(lesson, sweep, prediction, plain), sweep.configs)


def answered(lesson: Lesson, sweep: Sweep, prediction: str, plain: bool) -> None:
    """Below the prediction: what its runs show."""
    runs = [manager.get(config.id) for config in sweep.configs]
    done = [run for run in runs if ended(run, lesson.early)]
    missing = [config for config, run in zip(sweep.configs, runs, strict=True) if not ended(run, lesson.early)]
    if sweeps.active(sweep.id):
        progress(sweep)
    elif missing:
        run_button(lesson, sweep, missing)
        for run in runs:
            if run is not None and run.message and run not in done and not run.status.live:
                st.warning(as_text(f"{net_name(run.recipe)}: {run.message}"))
    if not missing:
        finding = lesson.conclude(done)
        outcome(lesson, prediction, finding)
        at_length(lesson, sweep)
        query = urlencode({"dataset": sweep.configs[0].dataset, "prediction": prediction})
        download_button(_("Share as one file"), f"{LESSON_FILE.format(id=lesson.id)}?{query}", f"gradviz-{lesson.id}.html",
                        key="share", home=True)  # fmt: skip
    if done:
        pictures(lesson, done)
    if not missing:
        st.header(_("Why"), anchor=False)
        st.markdown(_(lesson.explanation))
        with st.expander(_("What theory expects at initialisation"), key="box_theory"):
            theory_table(list(sweep.configs))
        if not plain:
            with st.expander(_("The runs, to open in the Lab"), key="box_runs"):
                for run in done:
                    st.markdown(f"[{net_name(run.recipe)} · {run.recipe.title}]({link('', run=run.id)})")


lesson = LESSONS.get(st.query_params.get(LESSON, ""))
if lesson is None:
    if st.query_params.get(LESSON):
        st.warning(_("There is no lesson of that name. These are all:"))
    overview()
else:
    one(lesson, plain=st.query_params.get(CONTROLS) == "off")
