"""The benchmark's vectors and descriptions are what they say they are."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.benchmarks.descriptions import ATTRIBUTES, described
from tests.benchmarks.vectors import ClipLike, Isotropic

ROWS = 20_000


@pytest.fixture(scope="module")
def vectors_ND() -> NDArray[np.float32]:
    return ClipLike(rows=ROWS).all()


@pytest.fixture(scope="module")
def drive_N() -> NDArray[np.int64]:
    return np.concatenate([np.full(len(drive), drive.number) for drive in ClipLike(rows=ROWS).drives()])


@pytest.mark.parametrize("make", [ClipLike, Isotropic])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_vectors_have_unit_length_and_come_in_blocks(make: Any, dtype: type[Any]) -> None:
    blocks = list(make(rows=5000, dimension=64).blocks(dtype=dtype, block_rows=2048))

    assert [block.shape for block in blocks] == [(2048, 64), (2048, 64), (904, 64)]
    assert {block.dtype for block in blocks} == {np.dtype(dtype)}
    lengths = np.linalg.norm(np.concatenate(blocks).astype(np.float64), axis=1)
    assert lengths == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("make", [ClipLike, Isotropic])
def test_a_seed_repeats_and_another_seed_does_not(make: Any) -> None:
    once, again, other = (make(rows=3000, dimension=64, seed=seed).all() for seed in (1, 1, 2))

    np.testing.assert_array_equal(once, again)
    assert np.abs(once - other).max() > 0.1
    assert np.abs(make(rows=3000, seed=1).unseen(3) - make(rows=100, seed=1).unseen(3)).max() < 1e-6


def test_a_longer_fleet_begins_like_a_shorter_one(vectors_ND: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(ClipLike(rows=7000).all(), vectors_ND[:7000], atol=1e-5)
    described_short = list(described(ClipLike(rows=700).drives()))
    for short, long in zip(described_short, described(ClipLike(rows=ROWS).drives()), strict=False):
        assert (short.drive, short.captured_at, short.attributes["weather"]) == (
            long.drive,
            long.captured_at,
            long.attributes["weather"],
        )


def test_the_nearest_neighbour_is_usually_of_the_same_drive_and_close_in_time(
    vectors_ND: NDArray[np.float32], drive_N: NDArray[np.int64]
) -> None:
    rows = np.arange(0, ROWS, 40)
    similar_QN = vectors_ND[rows] @ vectors_ND.T
    similar_QN[np.arange(len(rows)), rows] = -1
    nearest = similar_QN.argmax(axis=1)

    assert (drive_N[nearest] == drive_N[rows]).mean() > 0.95
    assert np.median(np.abs(nearest - rows)) < 20
    assert np.median(similar_QN.max(axis=1)) > 0.98


def test_arbitrary_frames_share_a_direction_and_isotropic_vectors_do_not(vectors_ND: NDArray[np.float32]) -> None:
    first, second = np.random.default_rng(0).integers(ROWS, size=(2, 5000))

    assert 0.4 < float(np.einsum("nd,nd->n", vectors_ND[first], vectors_ND[second]).mean()) < 0.65
    isotropic = Isotropic(rows=1000).all()
    assert abs(float((isotropic[:500] * isotropic[500:]).sum(axis=1).mean())) < 0.01


@pytest.mark.parametrize("intrinsic", [8, 32])
def test_a_kind_of_scene_has_the_degrees_of_freedom_it_was_given(intrinsic: int) -> None:
    scenes = ClipLike(rows=1, clusters=1, intrinsic=intrinsic).unseen(1500)
    spread = np.linalg.svd(scenes - scenes.mean(axis=0), compute_uv=False) ** 2
    participation = spread.sum() ** 2 / (spread**2).sum()

    assert 0.7 * intrinsic < participation < 1.3 * intrinsic
    assert spread[:intrinsic].sum() / spread.sum() > 0.85


def test_a_fleet_has_hundreds_of_kinds_of_scene_of_different_frequency() -> None:
    seen = np.concatenate([drive.cluster_N for drive in ClipLike(rows=100_000).drives()])
    counts = np.bincount(seen, minlength=300)

    assert len(seen) == 100_000
    assert (counts > 0).sum() > 200
    assert counts.max() > 20 * np.median(counts)


def test_every_row_is_described_by_ten_attributes_with_the_cardinalities_people_filter_by() -> None:
    found = list(described(ClipLike(rows=100_000).drives()))
    values = {name: Counter(one.attributes[name] for one in found) for name in ATTRIBUTES}

    assert len(found) == 100_000
    assert all(tuple(one.attributes) == ATTRIBUTES for one in found)
    assert all(2 <= len(counter) <= 50 for name, counter in values.items() if name != "speed_kph")
    assert 500 < len(values["speed_kph"]) < 2000
    assert len({one.drive for one in found}) == len(list(ClipLike(rows=100_000).drives()))
    assert all(one.captured_at.tzinfo is not None for one in found)
