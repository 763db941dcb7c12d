// The live element: what the server says of a run, or of a net that has not been trained, in figures and charts.

import { Chart, loadPlotly } from "./chart.js";
import { drawAccuracy, drawLoss } from "./curves.js";
import { Feed } from "./feed.js";
import { Heatmap } from "./heatmap.js";
import { make, put, theme } from "./look.js";
import { decimal, duration, fill, measured, percent } from "./numbers.js";
import { Pointer } from "./pointer.js";
import { drawPreview, drawProfile } from "./profile.js";
import { shortened } from "./rows.js";
import { Voice, style } from "./said.js";

const CSS = `
.gv { font-family: var(--st-font, sans-serif); color: var(--st-text-color, inherit); container-type: inline-size; }
.gv * { box-sizing: border-box; }
.gv-figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(88px, 1fr)); gap: 4px 14px; }
.gv-figure { min-width: 0; display: flex; flex-direction: column; justify-content: space-between; }
.gv-figure b { display: block; font-weight: 400; font-size: 12px; opacity: .75; }
.gv-figure span { display: block; font-size: 18px; font-weight: 600; font-variant-numeric: tabular-nums; line-height: 1.25; overflow-wrap: anywhere; }
.gv-figure.gv-long span { font-size: 13px; font-weight: 400; padding-top: 4px; }
.gv-progress { display: flex; align-items: center; gap: 12px; margin: 10px 0 6px; font-size: 13px; flex-wrap: wrap; }
.gv-bar { flex: 1 1 160px; height: 8px; border-radius: 4px; overflow: hidden; background: color-mix(in srgb, var(--st-text-color, #888) 14%, transparent); }
.gv-bar div { height: 100%; width: 0; background: var(--st-primary-color, #1f6feb); }
.gv-state { font-size: 16px; line-height: 1.4; margin: 4px 0 10px; min-height: 1.4em; }
.gv-notice { font-size: 14px; margin: 6px 0; padding: 6px 10px; border-left: 3px solid var(--st-primary-color, #1f6feb); }
.gv-notice:empty { display: none; }
.gv-charts { display: grid; gap: 0 20px; grid-template-columns: repeat(6, minmax(0, 1fr)); }
/* Head, controls, meaning, plot and reading aid of neighbouring charts stand on common lines. */
.gv-chart { grid-column: span 6; min-width: 0; margin: 0; display: grid; grid-template-rows: subgrid; grid-row: span 5; }
@container (min-width: 700px) {
  .gv-loss, .gv-accuracy { grid-column: span 3; }
  .gv-heatmap { grid-column: span 4; }
  .gv-profile { grid-column: span 2; }
}
.gv-head { display: flex; flex-wrap: wrap; align-items: center; gap: 4px 8px; min-height: 28px; }
.gv-head h2 { font-size: 15px; font-weight: 600; margin: 0; padding: 0; flex: 1 1 auto; color: inherit; font-family: inherit; letter-spacing: 0; }
.gv-head button, .gv-controls select { font: inherit; font-size: 12px; color: inherit; background: var(--st-background-color, transparent);
  border: 1px solid color-mix(in srgb, var(--st-text-color, #888) 30%, transparent); border-radius: 5px; padding: 2px 7px; cursor: pointer; max-width: 100%; min-height: 24px; min-width: 24px; }
.gv-head button:hover, .gv-controls select:hover { border-color: var(--st-primary-color, #1f6feb); }
.gv-controls { display: flex; flex-wrap: wrap; gap: 4px 14px; font-size: 13px; margin: 2px 0; }
.gv-controls label { display: flex; gap: 6px; align-items: center; min-width: 0; }
.gv-chart > * { min-width: 0; }
.gv-meaning, .gv-read { font-size: 12.5px; line-height: 1.4; opacity: .8; margin: 2px 0 0; }
.gv-read { margin-bottom: 22px; }
.gv-plot { position: relative; width: 100%; }
.gv-waiting { opacity: .45; }
.gv-tip { position: absolute; pointer-events: none; z-index: 5; font-size: 12.5px; line-height: 1.35; padding: 4px 8px; border-radius: 4px; white-space: nowrap;
  color: var(--st-background-color, #fff); background: var(--st-text-color, #222); display: none; }
.gv-line { position: absolute; width: 0; pointer-events: none; border-left: 1.5px dashed var(--st-text-color, #222); display: none; }
.gv-row { border: none; outline: 1.5px solid var(--st-text-color, #222); box-shadow: 0 0 0 2.5px var(--st-background-color, #fff); }
.gv-cell { border: none; outline: 2px solid #fff; box-shadow: 0 0 0 4px #000; z-index: 4; }
.gv-plot:focus-visible { outline: 2px solid; outline-offset: 2px; }
@media (forced-colors: active) {
  .gv-bar { outline: 1px solid CanvasText; }
  .gv-bar div { background: Highlight; forced-color-adjust: none; }
}
.gv-open { color: var(--st-link-color, #0054a3); font-weight: 600; }
button.gv-open { font: inherit; font-weight: 600; background: none; border: 0; padding: 0; cursor: pointer; text-decoration: underline; }
`;

