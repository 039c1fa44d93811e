"""Batches from choice to the last answer, with simulated people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from annotation import batches, labels, tasks
from annotation.backends.simulated import SimulatedBackend
from annotation.batches import Batch
from infra.errors import InvalidInput, NotFound
from infra.platform import Platform
from selection.fleet.frames import Frame
from service import data_line, reconcile
from service.curator import Curator
from service.data_line import BatchRequest
from tests.service.conftest import let_all_drives_train


@pytest.fixture
def backend(platform: Platform) -> SimulatedBackend:
    """People who see a car everywhere."""
    tasks.create(platform.database, name="t1", kind="multilabel", classes=["car"], now=reconcile.now_utc())
    return SimulatedBackend(platform.database, answer=lambda _frame_id: ("car",))


def pushed(platform: Platform, backend: SimulatedBackend, picked: Sequence[Frame]) -> Batch:
    """A batch of these frames that people work on."""
    request = BatchRequest(task_id="t1", frame_ids=[frame.frame_id for frame in picked])
    batch = data_line.create_batch(platform, Curator(platform), request, now=reconcile.now_utc())
    return data_line.push_batch(platform, batch.batch_id, backend=backend, now=reconcile.now_utc())


def test_cancelling_brings_home_what_was_answered(
    platform: Platform, fleet: list[Frame], backend: SimulatedBackend
) -> None:
    let_all_drives_train(platform.database, task_id="t1")
    batch = pushed(platform, backend, fleet[:3])
    backend.work(1)
    after = data_line.cancel_batch(platform, batch.batch_id, backend=backend, clock=reconcile.now_utc)
    assert after.state == "cancelled"
    assert [label.row for label in labels.current(platform.database, task_id="t1")] == [0]
    assert batches.taken_rows(platform.database, task_id="t1") == [0]
    assert backend.work() == 0


def test_an_answer_about_a_frame_of_another_batch_is_left_alone(
    platform: Platform, fleet: list[Frame], backend: SimulatedBackend
) -> None:
    let_all_drives_train(platform.database, task_id="t1")
    batch = pushed(platform, backend, fleet[:2])
    backend.work()
    platform.database.simulated_answers.update_one(
        {"frame_id": fleet[1].frame_id}, {"$set": {"frame_id": fleet[5].frame_id}}
    )
    progress = data_line.sync_batch(platform, batch.batch_id, backend=backend, clock=reconcile.now_utc)
    assert (progress.labelled, progress.pending) == (1, 1)
    assert [label.row for label in labels.current(platform.database, task_id="t1")] == [0]


def test_a_frame_in_a_gap_cannot_be_picked(platform: Platform, fleet: list[Frame], backend: SimulatedBackend) -> None:
    platform.database.splits.insert_one(
        {
            "_id": "t1/drive-0",
            "task_id": "t1",
            "drive": "drive-0",
            "unit": "block",
            "segments": [
                {"start_key": "", "split": "train"},
                {"start_key": datetime(2026, 3, 1, 8, 3, tzinfo=UTC).strftime("%Y-%m-%dT%H:%M:%S.%f"), "split": "gap"},
            ],
        }
    )
    with pytest.raises(InvalidInput, match=f"1 of the 2 frames lie in a gap.*{fleet[3].frame_id}"):
        pushed(platform, backend, [fleet[3], fleet[0]])
    places = batches.frames_of(platform.database, pushed(platform, backend, [fleet[0], fleet[0]]).batch_id)
    assert [(place.frame_id, place.purpose) for place in places] == [(fleet[0].frame_id, "train")]


def test_a_broken_batch_keeps_no_other_waiting(
    platform: Platform, fleet: list[Frame], backend: SimulatedBackend
) -> None:
    let_all_drives_train(platform.database, task_id="t1")
    sound = pushed(platform, backend, fleet[:2])
    broken = pushed(platform, backend, fleet[2:4])
    backend.work()
    platform.database.simulated_tickets.delete_one({"_id": broken.batch_id})
    with pytest.raises(NotFound, match=broken.batch_id):
        reconcile.annotate(platform, clock=reconcile.now_utc)
    assert batches.get(platform.database, sound.batch_id).state == "complete"
    assert batches.get(platform.database, broken.batch_id).state == "open"
