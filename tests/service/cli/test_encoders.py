"""Encoders from the command line: announced once, listed, switched while the old one serves."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from infra.platform import Platform
from selection.embedding import encoders, switching
from selection.ingest.ingest import ingest
from service import reconcile
from service.cli.main import app
from service.curator import Curator
from tests.selection.embedding.conftest import write_checkpoint

Mlpl = Callable[..., Result]


@pytest.fixture
def mlpl(small_platform: Platform, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Mlpl:
    """Runs a command on a fleet of six frames that has the small encoder."""
    draw = np.random.default_rng(0)
    (tmp_path / "frames").mkdir()
    for number in range(6):
        file = io.BytesIO()
        Image.fromarray(draw.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(file, format="JPEG")
        (tmp_path / "frames" / f"{number}.jpg").write_bytes(file.getvalue())
    ingest(small_platform, [str(tmp_path / "frames")])
    for name, value in small_platform.settings.as_environment().items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> Result:
        done = CliRunner().invoke(app, list(arguments))
        assert done.exit_code == 0, done.output
        return done

    return run


def test_the_small_encoder_is_announced_when_it_is_chosen_and_shown_afterwards(mlpl: Mlpl) -> None:
    notice = "using the small encoder that ships with MLPL"
    first = mlpl("embed")
    assert (first.stderr.count(notice), first.stdout.startswith("embedded 6 frames with small-")) == (1, True)
    for again in (mlpl("embed"), mlpl("search", "a road at night")):
        assert notice not in again.output
    assert notice in mlpl("status").stdout
    assert notice in mlpl("encoder", "list").stdout


def test_the_old_encoder_serves_until_the_reconciler_has_embedded_all_with_the_new_one(
    mlpl: Mlpl, small_platform: Platform, tmp_path: Path
) -> None:
    other = write_checkpoint(tmp_path / "other", seed=1)
    old = json.loads(mlpl("embed", "--json").stdout)["encoder_id"]
    told = mlpl("encoder", "use", str(other))
    assert "serves when every frame is embedded" in told.stdout
    new = str(told.stdout.split()[0])
    assert encoders.current_encoder_id(small_platform) == old != new
    assert f"switching to {new}: 0 of 6 embedded" in mlpl("status").stdout
    listed = {
        one["encoder_id"]: (one["role"], one["embedded"])
        for one in json.loads(mlpl("encoder", "list", "--json").stdout)
    }
    assert listed == {old: ("serving", 6), new: ("wanted", 0)}

    curator = Curator(small_platform)
    assert curator.search(text="a road").total == 6
    assert reconcile.embed(small_platform, curator, clock=reconcile.now_utc)
    assert encoders.current_encoder_id(small_platform) == new
    assert switching.wanted(small_platform) is None
    found = curator.search(text="a road")
    assert (found.total, found.missing) == (6, 0), "the curator took to the new encoder"
    assert "switching" not in mlpl("status").stdout
    assert not reconcile.embed(small_platform, curator, clock=reconcile.now_utc)

    back = mlpl("encoder", "use", "small", "--wait")
    assert back.stdout.strip() == f"{old} serves"
    assert [one.role for one in switching.known(small_platform)] == ["serving", "kept"]
