"""Two servers on one home: both answer, they share the work, and either goes on when the other is gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from infra import mongod
from infra.platform import open_platform
from infra.settings import Settings
from selection import shards
from selection.ingest.ingest import ingest
from service.production_line import prepare

PATIENCE_S = 120.0


@contextmanager
def _serving(home: Path, log: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server on a free port, and its address."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLPL_")}
    environment |= {"MLPL_HOME": str(home), "MLPL_PORT": "0", "MLPL_POLL_INTERVAL_S": "0.5"}
    command = [sys.executable, "-m", "service.cli", "serve"]
    with log.open("w") as errors:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
    assert process.stdout is not None
    try:
        said = next((line for line in process.stdout if "http://" in line), None)
        assert said is not None, log.read_text()
        yield process, said.split()[3]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _get(address: str, path: str) -> Any:
    with urllib.request.urlopen(f"{address}/api/v1{path}", timeout=60) as answer:
        return json.load(answer)


def _until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to be in time"
        time.sleep(0.2)


@pytest.mark.timeout(600)
def test_two_servers_on_one_home_share_the_work_and_outlive_one_another(tmp_path: Path, simulated_frames: Path) -> None:
    home = tmp_path / "home"
    with open_platform(Settings(home=home)) as platform:
        db = platform.database
        prepare(db)
        with ExitStack() as first, ExitStack() as second:
            one, at_one = first.enter_context(_serving(home, tmp_path / "one.log"))
            _, at_two = second.enter_context(_serving(home, tmp_path / "two.log"))
            assert at_one != at_two
            done = ingest(platform, [str(simulated_frames)], site=None, metadata=None, progress=None)
            for address in (at_one, at_two):
                _until(lambda address=address: _get(address, "/search?q=night&k=3")["missing"] == 0)  # type: ignore[misc]
            hits = [[hit["frame_id"] for hit in _get(at, "/search?q=night&k=20")["hits"]] for at in (at_one, at_two)]
            assert hits[0] == hits[1]
            assert len(hits[0]) == 20
            vectors = list(db.shards.find({"kind": "vectors"}).sort("start", 1))
            rows = [row for shard in vectors for row in range(shard["start"], shard["stop"])]
            assert rows == list(range(done.added)), "each row is embedded, and none twice"
            _until(lambda: shards.row_total(db, "surveys", next(iter(db.surveys.distinct("_id")), "")) == done.added)
            assert db.surveys.count_documents({}) == 1
            time.sleep(1.5)  # What servers keep in memory is looked after twice a second.
            kept = [_get(address, "/search?where=is:keeper")["total"] for address in (at_one, at_two)]
            assert 0 < kept[0] == kept[1] <= done.added

            one.kill()
            _until(lambda: one.poll() is not None)
            assert _get(at_two, "/status")["frames"] == done.added
            frame = _get(at_two, "/search?k=1")["hits"][0]["frame_id"]
            asked = urllib.request.Request(f"{at_two}/api/v1/frames/{frame}/withdraw", method="POST")
            with urllib.request.urlopen(asked, timeout=60) as answer:
                assert json.load(answer)["withdrawn"]
        for log in ("one.log", "two.log"):
            assert "Traceback" not in (tmp_path / log).read_text()
    mongod.wait_stopped(home)
