"""Models: what workflows registered or people brought the predictions of, and which one of a task is current."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal, NewType

from pymongo import IndexModel

from annotation.datasets import DatasetId
from annotation.tasks import TaskId
from infra.database import Db, Document, transaction
from infra.errors import InvalidInput, NotFound
from training.contract import Metrics

ModelId = NewType("ModelId", str)

INDEXES: dict[str, list[IndexModel]] = {
    "models": [IndexModel([("task_id", 1), ("created_at", -1)]), IndexModel([("dataset_id", 1)])],
    "current_models": [],
}


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """Why a model became current, or did not.

    Attributes:
        candidate: Its metric on the test split of its dataset version.
        baseline: The metric of the model that was current, on the same frames; None without one.
    """

    promoted: bool
    metric_name: str | None
    candidate: float | None
    baseline: float | None
    baseline_model_id: str | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class Model:
    """A CNN: one that was trained here, or one of which only predictions are known. Never changed after it was registered.

    Attributes:
        origin: `imported` models have predictions (see `training.importing`), but no workflow, dataset version, file or figures.
        architecture: Of an imported model the name that it was given.
        artifact_key: Object key of `model.tar.gz`.
        artifact_digest: SHA-256 of that file.
        metrics: The job's `metrics.json`.
    """

    model_id: ModelId
    task_id: TaskId
    origin: Literal["trained", "imported"] = "trained"
    workflow_id: str | None = None
    dataset_id: DatasetId | None = None
    architecture: str
    classes: tuple[str, ...]
    artifact_key: str | None = None
    artifact_digest: str | None = None
    metric_name: str | None = None
    metric: float | None = None
    metrics: Metrics | None = None
    promotion: Promotion
    created_at: datetime

    def __post_init__(self) -> None:
        """Checks that a trained model can be traced and loaded.

        Raises:
            InvalidInput: It names no workflow, dataset version or file.
        """
        known = (self.workflow_id, self.dataset_id, self.artifact_key, self.artifact_digest)
        if self.origin == "trained" and not all(known):
            raise InvalidInput(f"model {self.model_id} was trained, but not all of where it came from is known")


def decide_promotion(
    *, metric_name: str, candidate: float | None, baseline: float | None, baseline_model_id: str | None
) -> Promotion:
    """A model becomes current if it is not worse than the current one on the same evaluation frames.

    Args:
        candidate: Metric of the new model, in [0, 1], None if the evaluation frames allow no figure.
        baseline: Metric of the current model on the same frames.
        baseline_model_id: The current model, None for a task's first model.
    """
    if baseline_model_id is None:
        promoted, reason = True, "first model of the task"
    elif candidate is None:
        promoted, reason = False, "the evaluation frames allow no figure for the new model"
    elif baseline is None:
        promoted, reason = True, "the evaluation frames allow no figure for the current model"
    else:
        promoted = candidate >= baseline
        verb = "is not worse than" if promoted else "is worse than"
        reason = f"{metric_name} {candidate:.4f} {verb} {baseline:.4f} of {baseline_model_id} on the same frames"
    return Promotion(
        promoted=promoted,
        metric_name=metric_name,
        candidate=candidate,
        baseline=baseline,
        baseline_model_id=baseline_model_id,
        reason=reason,
    )


def register(db: Db, model: Model) -> Model:
    """Stores a model and, if it was promoted, makes it current, both at once. Repeating it changes nothing."""

    def write(session: Any) -> None:
        if db.models.find_one({"_id": model.model_id}, {"_id": 1}, session=session) is not None:
            return
        db.models.insert_one(_to_document(model), session=session)
        if model.promotion.promoted:
            _set_current(db, model, since=model.created_at, session=session)

    transaction(db, write)
    return get(db, model.model_id)


def make_current(db: Db, model_id: str, *, now: datetime) -> Model:
    """Makes a model its task's current one, whatever the figures say.

    Raises:
        NotFound: No such model.
    """
    model = get(db, model_id)
    _set_current(db, model, since=now)
    return model


def get(db: Db, model_id: str) -> Model:
    """One model.

    Raises:
        NotFound: No such model.
    """
    document = db.models.find_one({"_id": model_id})
    if document is None:
        raise NotFound(f"model {model_id} does not exist; `mlpl model list` shows the ones that do", model_id=model_id)
    return _from_document(document)


def imported_as(db: Db, name: str) -> list[ModelId]:
    """Models whose predictions were imported under this name, the newest first; there may be one for each task."""
    query = {"origin": "imported", "architecture": name}
    return [ModelId(document["_id"]) for document in db.models.find(query, {"_id": 1}).sort("created_at", -1)]


def current(db: Db, task_id: str) -> Model | None:
    """The task's current model, None before the first."""
    document = db.current_models.find_one({"_id": task_id})
    return get(db, document["model_id"]) if document else None


def current_trained(db: Db, task_id: str) -> Model | None:
    """The task's current model where it can be evaluated beside a new one; None for an imported one, too."""
    model = current(db, task_id)
    return model if model is not None and model.origin == "trained" else None


def current_ids(db: Db) -> set[str]:
    """The current model of every task."""
    return {document["model_id"] for document in db.current_models.find()}


def list_all(db: Db, *, task_id: str | None = None, dataset_ids: list[str] | None = None) -> list[Model]:
    """Models, newest first."""
    query: Document = {"task_id": task_id} if task_id else {}
    if dataset_ids is not None:
        query["dataset_id"] = {"$in": dataset_ids}
    return [_from_document(document) for document in db.models.find(query).sort("created_at", -1)]


def _set_current(db: Db, model: Model, *, since: datetime, session: Any = None) -> None:
    change = {"$set": {"model_id": model.model_id, "since": since}}
    db.current_models.update_one({"_id": model.task_id}, change, upsert=True, session=session)


def _to_document(model: Model) -> Document:
    """Metrics stay JSON text: their keys are class names, which may hold what field names must not."""
    fields = {name: getattr(model, name) for name in Model.__dataclass_fields__ if name not in ("model_id", "metrics")}
    return {
        "_id": model.model_id,
        **fields,
        "classes": list(model.classes),
        "metrics": json.dumps(model.metrics),
        "promotion": asdict(model.promotion),
    }


def _from_document(document: Document) -> Model:
    known: dict[str, Any] = {name: document[name] for name in Model.__dataclass_fields__ if name in document}
    known |= {
        "classes": tuple(document["classes"]),
        "promotion": Promotion(**document["promotion"]),
        "metrics": json.loads(document["metrics"]),
    }
    return Model(model_id=ModelId(document["_id"]), **known)
