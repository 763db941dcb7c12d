// Profiles over depth: of one column of a run, beside its heatmap, and of a net that has not been trained.

import { decades, depthTraces, labelWidth, layerAxis, layerTicks, room, theoryTraces, valueAxis } from "./depth.js";
import { HEAT_BOTTOM, HEAT_TOP, HEIGHT, SCALE_HEIGHT } from "./heatmap.js";
import { put } from "./look.js";
import { fill, stepsText } from "./numbers.js";
import { reasonOf, rowLabels } from "./rows.js";
import { firstLayer } from "./wire.js";

export function drawProfile(chart, { run, words, look, feed: { reference }, pointer: { exact, pinned, layer }, charts, linear }) {
  const values = exact ? exact.values[run.quantity] : run.newest;
  const all = [...run.names.keys()];
  const places = exact || run.rows === run.layers ? all
    : Array.from({ length: run.rows }, (_, row) => (firstLayer(row, run.layers, run.rows) + firstLayer(row + 1, run.layers, run.rows) - 1) / 2);
  let when = exact ? stepsText(exact.from_step, run, words) : fill(words.newest, { step: run.newest_step });
  if (exact && exact.from_step === pinned) when = fill(words.pinned, { text: when });
  chart.say(words.profile_title, linear ? words.profile_read_linear : run.every === null ? words.profile_read : words.profile_read_any);
  put(chart.meaning, when);
  const start = reference?.values[run.quantity];
  const range = linear ? [0, 1] : decades(run.low, run.high, values, start ?? []);
  const edges = linear ? [0, 1] : range.map((e) => 10 ** e);
  const beside = charts.heatmap.top === chart.top; // then its rows go on here
  const top = beside ? HEAT_TOP + SCALE_HEIGHT : 40, bottom = beside ? HEAT_BOTTOM : 74, height = beside ? HEIGHT : 440;
  const axis = layerAxis(chart, rowLabels(run, room(chart)), height - top - bottom, words);
  const traces = depthTraces(places, values, { name: words.quantities[run.quantity].label, color: look.first, edges, linear, up: true, names: run.names, reason: (place) => reasonOf(run, place) }, words);
  if (start && run.steps > 1) {
    const name = reference.to_step > 0 ? fill(words.hovered_steps, { from: 0, to: reference.to_step }) : fill(words.hovered, { step: 0 });
    const every = Math.ceil(all.length / 500); // a faint line needs no more points
    const thin = (list) => Array.from(list).filter((_, i) => i % every === 0);
    traces.unshift(...depthTraces(thin(all), thin(start), { name, color: look.faint, edges, linear, up: true, dash: "dot", faint: true, names: run.names }, words));
  }
  traces.unshift(...theoryTraces(reference?.theory, run.quantity, true, look.second, words));
  chart.draw(traces, {
    margin: { l: labelWidth(axis.ticktext), r: 16, t: top, b: bottom },
    xaxis: valueAxis(chart, "xaxis", range, linear, words.units[run.quantity].replace(" (", "<br>("), Math.max(2, Math.floor(chart.width / 70))),
    yaxis: { ...axis, showgrid: true },
    shapes: layer === null ? [] : [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: layer, y1: layer, line: { color: look.text, width: 1.5 } }],
    legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom", font: { size: 11 }, bgcolor: "rgba(0,0,0,0)" },
  }, height);
}

export function drawPreview(chart, { preview, words, look }) {
  chart.say(words.preview_title, words.preview_read);
  const quantities = ["signal_rms", "weight_grad_rms"], predicted = (name) => (preview.theory?.[name] ?? []).map((power) => 10 ** (power ?? NaN));
  const series = preview.ahead ? [] : quantities.map((name) => preview.values[name]);
  const range = decades(-24, 0, ...(preview.ahead ? quantities.map(predicted) : series));
  const edges = range.map((e) => 10 ** e);
  const names = preview.names, places = [...names.keys()];
  const width = chart.width - 80;
  const wide = Math.max(...names.map((name) => name.length)) * 0.45;
  const ticks = layerTicks(names, 0, names.length - 1, width / Math.max(1.3, wide / 5));
  chart.draw([
    ...theoryTraces(preview.theory, "weight_grad_rms", false, look.first, words),
    ...theoryTraces(preview.theory, "signal_rms", false, look.second, words).map((trace) => ({ ...trace, showlegend: false })),
    ...series.flatMap((values, i) => depthTraces(places, values, { name: words.quantities[quantities[i]].label, color: [look.second, look.first][i], edges, linear: false, up: false, names }, words)),
  ], {
    margin: { l: 64, r: 16, t: 34, b: 92 },
    // A label reaches down and to the left from its tick, and the first, of a layer without a block, is short.
    xaxis: { range: [-0.5, names.length - 0.5], tickmode: "array", ...ticks, tickangle: -45, ticklabeloverflow: "allow", title: { text: words.layer_axis }, showgrid: false },
    yaxis: valueAxis(chart, "yaxis", range, false, words.preview_axis, 7),
  }, 380);
}
