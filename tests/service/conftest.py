"""A small fleet with known attributes, and a client of the API over it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from PIL import Image, ImageDraw
from pydantic import SecretStr

from infra.database import Db
from infra.platform import Platform
from selection.fleet import frames
from selection.fleet.frames import Frame
from selection.ingest.ingest import ingest
from service.app import create_app
from service.production_line import prepare

ADDRESS = "http://127.0.0.1:8000"
TIMES = ("day", "dusk", "night")


def write_fleet(folder: Path, *, frames: int = 12) -> Path:
    """Images with a `metadata.jsonl`: three drives at two sites, a third each by day, dusk and night; all by night in the rain."""
    (folder / "images").mkdir(parents=True)
    lines = []
    for i in range(frames):
        time_of_day = TIMES[i % 3]
        image = Image.new("RGB", (64, 40), (40 + 60 * (i % 3), 90, 30 + 15 * i))
        ImageDraw.Draw(image).rectangle((4 + i, 8, 20 + i, 24), fill=(250 - 20 * i, 20 * i, 90))
        image.save(folder / "images" / f"{i:03d}.png")
        lines.append(
            {
                "file": f"images/{i:03d}.png",
                "captured_at": f"2026-03-01T{8 + i // 4:02d}:{i % 4:02d}:00Z",
                "drive": f"drive-{i // 4}",
                "site": "north" if i < 8 else "south yard",
                "attributes": {"timeofday": time_of_day, "weather": "rain" if time_of_day == "night" else "clear"},
            }
        )
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def fleet(platform: Platform, tmp_path: Path) -> list[Frame]:
    """Twelve ingested frames, by row."""
    prepare(platform.database)
    ingest(platform, [str(write_fleet(tmp_path / "fleet"))], site=None, metadata=None)
    return frames.by_rows(platform.database, range(frames.row_count(platform.database)))


def let_all_drives_train(database: Db, *, task_id: str) -> None:
    """Decides that no drive of the fleet is cut or held out, so that any frame can be picked by hand."""
    database.splits.insert_many(
        {
            "_id": f"{task_id}/{drive}",
            "task_id": task_id,
            "drive": drive,
            "unit": "drive",
            "segments": [{"start_key": "", "split": "train"}],
        }
        for drive in database.frames.distinct("drive")
    )


@pytest.fixture
def small_platform(platform: Platform) -> Platform:
    """The platform with the encoder that ships with MLPL."""
    settings = platform.settings.model_copy(update={"encoder": "small", "device": "cpu"})
    return Platform(settings=settings, database=platform.database, objects=platform.objects)


@pytest.fixture
def client(platform: Platform) -> Iterator[TestClient]:
    """The API without a token, called from this machine."""
    prepare(platform.database)
    with TestClient(create_app(platform), base_url=ADDRESS) as opened:
        yield opened


@pytest.fixture
def guarded_client(platform: Platform) -> Callable[..., TestClient]:
    """Makes clients of the API with an access token set."""

    def make(token: str = "letmein", **settings: object) -> TestClient:
        changed = platform.settings.model_copy(update={"access_token": SecretStr(token), **settings})
        guarded = Platform(settings=changed, database=platform.database, objects=platform.objects)
        return TestClient(create_app(guarded), base_url=ADDRESS, follow_redirects=False)

    return make
