"""A small fleet of frame records without images, a task, and answers to store."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from annotation import batches, tasks
from annotation.backends.protocol import Annotation, FrameAnswers
from annotation.batches import Batch, BatchFrame, BatchId
from annotation.tasks import Task
from infra.database import Db
from selection.fleet import frames
from selection.fleet.frames import Frame, FrameFacts
from service.production_line import prepare

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def db(database: Db) -> Db:
    """The test's database with every index in place."""
    prepare(database)
    return database


@pytest.fixture
def fleet(db: Db) -> Callable[..., list[Frame]]:
    """Registers frame records: `fleet(drives=4, per_drive=10)` in row order."""

    def make(*, drives: int, per_drive: int, timed: bool = True, prefix: str = "drive") -> list[Frame]:
        facts = []
        for drive in range(drives):
            for i in range(per_drive):
                digest = hashlib.sha256(f"{prefix}-{drive}-{i}".encode()).hexdigest()
                facts.append(
                    FrameFacts(
                        frame_id=frames.id_of(digest),
                        digest=digest,
                        width=640,
                        height=360,
                        format="JPEG",
                        size_bytes=1000,
                        captured_at=NOW + timedelta(hours=drive, seconds=i) if timed else None,
                        drive=f"{prefix}-{drive}",
                        source=f"images/{prefix}_{drive}_{i}.jpg",
                        object_key=f"frames/{digest[:2]}/{digest[:32]}",
                        preview_key=f"previews/{digest[:2]}/{digest[:32]}.jpg",
                        ingested_at=NOW,
                    )
                )
        frames.register(db, facts)
        return list(frames.get_many(db, [fact.frame_id for fact in facts]).values())

    return make


@pytest.fixture
def task(db: Db) -> Task:
    """A multilabel task of three classes."""
    return tasks.create(db, name="road-users", kind="multilabel", classes=["car", "pedestrian", "cyclist"], now=NOW)


@pytest.fixture
def open_batch(db: Db, task: Task) -> Callable[[Sequence[Frame]], Batch]:
    """Stores a batch of these frames and marks it open with a backend named `here`."""

    def make(chosen: Sequence[Frame], *, batch_id: str = "batch-1") -> Batch:
        batch = Batch(batch_id=BatchId(batch_id), task_id=task.task_id, state="planned", created_at=NOW, plan={})
        places = [
            BatchFrame(
                batch_id=batch.batch_id,
                task_id=task.task_id,
                frame_id=frame.frame_id,
                row=frame.row,
                rank=rank,
                score=0.5,
                reason="for the test",
            )
            for rank, frame in enumerate(chosen)
        ]
        batches.insert(db, batch, places)
        return batches.mark_open(db, batch.batch_id, backend="here", ref="ref", queue_url=None, now=NOW)

    return make


def answer(
    frame: Frame,
    *value: str,
    external_id: str | None = None,
    at_s: float = 0.0,
    state: str = "labelled",
    problem: str | None = None,
) -> FrameAnswers:
    """One person's answer to a frame."""
    annotation = Annotation(
        external_id=external_id or f"a-{frame.frame_id}",
        annotator="ann",
        state=state,  # type: ignore[arg-type]
        value=value,
        updated_at=NOW + timedelta(seconds=at_s),
        problem=problem,
    )
    return FrameAnswers(frame_id=frame.frame_id, annotations=(annotation,))
