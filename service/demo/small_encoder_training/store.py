"""The training frames as arrays: simulated ones, real ones under a permissive licence, and real ones with sprites."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.demo.simulated_fleet import people, roadside, vehicles
from service.demo.simulated_fleet.canvas import Canvas, View
from service.demo.simulated_fleet.scenes import Thing
from service.demo.small_encoder_training.facts import CLASSES, FACTS, FALSE, INDEX, TRUE, complete, facts_of

SIDE_PX = 208
CELLS = 52
ABSENT, PRESENT, NOT_KNOWN = 0, 1, 255
_SPRITES_PER_FRAME = 3
_KINDS = ("pedestrian", "cyclist", "traffic_sign", "traffic_light", "truck", "bus", "car", "tree", "lamp")


@dataclass(frozen=True, kw_only=True)
class Store:
    """N frames squashed to a square."""

    images: NDArray[np.uint8]
    """Shape (N, SIDE_PX, SIDE_PX, 3)."""
    facts: NDArray[np.int8]
    """Shape (N, len(FACTS))."""
    places: NDArray[np.uint8]
    """Shape (N, len(CLASSES), CELLS, CELLS): where objects are; ABSENT, PRESENT or NOT_KNOWN."""
    real: NDArray[np.bool_]
    """Shape (N,): whether the frame was recorded or rendered elsewhere, not by the simulated fleet."""


def load(*, simulated: Path, real_data: Path, seed: int) -> Store:
    """Reads the simulated frames and every permissive row of the real data into memory."""
    rng = np.random.default_rng(seed)
    images: list[NDArray[np.uint8]] = []
    facts: list[NDArray[np.int8]] = []
    places: list[NDArray[np.uint8]] = []
    real: list[bool] = []
    for line in _lines(simulated / "metadata.jsonl"):
        with Image.open(simulated / line["file"]) as image:
            images.append(_squash(image))
        facts.append(facts_of(line))
        places.append(_places(line, facts[-1], size_px=(480, 270)))
        real.append(False)
    seen = json.loads(Path(__file__).with_name("seen_by_eye.json").read_text(encoding="utf-8"))
    sprites = [_sprite(rng, kind=_KINDS[n % len(_KINDS)]) for n in range(900)]
    for source in sorted(path.parent for path in real_data.glob("*/metadata.jsonl")):
        for line in _lines(source / "metadata.jsonl"):
            if line.get("license_class") != "permissive":
                continue
            known = facts_of({**line, **seen.get(source.name, {}).get(line["file"], {})})
            with Image.open(source / line["file"]) as opened:
                scene = opened.convert("RGB").resize((480, 270), Image.Resampling.BILINEAR)
            images.append(_squash(scene))
            facts.append(known)
            places.append(_places(line, known, size_px=(line["width"], line["height"])))
            where = places[-1]
            real.append(True)
            for _ in range(_SPRITES_PER_FRAME):
                pasted, now_known, now_there = _paste(rng, image=scene, facts=known, places=where, sprites=sprites)
                images.append(_squash(pasted))
                facts.append(now_known)
                places.append(now_there)
                real.append(True)
    return Store(
        images=np.stack(images), facts=np.stack(facts), places=np.stack(places), real=np.asarray(real, dtype=np.bool_)
    )


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for text in path.read_text(encoding="utf-8").splitlines():
        yield json.loads(text)


def _squash(image: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(image.convert("RGB").resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC), dtype=np.uint8)


def _places(line: dict[str, Any], facts: NDArray[np.int8], *, size_px: tuple[int, int]) -> NDArray[np.uint8]:
    """Cells covered by each class's boxes; a class known to be there but without a box is not known to be anywhere."""
    cells = np.full((len(CLASSES), CELLS, CELLS), NOT_KNOWN, dtype=np.uint8)
    names = {"bike": "cyclist"}
    boxes = [(names.get(entry["label"], entry["label"]), entry["bbox_xyxy_px"]) for entry in line.get("objects", ())]
    for position, name in enumerate(CLASSES):
        mine = [box for label, box in boxes if label == name]
        if facts[INDEX[name]] == FALSE or mine:
            cells[position] = ABSENT
        for box in mine:
            _cover(cells[position], box, size_px=size_px)
    return cells


def _cover(cells: NDArray[np.uint8], box: Sequence[float], *, size_px: tuple[int, int]) -> None:
    """Marks the middle of a box, so that cells it only touches stay empty."""
    x0, y0, x1, y1 = box
    dx, dy = 0.12 * (x1 - x0), 0.12 * (y1 - y0)
    left, right = (CELLS * (x0 + dx) / size_px[0], CELLS * (x1 - dx) / size_px[0])
    top, bottom = (CELLS * (y0 + dy) / size_px[1], CELLS * (y1 - dy) / size_px[1])
    rows = slice(max(0, int(top)), max(1, int(np.ceil(bottom))))
    cells[rows, max(0, int(left)) : max(1, int(np.ceil(right)))] = PRESENT


