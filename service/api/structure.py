"""The structure of the fleet over HTTP: near-duplicates, slices and coverage."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from selection.fleet import frames
from selection.near_duplicates.duplicates import DEFAULT_HAMMING
from service import structure
from service.api.errors import RESPONSES
from service.api.line import Line, OneLine

router = APIRouter(tags=["structure"], responses={422: RESPONSES[422]})

Where = Annotated[str, Query(description="Filter, for example `timeofday:dusk,night -weather:rain`.")]
TaskId = Annotated[str | None, Query(alias="task", description="Labels of this task count; of any task without it.")]
Limit = Annotated[int, Query(ge=1, le=500, description="Entries of a page.")]
Offset = Annotated[int, Query(ge=0, description="Entries to leave out.")]


class GroupOut(BaseModel):
    """Frames that show the same."""

    keep: str
    duplicates: list[str]


class DuplicatesOut(BaseModel):
    """One page of groups, larger first; `kept` frames remain when duplicates go, `waiting` ones are not surveyed yet.

    `threshold` is the cosine similarity that counted, `threshold_basis` why.
    """

    groups: list[GroupOut]
    total: int
    frames: int
    kept: int
    skipped: int
    waiting: int
    threshold: float
    threshold_basis: str


class DuplicateOut(BaseModel):
    """A near-duplicate of a frame."""

    frame_id: str
    cosine: float


class TraitOut(BaseModel):
    """A value that is more frequent in a slice than in the fleet."""

    key: str
    value: str
    share: float
    fleet_share: float


class SliceOut(BaseModel):
    """One kind of scene."""

    name: str
    number: int
    frames: int
    labelled: int
    novelty: float | None
    rarity: float
    words: list[str]
    traits: list[TraitOut]
    examples: list[str]


class CellOut(BaseModel):
    """Frames that share a value of each key; `hole` is how many labels it lacks to be labelled like the fleet is spread."""

    values: list[str | None]
    frames: int
    share: float
    labelled: int
    labelled_share: float
    hole: float


class CoverageOut(BaseModel):
    """One page of combinations, biggest holes first."""

    by: list[str]
    cells: list[CellOut]
    total: int


@router.get("/duplicates")
def duplicates(
    line: OneLine,
    where: Where = "",
    threshold: Annotated[
        float | None, Query(description="Cosine similarity from which frames are duplicates; calibrated without it.")
    ] = None,
    max_hamming: Annotated[int | None, Query(description="Bits in which hashes of duplicates may differ.")] = None,
    within_drives: Annotated[bool, Query(description="Compare frames of the same drive only.")] = False,
    limit: Limit = 50,
    offset: Offset = 0,
) -> DuplicatesOut:
    """Groups of frames that show the same, each with the one to keep: as surveyed, or, with thresholds of one's own, compared anew (which is for
    filters that leave up to 20,000 frames).
    """
    asked = (threshold, max_hamming, within_drives)
    found = structure.kept_duplicates(line.curator, where=where) if asked == (None, None, False) else None
    if found is None:
        found = structure.find_duplicates(
            line.platform,
            line.curator,
            where=where,
            threshold=threshold,
            max_hamming=DEFAULT_HAMMING if max_hamming is None else max_hamming,
            within_drives=within_drives,
            most=structure.MOST_ON_REQUEST,
        )
    page = [group.tolist() for group in found.groups[offset : offset + limit]]
    ids = _ids(line, [row for group in page for row in group])
    return DuplicatesOut(
        groups=[GroupOut(keep=ids[group[0]], duplicates=[ids[row] for row in group[1:]]) for group in page],
        total=len(found.groups),
        frames=found.frames,
        kept=found.kept,
        skipped=found.skipped,
        waiting=found.waiting,
        threshold=found.threshold,
        threshold_basis=found.threshold_basis,
    )


@router.get("/duplicates/pairs", responses={404: RESPONSES[404]})
def duplicates_of_frame(
    line: OneLine,
    frame: Annotated[str, Query(description="Whose near-duplicates.")],
    where: Where = "",
    threshold: Annotated[
        float | None, Query(ge=0.5, le=1.0, description="Least cosine similarity; calibrated without it.")
    ] = None,
    limit: Limit = 50,
) -> list[DuplicateOut]:
    """Frames that are near-duplicates of one frame by embedding, whichever group they are in, most alike first."""
    rows, cosines = structure.duplicates_of_frame(
        line.platform, line.curator, frame, where=where, threshold=threshold, most=limit
    )
    ids = _ids(line, rows.tolist())
    return [
        DuplicateOut(frame_id=ids[row], cosine=cosine)
        for row, cosine in zip(rows.tolist(), cosines.tolist(), strict=True)
    ]


@router.get("/slices")
def slices(line: OneLine, where: Where = "", task_id: TaskId = None) -> list[SliceOut]:
    """Kinds of scene in the fleet as surveyed, largest first; `slice:NAME` is a search term."""
    found = structure.find_slices(line.platform, line.curator, where=where, task_id=task_id)
    ids = _ids(line, [row for one in found for row in one.examples.tolist()])
    return [
        SliceOut(
            name=one.name,
            number=one.number,
            frames=one.frames,
            labelled=one.labelled,
            novelty=one.novelty,
            rarity=one.rarity,
            words=list(one.words),
            traits=[TraitOut(key=t.key, value=t.value, share=t.share, fleet_share=t.fleet_share) for t in one.traits],
            examples=[ids[row] for row in one.examples.tolist()],
        )
        for one in found
    ]


@router.get("/coverage")
def coverage(
    line: OneLine,
    by: Annotated[str, Query(description="Keys to cross, parted by commas; `hour` is the hour of capture in UTC.")],
    where: Where = "",
    task_id: TaskId = None,
    limit: Limit = 100,
    offset: Offset = 0,
) -> CoverageOut:
    """What the fleet has of each combination of values and what of it is labelled."""
    keys = [key.strip() for key in by.split(",") if key.strip()]
    found = structure.find_coverage(line.platform, line.curator, keys, where=where, task_id=task_id)
    return CoverageOut(
        by=keys,
        cells=[
            CellOut(
                values=list(cell.values),
                frames=cell.fleet,
                share=cell.share,
                labelled=cell.labelled,
                labelled_share=cell.labelled_share,
                hole=cell.hole,
            )
            for cell in found[offset : offset + limit]
        ],
        total=len(found),
    )


def _ids(line: Line, rows: list[int]) -> dict[int, str]:
    return {frame.row: frame.frame_id for frame in frames.by_rows(line.platform.database, rows)}
