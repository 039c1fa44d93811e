"""Novelty: how far frames are from what is labelled; and rarity: how far from the rest of the fleet."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from infra.errors import InvalidInput
from selection.ranking.diversity import nearest_similarity

_ITSELF = 1.0 - 1e-5
"""Likeness of a row to itself, but for rounding."""


class Novelty:
    """Cosine distance of each row to the nearest labelled row, kept up to date as labels come.

    Adding L labels costs O(N * L) once; nothing is compared twice.
    """

    def __init__(self, emb_ND: NDArray[np.float32]) -> None:
        """Nothing is labelled yet, so everything is as new as can be.

        Args:
            emb_ND: Shape (N, D), unit length.
        """
        self._emb_ND = emb_ND
        self._near_N: NDArray[np.float32] = np.full(len(emb_ND), -1.0, dtype=np.float32)

    def add(self, labelled_emb: NDArray[np.float32]) -> None:
        """Takes in frames that have been labelled, shape (L, D), unit length."""
        if len(labelled_emb) and labelled_emb.shape[1] != self._emb_ND.shape[1]:
            raise InvalidInput(f"embeddings of {labelled_emb.shape} and {self._emb_ND.shape} do not belong together")
        if len(labelled_emb):
            np.maximum(self._near_N, nearest_similarity(self._emb_ND, labelled_emb), out=self._near_N)

    @property
    def score_N(self) -> NDArray[np.float32]:
        """Shape (N,), in [0, 2]; 0 for a labelled row, 2 while nothing is labelled."""
        score_N: NDArray[np.float32] = np.clip(1.0 - self._near_N, 0.0, 2.0)
        return score_N


def rarity(
    emb_ND: NDArray[np.float32], *, neighbours: int = 5, sample: int = 4096, seed: int = 0
) -> NDArray[np.float32]:
    """How little of the fleet looks like each row: the cosine distance to the `neighbours`-th nearest of a sample of the fleet.

    Args:
        emb_ND: Shape (N, D), unit length.
        neighbours: Of how many like it a row must be far from to count as rare.
        sample: Rows to compare with.
        seed: Draws the sample.
    Returns:
        Shape (N,), in [0, 2].
    """
    drawn = np.sort(np.random.default_rng(seed).choice(len(emb_ND), size=min(sample, len(emb_ND)), replace=False))
    return neighbour_distance(emb_ND, emb_ND[drawn], neighbours=neighbours)


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
