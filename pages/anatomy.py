"""The anatomy of a run: step through it, and see what every layer, or one of them, is made of."""

import numpy as np
import pandas as pd
import streamlit as st

from gradviz.charts import anatomy as charts_anatomy
from gradviz.lenet.config import config_of
from gradviz.lenet.diagnosis import diagnose
from gradviz.lenet.theory.predict import predict
from gradviz.record import reading
from gradviz.record import sample as anatomy
from gradviz.record.history import History
from gradviz.record.measuring import why_missing
from gradviz.record.quantities import described
from gradviz.record.raster import held, measured_columns
from gradviz.record.recipe import Recipe
from gradviz.record.run import Run, Summary
from gradviz.record.sample import AnatomySample
from gradviz.record.watched import Watched
from gradviz.share.routes import RUN as RUN_FILE
from gradviz.ui import controls
from gradviz.ui.heavy import heavily
from gradviz.ui.language import fragment, write_address
from gradviz.ui.server import server
from gradviz.web.download import download_button
from gradviz.web.figure import figure_panel
from gradviz.web.motion import motion_panel
from gradviz.words import as_text, number
from gradviz.words import gettext as _

VIEWS = {
    "layers": _("All layers"),
    "treatment": _("Optimiser and treatment"),
    "shortcut": _("Shortcut"),
    "layer": _("One layer"),
    "motion": _("One step in slow motion"),
}
OF_ANY_NET = ("layers", "layer")  # the views of a run that is no deep LeNet's
OF_A_WATCHED_NET = ("layers", "treatment", "layer", "motion")
FRAME = 1.5  # seconds that a step stays while playing
STEP, LAYER, VIEW, PLAYING = "anatomy_step", "anatomy_layer", "anatomy_view", "anatomy_playing"

manager = server().manager


def chosen_run() -> Summary | None:
    summaries = [summary for summary in manager.list() if summary.steps]
    labels = {summary.id: controls.label(summary) for summary in summaries}
    wanted = st.session_state.get(controls.RUN)
    if not labels:
        st.info(_("No run has recorded a step yet. Start one in the Lab; its anatomy is then here."), icon=":material/info:")
        return None
    if wanted and wanted not in labels:
        st.warning(_("The run in this link is not on this server, or has not recorded a step yet; here is the newest one."))
    ids = list(labels)
    picked = st.selectbox(_("Run"), ids, index=ids.index(wanted) if wanted in labels else 0, format_func=labels.get)
    if picked != wanted:
        st.session_state[controls.RUN] = picked
        for key in (STEP, LAYER, PLAYING):
            st.session_state.pop(key, None)
    return next(summary for summary in summaries if summary.id == picked)


def recorded_steps(run: Run, history: History) -> list[int]:
    """The sampled steps, and so many columns in between that playing them is a film of half a minute; of a run that was
    watched those that were measured."""
    columns = measured_columns(history.columns) if run.watched else np.arange(len(history.columns))
    columns = columns[anatomy.even_choice(len(columns), 20)] * history.stride if len(columns) else np.zeros(1, int)
    return sorted({*columns.tolist(), *(sample.step for sample in history.samples if sample.step < history.steps)})


# Over all samples, so that the axes stand still while the steps play; the samples of a deep net take a while to unpack.
@st.cache_data(max_entries=128, show_spinner=False)
def limits(run_id: str, created: float, count: int, kind: str, logarithmic: bool, _history: History) -> tuple[float, float]:
    return charts_anatomy.band_limits([kept.sample() for kept in _history.samples], kind, logarithmic)


@st.cache_data(max_entries=32, show_spinner=False)
def layer_numbers(run_id: str, created: float, count: int, _history: History) -> np.ndarray:
    """(samples, len(LAYER_NUMBERS), layers)"""
    return np.stack([kept.sample().layers for kept in _history.samples])


def read(sentence: str) -> None:
    """How to read the picture above."""
    st.caption(":material/visibility: " + sentence)


