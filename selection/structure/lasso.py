"""Choosing on the map: which places lie inside a drawn line, and which few stand for many when not all can be shown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from infra.errors import InvalidInput

MOST_CORNERS = 2000
_MIX = np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing: Knuth, The Art of Computer Programming 3, section 6.4.


def checked(corners: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Corners of a polygon, shape (corners, 2).

    Raises:
        InvalidInput: Fewer than three, too many, or not pairs of finite numbers.
    """
    if not 3 <= len(corners) <= MOST_CORNERS:
        raise InvalidInput(f"a polygon on the map has 3 to {MOST_CORNERS} corners, not {len(corners)}")
    if any(len(corner) != 2 for corner in corners):
        raise InvalidInput("each corner of a polygon is a pair of numbers, [x, y]")
    polygon = np.asarray(corners, dtype=np.float64)
    if not np.isfinite(polygon).all():
        raise InvalidInput("the corners of a polygon must be finite numbers")
    return polygon


def inside(xy_N2: NDArray[np.floating], corners: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which places lie inside a closed polygon by the even-odd rule, shape (N,); a place that is NaN lies nowhere.

    Only places within the polygon's bounds are looked at closely.
    """
    low, high = corners.min(axis=0), corners.max(axis=0)
    near = np.flatnonzero(((xy_N2 >= low) & (xy_N2 <= high)).all(axis=1))
    x, y = xy_N2[near, 0].astype(np.float64), xy_N2[near, 1].astype(np.float64)
    odd = np.zeros(len(near), dtype=bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        crosses = (y0 > y) != (y1 > y)
        odd ^= crosses & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    found = np.zeros(len(xy_N2), dtype=bool)
    found[near[odd]] = True
    return found


def thinned(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Positions of at most `most` of the rows, ascending, spread evenly. A row that is shown among many is also shown among fewer of
    the same rows, so that points do not flicker as one zooms in.
    """
    if len(rows) <= most:
        return np.arange(len(rows), dtype=np.int64)
    mixed = rows.astype(np.uint64) * _MIX
    return np.sort(np.argpartition(mixed, most)[:most])
