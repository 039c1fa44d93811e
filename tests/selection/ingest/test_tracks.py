"""Tracks: read under any name in use, looked up between their points, and joined to frames old and new."""

from __future__ import annotations

import json
import os
import tracemalloc
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from infra import database as documents
from infra.errors import InvalidInput
from infra.platform import Platform
from selection.fleet import frames
from selection.fleet.columns import Columns
from selection.ingest import ingest as ingesting
from selection.ingest.ingest import ingest
from selection.ingest.report import IngestReport
from selection.ingest.tracks import joining, reading
from selection.ingest.tracks.joining import TrackOptions
from selection.ingest.tracks.reading import Problems
from selection.ingest.tracks.track import Series, Track

START = datetime(2026, 3, 1, 7, 30, tzinfo=UTC)
START_S = int(START.timestamp())


@pytest.fixture
def stores(platform: Platform) -> Platform:
    documents.ensure_indexes(platform.database, frames.INDEXES | ingesting.INDEXES)
    return platform


def _drive(folder: Path, count: int = 4, *, seed: int = 0, **more: Any) -> Path:
    """Frames a second apart from 07:30:00.5 on, with their list."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for i in range(count):
        pixels = np.random.default_rng(100 * seed + i).integers(0, 255, (8, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        taken = START + timedelta(seconds=i + 0.5)
        lines.append({"file": f"{i}.png", "captured_at": taken.isoformat(), "drive": "d1"} | more)
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def _track(path: Path, rows: list[str], header: str = "time,lat,lon,speed_mps,yaw_rate_dps") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def _rows(count: int = 5, **more: str) -> list[str]:
    tail = "".join(f",{value}" for value in more.values())
    return [f"{START_S + i},{35 + i},{137 - i},{10 + i},{-i}{tail}" for i in range(count)]


def _ingest(stores: Platform, source: Path, *tracks: Path, **options: Any) -> IngestReport:
    return ingest(stores, [str(source)], tracks=TrackOptions(files=tracks, **options))


def _read(path: Path) -> tuple[dict[reading.Key, Track], Problems]:
    problems = Problems()
    return reading.read(path, speed_unit="mps", problems=problems), problems


def test_frames_gain_place_and_motion_between_the_points(stores: Platform, tmp_path: Path) -> None:
    report = _ingest(stores, _drive(tmp_path / "d"), _track(tmp_path / "t.csv", _rows()))
    assert report.tracks is not None
    assert report.tracks.joined == 4
    frame = frames.by_rows(stores.database, [1])[0]
    assert frame.location == (36.5, 135.5)
    assert frame.attributes["speed_kph"] == 11.5 * 3.6
    assert frame.attributes["yaw_rate_dps"] == -1.5
    source = (tmp_path / "t.csv").as_uri()
    assert frame.attributes["joined_track"] == {"source": source, "keys": ["location", "speed_kph", "yaw_rate_dps"]}


def test_a_track_beside_the_frames_is_found_and_is_no_frame_itself(stores: Platform, tmp_path: Path) -> None:
    _track(_drive(tmp_path / "d") / "track.csv", _rows())
    _drive(tmp_path / "e", seed=1)
    report = ingest(stores, [str(tmp_path)])
    assert (report.added, report.rejected_count, report.ignored) == (8, 0, 0)
    assert report.tracks is not None
    assert report.tracks.joined == 4
    assert ingest(stores, [f"{tmp_path}/d/*"]).rejected_count == 0


def test_frames_of_earlier_ingests_are_joined_and_the_columns_follow(stores: Platform, tmp_path: Path) -> None:
    folder = _drive(tmp_path / "d")
    ingest(stores, [str(folder)])
    columns = Columns(stores.database)
    columns.refresh()
    track = _track(tmp_path / "t.csv", _rows())
    report = _ingest(stores, folder, track)
    assert (report.added, report.already_present) == (0, 4)
    columns.refresh()
    assert columns.numbers("speed_kph").tolist() == pytest.approx([37.8, 41.4, 45.0, 48.6])
    assert columns.mask("near:36.5,135.5,1km").tolist() == [False, True, False, False]
    before = list(stores.database.frames.find())
    _ingest(stores, folder, track)
    assert list(stores.database.frames.find()) == before, "joining again changes nothing"
    assert ingest(stores, [str(folder)]).metadata_kept == 0, "what a track added contradicts no one"
    _ingest(stores, folder, _track(tmp_path / "u.csv", [f"{START_S + 1.5},0.5,0.5,20,0"]), tolerance_s=0.0)
    frame = frames.by_rows(stores.database, [1])[0]
    assert (frame.location, frame.attributes["speed_kph"]) == ((0.5, 0.5), 72.0), (
        "a later track corrects an earlier one"
    )


def test_what_a_frame_says_itself_stays(stores: Platform, tmp_path: Path) -> None:
    folder = _drive(tmp_path / "d", location=[1.0, 2.0], speed_kph=7)
    for _ in range(2):
        _ingest(stores, folder, _track(tmp_path / "t.csv", _rows()))
        frame = frames.by_rows(stores.database, [1])[0]
        assert (frame.location, frame.attributes["speed_kph"]) == ((1.0, 2.0), 7)
        assert frame.attributes["joined_track"]["keys"] == ["yaw_rate_dps"]


def test_frames_in_place_are_joined_too(stores: Platform, tmp_path: Path) -> None:
    line = {"uri": "s3://lake/a.jpg", "digest": "a" * 64, "captured_at": (START + timedelta(seconds=0.5)).isoformat()}
    (tmp_path / "list.jsonl").write_text(json.dumps(line))
    for tracks in ((), (_track(tmp_path / "t.csv", _rows()),)):
        report = ingest(stores, [str(tmp_path / "list.jsonl")], in_place=True, tracks=TrackOptions(files=tracks))
    assert report.tracks is not None
    assert report.tracks.joined == 1
    assert frames.by_rows(stores.database, [0])[0].location == (35.5, 136.5)


def test_each_quantity_comes_from_the_first_track_that_knows_it(stores: Platform, tmp_path: Path) -> None:
    folder = _drive(tmp_path / "d")
    gps = _track(tmp_path / "gps.csv", [f"{START_S + i},{35 + i},137" for i in range(5)], "time,lat,lon")
    can = _track(tmp_path / "can.csv", [f"{START_S + i},{i},{10 + i},{i}" for i in range(5)], "time,lat,speed,yaw_rate")
    _track(folder / "track.csv", [f"{START_S + i},1,2,3" for i in range(5)], "time,lat,lon,speed")

    def joined() -> frames.Frame:
        return frames.by_rows(stores.database, [1])[0]

    _ingest(stores, folder, can)
    assert (joined().location, joined().attributes["speed_kph"]) == ((1.0, 2.0), 41.4)
    sources = dict.fromkeys(("speed_kph", "yaw_rate_dps"), can.as_uri())
    beside = (folder / "track.csv").as_uri()
    expected = {"sources": {"location": beside} | sources, "keys": ["location", "speed_kph", "yaw_rate_dps"]}
    assert joined().attributes["joined_track"] == expected
    (folder / "track.csv").unlink()
    _ingest(stores, folder, gps, can)
    assert (joined().location, joined().attributes["yaw_rate_dps"]) == ((36.5, 137.0), 1.5)
    assert joined().attributes["joined_track"]["sources"] == {"location": gps.as_uri()} | sources
    before = list(stores.database.frames.find())
    _ingest(stores, folder, gps)
    assert list(stores.database.frames.find()) == before, "what another track filled is still said to be from there"
    columns = Columns(stores.database)
    columns.refresh()
    assert columns.numbers("speed_kph").tolist() == pytest.approx([37.8, 41.4, 45.0, 48.6])


def test_a_track_of_drives_and_vehicles_serves_frames_that_know_either(stores: Platform, tmp_path: Path) -> None:
    _drive(tmp_path / "a", seed=1, drive=None, vehicle="v1")
    _drive(tmp_path / "b", seed=2, drive="d1")
    rows = [*_rows(drive="d1", vehicle="v1"), f"{START_S - 1},35,137,1,1,d0,v1"]
    both = _track(tmp_path / "t.csv", rows, "time,lat,lon,speed,yaw_rate,drive,vehicle")
    report = ingest(stores, [str(tmp_path / n) for n in "ab"], tracks=TrackOptions(files=(both,)))
    assert report.tracks is not None
    assert (report.tracks.joined, report.tracks.notes) == (8, ())


@pytest.mark.parametrize(("written", "known"), [("17.0", "17"), ("17", "17.0"), (" d17", "d17"), ("1.10", "1.10")])
def test_a_number_names_the_same_drive_however_it_is_written(
    stores: Platform, tmp_path: Path, written: str, known: str
) -> None:
    track = _track(tmp_path / "t.csv", _rows(drive=written), "time,lat,lon,speed,yaw_rate,drive")
    report = _ingest(stores, _drive(tmp_path / "d", drive=known), track)
    assert report.tracks is not None
    assert report.tracks.joined == 4


def _in_turn(folder: Path, *, drives: int, track: str) -> Path:
    """Frames of drives in folders of their own, each with its track, listed by time."""
    lines = []
    for k in range(drives):
        _drive(folder / f"{k}", 2, seed=k)
        (folder / f"{k}" / "track.csv").write_text(track)
        lines += [
            json.loads(line) | {"file": f"{k}/{i}.png"}
            for i, line in enumerate((folder / f"{k}" / "metadata.jsonl").read_text().splitlines())
        ]
        (folder / f"{k}" / "metadata.jsonl").unlink()
    lines.sort(key=lambda line: str(line["captured_at"]))
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.mark.parametrize("room", [joining._KEPT_POINTS, 2000])
def test_what_is_odd_about_a_track_is_counted_once(
    stores: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    monkeypatch.setattr(joining, "_KEPT_POINTS", room)
    read: list[Path] = []
    reading_one = reading.read

    def counted(path: Path, **options: Any) -> dict[reading.Key, Track]:
        read.append(path)
        return reading_one(path, **options)

    monkeypatch.setattr(reading, "read", counted)
    track = "\n".join(["time,lat,lon", f"{START_S + 1},0,0", *(f"{START_S + i},35,137" for i in range(5))]) + "\n"
    report = ingest(stores, [str(_in_turn(tmp_path / "f", drives=18, track=track))])
    assert report.tracks is not None
    assert report.tracks.joined == 36
    assert [line.split()[0] for line in report.tracks.notes] == ["18", "18", "18"]
    assert len(set(read)) == 18
    assert len(read) == (18 if room > 2000 else 36)


def test_of_many_bad_tracks_a_few_are_named(stores: Platform, tmp_path: Path) -> None:
    report = ingest(stores, [str(_in_turn(tmp_path / "f", drives=8, track="what\n"))])
    assert report.tracks is not None
    assert len(report.tracks.notes) == 6
    assert report.tracks.notes[-1] == "... and 3 more tracks that cannot be used"


def test_each_drive_gets_its_own_track_and_what_has_none_is_counted(stores: Platform, tmp_path: Path) -> None:
    _drive(tmp_path / "a", seed=1, drive="one")
    _drive(tmp_path / "b", seed=2, drive="x", vehicle="v2")
    _drive(tmp_path / "c", seed=3, drive="none")
    _drive(tmp_path / "e", seed=4, drive="one", captured_at=None)
    drives = _track(tmp_path / "t.csv", _rows(drive="one"), "time,lat,lon,speed,yaw_rate,drive")
    vehicles = _track(tmp_path / "u.csv", [f"{START_S},5,6,1,0,v2"], "time,lat,lon,speed,yaw_rate,vehicle")
    report = ingest(stores, [str(tmp_path / n) for n in "abce"], tracks=TrackOptions(files=(drives, vehicles)))
    assert report.tracks is not None
    counts = (report.tracks.joined, report.tracks.without_track, report.tracks.without_time, report.tracks.too_far)
    assert counts == (5, 4, 4, 3)
    assert "4 without a time, 4 of drives without a track, 3 too far" in report.summary()
    assert frames.by_rows(stores.database, [4])[0].location == (5.0, 6.0)


@pytest.mark.parametrize(
    ("header", "speed_kph"),
    [
        ("timestamp,latitude,longitude,speed_kph,yawrate", 10.0),
        ("Time (s);GPS Lat;GPS Lng;Vehicle Speed [km/h];Yaw Rate [deg/s]", 10.0),
        ("gpsTime\tlat_deg\tlong\tspeed (mph)\tyaw_rate", 16.09344),
        ("t,lat,lon,velocity_ms,gyro_z", 36.0),
    ],
)
def test_columns_are_known_under_the_names_in_use(tmp_path: Path, header: str, speed_kph: float) -> None:
    delimiter = max(",;\t", key=header.count)
    rows = [delimiter.join([str(START_S), "35.5", "137.5", "10", "2"])]
    tracks, problems = _read(_track(tmp_path / "t.csv", rows, header))
    found = tracks["any", ""].at(START_S * 1_000_000, tolerance_us=0)
    assert found == {"location": (35.5, 137.5), "speed_kph": pytest.approx(speed_kph, abs=1e-3), "yaw_rate_dps": 2.0}
    assert problems.lines() == []


@pytest.mark.parametrize(
    "time",
    [
        "2026-03-01T07:30:00Z",
        "2026-03-01T16:30:00+09:00",
        "2026-03-01 07:30:00",
        *(str(START_S * 10**n) for n in (0, 3, 6, 9)),
    ],
)
def test_times_are_iso_or_counted_since_1970(tmp_path: Path, time: str) -> None:
    tracks, problems = _read(_track(tmp_path / "t.csv", [f"{time},1,2,3,4"]))
    assert tracks["any", ""].series["speed_kph"].times_us.tolist() == [START_S * 1_000_000]
    assert problems.without_zone == (1 if time == "2026-03-01 07:30:00" else 0)


def test_what_is_odd_about_rows_is_counted_with_examples(tmp_path: Path) -> None:
    rows = [
        *_rows(2),
        f"{START_S},9,9,9,9",
        f"{START_S + 3},0,0,5,1",
        f"{START_S + 2},95,0,5,1",
        "12.5,1,2,3,4",
        f"{START_S + 4},x,2,3,4",
        f"{START_S + 5}",
        ",1,2,3,4",
    ]
    tracks, problems = _read(_track(tmp_path / "t.csv", rows))
    assert (problems.bad_rows, problems.zero_positions, problems.out_of_order, problems.duplicates) == (5, 1, 1, 1)
    assert len(problems.examples) == 3
    assert f"{tmp_path / 't.csv'}:6: 95.0, 0.0 is no place" in problems.lines()[1]
    assert [len(one.times_us) for one in tracks["any", ""].series.values()] == [2, 3, 3]
    assert tracks["any", ""].at(START_S * 1_000_000, tolerance_us=0)["location"] == (35.0, 137.0)


def test_a_speed_in_an_unknown_unit_is_left_out_and_said(tmp_path: Path) -> None:
    rows = [f"{START_S},1,2,3,4"]
    tracks, problems = _read(_track(tmp_path / "t.csv", rows, "time,lat,lon,speed_furlongs,speed_accuracy"))
    assert list(tracks["any", ""].series) == ["location"]
    assert [line.split()[2] for line in problems.lines()] == ["'speed_furlongs'", "'speed_accuracy'"]
    assert "its unit is not known" in problems.lines()[0]
    assert _read(_track(tmp_path / "t.csv", rows, "time,lat,lon,speed_accuracy,speed_kph"))[1].lines() == []


def test_a_track_takes_little_memory_while_it_is_read(tmp_path: Path) -> None:
    rows = [f"{START_S + i},{35 + i * 1e-6},{137 + i * 1e-6},{i % 40},0" for i in range(30_000)]
    path = _track(tmp_path / "t.csv", rows)
    tracemalloc.start()
    tracks = _read(path)[0]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(tracks["any", ""].series["speed_kph"].times_us) == 30_000
    assert peak < 150 * 30_000


def test_times_that_no_clock_shows_are_bad_rows(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    for unit, per_s in (("ms", 10**3), ("us", 10**6)):
        times = pa.array([START_S * per_s, 2**62, -(2**62)], pa.timestamp(unit))
        parquet.write_table(pa.table({"time": times, "speed": [1.0] * 3}), tmp_path / "t.parquet")
        tracks, problems = _read(tmp_path / "t.parquet")
        assert tracks["any", ""].series["speed_kph"].times_us.tolist() == [START_S * 1_000_000]
        assert problems.bad_rows == 2
    days = pa.array([2**30], pa.date32())
    parquet.write_table(pa.table({"time": days, "speed": [1.0]}), tmp_path / "t.parquet")
    assert _read(tmp_path / "t.parquet")[1].bad_rows == 1
    assert _read(_track(tmp_path / "t.csv", ["1e40,1,2,3,4"]))[1].bad_rows == 1


def test_what_is_said_of_a_track_can_be_printed_whatever_its_folder_is_called(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    _, problems = _read(_track(folder / "track.csv", ["x,1,2,3,4"], "time,lat,lon,speed_furlongs,yaw_rate"))
    "".join(problems.lines()).encode()
    with pytest.raises(InvalidInput) as refused:
        _read(_track(folder / "track.csv", [], "what"))
    assert "caf?" in refused.value.message


def test_parquet_says_the_same(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    times = pa.array([START_S * 10**9 + 1, None], pa.timestamp("ns"))
    table = pa.table({"time": times, "lat": [1.0, 2.0], "lon": [2.0, float("nan")], "speed": [3.0, None]})
    parquet.write_table(table, tmp_path / "t.parquet")
    tracks, problems = _read(tmp_path / "t.parquet")
    expected = {"location": (1.0, 2.0), "speed_kph": 10.8}
    assert tracks["any", ""].at(START_S * 1_000_000, tolerance_us=0) == expected
    assert (problems.bad_rows, problems.without_zone) == (1, 1)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("t.csv", "lat,lon\n1,2\n", "no column `time`"),
        ("t.csv", "time,colour\n1,2\n", "none of lat and lon"),
        ("t.csv", "", "no column `time`"),
        ("t.parquet", "no", "not Parquet"),
        ("gone.csv", None, "does not exist"),
    ],
)
def test_what_is_no_track_is_refused_before_anything_is_done(
    stores: Platform, tmp_path: Path, name: str, text: str | None, words: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InvalidInput, match=words):
        _ingest(stores, _drive(tmp_path / "d"), tmp_path / name)
    assert frames.row_count(stores.database) == 0


def test_a_bad_track_beside_the_frames_does_not_stop_them(stores: Platform, tmp_path: Path) -> None:
    (_drive(tmp_path / "d") / "track.csv").write_text("what\n")
    report = ingest(stores, [str(tmp_path / "d")])
    assert report.added == 4
    assert "no column `time`" in report.summary()


@given(
    steps=st.lists(st.tuples(st.integers(1, 5_000_000), st.floats(-50, 50)), min_size=1, max_size=20),
    time_us=st.integers(-2_000_000, 60_000_000),
    tolerance_us=st.integers(0, 3_000_000),
)
def test_a_value_lies_between_its_neighbours_and_never_far_from_a_point(
    steps: list[tuple[int, float]], time_us: int, tolerance_us: int
) -> None:
    times = np.cumsum([step for step, _ in steps]).astype(np.int64)
    values = np.array([[value] for _, value in steps])
    found = Series(times_us=times, values=values).at(time_us, tolerance_us=tolerance_us)
    near = np.abs(times - time_us).min() <= tolerance_us
    assert (found is not None) == near
    if found is not None:
        assert found[0] == pytest.approx(np.interp(time_us, times, values[:, 0]))


def test_a_place_between_two_sides_of_the_date_line(tmp_path: Path) -> None:
    series = Series(times_us=np.array([0, 10]), values=np.array([[0.0, 179.0], [0.0, -179.0]]))
    found = series.at(5, tolerance_us=5)
    assert found is not None
    assert abs(found[1]) == 180.0
