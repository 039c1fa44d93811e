"""Draws pedestrians and cyclists: limbs, clothes and bicycles large enough to be told apart at low resolution."""

import math

import numpy as np

from service.demo.simulated_fleet.canvas import Canvas, Colour
from service.demo.simulated_fleet.scenes import Thing

_SKINS: tuple[Colour, ...] = ((236, 196, 168), (206, 158, 122), (150, 102, 72), (98, 66, 48))
_JACKETS: tuple[Colour, ...] = (
    (40, 42, 52), (170, 40, 44), (46, 84, 150), (220, 216, 206), (206, 170, 60), (58, 110, 74), (110, 70, 120),
    (90, 92, 98), (228, 120, 50),
)  # fmt: skip
_TROUSERS: tuple[Colour, ...] = ((36, 42, 66), (30, 30, 34), (96, 90, 80), (70, 72, 78), (130, 120, 100))
_HAIR: tuple[Colour, ...] = ((30, 24, 20), (80, 56, 36), (160, 130, 84), (120, 120, 122))
_FRAME_PAINTS: tuple[Colour, ...] = ((190, 40, 40), (40, 40, 46), (50, 110, 180), (220, 220, 220), (70, 150, 80))


def draw_pedestrian(canvas: Canvas, thing: Thing, *, z_m: float, seconds: float, rain: bool, shadow: float) -> None:
    """Draws a walking person; in rain some carry an umbrella."""
    rng = np.random.default_rng(thing.look)
    height = 1.2 if rng.random() < 0.12 else float(rng.uniform(1.58, 1.9))
    skin, jacket = _pick(rng, _SKINS), _pick(rng, _JACKETS)
    trousers, hair = _pick(rng, _TROUSERS), _pick(rng, _HAIR)
    sideways = thing.facing in ("left", "right")
    x, build = thing.x_m, height / 1.75 * float(rng.uniform(0.92, 1.15))
    stride = 0.26 * height * math.sin(seconds * 6.0 + thing.look) * (1.0 if sideways else 0.25)
    hip, shoulder = 0.5 * height, 0.82 * height
    half_hip, half_shoulder = (0.11 * build, 0.15 * build) if sideways else (0.16 * build, 0.23 * build)
    canvas.shadow(x, z_m - 0.15, 0.4, 0.5, shadow)

    for side, offset in ((-1, -stride), (1, stride)):
        foot = x + side * (0.0 if sideways else 0.1 * build) + offset
        knee = x + side * (0.02 if sideways else 0.1 * build) + 0.6 * offset + (0.03 if sideways else 0.0)
        leg = [(x + side * 0.06, hip, z_m), (knee, 0.27 * height, z_m), (foot, 0.03, z_m)]
        canvas.line(leg, trousers, width_m=0.15 * build)
        canvas.polygon(
            [(foot - 0.08, 0.0, z_m), (foot + 0.12, 0.0, z_m), (foot + 0.08, 0.08, z_m), (foot - 0.08, 0.08, z_m)],
            (28, 26, 26),
        )
    torso = [
        (x - half_hip, hip - 0.06, z_m), (x + half_hip, hip - 0.06, z_m), (x + half_shoulder, shoulder - 0.04, z_m),
        (x + 0.6 * half_shoulder, shoulder, z_m), (x - 0.6 * half_shoulder, shoulder, z_m),
        (x - half_shoulder, shoulder - 0.04, z_m),
    ]  # fmt: skip
    for side in (-1, 1):
        swing = -side * stride * 0.8 if sideways else side * 0.05
        elbow = (x + side * half_shoulder + 0.5 * swing, 0.64 * height, z_m)
        hand = (x + side * (half_shoulder + 0.02) + swing, 0.48 * height, z_m)
        canvas.line([(x + side * half_shoulder, shoulder - 0.05, z_m), elbow, hand], jacket, width_m=0.1 * build)
        canvas.disc(hand, 0.05, skin)
    canvas.polygon(torso, jacket)
    if not sideways and thing.facing == "away" and rng.random() < 0.35:
        bag = [(x - 0.13, 0.58 * height, z_m), (x + 0.13, 0.58 * height, z_m), (x + 0.12, shoulder - 0.05, z_m),
               (x - 0.12, shoulder - 0.05, z_m)]  # fmt: skip
        canvas.polygon(bag, _pick(rng, _JACKETS), brightness=0.8, decal=True)
    _head(canvas, x=x, y=0.92 * height, z_m=z_m, radius_m=0.115 * build, skin=skin, top=hair, thing=thing)
    if rain and rng.random() < 0.5:
        cloth = _pick(rng, _JACKETS)
        canvas.line([(x + 0.2, 0.6 * height, z_m), (x + 0.15, 1.22 * height, z_m)], (50, 50, 54), width_m=0.03)
        arch = [
            (x + 0.1 + 0.55 * math.cos(a), 1.1 * height + 0.3 * math.sin(a), z_m) for a in np.linspace(0, math.pi, 9)
        ]
        canvas.polygon(arch, cloth)


