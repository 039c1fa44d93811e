"""Tasks, batches, webhooks and the Model Line over HTTP, up to where a labelling server or a training would be needed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from fastapi.testclient import TestClient
from pymongo.errors import AutoReconnect

from annotation import batches, tasks
from infra.errors import BackendUnavailable, Conflict, Denied, InvalidInput, MlplError, NotFound, StorageFull
from infra.platform import Platform
from selection.fleet.frames import Frame
from selection.shards import CorruptShard
from service import labelling
from service.api import errors
from service.app import create_app

TASK = {"name": "road-users", "kind": "multilabel", "classes": ["car", "person"]}


@pytest.fixture
def task(client: TestClient) -> str:
    """A task."""
    made = client.post("/api/v1/tasks", json=TASK)
    assert made.status_code == 201
    return str(made.json()["task_id"])


def test_tasks(client: TestClient, task: str) -> None:
    assert client.post("/api/v1/tasks", json=TASK).json() == client.get(f"/api/v1/tasks/{task}").json()
    assert client.get("/api/v1/tasks").json() == [
        {
            "task_id": task,
            "kind": "multilabel",
            "classes": ["car", "person"],
            "version": 1,
            "training": {},
            "trainable": True,
        }
    ]
    trained = client.post("/api/v1/tasks", json=TASK | {"training": {"epochs": "2"}})
    assert trained.json()["training"] == {"epochs": "2"}
    assert client.post("/api/v1/tasks", json=TASK | {"training": {"epoch": "2"}}).status_code == 422
    assert client.post("/api/v1/tasks", json=TASK | {"classes": ["car"]}).status_code == 409
    boxes = client.post("/api/v1/tasks", json=TASK | {"name": "boxes", "kind": "detection"})
    assert boxes.status_code == 201
    assert not boxes.json()["trainable"]
    refused = client.post("/api/v1/workflows", json={"task": "boxes"})
    assert refused.status_code == 422
    assert refused.json()["message"].startswith("tasks of kind detection cannot be trained here yet")


def test_a_batch_picked_by_hand(client: TestClient, fleet: list[Frame], task: str) -> None:
    picked = [fleet[7].frame_id, fleet[2].frame_id]
    made = client.post("/api/v1/batches", json={"task": task, "frame_ids": picked})
    assert made.status_code == 201, made.text
    batch = made.json()
    assert batch["state"] == "planned"
    assert batch["counts"] == {"total": 2, "labelled": 0, "skipped": 0, "invalid": 0, "pending": 2}
    path = f"/api/v1/batches/{batch['batch_id']}"
    assert client.get(path).json() == batch
    assert client.get("/api/v1/batches", params={"task": task}).json() == [batch]
    assert client.get("/api/v1/batches", params={"state": "open"}).json() == []
    places = client.get(f"{path}/frames").json()
    assert [place["frame_id"] for place in places] == picked
    assert places[0]["reason"] == "picked by hand"
    assert client.get(f"{path}/frames", params={"offset": 1, "limit": 1}).json() == places[1:]
    assert client.get(f"/api/v1/frames/{picked[0]}").json()["batches"][0]["batch_id"] == batch["batch_id"]
    assert client.post("/api/v1/batches", json={"task": task, "frame_ids": picked[:1]}).status_code == 409
    graph = client.get(f"/api/v1/trace/{batch['batch_id']}").json()
    assert {node["kind"] for node in graph["nodes"]} == {"batch", "frame"}
    assert {(edge["from"], edge["to"]) for edge in graph["edges"]} == {(one, batch["batch_id"]) for one in picked}
    assert client.post(f"{path}/cancel").json()["state"] == "cancelled"


def test_a_batch_drawn_at_random_from_a_filter(client: TestClient, fleet: list[Frame], task: str) -> None:
    body = {
        "task": task,
        "budget": 4,
        "acquisition": "random",
        "diversity": None,
        "where": "-timeofday:night",
    }
    made = client.post("/api/v1/batches", json=body)
    assert made.status_code == 201, made.text
    places = client.get(f"/api/v1/batches/{made.json()['batch_id']}/frames").json()
    allowed = {frame.frame_id for frame in fleet if frame.attributes["timeofday"] != "night"}
    assert places
    assert {place["frame_id"] for place in places} <= allowed
    assert client.post("/api/v1/batches", json=body | {"acquisition": "luck"}).status_code == 422
    assert client.post("/api/v1/batches", json=body | {"task": "none"}).status_code == 404
    assert client.post("/api/v1/batches", json=body | {"budget": 0}).status_code == 422


def test_pushing_waits_for_a_labelling_server(client: TestClient, fleet: list[Frame], task: str) -> None:
    batch = client.post("/api/v1/batches", json={"task": task, "frame_ids": [fleet[0].frame_id]}).json()
    refused = client.post(f"/api/v1/batches/{batch['batch_id']}/push")
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) > 0
    assert "mlpl label-studio start" in refused.json()["message"]
    assert client.get(f"/api/v1/batches/{batch['batch_id']}").json()["state"] == "planned"


def test_the_doorbell(client: TestClient, platform: Platform, fleet: list[Frame], task: str) -> None:
    batch_id = client.post("/api/v1/batches", json={"task": task, "frame_ids": [fleet[0].frame_id]}).json()["batch_id"]
    platform.database.batches.update_one({"_id": batch_id}, {"$set": {"state": "open", "ref": "1/x", "backend": "b"}})
    url = "/api/v1/webhooks/label-studio"
    assert client.post(url, json={}).status_code == 403
    assert client.post(url, json={}, headers={"authorization": "Bearer wrong"}).status_code == 403
    assert batches.get(platform.database, batch_id).rang_at is None
    secret = {"authorization": f"Bearer {labelling.webhook_secret(platform)}"}
    deletion = {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 5}]}
    assert client.post(url, json=deletion, headers=secret).json() == {"due": 1}
    heard = batches.get(platform.database, batch_id)
    assert heard.rang_at is not None
    batches.ring(platform.database, task_id=task, now=heard.rang_at + timedelta(seconds=1))
    batches.record_collected(platform.database, heard, collected_at=heard.rang_at)
    assert batches.get(platform.database, batch_id).rang_at is not None, "the bell rang again meanwhile"
    batches.record_collected(platform.database, batches.get(platform.database, batch_id), collected_at=heard.rang_at)
    assert batches.get(platform.database, batch_id).rang_at is None
    assert client.post(url, content=b"not json", headers=secret).status_code == 200


def test_a_training_without_labels_is_recorded_and_listed(client: TestClient, task: str) -> None:
    started = client.post("/api/v1/workflows", json={"task": task})
    assert started.status_code == 202
    workflow_id = started.json()["workflow_id"]
    assert client.get(f"/api/v1/workflows/{workflow_id}").json() == started.json()
    assert [one["workflow_id"] for one in client.get("/api/v1/workflows", params={"task": task}).json()] == [
        workflow_id
    ]
    assert client.get(f"/api/v1/workflows/{workflow_id}/logs").text == ""
    assert client.post("/api/v1/workflows", json={"task": "none"}).status_code == 404
    assert client.post("/api/v1/workflows", json={"task": task}).json() == started.json(), "asked for twice, run once"
    other = client.post("/api/v1/workflows", json={"task": task, "hyperparameters": {"epochs": "3"}})
    assert other.json()["workflow_id"] != workflow_id
    refused = client.post("/api/v1/workflows", json={"task": task, "hyperparameters": {"epoch": "3"}})
    assert refused.status_code == 422
    assert "'epoch' is unknown" in refused.json()["message"]
    assert client.get("/api/v1/models").json() == client.get("/api/v1/datasets").json() == []


def test_statuses_of_errors() -> None:
    expected: dict[type[MlplError], int] = {
        NotFound: 404,
        Conflict: 409,
        InvalidInput: 422,
        Denied: 403,
        BackendUnavailable: 503,
        StorageFull: 507,
        CorruptShard: 500,
    }
    assert {kind: errors.status_of(kind("x")) for kind in expected} == expected


@pytest.fixture
def broken_client(platform: Platform) -> Iterator[TestClient]:
    """An API with an endpoint that has a bug."""
    app = create_app(platform)

    @app.get("/api/v1/bug")
    def bug() -> None:
        raise ZeroDivisionError("the secret formula")

    with TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False) as opened:
        yield opened


def test_a_bug_is_a_500_without_its_details(broken_client: TestClient) -> None:
    answer = broken_client.get("/api/v1/bug")
    assert answer.status_code == 500
    assert answer.json()["code"] == "internal"
    assert "secret" not in answer.text


def test_a_database_that_is_away_is_said_to_be(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_args: object, **_kwargs: object) -> None:
        raise AutoReconnect("connection closed")

    app = create_app(platform)
    monkeypatch.setattr(tasks, "list_all", away)
    with TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False) as opened:
        answer = opened.get("/api/v1/tasks")
    assert (answer.status_code, answer.json()["code"]) == (503, "backend_unavailable")
    assert int(answer.headers["retry-after"]) > 0


def test_documentation_needs_no_network(client: TestClient) -> None:
    spec = client.get("/openapi.json").json()
    for path in (
        "/api/v1/search",
        "/api/v1/batches/{batch_id}/push",
        "/api/v1/trace/{identifier}",
        "/images/{frame_id}",
    ):
        assert path in spec["paths"]
    for page in ("/docs", "/", "/batches/some-batch", "/trace/some-id", "/workflows/some-id", "/models"):
        answer = client.get(page)
        assert answer.status_code == 200, page
        assert "://" not in answer.text.replace("http://www.w3.org/2000/svg", "")
