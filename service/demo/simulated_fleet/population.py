"""Fills a drive's stretch of road with buildings, trees, lamps, signs, vehicles and people."""

from collections.abc import Iterator

import numpy as np

from service.demo.simulated_fleet.scenes import CAMERAS, LANE_M, ROADS, Conditions, Drive, Road, Thing

_VISIBLE_M = 95.0
_VEHICLES_PER_100_M = {"light": 1.2, "medium": 2.6, "dense": 5.0}
_PEOPLE_PER_100_M = {"city": 9.0, "residential": 6.0, "highway": 0.0, "rural": 0.8}
_CYCLISTS_PER_100_M = {"city": 1.3, "residential": 1.1, "highway": 0.0, "rural": 0.8}
_SPEED_MPS = {"city": 4.0, "residential": 3.0, "highway": 11.0, "rural": 6.5}


def make_drive(rng: np.random.Generator, *, index: int, conditions: Conditions, frames: int) -> Drive:
    """Builds one drive. The same generator state gives the same drive."""
    road = ROADS[conditions.road]
    interval_s = 1.0
    speed_mps = _SPEED_MPS[conditions.road] * float(rng.uniform(0.7, 1.3))
    length_m = speed_mps * interval_s * frames + _VISIBLE_M
    seconds = frames * interval_s
    crossings = _crossings(rng, conditions=conditions, length_m=length_m)
    camera = CAMERAS[int(rng.choice(len(CAMERAS), p=(0.4, 0.3, 0.15, 0.15)))]
    things = [
        *_scenery(rng, conditions=conditions, road=road, length_m=length_m),
        *_signals(rng, conditions=conditions, road=road, length_m=length_m, crossings=crossings),
        *_vehicles(rng, conditions=conditions, road=road, length_m=length_m, seconds=seconds, speed_mps=speed_mps),
        *_people(rng, conditions=conditions, road=road, length_m=length_m, crossings=crossings),
    ]
    if conditions.hard is not None:
        things.extend(_hard_things(rng, wanted=conditions.hard, road=road, length_m=length_m, speed_mps=speed_mps))
    bend = {"city": 0.0012, "residential": 0.002, "highway": 0.0008, "rural": 0.0035}[conditions.road]
    return Drive(
        index=index,
        conditions=conditions,
        camera=camera,
        curvature_per_m=float(rng.uniform(-bend, bend)),
        speed_mps=speed_mps,
        frames=frames,
        interval_s=interval_s,
        street_lamps=conditions.road in ("city", "residential"),
        road=road,
        things=tuple(things),
        crossings_s_m=crossings,
    )


def _every(start: float, stop: float, step: float) -> list[float]:
    return [float(value) for value in np.arange(start, stop, step)]


def _look(rng: np.random.Generator) -> int:
    return int(rng.integers(1, 1 << 30))


def _crossings(rng: np.random.Generator, *, conditions: Conditions, length_m: float) -> tuple[float, ...]:
    spacing = {"city": 58.0, "residential": 110.0}.get(conditions.road)
    if spacing is None:
        return ()
    start = float(rng.uniform(12.0, spacing))
    return tuple(s + float(rng.uniform(-12, 12)) for s in _every(start, length_m, spacing))


def _scenery(rng: np.random.Generator, *, conditions: Conditions, road: Road, length_m: float) -> Iterator[Thing]:
    edges = ((-1, road.left_edge_m - road.sidewalk_m), (1, road.right_edge_m + road.sidewalk_m))
    for side, edge in edges:
        if conditions.road in ("city", "residential"):
            yield from _buildings(rng, side=side, edge=edge, city=conditions.road == "city", length_m=length_m)
        else:
            gap = 22.0 if conditions.road == "highway" else 14.0
            offset = (8.0, 26.0) if conditions.road == "highway" else (3.0, 20.0)
            for s in _every(4.0, length_m, gap):
                if rng.random() < 0.8:
                    yield Thing(
                        kind="tree", s_m=float(s + rng.uniform(0, gap)), look=_look(rng),
                        x_m=edge + side * float(rng.uniform(*offset)),
                        size=(0.0, float(rng.uniform(4.0, 10.0)), 0.0),
                    )  # fmt: skip
        if conditions.road in ("city", "residential"):
            for s in _every(float(rng.uniform(0, 25)), length_m, 27.0):
                x_m = edge - side * (road.sidewalk_m - 0.5)
                yield Thing(kind="lamp", s_m=float(s), x_m=x_m, look=side % 3, size=(0.0, 6.5, 0.0))
                if rng.random() < (0.65 if conditions.road == "residential" else 0.35):
                    yield Thing(
                        kind="tree", s_m=float(s + rng.uniform(6, 20)), x_m=x_m + side * 0.4, look=_look(rng),
                        size=(0.0, float(rng.uniform(3.5, 7.0)), 0.0),
                    )  # fmt: skip
    if conditions.road == "highway":
        for s in _every(0.0, length_m, 8.0):
            yield Thing(kind="rail", s_m=float(s), x_m=road.left_edge_m - 0.3, size=(0.0, 0.8, 8.0))
            yield Thing(kind="rail", s_m=float(s), x_m=road.right_edge_m + 0.6, size=(0.0, 0.8, 8.0))
    if conditions.road == "rural" and rng.random() < 0.5:
        for s in _every(0.0, length_m, 5.0):
            yield Thing(kind="fence", s_m=float(s), x_m=road.right_edge_m + 3.0, size=(0.0, 1.1, 5.0))


