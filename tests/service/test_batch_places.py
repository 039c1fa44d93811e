"""What is labelled, followed in memory: the same as reading everything again, for the price of what has changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from annotation import batches
from annotation.batches import Batch, BatchFrame, BatchId
from annotation.labels import FrameOutcome, FrameState
from annotation.tasks import TaskId
from infra.database import Db
from infra.errors import BackendUnavailable
from infra.platform import Platform
from selection.fleet.frames import FrameId
from service.batch_places import FRESH_FOR_S, SETTLED, BatchPlaces
from service.production_line import prepare

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ROWS = 40
T = TypeVar("T")


class Clock:
    """Moves on with every look, so that each of them looks anew."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 2 * FRESH_FOR_S
        return self.now


@pytest.fixture
def db(small_platform: Platform) -> Db:
    prepare(small_platform.database)
    return small_platform.database


def _insert(db: Db, name: str, rows: list[int], *, task: str = "t1") -> None:
    batch = Batch(batch_id=BatchId(name), task_id=TaskId(task), state="planned", created_at=NOW, plan={})
    places = [
        BatchFrame(
            batch_id=batch.batch_id,
            task_id=batch.task_id,
            frame_id=FrameId(f"{row:032x}"),
            row=row,
            rank=rank,
            score=None,
            reason="",
        )
        for rank, row in enumerate(rows)
    ]
    batches.insert(db, batch, places)


def _answer(db: Db, name: str, row: int, *classes: str, state: FrameState = "labelled") -> None:
    outcome = FrameOutcome(frame_id=FrameId(f"{row:032x}"), state=state, value=classes, stored=())
    batches.record_outcomes(db, name, [outcome])


def _where(mask: np.ndarray) -> list[int]:
    return np.flatnonzero(mask).tolist()


def _check(db: Db, places: BatchPlaces) -> None:
    """All answers against the documents as they are."""
    listed = list(db.batch_frames.find({}))
    labelled = [one for one in listed if one["state"] == "labelled"]
    assert _where(places.labelled(rows=ROWS)) == sorted({one["row"] for one in labelled})
    held = {one["row"] for one in listed if not one.get("released")}
    assert _where(places.held(rows=ROWS)) == sorted(held)
    for task in ("t1", "t2", "t3"):
        rows = sorted({one["row"] for one in labelled if one["task_id"] == task})
        found = places.labels_of(task)
        assert found.rows.tolist() == _where(places.labelled(rows=ROWS, task_id=task)) == rows
        for row, code in zip(found.rows.tolist(), found.code_N.tolist(), strict=True):
            known = [tuple(one["value"]) for one in labelled if (one["row"], one["task_id"]) == (row, task)]
            assert found.values[code] in known
    cars = {one["row"] for one in labelled if "car" in one["value"] and one["task_id"] == "t2"}
    assert _where(places.labelled_as(lambda task, value: task == "t2" and "car" in value, rows=ROWS)) == sorted(cars)
    for batch_id in batches.ids(db):
        expected = sorted(one["row"] for one in listed if one["batch_id"] == batch_id)
        assert _where(places.of_batches([batch_id], rows=ROWS)) == expected


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["batch", "answer", "skip", "cancel"]),
        st.integers(0, 9),
        st.sampled_from([(), ("car",), ("person",), ("car", "person")]),
    ),
    max_size=12,
)


