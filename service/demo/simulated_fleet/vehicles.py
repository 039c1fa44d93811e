"""Draws cars, trucks and buses as boxes in perspective with the parts one tells them apart by."""

from dataclasses import dataclass

import numpy as np

from service.demo.simulated_fleet.canvas import Canvas, Colour, Point
from service.demo.simulated_fleet.scenes import Thing

_TYRE: Colour = (24, 24, 26)
_GLASS: Colour = (58, 72, 86)
_RED: Colour = (255, 40, 24)
_WHITE_LAMP: Colour = (255, 246, 214)
_AMBER: Colour = (255, 196, 60)
_PAINTS: tuple[Colour, ...] = (
    (226, 228, 230), (188, 192, 198), (104, 108, 116), (40, 42, 48), (30, 54, 110),
    (150, 28, 34), (60, 92, 76), (176, 150, 108), (70, 110, 160), (214, 210, 196),
)  # fmt: skip
_BOX_PAINTS: tuple[Colour, ...] = ((236, 236, 232), (206, 208, 210), (60, 96, 156), (186, 84, 50), (216, 190, 60))
_BUS_PAINTS: tuple[Colour, ...] = ((210, 60, 50), (232, 196, 70), (64, 120, 186), (70, 150, 96), (222, 224, 226))


@dataclass(frozen=True, kw_only=True)
class _Body:
    """Local frame of a vehicle: u to the right across it, v up, d away from its near end."""

    x_m: float
    z_m: float
    width_m: float
    length_m: float
    towards: bool

    def at(self, u: float, v: float, d: float) -> Point:
        """A point of the body in metres before the camera."""
        return (self.x_m + u, v, self.z_m + d)

    def near_face(self, u0: float, u1: float, v0: float, v1: float, d: float = 0.0) -> list[Point]:
        """A rectangle across the vehicle, at a distance d from its near end."""
        return [self.at(u0, v0, d), self.at(u1, v0, d), self.at(u1, v1, d), self.at(u0, v1, d)]

    def side(self, u: float, d0: float, d1: float, v0: float, v1: float) -> list[Point]:
        """A rectangle along the vehicle, at a distance u from its middle."""
        return [self.at(u, v0, d0), self.at(u, v0, d1), self.at(u, v1, d1), self.at(u, v1, d0)]


def draw_vehicle(canvas: Canvas, thing: Thing, *, z_m: float, shadow: float, lamps_on: bool) -> None:
    """Draws a vehicle whose near end is `z_m` ahead of the camera."""
    rng = np.random.default_rng(thing.look)
    width, length = {"car": (1.82, 4.3), "truck": (2.5, 8.5), "bus": (2.55, 11.0)}[thing.kind]
    length *= float(rng.uniform(0.9, 1.1))
    body = _Body(x_m=thing.x_m, z_m=z_m, width_m=width, length_m=length, towards=thing.facing == "towards")
    canvas.shadow(thing.x_m, z_m - 0.2, 0.62 * width, length + 0.3, max(shadow, 0.25))
    sees_right_side = thing.x_m + 0.5 * width < canvas.view.camera_x_m
    sees_left_side = thing.x_m - 0.5 * width > canvas.view.camera_x_m
    side_u = 0.5 * width if sees_right_side else -0.5 * width if sees_left_side else None
    {"car": _car, "truck": _truck, "bus": _bus}[thing.kind](canvas, body, side_u, rng)
    _end_lamps(canvas, body, kind=thing.kind, lamps_on=lamps_on, braking=bool(rng.random() < 0.35))


def _wheels(canvas: Canvas, body: _Body, side_u: float | None, positions: tuple[float, ...], radius_m: float) -> None:
    half = 0.5 * body.width_m
    for u in (-half, half - 0.25):
        canvas.polygon(body.near_face(u, u + 0.25, 0.0, 2 * radius_m, d=0.15), _TYRE)
    if side_u is None:
        return
    angles = np.linspace(0.0, 2 * np.pi, 11)[:-1]
    for position in positions:
        centre = position * body.length_m
        for r, colour in ((radius_m, _TYRE), (0.5 * radius_m, (120, 122, 126))):
            ring = [body.at(side_u, radius_m + r * float(np.sin(a)), centre + r * float(np.cos(a))) for a in angles]
            canvas.polygon(ring, colour, decal=r < radius_m)


