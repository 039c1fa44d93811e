"""Putting scores of different kinds on one scale, and adding them up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from infra.errors import InvalidInput


def ranks(values_N: NDArray[np.floating], *, lowest_first: bool = False) -> NDArray[np.float32]:
    """The share of the other values that a value beats, equal ones counting half: what is left of a score when its scale is forgotten.

    Ranks survive every rising change of scale, so an entropy, a distance and a speed can be weighed against one another.

    Args:
        values_N: Shape (N,); NaN where there is none.
        lowest_first: The lowest value gets rank 1 instead of the highest.
    Returns:
        Shape (N,), in [0, 1]; 1/2 where all are equal, 0 for NaN.
    """
    values = np.asarray(values_N, dtype=np.float64)
    known = ~np.isnan(values)
    result_N = np.zeros(len(values), dtype=np.float32)
    count = int(known.sum())
    if count == 0:
        return result_N
    ordered = np.sort(values[known])
    below = np.searchsorted(ordered, values[known], side="left")
    not_above = np.searchsorted(ordered, values[known], side="right")
    share = (below + (not_above - below - 1) / 2.0) / (count - 1) if count > 1 else np.full(1, 0.5)
    result_N[known] = 1.0 - share if lowest_first else share
    return result_N


def weighted_mean(parts: Sequence[NDArray[np.float32]], weights: Sequence[float]) -> NDArray[np.float32]:
    """The mean of several scores of the same frames, by weight.

    Args:
        parts: Arrays of one shape (N,), each in [0, 1].
        weights: One a part, above 0.
    Returns:
        Shape (N,), in [0, 1].
    Raises:
        InvalidInput: No parts, or a weight that is not above 0.
    """
    if not parts or len(parts) != len(weights) or not all(0.0 < weight < float("inf") for weight in weights):
        raise InvalidInput("scores are combined with one weight above 0 for each")
    total = np.zeros(len(parts[0]), dtype=np.float64)
    for part, weight in zip(parts, weights, strict=True):
        total += weight * part.astype(np.float64)
    return np.clip(total / sum(weights), 0.0, 1.0).astype(np.float32)
