"""Detection: scores of frames from the class probabilities of their boxes."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from infra.errors import InvalidInput
from selection.ranking.acquisition import SCORES, ProbabilityKind, unit

BoxAggregation = Literal["max", "mean", "sum"]
AGGREGATIONS: tuple[BoxAggregation, ...] = get_args(BoxAggregation)


def frame_scores(
    box_probability_BC: NDArray[np.floating],
    frame_of_box_B: NDArray[np.integer],
    *,
    frame_count: int,
    score: str = "margin",
    aggregation: BoxAggregation = "max",
    kind: ProbabilityKind = "multilabel",
) -> NDArray[np.float32]:
    """An acquisition score of each box, put together over the boxes of a frame.

    `max`: the least certain box. `mean`: the typical box. `sum`: prefers frames with many uncertain boxes; as `1 - prod(1 - score)` it
    stays in the unit interval and orders frames with few and doubtful boxes like the plain sum. A frame without boxes scores 0: a model
    that sees nothing has no doubt to show, so mix in a random or diverse share for what it overlooks.

    Source: Brust, Kaeding and Denzler, "Active Learning for Deep Object Detection", VISAPP 2019, section 3.2 (sum, average, maximum).

    Args:
        box_probability_BC: Shape (B, C): class probabilities of all boxes of all frames.
        frame_of_box_B: Shape (B,): position of each box's frame, in any order.
        frame_count: N.
        score: Name of a score in `acquisition.SCORES`.
        aggregation: How the boxes of a frame count.
        kind: `multilabel` for sigmoid heads, `classification` for heads whose rows sum to one (background included).
    Returns:
        Shape (N,), in [0, 1].
    Raises:
        InvalidInput: Unknown names, shapes that disagree, a box of a frame that is not there.
    """
    frames_B = np.asarray(frame_of_box_B, dtype=np.int64)
    if len(frames_B) != len(box_probability_BC):
        raise InvalidInput(f"{len(box_probability_BC)} boxes with probabilities, but {len(frames_B)} with a frame")
    if len(frames_B) and not 0 <= int(frames_B.min()) <= int(frames_B.max()) < frame_count:
        raise InvalidInput(f"a box belongs to a frame outside 0 .. {frame_count - 1}")
    if score not in SCORES:
        raise InvalidInput(f"there is no score {score!r} of boxes: choose {', '.join(SCORES)}")
    score_B = SCORES[score](box_probability_BC, kind=kind).astype(np.float64)
    result_N: NDArray[np.float64]
    if aggregation == "max":
        result_N = np.zeros(frame_count, dtype=np.float64)
        np.maximum.at(result_N, frames_B, score_B)
    elif aggregation == "mean":
        counts_N = np.bincount(frames_B, minlength=frame_count)
        result_N = np.bincount(frames_B, weights=score_B, minlength=frame_count) / np.maximum(counts_N, 1)
    elif aggregation == "sum":
        log_sure_B = np.log1p(-np.minimum(score_B, 1.0 - 1e-12))
        result_N = -np.expm1(np.bincount(frames_B, weights=log_sure_B, minlength=frame_count))
    else:
        raise InvalidInput(f"there is no aggregation {aggregation!r} of boxes: choose {', '.join(AGGREGATIONS)}")
    return unit(result_N)


def label_disagreement(
    predicted_xyxy_px: NDArray[np.floating],
    predicted_probability_BC: NDArray[np.floating],
    labelled_xyxy_px: NDArray[np.floating],
    labelled_class_L: NDArray[np.integer],
    *,
    same_from_iou: float = 0.5,
) -> float:
    """How strongly the boxes of a model contradict the labelled boxes of one frame; for finding wrong labels.

    The worst of: a confident box where no box is labelled (overlooked), a labelled box whose place the model gives to another class
    (swapped), and a labelled box where the model sees nothing (superfluous).

    Source: Tkachenko, Thyagarajan and Mueller, "ObjectLab: Automated Diagnosis of Mislabeled Images in Object Detection Data", 2023,
    which names these three kinds; the scores here are plain probabilities.

    Args:
        predicted_xyxy_px: Shape (B, 4).
        predicted_probability_BC: Shape (B, C).
        labelled_xyxy_px: Shape (L, 4).
        labelled_class_L: Shape (L,).
        same_from_iou: Boxes that overlap at least so much are about the same object.
    Returns:
        In [0, 1]; 0 when nothing is predicted and nothing labelled.
    """
    best_B = predicted_probability_BC.max(axis=1) if len(predicted_probability_BC) else np.zeros(0)
    same_BL = _iou(predicted_xyxy_px, labelled_xyxy_px) >= same_from_iou
    overlooked = float(np.max(best_B[~same_BL.any(axis=1)], initial=0.0))
    doubts = [overlooked]
    for column, name in zip(same_BL.T, labelled_class_L.tolist(), strict=True):
        here = predicted_probability_BC[column]
        agreeing = float(here[:, name].max(initial=0.0))
        others = float(np.delete(here, name, axis=1).max(initial=0.0))
        doubts.append(
            max(1.0 - agreeing if not len(here) else 0.0, (1.0 + others - agreeing) / 2.0 if len(here) else 0.0)
        )
    return float(np.clip(max(doubts), 0.0, 1.0))


def _iou(one_B4: NDArray[np.floating], other_L4: NDArray[np.floating]) -> NDArray[np.float64]:
    """Intersection over union, shape (B, L)."""
    one = np.asarray(one_B4, dtype=np.float64).reshape(-1, 1, 4)
    other = np.asarray(other_L4, dtype=np.float64).reshape(1, -1, 4)
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    shared = np.prod(np.maximum(sides, 0.0), axis=-1)
    area_of = [np.prod(np.maximum(box[..., 2:] - box[..., :2], 0.0), axis=-1) for box in (one, other)]
    union = area_of[0] + area_of[1] - shared
    ratio: NDArray[np.float64] = np.divide(shared, union, out=np.zeros_like(union), where=union > 0.0)
    return ratio
