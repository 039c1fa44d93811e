"""Models: what workflows registered or predictions were imported of."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel

from service import model_line
from service.api.errors import RESPONSES
from service.api.line import OneLine
from training import models

router = APIRouter(prefix="/models", tags=["models"])


class PromotionOut(BaseModel):
    """Why the model became current, or did not; both figures are for the same frames."""

    promoted: bool
    metric_name: str | None
    candidate: float | None
    baseline: float | None
    baseline_model_id: str | None
    reason: str


class ModelOut(BaseModel):
    """A model. `metrics` is the training job's whole report. Of an `imported` one only predictions are known."""

    model_id: str
    task_id: str
    origin: Literal["trained", "imported"]
    workflow_id: str | None
    dataset_id: str | None
    architecture: str
    classes: list[str]
    artifact_key: str | None
    artifact_digest: str | None
    metric_name: str | None
    metric: float | None
    metrics: dict[str, Any] | None
    promotion: PromotionOut
    current: bool
    created_at: datetime


@router.get("")
def list_models(line: OneLine, task: str | None = None) -> list[ModelOut]:
    """Models, newest first."""
    found = model_line.models_json(line.platform.database, task_id=task)
    return [ModelOut.model_validate(one) for one in found]


@router.get("/{model_id}", responses={404: RESPONSES[404]})
def read_model(model_id: str, line: OneLine) -> ModelOut:
    """One model."""
    db = line.platform.database
    model = models.get(db, model_id)
    current = models.current(db, model.task_id)
    is_current = current is not None and current.model_id == model.model_id
    return ModelOut.model_validate(asdict(model) | {"current": is_current})
