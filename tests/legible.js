// What a page shows; see legible.py.
(() => {
// Of Streamlit's own: pictures whose text is a font's, and labels that it cuts and has as a title.
const NOT_OURS = "[data-testid=stIconMaterial], [data-testid=stAlertDynamicIcon], [data-testid=stSkipToContent], [aria-label$=' icon'], [data-testid=stMultiSelectTagsContainer]";
// What is said to a screen reader alone has a pixel of its own.
const unseen = (e) => { for (; e && e !== document.body; e = e.parentElement) { const box = e.getBoundingClientRect(), { overflowX } = getComputedStyle(e);
  if (!(e instanceof SVGElement) && overflowX === "hidden" && (box.width <= 2 || box.height <= 2)) return true; } return false; };
const shown = (e) => {
  const box = e.getBoundingClientRect();
  if (box.right <= 0 || box.left >= innerWidth || unseen(e)) return false; // a bar that is put away, say
  const style = getComputedStyle(e);
  return style.visibility !== "hidden" && style.display !== "none" && style.opacity !== "0" && e.getClientRects().length > 0
    && !e.closest(NOT_OURS) && !e.closest("details:not([open]) > :not(summary)") && !e.closest("[aria-hidden=true]");
};
const texts = [];
for (const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT); walker.nextNode();) {
  const { currentNode: node, currentNode: { parentElement: e } } = walker;
  if (node.data.trim() && !["STYLE", "SCRIPT", "NOSCRIPT", "CODE", "OPTION"].includes(e.tagName) && !e.closest("pre") && shown(e)) texts.push([node, e]);
}
return {
texts() {
  const inline = (e) => e instanceof SVGTSpanElement || (getComputedStyle(e).display.startsWith("inline") && !(e instanceof SVGElement) && e.tagName !== "BUTTON");
  const blocks = new Map();
  for (const [node, e] of texts) {
    let block = e;
    while (inline(block)) block = block.parentElement;
    blocks.set(block, (blocks.get(block) ?? "") + node.data);
  }
  return [...blocks.values()].map((text) => text.trim());
},
named() {
  const said = [...document.querySelectorAll("[title], [aria-label], [placeholder], [alt], [aria-valuetext]")].filter(shown);
  return [...new Set(said.flatMap((e) => ["title", "aria-label", "placeholder", "alt", "aria-valuetext"].map((name) => e.getAttribute(name)?.trim())))]
    .filter(Boolean);
},
cut() {
  const found = [];
  for (const [node, e] of texts) {
    const range = document.createRange();
    range.selectNodeContents(node);
    const text = range.getBoundingClientRect();
    for (let box = e; box && box !== document.body; box = box.parentElement) {
      const style = getComputedStyle(box);
      if (box.tagName === "svg" || (box instanceof SVGElement)) continue;
      const [x, y] = [style.overflowX, style.overflowY].map((word) => word === "hidden" || word === "clip");
      if (!x && !y) { if (/auto|scroll/.test(style.overflowX + style.overflowY)) break; continue; }
      const room = box.getBoundingClientRect();
      if ((x && (text.right > room.right + 2 || text.left < room.left - 2)) || (y && (text.bottom > room.bottom + 4 || text.top < room.top - 4))) {
        found.push(node.data.trim());
        break;
      }
    }
  }
  return found;
},
overlapping() {
  const boxes = texts.map(([node, e]) => {
    const range = document.createRange();
    range.selectNodeContents(node);
    return [...range.getClientRects()].map((rect) => ({ rect, node, e }));
  }).flat().filter(({ rect }) => rect.width > 2 && rect.height > 2);
  const over = (e) => { for (; e; e = e.parentElement) if (["fixed", "sticky"].includes(getComputedStyle(e).position)) return true; return false; };
  const askew = (e) => [...(e.closest("text")?.getAttribute("transform") ?? "").matchAll(/rotate\((-?[\d.]+)/g)].some((turn) => turn[1] % 90);
  const lying = boxes.filter(({ e }) => !over(e) && !askew(e) && !e.closest("[data-testid=stTopNav], .gv-tip, .hoverlayer"));
  const found = [];
  for (const [i, a] of lying.entries()) for (const b of lying.slice(i + 1)) {
    if (a.node === b.node || a.e.contains(b.e) || b.e.contains(a.e)) continue;
    const wide = Math.min(a.rect.right, b.rect.right) - Math.max(a.rect.left, b.rect.left);
    const high = Math.min(a.rect.bottom, b.rect.bottom) - Math.max(a.rect.top, b.rect.top);
    if (wide > 3 && high > 5) found.push(`${a.node.data.trim()} | ${b.node.data.trim()}`);
  }
  return found;
},
};
})()
