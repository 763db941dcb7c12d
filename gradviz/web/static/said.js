// What a picture shows, in words and as a table: for those who do not see it, and for those who want its numbers.
// A point says what it tells a mouse that points at it.

import { make } from "./look.js";
import { fill } from "./numbers.js";

const ROWS = 400; // of a table: of more points every so manieth is listed
const STYLE = `
.gv-hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.gv-window { color: var(--st-text-color, #222); background: var(--st-background-color, #fff); font-family: var(--st-font, sans-serif); font-size: 14px;
  border: 1px solid currentColor; border-radius: 8px; padding: 14px 18px; max-width: min(94vw, 48rem); max-height: 86vh; }
.gv-window[open] { display: flex; flex-direction: column; gap: 8px; }
.gv-window::backdrop { background: rgb(0 0 0 / 45%); }
.gv-window h2 { font-size: 16px; margin: 0; padding: 0; }
.gv-window p { margin: 0; line-height: 1.45; }
.gv-window div { overflow: auto; }
.gv-window table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
.gv-window :is(td, th) { text-align: left; padding: 2px 14px 2px 0; border-bottom: 1px solid color-mix(in srgb, currentColor 25%, transparent); }
.gv-table-button { font: inherit; font-size: 12px; min-height: 24px; color: inherit; background: transparent; cursor: pointer; padding: 1px 8px;
  border: 1px solid color-mix(in srgb, currentColor 30%, transparent); border-radius: 5px; }
.gv-window button { align-self: end; font: inherit; color: inherit; background: transparent; border: 1px solid currentColor; border-radius: 6px;
  min-height: 28px; padding: 2px 14px; cursor: pointer; }
:is(.gv-window, .gv-window *):focus-visible { outline: 2px solid; outline-offset: 1px; }
`;

// Once for each element of ours that has a picture.
export const style = (parent) => make("style", "", parent, STYLE);

const at = (series, i) => (series && typeof series === "object" ? series[i] : series);
// Without what Plotly takes for markup; anything else in a name is what it says.
const plain = (text) => text.replace(/<br\s*\/?>/gi, ", ").replace(/<\/?(?:a|b|em|i|s|span|strong|sub|sup|u)(?:\s[^<>]*)?>/gi, "").trim();

function formatted(value, format) {
  if (value === null || value === undefined) return "–";
  const [, digits, kind] = /^\.(\d+)([gf])$/.exec(format ?? "") ?? [];
  if (typeof value !== "number") return String(value);
  if (kind === "f") return value.toFixed(digits);
  return String(Number(value.toPrecision(kind ? Math.max(1, digits) : 6)));
}

// Of point `i` of a Plotly trace.
function told(trace, i) {
  const { hovertemplate } = trace, template = (at(hovertemplate, i) || "%{x}: %{y}").split("<extra>")[0];
  return plain(template.replace(/%\{(\w+)(?::([^}]*))?\}/g, (_all, word, format) => formatted(at(trace[word], i) ?? (word === "x" ? i : null), format)));
}

const nameOf = (trace) => plain(/<extra>(.+)<\/extra>/.exec(at(trace.hovertemplate, 0) ?? "")?.[1] ?? (trace.showlegend === false ? "" : trace.meta?.name ?? trace.name ?? ""));

// [[a line's name, [place of each of its points that is a number]]], of the traces that a mouse can ask.
function lines(traces) {
  const found = [];
  for (const trace of traces) {
    if (trace.hoverinfo === "skip" || !trace.y || trace.visible === false || !["scatter", undefined].includes(trace.type)) continue;
    const places = [...trace.y.keys()].filter((i) => [at(trace.x, i) ?? i, trace.y[i]].every((value) => typeof value !== "number" || Number.isFinite(value)))
      .filter((i) => trace.y[i] !== null && at(trace.x, i) !== null);
    if (places.length) found.push([trace, places]);
  }
  return found;
}

// `up`: the value stands on the x axis.
export function summary(traces, words, up = false) {
  const sentences = [];
  let alone = 0;
  for (const [trace, places] of lines(traces)) {
    const name = nameOf(trace), values = up ? trace.x : trace.y;
    if (!name && places.length < 2) alone += 1;
    else if (places.length < 3) sentences.push(`${name}: ${places.map((i) => told(trace, i)).join("; ")}.`);
    else {
      const sorted = [...places].sort((a, b) => values[a] - values[b]);
      const [first, last, low, high] = [places[0], places.at(-1), sorted[0], sorted.at(-1)].map((i) => told(trace, i));
      sentences.push(fill(words.line_said, { name: name || words.line, first, last, low, high }));
    }
  }
  if (alone) sentences.push(fill(words.points_said, { n: alone }));
  return sentences.join(" ");
}

// [name, text] of the points.
export function rows(traces) {
  const all = lines(traces).flatMap(([trace, places]) => places.map((i) => [trace, i]));
  const every = Math.ceil(all.length / ROWS);
  return all.filter((_point, k) => k % every === 0 || k === all.length - 1).map(([trace, i]) => [nameOf(trace), told(trace, i)]);
}

// A table in a window over the page; Escape closes it, and the focus is where it was. `table`: rows of texts, headings first.
export function openTable(parent, title, said, table, words) {
  const window = make("dialog", "gv-window", parent), [headings, ...body] = table;
  window.ariaLabel = title;
  make("h2", "", window, title);
  make("p", "", window, said);
  const scroll = make("div", "", window), grid = make("table", "", scroll);
  Object.assign(scroll, { tabIndex: 0, role: "region", ariaLabel: words.table_title });
  const line = (texts, tag, into) => {
    const row = make("tr", "", into);
    for (const text of texts) make(tag, "", row, text).scope = tag === "th" ? "col" : "";
  };
  line(headings, "th", make("thead", "", grid));
  const rest = make("tbody", "", grid);
  for (const texts of body) line(texts, "td", rest);
  const close = make("button", "", window, words.close);
  close.type = "button";
  close.addEventListener("click", () => window.close());
  window.addEventListener("close", () => window.remove());
  window.showModal();
  close.focus();
}

export function tableButton(parent, words, open) {
  const button = make("button", "gv-table-button", parent, words.table);
  Object.assign(button, { type: "button", ariaLabel: words.table_title, title: words.table_title });
  button.addEventListener("click", open);
  return button;
}

// Says what has happened, once the reader's own voice has ended; the same words only once.
export class Voice {
  constructor(parent) {
    this.box = make("div", "gv-hidden", parent);
    this.box.setAttribute("role", "status");
  }
  say(text, about = text) {
    if (about === this.about) return;
    this.about = about;
    this.box.textContent = text;
  }
}
