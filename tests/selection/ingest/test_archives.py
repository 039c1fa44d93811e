"""Tar files: streamed, described by their own list, and never trusted with a path."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from infra import database as documents
from infra.errors import InvalidInput
from infra.platform import Platform
from selection.fleet import frames, sightings
from selection.ingest import ingest as ingesting
from selection.ingest.ingest import ingest
from selection.ingest.sources import Reject, SourceFile, archives


@pytest.fixture
def stores(platform: Platform) -> Platform:
    documents.ensure_indexes(platform.database, frames.INDEXES | ingesting.INDEXES)
    return platform


def _jpeg(level: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 8), (level,) * 3).save(file, format="JPEG")
    return file.getvalue()


def _tar(path: Path, members: list[tuple[str, bytes]], *, mode: str = "w", links: tuple[str, ...] = ()) -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(info)
    return path


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_a_tar_is_ingested_with_its_list_and_again_adds_nothing(stores: Platform, tmp_path: Path, mode: str) -> None:
    listing = json.dumps({"file": "b.jpg", "drive": "d1"}).encode() + b"\nbroken\n"
    members = [("in/metadata.jsonl", listing), ("in/a.jpg", _jpeg(1)), ("in/b.jpg", _jpeg(2))]
    path = _tar(tmp_path / ("x.tar" if mode == "w" else f"x.tar.{mode[2:]}"), members, mode=mode)
    report = ingest(stores, [str(path)])
    assert (report.added, report.rejected_count) == (2, 1)
    assert "line 2" in report.rejected[0].reason
    assert ingest(stores, [str(path)]).added == 0
    first, second = frames.by_rows(stores.database, [0, 1])
    assert (first.drive, second.drive, second.source) == (None, "d1", "in/b.jpg")
    assert sightings.of_frame(stores.database, second.frame_id)[0].uri == f"{path.as_uri()}#in/b.jpg"
    assert stores.objects.get(second.object_key) == _jpeg(2)


def test_paths_that_escape_and_links_are_refused_by_name(tmp_path: Path) -> None:
    members = [
        ("../evil.jpg", _jpeg(1)),
        ("/etc/evil.jpg", _jpeg(2)),
        ("a/../../evil.jpg", _jpeg(3)),
        ("good.jpg", _jpeg(4)),
    ]
    found = list(archives.read(_tar(tmp_path / "x.tar", members, links=("link.jpg",))))
    assert [one.name for one in found if isinstance(one, SourceFile)] == ["good.jpg"]
    refused = {one.source.partition("!")[2]: one.reason for one in found if isinstance(one, Reject)}
    assert set(refused) == {"../evil.jpg", "/etc/evil.jpg", "a/../../evil.jpg", "link.jpg"}
    assert "outside the archive" in refused["../evil.jpg"]
    assert "link" in refused["link.jpg"]


def test_a_tar_that_is_cut_short_gives_what_was_whole(tmp_path: Path) -> None:
    path = _tar(tmp_path / "x.tar", [("a.jpg", _jpeg(1)), ("b.jpg", _jpeg(2) * 100)])
    path.write_bytes(path.read_bytes()[:4000])
    found = list(archives.read(path))
    assert [one.name for one in found if isinstance(one, SourceFile)] == ["a.jpg"]
    assert "cut short" in next(one.reason for one in found if isinstance(one, Reject))


def test_what_is_inside_a_tar_cannot_stay_in_place(stores: Platform, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="--in-place"):
        ingest(stores, [str(_tar(tmp_path / "x.tar", [("a.jpg", _jpeg(1))]))], in_place=True)
