"""From a painted scene to a camera image: light of the hour, lamps and their glow, rain, snow, and the sensor."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from service.demo.simulated_fleet.canvas import SKY_ID, Canvas, View
from service.demo.simulated_fleet.scenes import Camera, Conditions, Drive

_AMBIENT: dict[str, tuple[float, float, float]] = {
    "day": (1.0, 0.99, 0.96),
    "dusk": (0.60, 0.46, 0.44),
    "dawn": (0.66, 0.61, 0.66),
    "night": (0.135, 0.145, 0.195),
}
_WEATHER_LIGHT = {"clear": 1.0, "overcast": 0.84, "rain": 0.7, "fog": 0.9, "snow": 0.9}


def shadow_darkness(conditions: Conditions) -> float:
    """How dark shadows on the ground are."""
    if conditions.timeofday == "night":
        return 0.3
    return 0.55 if conditions.weather == "clear" else 0.22


def light_scene(canvas: Canvas, *, drive: Drive, mirror: NDArray[np.float32]) -> NDArray[np.float32]:
    """Applies daylight, street and head lamps, glow and reflections. Shape (height, width, 3), 0..255."""
    conditions, view = drive.conditions, canvas.view
    picture = canvas.colours()
    ambient = np.asarray(_AMBIENT[conditions.timeofday], np.float32) * _WEATHER_LIGHT[conditions.weather]
    if conditions.timeofday == "night" and drive.street_lamps:
        ambient = ambient + np.asarray((0.20, 0.155, 0.09), np.float32)
    if conditions.timeofday == "night" and conditions.weather == "snow":
        ambient = ambient * 1.2
    light: NDArray[np.float32] = np.broadcast_to(ambient, picture.shape)
    if conditions.timeofday == "night":
        light = light + _head_lamps(view)[..., None] * np.asarray((0.95, 0.92, 0.82), np.float32)
    elif conditions.timeofday in ("dusk", "dawn"):
        light = light + 0.16 * _head_lamps(view)[..., None]
    sky = np.asarray(canvas.ids) == SKY_ID
    picture = np.where(sky[..., None], picture, picture * light)
    if not conditions.dark:
        if mirror.any():
            picture = picture + 0.22 * mirror[..., None] * (_mirrored(picture, view) - picture)
        return np.asarray(picture, dtype=np.float32)
    lamps = canvas.lights
    wide = 7.0 if conditions.weather in ("fog", "rain", "snow") else 4.5
    half = lamps.resize((lamps.width // 2, lamps.height // 2), Image.Resampling.BOX)
    near = np.asarray(half.filter(ImageFilter.BoxBlur(1)).resize(lamps.size, Image.Resampling.BILINEAR), np.float32)
    halo = half.filter(ImageFilter.GaussianBlur(wide)).resize(lamps.size, Image.Resampling.BILINEAR)
    core = np.asarray(lamps, np.float32)
    gain = {"night": 1.0, "dusk": 0.75, "dawn": 0.5, "day": 0.25}[conditions.timeofday]
    glow = core * 0.6 + near * 1.1 + np.asarray(halo, np.float32) * (3.4 if wide > 5 else 2.4)
    picture = picture + gain * glow
    if mirror.any():
        smear = Image.fromarray(np.clip(_mirrored(glow, view), 0, 255).astype(np.uint8))
        smear = smear.resize((view.width_px, max(1, view.height_px // 24)), Image.Resampling.BOX)
        streaks = np.asarray(smear.resize((view.width_px, view.height_px), Image.Resampling.BILINEAR), np.float32)
        picture = picture + gain * 2.2 * mirror[..., None] * streaks
    return np.asarray(picture, dtype=np.float32)


def _head_lamps(view: View) -> NDArray[np.float32]:
    """Where the vehicle's own head lamps reach, 0..1, shape (height, width)."""
    x = (np.arange(view.width_px, dtype=np.float32)[None, :] - view.center_x_px) / (0.36 * view.width_px)
    y = (np.arange(view.height_px, dtype=np.float32)[:, None] - view.horizon_y_px) / view.height_px
    down = np.exp(-(((y - 0.14) / 0.16) ** 2))
    return np.asarray(down * np.exp(-(x**2)), dtype=np.float32)


def _mirrored(picture: NDArray[np.float32], view: View) -> NDArray[np.float32]:
    """The picture reflected at the horizon, for wet ground."""
    rows = np.arange(view.height_px)
    source = np.clip(2 * int(view.horizon_y_px) - rows + 6, 0, view.height_px - 1)
    return picture[source]


