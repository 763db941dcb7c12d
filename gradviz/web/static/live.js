// The live element on a page. A page is given what it fetches by gradviz/web/panels.py; render() is called at every script run
// and theme switch with the same host element, and everything is kept on one Panel.

import { Panel } from "./panel.js";

export function render(state, component) {
  state.part ??= new Panel(component.parentElement);
  state.part.update(component);
}
