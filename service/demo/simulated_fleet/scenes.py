"""What a synthetic drive is made of: its conditions, its camera, its road and everything standing or moving there.

Everything here is drawn from a numpy generator that is handed in, so a seed fixes a drive completely.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

TimeOfDay = Literal["day", "dusk", "dawn", "night"]
Weather = Literal["clear", "overcast", "rain", "fog", "snow"]
RoadKind = Literal["city", "residential", "highway", "rural"]
Traffic = Literal["light", "medium", "dense"]

LANE_M = 3.4


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What stays the same during a drive."""

    timeofday: TimeOfDay
    weather: Weather
    road: RoadKind
    traffic: Traffic
    hard: str | None = None
    """Which rare combination was put here on purpose, if any."""

    @property
    def dark(self) -> bool:
        """Whether lamps are lit."""
        return self.timeofday != "day" or self.weather == "fog"


@dataclass(frozen=True, kw_only=True)
class Camera:
    """One camera model at one mounting position."""

    name: str
    focal_px: float
    height_m: float
    yaw_px: float
    pitch_px: float
    gain: tuple[float, float, float]
    noise: float
    jpeg_quality: int
    bonnet: bool


CAMERAS = (
    Camera(name="front_wide", focal_px=285, height_m=1.40, yaw_px=0, pitch_px=-12, gain=(1.0, 1.0, 1.0),
           noise=3.0, jpeg_quality=84, bonnet=True),
    Camera(name="front_main", focal_px=350, height_m=1.52, yaw_px=0, pitch_px=-18, gain=(1.05, 1.0, 0.93),
           noise=4.0, jpeg_quality=76, bonnet=False),
    Camera(name="front_left", focal_px=300, height_m=1.45, yaw_px=80, pitch_px=-14, gain=(0.95, 1.0, 1.07),
           noise=5.0, jpeg_quality=70, bonnet=False),
    Camera(name="front_right", focal_px=300, height_m=1.45, yaw_px=-80, pitch_px=-14, gain=(1.0, 0.98, 1.0),
           noise=6.0, jpeg_quality=66, bonnet=False),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Thing:
    """Something in the world. Position: `s_m` along the road (at the drive's start), `x_m` right of its centre line."""

    kind: str
    s_m: float
    x_m: float
    speed_mps: float = 0.0
    side_speed_mps: float = 0.0
    look: int = 0
    """Seeds the colours and proportions, so a thing looks the same in every frame."""
    size: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Width, height, length in metres where the kind does not fix them."""
    facing: Literal["away", "towards", "left", "right"] = "away"
    sway_m: float = 0.0

    def at(self, seconds: float) -> "Thing":
        """The thing after some time."""
        sway = self.sway_m * float(np.sin(seconds * 0.35 + self.look))
        return replace(
            self, s_m=self.s_m + self.speed_mps * seconds + sway, x_m=self.x_m + self.side_speed_mps * seconds
        )


@dataclass(frozen=True, kw_only=True)
class Road:
    """Cross-section of the road, metres right of the centre line; traffic keeps to the right."""

    left_edge_m: float
    right_edge_m: float
    dashes_m: tuple[float, ...]
    solids_m: tuple[float, ...]
    sidewalk_m: float
    ego_x_m: float
    oncoming_x_m: tuple[float, ...]
    along_x_m: tuple[float, ...]
    parking_x_m: tuple[float, ...] = ()
    yellow_centre: bool = False


ROADS: dict[RoadKind, Road] = {
    "city": Road(left_edge_m=-2.6 * LANE_M, right_edge_m=2.6 * LANE_M, dashes_m=(-LANE_M, LANE_M), solids_m=(0.0,),
                 sidewalk_m=3.2, ego_x_m=0.5 * LANE_M, oncoming_x_m=(-0.5 * LANE_M, -1.5 * LANE_M),
                 along_x_m=(1.5 * LANE_M,), parking_x_m=(-2.2 * LANE_M, 2.2 * LANE_M)),
    "residential": Road(left_edge_m=-1.6 * LANE_M, right_edge_m=1.6 * LANE_M, dashes_m=(), solids_m=(),
                        sidewalk_m=2.0, ego_x_m=0.45 * LANE_M, oncoming_x_m=(-0.5 * LANE_M,), along_x_m=(),
                        parking_x_m=(-1.28 * LANE_M, 1.28 * LANE_M)),
    "highway": Road(left_edge_m=-0.9, right_edge_m=3.6 * LANE_M, dashes_m=(LANE_M, 2 * LANE_M),
                    solids_m=(0.15, 3.0 * LANE_M), sidewalk_m=0.0, ego_x_m=1.5 * LANE_M,
                    oncoming_x_m=(-1.5 * LANE_M, -2.5 * LANE_M), along_x_m=(0.5 * LANE_M, 2.5 * LANE_M)),
    "rural": Road(left_edge_m=-1.15 * LANE_M, right_edge_m=1.15 * LANE_M, dashes_m=(0.0,),
                  solids_m=(-1.05 * LANE_M, 1.05 * LANE_M), sidewalk_m=0.0, ego_x_m=0.5 * LANE_M,
                  oncoming_x_m=(-0.5 * LANE_M,), along_x_m=()),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Drive:
    """One recording session of one vehicle: a stretch of world and how the camera moves through it."""

    index: int
    conditions: Conditions
    camera: Camera
    curvature_per_m: float
    speed_mps: float
    frames: int
    interval_s: float
    street_lamps: bool
    road: Road
    things: tuple[Thing, ...] = field(repr=False)
    crossings_s_m: tuple[float, ...]

    def ego_s_m(self, frame: int) -> float:
        """How far the vehicle has come at a frame; it slows down and goes on again."""
        t = frame * self.interval_s
        return self.speed_mps * (t - 1.6 * float(np.sin(t * 0.45)))


_HARD_CASES: tuple[tuple[str, TimeOfDay, Weather, RoadKind], ...] = (
    ("cyclist", "night", "rain", "city"),
    ("pedestrian", "night", "clear", "rural"),
    ("pedestrian", "day", "fog", "residential"),
    ("truck", "dusk", "snow", "highway"),
    ("cyclist", "dawn", "fog", "rural"),
    ("bus", "night", "snow", "city"),
    ("pedestrian", "dusk", "rain", "city"),
)


def plan_conditions(rng: np.random.Generator, *, drives: int) -> list[Conditions]:
    """Conditions of each drive: every value in its share, plus one rare combination in about seven drives."""
    times = _shares(rng, {"day": 0.42, "dusk": 0.19, "dawn": 0.12, "night": 0.27}, drives)
    weathers = _shares(rng, {"clear": 0.34, "overcast": 0.25, "rain": 0.19, "fog": 0.11, "snow": 0.11}, drives)
    roads = _shares(rng, {"city": 0.38, "residential": 0.24, "highway": 0.2, "rural": 0.18}, drives)
    traffics = _shares(rng, {"light": 0.35, "medium": 0.4, "dense": 0.25}, drives)
    plans = [
        Conditions(timeofday=t, weather=w, road=r, traffic=d)  # type: ignore[arg-type]
        for t, w, r, d in zip(times, weathers, roads, traffics, strict=True)
    ]
    first = int(rng.integers(len(_HARD_CASES)))
    for n, position in enumerate(range(3, drives, 7)):
        wanted, timeofday, weather, road = _HARD_CASES[(first + n) % len(_HARD_CASES)]
        plans[position] = replace(plans[position], timeofday=timeofday, weather=weather, road=road, hard=wanted)
    return plans


def _shares(rng: np.random.Generator, shares: dict[str, float], count: int) -> list[str]:
    """`count` values whose frequencies are as near to the shares as whole numbers allow, in random order."""
    edges = np.cumsum(list(shares.values()))
    offsets = (np.arange(count) + rng.random()) / max(count, 1)
    names = list(shares)
    values = [names[min(int(np.searchsorted(edges, offset)), len(names) - 1)] for offset in offsets]
    return [values[i] for i in rng.permutation(count)]
