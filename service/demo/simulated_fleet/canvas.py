"""A pinhole camera and the painter's canvas on which a synthetic scene is drawn, far things first."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float, float]
"""Metres in road coordinates: x to the right of the road's centre line, y up, z ahead of the camera."""

SUPERSAMPLING = 2
SKY_ID = 255
NO_OBJECT_ID = 0
_NEAREST_M = 0.9


@dataclass(frozen=True, kw_only=True)
class View:
    """Where one camera looks from in one frame. Image origin top left, pixels of the final image."""

    width_px: int
    height_px: int
    focal_px: float
    center_x_px: float
    horizon_y_px: float
    camera_height_m: float
    camera_x_m: float
    camera_s_m: float
    curvature_per_m: float

    def project(self, point: Point) -> tuple[float, float]:
        """Image position of a point; points behind the near plane are pushed onto it."""
        x, y, z = point
        z = max(z, _NEAREST_M)
        bend = 0.5 * self.curvature_per_m * z * z
        return (
            self.center_x_px + self.focal_px * (x - self.camera_x_m + bend) / z,
            self.horizon_y_px + self.focal_px * (self.camera_height_m - y) / z,
        )

    def pixels_per_metre(self, z: float) -> float:
        """Size of one metre at distance z."""
        return self.focal_px / max(z, _NEAREST_M)


