"""Acquisition functions: how much a label for a frame would teach the model, read off the model's own probabilities.

All take probabilities of N frames for C classes and return one score a frame in [0, 1]; higher means more informative.

- `classification`: a row is a distribution over the classes (softmax) and sums to one.
- `multilabel`: each entry is the probability that this class is present, independent of the others (sigmoids).

Sources: Settles, "Active Learning Literature Survey", University of Wisconsin-Madison TR 1648, 2009, section 3.1 (the three scores);
the multilabel forms treat the C answers as independent and are given with each function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from infra.errors import InvalidInput

ProbabilityKind = Literal["classification", "multilabel"]
Score = Callable[..., NDArray[np.float32]]

_SUM_TOLERANCE = 2e-2  # Half-precision models sum to one only this closely.
_RANGE_TOLERANCE = 1e-3


def least_confidence(probabilities_NC: NDArray[np.floating], *, kind: ProbabilityKind) -> NDArray[np.float32]:
    """How little the model trusts its most probable answer.

    Classification: `(1 - max p) * C / (C - 1)`. Multilabel: the most probable label set has probability `prod max(p, 1 - p)`; its
    geometric mean over the classes, g in [1/2, 1], orders frames the same way and does not sink to zero with many classes, so the score
    is `2 * (1 - g)`.

    Args:
        probabilities_NC: Shape (N, C), C >= 1.
        kind: Which of the two readings applies.
    Returns:
        Shape (N,), in [0, 1].
    Raises:
        InvalidInput: Wrong shape, values outside [0, 1], or rows of a distribution that do not sum to one.
    """
    p_NC = checked(probabilities_NC, kind=kind)
    if kind == "multilabel":
        surest_NC = np.maximum(p_NC, 1.0 - p_NC)
        return unit(2.0 * (1.0 - np.exp(np.log(surest_NC).mean(axis=1))))
    class_count = p_NC.shape[1]
    if class_count == 1:
        return np.zeros(len(p_NC), dtype=np.float32)
    return unit((1.0 - p_NC.max(axis=1)) * class_count / (class_count - 1))


def margin(probabilities_NC: NDArray[np.floating], *, kind: ProbabilityKind) -> NDArray[np.float32]:
    """How close the second best answer comes to the best.

    Classification: `1 - (p_first - p_second)`. Multilabel: the second best label set differs from the best in the one class nearest to
    one half, so the score is that class's `1 - |2p - 1|`, the maximum over the classes.

    Args:
        probabilities_NC: Shape (N, C), C >= 1.
        kind: Which of the two readings applies.
    Returns:
        Shape (N,), in [0, 1].
    Raises:
        InvalidInput: As in `least_confidence`.
    """
    p_NC = checked(probabilities_NC, kind=kind)
    if kind == "multilabel":
        return unit((1.0 - np.abs(2.0 * p_NC - 1.0)).max(axis=1))
    class_count = p_NC.shape[1]
    if class_count == 1:
        return np.zeros(len(p_NC), dtype=np.float32)
    best_two_N2 = np.partition(p_NC, class_count - 2, axis=1)[:, -2:]
    return unit(1.0 - (best_two_N2[:, 1] - best_two_N2[:, 0]))


def entropy(probabilities_NC: NDArray[np.floating], *, kind: ProbabilityKind) -> NDArray[np.float32]:
    """Shannon entropy of the answer as a share of the largest possible.

    Classification: `-sum p log p / log C`. Multilabel: the mean over the classes of the binary entropies in bits, which is the joint
    entropy of the C independent answers divided by C.

    Args:
        probabilities_NC: Shape (N, C), C >= 1.
        kind: Which of the two readings applies.
    Returns:
        Shape (N,), in [0, 1].
    Raises:
        InvalidInput: As in `least_confidence`.
    """
    p_NC = checked(probabilities_NC, kind=kind)
    if kind == "multilabel":
        return unit((surprise(p_NC) + surprise(1.0 - p_NC)).mean(axis=1) / np.log(2.0))
    class_count = p_NC.shape[1]
    if class_count == 1:
        return np.zeros(len(p_NC), dtype=np.float32)
    return unit(surprise(p_NC).sum(axis=1) / np.log(class_count))


SCORES: Mapping[str, Score] = {"least_confidence": least_confidence, "margin": margin, "entropy": entropy}
"""The scores that probabilities alone give, by the name that plans, columns and the command line use."""

SHARD_SCORES: tuple[str, ...] = (*SCORES, "bald", "expected_gradient_length")
"""Every score column of the prediction shards of classification and multilabel models; the last two from `selection.scores`."""

BOX_AGGREGATES: tuple[str, ...] = tuple(f"{name}_{how}" for name in SCORES for how in ("mean", "sum"))
"""Further score columns of detection; there the plain name is the least certain box."""
PIXEL_AGGREGATES: tuple[str, ...] = tuple(f"{name}_top" for name in SCORES)
"""Further score columns of segmentation; there the plain name is the mean over the pixels."""

MODEL_SCORES: tuple[str, ...] = (*SHARD_SCORES, *BOX_AGGREGATES, *PIXEL_AGGREGATES)
"""Every score that the predictions of some model may hold."""


def checked(probabilities_NC: NDArray[np.floating], *, kind: ProbabilityKind) -> NDArray[np.float64]:
    """The probabilities in double precision, clipped to [0, 1] after it was made sure that they are some, shape (N, C).

    Raises:
        InvalidInput: As in `least_confidence`.
    """
    p_NC = np.asarray(probabilities_NC, dtype=np.float64)
    if p_NC.ndim != 2 or p_NC.shape[1] < 1:
        raise InvalidInput(f"probabilities must have shape (frames, classes), not {p_NC.shape}")
    if kind not in ("classification", "multilabel"):
        raise InvalidInput(f"no acquisition score is defined for task kind {kind!r}: use classification or multilabel")
    # A NaN fails the comparison too, so it is caught here.
    if not bool(np.all((p_NC >= -_RANGE_TOLERANCE) & (p_NC <= 1.0 + _RANGE_TOLERANCE))):
        raise InvalidInput("probabilities must lie between 0 and 1")
    if kind == "classification" and not bool(np.all(np.abs(p_NC.sum(axis=1) - 1.0) <= _SUM_TOLERANCE)):
        raise InvalidInput("probabilities of a classification must sum to 1 in every row")
    return np.clip(p_NC, 0.0, 1.0)


def surprise(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """`-p log p` of each probability, in nats; what entropies are sums of."""
    # p log p has the limit 0 at p = 0, where log alone is minus infinity.
    nats: NDArray[np.float64] = -p * np.log(np.where(p > 0.0, p, 1.0))
    return nats


def unit(score_N: NDArray[np.float64]) -> NDArray[np.float32]:
    """A score as it is stored: what rounding took out of [0, 1] is put back."""
    return np.clip(score_N, 0.0, 1.0).astype(np.float32)
