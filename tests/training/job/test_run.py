"""The job inside the test's process: what it reads, what it writes, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from training.contract import ContractError, Layout, Metrics, ModelConfig
from training.job import networks
from training.job.run import run

pytestmark = pytest.mark.usefixtures("torch_state")


def do(layout: Layout, events: list[dict[str, Any]] | None = None) -> Metrics:
    def log(event: str, **fields: Any) -> None:
        if events is not None:
            events.append({"event": event, **fields})

    return run(layout, environment={}, log=log, check_stop=lambda: None)


def test_multilabel_job_learns_and_leaves_everything(kit: Any, tmp_path: Path) -> None:
    parameters = kit.hyperparameters(min_steps=60, batch_size=16, learning_rate=5e-3, input_size=48)
    events: list[dict[str, Any]] = []
    layout = kit.write_job(tmp_path, kit.scenes(48, 16), parameters)
    metrics = do(layout, events)
    assert metrics == json.loads(layout.metrics.read_text())
    assert metrics["metric_name"] == "macro_average_precision"
    assert metrics["metric"] == metrics["test"]["metric"] is not None
    assert metrics["metric"] > 0.8, "discs of two colours are easy"
    assert metrics["test"]["per_class"]["red"]["positives"] == 8
    assert metrics["test"]["per_class"]["red"]["train_positives"] == 24
    assert metrics["train"]["steps"] == 60
    assert metrics["train"]["epochs"] == 20
    assert metrics["train"]["resumed_from"] is None
    assert metrics["baseline"] is None
    assert metrics["notices"] == []
    assert [event["event"] for event in events][0::100] == ["started"]
    assert {event["event"] for event in events} == {"started", "frames_read", "progress", "evaluated"}

    config = ModelConfig.parse(layout.model_config.read_text())
    assert config.classes == ("red", "blue")
    assert config.manifest_digest == metrics["manifest_digest"]
    networks.load(networks.read_model(layout.model))
    predictions = [json.loads(line) for line in layout.predictions.read_text().splitlines()]
    assert [one["row"] for one in predictions] == list(range(48, 64))
    assert all(0 <= value <= 1 for one in predictions for value in one["probability"])


def test_classification_job(kit: Any, tmp_path: Path) -> None:
    parameters = kit.hyperparameters(kind="classification")
    layout = kit.write_job(tmp_path, kit.scenes(6, 4, kind="classification"), parameters)
    metrics = do(layout)
    assert metrics["metric_name"] == "macro_accuracy"
    assert metrics["metric"] is not None
    for line in layout.predictions.read_text().splitlines():
        assert sum(json.loads(line)["probability"]) == pytest.approx(1, abs=1e-4)


def test_initial_tensors_and_baseline(kit: Any, tmp_path: Path) -> None:
    first = kit.write_job(tmp_path / "a", kit.scenes(8, 4), kit.hyperparameters(classes=("blue", "red"), input_size=48))
    do(first)
    second = kit.write_job(tmp_path / "b", kit.scenes(8, 4), kit.hyperparameters(classes=("red", "blue", "green")))
    for channel in ("initial", "baseline"):
        second.channel(channel).symlink_to(first.model)
    metrics = do(second)
    assert metrics["train"]["initial_tensors"] == metrics["train"]["model_tensors"] - 2
    baseline = metrics["baseline"]
    assert baseline is not None
    assert baseline["unknown_classes"] == ["green"]
    assert baseline["frames"] == metrics["test"]["frames"]
    # The baseline's own list has the classes the other way round: names decide, not positions.
    own = {
        json.loads(line)["row"]: json.loads(line)["probability"] for line in first.predictions.read_text().splitlines()
    }
    red_N = np.array([own[row][1] for row in range(8, 12)])
    positive_N = np.array([True, False, True, False])
    from training.job.evaluation import average_precision

    assert baseline["per_class"]["red"]["average_precision"] == pytest.approx(
        average_precision(red_N.astype(np.float32), positive_N)
    )
    assert any("tensors were taken from the initial channel" in notice for notice in metrics["notices"])
    assert any("baseline does not know: green" in notice for notice in metrics["notices"])
    assert any("no train frame has: green" in notice for notice in metrics["notices"])


@pytest.mark.parametrize("train", [1, 3, 5])
def test_fewer_frames_than_a_batch(kit: Any, tmp_path: Path, train: int) -> None:
    metrics = do(kit.write_job(tmp_path, kit.scenes(train, 1), kit.hyperparameters()))
    assert metrics["train"]["frames"] == train
    assert metrics["metric"] is None
    assert any("so the model has no metric" in notice for notice in metrics["notices"])


def test_no_test_lines_is_a_model_without_metric(kit: Any, tmp_path: Path) -> None:
    metrics = do(kit.write_job(tmp_path, kit.scenes(4, 0), kit.hyperparameters()))
    assert metrics["metric"] is None
    assert "there is no test line, so the model has no metric" in metrics["notices"]


def test_few_unreadable_frames_are_left_out(kit: Any, tmp_path: Path) -> None:
    layout = kit.write_job(tmp_path, kit.scenes(21, 4), kit.hyperparameters())
    next(layout.channel("frames").rglob("*.jpg")).write_bytes(b"")
    metrics = do(layout)
    assert len(metrics["skipped"]) == 1
    assert metrics["train"]["frames"] + metrics["test"]["frames"] == 24
    assert metrics["notices"][0].startswith("1 of 25 frames were left out; first: frame ")


def unreadable(layout: Layout) -> None:
    for path in sorted(layout.channel("frames").rglob("*.jpg"))[:2]:
        path.unlink()


def no_manifest(layout: Layout) -> None:
    (layout.channel("dataset") / "manifest.jsonl").unlink()


def only_test(layout: Layout) -> None:
    path = layout.channel("dataset") / "manifest.jsonl"
    path.write_text(path.read_text().replace('"train"', '"test"'))


def two_hosts(layout: Layout) -> None:
    layout.resource_config.write_text('{"current_host": "algo-1", "hosts": ["algo-1", "algo-2"]}')


def no_hyperparameters(layout: Layout) -> None:
    layout.hyperparameters.unlink()


def other_baseline(layout: Layout) -> None:
    layout.channel("baseline").mkdir()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (unreadable, "2 of 8 frames are unusable"),
        (no_manifest, "must hold one .jsonl manifest; it holds 0"),
        (only_test, "the manifest has no train line"),
        (two_hosts, "this job trains on one host"),
        (no_hyperparameters, "hyperparameters.json cannot be read"),
        (other_baseline, "channel baseline holds neither"),
    ],
)
def test_what_it_cannot_work_with_is_said_in_one_line(kit: Any, tmp_path: Path, spoil: Any, message: str) -> None:
    layout = kit.write_job(tmp_path, kit.scenes(6, 2), kit.hyperparameters())
    spoil(layout)
    with pytest.raises(ContractError, match=message):
        do(layout)
    assert not layout.model_weights.exists()


def test_a_loss_that_is_no_number_ends_the_job(kit: Any, tmp_path: Path) -> None:
    layout = kit.write_job(tmp_path, kit.scenes(4, 2), kit.hyperparameters(learning_rate=1e30, min_steps=12))
    with pytest.raises(ContractError, match="lower the hyperparameter learning_rate"):
        do(layout)


def test_checkpoints_of_other_data_are_refused(kit: Any, tmp_path: Path) -> None:
    do(kit.write_job(tmp_path, kit.scenes(4, 2), kit.hyperparameters()))
    with pytest.raises(ContractError, match="give this job a place of its own"):
        do(kit.write_job(tmp_path, kit.scenes(5, 2), kit.hyperparameters()))


def test_a_finished_training_is_only_evaluated_again(kit: Any, tmp_path: Path) -> None:
    layout = kit.write_job(tmp_path, kit.scenes(4, 4), kit.hyperparameters())
    first = do(layout)
    weights = layout.model_weights.read_bytes()
    torch.manual_seed(99)
    second = do(kit.write_job(tmp_path, kit.scenes(4, 4), kit.hyperparameters(threads=2, checkpoint_interval_s=5)))
    assert second["train"]["resumed_from"] == first["train"]["steps"] == 3
    assert second["train"]["threads"] == 1, "the thread count of the checkpoint is kept"
    assert layout.model_weights.read_bytes() == weights
    assert second["test"] == first["test"]


def test_statistics_from_the_initial_channel_are_kept(kit: Any, tmp_path: Path) -> None:
    first = kit.write_job(tmp_path / "a", kit.scenes(8, 4), kit.hyperparameters())
    do(first)
    frozen = kit.hyperparameters(backbone_learning_rate_scale=0.0)
    second = kit.write_job(tmp_path / "b", kit.scenes(8, 4), frozen)
    second.channel("initial").symlink_to(first.model)
    do(second)
    before, after = (networks.load(networks.read_model(layout.model)).state_dict() for layout in (first, second))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"classifier.3.weight", "classifier.3.bias"}, "all else is frozen"
