// Numbers as people read them. `words` are those that the page was given.

const SUPERSCRIPT = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };
const SMALLEST_NORMAL = 2 ** -126; // of float32

export const superscript = (n) => [...String(n)].map((c) => SUPERSCRIPT[c]).join("");
export const power = (exponent) => `10<sup>${String(exponent).replace("-", "−")}</sup>`; // for Plotly
export const fill = (text, values) => text.replace(/\{(\w+)\}/g, (all, name) => values[name] ?? all);

export function decimal(value, words, digits = 3) {
  if (value === null || value === undefined) return "–";
  const x = Number(value);
  if (Number.isNaN(x)) return words.not_a_number;
  if (!Number.isFinite(x)) return words.infinite;
  if (x === 0) return "0";
  const size = Math.abs(x);
  if (size >= 0.001 && size < 10000) return String(Number(x.toPrecision(digits)));
  const [factor, exponent] = x.toExponential(1).split("e");
  return `${factor}·10${superscript(Number(exponent))}`;
}

export const percent = (value, words) => (Number.isFinite(Number(value)) && value !== null ? `${(100 * value).toFixed(1)} %` : decimal(value, words));

// A measured value: of a share (`linear`) in per cent; of a size an exact zero is said in words; below 0 it was not measured.
export function measured(x, linear, words) {
  if (x < 0) return words.not_measured;
  if (linear) return percent(x, words);
  return x === 0 ? words.exact_zero : decimal(x, words);
}

// The same where there is room to say that it is denormal.
export function measuredAtLength(x, linear, words) {
  return !linear && x > 0 && x < SMALLEST_NORMAL ? `${decimal(x, words)}, ${words.denormal}` : measured(x, linear, words);
}

export function duration(seconds, words) {
  if (seconds < 90) return fill(words.seconds, { n: Math.max(1, Math.round(seconds)) });
  if (seconds < 5400) return fill(words.minutes, { n: Math.round(seconds / 60) });
  return fill(words.hours, { n: (seconds / 3600).toFixed(1) });
}

// The steps of the column that begins with the step `first`.
export function stepsText(first, { stride, steps }, words) {
  const last = Math.min(first + stride, steps) - 1;
  return last > first ? fill(words.hovered_steps, { from: first, to: last }) : fill(words.hovered, { step: first });
}
