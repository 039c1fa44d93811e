"""k-center greedy against a plain implementation and what must hold for any pool."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from infra.errors import InvalidInput
from selection.ranking.diversity import k_center_greedy, k_center_greedy_with_distances


def _unit(seed: int, count: int, dimension: int = 6) -> NDArray[np.float32]:
    values = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)


def _plain(pool: NDArray[np.float32], labelled: NDArray[np.float32], budget: int) -> list[int]:
    """Algorithm 1 of the paper, word for word."""
    centres = [one.astype(np.float64) for one in labelled]
    picked: list[int] = []
    for _ in range(budget):
        if not centres:
            mean = pool.mean(axis=0, dtype=np.float64)  # Of two rows only rounding tells which is nearer to it.
            best = int(np.argmax([(row.astype(np.float64) * mean).sum() for row in pool]))
        else:
            far = [
                -1.0 if i in picked else min(float(((x - c) ** 2).sum()) for c in centres) for i, x in enumerate(pool)
            ]
            best = int(np.argmax(far))
        picked.append(best)
        centres.append(pool[best].astype(np.float64))
    return picked


@given(seed=st.integers(0, 10**6), count=st.integers(1, 20), labelled=st.integers(0, 5), data=st.data())
def test_it_is_the_algorithm_of_the_paper(seed: int, count: int, labelled: int, data: st.DataObject) -> None:
    budget = data.draw(st.integers(1, count))
    pool, known = _unit(seed, count), _unit(seed + 1, labelled)
    picks = k_center_greedy(pool, known, budget=budget)
    assert len(set(picks.tolist())) == budget
    assert picks.tolist() == _plain(pool, known, budget)


def _plain_in_double(pool: NDArray[np.float32], labelled: NDArray[np.float32], budget: int) -> list[int]:
    """The same algorithm by matrix products in double precision, for pools too large for words."""
    pool_ND = pool.astype(np.float64)
    near_N = (pool_ND @ labelled.astype(np.float64).T).max(axis=1)
    picked: list[int] = []
    for _ in range(budget):
        picked.append(int(np.argmin(near_N)))
        np.maximum(near_N, pool_ND @ pool_ND[picked[-1]], out=near_N)
        near_N[picked[-1]] = np.inf
    return picked


@pytest.mark.parametrize(("labelled", "spread"), [(3, 1.0), (3, 0.2), (900, 0.2), (3000, 0.2), (3000, 1.0)])
def test_many_rounds_of_lazy_updates_pick_what_the_plain_algorithm_picks(labelled: int, spread: float) -> None:
    random = np.random.default_rng(labelled)
    centres = random.standard_normal((40, 48))
    rows = centres[random.integers(0, 40, 9000 + labelled)] * (1 - spread) + spread * random.standard_normal(
        (9000 + labelled, 48)
    )
    unit = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    pool, known = unit[:9000], unit[9000:]
    picks, distances = k_center_greedy_with_distances(pool, known, budget=400)
    assert picks.tolist() == _plain_in_double(pool, known, 400)
    reached = (pool[picks[200]].astype(np.float64) @ np.concatenate([known, pool[picks[:200]]]).T).max()
    assert distances[200] == pytest.approx(1 - reached, abs=1e-5)


def test_rows_that_only_rounding_tells_apart_are_settled_by_double_precision() -> None:
    base = _unit(0, 4000, 64)
    known = _unit(1, 2, 64)
    twins = np.repeat(base[np.argsort((base @ known.T).max(axis=1))[:1]], 3000, axis=0)
    pool = np.concatenate([base, twins])
    assert k_center_greedy(pool, known, budget=30).tolist() == _plain_in_double(pool, known, 30)


def test_a_pool_of_one_picture_is_taken_in_order() -> None:
    pool = np.repeat(_unit(0, 1, 64), 5000, axis=0)
    picks, distances = k_center_greedy_with_distances(pool, _unit(1, 2, 64), budget=3000)
    assert picks.tolist() == list(range(3000))
    assert distances[0] > 0.1
    assert not distances[1:].any()


def test_half_precision_is_taken_and_its_lengths_restored() -> None:
    pool, known = _unit(0, 3000, 64), _unit(1, 20, 64)
    half, known_half = pool.astype(np.float16), known.astype(np.float16)

    def restored(rows: NDArray[np.float16]) -> NDArray[np.float32]:
        single = rows.astype(np.float32)
        return single / np.linalg.norm(single, axis=1, keepdims=True)

    picks = k_center_greedy(half, known_half, budget=50)
    assert picks.tolist() == k_center_greedy(restored(half), restored(known_half), budget=50).tolist()


def test_duplicates_are_picked_last_and_ties_go_to_the_lower_position() -> None:
    pool = np.eye(3, dtype=np.float32)[[0, 0, 1, 1, 2]]
    picks = k_center_greedy(pool, np.eye(3, dtype=np.float32)[:1], budget=5)
    assert picks.tolist() == [2, 4, 0, 1, 3]


def test_distances_shrink_as_the_space_is_covered() -> None:
    _, distances = k_center_greedy_with_distances(_unit(0, 50), _unit(1, 3), budget=30)
    assert np.all(np.diff(distances) <= 1e-6)
    _, first = k_center_greedy_with_distances(_unit(0, 5), _unit(1, 0), budget=1)
    assert np.isinf(first[0])


def test_many_labelled_rows_are_compared_in_blocks() -> None:
    pool, known = _unit(0, 40), _unit(1, 2500)
    assert k_center_greedy(pool, known, budget=1)[0] == int(np.argmin((pool @ known.T).max(axis=1)))


@pytest.mark.parametrize(
    ("pool", "labelled", "budget"),
    [
        (_unit(0, 3), _unit(0, 2, 5), 1),
        (_unit(0, 3), _unit(0, 2), 0),
        (_unit(0, 3), _unit(0, 2), 4),
        (np.ones(3), _unit(0, 2), 1),
    ],
)
def test_what_does_not_fit_is_refused(pool: NDArray[np.float32], labelled: NDArray[np.float32], budget: int) -> None:
    with pytest.raises(InvalidInput):
        k_center_greedy(pool, labelled, budget=budget)