// The figures of the two layers between which a net is judged.
const gradientsOf = ({ first_gradient, last_gradient, first_layer, last_layer }, words) => Object.entries({ first_gradient, last_gradient }).map(([name, value]) => [
  name, value === null ? "–" : measured(value, false, words), fill(words.gradient_at, { layer: shortened(name === "first_gradient" ? first_layer : last_layer, 22) }),
]);

// One for each host element; update() is called at every script run and theme switch.
export class Panel {
  constructor(host) {
    this.host = host;
    this.root = make("div", "gv");
    make("style", "", this.root, CSS);
    style(this.root);
    this.voice = new Voice(this.root);
    host.append(this.root);
    this.figures = make("div", "gv-figures", this.root);
    this.progress = make("div", "gv-progress", this.root);
    this.bar = make("div", "", make("div", "gv-bar", this.progress));
    this.bar.parentElement.role = "progressbar";
    this.progressText = make("span", "", this.progress);
    this.state = make("div", "gv-state", this.root);
    this.notice = make("div", "gv-notice", this.root);
    this.notice.role = "status";
    this.area = make("div", "gv-charts", this.root);
    this.charts = {};
    this.stale = new Set(); // names of charts that wait to be drawn
    this.feed = new Feed(this);
    this.resize = new ResizeObserver(([{ contentRect: { width } }]) => {
      if (width !== this.width) this.redraw(); // a drawing makes it higher, and need not be made twice for that
      this.width = width;
    });
    this.resize.observe(this.root);
  }

  get run() {
    return this.feed.run;
  }

  get id() {
    return this.feed.id;
  }

  // Whether the run's quantity is a share, and not shown as log10.
  get linear() {
    return this.component.data.linear.includes(this.run.quantity);
  }

  update(component) {
    const { data } = component;
    Object.assign(this, { component, words: data.words, look: theme(this.host) });
    if (this.mode !== data.mode) this.arrange(data.mode);
    if (!this.Plotly) {
      loadPlotly(data.plotly).then(
        (Plotly) => { this.Plotly = Plotly; this.redraw(); },
        () => this.tell(this.words.no_plotly),
      );
    }
    const { status } = this.root.dataset, startedAnew = data.live && this.run && !this.run.live;
    const translated = this.lang !== data.lang;
    this.lang = data.lang;
    if (this.id !== data.id || translated || status === "failed-preview" || startedAnew) this.open(data); // a preview that failed is tried again
    if (this.root.dataset.status !== "measuring") this.redraw(); // to draw the last preview again would hold up the new one
    this.feed.poll.now();
  }

  arrange(mode) {
    for (const chart of Object.values(this.charts)) chart.destroy();
    this.area.replaceChildren();
    this.charts = {};
    this.mode = this.root.dataset.mode = mode;
    const names = mode === "live" ? ["loss", "accuracy", "heatmap", "profile"] : ["preview"];
    for (const name of names) this.charts[name] = new Chart(this, name, this.area);
    this.progress.style.display = mode === "live" ? "" : "none";
    if (mode !== "live") return;
    const { heatmap, profile } = this.charts;
    [heatmap.twin, profile.twin] = [profile, heatmap]; // their layers are the same axis
    this.heatmap = new Heatmap(this, heatmap);
    this.pointer = new Pointer(this, heatmap);
  }