def scrub(steps: list[int]) -> int:
    """The slider and the play button; while playing, each call goes one step on."""
    query = st.query_params.get("step", "")
    st.session_state.setdefault(STEP, int(query) if query.isdecimal() and len(query) < 10 else steps[-1])
    now = st.session_state[STEP]
    if now not in steps:  # a link, or columns that were merged since
        now = min(steps, key=lambda step: abs(step - now))
    if st.session_state.get(PLAYING):
        now = steps[min(steps.index(now) + 1, len(steps) - 1)]
        if now == steps[-1]:
            st.session_state[PLAYING] = False
            st.session_state[STEP] = now
            st.rerun()
    st.session_state[STEP] = now
    button, slider = st.columns([1, 9], vertical_alignment="bottom")
    playing = st.session_state.get(PLAYING, False)
    if button.button(_("Pause") if playing else _("Play"), key="play", width="stretch", disabled=len(steps) < 2,
                     icon=":material/pause:" if playing else ":material/play_arrow:"):
        st.session_state[PLAYING] = not playing
        if now == steps[-1]:
            st.session_state[STEP] = steps[0]
        st.rerun()  # the whole page: a fragment keeps its own clock
    if len(steps) > 1:
        slider.select_slider(_("Recorded step"), steps, key=STEP)
    return now


def body(run_id: str, recipe: Recipe) -> None:
    """Reads the run itself: what is handed to a fragment stays in memory as long as its page is open."""

    def drawn() -> None:
        if run := manager.get(run_id):
            picture(run)

    heavily(drawn, [recipe])


def picture(run: Run) -> None:
    history = run.history.snapshot()
    if not history.steps:  # begun again since the page was opened, after a kill of the server say
        st.info(_("No step has been recorded yet."), icon=":material/hourglass_empty:")
        return
    step = scrub(recorded_steps(run, history))
    column = history.column_of(step)
    diagnosis = diagnose(run, column)
    st.markdown(_("**Step {step}.** {sentence}").format(step=step, sentence=diagnosis.sentence))
    before = [kept for kept in history.samples if kept.step <= step]
    sample = before[-1].sample() if before else None
    view = st.session_state[VIEW]
    if view == "motion":
        motion_panel(run, history, column, sample)
    elif sample is None and not run.watched:
        st.info(_("This run was recorded without distributions; its profile and its course are shown."), icon=":material/info:")
        profile(run, history, column)
    elif view == "layers":
        layers(run, history, column, sample)
    elif view == "treatment" and run.watched:
        watched_treatment(run, history, column)
    elif view == "treatment":
        treatment(run, history, column, sample)
    elif view == "shortcut":
        shortcut(run, sample)
    else:
        one_layer(run, history, column, sample)


def sampled_at(sample: AnatomySample, column: int, history: History) -> str:
    if history.column_of(sample.step) == column:
        return ""
    return " " + _("Distributions are taken at a few steps only: these are of step {step}.").format(step=sample.step)


def profile(run: Run, history: History, column: int) -> None:
    config = config_of(run)
    prediction = predict(config) if column == 0 and config else None
    predicted = prediction is not None and bool(np.isfinite(prediction.weight_grad_rms).any())
    figure = charts_anatomy.profile_figure(history, column, run.recipe.layout.names, prediction if predicted else None)
    figure_panel(figure, "profile", _("Gradient sizes over depth"), run.id)
    sentence = _("Each dot is one layer, the input at the left; the scale is logarithmic, the same at every step. A slanted "
                 "straight line: each layer multiplies by the same factor. Triangles below: exactly zero; crosses above: "
                 "not finite.")
    if predicted:
        sentence += " " + _("Dotted: what theory predicts for this net before it has learnt anything; the band holds about "
                              "19 of 20 random draws of its weights.")
    if prediction is not None:
        sentence += "".join(f" {limit}" for limit in prediction.limits)
    read(sentence)


def layers(run: Run, history: History, column: int, sample: AnatomySample | None) -> None:
    names = run.recipe.layout.names
    st.header(_("Gradient sizes, layer by layer"), anchor=False)
    profile(run, history, column)
    if sample is not None:
        bands(run, history, column, sample)
    st.header(_("When did each layer wake up?"), anchor=False)
    steps = wake_steps(run, history, slice(None))
    awake = steps >= 0
    if awake.any():
        figure_panel(charts_anatomy.wake_figure(steps, names, history.steps - 1), "wake", _("Wake-up step over depth"), run.id)
    read(_("The first step from which a layer's weight gradient is {rise:g} times its step-0 value for {stay} steps in a row: "
           "{count} of {all} layers did that. Layers without a dot did not; they may have been awake from the start.").format(
               rise=reading.WAKE_RISE, stay=reading.WAKE_STAY, count=int(awake.sum()), all=len(names)))


