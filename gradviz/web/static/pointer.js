// Where the reader points in the heatmap: the cell's name and value, marks of its row and column, and its exact numbers.

import { Keys } from "./keys.js";
import { make } from "./look.js";
import { decimal, fill, measuredAtLength, percent, stepsText } from "./numbers.js";
import { heldColumn, isGroup, reasonOf } from "./rows.js";
import { ABOVE, ABSENT, BELOW, DENORMAL, FIRST_LEVEL, INFINITE, LEVELS, NOT_A_NUMBER, ZERO, firstLayer, rowOf } from "./wire.js";

export class Pointer {
  constructor(panel, chart) {
    Object.assign(this, { panel, chart, select: chart.select("layer") }); // the keyboard's way to a row
    this.forget();
    this.link = make("a", "gv-open", chart.controls);
    this.unfolding = make("button", "gv-open", chart.controls);
    this.folding = make("button", "gv-open", chart.controls);
    this.unfolding.type = this.folding.type = "button";
    this.unfolding.addEventListener("click", () => this.unfold(this.layer));
    this.folding.addEventListener("click", () => panel.feed.unfold([]));
    this.select.element.addEventListener("change", ({ target }) => this.keep(target.value === "" ? null : Number(target.value)));
    this.tip = make("div", "gv-tip", chart.frame);
    this.line = make("div", "gv-line", chart.frame);
    this.row = make("div", "gv-line gv-row", chart.frame);
    this.keys = new Keys(this);
    chart.frame.addEventListener("pointermove", (event) => this.point(event), true);
    chart.frame.addEventListener("pointerleave", () => this.point(null));
    chart.frame.addEventListener("pointerdown", (down) => {
      // On the window: Plotly covers the page while a button is down. A click is a drag that goes nowhere.
      addEventListener("pointerup", (up) => {
        if (Math.hypot(up.clientX - down.clientX, up.clientY - down.clientY) < 4) this.pin(up);
      }, { capture: true, once: true });
    }, true);
  }

  forget() {
    this.hovered = this.pinned = this.layer = null; // steps with which a column begins, and a layer's place
  }

  get step() {
    return this.hovered ?? this.pinned;
  }

  // The exact column of that step, or null.
  get exact() {
    return this.step !== null && this.shown?.stride === this.panel.run.stride ? this.shown : null;
  }

  // Keeps a layer, by its place, or none: its row is marked here and in the profile, and a link leads to its anatomy.
  keep(layer) {
    const { link, panel } = this, { run, words } = panel, select = this.select.element;
    this.layer = layer;
    if (run && (this.named !== run.names || this.said !== panel.lang)) {
      [this.named, this.said] = [run.names, panel.lang];
      this.select.caption.textContent = words.layer;
      select.replaceChildren(new Option(words.no_layer, ""), ...run.names.map((name, i) => new Option(name, i)));
    }
    select.value = layer ?? "";
    link.style.visibility = layer === null ? "hidden" : ""; // its room stays free, so that the picture stays where it is
    const group = run && layer !== null && isGroup(run, layer);
    const { home } = panel.component.data; // where the pages are; null in a file that does not know
    link.style.display = group || home === null ? "none" : "";
    this.unfolding.style.display = group ? "" : "none";
    this.folding.style.display = run?.opened?.length ? "" : "none";
    if (group) this.unfolding.textContent = fill(words.unfold, { layer: run.names[layer], n: run.sizes[layer] });
    this.folding.textContent = words.fold;
    this.panel.root.dataset.layer = layer === null ? "" : run.names[layer];
    if (layer !== null) {
      const query = new URLSearchParams({ run: panel.id, layer: run.names[layer], view: "layer" });
      if (this.pinned !== null) query.set("step", this.pinned);
      link.href = new URL(`anatomy?${query}`, home ?? document.baseURI).href;
    }
    if (run) link.textContent = fill(words.open_layer, { layer: run.names[layer ?? run.layers - 1] });
    this.placeLine();
    this.panel.redraw("profile");
  }

  // Shows each layer of a group, or fewer of them together.
  unfold(row) {
    const { feed, run } = this.panel;
    feed.unfold([...feed.unfolded, run.starts[row]]);
  }

  // Where the mouse is: the step, the layer, and pixels inside the plot; null outside of it.
  cell(event) {
    const { chart, panel: { run } } = this;
    const { xaxis, yaxis } = chart.plot._fullLayout ?? {};
    if (!event || !run || !yaxis) return null;
    const box = chart.plot.getBoundingClientRect();
    const x = event.clientX - box.left - xaxis._offset, y = event.clientY - box.top - yaxis._offset;
    if (x < 0 || y < 0 || x > xaxis._length || y > yaxis._length) return null;
    const step = Math.round(xaxis.p2d(x)), layer = Math.round(yaxis.p2d(y));
    if (step < 0 || step >= run.steps || layer < 0 || layer >= run.layers) return null;
    return { step, layer, row: rowOf(layer, run.layers, run.rows), column: Math.floor(step / run.stride), x: event.clientX - box.left, y: event.clientY - box.top };
  }

  point(event) {
    if (!this.byKey) this.go(this.cell(event));
  }

  // To a cell, or away from all.
  go(cell) {
    this.pointed = cell;
    const step = cell ? this.measuredStep(cell) : null;
    if (step !== this.hovered) {
      this.hovered = step;
      this.placeLine();
      this.showExact();
    }
    this.showTip();
  }

