"""Near-duplicate groups against all pairs, and what must hold for every grouping."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from infra.errors import InvalidInput
from selection.structure import duplicates
from selection.structure.duplicates import near_duplicate_groups
from tests.benchmarks.vectors import ClipLike


def _components(close: NDArray[np.bool_]) -> list[int]:
    label = list(range(len(close)))
    for _ in label:
        for i, j in zip(*np.nonzero(close), strict=True):
            label[i] = label[j] = min(label[i], label[j])
    return label


def _hashes(seed: int, count: int) -> NDArray[np.uint64]:
    """Hashes of which many differ in a few bits only."""
    random = np.random.default_rng(seed)
    base = random.integers(1, 2**63, size=max(1, count // 3), dtype=np.uint64)[
        random.integers(0, max(1, count // 3), count)
    ]
    for _ in range(3):
        base = base ^ (np.uint64(1) << random.integers(0, 64, count).astype(np.uint64))
    return base


@given(seed=st.integers(0, 10**6), count=st.integers(0, 30), threshold=st.sampled_from([0.7, 0.9]))
def test_small_fleets_are_grouped_as_all_pairs_say(seed: int, count: int, threshold: float) -> None:
    emb = np.random.default_rng(seed).standard_normal((count, 3)).astype(np.float32)
    emb /= np.maximum(np.linalg.norm(emb, axis=1, keepdims=True), 1e-9)
    close = emb @ emb.T >= threshold
    found = near_duplicate_groups(emb, threshold=threshold)
    assert found.cluster_N.tolist() == _components(close)
    kept = found.keeper_N == np.arange(count)
    assert all(close[i, found.keeper_N[i]] for i in np.flatnonzero(~kept))
    assert not (close & ~np.eye(count, dtype=bool))[np.ix_(kept, kept)].any()  # No two keepers show the same.
    assert kept[found.keeper_N].all()


@given(seed=st.integers(0, 10**6), count=st.integers(0, 40), hamming=st.integers(0, 8))
def test_hashes_are_grouped_as_all_pairs_say(seed: int, count: int, hamming: int) -> None:
    hashes = _hashes(seed, count)
    differing = np.bitwise_count(hashes[:, np.newaxis] ^ hashes)
    found = near_duplicate_groups(None, hashes_N=hashes, max_hamming=hamming)
    assert found.cluster_N.tolist() == _components(differing <= hamming)


def test_only_rows_of_the_same_drive_are_compared_when_asked() -> None:
    hashes = _hashes(1, 400)
    drives = np.random.default_rng(0).integers(0, 3, 400)
    close = (np.bitwise_count(hashes[:, np.newaxis] ^ hashes) <= 4) & (drives[:, np.newaxis] == drives)
    found = near_duplicate_groups(None, hashes_N=hashes, max_hamming=4, within_N=drives)
    assert found.cluster_N.tolist() == _components(close)
    assert (drives[found.keeper_N] == drives).all()


def test_nothing_is_dropped_that_its_keeper_does_not_show_but_a_chain_keeps_one() -> None:
    angles = np.radians(np.arange(0, 60, 10))  # Each is like the next one, the ends are not alike.
    emb = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    threshold = float(np.cos(np.radians(11)))
    assert near_duplicate_groups(emb, threshold=threshold).keeper_N.tolist() == [0, 0, 2, 2, 4, 4]
    assert near_duplicate_groups(emb, threshold=threshold, linkage="chain").keeper_N.tolist() == [0] * 6
    sharpest = near_duplicate_groups(emb, threshold=threshold, priority_N=np.array([5, 0, 4, 1, 3, 2]))
    assert sharpest.keeper_N.tolist() == [1, 1, 1, 3, 3, 5]
    assert [group.tolist() for group in sharpest.groups()] == [[1, 0, 2], [3, 4]]
    assert sharpest.keepers.tolist() == [1, 3, 5]


def test_rows_without_vector_or_hash_have_no_duplicates() -> None:
    emb = np.array([[0, 0], [0, 0], [1, 0], [1, 0]], dtype=np.float32)
    assert near_duplicate_groups(emb).keeper_N.tolist() == [0, 1, 2, 2]
    found = near_duplicate_groups(emb, hashes_N=np.array([7, 7, 0, 0], dtype=np.uint64))
    assert found.keeper_N.tolist() == [0, 0, 2, 2]


def test_a_fleet_is_grouped_in_cells_and_next_to_no_pair_is_missed() -> None:
    emb = ClipLike(rows=12_000).all()
    close = np.triu(emb @ emb.T >= 0.95, k=1)
    first, second = np.nonzero(close)
    found = near_duplicate_groups(emb, threshold=0.95)
    assert len(first) > 10_000
    assert (found.cluster_N[first] == found.cluster_N[second]).mean() > 0.99
    again = near_duplicate_groups(emb.astype(np.float16), threshold=0.95)
    assert (again.keeper_N == found.keeper_N).mean() > 0.98
    assert (near_duplicate_groups(emb, threshold=0.95).keeper_N == found.keeper_N).all()
    codes = np.unique(
        np.concatenate(
            [12_000 * np.minimum(a, b) + np.maximum(a, b) for a, b in duplicates.near_pairs(emb, threshold=0.95)]
        )
    )
    assert np.isin(first * 12_000 + second, codes).mean() > 0.99
    assert np.isin(codes, first * 12_000 + second).mean() > 0.999


def test_a_crowd_of_the_same_picture_needs_no_more_memory_than_stated() -> None:
    emb = np.repeat(ClipLike(rows=3).all(), 5000, axis=0)
    hashes = np.repeat(_hashes(0, 3), 5000)
    tracemalloc.start()
    found = near_duplicate_groups(emb, hashes_N=hashes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < duplicates.WORKING_MEMORY_BYTES
    assert set(found.keepers.tolist()) <= {0, 5000, 10_000}


@pytest.mark.parametrize(
    "arguments",
    [
        {"emb_ND": None},
        {"emb_ND": np.ones(3)},
        {"emb_ND": np.eye(3), "threshold": 1.5},
        {"emb_ND": np.eye(3), "max_hamming": 40},
        {"emb_ND": np.eye(3), "hashes_N": np.ones(2, dtype=np.uint64)},
    ],
)
def test_what_cannot_be_compared_is_refused(arguments: dict[str, NDArray[np.float64] | None]) -> None:
    with pytest.raises(InvalidInput):
        near_duplicate_groups(**arguments)  # type: ignore[arg-type]
