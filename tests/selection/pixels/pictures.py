"""Image files of kinds that cameras, converters and accidents make, for tests of whoever decodes."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

COLOUR = (200, 100, 50)


def encoded(image: Image.Image, image_format: str = "JPEG", **options: Any) -> bytes:
    """The file of an image."""
    file = io.BytesIO()
    image.save(file, format=image_format, **options)
    return file.getvalue()


def scene(width: int = 640, height: int = 480) -> Image.Image:
    """Noise: no two blocks are alike."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


def flat(colour: tuple[int, int, int] | str = COLOUR) -> Image.Image:
    """One colour, 50 x 40."""
    return Image.new("RGB", (50, 40), colour)


def animation(image_format: str) -> bytes:
    """Three pictures in one file; the first has `COLOUR`."""
    others = [flat("green"), flat("blue")]
    return encoded(flat(), image_format, save_all=True, append_images=others)


def png(width: int, height: int, *, depth: int, colour_type: int, row: bytes) -> bytes:
    """A PNG of equal rows of any kind, also such as Pillow reads but does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">2I5B", width, height, depth, colour_type, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress((b"\0" + row) * height)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def transparent_palette() -> bytes:
    """A PNG whose colours are indices, the used one transparent."""
    image = Image.new("P", (50, 40), 3)
    image.putpalette(COLOUR * 256)
    return encoded(image, "PNG", transparency=b"\0" * 4)


def with_size(jpeg: bytes, *, width: int, height: int) -> bytes:
    """A baseline JPEG whose header lies about its size."""
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">2H", height, width) + jpeg[at + 4 :]


OF_ONE_COLOUR: dict[str, tuple[bytes, str]] = {
    "JPEG": (encoded(flat()), "JPEG"),
    "JPEG and garbage": (encoded(flat()) + b"\xff\xd8 what a recorder leaves \xff\xd9" * 20, "JPEG"),
    "JPEG with a colour profile": (encoded(flat(), icc_profile=b"x" * 3000), "JPEG"),
    "JPEG with broken EXIF": (encoded(flat(), exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x05" + b"\xff" * 60), "JPEG"),
    "progressive JPEG": (encoded(flat(), progressive=True), "JPEG"),
    "CMYK JPEG": (encoded(flat().convert("CMYK")), "JPEG"),
    "multi-picture JPEG": (animation("MPO"), "MPO"),
    "PNG": (encoded(flat(), "PNG"), "PNG"),
    "16-bit PNG": (
        png(50, 40, depth=16, colour_type=2, row=struct.pack(">3H", *(level << 8 for level in COLOUR)) * 50),
        "PNG",
    ),
    "transparent PNG": (encoded(Image.new("RGBA", (50, 40), (*COLOUR, 0)), "PNG"), "PNG"),
    "transparent palette PNG": (transparent_palette(), "PNG"),
    "palette PNG": (encoded(flat().quantize(), "PNG"), "PNG"),
    "animated PNG": (animation("PNG"), "PNG"),
    "animated GIF": (animation("GIF"), "GIF"),
    "animated WebP": (animation("WEBP"), "WEBP"),
    "TIFF of several pages": (animation("TIFF"), "TIFF"),
    "CMYK TIFF": (encoded(flat().convert("CMYK"), "TIFF"), "TIFF"),
}
"""Name -> (file, format): files that all show `COLOUR`, 50 x 40; the first picture where there are several."""

OF_ONE_GREY: dict[str, bytes] = {
    "grey JPEG": encoded(Image.new("L", (50, 40), 100)),
    "grey PNG": encoded(Image.new("L", (50, 40), 100), "PNG"),
    "grey and alpha PNG": encoded(Image.new("LA", (50, 40), (100, 0)), "PNG"),
    "16-bit grey PNG": encoded(Image.fromarray(np.full((40, 50), 100 << 8, dtype=np.uint16)), "PNG"),
    "32-bit TIFF": encoded(Image.fromarray(np.full((40, 50), 100 << 8, dtype=np.int32)), "TIFF"),
    "float TIFF": encoded(Image.fromarray(np.full((40, 50), 100.0, dtype=np.float32)), "TIFF"),
}
"""Files that all show a grey of 100."""