  // The first step of the column whose numbers stand at this cell.
  measuredStep({ column }) {
    return heldColumn(this.panel.run, column) * this.panel.run.stride;
  }

  showTip() {
    const { pointed: cell, tip, panel: { run, words, linear } } = this;
    if (!cell || !run || cell.column >= run.codes.length) {
      tip.style.display = "none";
      return;
    }
    const step = this.measuredStep(cell), column = step / run.stride;
    const exact = this.shown && this.shown.from_step === step ? this.shown.values[run.quantity]?.[cell.layer] : undefined;
    let value = exact === undefined ? nearly(run.codes[column][cell.row], run, linear, words) : measuredAtLength(exact, linear, words);
    if (run.codes[column][cell.row] === ABSENT && reasonOf(run, cell.row)) value += `: ${reasonOf(run, cell.row)}`;
    const next = firstLayer(cell.row + 1, run.layers, run.rows);
    const pooled = exact === undefined && next - firstLayer(cell.row, run.layers, run.rows) > 1;
    const layer = pooled
      ? fill(words.largest_of, { from: run.names[firstLayer(cell.row, run.layers, run.rows)], to: run.names[next - 1] })
      : isGroup(run, cell.layer) ? fill(words.largest_in, { layer: run.names[cell.layer], n: run.sizes[cell.layer] }) : run.names[cell.layer];
    const lines = [`${stepsText(step, run, words)}: ${value}`];
    if (column !== cell.column) lines.unshift(fill(words.not_measured_step, { step: stepsText(cell.column * run.stride, run, words) }));
    tip.replaceChildren(make("b", "", null, layer), ...lines.flatMap((line) => [make("br"), document.createTextNode(line)]));
    tip.style.display = "block";
    const { frame } = this.chart;
    tip.style.left = `${Math.max(0, Math.min(cell.x + 14, frame.clientWidth - tip.offsetWidth))}px`;
    tip.style.top = `${Math.max(0, cell.y - tip.offsetHeight - 10)}px`;
    this.panel.root.dataset.tip = `${layer} ${value}`;
    this.speak(`${layer}, ${stepsText(cell.column * run.stride, run, words)}: ${value}`);
  }

  // Once the reader's fingers rest and the exact number is there.
  speak(text) {
    clearTimeout(this.speaking);
    if (this.byKey) this.speaking = setTimeout(() => (this.fetching ? this.speak(text) : this.panel.voice.say(text)), 150);
  }

  pin(event) {
    const cell = this.cell(event);
    if (cell) this.keepCell(cell);
  }

  keepCell(cell) {
    if (isGroup(this.panel.run, cell.layer)) {
      this.unfold(cell.layer);
      return;
    }
    const step = this.measuredStep(cell);
    const again = this.pinned === step && this.layer === cell.layer;
    this.pinned = again ? null : step;
    this.panel.root.dataset.pinned = this.pinned ?? "";
    this.keep(again ? null : cell.layer);
    this.showExact();
  }

  // Fetches the column under the mouse, else the kept one, one request at a time; the profile and the label follow.
  async showExact() {
    if (this.fetching) return;
    this.fetching = true;
    try {
      for (;;) {
        const { step } = this;
        if (step === null || !this.panel.run) {
          this.shown = null;
          break;
        }
        const column = await this.panel.feed.askExact(step).catch(() => null);
        if (!this.panel.run) break;
        if (step === this.step) {
          this.shown = column;
          break;
        }
      }
    } finally {
      this.fetching = false;
    }
    this.showTip();
    this.panel.redraw("profile");
  }

  placeLine() {
    const { line, row, step, chart, panel: { run } } = this;
    const { xaxis, yaxis } = chart.plot._fullLayout ?? {};
    row.style.display = "none";
    if (yaxis && run && this.layer !== null) {
      const [top, bottom] = [0.5, -0.5].map((half) => Math.max(0, Math.min(yaxis._length, yaxis.d2p(this.layer + half))));
      Object.assign(row.style, {
        left: `${xaxis._offset}px`, top: `${yaxis._offset + top}px`, width: `${xaxis._length}px`, height: `${bottom - top}px`,
        display: bottom > top ? "block" : "none",
      });
    }
    const x = yaxis && run && step !== null ? xaxis.d2p(step + (run.stride - 1) / 2) : -1;
    line.style.display = x >= 0 && x <= xaxis?._length ? "block" : "none";
    if (line.style.display === "none") return;
    Object.assign(line.style, {
      left: `${xaxis._offset + x - 0.75}px`, top: `${yaxis._offset}px`, height: `${yaxis._length}px`, borderLeftStyle: step === this.pinned ? "solid" : "dashed",
    });
  }
}

// What a code says of a value.
function nearly(code, run, linear, words) {
  const names = { [ZERO]: words.exact_zero, [BELOW]: words.below, [ABOVE]: words.above, [ABSENT]: words.not_measured, [DENORMAL]: words.denormal, [INFINITE]: words.infinite, [NOT_A_NUMBER]: words.not_a_number };
  if (code in names) return names[code];
  const place = run.low + ((code - FIRST_LEVEL + 0.5) * (run.high - run.low)) / LEVELS;
  return `≈ ${linear ? percent(place, words) : decimal(10 ** place, words)}`;
}
