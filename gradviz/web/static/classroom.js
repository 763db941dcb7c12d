// The class's cards, the title of the wall, and the invisible watch over what the teacher has decided.
// render() is called at every script run and theme switch with the same host element. Names and all other words go into
// the page as text, never as markup.

import { Poll, get } from "./feed.js";
import { MARKS, make, paint, theme } from "./look.js";
import { decimal, fill } from "./numbers.js";
import { speak } from "./streamlit.js";
import { ABOVE, ABSENT, FIRST_LEVEL, INFINITE, LEVELS, Message } from "./wire.js";

export function render(state, component) {
  const kind = { cards: Cards, title: Title, notice: Notice }[component.data.mode];
  state.part ??= new kind(component.parentElement);
  state.part.update(component);
}

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 60; // of a sparkline's own units; a bin is 10 wide

const CSS = `
.gvc { font-family: var(--st-font, sans-serif); color: var(--st-text-color, inherit); }
.gvc * { box-sizing: border-box; }
.gvc-cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 255px), 1fr)); gap: 14px; }
.gvc-card { border: 1px solid color-mix(in srgb, var(--st-text-color, #888) 22%, transparent); border-radius: 8px; padding: 10px 12px;
  display: flex; flex-direction: column; gap: 5px; min-width: 0; }
.gvc-card[data-status=running] { border-color: var(--st-primary-color, #1f6feb); }
.gvc-who { font-size: 17px; font-weight: 600; line-height: 1.3; overflow: hidden; overflow-wrap: anywhere; }
.gvc-card[data-named=no] .gvc-who { font-weight: 400; opacity: .85; }
.gvc-what { font-size: 13px; line-height: 1.35; min-height: 2.7em; overflow-wrap: anywhere; }
.gvc-state { font-size: 13px; opacity: .8; display: flex; flex-wrap: wrap; gap: 0 8px; font-variant-numeric: tabular-nums; }
.gvc-spark, .gvc-heat { width: 100%; display: block; border-radius: 3px; }
.gvc-spark { height: 44px; }
.gvc-heat { height: 84px; image-rendering: pixelated; outline: 1px solid color-mix(in srgb, var(--st-text-color, #888) 22%, transparent); }
.gvc-verdict { font-size: 15px; font-weight: 600; min-height: 1.4em; display: flex; justify-content: space-between; gap: 8px; flex-wrap: wrap; }
.gvc-verdict small { font-size: 13px; font-weight: 400; opacity: .8; font-variant-numeric: tabular-nums; }
.gvc-buttons { display: flex; flex-wrap: wrap; gap: 5px; margin-top: auto; }
.gvc-buttons button { font: inherit; font-size: 12.5px; color: inherit; background: transparent; padding: 2px 9px; border-radius: 6px; cursor: pointer; min-height: 24px;
  border: 1px solid color-mix(in srgb, var(--st-text-color, #888) 30%, transparent); }
.gvc-buttons button:hover { border-color: var(--st-primary-color, #1f6feb); }
.gvc-notice { font-size: 13px; opacity: .8; margin: 8px 0 0; }
.gvc-notice:empty { display: none; }
.gvc .gvc-title:is(h1, h2) { margin: 0; padding: 0; font-size: clamp(26px, 3.6vw, 60px); font-weight: 700; line-height: 1.3; overflow: hidden; overflow-wrap: anywhere; }
.gvc-subtitle { font-size: clamp(16px, 1.8vw, 30px); margin-top: 4px; overflow-wrap: anywhere; }
`;

class Part {
  constructor(host) {
    this.host = host;
    this.root = make("div", "gvc", host);
    make("style", "", this.root, CSS);
  }
  update(component) {
    if (this.data?.lang !== component.data.lang) this.seen = ""; // all that is said, in another language
    this.component = component;
    this.data = component.data;
    this.words = component.data.words;
  }
  destroy() {
    this.poll?.destroy();
    this.root.remove();
  }
}

class Title extends Part {
  constructor(host) {
    super(host);
    this.title = make(host.closest("[role=dialog]") ? "h2" : "h1", "gvc-title", this.root);
    this.subtitle = make("div", "gvc-subtitle", this.root);
  }
  update(component) {
    super.update(component);
    this.title.textContent = this.data.names;
    this.subtitle.textContent = this.data.summary;
  }
}

// ---- Cards ----------------------------------------------------------------------------------------------------------

