"""`kill -9` at random moments, again and again, then everything that was acknowledged is compared with what is there.

MLPL_TEST_KILLS sets the number of kills (default 5); the moments are drawn from MLPL_TEST_SEED.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from annotation import batches, datasets, labels, tasks
from infra import mongod
from infra.platform import Platform, open_platform
from infra.settings import Settings
from service.demo import answers, demo
from training import workflows

# Read before the fixture that hides MLPL_* from the code under test.
KILLS = int(os.environ.get("MLPL_TEST_KILLS", "5"))
SEED = int(os.environ.get("MLPL_TEST_SEED", "1"))
BATCH = 12


@pytest.mark.timeout(1500)
def test_killing_the_demo_at_random_moments_loses_and_repeats_nothing(tmp_path: Path, simulated_frames: Path) -> None:
    home = tmp_path / "home"
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "service.cli", "demo", "--no-serve", "--home", str(home), "--json", str(out)]
    command += [
        "--frames",
        str(simulated_frames),
        "--task-classes",
        "pedestrian,truck",
        "--rounds",
        "2",
        "--batch",
        str(BATCH),
    ]
    command += ["--set", "min_steps=30", "--set", "epochs=2"]
    draw = random.Random(SEED)
    acknowledged: dict[str, set[str]] = {}
    for _ in range(KILLS):
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            running.wait(timeout=draw.uniform(1.0, 20.0))
        except subprocess.TimeoutExpired:
            running.send_signal(signal.SIGKILL)
            running.wait()
        _check_nothing_lost(home, acknowledged)
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr[-2000:]
    _check_nothing_lost(home, acknowledged)
    _check_everything(home, simulated_frames, json.loads(out.read_text()))
    mongod.wait_stopped(home)


def test_killing_the_server_between_the_last_label_and_the_model_starts_one_training(
    tmp_path: Path, simulated_frames: Path
) -> None:
    home = tmp_path / "home"
    settings = Settings(home=home, port=0)
    with open_platform(settings) as platform:
        _start_a_batch(platform, simulated_frames)
        for pause_s in (0.0, 4.0, 9.0):
            _serve_for(home, pause_s)
        server = _serve(home)
        try:
            workflow = _wait_for_workflow(platform)
        finally:
            server.kill()
            server.wait()
        assert workflow.state == "completed", workflow.error
        assert [w.cause["batch_id"] for w in workflows.list_all(platform.database)] == ["only"]
        assert platform.database.models.count_documents({}) == 1
        assert [path.name for path in (home / "jobs").iterdir() if not path.name.startswith(".")] == ["wf-only"]
    mongod.wait_stopped(home)


def _start_a_batch(platform: Platform, simulated_frames: Path) -> None:
    """Everything up to the last label; what follows is the reconcilers' work."""
    from annotation.backends.simulated import SimulatedBackend
    from selection.ingest.ingest import ingest
    from service import data_line, reconcile
    from service.curator import Curator
    from service.production_line import prepare

    prepare(platform.database)
    ingest(platform, [str(simulated_frames)], site=None, metadata=None, progress=None)
    key = answers.read(simulated_frames, classes=("pedestrian", "truck"))
    tasks.create(
        platform.database,
        name="t1",
        kind="multilabel",
        classes=key.classes,
        training={"min_steps": "30", "epochs": "2"},
        now=reconcile.now_utc(),
    )
    request = data_line.BatchRequest(
        task_id="t1", budget=40, evaluation=16, acquisition="random", diversity=None, batch_id="only"
    )
    data_line.create_batch(platform, Curator(platform), request, now=reconcile.now_utc())
    backend = SimulatedBackend(platform.database, answer=key.answer)
    data_line.push_batch(platform, "only", backend=backend, now=reconcile.now_utc())
    backend.work()


def _serve(home: Path) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "MLPL_HOME": str(home),
        "MLPL_PORT": "0",
        "MLPL_POLL_INTERVAL_S": "0.3",
        "MLPL_ENCODER": "small",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "service.cli", "serve"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _serve_for(home: Path, seconds: float) -> None:
    server = _serve(home)
    time.sleep(2.0 + seconds)
    server.kill()
    server.wait()


def _wait_for_workflow(platform: Platform, timeout_s: float = 240.0) -> workflows.Workflow:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = workflows.list_all(platform.database)
        if found and found[0].is_over:
            return found[0]
        time.sleep(0.5)
    raise AssertionError("the workflow did not end in time")


def _check_nothing_lost(home: Path, acknowledged: dict[str, set[str]]) -> None:
    """Whatever record was there at an earlier look is still there."""
    with open_platform(Settings(home=home)) as platform:
        for name in ("frames", "shards", "labels", "batches", "batch_frames", "datasets", "workflows", "models"):
            present = {str(document["_id"]) for document in platform.database[name].find({}, {"_id": 1})}
            lost = acknowledged.get(name, set()) - present
            assert not lost, f"{name} lost: {sorted(lost)[:3]}"
            acknowledged[name] = present


def _check_everything(home: Path, frames_folder: Path, found: dict[str, Any]) -> None:
    key = answers.read(frames_folder, classes=("pedestrian", "truck"))
    with open_platform(Settings(home=home)) as platform:
        db = platform.database
        rows = sorted(document["row"] for document in db.frames.find({}, {"row": 1}))
        assert rows == list(range(len(key.by_frame)))
        told = list(db.labels.find({}))
        assert Counter(document["revision"] for document in told) == {1: len(told)}
        assert len({document["frame_id"] for document in told}) == len(told) == found["evaluation_labels"] + 2 * BATCH
        for label in labels.current(db, task_id=demo.TASK_NAME):
            assert label.value == key.by_frame[label.frame_id]
        assert {b.batch_id: b.state for b in batches.list_all(db)} == {
            "demo-evaluation": "complete",
            "demo-round-1": "complete",
            "demo-round-2": "complete",
        }
        done = workflows.list_all(db)
        assert {w.workflow_id: w.state for w in done} == {
            "wf-demo-round-1": "completed",
            "wf-demo-round-2": "completed",
        }
        assert db.models.count_documents({}) == 2
        for version in datasets.list_all(db):
            assert platform.objects.exists(version.manifest_key)
        assert db.simulated_answers.count_documents({}) == len(told)
