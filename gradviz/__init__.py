"""gradviz: see gradients vanish and explode in a deep net, and what cures them: in the article's LeNet, and in one's own.

A RunConfig says what to train, and lenet.experiment makes a task of it: a DeepLeNet, its data, its optimiser. Trainer
(train) iterates any task, a LayerProbe measures every layer at every step, and each step becomes a StepRecord in the
History of a Run (record). RunManager (serve) queues and shares runs, RunStore (store) keeps them; lenet.theory predicts and
diagnosis explains what they show. The page (app.py, pages/, gradviz.ui, gradviz.web) only looks.

`gradviz.watch(model, optimizer)` measures somebody's own training (docs/watch.md), gradviz.lightning and gradviz.transformers
that of a trainer of theirs.
"""

from __future__ import annotations

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    """`watch` comes with torch, which takes seconds: only who asks for it waits."""
    if name == "watch":
        from gradviz.train.watch import watch

        return watch
    if name in ("lightning", "transformers"):
        return importlib.import_module(f"gradviz.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