def _car(canvas: Canvas, body: _Body, side_u: float | None, rng: np.random.Generator) -> None:
    paint = _PAINTS[int(rng.integers(len(_PAINTS)))]
    tall = float(rng.uniform(0.95, 1.16))
    hatch = rng.random() < 0.55
    length, half = body.length_m, 0.5 * body.width_m
    roof = 1.43 * tall
    rear = [(0.0, 0.3), (0.0, 0.9), (0.03, 0.95), (0.13, roof), (0.6, roof), (0.78, 0.95), (1.0, 0.8), (1.0, 0.3)]
    saloon = [(0.0, 0.3), (0.0, 0.86), (0.16, 0.95), (0.28, roof), (0.6, roof), (0.78, 0.95), (1.0, 0.8), (1.0, 0.3)]
    profile = rear if hatch else saloon
    glass = [(0.14 if hatch else 0.24, 0.97), (0.18 if hatch else 0.3, roof - 0.1), (0.59, roof - 0.1), (0.73, 0.97)]
    if body.towards:
        profile = [(1.0 - d, v) for d, v in profile]
        glass = [(1.0 - d, v) for d, v in glass]
    if side_u is not None:
        canvas.polygon([body.at(side_u, v, d * length) for d, v in profile], paint, brightness=0.8)
        canvas.polygon([body.at(side_u, v, d * length) for d, v in glass], _GLASS, brightness=0.85, decal=True)
        middle = 0.5 * (glass[0][0] + glass[2][0]) * length
        canvas.polygon(body.side(side_u, middle - 0.05, middle + 0.05, 0.95, roof - 0.08), paint, decal=True)
    _wheels(canvas, body, side_u, (0.18, 0.82), 0.33)
    base_d, top_d = (0.22, 0.4) if body.towards else (0.03, 0.14) if hatch else (0.16, 0.28)
    base_d, top_d = base_d * length, top_d * length
    # Bonnet or boot lid, glass with roof pillars, then the upright end.
    canvas.polygon(
        [body.at(-half, 0.82, 0.05), body.at(half, 0.82, 0.05), body.at(0.94 * half, 0.97, base_d),
         body.at(-0.94 * half, 0.97, base_d)], paint, brightness=1.12,
    )  # fmt: skip
    canvas.polygon(
        [body.at(-0.95 * half, 0.95, base_d), body.at(0.95 * half, 0.95, base_d), body.at(0.76 * half, roof, top_d),
         body.at(-0.76 * half, roof, top_d)], paint, brightness=1.0,
    )  # fmt: skip
    canvas.polygon(
        [body.at(-0.84 * half, 0.98, base_d), body.at(0.84 * half, 0.98, base_d),
         body.at(0.68 * half, roof - 0.07, top_d), body.at(-0.68 * half, roof - 0.07, top_d)],
        _GLASS, decal=True,
    )  # fmt: skip
    canvas.polygon(body.near_face(-half, half, 0.28, 0.86), paint, brightness=0.95)
    canvas.polygon(body.near_face(-half, half, 0.24, 0.42), (46, 46, 50), decal=True)
    plate: Colour = (236, 236, 226) if rng.random() < 0.8 else (230, 210, 90)
    canvas.polygon(body.near_face(-0.26, 0.26, 0.44, 0.56), plate, decal=True)
    if body.towards:
        canvas.polygon(body.near_face(-0.5 * half, 0.5 * half, 0.58, 0.7), (30, 30, 34), decal=True)


