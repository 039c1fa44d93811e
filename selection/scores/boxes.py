"""Detection: scores of frames from the class probabilities of their boxes."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from infra.errors import InvalidInput
from selection.ranking.acquisition import SCORES, ProbabilityKind, unit

BoxAggregation = Literal["max", "mean", "sum"]
AGGREGATIONS: tuple[BoxAggregation, ...] = get_args(BoxAggregation)
_STEPS = 200


def frame_scores(
    box_probability_BC: NDArray[np.floating],
    frame_of_box_B: NDArray[np.integer],
    *,
    frame_count: int,
    score: str = "margin",
    aggregation: BoxAggregation = "max",
    kind: ProbabilityKind = "multilabel",
    cut: float = 0.0,
) -> NDArray[np.float32]:
    """An acquisition score of each box, put together over the boxes of a frame.

    `max`: the least certain box. `mean`: the typical box. `sum`: prefers frames with many uncertain boxes; as `s / (1 + s)` it stays in
    the unit interval, orders frames like the plain sum s, and tells thousands of boxes from hundreds.

    A frame without boxes is not a certain one: the detector has only cut off what it was least sure of. Each frame may hide a box of any
    confidence up to `cut`, whose mean score is what a frame without boxes gets, and the least that `max` gives and `sum` begins with. A
    detector that reports everything from 0.05 on leaves little doubt by showing nothing, one that reports from 0.5 on leaves much.

    Source: Brust, Kaeding and Denzler, "Active Learning for Deep Object Detection", VISAPP 2019, section 3.2 (sum, average, maximum).

    Args:
        box_probability_BC: Shape (B, C): class probabilities of all boxes of all frames.
        frame_of_box_B: Shape (B,): position of each box's frame, in any order.
        frame_count: N.
        score: Name of a score in `acquisition.SCORES`.
        aggregation: How the boxes of a frame count.
        kind: `multilabel` for sigmoid heads, `classification` for heads whose rows sum to one (background last).
        cut: Confidence below which the detector reports no boxes, in [0, 1].
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
    hidden = _hidden_doubt(box_probability_BC.shape[1], score=score, kind=kind, cut=cut)
    return put_together(score_B, frames_B, frame_count=frame_count, aggregation=aggregation, hidden=hidden)


def put_together(
    score_B: NDArray[np.floating],
    frame_of_box_B: NDArray[np.integer],
    *,
    frame_count: int,
    aggregation: BoxAggregation,
    hidden: float = 0.0,
) -> NDArray[np.float32]:
    """Scores of boxes as scores of frames, see `frame_scores`.

    Args:
        score_B: Shape (B,), in [0, 1].
        frame_of_box_B: Shape (B,), positions from 0 to `frame_count` - 1.
        frame_count: N.
        aggregation: How the boxes of a frame count.
        hidden: What one box that is not reported would score.
    Returns:
        Shape (N,), in [0, 1].
    Raises:
        InvalidInput: Unknown aggregation.
    """
    if aggregation == "max":
        result_N = np.full(frame_count, hidden, dtype=np.float64)
        np.maximum.at(result_N, frame_of_box_B, score_B)
        return unit(result_N)
    sum_N = np.bincount(frame_of_box_B, weights=score_B, minlength=frame_count)
    if aggregation == "mean":
        count_N = np.bincount(frame_of_box_B, minlength=frame_count)
        return unit(np.where(count_N > 0, sum_N / np.maximum(count_N, 1), hidden))
    if aggregation == "sum":
        return unit((hidden + sum_N) / (1.0 + hidden + sum_N))
    raise InvalidInput(f"there is no aggregation {aggregation!r} of boxes: choose {', '.join(AGGREGATIONS)}")


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
    same_BL = iou(predicted_xyxy_px, labelled_xyxy_px) >= same_from_iou
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


def _hidden_doubt(class_count: int, *, score: str, kind: ProbabilityKind, cut: float) -> float:
    """The mean score of a box whose one class has a confidence anywhere between 0 and the cut."""
    if not 0.0 <= cut <= 1.0:
        raise InvalidInput(f"the confidence from which boxes are reported lies between 0 and 1, not at {cut}")
    confidence_K = (np.arange(_STEPS) + 0.5) / _STEPS * cut
    rows_KC = np.zeros((_STEPS, class_count))
    rows_KC[:, -1] = 1.0 - confidence_K if kind == "classification" else 0.0
    rows_KC[:, 0] = np.where(class_count == 1 and kind == "classification", 1.0, confidence_K)
    return float(SCORES[score](rows_KC, kind=kind).mean())


def iou(one_B4: NDArray[np.floating], other_L4: NDArray[np.floating]) -> NDArray[np.float64]:
    """Intersection over union, shape (B, L)."""
    one = np.asarray(one_B4, dtype=np.float64).reshape(-1, 1, 4)
    other = np.asarray(other_L4, dtype=np.float64).reshape(1, -1, 4)
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    shared = np.prod(np.maximum(sides, 0.0), axis=-1)
    area_of = [np.prod(np.maximum(box[..., 2:] - box[..., :2], 0.0), axis=-1) for box in (one, other)]
    union = area_of[0] + area_of[1] - shared
    ratio: NDArray[np.float64] = np.divide(shared, union, out=np.zeros_like(union), where=union > 0.0)
    return ratio
