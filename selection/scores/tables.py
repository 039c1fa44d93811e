"""Prediction shards of the four task kinds: what a model said of each row, and its scores, as Arrow tables.

All begin with `row` and `probability` (a fixed-size list of one float32 a class: the class itself, or for `detection` and `segmentation` that
it is somewhere in the frame), then one float32 column a score, so that whoever ranks need not know the kind. What else there is:

- `detection`: `box_xyxy_px` (pixels of the stored image after EXIF orientation), `box_class`, `box_confidence`, lists of one length a frame;
  `box_probability` where the detector gave its class probabilities, `box_member` where there are several passes or detectors. Plain scores
  are those of the least certain box, `_mean` and `_sum` the other ways to put boxes together.
- `segmentation`: `class_share` (the mean probability of each class), `entropy_grid` (`GRID` x `GRID` mean entropies, rows first, float16) and
  `mask_key` (a class mask as PNG in the object store, where one was given). Plain scores are means over the pixels, `_top` those over the
  least certain ones.

A frame without a prediction has nulls everywhere; one in which a detector found nothing has empty lists and scores, see `boxes.frame_scores`.
The schema's metadata names the task kind and the classes; `shards` adds producer and format version.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from selection.ranking.acquisition import SCORES, ProbabilityKind
from selection.scores import boxes, committee, gradients, pixels

if TYPE_CHECKING:
    import pyarrow as pa

GRID = 8


@dataclass(frozen=True, kw_only=True)
class FrameBoxes:
    """The boxes of N frames, in any order.

    Attributes:
        frame_B: Shape (B,), position of each box's frame.
        xyxy_px_B4: Shape (B, 4).
        class_B: Shape (B,).
        confidence_B: Shape (B,), in [0, 1].
        probability_BC: Shape (B, C), independent class probabilities; None where only a confidence is known.
        member_B: Shape (B,), which pass or detector saw it; all 0 with only one.
    """

    frame_B: NDArray[np.int64]
    xyxy_px_B4: NDArray[np.float32]
    class_B: NDArray[np.int64]
    confidence_B: NDArray[np.float32]
    probability_BC: NDArray[np.float32] | None
    member_B: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class PixelSummary:
    """What is kept of the class probabilities of one frame's pixels.

    Attributes:
        scores: By name.
        presence_C: Shape (C,): how much of a class there is where there is most of it, the largest mean over a cell of the grid.
        share_C: Shape (C,): mean over all pixels.
        entropy_grid: Shape (GRID, GRID).
        mask_key: Object key of a class mask.
    """

    scores: dict[str, float]
    presence_C: NDArray[np.float32]
    share_C: NDArray[np.float32]
    entropy_grid: NDArray[np.float32]
    mask_key: str | None = None


def of_probabilities(
    probability_NC: NDArray[np.float32],
    *,
    valid_N: NDArray[np.bool_],
    start: int,
    kind: ProbabilityKind,
    passes_MNC: NDArray[np.float32] | None = None,
    feature_rms_N: NDArray[np.float32] | None = None,
    classes: Sequence[str] = (),
) -> pa.Table:
    """The shard of a classification or multilabel model.

    Args:
        probability_NC: Shape (N, C).
        valid_N: Shape (N,); where False, the values are null.
        start: Row of the first line.
        kind: How the scores read the probabilities.
        passes_MNC: The same from M passes or models, for `bald`; None leaves that column out.
        feature_rms_N: See `gradients.expected_gradient_length`.
        classes: Their names.
    Raises:
        InvalidInput: Probabilities that cannot be.
    """
    p_VC = probability_NC[valid_N]
    found = {name: score(p_VC, kind=kind) for name, score in SCORES.items()}
    if passes_MNC is not None:
        found["bald"] = committee.bald(passes_MNC[:, valid_N], kind=kind)
    rms_V = None if feature_rms_N is None else feature_rms_N[valid_N]
    found["expected_gradient_length"] = gradients.expected_gradient_length(p_VC, kind=kind, feature_rms_N=rms_V)
    return _table(probability_NC, found, valid_N=valid_N, start=start, kind=kind, classes=classes)


def of_boxes(
    seen: FrameBoxes,
    *,
    valid_N: NDArray[np.bool_],
    start: int,
    classes: Sequence[str],
    member_count: int = 1,
    cut: float = 0.0,
) -> pa.Table:
    """The shard of a detector.

    Args:
        seen: No box of a frame that is not valid.
        valid_N: Shape (N,): which frames the detector has seen; the others have nulls.
        start: Row of the first line.
        classes: C names.
        member_count: Passes or detectors; from two on there is `bald`.
        cut: Confidence from which the detector reports boxes, see `boxes.frame_scores`.
    """
    count = len(valid_N)
    order = np.argsort(seen.frame_B, kind="stable")
    frame_B, confidence_B = seen.frame_B[order], seen.confidence_B[order]
    read_BC = confidence_B[:, np.newaxis] if seen.probability_BC is None else seen.probability_BC[order]
    presence_NC = np.zeros((count, len(classes)), dtype=np.float32)
    np.maximum.at(presence_NC, (frame_B, seen.class_B[order]), confidence_B)
    if seen.probability_BC is not None:
        np.maximum.at(presence_NC, frame_B, read_BC)
    found = {
        name if how == "max" else f"{name}_{how}": boxes.frame_scores(
            read_BC, frame_B, frame_count=count, score=name, aggregation=how, cut=cut
        )
        for name in SCORES
        for how in boxes.AGGREGATIONS
    }
    found["expected_gradient_length"] = boxes.put_together(
        gradients.expected_gradient_length(read_BC, kind="multilabel"), frame_B, frame_count=count, aggregation="sum"
    )
    if member_count > 1:
        found["bald"] = committee.box_bald(
            seen.xyxy_px_B4[order],
            read_BC,
            seen.member_B[order],
            frame_B,
            member_count=member_count,
            frame_count=count,
        )
    valued = {name: score_N[valid_N] for name, score_N in found.items()}
    table = _table(presence_NC, valued, valid_N=valid_N, start=start, kind="detection", classes=classes)
    for name, column in _box_columns(seen, order, valid_N=valid_N, with_members=member_count > 1).items():
        table = table.append_column(name, column)
    return table


def of_pixels(summaries: Sequence[PixelSummary | None], *, start: int, classes: Sequence[str]) -> pa.Table:
    """The shard of a segmentation model; None for a frame without prediction."""
    import pyarrow as pa

    known = [one for one in summaries if one is not None]
    valid_N = np.array([one is not None for one in summaries], dtype=bool)
    presence_NC, share_NC = (np.zeros((len(summaries), len(classes)), dtype=np.float32) for _ in range(2))
    grid_N = np.zeros((len(summaries), GRID * GRID), dtype=np.float16)
    if known:
        presence_NC[valid_N] = [one.presence_C for one in known]
        share_NC[valid_N] = [one.share_C for one in known]
        grid_N[valid_N] = [one.entropy_grid.reshape(-1) for one in known]
    names = dict.fromkeys(name for one in known for name in one.scores)
    found = {
        name: np.array([one.scores.get(name, np.nan) for one in known], dtype=np.float32) for name in names or SCORES
    }
    table = _table(presence_NC, found, valid_N=valid_N, start=start, kind="segmentation", classes=classes)
    table = table.append_column("class_share", _fixed(share_NC, valid_N))
    table = table.append_column("entropy_grid", _fixed(grid_N, valid_N))
    return table.append_column("mask_key", pa.array([one and one.mask_key for one in summaries], type=pa.string()))


def summarise_pixels(
    probability_MHWC: NDArray[np.floating], *, ignore_HW: NDArray[np.bool_] | None = None, mask_key: str | None = None
) -> PixelSummary:
    """What is kept of one frame's pixels.

    Args:
        probability_MHWC: Shape (M, H, W, C), M passes or models; rows sum to one.
        ignore_HW: True where a pixel does not count.
        mask_key: See `PixelSummary`.
    Raises:
        InvalidInput: Probabilities that cannot be.
    """
    mean_HWC = probability_MHWC.mean(axis=0, dtype=np.float64)
    height, width, class_count = mean_HWC.shape
    known_HW = np.ones((height, width), dtype=bool) if ignore_HW is None else ~ignore_HW
    known_MKC = probability_MHWC[:, known_HW]
    scores = {
        name if how == "mean" else f"{name}_{how}": float(
            pixels.frame_scores(mean_HWC[np.newaxis], score=name, aggregation=how, ignore_NHW=~known_HW[np.newaxis])[0]
        )
        for name in SCORES
        for how in pixels.AGGREGATIONS
    }
    scores["expected_gradient_length"] = _mean(
        gradients.expected_gradient_length(mean_HWC[known_HW], kind="classification")
    )
    if len(known_MKC) > 1:
        scores["bald"] = _mean(committee.bald(known_MKC, kind="classification"))
    entropy_HW = pixels.score_maps(mean_HWC[np.newaxis], score="entropy")[0]
    stacked = np.concatenate([mean_HWC, entropy_HW[..., np.newaxis], np.ones((height, width, 1))], axis=-1)
    stacked[~known_HW] = 0.0
    cells = pixels.cell_means(stacked, rows=min(GRID, height), columns=min(GRID, width))
    cells = cells[..., :-1] / np.maximum(cells[..., -1:], 1e-12)
    return PixelSummary(
        scores=scores,
        presence_C=cells[..., :-1].reshape(-1, class_count).max(axis=0).astype(np.float32),
        share_C=(stacked[..., :class_count].sum(axis=(0, 1)) / max(1, known_HW.sum())).astype(np.float32),
        entropy_grid=_enlarged(cells[..., -1].astype(np.float32)),
        mask_key=mask_key,
    )


def _mean(values: NDArray[np.float32]) -> float:
    return float(values.mean()) if len(values) else 0.0


def _enlarged(grid: NDArray[np.float32]) -> NDArray[np.float32]:
    """A grid of a tiny map at full size: its cells repeated."""
    row_of, column_of = (np.arange(GRID) * side // GRID for side in grid.shape)
    enlarged: NDArray[np.float32] = grid[row_of][:, column_of]
    return enlarged


def _table(
    probability_NC: NDArray[np.float32],
    scores: dict[str, NDArray[np.float32]],
    *,
    valid_N: NDArray[np.bool_],
    start: int,
    kind: str,
    classes: Sequence[str],
) -> pa.Table:
    """The columns that all kinds have; `scores` are those of the valid rows."""
    import pyarrow as pa

    columns = {
        "row": pa.array(np.arange(start, start + len(valid_N), dtype=np.int64)),
        "probability": _fixed(probability_NC.astype(np.float32), valid_N),
    }
    for name, score_V in scores.items():
        score_N = np.full(len(valid_N), np.nan, dtype=np.float32)
        score_N[valid_N] = score_V
        columns[name] = pa.array(score_N, mask=np.isnan(score_N))
    metadata = {"task_kind": kind, "classes": json.dumps(list(classes), ensure_ascii=False)}
    return pa.table(columns).replace_schema_metadata(metadata)


def _fixed(values_ND: NDArray[np.generic], valid_N: NDArray[np.bool_]) -> pa.Array:
    import pyarrow as pa

    mask = None if valid_N.all() else pa.array(~valid_N)
    return pa.FixedSizeListArray.from_arrays(pa.array(values_ND.reshape(-1)), values_ND.shape[1], mask=mask)


def _box_columns(
    seen: FrameBoxes, order: NDArray[np.int64], *, valid_N: NDArray[np.bool_], with_members: bool
) -> dict[str, pa.Array]:
    import pyarrow as pa

    count_N = np.bincount(seen.frame_B, minlength=len(valid_N))
    offsets = pa.array(np.concatenate([[0], np.cumsum(count_N)]).astype(np.int32))
    mask = pa.array(~valid_N)
    every_B = np.ones(len(order), dtype=bool)
    values = {
        "box_xyxy_px": _fixed(seen.xyxy_px_B4[order].astype(np.float32), every_B),
        "box_class": pa.array(seen.class_B[order].astype(np.int32)),
        "box_confidence": pa.array(seen.confidence_B[order].astype(np.float32)),
    }
    if seen.probability_BC is not None:
        values["box_probability"] = _fixed(seen.probability_BC[order].astype(np.float32), every_B)
    if with_members:
        values["box_member"] = pa.array(seen.member_B[order].astype(np.int16))
    return {name: pa.ListArray.from_arrays(offsets, one, mask=mask) for name, one in values.items()}
