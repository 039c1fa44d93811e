"""The shipped encoder: small, offline, unit vectors, and it tells night from day."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from selection.embedding.weights import SMALL_ENCODER
from service.demo import retrieval_evaluation
from service.demo.simulated_fleet import generate


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], NDArray[np.float32], Any]:
    directory = tmp_path_factory.mktemp("held_out")
    metadata = generate(directory, frames=24, seed=424_242, frames_per_drive=1)
    lines = [json.loads(line) for line in metadata.read_text(encoding="utf-8").splitlines()]
    image_emb_ND, encode_texts = retrieval_evaluation.encode(lines, directory, SMALL_ENCODER, threads=1)
    return lines, image_emb_ND, encode_texts


def test_it_is_small() -> None:
    assert sum(path.stat().st_size for path in SMALL_ENCODER.iterdir()) < 20_000_000


def test_vectors_have_unit_length(evaluated: tuple[list[dict[str, Any]], NDArray[np.float32], Any]) -> None:
    _, image_emb_ND, encode_texts = evaluated
    assert image_emb_ND.shape == (24, 256)
    np.testing.assert_allclose(np.linalg.norm(image_emb_ND, axis=1), 1.0, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(encode_texts(["a truck", "zeppelin"]), axis=1), 1.0, atol=1e-4)


def test_night_is_told_from_day(evaluated: tuple[list[dict[str, Any]], NDArray[np.float32], Any]) -> None:
    lines, image_emb_ND, encode_texts = evaluated
    scores = image_emb_ND @ encode_texts(["a road at night"])[0]
    night = np.asarray([line["attributes"]["timeofday"] == "night" for line in lines])
    day = np.asarray([line["attributes"]["timeofday"] == "day" for line in lines])
    assert scores[night].mean() > scores[day].mean() + 0.2


def test_the_evaluation_reports_chance_next_to_precision(
    evaluated: tuple[list[dict[str, Any]], NDArray[np.float32], Any],
) -> None:
    results = {row.target: row for row in retrieval_evaluation.evaluate(*evaluated)}
    assert results["timeofday=night"].average_precision > 2.0 * results["timeofday=night"].chance
    assert results["timeofday=night"].frames == 24


def test_frames_without_labels_take_no_part() -> None:
    lines = [
        {"attributes": {"timeofday": "day"}, "classes": []},
        {"attributes": {}, "classes": ["Pedestrian"]},
        {"attributes": {"timeofday": "night"}, "classes": ["Car"]},
    ]
    results = retrieval_evaluation.evaluate(
        lines, np.eye(3, dtype=np.float32), lambda texts: np.ones((len(texts), 3), dtype=np.float32)
    )
    frames = {row.target: row.frames for row in results}
    assert frames["timeofday=night"] == 2
    assert frames["Pedestrian"] == 2


def test_it_loads_without_a_network_through_open_clip(tmp_path: Path) -> None:
    import open_clip

    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{SMALL_ENCODER}", cache_dir=str(tmp_path))
    assert sum(parameter.numel() for parameter in model.parameters()) < 8_000_000
    assert not list(tmp_path.iterdir())
