// The heatmap: one pixel per cell on a canvas that Plotly stretches under its axes.

import { frameOf, stepAxis } from "./curves.js";
import { labelWidth, layerAxis, room } from "./depth.js";
import { ABSENT_COLOUR, MARKS, SCALE, paint, put } from "./look.js";
import { fill, measured, power, stepsText, superscript } from "./numbers.js";
import { heldCodes, isGroup, rowLabels } from "./rows.js";
import { turnMarks } from "./turns.js";
import { LEVELS, firstLayer } from "./wire.js";

const FIT = "fit";
export const HEIGHT = 500, HEAT_TOP = 56, HEAT_BOTTOM = 92, SCALE_HEIGHT = 22; // pixels of the heatmap and of the profile beside it

// The cells of a run as a picture, to which only new columns are painted.
export class Picture {
  constructor() {
    this.canvas = document.createElement("canvas");
    this.from = Infinity; // the first column that has changed since it was drawn
  }
  changed(column) {
    this.from = Math.min(this.from, column);
  }
  // Its URL, with room for so many columns at least.
  draw(run, room) {
    const { canvas } = this, { codes, rows } = run, columns = Math.max(room, codes.length);
    let from = Math.min(this.from, codes.length);
    if (canvas.width !== columns || canvas.height !== rows) {
      canvas.width = columns; // clears it
      canvas.height = rows;
      from = 0;
    } else if (from === 0) canvas.getContext("2d").clearRect(0, 0, columns, rows);
    if (from < codes.length || !this.url) {
      paint(canvas, heldCodes(run, from), from);
      this.url = canvas.toDataURL();
    }
    this.from = Infinity;
    return this.url;
  }
}

// The chart of it, with the choices of a quantity and its range.
export class Heatmap {
  constructor(panel, chart) {
    Object.assign(this, { panel, chart, picture: new Picture(), quantity: chart.select("quantity"), range: chart.select("range") });
    this.quantity.element.addEventListener("change", ({ target }) => this.choose(target.value, 0));
    this.range.element.addEventListener("change", ({ target }) => this.choose(panel.feed.quantity, target.value));
    chart.plot.ariaHidden = "true"; // the frame around it speaks
    Object.assign(chart, { inWords: () => this.inWords(), inNumbers: () => this.inNumbers() });
  }

  // [name of the row, its value at the first step or "–", at the newest]; where layers are pooled, their largest.
  values() {
    const { run, words, linear, feed: { reference } } = this.panel, start = reference?.values[run.quantity];
    const said = (value) => measured(value, linear, words);
    return Array.from(run.newest, (newest, row) => {
      const from = firstLayer(row, run.layers, run.rows), to = firstLayer(row + 1, run.layers, run.rows) - 1;
      const group = isGroup(run, from) && fill(words.largest_in, { layer: run.names[from], n: run.sizes[from] });
      const name = to > from ? fill(words.largest_of, { from: run.names[from], to: run.names[to] }) : group || run.names[from];
      return [name, start ? said(Math.max(...start.subarray(from, to + 1))) : "–", said(newest), newest];
    });
  }

  inWords() {
    const { run, words } = this.panel, values = this.values();
    const sorted = values.filter(([, , , newest]) => Number.isFinite(newest) && newest >= 0).sort((a, b) => a[3] - b[3]);
    const [first, last, low, high] = [values[0], values.at(-1), sorted[0], sorted.at(-1)].map((row) => (row ? `${row[0]}: ${row[2]}` : words.not_finite));
    return fill(words.line_said, { name: `${words.quantities[run.quantity].label}, ${fill(words.newest, { step: run.newest_step })}`, first, last, low, high });
  }

  inNumbers() {
    const { run, words, feed: { reference } } = this.panel;
    const start = stepsText(0, reference ? { stride: reference.stride, steps: run.steps } : run, words);
    return [[words.layer, start, fill(words.newest, { step: run.newest_step })], ...this.values().map((row) => row.slice(0, 3))];
  }

  // `place`: of the range among those that the quantity is offered, or "fit": the one that holds all that was measured.
  choose(quantity, place) {
    const { feed, component } = this.panel, { ranges, linear } = component.data;
    const fit = !linear.includes(quantity) && (place === FIT || (place === 0 && feed.fit));
    feed.want(quantity, fit ? [0, 0] : ranges[quantity][Number(place)], fit);
    this.fillSelects();
    feed.poll.now();
  }

  fillSelects() {
    const { words, feed, component } = this.panel, { quantity, range } = this, { ranges, linear } = component.data;
    quantity.caption.textContent = words.quantity;
    range.caption.textContent = words.range;
    quantity.element.replaceChildren(...Object.keys(ranges).map((name) => new Option(words.quantities[name].label, name, false, name === feed.quantity)));
    const text = ([low, high]) => (linear.includes(feed.quantity) ? words.percent_range : `10${superscript(low)} … 10${superscript(high)}`);
    range.element.replaceChildren(...ranges[feed.quantity].map((each, i) => new Option(text(each), i, false, !feed.fit && each === feed.range)));
    if (!linear.includes(feed.quantity)) range.element.append(new Option(words.fit, FIT, false, feed.fit));
  }

