"""Leftovers of killed writers go when they are old; what is recorded, young or being worked on stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from infra import database as documents
from infra import leases
from infra.database import Db
from infra.platform import Platform
from selection import leftovers, shards, written_files
from selection.leftovers import Swept
from selection.structure import novelty, projection, survey

LATER = timedelta(days=2)


@pytest.fixture
def stores(platform: Platform) -> Platform:
    documents.ensure_indexes(
        platform.database,
        shards.INDEXES | written_files.INDEXES | survey.INDEXES | novelty.INDEXES | projection.INDEXES,
    )
    return platform


def _shard(stores: Platform, kind: shards.ShardKind, producer: str, start: int = 0) -> shards.Shard:
    rows = np.arange(start, start + 3, dtype=np.int64)
    made = shards.write(stores, kind, producer, start, start + 3, pa.table({"row": rows, "x": rows * 1.0}))
    assert made is not None
    return made


def _make_old(stores: Platform, shard: shards.Shard) -> None:
    old = {"$set": {"written_at": datetime.now(UTC) - LATER}}
    assert stores.database.written_files.update_one({"_id": shard.object_key}, old).matched_count


def _keys(stores: Platform) -> set[str]:
    return {key for folder in ("shards", "surveys", "projections") for key in stores.objects.list(folder)}


def _map(stores: Platform, name: str, *, fitted_at: datetime) -> None:
    key = f"projections/{name}.arrow"
    written_files.put(stores, key, b"1")
    stores.database.projections.insert_one(
        {
            "_id": f"enc-1+{name}",
            "projection_id": f"enc-1+{name}",
            "encoder_id": "enc-1",
            "method": "m",
            "seed": 0,
            "sample": 1,
            "object_key": key,
            "digest": "0",
            "fitted_at": fitted_at,
        }
    )


def test_surveys_that_were_never_recorded_go_with_their_files(stores: Platform) -> None:
    now = datetime.now(UTC)
    stores.database.surveys.insert_one({"_id": "enc-1+survey-b", "object_key": "surveys/b.arrow"})
    stores.database.novelties.insert_one({"_id": "enc-1+novelty-b"})
    for name in ("a", "b"):
        written_files.put(stores, f"surveys/{name}.arrow", name.encode())
        for start in (0, 3):
            _shard(stores, "surveys", f"enc-1+survey-{name}", start)
        _shard(stores, "novelties", f"enc-1+novelty-{name}")
    vectors = _shard(stores, "vectors", "enc-1")
    before = _keys(stores)
    assert leftovers.sweep(stores, now=now) == Swept()
    assert _keys(stores) == before
    assert leftovers.sweep(stores, now=now + LATER) == Swept(shards=3, files=1)
    kept = {f"enc-1+{work}-b" for work in ("survey", "novelty")} | {"enc-1"}
    assert set(stores.database.shards.distinct("producer")) == kept
    assert _keys(stores) == {one["object_key"] for one in stores.database.shards.find({})} | {"surveys/b.arrow"}
    assert shards.read(stores, vectors).num_rows == 3
    assert leftovers.sweep(stores, now=now + LATER) == Swept()


def test_what_is_being_worked_on_stays_however_old_it_is(stores: Platform) -> None:
    _shard(stores, "surveys", "enc+1+survey-a")
    later = datetime.now(UTC) + LATER
    with leases.hold(stores.database, "survey/enc+1"):
        assert leftovers.sweep(stores, now=later) == Swept()
    with leases.hold(stores.database, "sweep"):
        assert leftovers.sweep(stores, now=later) == Swept()
    assert leftovers.sweep(stores, now=later) == Swept(shards=1)


def test_one_young_shard_keeps_the_old_ones_of_its_producer(stores: Platform) -> None:
    old = _shard(stores, "surveys", "enc-1+survey-a")
    stores.database.shards.update_one({"_id": old.shard_id}, {"$set": {"created_at": old.created_at - LATER}})
    _shard(stores, "surveys", "enc-1+survey-a", 3)
    assert leftovers.sweep(stores, now=datetime.now(UTC)) == Swept()


def test_files_without_a_record_go_when_they_are_old_and_a_writer_may_still_record_young_ones(stores: Platform) -> None:
    now = datetime.now(UTC)
    written = {kind: _shard(stores, kind, "p-1") for kind in ("vectors", "predictions")}
    stores.database.shards.delete_many({})  # As if the writers had been killed between the file and the record.
    _make_old(stores, written["vectors"])
    assert leftovers.sweep(stores, now=now) == Swept(files=1)
    assert _keys(stores) == {written["predictions"].object_key}
    assert _shard(stores, "predictions", "p-1").object_key == written["predictions"].object_key
    assert leftovers.sweep(stores, now=now + LATER) == Swept()
    assert _keys(stores) == {written["predictions"].object_key}


def test_a_file_that_is_written_again_meanwhile_stays(stores: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = _shard(stores, "vectors", "p-1")
    stores.database.shards.delete_many({})
    _make_old(stores, shard)
    recorded = leftovers._recorded

    def written_meanwhile(db: Db, keys: Sequence[str]) -> set[str]:
        found = recorded(db, keys)
        _shard(stores, "vectors", "p-1")
        return found

    monkeypatch.setattr(leftovers, "_recorded", written_meanwhile)
    assert leftovers.sweep(stores, now=datetime.now(UTC)) == Swept()
    assert _keys(stores) == {shard.object_key}


def test_files_of_another_database_or_person_in_the_same_store_stay(stores: Platform) -> None:
    other = replace(stores, database=stores.database.client[f"{stores.database.name}-other"])
    theirs = [_shard(other, kind, "p-1").object_key for kind in ("vectors", "predictions")]
    for key in ("shards/notes.txt", "surveys/a.arrow", "projections/b.arrow"):
        stores.objects.put(key, b"a person's")
        theirs.append(key)
    assert leftovers.sweep(stores, now=datetime.now(UTC) + 10 * LATER) == Swept()
    assert _keys(stores) == set(theirs)
    other.database.client.drop_database(other.database.name)


def test_maps_go_a_day_after_another_took_their_place(stores: Platform) -> None:
    now = datetime.now(UTC)
    _map(stores, "old", fitted_at=now - 3 * LATER)
    _map(stores, "new", fitted_at=now)
    for name in ("old", "new"):
        _shard(stores, "projections", f"enc-1+{name}")
    assert leftovers.sweep(stores, now=now + timedelta(hours=1)) == Swept()
    assert leftovers.sweep(stores, now=now + LATER) == Swept(shards=1, files=1)
    assert stores.database.projections.distinct("_id") == ["enc-1+new"]
    assert "projections/new.arrow" in _keys(stores)
