"""Dataset versions: immutable sets of data-label bindings."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter
from pydantic import BaseModel

from annotation import datasets
from annotation.datasets import DatasetVersion
from service.api.errors import RESPONSES
from service.api.line import Line, OneLine

router = APIRouter(prefix="/datasets", tags=["datasets"])


class DatasetOut(BaseModel):
    """A dataset version. `class_counts` has, for each split, the frames that show each class, in the order of `classes`."""

    dataset_id: str
    task_id: str
    task_version: int
    kind: str
    classes: list[str]
    counts: dict[str, int]
    class_counts: dict[str, list[int]]
    left_out: int
    split_note: str
    manifest_key: str
    manifest_digest: str
    manifest_uri: str
    created_at: datetime


@router.get("")
def list_datasets(line: OneLine, task: str | None = None) -> list[DatasetOut]:
    """Dataset versions, newest first."""
    return [_out(line, version) for version in datasets.list_all(line.platform.database, task_id=task)]


@router.get("/{dataset_id}", responses={404: RESPONSES[404]})
def read_dataset(dataset_id: str, line: OneLine) -> DatasetOut:
    """One dataset version."""
    return _out(line, datasets.get(line.platform.database, dataset_id))


def _out(line: Line, version: DatasetVersion) -> DatasetOut:
    plain = (
        "dataset_id",
        "task_id",
        "task_version",
        "kind",
        "left_out",
        "split_note",
        "manifest_key",
        "manifest_digest",
    )
    return DatasetOut(
        **{name: getattr(version, name) for name in plain},
        classes=list(version.classes),
        counts=dict(version.counts),
        class_counts={split: list(counts) for split, counts in version.class_counts.items()},
        manifest_uri=line.platform.objects.uri(version.manifest_key),
        created_at=version.created_at,
    )
