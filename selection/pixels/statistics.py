"""What the pixels of a frame say in a few numbers: brightness, sharpness, exposure and a perceptual hash."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

UNDEREXPOSED_BELOW = 5
OVEREXPOSED_ABOVE = 250

_HASH_SIDE = 8
_HASH_SOURCE_SIDE = 32


def _cosines() -> NDArray[np.float64]:
    """The lowest eight rows of the DCT-II matrix of 32 samples; a constant factor a row does not move the median."""
    k, n = np.arange(_HASH_SIDE)[:, None], np.arange(_HASH_SOURCE_SIDE)[None, :]
    matrix: NDArray[np.float64] = np.cos(np.pi * (2 * n + 1) * k / (2 * _HASH_SOURCE_SIDE))
    return matrix


_COSINES = _cosines()


@dataclass(frozen=True, kw_only=True)
class PixelStatistics:
    """Named as in the frame's record.

    Attributes:
        perceptual_hash: 16 hex digits; frames that look alike differ in few bits.
        brightness: Mean luma, 0..1.
        sharpness: Variance of the Laplacian of the luma (0..255).
        underexposed: Share of pixels with a luma below 5.
        overexposed: Share of pixels with a luma above 250.
    """

    perceptual_hash: str
    brightness: float
    sharpness: float
    underexposed: float
    overexposed: float

    def as_fields(self) -> dict[str, Any]:
        """The fields of the frame's record."""
        return dict(vars(self))


def measure(pixels: NDArray[np.uint8]) -> PixelStatistics:
    """Measures an upright RGB image, shape (height, width, 3), by convention the preview's, so that sizes do not tell in the sharpness."""
    luma = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
    return PixelStatistics(
        perceptual_hash=perceptual_hash(luma),
        brightness=round(float(np.ravel(cv2.mean(luma))[0]) / 255, 4),
        sharpness=round(_laplacian_variance(luma), 2),
        underexposed=round(np.count_nonzero(luma < UNDEREXPOSED_BELOW) / luma.size, 4),
        overexposed=round(np.count_nonzero(luma > OVEREXPOSED_ABOVE) / luma.size, 4),
    )


def perceptual_hash(luma: NDArray[np.uint8]) -> str:
    """64 bits: which of the 8 x 8 lowest DCT coefficients of the image at 32 x 32 lie above their median. `luma` has the shape (height, width).

    Source: C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010, section 3.2.1.
    """
    size = (_HASH_SOURCE_SIDE, _HASH_SOURCE_SIDE)
    small = np.asarray(Image.fromarray(luma).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0), np.float64)
    low = (_COSINES @ small @ _COSINES.T).ravel().round(6)
    bits = low > _median(low[1:])
    return np.packbits(bits).tobytes().hex()


def _median(values: NDArray[np.float64]) -> float:
    """Of an odd number of values; NumPy's takes as long as the rest of the hash."""
    middle = len(values) // 2
    return float(np.partition(values, middle)[middle])


def _laplacian_variance(luma: NDArray[np.uint8]) -> float:
    if min(luma.shape) < 3:
        return 0.0
    edges = cv2.Laplacian(luma, cv2.CV_16S, ksize=1)[1:-1, 1:-1]
    mean = float(np.ravel(cv2.mean(edges))[0])
    return float(cv2.norm(edges, cv2.NORM_L2SQR) / edges.size - mean**2)
