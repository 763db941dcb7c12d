// The live element: asks the server for what is new and draws it. What the bytes mean is written in wire.py.
// render() is called at every script run and theme switch with the same host element; everything is kept on one Panel.

export function render(state, component) {
  state.part ??= new Panel(component.parentElement);
  state.part.update(component);
}

// ---- The wire -------------------------------------------------------------------------------------------------------

const ZERO = 0, BELOW = 1, FIRST_LEVEL = 2, LEVELS = 250, ABOVE = 252, DENORMAL = 253, INFINITE = 254, NOT_A_NUMBER = 255;
const SMALLEST_NORMAL = 2 ** -126;

export { ABOVE, FIRST_LEVEL, INFINITE, LEVELS, MARKS, Message, PALETTE, decimal, fill, loadPlotly, make, theme };

class Message {
  constructor(buffer) {
    const length = new DataView(buffer).getUint32(0, true);
    this.header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
    this.buffer = buffer;
    this.at = 4 + length;
  }
  take(kind, count) {
    const array = new kind(this.buffer, this.at, count);
    this.at += array.byteLength;
    return array;
  }
}

const firstLayer = (row, layers, rows) => Math.floor((row * layers) / rows);

// ---- Numbers as people read them ------------------------------------------------------------------------------------

const SUPERSCRIPT = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };
const superscript = (n) => [...String(n)].map((c) => SUPERSCRIPT[c]).join("");
const power = (exponent) => `10<sup>${String(exponent).replace("-", "−")}</sup>`; // for Plotly
const fill = (text, values) => text.replace(/\{(\w+)\}/g, (all, name) => values[name] ?? all);

function decimal(value, words, digits = 3) {
  if (value === null || value === undefined) return "–";
  const x = Number(value);
  if (Number.isNaN(x)) return words.not_a_number;
  if (!Number.isFinite(x)) return words.infinite;
  if (x === 0) return "0";
  const size = Math.abs(x);
  if (size >= 0.001 && size < 10000) return String(Number(x.toPrecision(digits)));
  const [factor, exponent] = x.toExponential(1).split("e");
  return `${factor}·10${superscript(Number(exponent))}`;
}

const percent = (value, words) => (Number.isFinite(Number(value)) && value !== null ? `${(100 * value).toFixed(1)} %` : decimal(value, words));

function duration(seconds, words) {
  if (seconds < 90) return fill(words.seconds, { n: Math.max(1, Math.round(seconds)) });
  if (seconds < 5400) return fill(words.minutes, { n: Math.round(seconds / 60) });
  return fill(words.hours, { n: (seconds / 3600).toFixed(1) });
}

// ---- Colours --------------------------------------------------------------------------------------------------------

// Matplotlib's viridis at ten points. The marks take hues and lightnesses that viridis does not have.
const VIRIDIS = ["#440154", "#482878", "#3e4a89", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6dcd59", "#b4de2c", "#fde725"];
const SCALE = VIRIDIS.map((color, i) => [i / (VIRIDIS.length - 1), color]);
const MARKS = { exact_zero: "#ffffff", denormal_short: "#f7a8cf", below: "#a34a7d", above: "#ff8c1a", not_finite: "#e3001b" };

const rgb = (color) => [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16));

function palette() {
  const bytes = new Uint8ClampedArray(256 * 4).fill(255);
  const put = (code, [r, g, b]) => bytes.set([r, g, b], 4 * code);
  for (let level = 0; level < LEVELS; level++) {
    const place = ((level + 0.5) / LEVELS) * (VIRIDIS.length - 1), i = Math.min(Math.floor(place), VIRIDIS.length - 2);
    const [a, b] = [rgb(VIRIDIS[i]), rgb(VIRIDIS[i + 1])];
    put(FIRST_LEVEL + level, a.map((v, k) => Math.round(v + (place - i) * (b[k] - v))));
  }
  put(ZERO, rgb(MARKS.exact_zero));
  put(DENORMAL, rgb(MARKS.denormal_short));
  put(BELOW, rgb(MARKS.below));
  put(ABOVE, rgb(MARKS.above));
  put(INFINITE, rgb(MARKS.not_finite));
  put(NOT_A_NUMBER, rgb(MARKS.not_finite));
  return new Uint32Array(bytes.buffer);
}
const PALETTE = palette();