def _head(
    canvas: Canvas, *, x: float, y: float, z_m: float, radius_m: float, skin: Colour, top: Colour, thing: Thing
) -> None:
    canvas.line([(x, y - 1.3 * radius_m, z_m), (x, y, z_m)], skin, width_m=0.1)
    canvas.disc((x, y, z_m), radius_m, skin, squash=0.82)
    if thing.facing == "away":
        canvas.disc((x, y + 0.1 * radius_m, z_m), 0.95 * radius_m, top, squash=0.84, decal=True)
        return
    cap = [(x + 0.85 * radius_m * math.cos(a), y + radius_m * math.sin(a), z_m) for a in np.linspace(0.1, 3.04, 8)]
    canvas.polygon(cap, top, decal=True)


def draw_cyclist(canvas: Canvas, thing: Thing, *, z_m: float, seconds: float, lamps_on: bool, shadow: float) -> None:
    """Draws a rider on a bicycle, from the side, from behind or from the front."""
    rng = np.random.default_rng(thing.look)
    skin, jacket, trousers = _pick(rng, _SKINS), _pick(rng, _JACKETS), _pick(rng, _TROUSERS)
    helmet: Colour = (230, 230, 232) if rng.random() < 0.4 else _pick(rng, _JACKETS)
    paint = _pick(rng, _FRAME_PAINTS)
    if lamps_on and rng.random() < 0.5:
        jacket = (214, 226, 60)
    canvas.shadow(thing.x_m, z_m - 0.1, 0.7, 0.7, shadow)
    if thing.facing in ("left", "right"):
        _cyclist_from_side(
            canvas, thing, z_m=z_m, phase=seconds * 5.0 + thing.look, skin=skin, jacket=jacket, trousers=trousers,
            helmet=helmet, paint=paint, lamps_on=lamps_on,
        )  # fmt: skip
        return
    x = thing.x_m
    pedal = 0.13 * math.sin(seconds * 5.0 + thing.look)
    canvas.disc((x, 0.35, z_m), 0.35, (22, 22, 24), squash=0.17)
    canvas.line([(x, 0.35, z_m), (x, 0.95, z_m)], paint, width_m=0.07)
    canvas.line([(x - 0.3, 1.02, z_m), (x + 0.3, 1.02, z_m)], (40, 40, 44), width_m=0.06)
    for side in (-1, 1):
        foot = (x + side * 0.14, 0.27 + side * pedal, z_m)
        knee = (x + side * 0.19, 0.62 + 0.5 * side * pedal, z_m)
        canvas.line([(x + side * 0.1, 0.98, z_m), knee, foot], trousers, width_m=0.16)
        canvas.disc(foot, 0.08, (30, 28, 28))
        canvas.line([(x + side * 0.22, 1.42, z_m), (x + side * 0.34, 1.2, z_m), (x + side * 0.27, 1.04, z_m)], jacket,
                    width_m=0.11)  # fmt: skip
    torso = [(x - 0.17, 0.9, z_m), (x + 0.17, 0.9, z_m), (x + 0.25, 1.43, z_m), (x + 0.12, 1.52, z_m),
             (x - 0.12, 1.52, z_m), (x - 0.25, 1.43, z_m)]  # fmt: skip
    canvas.polygon(torso, jacket)
    _head(canvas, x=x, y=1.66, z_m=z_m, radius_m=0.13, skin=skin, top=helmet, thing=thing)
    _bicycle_lamp(canvas, thing, x=x, z_m=z_m, lamps_on=lamps_on)


