from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from annotation import labels
from annotation.backends.protocol import FrameAnswers
from annotation.labels import FrameOutcome
from annotation.tasks import Task
from infra.database import Db
from infra.errors import InvalidInput
from selection.fleet.frames import Frame
from tests.annotation.conftest import NOW, answer

Store = Callable[..., list[FrameOutcome]]


@pytest.fixture
def store(db: Db, task: Task) -> Store:
    """Stores answers to a batch."""

    def run(*answers: FrameAnswers, known: list[Frame]) -> list[FrameOutcome]:
        by_id = {frame.frame_id: frame for frame in known}
        return labels.store_answers(
            db, task=task, batch_id="batch-1", backend="here", answers=answers, frames=by_id, now=NOW
        )

    return run


def test_the_same_answer_is_stored_once(db: Db, fleet: Callable[..., list[Frame]], store: Store, task: Task) -> None:
    known = fleet(drives=1, per_drive=3)
    first = store(answer(known[0], "cyclist", "car"), known=known)[0]
    assert first.state == "labelled"
    assert first.value == ("car", "cyclist")
    assert [label.revision for label in first.stored] == [1]
    again = store(answer(known[0], "car", "cyclist", at_s=5), known=known)[0]
    assert again.stored == ()
    assert [label.frame_id for label in labels.current(db, task_id=task.task_id)] == [known[0].frame_id]


def test_a_correction_is_a_new_revision_and_back_again_another(
    db: Db, fleet: Callable[..., list[Frame]], store: Store
) -> None:
    known = fleet(drives=1, per_drive=1)
    for second, value in enumerate(["car", "cyclist", "car"]):
        store(answer(known[0], value, at_s=second), known=known)
    revisions = labels.of_frame(db, known[0].frame_id)
    assert [(label.revision, label.value) for label in revisions] == [(1, ("car",)), (2, ("cyclist",)), (3, ("car",))]
    assert revisions[0].digest == revisions[2].digest
    assert len({label.label_id for label in revisions}) == 3


def test_an_older_state_that_arrives_late_changes_nothing(fleet: Callable[..., list[Frame]], store: Store) -> None:
    known = fleet(drives=1, per_drive=1)
    store(answer(known[0], "car", at_s=10), known=known)
    late = store(answer(known[0], "cyclist", at_s=3), known=known)[0]
    assert late.stored == ()
    assert late.value == ("car",)


def test_a_deleted_answer_is_a_tombstone_and_the_frame_waits_again(
    db: Db, fleet: Callable[..., list[Frame]], store: Store, task: Task
) -> None:
    known = fleet(drives=1, per_drive=1)
    store(answer(known[0], "car"), known=known)
    empty = FrameAnswers(frame_id=known[0].frame_id, annotations=())
    gone = store(empty, known=known)[0]
    assert gone.state == "pending"
    assert [label.tombstone for label in gone.stored] == [True]
    assert store(empty, known=known)[0].stored == ()
    assert list(labels.current(db, task_id=task.task_id)) == []
    assert labels.of_frame(db, known[0].frame_id)[0].value == ("car",)


def test_an_answer_that_was_missing_and_is_there_again_counts_again(
    db: Db, fleet: Callable[..., list[Frame]], store: Store, task: Task
) -> None:
    known = fleet(drives=1, per_drive=1)
    empty = FrameAnswers(frame_id=known[0].frame_id, annotations=())
    for _ in range(2):
        assert store(answer(known[0], "car"), known=known)[0].state == "labelled"
        assert store(answer(known[0], "car"), known=known)[0].stored == ()
        assert store(empty, known=known)[0].state == "pending"
    assert store(answer(known[0], "car"), known=known)[0].value == ("car",)
    assert [label.tombstone for label in labels.of_frame(db, known[0].frame_id)] == [False, True, False, True, False]
    assert [label.value for label in labels.current(db, task_id=task.task_id)] == [("car",)]


def test_backends_that_number_their_answers_alike_do_not_hide_one_another(
    db: Db, fleet: Callable[..., list[Frame]], task: Task
) -> None:
    known = fleet(drives=1, per_drive=1)
    by_id = {known[0].frame_id: known[0]}
    gone = FrameAnswers(frame_id=known[0].frame_id, annotations=())
    for backend, said in (
        ("one", answer(known[0], "car")),
        ("two", answer(known[0], "cyclist", at_s=1)),
        ("two", gone),
    ):
        labels.store_answers(db, task=task, batch_id=backend, backend=backend, answers=[said], frames=by_id, now=NOW)
    assert [label.value for label in labels.current(db, task_id=task.task_id)] == [("car",)]


def test_a_skipped_frame_is_not_a_label(db: Db, fleet: Callable[..., list[Frame]], store: Store, task: Task) -> None:
    known = fleet(drives=1, per_drive=1)
    outcome = store(answer(known[0], state="skipped"), known=known)[0]
    assert (outcome.state, outcome.stored) == ("skipped", ())
    assert list(labels.current(db, task_id=task.task_id)) == []


def test_none_of_the_classes_is_an_answer(fleet: Callable[..., list[Frame]], store: Store) -> None:
    known = fleet(drives=1, per_drive=1)
    outcome = store(answer(known[0]), known=known)[0]
    assert (outcome.state, outcome.value, len(outcome.stored)) == ("labelled", (), 1)


def test_an_unknown_class_is_reported_and_the_rest_goes_on(fleet: Callable[..., list[Frame]], store: Store) -> None:
    known = fleet(drives=1, per_drive=2)
    bad, good = store(answer(known[0], "tram"), answer(known[1], "car"), known=known)
    assert bad.state == "invalid"
    assert bad.stored == ()
    assert "'tram' is not a class of task road-users" in (bad.problem or "")
    assert good.state == "labelled"
    mended = store(answer(known[0], "car", at_s=1), known=known)[0]
    assert mended.state == "labelled"


def test_an_answer_about_a_stranger_is_refused(fleet: Callable[..., list[Frame]], store: Store) -> None:
    known = fleet(drives=1, per_drive=2)
    with pytest.raises(InvalidInput, match="has no frame"):
        store(answer(known[1], "car"), known=known[:1])


def test_two_processes_storing_the_same_answers_store_each_once(
    db: Db, fleet: Callable[..., list[Frame]], store: Store
) -> None:
    known = fleet(drives=1, per_drive=20)
    answers = [answer(frame, "car") for frame in known]
    failures: list[Any] = []

    def work() -> None:
        try:
            store(*answers, known=known)
        except Exception as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert db.labels.count_documents({}) == 20
