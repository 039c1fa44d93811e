"""Selection plans: previewed, run and kept under a name."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Body
from pydantic import BaseModel

from annotation import tasks
from selection.planning import plan as plan_files
from selection.planning import saved_plans
from selection.planning.plan import Plan
from selection.planning.saved_plans import SavedPlan
from service import data_line, selecting
from service.api.batches import BatchOut, batches_out
from service.api.errors import RESPONSES
from service.api.line import Line, OneLine
from service.data_line import BatchRequest
from training import models

router = APIRouter(prefix="/plans", tags=["plans"], responses={422: RESPONSES[422]})

Given = Annotated[
    dict[str, Any] | str,
    Body(embed=True, description="A plan (`version: 1`, see `mlpl plan show`), or a saved plan's name."),
]
TaskGiven = Annotated[str, Body(embed=True)]


class StageOut(BaseModel):
    """How many frames are left after a step."""

    name: str
    frames: int
    note: str


class PlaceOut(BaseModel):
    """A frame that would be chosen, and why."""

    frame_id: str
    row: int
    score: float | None
    reason: str
    purpose: str


class PreviewOut(BaseModel):
    """What a plan would choose."""

    places: list[PlaceOut]
    stages: list[StageOut]
    evaluation: int
    spread: bool
    model_id: str | None


class TextOut(BaseModel):
    """A plan in both forms; the text leaves out what is at its default."""

    plan: dict[str, Any]
    text: str


class PlanOut(BaseModel):
    """A saved plan's newest revision."""

    name: str
    revision: int
    saved_at: datetime
    plan: dict[str, Any]


@router.post("/preview", responses={404: RESPONSES[404]})
def preview(task: TaskGiven, plan: Given, line: OneLine) -> PreviewOut:
    """What the plan would choose now and what is left after each stage. Makes no batch."""
    db = line.platform.database
    wanted, model = tasks.get(db, task), models.current(db, task)
    found = selecting.carry_out(line.platform, line.curator, _plan(line, plan), task=wanted, model=model)
    return PreviewOut.model_validate(asdict(found) | {"model_id": model.model_id if model else None})


@router.post("/run", status_code=201, responses={404: RESPONSES[404], 409: RESPONSES[409]})
def run(task: TaskGiven, plan: Given, line: OneLine) -> BatchOut:
    """Makes a batch as the plan says. Nobody sees it before it is pushed."""
    request = BatchRequest(task_id=task, plan=_plan(line, plan))
    return batches_out(line, [data_line.create_batch(line.platform, line.curator, request, now=datetime.now(UTC))])[0]


@router.post("/text")
def as_text(plan: Annotated[dict[str, Any] | str, Body(embed=True, description="A plan, or its YAML.")]) -> TextOut:
    """Checks a plan and writes it as YAML, or reads it from there. Keeps nothing."""
    read = plan_files.read(plan) if isinstance(plan, str) else plan_files.parse(plan)
    return TextOut(plan=read.document(), text=plan_files.render(read))


@router.post("", status_code=201)
def save(plan: Annotated[dict[str, Any], Body()], line: OneLine) -> PlanOut:
    """Keeps a plan under its `name`; earlier revisions stay."""
    return _saved(saved_plans.save(line.platform.database, plan_files.parse(plan), now=datetime.now(UTC)))


@router.get("")
def list_plans(line: OneLine) -> list[PlanOut]:
    """The saved plans, by name."""
    return [_saved(one) for one in saved_plans.list_all(line.platform.database)]


@router.get("/{name}", responses={404: RESPONSES[404]})
def read_plan(name: str, line: OneLine) -> PlanOut:
    """One saved plan."""
    return _saved(saved_plans.get(line.platform.database, name))


def _plan(line: Line, given: dict[str, Any] | str) -> Plan:
    return saved_plans.get(line.platform.database, given).plan if isinstance(given, str) else plan_files.parse(given)


def _saved(one: SavedPlan) -> PlanOut:
    return PlanOut(name=one.name, revision=one.revision, saved_at=one.saved_at, plan=one.plan.document())
