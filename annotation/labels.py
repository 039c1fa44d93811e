"""Labels: immutable facts about frames, told by people.

A label is never changed. A correction is a new revision, a deletion is a tombstone, and what counts for a frame is its newest revision
that still stands. Answers come from a labelling backend as the complete present state of a frame, so storing them is a comparison of
that state with what is known: the same state again stores nothing.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal, NewType

from pymongo import IndexModel
from pymongo.errors import DuplicateKeyError

from annotation.backends.protocol import Annotation, FrameAnswers
from annotation.tasks import Task, TaskId
from infra.database import Db, Document, retrying
from infra.errors import InvalidInput, NotFound
from selection.fleet.frames import Frame, FrameId

LabelId = NewType("LabelId", str)
FrameState = Literal["pending", "labelled", "skipped", "invalid"]

INDEXES: dict[str, list[IndexModel]] = {
    "labels": [
        IndexModel([("task_id", 1), ("frame_id", 1), ("revision", 1)], unique=True),
        IndexModel([("source_key", 1)], unique=True),
        IndexModel([("batch_id", 1)]),
        IndexModel([("frame_id", 1)]),
    ]
}


@dataclass(frozen=True, kw_only=True)
class Label:
    """What one person said about one frame for one task.

    Attributes:
        label_id: Digest of everything else.
        digest: Digest of what is bound in a dataset version: frame, task and value, so that the same answer has the same digest anywhere.
        value: Class names in class order; empty for a tombstone, and for a multilabel frame that shows none of the classes.
        external_id: The backend's id of the answer.
        turn: Revisions of the same answer at the same time that came before: it was seen, was missing, and is there again.
        revision: 1 for the first label of this frame and task, then 2, 3, ...
        tombstone: The answer `external_id` was withdrawn.
        answered_at: When the person saved it, by the backend's clock, UTC.
    """

    label_id: LabelId
    digest: str
    frame_id: FrameId
    frame_digest: str
    row: int
    task_id: TaskId
    task_version: int
    value: tuple[str, ...]
    annotator: str
    backend: str
    external_id: str
    batch_id: str
    turn: int = 0
    revision: int
    tombstone: bool
    answered_at: datetime
    stored_at: datetime
    lead_time_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class FrameOutcome:
    """Where a frame of a batch stands after its answers were stored.

    Attributes:
        stored: Revisions that were new.
        problem: Why an answer could not be taken, when `state` is `invalid`.
    """

    frame_id: FrameId
    state: FrameState
    value: tuple[str, ...]
    stored: tuple[Label, ...]
    problem: str | None = None


def store_answers(
    db: Db,
    *,
    task: Task,
    batch_id: str,
    backend: str,
    answers: Sequence[FrameAnswers],
    frames: Mapping[FrameId, Frame],
    now: datetime,
) -> list[FrameOutcome]:
    """Brings our labels in line with the answers that a backend has for some frames of a batch.

    Safe to repeat and to run twice at once: a revision is stored under a key made of backend, answer, time and how often the answer
    has come and gone since then, which exists once.

    Args:
        answers: Complete present state of each frame.
        frames: The frames that belong to the batch; answers about others are refused.

    Returns:
        One outcome for each frame in `answers`, in their order.

    Raises:
        InvalidInput: An answer names a frame that is not in the batch.
    """
    strangers = [a.frame_id for a in answers if a.frame_id not in frames]
    if strangers:
        raise InvalidInput(
            f"batch {batch_id} has no frame {strangers[0]}, but {backend} returned an answer for it", batch_id=batch_id
        )
    known = _revisions(db, task_id=task.task_id, frame_ids=[a.frame_id for a in answers])
    return [
        _store_frame(
            db,
            task=task,
            batch_id=batch_id,
            backend=backend,
            answers=answer,
            frame=frames[answer.frame_id],
            known=known[answer.frame_id],
            now=now,
        )
        for answer in answers
    ]


def standing(revisions: Iterable[Label]) -> Label | None:
    """The label that counts among all revisions of one frame and task: the newest whose answer was not withdrawn since."""
    alive = [label for label in _newest_by_answer(revisions) if not label.tombstone]
    return max(alive, key=lambda label: label.revision, default=None)


def current(db: Db, *, task_id: str) -> Iterator[Label]:
    """The labels of a task that count now, one a frame, in frame order. Reads in batches; never holds all labels."""
    group: list[Label] = []
    for document in db.labels.find({"task_id": task_id}).sort([("task_id", 1), ("frame_id", 1), ("revision", 1)]):
        label = _from_document(document)
        if group and group[-1].frame_id != label.frame_id:
            if (label_that_counts := standing(group)) is not None:
                yield label_that_counts
            group = []
        group.append(label)
    if (label_that_counts := standing(group)) is not None:
        yield label_that_counts


def changed_since(db: Db, *, task_id: str, moment: datetime) -> bool:
    """Whether a label of the task was stored, corrected or withdrawn at or after that moment."""
    query = {"task_id": task_id, "stored_at": {"$gte": moment}}
    return db.labels.find_one(query, {"_id": 1}) is not None


def get(db: Db, label_id: str) -> Label:
    """One label.

    Raises:
        NotFound: No such label.
    """
    document = db.labels.find_one({"_id": label_id})
    if document is None:
        raise NotFound(f"label {label_id} does not exist", label_id=label_id)
    return _from_document(document)


def get_many(db: Db, label_ids: Sequence[str]) -> list[Label]:
    """The labels of these ids that exist, in no particular order."""
    return [_from_document(document) for document in db.labels.find({"_id": {"$in": list(label_ids)}})]


def of_frame(db: Db, frame_id: str, *, task_id: str | None = None) -> list[Label]:
    """All revisions of a frame's labels, oldest first within a task."""
    query: Document = {"frame_id": frame_id} | ({"task_id": task_id} if task_id else {})
    return [_from_document(d) for d in db.labels.find(query).sort([("task_id", 1), ("revision", 1)])]


