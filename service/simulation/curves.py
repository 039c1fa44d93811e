"""Learning curves: what a metric grows to with the labels bought, when it reaches a goal, and how sure that is.

Curves are compared as shares of what the same learner reaches with all labels of the same seed, on the same evaluation frames. Where a
goal is reached is read off the mean curve over the seeds, by linear interpolation; intervals are percentile intervals of a bootstrap over
the seeds, which draws whole seeds and so keeps the curves of two strategies paired.
Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13 (percentile intervals).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from infra.errors import InvalidInput

GOALS = (0.90, 0.95)
CONFIDENCE = 0.95
_DRAWS = 2000


@dataclass(frozen=True, kw_only=True)
class Curves:
    """The curves of one strategy.

    Attributes:
        labels_P: Labels bought at each of P points, ascending, 0 first; shape (P,).
        share_SP: Metric as a share of the full-data metric, for S seeds; shape (S, P).
    """

    labels_P: NDArray[np.float64]
    share_SP: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Checks the shapes.

        Raises:
            InvalidInput: They disagree, or the labels do not ascend.
        """
        if self.share_SP.ndim != 2 or self.share_SP.shape[1:] != self.labels_P.shape or not len(self.share_SP):
            raise InvalidInput(f"curves of shape {self.share_SP.shape} do not fit labels of {self.labels_P.shape}")
        if bool((np.diff(self.labels_P) <= 0).any()):
            raise InvalidInput("the labels of a curve must ascend")


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure and its interval; infinite where the goal was not reached, None where there is nothing to tell.

    Attributes:
        is_bound: The figure lies below `value`; nobody knows how far.
    """

    value: float | None
    low: float | None
    high: float | None
    is_bound: bool = False


def labels_to_reach(labels_P: NDArray[np.float64], metric_P: NDArray[np.float64], *, goal: float) -> float:
    """Where a curve first comes to the goal, between two points by a straight line; infinite when it never does."""
    return float(_first_crossings(labels_P, metric_P[np.newaxis, :], goal=goal)[0])


def reached(curves: Curves, *, goal: float, seed: int = 0) -> Estimate:
    """Labels at which the mean curve reaches a share of the full-data metric.

    Args:
        goal: The share, in (0, 1].
        seed: Of the bootstrap.
    """
    value = labels_to_reach(curves.labels_P, curves.share_SP.mean(axis=0), goal=goal)
    return _estimate(value, _drawn_crossings(curves, goal=goal, seed=seed))


def ratio(curves: Curves, reference: Curves, *, goal: float, seed: int = 0) -> Estimate:
    """Labels a strategy needs for a goal, as a share of those the reference needs; both have the same seeds in the same order.

    Where only the reference never reaches the goal, it is taken to do so at its last point: the ratio is then an upper bound. Where
    neither does, there is no ratio.
    """
    if len(curves.share_SP) != len(reference.share_SP):
        raise InvalidInput("a ratio needs the same seeds on both sides")
    own = labels_to_reach(curves.labels_P, curves.share_SP.mean(axis=0), goal=goal)
    theirs = labels_to_reach(reference.labels_P, reference.share_SP.mean(axis=0), goal=goal)
    last = float(reference.labels_P[-1])
    drawn = _ratios(
        _drawn_crossings(curves, goal=goal, seed=seed), _drawn_crossings(reference, goal=goal, seed=seed), last=last
    )
    found = _estimate(float(_ratios(np.array([own]), np.array([theirs]), last=last)[0]), drawn)
    return replace(found, is_bound=found.value is not None and bool(np.isinf(theirs)))


def mean_intervals(share_SP: NDArray[np.float64], *, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper ends of the interval of the mean over the seeds at each point, both of shape (P,)."""
    means = share_SP[_draws(len(share_SP), seed=seed)].mean(axis=1)
    tail = (1.0 - CONFIDENCE) / 2
    low_P, high_P = np.quantile(means, [tail, 1.0 - tail], axis=0)
    return low_P, high_P


def align(points_by_seed: list[dict[int, float]]) -> Curves:
    """Puts the curves of several seeds on common points: all numbers of labels that any seed has, up to where the first seed ends.

    Args:
        points_by_seed: For each seed the metric (as a share of full data) by labels bought, 0 among them.
    """
    last = min(max(points) for points in points_by_seed)
    grid = np.array(sorted({count for points in points_by_seed for count in points if count <= last}), dtype=np.float64)
    lines = [sorted(points.items()) for points in points_by_seed]
    share_SP = np.stack([np.interp(grid, [x for x, _ in line], [y for _, y in line]) for line in lines])
    return Curves(labels_P=grid, share_SP=share_SP)


def _first_crossings(
    labels_P: NDArray[np.float64], metric_MP: NDArray[np.float64], *, goal: float
) -> NDArray[np.float64]:
    there_MP = metric_MP >= goal
    first_M = there_MP.argmax(axis=1)
    row_M = np.arange(len(metric_MP))
    before_M = np.maximum(first_M - 1, 0)
    low_M, high_M = metric_MP[row_M, before_M], metric_MP[row_M, first_M]
    rise_M = np.where(high_M > low_M, high_M - low_M, 1.0)
    part_M = np.clip((goal - low_M) / rise_M, 0.0, 1.0)
    crossing_M = labels_P[before_M] + part_M * (labels_P[first_M] - labels_P[before_M])
    found: NDArray[np.float64] = np.where(there_MP.any(axis=1), crossing_M, np.inf)
    return found


def _draws(seeds: int, *, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, seeds, size=(_DRAWS, seeds))


def _drawn_crossings(curves: Curves, *, goal: float, seed: int) -> NDArray[np.float64]:
    means = curves.share_SP[_draws(len(curves.share_SP), seed=seed)].mean(axis=1)
    return _first_crossings(curves.labels_P, means, goal=goal)


def _ratios(own: NDArray[np.float64], theirs: NDArray[np.float64], *, last: float) -> NDArray[np.float64]:
    bounded = np.where(np.isinf(theirs), last, theirs)
    found: NDArray[np.float64] = np.where(
        (np.isinf(own) & np.isinf(theirs)) | (bounded <= 0.0), np.nan, own / np.maximum(bounded, 1e-9)
    )
    return found


def _estimate(value: float, drawn: NDArray[np.float64]) -> Estimate:
    known = np.sort(drawn[~np.isnan(drawn)])
    if np.isnan(value) or not len(known):
        return Estimate(value=None, low=None, high=None)
    tail = (1.0 - CONFIDENCE) / 2
    # Taken as order statistics: between a number and infinity there is nothing to interpolate.
    low, high = (float(known[round(share * (len(known) - 1))]) for share in (tail, 1.0 - tail))
    return Estimate(value=value, low=low, high=high)
