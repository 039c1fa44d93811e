"""Concepts over HTTP and in plans, on a fleet with chosen vectors."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from fastapi.testclient import TestClient

from annotation import tasks
from infra.platform import Platform
from selection import shards
from selection.concepts import concepts
from selection.embedding import encoders
from selection.embedding.index import VectorIndex
from selection.embedding.vector_table import vector_table
from selection.fleet.columns import Columns
from selection.fleet.frames import Frame
from selection.planning import plan as plans
from service import reconcile, selecting
from service.app import create_app
from service.curator import Curator
from service.search_terms import ConceptTerms
from tests.service.conftest import ADDRESS, let_all_drives_train


@pytest.fixture
def embedded(platform: Platform, fleet: list[Frame], monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """Twelve frames; every third, those by night, points one way."""
    vectors = 0.2 * np.random.default_rng(0).standard_normal((12, 8))
    vectors[:, 1] += 2.0
    vectors[2::3] += [3.0, -2.0, 0, 0, 0, 0, 0, 0]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    table = vector_table(vectors.astype(np.float16), valid_N=np.ones(12, dtype=bool), start=0)
    assert shards.write(platform, "vectors", "enc-1", 0, 12, table)
    monkeypatch.setattr(encoders, "current_encoder_id", lambda _platform: "enc-1")
    with TestClient(create_app(platform, curator=Curator(platform)), base_url=ADDRESS) as opened:
        yield opened


def test_marking_ranking_and_asking(embedded: TestClient, platform: Platform, fleet: list[Frame]) -> None:
    ids = [frame.frame_id for frame in fleet]
    made = embedded.post("/api/v1/concepts/nights", json={"yes": [ids[2]], "no": [ids[0]]})
    assert made.status_code == 200, made.text
    assert made.json()["encoder_id"] == "enc-1"
    assert embedded.get("/api/v1/concepts").json() == [made.json()] == [embedded.get("/api/v1/concepts/nights").json()]
    best = embedded.get("/api/v1/concepts/nights/frames", params={"k": 3}).json()
    assert {one["row"] for one in best} == {5, 8, 11}
    assert best[0]["score"] >= best[1]["score"] >= best[2]["score"] > 0.5
    second = embedded.get("/api/v1/concepts/nights/frames", params={"k": 2, "offset": 1}).json()
    assert second == best[1:]
    everything = embedded.get("/api/v1/concepts/nights/frames", params={"k": 50}).json()
    assert len(everything) == 10, "marked frames are not ranked"
    asked = embedded.get("/api/v1/concepts/nights/frames", params={"k": 50, "order": "informative"}).json()
    assert {one["row"] for one in asked} == {one["row"] for one in everything}
    doubts = [abs(one["score"] - 0.5) for one in asked]
    assert doubts == sorted(doubts)
    by_row = {one["row"]: one["score"] for one in everything}
    assert [one["score"] for one in asked] == pytest.approx([by_row[one["row"]] for one in asked], abs=2e-3)
    assert embedded.get("/api/v1/concepts/days/frames").status_code == 404
    assert embedded.post("/api/v1/concepts/nights", json={"yes": ["nothing"]}).status_code in (404, 422)
    wrong = embedded.post("/api/v1/concepts/nights", json={"yes": [ids[3]], "no": [ids[5]]})
    assert (len(wrong.json()["yes"]), len(wrong.json()["no"])) == (2, 2)
    back = embedded.post("/api/v1/concepts/nights", json={"neither": [ids[3], ids[5]]})
    assert {**back.json(), "changed_at": None} == {**made.json(), "changed_at": None}

    within = embedded.get("/api/v1/search", params={"where": "concept:nights"}).json()
    assert {hit["row"] for hit in within["hits"]} == {2, 5, 8, 11}
    assert within["total"] == embedded.get("/api/v1/facets", params={"where": "concept:nights"}).json()["total"] == 4
    sorted_by = embedded.get("/api/v1/search", params={"sort": "-concept:nights", "k": 50}).json()["hits"]
    assert {hit["row"] for hit in sorted_by[:4]} == {2, 5, 8, 11}
    values = [hit["sort_value"] for hit in sorted_by]
    assert values == sorted(values, reverse=True)
    assert values[3] > 0.5 > values[4]
    unknown = embedded.get("/api/v1/search", params={"sort": "concept:days"})
    assert (unknown.status_code, "mlpl concept list" in unknown.json()["message"]) == (422, True)
    assert embedded.get("/api/v1/search", params={"sort": "concept"}).status_code == 422
    refused = embedded.get("/api/v1/search", params={"where": "concept:days"})
    assert refused.status_code == 422
    assert "mlpl concept list" in refused.json()["message"]

    task = tasks.create(platform.database, name="t1", kind="multilabel", classes=["car"], now=reconcile.now_utc())
    let_all_drives_train(platform.database, task_id="t1")
    plan = plans.parse({"version": 1, "scores": "concept:nights", "diversity": "none", "budget": 4, "evaluation": 0})
    found = selecting.carry_out(platform, Curator(platform), plan, task=task, model=None)
    assert {place.row for place in found.places} == {2, 5, 8, 11}
    assert found.places[0].reason.startswith("concept:nights ")
    assert embedded.delete("/api/v1/concepts/nights").status_code == 204
    assert embedded.get("/api/v1/concepts").json() == []


def test_another_encoder_has_its_own_opinion_of_a_concept(platform: Platform, fleet: list[Frame]) -> None:
    """One encoder tells even rows from odd, the other the first half from the second."""
    rows = np.arange(12)
    indexes = []
    for encoder_id, is_one in (("enc-1", rows % 2 == 0), ("enc-2", rows < 6)):
        vectors = np.where(is_one[:, np.newaxis], [[1.0, 0.0]], [[0.0, 1.0]]).astype(np.float16)
        table = vector_table(vectors, valid_N=np.ones(12, dtype=bool), start=0)
        assert shards.write(platform, "vectors", encoder_id, 0, 12, table)
        indexes.append(VectorIndex(platform, encoder_id))
        indexes[-1].refresh()
    yes, no = [fleet[0].frame_id], [fleet[11].frame_id]
    concepts.mark(platform, "c", yes=yes, no=no, index=indexes[0], now=reconcile.now_utc())
    current = indexes[:1]
    columns = Columns(platform.database)
    columns.refresh()
    columns.provide(ConceptTerms(platform, index=lambda: current[0]))
    assert columns.matching("concept:c").tolist() == [0, 2, 4, 6, 8, 10]
    current[0] = indexes[1]
    assert columns.matching("concept:c").tolist() == [0, 1, 2, 3, 4, 5]