class Cards extends Part {
  constructor(host) {
    super(host);
    this.grid = make("div", "gvc-cards", this.root);
    this.notice = make("p", "gvc-notice", this.root);
    this.cards = new Map(); // run id -> Card
    this.seen = "";
    this.root.dataset.mode = "cards";
    this.poll = new Poll(() => this.ask(), () => {
      this.notice.textContent = this.words.offline;
      return 3000;
    });
  }
  update(component) {
    super.update(component);
    this.look = theme(this.host);
    for (const card of this.cards.values()) card.draw();
    this.poll.now();
  }
  async ask() {
    const reply = await get(`api/classroom?${new URLSearchParams({ seen: this.seen })}`);
    if (!reply.ok) throw new TypeError(String(reply.status));
    return this.take(new Message(await reply.arrayBuffer()));
  }
  take(message) {
    const { header } = message;
    for (const [id, card] of Object.entries(header.cards)) {
      const loss = message.take(Uint8Array, card.filled), codes = message.take(Uint8Array, card.filled * card.rows);
      if (!this.cards.has(id)) this.cards.set(id, new Card(this, id));
      this.cards.get(id).take(card, loss, codes);
    }
    this.seen = header.order.every((id) => this.cards.has(id)) ? header.seen : ""; // a card is missing: ask for all
    if (!this.seen) return 1000;
    const shown = new Set(header.order);
    for (const [id, card] of this.cards) {
      if (shown.has(id)) continue;
      card.box.remove();
      this.cards.delete(id);
    }
    // Moved only where the order has changed: a button under the mouse stays where it is.
    header.order.forEach((id, place) => {
      const { box } = this.cards.get(id);
      if (this.grid.children[place] !== box) this.grid.insertBefore(box, this.grid.children[place] ?? null);
    });
    this.notice.textContent = header.more ? fill(this.words.more, { n: header.more }) : "";
    Object.assign(this.root.dataset, { cards: header.order.length, ended: header.ended, polls: Number(this.root.dataset.polls ?? 0) + 1 });
    this.tellEnded(header.ended);
    return [...this.cards.values()].some((card) => ["running", "queued"].includes(card.card.status)) ? 1000 : 2000;
  }
  // The picture of all ended runs is the page's own. It is asked for seldom, and not by all browsers at once.
  tellEnded(ended) {
    if (ended === this.data.ended || this.telling) return;
    this.telling = setTimeout(() => {
      this.telling = null;
      if (!this.poll.destroyed && Number(this.root.dataset.ended) !== this.data.ended) this.component.setTriggerValue("ended", Number(this.root.dataset.ended));
    }, 4000 + 6000 * Math.random());
  }
  destroy() {
    clearTimeout(this.telling);
    super.destroy();
  }
}