  open(data) {
    const { feed, root: { dataset } } = this;
    dataset.id = data.id;
    this.seenLive = Boolean(data.live);
    feed.open(data.id, this.mode === "preview");
    if (this.mode === "preview") {
      // The last profile stays, faintly, until the new one is measured.
      this.charts.preview.frame.classList.add("gv-waiting");
      dataset.status = "measuring";
      return;
    }
    const same = feed.quantity in data.ranges, quantity = same ? feed.quantity : data.quantity; // another net may have fewer
    feed.want(quantity, same && feed.range ? feed.range : data.ranges[quantity][0], same && Boolean(feed.fit));
    dataset.status = "loading";
    dataset.steps = dataset.columns = 0;
    this.heatmap.fillSelects();
    this.tell(this.words.loading);
  }

  destroy() {
    this.destroyed = true;
    this.feed.destroy();
    this.resize.disconnect();
    for (const chart of Object.values(this.charts)) chart.destroy();
    this.root.remove();
  }

  // -- What the feed says --

  tell(text) {
    put(this.notice, text);
  }

  began() {
    this.pointer?.forget();
  }

  took({ first, grown, fresh }) {
    const { run, root: { dataset } } = this;
    this.heatmap.picture.changed(first);
    if (fresh) this.pointer.keep(null);
    Object.assign(dataset, {
      status: run.status, steps: run.steps, columns: run.codes.length, quantity: run.quantity, stride: run.stride,
      firstGradient: run.first_gradient, lastGradient: run.last_gradient, verdict: run.verdict,
      updates: Number(dataset.updates ?? 0) + 1,
    });
    this.seenLive ||= run.live;
    this.followStatus();
    this.tell(run.live && !run.steps ? this.words.no_point : "");
    if (grown || !run.live) this.redraw();
    else this.redraw("figures"); // a run that waits or pauses: the charts stand
    if (run.live) return;
    if (this.seenLive) this.component.setTriggerValue("done", this.id);
    this.seenLive = false;
  }

  // The page's buttons belong to the status it was drawn with; a pause takes effect steps later, or another reader asked for it.
  // It is told again if the page has not followed: of a pause, a resumption and a pause the polls may have seen two pauses only.
  followStatus() {
    const { told, run: { live, status } } = this;
    if (!live || status === this.component.data.status) this.told = null;
    else if (told?.status !== status || performance.now() > told.again) { // ever more seldom: a slow server must not be asked faster
      const wait = told?.status === status ? Math.min(30000, 2 * told.wait) : 2000;
      this.told = { status, wait, again: performance.now() + wait };
      this.component.setTriggerValue("done", this.id);
    }
  }

  referred() {
    this.redraw("profile");
  }

  lost() {
    this.tell(this.words.lost);
    this.root.dataset.status = "lost";
    this.component.setTriggerValue("lost", this.id);
  }

  foretold(ahead) {
    const { words } = this;
    this.tell(ahead.share ? fill(words.measuring_share, { n: Math.round(100 * ahead.share) }) : words.measuring);
    if (!ahead.theory) return; // the last profile stays, faintly
    this.preview = ahead;
    this.charts.preview.frame.classList.remove("gv-waiting");
    Object.assign(this.root.dataset, { foretold: this.id, layers: ahead.layers });
    this.redraw();
  }

  measured(preview) {
    if (!preview) {
      this.root.dataset.status = "failed-preview";
      return;
    }
    this.preview = preview;
    this.charts.preview.frame.classList.remove("gv-waiting");
    Object.assign(this.root.dataset, {
      status: "ready", firstGradient: preview.first_gradient, lastGradient: preview.last_gradient, layers: preview.layers, measured: this.id,
    });
    this.redraw();
  }

  // -- Drawing --

