"""Search: words, images, frames and parts of frames, within a filter, in any order; and the counts beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, File, Query, UploadFile
from pydantic import BaseModel
from pydantic_core import to_json
from starlette.responses import Response

from infra.errors import InvalidInput
from selection.fleet.filters import Filter, NearTerm, Term, ValueTerm, term_text, value_text, value_texts
from selection.fleet.filters import Query as Typed
from selection.ranking.examples import Example, frame_example
from selection.ranking.search import Hit
from service.api.errors import RESPONSES
from service.api.line import OneLine
from service.api.paging import LARGEST_INT, Offset
from service.curator import Found, parse_box

router = APIRouter(tags=["search"], responses={422: RESPONSES[422]})

LARGEST_PAGE = 500
LARGEST_IMAGE = 64 * 1024 * 1024

Box = Annotated[
    str,
    Query(description='One box: words and `key:value` terms together; `-word` and `-"some words"` are to be far from.'),
]
Where = Annotated[
    str, Query(description="Filter, for example `timeofday:dusk,night -weather:rain speed_kph:>40 after:2026-03-01`.")
]
Texts = Annotated[list[str], Query(description="Words, as one would caption a picture; several are all to be near to.")]
Frames = Annotated[list[str], Query(description="A frame's id, or a part of one as `ID@x0,y0,x1,y1` in pixels.")]
Sort = Annotated[
    str | None,
    Query(
        description="`similarity`, `captured`, `row` (order of ingest), `concept:NAME` or a key with numbers; with a minus descending."
    ),
]
Group = Annotated[str | None, Query(description="A key, such as `drive`: of the frames with one value only the first.")]
PageSize = Annotated[int, Query(ge=1, le=LARGEST_PAGE, description="Hits on a page.")]
AsOf = Annotated[
    int | None,
    Query(ge=0, le=LARGEST_INT, description="`rows` of an earlier page: frames that came later do not shift this one."),
]
After = Annotated[str | None, Query(description="`next_cursor` of the page before.")]


class TermOut(BaseModel):
    """One term of a filter. `facet` is the key of the facet or histogram that it chooses from, null where that is none of them; `texts` has
    each of `values` as filters write it.
    """

    key: str
    facet: str | None
    values: list[str]
    texts: list[str]
    negated: bool
    text: str


class MatchedOut(BaseModel):
    """A term that a frame passes, and what it is about the frame that the term asks for."""

    text: str
    value: str | None


class NearestOut(BaseModel):
    """The example that a frame is most like."""

    kind: Literal["text", "frame", "image"]
    value: str
    crop_xyxy_px: tuple[float, float, float, float] | None
    similarity: float


class WhyOut(BaseModel):
    """Why a frame is among the hits."""

    nearest: NearestOut | None
    terms: list[MatchedOut]


class HitOut(BaseModel):
    """A found frame. `score` is the cosine similarity to the query, null when nothing was asked for but the filter; `sort_value` what it was
    sorted by; `further` how many further frames its group has.
    """

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
    sort_value: float | None
    further: int | None
    why: WhyOut


class SearchOut(BaseModel):
    """One page of hits, and how the query was understood: `words` is the part of the box that is no filter, `text` its main text. `missing`
    frames have no vector yet, so likeness cannot find them. `next_cursor` asks for the page after this one.
    """

    hits: list[HitOut]
    total: int
    rows: int
    missing: int
    took_ms: float
    notice: str | None
    next_cursor: str | None
    words: str
    text: str
    where: str
    terms: list[TermOut]


class HistogramOut(BaseModel):
    """Frames by number: `counts[i]` of them from `edges[i]` to below `edges[i + 1]`."""

    edges: list[float]
    counts: list[int]


class FacetsOut(BaseModel):
    """Frames by value for each key, and by number for each key with many of them. `texts` has those values that filters write in another way,
    as they do: folded, or in quotes.
    """

    facets: dict[str, dict[str, int]]
    texts: dict[str, dict[str, str]]
    histograms: dict[str, HistogramOut]
    total: int
    terms: list[TermOut]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A search as it was asked for; the one place that declares its parameters.

    Attributes:
        typed: What the box holds.
        text: Words beside it.
        examples: What to be near to and far from, all told.
        where: The filter, of box and parameter together.
    """

    typed: Typed
    text: Sequence[str]
    examples: Sequence[Example]
    where: Filter
    sort: str | None
    group: str | None
    k: int
    offset: int
    as_of: int | None
    cursor: str | None

    def answer(self, line: OneLine, *, uploaded: Sequence[Example] = ()) -> Response:
        """Searches."""
        found = line.curator.search(
            examples=[*uploaded, *self.examples],
            where=self.where,
            sort=self.sort,
            group=self.group,
            k=self.k,
            offset=self.offset,
            as_of=self.as_of,
            cursor=self.cursor,
        )
        return _answer(found, typed=self.typed, text=" ".join([*self.text, self.typed.words]).strip(), where=self.where)


