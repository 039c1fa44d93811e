"""Ingest: each image once, whatever is beside it, whoever runs it, wherever it is killed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from infra import database as documents
from infra.errors import BackendUnavailable, InvalidInput, StorageFull
from infra.platform import Platform
from selection.fleet import frames, sightings
from selection.fleet.metadata import FrameMetadata
from selection.ingest import ingest as ingesting
from selection.ingest import intake, rejects
from selection.ingest.ingest import ingest
from selection.ingest.report import IngestReport
from selection.ingest.sources import SourceFile
from selection.pixels import images

PROGRAM = """
import sys
import tarfile
from infra.platform import open_platform
from infra.settings import load
from selection.ingest.ingest import ingest
with open_platform(load()) as platform:
    ingest(platform, sys.argv[1:])
"""


@pytest.fixture
def stores(platform: Platform) -> Platform:
    documents.ensure_indexes(platform.database, frames.INDEXES | ingesting.INDEXES)
    return platform


def _jpeg(seed: int, size: tuple[int, int] = (64, 48)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG")
    return file.getvalue()


def _fill(folder: Path, count: int, *, first: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(first, first + count):
        (folder / f"{seed:04d}.jpg").write_bytes(_jpeg(seed))
    return folder


def _describe(folder: Path, lines: list[dict[str, Any]]) -> None:
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _assert_complete(stores: Platform, count: int) -> None:
    """Every frame once, rows dense, files there, nothing without a record but what a killed run may have left."""
    found = list(frames.documents(stores.database, start=0, fields=["row", "digest", "object_key", "preview_key"]))
    assert [one["row"] for one in found] == list(range(count))
    assert frames.row_count(stores.database) == count
    assert len({one["digest"] for one in found}) == count
    for one in found:
        assert hashlib.sha256(stores.objects.get(one["object_key"])).hexdigest() == one["digest"]
        assert stores.objects.exists(one["preview_key"])
    assert stores.database.sightings.count_documents({}) == count


def _counts(report: IngestReport) -> tuple[int, int, int, int, int]:
    return (report.added, report.already_present, report.sightings_added, report.rejected_count, report.ignored)


def test_a_dataset_becomes_frames_with_their_metadata(stores: Platform, tmp_path: Path) -> None:
    _fill(tmp_path / "images", 2)
    _fill(tmp_path / "masks", 2, first=50)
    line = {
        "file": "images/0000.jpg",
        "sequence": "d1",
        "captured_at": "2026-03-01T07:30:00",
        "camera": "front",
        "attributes": {"weather": "rain"},
        "classes": ["Pedestrian"],
        "split": "test",
    }
    _describe(tmp_path, [line, {"file": "images/0001.jpg", "site": "ulm"}])
    seen: list[tuple[int, int]] = []
    report = ingest(stores, [str(tmp_path)], site="berlin", progress=lambda done, total: seen.append((done, total)))
    assert _counts(report) == (2, 0, 2, 0, 2)
    assert seen[-1] == (2, 2)
    first, second = frames.by_rows(stores.database, [0, 1])
    assert first.digest == hashlib.sha256(_jpeg(0)).hexdigest()
    assert (first.site, first.drive, first.camera, first.source) == ("berlin", "d1", "front", "images/0000.jpg")
    assert first.captured_at == datetime(2026, 3, 1, 7, 30, tzinfo=UTC)
    assert first.attributes == {"weather": "rain", "split": "test"}
    assert (first.width, first.height, first.format, second.site) == (64, 48, "JPEG", "ulm")
    assert "Pedestrian" not in str(stores.database.frames.find_one({"_id": first.frame_id}))
    preview = images.open_image(stores.objects.get(first.preview_key), max_pixels=10_000)
    assert (preview.width, preview.height) == (64, 48)
    _assert_complete(stores, 2)


def test_running_again_adds_nothing(stores: Platform, tmp_path: Path) -> None:
    _fill(tmp_path, 3)
    assert _counts(ingest(stores, [str(tmp_path)])) == (3, 0, 3, 0, 0)
    before = list(stores.database.frames.find())
    assert _counts(ingest(stores, [str(tmp_path)])) == (0, 3, 0, 0, 0)
    assert list(stores.database.frames.find()) == before


def test_the_same_image_elsewhere_is_a_sighting_and_its_first_metadata_stays(stores: Platform, tmp_path: Path) -> None:
    for place in ("a", "b"):
        _fill(tmp_path / place, 1)
        _describe(tmp_path / place, [{"file": "0000.jpg", "drive": place}])
    ingest(stores, [str(tmp_path / "a")], site="north")
    report = ingest(stores, [str(tmp_path / "b")], site="south")
    assert (report.added, report.sightings_added, report.metadata_kept) == (0, 1, 1)
    assert "first metadata stays" in report.summary()
    frame = frames.by_rows(stores.database, [0])[0]
    assert (frame.drive, frame.site) == ("a", "north")
    assert [one.site for one in sightings.of_frame(stores.database, frame.frame_id)] == ["north", "south"]


def test_twins_in_one_folder_are_one_frame_seen_twice(stores: Platform, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(_jpeg(0))
    (tmp_path / "b.jpg").write_bytes(_jpeg(0))
    assert _counts(ingest(stores, [str(tmp_path)])) == (1, 1, 2, 0, 0)


def test_what_cannot_be_used_is_rejected_with_its_reason_and_the_rest_goes_on(stores: Platform, tmp_path: Path) -> None:
    _fill(tmp_path, 2)
    (tmp_path / "cut.jpg").write_bytes(_jpeg(7, (640, 480))[:-3000])
    (tmp_path / "cut twin.jpg").write_bytes(_jpeg(7, (640, 480))[:-3000])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "notes.jpg").write_text("not a picture")
    (tmp_path / "large.png").write_bytes(_jpeg(8, (2000, 1000)))
    small = Platform(
        settings=stores.settings.model_copy(update={"max_image_pixels": 1_000_000}),
        database=stores.database,
        objects=stores.objects,
    )
    assert _counts(ingest(small, [str(tmp_path)])) == (2, 0, 2, 5, 0)
    reasons = {Path(one.source).name: one.reason for one in rejects.list_rejects(stores.database)}
    assert {
        name: next(w for w in ("cut short", "empty", "too large", "not an image") if w in reason)
        for name, reason in reasons.items()
    } == {
        "cut.jpg": "cut short",
        "cut twin.jpg": "cut short",
        "empty.jpg": "empty",
        "large.png": "too large",
        "notes.jpg": "not an image",
    }
    assert _counts(ingest(small, [str(tmp_path)]))[3] == 5
    assert rejects.reject_count(stores.database) == 5, "a reject is kept once, however often it is met"

    (tmp_path / "cut.jpg").write_bytes(_jpeg(7))
    assert ingest(small, [str(tmp_path)]).added == 1
    assert "cut.jpg" not in {Path(one.source).name for one in rejects.list_rejects(stores.database)}
    assert len(rejects.list_rejects(stores.database, offset=1, limit=2)) == 2


def test_an_unreadable_file_is_a_reject(stores: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fill(tmp_path, 1)
    monkeypatch.setattr(intake, "LARGEST_FILE_BYTES", 10)
    assert "larger than" in ingest(stores, [str(tmp_path)]).rejected[0].reason


def test_our_own_copies_are_never_taken_in(stores: Platform, tmp_path: Path) -> None:
    assert stores.settings.home.is_relative_to(tmp_path), "the home lies below the source, and is not hidden"
    _fill(tmp_path, 1)
    ingest(stores, [str(tmp_path)])
    assert list(stores.objects.list("frames"))
    assert _counts(ingest(stores, [str(tmp_path), f"{tmp_path}/**/*.jpg", str(stores.settings.home)])) == (
        0,
        2,
        0,
        0,
        0,
    )


def test_a_missing_source_is_an_error_that_names_it(stores: Platform) -> None:
    with pytest.raises(InvalidInput, match="no-such-folder does not exist"):
        ingest(stores, ["no-such-folder"])


def test_odd_file_names_survive(stores: Platform, tmp_path: Path) -> None:
    for i, name in enumerate(["ü ñ.jpg", "a#b?.jpg", "%41.jpg", os.fsdecode(b"\xff.jpg")]):
        (tmp_path / name).write_bytes(_jpeg(i))
    assert ingest(stores, [str(tmp_path)]).added == 4
    (tmp_path / os.fsdecode(b"\xfe.jpg")).write_bytes(b"")
    report = ingest(stores, [str(tmp_path)])
    assert _counts(report) == (0, 4, 0, 1, 0)
    json.dumps(report.as_json(), ensure_ascii=False).encode()


def test_a_full_disk_stops_with_its_error_and_the_next_run_completes(
    stores: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(tmp_path, 6)
    monkeypatch.setattr(ingesting, "BATCH_FILES", 2)
    real_put, written = type(stores.objects).put, []

    def put(self: Any, key: str, data: bytes) -> None:
        written.append(key)
        if len(written) > 6:
            raise StorageFull("no space left")
        real_put(self, key, data)

    with monkeypatch.context() as patch:
        patch.setattr(type(stores.objects), "put", put)
        with pytest.raises(StorageFull):
            ingest(stores, [str(tmp_path)])
    assert frames.row_count(stores.database) == 2, "the batch before is kept, the one that failed is not half there"
    ingest(stores, [str(tmp_path)])
    _assert_complete(stores, 6)


def test_batches_are_cut_by_number_and_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingesting, "BATCH_FILES", 3)
    monkeypatch.setattr(ingesting, "BATCH_BYTES", 100)
    sizes = [10, 10, 10, 10, 95, 200, 1]
    files = [SourceFile(path="/x", name="x", size_bytes=size, said=FrameMetadata()) for size in sizes]
    cut = [[one.size_bytes for one in batch if isinstance(one, SourceFile)] for batch in ingesting._batches(files)]
    assert cut == [[10, 10, 10], [10], [95], [200], [1]]


def test_threads_that_ingest_the_same_folder_give_each_frame_one_row(
    stores: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(tmp_path, 40)
    (tmp_path / "empty.jpg").write_bytes(b"")
    monkeypatch.setattr(ingesting, "BATCH_FILES", 7)
    start = threading.Barrier(3)

    def run(_: int) -> IngestReport:
        start.wait()
        return ingest(stores, [str(tmp_path)])

    with ThreadPoolExecutor(3) as pool:
        reports = list(pool.map(run, range(3)))
    assert sum(report.added for report in reports) == 40
    assert sum(report.sightings_added for report in reports) == 40
    assert rejects.reject_count(stores.database) == 1
    _assert_complete(stores, 40)


def test_two_processes_of_which_one_is_killed_give_the_complete_set_once(stores: Platform, tmp_path: Path) -> None:
    _fill(tmp_path, 600)
    environment = os.environ | stores.settings.as_environment()

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path)], env=environment)

    victim, survivor = start(), start()
    deadline = time.monotonic() + 60
    while frames.row_count(stores.database) == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert survivor.wait(timeout=120) == 0
    ingest(stores, [str(tmp_path)])
    _assert_complete(stores, 600)


def test_a_lost_or_shortened_file_is_put_back(stores: Platform, tmp_path: Path) -> None:
    folder = _fill(tmp_path / "in", 3)
    ingest(stores, [str(folder)])
    lost, cut, whole = frames.by_rows(stores.database, range(3))
    stores.objects.delete(lost.object_key)
    stores.objects.put(cut.object_key, stores.objects.get(cut.object_key)[:50])
    report = ingest(stores, [str(folder)])
    assert (report.added, report.already_present, report.repaired) == (0, 3, 2)
    for frame in (lost, cut, whole):
        assert hashlib.sha256(stores.objects.get(frame.object_key)).hexdigest() == frame.digest
    assert ingest(stores, [str(folder)]).repaired == 0


def test_what_lies_beside_images_is_no_broken_image(stores: Platform, tmp_path: Path) -> None:
    _fill(tmp_path, 1)
    (tmp_path / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (tmp_path / "list.csv").write_bytes(b"")
    (tmp_path / "notes.txt").write_bytes(b"BMW on the left")
    (tmp_path / "LICENSE").write_text("May be used – by all.\n" * 400)
    (tmp_path / "types.ts").write_text("export type Frame = { row: number };\n")
    (tmp_path / "convert.py").write_bytes(b"print('images')")
    (tmp_path / "empty.bag").write_bytes(b"")
    (tmp_path / "misnamed.txt").write_bytes(_jpeg(1))
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    report = ingest(stores, [str(tmp_path)])
    assert (report.added, report.broken, report.other_files) == (2, 1, 7)
    assert report.rejected[0].source == str(tmp_path / "bad.jpg")
    assert "7 other files were passed over" in report.summary()
    assert ingest(stores, [str(tmp_path / "notes.txt")]).broken == 1, "named by itself, it should be one"
    assert ingest(stores, [str(tmp_path)]).already_present == 2
    assert [one.source for one in rejects.list_rejects(stores.database)] == [str(tmp_path / "bad.jpg")]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("0001", b"\0no image"),
        ("camera.0001", b"no \xe0mage"),
        ("frame.JPG", b""),
        ("frame.heic", b"no image"),
        ("drive.webm", b"no image"),
        ("cut.dat", _jpeg(3)[:30]),
        ("phone.dat", b"\0\0\0\x18ftypheic"),
    ],
)
def test_what_may_have_been_an_image_is_broken(stores: Platform, tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    report = ingest(stores, [str(tmp_path)])
    assert (report.added, report.broken, report.other_files) == (0, 1, 0)
    assert report.rejected[0].source == str(tmp_path / name)


def test_the_same_image_in_the_next_batch_is_known(
    stores: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingesting, "BATCH_FILES", 1)
    for name in "abc":
        (tmp_path / f"{name}.jpg").write_bytes(_jpeg(0))
    assert _counts(ingest(stores, [str(tmp_path)])) == (1, 2, 3, 0, 0)


def test_the_next_batch_is_looked_for_while_one_is_stored(
    stores: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(tmp_path, 4)
    monkeypatch.setattr(ingesting, "BATCH_FILES", 2)
    real_take_in, real_store = intake.take_in, intake._store
    batches: list[object] = []
    second_came = threading.Event()

    def take_in(means: Any, batch: Any) -> None:
        batches.append(batch)
        if len(batches) == 2:
            second_came.set()
        real_take_in(means, batch)

    def store(*args: Any, **options: Any) -> Any:
        assert second_came.wait(timeout=30), "nothing else went on"
        return real_store(*args, **options)

    monkeypatch.setattr(intake, "take_in", take_in)
    monkeypatch.setattr(intake, "_store", store)
    assert _counts(ingest(stores, [str(tmp_path)])) == (4, 0, 4, 0, 0)
    _assert_complete(stores, 4)


def test_a_batch_that_cannot_be_recorded_ends_the_ingest(
    stores: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise BackendUnavailable("the database is gone", retry_after_s=1)

    _fill(tmp_path, 3)
    with monkeypatch.context() as patch:
        patch.setattr(frames, "register", fails)
        with pytest.raises(BackendUnavailable, match="gone"):
            ingest(stores, [str(tmp_path)])
    assert _counts(ingest(stores, [str(tmp_path)])) == (3, 0, 3, 0, 0)


def test_a_list_without_lines_and_an_empty_folder_are_said_to_hold_nothing(stores: Platform, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.jsonl").write_text("")
    for source in ("empty", "empty.jsonl"):
        assert "nothing to take in was found there" in ingest(stores, [str(tmp_path / source)]).summary()


def test_a_list_for_folders_is_refused_for_other_sources_by_name(stores: Platform, tmp_path: Path) -> None:
    _fill(tmp_path / "in", 1)
    listing = tmp_path / "list.jsonl"
    listing.write_text('{"file": "0000.jpg", "drive": "d1"}\n')
    (tmp_path / "manifest.csv").write_text("uri\nin/0000.jpg\n")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(tmp_path / "in" / "0000.jpg", arcname="0000.jpg")
    for source in (str(tmp_path / "x.tar"), "s3://lake/site", str(tmp_path / "manifest.csv")):
        with pytest.raises(InvalidInput, match=re.escape(source)):
            ingest(stores, [str(tmp_path / "in"), source], metadata=listing)
    assert frames.row_count(stores.database) == 0


@pytest.mark.parametrize("bad", [b"broken", b'{"file": "\\ud800.jpg"}', b'{"file": "../\\udcff.jpg"}'])
def test_text_that_is_not_utf_8_is_one_reject(stores: Platform, tmp_path: Path, bad: bytes) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    _fill(folder, 2)
    (folder / "metadata.jsonl").write_bytes(b'{"file": "0000.jpg"}\n' + bad + b'\n{"file": "0001.jpg"}\n')
    report = ingest(stores, [str(folder)])
    assert (report.added, report.missing, report.broken) == (2, 0, 1)
    json.dumps(report.as_json(), ensure_ascii=False).encode()
    report.summary().encode()
    assert len(rejects.list_rejects(stores.database)) == 1