def _buildings(rng: np.random.Generator, *, side: int, edge: float, city: bool, length_m: float) -> Iterator[Thing]:
    s = float(rng.uniform(-10, 0))
    while s < length_m:
        length = float(rng.uniform(9, 22) if city else rng.uniform(8, 13))
        if rng.random() < (0.92 if city else 0.75):
            setback = float(rng.uniform(0.2, 1.5) if city else rng.uniform(2.5, 5.5))
            yield Thing(
                kind="building" if city else "house", s_m=s, x_m=edge + side * setback, look=_look(rng),
                size=(10.0, float(rng.uniform(7, 24) if city else rng.uniform(3.2, 6.0)), length),
            )  # fmt: skip
        s += length + float(rng.uniform(0.0, 3.0) if city else rng.uniform(3.0, 9.0))


def _signals(
    rng: np.random.Generator,
    *,
    conditions: Conditions,
    road: Road,
    length_m: float,
    crossings: tuple[float, ...],
) -> Iterator[Thing]:
    spacing = {"city": 48.0, "residential": 55.0, "highway": 130.0, "rural": 75.0}[conditions.road]
    for s in _every(float(rng.uniform(5, spacing)), length_m, spacing):
        yield Thing(kind="traffic_sign", s_m=float(s), x_m=road.right_edge_m + 0.9, look=_look(rng))
    for s in crossings:
        if conditions.road == "city" and rng.random() < 0.7:
            state = int(rng.integers(3))
            yield Thing(kind="traffic_light", s_m=s + 4.5, x_m=road.right_edge_m + 0.5, look=state)
            yield Thing(kind="traffic_light", s_m=s + 4.5, x_m=road.left_edge_m - 0.5, look=state)


def _vehicle_kind(rng: np.random.Generator, *, conditions: Conditions) -> str:
    weights = {
        "city": (0.92, 0.035, 0.045),
        "residential": (0.96, 0.025, 0.015),
        "highway": (0.86, 0.11, 0.03),
        "rural": (0.9, 0.07, 0.03),
    }[conditions.road]
    return str(rng.choice(("car", "truck", "bus"), p=weights))


def _vehicles(
    rng: np.random.Generator,
    *,
    conditions: Conditions,
    road: Road,
    length_m: float,
    seconds: float,
    speed_mps: float,
) -> Iterator[Thing]:
    per_100_m = _VEHICLES_PER_100_M[conditions.traffic]
    if rng.random() < {"light": 0.35, "medium": 0.7, "dense": 0.95}[conditions.traffic]:
        yield Thing(
            kind=_vehicle_kind(rng, conditions=conditions), s_m=float(rng.uniform(11, 30)), x_m=road.ego_x_m,
            speed_mps=speed_mps, sway_m=float(rng.uniform(1, 4)), look=_look(rng),
        )  # fmt: skip
    gap = 100.0 / per_100_m
    for lane in road.along_x_m:
        relative = float(rng.uniform(-1.2, 1.2))
        s = float(rng.uniform(-20, gap))
        while s < _VISIBLE_M + 20:
            yield Thing(
                kind=_vehicle_kind(rng, conditions=conditions), s_m=s, x_m=lane + float(rng.uniform(-0.2, 0.2)),
                speed_mps=speed_mps + relative, look=_look(rng),
            )  # fmt: skip
            s += 14.0 + float(rng.exponential(gap))
    for lane in road.oncoming_x_m:
        oncoming_mps = speed_mps * float(rng.uniform(0.8, 1.2))
        s = float(rng.uniform(0, gap))
        while s < length_m + oncoming_mps * seconds:
            yield Thing(
                kind=_vehicle_kind(rng, conditions=conditions), s_m=s, x_m=lane, speed_mps=-oncoming_mps,
                look=_look(rng), facing="towards",
            )  # fmt: skip
            s += 14.0 + float(rng.exponential(gap))
    for lane in road.parking_x_m:
        if rng.random() < 0.25:
            continue
        s = float(rng.uniform(0, 15))
        while s < length_m:
            yield Thing(
                kind="car" if rng.random() < 0.985 else "truck", s_m=s, x_m=lane, look=_look(rng),
                facing="away" if lane > 0 else "towards",
            )  # fmt: skip
            s += 6.5 + float(rng.exponential({"light": 30.0, "medium": 18.0, "dense": 10.0}[conditions.traffic]))


