"""Near-duplicate groups against all pairs, and what must hold for every grouping."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from infra.errors import InvalidInput
from selection.near_duplicates import calibration, duplicates, keepers, preference
from selection.near_duplicates.duplicates import DuplicateGroups, near_duplicate_groups
from tests.benchmarks.vectors import ClipLike


def _greedy(close: NDArray[np.bool_], priority: NDArray[np.int64] | None = None) -> list[int]:
    """The frames that stay: in order of preference, each that no one who stays shows."""
    order = np.arange(len(close)) if priority is None else np.argsort(priority, kind="stable")
    kept: list[int] = []
    for row in order.tolist():
        if not close[row, kept].any():
            kept.append(row)
    return sorted(kept)


def _check(found: DuplicateGroups, close: NDArray[np.bool_], priority: NDArray[np.int64] | None = None) -> None:
    """The greedy answer, and every frame that goes is shown by its keeper, which is at least as good."""
    assert found.keepers.tolist() == _greedy(close, priority)
    place = np.arange(len(close)) if priority is None else np.argsort(np.argsort(priority, kind="stable"))
    for row, keeper in enumerate(found.keeper_N.tolist()):
        assert row == keeper or (close[row, keeper] and place[keeper] < place[row])
        assert found.keeper_N[keeper] == keeper


def _hashes(seed: int, count: int) -> NDArray[np.uint64]:
    """Hashes of which many differ in a few bits only."""
    random = np.random.default_rng(seed)
    base = random.integers(1, 2**63, size=max(1, count // 3), dtype=np.uint64)[
        random.integers(0, max(1, count // 3), count)
    ]
    for _ in range(3):
        base = base ^ (np.uint64(1) << random.integers(0, 64, count).astype(np.uint64))
    return base


@given(seed=st.integers(0, 10**6), count=st.integers(0, 60), threshold=st.sampled_from([0.7, 0.9]), d=st.integers(2, 6))
def test_groups_are_the_greedy_cover_by_the_best(seed: int, count: int, threshold: float, d: int) -> None:
    random = np.random.default_rng(seed)
    emb = random.standard_normal((count, d)).astype(np.float32)
    emb /= np.maximum(np.linalg.norm(emb, axis=1, keepdims=True), 1e-9)
    priority = random.integers(0, 10, count)
    found = near_duplicate_groups(emb, threshold=threshold, priority_N=priority)
    _check(found, emb @ emb.T >= threshold, priority)


@given(seed=st.integers(0, 10**6), count=st.integers(0, 60), hamming=st.integers(0, 8))
def test_hashes_are_grouped_as_all_pairs_say(seed: int, count: int, hamming: int) -> None:
    hashes = _hashes(seed, count)
    close = np.bitwise_count(hashes[:, np.newaxis] ^ hashes) <= hamming
    _check(near_duplicate_groups(None, hashes_N=hashes, max_hamming=hamming), close)


def test_many_rows_in_blocks_are_grouped_by_vector_and_hash_within_their_drive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "_BLOCK_ROWS", 100)
    monkeypatch.setattr(duplicates, "_COVER_ROWS", 16)
    random = np.random.default_rng(0)
    emb = random.standard_normal((900, 4)).astype(np.float32)
    emb /= np.linalg.norm(emb, axis=1, keepdims=True)
    hashes, drives, priority = _hashes(1, 900), random.integers(0, 3, 900), random.permutation(900)
    hashes[::7] = 0
    emb[::11] = 0
    bits = np.bitwise_count(hashes[:, np.newaxis] ^ hashes) <= 4
    close = (emb @ emb.T >= 0.97) | (bits & (hashes != 0) & (hashes != 0)[:, np.newaxis])
    close &= drives[:, np.newaxis] == drives
    _check(
        near_duplicate_groups(emb, threshold=0.97, hashes_N=hashes, priority_N=priority, within_N=drives),
        close,
        priority,
    )


def test_nothing_is_dropped_that_its_keeper_does_not_show() -> None:
    angles = np.radians(np.arange(0, 60, 10))  # Each is like the next one, the ends are not alike.
    emb = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    threshold = float(np.cos(np.radians(11)))
    assert near_duplicate_groups(emb, threshold=threshold).keeper_N.tolist() == [0, 0, 2, 2, 4, 4]
    sharpest = near_duplicate_groups(emb, threshold=threshold, priority_N=np.array([5, 0, 4, 1, 3, 2]))
    _check(sharpest, emb @ emb.T >= threshold, np.array([5, 0, 4, 1, 3, 2]))
    assert sharpest.keepers.tolist() == [1, 3, 5]


def test_the_sharpest_and_best_exposed_is_kept() -> None:
    nan = float("nan")
    sharp, dark, bright = np.array([[nan, 0, 0], [50, 0, 0], [90, 0.6, 0.1], [50, 0, nan], [60, 0, 0.1]]).T
    assert preference.preference(sharp, dark, bright).tolist() == [4, 1, 3, 2, 0]
    limit = np.full(5, 55.0)
    assert preference.preference(sharp, dark, bright, limit_N=limit).tolist() == [2, 0, 4, 1, 3]


def test_what_is_unlike_the_frames_before_and_after_it_is_kept_last() -> None:
    way = np.radians(np.arange(0, 40, 2.0))  # A drive past one thing after another, then a stop.
    emb = np.stack([np.cos(way), np.sin(way), np.zeros(20), np.zeros(20)], axis=1).astype(np.float32)
    emb[15:] = emb[15]
    emb[[4, 17]] = [[0, 0, 1, 0], [0, 0, 0.6, 0.8]]
    odd = np.zeros(20, dtype=bool)
    odd[1:-1] = preference.unlike_both(emb[:-2], emb[1:-1], emb[2:])
    assert np.flatnonzero(odd).tolist() == [4, 17]
    sharp, none = np.arange(20.0), np.zeros(20)
    assert np.argsort(preference.preference(sharp, none, none, odd_N=odd)).tolist()[-3:] == [0, 17, 4]


def test_what_is_sharper_than_nearly_all_of_its_drive_is_kept_last() -> None:
    drive = np.repeat([0, 1, 2, -1], [400, 200, 60, 40])
    sharp = np.random.default_rng(0).uniform(100, 200, 700) + 1000 * (drive == 1)
    sharp[5], sharp[7] = 900.0, np.nan
    limit = preference.sharpness_limits(sharp, drive)
    for members in (drive == 0, drive == 1, (drive == 2) | (drive == -1)):
        known = sharp[members & ~np.isnan(sharp)]
        assert set(limit[members]) == {np.percentile(known, 95, method="lower")}
    none = np.zeros(700)
    place = preference.preference(sharp, none, none, limit_N=limit)
    assert drive[np.argmin(place)] == 1
    assert place[5] > place[7]
    assert np.isinf(preference.sharpness_limits(sharp[:50], drive[:50])).all()
    assert len(preference.sharpness_limits(sharp[:0], drive[:0])) == 0


def _around_a_centre(*, spread: float, rows: int = 1200) -> NDArray[np.float32]:
    """Vectors of which a larger spread makes all less alike."""
    random = np.random.default_rng(3)
    emb = np.concatenate([np.ones((rows, 1)), spread * random.normal(size=(rows, 31))], axis=1)
    return (emb / np.linalg.norm(emb, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("by", ["drive", "time"])
def test_the_threshold_is_what_frames_of_different_drives_hardly_reach(by: str) -> None:
    emb = _around_a_centre(spread=0.03)
    group = np.arange(1200) // 100
    drive = group if by == "drive" else np.zeros(1200, dtype=np.int64)
    times = group * 2 * calibration.FAR_APART_MS + np.arange(1200) % 100
    found = calibration.calibrated_threshold(emb, drive_S=drive, captured_ms_S=times)
    apart = (group[:, np.newaxis] != group) & np.triu(np.ones((1200, 1200), dtype=bool), k=1)
    expected = np.quantile((emb @ emb.T)[apart], 1 - 1 / calibration.CHANCE_PAIRS)
    assert found.threshold == pytest.approx(expected, abs=2e-4)
    assert 0.95 < found.threshold < 0.999
    assert f"different {'drives' if by == 'drive' else 'hours'}" in found.basis


def test_frames_of_one_drive_or_none_without_times_are_judged_by_far_parts_of_the_fleet() -> None:
    emb = _around_a_centre(spread=0.03)
    emb[1:100] = emb[0]  # A stop at the start: alike, but near one another.
    nowhere, drive, rows = np.full(1200, -1), np.zeros(1200, dtype=np.int64), np.arange(1200)
    found = calibration.calibrated_threshold(emb, drive_S=drive, captured_ms_S=nowhere, row_S=rows)
    apart = np.triu(np.ones((1200, 1200), dtype=bool), k=120)
    assert found.threshold == pytest.approx(
        np.quantile((emb @ emb.T)[apart], 1 - 1 / calibration.CHANCE_PAIRS), abs=2e-4
    )
    assert 0.95 < found.threshold < 0.999
    assert "far parts of the fleet" in found.basis
    minutes = rows * 1000  # Times that say too little are passed over, too.
    assert calibration.calibrated_threshold(emb, drive_S=drive, captured_ms_S=minutes, row_S=rows) == found
    short = calibration.calibrated_threshold(
        emb[:150], drive_S=drive[:150], captured_ms_S=nowhere[:150], row_S=rows[:150]
    )
    assert (short.threshold, "not calibrated" in short.basis) == (0.95, True)
    no_drive = calibration.calibrated_threshold(emb, drive_S=nowhere, captured_ms_S=nowhere, row_S=rows)
    assert no_drive == found


def test_the_threshold_stays_where_there_is_nothing_to_judge_by() -> None:
    emb = _around_a_centre(spread=0.03)
    nowhere = np.full(1200, -1)
    found = calibration.calibrated_threshold(emb, drive_S=nowhere, captured_ms_S=nowhere)
    assert (found.threshold, "not calibrated" in found.basis) == (0.95, True)
    few = calibration.calibrated_threshold(emb[:20], drive_S=np.arange(20), captured_ms_S=nowhere[:20])
    assert (few.threshold, "190 pairs" in few.basis) == (0.95, True)
    assert calibration.calibrated_threshold(emb[:0], drive_S=nowhere[:0], captured_ms_S=nowhere[:0]).threshold == 0.95
    unlike = calibration.calibrated_threshold(
        _around_a_centre(spread=2.0), drive_S=np.arange(1200) // 100, captured_ms_S=nowhere
    )
    assert (unlike.threshold, "fewer than 1 in 10,000" in unlike.basis) == (0.95, True)
    same = calibration.calibrated_threshold(
        emb[:1].repeat(300, axis=0), drive_S=np.arange(300), captured_ms_S=nowhere[:300]
    )
    assert same.threshold == calibration.MOST_THRESHOLD


def test_groups_of_some_rows_whose_keeper_may_be_elsewhere() -> None:
    rows, keeper = np.array([2, 3, 5, 7, 8, 9]), np.array([5, 5, 5, 1, 1, 9])
    assert [group.tolist() for group in duplicates.groups_of(rows, keeper)] == [[5, 2, 3], [7, 8]]
    assert duplicates.groups_of(rows[:0], keeper[:0]) == []


def test_rows_without_vector_or_hash_have_no_duplicates() -> None:
    emb = np.array([[0, 0], [0, 0], [1, 0], [1, 0]], dtype=np.float32)
    assert near_duplicate_groups(emb).keeper_N.tolist() == [0, 1, 2, 2]
    found = near_duplicate_groups(emb, hashes_N=np.array([7, 7, 0, 0], dtype=np.uint64))
    assert found.keeper_N.tolist() == [0, 0, 2, 2]


def test_in_cells_next_to_no_pair_is_kept_twice_and_nothing_is_merged_too_far() -> None:
    emb = ClipLike(rows=12_000).all()
    threshold = 0.995  # Thousands of keepers, so that they lie in cells.
    found = near_duplicate_groups(emb, threshold=threshold)
    kept = found.keepers
    assert len(kept) > 2 * keepers._COMPARED_IN_FULL
    close = np.triu(emb @ emb.T >= threshold, k=1)
    assert close[np.ix_(kept, kept)].sum() < 0.01 * close.sum()
    likeness = np.einsum("nd,nd->n", emb, emb[found.keeper_N])
    assert likeness.min() >= threshold - 1e-5
    again = near_duplicate_groups(emb.astype(np.float16), threshold=threshold)
    assert (again.keeper_N == found.keeper_N).mean() > 0.9
    assert (near_duplicate_groups(emb, threshold=threshold).keeper_N == found.keeper_N).all()


def test_rows_that_come_later_join_the_keepers_that_are_there() -> None:
    emb, threshold = ClipLike(rows=3000).all(), 0.97
    hashes = np.zeros(3000, dtype=np.uint64)

    def read(positions: NDArray[np.int64]) -> keepers.Rows:
        return keepers.Rows(
            ids=positions,
            emb_ND=emb[positions],
            hashes_N=hashes[positions],
            groups_N=np.zeros(len(positions), np.int64),
        )

    whole = near_duplicate_groups(emb, threshold=threshold).keeper_N
    likeness = keepers.Likeness(threshold=threshold, max_hamming=0)
    first = near_duplicate_groups(emb[:2000], threshold=threshold)
    known = keepers.Keepers(threshold=threshold, max_hamming=0)
    known.add(read(first.keepers))
    later = duplicates.joined(known, np.arange(1000), read=lambda at: read(at + 2000), likeness=likeness)
    all_together = np.concatenate([first.keeper_N, later])
    assert np.unique(all_together).tolist() == np.unique(whole).tolist()
    assert (np.einsum("nd,nd->n", emb, emb[all_together]) >= threshold - 1e-5).all()


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
