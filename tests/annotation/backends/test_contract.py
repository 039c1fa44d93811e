"""What every labelling backend promises, over each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from annotation.backends.protocol import Annotation, LabellingBackend, Ticket
from annotation.tasks import Task, TaskId
from infra.errors import InvalidInput
from selection.fleet.frames import FrameId

NewTicket = Callable[..., Ticket]
LONG_AGO = timedelta(hours=1)


def frame_ids(ticket: Ticket) -> list[FrameId]:
    return [frame.frame_id for frame in sorted(ticket.frames, key=lambda frame: frame.rank)]


def collected(
    backend: LabellingBackend, ref: str, since: datetime | None = None
) -> Mapping[FrameId, tuple[Annotation, ...]]:
    """Answers by frame; a frame that comes several times must come with the same answers."""
    found: dict[FrameId, tuple[Annotation, ...]] = {}
    for answers in backend.collect(ref, since):
        assert found.setdefault(answers.frame_id, answers.annotations) == answers.annotations
    return {frame_id: annotations for frame_id, annotations in found.items() if annotations}


def test_frames_are_offered_once_in_the_order_of_rank(desk, new_ticket: NewTicket) -> None:
    ticket = new_ticket(7)

    ref = desk.backend.open(ticket)

    assert desk.offered(ref) == frame_ids(ticket)
    status = desk.backend.status(ref)
    assert (status.total, status.labelled, status.skipped) == (7, 0, 0)
    assert collected(desk.backend, ref) == {}


def test_opening_again_adds_only_what_is_missing(desk, new_ticket: NewTicket) -> None:
    ticket = new_ticket(6)
    first_half = replace(ticket, frames=[frame for frame in ticket.frames if frame.rank < 3])

    refs = {desk.backend.open(first_half), desk.again().open(ticket), desk.again().open(ticket)}

    assert len(refs) == 1
    assert desk.offered(refs.pop()) == frame_ids(ticket)


def test_opening_again_keeps_answers(desk, new_ticket: NewTicket) -> None:
    ticket = new_ticket(2)
    ref = desk.backend.open(ticket)
    desk.answer(ref, frame_ids(ticket)[1], ["car"])

    desk.again().open(ticket)

    assert desk.offered(ref) == frame_ids(ticket)
    assert [a.value for a in collected(desk.backend, ref)[frame_ids(ticket)[1]]] == [("car",)]


def test_answers_come_back_by_frame(desk, new_ticket: NewTicket) -> None:
    ticket = new_ticket(4)
    several, none, skipped, _ = frame_ids(ticket)
    ref = desk.backend.open(ticket)

    desk.answer(ref, skipped, None)
    desk.answer(ref, none, [])
    desk.answer(ref, several, ['<"traffic" sign>', "person & dog"])

    found = collected(desk.again(), ref)
    assert set(found) == {several, none, skipped}
    assert [(a.state, set(a.value)) for a in found[several]] == [("labelled", {"person & dog", '<"traffic" sign>'})]
    assert [(a.state, a.value) for a in found[none]] == [("labelled", ())]
    assert [(a.state, a.value) for a in found[skipped]] == [("skipped", ())]
    answers = [annotation for annotations in found.values() for annotation in annotations]
    assert {a.problem for a in answers} == {None}
    assert len({a.external_id for a in answers}) == 3
    assert all(a.annotator and abs(a.updated_at - datetime.now(UTC)) < LONG_AGO for a in answers)
    status = desk.backend.status(ref)
    assert (status.total, status.labelled, status.skipped) == (4, 2, 1)


def test_a_single_class_comes_back(desk, new_ticket: NewTicket) -> None:
    ticket = new_ticket(1, kind="classification")
    ref = desk.backend.open(ticket)

    desk.answer(ref, ticket.frames[0].frame_id, ["person & dog"])

    assert [a.value for a in collected(desk.backend, ref)[ticket.frames[0].frame_id]] == [("person & dog",)]


def test_a_correction_is_the_same_answer_at_a_later_time(desk, new_ticket: NewTicket) -> None:
    ticket = new_ticket(1)
    frame_id = ticket.frames[0].frame_id
    ref = desk.backend.open(ticket)
    desk.answer(ref, frame_id, ["car"])
    (before,) = collected(desk.backend, ref)[frame_id]

    desk.correct(ref, frame_id, [])

    (after,) = collected(desk.backend, ref)[frame_id]
    assert (before.value, after.value) == (("car",), ())
    assert after.external_id == before.external_id
    assert after.updated_at > before.updated_at


def test_a_deleted_answer_is_seen_to_be_gone(desk, new_ticket: NewTicket) -> None:
    ticket = new_ticket(2)
    kept, deleted = frame_ids(ticket)
    ref = desk.backend.open(ticket)
    desk.answer(ref, kept, ["car"])
    desk.answer(ref, deleted, ["car"])
    since = desk.backend.server_now()
    (before,) = collected(desk.backend, ref)[deleted]

    desk.retract(ref, deleted)

    for moment in (since, None):
        state = {answers.frame_id: answers.annotations for answers in desk.backend.collect(ref, moment)}
        assert state[deleted] == ()
        assert len(state[kept]) == 1
    desk.answer(ref, deleted, [])
    (anew,) = collected(desk.backend, ref)[deleted]
    assert anew.external_id != before.external_id


def test_what_changed_since_is_never_omitted_and_what_is_long_past_is(desk, new_ticket: NewTicket) -> None:
    ticket = new_ticket(3)
    ref = desk.backend.open(ticket)
    before = desk.backend.server_now()
    for frame_id in frame_ids(ticket):
        desk.answer(ref, frame_id, ["car"])

    assert set(collected(desk.backend, ref, before)) == set(frame_ids(ticket))
    assert list(desk.backend.collect(ref, desk.backend.server_now() + LONG_AGO)) == []


def test_batches_of_a_task_stay_apart(desk, new_ticket: NewTicket) -> None:
    one = new_ticket(2)
    other = new_ticket(2, task=one.task)
    both = replace(other, frames=[*other.frames, one.frames[0]])  # A frame may be asked about twice.
    ref, other_ref = desk.backend.open(one), desk.backend.open(both)

    desk.answer(other_ref, one.frames[0].frame_id, ["car"])

    assert collected(desk.backend, ref) == {}
    assert set(collected(desk.backend, other_ref)) == {one.frames[0].frame_id}
    assert desk.backend.status(ref).total == 2


def test_cancelling_withdraws_what_nobody_answered(desk, new_ticket: NewTicket) -> None:
    ticket = new_ticket(4)
    bystander = new_ticket(1, task=ticket.task)
    answered, skipped, *_ = frame_ids(ticket)
    ref, other_ref = desk.backend.open(ticket), desk.backend.open(bystander)
    desk.answer(ref, answered, ["car"])
    desk.answer(ref, skipped, None)

    desk.backend.cancel(ref)
    desk.again().cancel(ref)

    assert desk.offered(ref) == [answered, skipped]
    assert len(collected(desk.backend, ref)) == 2
    assert desk.offered(other_ref) == frame_ids(bystander)


def test_kinds_that_are_not_served_are_refused(desk, new_ticket: NewTicket) -> None:
    task = Task(task_id=TaskId("boxes"), kind="detection", classes=("car",))
    with pytest.raises(InvalidInput, match="detection"):
        desk.backend.open(new_ticket(1, task=task))


def test_the_clock_is_in_utc(desk) -> None:
    now = desk.backend.server_now()
    assert now.utcoffset() == timedelta(0)
    assert abs(now - datetime.now(UTC)) < LONG_AGO
