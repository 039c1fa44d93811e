"""The tail of an index: shards that are built into no segment yet, in memory, searched exactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from infra.platform import Platform
from selection import shards
from selection.embedding.index.built import Source
from selection.embedding.index.exact import ExactBlock
from selection.embedding.index.parts import Part
from selection.embedding.vector_table import vectors_in
from selection.growing_array import GrowingArray
from selection.shards import Shard

if TYPE_CHECKING:
    import torch

TAIL_BLOCK_ROWS = 2**16


class Tail:
    """Shards that are in no segment yet, in memory, in blocks. For one thread at a time.

    Attributes:
        records: Those of which it holds rows.
        held: How many of each.
    """

    def __init__(self) -> None:
        self.records: dict[Source, Shard] = {}
        self.held: Counter[Source] = Counter()
        self._known = GrowingArray(np.bool_, default=False)
        self._count = 0
        self._blocks: list[_Block] = []

    def __len__(self) -> int:
        return self._count

    def add(
        self, record: Shard, rows_N: NDArray[np.int64], vectors_ND: NDArray[np.float16], *, device: torch.device | None
    ) -> None:
        """Takes in a shard, of whose rows those are given that no part has yet."""
        if not len(rows_N):
            return
        self.records[source_of(record)] = record
        self.held[source_of(record)] += len(rows_N)
        self._count += len(rows_N)
        self._known.pad(int(rows_N.max()) + 1)
        self._known.all[rows_N] = True
        while len(rows_N):
            if not self._blocks or self._blocks[-1].room == 0:
                self._blocks.append(_Block(vectors_ND.shape[1]))
            taken = self._blocks[-1].add(rows_N, vectors_ND, device=device)
            rows_N, vectors_ND = rows_N[taken:], vectors_ND[taken:]

    def has(self, rows_N: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the rows have come, shape as they."""
        found = np.zeros(len(rows_N), dtype=bool)
        inside = rows_N < len(self._known)
        found[inside] = self._known.all[rows_N[inside]]
        return found

    def parts(self) -> list[Part]:
        """To be searched; they stay as they are when more comes."""
        return [block.part() for block in self._blocks]


class _Block:
    """Room for some rows of the tail. What was handed out stays as it is when more is added behind it."""

    def __init__(self, dimension: int) -> None:
        self._rows_N = np.empty(TAIL_BLOCK_ROWS, dtype=np.int64)
        self._vectors_ND = np.empty((TAIL_BLOCK_ROWS, dimension), dtype=np.float16)
        self._count = 0
        self._device: torch.device | None = None
        self._part: Part | None = None

    @property
    def room(self) -> int:
        """How many more rows fit."""
        return len(self._rows_N) - self._count

    def add(self, rows_N: NDArray[np.int64], vectors_ND: NDArray[np.float16], *, device: torch.device | None) -> int:
        """Takes the first of these rows, as many as fit; how many it were."""
        count = min(self.room, len(rows_N))
        place = slice(self._count, self._count + count)
        self._rows_N[place], self._vectors_ND[place] = rows_N[:count], vectors_ND[:count]
        self._count, self._device, self._part = self._count + count, self._device or device, None
        return count

    def part(self) -> Part:
        """What it holds now, to be searched."""
        if self._part is None:
            block = ExactBlock(self._vectors_ND[: self._count], device=self._device)
            on = "cpu" if self._device is None else str(self._device)
            self._part = Part.of(self._rows_N[: self._count], block, on=on)
        return self._part


def readable(platform: Platform, records: Sequence[Shard]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float16]]]:
    """Rows and vectors of shards, each row once, ascending."""
    reached = -1
    for record in sorted(records, key=lambda one: one.start):
        rows_N, vectors_ND = vectors_in(shards.read(platform, record))
        new = rows_N > reached
        if new.any():
            reached = int(rows_N[-1])
            yield rows_N[new], vectors_ND[new]


def source_of(record: Shard) -> Source:
    """What tells this shard from all others, also from one that took its place."""
    return (record.shard_id, record.digest)


def sources_of(record: Shard) -> list[Source]:
    """The same, with those before it whose vectors it has: what was built from them still holds."""
    return [source_of(record), *((record.shard_id, digest) for digest in record.extends)]
