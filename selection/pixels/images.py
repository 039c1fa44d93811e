"""Image bytes in, pixels and previews out. Nothing here knows of files, stores or records.

What becomes of special images, here and in training alike (`training.job.images`):

- of several pictures in one file (animation, multi-picture JPEG, pages), the first is the frame;
- transparency is dropped, the colours under it count;
- sixteen bits a channel are scaled to eight, and so are floating-point numbers from 0 to 1; CMYK becomes RGB, colour profiles are not applied;
- the suffix of the file does not matter, nor does what follows the end of the image.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from dataclasses import dataclass
from datetime import datetime

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, features
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
    "AVIF": ".avif",
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
# What a decoder merely wonders about (odd EXIF, say) is no news to people; what it cannot read, it raises.
warnings.filterwarnings("ignore", module=r"PIL\.")
# Frames are spread over the cores already.
cv2.setNumThreads(1)

_WHOLE_FILE = 2**30
_GREY = {127, 128}  # The levels of pixels that libjpeg has no data for.
_OTHER_BYTES = b"\x55" * 4096 + b"".join(b"\xff%c" % (0xD0 + i % 8) + b"\x55" * 64 for i in range(64)) + b"\xff\xd9"
"""Entropy-coded nonsense, then the same behind restart markers of all numbers, then the end."""
_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")  # Not those that stand within entropy-coded data.
_WITHOUT_LENGTH = (b"\x01", b"\xd8")
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_AVIF_BRANDS = {b"avif", b"avis"}
_UNMISTAKABLE = (b"\xff\xd8\xff", b"\x89PNG", b"II*\0", b"MM\0*", b"GIF8")
_BEGINNINGS = (*_UNMISTAKABLE, b"RIFF", b"BM")


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
        if image_format in ("JPEG", "MPO"):
            _check_to_the_end(image, data, short_side=short_side)
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


def may_be_image(data: bytes) -> bool:
    """Whether the bytes begin as an image does, one of a format that is not read included; the rest of it may be damaged."""
    if data.startswith(_UNMISTAKABLE) or _brand(data) in _HEIF_BRANDS | _AVIF_BRANDS:
        return True
    try:
        Image.open(io.BytesIO(data), formats=_DECODERS).close()
    except Exception:
        return False  # Whatever a decoder raises on foreign bytes, see `open_image`.
    return True


def preview(pixels: Image.Image) -> bytes:
    """A JPEG whose short side is 336 pixels; a smaller image keeps its size.

    The user interface shows it and the encoders see it. The same pixels give the same bytes.
    """
    return encode_preview(shrink(pixels))


def shrink(pixels: Image.Image) -> NDArray[np.uint8]:
    """The pixels of the preview before they are encoded, shape (height, width, 3), RGB."""
    width, height = pixels.size
    factor = min(1.0, PREVIEW_SHORT_SIDE / min(width, height), _LONGEST_PREVIEW_SIDE / max(width, height))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    whole_steps = max(1, int(min(width / size[0], height / size[1])))
    # Averaged down to less than twice the size, two by two neighbours are enough; OpenCV takes a tenth of Pillow's time for them. Vectors
    # of previews resized by LANCZOS are no nearer to those of the originals.
    small = _rgbx(pixels.reduce(whole_steps) if whole_steps > 1 else pixels)
    if (small.shape[1], small.shape[0]) != size:
        small = np.asarray(cv2.resize(small, size, interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGBA2RGB), dtype=np.uint8)


def encode_preview(small: NDArray[np.uint8]) -> bytes:
    """The JPEG of pixels that `shrink` gave.

    Raises:
        InvalidInput: They cannot be encoded.
    """
    options = [cv2.IMWRITE_JPEG_QUALITY, PREVIEW_QUALITY]
    # Pillow makes the same bytes of them, and takes longer to be handed the pixels.
    is_whole, jpeg = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), options)
    if not is_whole:
        raise InvalidInput("its preview cannot be encoded")
    return jpeg.tobytes()


def _rgbx(pixels: Image.Image) -> NDArray[np.uint8]:
    """An RGB image as Pillow holds it, shape (height, width, 4), the last channel without meaning; a copy only of very large ones."""
    try:
        flat = pa.array(pixels).flatten().to_numpy()
    except ValueError:  # Pillow keeps more than 16 MB in several blocks.
        flat = np.frombuffer(pixels.tobytes("raw", "RGBX"), dtype=np.uint8)
    rgbx: NDArray[np.uint8] = flat.reshape(pixels.height, pixels.width, 4)
    return rgbx


def _decode(image: ImageFile, *, short_side: int | None) -> tuple[int, int]:
    """Decodes in place, at a reduced scale when `short_side` is given; returns the size of the whole image as it is stored."""
    image.decodermaxblock = (
        _WHOLE_FILE  # Pillow's decoders get so many bytes at once, and each time the interpreter's lock changes hands.
    )
    if short_side is None:
        image.load()
        return image.size  # Asked for afterwards, as Pillow turns a TIFF upright while it loads.
    size = image.size
    scale = short_side / min(size)
    image.draft(None, (max(1, math.ceil(size[0] * scale)), max(1, math.ceil(size[1] * scale))))
    image.load()
    return size


def _check_to_the_end(image: ImageFile, data: bytes, *, short_side: int | None) -> None:
    """Notices a JPEG that ends as it should but holds fewer pixels than its header says; libjpeg makes those grey and says nothing.

    Where the last pixel is that grey, the image is decoded again with other bytes behind it: they only show where data is missing.
    """
    last = image.getpixel((image.width - 1, image.height - 1))
    levels = set(last) if isinstance(last, tuple) else {last}
    if not levels <= _GREY or (end := _end_of_picture(data)) < 0:
        return
    again = Image.open(io.BytesIO(data[:end] + _OTHER_BYTES), formats=("JPEG",))
    _decode(again, short_side=short_side)
    if again.tobytes() != image.tobytes():
        raise ValueError("fewer pixels than its header says")


def _end_of_picture(data: bytes) -> int:
    """Where the first picture of a JPEG ends, -1 where it does not; the thumbnail in its EXIF and what follows it have ends of their own."""
    at = 2
    while found := _MARKER.search(data, at):
        if found[1] == b"\xd9":
            return len(data[: found.start()].rstrip(b"\xff"))  # Markers may have fill bytes before them.
        at = found.end()
        if found[1] not in _WITHOUT_LENGTH:
            at += int.from_bytes(data[at : at + 2], "big")
    return data.rfind(b"\xff\xd9")  # A length was wrong.


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
        unit = image.mode == "F" and top <= 1.0
        depth = 1.0 if unit else 255.0 if top <= 255.0 else 65535.0 if top <= 65535.0 else top
        return Image.fromarray((values.clip(0.0) * (255.0 / depth)).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _not_readable(data: bytes) -> str:
    brand = _brand(data)
    if brand in _HEIF_BRANDS:
        return "HEIC needs a decoder that is not here; convert it to JPEG"
    if brand in _AVIF_BRANDS and not features.check("avif"):
        return "AVIF needs a decoder that is not here; convert it to JPEG"
    if brand in _AVIF_BRANDS or data.startswith(_BEGINNINGS):
        return "the image is damaged or cut short: its header cannot be read"
    return "not an image in a format that can be read"


def _brand(data: bytes) -> bytes:
    """What a file of ISO's container says that it is; nothing for other files."""
    return data[8:12] if data[4:8] == b"ftyp" else b""


def _reason(exc: BaseException) -> str:
    return str(exc).partition("\n")[0] or type(exc).__name__
