"""Videos: a frame every so often with its time, the same bytes each time, and whatever is wrong with them named."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from infra import database as documents
from infra.errors import InvalidInput
from infra.platform import Platform
from selection.fleet import frames, sightings
from selection.fleet.metadata import FrameMetadata
from selection.ingest import ingest as ingesting
from selection.ingest import rejects
from selection.ingest.ingest import ingest
from selection.ingest.rejects import Reject
from selection.ingest.sources import SourceFile, videos
from selection.ingest.sources.meter import Meter
from selection.ingest.sources.videos import VideoOptions
from selection.ingest.throttle import Throttle
from tests.selection.ingest.conftest import VideoMaker

START = datetime(2026, 3, 1, 7, 30, tzinfo=UTC)


@pytest.fixture
def stores(platform: Platform) -> Platform:
    documents.ensure_indexes(platform.database, frames.INDEXES | ingesting.INDEXES)
    return platform


def _half(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _read(path: Path, platform: Platform, **options: Any) -> list[SourceFile | Reject]:
    file = SourceFile(path=str(path), name=path.name, size_bytes=path.stat().st_size, said=FrameMetadata())
    meter = Meter(unit="file", size=1, position=1)
    lake = platform.objects.lake
    return list(videos.read(file, lake, VideoOptions(**options), meter=meter, throttle=Throttle(None)))


def _times(found: list[SourceFile | Reject]) -> list[float]:
    return [one.said.attributes["video_time_s"] for one in found if isinstance(one, SourceFile)]


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "mpeg4"), ("a.mov", "libx264"), ("a.TS", "libx264")],
)
def test_a_video_gives_a_frame_a_second_once(
    stores: Platform, make_video: VideoMaker, tmp_path: Path, name: str, codec: str
) -> None:
    path = make_video(tmp_path / "d17" / "made.mkv", codec=codec) if name == "a.TS" else tmp_path / "d17" / name
    if name == "a.TS":
        make_video(path.with_suffix(".ts")).rename(tmp_path / "d17" / name)
        path.unlink()
    else:
        make_video(path, codec=codec)
    report = ingest(stores, [str(tmp_path)])
    assert (report.added, report.rejected_count) == (4, 0)
    report = ingest(stores, [str(tmp_path / "d17" / name)])
    assert (report.added, report.already_present, report.sightings_added) == (0, 4, 0)
    found = frames.by_rows(stores.database, range(4))
    assert [one.attributes for one in found] == [{"video": name, "video_time_s": float(i)} for i in range(4)]
    assert {(one.drive, one.format, one.captured_at) for one in found} == {("d17/a", "JPEG", None)}
    assert [one.source for one in found] == sorted(one.source for one in found)
    uri = sightings.of_frame(stores.database, found[2].frame_id)[0].uri
    assert uri == f"{(tmp_path / 'd17' / name).as_uri()}#t=00002.000000"


def test_frames_show_what_the_video_shows(stores: Platform, make_video: VideoMaker, tmp_path: Path) -> None:
    found = _read(make_video(tmp_path / "a.mp4"), stores)[1]
    assert isinstance(found, SourceFile)
    with av.open(str(tmp_path / "a.mp4")) as container:
        pictures = [picture.to_ndarray(format="rgb24") for picture in container.decode(video=0)]
    pixels = np.asarray(Image.open(io.BytesIO(found.data or b""))).astype(float)
    errors = [float(np.abs(pixels - picture).mean()) for picture in pictures]
    assert errors[10] < 0.5 * min(errors[:10] + errors[11:])


def test_the_rate_and_key_frames(stores: Platform, make_video: VideoMaker, tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4")
    assert _times(_read(path, stores, fps=2.5)) == pytest.approx([0, 0.4, 0.8, 1.2, 1.6, 2.0, 2.4, 2.8, 3.2, 3.6])
    assert len(_read(path, stores, fps=1000)) == 40, "no more than there are"
    assert _times(_read(path, stores, fps=0.3)) == pytest.approx([0, 3.4])
    assert _times(_read(path, stores, fps=100, keyframes=True)) == pytest.approx([0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5])
    with pytest.raises(InvalidInput, match="--fps"):
        VideoOptions(fps=0)


def test_when_a_video_begins(stores: Platform, make_video: VideoMaker, tmp_path: Path) -> None:
    said = make_video(tmp_path / "a.mp4", created="2026-03-01T07:30:00.000000Z")
    never_set = make_video(tmp_path / "b.mp4", created="1970-01-01T00:00:00.000000Z", seed=1)

    def first(path: Path, **options: Any) -> tuple[datetime | None, datetime | None]:
        one, two, *_ = [item for item in _read(path, stores, **options) if isinstance(item, SourceFile)]
        return one.said.captured_at, two.said.captured_at

    assert first(said) == (START, START.replace(second=1))
    later = START.replace(hour=9)
    assert first(said, start=later) == (later, later.replace(second=1))
    assert first(never_set) == (None, None)


def test_a_list_speaks_for_a_video(stores: Platform, make_video: VideoMaker, tmp_path: Path) -> None:
    make_video(tmp_path / "a.mp4")
    line = '{"file": "a.mp4", "captured_at": "2026-03-01T07:30:00Z", "drive": "d1", "camera": "front", "weather": "rain"}\n'
    (tmp_path / "metadata.jsonl").write_text(line)
    assert ingest(stores, [f"ulm={tmp_path}"]).added == 4
    last = frames.by_rows(stores.database, [3])[0]
    assert (last.site, last.drive, last.camera, last.captured_at) == ("ulm", "d1", "front", START.replace(second=3))
    assert last.attributes["weather"] == "rain"


def _damage_middle(path: Path) -> None:
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = b"\x55" * 2000
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "break_it", "kept", "reason"),
    [
        ("cut.mkv", _half, 2, "cut short: it ends after"),
        ("cut.mp4", _half, 2, "cut short: it ends after"),
        ("noise.ts", _damage_middle, 3, "damaged"),
        ("text.mp4", lambda path: path.write_text("hello"), 0, "not a video"),
        ("empty.mp4", lambda path: path.write_bytes(b""), 0, "empty"),
    ],
)
def test_a_broken_video_is_named_and_its_frames_up_to_there_are_kept(
    stores: Platform,
    make_video: VideoMaker,
    tmp_path: Path,
    name: str,
    break_it: Callable[[Path], None],
    kept: int,
    reason: str,
) -> None:
    path = make_video(tmp_path / name, options={"movflags": "faststart"} if name == "cut.mp4" else None)
    break_it(path)
    make_video(tmp_path / "good.mp4", seed=1)
    report = ingest(stores, [str(tmp_path)])
    assert report.added >= 4 + kept
    assert [(one.source, one.kind) for one in report.rejected] == [(str(path), "broken")]
    assert reason in report.rejected[0].reason
    make_video(path)
    assert ingest(stores, [str(tmp_path)]).rejected_count == 0
    assert rejects.list_rejects(stores.database) == [], "a video that is whole again is off the list"


def test_sound_alone_is_no_video(stores: Platform, tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream: Any = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    assert "no pictures" in ingest(stores, [str(tmp_path)]).rejected[0].reason


def test_in_place_leaves_the_video_and_keeps_its_frames(
    stores: Platform, make_video: VideoMaker, tmp_path: Path
) -> None:
    ingest(stores, [str(make_video(tmp_path / "a.mp4"))], in_place=True)
    frame = frames.by_rows(stores.database, [0])[0]
    assert frame.object_uri is None
    assert stores.objects.exists(frame.object_key)


def test_a_killed_ingest_of_a_video_goes_on(
    stores: Platform, make_video: VideoMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_video(tmp_path / "a.mp4")
    monkeypatch.setattr(ingesting, "BATCH_FILES", 2)
    real, calls = ingesting.intake.take_in, []

    def dies(*args: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(ingesting.intake, "take_in", dies)
        with pytest.raises(KeyboardInterrupt):
            ingest(stores, [str(path)])
    assert frames.row_count(stores.database) == 2
    report = ingest(stores, [str(path)])
    assert (report.added, report.already_present) == (2, 2)


def test_the_throttle_counts_the_videos_own_bytes(stores: Platform, make_video: VideoMaker, tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4")
    waits: list[float] = []
    throttle = Throttle(8.0, clock=lambda: 0.0, sleep=waits.append)
    file = SourceFile(path=str(path), name=path.name, size_bytes=path.stat().st_size, said=FrameMetadata())
    list(videos.read(file, stores.objects.lake, VideoOptions(), meter=Meter(unit="file"), throttle=throttle))
    assert max(waits) * 1e6 == pytest.approx(path.stat().st_size, rel=0.1)


def test_recordings_put_end_to_end_give_all_their_frames(
    stores: Platform, make_video: VideoMaker, tmp_path: Path
) -> None:
    first, second = (make_video(tmp_path / f"{seed}.ts", seed=seed).read_bytes() for seed in (1, 2))
    (tmp_path / "both.ts").write_bytes(first + second)
    found = _read(tmp_path / "both.ts", stores)
    assert _times(found) == pytest.approx([0, 1, 2, 3, 0, 1, 2, 3], abs=0.15)
    assert "clock jumps back" in next(one.reason for one in found if isinstance(one, Reject))


def test_videos_with_odd_names_and_in_archives(stores: Platform, make_video: VideoMaker, tmp_path: Path) -> None:
    odd = make_video(tmp_path / "d" / "a#1 ü.mp4")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(make_video(tmp_path / "b.mp4", seed=1), arcname="d2/b.mp4")
    report = ingest(stores, [str(odd), str(tmp_path / "x.tar")])
    assert (report.added, report.rejected_count) == (8, 0)
    found = frames.by_rows(
        stores.database, range(8)
    )  # Several sources are read at once; each gives its frames in order.
    first, packed = (next(one for one in found if one.drive == drive) for drive in ("d/a#1 ü", "d2/b"))
    assert sightings.of_frame(stores.database, first.frame_id)[0].uri == f"{odd.as_uri()}#t=00000.000000"
    uri = f"{(tmp_path / 'x.tar').as_uri()}#d2/b.mp4&t=00000.000000"
    assert sightings.of_frame(stores.database, packed.frame_id)[0].uri == uri


@pytest.mark.parametrize(
    ("name", "drive"),
    [
        ("2026-03-01/front/0001.mp4", "2026-03-01/front/0001"),
        ("./front/0001.mp4", "front/0001"),
        ("0001.mp4", "there/0001"),
        ("/in/there/0001.mp4", "there/0001"),
        ("../there/0001.mp4", "there/0001"),
        ("s3://lake/in/there/0001.mp4", "there/0001"),
    ],
)
def test_a_video_is_a_drive_of_its_own(
    stores: Platform, make_video: VideoMaker, tmp_path: Path, name: str, drive: str
) -> None:
    path = make_video(tmp_path / "there" / "0001.mp4", seconds=1)
    file = SourceFile(path=str(path), name=name, size_bytes=path.stat().st_size, said=FrameMetadata(), met=True)
    meter, lake = Meter(unit="file", size=1, position=1), stores.objects.lake
    first = next(videos.read(file, lake, VideoOptions(), meter=meter, throttle=Throttle(None)))
    assert isinstance(first, SourceFile)
    assert first.said.drive == drive


@pytest.mark.parametrize("announced", [True, False])
def test_a_video_in_a_bucket_is_held_back_while_it_is_fetched(
    stores: Platform, make_video: VideoMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, announced: bool
) -> None:
    data = make_video(tmp_path / "a.mp4").read_bytes()
    taken: list[int] = []
    monkeypatch.setattr(Throttle, "take", lambda _, count: taken.append(count))

    def read(_: str) -> bytes:
        assert sum(taken) == (len(data) if announced else 0), "before a byte of it is read"
        return data

    monkeypatch.setattr(stores.objects.lake, "read", read)
    size_bytes = len(data) if announced else 0
    file = SourceFile(path="s3://lake/a.mp4", name="a.mp4", size_bytes=size_bytes, said=FrameMetadata())
    found = list(videos.read(file, stores.objects.lake, VideoOptions(), meter=Meter(unit="file"), throttle=Throttle(1)))
    assert len(found) == 4
    assert sum(taken) == len(data)
