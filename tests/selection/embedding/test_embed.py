"""Embedding: every row once, from previews, whoever does it and whatever breaks."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from infra import leases
from infra.errors import BackendUnavailable, StorageFull
from infra.lake import Lake
from selection import shards
from selection.embedding import absences, embed
from selection.embedding.index import VectorIndex
from selection.embedding.replica import DeviceLost
from selection.fleet import frames, originals
from selection.pixels import images


class ColourEncoder:
    """Knows the mean colour of an image."""

    encoder_id = "enc-1"
    dimension = 3

    def __init__(self, after_batch: Callable[[], None] = lambda: None) -> None:
        self.seen = 0
        self._after_batch = after_batch

    def encode_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        self.seen += len(images)
        self._after_batch()
        colours = np.stack([np.asarray(image).mean(axis=(0, 1)) for image in images]).astype(np.float32)
        return colours / np.linalg.norm(colours, axis=1, keepdims=True)


def _jpeg(colour: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 24), colour).save(file, format="JPEG")
    return file.getvalue()


def _colour(row: int) -> tuple[int, int, int]:
    return ((255, 20, 20), (20, 255, 20), (20, 20, 255))[row % 3]


@pytest.fixture
def coloured(fleet: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Thirty frames in three colours, embedded in pieces of eight."""
    monkeypatch.setattr(embed, "BATCH_FRAMES", 3)
    fleet.add(30)
    for frame in frames.by_rows(fleet.platform.database, range(30)):
        data = _jpeg(_colour(frame.row))
        fleet.platform.objects.put(frame.object_key, data)
        fleet.platform.objects.put(frame.preview_key, images.preview(images.open_image(data, max_pixels=10**6).pixels))
    real = shards.gaps
    monkeypatch.setattr(shards, "gaps", lambda *args, **_: real(*args, block=8))
    return fleet


def _vectors(fleet: Any) -> NDArray[np.float32]:
    index = VectorIndex(fleet.platform, "enc-1")
    index.refresh()
    return index.vectors(np.arange(30))


def test_every_row_gets_its_vector_once(coloured: Any) -> None:
    encoder = ColourEncoder()
    seen: list[tuple[int, int]] = []
    assert (
        embed.embed_missing(coloured.platform, encoder, progress=lambda done, total: seen.append((done, total))) == 30
    )
    assert encoder.seen == 30
    assert seen[-1] == (30, 30)
    assert _vectors(coloured).argmax(axis=1).tolist() == [row % 3 for row in range(30)]
    assert embed.embed_missing(coloured.platform, encoder) == 0
    assert encoder.seen == 30


def test_what_was_committed_before_a_crash_is_not_made_again(coloured: Any) -> None:
    class Killed(Exception):
        pass

    encoder = ColourEncoder()

    def die() -> None:
        if encoder.seen > 18:
            raise Killed

    encoder._after_batch = die
    with pytest.raises(Killed):
        embed.embed_missing(coloured.platform, encoder)
    assert shards.row_total(coloured.platform.database, "vectors", "enc-1") == 16
    after = ColourEncoder()
    assert embed.embed_missing(coloured.platform, after) == 14
    assert after.seen == 14
    _vectors(coloured)


def test_a_piece_that_another_is_at_is_left_to_it(coloured: Any) -> None:
    with leases.hold(coloured.platform.database, "embed/enc-1/8"):
        assert embed.embed_missing(coloured.platform, ColourEncoder()) == 22
    assert embed.embed_missing(coloured.platform, ColourEncoder()) == 8


def test_several_at_once_share_the_work(coloured: Any) -> None:
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda _: embed.embed_missing(coloured.platform, ColourEncoder()), range(3)))
    embed.embed_missing(coloured.platform, ColourEncoder())
    assert sum(done) <= 30
    assert shards.row_total(coloured.platform.database, "vectors", "enc-1") == 30
    _vectors(coloured)


