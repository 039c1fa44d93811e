"""Image bytes in, pixels and previews out. Nothing here knows of files, stores or records."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

from infra.errors import InvalidInput
from selection.pixels import exif

PREVIEW_SHORT_SIDE = 336
PREVIEW_QUALITY = 88
EXTENSIONS = {
    "JPEG": ".jpg",
    "MPO": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "BMP": ".bmp",
    "TIFF": ".tif",
    "GIF": ".gif",
    "PPM": ".ppm",
    "JPEG2000": ".jp2",
}
"""The formats that are read, as Pillow names them, and the file name ending each is stored under. Others (PostScript, metafiles, ...) are
not even tried: their decoders do more than decode."""

_DECODERS = tuple(
    name for name in EXTENSIONS if name != "MPO"
)  # Several JPEGs in one file; the JPEG decoder finds that out itself.
_LONGEST_PREVIEW_SIDE = 16 * PREVIEW_SHORT_SIDE  # A JPEG side ends at 65,535 pixels; no camera comes near 16:1.
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES = (5, 6, 7, 8)

# The limit is ours to check (`max_pixels`). Pillow's own is one number for the whole process, reported through warnings.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True, kw_only=True)
class DecodedImage:
    """An image that could be read to its end.

    Attributes:
        pixels: RGB, upright (EXIF orientation applied). May be smaller than the image when it was decoded for a preview.
        width: Of the whole image, in pixels, after EXIF orientation.
        height: Likewise.
        format: One of `EXTENSIONS`.
        captured_at: What the camera's clock said, UTC.
        location: Latitude and longitude in degrees, as the camera knew them.
    """

    pixels: Image.Image
    width: int
    height: int
    format: str
    captured_at: datetime | None = None
    location: tuple[float, float] | None = None


def open_image(data: bytes, *, max_pixels: int, short_side: int | None = PREVIEW_SHORT_SIDE) -> DecodedImage:
    """Decodes an image completely, so that whatever is wrong with it shows now.

    Args:
        data: The file's bytes.
        max_pixels: Larger images (width x height) are refused before a pixel is decoded.
        short_side: A JPEG is decoded at the smallest of the scales 1, 1/2, 1/4, 1/8 whose short side is still at least this, which is
            several times faster for camera images; None decodes every pixel.
    Raises:
        InvalidInput: Why it cannot be used; the message fits a rejects list.
    """
    if not data:
        raise InvalidInput("the file is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=_DECODERS)
    except Exception as exc:
        # Whatever a decoder raises on foreign bytes (there are a dozen kinds), the finding is the same.
        raise InvalidInput(_not_readable(data)) from exc
    if image.width * image.height > max_pixels:
        raise InvalidInput(
            f"the image is too large: {image.width} x {image.height} pixels, {max_pixels} are allowed (MLPL_MAX_IMAGE_PIXELS)"
        )
    image_format = str(image.format)
    try:
        size = _decode(image, short_side=short_side if image_format in ("JPEG", "MPO") else None)
        written = _exif(image)
        orientation = _orientation(image)
        pixels = _upright(_to_rgb(image), orientation)
    except Exception as exc:
        raise InvalidInput(f"the image is damaged or cut short: {_reason(exc)}") from exc
    width, height = size[::-1] if orientation in _SWAPS_SIDES else size
    return DecodedImage(
        pixels=pixels,
        width=width,
        height=height,
        format=image_format,
        captured_at=exif.captured_at(written) if written is not None else None,
        location=exif.location(written) if written is not None else None,
    )


def preview(pixels: Image.Image) -> bytes:
    """A JPEG whose short side is 336 pixels; a smaller image keeps its size.

    The user interface shows it and the encoders see it. The same pixels give the same bytes.
    """
    return encode_preview(shrink(pixels))


def shrink(pixels: Image.Image) -> Image.Image:
    """The pixels of the preview, before they are encoded."""
    width, height = pixels.size
    factor = min(1.0, PREVIEW_SHORT_SIDE / min(width, height), _LONGEST_PREVIEW_SIDE / max(width, height))
    if factor == 1.0:
        return pixels
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return pixels.resize(size, Image.Resampling.HAMMING, reducing_gap=3.0)  # Less than half the time of LANCZOS.


def encode_preview(small: Image.Image) -> bytes:
    """The JPEG of pixels that `shrink` gave."""
    file = io.BytesIO()
    small.save(file, format="JPEG", quality=PREVIEW_QUALITY)
    return file.getvalue()


def _decode(image: ImageFile, *, short_side: int | None) -> tuple[int, int]:
    """Decodes in place, at a reduced scale when `short_side` is given; returns the size of the whole image as it is stored."""
    if short_side is None:
        image.load()
        return image.size  # Asked for afterwards, as Pillow turns a TIFF upright while it loads.
    size = image.size
    scale = short_side / min(size)
    image.draft(None, (max(1, math.ceil(size[0] * scale)), max(1, math.ceil(size[1] * scale))))
    image.load()
    return size


def _exif(image: Image.Image) -> Image.Exif | None:
    """None where the file has none, which is the usual case for a fleet's cameras."""
    try:
        return image.getexif() or None
    except Exception:
        return None


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        return 1  # Broken EXIF says nothing about the pixels.


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    turn = _TURNS.get(orientation)
    upright = image if turn is None else image.transpose(turn)
    upright.info.clear()  # Comments and profiles of the original must not travel into previews.
    return upright


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):
        # Sixteen bits a pixel: Pillow's own conversion cuts everything above 255 to white.
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        top = values.max(initial=0.0)
        depth = 255.0 if top <= 255.0 else 65535.0 if top <= 65535.0 else top
        return Image.fromarray((values.clip(0.0) * (255.0 / depth)).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _not_readable(data: bytes) -> str:
    if any(
        data.startswith(magic) for magic in (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"GIF8")
    ):
        return "the image is damaged or cut short: its header cannot be read"
    return "not an image in a format that can be read"


def _reason(exc: BaseException) -> str:
    return str(exc).partition("\n")[0] or type(exc).__name__
