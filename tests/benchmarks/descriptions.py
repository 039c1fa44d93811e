"""What a benchmark fleet's frames say about themselves: drives, vehicles, sites, times, places, and ten attributes of the kinds people filter by.

They follow the vectors' drives (`vectors.ClipLike.drives`): weather and firmware change between drives, the road with the kind of scene,
speed and counts from frame to frame, so a filter keeps some kinds of scene and drops others, as it does on real frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.vectors import Drive

SITES = ("nagoya", "munich", "austin", "osaka", "turin")
CAMERAS = ("front", "front", "front", "rear", "left", "right")
WEATHERS = ("clear", "cloudy", "rain", "overcast", "fog", "snow")
ROADS = ("urban", "suburban", "highway", "rural", "tunnel", "parking")
TRAFFIC = ("free", "dense", "jam")
PREFECTURES = 47
FIRMWARES = 24
VEHICLES = 200
ATTRIBUTES = (
    "weather",
    "timeofday",
    "road",
    "traffic",
    "prefecture",
    "firmware",
    "wipers",
    "speed_kph",
    "pedestrians",
    "temperature_c",
)

_FIRST_DAY = datetime(2026, 1, 5, tzinfo=UTC)
_DAYS = 365
_SALT = 2


@dataclass(frozen=True, kw_only=True)
class Description:
    """What is known of one frame beside its pixels; names and units are those of the frame record."""

    captured_at: datetime
    site: str
    vehicle: str
    drive: str
    camera: str
    location: tuple[float, float]
    attributes: dict[str, Any]


def described(drives: Iterator[Drive] | Sequence[Drive], *, seed: int = 0) -> Iterator[Description]:
    """One description a frame, in order of rows; each drive's depend on the seed and its number only."""
    for drive in drives:
        yield from _of_drive(drive, np.random.default_rng([seed, _SALT, drive.number]))


def _of_drive(drive: Drive, rng: np.random.Generator) -> Iterator[Description]:
    site = int(rng.choice(len(SITES), p=(0.4, 0.25, 0.15, 0.15, 0.05)))
    vehicle, camera = int(rng.integers(VEHICLES)), CAMERAS[int(rng.integers(len(CAMERAS)))]
    weather = WEATHERS[int(rng.choice(len(WEATHERS), p=(0.4, 0.25, 0.13, 0.13, 0.05, 0.04)))]
    begin = _FIRST_DAY + timedelta(days=int(rng.integers(_DAYS)), seconds=int(rng.integers(86_400)))
    temperature_c = int(rng.integers(-5, 35))
    prefecture = f"pref-{int(rng.zipf(1.6)) % PREFECTURES:02d}"
    firmware = f"7.{int(rng.integers(FIRMWARES))}"
    latitude, longitude = rng.uniform(34.5, 35.5), rng.uniform(136.5, 137.5)

    length = len(drive)
    road_N = drive.cluster_N % len(ROADS)
    speed_N = _speeds(drive, road_N, rng)
    people_N = rng.poisson(np.where(road_N < 2, 2.0, 0.1))
    heading = rng.uniform(0, 2 * np.pi)
    travelled_km = np.cumsum(speed_N) / 3600
    north_N = latitude + travelled_km * np.cos(heading) / 111.0
    east_N = longitude + travelled_km * np.sin(heading) / 91.0
    for i in range(length):
        moment = begin + timedelta(seconds=i)
        speed = float(speed_N[i])
        attributes = {
            "weather": weather,
            "timeofday": _time_of_day(moment.hour),
            "road": ROADS[road_N[i]],
            "traffic": TRAFFIC[0 if speed > 40 else 1 if speed > 8 else 2],
            "prefecture": prefecture,
            "firmware": firmware,
            "wipers": weather in ("rain", "snow"),
            "speed_kph": speed,
            "pedestrians": int(people_N[i]),
            "temperature_c": temperature_c,
        }
        yield Description(
            captured_at=moment,
            site=SITES[site],
            vehicle=f"vehicle-{vehicle:03d}",
            drive=f"drive-{drive.number:06d}",
            camera=camera,
            location=(round(float(north_N[i]), 6), round(float(east_N[i]), 6)),
            attributes=attributes,
        )


def _speeds(drive: Drive, road_N: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float64]:
    usual = np.array((35.0, 45.0, 105.0, 70.0, 60.0, 8.0))[road_N]
    swing = np.cumsum(rng.standard_normal(len(drive))) % 20 - 10
    speeds: NDArray[np.float64] = np.where(drive.standing_N, 0.0, np.maximum(0.0, usual + swing)).round(1)
    return speeds


def _time_of_day(hour: int) -> str:
    if 7 <= hour < 17:
        return "day"
    return "dusk" if hour in (5, 6, 17, 18) else "night"