def test_a_lost_preview_is_made_again_and_a_lost_frame_has_no_vector(coloured: Any) -> None:
    objects = coloured.platform.objects
    lost, damaged, gone = frames.by_rows(coloured.platform.database, [4, 5, 6])
    objects.delete(lost.preview_key)
    objects.put(damaged.preview_key, b"\xff\xd8\xff broken")
    objects.delete(gone.preview_key)
    objects.delete(gone.object_key)
    assert embed.embed_missing(coloured.platform, ColourEncoder()) == 29
    index = VectorIndex(coloured.platform, "enc-1")
    index.refresh()
    assert np.flatnonzero(~index.has(np.arange(30))).tolist() == [6]
    assert index.vectors(np.array([4, 5])).argmax(axis=1).tolist() == [1, 2]
    assert objects.exists(lost.preview_key)


def test_a_corrupt_shard_is_made_again(coloured: Any) -> None:
    embed.embed_missing(coloured.platform, ColourEncoder())
    key = sorted(coloured.platform.objects.list("shards"))[1]
    coloured.platform.objects.put(key, b"broken")
    index = VectorIndex(coloured.platform, "enc-1")
    assert index.refresh() == 22
    assert embed.embed_missing(coloured.platform, ColourEncoder()) == 8
    assert index.refresh() == 8


