"""Pairs of near-duplicates against all pairs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from infra.errors import InvalidInput
from selection.near_duplicates import pairs
from selection.near_duplicates.pairs import near_duplicate_pairs
from tests.benchmarks.vectors import ClipLike


def _found(
    emb: NDArray[np.floating], *, threshold: float, within: NDArray[np.int64] | None = None
) -> dict[tuple[int, int], float]:
    """All pairs with their similarity; none comes twice."""
    pieces = list(near_duplicate_pairs(emb, threshold=threshold, within_N=within))
    found = {
        (int(i), int(j)): float(cosine)
        for piece in pieces
        for i, j, cosine in zip(piece.first_P, piece.second_P, piece.cosine_P, strict=True)
    }
    assert len(found) == sum(len(piece) for piece in pieces)
    return found


def _check(emb: NDArray[np.floating], *, threshold: float, within: NDArray[np.int64] | None = None) -> int:
    """That they are all pairs and no others, but for rounding at the threshold; how many there are."""
    single = emb.astype(np.float32)
    cosine = single @ single.T
    if within is not None:
        cosine[within[:, np.newaxis] != within] = -1.0
    found = _found(emb, threshold=threshold, within=within)
    for (i, j), value in found.items():
        assert i < j
        assert value == pytest.approx(cosine[i, j], abs=1e-5)
        assert value >= threshold
    sure = set(zip(*(at.tolist() for at in np.nonzero(np.triu(cosine, k=1) >= threshold + 1e-5)), strict=True))
    assert sure <= set(found)
    return len(found)


@given(
    seed=st.integers(0, 10**6),
    count=st.integers(0, 60),
    threshold=st.sampled_from([0.5, 0.9, 1.0]),
    d=st.integers(2, 6),
)
def test_pairs_are_all_pairs(seed: int, count: int, threshold: float, d: int) -> None:
    random = np.random.default_rng(seed)
    emb = random.standard_normal((count, d)).astype(np.float32)
    emb /= np.maximum(np.linalg.norm(emb, axis=1, keepdims=True), 1e-9)
    emb[::9] = 0.0
    emb[1::5] = emb[: len(emb[1::5])]
    _check(emb, threshold=threshold)
    _check(emb, threshold=threshold, within=random.integers(0, 3, count))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_every_pair_of_a_fleet_is_found_in_small_pieces_too(
    dtype: type[np.floating], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "_TILE", 2**12)
    emb = ClipLike(rows=5000).all().astype(dtype)
    assert _check(emb, threshold=0.985) > 10_000


def test_a_threshold_out_of_range_is_refused() -> None:
    with pytest.raises(InvalidInput):
        next(near_duplicate_pairs(np.eye(3), threshold=1.5))
