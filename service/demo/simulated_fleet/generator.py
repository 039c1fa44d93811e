"""Writes a simulated fleet: rendered frames and the metadata line of each."""

import datetime as dt
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.demo.simulated_fleet import atmosphere, backdrop, people, population, roadside, scenes, vehicles
from service.demo.simulated_fleet.canvas import NO_OBJECT_ID, Canvas, View

WIDTH_PX, HEIGHT_PX = 480, 270
CLASSES = ("car", "truck", "bus", "pedestrian", "cyclist", "traffic_sign", "traffic_light", "crossing")

# An object is drawn only where it can be told what it is, so that an absent label means absent.
_DRAWN_TO_M = {
    "car": 75.0, "truck": 65.0, "bus": 65.0, "pedestrian": 24.0, "cyclist": 25.0, "traffic_sign": 24.0,
    "traffic_light": 30.0,
}  # fmt: skip
_LEAST_HEIGHT_PX = {
    "car": 9, "truck": 15, "bus": 15, "pedestrian": 16, "cyclist": 16, "traffic_sign": 9, "traffic_light": 9,
    "crossing": 3,
}  # fmt: skip
_LEAST_AREA_PX = {
    "car": 60, "truck": 150, "bus": 150, "pedestrian": 60, "cyclist": 80, "traffic_sign": 34, "traffic_light": 34,
    "crossing": 260,
}  # fmt: skip
_SITES = {"harbour": (54.32, 10.13), "hillside": (47.99, 7.85), "riverside": (51.05, 13.74)}
_HOURS = {"day": (9.0, 16.5), "dusk": (18.2, 20.0), "dawn": (5.4, 6.8), "night": (21.5, 27.5)}


@dataclass(frozen=True, kw_only=True)
class RenderedFrame:
    """One frame as it would leave the camera, with the answers."""

    jpeg: bytes
    classes: tuple[str, ...]
    objects: tuple[tuple[str, tuple[int, int, int, int]], ...]
    """Label and visible box (x0, y0, x1, y1) in pixels, x1 and y1 exclusive."""


