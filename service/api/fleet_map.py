"""The map over HTTP: places of frames, their colours, and what lies inside a lasso."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from pydantic_core import to_json
from starlette.responses import Response

from infra.errors import InvalidInput
from selection.fleet import frames
from service import structure
from service.api.errors import RESPONSES
from service.api.line import Line, OneLine

router = APIRouter(tags=["map"], responses={422: RESPONSES[422]})

MOST_POINTS = 100_000
Where = Annotated[str, Query(description="Filter, for example `timeofday:dusk,night -weather:rain`.")]


class ColourOut(BaseModel):
    """What colours the points: for a key with texts the value of each as a position in `values`, -1 without one, most frequent value
    first; for a key with many numbers the number of each in `numbers`, null without one.
    """

    key: str
    values: list[str] | None = None
    counts: list[int] | None = None
    codes: list[int] | None = None
    numbers: list[float | None] | None = None


class MapOut(BaseModel):
    """Places of frames, column by column; x and y in about -1 to 1. `total` frames match, of which `rows` are shown; `waiting` frames of
    the fleet have no place yet.
    """

    projection_id: str | None
    total: int
    waiting: int
    rows: list[int]
    x: list[float]
    y: list[float]
    color: ColourOut | None = None


class LassoIn(BaseModel):
    """A polygon in map coordinates, closed by itself, and a filter to go with it."""

    polygon: list[list[float]] = Field(description="Corners `[x, y]`, 3 to 2,000 of them.")
    where: str = ""
    limit: Annotated[int, Field(ge=0, le=100_000, description="Rows to list.")] = 10_000
    frames: Annotated[int, Field(ge=0, le=500, description="Frame ids to list, of the first rows.")] = 100


class LassoOut(BaseModel):
    """What lies inside: `total` frames, the first of their rows and ids, and the search term that finds them all (until the map is made anew)."""

    total: int
    rows: list[int]
    frame_ids: list[str]
    where: str


@router.get("/map", response_model=MapOut)
def fleet_map(
    line: OneLine,
    where: Where = "",
    box: Annotated[str | None, Query(description="Only places within `x0,y0,x1,y1`.")] = None,
    limit: Annotated[
        int, Query(ge=1, le=MOST_POINTS, description="Points; of more, an even sample is shown.")
    ] = 50_000,
    color: Annotated[str | None, Query(description="A key to colour by, `slice` and `rarity` among them.")] = None,
) -> Response:
    """Where the frames that match a filter lie on the current map; empty until there is one. Points that are shown stay when the box shrinks."""
    found = structure.places(line.curator, where=where, box=_box(box), most=limit)
    if found is None:
        return _json(MapOut(projection_id=None, total=0, waiting=0, rows=[], x=[], y=[]))
    colour = structure.colour(line.curator, color, found.rows) if color else None
    return _json(
        MapOut.model_construct(
            projection_id=found.projection.projection_id,
            total=found.total,
            waiting=found.waiting,
            rows=found.rows.tolist(),
            x=found.xy[:, 0].astype(float).round(4).tolist(),
            y=found.xy[:, 1].astype(float).round(4).tolist(),
            color=colour
            and ColourOut.model_construct(
                key=colour.key,
                values=colour.values,
                counts=colour.counts,
                codes=None if colour.codes is None else colour.codes.tolist(),
                numbers=None if colour.numbers is None else _numbers(colour.numbers.tolist()),
            ),
        )
    )


@router.post("/map/select")
def select(line: OneLine, lasso: LassoIn) -> LassoOut:
    """The frames whose places lie inside a polygon. `where` of the answer is a search term that does the same: it works in searches, plans
    and batches.

    Asked: `{"polygon": [[x, y], ...], "where": "weather:rain", "limit": 10000, "frames": 100}`. Answered:
    `{"total": 1234, "rows": [5, 9, ...], "frame_ids": ["3f...", ...], "where": "map:\\"1a2b3c4d5e6f 0.1,0.2 ...\\""}`.
    """
    found = structure.lassoed(line.curator, lasso.polygon, where=lasso.where)
    shown = found.rows[: lasso.frames].tolist()
    ids = _ids(line, shown)
    return LassoOut(
        total=len(found.rows),
        rows=found.rows[: lasso.limit].tolist(),
        frame_ids=[ids[row] for row in shown],
        where=found.where,
    )


@router.get("/map/frames")
def frames_of(
    line: OneLine, rows: Annotated[str, Query(description="Up to 500 rows, parted by commas.")]
) -> list[str | None]:
    """The frame ids of rows of the map, in their order; null where there is no such row."""
    parts = [part.strip() for part in rows.split(",") if part.strip()]
    if len(parts) > 500 or not all(part.isdecimal() and len(part) < 16 for part in parts):
        raise InvalidInput("rows: takes up to 500 whole numbers, parted by commas")
    wanted = [int(part) for part in parts]
    ids = _ids(line, [row for row in set(wanted) if row < line.curator.columns().rows])
    return [ids.get(row) for row in wanted]


def _box(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as exc:
        raise InvalidInput("box: takes four numbers, x0,y0,x1,y1") from exc


def _numbers(numbers: list[float]) -> list[float | None]:
    return [None if number != number else float(f"{number:.5g}") for number in numbers]


def _json(answer: MapOut) -> Response:
    return Response(to_json(answer), media_type="application/json")


def _ids(line: Line, rows: list[int]) -> dict[int, str]:
    return {frame.row: frame.frame_id for frame in frames.by_rows(line.platform.database, rows)}
