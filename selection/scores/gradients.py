"""Expected model change: how far a label would move the last layer, without training it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from infra.errors import InvalidInput
from selection.ranking.acquisition import ProbabilityKind, checked, unit


def expected_gradient_length(
    probabilities_NC: NDArray[np.floating], *, kind: ProbabilityKind, feature_rms_N: NDArray[np.floating] | None = None
) -> NDArray[np.float32]:
    """Length of the gradient of the cross-entropy in the last layer's weights, expected over the model's own answers.

    With features h before the last layer the gradient for the answer y is (p - y) h', so its length is |p - y| |h| and the expectation
    has a closed form. Classification: `sum_y p_y |p - e_y|` over its maximum `sqrt(1 - 1/C)`, reached where all classes are equally
    probable. Multilabel: the root of the expected squared length, `sqrt(sum p (1 - p))`, over its maximum `sqrt(C) / 2`.
    The features enter as `r / (1 + r)`, with r their root mean square, so that the score stays in the unit interval for any network.

    Source: Settles, Craven and Ray, "Multiple-Instance Active Learning", NIPS 2007 (expected gradient length); the last layer alone as in
    Ash et al., "Deep Batch Active Learning by Diverse, Uncertain Gradient Lower Bounds", ICLR 2020.

    Args:
        probabilities_NC: Shape (N, C).
        kind: Which of the two readings applies.
        feature_rms_N: Shape (N,): root mean square of the features before the last layer, not negative. None leaves that factor out.
    Returns:
        Shape (N,), in [0, 1].
    Raises:
        InvalidInput: As in `acquisition.least_confidence`, or the features' sizes do not fit.
    """
    p_NC = checked(probabilities_NC, kind=kind)
    class_count = p_NC.shape[1]
    if kind == "multilabel":
        change_N = np.sqrt((p_NC * (1.0 - p_NC)).sum(axis=1)) / (np.sqrt(class_count) / 2.0)
    elif class_count == 1:
        change_N = np.zeros(len(p_NC))
    else:
        squared_N1 = (p_NC**2).sum(axis=1, keepdims=True)
        lengths_NC = np.sqrt(np.maximum(squared_N1 - 2.0 * p_NC + 1.0, 0.0))  # |p - e_y| for each answer y.
        change_N = (p_NC * lengths_NC).sum(axis=1) / np.sqrt(1.0 - 1.0 / class_count)
    if feature_rms_N is not None:
        rms_N = np.asarray(feature_rms_N, dtype=np.float64)
        if rms_N.shape != change_N.shape or not bool(np.all(rms_N >= 0.0)):
            raise InvalidInput(f"there must be one size of features, not negative, for each of {len(change_N)} frames")
        change_N = change_N * np.where(np.isinf(rms_N), 1.0, rms_N / (1.0 + np.where(np.isinf(rms_N), 0.0, rms_N)))
    return unit(change_N)
