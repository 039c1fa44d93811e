"""What a model thinks of the fleet: its prediction shards, as scores aligned by row and as probabilities of single rows."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from infra.errors import InvalidInput
from infra.platform import Platform
from selection import shards
from selection.growing_array import GrowingArray
from selection.shards import Shard

_HOW_TO_GET = {"bald": "; it needs several passes or models: train once more, or import predictions with `passes`"}


class Predictions:
    """Scores and probabilities of one model. Not safe to refresh from two threads at once."""

    def __init__(self, platform: Platform, model_id: str) -> None:
        """Loads nothing yet: call `refresh` before asking for scores; probabilities need no refresh."""
        self._platform = platform
        self.model_id = model_id
        self._seen: set[tuple[str, str]] = set()
        self._state: tuple[int, int, datetime | None] = (0, 0, None)
        self._scores: dict[str, GrowingArray[np.float32]] = {}

    def refresh(self) -> None:
        """Takes in the scores of shards committed since the last time. A corrupt one is left out until it was made again."""
        database = self._platform.database
        if shards.state(database, "predictions", self.model_id) == self._state:
            return
        taken: list[Shard] = []
        for record in shards.records(database, "predictions", self.model_id):
            if (record.shard_id, record.digest) in self._seen:
                taken.append(record)
                continue
            try:
                table = shards.read(self._platform, record)
            except shards.CorruptShard:
                continue
            for name in (field.name for field in table.schema if field.type == "float"):
                scores = self._scores.setdefault(name, GrowingArray(np.float32, default=np.nan))
                scores.pad(record.stop)
                scores.all[record.start : record.stop] = table.column(name).to_numpy()
            self._seen.add((record.shard_id, record.digest))
            taken.append(record)
        # A corrupt one does not count, so that its replacement is noticed.
        newest = max((record.created_at for record in taken), default=None)
        self._state = (len(taken), sum(record.rows for record in taken), newest)

    def known(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the rows the model has seen and could read; shape as `rows`."""
        found = np.zeros(len(rows), dtype=bool)
        for scores in self._scores.values():
            found |= ~np.isnan(_at(scores.all, rows))
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """The scores that the shards hold; which they are depends on the kind of the task and on when they were written."""
        return tuple(self._scores)

    def score(self, name: str, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """An acquisition score of rows.

        Returns:
            Shape as `rows`, in [0, 1]; NaN where the model has not seen the row or could not read it.
        Raises:
            InvalidInput: No shard of the model holds a score of that name.
        """
        if name not in self._scores:
            held = ", ".join(self._scores) or "none yet"
            raise InvalidInput(
                f"the predictions of model {self.model_id} hold no score {name!r}; they hold {held}"
                + _HOW_TO_GET.get(name, "")
            )
        return _at(self._scores[name].all, rows)

    def probabilities_by_row(self, rows: Sequence[int]) -> dict[int, NDArray[np.float32]]:
        """Probabilities, shape (C,), for those of the rows that the model has seen and could read. Reads only the shards they are in."""
        listed = shards.records(self._platform.database, "predictions", self.model_id)
        wanted: dict[int, list[int]] = {}
        starts = [record.start for record in listed]
        for row in dict.fromkeys(int(row) for row in rows):
            number = bisect_right(starts, row) - 1
            if number >= 0 and row < listed[number].stop:
                wanted.setdefault(number, []).append(row)
        found: dict[int, NDArray[np.float32]] = {}
        for number, rows_here in wanted.items():
            found |= self._probabilities(listed[number], rows_here)
        return found

    def _probabilities(self, record: Shard, rows: Sequence[int]) -> dict[int, NDArray[np.float32]]:
        try:
            table = shards.read(self._platform, record)
        except shards.CorruptShard:
            return {}
        column = table.column("probability").combine_chunks()
        values_NC = column.values.to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)
        known = np.asarray(column.is_valid())
        return {row: values_NC[row - record.start].copy() for row in rows if known[row - record.start]}


def _at(values: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """The values of rows, NaN beyond the end."""
    found = np.full(len(rows), np.nan, dtype=np.float32)
    inside = rows < len(values)
    found[inside] = values[rows[inside]]
    return found
