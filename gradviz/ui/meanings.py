"""The words of the field on the Lab, each in a sentence."""

from gradviz.words import N_

MEANINGS = {
    N_("Weight layer"): N_("A layer with weights that are learnt; each block of this net has two."),
    N_("Parameters"): N_("All numbers that are learnt: weights and biases."),
    N_("Loss"): N_("How wrong the net is, in nats; guessing among ten classes costs ln 10, about 2.3."),
    N_("Accuracy"): N_("The share of images that are classified right."),
    N_("Gradient"): N_(
        "How much, and which way, the loss changes with each weight: what the net learns by."
    ),
    N_("Backward signal"): N_(
        "The derivative of the loss on its way back from layer to layer; each layer's gradient is made of it."
    ),
    N_("Vanish, explode"): N_("Each layer multiplies the signal by a factor: below 1 it shrinks with depth, above 1 it grows."),
    N_("First / last"): N_("The gradient of the first block over that of the last: 1 is level."),
    N_("Root mean square"): N_("The typical size of many numbers: the root of the mean of their squares."),
    N_("Theory"): N_("What is computed for this net before it has learnt anything; all else is measured."),
}
