"""Dataset versions: immutable sets of data-label bindings that models are trained on.

A binding ties the digest of a frame to the digest of a label and to a split. The version's id is the digest of its bindings, so the same
bindings give the same id anywhere. Its manifest is one JSON Lines file in SageMaker's augmented-manifest form
(https://docs.aws.amazon.com/sagemaker/latest/dg/sms-data-output.html), the file that every executor trains on.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Literal, NewType

from pymongo import IndexModel, ReplaceOne
from pymongo.errors import BulkWriteError, DuplicateKeyError

from annotation import labels, splits, tasks
from annotation.labels import Label
from annotation.tasks import Task, TaskId
from infra.database import Db, Document, is_only_duplicates, retrying
from infra.errors import InvalidInput, NotFound
from infra.objects import ObjectStore
from selection.fleet import frames, originals
from selection.fleet.columns import Columns
from selection.fleet.frames import Frame

DatasetId = NewType("DatasetId", str)

FORMAT = "mlpl-bindings-1"
_CHUNK = 1000

INDEXES: dict[str, list[IndexModel]] = {
    "datasets": [IndexModel([("task_id", 1), ("created_at", -1)])],
    "bindings": [
        IndexModel([("dataset_id", 1), ("frame_id", 1)], unique=True),
        IndexModel([("frame_id", 1)]),
        IndexModel([("label_id", 1)]),
    ],
}


@dataclass(frozen=True, kw_only=True)
class Binding:
    """One frame, one label, one split."""

    frame: Frame
    label: Label
    split: Literal["train", "test"]

    @property
    def identity(self) -> str:
        """The line that enters the version's digest: what is bound, and nothing about where or when."""
        return f"{self.frame.digest} {self.label.digest} {self.split}"


@dataclass(frozen=True, kw_only=True)
class DatasetVersion:
    """A frozen set of bindings.

    Attributes:
        counts: Frames by split.
        class_counts: For each split, frames that show each class, in class order.
        left_out: Labelled frames in a gap between two splits, which are in neither.
        split_note: How frames were split, in one sentence.
        manifest_digest: SHA-256 of the manifest file.
        frames_uri: What every `source-ref` of the manifest begins with: where the frames lay when it was written. The home may have
            been moved since.
    """

    dataset_id: DatasetId
    task_id: TaskId
    task_version: int
    kind: str
    classes: tuple[str, ...]
    counts: Mapping[str, int]
    class_counts: Mapping[str, Sequence[int]]
    left_out: int
    split_note: str
    manifest_key: str
    manifest_digest: str
    frames_uri: str
    created_at: datetime


def freeze(db: Db, objects: ObjectStore, *, task_id: str, columns: Columns, now: datetime) -> DatasetVersion:
    """Freezes the labels of a task that count now into a dataset version; the same bindings return the version that is there.

    Args:
        columns: Refreshed filter columns of the fleet.

    Raises:
        InvalidInput: There are no labels to train on, or none to judge a model by.
    """
    task = tasks.get(db, task_id)
    decisions = {decision.drive: decision for decision in splits.decide(db, task_id=task_id, columns=columns)}
    bindings: list[Binding] = []
    left_out = 0
    for frame, label in _labelled_frames(db, task_id):
        key = splits.order_key(captured_at=frame.captured_at, source=frame.source)
        split = decisions[frame.drive or splits.NO_DRIVE].split_of(key)
        if split == "gap":
            left_out += 1
        else:
            bindings.append(Binding(frame=frame, label=label, split=split))
    counts: Counter[str] = Counter(binding.split for binding in bindings)
    _check_counts(task, counts)
    version = _version(
        task, bindings, objects=objects, counts=counts, left_out=left_out, decisions=list(decisions.values()), now=now
    )
    if (existing := db.datasets.find_one({"_id": version.dataset_id})) is not None:
        return _from_document(existing)

    manifest = "".join(
        # A version must outlive the lake, so what was registered in place is copied now, checked against its digest.
        manifest_line(binding, task=task, uri=objects.uri(originals.pin(objects, binding.frame)))
        for binding in bindings
    )
    data = manifest.encode()
    objects.put(version.manifest_key, data)
    _put_bindings(db, version.dataset_id, bindings)
    document = _to_document(version) | {"manifest_digest": hashlib.sha256(data).hexdigest()}
    with suppress(DuplicateKeyError):  # Another process may freeze the same bindings at the same moment.
        retrying(lambda: db.datasets.insert_one(document))
    return get(db, version.dataset_id)


