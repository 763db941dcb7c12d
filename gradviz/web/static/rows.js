// The rows of a heatmap: of a deep net several layers stand in one, and of a net that is watched some numbers were not measured.

import { ABSENT, INFINITE } from "./wire.js";

// A name of at most so many characters; of a long one its end tells the most.
export function shortened(name, most) {
  return name.length <= most ? name : `…${name.slice(1 - most)}`;
}

export const isGroup = (run, row) => (run.sizes?.[row] ?? 1) > 1;

// What stands beside each row; a group has a sign that it can be unfolded, and how many layers it holds.
export function rowLabels(run, most) {
  return run.names.map((name, row) => (isGroup(run, row) ? `▸ ${shortened(name, most - 6)} (${run.sizes[row]})` : shortened(name, most)));
}

const empty = (codes) => codes.every((code) => code === ABSENT);

// The column whose numbers stand at a column's place: itself, or where nothing was measured the nearest one before it.
export function heldColumn(run, column) {
  if (run.every === null || !run.codes[column] || !empty(run.codes[column])) return column;
  for (let before = column - 1; before >= 0; before--) if (!empty(run.codes[before])) return before;
  return column;
}

// The codes as they are painted from a column on: where nothing was measured, those of the column before.
export function heldCodes(run, from) {
  const held = [];
  for (let column = from; column < run.codes.length; column++) {
    const before = held.at(-1) ?? run.codes[heldColumn(run, column)];
    held.push(run.every !== null && empty(run.codes[column]) ? before : run.codes[column]);
  }
  return held;
}

// Why the row has no number, in words; empty where that is not known.
export function reasonOf(run, row) {
  return Object.entries(run.missing ?? {}).find(([, rows]) => rows.includes(row))?.[0] ?? "";
}

// Whether each of a series of losses was told. A run of ours tells all; of another, nan is one that was not, unless numbers broke there.
export function told(run, series) {
  const any = Array.from(series).some(Number.isFinite);
  return Array.from(series, (value, column) => run.every === null || !Number.isNaN(value) || (any && run.codes[column].some((code) => code >= INFINITE)));
}
