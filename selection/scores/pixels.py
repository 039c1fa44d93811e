"""Segmentation: scores of frames, or of the cells of a grid over them, from the class probabilities of their pixels."""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from infra.errors import InvalidInput
from selection.ranking.acquisition import SCORES, ProbabilityKind, unit

PixelAggregation = Literal["mean", "top"]
AGGREGATIONS: tuple[PixelAggregation, ...] = get_args(PixelAggregation)
TOP_SHARE = 0.05


def frame_scores(
    probability_NHWC: NDArray[np.floating],
    *,
    score: str = "entropy",
    aggregation: PixelAggregation = "mean",
    top_share: float = TOP_SHARE,
    ignore_NHW: NDArray[np.bool_] | None = None,
    kind: ProbabilityKind = "classification",
) -> NDArray[np.float32]:
    """An acquisition score of each pixel, put together over the frame.

    `mean` is the usual one and favours frames with much texture; `top` is the mean over the least certain share of the pixels, so that a
    small doubtful object is not averaged away by the road around it. Probabilities on a coarser grid than the image do as well: outlines
    are doubtful in every frame and count less there.

    Source: the mean of pixel entropies as in Mackowiak et al., "CEREALS - Cost-Effective REgion-based Active Learning for Semantic
    Segmentation", BMVC 2018; the mean over the upper tail is our variant of it.

    Args:
        probability_NHWC: Shape (N, H, W, C).
        score: Name of a score in `acquisition.SCORES`.
        aggregation: `mean` or `top`.
        top_share: The share for `top`, in (0, 1]; at least one pixel.
        ignore_NHW: True where a pixel does not count, for example the bonnet.
        kind: `classification` where a pixel has one class.
    Returns:
        Shape (N,), in [0, 1]; 0 where no pixel counts.
    Raises:
        InvalidInput: Unknown names, a share out of range, shapes that disagree.
    """
    if aggregation not in AGGREGATIONS:
        raise InvalidInput(f"there is no aggregation {aggregation!r} of pixels: choose {', '.join(AGGREGATIONS)}")
    if not 0.0 < top_share <= 1.0:
        raise InvalidInput(f"the share of the least certain pixels must lie in (0, 1], not {top_share}")
    if ignore_NHW is not None and ignore_NHW.shape != probability_NHWC.shape[:3]:
        raise InvalidInput(f"pixels to ignore of shape {ignore_NHW.shape} do not fit {probability_NHWC.shape[:3]}")
    result_N = np.zeros(len(probability_NHWC), dtype=np.float64)
    for i, map_HW in enumerate(score_maps(probability_NHWC, score=score, kind=kind)):
        values = map_HW.reshape(-1) if ignore_NHW is None else map_HW[~ignore_NHW[i]]
        if aggregation == "top" and len(values):
            count = max(1, math.ceil(top_share * len(values)))
            values = np.partition(values, len(values) - count)[-count:]
        result_N[i] = values.mean(dtype=np.float64) if len(values) else 0.0
    return unit(result_N)


def grid_scores(
    probability_NHWC: NDArray[np.floating],
    *,
    rows: int,
    columns: int,
    score: str = "entropy",
    kind: ProbabilityKind = "classification",
) -> NDArray[np.float32]:
    """The mean score in each cell of a grid over the frame, for choosing or showing regions; `max` over it is a frame score, too.

    Args:
        probability_NHWC: Shape (N, H, W, C).
        rows: 1 to H; cells differ by at most one pixel in height.
        columns: 1 to W; likewise in width.
        score: As in `frame_scores`.
        kind: As in `frame_scores`.
    Returns:
        Shape (N, rows, columns), in [0, 1].
    Raises:
        InvalidInput: Unknown names, or more cells than pixels.
    """
    count, height, width = _shape(probability_NHWC)[:3]
    if not (1 <= rows <= height and 1 <= columns <= width):
        raise InvalidInput(f"a grid of {rows} x {columns} cells does not fit {height} x {width} pixels")
    result = np.zeros((count, rows, columns), dtype=np.float32)
    for i, map_HW in enumerate(score_maps(probability_NHWC, score=score, kind=kind)):
        result[i] = unit(cell_means(map_HW.astype(np.float64)[..., np.newaxis], rows=rows, columns=columns)[..., 0])
    return result


def cell_means(values_HWD: NDArray[np.float64], *, rows: int, columns: int) -> NDArray[np.float64]:
    """The mean in each cell of a grid over one frame, shape (rows, columns, D); cells as in `grid_scores`."""
    height, width = values_HWD.shape[:2]
    tops = np.arange(rows) * height // rows
    lefts = np.arange(columns) * width // columns
    cells = np.outer(np.diff(np.append(tops, height)), np.diff(np.append(lefts, width)))
    sums = np.add.reduceat(np.add.reduceat(values_HWD, tops, axis=0), lefts, axis=1)
    means: NDArray[np.float64] = sums / cells[..., np.newaxis]
    return means


def label_disagreement(
    probability_NHWC: NDArray[np.floating], label_NHW: NDArray[np.integer], *, top_share: float = TOP_SHARE
) -> NDArray[np.float32]:
    """How strongly a model contradicts labelled masks; for finding wrong labels.

    The mean of `1 - p(labelled class)` over the share of the pixels where it is largest: a wrong mask is wrong in one place.

    Source: Lad and Mueller, "Estimating label quality and errors in semantic segmentation data via any model", 2023, which finds such
    averages over the worst pixels better than over all; its soft minimum is a hard share here.

    Args:
        probability_NHWC: Shape (N, H, W, C); rows sum to one.
        label_NHW: Shape (N, H, W); a negative class stands for pixels that are not labelled.
        top_share: In (0, 1].
    Returns:
        Shape (N,), in [0, 1]; 0 where nothing is labelled.
    """
    shape = _shape(probability_NHWC)
    if label_NHW.shape != shape[:3]:
        raise InvalidInput(f"masks of shape {label_NHW.shape} do not fit {shape[:3]}")
    result_N = np.zeros(shape[0], dtype=np.float64)
    for i, (p_HWC, label_HW) in enumerate(zip(probability_NHWC, label_NHW, strict=True)):
        labelled = label_HW >= 0
        given = p_HWC[labelled][np.arange(int(labelled.sum())), label_HW[labelled]]
        if len(given):
            count = max(1, math.ceil(top_share * len(given)))
            result_N[i] = 1.0 - np.partition(given, count - 1)[:count].mean(dtype=np.float64)
    return unit(result_N)


def score_maps(
    probability_NHWC: NDArray[np.floating], *, score: str, kind: ProbabilityKind = "classification"
) -> list[NDArray[np.float32]]:
    """The score of every pixel, one array of shape (H, W) a frame, in [0, 1]."""
    height, width, classes = _shape(probability_NHWC)[1:]
    if score not in SCORES:
        raise InvalidInput(f"there is no score {score!r} of pixels: choose {', '.join(SCORES)}")
    return [SCORES[score](p_HWC.reshape(-1, classes), kind=kind).reshape(height, width) for p_HWC in probability_NHWC]


def _shape(probability_NHWC: NDArray[np.floating]) -> tuple[int, int, int, int]:
    if probability_NHWC.ndim != 4 or 0 in probability_NHWC.shape[1:]:
        raise InvalidInput(f"probabilities of pixels must have shape (N, H, W, C), not {probability_NHWC.shape}")
    count, height, width, classes = probability_NHWC.shape
    return count, height, width, classes
