// Asks the server for what is new, and keeps what came.

import { Message } from "./wire.js";

// Asks again and again while somebody sees the page. `ask` gives the milliseconds until the next time; if it throws, so does
// `failed`. Whoever has seen enough sets `ended`.
export class Poll {
  constructor(ask, failed) {
    Object.assign(this, { ask, failed, ended: false });
    this.wake = () => document.hidden || this.now();
    document.addEventListener("visibilitychange", this.wake);
  }
  again(milliseconds) {
    clearTimeout(this.timer);
    if (!this.destroyed && !this.ended && !document.hidden) this.timer = setTimeout(() => this.now(), milliseconds);
  }
  // While it is being asked, a call does nothing.
  async now() {
    clearTimeout(this.timer);
    if (this.destroyed || this.ended || this.asking || document.hidden) return;
    this.asking = true;
    let wait;
    try {
      wait = await this.ask();
    } catch (error) {
      if (!(error instanceof TypeError)) console.error(error); // else: no connection; the next one may come through
      wait = this.failed();
    } finally {
      this.asking = false;
    }
    this.again(wait);
  }
  destroy() {
    this.destroyed = true;
    clearTimeout(this.timer);
    document.removeEventListener("visibilitychange", this.wake);
  }
}

// In the language of the page, which a browser that translates pages by itself does not change there.
export function address(path) {
  const url = new URL(path, document.baseURI);
  url.searchParams.set("lang", document.documentElement.dataset.lang);
  return url;
}

// What the page is told of the class (Notice in classroom.js, if the page has one) comes along once it is due, and is then not
// asked for by itself: of a page that is live there is one poll.
export async function get(path) {
  const url = address(path), notice = window.gradvizNotice, due = notice?.due();
  if (due) url.searchParams.set("notice", 1);
  const reply = await fetch(url, { cache: "no-store" });
  const told = due && reply.headers.get("Gradviz-Notice");
  if (told) notice.hear(JSON.parse(told));
  return reply;
}

// The run as it is known, with the columns of a message joined to it, or null: they do not fit to what is here, ask for
// everything. Names and title come with the first answer only, and stay.
export function joined(run, message) {
  const { tests: tested, ...header } = message.header;
  const { first, columns, rows } = header, sent = columns - first;
  if (first > 0 && (!run || run.created !== header.created || first > run.codes.length)) return null;
  const loss = message.take(Float32Array, sent), accuracy = message.take(Float32Array, sent);
  const newest = message.take(Float32Array, columns ? rows : 0);
  const testSteps = message.take(Int32Array, tested), tests = message.take(Float32Array, tested);
  const codes = message.take(Uint8Array, sent * rows);
  const kept = first > 0 ? run : { losses: [], accuracies: [], tested: [], codes: [] };
  return {
    ...kept, ...header, newest,
    losses: [...kept.losses.slice(0, first), ...loss],
    accuracies: [...kept.accuracies.slice(0, first), ...accuracy],
    tested: [...kept.tested.filter(([step]) => step < first * header.stride), ...Array.from(testSteps, (step, i) => [step, tests[i]])],
    codes: [...kept.codes.slice(0, first), ...Array.from({ length: sent }, (_, c) => codes.subarray(c * rows, (c + 1) * rows))],
  };
}

const KEPT = 60; // exact columns

// One run, or one preview of a net, as the server has it. The panel hears of it: tell(text); began() another run, or the same
// anew; took({ first, grown, fresh }), the columns from `first` on, whether there is anything new, and whether it knew none
// before; referred(), the first column is there; foretold(preview), what theory says of it while it is measured and how far that
// is; measured(preview), null if that failed; lost(), the server knows of none.
export class Feed {
  constructor(panel) {
    this.panel = panel;
    this.exact = new Map(); // exact columns of this run by first step, the latest asked for last
    this.drawMs = 0; // that the last drawing took
    this.poll = new Poll(() => this.ask(), () => {
      panel.tell(panel.words.offline);
      return 1000;
    });
  }

  open(id, preview) {
    Object.assign(this, { id, isPreview: preview, opened: performance.now(), unfolded: [], foretold: false });
    this.poll.ended = false;
    this.forget();
  }

  // Another range of a quantity, or (`fit`) the one that holds all of it; a run that has ended is asked once more for it.
  want(quantity, range, fit = false) {
    Object.assign(this, { quantity, range, fit });
    this.poll.ended = false;
  }

  // The groups of layers that are unfolded, by their first layers.
  unfold(unfolded) {
    this.unfolded = unfolded;
    this.again();
  }

  // Asks once more, of a run that has ended too.
  again() {
    this.poll.ended = false;
    return this.poll.now();
  }

  forget() {
    this.run = this.reference = this.referenceAsked = null;
    this.exact.clear();
    this.panel.began();
  }