  draw({ run, words, look, linear, pointer }) {
    const { chart } = this;
    const column = run.stride > 1 ? fill(words.columns_of, { stride: run.stride }) : words.column_one;
    const read = [column, this.panel.feed.fit ? words.heatmap_read_fit : words.heatmap_read, words.keys_read];
    if (run.rows < run.layers) read.push(fill(words.pooled_read, { n: Math.round(run.layers / run.rows) }));
    if (run.sizes?.some((size) => size > 1)) read.push(words.folded_read);
    if (run.every > 1) read.push(words.held_read);
    chart.say(words.heatmap_title, read.join(" "));
    put(chart.meaning, words.quantities[run.quantity].meaning);
    const { low, high } = run, source = this.picture.draw(run, Math.ceil(frameOf(run) / run.stride));
    this.panel.root.dataset.painted = run.codes.length;
    const decades = [1, 2, 3, 5, 10, 15, 20].find((n) => n >= (high - low) / 6) ?? 20;
    const tickvals = [];
    if (linear) tickvals.push(0, 0.25, 0.5, 0.75, 1);
    else for (let e = Math.ceil(low / decades) * decades; e <= high; e += decades) tickvals.push(e);
    const marks = [...(linear ? ["not_finite"] : Object.keys(MARKS)), ...(run.every === null ? [] : ["not_measured"])];
    const plot = HEIGHT - HEAT_TOP - HEAT_BOTTOM, share = 1 - SCALE_HEIGHT / plot;
    const bin = run.layers / run.rows;
    const axis = layerAxis(chart, rowLabels(run, room(chart)), plot * share, words);
    const width = (high - low) / LEVELS, turned = turnMarks(run, look, "y domain");
    chart.draw([
      { type: "image", source, x0: (run.stride - 1) / 2, dx: run.stride, y0: (bin - 1) / 2, dy: bin, hoverinfo: "skip", zsmooth: false },
      // The colour scale is a plot of its own: Plotly's colour bar moves the axes and their titles about.
      { type: "heatmap", z: [Array.from({ length: LEVELS }, (_, level) => level)], x0: low + width / 2, dx: width, y0: 0, dy: 1, xaxis: "x2", yaxis: "y2",
        colorscale: SCALE, showscale: false, hoverinfo: "skip" },
    ], {
      showlegend: false,
      plot_bgcolor: look.empty,
      margin: { l: labelWidth(axis.ticktext), r: 14, t: HEAT_TOP, b: HEAT_BOTTOM },
      shapes: turned.shapes,
      annotations: [...turned.annotations, markLegend(marks, chart.width - 90, words, look)],
      xaxis: { ...stepAxis(run, words), constrain: "range" },
      yaxis: { ...axis, scaleanchor: false, constrain: "range", domain: [0, share] },
      xaxis2: { anchor: "y2", side: "top", range: [low, high], tickvals, ticktext: tickvals.map((v) => (linear ? `${100 * v} %` : power(v))),
        showgrid: false, fixedrange: true, title: { text: words.units[run.quantity], standoff: 2, font: { size: 12 } }, meaning: low },
      yaxis2: { anchor: "x2", domain: [1 - 12 / plot, 1], range: [-0.5, 0.5], visible: false, fixedrange: true },
    }, HEIGHT);
    chart.frame.ariaLabel = `${words.heatmap_title}. ${chart.said.textContent}`;
    pointer.placeLine();
  }
}

// The special marks in words, as text under the axis: Plotly's legend would move the plot when it wraps.
function markLegend(marks, room, words, look) {
  const lines = [""], size = 11.5, pen = document.createElement("canvas").getContext("2d");
  pen.font = `${size}px ${look.font}`; // a Chinese letter is as wide as two
  let used = 0;
  for (const name of marks) {
    const white = name === "exact_zero" && !look.dark;
    const sign = `<span style="color:${white ? look.text : (MARKS[name] ?? ABSENT_COLOUR)};font-size:18px">${white ? "□" : "■"}</span> ${words[name]}`;
    const width = pen.measureText(words[name]).width + 34;
    if (used && used + width > room) {
      lines.push("");
      used = 0;
    }
    lines[lines.length - 1] += (used ? "    " : "") + sign.replaceAll(" ", "\u00a0");
    used += width;
  }
  return { text: lines.map((line) => line.replaceAll("span\u00a0", "span ")).join("<br>"), align: "left", showarrow: false, font: { size },
    xref: "paper", x: 0, xanchor: "left", yref: "paper", y: 0, yanchor: "top", yshift: -42 };
}
