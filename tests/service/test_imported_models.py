"""Models that were trained elsewhere: ranking, searching, tracing and labels by their predictions, through the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from annotation import batches, tasks
from annotation.backends.simulated import SimulatedBackend
from annotation.datasets import DatasetId
from annotation.tasks import TaskId
from infra.errors import InvalidInput
from infra.platform import Platform
from selection.embedding.embed import embed_missing
from selection.fleet.frames import Frame
from selection.planning import plan as plans
from service import data_line, lineage, reconcile, selecting
from service.cli.tracing import trace_text
from service.curator import Curator
from service.data_line import BatchRequest
from tests.service.cli.test_command_line import mlpl
from tests.service.conftest import let_all_drives_train
from training import models, prediction
from training.importing import importing
from training.models import Model, ModelId, Promotion


def _task(platform: Platform, kind: str, name: str = "t1") -> tasks.Task:
    made = tasks.create(platform.database, name=name, kind=kind, classes=["car", "person"], now=reconcile.now_utc())
    let_all_drives_train(platform.database, task_id=name)
    return made


def _bring(
    platform: Platform, task: tasks.Task, folder: Path, records: list[dict[str, Any]], *, name: str = "theirs"
) -> str:
    source = folder / f"{name}-{task.task_id}.jsonl"
    source.write_text("".join(json.dumps(one) + "\n" for one in records))
    report = importing.import_predictions(platform, task=task, name=name, source=source, now=reconcile.now_utc())
    return report.model_id


def _trained(model_id: str) -> Model:
    return Model(
        model_id=ModelId(model_id),
        task_id=TaskId("t1"),
        workflow_id="wf-1",
        dataset_id=DatasetId("d"),
        architecture="a",
        classes=("car", "person"),
        artifact_key="k",
        artifact_digest="d",
        promotion=Promotion(
            promoted=True, metric_name=None, candidate=None, baseline=None, baseline_model_id=None, reason="first"
        ),
        created_at=reconcile.now_utc(),
    )


def _detections(fleet: list[Frame]) -> list[dict[str, Any]]:
    """The later the row, the more boxes of doubt; row 3 shows none."""
    box = {"bbox_xyxy_px": [0, 0, 9, 9], "label": "car"}
    return [
        {"frame_id": frame.frame_id, "boxes": [{**box, "confidence": 0.6}] * frame.row if frame.row != 3 else []}
        for frame in fleet
    ]


def test_detections_rank_a_batch_and_are_traced(
    platform: Platform, fleet: list[Frame], tmp_path: Path, client: TestClient
) -> None:
    environment = platform.settings.as_environment()
    task = _task(platform, "detection")
    source = tmp_path / "detections.jsonl"
    source.write_text("".join(json.dumps(one) + "\n" for one in _detections(fleet)) + "broken\n")
    done = mlpl("predictions", "import", str(source), "--task", "t1", "--model", "yolo-7", environment=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        "imported predictions of 12 frames as imported-t1-yolo-7, 1 broken lines (line 13: not JSON"
    )
    request = BatchRequest(task_id="t1", budget=3, acquisition="entropy_sum", diversity=None, evaluation=0)
    batch = data_line.create_batch(platform, Curator(platform), request, now=reconcile.now_utc())
    assert [place.row for place in batches.frames_of(platform.database, batch.batch_id)] == [11, 10, 9]
    assert batch.model_id == "imported-t1-yolo-7"
    found = lineage.trace(platform.database, "imported-t1-yolo-7")
    assert lineage.trace(platform.database, "yolo-7") == found, "the name that it was given will do"
    assert {node["id"] for node in found["nodes"]} == {"imported-t1-yolo-7", batch.batch_id}
    assert "detections.jsonl (SHA-256 " in trace_text(found)
    assert "detections.jsonl" in trace_text(lineage.trace(platform.database, batch.batch_id))
    assert not client.get(f"/api/v1/batches/{batch.batch_id}").json()["pushable"]
    listed = client.get("/api/v1/models").json()[0]
    assert (listed["origin"], listed["current"], listed["workflow_id"]) == ("imported", True, None)
    shown = client.get(f"/api/v1/frames/{fleet[5].frame_id}").json()["predictions"]
    assert shown[0]["probabilities"] == {"car": 0.6, "person": 0.0}
    pushed = mlpl("batch", "create", "--task", "t1", "--push", environment=environment)
    assert pushed.returncode == 1
    assert pushed.stderr.startswith("mlpl: tasks of kind detection cannot be pushed to Label Studio yet")
    assert len(batches.list_all(platform.database)) == 1, "nothing was chosen"
    assert not reconcile.predict(platform), "there is no model to run"
    with pytest.raises(InvalidInput, match="was imported and cannot be run here"):
        prediction.predict_with(platform, models.get(platform.database, "imported-t1-yolo-7"))
    assert tasks.get(platform.database, task.task_id).kind == "detection"


def test_searching_by_scores_of_boxes(platform: Platform, fleet: list[Frame], tmp_path: Path) -> None:
    _bring(platform, _task(platform, "detection"), tmp_path, _detections(fleet)[:10])
    columns = Curator(platform).columns()
    assert columns.matching("has:prediction").tolist() == list(range(10))
    few = columns.matching("entropy_sum:<0.6").tolist()
    assert set(few) >= {0, 3}
    assert 9 not in few
    assert columns.matching("uncertain:>0.9").tolist() == [1, 2, *range(4, 10)]
    with pytest.raises(InvalidInput, match=r"hold no score 'bald'.*`passes`"):
        columns.matching("bald:>0.1")
    with pytest.raises(InvalidInput, match=r"label_error:>0\.8"):
        columns.matching("label_error:high")


def test_doubtful_labels_are_found_sorted_and_asked_about_again(
    platform: Platform, fleet: list[Frame], tmp_path: Path
) -> None:
    task = _task(platform, "classification")
    wrong = {fleet[2].frame_id, fleet[7].frame_id}
    backend = SimulatedBackend(platform.database, answer=lambda one: ("person",) if one in wrong else ("car",))
    request = BatchRequest(task_id="t1", frame_ids=[frame.frame_id for frame in fleet[:10]])
    curator = Curator(platform)
    batch = data_line.create_batch(platform, curator, request, now=reconcile.now_utc())
    data_line.push_batch(platform, batch.batch_id, backend=backend, now=reconcile.now_utc())
    backend.work()
    data_line.sync_batch(platform, batch.batch_id, backend=backend, clock=reconcile.now_utc)
    sure = [
        {"frame_id": frame.frame_id, "probabilities": [0.9 - 0.01 * frame.row, 0.1 + 0.01 * frame.row]}
        for frame in fleet
    ]
    _bring(platform, task, tmp_path, sure)
    assert curator.columns().matching("label_error:>0.5").tolist() == [2, 7]
    found = curator.search(sort="-label_error", where="has:label", k=2)
    assert [hit.frame.row for hit in found.hits] == [2, 7]
    assert found.hits[0].sort_value == pytest.approx(0.88)
    assert curator.columns().matching("model:wrong").tolist() == [2, 7]
    plan = plans.parse({"version": 1, "pool": "labelled", "scores": "label_error", "diversity": "none", "budget": 2})
    again = data_line.create_batch(platform, curator, BatchRequest(task_id="t1", plan=plan), now=reconcile.now_utc())
    assert {place.row for place in batches.frames_of(platform.database, again.batch_id)} == {2, 7}
    assert again.model_id == "imported-t1-theirs"


def test_scores_of_another_task_do_not_get_into_the_way(platform: Platform, fleet: list[Frame], tmp_path: Path) -> None:
    _bring(platform, _task(platform, "detection", "boxes"), tmp_path, _detections(fleet))
    passes = [{"frame_id": frame.frame_id, "passes": [[1.0, 0.0], [float(frame.row < 4), 0.0]]} for frame in fleet]
    _bring(platform, _task(platform, "multilabel", "seen"), tmp_path, passes)
    assert Curator(platform).columns().matching("bald:>0.3").tolist() == list(range(4, 12))


def test_a_trained_model_is_not_judged_by_an_imported_one(
    platform: Platform, fleet: list[Frame], tmp_path: Path
) -> None:
    task = _task(platform, "multilabel")
    db = platform.database
    models.register(db, _trained("model-t1-a"))
    imported = _bring(platform, task, tmp_path, [{"frame_id": fleet[0].frame_id, "probabilities": [0.5, 0.5]}])
    assert models.current_ids(db) == {imported}
    assert models.current_trained(db, "t1") is None
    done = mlpl("model", "use", "model-t1-a", environment=platform.settings.as_environment())
    assert done.returncode == 0, done.stderr
    trained = models.current_trained(db, "t1")
    assert trained is not None
    assert trained.model_id == "model-t1-a"
    with pytest.raises(InvalidInput, match="not all of where it came from"):
        Model(**{**_trained("x").__dict__, "workflow_id": None})


def test_a_label_unlike_those_around_it_needs_no_model(small_platform: Platform, fleet: list[Frame]) -> None:
    task, db, curator = _task(small_platform, "multilabel"), small_platform.database, Curator(small_platform)
    backend = SimulatedBackend(db, answer=lambda one: ("person",) if one == fleet[4].frame_id else ("car",))
    request = BatchRequest(task_id="t1", frame_ids=[frame.frame_id for frame in fleet[:10]])
    batch = data_line.create_batch(small_platform, curator, request, now=reconcile.now_utc())
    data_line.push_batch(small_platform, batch.batch_id, backend=backend, now=reconcile.now_utc())
    backend.work()
    data_line.sync_batch(small_platform, batch.batch_id, backend=backend, clock=reconcile.now_utc)
    fields = {"version": 1, "scores": "neighbour_error", "diversity": "none", "budget": 1}
    plan = plans.parse({**fields, "pool": "labelled"})
    with pytest.raises(InvalidInput, match="mlpl embed"):
        selecting.carry_out(small_platform, curator, plan, task=task, model=None)
    embed_missing(small_platform, curator.encoder())
    found = selecting.carry_out(small_platform, curator, plan, task=task, model=None)
    assert [place.row for place in found.places] == [4]
    with pytest.raises(InvalidInput, match="pool: labelled"):
        plans.parse(fields)


def test_columns_on_the_command_line(platform: Platform, fleet: list[Frame], tmp_path: Path) -> None:
    environment = platform.settings.as_environment()
    path = tmp_path / "risk.csv"
    path.write_text("file,risk\n" + "".join(f"images/{row:03d}.png,{row / 10}\n" for row in range(12)))
    done = mlpl("columns", "import", str(path), "--json", environment=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["changed"] == 12
    _task(platform, "multilabel")
    plan = plans.parse({"version": 1, "scores": "column:risk", "diversity": "none", "budget": 2, "evaluation": 0})
    batch = data_line.create_batch(
        platform, Curator(platform), BatchRequest(task_id="t1", plan=plan), now=reconcile.now_utc()
    )
    assert [place.row for place in batches.frames_of(platform.database, batch.batch_id)] == [11, 10]
    path.write_text("file,entropy\nimages/000.png,1\n")
    refused = mlpl("columns", "import", str(path), environment=environment)
    assert refused.returncode == 1
    assert "cannot be named 'entropy'" in refused.stderr
