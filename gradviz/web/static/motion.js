// One training step as a film: rows of bars over the layers, lit in the order in which the numbers come about.
// All numbers and sentences come from the server; this draws them at time t.

import { COLOURS, make } from "./look.js";
import { fill } from "./numbers.js";
import { Voice, openTable, style, tableButton } from "./said.js";

const SECONDS = { forward: 4, still: 3, backward: 5 };
const ROWS = [COLOURS.green, COLOURS.orange, COLOURS.blue, COLOURS.purple, COLOURS.amber];
const CSS = `
.gvm { font-family: var(--st-font, sans-serif); color: var(--st-text-color, inherit); }
.gvm-stages { display: flex; flex-wrap: wrap; gap: 6px; margin-bottom: 8px; }
.gvm-stages button, .gvm-play { font: inherit; font-size: 14px; padding: 3px 12px; border-radius: 6px; cursor: pointer; color: inherit; min-height: 24px;
  background: transparent; border: 1px solid color-mix(in srgb, var(--st-text-color, #888) 30%, transparent); }
.gvm button[aria-current=true] { border-color: var(--st-primary-color, #1f6feb); font-weight: 600;
  background: color-mix(in srgb, var(--st-primary-color, #1f6feb) 15%, transparent); }
.gvm-text { min-height: 3.2em; font-size: 16px; margin: 4px 0; }
.gvm-row { display: grid; grid-template-columns: 140px 1fr; align-items: end; gap: 8px; margin: 5px 0; font-size: 12px; }
.gvm-row small { opacity: .75; display: block; }
.gvm-bars { display: flex; align-items: flex-end; height: 58px; gap: 1px;
  border-bottom: 1px solid color-mix(in srgb, var(--st-text-color, #888) 35%, transparent); }
.gvm-bars i { flex: 1; min-height: 2px; opacity: .1; }
.gvm-bars i.lit { opacity: 1; }
.gvm-bars i.now { outline: 2px solid var(--st-text-color, #888); }
.gvm-ends { display: flex; justify-content: space-between; }
.gvm-time { display: flex; gap: 10px; align-items: center; margin: 8px 0; }
.gvm-time input { flex: 1; accent-color: var(--st-primary-color, #1f6feb); }
@media (forced-colors: active) { .gvm-bars i { forced-color-adjust: none; } .gvm button[aria-current=true] { outline: 2px solid Highlight; } }
@media (max-width: 640px) { .gvm-row { grid-template-columns: 1fr; } }
`;

const STILL = matchMedia("(prefers-reduced-motion: reduce)"); // then the button goes on by a stage, and nothing moves by itself