def of_batch(db: Db, batch_id: str, *, frame_ids: Sequence[str]) -> list[Label]:
    """All revisions that answers to these frames of a batch left, in no particular order."""
    query: Document = {"batch_id": batch_id, "frame_id": {"$in": list(frame_ids)}}
    return [_from_document(document) for document in db.labels.find(query)]


def value_digest(*, frame_digest: str, task: Task, value: Sequence[str]) -> str:
    """Digest of an answer's content, the same wherever and by whomever it was given."""
    return _sha256({"frame": frame_digest, "kind": task.kind, "task": task.task_id, "value": list(value)})


def _store_frame(
    db: Db,
    *,
    task: Task,
    batch_id: str,
    backend: str,
    answers: FrameAnswers,
    frame: Frame,
    known: list[Label],
    now: datetime,
) -> FrameOutcome:
    mine = [label for label in known if label.backend == backend and label.batch_id == batch_id]
    newest = {label.external_id: label for label in _newest_by_answer(mine)}
    changes, problems = _compare(task, answers, newest)
    revision = max((label.revision for label in known), default=0)
    told: list[Label] = []
    stored: list[Label] = []
    for number, change in enumerate(changes, start=1):
        at_that_time = (change.annotation.external_id, change.annotation.updated_at)
        label = _make_label(
            task=task,
            batch_id=batch_id,
            backend=backend,
            frame=frame,
            change=change,
            turn=sum((label.external_id, label.answered_at) == at_that_time for label in mine),
            revision=revision + number,
            now=now,
        )
        kept, is_new = _insert(db, label)
        told.append(kept)
        if is_new:
            stored.append(kept)

    label_that_counts = standing([*mine, *told])
    return FrameOutcome(
        frame_id=answers.frame_id,
        state=_state(answers, label=label_that_counts, problems=problems),
        value=label_that_counts.value if label_that_counts is not None else (),
        stored=tuple(stored),
        problem="; ".join(problems) or None,
    )


@dataclass(frozen=True, kw_only=True)
class _Change:
    """A revision to be stored: what an answer says now, or that it was withdrawn."""

    annotation: Annotation
    value: tuple[str, ...] = ()
    tombstone: bool = False


def _compare(task: Task, answers: FrameAnswers, newest: Mapping[str, Label]) -> tuple[list[_Change], list[str]]:
    """What must be stored to bring a frame's labels in line with its answers, and which answers cannot be taken.

    Args:
        newest: The newest revision of each answer that is known, by the backend's id.
    """
    changes: list[_Change] = []
    problems: list[str] = []
    for annotation in sorted(map(_to_milliseconds, answers.annotations), key=lambda a: a.updated_at):
        latest = newest.get(annotation.external_id)
        if latest is not None and annotation.updated_at < latest.answered_at:
            continue  # An older state that arrived late.
        value, problem = _read(task, annotation)
        if problem is not None:
            problems.append(problem)
        if value is None:
            if latest is not None and not latest.tombstone:
                changes.append(_Change(annotation=annotation, tombstone=True))
        elif latest is None or latest.tombstone or latest.value != value:
            changes.append(_Change(annotation=annotation, value=value))
    present = {annotation.external_id for annotation in answers.annotations}
    for external_id, latest in newest.items():
        if external_id not in present and not latest.tombstone:
            changes.append(_Change(annotation=_gone(latest), tombstone=True))
    return changes, problems


def _read(task: Task, annotation: Annotation) -> tuple[tuple[str, ...] | None, str | None]:
    """The value an answer gives, None for a skipped or unusable one; and what is wrong with it."""
    if annotation.state == "skipped":
        return None, None
    if annotation.problem:
        return None, annotation.problem
    try:
        return task.value_of(annotation.value), None
    except InvalidInput as exc:
        return None, exc.message