class Canvas:
    """Colour at twice the resolution, plus object ids and light sources at the final resolution.

    Ids tell afterwards which pixels of an object stayed visible, so labels are exact whatever was drawn over it.
    """

    def __init__(
        self, *, view: View, backdrop: Image.Image, haze: Colour, visibility_m: float, with_lights: bool
    ) -> None:
        """Starts from a backdrop (sky and ground) of the view's size."""
        size = (view.width_px * SUPERSAMPLING, view.height_px * SUPERSAMPLING)
        self.view = view
        self.image = backdrop.resize(size, Image.Resampling.BILINEAR)
        self.ids = Image.new("L", (view.width_px, view.height_px), SKY_ID)
        self.lights = Image.new("RGB", (view.width_px, view.height_px))
        self._haze = haze
        self._visibility_m = visibility_m
        self._with_lights = with_lights
        self._draw = ImageDraw.Draw(self.image)
        self._draw_ids = ImageDraw.Draw(self.ids)
        self._draw_lights = ImageDraw.Draw(self.lights)
        self._draw_ids.rectangle((0, view.horizon_y_px, view.width_px, view.height_px), fill=NO_OBJECT_ID)
        self.object_id = NO_OBJECT_ID

    def shade(self, colour: Colour, z: float, brightness: float = 1.0) -> Colour:
        """The colour as seen through the air between."""
        kept = math.exp(-max(z, 0.0) / self._visibility_m)
        r, g, b = (
            round(min(255.0, c * brightness) * kept + h * (1.0 - kept)) for c, h in zip(colour, self._haze, strict=True)
        )
        return (r, g, b)

    def polygon(self, points: Sequence[Point], colour: Colour, *, brightness: float = 1.0, decal: bool = False) -> None:
        """Fills a polygon; a decal lies on something already drawn and changes neither ids nor lights."""
        flat = [self.view.project(point) for point in points]
        self.flat_polygon(
            flat, colour, z=sum(point[2] for point in points) / len(points), brightness=brightness, decal=decal
        )

    def mark(self, points: Sequence[Point]) -> None:
        """Gives the current object id to an area that the backdrop already shows."""
        self._draw_ids.polygon([self.view.project(point) for point in points], fill=self.object_id)

    def flat_polygon(
        self,
        points_px: Sequence[tuple[float, float]],
        colour: Colour,
        *,
        z: float,
        brightness: float = 1.0,
        decal: bool = False,
    ) -> None:
        """Fills a polygon given in image positions, at distance z."""
        low = -3.0 * self.view.width_px
        high = 4.0 * self.view.width_px
        clamped = [(min(max(x, low), high), min(max(y, low), high)) for x, y in points_px]
        self._draw.polygon(
            [(x * SUPERSAMPLING, y * SUPERSAMPLING) for x, y in clamped], fill=self.shade(colour, z, brightness)
        )
        if not decal:
            self._draw_ids.polygon(clamped, fill=self.object_id)
            if self._with_lights:
                self._draw_lights.polygon(clamped, fill=(0, 0, 0))

    def disc(self, centre: Point, radius_m: float, colour: Colour, *, squash: float = 1.0, decal: bool = False) -> None:
        """Fills an ellipse facing the camera, `squash` times as wide as it is high."""
        x, y = self.view.project(centre)
        ry = radius_m * self.view.pixels_per_metre(centre[2])
        rx = ry * squash
        box = (x - rx, y - ry, x + rx, y + ry)
        self._draw.ellipse([v * SUPERSAMPLING for v in box], fill=self.shade(colour, centre[2]))
        if not decal:
            self._draw_ids.ellipse(box, fill=self.object_id)
            if self._with_lights:
                self._draw_lights.ellipse(box, fill=(0, 0, 0))

    def line(self, points: Sequence[Point], colour: Colour, *, width_m: float, decal: bool = False) -> None:
        """Draws a thick line through points that lie at about one distance."""
        z = points[0][2]
        width_px = width_m * self.view.pixels_per_metre(z)
        flat = [self.view.project(point) for point in points]
        scaled = [(x * SUPERSAMPLING, y * SUPERSAMPLING) for x, y in flat]
        self._draw.line(
            scaled, fill=self.shade(colour, z), width=max(1, round(width_px * SUPERSAMPLING)), joint="curve"
        )
        if not decal:
            self._draw_ids.line(flat, fill=self.object_id, width=max(1, round(width_px)))

    def light(self, centre: Point, radius_m: float, colour: Colour, *, strength: float = 1.0) -> None:
        """A lamp: bright by day as a spot, and glowing where the scene is dark."""
        x, y = self.view.project(centre)
        r = max(radius_m * self.view.pixels_per_metre(centre[2]), 0.5)
        box = (x - r, y - r, x + r, y + r)
        self._draw.ellipse([v * SUPERSAMPLING for v in box], fill=colour)
        if self._with_lights:
            dim = strength * math.exp(-0.5 * centre[2] / self._visibility_m)
            red, green, blue = (min(255, round(c * dim)) for c in colour)
            self._draw_lights.ellipse(box, fill=(red, green, blue))

    def shadow(self, x_m: float, z_m: float, half_width_m: float, length_m: float, darkness: float) -> None:
        """Darkens the ground under something."""
        if darkness <= 0.0:
            return
        corners = [
            self.view.project(point)
            for point in (
                (x_m - half_width_m, 0.0, z_m),
                (x_m + half_width_m, 0.0, z_m),
                (x_m + half_width_m, 0.0, z_m + length_m),
                (x_m - half_width_m, 0.0, z_m + length_m),
            )
        ]
        x0, x1 = min(p[0] for p in corners), max(p[0] for p in corners)
        y0, y1 = min(p[1] for p in corners), max(p[1] for p in corners)
        x0, y0 = max(0.0, x0), max(0.0, y0)
        x1, y1 = min(self.view.width_px - 1.0, x1), min(self.view.height_px - 1.0, y1 + 0.8)
        if x1 - x0 < 1.0 or y1 - y0 < 0.6:
            return
        box = tuple(round(v * SUPERSAMPLING) for v in (x0, y0, x1, y1))
        patch = self.image.crop((box[0], box[1], box[2], box[3]))
        mask = Image.new("L", patch.size)
        ImageDraw.Draw(mask).ellipse((0, 0, patch.width - 1, patch.height - 1), fill=round(255 * darkness))
        self.image.paste(Image.new("RGB", patch.size, (18, 18, 22)), (box[0], box[1]), mask)

    def colours(self) -> NDArray[np.float32]:
        """The picture at final resolution, shape (height, width, 3), 0..255."""
        return np.asarray(self.image.reduce(SUPERSAMPLING), dtype=np.float32)