class Film {
  constructor(host) {
    this.root = make("div", "gvm", host);
    this.t = 0;
    this.playing = false;
  }
  load(data) {
    if (this.data?.id === data.id && this.data.lang === data.lang && this.root.childNodes.length) return;
    Object.assign(this, { data });
    this.spans = [];
    let end = 0;
    for (const stage of data.stages) this.spans.push([end, (end += SECONDS[stage.kind])]);
    this.end = end;
    this.t = Math.min(this.t, end);
    this.root.replaceChildren();
    make("style", "", this.root, CSS);
    style(this.root);
    this.voice = new Voice(this.root);
    const bar = make("div", "gvm-stages", this.root);
    this.buttons = data.stages.map((stage, place) => {
      const button = make("button", "", bar);
      button.textContent = `${place + 1}  ${stage.title}`;
      button.onclick = () => this.go(this.begin(place));
      return button;
    });
    this.text = make("div", "gvm-text", this.root);
    this.rows = data.rows.map((row, place) => this.bars(row, ROWS[place]));
    const ends = make("div", "gvm-row", this.root);
    make("span", "", ends);
    const names = make("div", "gvm-ends", ends);
    for (const name of [data.names[0], data.words.layers, data.names.at(-1)]) make("span", "", names).textContent = name;
    const time = make("div", "gvm-time", this.root);
    this.play = make("button", "gvm-play", time);
    this.play.onclick = () => {
      if (STILL.matches) {
        const place = this.place() + 1;
        this.go(this.begin(place < this.spans.length ? place : 0));
        return;
      }
      this.playing = !this.playing;
      if (this.playing && this.t >= this.end) this.t = 0;
      this.last = performance.now();
      this.draw();
      if (this.playing) requestAnimationFrame(() => this.tick());
    };
    this.slider = make("input", "", time);
    Object.assign(this.slider, { type: "range", min: 0, max: this.end, step: 0.02, ariaLabel: data.words.time });
    this.slider.oninput = () => this.go(Number(this.slider.value));
    this.slider.onkeydown = (event) => this.press(event);
    tableButton(time, data.words, () => this.openTable());
    this.draw();
  }
  // A row of the picture: its name, and a bar for each layer.
  bars(row, colour) {
    const { data } = this;
    const line = make("div", "gvm-row", this.root);
    const label = make("div", "", line);
    label.textContent = row.label;
    make("small", "", label).textContent = data.words.scale.replace("{low}", row.low).replace("{high}", row.high);
    const bars = make("div", "gvm-bars", line);
    bars.role = "img";
    bars.ariaLabel = fill(data.words.row_said, {
      label: row.label, first: `${data.names[0]} ${row.texts[0]}`, last: `${data.names.at(-1)} ${row.texts.at(-1)}`,
    });
    return row.heights.map((height, layer) => {
      const one = make("i", "", bars);
      one.style.height = `${Math.round(56 * height) + 2}px`;
      one.style.background = colour;
      one.title = `${data.names[layer]}: ${row.texts[layer]}`;
      return one;
    });
  }
  // The place of the stage that is on now.
  place() {
    const place = this.spans.findIndex(([, end]) => this.t < end);
    return place < 0 ? this.spans.length - 1 : place;
  }
  // When a stage begins, or a layer's turn in it.
  begin(place, turn = 0) {
    const [from, to] = this.spans[place];
    return this.data.stages[place].kind === "still" ? from : from + ((turn + 0.5) * (to - from)) / this.data.names.length;
  }
  // By keyboard the film goes from layer to layer, and by pages from stage to stage.
  press(event) {
    const { stages, names } = this.data;
    const begins = stages.map((_stage, place) => this.begin(place));
    const turns = stages.flatMap((stage, place) => (stage.kind === "still" ? [begins[place]] : names.map((_name, k) => this.begin(place, k))));
    const next = (times) => times.find((t) => t > this.t + 1e-6) ?? times.at(-1), before = (times) => times.findLast((t) => t < this.t - 1e-6) ?? times[0];
    const ways = { ArrowRight: next, ArrowUp: next, ArrowLeft: before, ArrowDown: before, Home: (times) => times[0], End: (times) => times.at(-1) };
    if (event.key in ways) this.go(ways[event.key](turns));
    else if (event.key === "PageUp") this.go(next(begins));
    else if (event.key === "PageDown") this.go(before(begins));
    else return;
    event.preventDefault();
  }
  openTable() {
    const { names, rows, words } = this.data;
    const body = names.map((name, k) => [name, ...rows.map((row) => row.texts[k])]);
    openTable(this.root, words.table_title, this.text.textContent, [[words.layer, ...rows.map((row) => row.label)], ...body], words);
  }
  go(t) {
    this.playing = false;
    this.t = t;
    this.draw();
    this.voice.say(this.slider.ariaValueText);
  }
  tick() {
    if (!this.playing || !this.root.isConnected) return;
    const now = performance.now();
    this.t += (now - this.last) / 1000;
    this.last = now;
    if (this.t >= this.end) [this.t, this.playing] = [this.end, false];
    this.draw();
    if (this.playing) requestAnimationFrame(() => this.tick());
  }
  draw() {
    const { data, spans, t } = this;
    const place = this.place();
    const stage = data.stages[place], count = data.names.length;
    const share = Math.min(1, (t - spans[place][0]) / (spans[place][1] - spans[place][0]));
    const at = Math.min(count - 1, Math.floor(share * count)); // layers done within this stage
    const layer = stage.kind === "backward" ? count - 1 - at : at;
    const done = (wanted) => spans[wanted][1] <= t || place > wanted;
    const lit = [
      (k) => done(0) || (place === 0 && k <= layer),
      (k) => done(2) || (place === 2 && k >= layer),
      (k) => done(2) || (place === 2 && k >= layer),
      () => place >= 3,
      () => place >= 4,
    ];
    this.rows.forEach((bars, row) => bars.forEach((one, k) => {
      one.classList.toggle("lit", lit[row](k));
      one.classList.toggle("now", stage.kind !== "still" && stage.row === row && k === layer);
    }));
    const row = data.rows[stage.row];
    this.text.textContent = stage.text.replace("{name}", data.names[layer]).replace("{value}", row.texts[layer])
      .replace("{below}", data.rows[2].texts[layer]);
    this.buttons.forEach((button, k) => button.setAttribute("aria-current", k === place));
    this.play.textContent = STILL.matches ? data.words.next : this.playing ? data.words.pause : data.words.play;
    this.slider.value = t;
    this.slider.ariaValueText = `${stage.title}. ${this.text.textContent}`;
    if (this.playing) this.voice.say(this.slider.ariaValueText, `playing ${place}`); // each stage once, not each layer
  }
}

export function render(_state, component) {
  const { data, parentElement: host } = component;
  (host.gradvizFilm ??= new Film(host)).load(data);
}
