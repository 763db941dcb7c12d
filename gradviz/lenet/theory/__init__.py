"""What theory says about a LeNet before it has learnt anything: `predict` answers, docs/theory.md derives.

From the ground up: taps (where a convolution looks), gaussians (one layer), stem (real images, from stem_statistics), blocks
(one block), depth (all of them, there and back), head (and the loss), predict.
"""