def _gone(latest: Label) -> Annotation:
    """The backend tells nothing about a deleted answer. Its last known time makes the tombstone the same whoever stores it."""
    return Annotation(
        external_id=latest.external_id,
        annotator=latest.annotator,
        state="labelled",
        value=(),
        updated_at=latest.answered_at,
    )


def _state(answers: FrameAnswers, *, label: Label | None, problems: Sequence[str]) -> FrameState:
    if label is not None:
        return "labelled"
    if problems:
        return "invalid"
    return "skipped" if any(annotation.state == "skipped" for annotation in answers.annotations) else "pending"


def _make_label(
    *,
    task: Task,
    batch_id: str,
    backend: str,
    frame: Frame,
    change: _Change,
    turn: int,
    revision: int,
    now: datetime,
) -> Label:
    annotation = change.annotation
    identity = {
        "answered_at": annotation.updated_at.isoformat(),
        "annotator": annotation.annotator,
        "backend": backend,
        "batch": batch_id,
        "external_id": annotation.external_id,
        "frame": frame.digest,
        "task": task.task_id,
        "task_version": task.version,
        "tombstone": change.tombstone,
        "turn": turn,
        "value": list(change.value),
    }
    return Label(
        label_id=LabelId(f"label-{_sha256(identity)[:32]}"),
        digest=value_digest(frame_digest=frame.digest, task=task, value=change.value),
        frame_id=frame.frame_id,
        frame_digest=frame.digest,
        row=frame.row,
        task_id=task.task_id,
        task_version=task.version,
        value=change.value,
        annotator=annotation.annotator,
        backend=backend,
        external_id=annotation.external_id,
        batch_id=batch_id,
        turn=turn,
        revision=revision,
        tombstone=change.tombstone,
        answered_at=annotation.updated_at,
        stored_at=now,
        lead_time_s=annotation.lead_time_s,
    )


def _insert(db: Db, label: Label) -> tuple[Label, bool]:
    """Stores a label unless it is there already; another process may be storing the same answers now.

    Returns:
        The label as it is stored, and whether it is certain that this call stored it.
    """
    while True:
        try:
            retrying(functools.partial(db.labels.insert_one, _to_document(label)))
        except DuplicateKeyError:
            there = db.labels.find_one({"source_key": _source_key(label)})
            if there is not None:
                return _from_document(there), False
            taken = db.labels.find_one(
                {"task_id": label.task_id, "frame_id": label.frame_id}, {"revision": 1}, sort=[("revision", -1)]
            )
            label = replace(label, revision=taken["revision"] + 1 if taken else 1)
        else:
            return label, True


def _revisions(db: Db, *, task_id: str, frame_ids: Sequence[FrameId]) -> defaultdict[FrameId, list[Label]]:
    found: defaultdict[FrameId, list[Label]] = defaultdict(list)
    query = {"task_id": task_id, "frame_id": {"$in": list(frame_ids)}}
    for document in db.labels.find(query).sort([("task_id", 1), ("frame_id", 1), ("revision", 1)]):
        label = _from_document(document)
        found[label.frame_id].append(label)
    return found


def _newest_by_answer(revisions: Iterable[Label]) -> Collection[Label]:
    """The newest revision of each answer. Backends number their answers each for itself, so the number alone names none."""
    newest: dict[tuple[str, str], Label] = {}
    for label in sorted(revisions, key=lambda label: (label.answered_at, label.revision)):
        newest[label.backend, label.external_id] = label
    return newest.values()


def _to_milliseconds(annotation: Annotation) -> Annotation:
    """The database keeps milliseconds; compared with what it returns, a finer time would always look newer."""
    moment = annotation.updated_at
    return replace(annotation, updated_at=moment.replace(microsecond=moment.microsecond // 1000 * 1000))


def _source_key(label: Label) -> str:
    what = "withdrawn" if label.tombstone else label.digest
    return _sha256([label.backend, label.batch_id, label.external_id, label.answered_at.isoformat(), label.turn, what])


def _to_document(label: Label) -> Document:
    return {
        "_id": label.label_id,
        "source_key": _source_key(label),
        "digest": label.digest,
        "frame_id": label.frame_id,
        "frame_digest": label.frame_digest,
        "row": label.row,
        "task_id": label.task_id,
        "task_version": label.task_version,
        "value": list(label.value),
        "annotator": label.annotator,
        "backend": label.backend,
        "external_id": label.external_id,
        "batch_id": label.batch_id,
        "turn": label.turn,
        "revision": label.revision,
        "tombstone": label.tombstone,
        "answered_at": label.answered_at,
        "stored_at": label.stored_at,
        "lead_time_s": label.lead_time_s,
    }


def _from_document(document: Document) -> Label:
    fields: dict[str, Any] = {k: v for k, v in document.items() if k not in ("_id", "source_key", "value")}
    return Label(label_id=LabelId(document["_id"]), value=tuple(document["value"]), **fields)


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
