// A Plotly figure that changes in place: drawn with Plotly.react. The page's colours come in here, so that one figure serves
// light and dark. The element goes with its parent: nothing need be undone.

import { loadPlotly, overflow } from "./chart.js";
import { make } from "./look.js";
import { openTable, rows, style, summary, tableButton } from "./said.js";

const COLOUR_BAR = 70; // pixels that Plotly gives to it

// Around the plot: what it shows in words, and its numbers on request. What can be pressed in it stands in no image, and its
// drawing is read to nobody, for it is thousands of marks.
function frame(host) {
  style(host);
  const box = make("figure", "gv-figure-box", host), plot = make("div", "gv-figure", box);
  box.style.margin = 0;
  plot.said = make("p", "gv-hidden", box);
  plot.said.id = `gv-said-${Math.random().toString(36).slice(2)}`;
  box.setAttribute("aria-describedby", plot.said.id);
  new ResizeObserver(() => plot.draw?.()).observe(host);
  return plot;
}

function speak(plot, { label, words }) {
  for (const drawing of plot.querySelectorAll(".main-svg, .modebar svg")) drawing.setAttribute("aria-hidden", "true");
  const traces = plot._fullData ?? [];
  plot.said.textContent = summary(traces, words);
  plot.table ??= tableButton(plot.parentElement, words, () => {
    openTable(plot.parentElement, plot.parentElement.ariaLabel, plot.said.textContent, [[words.line, words.point], ...rows(plot._fullData)], words);
  });
  plot.table.style.display = "block";
  plot.table.style.margin = "2px 0 0 auto";
  plot.table.ariaLabel = `${words.table_title}: ${label}`;
}

// Titles of pictures side by side, each in its share of the width, and names in the legend in all of it: in two lines at most, and of
// many names in one. Plotly would let them lie on each other, and cut them. A mouse that points at a title is told all of it.
function fitted({ data, layout }, width, family) {
  const { annotations, margin: { l = 0, r = 0 } = {}, meta } = layout, pen = make("canvas").getContext("2d");
  const broken = (text, room, size, most = 2) => {
    pen.font = `${size}px ${family}`;
    const fits = (part) => pen.measureText(part).width <= room;
    let [lines, rest] = [[], text];
    while (rest && lines.length < most) {
      const words = rest.split(/(?<= )/), last = lines.length === most - 1;
      let line = words.shift();
      while (words.length && fits(line + words[0])) line += words.shift();
      if (last && words.length) [line, words.length] = [rest, 0];
      while (line.length > 2 && !fits(line)) line = `${line.slice(0, -2)}…`;
      lines.push(line.trim());
      rest = words.join("");
    }
    return lines.join("<br>");
  };
  const names = data.filter(({ name, showlegend }) => name && showlegend !== false);
  return {
    data: data.map((trace) => (names.includes(trace) ? { ...trace, name: broken(trace.name, width - 60, 12, names.length > 4 ? 1 : 2), meta: { name: trace.name } } : trace)),
    layout: meta?.titles ? { ...layout, annotations: annotations.map((title) => ({
      ...title, text: broken(title.text, meta.titles * (width - l - r - COLOUR_BAR) - 8, title.font.size), hovertext: title.text, captureevents: true,
    })) } : layout,
  };
}

export function show(host, data) {
  const plot = host.querySelector(".gv-figure") ?? frame(host);
  const figure = JSON.parse(data.figure);
  plot.style.minHeight = `${figure.layout.height}px`;
  plot.parentElement.ariaLabel = data.label;
  plot.draw = () => loadPlotly(data.plotly).then((Plotly) => {
    const look = getComputedStyle(host);
    const read = (name, fallback) => look.getPropertyValue(name).trim() || fallback;
    const text = read("--st-text-color", "#31333f"), back = read("--st-background-color", "#ffffff");
    const width = Math.floor(host.clientWidth);
    const shown = [width, text, back, look.getPropertyValue("--st-font"), data.id, data.lang, data.figure].join();
    if (!plot.shown) plot.textContent = "";
    if (width < 50 || shown === plot.shown) return; // asked by each script run, and by the observer as soon as it begins
    plot.shown = shown;
    const faint = `color-mix(in srgb, ${text} 22%, ${back})`;
    const probe = make("span", "", host);
    probe.style.color = faint;
    const grid = getComputedStyle(probe).color.replace(/^color\(srgb ([\d.e-]+) ([\d.e-]+) ([\d.e-]+).*$/, (all, r, g, b) =>
      `rgb(${[r, g, b].map((part) => Math.round(255 * part)).join(",")})`);
    probe.remove();
    const family = read("--st-font", "sans-serif");
    const made = fitted(figure, width, family);
    const layout = { ...made.layout, width, paper_bgcolor: back, plot_bgcolor: back, uirevision: data.id,
      font: { family, color: text, size: 12, ...made.layout.font } };
    for (const name of Object.keys(layout)) {
      if (/^[xy]axis\d*$/.test(name)) layout[name] = { gridcolor: grid, linecolor: grid, zerolinecolor: grid, ...overflow(name), ...layout[name] };
    }
    const ink = (part) => JSON.parse(JSON.stringify(part).replaceAll(JSON.stringify(data.ink), JSON.stringify(text)));
    const config = { displaylogo: false, showSendToCloud: false, responsive: false, modeBarButtonsToRemove: ["select2d", "lasso2d"],
      locale: "page", locales: { page: { dictionary: data.plotly_words, format: {} } } };
    return Plotly.react(plot, ink(made.data), ink(layout), config).then(() => speak(plot, data));
  }).catch((error) => {
    plot.shown = null; // the next call tries again
    if (!window.Plotly) plot.textContent = data.unloaded;
    console.error(error);
  });
  plot.draw();
}

export function render(_state, { data, parentElement }) {
  show(parentElement, data);
}
