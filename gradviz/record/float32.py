"""Where float32 ends, and Adam with it: the sizes at which a gradient is no longer what it was."""

SMALLEST = 2.0**-149  # 1.4e-45: the smallest denormal number
ZERO = SMALLEST / 2  # 7.0e-46: what is smaller rounds to exactly 0
SMALLEST_NORMAL = 2.0**-126  # 1.18e-38: smaller numbers lose digits, and some graphics cards take them for 0
LARGEST = 2.0**128 - 2.0**104  # 3.4e38: what is larger becomes inf
RESOLUTION = 2.0**-23  # 1.2e-7: two numbers that differ by less than this share of their size may be the same

ADAM_EPS = 1e-8  # PyTorch's (Kingma & Ba 2015): where gradients keep the size g, Adam's step is lr · g / (g + eps)
ADAM_OVERFLOW = 5.8e20  # above it Adam's average of squares, which begins as 0.001 · g², is inf and its step 0