def _people(
    rng: np.random.Generator,
    *,
    conditions: Conditions,
    road: Road,
    length_m: float,
    crossings: tuple[float, ...],
) -> Iterator[Thing]:
    # Some streets are empty and some busy, so that presence is a property of a drive as much as of a frame.
    busy = float(rng.choice((0.0, 0.6, 1.6), p=(0.3, 0.45, 0.25)))
    if conditions.weather in ("rain", "snow"):
        busy *= 0.7
    for _ in range(int(rng.poisson(busy * _PEOPLE_PER_100_M[conditions.road] * length_m / 100.0))):
        side = 1 if rng.random() < 0.6 else -1
        edge = road.right_edge_m if side > 0 else road.left_edge_m
        towards = rng.random() < 0.5
        yield Thing(
            kind="pedestrian", s_m=float(rng.uniform(6, length_m)), look=_look(rng),
            x_m=edge + side * float(rng.uniform(0.4, max(road.sidewalk_m - 0.4, 0.8))),
            speed_mps=-1.2 if towards else 1.2, facing="towards" if towards else "away",
        )  # fmt: skip
    for s in crossings:
        if rng.random() < 0.45 * min(busy, 1.0):
            yield from _crossing_people(rng, s_m=s, road=road)
    cyclists = float(rng.choice((0.0, 2.2), p=(0.55, 0.45))) * _CYCLISTS_PER_100_M[conditions.road]
    for _ in range(int(rng.poisson(cyclists * length_m / 100.0))):
        yield _cyclist(rng, s_m=float(rng.uniform(8, length_m)), road=road)


def _crossing_people(rng: np.random.Generator, *, s_m: float, road: Road) -> Iterator[Thing]:
    for _ in range(int(rng.integers(1, 4))):
        right = rng.random() < 0.5
        yield Thing(
            kind="pedestrian", s_m=s_m + float(rng.uniform(0.4, 2.6)), look=_look(rng),
            x_m=float(rng.uniform(road.left_edge_m, road.right_edge_m)),
            side_speed_mps=0.25 if right else -0.25, facing="right" if right else "left",
        )  # fmt: skip


def _cyclist(rng: np.random.Generator, *, s_m: float, road: Road) -> Thing:
    style = rng.random()
    if style < 0.5:
        return Thing(
            kind="cyclist", s_m=s_m, x_m=min(road.right_edge_m - 0.7, road.ego_x_m + 2.4), look=_look(rng),
            speed_mps=2.5, facing="away",
        )  # fmt: skip
    if style < 0.75:
        return Thing(
            kind="cyclist", s_m=s_m, x_m=max(road.left_edge_m + 0.8, -LANE_M * 1.2), look=_look(rng), speed_mps=-3.0,
            facing="towards",
        )  # fmt: skip
    right = rng.random() < 0.5
    return Thing(
        kind="cyclist", s_m=s_m, x_m=float(rng.uniform(-2.0, 4.0)), look=_look(rng),
        side_speed_mps=0.3 if right else -0.3, facing="right" if right else "left",
    )  # fmt: skip


def _hard_things(
    rng: np.random.Generator, *, wanted: str, road: Road, length_m: float, speed_mps: float
) -> Iterator[Thing]:
    """The thing a rare combination is about, along with the camera for a part of the drive and met again later."""
    if wanted in ("truck", "bus"):
        yield Thing(
            kind=wanted, s_m=float(rng.uniform(9, 14)), x_m=road.ego_x_m, speed_mps=speed_mps * 1.04,
            look=_look(rng), sway_m=1.5,
        )  # fmt: skip
        return
    for s in _every(float(rng.uniform(10, 18)), length_m, 38.0):
        if wanted == "cyclist":
            yield Thing(
                kind="cyclist", s_m=float(s), x_m=min(road.right_edge_m - 0.7, road.ego_x_m + 1.9), look=_look(rng),
                speed_mps=0.35 * speed_mps, facing="away",
            )  # fmt: skip
        else:
            right = rng.random() < 0.5
            yield Thing(
                kind="pedestrian", s_m=float(s), x_m=road.ego_x_m + float(rng.uniform(-2.5, 3.5)), look=_look(rng),
                side_speed_mps=0.2 if right else -0.2, facing="right" if right else "left",
            )  # fmt: skip
