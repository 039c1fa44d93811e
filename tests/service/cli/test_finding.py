"""The few-shot finder on the command line."""

from __future__ import annotations

import json

from infra.platform import Platform
from selection.embedding.embed import embed_missing
from selection.fleet.frames import Frame
from service.curator import Curator
from tests.service.cli.test_command_line import mlpl


def test_marks_are_made_and_taken_back(small_platform: Platform, fleet: list[Frame]) -> None:
    embed_missing(small_platform, Curator(small_platform).encoder())
    environment = small_platform.settings.as_environment()
    ids = [frame.frame_id for frame in fleet]
    mlpl("concept", "create", "nights", "--yes", ids[0], "--yes", ids[1], "--no", ids[2], environment=environment)
    done = mlpl("concept", "unmark", "nights", ids[1][:12], ids[2], "--json", environment=environment)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["yes"], told["no"]) == ([ids[0]], [])
    refused = mlpl("concept", "unmark", "nights", ids[0], environment=environment)
    assert (refused.returncode, "at least one frame marked yes" in refused.stderr) == (1, True)