def _cyclist_from_side(
    canvas: Canvas,
    thing: Thing,
    *,
    z_m: float,
    phase: float,
    skin: Colour,
    jacket: Colour,
    trousers: Colour,
    helmet: Colour,
    paint: Colour,
    lamps_on: bool,
) -> None:
    way = 1.0 if thing.facing == "right" else -1.0
    x = thing.x_m

    def at(forward: float, up: float) -> tuple[float, float, float]:
        return (x + way * forward, up, z_m)

    for centre in (-0.53, 0.53):
        ring = [at(centre + 0.33 * math.cos(a), 0.34 + 0.33 * math.sin(a)) for a in np.linspace(0, 2 * math.pi, 17)]
        canvas.line(ring, (24, 24, 26), width_m=0.07)
    canvas.line(
        [at(-0.53, 0.34), at(-0.05, 0.34), at(0.42, 0.86), at(-0.2, 0.84), at(-0.53, 0.34)], paint, width_m=0.06
    )
    canvas.line([at(-0.05, 0.34), at(-0.23, 0.98)], paint, width_m=0.05)
    canvas.line([at(0.53, 0.34), at(0.4, 1.0), at(0.52, 1.05)], (50, 50, 54), width_m=0.05)
    for turn in (0.0, math.pi):
        foot = (-0.05 + 0.17 * math.cos(phase + turn), 0.3 + 0.17 * math.sin(phase + turn))
        knee = (0.5 * (foot[0] - 0.22) + 0.27, 0.5 * (foot[1] + 1.0) + 0.06)
        canvas.line([at(-0.22, 1.0), at(*knee), at(*foot)], trousers, width_m=0.14)
        canvas.disc(at(*foot), 0.07, (30, 28, 28))
    back = [at(-0.34, 0.98), at(-0.1, 0.94), at(0.26, 1.4), at(0.14, 1.54), at(-0.02, 1.52)]
    canvas.polygon(back, jacket)
    canvas.line([at(0.15, 1.42), at(0.32, 1.18), at(0.5, 1.08)], jacket, width_m=0.1)
    head_x, head_y = x + way * 0.28, 1.66
    _head(canvas, x=head_x, y=head_y, z_m=z_m, radius_m=0.13, skin=skin, top=helmet, thing=thing)
    if lamps_on:
        canvas.light(at(0.56, 0.9), 0.06, (255, 250, 225), strength=0.8)
        canvas.light(at(-0.6, 0.75), 0.05, (255, 40, 30), strength=0.7)


def _bicycle_lamp(canvas: Canvas, thing: Thing, *, x: float, z_m: float, lamps_on: bool) -> None:
    if thing.facing == "away":
        if lamps_on:
            canvas.light((x, 0.78, z_m), 0.06, (255, 40, 30), strength=0.8)
        else:
            canvas.disc((x, 0.78, z_m), 0.05, (170, 26, 24), decal=True)
    elif lamps_on:
        canvas.light((x, 0.92, z_m), 0.08, (255, 250, 225), strength=0.9)


def _pick(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    return colours[int(rng.integers(len(colours)))]
