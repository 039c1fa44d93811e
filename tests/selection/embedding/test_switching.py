"""Switching encoders: the old one serves until the new one has every row, then everything changes at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infra.errors import BackendUnavailable
from infra.platform import Platform
from selection import shards
from selection.embedding import encoders, switching, weights
from selection.embedding.vector_table import vector_table
from selection.fleet import frames


@pytest.fixture
def here(fleet: Any, checkpoint: Path) -> Platform:
    """Ten frames without pixels, and a serving encoder."""
    fleet.add(10)
    settings = fleet.platform.settings.model_copy(update={"encoder": str(checkpoint), "device": "cpu"})
    platform = Platform(settings=settings, database=fleet.platform.database, objects=fleet.platform.objects)
    encoders.load_encoder(platform)
    return platform


def _embed(platform: Platform, encoder_id: str, start: int, stop: int) -> None:
    vectors = np.eye(16, dtype=np.float16)[np.arange(stop - start) % 16]
    table = vector_table(vectors, valid_N=np.ones(stop - start, dtype=bool), start=start)
    assert shards.write(platform, "vectors", encoder_id, start, stop, table)


def test_the_old_encoder_serves_until_the_last_row_is_there(here: Platform, other_checkpoint: Path) -> None:
    old = encoders.current_encoder_id(here)
    new = switching.use(here, str(other_checkpoint)).encoder_id
    assert encoders.current_encoder_id(here) == old != new
    assert switching.wanted(here) == str(other_checkpoint)
    _embed(here, new, 0, 6)
    assert not switching.finish(here, str(other_checkpoint), new)
    assert encoders.current_encoder_id(here) == old
    assert [(e.encoder_id, e.role, e.embedded) for e in switching.known(here)] == [
        (old, "serving", 0),
        (new, "wanted", 6),
    ]
    _embed(here, new, 6, 10)
    assert switching.finish(here, str(other_checkpoint), new)
    assert encoders.current_encoder_id(here) == new
    assert encoders.load_encoder(here).encoder_id == new
    assert switching.wanted(here) is None
    assert not switching.finish(here, str(other_checkpoint), new), "once"
    assert [(e.encoder_id, e.role) for e in switching.known(here)] == [(new, "serving"), (old, "kept")]


def test_going_back_before_the_end_cancels_the_switch(here: Platform, checkpoint: Path, other_checkpoint: Path) -> None:
    old = encoders.current_encoder_id(here)
    switching.use(here, str(other_checkpoint))
    switching.use(here, str(checkpoint))
    assert switching.wanted(here) is None
    assert encoders.current_encoder_id(here) == old


def test_an_encoder_that_cannot_be_had_changes_nothing(
    here: Platform, monkeypatch: pytest.MonkeyPatch, other_checkpoint: Path
) -> None:
    monkeypatch.setattr(weights, "SMALL_ENCODER", other_checkpoint)

    def gone(_setting: str) -> Any:
        raise weights.CannotBeHad("no network to download it")

    monkeypatch.setattr(weights, "_named", gone)
    with pytest.raises(BackendUnavailable, match="keeps the one it has"):
        switching.use(here, "ViT-L-14/openai")
    assert switching.wanted(here) is None
    assert len(switching.known(here)) == 1
    assert frames.row_count(here.database) == 10
