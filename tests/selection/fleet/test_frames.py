"""Frames: dense rows under concurrency, look-ups, sightings."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from infra import database as documents
from infra.database import Db
from infra.errors import InvalidInput, NotFound
from selection.fleet import frames, sightings
from selection.fleet.frames import FrameFacts
from selection.fleet.sightings import Sighting

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def db(database: Db) -> Db:
    documents.ensure_indexes(database, frames.INDEXES)
    return database


def _facts(number: int, **more: object) -> FrameFacts:
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    fields: dict[str, object] = {
        "frame_id": frames.id_of(digest),
        "digest": digest,
        "width": 8,
        "height": 6,
        "format": "JPEG",
        "size_bytes": 100,
        "source": f"{number}.jpg",
        "object_key": f"frames/{digest}.jpg",
        "preview_key": f"previews/{digest}.jpg",
        "ingested_at": NOW,
    }
    return FrameFacts(**(fields | more))  # type: ignore[arg-type]


def test_rows_follow_the_order_given_and_are_handed_out_once(db: Db) -> None:
    assert frames.row_count(db) == 0
    one, two, three = _facts(1), _facts(2), _facts(3)
    assert frames.register(db, [one, two, one]) == {one.frame_id, two.frame_id}
    assert frames.register(db, [two, three]) == {three.frame_id}
    assert frames.register(db, [one, two, three]) == set()
    assert frames.register(db, []) == set()
    assert frames.row_count(db) == 3
    assert [frame.frame_id for frame in frames.by_rows(db, [2, 0, 2])] == [three.frame_id, one.frame_id, three.frame_id]


def test_a_frame_reads_back_as_it_was_written(db: Db) -> None:
    facts = _facts(
        1,
        captured_at=datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC),
        site="berlin",
        vehicle="v7",
        drive="d1",
        camera="front",
        location=(52.5, 13.4),
        attributes={"weather": "rain", "lanes": 2},
    )
    frames.register(db, [facts])
    frame = frames.get(db, facts.frame_id)
    assert {name: getattr(frame, name) for name in FrameFacts.__dataclass_fields__} == {
        name: getattr(facts, name) for name in FrameFacts.__dataclass_fields__
    }
    assert frame.row == 0


def test_the_first_facts_of_a_frame_stay(db: Db) -> None:
    frames.register(db, [_facts(1, drive="first")])
    frames.register(db, [_facts(1, drive="second")])
    assert frames.get(db, _facts(1).frame_id).drive == "first"


def test_frames_are_found_by_a_unique_beginning_of_their_id(db: Db) -> None:
    facts = _facts(1)
    frames.register(db, [facts])
    assert frames.get(db, facts.frame_id[:6].upper()).frame_id == facts.frame_id
    twin = facts.digest[:10] + ("0" if facts.digest[10] != "0" else "1") + facts.digest[11:]
    frames.register(db, [_facts(1, digest=twin, frame_id=frames.id_of(twin))])
    with pytest.raises(InvalidInput, match="more digits"):
        frames.get(db, facts.frame_id[:10])
    assert frames.get(db, facts.frame_id[:11]).frame_id == facts.frame_id
    with pytest.raises(InvalidInput, match="too short"):
        frames.get(db, "ab")


@pytest.mark.parametrize("missing", ["", "xyz", "../../etc", "0" * 32, "0" * 33])
def test_an_unknown_frame_is_not_found(db: Db, missing: str) -> None:
    with pytest.raises(NotFound):
        frames.get(db, missing)


def test_batches_leave_out_unknown_ids_and_refuse_unknown_rows(db: Db) -> None:
    frames.register(db, [_facts(1)])
    known = _facts(1).frame_id
    assert set(frames.get_many(db, [known, frames.FrameId("f" * 32)])) == {known}
    assert frames.by_rows(db, []) == []
    with pytest.raises(NotFound, match="row 5"):
        frames.by_rows(db, [0, 5])


def test_concurrent_registration_gives_each_frame_one_row_without_holes(db: Db) -> None:
    def register(offset: int) -> set[frames.FrameId]:
        added: set[frames.FrameId] = set()
        for start in range(0, 60, 12):
            # Every worker registers the same 60 frames, each starting elsewhere.
            added |= frames.register(db, [_facts((offset + start + i) % 60) for i in range(12)])
        return added

    with ThreadPoolExecutor(4) as pool:
        added = [one for result in pool.map(register, (0, 7, 24, 30)) for one in result]
    assert len(added) == len(set(added)) == 60, "no frame was added twice"
    assert [document["row"] for document in frames.documents(db, start=0, fields=["row"])] == list(range(60))
    assert frames.row_count(db) == 60


def test_sightings_are_kept_once_a_place(db: Db) -> None:
    frame_id = _facts(1).frame_id
    here = Sighting(frame_id=frame_id, site="a", uri="file:///x.jpg", seen_at=NOW)
    there = Sighting(frame_id=frame_id, site="b", uri="file:///x.jpg", seen_at=NOW)
    assert sightings.add(db, [here, here]) == 1
    assert sightings.add(db, [here, there]) == 1
    assert sightings.add(db, []) == 0
    assert {one.site for one in sightings.of_frame(db, frame_id)} == {"a", "b"}


def test_facts_refuse_an_id_that_is_not_their_content() -> None:
    with pytest.raises(InvalidInput, match="does not belong"):
        _facts(1, frame_id=frames.FrameId("0" * 32))
