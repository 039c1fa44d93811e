"""A few simulated frames, rendered once a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.demo.simulated_fleet import generate

FRAMES = 120


@pytest.fixture(scope="session")
def simulated_frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `images/` and `metadata.jsonl`: 120 frames of 10 drives."""
    directory = tmp_path_factory.mktemp("simulated")
    generate(directory, frames=FRAMES, seed=7, frames_per_drive=12)
    return directory