def _sprite(rng: np.random.Generator, *, kind: str) -> tuple[str, Image.Image]:
    """A drawn thing cut out exactly, with transparency, at 480 x 270 and as if about 7 to 11 metres away."""
    view = View(
        width_px=480, height_px=270, focal_px=330.0, center_x_px=240.0, horizon_y_px=150.0, camera_height_m=1.5,
        camera_x_m=0.0, camera_s_m=0.0, curvature_per_m=0.0,
    )  # fmt: skip
    blank = Image.new("RGB", (480, 270), (110, 110, 108))
    canvas = Canvas(view=view, backdrop=blank, haze=(200, 205, 210), visibility_m=400.0, with_lights=False)
    canvas.object_id = 7
    facing = ("away", "towards", "left", "right")[int(rng.integers(4))]
    thing = Thing(
        kind=kind, s_m=0.0, x_m=float(rng.uniform(-2.0, 2.0)), look=int(rng.integers(1, 1 << 30)),
        facing=facing, size=(0.0, 4.0, 0.0),  # type: ignore[arg-type]
    )  # fmt: skip
    z_m = float(rng.uniform(10.0, 14.0)) if kind in ("truck", "bus", "car") else float(rng.uniform(6.0, 9.0))
    seconds = float(rng.uniform(0, 10))
    if kind in ("truck", "bus", "car"):
        vehicles.draw_vehicle(canvas, thing, z_m=z_m, shadow=0.0, lamps_on=False)
    elif kind == "pedestrian":
        people.draw_pedestrian(canvas, thing, z_m=z_m, seconds=seconds, rain=False, shadow=0.0)
    elif kind == "cyclist":
        people.draw_cyclist(canvas, thing, z_m=z_m, seconds=seconds, lamps_on=False, shadow=0.0)
    elif kind == "traffic_sign":
        roadside.draw_sign(canvas, thing, z_m=z_m)
    elif kind == "traffic_light":
        roadside.draw_traffic_light(canvas, thing, z_m=z_m)
    elif kind == "tree":
        roadside.draw_tree(canvas, thing, z_m=z_m, snow=False)
    else:
        roadside.draw_lamp(canvas, thing, z_m=z_m, lit=False)
    mask = Image.fromarray(((np.asarray(canvas.ids) == 7) * 255).astype(np.uint8))
    picture = canvas.image.resize((480, 270), Image.Resampling.BOX)
    picture.putalpha(mask)
    return kind, picture.crop(mask.getbbox())


def _paste(
    rng: np.random.Generator,
    *,
    image: Image.Image,
    facts: NDArray[np.int8],
    places: NDArray[np.uint8],
    sprites: list[tuple[str, Image.Image]],
) -> tuple[Image.Image, NDArray[np.int8], NDArray[np.uint8]]:
    """Puts one to three sprites on a real frame, smaller the nearer their feet are to the horizon."""
    image, facts, places = image.copy(), facts.copy(), places.copy()
    for _ in range(int(rng.integers(1, 4))):
        kind, sprite = sprites[int(rng.integers(len(sprites)))]
        scale = float(rng.uniform(0.45, 1.5))
        size = (max(4, round(sprite.width * scale)), max(6, round(sprite.height * scale)))
        sprite = sprite.resize(size, Image.Resampling.BILINEAR)
        brightness = float(rng.uniform(0.55, 1.15))
        red, green, blue, alpha = sprite.split()
        bands = [band.point(lambda value: min(255, int(value * brightness))) for band in (red, green, blue)]  # noqa: B023
        feet_y = 125.0 + 55.0 * scale + float(rng.uniform(-8, 8))
        x = float(rng.uniform(-0.1 * size[0], 480 - 0.9 * size[0]))
        image.paste(Image.merge("RGB", bands), (round(x), round(feet_y - size[1])), alpha)
        if kind in CLASSES:
            box = (x, feet_y - size[1], x + size[0], feet_y)
            _cover(places[CLASSES.index(kind)], box, size_px=(480, 270))
        if kind in INDEX:
            facts[INDEX[kind]] = TRUE
            if kind in ("car", "truck", "bus"):
                facts[INDEX["vehicle"]] = TRUE
    for name in ("several_pedestrians", "close_pedestrian", "close_cyclist", "close_vehicle", "many_cars"):
        facts[INDEX[name]] = -1
    complete(facts)
    assert facts.shape == (len(FACTS),)
    return image, facts, places
