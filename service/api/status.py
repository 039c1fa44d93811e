"""How much there is, how far the work has come, and what could not be taken in."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel

from service.api.line import OneLine
from service.api.paging import Offset

router = APIRouter(tags=["status"])


class EncoderOut(BaseModel):
    """The encoder of this fleet."""

    id: str | None
    notice: str | None


class KnownEncoderOut(BaseModel):
    """An encoder that the fleet has vectors of; `role` is serving, wanted or kept."""

    name: str
    encoder_id: str
    role: str
    embedded: int


class IndexOut(BaseModel):
    """How vectors are searched, and the share of the exact nearest 50 that a search finds, as measured when the index was built."""

    encoder_id: str
    kind: str
    rows: int
    tail_rows: int
    recall: dict[str, float] | None
    segments: list[dict[str, Any]]


class TaskStatus(BaseModel):
    """How far a task has come."""

    task_id: str
    kind: str
    classes: list[str]
    labels: int
    current_model: str | None
    metric: float | None = None
    metric_name: str | None = None
    predicted: int


class ReconcilerOut(BaseModel):
    """How a reconciler of this process is doing."""

    name: str
    state: str
    last_run_at: datetime | None
    last_error: str | None


class StatusOut(BaseModel):
    """The whole line at a glance."""

    version: str
    frames: int
    embedded: int
    surveyed: int
    rejects: int
    encoder: EncoderOut
    encoders: list[KnownEncoderOut]
    index: IndexOut | None
    tasks: list[TaskStatus]
    reconcilers: list[ReconcilerOut]


class RejectOut(BaseModel):
    """A file or metadata line that could not be taken in."""

    source: str
    reason: str


@router.get("/status")
def read_status(line: OneLine) -> StatusOut:
    """Counts, the encoder, each task's labels and current model, and the reconcilers."""
    from service.overview import overview

    states: list[Any] = line.reconcilers.states() if line.reconcilers is not None else []
    reconcilers = [
        ReconcilerOut(name=s.name, state=s.state, last_run_at=s.last_run_at, last_error=s.last_error) for s in states
    ]
    return StatusOut(**overview(line.platform), reconcilers=reconcilers)


@router.get("/rejects")
def list_rejects(
    line: OneLine,
    offset: Offset = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[RejectOut]:
    """Files and metadata lines that could not be taken in, newest first, with the reason."""
    from selection.ingest import rejects

    found = rejects.list_rejects(line.platform.database, offset=offset, limit=limit)
    return [RejectOut(source=one.source, reason=one.reason) for one in found]