def dataset_id_of(bindings: Sequence[Binding], *, task: Task) -> DatasetId:
    """Digest of the bindings in frame order, headed by the task they are for."""
    head = json.dumps(
        {"classes": task.classes, "format": FORMAT, "kind": task.kind, "task": task.task_id}, sort_keys=True
    )
    lines = "\n".join([head, *sorted(binding.identity for binding in bindings)])
    return DatasetId(f"ds-{hashlib.sha256(lines.encode()).hexdigest()[:32]}")


def manifest_line(binding: Binding, *, task: Task, uri: str) -> str:
    """One line of the manifest, in the form Ground Truth writes for the task's kind, with our own keys beside it.

    Args:
        uri: Where the frame's bytes are.

    Returns:
        JSON and a line feed.
    """
    frame, label = binding.frame, binding.label
    indices = [task.classes.index(name) for name in label.value]
    metadata: dict[str, Any] = {
        "human-annotated": "yes",
        "creation-date": label.answered_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f"),
        "job-name": label.batch_id,
    }
    if task.kind == "classification":
        value: object = indices[0]
        metadata |= {"type": "groundtruth/image-classification", "class-name": label.value[0], "confidence": 0.0}
    else:
        value = indices
        metadata |= {
            "type": "groundtruth/image-classification-multilabel",
            "class-map": {str(index): task.classes[index] for index in indices},
            "confidence-map": {str(index): 0.0 for index in indices},
        }
    line = {
        "source-ref": uri,
        task.task_id: value,
        f"{task.task_id}-metadata": metadata,
        "frame-id": frame.frame_id,
        "frame-digest": frame.digest,
        "label-id": label.label_id,
        "label-digest": label.digest,
        "row": frame.row,
        "split": binding.split,
    }
    return json.dumps(line, ensure_ascii=False) + "\n"


def get(db: Db, dataset_id: str) -> DatasetVersion:
    """One dataset version.

    Raises:
        NotFound: No such version.
    """
    document = db.datasets.find_one({"_id": dataset_id})
    if document is None:
        raise NotFound(f"dataset version {dataset_id} does not exist", dataset_id=dataset_id)
    return _from_document(document)


def list_all(db: Db, *, task_id: str | None = None) -> list[DatasetVersion]:
    """Dataset versions, newest first."""
    query: Document = {"task_id": task_id} if task_id else {}
    return [_from_document(document) for document in db.datasets.find(query).sort("created_at", -1)]


def of_frame(db: Db, frame_id: str) -> list[Document]:
    """Bindings of a frame: `dataset_id`, `label_id`, `split`. Only those of versions that exist."""
    return _bindings(db, {"frame_id": frame_id})


def of_labels(db: Db, label_ids: Sequence[str]) -> list[Document]:
    """Bindings of labels: `dataset_id`, `frame_id`, `label_id`, `split`. Only those of versions that exist."""
    return _bindings(db, {"label_id": {"$in": list(label_ids)}})


def bindings_of(db: Db, dataset_id: str, *, limit: int = 0) -> Iterator[Document]:
    """Bindings of a version in frame order: `dataset_id`, `frame_id`, `label_id`, `split`; `limit` 0 gives all."""
    found = db.bindings.find({"dataset_id": dataset_id}, {"_id": 0}).sort([("dataset_id", 1), ("frame_id", 1)])
    return iter(found.limit(limit))


