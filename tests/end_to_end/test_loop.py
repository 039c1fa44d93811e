"""The whole loop, in process, on a few simulated frames."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from annotation import batches, datasets, labels
from infra.platform import Platform
from service import lineage
from service.demo import demo
from service.production_line import prepare
from training import models, workflows

ROUNDS = 2
BATCH = 16


@pytest.fixture
def quiet() -> demo.Reporter:
    return demo.Reporter(say=lambda _line: None, progress=lambda _what, _done, _total: None)


def test_the_loop_closes_and_closing_it_again_changes_nothing(
    platform: Platform, simulated_frames: Path, tmp_path: Path, quiet: demo.Reporter
) -> None:
    frames_folder = tmp_path / "frames"
    shutil.copytree(simulated_frames, frames_folder)
    (frames_folder / "images" / "broken.jpg").write_bytes(b"\xff\xd8 not an image")
    with (frames_folder / "metadata.jsonl").open("a") as file:
        file.write('{"file": "images/broken.jpg"}\n')
    prepare(platform.database)
    options = demo.Options(
        frames=frames_folder,
        classes=("pedestrian", "truck"),
        rounds=ROUNDS,
        batch=BATCH,
        training={"min_steps": "20", "epochs": "2"},
    )

    found = demo.run(platform, options, quiet)

    assert (found["frames"], found["rejects"]) == (120, 1)
    assert [done["labels"] for done in found["rounds"]] == [BATCH, 2 * BATCH]
    assert all(0.0 <= done["metric"] <= 1.0 for done in found["rounds"])
    assert len({done["test_frames"] for done in found["rounds"]}) == 1
    assert found["rounds"][1]["baseline"] is not None
    _check_labels(platform, found)
    _check_trace(platform, found)

    before = _counts(platform)
    again = demo.run(platform, options, quiet)
    assert _counts(platform) == before
    assert again["rounds"][-1]["model_id"] == found["model_id"]


def _check_labels(platform: Platform, found: dict[str, Any]) -> None:
    standing = list(labels.current(platform.database, task_id=demo.TASK_NAME))
    assert len(standing) == found["evaluation_labels"] + ROUNDS * BATCH
    assert len({label.frame_id for label in standing}) == len(standing)
    chosen = batches.frames_of(platform.database, found["rounds"][1]["batch_id"])
    assert all(place.score is not None and "entropy" in place.reason for place in chosen)
    assert "no model yet" in batches.frames_of(platform.database, found["rounds"][0]["batch_id"])[0].reason


def _check_trace(platform: Platform, found: dict[str, Any]) -> None:
    db = platform.database
    back = lineage.trace(db, found["model_id"])
    assert lineage.trace(db, found["dataset_id"][:12])["id"] == found["dataset_id"]
    kinds = {node["kind"] for node in back["nodes"]}
    assert kinds == {"frame", "label", "batch", "dataset", "workflow", "model"}
    version = datasets.get(db, found["dataset_id"])
    bound = {edge["from"] for edge in back["edges"] if edge["kind"] == "bound" and edge["to"] == version.dataset_id}
    assert len(bound) == sum(version.counts.values())
    node = next(node for node in back["nodes"] if node["id"] == found["workflow_id"])
    assert node["code"]["version"]
    assert node["environment"]["packages"]["torch"]
    frame = next(node for node in back["nodes"] if node["kind"] == "frame")
    forward = lineage.trace(db, frame["id"])
    assert found["model_id"] in {node["id"] for node in forward["nodes"]}
    for identifier in (found["dataset_id"], found["workflow_id"], found["rounds"][0]["batch_id"], next(iter(bound))):
        assert any(n["id"] == found["model_id"] for n in lineage.trace(db, identifier)["nodes"])
    assert models.current(db, demo.TASK_NAME) is not None
    assert all(workflow.state == "completed" for workflow in workflows.list_all(db))


def _counts(platform: Platform) -> dict[str, int]:
    names = (
        "frames",
        "sightings",
        "shards",
        "labels",
        "batches",
        "batch_frames",
        "datasets",
        "bindings",
        "workflows",
        "models",
    )
    return {name: platform.database[name].count_documents({}) for name in names}
