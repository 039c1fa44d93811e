"""The simulated people: order, limits, and each frame answered once however many work."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from annotation.backends.protocol import Ticket
from annotation.backends.simulated import INDEXES, SimulatedBackend
from infra.database import Db, ensure_indexes
from infra.errors import NotFound
from selection.fleet.frames import FrameId


def test_people_answer_in_the_order_of_rank(database: Db, new_ticket: Callable[..., Ticket]) -> None:
    ensure_indexes(database, INDEXES)
    ticket = new_ticket(5)
    in_order = [frame.frame_id for frame in sorted(ticket.frames, key=lambda frame: frame.rank)]
    asked: list[FrameId] = []

    def answer(frame_id: FrameId) -> list[str] | None:
        asked.append(frame_id)
        return None if frame_id == in_order[0] else ["car"]

    backend = SimulatedBackend(database, answer=answer)
    ref = backend.open(ticket)

    assert (backend.work(0), backend.work(limit=2), asked) == (0, 2, in_order[:2])
    assert SimulatedBackend(database, answer=answer).work() == 3
    assert (backend.work(), asked) == (0, in_order)
    status = backend.status(ref)
    assert (status.total, status.labelled, status.skipped) == (5, 4, 1)


def test_a_frame_is_answered_once_by_many(database: Db, new_ticket: Callable[..., Ticket]) -> None:
    backend = SimulatedBackend(database, answer=lambda _frame_id: ["car"])
    ref = backend.open(new_ticket(30))

    with ThreadPoolExecutor(4) as people:
        counts = list(people.map(lambda _: backend.work(), range(4)))

    assert sum(counts) == 30
    assert [len(answers.annotations) for answers in backend.collect(ref, None)] == [1] * 30


def test_one_batch_at_a_time(database: Db, new_ticket: Callable[..., Ticket]) -> None:
    backend = SimulatedBackend(database, answer=lambda _frame_id: [])
    one, other = new_ticket(2), new_ticket(3)
    backend.open(one)
    backend.open(other)

    assert backend.work(batch_id=other.batch_id) == 3
    assert backend.status(one.batch_id).labelled == 0


def test_unknown_batches_and_frames_are_named(database: Db, new_ticket: Callable[..., Ticket]) -> None:
    backend = SimulatedBackend(database, answer=lambda _frame_id: [])
    ref = backend.open(new_ticket(1))

    with pytest.raises(NotFound, match="nowhere"):
        backend.status("nowhere")
    with pytest.raises(NotFound, match="f00"):
        backend.correct(ref, FrameId("f00"), [])
