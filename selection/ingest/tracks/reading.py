"""Tracks from CSV or Parquet: a time, and any of latitude and longitude, speed and yaw rate, under the names in use.

    time,lat,lon,speed_mps,yaw_rate_dps
    2026-03-01T07:30:00Z,35.05,137.15,12.5,-0.4

`time` is ISO 8601 (UTC where no offset is written) or seconds, ms, us or ns since 1970. A unit in a column's name (`speed_kph`, `speed (mph)`,
`yaw_rate_rad_s`) counts; without one the speed is in m/s, or what `--speed-unit` says, and the yaw rate in degrees a second. A column
`drive` or `vehicle` divides the file into the tracks of several; with both, a row belongs to the tracks of its drive and of its vehicle.
"""

from __future__ import annotations

import csv
import math
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from infra.errors import InvalidInput
from selection.fleet.metadata import valid_text
from selection.ingest.tracks.track import LOCATION, SPEED, YAW_RATE, Series, Track

TRACK_NAMES = ("track.csv", "track.parquet")
SpeedUnit = Literal["mps", "kph", "mph"]
Key = tuple[Literal["drive", "vehicle", "any"], str]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EXAMPLES = 3
_COLUMNS_TOLD = 3
_LATEST_US = 253_402_300_800_000_000  # The year 10,000.
_EARLIEST_US = 100_000_000_000_000  # 1973; smaller numbers count from the start of a drive, which is no point in time.
_US_OF_STAMP = {"s": (1_000_000, 1), "ms": (1000, 1), "us": (1, 1), "ns": (1, 1000)}
_US_PER = {"s": 1e6, "sec": 1e6, "seconds": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}
_KPH_PER = {
    **dict.fromkeys(("kph", "kmh", "kmph", "kmperh", "kmhr"), 1.0),
    **dict.fromkeys(("mps", "ms", "mpersec", "mpers"), 3.6),
    "mph": 1.609344,
}
_DPS_PER = {
    **dict.fromkeys(("dps", "degs", "degps", "degpers", "degpersec", "deg"), 1.0),
    **dict.fromkeys(("rads", "radps", "radpers", "radpersec", "rad", "rps"), 180 / math.pi),
}
_TIME = re.compile(
    r"(?:gps|utc|frame|sensor|unix|epoch)*(?:timestamp|datetime|capturedat|time|epoch|unix|stamp|ts|t)(?:utc)?(.*)"
)
_LATITUDE = re.compile(r"(?:gps|gnss|pos|position|vehicle)*lat(?:itude)?(?:deg|degrees|wgs84)?")
_LONGITUDE = re.compile(r"(?:gps|gnss|pos|position|vehicle)*(?:lon|lng|long)(?:gitude|itude)?(?:deg|degrees|wgs84)?")
_SPEED = re.compile(r"(?:gps|gnss|can|vehicle|ego|ground|wheel|veh)*(?:speed|velocity)(?:over)?(?:ground)?(.*)")
_YAW_RATE = re.compile(r"(?:can|imu|gps|vehicle|ego|veh)*(?:yawrate|yawvelocity|gyroz|angularvelocityz)(.*)")
_DRIVE = re.compile(r"drive|driveid|sequence|session|sessionid|trip|tripid")
_WHOLE_NUMBER = re.compile(r"^([+-]?\d+)\.0*$")
_VEHICLE = re.compile(r"vehicle|vehicleid|vin|car|carid")