def test_a_disk_that_is_full_is_named_and_a_later_run_finishes(coloured: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = coloured.platform.objects
    real, written = type(objects).put, []

    def put(self: Any, key: str, data: Any) -> None:
        if key.startswith("shards/") and len(written) == 2:
            raise StorageFull(f"no space left for {key}; free some and run again", key=key)
        if key.startswith("shards/"):
            written.append(key)
        real(self, key, data)

    with monkeypatch.context() as patch:
        patch.setattr(type(objects), "put", put)
        with pytest.raises(StorageFull, match="no space left for shards/"):
            embed.embed_missing(coloured.platform, ColourEncoder())
    assert shards.row_total(coloured.platform.database, "vectors", "enc-1") == 16
    assert embed.embed_missing(coloured.platform, ColourEncoder()) == 14
    _vectors(coloured)


class ColourWorker:
    """A device with a model that knows the mean colour."""

    feeders = 1

    def __init__(self, *, batch_frames: int = 3, lost_after: int | None = None) -> None:
        self.batch_frames, self.seen, self._lost_after = batch_frames, 0, lost_after

    def thread(self) -> AbstractContextManager[None]:
        return nullcontext()

    def ready(self, inputs: Sequence[Any]) -> list[Any]:
        return list(inputs)

    def encode(self, pixels: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        if self._lost_after is not None and self.seen >= self._lost_after:
            raise DeviceLost("the GPU failed")
        self.seen += len(pixels)
        colours = np.stack(pixels)
        return colours / np.linalg.norm(colours, axis=1, keepdims=True)


class DevicesEncoder(ColourEncoder):
    """The same encoder on devices."""

    sees_more_than_previews = False

    def __init__(self, *devices: ColourWorker) -> None:
        super().__init__()
        self.devices = devices

    def prepare(self, image: Image.Image) -> NDArray[np.float32]:
        if not threading.current_thread().name.startswith("decode"):
            raise AssertionError("preparing keeps a model waiting")
        return np.asarray(image).mean(axis=(0, 1)).astype(np.float32)

    def workers(self, *, rows: int) -> Sequence[ColourWorker]:
        return self.devices


def _threads_left() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith(("decode", "feed", "piece"))]


def test_devices_share_the_frames_and_each_frame_meets_one(coloured: Any) -> None:
    devices = ColourWorker(), ColourWorker()
    assert embed.embed_missing(coloured.platform, DevicesEncoder(*devices)) == 30
    assert sum(device.seen for device in devices) == 30
    assert _vectors(coloured).argmax(axis=1).tolist() == [row % 3 for row in range(30)]
    assert _threads_left() == []


def test_a_device_lost_in_mid_batch_leaves_its_batch_to_the_others(coloured: Any) -> None:
    lost, good = ColourWorker(lost_after=0), ColourWorker()
    assert embed.embed_missing(coloured.platform, DevicesEncoder(lost, good)) == good.seen == 30
    assert _vectors(coloured).argmax(axis=1).tolist() == [row % 3 for row in range(30)]


def test_when_the_last_device_is_lost_it_is_named_and_what_was_committed_stays(coloured: Any) -> None:
    with pytest.raises(DeviceLost, match="the GPU failed"):
        embed.embed_missing(coloured.platform, DevicesEncoder(ColourWorker(lost_after=18), ColourWorker(lost_after=0)))
    assert shards.row_total(coloured.platform.database, "vectors", "enc-1") in (8, 16)
    assert _threads_left() == []
    embed.embed_missing(coloured.platform, DevicesEncoder(ColourWorker()))
    assert _vectors(coloured).argmax(axis=1).tolist() == [row % 3 for row in range(30)]


def test_a_piece_that_was_begun_and_not_finished_is_made_in_half(coloured: Any) -> None:
    for _ in range(2):
        with leases.hold(coloured.platform.database, "embed/enc-1/0"):
            pass  # As of someone who was killed at it.
    pieces = [(0, 8)]
    assert embed.embed_pieces(coloured.platform, DevicesEncoder(ColourWorker(batch_frames=1)), pieces) == 2
    assert embed.embed_missing(coloured.platform, DevicesEncoder(ColourWorker(batch_frames=1))) == 28


@pytest.mark.parametrize(("attempt", "stop"), [(1, 4096), (2, 2048), (3, 1024), (7, 64), (9, 32), (90, 32)])
def test_how_long_a_piece_is_at_each_attempt(attempt: int, stop: int) -> None:
    assert embed._shortened(0, 4096, attempt=attempt, batch=32) == stop


def test_whoever_lost_the_lease_commits_nothing(coloured: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases.Lease, "lost", property(lambda _self: True))
    assert embed.embed_missing(coloured.platform, ColourEncoder()) == 0
    assert shards.row_total(coloured.platform.database, "vectors", "enc-1") == 0


def test_what_cannot_be_read_is_named_and_the_rest_goes_on(coloured: Any) -> None:
    objects = coloured.platform.objects
    (gone,) = frames.by_rows(coloured.platform.database, [6])
    objects.put(gone.preview_key, b"\xff\xd8\xff broken")
    objects.put(gone.object_key, b"\xff\xd8\xff broken too")
    named: list[str] = []
    assert embed.embed_missing(coloured.platform, ColourEncoder(), on_unreadable=named.append) == 29
    assert named == [gone.object_key]
    assert _to_try(coloured) == [], "trying again would not help"


def test_a_shard_cut_in_half_is_made_again(coloured: Any) -> None:
    embed.embed_missing(coloured.platform, ColourEncoder())
    key = sorted(coloured.platform.objects.list("shards"))[2]
    whole = coloured.platform.objects.get(key)
    coloured.platform.objects.put(key, whole[: len(whole) // 2])
    index = VectorIndex(coloured.platform, "enc-1")
    assert index.refresh() == 22
    assert embed.embed_missing(coloured.platform, ColourEncoder()) == 8
    assert _vectors(coloured).argmax(axis=1).tolist() == [row % 3 for row in range(30)]


def test_an_encoder_that_sees_more_than_previews_gets_originals(coloured: Any) -> None:
    class Sharp(DevicesEncoder):
        sees_more_than_previews = True

    for frame in frames.by_rows(coloured.platform.database, range(30)):
        coloured.platform.objects.delete(frame.preview_key)
    assert embed.embed_missing(coloured.platform, Sharp(ColourWorker())) == 30
    assert not any(coloured.platform.objects.list("previews")), "none was needed"
    assert _vectors(coloured).argmax(axis=1).tolist() == [row % 3 for row in range(30)]


def _in_place(fleet: Any, lake: Path, *, rows: range) -> None:
    """Has frames of the coloured fleet lie in a lake, where nobody has seen them yet."""
    lake.mkdir()
    db, objects = fleet.platform.database, fleet.platform.objects
    for frame in frames.by_rows(db, rows):
        (lake / f"{frame.row}.jpg").write_bytes(objects.get(frame.object_key))
        digest = hashlib.sha256(objects.get(frame.object_key)).hexdigest()
        objects.delete(frame.object_key)
        objects.delete(frame.preview_key)
        uri = (lake / f"{frame.row}.jpg").as_uri()
        db.frames.update_one({"_id": frame.frame_id}, {"$set": {"object_uri": uri, "digest": digest}})


def _to_try(fleet: Any) -> list[tuple[int, int]]:
    """What another run would take on."""
    later = datetime.now(UTC) + timedelta(seconds=1)
    return embed.missing_pieces(fleet.platform, "enc-1", tried_before=later)


def _reseen(fleet: Any, *, rows: range) -> None:
    """What `see_missing` leaves behind."""
    for row in rows:
        document = fleet.platform.database.frames.find_one({"row": row})
        data = fleet.platform.objects.lake.read(document["object_uri"])
        preview = images.preview(images.open_image(data, max_pixels=10**6).pixels)
        fleet.platform.objects.put(document["preview_key"], preview)
        fleet.platform.database.frames.update_one({"row": row}, {"$set": {"perceptual_hash": row}})


@pytest.mark.parametrize("left", [range(6, 8), range(8)])
def test_frames_of_a_lake_that_was_away_get_their_vectors_when_it_is_back(
    coloured: Any, tmp_path: Path, left: range
) -> None:
    platform, lake, named = coloured.platform, tmp_path / "lake", list[str]()
    _in_place(coloured, lake, rows=left)
    lake.rename(tmp_path / "away")
    assert embed.embed_missing(platform, ColourEncoder(), on_unreadable=named.append) == 30 - len(left)
    assert sorted(named) == sorted((lake / f"{row}.jpg").as_uri() for row in left)
    moment = datetime.now(UTC)
    assert embed.missing_pieces(platform, "enc-1") == [], "they were tried just now"
    assert _to_try(coloured) == [(0, 8)]
    assert embed.embed_missing(platform, ColourEncoder(), tried_before=moment - timedelta(minutes=1)) == 0
    index = VectorIndex(platform, "enc-1")
    assert index.refresh() == 30 - len(left)

    (tmp_path / "away").rename(lake)
    _reseen(coloured, rows=left[:-1])
    seen: list[tuple[int, int]] = []
    again = embed.embed_missing(platform, ColourEncoder(), progress=lambda done, total: seen.append((done, total)))
    assert again == len(left) - 1
    assert seen[-1] == (8, 8)
    _reseen(coloured, rows=left)
    assert embed.embed_missing(platform, ColourEncoder()) == 1
    assert _to_try(coloured) == []
    assert index.refresh() == len(left)
    assert index.vectors(np.arange(30)).argmax(axis=1).tolist() == [row % 3 for row in range(30)]
    assert shards.valued_total(platform.database, "vectors", "enc-1") == 30


def test_a_seen_frame_that_lost_its_preview_gets_its_vector_from_the_lake(coloured: Any, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    _in_place(coloured, lake, rows=range(2))
    coloured.platform.database.frames.update_many({"row": {"$lt": 2}}, {"$set": {"perceptual_hash": 1}})
    lake.rename(tmp_path / "away")
    assert embed.embed_missing(coloured.platform, ColourEncoder()) == 28
    (tmp_path / "away").rename(lake)
    assert embed.embed_missing(coloured.platform, ColourEncoder()) == 2


def test_what_a_killed_attempt_noted_beyond_its_shard_is_forgotten(coloured: Any) -> None:
    platform = coloured.platform
    absences.note(platform.database, "enc-1", [2, 25], start=0, stop=30, now=datetime.now(UTC))
    assert embed.embed_pieces(platform, ColourEncoder(), [(0, 8)]) == 8
    assert embed.embed_missing(platform, ColourEncoder()) == 22
    assert _to_try(coloured) == []


def test_another_file_in_the_place_of_a_frame_gives_no_vector_and_no_preview(coloured: Any, tmp_path: Path) -> None:
    platform, lake = coloured.platform, tmp_path / "lake"
    _in_place(coloured, lake, rows=range(3, 5))
    (lake / "3.jpg").write_bytes(_jpeg((1, 2, 3)))
    Image.new("RGB", (3000, 10)).save(lake / "4.png")
    digest = hashlib.sha256((lake / "4.png").read_bytes()).hexdigest()
    changed = {"object_uri": (lake / "4.png").as_uri(), "digest": digest}
    platform.database.frames.update_one({"row": 4}, {"$set": changed})
    limited = replace(platform, settings=platform.settings.model_copy(update={"max_image_pixels": 20_000}))
    assert embed.embed_missing(limited, ColourEncoder()) == 28
    for document in platform.database.frames.find({"row": {"$in": [3, 4]}}):
        assert not platform.objects.exists(document["preview_key"])
    assert absences.rows_of(platform.database, "enc-1", 0) == [3], "it may come back; the large one is what it is"


def test_one_frame_that_cannot_be_read_now_does_not_end_the_rest(
    coloured: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _in_place(coloured, tmp_path / "lake", rows=range(2))
    real = Lake.read

    def read(self: Lake, uri: str) -> bytes:
        if uri.endswith("/1.jpg"):
            raise BackendUnavailable(f"{uri} cannot be read now")
        return real(self, uri)

    with monkeypatch.context() as patch:
        patch.setattr(Lake, "read", read)
        assert embed.embed_missing(coloured.platform, ColourEncoder()) == 29
    _reseen(coloured, rows=range(1, 2))
    assert embed.embed_missing(coloured.platform, ColourEncoder()) == 1


def test_a_bucket_that_does_not_answer_keeps_nobody_waiting(
    coloured: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _in_place(coloured, tmp_path / "lake", rows=range(10))
    platform, asked, real = coloured.platform, list[str](), Lake.read
    monkeypatch.setattr(originals, "UNANSWERED_IN_A_ROW", 3)
    for row in range(8):
        platform.database.frames.update_one({"row": row}, {"$set": {"object_uri": f"s3://down/{row}.jpg"}})

    def read(self: Lake, uri: str) -> bytes:
        if uri.startswith("s3://down/"):
            asked.append(uri)
            raise BackendUnavailable(f"{uri} cannot be read now")
        return real(self, uri)

    monkeypatch.setattr(Lake, "read", read)
    with pytest.raises(BackendUnavailable, match="cannot be read now"):
        embed.embed_missing(platform, ColourEncoder())
    assert shards.valued_total(platform.database, "vectors", "enc-1") == 22
    assert absences.rows_of(platform.database, "enc-1", 0) == list(range(8))
    assert len(asked) < 8, "the bucket is not asked for each file"


def test_a_shard_that_is_lost_with_frames_away_is_made_again(coloured: Any, tmp_path: Path) -> None:
    _in_place(coloured, tmp_path / "lake", rows=range(2))
    (tmp_path / "lake").rename(tmp_path / "away")
    assert embed.embed_missing(coloured.platform, ColourEncoder()) == 28
    (record, *_) = shards.records(coloured.platform.database, "vectors", "enc-1")
    coloured.platform.objects.put(record.object_key, b"broken")
    (tmp_path / "away").rename(tmp_path / "lake")
    _reseen(coloured, rows=range(2))
    assert sum(embed.embed_missing(coloured.platform, ColourEncoder()) for _ in range(2)) == 8
    assert _vectors(coloured).argmax(axis=1).tolist() == [row % 3 for row in range(30)]


def test_a_vector_that_is_not_finite_counts_as_none(coloured: Any) -> None:
    class Overflowing(ColourEncoder):
        def encode_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
            vectors_ND = super().encode_images(images)
            vectors_ND[vectors_ND.argmax(axis=1) == 1, 0] = np.nan
            return vectors_ND

    assert embed.embed_missing(coloured.platform, Overflowing()) == 20
    index = VectorIndex(coloured.platform, "enc-1")
    index.refresh()
    assert np.flatnonzero(~index.has(np.arange(30))).tolist() == list(range(1, 30, 3))