@given(steps=_STEPS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_followed_is_what_is_there(db: Db, steps: list[tuple[str, int, tuple[str, ...]]]) -> None:
    for collection in (db.batches, db.batch_frames):
        collection.delete_many({})
    places = BatchPlaces(db, clock=Clock())
    names: list[str] = []
    for step, number, value in steps:
        if step == "batch":
            names.append(f"b-{len(names)}")
            _insert(db, names[-1], list(range(3 * number, 3 * number + 4)), task="t1" if number % 2 else "t2")
        elif names:
            name = names[number % len(names)]
            rows = sorted(one["row"] for one in db.batch_frames.find({"batch_id": name}))
            if step == "cancel":
                batches.cancel(db, name)
            else:
                _answer(db, name, rows[number % 4], *value, state="labelled" if step == "answer" else "skipped")
        _check(db, places)


def test_an_answer_reads_what_has_changed_and_nothing_else(db: Db, monkeypatch: pytest.MonkeyPatch) -> None:
    _insert(db, "b-1", list(range(20)))
    clock = Clock()
    places = BatchPlaces(db, clock=clock)
    first = places.version()
    read: list[int] = []
    whole, changed = batches.standings, batches.changed_standings
    monkeypatch.setattr(batches, "standings", lambda *args, **asked: _counted(whole(*args, **asked), read))
    monkeypatch.setattr(batches, "changed_standings", lambda *args, **asked: _counted(changed(*args, **asked), read))
    assert places.version() == first
    _answer(db, "b-1", 7, "car")
    assert places.version() == first + 1
    assert len(read) == 1
    _insert(db, "b-2", [30, 31])
    assert _where(places.of_batches(["b-2"], rows=ROWS)) == [30, 31]
    assert len(read) <= 1 + 1 + 2  # The change is looked at again while it is young.
    clock.now += 2 * SETTLED.total_seconds()
    version = places.version()
    del read[:]
    assert places.version() == version
    assert not read


def test_a_change_that_became_visible_after_a_later_one_is_found_however_seldom_one_looks(db: Db) -> None:
    _insert(db, "b-1", [1, 2])
    clock = Clock()
    places = BatchPlaces(db, clock=clock)
    _answer(db, "b-1", 1, "car")
    assert _where(places.labelled(rows=ROWS)) == [1]
    first = (db.batch_frames.find_one({"row": 1}) or {})["changed_at"]
    late = {
        "state": "labelled",
        "value": ["car"],
        "changed_at": first - SETTLED / 2,
    }  # Of a transaction that took its time.
    db.batch_frames.update_one({"row": 2}, {"$set": late})
    clock.now += 10 * SETTLED.total_seconds()
    assert _where(places.labelled(rows=ROWS)) == [1, 2]


def test_changes_are_found_when_the_clock_of_the_database_is_put_back(db: Db, monkeypatch: pytest.MonkeyPatch) -> None:
    _insert(db, "b-1", list(range(6)))
    clock, now = Clock(), batches.database_clock
    places = BatchPlaces(db, clock=clock)
    ahead = timedelta(hours=1)
    monkeypatch.setattr(batches, "database_clock", lambda db: now(db) + ahead)

    def answer(row: int, *, at: timedelta) -> None:
        changed = {"state": "labelled", "value": ["car"], "changed_at": now(db) + at}
        db.batch_frames.update_one({"row": row}, {"$set": changed})

    answer(0, at=ahead)
    assert _where(places.labelled(rows=ROWS)) == [0]
    clock.now += 10 * SETTLED.total_seconds()
    assert _where(places.labelled(rows=ROWS)) == [0]
    monkeypatch.setattr(batches, "database_clock", now)
    answer(1, at=-timedelta(seconds=30))  # It was put back a while ago.
    assert _where(places.labelled(rows=ROWS)) == [0, 1]
    for row in (2, 3):
        clock.now += 10 * SETTLED.total_seconds()
        answer(row, at=timedelta())
        assert _where(places.labelled(rows=ROWS)) == list(range(row + 1))


def test_a_look_that_fails_half_way_hides_nothing(db: Db, monkeypatch: pytest.MonkeyPatch) -> None:
    _insert(db, "b-1", [1, 2, 3])
    places = BatchPlaces(db, clock=Clock())
    assert not places.labelled(rows=ROWS).any()
    whole, changed = batches.standings, batches.changed_standings
    for row, name, function in ((1, "changed_standings", changed), (2, "standings", whole)):
        _answer(db, "b-1", row, "car")
        _insert(db, f"b-{name}", [10 + row])
        monkeypatch.setattr(batches, name, partial(_broken, function))
        with pytest.raises(BackendUnavailable):
            places.held(rows=ROWS)
        monkeypatch.setattr(batches, name, function)
        _check(db, places)


def test_a_place_that_came_past_its_batch_and_changes_is_no_trouble(db: Db) -> None:
    _insert(db, "b-1", [1, 2])
    clock = Clock()
    places = BatchPlaces(db, clock=clock)
    assert _where(places.held(rows=ROWS)) == [1, 2]
    place = dict(db.batch_frames.find_one({"row": 2}) or {})
    db.batch_frames.insert_one(place | {"_id": "b-1/000009", "rank": 9, "row": 3, "frame_id": f"{3:032x}"})
    _answer(db, "b-1", 3, "car")
    assert not places.labelled(rows=ROWS).any()
    clock.now += 2 * SETTLED.total_seconds()
    assert _where(places.labelled(rows=ROWS)) == [3]


def test_places_that_came_past_the_batches_are_found(db: Db) -> None:
    _insert(db, "b-1", [1, 2])
    clock = Clock()
    places = BatchPlaces(db, clock=clock)
    assert _where(places.held(rows=ROWS)) == [1, 2]
    place = dict(db.batch_frames.find_one({"row": 2}) or {})
    db.batch_frames.insert_one(place | {"_id": "b-1/000009", "rank": 9, "row": 3, "frame_id": "x"})
    assert _where(places.held(rows=ROWS)) == [1, 2]  # It might be of a transaction that is still open.
    clock.now += 2 * SETTLED.total_seconds()
    assert _where(places.held(rows=ROWS)) == [1, 2, 3]
    assert _where(places.held(rows=2)) == [1]


def test_a_count_that_runs_ahead_of_a_transaction_hides_no_batch(db: Db, monkeypatch: pytest.MonkeyPatch) -> None:
    _insert(db, "b-1", [1, 2])
    clock = Clock()
    places = BatchPlaces(db, clock=clock)
    assert _where(places.held(rows=ROWS)) == [1, 2]
    monkeypatch.setattr(batches, "place_count", lambda _: 4)  # As long as the transaction is open, and after it.
    for _ in range(4):
        clock.now += SETTLED.total_seconds()
        assert _where(places.held(rows=ROWS)) == [1, 2]
    _insert(db, "b-2", [3, 4])
    assert _where(places.of_batches(["b-2"], rows=ROWS)) == [3, 4]
    _insert(db, "b-3", [5, 6])
    clock.now += 2 * SETTLED.total_seconds()
    assert _where(places.held(rows=ROWS)) == [1, 2, 3, 4, 5, 6]


def test_a_batch_that_was_just_made_is_found_at_once(db: Db) -> None:
    places = BatchPlaces(db, clock=lambda: 0.0)
    assert not places.held(rows=ROWS).any()
    _insert(db, "b-1", [1, 2])
    assert not places.held(rows=ROWS).any()  # Looked up at most twice a second.
    assert _where(places.of_batches(["b-1"], rows=ROWS)) == [1, 2]


def test_nothing_is_labelled_where_there_is_no_batch(db: Db) -> None:
    places = BatchPlaces(db, clock=Clock())
    _check(db, places)
    assert places.of_batches(["b-1"], rows=3).tolist() == [False] * 3


def _broken(listed: Callable[..., Iterator[T]], *args: Any, **asked: Any) -> Iterator[T]:
    yield next(listed(*args, **asked))
    raise BackendUnavailable("the database went away")


def _counted(listed: Iterator[T], read: list[int]) -> Iterator[T]:
    for one in listed:
        read.append(1)
        yield one
