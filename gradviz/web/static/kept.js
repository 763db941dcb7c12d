// A run in a file: answers what the server's routes answer, from the numbers that gradviz/share/kept.py has put there, of the
// whole run or of a moment of its replay.

import { Message, firstLayer } from "./wire.js";

export class Kept {
  constructor(told, body) {
    Object.assign(this, told, { body });
    this.columns = together(this.part(this.planes));
    this.place = this.shown = this.film.length; // moment of the film that is wanted, and that was answered; the last is the run
  }

  part([from, length]) {
    return this.body.slice(from, from + length).buffer; // a copy, for numbers must not begin anywhere
  }

  // Of the moment that is wanted: as gradviz/web/wire.py packs it.
  delta(query) {
    const { header, film, quantities } = this, moment = film[this.place], fit = query.has("fit");
    const [low, high] = ["low", "high"].map((name) => Number(query.get(name)));
    const picture = this.pictures.find((each) => each.quantity === query.get("quantity") && (fit ? each.fit : !each.fit && each.low === low && each.high === high));
    const now = {
      ...header, missing: picture.missing, newest_step: picture.newest_step, ...moment?.header, frame: header.steps,
      ...(moment ? { missing: {} } : {}), quantity: picture.quantity, low: picture.low, high: picture.high,
    };
    const newest = this.exactly(moment?.column ?? picture.newest).subarray(quantities.indexOf(picture.quantity) * header.layers).subarray(0, header.layers);
    const [losses, accuracies] = halves(new Float32Array(this.part(this.series))), [steps, values] = halves(new Int32Array(this.part(this.tested)));
    this.shown = this.place;
    return pack(now, losses.subarray(0, now.columns), accuracies.subarray(0, now.columns), pooled(newest, header.rows),
      steps.subarray(0, now.tests), values.subarray(0, now.tests), new Uint8Array(this.part(picture.codes)).subarray(0, now.columns * header.rows));
  }

  // The column that holds a step, or of those that are there the nearest.
  profile(query) {
    const { header, exact, quantities, theory } = this, { id, created, stride, steps, layers } = header;
    const wanted = Math.floor(Number(query.get("step")) / stride);
    const column = exact.reduce((best, each) => (Math.abs(each - wanted) < Math.abs(best - wanted) ? each : best));
    const at = { from_step: column * stride, to_step: Math.min((column + 1) * stride, steps) - 1 };
    return pack({ id, created, ...at, stride, layers, quantities, theory: column ? null : theory }, this.exactly(column));
  }

  // All quantities of all layers of a column that is there.
  exactly(column) {
    const size = this.quantities.length * this.header.layers, place = this.exact.indexOf(column);
    return this.columns.subarray(place * size, (place + 1) * size);
  }
}

// Numbers of which the file has all first bytes, then all second ones, and so on.
function together(planes) {
  const bytes = new Uint8Array(planes), whole = new Uint8Array(bytes.length), count = bytes.length / 4;
  for (let k = 0, at = 0; k < 4; k++) for (let i = 0; i < count; i++) whole[4 * i + k] = bytes[at++];
  return new Float32Array(whole.buffer);
}

const halves = (array) => [array.subarray(0, array.length / 2), array.subarray(array.length / 2)];

// By maximum, where many layers share a row: nan beats infinity, and that every number.
const pooled = (values, rows) => (rows === values.length ? values
  : Float32Array.from({ length: rows }, (_, row) => Math.max(...values.subarray(firstLayer(row, values.length, rows), firstLayer(row + 1, values.length, rows)))));

function pack(header, ...arrays) {
  const text = new TextEncoder().encode(JSON.stringify(header)), padding = -text.length & 3;
  const head = new Uint8Array(4 + text.length + padding).fill(32);
  new DataView(head.buffer).setUint32(0, text.length + padding, true);
  head.set(text, 4);
  return new Blob([head, ...arrays]).arrayBuffer();
}
