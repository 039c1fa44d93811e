"""Workflows: runs of the Model Line."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import PlainTextResponse

from annotation import tasks
from service import model_line
from service.api.errors import RESPONSES
from service.api.line import OneLine
from training import workflows
from training.workflows import Workflow

router = APIRouter(prefix="/workflows", tags=["workflows"])


class StepOut(BaseModel):
    """One step of a workflow."""

    name: str
    state: str
    started_at: datetime | None
    ended_at: datetime | None
    seconds: float | None
    outputs: dict[str, Any]


class WorkflowBrief(BaseModel):
    """A workflow in a list."""

    workflow_id: str
    task_id: str
    state: str
    cause: dict[str, Any]
    created_at: datetime
    ended_at: datetime | None
    steps: list[StepOut]
    dataset_id: str | None
    model_id: str | None
    error: str | None


class WorkflowOut(WorkflowBrief):
    """The whole record: code, environment, hyperparameters, job."""

    hyperparameters: dict[str, str]
    executor: str | None
    code: dict[str, Any] | None
    environment: dict[str, Any] | None
    job: dict[str, Any] | None
    baseline_model_id: str | None


class WorkflowIn(BaseModel):
    """A training to start by hand."""

    task: str
    hyperparameters: dict[str, str] = Field(default_factory=dict, description="Those that differ from the defaults.")


@router.get("")
def list_workflows(line: OneLine, task: str | None = None) -> list[WorkflowBrief]:
    """Workflows, newest first."""
    found = workflows.list_all(line.platform.database, task_id=task)
    return [WorkflowBrief.model_validate(model_line.workflow_json(workflow)) for workflow in found]


@router.post("", status_code=202, responses={404: RESPONSES[404], 422: RESPONSES[422]})
def start_workflow(body: WorkflowIn, line: OneLine) -> WorkflowOut:
    """Starts a training on the labels that count now; the reconcilers take it on from there."""
    tasks.get(line.platform.database, body.task)
    started = model_line.start_training(line.platform, task_id=body.task, hyperparameters=body.hyperparameters)
    line.wake()
    return _out(started)


@router.get("/{workflow_id}", responses={404: RESPONSES[404]})
def read_workflow(workflow_id: str, line: OneLine) -> WorkflowOut:
    """The record of a workflow."""
    return _out(workflows.get(line.platform.database, workflow_id))


@router.get("/{workflow_id}/logs", response_class=PlainTextResponse, responses={404: RESPONSES[404]})
def read_logs(workflow_id: str, line: OneLine) -> str:
    """The log of its training job; empty before the job was started."""
    return "".join(f"{text.rstrip()}\n" for text in model_line.logs(line.platform, workflow_id))


def _out(workflow: Workflow) -> WorkflowOut:
    return WorkflowOut.model_validate(model_line.workflow_json(workflow))
