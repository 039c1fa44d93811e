"""Which workflow goes on, and who may take it on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from annotation import tasks
from infra.errors import InvalidInput
from infra.platform import Platform
from selection.fleet.columns import Columns
from service.production_line import prepare
from training import workflows

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class NoExecutor:
    """An executor that must not be asked for anything but its name."""

    name = "local:here"

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was asked for")


@pytest.fixture
def line(platform: Platform) -> Platform:
    """A platform with a task and two waiting workflows, `wf-0` the older one."""
    prepare(platform.database)
    tasks.create(platform.database, name="t1", kind="multilabel", classes=["car"], now=NOW)
    for i in range(2):
        workflows.start(
            platform.database,
            workflow_id=f"wf-{i}",
            task_id="t1",
            cause={"kind": "manual"},
            hyperparameters={},
            now=NOW + timedelta(seconds=i),
        )
    return platform


def test_the_oldest_waits_while_another_is_under_way(line: Platform) -> None:
    db = line.database
    assert workflows.unfinished_tasks(db) == ["t1"]
    turn = workflows.in_turn(db, "t1")
    assert turn is not None
    assert turn.workflow_id == "wf-0"
    db.workflows.update_one({"_id": "wf-1"}, {"$set": {"state": "running"}})
    turn = workflows.in_turn(db, "t1")
    assert turn is not None
    assert turn.workflow_id == "wf-1"
    db.workflows.update_many({}, {"$set": {"state": "completed"}})
    assert workflows.in_turn(db, "t1") is None
    assert workflows.unfinished_tasks(db) == []


def test_a_job_of_another_machine_is_left_to_it(line: Platform) -> None:
    db = line.database
    change = {"state": "running", "steps.0.state": "completed", "executor": "local:there", "job": {"job_name": "wf-0"}}
    db.workflows.update_one({"_id": "wf-0"}, {"$set": change})
    before = workflows.get(db, "wf-0")
    after = workflows.advance(line, "wf-0", executor=NoExecutor(), columns=Columns(db), clock=lambda: NOW)
    assert after == before == workflows.get(db, "wf-0")


def test_a_freeze_without_labels_fails_the_workflow_in_words(line: Platform) -> None:
    after = workflows.advance(line, "wf-0", executor=NoExecutor(), columns=Columns(line.database), clock=lambda: NOW)
    assert after.state == "failed"
    assert "no labelled frames" in (after.error or "")


def test_hyperparameters_are_checked_by_name_and_value() -> None:
    workflows.check_hyperparameters({"epochs": "3", "initial": "none"})
    for bad in ({"epoch": "3"}, {"epochs": "many"}, {"epochs": "0"}, {"classes": '["a"]'}):
        with pytest.raises(InvalidInput, match=next(iter(bad))):
            workflows.check_hyperparameters(bad)
