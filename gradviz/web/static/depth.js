// Series over depth: their Plotly traces, and the axes of layers and of values.

import { ABSENT_COLOUR, MARKS } from "./look.js";
import { measured } from "./numbers.js";

// Plotly traces of one series over depth: line and dots where it is a number, marks at the edges where it is 0 or not finite.
// up: layers run up the y axis (beside the heatmap), else along the x axis. `reason(place)`: why a number was not measured.
export function depthTraces(places, values, { name, color, edges, linear, up, dash, faint, names, reason = () => "" }, words) {
  const numbers = Array.from(values, (v) => (Number.isFinite(v) && (v > 0 || (linear && v === 0)) ? v : null));
  const put = (where, what) => (up ? { x: what, y: where } : { x: where, y: what });
  const why = (i) => (values[i] < 0 && reason(places[i]) ? ` (${reason(places[i])})` : "");
  const label = (i) => `${names[Math.round(places[i])] ?? ""}: ${measured(values[i], linear, words)}${why(i)}`;
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
  rug((v) => v < 0, edges[0], { symbol: "asterisk-open", size: 7, color: ABSENT_COLOUR, line: { width: 1.2, color: ABSENT_COLOUR } }, words.not_measured);
  rug((v) => !Number.isFinite(v), edges[1], { symbol: "x", size: 8, color: MARKS.not_finite }, words.not_finite);
  return traces;
}

// Traces of what theory predicts at initialisation, log10 per layer: a dotted line, and where the scatter of one draw is
// known the band of two standard deviations; both under one name, since the legend has little room.
export function theoryTraces(theory, quantity, up, color, words) {
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
  return [...band, line(0, { name: band.length ? words.theory_band : words.theory, line: { color, width: 1.6, dash: "dot" }, showlegend: true })];
}

// Whole decades that hold the given range and every finite value.
export function decades(low, high, ...series) {
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

// The axis of the values, in about `ticks` decades.
export function valueAxis(chart, name, range, linear, title, ticks) {
  if (linear) return { title: { text: title }, range: [-0.02, 1.02], tickformat: ".0%", meaning: title };
  const shown = chart.range(name, title, range);
  const decades = Math.abs(shown[1] - shown[0]);
  const dtick = decades > 2 ? { dtick: Math.ceil(decades / ticks) } : {};
  return { title: { text: title }, type: "log", range, exponentformat: "power", minorloglabels: "none", tickangle: 0, meaning: title, ...dtick };
}

// The layers from low to high that have room for their names: the ends first.
export function layerTicks(names, low, high, pixels) {
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
  return { tickvals: ticks, ticktext: ticks.map((i) => (step > 1 ? names[i].replace(/^(block\d+)\.conv1$/, "$1") : names[i])) };
}

// The y axis of layers, of so many pixels.
export function layerAxis(chart, names, pixels, words) {
  const ends = [-0.5, names.length - 0.5];
  const shown = chart.range("yaxis", names.length, ends);
  const ticks = layerTicks(names, shown[0], shown[1], pixels);
  return { range: ends, tickmode: "array", ...ticks, showgrid: false, title: { text: words.layer_axis_up }, meaning: names.length };
}

// Characters that a layer's name may have beside a chart.
export const room = (chart) => Math.max(18, Math.min(30, Math.floor(chart.width / 20)));

export const labelWidth = (ticks) => 34 + 6.3 * Math.max(...ticks.map((text) => text.length));
