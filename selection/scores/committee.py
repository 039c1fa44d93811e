"""Scores from several opinions about the same frames: stochastic passes of one model, or the members of an ensemble."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from infra.errors import InvalidInput
from selection.ranking.acquisition import ProbabilityKind, checked, surprise, unit


def bald(probabilities_MNC: NDArray[np.floating], *, kind: ProbabilityKind) -> NDArray[np.float32]:
    """How much the opinions disagree although each is sure: the information a label would give about the model.

    Entropy of the mean opinion less the mean entropy of the opinions. Classification: as a share of log C. Multilabel: the mean over the
    classes of the binary form, in bits. Ambiguous frames, about which every opinion is equally unsure, score 0.

    Source: Houlsby et al., "Bayesian Active Learning for Classification and Preference Learning", 2011, equation 2; with stochastic passes
    Gal, Islam and Ghahramani, "Deep Bayesian Active Learning with Image Data", ICML 2017.

    Args:
        probabilities_MNC: Shape (M, N, C): M opinions, at least two, on N frames and C classes.
        kind: Which of the two readings applies.
    Returns:
        Shape (N,), in [0, 1].
    Raises:
        InvalidInput: Fewer than two opinions, or as in `acquisition.least_confidence`.
    """
    opinions = np.asarray(probabilities_MNC)
    if opinions.ndim != 3 or len(opinions) < 2:
        raise InvalidInput(f"opinions must have shape (two or more, frames, classes), not {opinions.shape}")
    class_count = opinions.shape[2]
    mean_NC = np.zeros(opinions.shape[1:], dtype=np.float64)
    mean_entropy_N = np.zeros(opinions.shape[1], dtype=np.float64)
    for opinion_NC in opinions:  # One at a time: all of them in double precision would be M times as much.
        p_NC = checked(opinion_NC, kind=kind)
        mean_NC += p_NC / len(opinions)
        mean_entropy_N += _entropy(p_NC, kind=kind) / len(opinions)
    if kind == "classification" and class_count == 1:
        return np.zeros(opinions.shape[1], dtype=np.float32)
    scale = np.log(class_count) if kind == "classification" else class_count * np.log(2.0)
    return unit((_entropy(np.minimum(mean_NC, 1.0), kind=kind) - mean_entropy_N) / scale)


def _entropy(p_NC: NDArray[np.float64], *, kind: ProbabilityKind) -> NDArray[np.float64]:
    """Nats; of the C independent answers together for `multilabel`."""
    total: NDArray[np.float64] = surprise(p_NC).sum(axis=1)
    return total if kind == "classification" else total + surprise(1.0 - p_NC).sum(axis=1)