async def _asked(  # Not async, it would run in a thread of its own; reading a query takes microseconds.
    q: Box = "",
    text: Texts = [],  # noqa: B006 - FastAPI copies it
    not_text: Texts = [],  # noqa: B006
    like: Frames = [],  # noqa: B006
    unlike: Frames = [],  # noqa: B006
    where: Where = "",
    sort: Sort = None,
    group: Group = None,
    k: PageSize = 50,
    offset: Offset = 0,
    as_of: AsOf = None,
    cursor: After = None,
) -> Asked:
    typed, full = parse_box(q, where=where)
    return Asked(
        typed=typed,
        text=text,
        examples=_examples(typed, text=text, not_text=not_text, like=like, unlike=unlike),
        where=full,
        sort=sort or None,
        group=group or None,
        k=k,
        offset=offset,
        as_of=as_of,
        cursor=cursor or None,
    )


@router.get("/search", response_model=SearchOut)
def search(line: OneLine, asked: Annotated[Asked, Depends(_asked)]) -> Response:
    """Frames near to words, frames or parts of frames and far from others, within a filter; without those, all that match it."""
    return asked.answer(line)


@router.post("/search/image", response_model=SearchOut)
def search_by_image(
    line: OneLine,
    file: Annotated[UploadFile, File(description="An image file.")],
    asked: Annotated[Asked, Depends(_asked)],
) -> Response:
    """As the search, with an uploaded image to be near to as well. The image is not kept."""
    data = file.file.read(LARGEST_IMAGE + 1)
    if len(data) > LARGEST_IMAGE:
        raise InvalidInput(f"the image is larger than {LARGEST_IMAGE // 2**20} MiB")
    return asked.answer(line, uploaded=[Example(kind="image", value=file.filename or "image", image=data)])


@router.get("/facets", response_model=FacetsOut)
def facets(line: OneLine, where: Where = "", q: Box = "") -> Response:
    """How many of the frames that match a filter have each value. Keys that the filter names are counted as if it did not."""
    found = line.curator.facets(parse_box(q, where=where)[1])
    return _json(
        {
            "facets": found.counts,
            "texts": {key: _texts(counts) for key, counts in found.counts.items()},
            "histograms": {key: {"edges": one.edges, "counts": one.counts} for key, one in found.histograms.items()},
            "total": found.total,
            "terms": list(map(_term, found.terms, found.keys)),
        }
    )


def _examples(
    typed: Typed, *, text: Sequence[str], not_text: Sequence[str], like: Sequence[str], unlike: Sequence[str]
) -> list[Example]:
    near = [*filter(None, map(str.strip, text)), *typed.texts]
    far = [*filter(None, map(str.strip, not_text)), *typed.without]
    return [
        *(Example(kind="text", value=one) for one in near),
        *(Example(kind="text", value=one, negative=True) for one in far),
        *(frame_example(one) for one in like if one),
        *(frame_example(one, negative=True) for one in unlike if one),
    ]


def _answer(found: Found, *, typed: Typed, text: str, where: Filter) -> Response:
    return _json(
        {
            "hits": [_hit(hit) for hit in found.hits],
            "total": found.total,
            "rows": found.rows,
            "missing": found.missing,
            "took_ms": round(found.took_ms, 1),
            "notice": found.notice,
            "next_cursor": found.next_cursor,
            "words": typed.written_words(),
            "text": text,
            "where": where.text,
            "terms": list(map(_term, where.terms, found.keys)),
        }
    )


def _json(body: dict[str, Any]) -> Response:
    # The models above describe the answer; checking our own fifty hits against them takes longer than finding them.
    return Response(to_json(body, inf_nan_mode="null"), media_type="application/json")


def _hit(hit: Hit) -> dict[str, Any]:
    frame, reason = hit.frame, hit.reason
    near = reason.nearest
    return {
        "frame_id": frame.frame_id,
        "row": frame.row,
        "score": None if hit.score is None else round(float(hit.score), 6),
        "site": frame.site,
        "drive": frame.drive,
        "camera": frame.camera,
        "captured_at": frame.captured_at,
        "attributes": dict(frame.attributes),
        "width": frame.width,
        "height": frame.height,
        "sort_value": hit.sort_value,
        "further": hit.further,
        "why": {
            "nearest": near
            and {
                "kind": near.kind,
                "value": near.value,
                "crop_xyxy_px": near.crop_xyxy_px,
                "similarity": round(reason.similarity or 0.0, 6),
            },
            "terms": [{"text": text, "value": value} for text, value in reason.terms],
        },
    }


def _texts(values: Iterable[str]) -> dict[str, str]:
    return {value: text for value in values if (text := value_text(value)) != value}


def _term(term: Term, facet: str | None) -> dict[str, Any]:
    if isinstance(term, ValueTerm):
        key, texts = term.key, value_texts(term)
        plain = [*term.values, *(f"{prefix}*" for prefix in term.prefixes)]
        values, negated = [*plain, *texts[len(plain) :]], term.negated
    elif isinstance(term, NearTerm):
        key, values, negated = "near", [term_text(term).partition(":")[2]], term.negated
        texts = values
    else:
        key, values, negated = "after" if term.is_after else "before", [term.moment.isoformat()], False
        texts = [term_text(term).partition(":")[2]]
    return {"key": key, "facet": facet, "values": values, "texts": texts, "negated": negated, "text": term_text(term)}