def wake_steps(run: Run, history: History, layers: slice | list[int]) -> np.ndarray:
    """Of these layers, see reading.wake_steps."""
    gradients = history.quantity("weight_grad_rms")[:, layers]
    return reading.wake_steps(held(gradients) if run.watched else gradients, history.stride)


def bands(run: Run, history: History, column: int, sample: AnatomySample) -> None:
    names = run.recipe.layout.names
    st.header(_("Weights and weight gradients of every layer"), anchor=False)
    span = history.quantity("weight_grad_rms")[column]
    span = span[np.isfinite(span) & (span > 0)]
    wide = len(span) > 0 and span.max() > 100 * span.min()
    scale = st.segmented_control(_("Scale of the gradients"), [_("magnitude, logarithmic"), _("signed, as in the article")],
                                 default=_("magnitude, logarithmic") if wide else _("signed, as in the article"),
                                 key="anatomy_scale", required=True)  # fmt: skip
    key = (run.id, run.created, len(history.samples))
    for kind, logarithmic in (("weight", False), ("weight_grad", scale == _("magnitude, logarithmic"))):
        st.markdown(f"**{_(anatomy.KINDS[kind])}**")
        reach = limits(*key, kind, logarithmic, history)
        figure = charts_anatomy.band_figure(sample, kind, names, logarithmic, reach)
        figure_panel(figure, f"band_{kind}", _(anatomy.KINDS[kind]), f"{run.id} {logarithmic}")
    sentence = _("A column is one layer. The dark band holds the middle half of its entries, the light ones more, as the legend "
                 "says; the line is the median. A layer whose gradient band is thin or missing gets hardly any gradient, "
                 "while the band of its weights above tells whether the layer still has weights of normal size.")
    if len(names) > 300:
        sentence += " " + _("Neighbouring layers are drawn together: the band holds the bands of all of them.")
    read(sentence + sampled_at(sample, column, history))


def watched_treatment(run: Run, history: History, column: int) -> None:
    names, adam = run.recipe.layout.names, any("Adam" in name for name in run.recipe.optimizers)
    st.header(_("The optimiser's view"), anchor=False)
    figure_panel(charts_anatomy.optimiser_figure(history, column, names, False), "optimiser",
                 _("Update to weight ratio over depth"), run.id)  # fmt: skip
    sentence = _("By what part of its own length the step changed each layer's weights; about 10⁻³ is a lively layer. What is "
                 "too small for the precision of the weights does not arrive in them.")
    if adam:
        sentence += " " + _("Under Adam a layer with a small gradient moves as fast as others, until it comes near eps.")
    read(sentence)
    st.header(_("Before and after the treatment"), anchor=False)
    figure = charts_anatomy.treatment_figure(history, column, None, names)
    figure_panel(figure, "treatment", _("Treatment over depth"), run.id)
    read(_("Above: the weight gradient as the backward pass left it, and as the optimiser got it, after clipping and whatever "
           "else was done to it. Below: of the entries that have a gradient, the share that the step did not move."))


def treatment(run: Run, history: History, column: int, sample: AnatomySample) -> None:
    names, config = run.recipe.layout.names, run.recipe.at(sample.step)
    adam = run.recipe.knobs(column * history.stride).optimizer == "adam"
    st.header(_("The optimiser's view"), anchor=False)
    figure = charts_anatomy.optimiser_figure(history, column, names, adam)
    figure_panel(figure, "optimiser", _("Update to weight ratio over depth"), run.id)
    sentence = _("Above: by what part of its own length the step changed each layer's weights; about 10⁻³ is a lively layer, and "
                 "under 10⁻⁷ most of a layer's float32 weights do not change at all.")
    if adam:
        sentence += " " + _("Below: g / (g + eps), with g the layer's gradient (RMS) and eps = 10⁻⁸. At 1 Adam makes up for a "
                            "gradient's smallness entirely; at 0 the gradient is so far under eps that Adam cannot use it.")
    read(sentence)
    st.header(_("Before and after the treatment"), anchor=False)
    if config.treatment == "none":
        words = _("This run has no gradient treatment: the optimiser gets the gradient as it is.")
        if any(change.field == "treatment" for change in run.recipe.changes):
            words = _("At step {step} there is no gradient treatment: the optimiser gets the gradient as it is.").format(
                step=sample.step)  # fmt: skip
        st.info(as_text(words), icon=":material/info:")
        return
    altered, cosine, before, after = sample.overall
    with st.container(horizontal=True):
        st.metric(_("Entries altered"), percent(altered), border=True)
        st.metric(_("Cosine before · after"), three_digits(cosine), border=True,
                  help=_("1: the direction of the whole gradient is kept. 0: nothing is left of it."))
        st.metric(_("Length before"), three_digits(before), border=True)
        st.metric(_("Length after"), three_digits(after), border=True)
    if "treated_grad" in sample.kinds:
        figure = charts_anatomy.treatment_figure(history, column, sample, names)
        figure_panel(figure, "treatment", _("Treatment over depth"), run.id)
    read(treatment_words(run, history, column, sample) + sampled_at(sample, column, history))


