// A Plotly figure that changes in place: drawn with Plotly.react. The page's colours come in here, so that one figure serves
// light and dark. The element goes with its parent: nothing need be undone.

import { loadPlotly } from "./chart.js";
import { make } from "./look.js";
import { openTable, rows, style, summary, tableButton } from "./said.js";

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

export function render(_state, component) {
  const { data, parentElement: host } = component;
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
    const layout = { ...figure.layout, width, paper_bgcolor: back, plot_bgcolor: back, uirevision: data.id,
      font: { family: read("--st-font", "sans-serif"), color: text, size: 12, ...figure.layout.font } };
    for (const name of Object.keys(layout)) {
      if (/^[xy]axis\d*$/.test(name)) layout[name] = { gridcolor: grid, linecolor: grid, zerolinecolor: grid, ...layout[name] };
    }
    const ink = (part) => JSON.parse(JSON.stringify(part).replaceAll(JSON.stringify(data.ink), JSON.stringify(text)));
    const config = { displaylogo: false, showSendToCloud: false, responsive: false, modeBarButtonsToRemove: ["select2d", "lasso2d"],
      locale: "page", locales: { page: { dictionary: data.plotly_words, format: {} } } };
    return Plotly.react(plot, ink(figure.data), ink(layout), config).then(() => speak(plot, data));
  }).catch((error) => {
    plot.shown = null; // the next call tries again
    if (!window.Plotly) plot.textContent = data.unloaded;
    console.error(error);
  });
  plot.draw();
}
