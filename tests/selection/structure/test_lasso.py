"""What lies inside a polygon, and which points stand for many."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from infra.errors import InvalidInput
from selection.structure import lasso


def test_a_polygon_holds_what_a_painted_one_holds() -> None:
    rng = np.random.default_rng(0)
    side = 400
    corners = rng.uniform(20, 380, size=(9, 2))  # It crosses itself.
    at = rng.integers(0, side, size=(5000, 2))
    found = lasso.inside(at.astype(np.float32), corners)
    canvas = Image.new("1", (side, side))
    ImageDraw.Draw(canvas).polygon([tuple(corner) for corner in corners.tolist()], fill=1)
    painted = np.asarray(canvas)[at[:, 1], at[:, 0]]
    odd = lasso.inside(np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2), corners)
    # Pillow fills by the even-odd rule too, but counts the pixels of the line itself as inside.
    assert (found != painted).mean() < 0.03
    assert 0.1 < odd.mean() < 0.9


def test_a_hole_is_outside_and_so_is_a_row_without_a_place() -> None:
    square = lasso.checked([[0, 0], [4, 0], [4, 4], [0, 4]])
    places = np.array([[2, 2], [5, 2], [np.nan, np.nan], [2, -1]], dtype=np.float32)
    assert lasso.inside(places, square).tolist() == [True, False, False, False]
    twice_round = lasso.checked([[0, 0], [4, 0], [4, 4], [0, 4], [0, 0], [1, 1], [1, 3], [3, 3], [3, 1], [1, 1]])
    assert lasso.inside(np.array([[2.0, 2.0], [0.5, 2.0]]), twice_round).tolist() == [False, True]


def test_bad_corners_are_refused() -> None:
    for corners in ([], [[0, 0], [1, 1]], [[0, 0], [1, 1], [1]], [[0, 0], [1, 1], [float("nan"), 0]]):
        with pytest.raises(InvalidInput):
            lasso.checked(corners)


def test_thinning_is_even_and_steady() -> None:
    rows = np.arange(0, 100_000, 3)
    few = rows[lasso.thinned(rows, 1000)]
    assert len(few) == 1000
    assert np.histogram(few, bins=10, range=(0, 100_000))[0].min() > 70
    part = rows[rows < 20_000]
    shown_again = part[lasso.thinned(part, 1000)]
    assert np.isin(few[few < 20_000], shown_again).all()
    assert len(lasso.thinned(rows[:10], 1000)) == 10
