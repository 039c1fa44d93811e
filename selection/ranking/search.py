"""Search: frames near to words, images, frames and parts of frames, within a filter; in any order, a page at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from infra.errors import InvalidInput
from infra.platform import Platform
from selection.fleet import frames
from selection.fleet.columns import Columns, Filter, parse_filter
from selection.fleet.filters import ValueTerm, term_text
from selection.fleet.frames import Frame
from selection.ranking import cursors, examples
from selection.ranking.cursors import Cursor
from selection.ranking.examples import Aim, Example

if TYPE_CHECKING:
    from selection.embedding.encoders import Encoder
    from selection.embedding.index import VectorIndex

SIMILARITY = "similarity"
NEWEST = "-row"
NO_FILTER = Filter(text="", terms=())
SORTED_NEAREST = 1000
"""How many of the nearest are put in another order, when words or images are given together with one."""


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why a frame is among the hits.

    Attributes:
        nearest: The positive example it is most like, None when nothing was asked for but the filter.
        similarity: Cosine similarity to that example.
        terms: Each term of the filter that it passes, and what it is about the frame that the term asks for.
    """

    nearest: Example | None = None
    similarity: float | None = None
    terms: tuple[tuple[str, str | None], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A found frame.

    Attributes:
        score: Cosine similarity to the query, None when nothing was asked for but the filter.
        sort_value: What it was sorted by, None without a value or when sorted by similarity or age.
        further: How many further frames of its group match; None when nothing is grouped.
    """

    frame: Frame
    score: float | None
    sort_value: float | None = None
    further: int | None = None
    reason: Reason = Reason()


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to look for.

    Attributes:
        examples: What to be near to and far from; none means everything that passes the filter.
        sort: `similarity`, or a key with numbers, `captured` or `row` (order of ingest), with a minus in front for descending. None: by
            similarity where there are examples, else last ingested first. With examples another order is that of the nearest thousand.
        group: A key with texts: of all frames with one value only the first is a hit.
        k: Hits on a page.
        offset: Hits to leave out.
        as_of: Rows of the fleet to look at; later ones are left out. None: all.
        cursor: Where the page before ended.
    """

    examples: tuple[Example, ...] = ()
    where: Filter = NO_FILTER
    sort: str | None = None
    group: str | None = None
    k: int = 20
    offset: int = 0
    as_of: int | None = None
    cursor: str | None = None

    def __post_init__(self) -> None:
        """Checks the numbers.

        Raises:
            InvalidInput: Names what cannot be.
        """
        if self.k < 1 or self.offset < 0:
            raise InvalidInput(f"k must be at least 1 and offset at least 0, not {self.k} and {self.offset}")
        if self.sort == SIMILARITY and not self.examples:
            raise InvalidInput("nothing was given to be similar to; give words, an image or a frame")

    @property
    def order(self) -> str:
        """What the hits are sorted by."""
        return self.sort or (SIMILARITY if self.examples else NEWEST)

    @property
    def digest(self) -> str:
        """Tells this search from others, whatever the page."""
        told = [[one.written() for one in self.examples], [term_text(term) for term in self.where.terms]]
        return hashlib.sha256(json.dumps([*told, self.order, self.group]).encode()).hexdigest()[:12]


@dataclass(frozen=True, kw_only=True)
class Page:
    """One page of hits.

    Attributes:
        total: Hits on all pages.
        rows: Size of the fleet that was looked at.
        next_cursor: For the page after this one; None at the end.
    """

    hits: Sequence[Hit]
    total: int
    rows: int
    next_cursor: str | None


@dataclass(frozen=True, kw_only=True)
class _Found:
    """Rows in order, with what the order goes by: ascending keys, equal ones by row."""

    rows: NDArray[np.int64]
    keys: NDArray[np.float64]


def find(
    platform: Platform,
    request: Request,
    *,
    columns: Columns,
    index: VectorIndex | None = None,
    encoder: Encoder | None = None,
    text_vector: Callable[[str], NDArray[np.float32]] | None = None,
) -> Page:
    """One page of what is looked for. Index and columns are refreshed by the caller: how fresh is fresh enough is not for a search to say.

    Args:
        platform: Where the fleet lives.
        request: What to look for.
        columns: Of the fleet.
        index: Needed where there are examples.
        encoder: The one that made the index's vectors; not needed where every example is a whole frame.
        text_vector: The vector of a text, for callers that keep them.
    Raises:
        InvalidInput: A bad filter, image, box, sort key or cursor.
        NotFound: A frame that does not exist.
        Conflict: A frame without a vector, or an encoder that is not the index's.
    """
    cursor = cursors.read(request.cursor, search=request.digest) if request.cursor else None
    as_of = cursor.as_of if cursor else min(columns.rows, columns.rows if request.as_of is None else request.as_of)
    aim: Aim | None = None
    if request.examples:
        if index is None:
            raise InvalidInput("a search for likeness needs the vector index")
        aim = examples.aim(platform, request.examples, index=index, encoder=encoder, text_vector=text_vector)
    search = _Search(request=request, columns=columns, index=index, aim=aim, as_of=as_of, cursor=cursor)
    found, total, further = search.run()
    hits = search.hits(platform, found, further)
    return Page(hits=hits, total=total, rows=as_of, next_cursor=search.next_cursor(found, total=total))


@dataclass(frozen=True, kw_only=True)
class _Search:
    request: Request
    columns: Columns
    index: VectorIndex | None
    aim: Aim | None
    as_of: int
    cursor: Cursor | None

    def run(self) -> tuple[_Found, int, list[int] | None]:
        """A page, the number of hits on all pages, and how many further frames each hit's group has."""
        request = self.request
        rows = self._candidates()
        if request.group is None:
            total = len(rows)
            if request.order == SIMILARITY:
                return self._nearest(None if total == self._everything else self._as_mask(rows), total), total, None
            if request.order == NEWEST and self.aim is None:
                return self._newest(rows), total, None
            return self._page(self._sorted(rows)), min(total, SORTED_NEAREST) if self.aim else total, None
        codes = self.columns.codes(request.group)[0]
        codes_here = codes[rows]
        sizes = np.bincount(codes_here + 1)
        total = int(np.count_nonzero(sizes[1:])) + (int(sizes[0]) if len(sizes) else 0)
        if self.cursor is not None:
            shown = codes[np.array(self.cursor.group_rows, dtype=np.int64)]
            rows = rows[~np.isin(codes_here, shown[shown >= 0])]
        by_likeness = request.order == SIMILARITY
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
        mask = np.zeros(self.as_of, dtype=bool)
        mask[rows] = True
        return mask

    def _ask(self, mask: NDArray[np.bool_] | None, *, k: int) -> _Found:
        assert self.index is not None
        assert self.aim is not None
        scores_1K, rows_1K = self.index.search(self.aim.query[np.newaxis, :], k=k, mask=mask)
        real = (rows_1K[0] >= 0) & (rows_1K[0] < self.as_of) & ~np.isin(rows_1K[0], self.aim.rows)
        # Rounded, so that the last bit of a sum that was added in another order changes nothing about pages.
        return _in_order(rows_1K[0][real], -np.round(scores_1K[0][real].astype(np.float64), 6))

    def _nearest(self, mask: NDArray[np.bool_] | None, total: int) -> _Found:
        assert self.index is not None
        wanted = self.request.offset + self.request.k
        ask = wanted + (self.cursor.seen if self.cursor else 0) + len(self.aim.rows if self.aim else ())
        while True:
            found = self._ask(mask, k=ask)
            page = self._page(found)
            if len(page.rows) == self.request.k or ask >= self.index.size or len(found.rows) >= total:
                return page
            ask *= 2

    def _nearest_of_each(self, rows: NDArray[np.int64], codes: NDArray[np.int32]) -> _Found:
        """The nearest frame of each group: whatever group was found is left out of the next look."""
        wanted = self.request.offset + self.request.k
        mask = self._as_mask(rows)
        left, parts, count = len(rows), [_Found(rows=np.empty(0, np.int64), keys=np.empty(0))], 0
        ask = 4 * wanted
        while left and count < wanted:
            first = _first_of_each(self._ask(mask, k=ask), codes)
            if not len(first.rows):
                break
            parts.append(first)
            count += len(first.rows)
            found_codes = codes[first.rows]
            mask[first.rows] = False
            mask[rows[np.isin(codes[rows], found_codes[found_codes >= 0])]] = False
            left = int(np.count_nonzero(mask))
        found = _in_order(np.concatenate([one.rows for one in parts]), np.concatenate([one.keys for one in parts]))
        return self._cut(found)

    def _newest(self, rows: NDArray[np.int64]) -> _Found:
        stop = len(rows) if self.cursor is None else int(np.searchsorted(rows, self.cursor.row))
        stop = max(0, stop - self.request.offset)
        taken = rows[max(0, stop - self.request.k) : stop][::-1]
        return _Found(rows=taken, keys=-taken.astype(np.float64))

    def _sorted(self, rows: NDArray[np.int64]) -> _Found:
        """All candidates by the sort key; those without a value last."""
        name = self.request.order
        if self.aim is not None:
            # Asking for more than are wanted finds the examples themselves too, which do not count.
            rows = self._ask(self._as_mask(rows), k=SORTED_NEAREST).rows[:SORTED_NEAREST]
        column = rows.astype(np.float64) if name.lstrip("-") == "row" else self.columns.numbers(name.lstrip("-"))[rows]
        keys = -column if name.startswith("-") else column.copy()
        keys[np.isnan(keys)] = np.inf
        return _in_order(rows, keys)

    def _page(self, found: _Found) -> _Found:
        """What lies after the cursor, cut to a page."""
        if self.cursor is not None:
            key, row = self.cursor.key, self.cursor.row
            after = (found.keys > key) | ((found.keys == key) & (found.rows > row))
            found = _Found(rows=found.rows[after], keys=found.keys[after])
        return self._cut(found)

    def _cut(self, found: _Found) -> _Found:
        page = slice(self.request.offset, self.request.offset + self.request.k)
        return _Found(rows=found.rows[page], keys=found.keys[page])

    def hits(self, platform: Platform, found: _Found, further: list[int] | None) -> list[Hit]:
        """The hits of a page, each with the reason why it is there."""
        rows = found.rows.tolist()
        scores: list[float | None] = [None] * len(rows)
        nearest: list[tuple[Example | None, float | None]] = [(None, None)] * len(rows)
        if self.aim is not None and self.index is not None and rows:
            if self.request.order == SIMILARITY and len(self.request.examples) == 1 and self.aim.positives:
                scores = [-key for key in found.keys.tolist()]
                nearest = [(self.aim.positives[0], score) for score in scores]
            else:
                vectors_KD = self.index.vectors(found.rows)
                scores = [round(score, 6) for score in (vectors_KD @ self.aim.query).tolist()]
                if self.aim.positives:
                    similar_KP = vectors_KD @ self.aim.positive_vectors.T
                    best = similar_KP.argmax(axis=1).tolist()
                    nearest = [(self.aim.positives[p], float(similar_KP[i, p])) for i, p in enumerate(best)]
        values = None if self.request.order in (SIMILARITY, NEWEST, "row") else self._sort_values(found)
        return [
            Hit(
                frame=frame,
                score=scores[i],
                sort_value=None if values is None else values[i],
                further=None if further is None else further[i],
                reason=Reason(nearest=nearest[i][0], similarity=nearest[i][1], terms=self._terms(frame.row)),
            )
            for i, frame in enumerate(frames.by_rows(platform.database, rows))
        ]

    def _sort_values(self, found: _Found) -> list[float | None]:
        sign = -1 if self.request.order.startswith("-") else 1
        return [None if np.isinf(key) else sign * key for key in found.keys.tolist()]

    def _terms(self, row: int) -> tuple[tuple[str, str | None], ...]:
        return tuple(
            (term_text(term), None if isinstance(term, ValueTerm) and term.negated else self.columns.explain(term, row))
            for term in self.request.where.terms
        )

    def next_cursor(self, found: _Found, *, total: int) -> str | None:
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


def search(
    platform: Platform,
    *,
    text: str | None = None,
    image: bytes | None = None,
    like: str | None = None,
    where: Filter | str = "",
    k: int = 20,
    offset: int = 0,
    encoder: Encoder | None,
    index: VectorIndex,
    columns: Columns,
) -> list[Hit]:
    """The nearest frames to one thing, nearest first. Exactly one of `text`, `image` and `like` says to what; see `find`.

    Raises:
        InvalidInput: Nothing or several things to look for, a bad filter, a bad image.
        NotFound: `like` is no frame.
        Conflict: `like` has no vector yet, or the encoder is not the index's.
    """
    asked = [Example(kind="text", value=text)] if text is not None else []
    asked += [Example(kind="image", value="image", image=image)] if image is not None else []
    asked += [examples.frame_example(like)] if like is not None else []
    if len(asked) != 1:
        raise InvalidInput("give exactly one thing to look for: words, an image or a frame")
    chosen = parse_filter(where) if isinstance(where, str) else where
    request = Request(examples=tuple(asked), where=chosen, k=k, offset=offset)
    return list(find(platform, request, columns=columns, index=index, encoder=encoder).hits)


def browse(
    platform: Platform, *, where: Filter | str = "", k: int = 20, offset: int = 0, columns: Columns
) -> list[Hit]:
    """The frames that match a filter, last ingested first.

    Raises:
        InvalidInput: A bad filter, `k` or `offset`.
    """
    chosen = parse_filter(where) if isinstance(where, str) else where
    return list(find(platform, Request(where=chosen, k=k, offset=offset), columns=columns).hits)


def _in_order(rows: NDArray[np.int64], keys: NDArray[np.float64]) -> _Found:
    order = np.lexsort((rows, keys))
    return _Found(rows=rows[order], keys=keys[order])


def _first_of_each(found: _Found, codes: NDArray[np.int32]) -> _Found:
    """Of the rows with one code the first; rows without a code are groups of their own."""
    groups = codes[found.rows].astype(np.int64)
    alone = groups < 0
    groups[alone] = -1 - found.rows[alone]
    firsts = np.sort(np.unique(groups, return_index=True)[1])
    return _Found(rows=found.rows[firsts], keys=found.keys[firsts])
