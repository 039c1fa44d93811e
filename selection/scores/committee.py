"""Scores from several opinions about the same frames: stochastic passes of one model, or the members of an ensemble."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from infra.errors import InvalidInput
from selection.ranking.acquisition import ProbabilityKind, checked, surprise, unit
from selection.scores import boxes

SAME_FROM_IOU = 0.5


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


def box_bald(
    xyxy_px_B4: NDArray[np.floating],
    probability_BC: NDArray[np.floating],
    member_of_box_B: NDArray[np.integer],
    frame_of_box_B: NDArray[np.integer],
    *,
    member_count: int,
    frame_count: int,
) -> NDArray[np.float32]:
    """Disagreement of several detectors, or passes of one, about the objects of each frame: BALD of the object they disagree most about.

    Boxes are about the same object when they overlap by half, each member's nearest one counting, the surest box first. A member without
    a box there says that there is no object: probability 0 for all classes. Where all members see nothing they agree, so the score is 0;
    that is no doubt about the frame's emptiness, which `boxes.frame_scores` has.

    Source: `bald` on the clusters; clusters of boxes over passes as in Miller et al., "Dropout Sampling for Robust Object Detection in
    Open-Set Conditions", ICRA 2018.

    Args:
        xyxy_px_B4: Shape (B, 4).
        probability_BC: Shape (B, C): independent class probabilities; C = 1 for a confidence.
        member_of_box_B: Shape (B,), 0 to `member_count` - 1.
        frame_of_box_B: Shape (B,), 0 to `frame_count` - 1.
        member_count: M, at least two.
        frame_count: N.
    Returns:
        Shape (N,), in [0, 1].
    Raises:
        InvalidInput: As in `bald`.
    """
    result_N = np.zeros(frame_count, dtype=np.float32)
    order = np.argsort(frame_of_box_B, kind="stable")
    present, starts = np.unique(frame_of_box_B[order], return_index=True)
    for frame, places in zip(present.tolist(), np.split(order, starts[1:]), strict=True):
        opinions_MKC = _objects(
            xyxy_px_B4[places], probability_BC[places], member_of_box_B[places], member_count=member_count
        )
        result_N[frame] = bald(opinions_MKC, kind="multilabel").max()
    return result_N


def _objects(
    xyxy_px_B4: NDArray[np.floating],
    probability_BC: NDArray[np.floating],
    member_B: NDArray[np.integer],
    *,
    member_count: int,
) -> NDArray[np.float64]:
    """What each member says of each object of one frame, shape (M, K, C)."""
    free_B = np.ones(len(member_B), dtype=bool)
    found: list[NDArray[np.float64]] = []
    for surest in np.argsort(-probability_BC.max(axis=1), kind="stable").tolist():
        if not free_B[surest]:
            continue
        overlap_B = np.where(free_B, boxes.iou(xyxy_px_B4[surest : surest + 1], xyxy_px_B4)[0], 0.0)
        overlap_B[surest] = 2.0  # Itself, also where a box without area overlaps nothing.
        said_MC = np.zeros((member_count, probability_BC.shape[1]))
        for member in np.unique(member_B[overlap_B >= SAME_FROM_IOU]).tolist():
            nearest = int(np.where(member_B == member, overlap_B, -1.0).argmax())
            said_MC[member] = probability_BC[nearest]
            free_B[nearest] = False
        found.append(said_MC)
    return np.stack(found, axis=1)


def _entropy(p_NC: NDArray[np.float64], *, kind: ProbabilityKind) -> NDArray[np.float64]:
    """Nats; of the C independent answers together for `multilabel`."""
    total: NDArray[np.float64] = surprise(p_NC).sum(axis=1)
    return total if kind == "classification" else total + surprise(1.0 - p_NC).sum(axis=1)
