"""Tasks: what is to be recognised."""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import APIRouter
from pydantic import BaseModel, Field

from annotation import tasks
from annotation.tasks import Task
from service.api.errors import RESPONSES
from service.api.line import OneLine
from training import workflows
from training.contract import TRAINABLE_KINDS

router = APIRouter(prefix="/tasks", tags=["tasks"])


class TaskIn(BaseModel):
    """A new task."""

    name: str = Field(description="2 to 24 lower-case letters, digits and single hyphens.", examples=["road-users"])
    kind: str = Field(description="`classification` or `multilabel`.", examples=["multilabel"])
    classes: list[str] = Field(examples=[["car", "pedestrian", "cyclist"]])
    training: dict[str, str] = Field(
        default_factory=dict, description="Hyperparameters of its trainings that differ from the defaults."
    )


class TaskOut(BaseModel):
    """A task."""

    task_id: str
    kind: str
    classes: list[str]
    version: int
    training: dict[str, str]
    trainable: bool = Field(description="Whether models of this kind are trained here.")


@router.get("")
def list_tasks(line: OneLine) -> list[TaskOut]:
    """All tasks."""
    return [_out(task) for task in tasks.list_all(line.platform.database)]


@router.post("", status_code=201, responses={409: RESPONSES[409], 422: RESPONSES[422]})
def create_task(body: TaskIn, line: OneLine) -> TaskOut:
    """Defines a task; the same definition again returns the one that is there."""
    workflows.check_hyperparameters(body.training)
    made = tasks.create(
        line.platform.database,
        name=body.name,
        kind=body.kind,
        classes=body.classes,
        training=body.training,
        now=datetime.now(UTC),
    )
    return _out(made)


@router.get("/{task_id}", responses={404: RESPONSES[404]})
def read_task(task_id: str, line: OneLine) -> TaskOut:
    """One task."""
    return _out(tasks.get(line.platform.database, task_id))


def _out(task: Task) -> TaskOut:
    return TaskOut(
        task_id=task.task_id,
        kind=task.kind,
        classes=list(task.classes),
        version=task.version,
        training=dict(task.training),
        trainable=task.kind in TRAINABLE_KINDS,
    )
