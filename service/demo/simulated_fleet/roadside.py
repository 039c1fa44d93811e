"""Draws what stands beside the road: buildings, houses, trees, lamps, rails, fences, signs and traffic lights."""

import math

import numpy as np

from service.demo.simulated_fleet.canvas import Canvas, Colour
from service.demo.simulated_fleet.scenes import Thing

_WALLS: tuple[Colour, ...] = (
    (172, 150, 128), (150, 92, 74), (190, 184, 172), (132, 134, 140), (196, 172, 132), (116, 106, 100), (168, 160, 150),
)  # fmt: skip
_ROOFS: tuple[Colour, ...] = ((130, 62, 48), (84, 78, 80), (110, 84, 66))
_WARM_WINDOW: Colour = (255, 208, 128)
_SIGN_RED: Colour = (206, 30, 36)
_SIGN_BLUE: Colour = (28, 84, 176)
_SIGN_WHITE: Colour = (240, 240, 236)
_NEAR_M = 1.5


def draw_building(canvas: Canvas, thing: Thing, *, z_m: float, dark: bool, snow: bool) -> None:
    """Draws the two visible walls of a block of flats or an office, with windows."""
    rng = np.random.default_rng(thing.look)
    wall = _WALLS[int(rng.integers(len(_WALLS)))]
    depth, height, length = thing.size
    side = 1.0 if thing.x_m > canvas.view.camera_x_m else -1.0
    x, z0, z1 = thing.x_m, max(z_m, _NEAR_M), z_m + length
    if z1 <= z0:
        return
    if z_m > _NEAR_M:
        _wall(canvas, (x, z0), (x + side * depth, z0), height, wall, brightness=1.0)
    _wall(canvas, (x, z0), (x, z1), height, wall, brightness=0.82)
    floors, columns = max(2, int(height / 3.1)), max(2, int(length / 3.2))
    lit_share = float(rng.uniform(0.1, 0.5))
    window_m = float(rng.uniform(1.2, 1.9))
    lit = rng.random((floors, columns)) < lit_share
    if z1 < 75.0:
        for floor in range(min(floors, 6)):
            bottom = 1.0 + floor * 3.1
            for column in range(columns):
                d0 = z_m + 0.9 + column * length / columns
                if d0 < _NEAR_M + 0.5:
                    continue
                shop = floor == 0 and columns < 6
                colour: Colour = _WARM_WINDOW if dark and (lit[floor, column] or shop) else (66, 78, 92)
                top = bottom + (1.9 if shop else 1.6)
                canvas.polygon(
                    [(x, bottom, d0), (x, bottom, d0 + window_m), (x, top, d0 + window_m), (x, top, d0)],
                    colour, decal=True, brightness=1.0 if dark else 0.9,
                )  # fmt: skip
                if dark and colour is _WARM_WINDOW and d0 < 45.0:
                    canvas.light((x, 0.5 * (bottom + top), d0 + 0.5 * window_m), 0.3, _WARM_WINDOW, strength=0.28)
    if snow:
        _wall(canvas, (x, z0), (x, z1), height + 0.3, (236, 238, 242), brightness=1.0, bottom=height)


def draw_house(canvas: Canvas, thing: Thing, *, z_m: float, dark: bool, snow: bool) -> None:
    """Draws a family house with a pitched roof."""
    rng = np.random.default_rng(thing.look)
    wall = _WALLS[int(rng.integers(len(_WALLS)))]
    roof: Colour = (232, 234, 238) if snow else _ROOFS[int(rng.integers(len(_ROOFS)))]
    depth, height, length = thing.size
    side = 1.0 if thing.x_m > canvas.view.camera_x_m else -1.0
    x, far_x, z0, z1 = thing.x_m, thing.x_m + side * depth, max(z_m, _NEAR_M), z_m + length
    if z1 <= z0:
        return
    ridge = height + 2.4
    if z_m > _NEAR_M:
        gable = [(x, 0.0, z0), (far_x, 0.0, z0), (far_x, height, z0), (0.5 * (x + far_x), ridge, z0), (x, height, z0)]
        canvas.polygon(gable, wall, brightness=1.0)
        middle = 0.5 * (x + far_x)
        for offset in (-2.2, 1.0):
            u = middle + offset
            canvas.polygon([(u, 1.0, z0), (u + 1.2, 1.0, z0), (u + 1.2, 2.2, z0), (u, 2.2, z0)],
                           _WARM_WINDOW if dark else (70, 82, 94), decal=True)  # fmt: skip
    _wall(canvas, (x, z0), (x, z1), height, wall, brightness=0.8)
    canvas.polygon(
        [(x - side * 0.4, height - 0.1, z0), (x - side * 0.4, height - 0.1, z1), (x + side * 0.5 * depth, ridge, z1),
         (x + side * 0.5 * depth, ridge, z0)], roof, brightness=0.9,
    )  # fmt: skip
    for share in (0.15, 0.6):
        d0 = z_m + share * length
        if d0 > _NEAR_M + 0.5:
            lit = dark and rng.random() < 0.5
            canvas.polygon([(x, 0.9, d0), (x, 0.9, d0 + 1.4), (x, 2.2, d0 + 1.4), (x, 2.2, d0)],
                           _WARM_WINDOW if lit else (66, 78, 92), decal=True)  # fmt: skip
            if lit:
                canvas.light((x, 1.6, d0 + 0.7), 0.4, _WARM_WINDOW, strength=0.3)


