from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from infra.database import ensure_indexes
from infra.errors import InvalidInput
from infra.platform import Platform
from selection import shards
from selection.fleet import frames
from selection.ranking import acquisition
from training import prediction
from training.contract import ModelConfig
from training.executors import container
from training.job import networks


@pytest.fixture(params=["multilabel", "classification"])
def model(request: pytest.FixtureRequest, platform: Platform, tmp_path: Path) -> dict[str, str]:
    """An untrained model in the object store: key and digest."""
    import torch

    torch.manual_seed(0)
    config = ModelConfig(
        task="colours",
        kind=request.param,
        classes=("red", "blue", "green"),
        architecture="mobilenet_v3_small",
        input_size=32,
        mean=networks.IMAGENET_MEAN,
        std=networks.IMAGENET_STD,
        manifest_digest="d",
    )
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.json").write_text(config.render())
    network = networks.build("mobilenet_v3_small", outputs=3, input_size=32)
    (folder / "model.safetensors").write_bytes(networks.render_tensors(network))
    container.pack(folder, tmp_path / "model.tar.gz")
    data = (tmp_path / "model.tar.gz").read_bytes()
    platform.objects.put("workflows/w/output/model.tar.gz", data)
    return {"model_key": "workflows/w/output/model.tar.gz", "model_digest": hashlib.sha256(data).hexdigest()}


def add_frames(platform: Platform, kit: Any, *, first: int, count: int) -> None:
    facts = []
    for number in range(first, first + count):
        one = kit.scene(number, classes=(number % 2,))
        preview_key = f"previews/{one.digest[:32]}.jpg"
        platform.objects.put(preview_key, one.data)
        facts.append(
            frames.FrameFacts(
                frame_id=frames.id_of(one.digest),
                digest=one.digest,
                width=64,
                height=48,
                format="JPEG",
                size_bytes=len(one.data),
                source=f"{number}.jpg",
                object_key=f"frames/{one.digest[:32]}.jpg",
                preview_key=preview_key,
                ingested_at=datetime.now(UTC),
            )
        )
    frames.register(platform.database, facts)


@pytest.fixture
def fleet(platform: Platform, kit: Any) -> Platform:
    """A platform with seven frames."""
    ensure_indexes(platform.database, frames.INDEXES)
    ensure_indexes(platform.database, shards.INDEXES)
    add_frames(platform, kit, first=0, count=7)
    return platform


def test_every_row_gets_its_prediction_once(fleet: Platform, kit: Any, model: dict[str, str]) -> None:
    seen: list[tuple[int, int]] = []
    done = prediction.predict_missing(fleet, model_id="m1", **model, progress=lambda *count: seen.append(count))
    assert done == 7
    assert seen == [(7, 7)]
    assert prediction.predict_missing(fleet, model_id="m1", **model) == 0
    add_frames(fleet, kit, first=7, count=2)
    assert prediction.predict_missing(fleet, model_id="m1", **model) == 2

    records = shards.records(fleet.database, "predictions", "m1")
    assert [(record.start, record.stop) for record in records] == [(0, 7), (7, 9)]
    table = shards.read(fleet, records[0])
    assert table.column_names == ["row", "probability", *acquisition.SHARD_SCORES]
    assert table["row"].to_pylist() == list(range(7))
    predictor = prediction.load_predictor(fleet, **model)
    assert predictor.classes == ("red", "blue", "green")
    found = frames.by_rows(fleet.database, range(7))
    previews = [Image.open(io.BytesIO(fleet.objects.get(frame.preview_key))) for frame in found]
    expected_NC = predictor.probabilities(previews)
    stored_NC = np.array(table["probability"].to_pylist(), dtype=np.float32)
    np.testing.assert_allclose(stored_NC, expected_NC, rtol=1e-4, atol=1e-6)
    entropy_N = acquisition.entropy(stored_NC, kind=predictor.kind)
    np.testing.assert_allclose(table["entropy"].to_numpy(), entropy_N, rtol=1e-4)
    assert predictor.probabilities([]).shape == (0, 3)


