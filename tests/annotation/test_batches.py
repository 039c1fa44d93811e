from __future__ import annotations

from collections.abc import Callable

import pytest

from annotation import batches
from annotation.batches import Batch
from annotation.labels import FrameOutcome
from infra.database import Db
from infra.errors import Conflict, NotFound
from selection.fleet.frames import Frame
from tests.annotation.conftest import NOW


def outcome(frame: Frame, state: str) -> FrameOutcome:
    return FrameOutcome(frame_id=frame.frame_id, state=state, value=(), stored=())  # type: ignore[arg-type]


def test_a_batch_is_complete_once_when_all_are_labelled_or_skipped(
    db: Db, fleet: Callable[..., list[Frame]], open_batch: Callable[..., Batch]
) -> None:
    chosen = fleet(drives=1, per_drive=3)
    batch = open_batch(chosen)
    batches.record_outcomes(db, batch.batch_id, [outcome(chosen[0], "labelled"), outcome(chosen[1], "invalid")])
    assert not batches.complete_if_done(db, batch.batch_id, now=NOW)
    batches.record_outcomes(db, batch.batch_id, [outcome(chosen[1], "labelled"), outcome(chosen[2], "skipped")])
    assert [batches.complete_if_done(db, batch.batch_id, now=NOW) for _ in range(2)] == [True, False]
    progress = batches.progress(db, batch.batch_id)
    assert (progress.total, progress.labelled, progress.skipped, progress.pending) == (3, 2, 1, 0)
    assert [found.batch_id for found in batches.untriggered(db)] == [batch.batch_id]
    batches.mark_triggered(db, batch.batch_id, workflow_id="wf-1")
    assert batches.untriggered(db) == []


def test_a_batch_of_the_same_id_is_refused_and_nothing_is_added(
    db: Db, fleet: Callable[..., list[Frame]], open_batch: Callable[..., Batch]
) -> None:
    chosen = fleet(drives=1, per_drive=3)
    open_batch(chosen)
    with pytest.raises(Conflict):
        open_batch(chosen)
    assert db.batch_frames.count_documents({}) == 3


def test_cancel_gives_back_what_nobody_labelled(
    db: Db, fleet: Callable[..., list[Frame]], open_batch: Callable[..., Batch]
) -> None:
    chosen = fleet(drives=1, per_drive=3)
    batch = open_batch(chosen)
    batches.record_outcomes(db, batch.batch_id, [outcome(chosen[0], "labelled")])
    assert sorted(batches.taken_rows(db, task_id=batch.task_id)) == [0, 1, 2]
    batches.cancel(db, batch.batch_id)
    assert batches.taken_rows(db, task_id=batch.task_id) == [chosen[0].row]


def test_frames_come_in_rank_order_by_page(
    db: Db, fleet: Callable[..., list[Frame]], open_batch: Callable[..., Batch]
) -> None:
    chosen = fleet(drives=1, per_drive=5)
    batch = open_batch(chosen)
    assert [place.rank for place in batches.frames_of(db, batch.batch_id, offset=1, limit=2)] == [1, 2]
    wanted = [(batch.batch_id, chosen[4].frame_id), ("other", chosen[0].frame_id)]
    assert [place.frame_id for place in batches.places(db, wanted)] == [chosen[4].frame_id]


def test_a_missing_batch_is_named(db: Db) -> None:
    with pytest.raises(NotFound, match="batch nothing does not exist"):
        batches.get(db, "nothing")