def _wall(
    canvas: Canvas,
    start: tuple[float, float],
    end: tuple[float, float],
    height: float,
    colour: Colour,
    *,
    brightness: float,
    bottom: float = 0.0,
) -> None:
    (x0, z0), (x1, z1) = start, end
    canvas.polygon(
        [(x0, bottom, z0), (x1, bottom, z1), (x1, height, z1), (x0, height, z0)], colour, brightness=brightness
    )


def draw_tree(canvas: Canvas, thing: Thing, *, z_m: float, snow: bool) -> None:
    """Draws a broad-leaved tree or a conifer."""
    rng = np.random.default_rng(thing.look)
    height = thing.size[1]
    trunk: Colour = (74, 58, 44)
    leaf: Colour = (210, 214, 218) if snow else (int(rng.integers(40, 84)), int(rng.integers(78, 118)), 46)
    x = thing.x_m
    canvas.line([(x, 0.0, z_m), (x, 0.55 * height, z_m)], trunk, width_m=0.05 * height)
    if rng.random() < 0.3:
        for base, top, half in ((0.18, 0.6, 0.24), (0.42, 0.82, 0.18), (0.66, 1.0, 0.12)):
            canvas.polygon([(x - half * height, base * height, z_m), (x + half * height, base * height, z_m),
                            (x, top * height, z_m)], leaf, brightness=0.75 + 0.3 * base)  # fmt: skip
        return
    for _ in range(7):
        r = float(rng.uniform(0.13, 0.24)) * height
        angle, reach = float(rng.uniform(0, 2 * math.pi)), float(rng.uniform(0.0, 0.2)) * height
        shade = float(rng.uniform(0.75, 1.15))
        colour = tuple(min(255, int(c * shade)) for c in leaf)
        canvas.disc((x + reach * math.cos(angle), 0.7 * height + reach * math.sin(angle), z_m), r,
                    (colour[0], colour[1], colour[2]))  # fmt: skip


def draw_lamp(canvas: Canvas, thing: Thing, *, z_m: float, lit: bool) -> None:
    """Draws a street lamp whose arm reaches over the road."""
    height, x = thing.size[1], thing.x_m
    reach = -1.6 if x > canvas.view.camera_x_m else 1.6
    canvas.line([(x, 0.0, z_m), (x, height, z_m)], (92, 94, 98), width_m=0.14)
    canvas.line([(x, height, z_m), (x + reach, height + 0.15, z_m)], (92, 94, 98), width_m=0.1)
    if lit:
        colour: Colour = (255, 190, 110) if thing.look == 0 else (255, 226, 176)
        canvas.light((x + reach, height + 0.05, z_m), 0.26, colour, strength=1.0)


def draw_rail(canvas: Canvas, thing: Thing, *, z_m: float, fence: bool) -> None:
    """Draws one element of a guard rail or of a wooden fence."""
    z0, z1 = max(z_m, _NEAR_M), z_m + thing.size[2]
    if z1 <= z0:
        return
    x, height = thing.x_m, thing.size[1]
    colour: Colour = (128, 100, 72) if fence else (172, 176, 180)
    bars = ((0.3, 0.45), (0.75, 0.9)) if fence else ((0.55, 0.95),)
    for low, high in bars:
        canvas.polygon([(x, low * height, z0), (x, low * height, z1), (x, high * height, z1), (x, high * height, z0)],
                       colour)  # fmt: skip
    if z_m > _NEAR_M:
        canvas.line([(x, 0.0, z0), (x, height, z0)], colour, width_m=0.12)