  destroy() {
    this.poll.destroy();
  }

  async ask() {
    const { id, opened } = this;
    const wait = await (this.isPreview ? this.askPreview({ id, opened }) : this.askRun({ id, opened }));
    return this.away({ id, opened }) ? 0 : wait;
  }

  // Whether what was asked for then is no longer wanted: another run, or another language.
  away({ id, opened }) {
    return id !== this.id || opened !== this.opened || this.poll.destroyed;
  }

  lost() {
    this.panel.lost();
    return 3000;
  }

  async askRun(wish) {
    const { id } = wish;
    const { quantity, range, run, panel, fit, unfolded } = this;
    const known = run && run.asked === unfolded && run.quantity === quantity && run.low === range[0] && run.high === range[1];
    const query = new URLSearchParams({
      since: known ? run.steps : 0, stride: known ? run.stride : 0, quantity, low: range[0], high: range[1],
      ...(fit ? { fit: 1 } : {}), ...(unfolded.length ? { open: unfolded } : {}),
    });
    const reply = await get(`api/runs/${encodeURIComponent(id)}?${query}`);
    if (this.away(wish)) return 0;
    if (reply.status === 404) return this.lost();
    if (!reply.ok) {
      panel.tell(await reply.text());
      return 3000;
    }
    const message = new Message(await reply.arrayBuffer());
    if (this.away(wish) || quantity !== this.quantity || range !== this.range || unfolded !== this.unfolded) return 0;
    const { first, steps, created, live } = message.header;
    const grown = steps !== run?.steps || first === 0;
    if (this.run && this.run.created !== created) this.forget(); // it was begun anew
    if (fit) this.range = [message.header.low, message.header.high];
    const next = joined(this.run, message), fresh = this.run?.asked !== unfolded;
    if (fresh) this.reference = this.referenceAsked = null; // its rows were others
    if (fresh) this.exact.clear();
    this.run = next;
    if (!next) return 0;
    // Where too many rows would be open, the server has folded some again.
    next.asked = this.unfolded = next.opened.length === unfolded.length ? unfolded : next.opened;
    if (!live) this.poll.ended = true;
    panel.took({ first, grown, fresh });
    this.askReference();
    // Often at first; seldom where drawing is slow, so that a page never takes more than a fifth of a busy machine.
    const young = performance.now() - this.opened < 10000;
    const rests = next.status === "paused" || next.place > 1; // what this page does about it is asked for at once
    const wanted = young && next.status === "running" && !steps ? 100 : young ? 300 : rests ? 2500 : 1000;
    return Math.min(3000, Math.max(wanted, 4 * this.drawMs));
  }

  // The first column, exactly, with what theory says of it.
  async askReference() {
    const { run } = this;
    if (this.reference || !run.steps || this.referenceAsked === run.created) return;
    this.referenceAsked = run.created;
    try {
      const column = await this.askExact(0);
      if (!column || this.run?.created !== run.created) return;
      this.reference = column;
      this.panel.referred();
    } catch {
      this.referenceAsked = null; // no connection: the next poll asks again
    }
  }

  // The exact numbers of the column that holds a step, or null.
  async askExact(step) {
    const { id, run, unfolded } = this;
    const known = this.exact.get(step - (step % run.stride));
    if (known && known.stride === run.stride) return known;
    const reply = await get(`api/runs/${encodeURIComponent(id)}/profile?${new URLSearchParams({ step, ...(unfolded.length ? { open: unfolded } : {}) })}`);
    if (!reply.ok || id !== this.id || unfolded !== this.unfolded) return null;
    const column = new Message(await reply.arrayBuffer()).takeProfile();
    const complete = column.to_step - column.from_step + 1 === column.stride;
    if (complete) this.exact.set(column.from_step, column); // else it may still grow
    if (this.exact.size > KEPT) this.exact.delete(this.exact.keys().next().value);
    return column;
  }

  async askPreview(wish) {
    const { id } = wish, { panel } = this;
    const reply = await get(`api/previews/${encodeURIComponent(id)}?ahead=${this.foretold ? 2 : 1}`);
    if (this.away(wish)) return 0;
    if (reply.status === 404) return this.lost();
    if (reply.status === 202) {
      const ahead = new Message(await reply.arrayBuffer()).takeProfile();
      if (this.away(wish)) return 0;
      panel.foretold(ahead);
      this.foretold = true;
      return 0;
    }
    const text = reply.ok ? "" : await reply.text();
    const message = reply.ok ? new Message(await reply.arrayBuffer()) : null;
    if (this.away(wish)) return 0;
    this.poll.ended = true;
    panel.tell(text);
    panel.measured(message?.takeProfile() ?? null);
    return 0;
  }
}
