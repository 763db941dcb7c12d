// A page in one file, without a server and a network: gradviz/share/page.py has put its texts, figures and runs into it, packed,
// and the modules of the pages draw them. What somebody typed becomes text here, never markup.

import { show } from "./figure.js";
import { Kept } from "./kept.js";
import { make } from "./look.js";
import { fill } from "./numbers.js";
import { Panel } from "./panel.js";
import { Message } from "./wire.js";

const SECONDS = 8; // of a replay
const root = document.documentElement;

// What a script element holds, unpacked.
async function unpacked(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent.trim()), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

// The page's policy lets this very text run, by its hash.
async function plotly() {
  make("script", "", document.head, new TextDecoder().decode(await unpacked("plotly")));
  return window.Plotly;
}

// The live element; asked only when there is something to say.
class Replay extends Panel {
  took(news) {
    super.took(news);
    this.feed.poll.ended = true;
  }
}

// Runs, one of them on the screen, with a slider over the moments of its training.
class Player {
  constructor(parent, { ids, names }, runs, words, home) {
    Object.assign(this, { runs, words, home, bar: make("div", "share-bar", parent) });
    const label = make("label", "", this.bar, ids.length > 1 ? words.run : "");
    this.select = make("select", "", label);
    this.select.replaceChildren(...ids.map((id, i) => new Option(names[i], id)));
    label.hidden = ids.length < 2;
    this.button = make("button", "", this.bar);
    this.slider = make("input", "", this.bar);
    Object.assign(this.slider, { type: "range", min: 0, ariaLabel: words.until });
    this.text = make("output", "", this.bar);
    this.note = make("p", "share-note", parent);
    this.host = make("div", "", parent);
    this.select.addEventListener("change", () => this.open(this.select.value));
    this.button.addEventListener("click", () => (this.playing ? this.pause() : this.play()));
    this.slider.addEventListener("input", () => {
      this.pause();
      this.go(Number(this.slider.value));
    });
    this.open(ids[0]);
  }
  open(id) {
    this.pause();
    this.run = this.runs.get(id);
    this.slider.max = this.run.kept.film.length;
    this.note.textContent = this.run.note;
    this.update();
    this.go(this.run.kept.film.length);
  }
  // For a new run, and new colours.
  update() {
    const data = { ...this.run.data, home: this.home, lang: root.dataset.lang };
    this.panel ??= new Replay(this.host);
    this.panel.update({ data, parentElement: this.host, setTriggerValue() {} });
  }
  go(place) {
    const { kept } = this.run, { film, header } = kept;
    kept.place = place;
    const steps = place < film.length ? Math.min((film[place].column + 1) * header.stride, header.steps) : header.steps;
    this.slider.value = place;
    this.text.textContent = this.slider.ariaValueText = fill(this.words.step_of_all, { step: steps - 1, last: header.steps - 1 });
    this.button.textContent = this.playing ? this.words.pause : this.words.replay;
    this.follow();
  }
  // Until what is drawn is what is wanted.
  async follow() {
    if (this.following) return;
    this.following = true;
    while (this.run.kept.shown !== this.run.kept.place) {
      await this.panel.feed.again();
      await new Promise(requestAnimationFrame);
    }
    this.following = false;
  }
  play() {
    const { film } = this.run.kept, from = this.run.kept.place < film.length ? this.run.kept.place : 0;
    const started = performance.now();
    const frame = (now) => {
      if (this.playing !== frame) return; // paused, or begun again, since
      const place = Math.min(film.length, from + Math.floor(((Math.max(now, started) - started) / 1000 / SECONDS) * film.length));
      if (place === film.length) this.playing = null;
      if (place !== this.run.kept.place || !this.playing) this.go(place);
      requestAnimationFrame(frame);
    };
    this.playing = frame;
    this.go(from);
    requestAnimationFrame(frame);
  }
  pause() {
    if (!this.playing) return;
    this.playing = null;
    this.go(this.run.kept.place);
  }
}

const BLOCKS = {
  heading: ({ text }, into) => make("h2", "", into, text),
  text: ({ text }, into) => make("p", "", into, text),
  code: ({ text }, into) => make("pre", "", into, text),
  list: ({ items }, into) => {
    const list = make("ul", "", into);
    for (const item of items) make("li", "", list, item);
  },
  link: ({ text, href }, into) => Object.assign(make("a", "", make("p", "", into), text), { href, rel: "noreferrer" }),
  table: ({ head, rows }, into) => {
    const table = make("table", "", make("div", "share-table", into));
    const line = (cells, tag) => {
      const row = make("tr", "", table);
      for (const cell of cells) make(tag, "", row, cell);
    };
    if (head.length) line(head, "th");
    for (const cells of rows) line(cells, "td");
  },
  folded: ({ title, blocks }, into, show) => {
    const details = make("details", "", into);
    make("summary", "", details, title);
    for (const block of blocks) show(block, details);
  },
};

// Light or dark: as the reader's system is, until the button says otherwise.
function themes(button, words, changed) {
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  const put = () => {
    const dark = chosen ?? system.matches;
    root.dataset.theme = dark ? "dark" : "light";
    button.textContent = dark ? words.light : words.dark;
    changed();
  };
  button.addEventListener("click", () => {
    chosen = root.dataset.theme !== "dark";
    put();
  });
  system.addEventListener("change", put);
  put();
}

export async function render() {
  const message = new Message(await unpacked("content"));
  const { page, runs: told, size } = message.header, body = message.take(Uint8Array, size);
  const runs = new Map(told.map((run) => [run.id, { ...run, kept: new Kept(run.kept, body) }]));
  window.fetch = async (address) => { // nothing else is here to be asked
    const url = new URL(address), [, id, what] = /api\/runs\/([^/]+)(\/profile)?$/.exec(url.pathname);
    const { kept } = runs.get(decodeURIComponent(id));
    return new Response(await (what ? kept.profile(url.searchParams) : kept.delta(url.searchParams)));
  };
  window.gradvizPlotly = plotly();
  const main = document.querySelector("main"), head = make("header", "", main), { words } = page;
  main.querySelector("p").remove();
  make("h1", "", head, page.title);
  const button = make("button", "", head), redraws = [];
  themes(button, words, () => redraws.forEach((redraw) => redraw()));
  const place = (block, into) => {
    const draw = BLOCKS[block.kind];
    if (draw) draw(block, into, place);
    else if (block.kind === "runs") {
      const player = new Player(make("section", "", into), block, runs, words, page.home);
      redraws.push(() => player.update());
    } else {
      const host = make("section", "share-figure", into), data = { ...block, lang: root.dataset.lang, ...page.figures };
      show(host, data);
      redraws.push(() => show(host, data));
      make("p", "share-note", into, block.read);
    }
  };
  for (const block of page.blocks) place(block, main);
}
