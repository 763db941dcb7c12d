// Loss and accuracy over the steps.

import { MARKS } from "./look.js";
import { decimal } from "./numbers.js";
import { told } from "./rows.js";
import { turnMarks } from "./turns.js";

// The frame of steps grows by doubling, so that it rarely jumps and is never mostly empty. A replay has the `frame` of its run.
export const frameOf = ({ live, total, steps, frame }) => frame ?? (live ? Math.min(total ?? Infinity, Math.max(32, 2 ** Math.ceil(Math.log2(steps * 1.02)))) : steps);

export function stepAxis(run, words) {
  const frame = frameOf(run);
  return { title: { text: words.step_axis }, range: [-0.5, Math.max(frame, 2) - 0.5], showgrid: false, ...(frame < 8 ? { dtick: 1 } : {}) };
}

// The middle of each column's steps.
function columnSteps(run) {
  return run.codes.map((_, c) => (c * run.stride + Math.min((c + 1) * run.stride, run.steps) - 1) / 2);
}

// The loss or accuracy of a guess, where one is known.
const guess = (run, height, words, look) => ({
  x: [-0.5, run.total ?? frameOf(run)], y: [height, height], mode: "lines", name: words.chance, line: { dash: "dash", width: 1.5, color: look.faint }, hoverinfo: "skip",
});

// A red cross at the top edge, on an axis of its own, wherever the series is not finite.
function crosses(run, x, series, words) {
  const known = told(run, series), broken = (value, i) => known[i] && !Number.isFinite(value);
  const at = x.filter((_, i) => broken(series[i], i));
  const text = Array.from(series).filter(broken).map((value) => decimal(value, words));
  return {
    x: at, y: at.map(() => 0.97), yaxis: "y2", mode: "markers", name: words.not_finite, text, showlegend: at.length > 0, cliponaxis: false,
    marker: { symbol: "x", size: 8, color: MARKS.not_finite }, hovertemplate: "%{x}: %{text}<extra></extra>",
  };
}

// The same of a cross-entropy over ten classes.
function ownLossRange(losses) {
  const finite = losses.filter((value) => Number.isFinite(value) && value > 0);
  const log = Math.max(0, ...finite) > 50, highest = Math.max(2.6, ...finite), lowest = Math.min(2.3, ...finite);
  return [log, log ? [Math.floor(Math.log10(Math.max(lowest, 1e-6))), Math.ceil(Math.log10(highest) + 0.2)] : [0, highest * 1.06]];
}

// Whether there is anything to draw; else it says so, of a run that was watched.
function isTold(chart, run, series, title, words) {
  const any = run.every === null || Array.from(series).some((value) => !Number.isNaN(value));
  chart.frame.style.display = any ? "" : "none";
  if (!any) chart.say(title, words.untold);
  return any;
}

// [whether it is logarithmic, the range] of a loss of whatever kind.
function lossRange(finite) {
  const low = Math.min(...finite), high = Math.max(...finite);
  if (low > 0 && high > 100 * low) return [true, [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high) + 0.2)]];
  return [false, finite.length ? [Math.min(0, 1.06 * low), Math.max(1.06 * high, low < 0 ? 0 : 1e-9)] : [0, 1]];
}

export function drawLoss(chart, { run, words, look, component: { data: { chance } } }) {
  const x = columnSteps(run), y = run.losses, own = run.every === null;
  if (!isTold(chart, run, y, words.loss_title, words)) return;
  const [log, range] = own ? ownLossRange(y) : lossRange([...y.filter(Number.isFinite), ...(chance === null ? [] : [chance])]);
  chart.say(words.loss_title, chance === null ? "" : own ? words.loss_read : words.loss_read_any);
  chart.draw([
    ...(chance === null ? [] : [guess(run, chance, words, look)]),
    { x, y: y.map((v) => (Number.isFinite(v) ? v : null)), mode: run.codes.length < 40 ? "lines+markers" : "lines", name: words.train,
      line: { color: look.first, width: 1.8 }, marker: { size: 5 }, hovertemplate: "%{x:.0f}: %{y:.4g}<extra></extra>" },
    crosses(run, x, y, words),
  ], {
    xaxis: stepAxis(run, words),
    yaxis: { title: { text: own ? (log ? words.loss_axis_log : words.loss_axis) : log ? words.loss_axis_any_log : words.loss_axis_any }, type: log ? "log" : "linear", range, ...(log ? { exponentformat: "power", dtick: Math.max(1, Math.ceil((range[1] - range[0]) / 5)) } : {}),
      meaning: log },
    yaxis2: { overlaying: "y", range: [0, 1], visible: false, fixedrange: true },
    hovermode: "x",
    ...turnMarks(run, look),
  }, 250);
}

export function drawAccuracy(chart, { run, words, look, component: { data: { chance } } }) {
  const x = columnSteps(run);
  if (!isTold(chart, run, run.accuracies, words.accuracy_title, words)) return;
  chart.say(words.accuracy_title, chance === null ? "" : run.every === null ? words.accuracy_read : words.accuracy_read_any);
  const hundred = (value) => (Number.isFinite(value) ? 100 * value : null);
  chart.draw([
    ...(chance === null ? [] : [guess(run, 100 * Math.exp(-chance), words, look)]),
    { x, y: run.accuracies.map(hundred), mode: run.codes.length < 40 ? "lines+markers" : "lines", name: words.train,
      line: { color: look.first, width: 1.3 }, marker: { size: 4 }, hovertemplate: "%{x:.0f}: %{y:.1f} %<extra></extra>" },
    ...(run.every !== null ? [] : [{ x: run.tested.map(([step]) => step), y: run.tested.map(([, value]) => hundred(value)), mode: run.tested.length < 40 ? "lines+markers" : "lines", name: words.test,
      line: { color: look.second, width: 2.4 }, marker: { size: 7, symbol: "diamond" }, hovertemplate: "%{x}: %{y:.1f} %<extra></extra>" }]),
  ], {
    xaxis: stepAxis(run, words),
    yaxis: { title: { text: words.accuracy_axis }, range: [0, 102], dtick: 25 },
    hovermode: "x",
    ...turnMarks(run, look),
  }, 250);
}
