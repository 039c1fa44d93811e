"""Batches: ranked frames chosen for labelling, and how far people have come with them.

A batch is `planned` when its frames are chosen, `open` when a labelling backend has it, `complete` when every frame has been labelled or
skipped, `cancelled` when it was withdrawn. Its frames are written in the same transaction as the batch, so half a batch never exists.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, NewType

from pymongo import IndexModel, UpdateOne

from annotation.labels import FrameOutcome, FrameState
from annotation.tasks import TaskId
from infra.database import Db, Document, retrying, transaction
from infra.errors import Conflict, NotFound
from selection.fleet.frames import FrameId

BatchId = NewType("BatchId", str)
BatchState = Literal["planned", "open", "complete", "cancelled"]

INDEXES: dict[str, list[IndexModel]] = {
    "batches": [IndexModel([("task_id", 1), ("created_at", -1)]), IndexModel([("state", 1)])],
    "batch_frames": [
        IndexModel([("batch_id", 1), ("rank", 1)], unique=True),
        IndexModel([("batch_id", 1), ("frame_id", 1)], unique=True),
        IndexModel([("batch_id", 1), ("state", 1)]),
        IndexModel([("frame_id", 1)]),
        IndexModel([("task_id", 1), ("row", 1)]),
        IndexModel([("task_id", 1), ("state", 1)]),
        IndexModel([("task_id", 1), ("purpose", 1)]),
        IndexModel([("changed_at", 1)], sparse=True),
    ],
}

_STANDING = ("batch_id", "task_id", "row", "rank", "state", "value", "released", "changed_at")
_NOW: Document = {"$currentDate": {"changed_at": True}}
"""By the clock of the database, of which there is one, so that changes can be followed by it."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Frames chosen together to be labelled for one task.

    Attributes:
        plan: How they were chosen: pool filter, acquisition function, diversity, seed, budget, share for evaluation.
        model_id: The model whose uncertainty ranked them, None before the first model.
        encoder_id: The encoder whose embeddings spread them.
        ref: The backend's reference once the batch is open.
        collected_at: Answers saved before this moment of the backend's clock have been collected.
        rang_at: When the backend last said that something changed; None once that has been collected.
        trains: Its completion starts a workflow; not so for a batch of evaluation frames alone.
        workflow_id: The workflow its completion started.
    """

    batch_id: BatchId
    task_id: TaskId
    state: BatchState
    created_at: datetime
    plan: Mapping[str, Any]
    model_id: str | None = None
    encoder_id: str | None = None
    backend: str | None = None
    ref: str | None = None
    queue_url: str | None = None
    opened_at: datetime | None = None
    completed_at: datetime | None = None
    collected_at: datetime | None = None
    rang_at: datetime | None = None
    trains: bool = True
    workflow_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class BatchFrame:
    """A frame's place in a batch.

    Attributes:
        score: Acquisition score in [0, 1]; None for frames drawn at random or picked by hand.
        reason: Why it was chosen, in words.
        purpose: `train`, or `test` for frames that only judge models.
    """

    batch_id: BatchId
    task_id: TaskId
    frame_id: FrameId
    row: int
    rank: int
    score: float | None
    reason: str
    purpose: Literal["train", "test"] = "train"
    state: FrameState = "pending"
    value: tuple[str, ...] = ()
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How far a frame's place in a batch has come, for whoever follows all of them.

    Attributes:
        released: Given back when its batch was cancelled.
        changed_at: When it last changed after it was inserted, by the database's clock; None for one that never did.
    """

    batch_id: str
    task_id: str
    row: int
    rank: int
    state: FrameState
    value: tuple[str, ...] = ()
    released: bool = False
    changed_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Frames of a batch by state."""

    pending: int = 0
    labelled: int = 0
    skipped: int = 0
    invalid: int = 0
    total: int = field(init=False)

    def __post_init__(self) -> None:
        """Adds up the total."""
        object.__setattr__(self, "total", self.pending + self.labelled + self.skipped + self.invalid)

    @property
    def is_complete(self) -> bool:
        """Every frame has been labelled or skipped."""
        return self.total > 0 and self.pending == self.invalid == 0


def insert(db: Db, batch: Batch, frames: Sequence[BatchFrame]) -> None:
    """Stores a new batch with its frames, all or nothing.

    Raises:
        Conflict: A batch of this id exists.
    """

    def write(session: Any) -> None:
        if db.batches.find_one({"_id": batch.batch_id}, {"_id": 1}, session=session) is not None:
            raise Conflict(f"batch {batch.batch_id} exists already", batch_id=batch.batch_id)
        db.batch_frames.insert_many([_frame_document(frame) for frame in frames], session=session)
        db.batches.insert_one(_batch_document(batch), session=session)

    transaction(db, write)


def get(db: Db, batch_id: str) -> Batch:
    """One batch.

    Raises:
        NotFound: No such batch.
    """
    document = db.batches.find_one({"_id": batch_id})
    if document is None:
        raise NotFound(
            f"batch {batch_id} does not exist; `mlpl batch status` shows the ones that do", batch_id=batch_id
        )
    return _batch(document)


def list_all(db: Db, *, task_id: str | None = None, states: Iterable[BatchState] | None = None) -> list[Batch]:
    """Batches, newest first."""
    query: Document = {"task_id": task_id} if task_id else {}
    if states is not None:
        query["state"] = {"$in": list(states)}
    return [_batch(document) for document in db.batches.find(query).sort("created_at", -1)]


def ranked_by(db: Db, model_id: str) -> list[Batch]:
    """Batches that were chosen by a model's predictions, newest first."""
    return [_batch(document) for document in db.batches.find({"model_id": model_id}).sort("created_at", -1)]


