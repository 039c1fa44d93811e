"""The order of hits: which rows a search finds, sorted, grouped and cut to a page. Nothing is read here but columns and vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from selection.fleet.columns import Columns
from selection.ranking import cursors
from selection.ranking.cursors import Cursor
from selection.ranking.examples import Aim
from selection.ranking.request import NEWEST, SIMILARITY, Request

if TYPE_CHECKING:
    from selection.embedding.index import VectorIndex

SORTED_NEAREST = 1000
"""How many of the nearest are put in another order, when words or images are given together with one."""
_BEYOND = 8
"""How many more than a page of the nearest are looked up, so that one look shows where the page's last key ends."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """Rows in order, with what the order goes by: ascending keys, equal ones by row."""

    rows: NDArray[np.int64]
    keys: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Ordering:
    """The rows that one search finds, in its order, and a page cut out of them.

    Attributes:
        index: Needed where there is an aim.
        aim: What to be near to; None where only the filter chooses.
        as_of: Rows of the fleet to look at; later ones are left out.
        cursor: Where the page before ended.
    """

    request: Request
    columns: Columns
    index: VectorIndex | None
    aim: Aim | None
    as_of: int
    cursor: Cursor | None

    def run(self) -> tuple[Found, int, list[int] | None]:
        """A page, the number of hits on all pages, and how many further frames each hit's group has."""
        rows = self._candidates()
        if self.aim is not None and self.request.order != SIMILARITY:
            # Before anything is grouped or counted: what is not among the nearest is no hit on any page.
            rows = self._ask(self._as_mask(rows), k=SORTED_NEAREST).rows
        if self.request.group is not None:
            return self._grouped(rows, self.columns.codes(self.request.group)[0])
        total = len(rows)
        if self.request.order == SIMILARITY:
            return self._nearest(None if total == self._everything else self._as_mask(rows), total), total, None
        if self.request.order == NEWEST and self.aim is None:
            return self._newest(rows), total, None
        return self._page(self._sorted(rows)), total, None

    def _grouped(self, rows: NDArray[np.int64], codes: NDArray[np.int32]) -> tuple[Found, int, list[int]]:
        """As `run`, with only the first frame of each group."""
        codes_here = codes[rows]
        sizes = np.bincount(codes_here + 1)
        total = int(np.count_nonzero(sizes[1:])) + (int(sizes[0]) if len(sizes) else 0)
        if self.cursor is not None:
            shown_rows = np.array(self.cursor.group_rows, dtype=np.int64)
            shown_rows = shown_rows[shown_rows < len(codes)]
            shown = codes[shown_rows]
            # A row without a value is a group of its own.
            rows = rows[~np.isin(codes_here, shown[shown >= 0]) & ~np.isin(rows, shown_rows[shown < 0])]
        by_likeness = self.request.order == SIMILARITY
        found = (
            self._nearest_of_each(rows, codes) if by_likeness else self._page(_first_of_each(self._sorted(rows), codes))
        )
        further = [int(sizes[code + 1]) - 1 if code >= 0 else 0 for code in codes[found.rows].tolist()]
        return found, total, further

    @property
    def _everything(self) -> int:
        """How many candidates mean that the index need not be told which rows it may find."""
        assert self.index is not None
        return self.index.size - (len(self.aim.rows) if self.aim else 0) if self.as_of >= self.columns.rows else -1

    def _candidates(self) -> NDArray[np.int64]:
        rows = self.columns.matching(self.request.where)
        rows = rows[: np.searchsorted(rows, self.as_of)]
        if self.aim is None or self.index is None:
            return rows
        if self.index.size < self.columns.rows:
            rows = rows[self.index.has(rows)]
        places = np.searchsorted(rows, self.aim.rows)
        own = [
            place for place, row in zip(places, self.aim.rows, strict=True) if place < len(rows) and rows[place] == row
        ]
        return np.delete(rows, own) if own else rows

    def _as_mask(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        mask = np.zeros(min(self.as_of, self.columns.rows), dtype=bool)
        mask[rows] = True
        return mask

    def _ask(self, mask: NDArray[np.bool_] | None, *, k: int) -> Found:
        assert self.index is not None
        assert self.aim is not None
        scores_1K, rows_1K = self.index.search(self.aim.query[np.newaxis, :], k=k, mask=mask)
        real = (rows_1K[0] >= 0) & (rows_1K[0] < self.as_of) & ~np.isin(rows_1K[0], self.aim.rows)
        # Rounded, so that the last bit of a sum that was added in another order changes nothing about pages.
        return _in_order(rows_1K[0][real], -np.round(scores_1K[0][real].astype(np.float64), 6))

    def _nearest(self, mask: NDArray[np.bool_] | None, total: int) -> Found:
        assert self.index is not None
        wanted = self.request.offset + self.request.k
        ask = wanted + (self.cursor.seen if self.cursor else 0) + len(self.aim.rows if self.aim else ()) + _BEYOND
        while True:
            found = self._ask(mask, k=ask)
            page = self._page(found)
            if ask >= self.index.size or len(found.rows) >= total:
                return page
            # The index cuts by the whole score, so of the rows with the last key some may be missing.
            if len(page.rows) == self.request.k and found.keys[-1] > page.keys[-1]:
                return page
            ask *= 2

    def _nearest_of_each(self, rows: NDArray[np.int64], codes: NDArray[np.int32]) -> Found:
        """The nearest frame of each group: whatever group was found is left out of the next look."""
        wanted = self.request.offset + self.request.k
        mask = self._as_mask(rows)
        left, parts, count = len(rows), [Found(rows=np.empty(0, np.int64), keys=np.empty(0))], 0
        ask = 4 * wanted
        while left and count < wanted:
            found = self._ask(mask, k=ask)
            if not len(found.rows):
                break
            if len(found.rows) == ask < left:
                # As in `_nearest`: what has the last key waits for a look that finds all of them.
                sure = int(np.searchsorted(found.keys, found.keys[-1]))
                found = Found(rows=found.rows[:sure], keys=found.keys[:sure])
            if not len(found.rows):
                ask *= 2
                continue
            first = _first_of_each(found, codes)
            parts.append(first)
            count += len(first.rows)
            found_codes = codes[first.rows]
            mask[first.rows] = False
            mask[rows[np.isin(codes[rows], found_codes[found_codes >= 0])]] = False
            left = int(np.count_nonzero(mask))
        whole = _in_order(np.concatenate([one.rows for one in parts]), np.concatenate([one.keys for one in parts]))
        return self._cut(whole)

    def _newest(self, rows: NDArray[np.int64]) -> Found:
        stop = len(rows) if self.cursor is None else int(np.searchsorted(rows, self.cursor.row))
        stop = max(0, stop - self.request.offset)
        taken = rows[max(0, stop - self.request.k) : stop][::-1]
        return Found(rows=taken, keys=-taken.astype(np.float64))

    def _sorted(self, rows: NDArray[np.int64]) -> Found:
        """All candidates by the sort key; those without a value last."""
        name = self.request.order
        column = rows.astype(np.float64) if name.lstrip("-") == "row" else self.columns.numbers(name.lstrip("-"))[rows]
        keys = -column if name.startswith("-") else column.copy()
        keys[np.isnan(keys)] = np.inf
        return _in_order(rows, keys)

    def _page(self, found: Found) -> Found:
        """What lies after the cursor, cut to a page."""
        if self.cursor is not None:
            key, row = self.cursor.key, self.cursor.row
            after = (found.keys > key) | ((found.keys == key) & (found.rows > row))
            found = Found(rows=found.rows[after], keys=found.keys[after])
        return self._cut(found)

    def _cut(self, found: Found) -> Found:
        page = slice(self.request.offset, self.request.offset + self.request.k)
        return Found(rows=found.rows[page], keys=found.keys[page])

    def next_cursor(self, found: Found, *, total: int) -> str | None:
        """Where this page ends; None when it was the last."""
        seen = (self.cursor.seen if self.cursor else 0) + self.request.offset + len(found.rows)
        # Later pages cannot tell by the total: frames that were seen may have been withdrawn since.
        if len(found.rows) < self.request.k or (self.cursor is None and seen >= total):
            return None
        shown: tuple[int, ...] = ()
        if self.request.group is not None:
            shown = (*(self.cursor.group_rows if self.cursor else ()), *found.rows.tolist())
        return cursors.write(
            Cursor(
                search=self.request.digest,
                key=float(found.keys[-1]),
                row=int(found.rows[-1]),
                seen=seen,
                as_of=self.as_of,
                group_rows=shown,
            )
        )


def _in_order(rows: NDArray[np.int64], keys: NDArray[np.float64]) -> Found:
    order = np.lexsort((rows, keys))
    return Found(rows=rows[order], keys=keys[order])


def _first_of_each(found: Found, codes: NDArray[np.int32]) -> Found:
    """Of the rows with one code the first; rows without a code are groups of their own."""
    groups = codes[found.rows].astype(np.int64)
    alone = groups < 0
    groups[alone] = -1 - found.rows[alone]
    firsts = np.sort(np.unique(groups, return_index=True)[1])
    return Found(rows=found.rows[firsts], keys=found.keys[firsts])
