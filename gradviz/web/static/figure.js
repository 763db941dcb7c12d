// A Plotly figure that changes in place: drawn with Plotly.react. The page's colours come in here, so that one figure serves
// light and dark. The element goes with its parent: nothing need be undone.

import { loadPlotly } from "./chart.js";
import { make } from "./look.js";

export function render(_state, component) {
  const { data, parentElement: host } = component;
  let plot = host.querySelector(".gv-figure");
  if (!plot) {
    plot = make("div", "gv-figure", host);
    new ResizeObserver(() => plot.draw?.()).observe(host);
  }
  const figure = JSON.parse(data.figure);
  plot.style.minHeight = `${figure.layout.height}px`;
  plot.setAttribute("role", "img");
  plot.setAttribute("aria-label", data.label);
  plot.draw = () => loadPlotly(data.plotly).then((Plotly) => {
    const style = getComputedStyle(host);
    const read = (name, fallback) => style.getPropertyValue(name).trim() || fallback;
    const text = read("--st-text-color", "#31333f"), back = read("--st-background-color", "#ffffff");
    const width = Math.floor(host.clientWidth);
    const shown = [width, text, back, style.getPropertyValue("--st-font"), data.id, data.figure].join();
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
    const config = { displaylogo: false, responsive: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] };
    return Plotly.react(plot, ink(figure.data), ink(layout), config);
  }).catch((error) => {
    plot.shown = null; // the next call tries again
    if (!window.Plotly) plot.textContent = data.unloaded;
    console.error(error);
  });
  plot.draw();
}
