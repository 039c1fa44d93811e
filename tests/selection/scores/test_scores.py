"""Scores against hand-computed cases and what must hold for any input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from infra.errors import InvalidInput
from selection.ranking import acquisition
from selection.ranking.acquisition import ProbabilityKind
from selection.scores import boxes, calibration, committee, gradients, label_errors, pixels

any_weights = npst.arrays(
    np.float64,
    st.tuples(st.integers(2, 4), st.integers(0, 5), st.integers(1, 4)),
    elements=st.floats(0, 1, width=32),
)
any_values = npst.arrays(np.float64, st.integers(0, 30), elements=st.floats(-1e6, 1e6) | st.just(np.nan))


def _probabilities(weights: NDArray[np.float64], kind: ProbabilityKind) -> NDArray[np.float64]:
    if kind == "multilabel":
        return weights
    positive = weights + 1e-3
    return positive / positive.sum(axis=-1, keepdims=True)


def _brute_force_gradient(p: NDArray[np.float64]) -> float:
    return float(sum(p[y] * np.linalg.norm(p - np.eye(len(p))[y]) for y in range(len(p))))


@pytest.mark.parametrize("kind", ["classification", "multilabel"])
@given(weights=any_weights)
def test_bald_is_in_the_unit_interval_and_zero_where_all_agree(
    kind: ProbabilityKind, weights: NDArray[np.float64]
) -> None:
    opinions = _probabilities(weights, kind)
    score = committee.bald(opinions, kind=kind)
    assert score.dtype == np.float32
    assert score.shape == opinions.shape[1:2]
    assert np.all((score >= 0) & (score <= 1))
    agreed = np.repeat(opinions[:1], 3, axis=0)
    assert committee.bald(agreed, kind=kind) == pytest.approx(np.zeros(len(score)), abs=1e-6)
    assert committee.bald(opinions[::-1], kind=kind) == pytest.approx(score, abs=1e-6)


def test_bald_prefers_sure_and_divided_opinions_to_shared_doubt() -> None:
    divided = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    doubtful = np.full((2, 1, 2), 0.5)
    for kind in ("classification", "multilabel"):
        assert committee.bald(divided, kind=kind) == pytest.approx([1.0])
        assert committee.bald(doubtful, kind=kind) == pytest.approx([0.0])


def test_bald_needs_two_opinions() -> None:
    with pytest.raises(InvalidInput, match="two or more"):
        committee.bald(np.full((1, 3, 2), 0.5), kind="multilabel")


@given(weights=any_weights)
def test_expected_gradient_length_is_the_sum_over_the_answers(weights: NDArray[np.float64]) -> None:
    p_NC = _probabilities(weights, "classification")[0]
    classes = p_NC.shape[1]
    score = gradients.expected_gradient_length(p_NC, kind="classification")
    largest = np.sqrt(1 - 1 / classes) if classes > 1 else 1.0
    assert score == pytest.approx([_brute_force_gradient(p) / largest for p in p_NC], abs=1e-5)


def test_expected_gradient_length_of_sigmoids_is_the_root_of_the_expected_square() -> None:
    p = np.array([0.2, 0.7, 0.5])
    answers = np.array([[(i >> bit) & 1 for bit in range(3)] for i in range(8)])
    chance = np.prod(np.where(answers == 1, p, 1 - p), axis=1)
    expected = np.sqrt((chance * ((p - answers) ** 2).sum(axis=1)).sum()) / (np.sqrt(3) / 2)
    assert gradients.expected_gradient_length(p[np.newaxis], kind="multilabel") == pytest.approx([expected], abs=1e-6)


def test_larger_features_move_the_last_layer_further() -> None:
    p_NC = np.full((4, 2), 0.5)
    score = gradients.expected_gradient_length(p_NC, kind="multilabel", feature_rms_N=np.array([0.0, 1.0, 3.0, np.inf]))
    assert score == pytest.approx([0.0, 0.5, 0.75, 1.0])
    with pytest.raises(InvalidInput, match="features"):
        gradients.expected_gradient_length(p_NC, kind="multilabel", feature_rms_N=np.ones(3))
    with pytest.raises(InvalidInput, match="features"):
        gradients.expected_gradient_length(p_NC, kind="multilabel", feature_rms_N=np.array([1.0, 1.0, 1.0, np.nan]))


def test_boxes_are_put_together() -> None:
    p_BC = np.array([[0.5, 0.0], [1.0, 0.0], [0.75, 0.0]])  # Margins 1, 0 and 0.5.
    of_frame = np.array([2, 0, 2])
    scored = {
        how: boxes.frame_scores(p_BC, of_frame, frame_count=4, aggregation=how).tolist() for how in boxes.AGGREGATIONS
    }
    assert scored["max"] == pytest.approx([0, 0, 1, 0])
    assert scored["mean"] == pytest.approx([0, 0, 0.75, 0])
    assert scored["sum"] == pytest.approx([0, 0, 1.5 / 2.5, 0])


@pytest.mark.parametrize("aggregation", boxes.AGGREGATIONS)
@pytest.mark.parametrize("score", acquisition.SCORES)
@given(data=st.data(), p_BC=npst.arrays(np.float64, st.tuples(st.integers(0, 9), st.just(3)), elements=st.floats(0, 1)))
def test_box_scores_stay_in_the_unit_interval_and_do_not_mind_the_order(
    aggregation: boxes.BoxAggregation, score: str, data: st.DataObject, p_BC: NDArray[np.float64]
) -> None:
    of_frame = data.draw(npst.arrays(np.int64, len(p_BC), elements=st.integers(0, 3)))
    order = data.draw(st.permutations(range(len(p_BC))))
    result = boxes.frame_scores(p_BC, of_frame, frame_count=4, score=score, aggregation=aggregation)
    assert np.all((result >= 0) & (result <= 1))
    shuffled = boxes.frame_scores(p_BC[order], of_frame[order], frame_count=4, score=score, aggregation=aggregation)
    assert shuffled == pytest.approx(result, abs=1e-6)
    assert np.all(result[np.bincount(of_frame, minlength=4) == 0] == 0)


@pytest.mark.parametrize(
    ("of_frame", "options", "message"),
    [
        ([0, 9], {}, "outside"),
        ([0], {}, "2 boxes"),
        ([0, 1], {"score": "bald"}, "bald"),
        ([0, 1], {"aggregation": "median"}, "median"),
    ],
)
def test_boxes_that_cannot_be_are_refused(of_frame: list[int], options: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        boxes.frame_scores(np.full((2, 2), 0.5), np.array(of_frame), frame_count=2, **options)  # type: ignore[arg-type]


def test_boxes_that_contradict_the_label() -> None:
    labelled = np.array([[0, 0, 10, 10]])
    same, elsewhere = np.array([[0, 0, 10, 9]]), np.array([[50, 50, 60, 60]])
    car = np.array([0])
    disagree = boxes.label_disagreement
    assert disagree(same, np.array([[0.9, 0.0]]), labelled, car) == pytest.approx(0.05)
    assert disagree(same, np.array([[0.1, 0.9]]), labelled, car) == pytest.approx(0.9), "swapped"
    both = np.concatenate([same, elsewhere])
    assert disagree(both, np.array([[0.9, 0.0], [0.0, 0.8]]), labelled, car) == pytest.approx(0.8), "overlooked"
    assert disagree(np.empty((0, 4)), np.empty((0, 2)), labelled, car) == pytest.approx(1.0), "superfluous"
    assert disagree(np.empty((0, 4)), np.empty((0, 2)), np.empty((0, 4)), np.empty(0, dtype=int)) == 0.0


def test_pixels_are_put_together() -> None:
    p_NHWC = np.zeros((1, 4, 5, 2))
    p_NHWC[..., 0] = 1.0
    p_NHWC[0, 0, 0] = 0.5  # One pixel of twenty is in doubt.
    assert pixels.frame_scores(p_NHWC) == pytest.approx([1 / 20])
    assert pixels.frame_scores(p_NHWC, aggregation="top", top_share=0.05) == pytest.approx([1.0])
    assert pixels.frame_scores(p_NHWC, aggregation="top", top_share=0.1) == pytest.approx([0.5])
    ignored = np.zeros((1, 4, 5), dtype=bool)
    ignored[0, 0] = True
    assert pixels.frame_scores(p_NHWC, ignore_NHW=ignored) == pytest.approx([0.0])
    assert pixels.frame_scores(p_NHWC, ignore_NHW=np.ones((1, 4, 5), dtype=bool), aggregation="top") == 0.0
    grid = pixels.grid_scores(p_NHWC, rows=2, columns=2)
    assert grid[0] == pytest.approx(np.array([[1 / 4, 0.0], [0.0, 0.0]]))


@given(
    weights=npst.arrays(
        np.float64,
        st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(1, 5), st.integers(2, 3)),
        elements=st.floats(0, 1, width=32),
    ),
    share=st.floats(0.01, 1.0),
)
def test_pixel_scores_hold_together(weights: NDArray[np.float64], share: float) -> None:
    p_NHWC = _probabilities(weights, "classification")
    mean = pixels.frame_scores(p_NHWC)
    top = pixels.frame_scores(p_NHWC, aggregation="top", top_share=share)
    assert np.all((mean >= 0) & (mean <= top + 1e-6) & (top <= 1))
    assert pixels.frame_scores(p_NHWC, aggregation="top", top_share=1.0) == pytest.approx(mean, abs=1e-6)
    whole = pixels.grid_scores(p_NHWC, rows=1, columns=1)
    assert whole[:, 0, 0] == pytest.approx(mean, abs=1e-6)
    finest = pixels.grid_scores(p_NHWC, rows=p_NHWC.shape[1], columns=p_NHWC.shape[2])
    assert finest == pytest.approx(np.stack(pixels.score_maps(p_NHWC, score="entropy")), abs=1e-6)


def test_masks_that_contradict_the_label() -> None:
    p_NHWC = np.zeros((2, 2, 2, 2))
    p_NHWC[..., 0] = 1.0
    label = np.zeros((2, 2, 2), dtype=np.int64)
    label[1, 0, 0] = 1
    assert pixels.label_disagreement(p_NHWC, label) == pytest.approx([0.0, 1.0])
    assert pixels.label_disagreement(p_NHWC, label, top_share=0.5) == pytest.approx([0.0, 0.5])
    assert pixels.label_disagreement(p_NHWC, np.full_like(label, -1)) == pytest.approx([0.0, 0.0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: pixels.frame_scores(p, aggregation="median"), "median"),
        (lambda p: pixels.frame_scores(p, score="bald"), "bald"),
        (lambda p: pixels.frame_scores(p, top_share=0.0), "share"),
        (lambda p: pixels.frame_scores(p[0]), "shape"),
        (lambda p: pixels.frame_scores(p, ignore_NHW=np.zeros((1, 1, 1), dtype=bool)), "ignore"),
        (lambda p: pixels.grid_scores(p, rows=9, columns=1), "grid"),
        (lambda p: pixels.label_disagreement(p, np.zeros((1, 1, 1), dtype=int)), "masks"),
    ],
)
def test_pixels_that_cannot_be_are_refused(call: object, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        call(np.full((1, 4, 5, 2), 0.5))  # type: ignore[operator]


def test_label_errors_of_a_classification() -> None:
    p_NC = np.array([[0.9, 0.1, 0.0], [0.1, 0.8, 0.1], [0.3, 0.4, 0.3]])
    label_NC = np.eye(3, dtype=bool)[[0, 0, 1]]
    kind: ProbabilityKind = "classification"
    assert label_errors.self_confidence_error(p_NC, label_NC, kind=kind) == pytest.approx([0.1, 0.9, 0.6])
    assert label_errors.normalised_margin_error(p_NC, label_NC, kind=kind) == pytest.approx([0.1, 0.85, 0.45])
    assert label_errors.likely_errors(p_NC, label_NC, kind=kind).tolist() == [False, True, False]


def test_label_errors_of_independent_answers() -> None:
    p_NC = np.array([[0.9, 0.1], [0.8, 0.95], [0.2, 0.9], [0.1, 0.1]])
    label_NC = np.array([[True, False], [True, False], [False, True], [True, False]])
    kind: ProbabilityKind = "multilabel"
    expected = pytest.approx([0.1, 0.95, 0.2, 0.9])
    assert label_errors.self_confidence_error(p_NC, label_NC, kind=kind) == expected
    assert label_errors.normalised_margin_error(p_NC, label_NC, kind=kind) == expected
    assert label_errors.likely_errors(p_NC, label_NC, kind=kind).tolist() == [False, True, False, True]


@pytest.mark.parametrize("kind", ["classification", "multilabel"])
@given(weights=any_weights, data=st.data())
def test_label_error_scores_stay_in_the_unit_interval(
    kind: ProbabilityKind, weights: NDArray[np.float64], data: st.DataObject
) -> None:
    p_NC = _probabilities(weights, kind)[0]
    if kind == "classification":
        classes = data.draw(npst.arrays(np.int64, len(p_NC), elements=st.integers(0, p_NC.shape[1] - 1)))
        label_NC = np.eye(p_NC.shape[1], dtype=bool)[classes]
    else:
        label_NC = data.draw(npst.arrays(np.bool_, p_NC.shape))
    for score in (label_errors.self_confidence_error, label_errors.normalised_margin_error):
        result = score(p_NC, label_NC, kind=kind)
        assert result.dtype == np.float32
        assert np.all((result >= 0) & (result <= 1))
    assert label_errors.likely_errors(p_NC, label_NC, kind=kind).shape == (len(p_NC),)


def test_labels_that_cannot_be_are_refused() -> None:
    with pytest.raises(InvalidInput, match="exactly one"):
        label_errors.self_confidence_error(np.full((1, 2), 0.5), np.ones((1, 2), dtype=bool), kind="classification")
    with pytest.raises(InvalidInput, match="do not fit"):
        label_errors.self_confidence_error(np.full((1, 2), 0.5), np.ones((2, 2), dtype=bool), kind="multilabel")


@given(values=any_values)
def test_ranks_keep_the_order_and_share_ties(values: NDArray[np.float64]) -> None:
    rank = calibration.ranks(values)
    known = ~np.isnan(values)
    assert np.all((rank >= 0) & (rank <= 1))
    assert np.all(rank[~known] == 0)
    if known.any():
        assert rank[known].mean() == pytest.approx(0.5, abs=1e-5)
    low, high = np.meshgrid(np.flatnonzero(known), np.flatnonzero(known))
    assert np.all((values[low] < values[high]) == (rank[low] < rank[high]))
    assert calibration.ranks(values, lowest_first=True)[known] == pytest.approx(1 - rank[known], abs=1e-6)
    scaled = calibration.ranks(np.where(known, 3.0 * values - 7.0, np.nan))
    separate = known & (np.abs(values) > 1e-3)
    if separate.all():
        assert scaled == pytest.approx(rank, abs=1e-6)


def test_scores_are_weighed() -> None:
    one, other = np.array([0.0, 1.0], dtype=np.float32), np.array([1.0, 0.5], dtype=np.float32)
    assert calibration.weighted_mean([one, other], [3.0, 1.0]) == pytest.approx([0.25, 0.875])
    for weights in ([1.0], [1.0, 0.0], [1.0, -1.0]):
        with pytest.raises(InvalidInput, match="weight"):
            calibration.weighted_mean([one, other], weights)


@given(values=any_values)
def test_ranks_against_counting(values: NDArray[np.float64]) -> None:
    known = values[~np.isnan(values)]
    rank = calibration.ranks(values)
    for value, got in zip(values, rank, strict=True):
        if np.isnan(value):
            continue
        ties = int((known == value).sum()) - 1
        expected = (int((known < value).sum()) + ties / 2) / (len(known) - 1) if len(known) > 1 else 0.5
        assert got == pytest.approx(expected, abs=1e-6)


any_two_scores = npst.arrays(np.float64, st.tuples(st.just(2), st.integers(2, 20)), elements=st.integers(-50, 50))


@given(scores=any_two_scores, weight=st.floats(0.01, 100))
def test_combined_ranks_do_not_mind_the_scales_and_keep_who_is_better_at_everything(
    scores: NDArray[np.float64], weight: float
) -> None:
    def combined(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float32]:
        return calibration.weighted_mean([calibration.ranks(one), calibration.ranks(other)], [weight, 1.0])

    one, other = scores
    result = combined(one, other)
    assert np.all((result >= 0) & (result <= 1))
    assert combined(np.exp(one / 10), other**3) == pytest.approx(result, abs=1e-6)
    better = (one[:, None] >= one) & (other[:, None] >= other) & ((one[:, None] > one) | (other[:, None] > other))
    assert np.all((result[:, None] > result - 1e-6)[better])
    order = np.arange(len(one))[::-1]
    assert combined(one[order], other[order]) == pytest.approx(result[order], abs=1e-6)


@pytest.mark.parametrize("kind", ["classification", "multilabel"])
def test_a_label_unlike_its_neighbours_against_a_plain_loop(
    kind: ProbabilityKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_errors, "_BLOCK", 7)
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(30, 5))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    label_NC = np.eye(3, dtype=bool)[rng.integers(0, 3, 30)] if kind == "classification" else rng.random((30, 3)) < 0.4
    got = label_errors.neighbour_error(vectors, label_NC, kind=kind, neighbours=4)
    for row in range(30):
        others = sorted(
            (other for other in range(30) if other != row), key=lambda other: -vectors[row] @ vectors[other]
        )
        share_C = (label_NC[others[:4]].sum(axis=0) + label_NC.mean(axis=0)) / 5
        believed = share_C[label_NC[row]] if kind == "classification" else np.where(label_NC[row], share_C, 1 - share_C)
        assert got[row] == pytest.approx(1 - believed.min(), abs=1e-5)


def test_neighbours_of_few_frames() -> None:
    for count in range(3):
        vectors, label_NC = np.ones((count, 1)), np.ones((count, 2), dtype=bool)
        assert label_errors.neighbour_error(vectors, label_NC, kind="multilabel").tolist() == [0.0] * count
    with pytest.raises(InvalidInput, match="do not fit"):
        label_errors.neighbour_error(np.ones((2, 1)), np.ones((3, 2), dtype=bool), kind="multilabel")


@pytest.mark.parametrize("kind", ["classification", "multilabel"])
@given(weights=any_weights)
def test_bald_against_plain_sums(kind: ProbabilityKind, weights: NDArray[np.float64]) -> None:
    def entropy(p: float) -> float:
        return -p * np.log(p) if p > 0 else 0.0

    def of(row: NDArray[np.float64]) -> float:
        return sum(entropy(p) + (entropy(1 - p) if kind == "multilabel" else 0.0) for p in row.tolist())

    opinions = _probabilities(weights, kind)
    classes = opinions.shape[2]
    score = committee.bald(opinions, kind=kind)
    for frame in range(opinions.shape[1]):
        gain = of(opinions[:, frame].mean(axis=0)) - np.mean([of(one) for one in opinions[:, frame]])
        scale = classes * np.log(2) if kind == "multilabel" else np.log(classes) if classes > 1 else np.inf
        assert score[frame] == pytest.approx(gain / scale, abs=1e-5)


@pytest.mark.parametrize("name", acquisition.SCORES)
def test_nan_and_one_class(name: str) -> None:
    score = acquisition.SCORES[name]
    for kind in ("classification", "multilabel"):
        with pytest.raises(InvalidInput, match="between 0 and 1"):
            score(np.array([[np.nan, 1.0]]), kind=kind)
    assert score(np.ones((2, 1)), kind="classification").tolist() == [0.0, 0.0], "one answer is no question"
    assert score(np.array([[0.5]]), kind="multilabel") == pytest.approx([1.0])