  // Draws the named charts, or all, once before the next picture of the screen.
  redraw(...names) {
    for (const name of names.length ? names : Object.keys(this.charts)) this.stale.add(name);
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      if (this.destroyed) return;
      const started = performance.now();
      for (const chart of Object.values(this.charts)) chart.measure();
      if (this.mode === "live") this.drawRun();
      else if (this.preview) this.drawNet();
      this.stale.clear();
      if (this.Plotly) this.root.dataset.drawMs = this.feed.drawMs = Math.round(performance.now() - started);
    });
  }

  showFigures(pairs) {
    const { words } = this;
    const text = JSON.stringify(pairs);
    if (this.figuresShown === text) return;
    this.figuresShown = text;
    this.figures.replaceChildren(...pairs.map(([name, value, label]) => {
      const figure = make("div", name === "device" || name === "every" ? "gv-figure gv-long" : "gv-figure");
      figure.dataset.figure = name;
      make("b", "", figure, label ?? words[name]);
      make("span", "", figure, value);
      return figure;
    }));
  }

  drawRun() {
    const { run, charts, stale } = this;
    this.showFigures(run ? figuresOf(run, this.words) : []);
    this.showState();
    if (!run?.steps) return;
    if (stale.has("loss")) drawLoss(charts.loss, this);
    if (stale.has("accuracy")) drawAccuracy(charts.accuracy, this);
    if (stale.has("heatmap")) this.heatmap.draw(this);
    if (stale.has("profile")) drawProfile(charts.profile, this);
    if (this.Plotly) this.root.dataset.plots = "drawn";
  }

  showState() {
    const { run, words } = this;
    if (!run) {
      this.progressText.textContent = this.state.textContent = "";
      this.bar.style.width = "0";
      return;
    }
    const share = run.total === null ? 0 : (100 * run.steps) / run.total, bar = this.bar.parentElement;
    bar.style.display = run.total === null ? "none" : "";
    this.bar.style.width = `${share}%`;
    Object.assign(bar, { ariaLabel: words.status[run.status], ariaValueNow: Math.round(share) });
    const left = run.seconds_left === null || !run.steps ? "" : ` · ${fill(words.seconds_left, { time: duration(run.seconds_left, words) })}`;
    const place = run.place === null ? "" : ` · ${fill(words.place, { place: run.place })}`;
    const wait = run.wait === null ? "" : ` · ${fill(words.wait, { time: duration(run.wait, words) })}`;
    put(this.progressText, words.status[run.status] + left + place + wait);
    put(this.state, [run.sentence, run.sentence && run.status === "diverged" ? "" : run.message].filter(Boolean).join(" "));
    // What has changed, not each number on the way.
    this.voice.say(`${words.status[run.status]}. ${this.state.textContent}`, `${this.id} ${run.status} ${run.verdict} ${run.steps > 0}`);
  }

  drawNet() {
    const { preview, words } = this;
    this.showFigures([
      ["loss", decimal(preview.loss, words, 4)],
      ["accuracy", percent(preview.accuracy, words)],
      ...gradientsOf(preview, words),
      ["ratio", decimal(preview.ratio, words)],
      ...(preview.ms_per_step === undefined ? [] : [["ms_per_step", fill(words.milliseconds, { n: decimal(preview.ms_per_step, words) })]]),
    ]);
    drawPreview(this.charts.preview, this);
    if (this.Plotly && !preview.ahead) this.root.dataset.plots = "drawn";
  }
}

// [name, value] of the key figures.
function figuresOf(run, words) {
  const step = Math.max(0, run.steps - 1);
  const figures = [
    ["step", run.total === null ? String(step) : fill(words.step_of, { step, total: run.total - 1 })],
    ["loss", decimal(run.loss, words, 4)],
    ["accuracy", percent(run.accuracy, words)],
    ...gradientsOf(run, words),
    ...(run.every === null ? [["ratio", run.steps ? decimal(run.ratio, words) : "–"]] : []), // any other net is judged by lengths
    ["ms_per_step", run.ms_per_step === null ? "–" : fill(words.milliseconds, { n: decimal(run.ms_per_step, words) })],
    ["device", run.device || "–"],
  ];
  if (run.every !== null) figures.push(["every", run.every === 1 ? words.every_one : fill(words.every_n, { n: run.every })]);
  if (run.test_accuracy !== null) figures.splice(3, 0, ["test_accuracy", percent(run.test_accuracy, words)]);
  return figures;
}
