"""Surveys and novelties of small fleets: what they say, how rows join, and what is left of the ones before."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from infra import database as documents
from infra.errors import InvalidInput
from selection import shards
from selection.embedding.index import VectorIndex
from selection.fleet import frames
from selection.fleet.columns import Columns
from selection.near_duplicates import of_fleet
from selection.near_duplicates.duplicates import near_duplicate_groups
from selection.structure import novelty, survey
from tests.benchmarks.vectors import ClipLike
from tests.selection.conftest import ENCODER, Fleet


class Surveyed:
    """A fleet that grows, with its index and columns as of now."""

    def __init__(self, fleet: Fleet, rows: int) -> None:
        documents.ensure_indexes(fleet.platform.database, survey.INDEXES | novelty.INDEXES)
        self.fleet, self.platform = fleet, fleet.platform
        self.emb_ND = ClipLike(rows=rows, dimension=64).all()
        self.index = VectorIndex(fleet.platform, ENCODER)
        self.columns = Columns(fleet.platform.database)
        self.rows = 0

    def grow(self, count: int, **facts: Any) -> None:
        self.fleet.add(count, **facts)
        self.fleet.embed(self.rows, self.emb_ND[self.rows : self.rows + count])
        self.rows += count
        self.index.refresh()
        self.columns.refresh()

    def make(self, threshold: float | None = 0.95) -> survey.Survey:
        made = survey.make(self.platform, self.index, self.columns, text_emb=None, threshold=threshold)
        assert made is not None
        return made

    def values(self, made: survey.Survey) -> dict[str, NDArray[Any]]:
        values = survey.kept(self.platform, made)
        values.refresh()
        return {name: values.all(name) for name in survey.COLUMNS}

    def change(self, facts: dict[int, dict[str, Any]]) -> None:
        for row, changed in facts.items():
            changed_at = frames.to_the_millisecond(datetime.now(UTC))
            self.platform.database.frames.update_one({"row": row}, {"$set": {**changed, "changed_at": changed_at}})
        self.columns.refresh()

    def withdraw(self, row: int) -> None:
        frame_id = frames.by_rows(self.platform.database, [row])[0].frame_id
        frames.withdraw(self.platform.database, [frame_id], datetime.now(UTC))
        self.columns.refresh()

    def groups_of_five(self) -> None:
        """Makes each five rows near-duplicates of one another, and of nobody else."""
        self.emb_ND = np.repeat(np.eye(64, dtype=np.float32)[: len(self.emb_ND) // 5], 5, axis=0)


def test_a_survey_says_what_the_single_functions_say(fleet: Fleet) -> None:
    here = Surveyed(fleet, 600)
    sharpness = np.random.default_rng(0).uniform(1, 100, 600)
    hashes = [f"{i // 3 + 1:016x}" if i >= 590 else "0" * 16 for i in range(600)]
    here.grow(600, sharpness=sharpness.tolist(), perceptual_hash=hashes)
    made = here.make()
    assert survey.current(here.platform.database, ENCODER) == made
    values = here.values(made)
    priority = np.empty(600, dtype=np.int64)
    too_sharp = sharpness > np.percentile(sharpness, 95, method="lower")
    priority[np.lexsort((-sharpness, too_sharp))] = np.arange(600)
    alone = near_duplicate_groups(
        of_fleet.HalfVectors(here.index, np.arange(600)),
        hashes_N=np.array([int(one, 16) for one in hashes], dtype=np.uint64),
        priority_N=priority,
    )
    assert values["keeper"].tolist() == alone.keeper_N.tolist()
    assert 2 < len(alone.keepers) < 500
    assert (values["slice"] >= 0).all()
    assert values["slice"].max() < len(made.slices)
    assert np.isfinite(values["rarity"]).all()
    assert values["hash"][599] == int(hashes[599], 16)
    names = [one.name for one in made.slices]
    assert len(set(names)) == len(names)


def test_a_survey_says_from_where_frames_are_near_duplicates(fleet: Fleet) -> None:
    here = Surveyed(fleet, 400)
    here.emb_ND[:, 0] += 4.0  # All are alike.
    here.emb_ND /= np.linalg.norm(here.emb_ND, axis=1, keepdims=True)
    here.grow(400, drive=[f"drive-{i // 20}" for i in range(400)])
    made = here.make(threshold=None)
    expected = of_fleet.calibrated(here.index, here.columns)
    assert (made.threshold, made.threshold_basis) == (expected.threshold, expected.basis)
    assert made.threshold > 0.96
    assert "different drives" in made.threshold_basis
    assert survey.current(here.platform.database, ENCODER) == made


def test_a_broken_frame_does_not_stand_for_the_good_ones_around_it(fleet: Fleet) -> None:
    here = Surveyed(fleet, 60)
    here.emb_ND[:] = 0
    here.emb_ND[:, 0] = 1.0
    here.emb_ND[7, :2] = (
        np.cos(0.25),
        np.sin(0.25),
    )  # As like the others as near-duplicates are, but less so than they are.
    sharpness = [10.0] * 60
    sharpness[7] = 20.0
    here.grow(60, drive=["drive-1"] * 60, sharpness=sharpness)
    made = survey.make(here.platform, here.index, here.columns, text_emb=None, threshold=0.95)
    assert made is not None
    assert set(here.values(made)["keeper"].tolist()) == {0}
    assert of_fleet.quality_order(here.columns, np.arange(60))[7] == 0  # Its sharpness alone would have put it first.


def test_a_withdrawn_frame_stands_for_nobody(fleet: Fleet) -> None:
    here = Surveyed(fleet, 50)
    here.groups_of_five()
    here.grow(40, sharpness=list(range(40)), perceptual_hash=[f"{i // 5 + 1:x}" * 16 for i in range(40)])
    here.withdraw(9)
    made = here.make(threshold=0.9)
    values = here.values(made)
    assert values["keeper"][:10].tolist() == [4, 4, 4, 4, 4, 8, 8, 8, 8, 9]
    assert values["hash"][8:10].tolist() == [0x2222222222222222, 0]
    here.emb_ND[40:45] = here.emb_ND[5]  # Rows that come later do not gather around it either,
    here.emb_ND[45:] = here.emb_ND[0]
    here.withdraw(4)  # but around a keeper that was withdrawn since, for which another one of its group stands in.
    here.grow(10)
    survey.join(here.platform, made, here.index, here.columns)
    assert here.values(made)["keeper"][40:].tolist() == [8] * 5 + [4] * 5


def test_another_survey_of_the_same_rows_sees_what_changed(fleet: Fleet) -> None:
    here = Surveyed(fleet, 40)
    here.groups_of_five()
    here.grow(40)
    first = here.make(threshold=0.9)
    assert here.make(threshold=0.9).survey_id == first.survey_id
    here.change({row: {"sharpness": float(row), "underexposed": 0.0, "overexposed": 0.0} for row in range(40)})
    second = here.make(threshold=0.9)
    assert here.values(second)["keeper"][:10].tolist() == [4] * 5 + [9] * 5
    here.change({row: {"perceptual_hash": f"{1:016x}"} for row in range(40)})
    third = here.make(threshold=0.9)
    assert len(set(here.values(third)["keeper"].tolist())) == 1
    here.withdraw(int(here.values(third)["keeper"][0]))
    fourth = here.make(threshold=0.9)
    assert len({one.survey_id for one in (first, second, third, fourth)}) == 4


def test_a_file_of_a_survey_is_written_when_all_else_is_done(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    here, working = Surveyed(fleet, 60), survey._survey
    here.grow(60)

    def slow(*args: Any, **named: Any) -> None:
        # Surveying may take longer than files without a record are left alone.
        assert not list(here.platform.objects.list("surveys"))
        working(*args, **named)

    monkeypatch.setattr(survey, "_survey", slow)
    assert here.platform.objects.exists(here.make().object_key)


def test_rows_that_come_later_join_and_change_no_other(fleet: Fleet) -> None:
    here = Surveyed(fleet, 700)
    here.grow(500)
    made = here.make()
    before = here.values(made)
    here.grow(100)
    assert not survey.is_due(here.platform, made, rows=600)
    assert survey.join(here.platform, made, here.index, here.columns) == 100
    assert survey.join(here.platform, made, here.index, here.columns) == 0
    after = here.values(made)
    for name in survey.COLUMNS:
        assert np.array_equal(after[name][:500], before[name])
    keeper_N = after["keeper"]
    assert (keeper_N[keeper_N] == keeper_N).all()
    assert (np.einsum("nd,nd->n", here.emb_ND[:600], here.emb_ND[keeper_N]) > 0.949).all()
    kept = np.flatnonzero(keeper_N == np.arange(600))
    assert (here.emb_ND[kept] @ here.emb_ND[kept].T - np.eye(len(kept))).max() < 0.951
    here.grow(100)
    assert survey.is_due(here.platform, made, rows=700)
    again = here.make()
    assert again.rows == 700
    assert shards.row_total(here.platform.database, "surveys", made.survey_id) == 0
    assert survey.current(here.platform.database, ENCODER) == again


def test_frames_that_are_not_embedded_wait_and_unreadable_ones_have_no_slice(fleet: Fleet) -> None:
    here = Surveyed(fleet, 40)
    with pytest.raises(InvalidInput, match="mlpl embed"):
        here.make()
    fleet.add(30)
    valid = np.arange(20) != 5
    fleet.embed(0, here.emb_ND[:20], valid=valid)
    here.index.refresh()
    here.columns.refresh()
    values = here.values(here.make())
    assert len(values["keeper"]) == 20
    assert (values["slice"][5], values["keeper"][5]) == (-1, 5)
    assert np.isnan(values["rarity"][5])
    assert survey.surveyable(here.platform, ENCODER) == 20


def test_a_survey_whose_shard_was_lost_is_filled_again(fleet: Fleet) -> None:
    here = Surveyed(fleet, 100)
    here.grow(100)
    made = here.make()
    before = here.values(made)
    record = shards.records(here.platform.database, "surveys", made.survey_id)[0]
    here.platform.objects.delete(record.object_key)
    assert here.values(made)["keeper"].tolist() == []
    assert survey.join(here.platform, made, here.index, here.columns) == 100
    after = here.values(made)
    assert after["keeper"].tolist() == before["keeper"].tolist()
    assert after["slice"].tolist() == before["slice"].tolist()


def test_novelties_follow_labels_and_rows(fleet: Fleet) -> None:
    here = Surveyed(fleet, 300)
    here.grow(200)

    def check(labelled: list[int], *, rows: int) -> None:
        novelty.update(here.platform, here.index, np.array(labelled, dtype=np.int64), rows=rows)
        producer = novelty.current(here.platform.database, ENCODER)
        assert producer is not None
        values = novelty.kept(here.platform, producer)
        values.refresh()
        emb = here.index.vectors(np.arange(rows))
        assert values.all("novelty") == pytest.approx(1 - (emb @ emb[labelled].T).max(axis=1), abs=1e-5)
        assert len(shards.records(here.platform.database, "novelties", producer)) >= 1

    check([3, 50], rows=200)
    check([3, 50, 120], rows=200)
    fleet.add(100)
    fleet.embed(200, here.emb_ND[200:])
    labelled = np.array([3, 50, 120])
    late = novelty.update(here.platform, here.index, labelled, rows=300)
    assert late == 0, "what the index has not yet is not without a vector"
    here.index.refresh()
    here.columns.refresh()
    check([3, 50, 120], rows=300)
    check([3, 50, 120, 250], rows=300)
    check([3, 250], rows=300)  # A label was taken back.
    db = here.platform.database
    assert db.novelties.count_documents({}) == 1
    assert len(db.shards.distinct("producer", {"kind": "novelties"})) == 1
    assert not novelty.is_current(db, ENCODER, state="7", rows=300)
    assert novelty.update(here.platform, here.index, np.array([3, 250]), rows=300, state="7") == 0
    assert novelty.is_current(db, ENCODER, state="7", rows=300)
