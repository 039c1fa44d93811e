"""Plans over a small fleet: through the functions, the API and the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from annotation import batches, tasks
from annotation.backends.simulated import SimulatedBackend
from infra.errors import InvalidInput
from infra.platform import Platform
from selection import shards
from selection.fleet.frames import Frame
from selection.planning import plan as plans
from service import data_line, reconcile, selecting
from service.curator import Curator
from service.data_line import BatchRequest
from service.fleet_sources import FleetSources
from tests.service.cli.test_command_line import mlpl
from tests.service.conftest import let_all_drives_train
from training.prediction import OPINIONS, Opinion, prediction_table

NIGHTS = {"version": 1, "name": "nights", "scores": "random", "budget": 4, "caps": {"drive": 1}, "evaluation": 0}


@pytest.fixture
def task(platform: Platform, fleet: list[Frame]) -> tasks.Task:
    """A task that all drives train."""
    made = tasks.create(
        platform.database, name="t1", kind="multilabel", classes=["car", "person"], now=reconcile.now_utc()
    )
    let_all_drives_train(platform.database, task_id="t1")
    return made


def _outcome(platform: Platform, task: tasks.Task, **fields: Any) -> selecting.Outcome:
    plan = plans.parse({"version": 1, "evaluation": 0, "diversity": "none", **fields})
    return selecting.carry_out(platform, Curator(platform), plan, task=task, model=None)


def test_stages_say_what_each_step_left(platform: Platform, fleet: list[Frame], task: tasks.Task) -> None:
    found = _outcome(
        platform,
        task,
        where="-timeofday:night",
        exclude=["site:north"],
        exclude_frames=[fleet[9].frame_id],
        scores="random",
        budget=2,
    )
    assert [(stage.name, stage.frames) for stage in found.stages[:4]] == [
        ("fleet", 12),
        ("where", 8),
        ("exclude", 2),
        ("exclude_frames", 1),
    ]
    assert found.stages[-1].name == "chosen"
    expected = {frame.row for frame in fleet[8:] if frame.attributes["timeofday"] != "night"} - {9}
    assert {place.row for place in found.places} == expected


def test_frames_that_show_nothing_are_chosen_last_unless_a_column_asks(
    platform: Platform, fleet: list[Frame], task: tasks.Task
) -> None:
    frames = platform.database["frames"]
    frames.update_many({}, {"$set": {"underexposed": 0.1, "overexposed": 0.0, "sharpness": 300.0}})
    frames.update_one({"_id": fleet[5].frame_id}, {"$set": {"underexposed": 0.99}})
    assert FleetSources(platform, Curator(platform)).blank(np.array([4, 5, 99])).tolist() == [False, True, False]
    last = _outcome(platform, task, budget=12).places[-1]
    assert (last.row, last.reason) == (5, "no model yet, so drawn at random, though it shows nothing")
    assert _outcome(platform, task, scores=["column:underexposed"], budget=1).places[0].row == 5


def test_near_duplicates_are_compared_when_no_survey_was_made(
    platform: Platform, fleet: list[Frame], task: tasks.Task
) -> None:
    for max_hamming in (None, 2):
        how = {"threshold": 0.5, "max_hamming": max_hamming}
        found = _outcome(platform, task, scores="random", budget=12, near_duplicates=how)
        left = {stage.name: stage.frames for stage in found.stages}
        assert len(found.places) == left["near_duplicates"] > 0


def test_batches_are_listed_newest_first(platform: Platform, fleet: list[Frame], task: tasks.Task) -> None:
    made = [
        data_line.create_batch(
            platform,
            Curator(platform),
            BatchRequest(task_id=task.task_id, frame_ids=[fleet[i].frame_id]),
            now=reconcile.now_utc(),
        ).batch_id
        for i in range(3)
    ]
    environment = platform.settings.as_environment()
    listed = json.loads(mlpl("batch", "list", "--task", "t1", "--limit", "2", "--json", environment=environment).stdout)
    assert [one["batch_id"] for one in listed] == [made[2], made[1]]
    assert listed[0]["counts"]["total"] == 1
    shown = mlpl("batch", "list", environment=environment).stdout
    assert [one for one in made if one in shown] == made
    unknown = mlpl("batch", "list", "--task", "nothing", environment=environment)
    assert (unknown.returncode, unknown.stderr.count("\n")) == (1, 1)


def test_evaluation_frames_are_random_and_from_held_out_drives(
    platform: Platform, fleet: list[Frame], task: tasks.Task
) -> None:
    platform.database.splits.update_one({"_id": "t1/drive-2"}, {"$set": {"segments.0.split": "test"}})
    found = _outcome(platform, task, scores="random", budget=6, evaluation=2)
    tested = [place for place in found.places if place.purpose == "test"]
    assert len(tested) == found.evaluation == 2
    assert {fleet[place.row].drive for place in tested} == {"drive-2"}
    assert all(place.reason == selecting.DRAWN_FOR_EVALUATION and place.score is None for place in tested)
    assert {fleet[place.row].drive for place in found.places if place.purpose == "train"} <= {"drive-0", "drive-1"}


def test_quotas_and_caps_are_for_the_training_part_and_the_preview_says_so(
    platform: Platform, fleet: list[Frame], task: tasks.Task
) -> None:
    platform.database.splits.update_one({"_id": "t1/drive-2"}, {"$set": {"segments.0.split": "test"}})
    for asked in ({"caps": {"drive": 1}}, {"quotas": {"timeofday": {"night": "10%"}}}, {}):
        found = _outcome(platform, task, scores="random", budget=6, evaluation=3, **asked)
        note = next(stage.note for stage in found.stages if stage.name == "for evaluation")
        assert note.endswith("quotas and caps count in what is for training") is bool(asked)
        assert found.evaluation == 3, "chance alone"


def test_frames_are_excluded_by_unique_beginnings_too(platform: Platform, fleet: list[Frame], task: tasks.Task) -> None:
    ids = [frame.frame_id for frame in fleet]
    unwanted = [ids[2], ids[3][:12], ids[3][:8], ids[4].upper(), f" {ids[5][:10]}"]
    found = _outcome(platform, task, scores="random", budget=12, exclude_frames=unwanted)
    assert {place.row for place in found.places} == set(range(12)) - {2, 3, 4, 5}
    with pytest.raises(InvalidInput, match=r"^exclude_frames: no frame is or begins with 'rubbish', 'ffff', '0{32}';"):
        _outcome(platform, task, scores="random", exclude_frames=[ids[1], "rubbish", "ffff", "0" * 32])
    twin = platform.database.frames.find_one({"_id": ids[0]})
    assert twin is not None
    platform.database.frames.insert_one({**twin, "_id": ids[0][:20] + "0" * 12, "row": 99})
    with pytest.raises(InvalidInput, match=f"several frames begin with '{ids[0][:9]}'"):
        _outcome(platform, task, scores="random", exclude_frames=[ids[0][:9]])


def test_a_column_of_numbers_is_a_score(platform: Platform, fleet: list[Frame], task: tasks.Task) -> None:
    for frame in fleet:
        if frame.row != 7:
            platform.database.frames.update_one({"row": frame.row}, {"$set": {"attributes.speed": 100 - frame.row}})
    found = _outcome(platform, task, scores=[{"score": "column:speed", "order": "lowest"}], budget=2)
    assert [place.row for place in found.places] == [11, 10]
    assert found.places[0].reason == "column:speed 89.00 (rank 1 of 11)"
    with pytest.raises(InvalidInput, match="has no numbers"):
        _outcome(platform, task, scores="column:weather")
    with pytest.raises(InvalidInput, match="no key 'altitude'"):
        _outcome(platform, task, scores="column:altitude")


def test_doubtful_labels_are_found_and_asked_about_again(
    platform: Platform, fleet: list[Frame], task: tasks.Task
) -> None:
    db = platform.database
    backend = SimulatedBackend(db, answer=lambda _frame_id: ("car",))
    request = BatchRequest(task_id="t1", frame_ids=[frame.frame_id for frame in fleet[:6]])
    batch = data_line.create_batch(platform, Curator(platform), request, now=reconcile.now_utc())
    data_line.push_batch(platform, batch.batch_id, backend=backend, now=reconcile.now_utc())
    backend.work()
    data_line.sync_batch(platform, batch.batch_id, backend=backend, clock=reconcile.now_utc)
    probability = np.tile(np.array([[0.9, 0.1]], dtype=np.float32), (12, 1))
    probability[4] = [0.05, 0.95]
    opinion = Opinion(
        probability_NC=probability,
        passes_MNC=np.repeat(probability[np.newaxis], OPINIONS, axis=0),
        feature_rms_N=np.ones(12, dtype=np.float32),
    )
    table = prediction_table(opinion, valid_N=np.ones(12, dtype=bool), start=0, kind="multilabel")
    shards.write(platform, "predictions", "m1", 0, 12, table)

    class FakeModel:
        model_id = "m1"
        classes = ("car", "person")

    plan = plans.parse({"version": 1, "pool": "labelled", "scores": "disagreement", "diversity": "none", "budget": 2})
    model: Any = FakeModel()
    found = selecting.carry_out(platform, Curator(platform), plan, task=task, model=model)
    assert found.places[0].row == 4
    assert found.places[0].reason == "disagreement 0.95 (rank 1 of 6)"
    assert {place.row for place in found.places} <= set(range(6))
    fresh = selecting.carry_out(
        platform,
        Curator(platform),
        plans.short_form(acquisition="bald", diversity=None, evaluation=0),
        task=task,
        model=model,
    )
    assert {place.row for place in fresh.places} == set(range(6, 12)), "labelled frames are out of the usual pool"
    assert fresh.places[0].reason.startswith("bald 0.00")


def test_plans_over_http(client: TestClient, fleet: list[Frame], task: tasks.Task) -> None:
    api = "/api/v1/plans"
    seen = client.post(f"{api}/preview", json={"task": "t1", "plan": NIGHTS})
    assert seen.status_code == 200, seen.text
    drives = [fleet[place["row"]].drive for place in seen.json()["places"]]
    assert sorted(drives) == ["drive-0", "drive-1", "drive-2"], "one a drive, though four were asked for"
    assert client.get("/api/v1/batches").json() == []
    assert client.post(api, json=NIGHTS).json()["revision"] == 1
    assert client.get(f"{api}/nights").json()["plan"]["caps"] == {"drive": 1}
    assert [one["name"] for one in client.get(api).json()] == ["nights"]
    made = client.post(f"{api}/run", json={"task": "t1", "plan": "nights"})
    assert made.status_code == 201, made.text
    places = client.get(f"/api/v1/batches/{made.json()['batch_id']}/frames").json()
    assert [place["frame_id"] for place in places] == [place["frame_id"] for place in seen.json()["places"]]
    assert plans.read(made.json()["plan"]["file"]) == plans.parse(NIGHTS)
    assert made.json()["plan"]["stages"][-1] == {"name": "chosen", "frames": 3, "note": ""}
    wrong = client.post(f"{api}/preview", json={"task": "t1", "plan": NIGHTS | {"caps": {"drive": 0}}})
    assert wrong.status_code == 422
    assert "caps.drive" in wrong.json()["message"]
    assert client.post(f"{api}/run", json={"task": "t1", "plan": "days"}).status_code == 404


def test_plans_on_the_command_line(platform: Platform, fleet: list[Frame], task: tasks.Task, tmp_path: Path) -> None:
    environment = platform.settings.as_environment()
    path = tmp_path / "nights.yaml"
    path.write_text(plans.render(plans.parse(NIGHTS)))
    seen = mlpl("plan", "preview", str(path), "--task", "t1", "--json", environment=environment)
    assert seen.returncode == 0, seen.stderr
    assert batches.list_all(platform.database) == []
    assert mlpl("plan", "save", str(path), environment=environment).returncode == 0
    made = mlpl("plan", "run", "nights", "--task", "t1", "--json", environment=environment)
    assert made.returncode == 0, made.stderr
    batch = json.loads(made.stdout)
    chosen = [place.frame_id for place in batches.frames_of(platform.database, batch["batch_id"])]
    assert chosen == [place["frame_id"] for place in json.loads(seen.stdout)["places"]]
    path.write_text("version: 1\nbudgit: 3\n")
    wrong = mlpl("plan", "preview", str(path), "--task", "t1", environment=environment)
    assert wrong.returncode == 1
    assert wrong.stderr == f"mlpl: {path}: budgit: there is no such key\n"


def test_a_plan_as_text_and_back(client: TestClient) -> None:
    made = client.post("/api/v1/plans/text", json={"plan": {"version": 1, "caps": {"drive": 3}, "budget": 7}}).json()
    assert made["text"] == "version: 1\ncaps:\n  drive: 3\nbudget: 7\n"
    assert client.post("/api/v1/plans/text", json={"plan": made["text"]}).json() == made
    wrong = client.post("/api/v1/plans/text", json={"plan": "version: 1\nbudget: [\n"})
    assert wrong.status_code == 422
    assert "line 3" in wrong.json()["message"]
    assert client.get("/api/v1/plans").json() == []
