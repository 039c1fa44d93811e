"""Frames that show nothing or resemble no other do not take the first labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from selection.pixels import statistics
from selection.planning import outliers

SCENES, FRAMES, DIMENSION = 20, 15, 32


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Twenty scenes of fifteen frames, one after the other; what is added stands behind them."""

    emb_ND: NDArray[np.float32]

    def embedded(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        return rows < len(self.emb_ND)

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.emb_ND[rows]


def fleet(*added: NDArray[np.float64], scenes: int = SCENES) -> Fleet:
    """All look somewhat alike, as a camera's pictures do: they share a direction."""
    rng = np.random.default_rng(5)
    scene_SD = 4.0 * np.eye(DIMENSION)[0] + 0.5 * rng.standard_normal((scenes, DIMENSION))
    emb_ND = np.repeat(scene_SD, FRAMES, axis=0) + 0.1 * rng.standard_normal((scenes * FRAMES, DIMENSION))
    emb_ND = np.concatenate([emb_ND, *(row[np.newaxis] for row in added)])
    return Fleet(emb_ND=(emb_ND / np.linalg.norm(emb_ND, axis=1, keepdims=True)).astype(np.float32))


def away(place: int, *, turned: float = 0.0) -> NDArray[np.float64]:
    """A picture unlike the fleet's."""
    return np.eye(DIMENSION)[place] + turned * np.eye(DIMENSION)[place + 1]


def lone(of: Fleet, rows: NDArray[np.int64] | None = None) -> list[int]:
    every = np.arange(len(of.emb_ND))
    rows = every if rows is None else rows
    return rows[outliers.lone(rows, every, of, seed=1)].tolist()


def test_a_picture_like_no_other_is_lone_and_frames_of_scenes_are_not() -> None:
    assert lone(fleet()) == []
    assert lone(fleet(away(3), away(9))) == [300, 301]


def test_a_rare_scene_that_lasts_is_not_lone() -> None:
    scene = [away(3, turned=0.05 * i) for i in range(4)]
    assert lone(fleet(*scene)) == []
    assert lone(fleet(*scene), np.array([0, 20, 40, 301])) == [], "the frames beside it are asked, too"
    assert lone(fleet(*scene[:3])) == [300, 301, 302], "three of a kind may be a test picture's"


def test_of_fifty_rows_the_farthest_alone_is_set_back() -> None:
    many = fleet(*(away(i) for i in range(3, 12)))
    assert len(lone(many)) == 7
    assert len(lone(many, np.arange(290, 309))) == 1


def test_a_small_pool_does_not_tell_what_is_usual() -> None:
    assert lone(fleet(away(3), scenes=5)) == []


def test_nothing_is_judged_without_rows() -> None:
    assert lone(fleet(away(3)), np.empty(0, dtype=np.int64)) == []


@pytest.mark.parametrize(("level", "noise"), [(0, 0.0), (2, 2.0), (128, 0.0), (255, 0.0)])
def test_black_white_and_one_colour_show_nothing(level: int, noise: float) -> None:
    pixels = np.random.default_rng(0).normal(level, noise, (120, 200, 3)).clip(0, 255).astype(np.uint8)
    assert _blank(pixels)


def test_a_night_with_lamps_shows_something() -> None:
    pixels = np.zeros((120, 200, 3), dtype=np.uint8)
    pixels[60:] = np.random.default_rng(0).normal(12, 4, (60, 200, 3)).clip(0, 255)
    pixels[40:44, 50:60] = 240
    assert not _blank(pixels)


def test_what_was_not_measured_is_not_blank() -> None:
    unknown = np.full(2, np.nan)
    assert not outliers.blank(unknown, unknown, unknown).any()


def _blank(pixels: NDArray[np.uint8]) -> bool:
    found = statistics.measure(pixels)
    return bool(
        outliers.blank(*(np.array([value]) for value in (found.sharpness, found.underexposed, found.overexposed)))[0]
    )