def treatment_words(run: Run, history: History, column: int, sample: AnatomySample) -> str:
    config, rate = run.recipe.at(sample.step), run.recipe.rate(sample.step)
    words = _("The numbers are of the gradient of all parameters, the picture is layer by layer.")
    if config.treatment == "clip-norm":
        return words + " " + _("Clipping by norm scales all entries alike: the direction stays, cosine 1. It can only shrink.")
    if config.treatment == "clip-value":
        return words + " " + _("Clipping by value cuts the largest entries only; what is small stays small.")
    floored = sample.number("altered_share") > 0.5
    if config.treatment != "floor" or not floored.any():
        return words
    cosine = three_digits(float(np.nanmedian(sample.number("cosine")[floored])))
    words += " " + _("In {count} of {all} layers the floor overwrote most entries. There only the signs are left: the cosine is "
                     "{cosine} (median; √(2/π) = 0.80 for signs of normally distributed entries).").format(
                         count=int(floored.sum()), all=config.layers, cosine=cosine)
    zeros = float(np.nanmean(history.quantity("zero_share")[column][floored]))
    if zeros > 0.01:
        words += " " + _("{share} of their entries were exactly 0 and all became +{threshold:g}: a direction that no image "
                         "asked for.").format(share=percent(zeros), threshold=config.threshold)
    weight = float(np.nanmedian(history.quantity("weight_rms")[column][floored]))
    if config.optimizer == "adam":
        share = percent(float(reading.adam_share(np.array(config.threshold))))
        return words + " " + _("Adam divides each entry by its own size plus eps, so every overwritten weight takes {share} of a "
                               "full step of {lr:g}, whether it matters to the loss or not.").format(share=share, lr=rate)
    return words + " " + _("SGD moves each of these weights by learning rate × threshold = {move} a step; next to weights of "
                           "{weight} that is nothing.").format(
                               move=number(rate * config.threshold), weight=number(weight, 1))


def shortcut(run: Run, sample: AnatomySample) -> None:
    if not run.recipe.shortcut or not run.recipe.blocks:
        st.info(_("This net has no shortcut, so there is one path only. Switch Shortcut on in the Lab."), icon=":material/info:")
        return
    st.header(_("Two ways back"), anchor=False)
    figure_panel(charts_anatomy.paths_figure(sample), "paths", _("Backward signal by path, over blocks"), run.id)
    read(_("Above: the backward signal that reaches each block's input over the shortcut and through its convolutions. Below: "
           "how much of their sum came through the convolutions, as a projection on that sum (negative: they work against it). "
           "Measured at step {step}.").format(step=sample.step))
    st.header(_("Are the convolutions bypassed?"), anchor=False)
    if run.deletion is None:
        st.info(_("Leaving out blocks one by one is done when a run with shortcut has finished all its steps."),
                icon=":material/info:")
        return
    figure_panel(charts_anatomy.deletion_figure(run.deletion), "deletion", _("Accuracy without each block"), run.id)
    read(charts_anatomy.deletion_words(run.deletion, run.recipe.blocks))


