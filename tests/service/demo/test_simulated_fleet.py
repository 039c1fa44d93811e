"""The simulated fleet: repeatable, labelled inside the image, varied."""

import collections
import datetime as dt
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.demo.simulated_fleet import CLASSES, generate, scenes
from service.demo.simulated_fleet.generator import visible_objects


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _digests(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(directory.rglob("*.*"))}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("fleet")
    generate(directory, frames=16, seed=5, frames_per_drive=2)
    return directory


def test_a_seed_fixes_every_byte(fleet: Path, tmp_path: Path) -> None:
    generate(tmp_path / "again", frames=16, seed=5, frames_per_drive=2)
    generate(tmp_path / "other", frames=4, seed=6, frames_per_drive=2)
    assert _digests(tmp_path / "again") == _digests(fleet)
    assert not set(_digests(tmp_path / "other").values()) & set(_digests(fleet).values())


def test_every_line_says_where_when_and_what(fleet: Path) -> None:
    lines = _lines(fleet / "metadata.jsonl")
    assert len(lines) == 16
    for line in lines:
        with Image.open(fleet / line["file"]) as image:
            width, height = image.size
            assert image.format == "JPEG"
        assert dt.datetime.fromisoformat(line["captured_at"]).utcoffset() == dt.timedelta(0)
        assert {"site", "vehicle", "drive", "camera"} <= line.keys()
        assert len(line["location"]) == 2
        assert set(line["attributes"]) == {"weather", "timeofday", "scene", "traffic", "synthetic"}
        assert line["attributes"]["synthetic"] is True
        assert set(line["classes"]) == {entry["label"] for entry in line["objects"]} <= set(CLASSES)
        for entry in line["objects"]:
            x0, y0, x1, y1 = entry["bbox_xyxy_px"]
            assert 0 <= x0 < x1 <= width
            assert 0 <= y0 < y1 <= height


def test_a_drive_keeps_its_conditions_and_moves_on(fleet: Path) -> None:
    drives = collections.defaultdict(list)
    for line in _lines(fleet / "metadata.jsonl"):
        drives[line["drive"]].append(line)
    assert len(drives) == 8
    for lines in drives.values():
        for key in ("site", "vehicle", "camera"):
            assert len({line[key] for line in lines}) == 1
        assert len({json.dumps(line["attributes"], sort_keys=True) for line in lines}) == 1
        assert len({line["captured_at"] for line in lines}) == len(lines)


def test_progress_is_told_after_each_frame(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    generate(tmp_path, frames=3, seed=1, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_conditions_keep_their_shares_and_hold_rare_combinations() -> None:
    plans = scenes.plan_conditions(np.random.default_rng(0), drives=24)
    times = collections.Counter(plan.timeofday for plan in plans)
    assert set(times) == {"day", "dusk", "dawn", "night"}
    assert {plan.weather for plan in plans} == {"clear", "overcast", "rain", "fog", "snow"}
    assert sum(plan.hard is not None for plan in plans) == 3


def test_labels_follow_what_stays_visible() -> None:
    ids = np.zeros((40, 60), dtype=np.uint8)
    ids[5:35, 10:20] = 1
    ids[5:35, 12:20] = 2  # covers most of the first
    ids[0:3, 0:3] = 3
    found = visible_objects(ids, {1: "pedestrian", 2: "cyclist", 3: "car"})
    assert found == (("pedestrian", (10, 5, 12, 35)), ("cyclist", (12, 5, 20, 35)))
