"""Search: frames near to words, images, frames and parts of frames, within a filter; in any order, a page at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from infra.errors import InvalidInput
from infra.platform import Platform
from selection.fleet import frames
from selection.fleet.columns import Columns
from selection.fleet.filters import Filter, ValueTerm, parse_filter, term_text
from selection.fleet.frames import Frame
from selection.ranking import cursors, examples
from selection.ranking.examples import Aim, Example
from selection.ranking.ordering import Found, Ordering
from selection.ranking.request import NEWEST, SIMILARITY, Request

if TYPE_CHECKING:
    from selection.embedding.encoder import Encoder
    from selection.embedding.index import VectorIndex

__all__ = ["Hit", "Page", "Reason", "Request", "browse", "find", "search"]


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
    ordering = Ordering(request=request, columns=columns, index=index, aim=aim, as_of=as_of, cursor=cursor)
    found, total, further = ordering.run()
    hits = _hits(platform, ordering, found, further)
    return Page(hits=hits, total=total, rows=as_of, next_cursor=ordering.next_cursor(found, total=total))


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


def _hits(platform: Platform, ordering: Ordering, found: Found, further: list[int] | None) -> list[Hit]:
    """The hits of a page, each with the reason why it is there."""
    request, aim, index = ordering.request, ordering.aim, ordering.index
    rows = found.rows.tolist()
    scores: list[float | None] = [None] * len(rows)
    nearest: list[tuple[Example | None, float | None]] = [(None, None)] * len(rows)
    if aim is not None and index is not None and rows:
        if request.order == SIMILARITY and len(request.examples) == 1 and aim.positives:
            scores = [-key for key in found.keys.tolist()]
            nearest = [(aim.positives[0], score) for score in scores]
        else:
            vectors_KD = index.vectors(found.rows)
            scores = [round(score, 6) for score in (vectors_KD @ aim.query).tolist()]
            if aim.positives:
                similar_KP = vectors_KD @ aim.positive_vectors.T
                best = similar_KP.argmax(axis=1).tolist()
                nearest = [(aim.positives[p], float(similar_KP[i, p])) for i, p in enumerate(best)]
    values = None if request.order in (SIMILARITY, NEWEST, "row") else _sort_values(request, found)
    return [
        Hit(
            frame=frame,
            score=scores[i],
            sort_value=None if values is None else values[i],
            further=None if further is None else further[i],
            reason=Reason(
                nearest=nearest[i][0], similarity=nearest[i][1], terms=_terms(request, ordering.columns, frame.row)
            ),
        )
        for i, frame in enumerate(frames.by_rows(platform.database, rows))
    ]


def _sort_values(request: Request, found: Found) -> list[float | None]:
    sign = -1 if request.order.startswith("-") else 1
    return [None if np.isinf(key) else sign * key for key in found.keys.tolist()]


def _terms(request: Request, columns: Columns, row: int) -> tuple[tuple[str, str | None], ...]:
    return tuple(
        (term_text(term), None if isinstance(term, ValueTerm) and term.negated else columns.explain(term, row))
        for term in request.where.terms
    )
