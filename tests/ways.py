"""Settings that between them have every optimiser, treatment and norm that a step knows."""

WAYS = [
    dict(optimizer="adam", shortcut=True),
    dict(optimizer="sgd", lr=0.1, treatment="clip-norm", threshold=0.5),
    dict(optimizer="momentum", lr=0.05, treatment="clip-value", threshold=0.01),
    dict(optimizer="adam", activation="sigmoid", treatment="floor", threshold=1e-6),
    dict(optimizer="sgd", lr=0.1, activation="sigmoid", treatment="normalise", threshold=1e-4),
    dict(optimizer="sgd", lr=0.1, activation="tanh", treatment="feedback", threshold=1e-4),
    dict(optimizer="adam", batch_norm=True, shortcut=True),
    dict(optimizer="adam", other_norm="layer", activation="gelu", shortcut=True, branch_scale="skip-init"),
]
