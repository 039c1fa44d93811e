"""How much there is and how far the work has come, from counters and shard records alone."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from annotation import batches, tasks
from infra.platform import Platform
from selection import shards
from selection.embedding import encoders, switching
from selection.embedding.index import built_status
from selection.fleet import frames
from selection.ingest import rejects
from selection.structure import survey
from training import models, provenance


def overview(platform: Platform) -> dict[str, Any]:
    """The figures of the status page, see GET /api/v1/status."""
    db = platform.database
    chosen = encoders.chosen(platform)
    encoder_id = chosen.encoder_id if chosen else None
    return {
        "version": provenance.version(),
        "frames": frames.row_count(db),
        "rejects": rejects.reject_count(db),
        "embedded": shards.row_total(db, "vectors", encoder_id) if encoder_id else 0,
        "encoder": {"id": encoder_id, "notice": chosen.notice if chosen else None},
        "encoders": [asdict(one) for one in switching.known(platform)],
        "index": built_status(platform, encoder_id).as_json() if encoder_id else None,
        "surveyed": _surveyed(platform, encoder_id) if encoder_id else 0,
        "tasks": [_task(platform, task) for task in tasks.list_all(db)],
    }


def _surveyed(platform: Platform, encoder_id: str) -> int:
    found = survey.current(platform.database, encoder_id)
    return shards.row_total(platform.database, "surveys", found.survey_id) if found else 0


def _task(platform: Platform, task: tasks.Task) -> dict[str, Any]:
    db = platform.database
    model = models.current(db, task.task_id)
    return {
        "task_id": task.task_id,
        "kind": task.kind,
        "classes": list(task.classes),
        "labels": batches.labelled_count(db, task_id=task.task_id),
        "current_model": model.model_id if model else None,
        "metric": model.metric if model else None,
        "metric_name": model.metric_name if model else None,
        "predicted": shards.valued_total(db, "predictions", model.model_id) if model else 0,
    }