@dataclass(kw_only=True)
class Problems:
    """What was odd about the rows of tracks, by kind, and the first of the bad ones.

    Attributes:
        bad_rows: Rows that cannot be read; they are left out.
        zero_positions: Positions of 0, 0, which receivers without a fix write; they are left out.
        out_of_order: Rows earlier than the one before; they were sorted.
        duplicates: Rows at the time of another of the same track; the first one stays.
        without_zone: Times without a time zone; they were taken as UTC.
        unknown_units: Columns of speeds and yaw rates that were left out, as their unit is not known.
    """

    bad_rows: int = 0
    zero_positions: int = 0
    out_of_order: int = 0
    duplicates: int = 0
    without_zone: int = 0
    examples: list[str] = field(default_factory=list)
    unknown_units: list[str] = field(default_factory=list)

    def bad(self, where: str, reason: str) -> None:
        """Counts a row that is left out."""
        self.bad_rows += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(f"{where}: {reason}")

    def lines(self) -> list[str]:
        """A line for each kind that occurred."""
        found = [
            (self.bad_rows, "track rows cannot be read and were left out"),
            (self.zero_positions, "track positions of 0, 0 were left out: the receiver had no fix"),
            (self.out_of_order, "track rows were out of order and were sorted"),
            (self.duplicates, "track rows repeat the time of another: the first one stays"),
            (self.without_zone, "track times name no time zone and were taken as UTC"),
        ]
        lines = [f"{count} {what}" for count, what in found if count]
        lines = [*lines[:1], *(f"  {one}" for one in self.examples), *lines[1:]] if self.bad_rows else lines
        left_out = [f"{one} was left out: its unit is not known" for one in self.unknown_units]
        return [*lines, *shortened(left_out, most=_COLUMNS_TOLD, what="columns of tracks in units that are not known")]


@dataclass(frozen=True, kw_only=True)
class _Columns:
    """Where in a row things are, and what to multiply them by."""

    time: int
    us_per_unit: float | None
    latitude: int | None
    longitude: int | None
    speed: tuple[int, float] | None
    yaw_rate: tuple[int, float] | None
    drive: int | None
    vehicle: int | None


_Point = tuple[int, float, float, float, float]
_Stamp = tuple[int, bool]  # Microseconds since 1970, and whether the zone is known.


class _Points:
    """Of one track, as they are read: 40 bytes a row."""

    def __init__(self) -> None:
        self.times_us, self.values = array("q"), array("d")

    def add(self, point: _Point) -> None:
        self.times_us.append(point[0])
        self.values.extend(point[1:])


def read(path: Path, *, speed_unit: SpeedUnit, problems: Problems) -> dict[Key, Track]:
    """The tracks of a file, by drive or vehicle where it names them.

    Args:
        speed_unit: Of a speed column that does not say.
        problems: Gains what is odd about the rows.
    Raises:
        InvalidInput: The file is not there, not CSV or Parquet, or has no columns that say when and what.
    """
    shown = valid_text(str(path))
    points: dict[Key, _Points] = {}
    try:
        rows = _parquet(path, shown) if path.suffix.lower() == ".parquet" else _csv(path)
        _, header = next(rows, (0, ()))
        columns = _find_columns([str(name) for name in header], shown, speed_unit=speed_unit, problems=problems)
        for number, cells in rows:
            try:
                keys, point = _read_row(cells, columns, problems)
                for key in keys:
                    if key not in points:
                        points[key] = _Points()
                    points[key].add(point)
            except (ValueError, OverflowError, IndexError, TypeError) as exc:
                problems.bad(f"{shown}:{number}", valid_text(str(exc)))
    except FileNotFoundError as exc:
        raise InvalidInput(f"the track {shown} does not exist") from exc
    except (OSError, UnicodeError, csv.Error) as exc:
        raise InvalidInput(f"cannot read the track {shown}: {valid_text(str(exc))}") from exc
    source = path.absolute().as_uri()
    # The rows of a vehicle's track are those of its drives' tracks once more, if there are such.
    again = Problems()
    is_told_twice = columns.drive is not None
    return {
        key: _track(source, points.pop(key), again if is_told_twice and key[0] == "vehicle" else problems)
        for key in list(points)
    }


def name_of(value: Any) -> str:
    """The name of a drive or vehicle; a number's is the same however it is written, `17` and `17.0`."""
    text = str(value).strip()
    return _WHOLE_NUMBER.sub(r"\1", text) if "." in text else text