class Card {
  constructor(cards, id) {
    Object.assign(this, { cards, id });
    this.box = make("article", "gvc-card");
    this.box.dataset.id = id;
    this.who = make("div", "gvc-who", this.box);
    this.what = make("div", "gvc-what", this.box);
    this.state = make("div", "gvc-state", this.box);
    this.spark = document.createElementNS(SVG, "svg");
    this.spark.setAttribute("class", "gvc-spark");
    this.spark.setAttribute("preserveAspectRatio", "none");
    this.spark.setAttribute("role", "img");
    this.box.append(this.spark);
    this.heat = make("canvas", "gvc-heat", this.box);
    this.heat.setAttribute("role", "img");
    const line = make("div", "gvc-verdict", this.box);
    this.verdict = make("span", "", line);
    this.loss = make("small", "", line);
    this.buttons = make("div", "gvc-buttons", this.box);
  }
  take(card, loss, codes) {
    Object.assign(this, { card, losses: loss, codes });
    this.draw();
  }
  draw() {
    const { card, cards, box } = this;
    const { words } = cards;
    const names = card.names.join(", ");
    Object.assign(box.dataset, { status: card.status, named: names ? "yes" : "no", steps: card.steps, filled: card.filled, verdict: card.verdict });
    this.who.textContent = !names ? words.nobody : card.others ? fill(words.others, { names, n: card.others }) : names;
    this.what.textContent = card.summary;
    const far = card.total === null ? words.hovered : words.step_of_short;
    const where = card.place ? fill(words.in_queue, { n: card.place }) : fill(far, { step: card.steps, total: card.total });
    this.state.replaceChildren(...[(card.watched && words.status_watched[card.status]) || words.status[card.status], where].map((text) => make("span", "", null, text)));
    this.verdict.textContent = card.filled ? (words.verdicts[card.verdict] ?? card.verdict) : words.waits;
    this.loss.textContent = card.loss === null ? "" : fill(words.loss_now, { loss: decimal(card.loss, words) });
    box.ariaLabel = `${this.who.textContent}, ${card.summary}`;
    this.drawSpark();
    this.drawHeat();
    this.drawButtons();
  }
  drawSpark() {
    const { card, spark, cards: { look, words, data } } = this;
    const width = Math.max(1, card.bins) * 10;
    spark.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    spark.setAttribute("aria-label", `${card.watched ? words.spark_any : words.spark} ${this.loss.textContent}`);
    spark.replaceChildren();
    const add = (tag, attributes) => {
      const element = document.createElementNS(SVG, tag);
      for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
      spark.append(element);
    };
    const line = { fill: "none", "vector-effect": "non-scaling-stroke" };
    add("rect", { x: 0, y: 0, width, height: HEIGHT, fill: look.empty, "fill-opacity": 0.45 });
    const chance = HEIGHT * (1 - data.chance / data.loss_top);
    if (!card.watched) add("line", { x1: 0, x2: width, y1: chance, y2: chance, stroke: look.faint, "stroke-dasharray": "4 4", "stroke-width": 1, ...line });
    let points = [];
    const flush = () => {
      if (points.length === 1) points.push([points[0][0] + 4, points[0][1]]);
      if (points.length) add("polyline", { points: points.map((point) => point.join(",")).join(" "), stroke: look.first, "stroke-width": 2, ...line });
      points = [];
    };
    this.losses.forEach((code, bin) => {
      const x = bin * 10 + 5;
      if (code === ABSENT) flush(); // not told
      else if (code >= INFINITE || code === ABOVE) {
        flush(); // above the edge, or not a number at all: a mark at the upper edge
        add("rect", { x: x - 4, y: 1, width: 8, height: 9, fill: code === ABOVE ? MARKS.above : MARKS.not_finite });
      } else points.push([x, HEIGHT * (1 - (code - FIRST_LEVEL + 0.5) / LEVELS)]);
    });
    flush();
  }
  drawHeat() {
    const { card, heat, codes, cards: { look, words } } = this;
    heat.setAttribute("aria-label", `${words.heat} ${this.verdict.textContent}`);
    heat.style.background = look.empty;
    heat.width = Math.max(1, card.bins);
    heat.height = Math.max(1, card.rows);
    paint(heat, Array.from({ length: card.filled }, (_, bin) => codes.subarray(bin * card.rows, (bin + 1) * card.rows)), 0, true);
  }
  drawButtons() {
    const { card, cards, buttons, id } = this;
    const { status } = card;
    const running = status === "running" || status === "queued";
    const own = !card.watched; // else another process trains it
    const fits = { pause: own && running, resume: own && status === "paused", stop: own && (running || status === "paused"), delete: own || !running };
    const wanted = cards.data.actions.filter((word) => fits[word] ?? true);
    if (buttons.dataset.wanted === wanted.join()) return; // a click needs the same button under mouse down and up
    buttons.dataset.wanted = wanted.join();
    buttons.replaceChildren(...wanted.map((word) => {
      const button = make("button", "", null, cards.words.actions[word]);
      button.type = "button";
      button.dataset.action = word;
      button.addEventListener("click", () => cards.component.setTriggerValue("action", `${word} ${id}`));
      return button;
    }));
  }
}

// ---- What the teacher has decided, and this browser's name -----------------------------------------------------------

const NAME = "gradviz-name";

class Notice extends Part {
  constructor(host) {
    super(host);
    this.next = Infinity; // when it may be asked for along with something else
    this.poll = new Poll(() => this.ask(), () => 2500);
    window.gradvizNotice = this; // for whatever else of this page asks the server, in other scripts too
  }
  update(component) {
    const spoken = this.data?.lang;
    super.update(component);
    if (spoken !== this.data.lang) speak(this.data.streamlit);
    this.keepName();
    this.poll.again(this.told ? 3000 : 500);
  }
  keepName() {
    const { name, seen } = this.data;
    if (seen) document.cookie = `${seen}=1; max-age=31536000; samesite=lax; path=${new URL(document.baseURI).pathname}`;
    try {
      if (name) localStorage.setItem(NAME, name);
      else if (name === "") localStorage.removeItem(NAME);
      else if (!this.asked && localStorage.getItem(NAME)) {
        this.asked = true;
        this.component.setTriggerValue("name", localStorage.getItem(NAME));
      }
    } catch { /* a browser that remembers nothing */ }
  }
  // Whether it is time to hear again: before it asks by itself, where somebody else asks once a second.
  due() {
    return performance.now() > this.next;
  }
  // What has come along with another answer.
  hear(notice) {
    this.next = performance.now() + 1900;
    this.poll.again(4500);
    this.compare(notice);
  }
  async ask() {
    this.told = true;
    this.next = performance.now() + 1200;
    const reply = await get("api/classroom/notice");
    if (reply.ok) this.compare(await reply.json());
    return 2500;
  }
  async compare(notice) {
    const differs = () => Object.entries(this.data.drawn).some(([word, value]) => this.newest[word] !== value);
    this.newest = notice;
    if (this.comparing || !differs()) return;
    this.comparing = true;
    await new Promise((done) => setTimeout(done, 1500 * Math.random())); // not all pages of the class at once
    this.comparing = false;
    if (!this.poll.destroyed && differs()) this.component.setTriggerValue("changed", JSON.stringify(this.newest));
  }
  destroy() {
    if (window.gradvizNotice === this) window.gradvizNotice = null;
    super.destroy();
  }
}
