// What was turned while a run trained: a line right before its step, with its word at the top, in every chart over the steps.

// `yref`: what the lines go up through. Of turns at one step the marks stand in one place.
export function turnMarks({ turns = [] }, look, yref = "paper") {
  const marks = new Map();
  for (const [step, word, sentence] of turns) marks.set(step, [...(marks.get(step) ?? []), [word, sentence]]);
  const together = (pairs, place, between) => pairs.map((pair) => pair[place]).join(between);
  return {
    shapes: [...marks.keys()].map((step) => ({
      type: "line", x0: step - 0.5, x1: step - 0.5, yref, y0: 0, y1: 1, line: { color: look.text, width: 1.5, dash: "dot" },
    })),
    annotations: [...marks].map(([step, pairs]) => ({
      x: step - 0.5, yref, y: 1, yanchor: "top", xanchor: "left", showarrow: false, align: "left", text: together(pairs, 0, "<br>"),
      hovertext: together(pairs, 1, "<br>"), font: { size: 11 }, bgcolor: look.background, borderpad: 1,
    })),
  };
}
