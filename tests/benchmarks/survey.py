"""What a survey of a large synthetic fleet costs: seconds and the highest resident memory, through the product's own index files.

`python -m tests.benchmarks.survey ROWS HOME` prints JSON lines. HOME keeps the fleet between runs; a million rows take about 3 GB there.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.platform import Platform
from infra.settings import Settings
from selection import shards
from selection.embedding.index import VectorIndex
from selection.embedding.vector_table import vector_table
from selection.fleet import frames
from selection.fleet.loading import NO_TIME_MS
from selection.structure import novelty, projection, survey
from selection.structure.row_values import RowValues
from service.production_line import open_line
from tests.benchmarks.vectors import ClipLike

ENCODER = "benchmark"
LABELLED = 5000


class DrivesOnly:
    """Columns of a fleet whose frames have a vector and a drive, and nothing else."""

    keys = ("drive",)

    def __init__(self, rows: int) -> None:
        """Of so many rows."""
        self.rows = rows
        lengths = [len(drive) for drive in ClipLike(rows=rows).drives()]
        self._drive_N = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        self.captured_ms = np.full(rows, NO_TIME_MS, dtype=np.int64)

    def mask(self, _: str) -> NDArray[np.bool_]:
        """Nobody was withdrawn."""
        return np.ones(self.rows, dtype=bool)

    def measured(self, _: str, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Nothing was measured of their pixels."""
        return np.full(len(rows), np.nan)

    def codes(self, _: str) -> tuple[NDArray[np.int32], tuple[str, ...]]:
        """The drive of each row, as an index into the drives' names."""
        return self._drive_N, tuple(f"drive-{number}" for number in range(int(self._drive_N.max()) + 1))


def main(rows: int, home: Path) -> None:
    """Measures each part of keeping up with a fleet of so many rows, then with one per cent more."""
    settings = Settings(home=home)
    with open_line(settings) as platform:
        _store(platform, rows)
        index = VectorIndex(platform, ENCODER)
        index.refresh()
        index.build()
        columns: Any = DrivesOnly(rows)
        made: list[survey.Survey | None] = []

        def make() -> int:
            made.append(survey.make(platform, index, columns, text_emb=None))
            return rows

        _time("survey", make)
        assert made[0] is not None
        values = survey.kept(platform, made[0])
        _time("survey, read by a request's process", lambda: _refresh(values))
        keeper_N = values.all("keeper")
        print(json.dumps({"kept": int((keeper_N == np.arange(rows)).sum()), "slices": len(made[0].slices)}))
        every = np.arange(rows)
        fitted: list[projection.Projection] = []
        _time("map, fit", lambda: fitted.append(projection.fit(platform, index, rows=every)))
        _time("map, place", lambda: projection.project_missing(platform, fitted[0], index))
        labelled = np.sort(np.random.default_rng(0).choice(rows, LABELLED, replace=False))
        _time("novelty, 5000 labels", lambda: novelty.update(platform, index, labelled[50:], rows=rows))
        _time("novelty, 50 labels more", lambda: novelty.update(platform, index, labelled, rows=rows))
        more = rows // 100
        _store(platform, rows + more)
        index.refresh()
        columns = DrivesOnly(rows + more)
        _time("survey, 1 % more rows", lambda: survey.join(platform, made[0], index, columns))  # type: ignore[arg-type]


def _refresh(values: RowValues) -> int:
    values.refresh()
    return values.filled


def _time(what: str, work: Callable[[], object]) -> None:
    began = time.perf_counter()
    done = work()
    seconds = time.perf_counter() - began
    peak_mb = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    line = {"what": what, "seconds": round(seconds, 2), "peak_mb": peak_mb}
    print(json.dumps(line | ({"rows": done} if isinstance(done, int) else {})), flush=True)


def _store(platform: Platform, rows: int) -> None:
    """Vector shards, and the count of frames; no record of a frame is looked at."""
    start = shards.row_total(platform.database, "vectors", ENCODER)
    if start >= rows:
        return
    platform.database.counters.update_one({"_id": "frames.row"}, {"$set": {"next": rows}}, upsert=True)
    reached = 0
    for block in ClipLike(rows=rows).blocks(dtype=np.float16):
        new = block[max(0, start - reached) :]
        first = reached + len(block) - len(new)
        if len(new):
            table = vector_table(new, valid_N=np.ones(len(new), dtype=bool), start=first)
            shards.write(platform, "vectors", ENCODER, first, first + len(new), table)
        reached += len(block)
    assert frames.row_count(platform.database) == rows


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
