"""Tar files: streamed, described by their own list, and never trusted with a path."""

from __future__ import annotations

import gzip
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
from selection.ingest import rejects
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


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_with_a_damaged_header_or_without_its_end_is_no_success(tmp_path: Path, mode: str) -> None:
    plain = _tar(tmp_path / "plain.tar", [(f"{i}.jpg", _jpeg(i)) for i in range(4)]).read_bytes()
    with tarfile.open(tmp_path / "plain.tar") as tar:
        third = tar.getmembers()[2].offset
    damaged = plain[: third + 10] + b"\xff" * 4 + plain[third + 14 :]
    for data in (damaged, plain[: third + 200], plain[:third]):
        path = tmp_path / ("x.tar" if mode == "w" else "x.tar.gz")
        path.write_bytes(data if mode == "w" else gzip.compress(data))
        *files, last = archives.read(path)
        assert [one.name for one in files if isinstance(one, SourceFile)] == ["0.jpg", "1.jpg"]
        assert isinstance(last, Reject)
        assert "damaged or cut short" in last.reason


def test_a_tar_that_ends_properly_is_a_success(tmp_path: Path) -> None:
    whole = _tar(tmp_path / "x.tar", [("a.jpg", _jpeg(1))]).read_bytes()
    with tarfile.open(tmp_path / "x.tar") as tar:
        end = tar.getmembers()[0].offset_data + 512 * -(-len(_jpeg(1)) // 512)
    for data in (whole, whole[: end + 1024], whole[: end + 512], whole + whole, whole + b"\0" * 10240):
        (tmp_path / "x.tar").write_bytes(data)
        assert [type(one) for one in archives.read(tmp_path / "x.tar")] == [SourceFile]
    empty = list(archives.read(_tar(tmp_path / "empty.tar", [])))
    assert empty == []


def test_what_a_list_in_a_tar_names_in_vain_is_missing_until_it_is_there(stores: Platform, tmp_path: Path) -> None:
    lines = [{"file": name, "drive": "d1"} for name in ("./b.jpg", "../img/c.jpg", "a.jpg", "gone.jpg", "../../d.jpg")]
    listing = "".join(json.dumps(line) + "\n" for line in lines).encode()
    images = [(f"img/{name}.jpg", _jpeg(level * 9)) for level, name in enumerate(["a", "b", "c", "gone"])]
    first = [images[0], ("img/metadata.jsonl", listing), ("./img/b.jpg", images[1][1]), images[2]]
    report = ingest(stores, [str(_tar(tmp_path / "x.tar", first))])
    assert (report.added, report.missing, report.broken) == (3, 2, 1)
    assert [one.source.partition("#")[2] for one in report.examples["missing"]] == ["img/a.jpg", "img/gone.jpg"]
    assert "before its list" in report.examples["missing"][0].reason
    assert "points outside" in report.examples["broken"][0].reason
    assert sorted(str(one.drive) for one in frames.by_rows(stores.database, range(3))) == ["None", "d1", "d1"]
    ingest(stores, [str(_tar(tmp_path / "x.tar", [first[1], *images]))])
    assert [one.kind for one in rejects.list_rejects(stores.database)] == ["broken"]


def test_hidden_names_in_a_tar_are_left_out_unless_listed(tmp_path: Path) -> None:
    listing = b'{"file": ".kept.jpg"}\n'
    names = [".thumbs/a.jpg", "x/.git/b.jpg", "._c.jpg", "./d.jpg", ".kept.jpg"]
    members = [("metadata.jsonl", listing), *((name, _jpeg(1)) for name in names)]
    found = list(archives.read(_tar(tmp_path / "x.tar", members)))
    assert [one.name for one in found if isinstance(one, SourceFile)] == ["d.jpg", ".kept.jpg"]
