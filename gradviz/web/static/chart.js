// A chart: a title, buttons, a Plotly plot, how to read it.

import { make, put } from "./look.js";
import { fill } from "./numbers.js";
import { openTable, rows, summary, tableButton } from "./said.js";

// Plotly, once for all elements of the page. It is asked for when an element mounts, long before the first point is there, and
// most often the page's head has asked already; what failed there has gone from it.
export function loadPlotly(url) {
  window.gradvizPlotly ??= new Promise((resolve, reject) => {
    const begun = document.getElementById("gradviz-plotly"), script = begun ?? make("script");
    script.addEventListener("load", () => resolve(window.Plotly));
    script.addEventListener("error", () => {
      window.gradvizPlotly = undefined;
      reject(new Error(url));
    });
    if (window.Plotly) resolve(window.Plotly);
    if (begun) return;
    script.src = new URL(url, document.baseURI).href;
    document.head.append(script);
  });
  return window.gradvizPlotly;
}

// For each label of an axis Plotly asks how large every one of them is, to hide what reaches past the picture: a fifth to a third
// of a drawing's time. Of a y axis none does, for every margin above and below is higher than half a line.
export const overflow = (name) => (name.startsWith("yaxis") ? { ticklabeloverflow: "allow" } : {});

let named = 0; // of all charts of the page, for ids
const COARSE = matchMedia("(pointer: coarse)").matches; // on a phone a drag scrolls the page

export class Chart {
  constructor(panel, name, parent) {
    this.panel = panel;
    this.name = name;
    this.zoom = {}; // axis name -> the range that the reader chose, and for which `meaning` of the axis
    this.box = make("figure", `gv-chart gv-${name}`, parent);
    this.head = make("div", "gv-head", this.box);
    this.title = make("h2", "", this.head);
    tableButton(this.head, panel.words, () => this.openTable());
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
    this.said = make("p", "gv-hidden", this.frame);
    for (const part of ["title", "said", "read"]) this[part].id = `gv-${part}-${name}-${++named}`;
    this.plot.role = "img";
    this.plot.setAttribute("aria-labelledby", this.title.id);
    this.plot.setAttribute("aria-describedby", this.said.id);
    this.frame.addEventListener("pointerenter", () => this.settle());
  }
  openTable() {
    put(this.said, this.inWords());
    openTable(this.box, this.title.textContent, this.said.textContent, this.inNumbers(), this.panel.words);
  }
  // What the picture shows now. Whose drawing does not say it by itself puts others in the place of these two.
  inWords() {
    return summary(this.given ?? [], this.panel.words, this.name === "profile");
  }
  inNumbers() {
    const { words } = this.panel;
    return [[words.line, words.point], ...rows(this.given ?? [])];
  }
  // A choice beside the plot.
  select(name) {
    const label = make("label", "", this.controls);
    const caption = make("span", "", label), element = make("select", "", label);
    element.name = name;
    return { caption, element };
  }
  say(title, read) {
    const { words } = this.panel;
    put(this.title, title);
    put(this.read, read);
    for (const button of this.head.querySelectorAll("[data-format]")) {
      put(button, words[button.dataset.format]);
      button.title = button.ariaLabel = fill(words.save, { format: words[button.dataset.format] });
    }
  }
  // The range of an axis now: the reader's, while the axis still means the same, else the given one. Plotly's own uirevision
  // would give the reader's zoom up as soon as the frame of steps grows.
  range(name, meaning, given) {
    const zoom = this.zoom[name];
    return zoom && zoom.meaning === `${this.panel.id} ${meaning ?? ""}` ? zoom.range : given;
  }
  // Looks where the page has put it: before anything is written, since every look after that has the page laid out once more.
  measure() {
    Object.assign(this, { width: Math.floor(this.box.clientWidth), top: this.box.offsetTop });
  }
  // data and layout are complete each time. Where only numbers differ, they are put into the drawing that stands there, a tenth
  // of the work of Plotly.react, which does the rest; it keeps hover and zoom.
  draw(data, layout, height) {
    const { panel: { Plotly, look }, width } = this;
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
      full[name] = { ...axis, ...overflow(name), ...given, range: [...this.range(name, meaning, given.range)], title: { ...axis.title, ...given.title } };
      meanings[name] = `${this.panel.id} ${meaning ?? ""}`;
    }
    this.given = data;
    put(this.said, this.inWords());
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
  // Closer to a cell of the heatmap by that factor, or all of it again.
  zoomAt(factor, { step, layer }) {
    const { xaxis, yaxis } = this.plot._fullLayout, middles = { xaxis: step, yaxis: layer };
    this.zoom = {};
    for (const [name, axis] of Object.entries({ xaxis, yaxis })) {
      const [from, to] = axis.range, half = ((to - from) * factor) / 2;
      if (Number.isFinite(factor)) this.zoom[name] = { meaning: this.meanings[name], range: [middles[name] - half, middles[name] + half] };
    }
    if (this.twin) this.twin.zoom = this.zoom.yaxis ? { yaxis: this.zoom.yaxis } : {};
    this.panel.redraw(this.name, ...(this.twin ? [this.twin.name] : []));
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
