"""The vector index against plain arithmetic, in every order shards may come."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from infra.errors import NotFound
from selection.embedding import index as indexing
from selection.embedding.index import VectorIndex


def _unit(count: int, *, seed: int = 0, dimension: int = 16) -> NDArray[np.float32]:
    values = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


VECTORS = _unit(100)
QUERIES = _unit(3, seed=1)


def _check(index: VectorIndex, *, there: NDArray[np.bool_], mask: NDArray[np.bool_] | None = None, k: int = 7) -> None:
    scores, rows = index.search(QUERIES, k=k, mask=mask)
    allowed = there.copy()
    if mask is not None:
        allowed &= np.pad(mask, (0, max(0, len(there) - len(mask))))[: len(there)]
    for query, query_scores, query_rows in zip(QUERIES, scores, rows, strict=True):
        exact = np.where(allowed, VECTORS @ query, -np.inf)
        count = min(int(allowed.sum()), query_rows.size)
        assert set(query_rows[:count].tolist()) == set(np.argsort(-exact)[:count].tolist())
        assert query_scores[:count] == pytest.approx(np.sort(exact)[::-1][:count], abs=3e-3)
        assert np.all(query_rows[count:] == -1)
        assert np.all(np.isneginf(query_scores[count:]))


@pytest.fixture(params=[2**18, 16], ids=["one segment", "many segments"])
def fleet_index(request: pytest.FixtureRequest, fleet: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, VectorIndex]:
    monkeypatch.setattr(indexing, "SEGMENT_ROWS", request.param)
    return fleet, VectorIndex(fleet.platform, "enc-1")


@pytest.mark.parametrize("order", [[0, 40, 70], [70, 0, 40]])
def test_search_is_exact_in_whatever_order_shards_come(fleet_index: tuple[Any, VectorIndex], order: list[int]) -> None:
    fleet, index = fleet_index
    assert index.search(QUERIES, k=5)[1].shape == (3, 0)
    there = np.zeros(100, dtype=bool)
    for start in order:
        stop = {0: 40, 40: 70, 70: 100}[start]
        fleet.embed(start, VECTORS[start:stop])
        assert index.refresh() == stop - start
        there[start:stop] = True
        _check(index, there=there)
        _check(index, there=there, mask=np.arange(100) % 3 == 0)
        _check(index, there=there, mask=np.ones(55, dtype=bool))
        _check(index, there=there, mask=np.zeros(100, dtype=bool))
        _check(index, there=there, k=500)
    assert index.refresh() == 0
    assert index.size == 100
    picked = np.array([99, 0, 41, 0])
    assert index.vectors(picked) == pytest.approx(VECTORS[picked], abs=2e-3)
    assert np.linalg.norm(index.vectors(picked), axis=1) == pytest.approx(np.ones(4), abs=1e-6)


def test_rows_without_a_vector_are_never_found(fleet: Any) -> None:
    valid = np.arange(100) % 10 != 3
    fleet.embed(0, VECTORS, valid=valid)
    index = VectorIndex(fleet.platform, "enc-1")
    index.refresh()
    assert index.size == 90
    _check(index, there=valid, k=100)
    assert index.has(np.array([2, 3, 99, 100])).tolist() == [True, False, True, False]
    with pytest.raises(NotFound, match="row 3"):
        index.vectors(np.array([2, 3]))


def test_a_corrupt_shard_is_left_out_until_it_is_made_again(fleet: Any) -> None:
    fleet.embed(0, VECTORS[:50])
    (key,) = fleet.platform.objects.list("shards")
    fleet.embed(50, VECTORS[50:])
    fleet.platform.objects.put(key, b"broken")
    index = VectorIndex(fleet.platform, "enc-1")
    assert index.refresh() == 50
    _check(index, there=np.arange(100) >= 50)
    assert index.refresh() == 0
    fleet.embed(0, VECTORS[:50])
    assert index.refresh() == 50
    _check(index, there=np.ones(100, dtype=bool))


def test_a_shard_made_again_with_other_bounds_adds_only_what_is_new(fleet: Any) -> None:
    index = VectorIndex(fleet.platform, "enc-1")
    fleet.embed(0, VECTORS[:30])
    assert index.refresh() == 30
    fleet.platform.database.shards.delete_many({})
    fleet.embed(0, VECTORS)
    assert index.refresh() == 70
    _check(index, there=np.ones(100, dtype=bool))


def test_an_empty_index(fleet: Any) -> None:
    index = VectorIndex(fleet.platform, "enc-1")
    assert index.refresh() == 0
    assert index.vectors(np.empty(0, dtype=np.int64)).shape == (0, 0)
    assert not index.has(np.array([0])).any()
