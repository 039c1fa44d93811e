"""Learning curves: where they cross, and how sure that is."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import InvalidInput
from service.simulation import curves
from service.simulation.curves import Curves

LABELS = np.array([0.0, 10.0, 20.0, 40.0])


def _curves(*shares: list[float]) -> Curves:
    return Curves(labels_P=LABELS, share_SP=np.array(shares))


@pytest.mark.parametrize(
    ("metric", "labels"),
    [
        ([0.0, 0.5, 1.0, 1.0], 18.0),
        ([0.9, 0.95, 1.0, 1.0], 0.0),
        ([0.0, 0.9, 0.2, 1.0], 10.0),
        ([0.0, 0.1, 0.2, 0.9], 40.0),
        ([0.0, 0.1, 0.2, 0.8], math.inf),
    ],
)
def test_a_goal_is_reached_where_the_line_first_crosses_it(metric: list[float], labels: float) -> None:
    assert curves.labels_to_reach(LABELS, np.array(metric), goal=0.9) == pytest.approx(labels)


@given(st.lists(st.floats(0.0, 1.0), min_size=4, max_size=4), st.floats(0.01, 1.0))
def test_the_curve_has_the_goal_at_the_crossing(metric: list[float], goal: float) -> None:
    where = curves.labels_to_reach(LABELS, np.array(metric), goal=goal)
    if math.isinf(where):
        assert max(metric) < goal
    else:
        assert np.interp(where, LABELS, metric) == pytest.approx(max(goal, metric[0]), abs=1e-6)
        assert all(value < goal for labels, value in zip(LABELS, metric, strict=True) if labels < where - 1e-9)


def test_seeds_that_agree_leave_no_doubt_and_others_do() -> None:
    sure = curves.reached(_curves(*[[0.0, 0.5, 1.0, 1.0]] * 5), goal=0.9)
    assert (sure.value, sure.low, sure.high) == pytest.approx((18.0, 18.0, 18.0))
    unsure = curves.reached(_curves([0.0, 0.9, 1.0, 1.0], [0.0, 0.2, 0.4, 1.0], [0.0, 0.3, 0.9, 1.0]), goal=0.9)
    assert unsure.low is not None
    assert unsure.value is not None
    assert unsure.high is not None
    assert unsure.low < unsure.value < unsure.high


def test_a_ratio_pairs_the_seeds_and_is_bounded_where_only_the_reference_fails() -> None:
    fast, slow = _curves([0.0, 1.0, 1.0, 1.0]), _curves([0.0, 0.5, 1.0, 1.0])
    never = _curves([0.0, 0.1, 0.2, 0.3])
    assert curves.ratio(fast, slow, goal=1.0).value == pytest.approx(0.5)
    bound = curves.ratio(fast, never, goal=1.0)
    assert (bound.value, bound.is_bound) == (pytest.approx(0.25), True)
    assert not curves.ratio(fast, slow, goal=1.0).is_bound
    assert not curves.ratio(never, never, goal=1.0).is_bound
    assert curves.ratio(never, fast, goal=1.0).value == math.inf
    assert curves.ratio(never, never, goal=1.0).value is None
    with pytest.raises(InvalidInput):
        curves.ratio(fast, _curves([0.0] * 4, [0.0] * 4), goal=1.0)


def test_curves_of_different_lengths_meet_on_common_points() -> None:
    aligned = curves.align([{0: 0.0, 10: 0.5, 20: 1.0}, {0: 0.2, 15: 0.8}])
    assert aligned.labels_P.tolist() == [0, 10, 15]
    assert aligned.share_SP.tolist() == [[0.0, 0.5, 0.75], [0.2, pytest.approx(0.6), 0.8]]


def test_the_interval_of_the_mean_holds_the_mean() -> None:
    share = np.random.default_rng(0).uniform(0.4, 0.6, size=(12, 4))
    low, high = curves.mean_intervals(share)
    assert (low < share.mean(axis=0)).all()
    assert (share.mean(axis=0) < high).all()


def test_labels_must_ascend() -> None:
    with pytest.raises(InvalidInput):
        Curves(labels_P=np.array([0.0, 0.0]), share_SP=np.zeros((1, 2)))
