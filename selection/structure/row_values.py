"""The columns of a producer's shards in memory, aligned by row; new shards are added to what was read before."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.platform import Platform
from selection import shards
from selection.growing_array import GrowingArray
from selection.shards import Shard, ShardKind


@dataclass(frozen=True, kw_only=True)
class Column:
    """How a column is kept: its type, and what stands where a row has no value."""

    dtype: type[Any]
    missing: Any


class RowValues:
    """Some columns of one producer. Safe to share between threads; arrays that were handed out stay as they are."""

    def __init__(self, platform: Platform, kind: ShardKind, producer: str, columns: Mapping[str, Column]) -> None:
        """Loads nothing yet: call `refresh`."""
        self.producer = producer
        self._platform, self._kind, self._columns = platform, kind, columns
        self._lock = threading.Lock()
        self._taken: tuple[int, int, datetime | None] = (0, 0, None)
        self._seen: set[tuple[str, str]] = set()
        self._growing = self._empty()
        self._shown = self._show()
        self._filled = 0

    @property
    def version(self) -> tuple[str, int, int, datetime | None]:
        """Changes whenever a value may have."""
        return (self.producer, *self._taken)

    @property
    def filled(self) -> int:
        """Rows that shards have answered for, those without a value included."""
        return self._filled

    def refresh(self) -> bool:
        """Takes in shards committed since the last time; a corrupt one is left out until it was made again.

        Returns:
            Whether anything came.
        """
        with self._lock:
            if shards.state(self._platform.database, self._kind, self.producer) == self._taken:
                return False
            taken = [
                one for one in shards.records(self._platform.database, self._kind, self.producer) if self._take(one)
            ]
            newest = max((record.created_at for record in taken), default=None)
            self._taken = (len(taken), sum(record.rows for record in taken), newest)
            self._filled = self._taken[1]
            self._shown = self._show()
            return True

    def all(self, name: str) -> NDArray[Any]:
        """A column from row 0 to the last that has a shard; not to be written to."""
        return self._shown[name]

    def at(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """A column's values of rows; rows beyond its end have none."""
        column = self._shown[name]
        found: NDArray[Any] = np.full(len(rows), self._columns[name].missing, dtype=self._columns[name].dtype)
        inside = rows < len(column)
        found[inside] = column[rows[inside]]
        return found

    def padded(self, name: str, rows: int) -> NDArray[Any]:
        """A column of exactly so many rows."""
        column = self._shown[name][:rows]
        rest = np.full(rows - len(column), self._columns[name].missing, dtype=column.dtype)
        return np.concatenate([column, rest]) if len(rest) else column

    def _take(self, record: Shard) -> bool:
        if (record.shard_id, record.digest) in self._seen:
            return True
        try:
            table = shards.read(self._platform, record)
        except shards.CorruptShard:
            return False
        for name, growing in self._growing.items():
            growing.pad(record.stop)
            values = table.column(name)
            missing = self._columns[name].missing
            filled = values.fill_null(missing) if values.null_count else values
            if record.start < len(self._shown[name]):
                growing.detach()  # A shard that was made again: whoever holds the old values keeps them.
            growing.all[record.start : record.stop] = filled.to_numpy()
        self._seen.add((record.shard_id, record.digest))
        return True

    def _empty(self) -> dict[str, GrowingArray[Any]]:
        return {name: GrowingArray(column.dtype, default=column.missing) for name, column in self._columns.items()}

    def _show(self) -> dict[str, NDArray[Any]]:
        shown = {name: growing.all for name, growing in self._growing.items()}
        for column in shown.values():
            column.flags.writeable = False
        return shown
