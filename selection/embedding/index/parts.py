"""Parts of an index, in each of which some rows are searched, and a search over several of them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Hits = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Scores and rows."""


class Searchable(Protocol):
    """Vectors by position, in memory or mapped: `built.Segment` and `exact.ExactBlock`."""

    def search(
        self, query_D: NDArray[np.float32], *, k: int, allowed_N: NDArray[np.bool_] | None, above: float = -np.inf
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The k nearest of the allowed positions: scores and positions, in no particular order; none needed that score below `above`."""

    def shortfall(
        self, query_D: NDArray[np.float32], positions_M: NDArray[np.int64], scores_M: NDArray[np.float32]
    ) -> float:
        """By how much the block's own scores may fall short of the exact ones at these positions; 0 where it searches exactly."""

    def products(self, query_D: NDArray[np.float32]) -> NDArray[np.float32]:
        """The exact product of a query with every vector, shape (N,)."""

    def vectors(self, positions_M: NDArray[np.int64]) -> NDArray[np.float16]:
        """The vectors at these positions, shape (M, D)."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some rows and where their vectors are searched; positions are the order of `rows_N`."""

    rows_N: NDArray[np.int64]
    block: Searchable
    order_N: NDArray[np.int64] | None
    on: str

    @classmethod
    def of(cls, rows_N: NDArray[np.int64], block: Searchable, *, on: str = "cpu") -> Part:
        """The part that has these rows, on the device of that name."""
        ascending = len(rows_N) < 2 or bool((rows_N[1:] > rows_N[:-1]).all())
        return cls(rows_N=rows_N, block=block, order_N=None if ascending else np.argsort(rows_N), on=on)

    def positions(self, rows_M: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the rows are, -1 where they are not."""
        count = len(self.rows_N)
        if not count:
            return np.full(len(rows_M), -1, dtype=np.int64)
        if self.order_N is None and self.rows_N[-1] - self.rows_N[0] == count - 1:
            positions = rows_M - self.rows_N[0]
            return np.where((positions >= 0) & (positions < count), positions, -1)
        at = np.minimum(np.searchsorted(self.rows_N, rows_M, sorter=self.order_N), count - 1)
        at = at if self.order_N is None else self.order_N[at]
        return np.where(self.rows_N[at] == rows_M, at, -1)

    def allowed(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The mask in the order of positions; rows beyond its end are not allowed."""
        count = len(self.rows_N)
        if not count:
            return np.zeros(0, dtype=bool)
        first, last = int(self.rows_N[0]), int(self.rows_N[-1])
        if self.order_N is None and last - first == count - 1:  # The usual case needs no gathering.
            part = mask[first : last + 1]
            return part if len(part) == count else np.pad(part, (0, count - len(part)))
        allowed = np.zeros(count, dtype=bool)
        inside = self.rows_N < len(mask)
        allowed[inside] = mask[self.rows_N[inside]]
        return allowed


def best_of(parts: Sequence[tuple[Part, NDArray[np.bool_] | None]], query_D: NDArray[np.float32], *, k: int) -> Hits:
    """The best of every part, those of different GPUs at the same time."""

    def of(some: Sequence[tuple[Part, NDArray[np.bool_] | None]]) -> list[Hits]:
        """What the first parts found spares the later ones most of their candidates."""
        hits: list[Hits] = []
        best_K: NDArray[np.float32] = np.empty(0, dtype=np.float32)
        shortfall = 0.0
        for number, (part, allowed_N) in enumerate(some, start=1):
            above = float(best_K[0]) - shortfall if len(best_K) == k else -np.inf
            scores, positions = part.block.search(query_D, k=k, allowed_N=allowed_N, above=above)
            hits.append((scores, part.rows_N[positions]))
            best_K = np.sort(np.concatenate([best_K, scores]))[-k:]
            if number < len(some) and len(best_K) == k:
                best = scores >= best_K[0]
                shortfall = max(shortfall, part.block.shortfall(query_D, positions[best], scores[best]))
        return hits

    devices = sorted({part.on for part, _ in parts})
    if len(devices) > 1:
        with ThreadPoolExecutor(len(devices)) as pool:
            groups = pool.map(lambda on: of([one for one in parts if one[0].on == on]), devices)
            found = [one for group in groups for one in group]
    else:
        found = of(parts)
    if not found:
        return np.empty(0, dtype=np.float32), np.empty(0, dtype=np.int64)
    return np.concatenate([scores for scores, _ in found]), np.concatenate([rows for _, rows in found])
