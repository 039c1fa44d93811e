"""Manifests and frames that stay where they are: registered without reading, seen later, readable all the while."""

from __future__ import annotations

import hashlib
import io
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from infra import database as documents
from infra import leases
from infra.errors import BackendUnavailable, InvalidInput
from infra.lake import Lake
from infra.platform import Platform
from selection.fleet import frames, originals, sightings, unseen
from selection.ingest import ingest as ingesting
from selection.ingest import intake, previews, registration, rejects
from selection.ingest.ingest import ingest
from selection.ingest.previews import Seen, see_missing
from selection.ingest.sources import Reject, manifests
from selection.ingest.sources.manifests import ManifestEntry
from selection.pixels import images


@pytest.fixture
def stores(platform: Platform) -> Platform:
    documents.ensure_indexes(platform.database, frames.INDEXES | ingesting.INDEXES)
    return platform


def _jpeg(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG")
    return file.getvalue()


def _with_exif(seed: int) -> bytes:
    """An image whose camera knew time and place."""
    image = Image.open(io.BytesIO(_jpeg(seed)))
    exif = image.getexif()
    exif.get_ifd(0x8769)[0x9003] = "2026:03:01 07:30:00"
    exif.get_ifd(0x8825).update({1: "N", 2: (35.0, 3.0, 0.0), 3: "E", 4: (137.0, 0.0, 0.0)})
    file = io.BytesIO()
    image.save(file, format="JPEG", exif=exif)
    return file.getvalue()


def _lake(folder: Path, count: int, *, digests: bool = True) -> Path:
    """Images and a manifest that names them."""
    folder.mkdir(parents=True)
    lines = []
    for seed in range(count):
        data = _jpeg(seed)
        (folder / f"{seed}.jpg").write_bytes(data)
        digest = {"digest": hashlib.sha256(data).hexdigest()} if digests else {}
        lines.append({"uri": f"{seed}.jpg", "drive": "d1", "speed_kph": 40 + seed, "classes": ["Car"], **digest})
    manifest = folder / "list.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return manifest


def test_lines_with_digests_are_registered_without_reading_a_byte(
    stores: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = _lake(tmp_path / "lake", 5)
    monkeypatch.setattr(registration, "BATCH_ENTRIES", 2)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda self: pytest.fail(f"{self} was read"))
        report = ingest(stores, [str(manifest)], site="ulm", in_place=True)
        assert (report.added, report.already_present, report.sightings_added) == (5, 0, 5)
        report = ingest(stores, [str(manifest)], site="ulm", in_place=True)
        assert (report.added, report.already_present, report.sightings_added) == (0, 5, 0)
    found = frames.by_rows(stores.database, range(5))
    assert [one.source for one in found] == [f"{i}.jpg" for i in range(5)]
    assert found[0].object_uri == (tmp_path / "lake/0.jpg").as_uri()
    assert (found[0].site, found[0].drive, found[0].attributes) == ("ulm", "d1", {"speed_kph": 40})
    assert [one.uri for one in sightings.of_frame(stores.database, found[0].frame_id)] == [found[0].object_uri]
    assert not list(stores.objects.list("frames"))


def test_a_known_frame_met_elsewhere_gains_a_sighting(stores: Platform, tmp_path: Path) -> None:
    for place in ("a", "b"):
        ingest(stores, [str(_lake(tmp_path / place, 2))], in_place=True)
    first = frames.by_rows(stores.database, [0])[0]
    uris = [one.uri for one in sightings.of_frame(stores.database, first.frame_id)]
    assert uris == [(tmp_path / place / "0.jpg").as_uri() for place in ("a", "b")]
    assert frames.row_count(stores.database) == 2


def test_frames_are_seen_later_and_say_so(stores: Platform, tmp_path: Path) -> None:
    ingest(stores, [str(_lake(tmp_path / "lake", 3))], in_place=True)
    (tmp_path / "lake/1.jpg").write_bytes(_jpeg(99))
    (tmp_path / "lake/2.jpg").unlink()
    assert see_missing(stores) == Seen(frames=1, broken=1, waiting=1)
    assert see_missing(stores) == Seen(frames=0, broken=0, waiting=1)
    seen, changed, _ = frames.by_rows(stores.database, range(3))
    assert (seen.width, seen.height, seen.format, seen.size_bytes) == (64, 48, "JPEG", len(_jpeg(0)))
    assert seen.changed_at is not None
    assert seen.perceptual_hash is not None
    assert stores.objects.exists(seen.preview_key)
    reasons = {Path(one.source).name: one.reason for one in rejects.list_rejects(stores.database)}
    assert changed.digest in reasons["1.jpg"]
    assert hashlib.sha256(_jpeg(99)).hexdigest() in reasons["1.jpg"]
    assert "not there" in reasons["2.jpg"]


def test_a_range_that_another_is_at_is_left_to_it(stores: Platform, tmp_path: Path) -> None:
    ingest(stores, [str(_lake(tmp_path / "lake", 2))], in_place=True)
    with leases.hold(stores.database, "see/0"):
        assert see_missing(stores).frames == 0
    assert see_missing(stores).frames == 2


def test_a_lake_that_was_away_is_seen_when_it_is_back(stores: Platform, tmp_path: Path) -> None:
    ingest(stores, [str(_lake(tmp_path / "lake", 4))], in_place=True)
    (tmp_path / "lake/0.jpg").rename(tmp_path / "0.jpg")
    (tmp_path / "lake/1.jpg").write_bytes(b"no image")
    assert see_missing(stores) == Seen(frames=2, broken=1, waiting=1)
    (left,) = unseen.ranges(stores.database)
    assert list(left.wanted) == [0], "nothing else is looked at again"
    assert see_missing(stores, tried_before=left.looked_at) == Seen(frames=0, broken=0, waiting=0)
    (tmp_path / "0.jpg").rename(tmp_path / "lake/0.jpg")
    assert see_missing(stores) == Seen(frames=1, broken=0, waiting=0)
    assert unseen.ranges(stores.database) == []
    assert [Path(one.source).name for one in rejects.list_rejects(stores.database)] == ["1.jpg"]


@pytest.mark.parametrize("trouble", [BackendUnavailable("the disk does not answer"), OSError("odd"), ValueError("odd")])
def test_one_original_that_cannot_be_read_now_does_not_end_the_rest(
    stores: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    ingest(stores, [str(_lake(tmp_path / "lake", 3))], in_place=True)
    real = Lake.read

    def read(self: Lake, uri: str) -> bytes:
        if uri.endswith("1.jpg"):
            raise trouble
        return real(self, uri)

    with monkeypatch.context() as patch:
        patch.setattr(Lake, "read", read)
        assert see_missing(stores) == Seen(frames=2, broken=0, waiting=1)
    assert see_missing(stores) == Seen(frames=1, broken=0, waiting=0)


def test_where_nothing_answers_seeing_gives_up(
    stores: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest(stores, [str(_lake(tmp_path / "lake", originals.UNANSWERED_IN_A_ROW))], in_place=True)

    def read(self: Lake, uri: str) -> bytes:
        raise BackendUnavailable(f"{uri} cannot be read now")

    with monkeypatch.context() as patch:
        patch.setattr(Lake, "read", read)
        with pytest.raises(BackendUnavailable, match="cannot be read now"):
            see_missing(stores)
    assert see_missing(stores).frames == originals.UNANSWERED_IN_A_ROW


def test_a_pipe_in_place_is_no_file(stores: Platform, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "list.jsonl").write_text(json.dumps({"uri": "pipe", "digest": "a" * 64}))
    ingest(stores, [str(tmp_path / "list.jsonl")], in_place=True)
    assert see_missing(stores) == Seen(frames=0, broken=1, waiting=0)


def test_a_pipe_or_a_file_of_unknown_size_is_refused_before_it_is_read(
    stores: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "LARGEST_FILE_BYTES", 1 << 20)
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "big.jpg").open("wb") as file:
        file.truncate(2 << 20)
    (tmp_path / "list.jsonl").write_text('{"uri": "pipe"}\n{"uri": "big.jpg"}\n')
    report = ingest(stores, [str(tmp_path / "list.jsonl")])
    reasons = {Path(one.source).name: one.reason for one in report.rejected}
    assert reasons == {"pipe": "it is not a file", "big.jpg": "the file is larger than 1 MiB"}


def test_time_and_place_that_the_camera_knew_are_seen_too(stores: Platform, tmp_path: Path) -> None:
    (tmp_path / "lake").mkdir()
    lines = []
    for seed, said in ((1, {}), (2, {"captured_at": "2026-01-01T00:00:00Z", "location": [1.0, 2.0]})):
        data = _with_exif(seed)
        (tmp_path / f"lake/{seed}.jpg").write_bytes(data)
        lines.append({"uri": f"{seed}.jpg", "digest": hashlib.sha256(data).hexdigest()} | said)
    (tmp_path / "lake/list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    ingest(stores, [str(tmp_path / "lake/list.jsonl")], in_place=True)
    assert see_missing(stores).frames == 2
    silent, said_all = frames.by_rows(stores.database, range(2))
    assert (silent.captured_at, silent.location) == (datetime(2026, 3, 1, 7, 30, tzinfo=UTC), (35.05, 137.0))
    assert (said_all.captured_at, said_all.location) == (datetime(2026, 1, 1, tzinfo=UTC), (1.0, 2.0))


@pytest.mark.parametrize("digests", [True, False])
def test_a_moved_lake_is_followed(stores: Platform, tmp_path: Path, digests: bool) -> None:
    ingest(stores, [str(_lake(tmp_path / "lake", 3, digests=digests))], in_place=True)
    (tmp_path / "lake/2.jpg").write_bytes(b"damaged")
    see_missing(stores)  # The third is given up, if it was not seen before.
    (tmp_path / "lake/2.jpg").write_bytes(_jpeg(2))
    (tmp_path / "lake").rename(tmp_path / "moved")
    report = ingest(stores, [str(tmp_path / "moved/list.jsonl")], in_place=True)
    assert report.sightings_added == 3
    found = frames.by_rows(stores.database, range(3))
    assert [one.object_uri for one in found] == [(tmp_path / f"moved/{i}.jpg").as_uri() for i in range(3)]
    uris = [one.uri for one in sightings.of_frame(stores.database, found[0].frame_id)]
    assert uris == [(tmp_path / place / "0.jpg").as_uri() for place in ("moved", "lake")]
    assert see_missing(stores).frames == int(digests)
    assert all(one.perceptual_hash for one in frames.by_rows(stores.database, range(3)))
    assert ingest(stores, [str(tmp_path / "moved/list.jsonl")], in_place=True).sightings_added == 0


def test_a_moved_lake_is_seen_at_once_and_its_old_place_forgotten(stores: Platform, tmp_path: Path) -> None:
    ingest(stores, [str(_lake(tmp_path / "lake", 3))], in_place=True)
    (tmp_path / "lake").rename(tmp_path / "moved")
    assert see_missing(stores).waiting == 3
    assert rejects.reject_count(stores.database) == 3
    ingest(stores, [str(tmp_path / "moved/list.jsonl")], in_place=True)
    assert rejects.list_rejects(stores.database) == []
    assert see_missing(stores, tried_before=datetime(2026, 1, 1, tzinfo=UTC)).frames == 3


def test_a_lake_that_stays_away_is_asked_for_a_few_files_only(
    stores: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(previews, "_PROBED", 2)
    ingest(stores, [str(_lake(tmp_path / "lake", 6))], in_place=True)
    (tmp_path / "lake").rename(tmp_path / "away")
    assert see_missing(stores).waiting == 6
    asked, real = [], Lake.read

    def read(self: Lake, uri: str, **more: Any) -> bytes:
        asked.append(uri)
        return real(self, uri, **more)

    monkeypatch.setattr(Lake, "read", read)
    assert see_missing(stores).waiting == 6
    assert len(asked) == 2
    (tmp_path / "away").rename(tmp_path / "lake")
    assert see_missing(stores).frames == 6


def test_rows_are_looked_at_again(stores: Platform, tmp_path: Path) -> None:
    db, now = stores.database, datetime(2026, 3, 1, tzinfo=UTC)
    ingest(stores, [str(_lake(tmp_path / "lake", 3))], in_place=True)
    (whole,) = unseen.ranges(db)
    unseen.reopen(db, [0, 2], now=now)
    assert list(unseen.ranges(db)[0].wanted) == [0, 1, 2], "all of them were to be looked at anyway"
    unseen.strike(db, whole, now=now)
    (left,) = unseen.ranges(db)
    assert list(left.wanted) == [0, 1, 2], "rows were added meanwhile"
    unseen.strike(db, left, now=now)
    assert unseen.ranges(db) == []
    unseen.reopen(db, [1, 600, 1100], now=now)
    unseen.reopen(db, [1, 2], now=now)
    assert [list(one.wanted) for one in unseen.ranges(db)] == [[1, 2], [600, 1100]]


@pytest.mark.parametrize("digests", [True, False])
def test_copying_what_was_in_place_copies_it(stores: Platform, tmp_path: Path, digests: bool) -> None:
    ingest(stores, [str(_lake(tmp_path / "lake", 2, digests=digests))], in_place=True)
    report = ingest(stores, [str(tmp_path / "lake")])
    assert (report.added, report.repaired, report.sightings_added) == (0, 0, 0), "these places are known"
    for seed, frame in enumerate(frames.by_rows(stores.database, range(2))):
        (tmp_path / f"lake/{seed}.jpg").unlink()
        read = originals.read(stores.objects, object_key=frame.object_key, object_uri=frame.object_uri)
        assert read == _jpeg(seed)


def test_without_digests_the_bytes_are_hashed_and_not_copied(stores: Platform, tmp_path: Path) -> None:
    manifest = _lake(tmp_path / "lake", 2, digests=False)
    assert ingest(stores, [str(manifest)], in_place=True).added == 2
    frame = frames.by_rows(stores.database, [0])[0]
    assert frame.digest == hashlib.sha256(_jpeg(0)).hexdigest()
    assert not stores.objects.exists(frame.object_key)
    assert unseen.ranges(stores.database) == []
    read = originals.read(stores.objects, object_key=frame.object_key, object_uri=frame.object_uri)
    assert read == _jpeg(0)
    assert originals.path(stores.objects, frame) == tmp_path / "lake/0.jpg"
    assert stores.objects.get(originals.pin(stores.objects, frame)) == _jpeg(0)


def test_pinning_refuses_a_file_that_changed(stores: Platform, tmp_path: Path) -> None:
    ingest(stores, [str(_lake(tmp_path / "lake", 1))], in_place=True)
    (tmp_path / "lake/0.jpg").write_bytes(_jpeg(5))
    frame = frames.by_rows(stores.database, [0])[0]
    with pytest.raises(InvalidInput, match=frame.digest):
        originals.pin(stores.objects, frame)


def test_copying_checks_the_digest_of_the_manifest(stores: Platform, tmp_path: Path) -> None:
    manifest = _lake(tmp_path / "lake", 2)
    (tmp_path / "lake/1.jpg").write_bytes(_jpeg(7))
    report = ingest(stores, [str(manifest)])
    assert (report.added, report.rejected_count) == (1, 1)
    assert hashlib.sha256(_jpeg(7)).hexdigest() in report.rejected[0].reason
    assert hashlib.sha256(_jpeg(1)).hexdigest() in report.rejected[0].reason
    frame = frames.by_rows(stores.database, [0])[0]
    assert stores.objects.get(frame.object_key) == _jpeg(0)


def _read(manifest: Path) -> tuple[list[ManifestEntry], list[str]]:
    items = list(manifests.read(manifest))
    entries = [one for one in items if isinstance(one, ManifestEntry)]
    return entries, [one.reason for one in items if isinstance(one, Reject)]


def test_a_bad_line_is_named_by_its_number_and_the_rest_goes_on(tmp_path: Path) -> None:
    manifest = tmp_path / "list.jsonl"
    manifest.write_text(
        '{"uri": "a.jpg"}\nnot json\n{"digest": "0"}\n{"uri": "b.jpg", "digest": "12"}\n'
        '{"uri": "http://x/y.jpg"}\n{"uri": "c.jpg", "width": -1}\n\n{"source-ref": "s3://bucket/d.jpg"}\n'
    )
    entries, reasons = _read(manifest)
    assert [one.uri for one in entries] == [(tmp_path / "a.jpg").as_uri(), "s3://bucket/d.jpg"]
    expected = [(2, "not JSON"), (3, "`uri`"), (4, "`digest`"), (5, "neither"), (6, "`width`")]
    for reason, (number, words) in zip(reasons, expected, strict=True):
        assert f"line {number}" in reason
        assert words in reason


def test_csv_and_parquet_say_the_same_as_json(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    digest = hashlib.sha256(b"x").hexdigest()
    line: dict[str, Any] = {
        "uri": "ü/a b.jpg",
        "digest": digest,
        "width": 1920,
        "drive": "007",
        "captured_at": "2026-03-01T07:30:00+00:00",
        "lat": 35.5,
        "lon": 137.0,
        "speed_kph": 42.5,
    }
    (tmp_path / "a.csv").write_text(f"{','.join(line)}\n{','.join(str(v) for v in line.values())}\nshort,line\n")
    parquet.write_table(pa.table({key: [value] for key, value in line.items()}), tmp_path / "a.parquet")
    described = {key: value for key, value in line.items() if key not in ("lat", "lon")} | {"location": [35.5, 137.0]}
    (tmp_path / "a.jsonl").write_text(json.dumps(described))
    from_csv, reasons = _read(tmp_path / "a.csv")
    assert "line 3: 2 values for 8 columns" in reasons[0]
    assert from_csv == _read(tmp_path / "a.parquet")[0] == _read(tmp_path / "a.jsonl")[0]
    assert from_csv[0].said.location == (35.5, 137.0)
    assert from_csv[0].said.attributes == {"speed_kph": 42.5}
    assert from_csv[0].uri == (tmp_path / "ü/a b.jpg").as_uri()


def test_a_manifest_of_another_kind_than_its_name_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("text")
    with pytest.raises(InvalidInput, match="not Parquet"):
        list(manifests.read(tmp_path / "a.parquet"))
    (tmp_path / "b.csv").write_text("name,size\na,1\n")
    with pytest.raises(InvalidInput, match="no column `uri`"):
        list(manifests.read(tmp_path / "b.csv"))


def test_answers_never_reach_an_entry(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"uri": "a.jpg", "x": {"classes": ["Car"], "y": 1}, "mask": "m"}))
    assert _read(tmp_path / "a.jsonl")[0][0].said.attributes == {"x": {"y": 1}}


def test_previews_of_frames_in_place_are_made_on_demand(stores: Platform, tmp_path: Path) -> None:
    ingest(stores, [str(_lake(tmp_path / "lake", 1))], in_place=True)
    frame = frames.by_rows(stores.database, [0])[0]
    made = originals.make_preview(
        stores.objects,
        preview_key=frame.preview_key,
        object_key=frame.object_key,
        object_uri=frame.object_uri,
        max_pixels=10_000,
        digest=frame.digest,
    )
    assert images.open_image(made, max_pixels=10_000).width == 64
    assert stores.objects.exists(frame.preview_key)


def test_parquet_may_hold_what_json_cannot(stores: Platform, tmp_path: Path) -> None:
    import decimal
    from datetime import date, time

    import pyarrow as pa
    from pyarrow import parquet

    _lake(tmp_path / "lake", 1)
    columns = {
        "uri": ["0.jpg"],
        "captured_at": pa.array([1_772_350_200_123_456_789], pa.timestamp("ns")),
        "lat": [float("nan")],
        "lon": [float("nan")],
        "price": [decimal.Decimal("1.5")],
        "day": [date(2026, 3, 1)],
        "hour": [time(7, 30)],
        "raw": [b"\x01"],
        "nested": [{"a": [date(2026, 3, 1)]}],
    }
    parquet.write_table(pa.table(columns), tmp_path / "lake" / "list.parquet")
    report = ingest(stores, [str(tmp_path / "lake" / "list.parquet")])
    assert (report.added, report.rejected_count) == (1, 0)
    frame = frames.by_rows(stores.database, [0])[0]
    assert frame.attributes == {
        "price": 1.5,
        "day": "2026-03-01",
        "hour": "07:30:00",
        "raw": "01",
        "nested": {"a": ["2026-03-01"]},
    }
    assert frame.location is None
    assert frame.captured_at is not None
    assert frame.captured_at.microsecond == 123_000


def test_a_csv_line_in_another_encoding_does_not_end_the_rest(stores: Platform, tmp_path: Path) -> None:
    _lake(tmp_path / "lake", 2)
    (tmp_path / "lake" / "list.csv").write_bytes(b"uri,weather\nM\xfcller.jpg,rain\n0.jpg,fog\n1.jpg,fog\n")
    report = ingest(stores, [str(tmp_path / "lake" / "list.csv")])
    assert (report.added, report.missing, report.broken) == (2, 1, 0)


def test_lines_that_were_mended_leave_the_list_of_rejects(stores: Platform, tmp_path: Path) -> None:
    _lake(tmp_path / "lake", 2, digests=False)
    listed = tmp_path / "lake" / "list.jsonl"
    whole = listed.read_text()
    listed.write_text("not json\n" + whole)
    assert ingest(stores, [str(listed)]).broken == 1
    listed.write_text("not json\nnor this\n" + whole)
    assert ingest(stores, [str(listed)]).broken == 2
    assert len(rejects.list_rejects(stores.database)) == 2
    listed.write_text(whole)
    assert ingest(stores, [str(listed)]).broken == 0
    assert rejects.list_rejects(stores.database) == []


def test_what_a_manifest_names_in_vain_is_missing(stores: Platform, tmp_path: Path) -> None:
    _lake(tmp_path / "lake", 4, digests=False)
    for i in (1, 2):
        (tmp_path / "lake" / f"{i}.jpg").unlink()
    (tmp_path / "lake/3.jpg").write_bytes(b"")
    report = ingest(stores, [str(tmp_path / "lake" / "list.jsonl")])
    assert (report.added, report.missing, report.broken) == (1, 2, 1)
    assert [Path(one.source).name for one in report.examples["missing"]] == ["1.jpg", "2.jpg"]
    assert "1 added, 0 already present, 2 missing, 1 broken" in report.summary()
    assert {one.kind for one in rejects.list_rejects(stores.database)} == {"missing", "broken"}


def test_a_video_in_a_manifest_is_not_registered_as_a_frame(stores: Platform, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"none")
    line = {"uri": "a.mp4", "digest": hashlib.sha256(b"none").hexdigest()}
    (tmp_path / "list.jsonl").write_text(json.dumps(line))
    report = ingest(stores, [str(tmp_path / "list.jsonl")], in_place=True)
    assert (report.added, report.broken) == (0, 1)
    assert "not a video" in report.rejected[0].reason
    (tmp_path / "a.mp4").write_bytes(b"other")
    assert "the manifest announces" in ingest(stores, [str(tmp_path / "list.jsonl")]).rejected[0].reason


@pytest.mark.parametrize("in_place", [True, False])
def test_what_a_manifest_lists_before_it_is_damaged_is_taken_in(
    stores: Platform, tmp_path: Path, in_place: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = _lake(tmp_path / "lake", 3)
    real = manifests._json_lines

    def breaks(path: Path, meter: Any) -> Any:
        yield from real(path, meter)
        raise OSError("the disk is gone")

    monkeypatch.setattr(manifests, "_json_lines", breaks)
    with pytest.raises(InvalidInput, match="the disk is gone"):
        ingest(stores, [str(manifest)], in_place=in_place)
    assert frames.row_count(stores.database) == 3


def test_a_quote_that_is_not_closed_breaks_its_own_line_alone(tmp_path: Path) -> None:
    lines = ["uri,drive", 'a.jpg,"d, 1"', 'b.jpg,"d1', "c.jpg,d1", "", 'd.jpg,"two', 'lines"', 'e.jpg,5" x']
    (tmp_path / "list.csv").write_bytes("\r\n".join(lines).encode())
    entries, reasons = _read(tmp_path / "list.csv")
    assert [(one.name, one.said.drive) for one in entries] == [("a.jpg", "d, 1"), ("c.jpg", "d1"), ("e.jpg", '5" x')]
    assert [reason.partition(":")[0] for reason in reasons] == [f"bad manifest line {number}" for number in (3, 6, 7)]
    (tmp_path / "header.csv").write_text('uri,"drive\na.jpg,d1\n')
    with pytest.raises(InvalidInput, match="cannot read the manifest"):
        _read(tmp_path / "header.csv")


def test_a_parquet_value_that_python_cannot_hold_breaks_its_own_row_alone(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    columns = {
        "uri": [f"{i}.jpg" for i in range(4)],
        "captured_at": pa.array([1_772_350_200_000_000, 2**62, None, 1_772_350_200_000_000], pa.timestamp("us")),
        "nested": pa.array([[1], [1], [1], [2**62]], pa.list_(pa.timestamp("us"))),
    }
    parquet.write_table(pa.table(columns), tmp_path / "list.parquet")
    entries, reasons = _read(tmp_path / "list.parquet")
    assert [one.name for one in entries] == ["0.jpg", "2.jpg"]
    assert entries[0].said.captured_at is not None
    assert ["line 2" in reasons[0], "`captured_at`" in reasons[0], "`nested`" in reasons[1]] == [True] * 3


def test_whole_numbers_that_became_floats_are_whole(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    columns = {"uri": ["a.jpg", "b.jpg"], "width": [64.0, float("nan")], "drive": [17.0, float("nan")]}
    parquet.write_table(pa.table(columns), tmp_path / "list.parquet")
    entries, reasons = _read(tmp_path / "list.parquet")
    assert [(one.width, one.said.drive) for one in entries] == [(64, "17"), (0, None)]
    assert reasons == []
    (tmp_path / "list.jsonl").write_text('{"uri": "a.jpg", "width": 64.5}\n{"uri": "a.jpg", "drive": 1.5}\n')
    assert len(_read(tmp_path / "list.jsonl")[1]) == 2


def test_latitude_and_longitude_are_a_location_in_json_too(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"uri": "a.jpg", "lat": 35.5, "lon": 137.0}\n{"uri": "b.jpg", "lat": null, "lon": null}\n'
    )
    first, second = _read(tmp_path / "a.jsonl")[0]
    assert (first.said.location, first.said.attributes) == ((35.5, 137.0), {})
    assert second.said.location is None


def test_names_that_nothing_can_have_break_their_own_line_alone(stores: Platform, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    _lake(folder, 2)
    odd = [
        "\ud800.jpg",
        "s3://b/\ud800.jpg",
        "file:///\ud800.jpg",
        "file://[a/b.jpg",
        "file:///a%00b",
        "s3://b/a//b.jpg",
    ]
    uris = ["0.jpg", *odd, "1.jpg"]
    (folder / "list.jsonl").write_text("".join(json.dumps({"uri": uri}) + "\n" for uri in uris))
    report = ingest(stores, [str(folder / "list.jsonl")])
    assert (report.added, report.broken) == (2, len(odd))
    report.summary().encode()
    assert len(rejects.list_rejects(stores.database)) == len(odd)
