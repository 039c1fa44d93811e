"""Rarity: how little of the fleet looks like a frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_ITSELF = 1.0 - 1e-5
"""Likeness of a row to itself, but for rounding."""


def neighbour_distance(
    emb_ND: NDArray[np.float32], sample_SD: NDArray[np.float32], *, neighbours: int = 5
) -> NDArray[np.float32]:
    """Cosine distance to the `neighbours`-th nearest of a sample, shape (N,), in [0, 2]. A row of the sample is no neighbour of its own."""
    rare_N = np.zeros(len(emb_ND), dtype=np.float32)
    wanted = min(neighbours, len(sample_SD) - 1)
    if wanted < 1:
        return rare_N
    for start in range(0, len(emb_ND), 2048):
        near = emb_ND[start : start + 2048] @ sample_SD.T
        # Itself and its like to the last bit: one of them is left out, by being the nearest.
        nearest = -np.partition(-near, wanted, axis=1)[:, : wanted + 1]
        nearest.sort(axis=1)
        itself = nearest[:, -1] > _ITSELF
        rare_N[start : start + 2048] = 1.0 - np.where(itself, nearest[:, 0], nearest[:, 1])
    return np.clip(rare_N, 0.0, 2.0)