def test_a_frame_whose_preview_is_not_there_is_predicted_from_its_original(
    platform: Platform, kit: Any, model: dict[str, str], tmp_path: Path
) -> None:
    ensure_indexes(platform.database, frames.INDEXES)
    ensure_indexes(platform.database, shards.INDEXES)
    add_frames(platform, kit, first=0, count=3)
    lost, damaged, whole = frames.by_rows(platform.database, range(3))
    for frame in (lost, damaged):
        platform.objects.put(frame.object_key, platform.objects.get(frame.preview_key))
    platform.objects.delete(lost.preview_key)
    platform.objects.put(damaged.preview_key, b"no image")
    register_in_place(platform, tmp_path / "lake.jpg", kit.scene(3, classes=(1,)).data)

    assert prediction.predict_missing(platform, model_id="m1", **model) == 4
    table = shards.read(platform, shards.records(platform.database, "predictions", "m1")[0])
    assert table["probability"].null_count == 0
    in_place = frames.by_rows(platform.database, [3])[0]
    seen = [platform.objects.get(frame.preview_key) for frame in (lost, damaged, whole, in_place)]
    expected_NC = prediction.load_predictor(platform, **model).probabilities(
        [Image.open(io.BytesIO(data)) for data in seen]
    )
    np.testing.assert_allclose(table["probability"].to_pylist(), expected_NC, rtol=1e-4, atol=1e-6)


def test_an_original_in_place_beyond_the_limit_has_no_prediction(
    fleet: Platform, kit: Any, model: dict[str, str], tmp_path: Path
) -> None:
    register_in_place(fleet, tmp_path / "lake.jpg", kit.scene(7, classes=(1,)).data)
    small = replace(fleet, settings=fleet.settings.model_copy(update={"max_image_pixels": 64 * 48 - 1}))
    assert prediction.predict_missing(small, model_id="m1", **model) == 8
    table = shards.read(fleet, shards.records(fleet.database, "predictions", "m1")[0])
    assert [row for row, value in enumerate(table["probability"].to_pylist()) if value is None] == [7]


def register_in_place(platform: Platform, path: Path, data: bytes) -> None:
    """A frame whose original lies in the lake and whose preview nobody has made."""
    path.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    frames.register(
        platform.database,
        [
            frames.FrameFacts(
                frame_id=frames.id_of(digest),
                digest=digest,
                width=0,
                height=0,
                format="",
                size_bytes=0,
                source=path.name,
                object_key=f"frames/{digest[:32]}",
                preview_key=f"previews/{digest[:32]}.jpg",
                ingested_at=datetime.now(UTC),
                object_uri=path.as_uri(),
            )
        ],
    )


def test_a_frame_without_preview_and_original_has_no_prediction(fleet: Platform, model: dict[str, str]) -> None:
    gone, damaged = frames.by_rows(fleet.database, [2, 5])
    fleet.objects.delete(gone.preview_key)
    fleet.objects.put(damaged.preview_key, b"no image")
    assert prediction.predict_missing(fleet, model_id="m1", **model) == 7
    table = shards.read(fleet, shards.records(fleet.database, "predictions", "m1")[0])
    for name in ("probability", *acquisition.SHARD_SCORES):
        assert [row for row, value in enumerate(table[name].to_pylist()) if value is None] == [2, 5]


def test_a_damaged_shard_is_made_again(fleet: Platform, model: dict[str, str]) -> None:
    prediction.predict_missing(fleet, model_id="m1", **model)
    record = shards.records(fleet.database, "predictions", "m1")[0]
    fleet.objects.put(record.object_key, b"rot")
    with pytest.raises(shards.CorruptShard):
        shards.read(fleet, record)
    assert prediction.predict_missing(fleet, model_id="m1", **model) == 7
    assert shards.read(fleet, shards.records(fleet.database, "predictions", "m1")[0]).num_rows == 7


def test_another_file_than_the_registered_one_is_not_used(fleet: Platform, model: dict[str, str]) -> None:
    fleet.objects.put(model["model_key"], b"other")
    with pytest.raises(InvalidInput, match="is not the file that was registered"):
        prediction.predict_missing(fleet, model_id="m1", **model)
    with pytest.raises(InvalidInput, match=r"model\.tar\.gz cannot be read"):
        prediction.load_predictor(
            fleet, model_key=model["model_key"], model_digest=hashlib.sha256(b"other").hexdigest()
        )


def test_no_frames_no_model_needed(platform: Platform) -> None:
    ensure_indexes(platform.database, shards.INDEXES)
    assert prediction.predict_missing(platform, model_id="m1", model_key="none", model_digest="none") == 0
