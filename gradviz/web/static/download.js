// A button that looks as Streamlit's own. It asks first: a refusal then stands on the page, where a link would save it as the
// file or show it in its place.

import { address } from "./feed.js";
import { make } from "./look.js";

const STYLE = `.gv-download { display: flex; align-items: center; gap: 0.6rem; }
.gv-download button { display: inline-flex; align-items: center; gap: 0.5rem; min-height: 2.5rem; padding: 0.25rem 0.75rem;
  cursor: pointer; font: inherit; font-family: var(--st-font, sans-serif); white-space: nowrap;
  color: var(--st-text-color, inherit);
  background: var(--st-background-color, transparent); border: 1px solid var(--st-border-color, #8886);
  border-radius: var(--st-button-radius, 0.5rem); }
.gv-download button:hover, .gv-download button:focus-visible { color: var(--st-primary-color, #1f6feb);
  border-color: var(--st-primary-color, #1f6feb); outline: none; }
.gv-download button:disabled { opacity: 0.5; cursor: default; }
.gv-download [role=status]:empty { display: none; }`;

export function render(_state, component) {
  const { data, parentElement: host } = component;
  let box = host.querySelector(".gv-download");
  if (!box) {
    make("style", "", host, STYLE);
    box = make("div", "gv-download", host);
    const button = make("button", "", box), note = make("span", "", box);
    button.type = "button";
    note.setAttribute("role", "status");
    button.addEventListener("click", async () => {
      const { url, file, offline, home } = box.data;
      const source = address(url);
      if (home) source.searchParams.set("home", new URL(".", document.baseURI).href);
      const question = new URL(source);
      question.searchParams.set("ask", "");
      button.disabled = true;
      try {
        const reply = await fetch(question, { cache: "no-store" });
        note.textContent = await reply.text();
        if (reply.ok) {
          const link = make("a", "", box);
          link.href = source.href;
          link.download = file;
          link.click();
          link.remove();
        }
      } catch {
        note.textContent = offline;
      } finally {
        button.disabled = false;
      }
    });
  }
  box.data = data;
  box.querySelector("button").textContent = data.label;
}
