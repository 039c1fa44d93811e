"""Previews made from originals that lie elsewhere."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from PIL import Image

from infra.errors import BackendUnavailable, InvalidInput, NotFound
from infra.objects import ObjectStore, open_objects
from infra.settings import Settings
from selection.fleet import originals


def test_a_preview_is_made_within_the_limit_and_kept(tmp_path: Path) -> None:
    objects = open_objects(Settings(home=tmp_path / "home"))
    lake = tmp_path / "lake.png"
    Image.new("RGB", (100, 80)).save(lake)
    with pytest.raises(InvalidInput, match="100 x 80 pixels, 7999 are allowed"):
        _make(objects, lake, max_pixels=7999)
    assert not objects.exists("previews/a.jpg")
    made = _make(objects, lake)
    digest = hashlib.sha256(lake.read_bytes()).hexdigest()
    lake.unlink()
    assert objects.get("previews/a.jpg") == made
    with pytest.raises(NotFound):
        _make(objects, lake, digest=digest)


def test_another_file_in_the_place_of_the_original_gives_no_preview(tmp_path: Path) -> None:
    objects = open_objects(Settings(home=tmp_path / "home"))
    lake = tmp_path / "lake.png"
    Image.new("RGB", (100, 80)).save(lake)
    with pytest.raises(InvalidInput, match="has the digest"):
        _make(objects, lake, digest="0" * 64)
    assert not objects.exists("previews/a.jpg")
    assert _make(objects, lake)


def _make(objects: ObjectStore, lake: Path, *, max_pixels: int = 8000, digest: str | None = None) -> bytes:
    return originals.make_preview(
        objects,
        preview_key="previews/a.jpg",
        object_key="frames/a.png",
        object_uri=lake.as_uri(),
        max_pixels=max_pixels,
        digest=digest or hashlib.sha256(lake.read_bytes()).hexdigest(),
    )


def test_patience_ends_when_nothing_answers_in_a_row() -> None:
    patience, trouble = originals.Patience(limit=3), BackendUnavailable("away")
    for _ in range(5):
        patience.failed("s3://a/1.jpg", trouble)
        patience.failed("s3://a/2.jpg", trouble)
        patience.answered("s3://a/3.jpg")
    for uri in ("s3://a/1.jpg", "s3://a/2.jpg", "s3://b/1.jpg", "s3://b/2.jpg", "file:///lake/1.jpg"):
        patience.failed(uri, trouble)
    patience.answered("s3://b/3.jpg")
    patience.check()
    patience.failed("s3://a/4.jpg", trouble)
    assert [patience.is_away(uri) for uri in ("s3://a/5.jpg", "s3://b/5.jpg", "file:///a/5.jpg")] == [
        True,
        False,
        False,
    ]
    with pytest.raises(BackendUnavailable, match="away"):
        patience.check()
