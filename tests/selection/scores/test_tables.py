"""Prediction shards of all kinds: what is in which column, and scores of boxes against plain loops."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from infra.errors import InvalidInput
from selection.ranking import acquisition
from selection.scores import boxes, committee, tables
from selection.scores.tables import FrameBoxes

CLASSES = ("car", "person", "truck")


def _boxes(frame: list[int], confidence: list[float], *, member: list[int] | None = None) -> FrameBoxes:
    count = len(frame)
    return FrameBoxes(
        frame_B=np.array(frame, dtype=np.int64),
        xyxy_px_B4=np.tile(np.array([0, 0, 10, 10], dtype=np.float32), (count, 1)) + np.arange(count)[:, None],
        class_B=np.arange(count) % 3,
        confidence_B=np.array(confidence, dtype=np.float32),
        probability_BC=None,
        member_B=np.array(member if member is not None else [0] * count, dtype=np.int64),
    )


def _naive_binary_entropy(p: float) -> float:
    return 0.0 if p in (0.0, 1.0) else float(-p * np.log2(p) - (1 - p) * np.log2(1 - p))


def test_a_detection_shard_holds_boxes_presence_and_scores() -> None:
    seen = _boxes([2, 0, 2], [0.5, 1.0, 0.25])
    valid = np.array([True, False, True, True])
    table = tables.of_boxes(seen, valid_N=valid, start=40, classes=CLASSES)
    assert table["row"].to_pylist() == [40, 41, 42, 43]
    assert table["probability"].to_pylist() == [[0, 1, 0], None, [0.5, 0, 0.25], [0, 0, 0]]
    assert table["box_confidence"].to_pylist() == [[1.0], None, [0.5, 0.25], []], "nothing found is not nothing known"
    assert table["box_class"].to_pylist() == [[1], None, [0, 2], []]
    assert table["box_xyxy_px"].to_pylist()[0] == [[1, 1, 11, 11]]
    assert table["margin"].to_pylist() == [0, None, 1, 0]
    assert table["margin_mean"].to_pylist() == [0, None, 0.75, 0]
    assert table["margin_sum"].to_pylist() == pytest.approx([0, None, 1.5 / 2.5, 0])
    assert table["entropy_mean"].to_pylist()[2] == pytest.approx((1 + _naive_binary_entropy(0.25)) / 2)
    assert set(table.column_names) >= set(acquisition.BOX_AGGREGATES)
    assert "bald" not in table.column_names
    metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert metadata["task_kind"] == "detection"
    assert json.loads(metadata["classes"]) == list(CLASSES)


def test_box_probabilities_are_read_where_there_are_some() -> None:
    seen = _boxes([0, 0], [0.9, 0.8])
    with_vectors = FrameBoxes(**{**seen.__dict__, "probability_BC": np.array([[0.9, 0, 0], [0, 0.8, 0.5]], np.float32)})
    table = tables.of_boxes(with_vectors, valid_N=np.ones(1, bool), start=0, classes=CLASSES)
    assert table["margin"].to_pylist() == pytest.approx([1.0]), "the second box may be a truck"
    assert table["probability"].to_pylist()[0] == pytest.approx([0.9, 0.8, 0.5])
    assert len(table["box_probability"].to_pylist()[0][1]) == 3


def test_a_frame_without_boxes_is_as_doubtful_as_what_was_cut_off() -> None:
    nothing = np.zeros((0, 1))
    of = np.zeros(0, dtype=int)
    for name in acquisition.SCORES:
        for how in boxes.AGGREGATIONS:
            got = [
                float(boxes.frame_scores(nothing, of, frame_count=1, score=name, aggregation=how, cut=cut)[0])
                for cut in (0.0, 0.05, 0.3, 0.5)
            ]
            assert got == sorted(got)
            assert got[0] == 0.0 < got[1]
    half = boxes.frame_scores(nothing, of, frame_count=1, aggregation="max", cut=0.5)
    assert half == pytest.approx([0.5], abs=1e-3), "the mean margin of confidences up to one half"
    sure = boxes.frame_scores(np.ones((1, 1)), np.zeros(1, int), frame_count=2, aggregation="max", cut=0.5)
    assert sure[0] == sure[1], "a sure box does not make the rest of its frame sure"
    with pytest.raises(InvalidInput, match="between 0 and 1"):
        boxes.frame_scores(nothing, of, frame_count=1, cut=1.5)


def test_thousands_of_boxes_are_told_from_hundreds() -> None:
    few, many = np.full((300, 1), 0.5), np.full((3000, 1), 0.5)
    frame = np.repeat([0, 1], [300, 3000])
    score = boxes.frame_scores(np.concatenate([few, many]), frame, frame_count=2, aggregation="sum")
    assert 0.99 < score[0] < score[1] < 1.0


@settings(max_examples=40)
@given(st.data())
def test_the_sum_orders_frames_like_the_plain_sum(data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 20))
    p_B1 = np.array(data.draw(st.lists(st.floats(0, 1), min_size=count, max_size=count))).reshape(-1, 1)
    frame_B = np.array(data.draw(st.lists(st.integers(0, 4), min_size=count, max_size=count)), dtype=int)
    cut = data.draw(st.floats(0, 0.5))
    score = boxes.frame_scores(p_B1, frame_B, frame_count=5, score="entropy", aggregation="sum", cut=cut)
    plain = [sum(_naive_binary_entropy(float(p)) for p in p_B1[frame_B == frame, 0]) for frame in range(5)]
    for one in range(5):
        for other in range(5):
            if plain[one] > plain[other] + 1e-4:
                assert score[one] > score[other]


def _naive_iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return float(shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared))


def _naive_box_bald(
    xyxy: NDArray[np.float64], p: NDArray[np.float64], member: NDArray[np.int64], *, member_count: int
) -> float:
    """One object after the other, surest box first; each member's nearest free box with half an overlap belongs to it."""
    free, worst = set(range(len(p))), 0.0
    while free:
        surest = max(sorted(free), key=lambda i: p[i].max())
        said = np.zeros((member_count, p.shape[1]))
        for one in range(member_count):
            near = [
                i
                for i in sorted(free)
                if member[i] == one and (i == surest or _naive_iou(xyxy[surest], xyxy[i]) >= 0.5)
            ]
            if near:
                best = surest if surest in near else max(near, key=lambda i: _naive_iou(xyxy[surest], xyxy[i]))
                said[one] = p[best]
                free.remove(best)
        mean = said.mean(axis=0)
        entropy_of_mean = sum(_naive_binary_entropy(float(q)) for q in mean)
        mean_entropy = np.mean([sum(_naive_binary_entropy(float(q)) for q in row) for row in said])
        worst = max(worst, (entropy_of_mean - float(mean_entropy)) / p.shape[1])
    return worst