function theme(element) {
  const style = getComputedStyle(element);
  const read = (name, fallback) => style.getPropertyValue(name).trim() || fallback;
  const probe = document.createElement("canvas").getContext("2d");
  probe.fillStyle = read("--st-background-color", "#ffffff");
  probe.fillRect(0, 0, 1, 1);
  const [r, g, b] = probe.getImageData(0, 0, 1, 1).data;
  const dark = 0.299 * r + 0.587 * g + 0.114 * b < 128;
  return {
    dark,
    text: read("--st-text-color", dark ? "#fafafa" : "#31333f"),
    background: read("--st-background-color", "#ffffff"),
    font: read("--st-font", "sans-serif"),
    grid: dark ? "#3c424d" : "#dfe2e8",
    empty: dark ? "#262b35" : "#e4e7ec", // where nothing has been trained yet
    first: dark ? "#56b4e9" : "#0072b2", // Okabe and Ito's colours, told apart by colour-blind readers
    second: dark ? "#e69f00" : "#d55e00",
    faint: dark ? "#9aa0aa" : "#7a808a",
  };
}

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
.gv-bar div { height: 100%; width: 0; background: var(--st-primary-color, #1f6feb); transition: width .3s; }
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
.gv-head h4 { font-size: 15px; font-weight: 600; margin: 0; padding: 0; flex: 1 1 auto; color: inherit; font-family: inherit; letter-spacing: 0; }
.gv-head button, .gv-controls select { font: inherit; font-size: 12px; color: inherit; background: var(--st-background-color, transparent);
  border: 1px solid color-mix(in srgb, var(--st-text-color, #888) 30%, transparent); border-radius: 5px; padding: 2px 7px; cursor: pointer; max-width: 100%; }
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
.gv-open { color: var(--st-link-color, #0054a3); font-weight: 600; }
`;

function make(tag, name, parent, text) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined) element.textContent = text;
  parent?.append(element);
  return element;
}

function loadPlotly(url) {
  // One script for all elements of the page. It is asked for when the element mounts, long before the first point is there.
  window.gradvizPlotly ??= new Promise((resolve, reject) => {
    const script = make("script");
    script.src = new URL(url, document.baseURI).href;
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => {
      window.gradvizPlotly = undefined;
      reject(new Error(url));
    };
    document.head.append(script);
  });
  return window.gradvizPlotly;
}

// ---- A chart: a title, buttons, a Plotly plot, how to read it -------------------------------------------------------

const COARSE = matchMedia("(pointer: coarse)").matches; // on a phone a drag scrolls the page

class Chart {
  constructor(panel, name, parent) {
    this.panel = panel;
    this.name = name;
    this.zoom = {}; // axis name -> the range that the reader chose, and for which `meaning` of the axis
    this.box = make("figure", `gv-chart gv-${name}`, parent);
    this.head = make("div", "gv-head", this.box);
    this.title = make("h4", "", this.head);
    for (const format of ["png", "svg"]) {
      const button = make("button", "", this.head);
      button.type = "button";
      button.dataset.format = format;
      button.addEventListener("click", () => this.save(format));
    }
    this.controls = make("div", "gv-controls", this.box);
    this.meaning = make("p", "gv-meaning", this.box);
    this.frame = make("div", "gv-plot", this.box);
    this.plot = make("div", "", this.frame);
    this.read = make("figcaption", "gv-read", this.box);
    this.frame.addEventListener("pointerenter", () => this.settle());
  }
  say(title, read) {
    const { words } = this.panel;
    this.title.textContent = title;
    this.read.textContent = read;
    for (const button of this.head.querySelectorAll("button")) {
      button.textContent = words[button.dataset.format];
      button.title = button.ariaLabel = fill(words.save, { format: words[button.dataset.format] });
    }
  }
  // The range of an axis now: the reader's, while the axis still means the same, else the given one. Plotly's own uirevision
  // would give the reader's zoom up as soon as the frame of steps grows.
  range(name, meaning, given) {
    const zoom = this.zoom[name];
    return zoom && zoom.meaning === `${this.panel.id} ${meaning ?? ""}` ? zoom.range : given;
  }
  // data and layout are complete each time. Where only numbers differ, they are put into the drawing that stands there, a tenth
  // of the work of Plotly.react, which does the rest; it keeps hover and zoom.
  draw(data, layout, height) {
    const { Plotly, look } = this.panel;
    const width = Math.floor(this.frame.clientWidth);
    if (!Plotly || width < 50) return;
    const axis = { gridcolor: look.grid, linecolor: look.faint, zeroline: false, ticks: "outside", tickcolor: look.faint, title: { standoff: 6 } };
    const full = {
      width, height,
      paper_bgcolor: look.background, plot_bgcolor: look.background,
      font: { family: look.font, color: look.text, size: 12 },
      margin: { l: 56, r: 12, t: 26, b: 44 },
      showlegend: true,
      legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom", bgcolor: "rgba(0,0,0,0)" },
      hovermode: "closest",
      hoverlabel: { font: { family: look.font } },
      dragmode: COARSE ? false : "zoom",
      ...layout,
    };
    const meanings = (this.meanings = {});
    for (const name of Object.keys(full)) {
      if (!/^[xy]axis\d?$/.test(name)) continue;
      const { meaning, ...given } = full[name];
      full[name] = { ...axis, ...given, range: [...this.range(name, meaning, given.range)], title: { ...axis.title, ...given.title } };
      meanings[name] = `${this.panel.id} ${meaning ?? ""}`;
    }
    const shape = JSON.stringify([full, data.map(({ x, y, text, source, ...rest }) => rest)]);
    this.pending = { data, full };
    if (shape === this.shape && this.panel.run?.live && !this.frame.matches(":hover") && this.patch(data)) return;
    this.shape = shape;
    const fresh = !this.drawn;
    this.settle();
    if (fresh) {
      this.plot.on("plotly_doubleclick", () => {
        this.zoom = {};
        if (this.twin) delete this.twin.zoom.yaxis;
        this.panel.redraw(this.name, ...(this.twin ? [this.twin.name] : []));
      });
      this.plot.on("plotly_relayout", (change) => {
        for (const name of Object.keys(this.meanings)) {
          if (`${name}.range[0]` in change) {
            this.zoom[name] = { meaning: this.meanings[name], range: [change[`${name}.range[0]`], change[`${name}.range[1]`]] };
          }
        }
        if (this.twin && this.zoom.yaxis) this.twin.zoom.yaxis = this.zoom.yaxis;
        this.panel.redraw(this.name, ...(this.twin ? [this.twin.name] : []));
      });
    }
  }
  // Brings Plotly up to date with what was patched in past it.
  settle() {
    if (!this.pending) return;
    const { data, full } = this.pending;
    this.pending = null;
    this.drawn = this.panel.Plotly.react(this.plot, data, full, { displayModeBar: false, doubleClick: false, responsive: false, showTips: false });
    this.numbers = data.map(({ x, y }) => JSON.stringify([x, y]));
  }
  // New numbers into the lines, points and image that Plotly has drawn, along its own axes. False: something does not fit.
  patch(data) {
    const { _fullData: drawn, _fullLayout: axes } = this.plot;
    const changes = [];
    for (const [i, { type, x, y, source, fill }] of data.entries()) {
      if (type === "image") {
        const image = this.plot.querySelector(".imagelayer image");
        if (!image) return false;
        changes.push(() => image.setAttributeNS("http://www.w3.org/1999/xlink", "xlink:href", source));
        continue;
      }
      const numbers = JSON.stringify([x, y]);
      if (type || numbers === this.numbers[i]) continue;
      const group = this.plot.querySelector(`.scatterlayer .trace${drawn[i].uid}`);
      if (!group || fill) return false;
      const xaxis = axes[(drawn[i].xaxis ?? "x").replace("x", "xaxis")], yaxis = axes[(drawn[i].yaxis ?? "y").replace("y", "yaxis")];
      const shown = (axis, value) => Number.isFinite(value) && Number.isFinite(axis.d2p(value)); // null is not, nor 0 on a log axis
      const there = [...x.keys()].filter((k) => shown(xaxis, x[k]) && shown(yaxis, y[k]));
      const at = there.map((k) => [xaxis.d2p(x[k]).toFixed(2), yaxis.d2p(y[k]).toFixed(2)]);
      const points = group.querySelectorAll(".points path.point"), pieces = group.querySelectorAll("path.js-line"), [line] = pieces;
      const dots = drawn[i].mode.includes("markers"), lines = drawn[i].mode.includes("lines");
      if (points.length !== (dots ? there.length : 0)) return false;
      if (lines && (pieces.length !== 1 || there.at(-1) - there[0] !== there.length - 1)) return false; // Plotly draws a piece between any two gaps
      changes.push(() => {
        if (lines) line.setAttribute("d", at.map((point, k) => `${k ? "L" : "M"}${point}`).join(""));
        points.forEach((point, k) => point.setAttribute("transform", `translate(${at[k]})`));
        this.numbers[i] = numbers;
      });
    }
    for (const change of changes) change();
    this.box.dataset.patches = Number(this.box.dataset.patches ?? 0) + 1;
    return true;
  }
  async save(format) {
    this.settle();
    const { Plotly, run, id } = this.panel;
    const extra = 58; // for the title, which the page shows beside the plot
    const { layout, data } = this.plot;
    const size = { width: Math.max(layout.width, 420), height: layout.height + extra };
    const figure = {
      ...layout, ...size,
      font: { ...layout.font, family: "Arial, Helvetica, sans-serif" }, // the page's font cannot go into a picture
      margin: { ...layout.margin, t: layout.margin.t + extra },
      title: { text: this.title.textContent, subtitle: { text: run?.title ?? "" }, font: { size: 16 }, x: 0.01, xanchor: "left", yref: "container", y: 1, yanchor: "top", pad: { t: 14 } },
    };
    await Plotly.downloadImage({ data, layout: figure }, { format, ...size, scale: format === "png" ? 2 : 1, filename: `gradviz-${id}-${this.name}` });
  }
  destroy() {
    if (this.drawn) this.panel.Plotly.purge(this.plot);
  }
}

const HEIGHT = 500, HEAT_TOP = 56, HEAT_BOTTOM = 92, SCALE_HEIGHT = 22; // pixels of the heatmap and of the profile beside it

// ---- The panel ------------------------------------------------------------------------------------------------------

class Panel {
  constructor(host) {
    this.host = host;
    this.root = make("div", "gv");
    make("style", "", this.root, CSS);
    host.append(this.root);
    this.figures = make("div", "gv-figures", this.root);
    this.progress = make("div", "gv-progress", this.root);
    this.bar = make("div", "", make("div", "gv-bar", this.progress));
    this.progressText = make("span", "", this.progress);
    this.state = make("div", "gv-state", this.root);
    this.notice = make("div", "gv-notice", this.root);
    this.area = make("div", "gv-charts", this.root);
    this.charts = {};
    this.stale = new Set(); // names of charts that wait to be drawn
    this.exact = new Map(); // exact columns of this run by first step, the latest asked for last
    this.resize = new ResizeObserver(() => this.redraw());
    this.resize.observe(this.root);
    this.wake = () => document.hidden || this.poll();
    document.addEventListener("visibilitychange", this.wake);
  }

  update(component) {
    const { data } = component;
    this.component = component;
    this.words = data.words;
    this.look = theme(this.host);
    if (this.mode !== data.mode) {
      for (const chart of Object.values(this.charts)) chart.destroy();
      this.area.replaceChildren();
      this.charts = {};
      this.mode = data.mode;
      const names = data.mode === "live" ? ["loss", "accuracy", "heatmap", "profile"] : ["preview"];
      for (const name of names) this.charts[name] = new Chart(this, name, this.area);
      this.progress.style.display = data.mode === "live" ? "" : "none";
      this.root.dataset.mode = data.mode;
      if (data.mode === "live") {
        const { heatmap, profile } = this.charts;
        [heatmap.twin, profile.twin] = [profile, heatmap]; // their layers are the same axis
        this.prepareHeatmap();
      }
    }
    if (!this.Plotly) {
      loadPlotly(data.plotly).then(
        (Plotly) => { this.Plotly = Plotly; this.redraw(); },
        () => this.tell(this.words.no_plotly),
      );
    }
    if (this.id !== data.id || this.root.dataset.status === "failed-preview") this.open(data); // a preview that failed is tried again
    else if (data.live && this.run && !this.run.live) this.open(data); // it was started anew
    if (this.root.dataset.status !== "measuring") this.redraw(); // to draw the last preview again would hold up the new one
    this.poll();
  }

  open(data) {
    this.id = data.id;
    this.opened = performance.now();
    this.root.dataset.id = data.id;
    this.seenLive = Boolean(data.live);
    this.ended = false;
    this.forget();
    if (this.mode === "preview") {
      // The last profile stays, faintly, until the new one is measured.
      this.charts.preview.frame.classList.add("gv-waiting");
      this.root.dataset.status = "measuring";
      return;
    }
    this.quantity ??= data.quantity;
    this.range ??= data.ranges[this.quantity][0];
    this.root.dataset.status = "loading";
    this.root.dataset.steps = this.root.dataset.columns = 0;
    this.fillSelects();
    this.tell(this.words.loading);
  }

  forget() {
    this.run = null;
    this.exact.clear();
    this.reference = null;
    this.hovered = this.pinned = this.layer = null;
  }

  destroy() {
    this.destroyed = true;
    clearTimeout(this.timer);
    this.resize.disconnect();
    document.removeEventListener("visibilitychange", this.wake);
    for (const chart of Object.values(this.charts)) chart.destroy();
    this.root.remove();
  }

  tell(text) {
    this.notice.textContent = text;
  }

  // -- Asking --

  again(milliseconds) {
    clearTimeout(this.timer);
    if (!this.destroyed && !this.ended && !document.hidden) this.timer = setTimeout(() => this.poll(), milliseconds);
  }

  async get(path) {
    return fetch(new URL(path, document.baseURI), { cache: "no-store" });
  }

  async poll() {
    clearTimeout(this.timer);
    if (this.destroyed || this.ended || this.asking || document.hidden) return;
    this.asking = true;
    const id = this.id;
    let wait = 1000;
    try {
      wait = this.mode === "live" ? await this.askRun(id) : await this.askPreview(id);
    } catch (error) {
      if (!(error instanceof TypeError)) console.error(error);
      this.tell(this.words.offline);
    } finally {
      this.asking = false;
    }
    this.again(id === this.id ? wait : 0);
  }

  async askRun(id) {
    const { quantity, range, run } = this;
    const known = run && run.quantity === quantity && run.low === range[0] && run.high === range[1];
    const query = new URLSearchParams({
      since: known ? run.steps : 0, stride: known ? run.stride : 0, quantity, low: range[0], high: range[1],
    });
    const reply = await this.get(`api/runs/${encodeURIComponent(id)}?${query}`);
    if (id !== this.id || this.destroyed) return 0;
    if (reply.status === 404) return this.lost();
    if (!reply.ok) {
      this.tell(await reply.text());
      return 3000;
    }
    const message = new Message(await reply.arrayBuffer());
    const grown = message.header.steps !== run?.steps || message.header.first === 0;
    if (id !== this.id || this.destroyed || quantity !== this.quantity || range !== this.range) return 0;
    if (!this.take(message)) return 0;
    const { live, steps } = this.run;
    this.seenLive ||= live;
    // The page's buttons belong to the status it was drawn with; a pause takes effect steps later, or another reader asked for it.
    // It is told again if the page has not followed: of a pause, a resumption and a pause the polls may have seen two pauses only.
    const { status } = this.run, { told } = this;
    if (!live || status === this.component.data.status) this.told = null;
    else if (told?.status !== status || performance.now() > told.again) { // ever more seldom: a slow server must not be asked faster
      const wait = told?.status === status ? Math.min(30000, 2 * told.wait) : 2000;
      this.told = { status, wait, again: performance.now() + wait };
      this.component.setTriggerValue("done", id);
    }
    this.tell(steps ? "" : live ? this.words.no_point : "");
    if (grown || !live) this.redraw();
    else this.redraw("figures"); // a run that waits or pauses: the charts stand
    if (!live) {
      this.ended = true;
      if (this.seenLive) this.component.setTriggerValue("done", id);
      this.seenLive = false;
    }
    // Often at first; seldom where drawing is slow, so that a page never takes more than a fifth of a busy machine.
    const fresh = performance.now() - this.opened < 10000;
    const wanted = fresh && this.run.status === "running" && !steps ? 100 : fresh ? 300 : 1000;
    return Math.min(3000, Math.max(wanted, 4 * Number(this.root.dataset.drawMs ?? 0)));
  }

  lost() {
    this.tell(this.words.lost);
    this.root.dataset.status = "lost";
    this.component.setTriggerValue("lost", this.id);
    return 3000;
  }

  // Adds the new columns. False: they do not fit to what is here, ask for everything.
  take(message) {
    const { header } = message;
    const sent = header.columns - header.first;
    let { run } = this;
    if (header.first > 0 && (!run || run.created !== header.created || header.first > run.codes.length)) {
      this.run = null;
      return false;
    }
    const loss = message.take(Float32Array, sent), accuracy = message.take(Float32Array, sent);
    const newest = message.take(Float32Array, header.columns ? header.rows : 0);
    const testSteps = message.take(Int32Array, header.tests), tests = message.take(Float32Array, header.tests);
    const codes = message.take(Uint8Array, sent * header.rows);
    if (header.first === 0) {
      if (run && run.created !== header.created) this.forget();
      run = { losses: [], accuracies: [], tested: [], codes: [] };
    }
    const { tests: _, ...rest } = header;
    Object.assign(run, rest); // names and title come with the first answer only, and stay
    run.losses = [...run.losses.slice(0, header.first), ...loss];
    run.accuracies = [...run.accuracies.slice(0, header.first), ...accuracy];
    run.tested = run.tested.filter(([step]) => step < header.first * header.stride);
    testSteps.forEach((step, i) => run.tested.push([step, tests[i]]));
    run.codes.length = header.first;
    for (let column = 0; column < sent; column++) run.codes.push(codes.subarray(column * header.rows, (column + 1) * header.rows));
    run.newest = newest;
    this.paintFrom = Math.min(this.paintFrom ?? Infinity, header.first);
    const first = !this.run;
    this.run = run;
    if (first) this.keepLayer(null);
    Object.assign(this.root.dataset, {
      status: header.status, steps: header.steps, columns: run.codes.length, quantity: header.quantity, stride: header.stride,
      firstGradient: header.first_gradient, lastGradient: header.last_gradient, verdict: header.verdict,
      updates: Number(this.root.dataset.updates ?? 0) + 1,
    });
    this.askReference();
    return true;
  }

  async askReference() {
    const { run } = this;
    if (this.reference || !run.steps || this.referenceAsked === run.created) return;
    this.referenceAsked = run.created;
    const column = await this.askExact(0);
    if (column && this.run?.created === run.created) {
      this.reference = column;
      this.redraw("profile");
    }
  }

  // The exact numbers of the column that holds a step, or null.
  async askExact(step) {
    const { id, run } = this;
    const first = step - (step % run.stride);
    const known = this.exact.get(first);
    if (known && known.stride === run.stride) return known;
    const reply = await this.get(`api/runs/${encodeURIComponent(id)}/profile?step=${step}`);
    if (!reply.ok || id !== this.id) return null;
    const message = new Message(await reply.arrayBuffer());
    const { header } = message;
    const column = { ...header, values: {} };
    for (const quantity of header.quantities) column.values[quantity] = message.take(Float32Array, header.layers);
    const complete = header.to_step - header.from_step + 1 === header.stride;
    if (complete) this.exact.set(header.from_step, column); // else it may still grow
    if (this.exact.size > 60) this.exact.delete(this.exact.keys().next().value);
    return column;
  }

  async askPreview(id) {
    const reply = await this.get(`api/previews/${encodeURIComponent(id)}`);
    if (id !== this.id || this.destroyed) return 0;
    if (reply.status === 404) return this.lost();
    if (reply.status === 202) {
      this.tell(this.words.measuring);
      return 0;
    }
    if (!reply.ok) {
      this.tell(await reply.text());
      this.root.dataset.status = "failed-preview";
      this.ended = true;
      return 0;
    }
    const message = new Message(await reply.arrayBuffer());
    if (id !== this.id || this.destroyed) return 0;
    const { header } = message;
    const values = {};
    for (const quantity of header.quantities) values[quantity] = message.take(Float32Array, header.layers);
    this.preview = { ...header, values };
    this.ended = true;
    this.tell("");
    this.charts.preview.frame.classList.remove("gv-waiting");
    Object.assign(this.root.dataset, {
      status: "ready", firstGradient: header.first_gradient, lastGradient: header.last_gradient, layers: header.layers, measured: id,
    });
    this.redraw();
    return 0;
  }

  // -- Drawing --

  // Draws the named charts, or all, once before the next picture of the screen.
  redraw(...names) {
    for (const name of names.length ? names : Object.keys(this.charts)) this.stale.add(name);
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      if (this.destroyed) return;
      const started = performance.now();
      if (this.mode === "live") this.drawRun();
      else this.drawPreview();
      this.stale.clear();
      if (this.Plotly) this.root.dataset.drawMs = Math.round(performance.now() - started);
    });
  }

  showFigures(pairs) {
    const { words } = this;
    const text = JSON.stringify(pairs);
    if (this.figuresShown === text) return;
    this.figuresShown = text;
    this.figures.replaceChildren(...pairs.map(([name, value]) => {
      const figure = make("div", name === "device" ? "gv-figure gv-long" : "gv-figure");
      figure.dataset.figure = name;
      make("b", "", figure, words[name]);
      make("span", "", figure, value);
      return figure;
    }));
  }

  drawRun() {
    const { run, words } = this;
    if (!run) {
      this.showFigures([]);
      this.progressText.textContent = "";
      this.bar.style.width = "0";
      this.state.textContent = "";
      return;
    }
    const time = (ms) => (ms === null ? "–" : fill(words.milliseconds, { n: decimal(ms, words) }));
    const figures = [
      ["step", fill(words.step_of, { step: Math.max(0, run.steps - 1), total: run.total - 1 })],
      ["loss", decimal(run.loss, words, 4)],
      ["accuracy", percent(run.accuracy, words)],
      ["first_gradient", this.gradient(run.first_gradient)],
      ["last_gradient", this.gradient(run.last_gradient)],
      ["ratio", run.steps ? decimal(run.ratio, words) : "–"],
      ["ms_per_step", time(run.ms_per_step)],
      ["device", run.device || "–"],
    ];
    if (run.test_accuracy !== null) figures.splice(3, 0, ["test_accuracy", percent(run.test_accuracy, words)]);
    this.showFigures(figures);
    this.bar.style.width = `${(100 * run.steps) / run.total}%`;
    const left = run.seconds_left === null || !run.steps ? "" : ` · ${fill(words.seconds_left, { time: duration(run.seconds_left, words) })}`;
    const place = run.place === null ? "" : ` · ${fill(words.place, { place: run.place })}`;
    const wait = run.wait === null ? "" : ` · ${fill(words.wait, { time: duration(run.wait, words) })}`;
    this.progressText.textContent = words.status[run.status] + left + place + wait;
    this.state.textContent = [run.sentence, run.sentence && run.status === "diverged" ? "" : run.message].filter(Boolean).join(" ");
    if (!run.steps) return;
    // The frame of steps grows by doubling, so that it rarely jumps and is never mostly empty.
    this.span = run.live ? Math.min(run.total, Math.max(32, 2 ** Math.ceil(Math.log2(run.steps * 1.02)))) : run.steps;
    if (this.stale.has("loss")) this.drawLoss();
    if (this.stale.has("accuracy")) this.drawAccuracy();
    if (this.stale.has("heatmap")) this.drawHeatmap();
    if (this.stale.has("profile")) this.drawProfile();
    if (this.Plotly) this.root.dataset.plots = "drawn";
  }

  gradient(value) {
    return value === 0 ? this.words.exact_zero : decimal(value, this.words);
  }

  stepAxis() {
    return { title: { text: this.words.step_axis }, range: [-0.5, Math.max(this.span, 2) - 0.5], showgrid: false, ...(this.span < 8 ? { dtick: 1 } : {}) };
  }

  // The middle of each column's steps.
  columnSteps() {
    const { run } = this;
    return run.codes.map((_, c) => (c * run.stride + Math.min((c + 1) * run.stride, run.steps) - 1) / 2);
  }

  // A red cross at the top edge, on an axis of its own, wherever the series is not finite.
  crosses(x, series) {
    const at = x.filter((_, i) => !Number.isFinite(series[i]));
    const text = Array.from(series).filter((value) => !Number.isFinite(value)).map((value) => decimal(value, this.words));
    return {
      x: at, y: at.map(() => 0.97), yaxis: "y2", mode: "markers", name: this.words.not_finite, text, showlegend: at.length > 0, cliponaxis: false,
      marker: { symbol: "x", size: 8, color: MARKS.not_finite }, hovertemplate: "%{x}: %{text}<extra></extra>",
    };
  }

  drawLoss() {
    const { run, words, look } = this;
    const x = this.columnSteps(), y = run.losses;
    const finite = y.filter((value) => Number.isFinite(value) && value > 0);
    const log = Math.max(0, ...finite) > 50;
    const highest = Math.max(2.6, ...finite);
    const lowest = Math.min(2.3, ...finite);
    const range = log ? [Math.floor(Math.log10(Math.max(lowest, 1e-6))), Math.ceil(Math.log10(highest) + 0.2)] : [0, highest * 1.06];
    const chart = this.charts.loss;
    chart.say(words.loss_title, words.loss_read);
    chart.draw([
      { x: [-0.5, run.total], y: [Math.LN10, Math.LN10], mode: "lines", name: words.chance, line: { dash: "dash", width: 1.5, color: look.faint }, hoverinfo: "skip" },
      { x, y: y.map((v) => (Number.isFinite(v) ? v : null)), mode: run.codes.length < 40 ? "lines+markers" : "lines", name: words.train,
        line: { color: look.first, width: 1.8 }, marker: { size: 5 }, hovertemplate: "%{x:.0f}: %{y:.4g}<extra></extra>" },
      this.crosses(x, y),
    ], {
      xaxis: this.stepAxis(),
      yaxis: { title: { text: log ? words.loss_axis_log : words.loss_axis }, type: log ? "log" : "linear", range, ...(log ? { exponentformat: "power", dtick: Math.max(1, Math.ceil((range[1] - range[0]) / 5)) } : {}),
        meaning: log },
      yaxis2: { overlaying: "y", range: [0, 1], visible: false, fixedrange: true },
      hovermode: "x",
    }, 250);
  }

  drawAccuracy() {
    const { run, words, look } = this;
    const x = this.columnSteps();
    const chart = this.charts.accuracy;
    chart.say(words.accuracy_title, words.accuracy_read);
    const hundred = (value) => (Number.isFinite(value) ? 100 * value : null);
    chart.draw([
      { x: [-0.5, run.total], y: [10, 10], mode: "lines", name: words.chance, line: { dash: "dash", width: 1.5, color: look.faint }, hoverinfo: "skip" },
      { x, y: run.accuracies.map(hundred), mode: run.codes.length < 40 ? "lines+markers" : "lines", name: words.train,
        line: { color: look.first, width: 1.3 }, marker: { size: 4 }, hovertemplate: "%{x:.0f}: %{y:.1f} %<extra></extra>" },
      { x: run.tested.map(([step]) => step), y: run.tested.map(([, value]) => hundred(value)), mode: run.tested.length < 40 ? "lines+markers" : "lines", name: words.test,
        line: { color: look.second, width: 2.4 }, marker: { size: 7, symbol: "diamond" }, hovertemplate: "%{x}: %{y:.1f} %<extra></extra>" },
    ], {
      xaxis: this.stepAxis(),
      yaxis: { title: { text: words.accuracy_axis }, range: [0, 102], dtick: 25 },
      hovermode: "x",
    }, 250);
  }

  // -- The heatmap: one pixel per cell on a canvas that Plotly stretches under its axes --

  prepareHeatmap() {
    const chart = this.charts.heatmap;
    this.canvas = document.createElement("canvas");
    const select = (name) => {
      const label = make("label", "", chart.controls);
      const caption = make("span", "", label);
      const element = make("select", "", label);
      element.name = name;
      return { caption, element };
    };
    this.quantitySelect = select("quantity");
    this.rangeSelect = select("range");
    this.layerSelect = select("layer"); // the keyboard's way to a row
    this.link = make("a", "gv-open", chart.controls);
    this.layerSelect.element.addEventListener("change", (event) => this.keepLayer(event.target.value === "" ? null : Number(event.target.value)));
    this.quantitySelect.element.addEventListener("change", (event) => {
      this.quantity = event.target.value;
      this.range = this.component.data.ranges[this.quantity][0];
      this.choose();
    });
    this.rangeSelect.element.addEventListener("change", (event) => {
      this.range = this.component.data.ranges[this.quantity][Number(event.target.value)];
      this.choose();
    });
    this.tip = make("div", "gv-tip", chart.frame);
    this.line = make("div", "gv-line", chart.frame);
    this.row = make("div", "gv-line gv-row", chart.frame);
    chart.frame.addEventListener("pointermove", (event) => this.point(event), true);
    chart.frame.addEventListener("pointerleave", () => this.point(null));
    chart.frame.addEventListener("pointerdown", (down) => {
      // On the window: Plotly covers the page while a button is down. A click is a drag that goes nowhere.
      addEventListener("pointerup", (up) => {
        if (Math.hypot(up.clientX - down.clientX, up.clientY - down.clientY) < 4) this.pin(up);
      }, { capture: true, once: true });
    }, true);
  }

  choose() {
    this.fillSelects();
    this.ended = false; // an ended run is asked once more, for this quantity
    this.poll();
  }

  fillSelects() {
    const { words, quantitySelect, rangeSelect } = this;
    const { ranges } = this.component.data;
    quantitySelect.caption.textContent = words.quantity;
    rangeSelect.caption.textContent = words.range;
    quantitySelect.element.replaceChildren(...Object.keys(ranges).map((name) => new Option(words.quantities[name].label, name, false, name === this.quantity)));
    const text = ([low, high]) => (this.linear() ? words.percent_range : `10${superscript(low)} … 10${superscript(high)}`);
    rangeSelect.element.replaceChildren(...ranges[this.quantity].map((range, i) => new Option(text(range), i, false, range === this.range)));
  }

  // Keeps a layer, by its place, or none: its row is marked here and in the profile, and a link leads to its anatomy.
  keepLayer(layer) {
    const { run, words, link } = this;
    this.layer = layer;
    const select = this.layerSelect.element;
    if (run && select.options.length !== run.layers + 1) {
      this.layerSelect.caption.textContent = words.layer;
      select.replaceChildren(new Option(words.no_layer, ""), ...run.names.map((name, i) => new Option(name, i)));
    }
    select.value = layer ?? "";
    link.style.visibility = layer === null ? "hidden" : ""; // its room stays free, so that the picture stays where it is
    this.root.dataset.layer = layer === null ? "" : run.names[layer];
    if (layer !== null) {
      const query = new URLSearchParams({ run: this.id, layer: run.names[layer], view: "layer" });
      if (this.pinned !== null) query.set("step", this.pinned);
      link.href = new URL(`anatomy?${query}`, document.baseURI).href;
    }
    if (run) link.textContent = fill(words.open_layer, { layer: run.names[layer ?? run.layers - 1] });
    this.placeLine();
    this.redraw("profile");
  }

  linear(quantity = this.quantity) {
    return this.component.data.linear.includes(quantity);
  }

  paint() {
    const { run, canvas } = this;
    const columns = Math.max(Math.ceil(this.span / run.stride), run.codes.length);
    let from = this.paintFrom ?? run.codes.length;
    if (canvas.width !== columns || canvas.height !== run.rows) {
      canvas.width = columns; // clears it
      canvas.height = run.rows;
      from = 0;
    } else if (from === 0) canvas.getContext("2d").clearRect(0, 0, columns, run.rows);
    const count = run.codes.length - from;
    if (count > 0 || !this.picture) {
      if (count > 0) {
        const image = new ImageData(count, run.rows);
        const pixels = new Uint32Array(image.data.buffer);
        for (let c = 0; c < count; c++) {
          const codes = run.codes[from + c];
          for (let row = 0; row < run.rows; row++) pixels[row * count + c] = PALETTE[codes[row]];
        }
        canvas.getContext("2d").putImageData(image, from, 0);
      }
      this.picture = canvas.toDataURL();
    }
    this.paintFrom = undefined;
    this.root.dataset.painted = run.codes.length;
  }

  layerTicks(low, high, pixels) {
    const { names } = this.run ?? this.preview;
    const last = names.length - 1;
    [low, high] = [Math.max(0, Math.ceil(Math.min(low, high))), Math.min(last, Math.floor(Math.max(low, high)))];
    const gap = 15 / (pixels / Math.max(1, high - low + 1)); // layers that one label needs
    const steps = [1, 2, 4, 10, 20, 40, 100, 200, 400, 1000, 2000];
    const step = steps.find((size) => size >= gap) ?? 2000;
    const near = (a, b) => Math.abs(a - b) < gap;
    const ticks = [];
    for (const end of [0, last]) if (end >= low && end <= high) ticks.push(end);
    for (let i = Math.max(low, 1); i <= Math.min(high, last - 1); i++) {
      const regular = step === 1 || (i >= 2 && i <= last - 3 && (i - 2) % step === 0);
      if (regular && !ticks.some((tick) => near(tick, i))) ticks.push(i);
    }
    ticks.sort((a, b) => a - b);
    return { tickvals: ticks, ticktext: ticks.map((i) => (step > 1 ? names[i].replace(".conv1", "") : names[i])) };
  }

  layerAxis(chart, pixels, name = "yaxis") {
    const { run } = this;
    const ends = [-0.5, run.layers - 0.5];
    const shown = chart.range(name, "", ends);
    const ticks = this.layerTicks(shown[0], shown[1], pixels);
    return { range: ends, tickmode: "array", ...ticks, showgrid: false, title: { text: this.words.layer_axis_up } };
  }

  labelWidth(ticks) {
    return 34 + 6.3 * Math.max(...ticks.map((text) => text.length));
  }

  drawHeatmap() {
    const { run, words, look } = this;
    const chart = this.charts.heatmap;
    const column = run.stride > 1 ? fill(words.columns_of, { stride: run.stride }) : words.column_one;
    const read = `${column} ${words.heatmap_read}`;
    chart.say(words.heatmap_title, run.rows < run.layers ? `${read} ${fill(words.pooled_read, { n: Math.round(run.layers / run.rows) })}` : read);
    chart.meaning.textContent = words.quantities[run.quantity].meaning;
    this.paint();
    const linear = this.linear(run.quantity), { low, high } = run;
    const decades = [1, 2, 3, 5, 10, 15, 20].find((n) => n >= (high - low) / 6) ?? 20;
    const tickvals = [];
    if (linear) tickvals.push(0, 0.25, 0.5, 0.75, 1);
    else for (let e = Math.ceil(low / decades) * decades; e <= high; e += decades) tickvals.push(e);
    const marks = linear ? ["not_finite"] : Object.keys(MARKS);
    const plot = HEIGHT - HEAT_TOP - HEAT_BOTTOM, share = 1 - SCALE_HEIGHT / plot;
    const bin = run.layers / run.rows;
    const axis = this.layerAxis(chart, plot * share);
    const width = (high - low) / LEVELS;
    chart.draw([
      { type: "image", source: this.picture, x0: (run.stride - 1) / 2, dx: run.stride, y0: (bin - 1) / 2, dy: bin, hoverinfo: "skip", zsmooth: false },
      // The colour scale is a plot of its own: Plotly's colour bar moves the axes and their titles about.
      { type: "heatmap", z: [Array.from({ length: LEVELS }, (_, level) => level)], x0: low + width / 2, dx: width, y0: 0, dy: 1, xaxis: "x2", yaxis: "y2",
        colorscale: SCALE, showscale: false, hoverinfo: "skip" },
    ], {
      showlegend: false,
      plot_bgcolor: look.empty,
      margin: { l: this.labelWidth(axis.ticktext), r: 14, t: HEAT_TOP, b: HEAT_BOTTOM },
      annotations: [this.markLegend(marks)],
      xaxis: { ...this.stepAxis(), constrain: "range" },
      yaxis: { ...axis, scaleanchor: false, constrain: "range", domain: [0, share] },
      xaxis2: { anchor: "y2", side: "top", range: [low, high], tickvals, ticktext: tickvals.map((v) => (linear ? `${100 * v} %` : power(v))),
        showgrid: false, fixedrange: true, title: { text: words.units[run.quantity], standoff: 2, font: { size: 12 } }, meaning: low },
      yaxis2: { anchor: "x2", domain: [1 - 12 / plot, 1], range: [-0.5, 0.5], visible: false, fixedrange: true },
    }, HEIGHT);
    this.placeLine();
  }

  // The special marks in words, as text under the axis: Plotly's legend would move the plot when it wraps.
  markLegend(marks) {
    const { words, look } = this;
    const room = this.charts.heatmap.frame.clientWidth - 90;
    const lines = [""];
    let used = 0;
    for (const name of marks) {
      const white = name === "exact_zero" && !look.dark;
      const sign = `<span style="color:${white ? look.text : MARKS[name]};font-size:18px">${white ? "□" : "■"}</span> ${words[name]}`;
      const width = 6.2 * words[name].length + 34;
      if (used && used + width > room) {
        lines.push("");
        used = 0;
      }
      lines[lines.length - 1] += (used ? "    " : "") + sign.replaceAll(" ", "\u00a0");
      used += width;
    }
    return { text: lines.map((line) => line.replaceAll("span\u00a0", "span ")).join("<br>"), align: "left", showarrow: false, font: { size: 11.5 },
      xref: "paper", x: 0, xanchor: "left", yref: "paper", y: 0, yanchor: "top", yshift: -42 };
  }

  // Where the mouse is: the step, the layer, and pixels inside the plot; null outside of it.
  cell(event) {
    const { run } = this;
    const chart = this.charts.heatmap;
    const { xaxis, yaxis } = chart.plot._fullLayout ?? {};
    if (!event || !run || !yaxis) return null;
    const box = chart.plot.getBoundingClientRect();
    const x = event.clientX - box.left - xaxis._offset, y = event.clientY - box.top - yaxis._offset;
    if (x < 0 || y < 0 || x > xaxis._length || y > yaxis._length) return null;
    const step = Math.round(xaxis.p2d(x)), layer = Math.round(yaxis.p2d(y));
    if (step < 0 || step >= run.steps || layer < 0 || layer >= run.layers) return null;
    let row = Math.floor((layer * run.rows) / run.layers);
    while (row + 1 < run.rows && firstLayer(row + 1, run.layers, run.rows) <= layer) row++;
    return { step, layer, row, column: Math.floor(step / run.stride), x: event.clientX - box.left, y: event.clientY - box.top };
  }

  point(event) {
    const cell = this.cell(event);
    this.pointed = cell;
    const step = cell ? cell.step - (cell.step % this.run.stride) : null;
    if (step !== this.hovered) {
      this.hovered = step;
      this.placeLine();
      this.showExact(step);
    }
    this.showTip();
  }

  showTip() {
    const { pointed: cell, tip, run, words } = this;
    if (!cell || !run || cell.column >= run.codes.length) {
      tip.style.display = "none";
      return;
    }
    const exact = this.shown && this.shown.from_step === cell.column * run.stride ? this.shown.values[run.quantity]?.[cell.layer] : undefined;
    const value = exact === undefined ? this.nearly(run.codes[cell.column][cell.row]) : this.named(exact);
    const next = firstLayer(cell.row + 1, run.layers, run.rows);
    const pooled = exact === undefined && next - firstLayer(cell.row, run.layers, run.rows) > 1;
    const layer = pooled
      ? fill(words.largest_of, { from: run.names[firstLayer(cell.row, run.layers, run.rows)], to: run.names[next - 1] })
      : run.names[cell.layer];
    tip.replaceChildren(make("b", "", null, layer), make("br"), document.createTextNode(`${this.stepText(cell.column * run.stride)}: ${value}`));
    tip.style.display = "block";
    const frame = this.charts.heatmap.frame;
    tip.style.left = `${Math.max(0, Math.min(cell.x + 14, frame.clientWidth - tip.offsetWidth))}px`;
    tip.style.top = `${Math.max(0, cell.y - tip.offsetHeight - 10)}px`;
    this.root.dataset.tip = `${layer} ${value}`;
  }

  named(x) {
    const { words } = this;
    if (this.linear(this.run.quantity)) return percent(x, words);
    if (x === 0) return words.exact_zero;
    return x < SMALLEST_NORMAL ? `${decimal(x, words)}, ${words.denormal}` : decimal(x, words);
  }

  nearly(code) {
    const { words, run } = this;
    const names = { [ZERO]: words.exact_zero, [BELOW]: words.below, [ABOVE]: words.above, [DENORMAL]: words.denormal, [INFINITE]: words.infinite, [NOT_A_NUMBER]: words.not_a_number };
    if (code in names) return names[code];
    const place = run.low + ((code - FIRST_LEVEL + 0.5) * (run.high - run.low)) / LEVELS;
    return `≈ ${this.linear(run.quantity) ? percent(place, words) : decimal(10 ** place, words)}`;
  }

  stepText(first) {
    const { run, words } = this;
    const last = Math.min(first + run.stride, run.steps) - 1;
    return last > first ? fill(words.hovered_steps, { from: first, to: last }) : fill(words.hovered, { step: first });
  }

  pin(event) {
    const cell = this.cell(event);
    if (!cell) return;
    const step = cell.step - (cell.step % this.run.stride);
    const again = this.pinned === step && this.layer === cell.layer;
    this.pinned = again ? null : step;
    this.root.dataset.pinned = this.pinned ?? "";
    this.keepLayer(again ? null : cell.layer);
    this.showExact(step);
  }

  // Fetches the column under the mouse, else the kept one, one request at a time; the profile and the label follow.
  async showExact() {
    if (this.fetching) return;
    this.fetching = true;
    try {
      for (;;) {
        const step = this.hovered ?? this.pinned;
        if (step === null || !this.run) {
          this.shown = null;
          break;
        }
        const column = await this.askExact(step).catch(() => null);
        if (!this.run) break;
        if (step === (this.hovered ?? this.pinned)) {
          this.shown = column;
          break;
        }
      }
    } finally {
      this.fetching = false;
    }
    this.showTip();
    this.redraw("profile");
  }

  placeLine() {
    const { line, row, run } = this;
    const { xaxis, yaxis } = this.charts.heatmap.plot._fullLayout ?? {};
    row.style.display = "none";
    if (yaxis && run && this.layer !== null) {
      const [top, bottom] = [0.5, -0.5].map((half) => Math.max(0, Math.min(yaxis._length, yaxis.d2p(this.layer + half))));
      Object.assign(row.style, {
        left: `${xaxis._offset}px`, top: `${yaxis._offset + top}px`, width: `${xaxis._length}px`, height: `${bottom - top}px`,
        display: bottom > top ? "block" : "none",
      });
    }
    const step = this.hovered ?? this.pinned;
    const x = yaxis && run && step !== null ? xaxis.d2p(step + (run.stride - 1) / 2) : -1;
    line.style.display = x >= 0 && x <= xaxis?._length ? "block" : "none";
    if (line.style.display === "none") return;
    Object.assign(line.style, {
      left: `${xaxis._offset + x - 0.75}px`, top: `${yaxis._offset}px`, height: `${yaxis._length}px`, borderLeftStyle: step === this.pinned ? "solid" : "dashed",
    });
  }

  // -- Profiles over depth --

  // Plotly traces of one series over depth: line and dots where it is a number, marks at the edges where it is 0 or not finite.
  // up: layers run up the y axis (beside the heatmap), else along the x axis.
  depthTraces(places, values, { name, color, edges, linear, up, dash, faint, names }) {
    const { words } = this;
    const numbers = Array.from(values, (v) => (Number.isFinite(v) && (linear || v > 0) ? v : null));
    const put = (where, what) => (up ? { x: what, y: where } : { x: where, y: what });
    const label = (i) => `${names[Math.round(places[i])] ?? ""}: ${this.namedValue(values[i], linear)}`;
    const traces = [{
      ...put(places, numbers), name, mode: faint || places.length > 250 ? "lines" : "lines+markers", connectgaps: false, showlegend: true,
      line: { color, width: faint ? 1.2 : 1.8, dash }, marker: { size: places.length > 130 ? 3 : 5.5, color }, text: Array.from(values, (_, i) => label(i)),
      hovertemplate: "%{text}<extra></extra>", ...(faint ? { hoverinfo: "skip", hovertemplate: undefined } : {}),
    }];
    if (faint) return traces;
    const rug = (wanted, edge, marker, text) => {
      const at = [...places.keys()].filter((i) => wanted(values[i]));
      if (!at.length) return;
      traces.push({ ...put(at.map((i) => places[i]), at.map(() => edge)), name: text, mode: "markers", cliponaxis: false, showlegend: true, marker,
        text: at.map(label), hovertemplate: "%{text}<extra></extra>" });
    };
    if (!linear) rug((v) => v === 0, edges[0], { symbol: up ? "triangle-left-open" : "triangle-down-open", size: 9, color, line: { width: 1.5 } }, words.exact_zero);
    rug((v) => !Number.isFinite(v), edges[1], { symbol: "x", size: 8, color: MARKS.not_finite }, words.not_finite);
    return traces;
  }

  // Traces of what theory predicts at initialisation, log10 per layer: a dotted line, and where the scatter of one draw is
  // known the band of two standard deviations; both under one name, since the legend has little room.
  theoryTraces(theory, quantity, up, color) {
    const predicted = theory?.[quantity];
    if (!predicted) return [];
    const every = Math.ceil(predicted.length / 500);
    const places = [...predicted.keys()].filter((i) => i % every === 0 && predicted[i] !== null);
    const line = (shift, rest) => {
      const values = places.map((i) => 10 ** Math.max(-300, Math.min(300, predicted[i] + shift * theory.std[i])));
      return { ...(up ? { x: values, y: places } : { x: places, y: values }), mode: "lines", hoverinfo: "skip", ...rest };
    };
    const edge = { showlegend: false, line: { width: 0 } };
    const band = quantity !== "weight_grad_rms" ? [] : [
      line(-2, edge),
      line(2, { ...edge, fill: up ? "tonextx" : "tonexty", fillcolor: `${color}30` }),
    ];
    return [...band, line(0, { name: band.length ? this.words.theory_band : this.words.theory, line: { color, width: 1.6, dash: "dot" }, showlegend: true })];
  }

  namedValue(x, linear) {
    if (linear) return percent(x, this.words);
    return x === 0 ? this.words.exact_zero : decimal(x, this.words);
  }

  // Whole decades that hold the given range and every finite value.
  decades(low, high, ...series) {
    for (const values of series) {
      for (const v of values) {
        if (v > 0 && Number.isFinite(v)) {
          low = Math.min(low, Math.floor(Math.log10(v)));
          high = Math.max(high, Math.ceil(Math.log10(v)));
        }
      }
    }
    return [low, high];
  }

  valueAxis(chart, name, range, linear, title, ticks) {
    if (linear) return { title: { text: title }, range: [-0.02, 1.02], tickformat: ".0%", meaning: title };
    const shown = chart.range(name, title, range);
    const decades = Math.abs(shown[1] - shown[0]);
    const dtick = decades > 2 ? { dtick: Math.ceil(decades / ticks) } : {};
    return { title: { text: title }, type: "log", range, exponentformat: "power", minorloglabels: "none", tickangle: 0, meaning: title, ...dtick };
  }

  drawProfile() {
    const { run, words, look, reference } = this;
    const chart = this.charts.profile;
    const linear = this.linear(run.quantity);
    const exact = (this.hovered ?? this.pinned) !== null && this.shown?.stride === run.stride ? this.shown : null;
    const values = exact ? exact.values[run.quantity] : run.newest;
    const all = [...run.names.keys()];
    const places = exact || run.rows === run.layers ? all
      : Array.from({ length: run.rows }, (_, row) => (firstLayer(row, run.layers, run.rows) + firstLayer(row + 1, run.layers, run.rows) - 1) / 2);
    let when = exact ? this.stepText(exact.from_step) : fill(words.newest, { step: run.steps - 1 });
    if (exact && exact.from_step === this.pinned) when = fill(words.pinned, { text: when });
    chart.say(words.profile_title, linear ? words.profile_read_linear : words.profile_read);
    chart.meaning.textContent = when;
    const start = reference?.values[run.quantity];
    const range = linear ? [0, 1] : this.decades(run.low, run.high, values, start ?? []);
    const edges = linear ? [0, 1] : range.map((e) => 10 ** e);
    // The rows of the heatmap go on in the profile beside it.
    const beside = this.charts.heatmap.box.offsetTop === chart.box.offsetTop; // then its rows go on here
    const top = beside ? HEAT_TOP + SCALE_HEIGHT : 40, bottom = beside ? HEAT_BOTTOM : 60, height = beside ? HEIGHT : 440;
    const axis = this.layerAxis(chart, height - top - bottom);
    const traces = this.depthTraces(places, values, { name: words.quantities[run.quantity].label, color: look.first, edges, linear, up: true, names: run.names });
    if (start && run.steps > 1) {
      const name = reference.to_step > 0 ? fill(words.hovered_steps, { from: 0, to: reference.to_step }) : fill(words.hovered, { step: 0 });
      const every = Math.ceil(all.length / 500); // a faint line needs no more points
      const thin = (list) => Array.from(list).filter((_, i) => i % every === 0);
      traces.unshift(...this.depthTraces(thin(all), thin(start), { name, color: look.faint, edges, linear, up: true, dash: "dot", faint: true, names: run.names }));
    }
    traces.unshift(...this.theoryTraces(reference?.theory, run.quantity, true, look.second));
    chart.draw(traces, {
      margin: { l: this.labelWidth(axis.ticktext), r: 16, t: top, b: bottom },
      xaxis: this.valueAxis(chart, "xaxis", range, linear, words.units[run.quantity].replace(" (", "<br>("), Math.max(2, Math.floor(chart.frame.clientWidth / 70))),
      yaxis: { ...axis, showgrid: true },
      shapes: this.layer === null ? [] : [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: this.layer, y1: this.layer, line: { color: look.text, width: 1.5 } }],
      legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom", font: { size: 11 }, bgcolor: "rgba(0,0,0,0)" },
    }, height);
  }

  drawPreview() {
    const { preview, words, look } = this;
    if (!preview) return;
    this.showFigures([
      ["loss", decimal(preview.loss, words, 4)],
      ["accuracy", percent(preview.accuracy, words)],
      ["first_gradient", this.gradient(preview.first_gradient)],
      ["last_gradient", this.gradient(preview.last_gradient)],
      ["ratio", decimal(preview.ratio, words)],
      ...(preview.ms_per_step === undefined ? [] : [["ms_per_step", fill(words.milliseconds, { n: decimal(preview.ms_per_step, words) })]]),
    ]);
    const chart = this.charts.preview;
    chart.say(words.preview_title, words.preview_read);
    const series = ["signal_rms", "weight_grad_rms"].map((name) => preview.values[name]);
    const range = this.decades(-24, 0, ...series);
    const edges = range.map((e) => 10 ** e);
    const names = preview.names, places = [...names.keys()];
    const width = chart.frame.clientWidth - 80;
    const wide = Math.max(...names.map((name) => name.length)) * 0.45;
    const ticks = this.layerTicks(0, names.length - 1, width / Math.max(1.3, wide / 5));
    chart.draw([
      ...this.theoryTraces(preview.theory, "weight_grad_rms", false, look.first),
      ...this.theoryTraces(preview.theory, "signal_rms", false, look.second).map((trace) => ({ ...trace, showlegend: false })),
      ...this.depthTraces(places, series[0], { name: words.quantities.signal_rms.label, color: look.second, edges, linear: false, up: false, names }),
      ...this.depthTraces(places, series[1], { name: words.quantities.weight_grad_rms.label, color: look.first, edges, linear: false, up: false, names }),
    ], {
      margin: { l: 64, r: 16, t: 34, b: 92 },
      xaxis: { range: [-0.5, names.length - 0.5], tickmode: "array", ...ticks, tickangle: -45, title: { text: words.layer_axis }, showgrid: false },
      yaxis: this.valueAxis(chart, "yaxis", range, false, words.preview_axis, 7),
    }, 380);
    if (this.Plotly) this.root.dataset.plots = "drawn";
  }
}
