"""Batches: frames chosen for labelling, and how far people have come with them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from annotation import batches, tasks
from annotation.batches import Batch, BatchState, Progress
from service import data_line, labelling
from service.api.errors import RESPONSES
from service.api.line import Line, OneLine
from service.api.paging import LARGEST_INT, Offset
from service.data_line import BatchRequest

router = APIRouter(prefix="/batches", tags=["batches"])
_MOVES: dict[int | str, dict[str, Any]] = {status: RESPONSES[status] for status in (404, 409, 503)}


class Counts(BaseModel):
    """Frames of a batch by state."""

    total: int
    labelled: int
    skipped: int
    invalid: int
    pending: int


class BatchOut(BaseModel):
    """A batch. `plan` says how its frames were chosen; `queue_url` is where people label it."""

    batch_id: str
    task_id: str
    state: BatchState
    created_at: datetime
    opened_at: datetime | None
    completed_at: datetime | None
    collected_at: datetime | None
    backend: str | None
    queue_url: str | None
    counts: Counts
    plan: dict[str, Any]
    model_id: str | None
    encoder_id: str | None
    workflow_id: str | None
    pushable: bool = Field(description="Whether the labelling backend serves tasks of this kind.")


class BatchIn(BaseModel):
    """What to choose: either `frame_ids`, or `budget` frames ranked by `acquisition` and spread by `diversity`."""

    task: str
    budget: int = Field(default=100, ge=1, le=100_000)
    acquisition: str = Field(default="entropy", description="Scores of a plan, joined by commas, or `random`.")
    diversity: str | None = Field(default="k_center_greedy", description="null takes the highest scores alone.")
    where: str = Field(default="", description="Only frames that match this filter.")
    seed: int = Field(default=0, ge=0, le=LARGEST_INT)
    evaluation: int | None = Field(
        default=None,
        ge=0,
        le=100_000,
        description="How many to draw from drives held out for testing. null: a fifth, until the task has enough to judge by.",
    )
    frame_ids: list[str] | None = Field(default=None, max_length=100_000, description="Frames picked by hand.")


class BatchFrameOut(BaseModel):
    """A frame's place in a batch: why it was chosen, and what people said."""

    frame_id: str
    row: int
    rank: int
    score: float | None
    reason: str
    purpose: str
    state: str
    value: list[str]
    problem: str | None


@router.get("")
def list_batches(line: OneLine, task: str | None = None, state: BatchState | None = None) -> list[BatchOut]:
    """Batches, newest first."""
    found = batches.list_all(line.platform.database, task_id=task, states=[state] if state else None)
    return batches_out(line, found)


@router.post("", status_code=201, responses={404: RESPONSES[404], 409: RESPONSES[409], 422: RESPONSES[422]})
def create_batch(body: BatchIn, line: OneLine) -> BatchOut:
    """Chooses the frames of a new batch. Nobody sees them before the batch is pushed."""
    asked = body.model_dump(exclude={"task"})
    request = BatchRequest(task_id=body.task, **asked)
    made = data_line.create_batch(line.platform, line.curator, request, now=datetime.now(UTC))
    return batches_out(line, [made])[0]


@router.get("/{batch_id}", responses={404: RESPONSES[404]})
def read_batch(batch_id: str, line: OneLine) -> BatchOut:
    """One batch."""
    return batches_out(line, [batches.get(line.platform.database, batch_id)])[0]


@router.get("/{batch_id}/frames", responses={404: RESPONSES[404]})
def list_frames(
    batch_id: str,
    line: OneLine,
    offset: Offset = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> list[BatchFrameOut]:
    """The frames of a batch in rank order."""
    batches.get(line.platform.database, batch_id)
    found = batches.frames_of(line.platform.database, batch_id, offset=offset, limit=limit)
    names = [name for name in BatchFrameOut.model_fields if name != "value"]
    return [BatchFrameOut(**{name: getattr(place, name) for name in names}, value=list(place.value)) for place in found]


@router.post("/{batch_id}/push", responses=_MOVES)
def push_batch(batch_id: str, line: OneLine) -> BatchOut:
    """Puts the batch before people. Repeating it sends nothing twice."""
    batch = batches.get(line.platform.database, batch_id)
    backend = labelling.backend_of(line.platform, batch)
    pushed = data_line.push_batch(line.platform, batch_id, backend=backend, now=datetime.now(UTC))
    return batches_out(line, [pushed])[0]


@router.post("/{batch_id}/sync", responses=_MOVES)
def sync_batch(batch_id: str, line: OneLine) -> BatchOut:
    """Collects the answers now, rather than at the reconciler's next round."""
    backend = labelling.backend_of(line.platform, batches.get(line.platform.database, batch_id))
    data_line.sync_batch(line.platform, batch_id, backend=backend, clock=lambda: datetime.now(UTC))
    line.wake()
    return batches_out(line, [batches.get(line.platform.database, batch_id)])[0]


@router.post("/{batch_id}/cancel", responses=_MOVES)
def cancel_batch(batch_id: str, line: OneLine) -> BatchOut:
    """Withdraws the batch: answers that were given stay, the other frames return to the pool."""
    batch = batches.get(line.platform.database, batch_id)
    backend = labelling.backend_of(line.platform, batch) if batch.ref else None
    cancelled = data_line.cancel_batch(line.platform, batch_id, backend=backend, clock=lambda: datetime.now(UTC))
    return batches_out(line, [cancelled])[0]


def batches_out(line: Line, found: Sequence[Batch]) -> list[BatchOut]:
    """Batches as the API tells them, with how far they have come."""
    progress = batches.progress_of_many(line.platform.database, [batch.batch_id for batch in found])
    names = [name for name in BatchOut.model_fields if name not in ("counts", "plan", "pushable")]
    served = {task.task_id: labelling.can_be_pushed(task) for task in tasks.list_all(line.platform.database)}
    return [
        BatchOut(
            **{name: getattr(batch, name) for name in names},
            plan=dict(batch.plan),
            counts=_counts(progress.get(batch.batch_id, Progress())),
            pushable=served.get(batch.task_id, False),
        )
        for batch in found
    ]


def _counts(progress: Progress) -> Counts:
    return Counts(**{name: getattr(progress, name) for name in Counts.model_fields})
