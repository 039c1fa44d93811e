"""Shards: committed once, covered gap by gap, re-made when damaged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra import database as documents
from infra.errors import InvalidInput
from infra.objects import open_objects
from infra.platform import Platform
from selection import shards
from selection.shards import CorruptShard


@pytest.fixture
def stores(platform: Platform) -> Platform:
    documents.ensure_indexes(platform.database, shards.INDEXES)
    return platform


def _table(start: int, stop: int, *, value: float = 1.0) -> pa.Table:
    rows = np.arange(start, stop, dtype=np.int64)
    vectors = np.full((stop - start) * 4, value, dtype=np.float16)
    return pa.table({"row": rows, "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors), 4)})


def _write(stores: Platform, start: int, stop: int, **more: float) -> shards.Shard | None:
    return shards.write(stores, "vectors", "enc-1", start, stop, _table(start, stop, **more))


def test_gaps_are_cut_at_block_boundaries_and_close_as_shards_appear(stores: Platform) -> None:
    db = stores.database
    assert shards.gaps(db, "vectors", "enc-1", 10, block=4) == [(0, 4), (4, 8), (8, 10)]
    assert _write(stores, 4, 6)
    assert shards.gaps(db, "vectors", "enc-1", 10, block=4) == [(0, 4), (6, 8), (8, 10)]
    assert shards.gaps(db, "vectors", "enc-1", 5, block=4) == [(0, 4)]
    assert shards.gaps(db, "vectors", "enc-2", 3, block=4) == [(0, 3)], "another producer has its own gaps"
    assert shards.gaps(db, "predictions", "enc-1", 3, block=4) == [(0, 3)]
    assert shards.row_total(db, "vectors", "enc-1") == 2
    assert shards.row_total(db, "vectors", "enc-2") == 0


@given(row_count=st.integers(0, 60), block=st.integers(1, 20))
def test_pieces_cover_every_row_once_and_keep_to_blocks(row_count: int, block: int) -> None:
    pieces: list[tuple[int, int]] = []
    shards._cut(pieces, start=0, stop=row_count, block=block)
    assert [row for start, stop in pieces for row in range(start, stop)] == list(range(row_count))
    assert all(start // block == (stop - 1) // block for start, stop in pieces)


def test_a_shard_reads_back_with_its_producer_named(stores: Platform) -> None:
    shard = _write(stores, 0, 3)
    assert shard is not None
    assert shards.records(stores.database, "vectors", "enc-1") == [shard]
    table = shards.read(stores, shard)
    assert table.column("row").to_pylist() == [0, 1, 2]
    assert table.schema.metadata == {b"kind": b"vectors", b"producer": b"enc-1", b"format_version": b"1"}


def test_the_second_writer_of_a_piece_is_discarded_with_its_file(stores: Platform) -> None:
    first = _write(stores, 0, 3, value=1.0)
    assert first is not None
    assert _write(stores, 0, 3, value=0.5) is None, "different values, as from another GPU"
    assert _write(stores, 0, 3, value=1.0) is None, "the same values"
    assert list(stores.objects.list("shards")) == [first.object_key]
    assert shards.read(stores, first).num_rows == 3


@pytest.mark.parametrize("damage", ["flipped", "missing"])
def test_a_damaged_shard_is_never_used_and_becomes_a_gap(stores: Platform, damage: str) -> None:
    shard = _write(stores, 0, 3)
    assert shard is not None
    if damage == "missing":
        stores.objects.delete(shard.object_key)
    else:
        data = bytearray(stores.objects.get(shard.object_key))
        data[len(data) // 2] ^= 0xFF
        stores.objects.put(shard.object_key, bytes(data))
    with pytest.raises(CorruptShard, match="made again"):
        shards.read(stores, shard)
    assert shards.gaps(stores.database, "vectors", "enc-1", 3) == [(0, 3)]
    again = _write(stores, 0, 3)
    assert again is not None
    assert shards.read(stores, again).num_rows == 3


def test_a_stale_reader_does_not_condemn_the_replacement(stores: Platform) -> None:
    old = _write(stores, 0, 3, value=1.0)
    assert old is not None
    stores.objects.delete(old.object_key)
    with pytest.raises(CorruptShard):
        shards.read(stores, old)
    new = _write(stores, 0, 3, value=0.5)
    with pytest.raises(CorruptShard):
        shards.read(stores, old)
    assert shards.records(stores.database, "vectors", "enc-1") == [new]


@pytest.mark.parametrize(("start", "stop"), [(0, 4), (1, 4), (0, 2)])
def test_a_table_must_hold_exactly_its_rows(stores: Platform, start: int, stop: int) -> None:
    with pytest.raises(InvalidInput, match="rows"):
        shards.write(stores, "vectors", "enc-1", start, stop, _table(0, 3))
    assert list(stores.objects.list("shards")) == []


def test_a_shard_is_replaced_by_one_that_knows_more_only_by_whoever_saw_the_last_one(stores: Platform) -> None:
    db = stores.database
    table = _table(0, 3)
    some = pa.FixedSizeListArray.from_arrays(
        table["vector"].combine_chunks().values, 4, mask=pa.array([True, False, True])
    )
    old = shards.write(stores, "vectors", "enc-1", 0, 3, table.set_column(1, "vector", some))
    assert old is not None
    assert (shards.valued_total(db, "vectors", "enc-1"), shards.row_total(db, "vectors", "enc-1")) == (1, 3)
    before = shards.state(db, "vectors", "enc-1")
    new = shards.replace(stores, old, table)
    assert new is not None
    assert shards.records(db, "vectors", "enc-1") == [new]
    assert shards.valued_total(db, "vectors", "enc-1") == 3
    assert shards.state(db, "vectors", "enc-1") != before
    assert shards.read(stores, new)["vector"].null_count == 0
    assert shards.replace(stores, old, _table(0, 3, value=2.0)) is None, "it was replaced before"
    assert shards.replace(stores, new, table) == new
    assert list(stores.objects.list("shards")) == [new.object_key]
    db.shards.update_one({"_id": new.shard_id}, {"$unset": {"valued": 1}})
    assert shards.valued_total(db, "vectors", "enc-1") == 3
    with pytest.raises(InvalidInput, match="rows 0 to 2"):
        shards.replace(stores, new, _table(0, 2))


def test_a_watch_sees_what_comes_at_once_and_what_was_replaced_within_seconds(
    stores: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, looks = [0.0], []
    state = shards.state
    monkeypatch.setattr(shards, "state", lambda *asked: looks.append(asked) or state(*asked))
    watch = shards.Watch("vectors", "enc-1", clock=lambda: now[0])
    shard = {"kind": "vectors", "producer": "enc-1", "start": 0, "rows": 4}
    assert watch.state(stores.database)[:2] == (0, 0)
    stores.database.shards.insert_one({"_id": "one", **shard})
    for _ in range(5):
        assert watch.state(stores.database)[:2] == (1, 4)
    assert len(looks) == 2
    stores.database.shards.delete_one({"_id": "one"})
    stores.database.shards.insert_one({"_id": "other", **shard, "rows": 3})
    now[0] += shards.FULL_LOOK_S
    assert watch.state(stores.database)[:2] == (1, 3)


def test_the_wrong_store_costs_no_record(stores: Platform, tmp_path: Path) -> None:
    shard = _write(stores, 0, 4)
    assert shard is not None
    elsewhere = open_objects(stores.settings.model_copy(update={"object_store": str(tmp_path / "elsewhere")}))
    wrong = replace(stores, objects=elsewhere)
    with pytest.raises(InvalidInput, match="correct MLPL_OBJECT_STORE"):
        shards.write(wrong, "vectors", "enc-1", 4, 8, _table(4, 8))
    with pytest.raises(InvalidInput, match="correct MLPL_OBJECT_STORE"):
        shards.read(wrong, shard)
    assert shards.read(stores, shard).num_rows == 4
    (mark,) = stores.objects.list("mlpl-store")
    elsewhere.put(mark, b"")
    with pytest.raises(CorruptShard):
        shards.read(wrong, shard)
    assert shards.records(stores.database, "vectors", "enc-1") == []
