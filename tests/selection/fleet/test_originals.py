"""Previews made from originals that lie elsewhere."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from PIL import Image

from infra.errors import BackendUnavailable, InvalidInput, NotFound
from infra.objects import open_objects
from infra.settings import Settings
from selection.fleet import originals


def test_a_preview_is_made_once_and_within_the_limit(tmp_path: Path) -> None:
    objects = open_objects(Settings(home=tmp_path / "home"))
    lake = tmp_path / "lake.png"
    Image.new("RGB", (100, 80)).save(lake)
    keys = {"preview_key": "previews/a.jpg", "object_key": "frames/a.png", "object_uri": lake.as_uri()}
    with pytest.raises(InvalidInput, match="100 x 80 pixels, 7999 are allowed"):
        originals.preview(objects, **keys, max_pixels=7999)
    assert not objects.exists("previews/a.jpg")
    made = originals.preview(objects, **keys, max_pixels=8000)
    lake.unlink()
    assert originals.preview(objects, **keys) == made
    with pytest.raises(NotFound):
        originals.make_preview(objects, **keys)


def test_another_file_in_the_place_of_the_original_gives_no_preview(tmp_path: Path) -> None:
    objects = open_objects(Settings(home=tmp_path / "home"))
    lake = tmp_path / "lake.png"
    Image.new("RGB", (100, 80)).save(lake)
    keys = {"preview_key": "previews/a.jpg", "object_key": "frames/a.png", "object_uri": lake.as_uri()}
    with pytest.raises(InvalidInput, match="has the digest"):
        originals.preview(objects, **keys, digest="0" * 64)
    assert not objects.exists("previews/a.jpg")
    assert originals.preview(objects, **keys, digest=hashlib.sha256(lake.read_bytes()).hexdigest())


def test_patience_ends_when_nothing_answers_in_a_row() -> None:
    patience, trouble = originals.Patience(limit=3), BackendUnavailable("away")
    for _ in range(5):
        patience.try_with(trouble)
        patience.try_with(trouble)
        patience.answered()
    patience.try_with(trouble)
    patience.try_with(trouble)
    with pytest.raises(BackendUnavailable, match="away"):
        patience.try_with(trouble)
