// Colours: of the codes of a cell, and of the page as it is now, light or dark.

import { ABOVE, ABSENT, BELOW, DENORMAL, FIRST_LEVEL, INFINITE, LEVELS, NOT_A_NUMBER, ZERO } from "./wire.js";

// Matplotlib's viridis at ten points. The marks take hues and lightnesses that viridis does not have.
const VIRIDIS = ["#440154", "#482878", "#3e4a89", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6dcd59", "#b4de2c", "#fde725"];
export const SCALE = VIRIDIS.map((color, i) => [i / (VIRIDIS.length - 1), color]);
export const MARKS = { exact_zero: "#ffffff", denormal_short: "#f7a8cf", below: "#ac18f2", above: "#ff8c1a", not_finite: "#e3001b" };
export const ABSENT_COLOUR = "#a9a9a9"; // of a cell that was not measured: a grey, which neither viridis nor a mark has
// Okabe and Ito's colours, told apart by colour-blind readers; those that stand out on white and on black alike.
export const COLOURS = { blue: "#2b86c5", orange: "#d55e00", green: "#009e73", purple: "#cc79a7", amber: "#e69f00", sky: "#56b4e9" };

const rgb = (color) => [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16));

function palette() {
  const bytes = new Uint8ClampedArray(256 * 4).fill(255);
  const put = (code, [r, g, b]) => bytes.set([r, g, b], 4 * code);
  for (let level = 0; level < LEVELS; level++) {
    const place = ((level + 0.5) / LEVELS) * (VIRIDIS.length - 1), i = Math.min(Math.floor(place), VIRIDIS.length - 2);
    const [a, b] = [rgb(VIRIDIS[i]), rgb(VIRIDIS[i + 1])];
    put(FIRST_LEVEL + level, a.map((v, k) => Math.round(v + (place - i) * (b[k] - v))));
  }
  put(ZERO, rgb(MARKS.exact_zero));
  put(DENORMAL, rgb(MARKS.denormal_short));
  put(BELOW, rgb(MARKS.below));
  put(ABOVE, rgb(MARKS.above));
  put(ABSENT, rgb(ABSENT_COLOUR));
  put(INFINITE, rgb(MARKS.not_finite));
  put(NOT_A_NUMBER, rgb(MARKS.not_finite));
  return new Uint32Array(bytes.buffer);
}
const PALETTE = palette(); // by code, one pixel

// Paints columns of codes, the input's layer on top unless `upwards`, onto a canvas of as many rows, from the column `from` on.
export function paint(canvas, columns, from = 0, upwards = false) {
  if (!columns.length) return;
  const rows = columns[0].length, image = new ImageData(columns.length, rows);
  const pixels = new Uint32Array(image.data.buffer);
  columns.forEach((codes, column) => {
    for (let row = 0; row < rows; row++) pixels[(upwards ? rows - 1 - row : row) * columns.length + column] = PALETTE[codes[row]];
  });
  canvas.getContext("2d").putImageData(image, from, 0);
}

export function theme(element) {
  const asked = make("i", "", element), style = getComputedStyle(asked);
  // light-dark() is resolved in a colour alone, and not in the variable that holds it.
  const colour = (name, fallback) => { asked.style.color = `var(${name}, ${fallback})`; return style.color; };
  const background = colour("--st-background-color", "#ffffff"), probe = document.createElement("canvas").getContext("2d");
  probe.fillStyle = background;
  probe.fillRect(0, 0, 1, 1);
  const [r, g, b] = probe.getImageData(0, 0, 1, 1).data;
  const dark = 0.299 * r + 0.587 * g + 0.114 * b < 128;
  const text = colour("--st-text-color", dark ? "#fafafa" : "#31333f"), font = style.getPropertyValue("--st-font").trim() || "sans-serif";
  asked.remove();
  return {
    dark, text, background, font,
    grid: dark ? "#3c424d" : "#dfe2e8",
    empty: dark ? "#262b35" : "#e4e7ec", // where nothing has been trained yet
    first: dark ? COLOURS.sky : "#0072b2",
    second: dark ? COLOURS.amber : COLOURS.orange,
    faint: dark ? "#9aa0aa" : "#7a808a",
  };
}

// The browser lays the page out anew for a text that is put in, even where it is the same.
export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function make(tag, name, parent, text) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined) element.textContent = text;
  parent?.append(element);
  return element;
}
