"""Trace: where a thing came from and what it became."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel

from service import lineage
from service.api.errors import RESPONSES
from service.api.line import OneLine

router = APIRouter(prefix="/trace", tags=["trace"])


class TraceOut(BaseModel):
    """A graph. Nodes have `id`, `kind` and what the kind carries; edges have `from`, `to` and `kind`, and point the way the data went."""

    id: str
    kind: str
    frames_left_out: int
    nodes: list[dict[str, Any]]
    edges: list[dict[str, Any]]


@router.get("/{identifier}", responses={404: RESPONSES[404]})
def read_trace(
    identifier: str,
    line: OneLine,
    frame_limit: Annotated[
        int | None, Query(ge=1, description="At most this many frames of a dataset or batch.")
    ] = None,
) -> TraceOut:
    """The lineage of a frame, label, batch, dataset version, workflow or model."""
    return TraceOut.model_validate(lineage.trace(line.platform.database, identifier, frame_limit=frame_limit))