def frames_of(db: Db, batch_id: str, *, offset: int = 0, limit: int = 0) -> list[BatchFrame]:
    """Frames of a batch in rank order; `limit` 0 gives all from `offset`."""
    cursor = db.batch_frames.find({"batch_id": batch_id}).sort("rank", 1).skip(offset).limit(limit)
    return [_frame(document) for document in cursor]


def places_of(db: Db, frame_id: str) -> list[BatchFrame]:
    """The places a frame has in batches, which tell why it was chosen."""
    return [_frame(document) for document in db.batch_frames.find({"frame_id": frame_id}).sort("batch_id", 1)]


def places(db: Db, wanted: Iterable[tuple[str, str]]) -> list[BatchFrame]:
    """The places of these (batch id, frame id) pairs."""
    pairs = set(wanted)
    query = {
        "batch_id": {"$in": sorted({batch_id for batch_id, _ in pairs})},
        "frame_id": {"$in": sorted({frame_id for _, frame_id in pairs})},
    }
    found = (_frame(document) for document in db.batch_frames.find(query))
    return [place for place in found if (place.batch_id, place.frame_id) in pairs]


def progress(db: Db, batch_id: str) -> Progress:
    """Frames of the batch by state."""
    return progress_of_many(db, [batch_id]).get(batch_id, Progress())


def progress_of_many(db: Db, batch_ids: Sequence[str]) -> dict[str, Progress]:
    """Frames by state for several batches in one query."""
    pipeline: list[Document] = [
        {"$match": {"batch_id": {"$in": list(batch_ids)}}},
        {"$group": {"_id": {"batch": "$batch_id", "state": "$state"}, "count": {"$sum": 1}}},
    ]
    counts: dict[str, dict[str, int]] = {}
    for group in db.batch_frames.aggregate(pipeline):
        counts.setdefault(group["_id"]["batch"], {})[group["_id"]["state"]] = group["count"]
    return {batch_id: Progress(**states) for batch_id, states in counts.items()}


def labelled_count(db: Db, *, task_id: str) -> int:
    """Frames of the task's batches that are labelled."""
    return db.batch_frames.count_documents({"task_id": task_id, "state": "labelled"})


def evaluation_count(db: Db, *, task_id: str) -> int:
    """Frames that batches of the task hold only to judge models by."""
    return db.batch_frames.count_documents({"task_id": task_id, "purpose": "test", "released": {"$ne": True}})


def to_collect(db: Db, *, completed_after: datetime) -> list[Batch]:
    """Batches that may have answers to bring home: open ones, and complete ones that rang or are recent enough for corrections."""
    complete: Document = {"state": "complete"}
    query = {
        "$or": [
            {"state": "open"},
            complete | {"rang_at": {"$ne": None}},
            complete | {"completed_at": {"$gt": completed_after}},
        ]
    }
    return [_batch(document) for document in db.batches.find(query).sort("created_at", -1)]


def taken_rows(db: Db, *, task_id: str) -> list[int]:
    """Rows that a batch of the task holds or held; a cancelled batch gives back what nobody had answered."""
    query = {"task_id": task_id, "released": {"$ne": True}}
    return [document["row"] for document in db.batch_frames.find(query, {"row": 1, "_id": 0})]


def ids(db: Db) -> list[str]:
    """The ids of all batches."""
    return [document["_id"] for document in db.batches.find({}, {"_id": 1})]


def place_count(db: Db) -> int:
    """About how many places frames have in batches; it changes whenever one comes."""
    return db.batch_frames.estimated_document_count()


def standings(db: Db, *, batch_id: str | None = None) -> Iterator[Standing]:
    """The places of a batch, or of all batches, by batch and rank. Reads in pieces."""
    query: Document = {} if batch_id is None else {"batch_id": batch_id}
    found = db.batch_frames.find(query, dict.fromkeys(_STANDING, 1)).sort([("batch_id", 1), ("rank", 1)])
    return map(_standing, found)


def changed_standings(db: Db, *, since: datetime) -> Iterator[Standing]:
    """The places that changed after a moment of the database's clock, in the order of their changes."""
    query = {"changed_at": {"$gt": since}}
    return map(_standing, db.batch_frames.find(query, dict.fromkeys(_STANDING, 1)).sort("changed_at", 1))


def last_change(db: Db) -> datetime | None:
    """When a place last changed, by the database's clock; None if none ever did."""
    ever = {"$gt": datetime(1970, 1, 1, tzinfo=UTC)}  # Without it the sparse index would be of no use.
    found = db.batch_frames.find_one({"changed_at": ever}, {"changed_at": 1}, sort=[("changed_at", -1)])
    return found["changed_at"] if found else None


