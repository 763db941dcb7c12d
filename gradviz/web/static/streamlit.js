// What Streamlit says by itself, which it does in English alone, in the reader's words; and what it leaves out for the keyboard.

// Ours, and what people wrote, is as it should be.
const OURS = ".gv, .gvc, .gv-window, figure, .stMarkdown, [data-testid=stMarkdownContainer], pre, code, style, script, svg";
const STREAMLITS = "[data-testid=stHeaderActionElements]"; // though it stands in a heading of ours: its help
const ATTRIBUTES = ["aria-label", "title", "placeholder"];

// {text: what to say}, `{name}` in a text stands for anything. Once for a page; again when the reader's language changes.
export function speak(words) {
  const page = document.documentElement;
  page.gradvizWords?.stop();
  page.gradvizWords = new Words(words, page.gradvizWords?.english);
}

// A browser that translates the page puts a <font> in the place of each text. Streamlit goes on writing into the text, which
// nobody sees any more: then it comes back, for the browser to translate anew.
function translated({ removedNodes, addedNodes }) {
  const font = [...addedNodes].find((node) => node.nodeName === "FONT");
  for (const text of font ? removedNodes : []) {
    if (text.nodeType !== Node.TEXT_NODE || text.isConnected) continue;
    new MutationObserver((_changes, watch) => {
      watch.disconnect();
      if (font.isConnected) font.replaceWith(text);
    }).observe(text, { characterData: true });
  }
}

class Words {
  constructor(words, english = new Map()) {
    this.english = english; // of what was put in the place of it, in whatever language
    this.whole = new Map(Object.entries(words));
    this.patterns = Object.entries(words).filter(([text]) => text.includes("{")).map(([text, said]) => [
      new RegExp(`^${text.replace(/[.*+?^$()|[\]\\]/g, "\\$&").replace(/\{\w+\}/, "(.+)")}$`, "s"), said,
    ]);
    this.observer = new MutationObserver((records) => {
      for (const record of records) {
        this.changed(record.target, record.type, record.addedNodes);
        translated(record);
      }
    });
    this.all(document.body);
    this.observer.observe(document.body, { subtree: true, childList: true, characterData: true, attributes: true, attributeFilter: ATTRIBUTES });
  }
  stop() {
    this.observer.disconnect();
  }
  changed(target, type, added) {
    const within = target.nodeType === Node.TEXT_NODE ? target.parentElement : target;
    if (!within?.isConnected || (within.closest(OURS) && !within.closest(STREAMLITS))) {
      if (type === "childList" && within?.matches(":not(.gv *) [data-testid=stCode], [data-testid=stCode] *")) this.reachable(within);
      return;
    }
    if (type === "attributes") this.named(within);
    else if (type === "characterData") this.text(target);
    else for (const node of added) node.nodeType === Node.TEXT_NODE ? this.text(node) : node.nodeType === Node.ELEMENT_NODE && this.all(node);
  }
  all(root) {
    this.reachable(root);
    this.walk(root);
    for (const part of root.querySelectorAll(STREAMLITS)) this.walk(part);
  }
  walk(root) {
    const walker = document.createTreeWalker(root, NodeFilter.SHOW_ELEMENT | NodeFilter.SHOW_TEXT, (node) => (
      node.nodeType === Node.ELEMENT_NODE && node.matches(OURS) ? NodeFilter.FILTER_REJECT : NodeFilter.FILTER_ACCEPT));
    for (let node = walker.currentNode; node; node = walker.nextNode()) node.nodeType === Node.TEXT_NODE ? this.text(node) : this.named(node);
  }
  reachable(root) { // a program that is wider than the screen is scrolled by keyboard too
    for (const program of root.querySelectorAll("[data-testid=stCode] pre:not([tabindex])")) program.tabIndex = 0;
  }
  text(node) {
    const said = this.said(node.data);
    if (said !== node.data) node.data = said;
  }
  named(element) {
    for (const name of ATTRIBUTES) {
      const text = element.getAttribute(name), said = text && this.said(text);
      if (said !== text) element.setAttribute(name, said);
    }
  }
  said(given) {
    const text = this.english.get(given) ?? given;
    let said = this.whole.get(text);
    for (const [pattern, words] of said ? [] : this.patterns) {
      const found = pattern.exec(text);
      if (found) { said = words.replace(/\{\w+\}/, () => found[1]); break; }
    }
    if (said && said !== text) this.english.set(said, text);
    return said ?? text;
  }
}
