"""Disagreement between a model and the labels people gave: which labels to look at again.

A model that was trained on a label has partly learned it by heart, right or wrong, so these scores are sharpest for frames that the model
did not train on (evaluation drives, labels newer than the model) and for out-of-fold probabilities.

Sources: Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 2021; for several labels a frame
Thyagarajan et al., "Identifying Incorrect Annotations in Multi-Label Classification Data", 2022 (one class against the rest).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from infra.errors import InvalidInput
from selection.ranking.acquisition import ProbabilityKind, checked, unit

NEIGHBOURS = 8
_BLOCK = 512


def self_confidence_error(
    probabilities_NC: NDArray[np.floating], label_NC: NDArray[np.bool_], *, kind: ProbabilityKind
) -> NDArray[np.float32]:
    """How little the model believes what was labelled.

    Classification: `1 - p(labelled class)`. Multilabel: the same for the class whose answer it believes least.

    Args:
        probabilities_NC: Shape (N, C).
        label_NC: Shape (N, C): which classes were labelled; exactly one a row for `classification`.
        kind: Which of the two readings applies.
    Returns:
        Shape (N,), in [0, 1]; higher means that the label is more likely wrong.
    Raises:
        InvalidInput: Shapes that disagree, or probabilities or labels that cannot be.
    """
    return unit(1.0 - _believed(probabilities_NC, label_NC, kind=kind).min(axis=1))


def normalised_margin_error(
    probabilities_NC: NDArray[np.floating], label_NC: NDArray[np.bool_], *, kind: ProbabilityKind
) -> NDArray[np.float32]:
    """By how much the model prefers another answer to the labelled one.

    Classification: `(1 + max p(other class) - p(labelled class)) / 2`, 1/2 where the two are level; unlike `self_confidence_error` it
    spares frames with many possible classes. Multilabel: the other answer is the opposite one, so both scores are the same.

    Args and raises: As in `self_confidence_error`.

    Returns:
        Shape (N,), in [0, 1].
    """
    believed_NC = _believed(probabilities_NC, label_NC, kind=kind)
    if kind == "multilabel":
        return unit(1.0 - believed_NC.min(axis=1))
    p_NC = checked(probabilities_NC, kind=kind)
    best_other_N = np.where(label_NC, -np.inf, p_NC).max(axis=1, initial=0.0)
    return unit((1.0 + best_other_N - believed_NC[:, 0]) / 2.0)


def neighbour_error(
    vectors_ND: NDArray[np.floating],
    label_NC: NDArray[np.bool_],
    *,
    kind: ProbabilityKind,
    neighbours: int = NEIGHBOURS,
) -> NDArray[np.float32]:
    """How little a label is like those of the frames nearest to it, itself left out: needs no model, and so no model that knows it by heart.

    `self_confidence_error` with the share of the neighbours that have a class as its probability, all frames together counting as one
    neighbour more. Time O(N^2 D), memory O(N) for a fixed number of classes.

    Source: the k-nearest-neighbour noise detector of Zhu, Dong and Liu, "Detecting Corrupted Labels Without Training a Model to Predict",
    ICML 2022, with soft counts in place of its vote.

    Args:
        vectors_ND: Shape (N, D), unit length.
        label_NC: Shape (N, C), as in `self_confidence_error`.
        kind: As there.
        neighbours: How many are asked; fewer where there are fewer.
    Returns:
        Shape (N,), in [0, 1]; 0 for a frame alone.
    Raises:
        InvalidInput: As there.
    """
    count = len(label_NC)
    if len(vectors_ND) != count:
        raise InvalidInput(f"{len(vectors_ND)} vectors do not fit {count} labels")
    asked = min(neighbours, count - 1)
    if asked < 1:
        return np.zeros(count, dtype=np.float32)
    share_NC = np.zeros(label_NC.shape, dtype=np.float64)
    vectors = vectors_ND.astype(np.float32)
    for first in range(0, count, _BLOCK):
        block = slice(first, min(first + _BLOCK, count))
        likeness_BN = vectors[block] @ vectors.T
        likeness_BN[np.arange(block.stop - first), np.arange(first, block.stop)] = -np.inf
        nearest_BK = np.argpartition(-likeness_BN, asked - 1, axis=1)[:, :asked]
        share_NC[block] = label_NC[nearest_BK].sum(axis=1)
    return self_confidence_error((share_NC + label_NC.mean(axis=0)) / (asked + 1), label_NC, kind=kind)


def likely_errors(
    probabilities_NC: NDArray[np.floating], label_NC: NDArray[np.bool_], *, kind: ProbabilityKind
) -> NDArray[np.bool_]:
    """Which labels confident learning holds to be wrong.

    Each class has its own threshold, the mean probability of that class over the frames labelled with it, so that a timid or a bold model
    is judged by its own habits. A label is likely wrong when another class (multilabel: the opposite answer) reaches its threshold and is
    the most probable among those that do.

    Returns:
        Shape (N,).
    Raises:
        InvalidInput: As in `self_confidence_error`.
    """
    _believed(probabilities_NC, label_NC, kind=kind)  # Checks.
    p_NC = checked(probabilities_NC, kind=kind)
    if kind == "multilabel":
        absent_threshold_C = _mean_where(1.0 - p_NC, ~label_NC)
        present_threshold_C = _mean_where(p_NC, label_NC)
        missed_NC = ~label_NC & (p_NC >= present_threshold_C) & (p_NC > 0.5)
        false_NC = label_NC & (1.0 - p_NC >= absent_threshold_C) & (p_NC < 0.5)
        return np.asarray((missed_NC | false_NC).any(axis=1))
    confident_NC = p_NC >= _mean_where(p_NC, label_NC)
    best_N = np.where(confident_NC, p_NC, -1.0).argmax(axis=1)
    agreed_N = label_NC[np.arange(len(p_NC)), best_N]
    return np.asarray(confident_NC.any(axis=1) & ~agreed_N)


def _believed(
    probabilities_NC: NDArray[np.floating], label_NC: NDArray[np.bool_], *, kind: ProbabilityKind
) -> NDArray[np.float64]:
    """The probability of what was labelled: shape (N, 1) for a classification, (N, C) for independent answers."""
    p_NC = checked(probabilities_NC, kind=kind)
    if label_NC.shape != p_NC.shape or label_NC.dtype != np.bool_:
        raise InvalidInput(f"labels of shape {label_NC.shape} do not fit probabilities of shape {p_NC.shape}")
    if kind == "multilabel":
        return np.where(label_NC, p_NC, 1.0 - p_NC)
    if not bool(np.all(label_NC.sum(axis=1) == 1)):
        raise InvalidInput("a classification has exactly one labelled class in every row")
    return p_NC[label_NC][:, np.newaxis]


def _mean_where(p_NC: NDArray[np.float64], where_NC: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The mean over the frames of each class, shape (C,); out of reach for a class nobody gave."""
    counts_C = where_NC.sum(axis=0)
    means_C: NDArray[np.float64] = (p_NC * where_NC).sum(axis=0) / np.maximum(counts_C, 1)
    return np.where(counts_C > 0, means_C, np.inf)