def database_clock(db: Db) -> datetime:
    """What time changes get now."""
    moment: datetime = db.command("hello", codec_options=db.codec_options)["localTime"]
    return moment


def mark_open(db: Db, batch_id: str, *, backend: str, ref: str, queue_url: str | None, now: datetime) -> Batch:
    """Records that the backend has the batch. Repeating it changes nothing but the link."""
    opened = {"state": "open", "backend": backend, "ref": ref, "opened_at": now}
    _change(db, {"_id": batch_id, "state": "planned"}, opened)
    _change(db, {"_id": batch_id}, {"queue_url": queue_url})
    return get(db, batch_id)


def record_outcomes(db: Db, batch_id: str, outcomes: Sequence[FrameOutcome]) -> None:
    """Writes where the frames stand after their answers were stored."""
    changes = [
        UpdateOne(
            {"batch_id": batch_id, "frame_id": outcome.frame_id},
            {"$set": {"state": outcome.state, "value": list(outcome.value), "problem": outcome.problem}} | _NOW,
        )
        for outcome in outcomes
    ]
    if changes:
        retrying(lambda: db.batch_frames.bulk_write(changes, ordered=False))


def record_collected(db: Db, batch: Batch, *, collected_at: datetime) -> None:
    """Moves the cursor after all answers up to `collected_at` were stored.

    Args:
        batch: As it was before the collection: a bell that rang since then rings on.
    """
    _change(db, {"_id": batch.batch_id}, {"collected_at": collected_at})
    if batch.rang_at is not None:
        _change(db, {"_id": batch.batch_id, "rang_at": batch.rang_at}, {"rang_at": None})


def ring(db: Db, *, task_id: str, now: datetime) -> int:
    """The backend says that something changed: batches of the task that it holds are due for collection. Returns how many."""
    query = {"task_id": task_id, "state": {"$in": ["open", "complete"]}}
    return retrying(lambda: db.batches.update_many(query, {"$set": {"rang_at": now}})).matched_count


def complete_if_done(db: Db, batch_id: str, *, now: datetime) -> bool:
    """Closes an open batch whose every frame is labelled or skipped. True for the one caller that closed it."""
    if not progress(db, batch_id).is_complete:
        return False
    return _change(db, {"_id": batch_id, "state": "open"}, {"state": "complete", "completed_at": now})


def untriggered(db: Db) -> list[Batch]:
    """Complete batches whose completion should have started a workflow and has not yet, oldest first."""
    query = {"state": "complete", "trains": True, "workflow_id": None}
    return [_batch(document) for document in db.batches.find(query).sort("completed_at", 1)]


def mark_triggered(db: Db, batch_id: str, *, workflow_id: str) -> None:
    """Records the workflow that the batch's completion started."""
    _change(db, {"_id": batch_id}, {"workflow_id": workflow_id})


def cancel(db: Db, batch_id: str) -> None:
    """Withdraws a batch that is not complete; its frames without a label return to the pool, all at once.

    Raises:
        Conflict: The batch is complete.
    """

    def write(session: Any) -> None:
        wanted = {"_id": batch_id, "state": {"$in": ["planned", "open", "cancelled"]}}
        if not db.batches.update_one(wanted, {"$set": {"state": "cancelled"}}, session=session).matched_count:
            raise Conflict(f"batch {batch_id} is complete and cannot be cancelled", batch_id=batch_id)
        unlabelled = {"batch_id": batch_id, "state": {"$ne": "labelled"}}
        db.batch_frames.update_many(unlabelled, {"$set": {"released": True}} | _NOW, session=session)

    transaction(db, write)


def _change(db: Db, query: Document, fields: Document) -> bool:
    """Sets fields of the batch that the query finds; whether that changed something."""
    return retrying(lambda: db.batches.update_one(query, {"$set": fields})).modified_count == 1


def _batch_document(batch: Batch) -> Document:
    fields = {name: getattr(batch, name) for name in Batch.__dataclass_fields__ if name != "batch_id"}
    return {"_id": batch.batch_id, **fields, "plan": dict(batch.plan)}


def _batch(document: Document) -> Batch:
    known: dict[str, Any] = {name: document[name] for name in Batch.__dataclass_fields__ if name in document}
    return Batch(batch_id=BatchId(document["_id"]), **known)


def _frame_document(frame: BatchFrame) -> Document:
    fields = {name: getattr(frame, name) for name in BatchFrame.__dataclass_fields__}
    return {"_id": f"{frame.batch_id}/{frame.rank:06d}", **fields, "value": list(frame.value)}


def _standing(document: Document) -> Standing:
    known = {name: document[name] for name in _STANDING if name in document}
    return Standing(**{**known, "value": tuple(document["value"])})


def _frame(document: Document) -> BatchFrame:
    known = {name: document[name] for name in BatchFrame.__dataclass_fields__ if name in document}
    return BatchFrame(**{**known, "value": tuple(document["value"])})