def shortened(lines: Sequence[str], *, most: int, what: str) -> list[str]:
    """The first few of many lines, and how many more there are."""
    more = [f"... and {len(lines) - most} more {what}"] if len(lines) > most else []
    return [*lines[:most], *more]


def _csv(path: Path) -> Iterator[tuple[int, Sequence[Any]]]:
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        lines = (line for line in file if not line.startswith("#"))
        first = next(lines, "")
        delimiter = max(",;\t", key=first.count)
        yield 1, next(csv.reader([first], delimiter=delimiter), [])
        for number, cells in enumerate(csv.reader(lines, delimiter=delimiter), start=2):
            if any(cells):
                yield number, [cell.replace(",", ".") for cell in cells] if delimiter == ";" else cells


def _parquet(path: Path, shown: str) -> Iterator[tuple[int, Sequence[Any]]]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            yield 0, file.schema_arrow.names
            number = 0
            for batch in file.iter_batches():
                for cells in zip(*(_cells(column) for column in batch.columns), strict=True):
                    number += 1
                    yield number, cells
    except pa.ArrowException as exc:
        raise InvalidInput(f"the track {shown} is not Parquet that can be read: {exc}") from exc


def _cells(column: Any) -> list[Any]:
    """The values of a column of Parquet; times as `_Stamp`, as Python has none beyond the year 9999."""
    import pyarrow as pa

    if not pa.types.is_timestamp(column.type):
        return column.to_pylist() if not pa.types.is_temporal(column.type) else [None] * len(column)
    times, per = _US_OF_STAMP[column.type.unit]
    has_zone = column.type.tz is not None
    counts = column.cast(pa.int64()).to_pylist()
    return [None if count is None else (count * times // per, has_zone) for count in counts]


def _find_columns(header: Sequence[str], shown: str, *, speed_unit: SpeedUnit, problems: Problems) -> _Columns:
    names = [re.sub(r"[^a-z0-9]", "", name.lower()) for name in header]

    def find(pattern: re.Pattern[str]) -> int | None:
        return next((i for i, name in enumerate(names) if pattern.fullmatch(name)), None)

    def find_unit(pattern: re.Pattern[str], units: Mapping[str, float], default: float) -> tuple[int, float] | None:
        for i, name in enumerate(names):
            if (found := pattern.fullmatch(name)) and (not found[1] or found[1] in units):
                return i, units.get(found[1], default)
        return None

    def note_unknown(pattern: re.Pattern[str]) -> None:
        unknown = [column for column, name in zip(header, names, strict=True) if pattern.fullmatch(name)]
        problems.unknown_units += [f"the column {valid_text(column[:40])!r} of the track {shown}" for column in unknown]

    time = find_unit(_TIME, _US_PER, 0.0)
    latitude, longitude = find(_LATITUDE), find(_LONGITUDE)
    speed = find_unit(_SPEED, _KPH_PER, _KPH_PER[speed_unit])
    yaw_rate = find_unit(_YAW_RATE, _DPS_PER, 1.0)
    there = ", ".join(header[:12])
    if time is None:
        raise InvalidInput(f"the track {shown} has no column `time` (it has {there})")
    if (latitude is None or longitude is None) and speed is None and yaw_rate is None:
        raise InvalidInput(
            f"the track {shown} has none of lat and lon, speed and yaw_rate in a unit that is known (it has {there})"
        )
    for found, pattern in ((speed, _SPEED), (yaw_rate, _YAW_RATE)):
        if found is None:
            note_unknown(pattern)
    return _Columns(
        time=time[0],
        us_per_unit=time[1] or None,
        latitude=latitude,
        longitude=longitude,
        speed=speed,
        yaw_rate=yaw_rate,
        drive=find(_DRIVE),
        vehicle=find(_VEHICLE),
    )


def _read_row(cells: Sequence[Any], columns: _Columns, problems: Problems) -> tuple[list[Key], _Point]:
    time_us, has_zone = _time_us(cells[columns.time], columns.us_per_unit)
    latitude, longitude = _number(cells, columns.latitude), _number(cells, columns.longitude)
    speed = _number(cells, columns.speed[0]) * columns.speed[1] if columns.speed else math.nan
    yaw_rate = _number(cells, columns.yaw_rate[0]) * columns.yaw_rate[1] if columns.yaw_rate else math.nan
    if abs(latitude) > 90 or abs(longitude) > 180:
        raise ValueError(f"{latitude}, {longitude} is no place on Earth")
    keys = _keys(cells, columns)
    problems.without_zone += not has_zone
    if latitude == longitude == 0.0:
        problems.zero_positions += 1
        latitude = longitude = math.nan
    return keys, (time_us, latitude, longitude, speed, yaw_rate)


def _keys(cells: Sequence[Any], columns: _Columns) -> list[Key]:
    keys: list[Key] = []
    if columns.drive is not None and cells[columns.drive] not in (None, ""):
        keys.append(("drive", name_of(cells[columns.drive])))
    if columns.vehicle is not None and cells[columns.vehicle] not in (None, ""):
        keys.append(("vehicle", name_of(cells[columns.vehicle])))
    return keys or [("any", "")]


def _number(cells: Sequence[Any], place: int | None) -> float:
    if place is None or cells[place] in (None, ""):
        return math.nan
    value = float(cells[place])
    return value if math.isfinite(value) else math.nan


def _time_us(cell: Any, us_per_unit: float | None) -> _Stamp:
    """Microseconds since 1970, and whether the time was written with its zone."""
    if cell in (None, ""):
        raise ValueError("it has no time")
    time_us, has_zone = cell if isinstance(cell, tuple) else _parsed(cell, us_per_unit)
    if not -_LATEST_US < time_us < _LATEST_US:
        raise ValueError("its time lies beyond the years 1 to 9999")
    return time_us, has_zone


def _parsed(cell: Any, us_per_unit: float | None) -> _Stamp:
    if isinstance(cell, str) and not re.fullmatch(r"\s*[+-]?[\d.]+([eE][+-]?\d+)?\s*", cell):
        try:
            moment = datetime.fromisoformat(cell.strip())
        except ValueError as exc:
            raise ValueError(f"{cell[:40]!r} is neither a time in ISO 8601 nor a number") from exc
        aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
        return (aware - _EPOCH) // timedelta(microseconds=1), moment.tzinfo is not None
    number = float(cell)
    time_us = round(number * (us_per_unit or _guess_unit(number)))
    if time_us < _EARLIEST_US:
        raise ValueError(f"{cell} is no time since 1970")
    return time_us, True


def _guess_unit(number: float) -> float:
    """Seconds, milliseconds, microseconds or nanoseconds since 1970, told apart by their size."""
    return 1e6 if number < 1e11 else 1e3 if number < 1e14 else 1.0 if number < 1e17 else 1e-3


def _track(source: str, points: _Points, problems: Problems) -> Track:
    times = np.frombuffer(points.times_us, dtype=np.int64)
    values: NDArray[np.float64] = np.frombuffer(points.values, dtype=np.float64).reshape(-1, 4)
    late = np.count_nonzero(times[1:] < times[:-1])
    if late:
        problems.out_of_order += late
        order = np.argsort(times, kind="stable")
        times, values = times[order], values[order]
    first = np.ones(len(times), dtype=bool)
    first[1:] = times[1:] > times[:-1]
    if not first.all():
        problems.duplicates += np.count_nonzero(~first)
        times, values = times[first], values[first]
    series = {}
    for name, places in ((LOCATION, [0, 1]), (SPEED, [2]), (YAW_RATE, [3])):
        known = np.isfinite(values[:, places]).all(axis=1)
        if known.any():
            series[name] = Series(times_us=times[known], values=values[:, places][known])
    return Track(source=source, series=series)
