"""All runs of a server as one zip file, piece by piece: nothing is held but what is being written."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime

import pandas as pd

from gradviz.lenet.diagnosis import headline
from gradviz.record import export
from gradviz.record.recipe import Recipe
from gradviz.record.run import Run
from gradviz.words import gettext as _

ARCHIVE_BYTES = 1e9  # of one archive: some minutes of a core


def archive(
    runs: Iterable[Run[Recipe]], names: Callable[[str], Iterable[str]], most_bytes: float = ARCHIVE_BYTES
) -> Iterator[bytes]:
    """The runs as one zip file, piece by piece: runs.csv with a row for each, and a folder for each: config.json, steps.csv,
    layers.parquet, and missing.csv where something could not be measured.

    `names(run_id)`: who runs it. Once the file has `most_bytes`, further runs get their row only; its column `files`
    says so. The layers are Parquet: as CSV text they are ten times as large and as slow to write.
    """
    sink, rows = export.Sink(), []
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for run in runs:
            room = sink.taken < most_bytes
            if room:
                file.writestr(f"{run.id}/config.json", json.dumps(run.recipe.to_dict(), indent=1))
                for name in ("steps.csv", "layers.parquet", *([export.MISSING] if run.missing else [])):
                    make, _media = export.ALL_FILES[name]
                    with file.open(f"{run.id}/{name}", "w") as part:
                        for data in make(run):
                            part.write(data)
                            yield sink.take()
            rows.append(_row(run, names(run.id)) | {"files": _("yes") if room else _("no: the archive was full")})
            del run  # its records are not needed while the next one is read
        file.writestr("runs.csv", export.csv(pd.DataFrame(rows)))
    yield sink.take()


def _row(run: Run[Recipe], names: Iterable[str]) -> dict[str, object]:
    """A recipe that has more than single values, names of layers say, has them in its config.json alone."""
    history = run.history.snapshot()
    row: dict[str, object] = {
        "run": run.id,
        "names": ", ".join(names),
        "status": str(run.status),
        "verdict": str(headline(run)[0]),
        "steps_done": history.steps,
        "last_loss": float(history.loss[-1]) if history.steps else math.nan,
        "test_accuracy": math.nan if run.test_accuracy is None else run.test_accuracy,
        "created": datetime.fromtimestamp(run.created, UTC).isoformat(timespec="seconds"),
        "message": str(run.message),
        "computed_with": run.arithmetic.code if run.arithmetic else "unknown",
    }
    single = {name: value for name, value in run.recipe.to_dict().items() if not isinstance(value, (list, tuple, dict))}
    return row | {name: value for name, value in single.items() if name not in row}
