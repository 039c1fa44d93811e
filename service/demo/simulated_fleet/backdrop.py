"""Sky and ground of a frame, computed per pixel: clouds, asphalt, lane markings, crossings, pavements, grass, snow."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.demo.simulated_fleet.canvas import Colour, View
from service.demo.simulated_fleet.scenes import Conditions, Drive

CROSSING_DEPTH_M = 3.4
_TILE = 256

# Top of the sky and the sky at the horizon, as displayed (not yet darkened by the light of the hour).
_SKIES: dict[tuple[str, str], tuple[Colour, Colour]] = {
    ("day", "clear"): ((74, 130, 206), (188, 214, 236)),
    ("day", "overcast"): ((158, 166, 176), (204, 208, 212)),
    ("day", "rain"): ((112, 120, 132), (160, 166, 172)),
    ("day", "fog"): ((190, 194, 198), (204, 206, 208)),
    ("day", "snow"): ((186, 192, 200), (214, 218, 222)),
    ("dusk", "clear"): ((52, 56, 104), (246, 146, 84)),
    ("dusk", "overcast"): ((74, 72, 98), (190, 128, 108)),
    ("dusk", "rain"): ((58, 60, 80), (130, 104, 100)),
    ("dusk", "fog"): ((106, 98, 106), (140, 124, 122)),
    ("dusk", "snow"): ((92, 90, 112), (160, 138, 140)),
    ("dawn", "clear"): ((92, 118, 170), (250, 206, 164)),
    ("dawn", "overcast"): ((110, 118, 140), (206, 186, 180)),
    ("dawn", "rain"): ((84, 92, 112), (146, 142, 150)),
    ("dawn", "fog"): ((140, 142, 156), (170, 166, 170)),
    ("dawn", "snow"): ((126, 132, 154), (188, 180, 188)),
}
_NIGHT_SKIES: dict[str, tuple[Colour, Colour]] = {
    "clear": ((8, 10, 24), (28, 28, 44)),
    "overcast": ((20, 20, 26), (44, 40, 42)),
    "rain": ((14, 15, 20), (36, 34, 36)),
    "fog": ((40, 40, 44), (52, 52, 56)),
    "snow": ((38, 38, 46), (62, 60, 66)),
}


@dataclass(frozen=True, kw_only=True)
class Textures:
    """Noise tiles of a drive: `fine` grain and `soft` cloud-like patches, shape (256, 256), zero mean, about -1..1."""

    fine: NDArray[np.float32]
    soft: NDArray[np.float32]


def make_textures(rng: np.random.Generator) -> Textures:
    """Draws the tiles; both repeat without a seam."""
    fine = rng.normal(0.0, 0.5, (_TILE, _TILE)).astype(np.float32)
    total = np.zeros((_TILE, _TILE), dtype=np.float32)
    for cells, weight in ((4, 1.0), (8, 0.6), (16, 0.35), (32, 0.2)):
        coarse = rng.uniform(-1.0, 1.0, (cells, cells)).astype(np.float32)
        wrapped = np.pad(coarse, 1, mode="wrap")
        step = _TILE // cells
        image = Image.fromarray(wrapped)
        large = np.asarray(image.resize(((cells + 2) * step,) * 2, Image.Resampling.BICUBIC))
        total += weight * large[step:-step, step:-step]
    return Textures(fine=fine, soft=total / float(np.abs(total).max()))


def make_backdrop(
    *, view: View, drive: Drive, textures: Textures, seconds: float
) -> tuple[Image.Image, NDArray[np.float32]]:
    """Paints sky and ground at the final resolution.

    Returns:
        The picture, and how strongly each ground pixel mirrors (0..1, shape (height, width)): wet asphalt, puddles.
    """
    sky = _sky(view=view, conditions=drive.conditions, textures=textures, pan_px=seconds * 2.0 + drive.index * 97.0)
    ground, mirror = _ground(view=view, drive=drive, textures=textures)
    first = view.height_px - ground.shape[0]
    picture = np.empty((view.height_px, view.width_px, 3), dtype=np.float32)
    picture[:first] = sky[:first]
    picture[first:] = ground
    full_mirror = np.zeros((view.height_px, view.width_px), dtype=np.float32)
    full_mirror[first:] = mirror
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    return image, full_mirror


def haze_colour(conditions: Conditions) -> Colour:
    """Colour of the air between, before the light of the hour is applied."""
    if conditions.weather in ("fog", "snow"):
        return (206, 208, 210)
    if conditions.weather in ("rain", "overcast"):
        return (176, 180, 186)
    colours: dict[str, Colour] = {
        "day": (190, 208, 226), "dusk": (214, 160, 130), "dawn": (220, 196, 184), "night": (60, 60, 74),
    }  # fmt: skip
    return colours[conditions.timeofday]


def visibility_m(conditions: Conditions) -> float:
    """Distance at which contrast has fallen to 1/e."""
    return {"clear": 420.0, "overcast": 320.0, "rain": 120.0, "fog": 24.0, "snow": 75.0}[conditions.weather]


def _sky(*, view: View, conditions: Conditions, textures: Textures, pan_px: float) -> NDArray[np.float32]:
    if conditions.timeofday == "night":
        top, bottom = _NIGHT_SKIES[conditions.weather]
    else:
        top, bottom = _SKIES[(conditions.timeofday, conditions.weather)]
    rows = max(2, int(view.horizon_y_px) + 2)
    height = np.linspace(1.0, 0.0, rows, dtype=np.float32)[:, None, None] ** 0.8
    sky = np.asarray(top, np.float32) * height + np.asarray(bottom, np.float32) * (1.0 - height)
    sky = np.broadcast_to(sky, (rows, view.width_px, 3)).copy()
    amount = {"clear": 0.35, "overcast": 0.25, "rain": 0.3, "fog": 0.03, "snow": 0.08}[conditions.weather]
    y = (np.arange(rows) * 0.9).astype(np.int64) % _TILE
    x = (np.arange(view.width_px) * 0.45 + pan_px).astype(np.int64) % _TILE
    cloud = textures.soft[y[:, None], x[None, :]]
    if conditions.weather == "clear":
        cloud = np.clip(cloud, 0.0, 1.0)
    brightness = 0.25 if conditions.timeofday == "night" else 0.9
    target = np.asarray(bottom, np.float32) * 0.5 + 255.0 * 0.5 * brightness
    mix = (amount * cloud)[..., None]
    sky += mix * (target - sky)
    out = np.zeros((view.height_px, view.width_px, 3), dtype=np.float32)
    out[: min(rows, view.height_px)] = sky[: view.height_px]
    return out


def _ground(*, view: View, drive: Drive, textures: Textures) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Ground below the horizon, shapes (rows, width, 3) and (rows, width)."""
    road, weather = drive.road, drive.conditions.weather
    first = int(view.horizon_y_px) + 1
    y = np.arange(first, view.height_px, dtype=np.float32)[:, None]
    x = np.arange(view.width_px, dtype=np.float32)[None, :]
    z = np.minimum(view.focal_px * view.camera_height_m / np.maximum(y - view.horizon_y_px, 0.35), 400.0)
    across = (x - view.center_x_px) * z / view.focal_px + view.camera_x_m - 0.5 * view.curvature_per_m * z * z
    along = view.camera_s_m + z
    footprint = np.maximum(0.5 * z / view.focal_px, 0.02)

    def band(left: float, right: float) -> NDArray[np.float32]:
        """1 inside, 0 outside, with edges as soft as a pixel is wide there."""
        inner = np.minimum(across - left, right - across) / footprint
        return np.asarray(np.clip(inner + 0.5, 0.0, 1.0), dtype=np.float32)

    ix = (across * 22.0).astype(np.int64) % _TILE
    iz = (along * 9.0).astype(np.int64) % _TILE
    fine = textures.fine[iz, ix] * np.exp(-z / 14.0)
    soft = textures.soft[(along * 5.0).astype(np.int64) % _TILE, (across * 14.0).astype(np.int64) % _TILE]

    snow, wet = weather == "snow", weather == "rain"
    verge = np.asarray((222, 226, 232) if snow else (84, 104, 58) if road.sidewalk_m == 0.0 else (98, 106, 78))
    picture = (verge.astype(np.float32) + (14.0 * fine + 16.0 * soft)[..., None]).astype(np.float32)
    if road.sidewalk_m > 0.0:
        pave_colour = (206, 210, 216) if snow else (140, 138, 134) if not wet else (104, 104, 106)
        joints = ((along % 1.2) < 0.07) * np.exp(-z / 12.0) * -22.0
        pave = np.asarray(pave_colour, np.float32) + (9.0 * fine + 7.0 * soft + joints)[..., None]
        outer = band(road.left_edge_m - road.sidewalk_m, road.right_edge_m + road.sidewalk_m)[..., None]
        picture += outer * (pave - picture)
    base = 58.0 if wet else 92.0
    asphalt = base + 8.0 * fine + 7.0 * soft
    if snow:
        lane_phase = np.abs(((across - road.ego_x_m) / 3.4 + 0.5) % 1.0 - 0.5) * 3.4
        tracks = np.exp(-(((lane_phase - 0.75) / 0.32) ** 2))
        asphalt = asphalt + (1.0 - 0.75 * tracks) * (120.0 + 24.0 * soft)
    tarmac = np.repeat(asphalt[..., None], 3, axis=2) + np.asarray((-1.0, 0.0, 3.0), np.float32)
    on_road = band(road.left_edge_m, road.right_edge_m)
    paint = np.zeros_like(z + across)
    for position in road.solids_m:
        paint = np.maximum(paint, band(position - 0.08, position + 0.08))
    dashed = ((along % 9.0) < 4.0).astype(np.float32)
    for position in road.dashes_m:
        paint = np.maximum(paint, band(position - 0.08, position + 0.08) * dashed)
    for s in drive.crossings_s_m:
        if -2.0 < s - view.camera_s_m < 60.0:
            # Bars run along the road, half a metre wide; bare asphalt around them hides the lane markings.
            inside = (along >= s) & (along <= s + CROSSING_DEPTH_M)
            bars = np.clip((0.25 - np.abs((across % 1.0) - 0.5)) / np.maximum(footprint, 0.03) + 0.5, 0.0, 1.0)
            paint = np.where(inside, bars, paint)
    worn = np.clip(0.85 + 0.35 * soft, 0.3, 1.0) * (0.35 if snow else 0.8 if wet else 1.0)
    tarmac += (paint * worn)[..., None] * (np.asarray((228, 228, 222), np.float32) - tarmac)
    picture += on_road[..., None] * (tarmac - picture)
    kerb = band(road.left_edge_m - 0.18, road.left_edge_m) + band(road.right_edge_m, road.right_edge_m + 0.18)
    if road.sidewalk_m > 0.0 and not snow:
        picture += kerb[..., None] * (np.asarray((168, 168, 164), np.float32) - picture)

    mirror = np.zeros_like(soft)
    if wet:
        mirror = on_road * (0.35 + 0.65 * np.clip(soft * 2.5 - 0.2, 0.0, 1.0))
    kept = np.exp(-z / visibility_m(drive.conditions))[..., None]
    haze = np.asarray(haze_colour(drive.conditions), np.float32)
    return picture * kept + haze * (1.0 - kept), mirror.astype(np.float32)
