"""Search: words, an image or a frame, within a filter; and the counts beside it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, File, Query, UploadFile
from pydantic import BaseModel

from infra.errors import InvalidInput
from selection.fleet.filters import Term, TimeTerm, parse_filter
from selection.fleet.frames import Frame
from service.api.errors import RESPONSES
from service.api.line import OneLine
from service.curator import Found, split_query, term_text

router = APIRouter(tags=["search"], responses={422: RESPONSES[422]})

LARGEST_PAGE = 500
LARGEST_IMAGE = 64 * 1024 * 1024

Where = Annotated[str, Query(description="Filter, for example `timeofday:dusk,night -weather:rain after:2026-03-01`.")]
PageSize = Annotated[int, Query(ge=1, le=LARGEST_PAGE, description="Hits on a page.")]
Offset = Annotated[int, Query(ge=0, description="Hits to leave out.")]
AsOf = Annotated[
    int | None, Query(ge=0, description="`rows` of an earlier page: frames that came later do not shift this one.")
]


class TermOut(BaseModel):
    """One term of a filter."""

    key: str
    values: list[str]
    negated: bool
    text: str


class HitOut(BaseModel):
    """A found frame. `score` is the cosine similarity, null when nothing was asked for but the filter."""

    frame_id: str
    row: int
    score: float | None
    site: str | None
    drive: str | None
    camera: str | None
    captured_at: datetime | None
    attributes: dict[str, Any]
    width: int
    height: int


class SearchOut(BaseModel):
    """One page of hits, and how the query was understood. `missing` frames have no vector yet, so likeness cannot find them."""

    hits: list[HitOut]
    total: int
    rows: int
    missing: int
    took_ms: float
    notice: str | None
    text: str
    where: str
    terms: list[TermOut]


class FacetsOut(BaseModel):
    """Frames by value for each key."""

    facets: dict[str, dict[str, int]]
    total: int
    terms: list[TermOut]


@router.get("/search")
def search(
    line: OneLine,
    q: Annotated[str, Query(description="One box: words and `key:value` terms together.")] = "",
    text: Annotated[str, Query(description="Words, as one would caption a picture.")] = "",
    like: Annotated[str | None, Query(description="A frame's id: find frames like it.")] = None,
    where: Where = "",
    k: PageSize = 50,
    offset: Offset = 0,
    as_of: AsOf = None,
) -> SearchOut:
    """Frames nearest to words or to a frame, within a filter; without both, all that match it, last ingested first."""
    typed_words, typed_terms = split_query(q)
    words = " ".join(part for part in (text.strip(), typed_words) if part)
    full = " ".join(part for part in (where.strip(), typed_terms) if part)
    found = line.curator.search(text=words or None, like=like or None, where=full, k=k, offset=offset, as_of=as_of)
    return _answer(found, text=words, where=full)


@router.post("/search/image")
def search_by_image(
    line: OneLine,
    file: Annotated[UploadFile, File(description="An image file.")],
    where: Where = "",
    k: PageSize = 50,
    offset: Offset = 0,
) -> SearchOut:
    """Frames nearest to an uploaded image, within a filter. The image is not kept."""
    data = file.file.read(LARGEST_IMAGE + 1)
    if len(data) > LARGEST_IMAGE:
        raise InvalidInput(f"the image is larger than {LARGEST_IMAGE // 2**20} MiB")
    found = line.curator.search(image=data, where=where, k=k, offset=offset)
    return _answer(found, text="", where=where)


@router.get("/facets")
def facets(line: OneLine, where: Where = "") -> FacetsOut:
    """How many of the frames that match a filter have each value. Keys that the filter names are counted as if it did not."""
    found = line.curator.facets(where)
    return FacetsOut(facets=found.counts, total=found.total, terms=[_term(term) for term in found.terms])


def _answer(found: Found, *, text: str, where: str) -> SearchOut:
    return SearchOut(
        hits=[_hit(hit.frame, score=hit.score) for hit in found.hits],
        total=found.total,
        rows=found.rows,
        missing=found.missing,
        took_ms=round(found.took_ms, 1),
        notice=found.notice,
        text=text,
        where=where,
        terms=[_term(term) for term in parse_filter(where).terms],
    )


def _hit(frame: Frame, *, score: float | None) -> HitOut:
    return HitOut(
        frame_id=frame.frame_id,
        row=frame.row,
        score=None if score is None else round(float(score), 6),
        site=frame.site,
        drive=frame.drive,
        camera=frame.camera,
        captured_at=frame.captured_at,
        attributes=dict(frame.attributes),
        width=frame.width,
        height=frame.height,
    )


def _term(term: Term) -> TermOut:
    if isinstance(term, TimeTerm):
        key = "after" if term.is_after else "before"
        return TermOut(key=key, values=[term.moment.isoformat()], negated=False, text=term_text(term))
    values = [*term.values, *(f"{prefix}*" for prefix in term.prefixes)]
    return TermOut(key=term.key, values=values, negated=term.negated, text=term_text(term))
