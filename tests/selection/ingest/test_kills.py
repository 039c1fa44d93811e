"""`kill -9` of an ingest at random moments, again and again until it ends by itself: nothing twice, nothing lost.

MLPL_TEST_KILLS sets how often at most (default 5); the moments are drawn from MLPL_TEST_SEED.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infra import database as documents
from infra.platform import Platform
from selection.fleet import frames, unseen
from selection.ingest import ingest as ingesting
from selection.ingest import previews
from selection.ingest.ingest import ingest
from tests.selection.ingest.conftest import VideoMaker

# Read before the fixture that hides MLPL_* from the code under test.
KILLS = int(os.environ.get("MLPL_TEST_KILLS", "5"))
SEED = int(os.environ.get("MLPL_TEST_SEED", "1"))
COUNT = 800
PROGRAM = """
import sys
from infra.platform import open_platform
from infra.settings import load
from selection.ingest import ingest, previews, registration
from selection.ingest.ingest import VideoOptions
ingest.BATCH_FILES, registration.BATCH_ENTRIES = 16, 100
with open_platform(load()) as platform:
    print("begun", flush=True)
    ingest.ingest(platform, [sys.argv[1]], in_place=sys.argv[2] == "in place", video=VideoOptions(fps=100))
    previews.see_missing(platform)
"""


@pytest.fixture
def stores(platform: Platform) -> Platform:
    documents.ensure_indexes(platform.database, frames.INDEXES | ingesting.INDEXES)
    return platform


def _run_with_kills(stores: Platform, source: Path, how: str) -> int:
    """Returns how often it was killed."""
    environment = os.environ | stores.settings.as_environment()
    draw = random.Random(SEED)
    for kills in range(KILLS + 1):
        command = [sys.executable, "-c", PROGRAM, str(source), how]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as running:
            assert running.stdout is not None
            assert running.stdout.readline() == b"begun\n"
            try:
                status = running.wait(timeout=draw.uniform(0.05, 0.8) if kills < KILLS else 250)
            except subprocess.TimeoutExpired:
                running.send_signal(signal.SIGKILL)
                continue
        assert status == 0
        return kills
    raise AssertionError("it never ended")


def _images(folder: Path, count: int) -> dict[str, str]:
    """Names and digests."""
    folder.mkdir()
    found = {}
    for seed in range(count):
        pixels = np.random.default_rng(seed).integers(0, 255, (24, 32, 3), dtype=np.uint8)
        path = folder / f"{seed:04d}.jpg"
        Image.fromarray(pixels).save(path, quality=90)
        found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _assert_complete(stores: Platform, count: int, *, copied: bool) -> list[str]:
    """Every frame once, rows dense, files whole. Returns the digests by row."""
    fields = ["row", "digest", "object_key", "preview_key", "perceptual_hash"]
    found = list(frames.documents(stores.database, start=0, fields=fields))
    assert [one["row"] for one in found] == list(range(count))
    assert frames.row_count(stores.database) == count
    assert unseen.ranges(stores.database) == []
    for one in found:
        assert one["perceptual_hash"]
        assert stores.objects.exists(one["preview_key"])
        if copied:
            assert hashlib.sha256(stores.objects.get(one["object_key"])).hexdigest() == one["digest"]
    assert stores.database.sightings.count_documents({}) == (count if copied else 0)
    digests = [one["digest"] for one in found]
    assert len(set(digests)) == count
    return digests


def test_frames_registered_in_place_and_seen_later(stores: Platform, tmp_path: Path) -> None:
    named = _images(tmp_path / "lake", COUNT)
    lines = [json.dumps({"uri": f"lake/{name}", "digest": digest, "drive": "d"}) for name, digest in named.items()]
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    assert _run_with_kills(stores, tmp_path / "list.jsonl", "in place") > 0
    assert _assert_complete(stores, COUNT, copied=False) == list(named.values())
    assert previews.see_missing(stores).frames == 0


def test_copies_with_previews(stores: Platform, tmp_path: Path) -> None:
    named = _images(tmp_path / "in", COUNT)
    assert _run_with_kills(stores, tmp_path / "in", "copied") > 0
    assert _assert_complete(stores, COUNT, copied=True) == list(named.values())


def test_a_video(stores: Platform, tmp_path: Path, make_video: VideoMaker) -> None:
    path = make_video(tmp_path / "in" / "a.mp4", seconds=40)
    assert _run_with_kills(stores, path.parent, "copied") > 0
    count = frames.row_count(stores.database)
    assert count > 300
    _assert_complete(stores, count, copied=True)
    assert ingest(stores, [str(path)], video=ingesting.VideoOptions(fps=100)).added == 0
