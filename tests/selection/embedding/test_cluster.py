"""Ray Data on two nodes leaves the shards that one process leaves."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from infra.errors import BackendUnavailable, InvalidInput
from infra.platform import Platform
from infra.settings import Settings
from selection import shards
from selection.embedding import cluster, embed, encoders
from selection.embedding.vector_table import vector_table
from selection.fleet import frames

ROWS, MIDDLE = 180, (80, 100)


@pytest.fixture
def address() -> Iterator[str]:
    """Of the head of two nodes."""
    script = Path(__file__).with_name("two_nodes.py")
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as nodes:
        assert nodes.stdout is not None
        lines = (line.strip() for line in nodes.stdout)
        yield next(line for line in lines if line.startswith("127.") or line[:1].isdigit())
        nodes.communicate()


@pytest.fixture
def two_pieces(fleet: Any, checkpoint: Path) -> Platform:
    """Frames with previews, one of them broken, and a committed shard in their middle, so that two pieces are missing."""
    settings = fleet.platform.settings.model_copy(update={"encoder": str(checkpoint), "device": "cpu"})
    platform = Platform(settings=settings, database=fleet.platform.database, objects=fleet.platform.objects)
    fleet.add(ROWS)
    noise = np.random.default_rng(0).integers(0, 255, (ROWS, 24, 32, 3), dtype=np.uint8)
    for frame in frames.by_rows(platform.database, range(ROWS)):
        file = io.BytesIO()
        Image.fromarray(noise[frame.row]).save(file, format="JPEG")
        platform.objects.put(frame.preview_key, file.getvalue() if frame.row != 7 else b"broken")
    return platform


def _commit_the_middle(platform: Platform, encoder_id: str) -> None:
    start, stop = MIDDLE
    vectors = np.eye(16, dtype=np.float16)[np.arange(stop - start) % 16]
    table = vector_table(vectors, valid_N=np.ones(len(vectors), dtype=bool), start=start)
    assert shards.write(platform, "vectors", encoder_id, start, stop, table)


def _shards(platform: Platform, encoder_id: str) -> list[tuple[int, int, str]]:
    return [(one.start, one.stop, one.digest) for one in shards.records(platform.database, "vectors", encoder_id)]


@pytest.mark.timeout(600)
def test_two_nodes_leave_the_shards_that_one_process_leaves(two_pieces: Platform, address: str) -> None:
    encoder = encoders.load_encoder(two_pieces)
    _commit_the_middle(two_pieces, encoder.encoder_id)
    environment = os.environ | two_pieces.settings.as_environment()
    command = [sys.executable, "-m", "service.cli", "embed", "--cluster", address]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("embedded 159 frames")
    assert done.stderr.strip().splitlines()[-1].startswith("1 frames cannot be read and have no vector, such as")
    by_the_cluster = _shards(two_pieces, encoder.encoder_id)
    assert [(start, stop) for start, stop, _ in by_the_cluster] == [(0, 80), MIDDLE, (100, 180)]

    shards.remove(two_pieces, "vectors", encoder.encoder_id)
    two_pieces.database.leases.delete_many({})
    _commit_the_middle(two_pieces, encoder.encoder_id)
    assert embed.embed_missing(two_pieces, encoder) == 159
    assert _shards(two_pieces, encoder.encoder_id) == by_the_cluster


def test_without_ray_it_is_said_how_to_get_it(two_pieces: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InvalidInput, match=r"uv sync --extra cluster") as caught:
        cluster.embed_missing(two_pieces, address="local")
    assert "\n" not in caught.value.message


def test_hosts_that_cannot_reach_the_stores_are_refused(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    with pytest.raises(InvalidInput, match="set MLPL_MONGODB_URI and MLPL_OBJECT_STORE to what all of them reach"):
        cluster._check_reach(settings, addresses={"10.0.0.1", "10.0.0.2"})
    cluster._check_reach(settings, addresses={"10.0.0.1"})
    reachable = settings.model_copy(update={"object_store": "s3://fleet/mlpl", "mongodb_uri": "mongodb://db"})
    cluster._check_reach(reachable, addresses={"10.0.0.1", "10.0.0.2"})


def test_a_cluster_that_is_not_there_is_named_at_once(two_pieces: Platform) -> None:
    with pytest.raises(BackendUnavailable, match=r"no Ray cluster answers at 127.0.0.1:9; start its head"):
        cluster.embed_missing(two_pieces, address="127.0.0.1:9")
