// What the server's bytes mean: gradviz/web/wire.py says it of a message, gradviz/record/raster.py of a cell's code.

export const ZERO = 0, BELOW = 1, FIRST_LEVEL = 2, LEVELS = 249, ABOVE = 251, ABSENT = 252, DENORMAL = 253, INFINITE = 254, NOT_A_NUMBER = 255;

export class Message {
  constructor(buffer) {
    const length = new DataView(buffer).getUint32(0, true);
    this.header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
    this.buffer = buffer;
    this.at = 4 + length;
  }
  // The next array: `kind` is Float32Array or another.
  take(kind, count) {
    const array = new kind(this.buffer, this.at, count);
    this.at += array.byteLength;
    return array;
  }
  // A profile: its header, and by quantity the values of all layers.
  takeProfile() {
    const values = {};
    for (const quantity of this.header.quantities) values[quantity] = this.take(Float32Array, this.header.layers);
    return { ...this.header, values };
  }
}

// The first layer of a row where many layers are pooled to a few rows.
export const firstLayer = (row, layers, rows) => Math.floor((row * layers) / rows);

// The row of a layer.
export function rowOf(layer, layers, rows) {
  let row = Math.floor((layer * rows) / layers);
  while (row + 1 < rows && firstLayer(row + 1, layers, rows) <= layer) row++;
  return row;
}
