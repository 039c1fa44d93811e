"""Plans: read strictly, carried out stage by stage, repeatable, each choice with its reason."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from infra import database as documents
from infra.database import Db
from infra.errors import InvalidInput, NotFound
from selection.near_duplicates.duplicates import near_duplicate_groups
from selection.planning import constraints, plan, saved_plans, selecting, spreading
from selection.planning.plan import METHODS, NearDuplicates
from selection.planning.selecting import Selection

ROWS = 60
NONE = np.empty(0, dtype=np.int64)


def unit_vectors(count: int, dimension: int = 8, seed: int = 3) -> NDArray[np.float32]:
    values = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


@dataclass(kw_only=True)
class Fleet:
    """Sixty rows: the later the row the less sure the model, ten of each drive, every fifth by night."""

    vectors_ND: NDArray[np.float32] = field(default_factory=lambda: unit_vectors(ROWS))
    valid: NDArray[np.bool_] = field(default_factory=lambda: np.ones(ROWS, dtype=bool))
    columns: dict[str, NDArray[np.float64] | None] = field(
        default_factory=lambda: {
            "entropy": np.linspace(0, 1, ROWS),
            "column:speed": np.linspace(100, 0, ROWS),
        }
    )
    surveyed: NDArray[np.int64] | None = None
    dark: frozenset[int] = frozenset()

    def scores(self, name: str, rows: NDArray[np.int64]) -> NDArray[np.floating] | None:
        if name not in self.columns:
            raise InvalidInput(f"no score {name!r}")
        column = self.columns[name]
        return None if column is None else column[rows]

    def embedded(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        return self.valid[rows]

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.vectors_ND[rows]

    def codes(self, key: str) -> tuple[NDArray[np.int32], tuple[str, ...]]:
        rows = np.arange(ROWS, dtype=np.int32)
        if key == "drive":
            return rows // 10, tuple(f"d{i}" for i in range(6))
        if key == "timeofday":
            return np.where(rows % 5 == 0, 1, 0).astype(np.int32), ("day", "night")
        raise InvalidInput(f"no key {key!r}")

    def likeness(self) -> float:
        return 0.999

    def surveyed_groups(
        self, rows: NDArray[np.int64], how: NearDuplicates, *, threshold: float
    ) -> NDArray[np.int64] | None:
        return None if self.surveyed is None else self.surveyed[rows]

    def groups(self, rows: NDArray[np.int64], how: NearDuplicates, *, threshold: float) -> NDArray[np.int64]:
        priority = self.preference(rows)
        return near_duplicate_groups(self.vectors_ND[rows], threshold=threshold, priority_N=priority).keeper_N

    def preference(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        place = np.empty(len(rows), dtype=np.int64)
        place[np.argsort(np.where(rows == 58, -1, rows))] = np.arange(len(rows))
        return place

    def blank(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.isin(rows, list(self.dark))


def choose(fleet: Fleet | None = None, *, taken: NDArray[np.int64] = NONE, **fields: Any) -> Selection:
    pool = np.setdiff1d(np.arange(ROWS), taken)
    return selecting.select(plan.parse({"version": 1, **fields}), pool=pool, taken=taken, sources=fleet or Fleet())


def rows_of(selection: Selection) -> list[int]:
    return [choice.row for choice in selection.choices]


def test_without_diversity_the_least_sure_come_first_with_score_and_rank() -> None:
    found = choose(budget=3, diversity="none")
    assert rows_of(found) == [59, 58, 57]
    assert found.choices[0].reason == "entropy 1.00 (rank 1 of 60)"
    assert found.choices[0].score == pytest.approx(1.0)
    assert not found.spread
    assert [(stage.name, stage.frames) for stage in found.stages] == [("pool", 60), ("scored", 60), ("chosen", 3)]


@pytest.mark.parametrize("method", [method for method in METHODS if method != "none"])
def test_diversity_picks_among_the_best_and_says_why(method: str) -> None:
    fields = {"budget": 4, "diversity": {"method": method, "candidates": 3}, "seed": 5}
    found = choose(taken=np.array([0, 1]), **fields)
    assert found.spread
    assert len(set(rows_of(found))) == 4
    assert min(rows_of(found)) >= 48, "among the best 12 of 58"
    assert found == choose(taken=np.array([0, 1]), **fields), "the same again"
    assert ", then " in found.choices[0].reason


def test_several_scores_are_weighed_by_rank() -> None:
    both = [{"score": "entropy", "weight": 1}, {"score": "column:speed", "weight": 3}]
    found = choose(budget=2, diversity="none", scores=both)
    assert rows_of(found) == [0, 1], "speed outweighs entropy, and runs the other way"
    assert found.choices[0].reason == "entropy 0.00, column:speed 100.00, together 0.75 (rank 1 of 60)"
    assert found.choices[0].terms == {"entropy": 0.0, "column:speed": 100.0}
    both[1]["order"] = "lowest"
    assert rows_of(choose(budget=2, diversity="none", scores=both)) == [59, 58]


def test_a_row_without_any_score_only_fills_up() -> None:
    fleet = Fleet()
    fleet.columns["entropy"] = np.where(np.arange(ROWS) < 3, np.linspace(0, 1, ROWS), np.nan)
    found = choose(fleet, budget=5, diversity="none")
    assert rows_of(found)[:3] == [2, 1, 0]
    assert found.choices[3].reason == "drawn at random, not seen by the model yet"
    assert found.choices[3].score is None
    fleet.columns["entropy"] = np.full(ROWS, np.nan)
    with pytest.raises(InvalidInput, match="mlpl predict"):
        choose(fleet, budget=5)


@pytest.mark.parametrize("method", METHODS)
def test_where_few_have_a_score_all_of_them_are_taken_and_the_rest_is_spread(method: str) -> None:
    entropy = np.full(ROWS, np.nan)
    entropy[[3, 17, 40]] = [0.2, 0.9, 0.5]
    valid = np.arange(ROWS) != 17
    found = choose(Fleet(columns={"entropy": entropy}, valid=valid), budget=8, diversity=method)
    assert rows_of(found)[:3] == [17, 40, 3]
    assert found.choices[1].reason == "entropy 0.50 (rank 2 of 3)"
    assert len(set(rows_of(found))) == 8
    if method != "none":
        assert found.choices[3].reason.startswith("drawn at random, not seen by the model yet, then ")


def test_numbers_that_differ_by_little_are_ranked_as_they_are() -> None:
    found = choose(
        Fleet(columns={"column:unix_s": 1_772_000_000 + np.arange(float(ROWS))}),
        budget=3,
        diversity="none",
        scores="column:unix_s",
    )
    assert rows_of(found) == [59, 58, 57]
    assert found.choices[0].reason == "column:unix_s 1772000059.00 (rank 1 of 60)"


@pytest.mark.parametrize(
    ("score", "remedy"),
    [
        ("entropy", "mlpl predict"),
        ("column:rarity", "mlpl survey"),
        ("column:novelty", "once some are labelled"),
        ("column:speed", "choose frames that have speed"),
        ("concept:trams", "mlpl embed"),
    ],
)
def test_where_no_frame_has_the_score_the_message_says_what_makes_it(score: str, remedy: str) -> None:
    with pytest.raises(InvalidInput, match=f"none of the 60 frames has a score of {score} yet; .*{remedy}"):
        choose(Fleet(columns={score: np.full(ROWS, np.nan)}), budget=3, scores=score)


def test_a_cold_start_is_spread_and_says_so() -> None:
    fleet = Fleet(columns={"entropy": None})
    found = choose(fleet, budget=3)
    assert [choice.score for choice in found.choices] == [None] * 3
    assert found.choices[0].reason == "no model yet, so drawn at random, then nearest the pool's centre"
    with pytest.raises(InvalidInput, match="mlpl embed"):
        choose(Fleet(valid=np.zeros(ROWS, dtype=bool)), budget=3)
    half = Fleet(valid=np.arange(ROWS) < 2)
    filled = choose(half, budget=4)
    assert set(rows_of(filled)[:2]) == {0, 1}
    assert filled.choices[2].reason.endswith("no vector yet")


@pytest.mark.parametrize("diversity", METHODS)
def test_frames_that_show_nothing_come_last(diversity: str) -> None:
    """The darkest are those that the model is least sure of, and in the cold start the farthest from all."""
    fleet = Fleet(dark=frozenset(range(50, 60)))
    fleet.vectors_ND[50:] = -fleet.vectors_ND[:50].mean(axis=0) / np.linalg.norm(fleet.vectors_ND[:50].mean(axis=0))
    for entropy in (np.linspace(0, 1, ROWS), None):
        fleet.columns["entropy"] = entropy
        assert max(rows_of(choose(fleet, budget=20, diversity=diversity))) < 50
        most = choose(fleet, budget=55, diversity=diversity)
        assert set(rows_of(most)[:50]) == set(range(50)), "all others first"
        assert "though it shows nothing" in most.choices[50].reason
        stages = choose(fleet, budget=20, diversity=diversity).stages
        assert "10 show nothing and come last" in next(one.note for one in stages if one.name == "scored")
    fleet.columns["entropy"] = np.linspace(0, 1, ROWS)
    by_column = choose(fleet, budget=5, diversity="none", scores=[{"score": "column:speed", "order": "lowest"}])
    assert rows_of(by_column) == [59, 58, 57, 56, 55], "who asks for a column may want just those"
    assert rows_of(choose(fleet, budget=1, where="", scores="random", seed=4)), "chance takes them as they come"


def test_a_picture_like_no_other_is_not_picked_first() -> None:
    vectors_ND = np.abs(unit_vectors(ROWS * 4, dimension=4))
    vectors_ND[200] = [-1, 0, 0, 0]
    fleet = Fleet(vectors_ND=vectors_ND, valid=np.ones(ROWS * 4, dtype=bool), columns={"entropy": None})
    pool = np.arange(ROWS * 4)
    plain = spreading.spread(
        "k_center_greedy", vectors_ND, NONE[:, np.newaxis], weight_N=np.ones(len(pool)), budget=5, seed=0
    )
    assert 200 in plain.picks
    found = selecting.select(plan.parse({"version": 1, "budget": 5}), pool=pool, taken=NONE, sources=fleet)
    assert 200 not in rows_of(found)
    assert found.stages[-1].note == "1 that resemble no other frame were set back"


def test_a_random_draw_stays_random_and_depends_on_the_seed_alone() -> None:
    drawn = [rows_of(choose(budget=6, scores="random", seed=seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("method", METHODS)
@settings(deadline=None, max_examples=40)
@given(
    budget=st.integers(1, 40),
    share=st.floats(0.05, 1.0),
    cap=st.integers(1, 12),
    seed=st.integers(0, 5),
    scores=st.sampled_from(["entropy", "random"]),
)
def test_quotas_and_caps_hold(method: str, budget: int, share: float, cap: int, seed: int, scores: str) -> None:
    found = choose(
        budget=budget,
        scores=scores,
        diversity=method,
        quotas={"timeofday": {"night": share}},
        caps={"drive": cap},
        seed=seed,
    )
    rows = np.array(rows_of(found))
    assert len(set(rows.tolist())) == len(rows) <= budget
    assert np.bincount(rows // 10, minlength=6).max() <= cap
    nights = int((rows % 5 == 0).sum())
    most_nights = 6 * min(cap, 2)
    assert nights >= min(int(np.ceil(share * budget - 1e-9)), most_nights)


def test_a_quota_is_named_in_the_reason_and_its_shortage_in_the_stages() -> None:
    found = choose(budget=20, diversity="none", quotas={"timeofday": {"night": 15}})
    assert sum("for the quota timeofday:night" in choice.reason for choice in found.choices) == 12
    stage = next(stage for stage in found.stages if stage.name == "quota timeofday:night")
    assert (stage.frames, stage.note) == (12, "15 wanted, 3 missing")
    with pytest.raises(InvalidInput, match=r"quotas\.timeofday\.dusk: .*day, night"):
        choose(quotas={"timeofday": {"dusk": 1}})


def test_of_near_duplicates_the_best_picture_stays_and_none_is_near_to_what_is_taken() -> None:
    fleet = Fleet()
    fleet.vectors_ND[59] = fleet.vectors_ND[58] = fleet.vectors_ND[57]
    fleet.vectors_ND[56] = fleet.vectors_ND[0]
    plain = {"budget": 3, "diversity": "none", "near_duplicates": {"threshold": 0.999}}
    found = choose(fleet, taken=np.array([0]), **plain)
    assert rows_of(found) == [58, 55, 54]  # Whatever the scores say: they are asked of those that are left.
    assert [(stage.name, stage.frames) for stage in found.stages[:3]] == [
        ("pool", 59),
        ("near_duplicates", 56),
        ("scored", 56),
    ]
    assert found.stages[1].note == "from likeness 0.999: 2 were near another, 1 near one that is taken"
    unsaid = choose(fleet, taken=np.array([0]), **plain | {"near_duplicates": {}})
    assert unsaid == found, "the fleet's likeness where the plan names none"
    kept = choose(fleet, taken=np.array([0]), **plain | {"near_duplicates": {"threshold": 0.999, "of_labelled": False}})
    assert rows_of(kept) == [58, 56, 55]
    few = choose(fleet, **plain | {"near_duplicates": {"threshold": 0.999, "among": 4}})
    assert len(few.choices) <= 4
    assert "56 others were not looked at" in few.stages[1].note


def test_groups_that_were_surveyed_are_not_compared_again() -> None:
    surveyed = Fleet(surveyed=np.arange(ROWS) // 2)
    found = choose(surveyed, budget=3, diversity="none", near_duplicates={})
    assert rows_of(found) == [58, 56, 54]
    assert rows_of(choose(surveyed, budget=3, diversity="none", near_duplicates={}, taken=np.array([59]))) == [
        56,
        54,
        52,
    ]


def test_caps_count_what_was_chosen_before() -> None:
    codes = {"drive": np.array([0, 0, 0, 1, -1, -1], dtype=np.int32)}
    order = np.array([2, 1, 3, 5, 4])
    left = constraints.within_caps(codes, {"drive": 2}, taken=np.array([0]), order=order)
    assert left.tolist() == [2, 3, 5, 4]


def test_k_means_plus_plus_prefers_long_rows_and_repeats() -> None:
    pool = unit_vectors(50)
    weights = np.full(50, 1e-6, dtype=np.float32)
    weights[[7, 9, 30]] = 1.0
    picks, distances = spreading.k_means_plus_plus(pool, weights, budget=3, seed=1)
    assert sorted(picks.tolist()) == [7, 9, 30]
    assert np.all(distances > 0.1)
    again, _ = spreading.k_means_plus_plus(pool, weights, budget=3, seed=1)
    assert again.tolist() == picks.tolist()
    alike, gaps = spreading.k_means_plus_plus(
        np.repeat(pool[:1], 5, axis=0), np.ones(5, dtype=np.float32), budget=5, seed=0
    )
    assert sorted(alike.tolist()) == list(range(5))
    assert gaps[1:].tolist() == [0.0] * 4
    with pytest.raises(InvalidInput, match="weight"):
        spreading.k_means_plus_plus(pool, -weights, budget=3, seed=1)


def test_typicality_picks_the_middle_of_each_group_that_has_no_label() -> None:
    rng = np.random.default_rng(0)
    centres = np.eye(4, 8, dtype=np.float32)
    pool = np.concatenate([centre + 0.05 * rng.standard_normal((30, 8)) for centre in centres]).astype(np.float32)
    for group in range(4):
        pool[30 * group + 4] = centres[group]
    pool /= np.linalg.norm(pool, axis=1, keepdims=True)
    picks, sizes = spreading.typicality(pool, centres[:1], budget=3, seed=0)
    assert sorted((picks // 30).tolist()) == [1, 2, 3]
    assert sizes.tolist() == [30, 30, 30]
    nearest_centre = [float(pool[pick] @ centres[pick // 30]) for pick in picks]
    assert min(nearest_centre) > 0.99
    everything, _ = spreading.typicality(pool, centres[:0], budget=len(pool), seed=0)
    assert sorted(everything.tolist()) == list(range(len(pool)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no mapping"),
        ("budget: 3", "version is missing"),
        ("version: 2", "version: input should be 1"),
        ("version: 1\nbudgit: 3", "budgit: there is no such key"),
        ("version: 1\nbudget: many", "budget: "),
        ("version: 1\nbudget: true", "budget: "),
        ("version: 1\nscores: luck", r"scores\.0\.score: there is no score 'luck'"),
        ("version: 1\nscores: []", "scores: "),
        ("version: 1\nscores: [entropy, {score: margin, weight: -1}]", r"scores\.1\.weight: "),
        ("version: 1\nscores: [entropy, entropy]", "scores: 'entropy' is given twice"),
        ("version: 1\ndiversity: {method: luck}", r"diversity\.method: "),
        ("version: 1\nquotas: {timeofday: {night: 1.5}}", r"quotas\.timeofday\.night: "),
        ("version: 1\nquotas: {timeofday: {night: 0.7, day: 0.7}}", r"quotas\.timeofday: the shares add up to 1\.4"),
        ("version: 1\nquotas: {timeofday: {night: 200}}", r"quotas\.timeofday: 200 frames are asked for"),
        ("version: 1\ncaps: {drive: 0}", r"caps\.drive: "),
        ("version: 1\nwhere: 'night'", "where: filter, character 1"),
        ("version: 1\nexclude: ['a:b', 'c']", r"exclude\.1: filter, character 1"),
        ("version: 1\nevaluation: 101", "evaluation: of 100 frames"),
        ("version: 1\nname: Rainy Nights", "name: "),
        ("version: 1\nbudget: [", "not YAML: line 2"),
        ('{"version": 1 "budget": 2}', "not YAML: line 1"),
        ("version: 1\ndescription: 2026-02-30", "not YAML: a value cannot be read"),
        ("version: 1\nbudget: 0b_", "not YAML: a value cannot be read"),
        pytest.param('{"a":' * 3000, "nested too deep", id="deep JSON"),
        pytest.param("[" * 3000, "nested too deep", id="deep YAML"),
        ("version: 1\nquotas: {timeofday: {night: 101%}}", r"quotas\.timeofday\.night: "),
        ("version: 1\nquotas: {timeofday: {night: 0%}}", r"quotas\.timeofday\.night: "),
        ("version: 1\nquotas: {timeofday: {night: many}}", r"quotas\.timeofday\.night: "),
    ],
)
def test_a_wrong_plan_is_refused_by_the_path_of_the_field(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=f"^night.yaml.*{message}"):
        plan.read(text, source="night.yaml")


def test_a_plan_survives_being_written_down() -> None:
    text = "version: 1\nname: nights\nscores: [entropy, {score: bald, weight: 2}]\nquotas: {weather: {rain: 0.3, snow: 10}}\ncaps: {drive: 20}\n"
    read = plan.read(text)
    assert plan.parse(read.document()) == read
    assert plan.read(plan.render(read)) == read
    assert "seed" not in plan.render(read)
    assert isinstance(read.quotas["weather"]["snow"], int)
    assert (
        plan.read("{version: 1, budget: 5}")
        == plan.read('{"version": 1,\t"budget": 5}')
        == plan.read("version: 1\nbudget: 5")
    )
    short = plan.short_form(budget=5, acquisition="entropy, bald", diversity=None)
    assert [term.score for term in short.scores] == ["entropy", "bald"]
    assert short.diversity.method == "none"


def test_a_share_may_be_written_in_per_cent() -> None:
    said = plan.parse({"version": 1, "quotas": {"timeofday": {"night": "12.5%"}, "drive": {"d1": "100%"}}})
    assert said.quotas == {"timeofday": {"night": 0.125}, "drive": {"d1": 1.0}}
    assert said.document()["quotas"] == {"timeofday": {"night": 0.125}, "drive": {"d1": "100%"}}
    assert plan.parse(said.document()) == said
    assert isinstance(said.quotas["drive"]["d1"], float), "the whole, not one frame"


def test_saved_plans_keep_their_revisions(database: Db) -> None:
    documents.ensure_indexes(database, saved_plans.INDEXES)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    first = plan.parse({"version": 1, "name": "nights", "budget": 5})
    assert saved_plans.save(database, first, now=now).revision == 1
    assert saved_plans.save(database, first, now=now).revision == 1, "nothing changed"
    second = first.model_copy(update={"budget": 6})
    assert saved_plans.save(database, second, now=now).revision == 2
    assert saved_plans.get(database, "nights").plan == second
    assert [saved.revision for saved in saved_plans.list_all(database)] == [2]
    assert database.plans.count_documents({}) == 2
    one_frame = plan.parse({"version": 1, "name": "rain", "quotas": {"weather": {"rain": 1}}})
    all_frames = plan.parse({"version": 1, "name": "rain", "quotas": {"weather": {"rain": 1.0}}})
    assert [saved_plans.save(database, one, now=now).revision for one in (one_frame, all_frames, all_frames)] == [
        1,
        2,
        2,
    ]
    with pytest.raises(NotFound, match="days"):
        saved_plans.get(database, "days")
    with pytest.raises(InvalidInput, match="name"):
        saved_plans.save(database, plan.parse({"version": 1}), now=now)
