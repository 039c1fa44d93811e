"""Search terms about labels, batches and models, and frames withdrawn over the API."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from infra.errors import InvalidInput
from infra.platform import Platform
from selection.fleet import frames, loading
from selection.fleet.columns import Columns
from selection.fleet.frames import Frame
from service.curator import Curator
from service.search_terms import LineTerms


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def _place(platform: Platform, *, batch: str, row: int, state: str = "pending", value: list[str] | None = None) -> None:
    db = platform.database
    db.batches.update_one(
        {"_id": batch},
        {
            "$setOnInsert": {
                "task_id": "t1",
                "state": "open",
                "created_at": datetime(2026, 1, 1, tzinfo=UTC),
                "plan": {},
            }
        },
        upsert=True,
    )
    rank = db.batch_frames.count_documents({"batch_id": batch})
    place = {"batch_id": batch, "task_id": "t1", "frame_id": f"f{row}", "row": row, "rank": rank}
    db.batch_frames.insert_one({"_id": f"{batch}/{rank}", **place, "state": state, "value": value or []})


def _rows(columns: Columns, where: str) -> list[int]:
    return np.flatnonzero(columns.mask(where)).tolist()


@pytest.fixture
def asked(platform: Platform, fleet: list[Frame]) -> tuple[Columns, Clock]:
    """Columns of the fleet of twelve that know the rest of the line."""
    assert fleet
    clock = Clock()
    columns = Columns(platform.database)
    columns.refresh()
    columns.provide(LineTerms(platform, clock=clock))
    return columns, clock


def test_labels_and_batches(platform: Platform, asked: tuple[Columns, Clock]) -> None:
    columns, clock = asked
    assert _rows(columns, "has:label") == []
    _place(platform, batch="b-1", row=2, state="labelled", value=["car", "person"])
    _place(platform, batch="b-1", row=3)
    _place(platform, batch="b-2", row=7, state="labelled", value=["Car"])
    assert _rows(columns, "has:label") == []  # Looked up at most twice a second.
    clock.now += 1
    assert _rows(columns, "has:label") == [2, 7]
    assert _rows(columns, "has:batch -has:label") == [3]
    assert _rows(columns, "label:car") == [2, 7]
    assert _rows(columns, "label:t1/person,bus") == [2]
    assert _rows(columns, "label:t2/*") == []
    assert _rows(columns, "in:b-1") == [2, 3]
    assert _rows(columns, "in:b-* -timeofday:night") == [3, 7]
    with pytest.raises(InvalidInput, match=r"character 6: there is no batch 'b-3'; the newest are b-") as refused:
        columns.mask("     in:b-3")
    assert refused.value.details["position"] == 6
    _place(platform, batch="b-3", row=0)
    clock.now += 1
    assert _rows(columns, "in:b-3") == [0]


def test_scores_and_mistakes_of_models(platform: Platform, asked: tuple[Columns, Clock]) -> None:
    columns, _ = asked
    assert _rows(columns, "uncertain:>0.8") == _rows(columns, "model:wrong") == []
    with pytest.raises(InvalidInput, match="character 1: model: is wrong or right"):
        columns.mask("model:bad")
    with pytest.raises(InvalidInput, match="takes numbers from 0 to 1"):
        columns.mask("uncertain:very")


def test_a_copy_on_disk_is_used_and_never_believed_blindly(
    platform: Platform, fleet: list[Frame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_SAVED_AFTER_ROWS", 1)
    cache = tmp_path / "columns.npz"
    Columns(platform.database, cache=cache).refresh()
    assert cache.is_file()
    read: list[int] = []
    documents = frames.raw_documents
    monkeypatch.setattr(frames, "raw_documents", lambda *args, **asked: read.append(1) or documents(*args, **asked))
    frames.withdraw(platform.database, [fleet[3].frame_id], datetime.now(UTC))
    again = Columns(platform.database, cache=cache)
    assert again.refresh() == 0
    assert read == []
    assert _rows(again, "timeofday:day") == [0, 6, 9]
    cache.write_bytes(cache.read_bytes()[:100])
    assert Columns(platform.database, cache=cache).refresh() == 12
    kept = cache.read_bytes()
    platform.database.frames.delete_one({"row": 0})
    platform.database.frames.insert_one({"_id": "0" * 32, "row": 0, "attributes": {"timeofday": "noon"}})
    cache.write_bytes(kept)
    other = Columns(platform.database, cache=cache)
    other.refresh()
    assert _rows(other, "timeofday:noon") == [0]


def test_withdrawing_over_the_api(client: TestClient, fleet: list[Frame]) -> None:
    frame = fleet[4]
    found: dict[str, Any] = client.post(f"/api/v1/frames/{frame.frame_id}/withdraw").json()
    assert found == {"frame_id": frame.frame_id, "withdrawn": True, "changed": True}
    assert client.get("/api/v1/search").json()["total"] == 11
    assert client.get("/api/v1/facets").json()["facets"]["drive"]["drive-1"] == 3
    assert client.get(f"/api/v1/frames/{frame.frame_id}").json()["withdrawn_at"]
    assert client.post(f"/api/v1/frames/{frame.frame_id}/withdraw", params={"undo": True}).json()["changed"]
    assert client.get("/api/v1/search").json()["total"] == 12


@pytest.mark.usefixtures("fleet")
def test_pages_by_cursor_groups_and_mistakes_over_the_api(client: TestClient) -> None:
    rows: list[int] = []
    cursor = ""
    while cursor is not None:
        page = client.get("/api/v1/search", params={"q": "-timeofday:night", "k": 3, "cursor": cursor}).json()
        rows += [hit["row"] for hit in page["hits"]]
        cursor = page["next_cursor"]
    assert rows == [10, 9, 7, 6, 4, 3, 1, 0]
    assert page["hits"][0]["why"] == {"nearest": None, "terms": [{"text": "-timeofday:night", "value": None}]}
    grouped = client.get("/api/v1/search", params={"group": "drive", "sort": "captured"}).json()
    assert [(hit["row"], hit["further"]) for hit in grouped["hits"]] == [(0, 3), (4, 3), (8, 3)]
    refused = client.get("/api/v1/search", params={"q": "road wether:rain"}).json()
    assert refused["details"] | {"key": "wether"} == {"position": 6, "origin": "query", "key": "wether"}
    assert refused["message"].startswith("query, character 6: there is no key 'wether'")


def test_kept_fresh_searches_see_changes_within_a_second(platform: Platform, fleet: list[Frame]) -> None:
    import time

    curator = Curator(platform)
    with curator.kept_fresh():
        assert curator.search(k=1).total == 12
        frames.withdraw(platform.database, [fleet[0].frame_id], datetime.now(UTC))
        until = time.monotonic() + 20
        while curator.search(k=1).total != 11 and time.monotonic() < until:
            time.sleep(0.02)
        assert curator.search(k=1).total == 11
