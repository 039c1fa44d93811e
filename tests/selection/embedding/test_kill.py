"""`kill -9` of the embedding worker again and again, a second into its work: it comes to an end, and its shards hold what an undisturbed
run's hold. A disk that is full in the middle is named, and costs nothing that was committed.

MLPL_TEST_KILLS and MLPL_TEST_FRAMES say how often and over how many frames (default 2 and 1000).
"""

from __future__ import annotations

import io
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from infra.platform import Platform
from selection import shards
from selection.embedding import embed, encoders
from selection.fleet import frames

# Read before the fixture that hides MLPL_* from the code under test.
KILLS = int(os.environ.get("MLPL_TEST_KILLS", "2"))
FRAMES = int(os.environ.get("MLPL_TEST_FRAMES", "1000"))
COMMAND = [sys.executable, "-m", "service.cli", "embed"]


@pytest.fixture
def thousands(fleet: Any) -> Platform:
    """Tiny frames of noise, and the encoder that ships with MLPL."""
    settings = fleet.platform.settings.model_copy(update={"encoder": "small", "device": "cpu"})
    platform = Platform(settings=settings, database=fleet.platform.database, objects=fleet.platform.objects)
    for first in range(0, FRAMES, 1000):
        fleet.add(min(1000, FRAMES - first))
    draw = np.random.default_rng(0)
    for document in frames.documents(platform.database, start=0, fields=("preview_key",)):
        file = io.BytesIO()
        Image.fromarray(draw.integers(0, 255, (24, 32, 3), dtype=np.uint8)).save(file, format="JPEG")
        platform.objects.put(document["preview_key"], file.getvalue())
    return platform


@pytest.mark.timeout(1500)
def test_a_worker_killed_every_second_finishes_with_the_same_vectors(thousands: Platform) -> None:
    encoder = encoders.load_encoder(thousands)
    environment = os.environ | thousands.settings.as_environment()
    for _ in range(KILLS):
        with subprocess.Popen(COMMAND, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as worker:
            _wait_until_at_work(thousands, worker)
            try:
                worker.wait(timeout=1.0)
            except subprocess.TimeoutExpired:
                worker.kill()
    done = subprocess.run(COMMAND, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = [shards.read(thousands, one) for one in shards.records(thousands.database, "vectors", encoder.encoder_id)]
    rows = np.concatenate([table.column("row").to_numpy() for table in found])
    assert rows.tolist() == list(range(FRAMES)), "no row twice, none missing"
    undisturbed = embed.embed_rows(thousands, encoder, start=0, stop=FRAMES)
    assert np.array_equal(np.concatenate([_values(table) for table in found]), _values(undisturbed))


def _wait_until_at_work(platform: Platform, worker: subprocess.Popen[bytes]) -> None:
    held = {"_id": {"$regex": "^embed/"}, "process.pid": worker.pid}
    while worker.poll() is None and platform.database.leases.find_one(held) is None:
        time.sleep(0.02)


def _values(table: Any) -> Any:
    chunks = table.column("vector").combine_chunks()
    assert chunks.null_count == 0
    return chunks.flatten().to_numpy().reshape(len(chunks), -1).view(np.uint16)


def test_a_file_system_that_takes_no_more_is_named_and_a_later_run_finishes(fleet: Any, checkpoint: Path) -> None:
    settings = fleet.platform.settings.model_copy(update={"encoder": str(checkpoint), "device": "cpu"})
    platform = Platform(settings=settings, database=fleet.platform.database, objects=fleet.platform.objects)
    fleet.add(300)
    file = io.BytesIO()
    Image.new("RGB", (32, 24), (200, 30, 30)).save(file, format="JPEG")
    for frame in frames.by_rows(platform.database, range(300)):
        platform.objects.put(frame.preview_key, file.getvalue())
    encoder_id = encoders.load_encoder(platform).encoder_id
    environment = os.environ | platform.settings.as_environment()

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # A shard of 300 rows has 12 KB.

    refused = subprocess.run(COMMAND, env=environment, preexec_fn=limited, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "shards/vectors" in refused.stderr.splitlines()[-1], refused.stderr
    assert "Traceback" not in refused.stderr
    assert shards.row_total(platform.database, "vectors", encoder_id) == 0
    done = subprocess.run(COMMAND, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("embedded 300 frames"), done.stderr
