// The live element, as its address is known: what it is stands in panel.js.

export * from "./panel.js";
