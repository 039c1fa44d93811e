"""Predictions and columns that are uploaded over HTTP."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from annotation import tasks
from infra.platform import Platform
from selection.fleet.frames import Frame
from service import reconcile
from service.api import imports
from training.importing import importing


def _task(platform: Platform, kind: str = "multilabel") -> str:
    db = platform.database
    return tasks.create(db, name="t1", kind=kind, classes=["car", "person"], now=reconcile.now_utc()).task_id


def _lines(records: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(one) + "\n" for one in records).encode()


def test_predictions_are_imported_as_the_command_does(
    client: TestClient, platform: Platform, fleet: list[Frame]
) -> None:
    _task(platform)
    sent = _lines([
        *({"frame_id": one.frame_id, "probabilities": [0.9, 0.2]} for one in fleet[:3]),
        {"file": "images/005.png", "probabilities": {"car": 0.1, "person": 0.6}},
        {"file": "nowhere.png", "probabilities": [0.5, 0.5]},
        {"frame_id": fleet[4].frame_id, "probabilities": [0.5, 7]},
    ])  # fmt: skip
    answer = client.post(
        "/api/v1/tasks/t1/predictions",
        files={"file": ("../../their predictions.jsonl", sent)},
        data={"model": "theirs"},
    )
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["model_id"], told["imported"], told["current"]) == ("imported-t1-theirs", 4, True)
    assert told["unknown"] == {"count": 1, "examples": ["nowhere.png"]}
    assert (told["broken"], told["broken_examples"][0][:6]) == (1, "line 6")
    assert told["summary"].startswith("imported predictions of 4 frames as imported-t1-theirs")
    assert [one.source for one in importing.imports_of(platform.database, "imported-t1-theirs")] == [
        "their predictions.jsonl"
    ]
    again = client.post("/api/v1/tasks/t1/predictions", files={"file": ("a.jsonl", sent)}, data={"model": "theirs"})
    assert (again.json()["imported"], again.json()["already"]) == (0, 4)
    assert client.get("/api/v1/models").json()[0]["model_id"] == "imported-t1-theirs"
    where = {"where": "model:imported-t1-theirs"}
    assert client.get("/api/v1/search", params=where).status_code in (200, 422)


def test_coco_results_come_with_their_dataset(client: TestClient, platform: Platform, fleet: list[Frame]) -> None:
    _task(platform, kind="detection")
    dataset = {
        "images": [{"id": 7, "file_name": "images/003.png", "width": 64, "height": 40}],
        "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "person"}],
    }
    results = [{"image_id": 7, "category_id": 2, "bbox": [1, 2, 10, 12], "score": 0.8}]
    files = {
        "file": ("results.json", json.dumps(results).encode()),
        "dataset": ("instances.json", json.dumps(dataset).encode()),
    }
    sent = {"model": "detector-7", "current": "false", "cut": "0.3"}
    told = client.post("/api/v1/tasks/t1/predictions", files=files, data=sent).json()
    assert (told["imported"], told["current"]) == (1, False)


@pytest.mark.parametrize(
    ("name", "content", "data", "status", "message"),
    [
        ("p.txt", b"x", {"model": "m"}, 422, "p.txt is none of"),
        ("p.jsonl", b"", {"model": "m"}, 422, "nothing in p.jsonl could be used: it is empty"),
        ("..", b"x", {"model": "m"}, 422, "upload is none of"),
        ("p.jsonl", b"{}", {"model": "No Good"}, 422, "model name"),
        ("p.jsonl", b"{}", {}, 422, "body.model"),
        ("p.json", b"[]", {"model": "m"}, 422, "p.json is read as COCO results"),
        ("p.csv", b"x" * 200_000, {"model": "m"}, 422, "p.csv is not CSV"),
        ("p.csv", b"frame_id\xff\xfe", {"model": "m"}, 422, "it is not UTF-8 text"),
        ("p.parquet", b"PAR1....PAR1", {"model": "m"}, 422, "p.parquet is not Parquet"),
        ("p.jsonl", b"[" * 100_000, {"model": "m"}, 422, "nothing in p.jsonl could be used"),
    ],
)
def test_what_cannot_be_imported_is_told_without_the_servers_paths(
    client: TestClient,
    platform: Platform,
    fleet: list[Frame],
    name: str,
    content: bytes,
    data: dict[str, str],
    status: int,
    message: str,
) -> None:
    assert fleet
    _task(platform)
    answer = client.post("/api/v1/tasks/t1/predictions", files={"file": (name, content)}, data=data)
    assert (answer.status_code, message in answer.json()["message"]) == (status, True), answer.text
    assert "/tmp" not in answer.text
    assert "mlpl-upload" not in answer.text


def test_an_upload_never_makes_the_server_read_its_own_files(
    client: TestClient, platform: Platform, fleet: list[Frame]
) -> None:
    _task(platform, kind="segmentation")
    sent = _lines([{"frame_id": fleet[0].frame_id, "mask": "/etc/hostname", "confidence": 1.0}])
    answer = client.post("/api/v1/tasks/t1/predictions", files={"file": ("p.jsonl", sent)}, data={"model": "m"})
    assert answer.status_code == 422
    assert "mlpl predictions import" in answer.json()["message"]
    assert "hostname" not in answer.text


def test_columns_are_imported_as_the_command_does(client: TestClient, fleet: list[Frame]) -> None:
    sent = "frame_id,glare\n" + "".join(f"{one.frame_id},{one.row / 10}\n" for one in fleet[:5])
    told = client.post("/api/v1/columns", files={"file": ("numbers.csv", sent.encode())}).json()
    assert (told["columns"], told["changed"], told["unchanged"], told["broken"]) == (["glare"], 5, 0, 0)
    assert client.get("/api/v1/search", params={"where": "glare:>0.25"}).json()["total"] == 2
    again = client.post("/api/v1/columns", files={"file": ("numbers.csv", sent.encode())}).json()
    assert (again["changed"], again["unchanged"]) == (0, 5)


@pytest.mark.parametrize("name", ["字" * 300 + ".csv", "../../numbers.csv", "..\\n.csv", "a" * 1000 + ".csv"])
def test_any_name_of_an_upload_will_do(client: TestClient, fleet: list[Frame], name: str) -> None:
    sent = f"frame_id,glare\n{fleet[0].frame_id},1\n".encode()
    answer = client.post("/api/v1/columns", files={"file": (name, sent)})
    assert (answer.status_code, answer.json().get("changed")) == (200, 1), answer.text


@pytest.mark.parametrize("name", ["concept", "rarity", "slice", "map", "uncertain"])
def test_a_column_cannot_take_the_name_of_a_search_term(client: TestClient, fleet: list[Frame], name: str) -> None:
    sent = f"frame_id,{name}\n{fleet[0].frame_id},1\n".encode()
    answer = client.post("/api/v1/columns", files={"file": ("numbers.csv", sent)})
    assert (answer.status_code, "cannot be named" in answer.json()["message"]) == (422, True), answer.text


def test_imports_need_the_token(guarded_client: Callable[..., TestClient]) -> None:
    client = guarded_client()
    for path in ("/api/v1/columns", "/api/v1/tasks/t1/predictions"):
        assert client.post(path, files={"file": ("a.csv", b"x")}, data={"model": "m"}).status_code == 401


def test_a_full_disk_is_said_to_be(client: TestClient, fleet: list[Frame], monkeypatch: pytest.MonkeyPatch) -> None:
    assert fleet

    def full(*_: object) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(imports, "_written", full)
    answer = client.post("/api/v1/columns", files={"file": ("a.csv", b"x")})
    assert (answer.status_code, answer.json()["code"]) == (507, "storage_full")