def draw_sign(canvas: Canvas, thing: Thing, *, z_m: float) -> None:
    """Draws a traffic sign: prohibition (red ring), warning (triangle), mandatory (blue disc), stop or information."""
    rng = np.random.default_rng(thing.look)
    x, radius, y = thing.x_m, 0.46, 2.35
    canvas.line([(x, 0.0, z_m), (x, y + 0.2, z_m)], (130, 132, 136), width_m=0.09)
    style = int(rng.integers(5))
    if style == 0:
        canvas.disc((x, y, z_m), radius, _SIGN_RED)
        canvas.disc((x, y, z_m), 0.7 * radius, _SIGN_WHITE, decal=True)
        canvas.polygon([(x - 0.14, y - 0.18, z_m), (x + 0.14, y - 0.18, z_m), (x + 0.14, y + 0.18, z_m),
                        (x - 0.14, y + 0.18, z_m)], (40, 40, 44), decal=True)  # fmt: skip
    elif style == 1:
        canvas.polygon(_regular(x, y, z_m, 1.2 * radius, corners=3), _SIGN_RED)
        canvas.polygon(_regular(x, y, z_m, 0.72 * radius, corners=3), _SIGN_WHITE, decal=True)
    elif style == 2:
        canvas.disc((x, y, z_m), radius, _SIGN_BLUE)
        canvas.line([(x, y - 0.25, z_m), (x, y + 0.25, z_m)], _SIGN_WHITE, width_m=0.12, decal=True)
    elif style == 3:
        canvas.polygon(_regular(x, y, z_m, 1.05 * radius, corners=8), _SIGN_RED)
        canvas.polygon([(x - 0.3, y - 0.1, z_m), (x + 0.3, y - 0.1, z_m), (x + 0.3, y + 0.1, z_m),
                        (x - 0.3, y + 0.1, z_m)], _SIGN_WHITE, decal=True)  # fmt: skip
    else:
        half = 0.42
        canvas.polygon([(x - half, y - half, z_m), (x + half, y - half, z_m), (x + half, y + half, z_m),
                        (x - half, y + half, z_m)], _SIGN_BLUE)  # fmt: skip
        canvas.polygon([(x - 0.26, y - 0.24, z_m), (x + 0.26, y - 0.24, z_m), (x, y + 0.28, z_m)], _SIGN_WHITE,
                       decal=True)  # fmt: skip


def _regular(x: float, y: float, z_m: float, radius: float, *, corners: int) -> list[tuple[float, float, float]]:
    start = math.pi / 2 if corners == 3 else math.pi / corners
    angles = [start + 2 * math.pi * n / corners for n in range(corners)]
    return [(x + radius * math.cos(a), y + radius * math.sin(a), z_m) for a in angles]


def draw_traffic_light(canvas: Canvas, thing: Thing, *, z_m: float) -> None:
    """Draws a signal head on a pole; `look` is the state (0 red, 1 amber, 2 green)."""
    x, bottom, half, step = thing.x_m, 2.3, 0.27, 0.42
    canvas.line([(x, 0.0, z_m), (x, bottom, z_m)], (70, 72, 76), width_m=0.12)
    top = bottom + 3 * step + 0.08
    canvas.polygon([(x - half, bottom, z_m), (x + half, bottom, z_m), (x + half, top, z_m), (x - half, top, z_m)],
                   (26, 27, 30))  # fmt: skip
    lamps: tuple[tuple[Colour, Colour], ...] = (
        ((255, 52, 40), (70, 20, 18)), ((255, 190, 40), (70, 52, 16)), ((60, 255, 150), (14, 58, 34)),
    )  # fmt: skip
    for n, (lit, unlit) in enumerate(lamps):
        centre = (x, bottom + (2.55 - n) * step + 0.04, z_m)
        if n == thing.look % 3:
            canvas.light(centre, 0.17, lit, strength=0.9)
        else:
            canvas.disc(centre, 0.16, unlit, decal=True)
