"""All lessons, in the order of the page: the ten claims of the article, then what it missed."""

from __future__ import annotations

from gradviz.lenet.lessons import cures, missed, vanishing
from gradviz.lenet.lessons.lesson import Lesson

LESSONS: dict[str, Lesson] = {
    lesson.id: lesson
    for lesson in (
        vanishing.SIGMOID_DEPTH,
        vanishing.EXPLODING_INIT,
        vanishing.DYNAMICS,
        vanishing.RELU_DEPTH,
        cures.CLIPPING,
        cures.FLOOR,
        cures.BATCH_NORM,
        cures.SHORTCUT,
        cures.BYPASS,
        cures.FEEDBACK,
        missed.TWO_GRADIENTS,
        missed.NORM_EXPLODES,
        missed.SIGMOID_NORM,
        missed.SHORTCUT_FAILS,
        missed.ADAM_HIDES,
        missed.UNDERFLOW,
        missed.WARM_UP,
    )
}

# Remedy -> the largest number of blocks that still trains, as the article says (claims 1, 4, 7, 8).
ARTICLE_BORDERS = {"sigmoid": 6, "relu": 9, "relu + batch norm": 60, "relu + shortcut": 1000, "sigmoid + shortcut": 1000}

DIGITS_DIFFER = (
    "These runs use the built-in digits: 1,437 scans of 8×8 pixels, enlarged. The factors per convolution at step 0 come from "
    "the blocks and are the same as on MNIST; the level at the first two layers is a little different. An epoch is 44 steps, so "
    "every image is seen several times, and borders of trainability may lie a block higher or lower. The article's numbers are "
    "about MNIST."
)
