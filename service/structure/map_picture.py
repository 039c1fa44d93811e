"""The map as a picture: one dot a frame, coloured by an attribute, with a legend."""

from __future__ import annotations

import colorsys
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIDE_PX = 1200
_LEGEND_PX = 260
_MOST_COLOURS = 20
_OTHERS = (170, 170, 170)


def draw(xy: NDArray[np.float32], *, codes: NDArray[np.int32] | None, values: tuple[str, ...]) -> bytes:
    """A PNG of places in -1 to 1, shape (N, 2).

    Args:
        xy: Where the frames lie.
        codes: For each the position of its value, -1 for none, shape (N,); None: all of one colour.
        values: What the codes stand for; the most frequent ones get a colour each, the others are grey.
    """
    canvas = np.full((SIDE_PX, SIDE_PX, 3), 255, dtype=np.uint8)
    colour_N = np.tile(np.array([[31, 119, 180]], dtype=np.uint8), (len(xy), 1))
    shown: list[tuple[str, int, tuple[int, int, int]]] = []
    if codes is not None:
        counts = np.bincount(codes[codes >= 0], minlength=len(values))
        table = np.tile(np.array([_OTHERS], dtype=np.uint8), (len(values) + 1, 1))  # Code -1 takes the last line.
        for place, code in enumerate(np.argsort(-counts, kind="stable")[:_MOST_COLOURS].tolist()):
            table[code] = _colour(place)
            shown.append((values[code], int(counts[code]), _colour(place)))
        colour_N = table[codes]
    at = np.clip(((xy + 1.0) / 2.0 * (SIDE_PX - 20) + 10).astype(int), 1, SIDE_PX - 2)
    for right in (-1, 0, 1):
        for down in (-1, 0, 1):
            canvas[SIDE_PX - 1 - at[:, 1] + down, at[:, 0] + right] = colour_N
    picture = Image.new("RGB", (SIDE_PX + (_LEGEND_PX if shown else 0), SIDE_PX), "white")
    picture.paste(Image.fromarray(canvas), (0, 0))
    pen = ImageDraw.Draw(picture)
    for line, (name, count, colour) in enumerate(shown):
        top = 20 + 26 * line
        pen.rectangle((SIDE_PX + 10, top, SIDE_PX + 24, top + 14), fill=colour)
        pen.text((SIDE_PX + 32, top), f"{name[:24]}  {count}", fill="black")
    sink = io.BytesIO()
    picture.save(sink, format="PNG")
    return sink.getvalue()


def _colour(place: int) -> tuple[int, int, int]:
    # Steps of the golden ratio keep any number of hues apart.
    red, green, blue = colorsys.hsv_to_rgb(0.6 + 0.618034 * place, 0.75, 0.85 - 0.2 * (place % 2))
    return int(255 * red), int(255 * green), int(255 * blue)