def _bindings(db: Db, query: Document) -> list[Document]:
    found = list(db.bindings.find(query, {"_id": 0}))
    ids = list({binding["dataset_id"] for binding in found})
    committed = {d["_id"] for d in db.datasets.find({"_id": {"$in": ids}}, {"_id": 1})}
    return [binding for binding in found if binding["dataset_id"] in committed]


def _labelled_frames(db: Db, task_id: str) -> Iterator[tuple[Frame, Label]]:
    standing = labels.current(db, task_id=task_id)
    while chunk := list(islice(standing, _CHUNK)):
        by_id = frames.get_many(db, [label.frame_id for label in chunk])
        for label in chunk:
            if label.frame_id in by_id:
                yield by_id[label.frame_id], label


def _check_counts(task: Task, counts: Mapping[str, int]) -> None:
    if not counts.get("train"):
        raise InvalidInput(
            f"task {task.task_id} has no labelled frames to train on: label a batch first (`mlpl batch create`)",
            task_id=task.task_id,
        )
    if not counts.get("test"):
        raise InvalidInput(
            f"task {task.task_id} has no labelled frames to judge a model by: label some with "
            f"`mlpl batch create --task {task.task_id} --evaluation N`",
            task_id=task.task_id,
        )


def _version(
    task: Task,
    bindings: Sequence[Binding],
    *,
    objects: ObjectStore,
    counts: Mapping[str, int],
    left_out: int,
    decisions: Sequence[splits.DriveSplit],
    now: datetime,
) -> DatasetVersion:
    dataset_id = dataset_id_of(bindings, task=task)
    shown = {split: Counter(name for b in bindings if b.split == split for name in b.label.value) for split in counts}
    used = {binding.frame.drive or splits.NO_DRIVE for binding in bindings}
    return DatasetVersion(
        dataset_id=dataset_id,
        task_id=task.task_id,
        task_version=task.version,
        kind=task.kind,
        classes=task.classes,
        counts=dict(counts),
        class_counts={split: [by_name.get(name, 0) for name in task.classes] for split, by_name in shown.items()},
        left_out=left_out,
        split_note=splits.describe([decision for decision in decisions if decision.drive in used]),
        manifest_key=f"datasets/{dataset_id}/manifest.jsonl",
        manifest_digest="",
        frames_uri=f"{objects.uri('frames')}/",
        created_at=now,
    )


def _put_bindings(db: Db, dataset_id: DatasetId, bindings: Sequence[Binding]) -> None:
    """Writes the bindings before the version's record, which commits them."""
    documents = iter(
        {
            "_id": f"{dataset_id}/{binding.frame.frame_id}",
            "dataset_id": dataset_id,
            "frame_id": binding.frame.frame_id,
            "label_id": binding.label.label_id,
            "split": binding.split,
        }
        for binding in bindings
    )
    while chunk := list(islice(documents, _CHUNK)):
        retrying(functools.partial(_put, db, chunk))


def _put(db: Db, documents: Sequence[Document]) -> None:
    """Replaces what a killed freeze left: the same answer may have come under another label's id since."""
    changes = [ReplaceOne({"_id": document["_id"]}, document, upsert=True) for document in documents]
    try:
        db.bindings.bulk_write(changes, ordered=False)
    except BulkWriteError as exc:
        if not is_only_duplicates(exc):
            raise


def _to_document(version: DatasetVersion) -> Document:
    fields = {name: getattr(version, name) for name in DatasetVersion.__dataclass_fields__ if name != "dataset_id"}
    return {"_id": version.dataset_id, **fields, "classes": list(version.classes)}


def _from_document(document: Document) -> DatasetVersion:
    known = {name: document[name] for name in DatasetVersion.__dataclass_fields__ if name in document}
    return DatasetVersion(dataset_id=DatasetId(document["_id"]), **{**known, "classes": tuple(document["classes"])})
