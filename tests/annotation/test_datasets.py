from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from annotation import datasets, labels
from annotation.batches import Batch
from annotation.tasks import Task
from infra.database import Db
from infra.errors import InvalidInput
from infra.objects import ObjectStore, open_objects
from infra.settings import Settings
from selection.fleet.columns import Columns
from selection.fleet.frames import Frame
from tests.annotation.conftest import NOW, answer

Label = Callable[..., None]


@pytest.fixture
def label(db: Db, task: Task) -> Label:
    """Gives frames a label."""

    def run(known: list[Frame], *value: str, batch_id: str = "batch-1", at_s: float = 0.0) -> None:
        labels.store_answers(
            db,
            task=task,
            batch_id=batch_id,
            backend="here",
            answers=[answer(frame, *value, at_s=at_s) for frame in known],
            frames={frame.frame_id: frame for frame in known},
            now=NOW,
        )

    return run


def freeze(db: Db, objects: ObjectStore, task: Task, *, days: int = 0) -> datasets.DatasetVersion:
    columns = Columns(db)
    columns.refresh()
    return datasets.freeze(db, objects, task_id=task.task_id, columns=columns, now=NOW + timedelta(days=days))


def test_the_same_bindings_give_the_same_version(
    db: Db,
    objects: ObjectStore,
    fleet: Callable[..., list[Frame]],
    task: Task,
    label: Label,
    open_batch: Callable[..., Batch],
) -> None:
    known = fleet(drives=8, per_drive=5)
    open_batch(known)
    label(known, "car")
    first = freeze(db, objects, task)
    assert freeze(db, objects, task, days=1) == first
    assert db.datasets.count_documents({}) == 1


def test_bindings_that_a_killed_freeze_left_are_replaced(
    db: Db,
    objects: ObjectStore,
    fleet: Callable[..., list[Frame]],
    task: Task,
    label: Label,
    open_batch: Callable[..., Batch],
) -> None:
    known = fleet(drives=8, per_drive=5)
    open_batch(known)
    label(known, "car")
    version = freeze(db, objects, task)
    sound = list(datasets.bindings_of(db, version.dataset_id))
    # Killed before the record, and the same answer came under a new label's id since.
    db.datasets.delete_one({"_id": version.dataset_id})
    db.bindings.update_one({"frame_id": known[3].frame_id}, {"$set": {"label_id": "label-of-old"}})
    assert freeze(db, objects, task) == version
    assert list(datasets.bindings_of(db, version.dataset_id)) == sound


def test_a_version_knows_where_its_frames_lay_after_the_home_was_moved(
    db: Db,
    objects: ObjectStore,
    fleet: Callable[..., list[Frame]],
    task: Task,
    label: Label,
    open_batch: Callable[..., Batch],
    tmp_path: Path,
) -> None:
    known = fleet(drives=8, per_drive=5)
    open_batch(known)
    label(known, "car")
    first = freeze(db, objects, task)
    refs = [json.loads(line)["source-ref"] for line in objects.get(first.manifest_key).splitlines()]
    assert first.frames_uri
    assert all(ref.startswith(first.frames_uri) for ref in refs)
    moved = open_objects(Settings(home=tmp_path / "moved"))
    assert freeze(db, moved, task, days=1) == first
    label(known[:1], "cyclist", at_s=9)
    second = freeze(db, objects, task)
    assert second.dataset_id != first.dataset_id
    label(known[:1], "car", at_s=10)
    assert freeze(db, objects, task).dataset_id == first.dataset_id


def test_the_manifest_holds_one_line_a_binding_in_ground_truths_form(
    db: Db,
    objects: ObjectStore,
    fleet: Callable[..., list[Frame]],
    task: Task,
    label: Label,
    open_batch: Callable[..., Batch],
) -> None:
    known = fleet(drives=8, per_drive=3)
    open_batch(known)
    label(known, "car", "cyclist")
    version = freeze(db, objects, task)
    data = objects.get(version.manifest_key)
    assert hashlib.sha256(data).hexdigest() == version.manifest_digest
    lines = [json.loads(line) for line in data.decode().splitlines()]
    assert len(lines) == len(known) == sum(version.counts.values())
    by_frame = {line["frame-id"]: line for line in lines}
    line = by_frame[known[0].frame_id]
    assert line["source-ref"] == objects.uri(known[0].object_key)
    assert line["road-users"] == [0, 2]
    assert line["road-users-metadata"]["class-map"] == {"0": "car", "2": "cyclist"}
    assert line["frame-digest"] == known[0].digest
    assert line["row"] == known[0].row
    splits_by_drive = {frame.drive: set() for frame in known}
    for frame in known:
        splits_by_drive[frame.drive].add(by_frame[frame.frame_id]["split"])
    assert all(len(found) == 1 for found in splits_by_drive.values())
    assert version.class_counts["train"][0] == version.counts["train"]


def test_frames_and_labels_lead_to_their_versions(
    db: Db,
    objects: ObjectStore,
    fleet: Callable[..., list[Frame]],
    task: Task,
    label: Label,
    open_batch: Callable[..., Batch],
) -> None:
    known = fleet(drives=8, per_drive=3)
    open_batch(known)
    label(known, "car")
    version = freeze(db, objects, task)
    bound = datasets.of_frame(db, known[0].frame_id)
    assert [binding["dataset_id"] for binding in bound] == [version.dataset_id]
    assert datasets.of_labels(db, [bound[0]["label_id"]])[0]["frame_id"] == known[0].frame_id
    assert len(list(datasets.bindings_of(db, version.dataset_id))) == len(known)


def test_a_freeze_killed_before_its_commit_is_met_again(
    db: Db,
    objects: ObjectStore,
    fleet: Callable[..., list[Frame]],
    task: Task,
    label: Label,
    open_batch: Callable[..., Batch],
) -> None:
    known = fleet(drives=8, per_drive=3)
    open_batch(known)
    label(known, "car")
    version = freeze(db, objects, task)
    db.datasets.delete_many({})  # As if the process had died just before the record, its commit point.
    assert datasets.of_frame(db, known[0].frame_id) == []
    assert freeze(db, objects, task) == version


def test_what_is_missing_is_said(
    db: Db, objects: ObjectStore, fleet: Callable[..., list[Frame]], task: Task, label: Label
) -> None:
    known = fleet(drives=8, per_drive=2)
    with pytest.raises(InvalidInput, match="no labelled frames to train on"):
        freeze(db, objects, task)
    columns = Columns(db)
    columns.refresh()
    held_out = datasets.splits.masks(db, task_id=task.task_id, columns=columns)["test"]
    label([frame for frame in known if not held_out[frame.row]], "car")
    with pytest.raises(InvalidInput, match="--evaluation"):
        freeze(db, objects, task)