def _truck(canvas: Canvas, body: _Body, side_u: float | None, rng: np.random.Generator) -> None:
    box = _BOX_PAINTS[int(rng.integers(len(_BOX_PAINTS)))]
    cab = _PAINTS[int(rng.integers(len(_PAINTS)))]
    length, half = body.length_m, 0.5 * body.width_m
    top = float(rng.uniform(3.2, 3.9))
    cab_d = (0.0, 2.1) if body.towards else (length - 2.1, length)
    box_d = (2.3, length) if body.towards else (0.0, length - 2.3)
    if side_u is not None:
        canvas.polygon(body.side(side_u, box_d[0], box_d[1], 1.0, top), box, brightness=0.74)
        canvas.polygon(body.side(side_u, box_d[0], box_d[1], 0.55, 1.0), (52, 52, 56), brightness=0.9)
        canvas.polygon(body.side(side_u, cab_d[0], cab_d[1], 0.5, 2.7), cab, brightness=0.8)
        canvas.polygon(body.side(side_u, cab_d[0] + 0.4, cab_d[1] - 0.6, 1.6, 2.4), _GLASS, decal=True)
        stripe = _PAINTS[int(rng.integers(len(_PAINTS)))]
        canvas.polygon(body.side(side_u, box_d[0] + 0.5, box_d[1] - 0.5, 1.9, 2.4), stripe, brightness=0.8, decal=True)
    _wheels(canvas, body, side_u, (0.12, 0.24, 0.86) if not body.towards else (0.14, 0.76, 0.88), 0.5)
    if body.towards:
        canvas.polygon(body.near_face(-half, half, 1.0, top, d=2.3), box, brightness=0.9)
        canvas.polygon(body.near_face(-half, half, 0.35, 2.8), cab)
        canvas.polygon(body.near_face(-0.86 * half, 0.86 * half, 1.65, 2.55), _GLASS, decal=True)
        canvas.polygon(body.near_face(-0.6 * half, 0.6 * half, 0.75, 1.35), (36, 36, 40), decal=True)
        canvas.polygon(body.near_face(-half, half, 0.35, 0.62), (60, 60, 64), decal=True)
    else:
        canvas.polygon(body.near_face(-half, half, 0.55, 1.05), (44, 44, 48))
        canvas.polygon(body.near_face(-half, half, 1.0, top), box)
        canvas.polygon(body.near_face(-0.02, 0.02, 1.05, top - 0.08), (90, 90, 94), decal=True)
        for u in (-0.55, 0.55):
            canvas.polygon(body.near_face(u - 0.02, u + 0.02, 1.1, top - 0.1), (130, 130, 134), decal=True)
        canvas.polygon(body.near_face(-half, half, 1.0, 1.12), (196, 40, 36), decal=True)
        canvas.polygon(body.near_face(-half, half, top - 0.1, top), (110, 110, 114), decal=True)


def _bus(canvas: Canvas, body: _Body, side_u: float | None, rng: np.random.Generator) -> None:
    paint = _BUS_PAINTS[int(rng.integers(len(_BUS_PAINTS)))]
    length, half, top = body.length_m, 0.5 * body.width_m, 3.1
    if side_u is not None:
        canvas.polygon(body.side(side_u, 0.0, length, 0.35, top), paint, brightness=0.8)
        for n in range(6):
            d0 = length * (0.03 + n * 0.16)
            canvas.polygon(body.side(side_u, d0, d0 + 0.135 * length, 1.45, 2.55), _GLASS, decal=True)
    _wheels(canvas, body, side_u, (0.2, 0.78), 0.48)
    canvas.polygon(body.near_face(-half, half, 0.35, top), paint)
    canvas.polygon(body.near_face(-half, half, 0.35, 0.6), (50, 50, 54), decal=True)
    if body.towards:
        canvas.polygon(body.near_face(-0.9 * half, 0.9 * half, 1.15, 2.55), _GLASS, decal=True)
        canvas.polygon(body.near_face(-0.03, 0.03, 1.15, 2.55), paint, brightness=0.7, decal=True)
    else:
        canvas.polygon(body.near_face(-0.82 * half, 0.82 * half, 1.6, 2.5), _GLASS, decal=True)
        canvas.polygon(body.near_face(-0.6 * half, 0.6 * half, 0.75, 1.2), (70, 70, 74), decal=True)
    canvas.polygon(body.near_face(-0.75 * half, 0.75 * half, 2.65, 2.95), (26, 26, 22), decal=True)
    for u in (-0.5, -0.2, 0.05, 0.35):
        canvas.polygon(body.near_face(u, u + 0.2, 2.72, 2.88), _AMBER, decal=True)


def _end_lamps(canvas: Canvas, body: _Body, *, kind: str, lamps_on: bool, braking: bool) -> None:
    half = 0.5 * body.width_m
    height = {"car": 0.68, "truck": 0.72, "bus": 0.82}[kind]
    for side in (-1, 1):
        centre = body.at(side * 0.84 * half, height, -0.01)
        if body.towards:
            if lamps_on:
                canvas.light(centre, 0.15, _WHITE_LAMP, strength=1.0)
            else:
                canvas.disc(centre, 0.11, (222, 224, 220), squash=1.5, decal=True)
        elif lamps_on or braking:
            canvas.light(centre, 0.13 if braking else 0.1, _RED, strength=0.9 if braking else 0.6)
        else:
            canvas.disc(centre, 0.12, (150, 22, 20), decal=True)
