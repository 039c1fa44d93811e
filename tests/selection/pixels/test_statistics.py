"""Statistics of images whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from selection.pixels import statistics
from selection.pixels.statistics import PixelStatistics


def _scene(seed: int = 0, size: tuple[int, int] = (96, 64)) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def _measured(image: Image.Image) -> PixelStatistics:
    return statistics.measure(np.asarray(image))


def _distance(a: Image.Image, b: Image.Image) -> int:
    first, second = (int(_measured(one).perceptual_hash, 16) for one in (a, b))
    return (first ^ second).bit_count()


@pytest.mark.parametrize(
    ("level", "under", "over"), [(0, 1.0, 0.0), (4, 1.0, 0.0), (5, 0.0, 0.0), (250, 0.0, 0.0), (251, 0.0, 1.0)]
)
def test_exposure_and_brightness_of_flat_images(level: int, under: float, over: float) -> None:
    found = _measured(Image.new("RGB", (20, 10), (level,) * 3))
    assert (found.underexposed, found.overexposed) == (under, over)
    assert found.brightness == pytest.approx(level / 255, abs=1e-4)
    assert found.sharpness == 0.0
    assert len(found.perceptual_hash) == 16


def test_blur_lowers_sharpness() -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 255, (64, 96, 3), dtype=np.uint8))
    assert _measured(noise.filter(ImageFilter.GaussianBlur(2))).sharpness < _measured(noise).sharpness / 5


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    luma = np.random.default_rng(2).integers(0, 255, (9, 7), dtype=np.uint8)
    expected = [
        4.0 * luma[y, x] - sum(float(luma[y + dy, x + dx]) for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)))
        for y in range(1, 8)
        for x in range(1, 6)
    ]
    grey = Image.fromarray(luma).convert("RGB")
    assert _measured(grey).sharpness == pytest.approx(np.var(expected), rel=1e-4)


def test_the_hash_knows_an_image_again_and_tells_others_apart() -> None:
    scene = _scene()
    brighter = scene.point(lambda value: min(255, value + 10))
    assert _distance(scene, scene.resize((48, 32))) <= 4
    assert _distance(scene, brighter) <= 6
    assert all(_distance(scene, _scene(seed)) >= 12 for seed in range(1, 20))


def test_a_single_pixel_can_be_measured() -> None:
    found = _measured(Image.new("RGB", (1, 1), (128, 128, 128)))
    assert found.brightness == pytest.approx(128 / 255, abs=1e-4)
