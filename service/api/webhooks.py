"""Webhooks: doorbells of labelling systems. They say that something changed; what changed is read from the system itself."""

from __future__ import annotations

import hmac
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from annotation import batches, tasks
from infra.errors import Denied
from infra.logs import get_logger
from service import labelling
from service.api.line import Line, OneLine

router = APIRouter(prefix="/webhooks", tags=["webhooks"])
log = get_logger(__name__)


class Rung(BaseModel):
    """How many batches are due for collection now."""

    due: int


@router.post("/label-studio")
async def label_studio(request: Request, line: OneLine) -> Rung:
    """Label Studio's webhook. Answers at once: Label Studio waits one second for it, inside the annotator's request, and never repeats."""
    presented = request.headers.get("authorization", "")
    expected = await run_in_threadpool(labelling.webhook_secret, line.platform)
    if not hmac.compare_digest(presented.encode(), f"Bearer {expected}".encode()):
        raise Denied("the webhook's secret is wrong; push the batch again to renew it")
    try:
        payload: Any = await request.json()
    except ValueError:
        payload = None
    return Rung(due=await run_in_threadpool(_ring, line, payload))


def _ring(line: Line, payload: Any) -> int:
    """Marks the batches of the project's task. Deletions do not name their project, so they ring for every task."""
    from annotation.backends.label_studio import conversion

    db = line.platform.database
    project = payload.get("project") if isinstance(payload, dict) else None
    question = conversion.read_question(str(project.get("description") or "")) if isinstance(project, dict) else None
    task_ids = [question.task_id] if question else [task.task_id for task in tasks.list_all(db)]
    due = sum(batches.ring(db, task_id=task_id, now=datetime.now(UTC)) for task_id in task_ids)
    line.wake()
    log.info("webhook_rang", backend="label_studio", due=due)
    return due