def weather_over(
    picture: NDArray[np.float32], *, conditions: Conditions, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Adds what is in the air and on the lens: streaks of rain, drops, snow flakes."""
    if conditions.weather not in ("rain", "snow"):
        return picture
    height, width = picture.shape[:2]
    layer = Image.new("L", (width, height))
    draw = ImageDraw.Draw(layer)
    if conditions.weather == "rain":
        slant = float(rng.uniform(-0.25, 0.25))
        for x, y, length, grey in zip(
            rng.uniform(0, width, 120), rng.uniform(-20, height, 120), rng.uniform(6, 22, 120),
            rng.integers(24, 80, 120), strict=True,
        ):  # fmt: skip
            draw.line((x, y, x + slant * length, y + length), fill=int(grey), width=1)
    else:
        for x, y, r, grey in zip(
            rng.uniform(0, width, 170), rng.uniform(0, height, 170), rng.gamma(2.0, 0.45, 170),
            rng.integers(110, 240, 170), strict=True,
        ):  # fmt: skip
            draw.ellipse((x - r, y - 1.2 * r, x + r, y + 1.2 * r), fill=int(grey))
        layer = layer.filter(ImageFilter.BoxBlur(0.6))
    brightness = {"day": 235.0, "dawn": 200.0, "dusk": 180.0, "night": 120.0}[conditions.timeofday]
    alpha = np.asarray(layer, np.float32)[..., None] / 255.0
    picture = picture + alpha * (brightness - picture)
    if conditions.weather == "rain":
        picture = _lens_drops(picture, rng=rng)
    return picture


def _lens_drops(picture: NDArray[np.float32], *, rng: np.random.Generator) -> NDArray[np.float32]:
    """Drops on the glass show the scene upside down and blurred."""
    height, width = picture.shape[:2]
    mask = Image.new("L", (width, height))
    draw = ImageDraw.Draw(mask)
    for _ in range(int(rng.integers(6, 22))):
        x, y, r = float(rng.uniform(0, width)), float(rng.uniform(0, height)), float(rng.uniform(2.0, 7.0))
        draw.ellipse((x - r, y - r, x + r, y + 1.2 * r), fill=190)
    alpha = np.asarray(mask.filter(ImageFilter.BoxBlur(1)), np.float32)[..., None] / 255.0
    small = Image.fromarray(np.clip(picture[::-1], 0, 255).astype(np.uint8)).resize((48, 27), Image.Resampling.BOX)
    blurred = np.asarray(small.resize((width, height), Image.Resampling.BILINEAR), np.float32)
    return picture + alpha * (1.05 * blurred + 6.0 - picture)


def expose(
    picture: NDArray[np.float32],
    *,
    camera: Camera,
    conditions: Conditions,
    rng: np.random.Generator,
    turn_px: float,
) -> bytes:
    """What the sensor and its encoder make of the light: bonnet, vignette, motion blur, noise, JPEG."""
    height, width = picture.shape[:2]
    x = (np.arange(width, dtype=np.float32) - 0.5 * width) / (0.5 * width)
    y = (np.arange(height, dtype=np.float32) - 0.5 * height) / (0.5 * height)
    vignette = 1.0 - 0.16 * (x[None, :] ** 2 + y[:, None] ** 2)
    if camera.bonnet:
        edge = height * (0.915 + 0.05 * x**2)
        below = np.clip((np.arange(height, dtype=np.float32)[:, None] - edge[None, :]) / 2.0, 0.0, 1.0)[..., None]
        level = {"day": 62.0, "dawn": 40.0, "dusk": 30.0, "night": 11.0}[conditions.timeofday]
        shine = level * (0.75 + 0.5 * np.exp(-((x[None, :, None] / 0.5) ** 2)))
        picture = picture + below * (shine * np.asarray((0.95, 1.0, 1.08), np.float32) - picture)
    gain = np.asarray(camera.gain, np.float32) * float(rng.uniform(0.92, 1.08))
    picture = picture * vignette[..., None] * gain
    steps = round(abs(turn_px))
    if steps > 0:
        picture = np.mean([np.roll(picture, s, axis=1) for s in range(steps + 1)], axis=0)
    sigma = camera.noise * {"day": 0.8, "dawn": 1.2, "dusk": 1.5, "night": 1.8}[conditions.timeofday]
    grain = rng.standard_normal((height, width), dtype=np.float32)
    speckle = rng.standard_normal((height, width // 2, 3), dtype=np.float32).repeat(2, axis=1)
    picture = picture + (sigma * grain)[..., None] + 0.45 * sigma * speckle
    buffer = io.BytesIO()
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    image.save(buffer, format="JPEG", quality=camera.jpeg_quality, subsampling=2)
    return buffer.getvalue()
