// The heatmap by keyboard: the arrows go from cell to cell, which is marked and said as under the mouse.

import { make } from "./look.js";
import { firstLayer } from "./wire.js";

const FAR = 10; // cells that a page, or an arrow with Shift, goes
const WAY = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1], PageUp: [0, FAR], PageDown: [0, -FAR], Home: [-Infinity, 0], End: [Infinity, 0] };

export class Keys {
  constructor(pointer) {
    const { frame } = pointer.chart;
    Object.assign(this, { pointer, frame, mark: make("div", "gv-line gv-cell", frame) });
    Object.assign(frame, { tabIndex: 0, role: "application" });
    frame.setAttribute("aria-describedby", pointer.chart.read.id);
    frame.addEventListener("keydown", (event) => this.press(event));
    frame.addEventListener("focus", () => pointer.chart.settle());
    frame.addEventListener("blur", () => this.leave());
    frame.addEventListener("pointermove", () => this.leave(), true);
  }

  leave() {
    if (!this.on) return;
    this.on = null;
    this.mark.style.display = "none";
    this.pointer.byKey = false;
    this.pointer.go(null);
  }

  press(event) {
    const { pointer, pointer: { chart, panel: { run } } } = this, { key } = event;
    if (event.target !== this.frame || event.ctrlKey || event.altKey || event.metaKey || !run?.codes.length) return;
    if (key === "Escape" && this.on) this.leave();
    else if (key in WAY) this.move(...WAY[key].map((far) => (event.shiftKey ? FAR * far : far)), run);
    else if (["Enter", " "].includes(key) && this.on) pointer.keepCell(pointer.pointed);
    else if (["+", "-", "0"].includes(key)) chart.zoomAt({ "+": 0.5, "-": 2, 0: Infinity }[key], this.cell(this.on ?? [0, 0], run));
    else return;
    event.preventDefault();
    if (this.on) this.place(this.cell(this.on, run), run);
  }

  // From the newest column and the input's layer on.
  move(columns, rows, run) {
    const most = [run.codes.length - 1, run.rows - 1];
    const near = (value, i) => Math.max(0, Math.min(most[i], value));
    this.on = this.on ? [near(this.on[0] + columns, 0), near(this.on[1] + rows, 1)] : [most[0], 0];
    this.pointer.byKey = true;
    this.pointer.go(this.cell(this.on, run));
  }

  // The cell as the pointer has it: in the middle of its column and row.
  cell([column, row], run) {
    const { xaxis, yaxis } = this.pointer.chart.plot._fullLayout, bin = run.layers / run.rows;
    const step = column * run.stride, layer = firstLayer(row, run.layers, run.rows);
    const inside = (axis, value) => axis._offset + Math.max(0, Math.min(axis._length, axis.d2p(value)));
    return { step, layer, row, column, x: inside(xaxis, step + (run.stride - 1) / 2), y: inside(yaxis, layer + (bin - 1) / 2) };
  }

  place({ x, y }, run) {
    const { xaxis, yaxis } = this.pointer.chart.plot._fullLayout;
    const size = (axis, cells) => Math.max(5, Math.abs(axis.d2p(cells) - axis.d2p(0)));
    const width = size(xaxis, run.stride), height = size(yaxis, run.layers / run.rows);
    Object.assign(this.mark.style, {
      display: "block", left: `${x - width / 2}px`, top: `${y - height / 2}px`, width: `${width}px`, height: `${height}px`,
    });
  }
}