@pytest.mark.parametrize("seed", range(8))
def test_disagreement_about_objects_against_a_plain_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, members, frame_count = 40, 3, 4
    corner = rng.uniform(0, 30, size=(count, 2))
    xyxy = np.concatenate([corner, corner + rng.uniform(10, 30, size=(count, 2))], axis=1)
    p = rng.random((count, 2))
    member, frame = rng.integers(0, members, count), rng.integers(0, frame_count - 1, count)
    got = committee.box_bald(xyxy, p, member, frame, member_count=members, frame_count=frame_count)
    for one in range(frame_count - 1):
        here = frame == one
        assert got[one] == pytest.approx(
            _naive_box_bald(xyxy[here], p[here], member[here], member_count=members), abs=1e-6
        )
    assert got[-1] == 0.0, "detectors that all see nothing agree"


def test_members_that_see_different_things_disagree() -> None:
    same = _boxes([0, 0, 1], [1.0, 1.0, 1.0], member=[0, 1, 0])
    table = tables.of_boxes(same, valid_N=np.ones(3, bool), start=0, classes=CLASSES, member_count=2)
    assert table["bald"].to_pylist() == pytest.approx([0.0, 1.0, 0.0]), "overlapping ones agree, a lone one is disputed"
    assert table["box_member"].to_pylist() == [[0, 1], [0], []]


def test_a_segmentation_shard_sums_up_the_pixels() -> None:
    p_HWC = np.zeros((16, 24, 3), dtype=np.float32)
    p_HWC[..., 0] = 1.0
    p_HWC[:2, :3] = [0.0, 1.0, 0.0]  # One cell of the 8 x 8 grid shows a person,
    p_HWC[-2:, -3:] = 1 / 3  # and one is anybody's guess.
    found = tables.summarise_pixels(p_HWC[np.newaxis], mask_key="predictions/masks/a.png")
    table = tables.of_pixels([None, found], start=0, classes=CLASSES)
    assert table["probability"].to_pylist() == [None, pytest.approx([1.0, 1.0, 1 / 3])]
    assert table["class_share"].to_pylist()[1] == pytest.approx([(384 - 12 + 2) / 384, 8 / 384, 2 / 384], abs=1e-6)
    assert table["entropy"].to_pylist() == [None, pytest.approx(6 / 384, abs=1e-6)]
    assert table["entropy_top"].to_pylist()[1] == pytest.approx(6 / 20, abs=1e-6)
    grid = np.array(table["entropy_grid"].to_pylist()[1]).reshape(8, 8)
    assert grid[7, 7] == 1.0
    assert grid.sum() == 1.0
    assert table["mask_key"].to_pylist() == [None, "predictions/masks/a.png"]
    assert set(table.column_names) >= set(acquisition.PIXEL_AGGREGATES)
    assert "bald" not in table.column_names


def test_passes_over_pixels_and_maps_smaller_than_the_grid() -> None:
    sure_HWC = np.zeros((2, 1, 2))
    sure_HWC[..., 0] = 1.0
    found = tables.summarise_pixels(np.stack([sure_HWC, sure_HWC[..., ::-1]]))
    assert found.scores["bald"] == pytest.approx(1.0)
    assert found.entropy_grid.shape == (8, 8)


def test_a_table_without_any_prediction_still_has_its_columns() -> None:
    for table in (
        tables.of_boxes(_boxes([], []), valid_N=np.zeros(2, bool), start=0, classes=CLASSES),
        tables.of_pixels([None, None], start=0, classes=CLASSES),
    ):
        assert table["entropy"].to_pylist() == [None, None]
        assert table["probability"].to_pylist() == [None, None]
