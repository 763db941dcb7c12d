"""The article's experiment: a deep LeNet, what theory says of it, and what it teaches."""
