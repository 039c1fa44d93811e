"""Bins: round edges that hold every number, of any size."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selection.columnar.bins import MOST_BINS, bins_of

LARGEST = sys.float_info.max


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=60))
def test_every_finite_number_falls_into_a_bin(numbers: list[float]) -> None:
    found = bins_of(np.array(numbers, dtype=np.float64))
    finite = [one for one in numbers if np.isfinite(one)]
    if found is None:
        assert not finite
        return
    assert np.isfinite(found.edges).all()
    assert (np.diff(np.array(found.edges) / 4) > 0).all() or len(found.edges) == 2
    assert found.edges[0] <= min(finite)
    assert max(finite) <= found.edges[-1]
    assert sum(found.count(None)) == len(finite)
    assert len(found.edges) <= MOST_BINS + 1


@pytest.mark.parametrize(
    ("numbers", "edges"),
    [
        ([0.0, 120.0], [5.0 * i for i in range(25)]),
        ([0.5], [0.5, 1.0]),
        ([1e-14 * i for i in range(11)], [5e-15 * i for i in range(21)]),
        ([5e-324 * i for i in range(40)], [0.0, 1e-300]),
        ([LARGEST], [1e308, LARGEST]),
        ([-LARGEST, LARGEST], [-LARGEST, *(2e307 * i for i in range(-8, 9)), LARGEST]),
    ],
)
def test_edges_are_round_and_finite(numbers: list[float], edges: list[float]) -> None:
    found = bins_of(np.array(numbers))
    assert found is not None
    assert found.edges == pytest.approx(edges, rel=1e-9, abs=0)


def test_one_value_gone_astray_does_not_squeeze_the_others() -> None:
    found = bins_of(np.array([LARGEST, *map(float, range(300))]))
    assert found is not None
    assert found.edges[:2] == (0.0, 20.0)
    assert found.edges[-1] == LARGEST
    assert found.count(None)[0] == 20
