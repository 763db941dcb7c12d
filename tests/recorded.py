"""Runs with records that nobody trained, and the question whether two are the same bit for bit."""

from __future__ import annotations

import numpy as np

from gradviz.lenet.config import RunConfig
from gradviz.lenet.long_runs import LEARNT, LongRun
from gradviz.record.arithmetic import Arithmetic
from gradviz.record.history import History, StepRecord, max_columns
from gradviz.record.quantities import QUANTITIES
from gradviz.record.run import Run, Status

NET = RunConfig(activation="relu", blocks=2, batch_size=64, steps=400)
ARITHMETIC = Arithmetic("cpu", "AVX2 x86_64", "", 1, "2.13.0+cpu")
ODD = np.array([0.0, -0.0, 1e-45, 1e-40, 1e-30, 1.1754944e-38, 3.4e38, np.inf, -np.inf, np.nan], np.float32)


def new_run(blocks: int = 0, columns: int | None = None, **config: object) -> Run:
    config = RunConfig(blocks=blocks, dataset="digits", **config)
    return Run(config, History(config.layers, columns or max_columns(config.layers)))


def extend(run: Run, steps: int, seed: int = 0) -> None:
    """Appends `steps` records of numbers over the whole range of float32, the odd ones among them."""
    rng = np.random.default_rng([seed, run.history.steps])
    for step in range(run.history.steps, run.history.steps + steps):
        layers = (10.0 ** rng.uniform(-45, 38, (len(QUANTITIES), run.history.layers))).astype(np.float32)
        layers.flat[rng.integers(layers.size)] = rng.choice(ODD)
        tested = step / 1000 if step % 5 == 0 else None
        run.history.append(StepRecord(step, float(rng.normal()), float(rng.random()), layers, 0.1 * step, tested))


def bits(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array).tobytes()


def assert_same_records(loaded: Run, run: Run) -> None:
    assert loaded.history.columns.shape == run.history.columns.shape
    for name in ("columns", "loss", "accuracy", "seconds"):
        assert bits(getattr(loaded.history, name)) == bits(getattr(run.history, name)), name
    for name in ("tests", "steps", "stride", "layers", "max_columns"):
        assert getattr(loaded.history, name) == getattr(run.history, name), name


def assert_same(loaded: Run | None, run: Run) -> None:
    assert loaded is not None
    assert_same_records(loaded, run)
    for name in ("recipe", "status", "device", "message", "nonfinite_layer", "test_accuracy", "created", "id", "arithmetic"):
        assert getattr(loaded, name) == getattr(run, name), name


def ended_run(seed: int = 0, blocks: int = 1, count: int = 8) -> Run:
    """A finished run with `count` records of odd numbers."""
    run = new_run(blocks=blocks, seed=seed)
    extend(run, count, seed)
    run.status = Status.FINISHED
    return run


def finished_run(config: RunConfig, steps: int = 20) -> Run:
    """A finished run with numbers that are possible, as the store would hold it."""
    random = np.random.default_rng(config.seed)
    columns = (10 ** random.uniform(-9, 0, (steps, len(QUANTITIES), config.layers))).astype(np.float32)
    scalars = np.column_stack([np.linspace(2.3, 0.5, steps), np.linspace(0.1, 0.9, steps), np.arange(steps)])
    history = History.restored(columns, scalars, [(0, 0.1), (steps - 1, 0.9)], 1, 1000)
    return Run(config, history, Status.FINISHED, "cpu, 1 thread")


def long_run(config: RunConfig = NET, outcome: str = LEARNT, **more: object) -> LongRun:
    """A run at the article's length that has learnt, but for what the caller says."""
    layers = config.layers
    profile = {name: tuple(10.0 ** -k for k in range(layers)) for name in
               ("weight_grad_rms", "signal_rms", "activation_rms", "weight_rms")}  # fmt: skip
    values = {
        "steps": 500, "loss": 0.4, "accuracy": 0.9, "left_chance_at": 200, "learnt_at": 499 if outcome == LEARNT else None,
        "test_accuracy": None, "seconds": 12.5, "curve": ((0.0, 2.3, 0.1, 1e-6, 1e-2), (499.0, 0.4, 0.9, 1e-3, 1e-2)),
        "start": profile, "end": profile,
    }  # fmt: skip
    return LongRun(config, ARITHMETIC, outcome, **(values | more))
