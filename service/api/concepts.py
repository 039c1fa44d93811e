"""Concepts: the few-shot finder."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from selection.concepts import concepts
from service import concepts as finder
from service.api.errors import RESPONSES
from service.api.line import OneLine
from service.api.paging import Offset

router = APIRouter(prefix="/concepts", tags=["concepts"], responses={422: RESPONSES[422]})


class MarksIn(BaseModel):
    """Frames by id. A frame that is marked again changes sides; `neither` takes its mark back."""

    yes: list[str] = Field(default_factory=list, max_length=concepts.MOST_MARKS)
    no: list[str] = Field(default_factory=list, max_length=concepts.MOST_MARKS)
    neither: list[str] = Field(default_factory=list, max_length=concepts.MOST_MARKS)


class ConceptOut(BaseModel):
    """A concept. `weights_digest` is of the probe fitted on the vectors of `encoder_id` when it was last changed."""

    name: str
    yes: list[str]
    no: list[str]
    encoder_id: str | None
    weights_digest: str | None
    changed_at: datetime


class RankedOut(BaseModel):
    """A frame with the probability that it belongs to the concept."""

    frame_id: str
    row: int
    score: float
    drive: str | None


@router.get("")
def list_concepts(line: OneLine) -> list[ConceptOut]:
    """Concepts by name."""
    return [ConceptOut.model_validate(asdict(one)) for one in concepts.list_all(line.platform.database)]


@router.post("/{name}", responses={404: RESPONSES[404], 409: RESPONSES[409]})
def mark(name: str, body: MarksIn, line: OneLine) -> ConceptOut:
    """Makes a concept from marked frames, or adds, changes and takes back marks of it."""
    made = concepts.mark(
        line.platform,
        name,
        yes=body.yes,
        no=body.no,
        neither=body.neither,
        index=line.curator.index(),
        now=datetime.now(UTC),
    )
    return ConceptOut.model_validate(asdict(made))


@router.get("/{name}", responses={404: RESPONSES[404]})
def read_concept(name: str, line: OneLine) -> ConceptOut:
    """One concept."""
    return ConceptOut.model_validate(asdict(concepts.get(line.platform.database, name)))


@router.delete("/{name}", status_code=204, responses={404: RESPONSES[404]})
def delete_concept(name: str, line: OneLine) -> None:
    """Forgets a concept."""
    concepts.delete(line.platform.database, name)


@router.get("/{name}/frames", responses={404: RESPONSES[404]})
def rank(
    name: str,
    line: OneLine,
    where: str = "",
    order: Literal["best", "informative"] = "best",
    k: Annotated[int, Query(ge=1, le=500)] = 50,
    offset: Offset = 0,
) -> list[RankedOut]:
    """Frames that are not marked: the likeliest first, or those first whose mark would teach most."""
    found = finder.rank(line.platform, line.curator, name, k=k, offset=offset, where=where, order=order)
    return [
        RankedOut(frame_id=one.frame.frame_id, row=one.frame.row, score=one.score, drive=one.frame.drive)
        for one in found
    ]
