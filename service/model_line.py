"""The Model Line's moves as people and the API make them: start a training, take it further, show its record."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from annotation import labels, tasks
from infra import leases
from infra.database import Db
from infra.errors import InvalidInput
from infra.platform import Platform
from training import models, workflows
from training.contract import TRAINABLE_KINDS
from training.executors.local import LocalExecutor
from training.executors.protocol import Executor, JobRef
from training.workflows import Workflow

if TYPE_CHECKING:
    from selection.fleet.columns import Columns


def executor_of(platform: Platform) -> Executor:
    """The executor that the settings choose: for now, subprocesses of this machine."""
    return LocalExecutor(platform)


def start_training(platform: Platform, *, task_id: str, hyperparameters: Mapping[str, str]) -> Workflow:
    """Starts a workflow by hand, on the labels that count now; what is not given comes from the task's training.

    One that was asked for before and is still to give the same result is returned instead of a second one, so that a command which
    was killed can be repeated.

    Raises:
        NotFound: No such task.
        InvalidInput: A kind of task that is not trained here, or a hyperparameter that no training would take.
    """
    db = platform.database
    task = tasks.get(db, task_id)
    if task.kind not in TRAINABLE_KINDS:
        raise InvalidInput(
            f"tasks of kind {task.kind} cannot be trained here yet, only {' and '.join(TRAINABLE_KINDS)}; "
            f"train elsewhere and bring the predictions with `mlpl predictions import FILE --task {task_id} --model NAME`",
            task_id=task_id,
        )
    asked = {**task.training, **hyperparameters}
    workflows.check_hyperparameters(asked)
    for before in workflows.list_all(db, task_id=task_id, unfinished=True):
        if before.cause["kind"] == "manual" and before.hyperparameters == asked:
            frozen_at = before.step("freeze").started_at
            if frozen_at is None or not labels.changed_since(db, task_id=task_id, moment=frozen_at):
                return before
    now = datetime.now(UTC)
    return workflows.start(
        db,
        workflow_id=f"wf-{task_id}-{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}",
        task_id=task_id,
        cause={"kind": "manual"},
        hyperparameters=asked,
        now=now,
    )


def advance_task(
    platform: Platform, task_id: str, *, executor: Executor, columns: Columns, clock: Callable[[], datetime]
) -> bool:
    """Takes the workflow further whose turn it is in a task, unless another process is at it now.

    Returns:
        Whether that brought it forward.
    """
    with leases.try_hold(platform.database, f"train/{task_id}") as lease:
        workflow = workflows.in_turn(platform.database, task_id) if lease is not None else None
        if workflow is None:
            return False
        after = workflows.advance(platform, workflow.workflow_id, executor=executor, columns=columns, clock=clock)
        return after.steps != workflow.steps


def logs(platform: Platform, workflow_id: str) -> Iterator[str]:
    """Lines of the training job's log; nothing before the job was started."""
    workflow = workflows.get(platform.database, workflow_id)
    if workflow.job is not None:
        yield from executor_of(platform).logs(JobRef(workflow.job["job_name"]))


def workflow_json(workflow: Workflow) -> dict[str, Any]:
    """The record for programs: every field, and how long each step took."""
    record = asdict(workflow)
    for step in record["steps"]:
        begun, ended = step["started_at"], step["ended_at"]
        step["seconds"] = (ended - begun).total_seconds() if begun and ended else None
    return record


def models_json(db: Db, *, task_id: str | None = None) -> list[dict[str, Any]]:
    """Models newest first, each with whether it is its task's current one."""
    found = models.list_all(db, task_id=task_id)
    current = models.current_ids(db)
    return [asdict(model) | {"current": model.model_id in current} for model in found]