def one_layer(run: Run, history: History, column: int, sample: AnatomySample | None) -> None:
    names = run.recipe.layout.names
    query = st.query_params.get("layer", "")
    st.session_state.setdefault(LAYER, query if query in names else names[min(2, len(names) - 1)])
    name = st.selectbox(_("Layer, from input to output"), names, names.index(st.session_state[LAYER]), key=LAYER)
    layer = names.index(name)
    wake = int(wake_steps(run, history, [layer])[0])
    if wake >= 0:
        st.markdown(_("It woke up at **step {step}**: from there its weight gradient was {rise:g} times that of step 0.").format(
            step=wake, rise=reading.WAKE_RISE))
    left, right = st.columns(2) if sample is not None else (st.container(), None)
    with left:
        st.header(_("Its course"), anchor=False)
        figure_panel(charts_anatomy.course_figure(history, layer, history.stride * column), "course", _("Course of the layer"),
                     f"{run.id} {name}")
        read(_("Sizes at every step, logarithmic; triangles at the lower edge are exact zeros. The dotted line is the step "
               "chosen."))
    if sample is None:
        missing_words(run, history, name, layer, column)
        return
    with right:
        st.header(_("How large its entries are"), anchor=False)
        figure = charts_anatomy.magnitude_figure(sample, layer)
        figure_panel(figure, "magnitude", _("Histogram of magnitudes"), f"{run.id} {name}")
        read(_("Each step of a line is a doubling of the magnitude, its height the share of entries there. A bell that moves "
               "left shrinks. Exact zeros and what is not finite stand apart.") + sampled_at(sample, column, history))
        numbers = layer_numbers(run.id, run.created, len(history.samples), history)
        units = charts_anatomy.units_figure([kept.step for kept in history.samples], numbers[:, :, layer])
        if units is not None:
            figure_panel(units, "units", _("Dead and saturated share"), f"{run.id} {name}")
            read(_("Dead: relu units or channels that are 0 for every image of the batch; no gradient passes them. Saturated: "
                   "sigmoid outputs under 0.02 or over 0.98, where the slope is under 0.02."))
    filters(run, history, layer, sample.step)


def missing_words(run: Run, history: History, name: str, layer: int, column: int) -> None:
    """Every number of the layer in this column, and why there is none."""
    rows = []
    for quantity in history.quantities:
        value = float(history.quantity(quantity)[column, layer])
        why = why_missing(run, name, quantity) if value < 0 else ""
        rows.append({
            _("quantity"): _(described(quantity).label), _("at this step"): _("not measured") if value < 0 else number(value, 3),
            _("why"): why,
        })  # fmt: skip
    st.table(pd.DataFrame(rows).set_index(_("quantity")))


def filters(run: Run, history: History, layer: int, step: int) -> None:
    st.header(_("Its filters, to look at"), anchor=False)
    kept = [packed for packed in history.samples if packed.images and packed.step <= step]
    if not kept:
        st.info(_("No pictures were kept of this run."), icon=":material/info:")
        return
    shown, picture = kept[-1].picture(layer)
    figure_panel(charts_anatomy.filters_figure(picture), "filters", _("Filters and their gradients"), run.id)
    words = _("{name} at step {step}: {count} filters, one tile each; a tile of a convolution holds one 5×5 patch per input "
              "channel, a linear unit's its weights. Red is positive, blue negative, white 0; each picture has its own scale. "
              "Kept while training, at step 0, 1, 10, 100, … and the last, in 8 bits.").format(
                  name=run.recipe.layout.names[shown], step=kept[-1].step, count=len(picture.weight))
    if shown != layer:
        words += " " + _("A net this deep keeps pictures of {count} layers; this is the nearest to {name}.").format(
            count=anatomy.PICTURED_LAYERS, name=run.recipe.layout.names[layer])
    if picture.gradient_scale == 0:
        words += " " + _("All gradients shown are exactly zero.")
    read(words)


def percent(share: float) -> str:
    return _("not measured") if np.isnan(share) else f"{100 * share:.3g} %"


def three_digits(value: float) -> str:
    return _("not defined") if np.isnan(value) else number(value, 3)


controls.open_session(lambda run_id: config_of(manager.get(run_id)))
st.title(_("Anatomy of a run"), anchor=False)
run = chosen_run()
if run is not None:
    query = st.query_params.get("view", "")
    st.session_state.setdefault(VIEW, query if query in VIEWS else "layers")
    views = list(VIEWS) if config_of(run) else list(OF_A_WATCHED_NET if isinstance(run.recipe, Watched) else OF_ANY_NET)
    if st.session_state[VIEW] not in views:
        st.session_state[VIEW] = "layers"
    st.segmented_control(_("View"), views, default=st.session_state[VIEW], key=VIEW, format_func=VIEWS.get,
                         label_visibility="collapsed", required=True)  # fmt: skip
    fragment(run_every=FRAME if st.session_state.get(PLAYING) else None)(body)(run.id, run.recipe)
    download_button(_("Share as one file"), RUN_FILE.format(id=run.id), f"gradviz-{run.id}.html", key="share", home=True)
    write_address({"run": run.id})