def generate(
    directory: Path,
    *,
    frames: int,
    seed: int,
    frames_per_drive: int = 25,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Renders a labelled synthetic fleet. The same arguments give the same bytes.

    About 25 frames a second on one core; one second lies between the frames of a drive.

    Args:
        directory: Receives `images/*.jpg` and `metadata.jsonl`; made if missing. Written last, `metadata.jsonl` marks
            a complete fleet.
        frames: How many frames in all, at least 1.
        seed: Fixes every drive and frame.
        frames_per_drive: How long drives are, about.
        progress: Called with (frames done, frames in all) after each frame.
    Returns:
        The path of `metadata.jsonl`.
    """
    images = directory / "images"
    images.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    for line, jpeg in iterate(frames=frames, seed=seed, frames_per_drive=frames_per_drive):
        (directory / line["file"]).write_bytes(jpeg)
        lines.append(json.dumps(line))
        if progress is not None:
            progress(len(lines), frames)
    metadata = directory / "metadata.jsonl"
    metadata.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return metadata


def iterate(*, frames: int, seed: int, frames_per_drive: int = 25) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Renders the frames of `generate` one by one: metadata line and JPEG bytes."""
    drives = max(1, round(frames / frames_per_drive))
    root = np.random.SeedSequence(seed)
    plan_rng = np.random.default_rng(root.spawn(1)[0])
    conditions = scenes.plan_conditions(plan_rng, drives=drives)
    lengths = [frames // drives + (1 if index < frames % drives else 0) for index in range(drives)]
    for index, (length, drive_seed) in enumerate(zip(lengths, root.spawn(drives), strict=True)):
        rng = np.random.default_rng(drive_seed)
        drive = population.make_drive(rng, index=index, conditions=conditions[index], frames=length)
        textures = backdrop.make_textures(rng)
        describe = _description(rng, drive=drive)
        for frame in range(length):
            rendered = render(drive, frame=frame, textures=textures, rng=rng)
            yield _metadata_line(drive, frame=frame, rendered=rendered, **describe), rendered.jpeg


def render(drive: scenes.Drive, *, frame: int, textures: backdrop.Textures, rng: np.random.Generator) -> RenderedFrame:
    """Renders one frame of a drive."""
    seconds = frame * drive.interval_s
    view = _view(drive, frame=frame, rng=rng)
    picture, mirror = backdrop.make_backdrop(view=view, drive=drive, textures=textures, seconds=seconds)
    canvas = Canvas(
        view=view,
        backdrop=picture,
        haze=backdrop.haze_colour(drive.conditions),
        visibility_m=backdrop.visibility_m(drive.conditions),
        with_lights=drive.conditions.dark,
    )
    labels: dict[int, str] = {}
    _draw_crossings(canvas, drive, labels)
    placed = sorted(
        ((thing, thing.s_m - view.camera_s_m) for thing in (thing.at(seconds) for thing in drive.things)),
        key=lambda pair: -pair[1] - 0.5 * pair[0].size[2],
    )
    for thing, z_m in placed:
        if z_m + thing.size[2] < 1.2 or z_m > _DRAWN_TO_M.get(thing.kind, 95.0):
            continue
        if thing.kind in _LEAST_AREA_PX and len(labels) < 250:
            if z_m < (2.0 if thing.kind in ("pedestrian", "cyclist") else 3.5):
                continue
            canvas.object_id = len(labels) + 1
            labels[canvas.object_id] = thing.kind
        else:
            canvas.object_id = NO_OBJECT_ID
        _draw_thing(canvas, thing, z_m=z_m, drive=drive, seconds=seconds)
    lit = atmosphere.light_scene(canvas, drive=drive, mirror=mirror)
    lit = atmosphere.weather_over(lit, conditions=drive.conditions, rng=rng)
    turn = 1.2 * drive.speed_mps * abs(drive.curvature_per_m) * 60.0 + float(rng.exponential(0.4))
    jpeg = atmosphere.expose(lit, camera=drive.camera, conditions=drive.conditions, rng=rng, turn_px=min(turn, 4.0))
    objects = visible_objects(np.asarray(canvas.ids), labels)
    classes = tuple(name for name in CLASSES if any(label == name for label, _ in objects))
    return RenderedFrame(jpeg=jpeg, classes=classes, objects=objects)


def visible_objects(
    ids: NDArray[np.uint8], labels: dict[int, str]
) -> tuple[tuple[str, tuple[int, int, int, int]], ...]:
    """Boxes around what remained visible of each object, leaving out what is too small to be recognised."""
    found: list[tuple[str, tuple[int, int, int, int]]] = []
    counts = np.bincount(ids.ravel(), minlength=256)
    for object_id, label in labels.items():
        if counts[object_id] < _LEAST_AREA_PX[label]:
            continue
        mask = ids == object_id
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        x0, x1, y0, y1 = int(columns[0]), int(columns[-1]) + 1, int(rows[0]), int(rows[-1]) + 1
        if y1 - y0 >= _LEAST_HEIGHT_PX[label]:
            found.append((label, (x0, y0, x1, y1)))
    return tuple(found)


def _view(drive: scenes.Drive, *, frame: int, rng: np.random.Generator) -> View:
    camera = drive.camera
    return View(
        width_px=WIDTH_PX,
        height_px=HEIGHT_PX,
        focal_px=camera.focal_px,
        center_x_px=0.5 * WIDTH_PX + camera.yaw_px + float(rng.normal(0.0, 1.5)),
        horizon_y_px=0.5 * HEIGHT_PX + camera.pitch_px + float(rng.normal(0.0, 1.5)),
        camera_height_m=camera.height_m,
        camera_x_m=drive.road.ego_x_m + 0.15 * float(np.sin(0.5 * frame)),
        camera_s_m=drive.ego_s_m(frame),
        curvature_per_m=drive.curvature_per_m,
    )


def _draw_crossings(canvas: Canvas, drive: scenes.Drive, labels: dict[int, str]) -> None:
    """Marks where the ground shader painted a crossing; whatever is drawn later covers it."""
    view = canvas.view
    for s in drive.crossings_s_m:
        near, far = max(s - view.camera_s_m, 2.2), s - view.camera_s_m + backdrop.CROSSING_DEPTH_M
        if far <= near or near > 26.0:
            continue
        canvas.object_id = len(labels) + 1
        labels[canvas.object_id] = "crossing"
        left, right = drive.road.left_edge_m, drive.road.right_edge_m
        canvas.mark([(left, 0.0, near), (right, 0.0, near), (right, 0.0, far), (left, 0.0, far)])


def _draw_thing(canvas: Canvas, thing: scenes.Thing, *, z_m: float, drive: scenes.Drive, seconds: float) -> None:
    conditions = drive.conditions
    shadow, snow = atmosphere.shadow_darkness(conditions), conditions.weather == "snow"
    match thing.kind:
        case "car" | "truck" | "bus":
            vehicles.draw_vehicle(canvas, thing, z_m=z_m, shadow=shadow, lamps_on=conditions.dark)
        case "pedestrian":
            people.draw_pedestrian(
                canvas, thing, z_m=z_m, seconds=seconds, rain=conditions.weather == "rain", shadow=shadow
            )
        case "cyclist":
            people.draw_cyclist(
                canvas, thing, z_m=z_m, seconds=seconds, lamps_on=conditions.timeofday != "day", shadow=shadow
            )
        case "building":
            roadside.draw_building(canvas, thing, z_m=z_m, dark=conditions.timeofday in ("night", "dusk"), snow=snow)
        case "house":
            roadside.draw_house(canvas, thing, z_m=z_m, dark=conditions.timeofday in ("night", "dusk"), snow=snow)
        case "tree":
            roadside.draw_tree(canvas, thing, z_m=z_m, snow=snow)
        case "lamp":
            roadside.draw_lamp(canvas, thing, z_m=z_m, lit=conditions.timeofday in ("night", "dusk"))
        case "rail" | "fence":
            roadside.draw_rail(canvas, thing, z_m=z_m, fence=thing.kind == "fence")
        case "traffic_sign":
            roadside.draw_sign(canvas, thing, z_m=z_m)
        case "traffic_light":
            roadside.draw_traffic_light(canvas, thing, z_m=z_m)


def _description(rng: np.random.Generator, *, drive: scenes.Drive) -> dict[str, Any]:
    site = str(rng.choice(list(_SITES)))
    first, last = _HOURS[drive.conditions.timeofday]
    winter = drive.conditions.weather == "snow"
    day = dt.datetime(2025, 1 if winter else 5, 1 + int(rng.integers(28)), tzinfo=dt.UTC)
    start = day + dt.timedelta(hours=float(rng.uniform(first, last)))
    lat, lon = _SITES[site]
    return {
        "site": site,
        "vehicle": f"{site[:2]}-van-{int(rng.integers(1, 5)):02d}",
        "start": start.replace(microsecond=0),
        "origin": (lat + float(rng.normal(0, 0.02)), lon + float(rng.normal(0, 0.03))),
    }


def _metadata_line(
    drive: scenes.Drive,
    *,
    frame: int,
    rendered: RenderedFrame,
    site: str,
    vehicle: str,
    start: dt.datetime,
    origin: tuple[float, float],
) -> dict[str, Any]:
    conditions = drive.conditions
    captured_at = start + dt.timedelta(seconds=frame * drive.interval_s)
    metres_north = drive.ego_s_m(frame)
    return {
        "file": f"images/drive{drive.index:04d}_{frame:04d}.jpg",
        "captured_at": captured_at.isoformat().replace("+00:00", "Z"),
        "site": site,
        "vehicle": vehicle,
        "drive": f"{start:%Y%m%d}-{vehicle}-{drive.index:04d}",
        "camera": drive.camera.name,
        "location": [round(origin[0] + metres_north / 111_320.0, 6), round(origin[1], 6)],
        "attributes": {
            "weather": conditions.weather,
            "timeofday": conditions.timeofday,
            "scene": conditions.road,
            "traffic": conditions.traffic,
            "synthetic": True,
        },
        "classes": list(rendered.classes),
        "objects": [{"label": label, "bbox_xyxy_px": list(box)} for label, box in rendered.objects],
    }
