"""Search, facets, frames and status over HTTP."""

from __future__ import annotations

import io

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from infra.platform import Platform
from selection.fleet.frames import Frame


def test_search_splits_what_was_typed(client: TestClient, fleet: list[Frame]) -> None:
    found = client.get("/api/v1/search", params={"q": "timeofday:dusk -site:north", "k": 10}).json()
    assert found["total"] == 1
    assert (found["text"], found["where"]) == ("", "timeofday:dusk -site:north")
    assert [term["text"] for term in found["terms"]] == ["timeofday:dusk", "-site:north"]
    (hit,) = found["hits"]
    assert hit["frame_id"] == fleet[10].frame_id
    assert hit["score"] is None
    assert hit["attributes"] == {"timeofday": "dusk", "weather": "clear"}
    assert hit["captured_at"] == "2026-03-01T10:02:00Z"


def test_pages_together_hold_every_frame_once(client: TestClient, fleet: list[Frame]) -> None:
    rows: list[int] = []
    for offset in range(0, 15, 5):
        page = client.get("/api/v1/search", params={"k": 5, "offset": offset}).json()
        assert page["total"] == len(fleet)
        rows += [hit["row"] for hit in page["hits"]]
    assert rows == sorted((frame.row for frame in fleet), reverse=True)


@pytest.mark.usefixtures("fleet")
def test_facets(client: TestClient) -> None:
    found = client.get("/api/v1/facets", params={"where": 'site:"south yard"'}).json()
    assert found["total"] == 4
    assert found["facets"]["site"] == {"north": 8, "south yard": 4}
    assert found["facets"]["drive"] == {"drive-2": 4}


def test_facets_say_how_a_filter_writes_what_they_count(
    client: TestClient, platform: Platform, fleet: list[Frame]
) -> None:
    values = ["<10m", ">50m", "30..50", "STOP*", "Hauptstraße", "plain"]
    for frame in fleet:
        change = {"attributes.sign": values[frame.row % 6], "changed_at": frame.ingested_at}
        platform.database.frames.update_one({"_id": frame.frame_id}, {"$set": change})
    found = client.get("/api/v1/facets").json()
    texts = found["texts"]["sign"]
    assert texts == {
        "<10m": '"<10m"',
        ">50m": '">50m"',
        "30..50": '"30..50"',
        "STOP*": '"stop*"',
        "Hauptstraße": "hauptstrasse",
    }
    assert set(found["texts"]) == set(found["facets"])
    for value, count in found["facets"]["sign"].items():
        where = f"sign:{texts.get(value, value)}"
        answer = client.get("/api/v1/search", params={"where": where}).json()
        assert answer["total"] == count == 2
        assert [(term["facet"], term["texts"]) for term in answer["terms"]] == [("sign", [texts.get(value, value)])]
    mixed = client.get("/api/v1/facets", params={"where": 'sign:"stop now",s* -near:0,0,1km after:2026-01-01 has:sign'})
    assert [(term["facet"], term["values"], term["texts"]) for term in mixed.json()["terms"]] == [
        ("sign", ["stop now", "s*"], ['"stop now"', "s*"]),
        (None, ["0.0,0.0,1000m"], ["0.0,0.0,1000m"]),
        (None, ["2026-01-01T00:00:00+00:00"], ["2026-01-01T00:00:00Z"]),
        (None, ["sign"], ["sign"]),
    ]


def test_numbers_of_any_size_have_a_histogram(client: TestClient, platform: Platform, fleet: list[Frame]) -> None:
    for frame in fleet:
        accel = (-1.7976931348623157e308, 1.7976931348623157e308, frame.row / 7)[frame.row % 3]
        change = {"attributes.accel": accel, "changed_at": frame.ingested_at}
        platform.database.frames.update_one({"_id": frame.frame_id}, {"$set": change})
    found = client.get("/api/v1/facets").json()["histograms"]["accel"]
    assert sum(found["counts"]) == len(fleet)
    assert None not in found["edges"]


@pytest.mark.usefixtures("fleet")
def test_a_bad_filter_is_told_in_one_shape(client: TestClient) -> None:
    for path in ("/api/v1/search", "/api/v1/facets"):
        answer = client.get(path, params={"where": "timeofday:"})
        assert answer.status_code == 422
        body = answer.json()
        assert set(body) == {"code", "message", "details"}
        assert body["code"] == "invalid_input"
    assert client.get("/api/v1/search", params={"k": 0}).json()["code"] == "invalid_input"
    assert client.get("/api/v1/search", params={"k": 501}).status_code == 422


def test_a_frame_and_its_bytes(client: TestClient, platform: Platform, fleet: list[Frame]) -> None:
    frame = fleet[4]
    found = client.get(f"/api/v1/frames/{frame.frame_id[:10]}").json()
    assert found["frame_id"] == frame.frame_id
    assert found["drive"] == "drive-1"
    assert len(found["sightings"]) == 1
    assert found["labels"] == found["batches"] == found["predictions"] == []
    image = client.get(f"/api/v1/frames/{frame.frame_id}/image")
    assert image.headers["content-type"] == "image/png"
    assert image.content == platform.objects.get(frame.object_key)
    preview = client.get(f"/api/v1/frames/{frame.frame_id}/preview")
    assert preview.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(preview.content)).size == (64, 40)
    assert "immutable" in preview.headers["cache-control"]
    again = client.get(f"/api/v1/frames/{frame.frame_id}/preview", headers={"if-none-match": preview.headers["etag"]})
    assert again.status_code == 304
    assert not again.content


@pytest.mark.usefixtures("fleet")
def test_what_does_not_exist(client: TestClient) -> None:
    for path in ("frames/" + "0" * 32, "batches/none", "datasets/none", "workflows/none", "models/none", "trace/none"):
        answer = client.get(f"/api/v1/{path}")
        assert answer.status_code == 404, path
        assert answer.json()["code"] == "not_found"
        assert "none" in answer.json()["message"] or "0" * 32 in answer.json()["message"]
    assert client.get("/api/v1/nowhere").json()["code"] == "not_found"
    assert client.delete("/api/v1/tasks").json()["code"] == "method_not_allowed"


@pytest.mark.usefixtures("fleet")
def test_a_bad_image_is_refused(client: TestClient) -> None:
    answer = client.post("/api/v1/search/image", files={"file": ("a.jpg", b"not an image", "image/jpeg")})
    assert answer.status_code in (422, 503)
    assert set(answer.json()) == {"code", "message", "details"}


@pytest.mark.usefixtures("fleet")
def test_status(client: TestClient) -> None:
    found = client.get("/api/v1/status").json()
    assert found["frames"] == 12
    assert found["embedded"] == 0
    assert found["encoder"] == {"id": None, "notice": None}
    assert found["tasks"] == found["reconcilers"] == []
    assert client.get("/api/v1/rejects").json() == []


@pytest.mark.parametrize(
    "path", ["/api/v1/rejects", "/api/v1/search", "/api/v1/batches/b1/frames", "/api/v1/concepts/c/frames"]
)
def test_numbers_that_no_database_takes_are_refused(client: TestClient, path: str) -> None:
    answer = client.get(path, params={"offset": str(2**63)})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")


def test_a_browser_gets_a_page_where_there_is_nothing(client: TestClient) -> None:
    page = client.get("/nowhere", headers={"accept": "text/html,*/*"})
    assert (page.status_code, page.headers["content-type"].partition(";")[0]) == (404, "text/html")
    for path, accept in (("/nowhere", "*/*"), ("/api/v1/nowhere", "text/html"), ("/static/nowhere", "text/html")):
        answer = client.get(path, headers={"accept": accept})
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
