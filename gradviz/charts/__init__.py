"""Records in, plotly figures out: the finished pictures of comparisons, sweeps, lessons, reports and layers.

A chart never trains. All scales are fixed by the caller or by the quantity, never fitted so as to flatter; zero, inf
and nan have marks of their own; colours follow Okabe and Ito, and no meaning hangs on a colour alone.
"""

HOW_TO_READ: dict[str, str] = {
    "border": "A point is one run. The band behind the points has the colour of what most seeds did; the dashed line is the "
    "last depth at which the article still trains.",
    "profile": "Each line is one net at step 0, input at the left. Going left is going back: a line that falls to the left "
    "vanishes, one that rises to the left explodes. Dotted lines are theory, the others are measured; triangles at the bottom "
    "are exact zeros, crosses at the top are not finite.",
    "wake": "The gradient of the first block over training. A line that rises is a layer that wakes up.",
    "weights": "Each point is one layer: the size of its weights at the end, over that at the start.",
    "loss": "The dashed line is chance: a net that has learnt nothing stays on it.",
    "accuracy": "Share of the test images that are classified right; chance is 10 %.",
    "heatmap": "A row is a layer, input at the bottom; a column is a step. White is exactly zero, pink under "
    "float32's smallest normal number (1.2·10⁻³⁸), purple below the scale, orange above it, red not finite.",
    "difference": "Red: the first run is larger there, blue: the second. White: no difference. The darkest ends: six decades or "
    "more, or exactly zero or infinite in one of them. Grey: not a number.",
    "ratio": "How much of the last block's gradient is left in the first, before any training. 0 is level, −6 is a millionth.",
    "grid": "Each cell is one point of the grid; its number is how many of its seeds trained.",
}
