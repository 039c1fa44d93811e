"""What encoders make of previews is what they would make of whole images."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from selection.embedding import weights
from selection.embedding.encoder import Encoder
from selection.pixels import images
from tests.selection.pixels.pictures import encoded

SHARED_FRAMES = Path(__file__).parents[4] / "shared" / "data"
FRAMES_A_SOURCE = 8


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(weights.small(), device="cpu")


def _photograph(width: int, height: int, *, seed: int) -> bytes:
    """Soft surfaces, edges and sensor noise."""
    rng = np.random.default_rng(seed)
    surfaces = Image.fromarray(rng.integers(0, 255, (9, 16, 3), dtype=np.uint8)).resize((width, height))
    for _ in range(40):
        x, y, w, h = (int(one) for one in rng.uniform(0, 1, 4) * (width, height, width / 6, height / 4))
        surfaces.paste(tuple(int(one) for one in rng.integers(0, 255, 3)), (x, y, x + w, y + h))
    pixels = np.asarray(surfaces.filter(ImageFilter.GaussianBlur(1))).astype(np.float32)
    pixels += rng.normal(0, 3, pixels.shape)
    return encoded(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), quality=90)


def _cosines(encoder: Encoder, files: list[bytes]) -> NDArray[np.float32]:
    whole = [images.open_image(data, max_pixels=10**8, short_side=None).pixels for data in files]
    previews = [images.preview(images.open_image(data, max_pixels=10**8).pixels) for data in files]
    seen = [Image.open(io.BytesIO(data)) for data in previews]
    cosine_N: NDArray[np.float32] = (encoder.encode_images(whole) * encoder.encode_images(seen)).sum(axis=1)
    return cosine_N


@pytest.mark.parametrize("size", [(1280, 720), (1920, 1080), (3840, 2160), (1080, 1920), (1242, 375)])
def test_generated_photographs(encoder: Encoder, size: tuple[int, int]) -> None:
    files = [_photograph(*size, seed=seed) for seed in range(3)]
    assert _cosines(encoder, files).min() >= 0.99


@pytest.mark.skipif(not SHARED_FRAMES.is_dir(), reason="the real frames are not here")
def test_real_frames(encoder: Encoder) -> None:
    for source in sorted(SHARED_FRAMES.glob("*/images")):
        paths = sorted(source.iterdir())
        files = [path.read_bytes() for path in paths[:: max(1, len(paths) // FRAMES_A_SOURCE)][:FRAMES_A_SOURCE]]
        assert _cosines(encoder, files).min() >= 0.99, source.parent.name
