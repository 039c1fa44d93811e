"""Decoding: what is refused and why, orientation, depth, previews."""

from __future__ import annotations

import contextlib
import io
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from infra.errors import InvalidInput
from selection.pixels import images

MAX_PIXELS = 10_000_000


def _bytes(image: Image.Image, image_format: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format=image_format, **options)  # type: ignore[arg-type]
    return file.getvalue()


def _scene(width: int = 640, height: int = 480) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def _corners(width: int = 800, height: int = 400) -> Image.Image:
    """Red in the top left corner, black elsewhere."""
    image = Image.new("RGB", (width, height))
    image.paste((255, 0, 0), (0, 0, width // 4, height // 4))
    return image


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"hello, this is text", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "not an image"),
        (b"\xff\xd8\xff\xe0", "damaged"),
        (_bytes(_scene())[:-2000], "cut short"),
        (_bytes(_scene(), "PNG")[:-2000], "cut short"),
        (_bytes(_scene())[:300], "damaged"),
    ],
)
def test_what_cannot_be_read_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        images.open_image(data, max_pixels=MAX_PIXELS)


def test_a_decompression_bomb_is_refused_by_its_header() -> None:
    header = (60_000).to_bytes(4, "big") * 2 + b"\x08\x00\x00\x00\x00"
    chunk = b"IHDR" + header
    bomb = b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    bomb += b"\0\0\0\x04IDAT1234" + zlib.crc32(b"IDAT1234").to_bytes(4, "big")
    with pytest.raises(InvalidInput, match="60000 x 60000"):
        images.open_image(bomb, max_pixels=200_000_000)


@given(
    data=st.binary(max_size=200),
    head=st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0", b"BM"]),
)
def test_foreign_bytes_never_raise_anything_else(data: bytes, head: bytes) -> None:
    with contextlib.suppress(InvalidInput):
        images.open_image(head + data, max_pixels=1_000_000)


@pytest.mark.parametrize(
    ("orientation", "corner"),
    [(1, (0, 0)), (2, (1, 0)), (3, (1, 1)), (4, (0, 1)), (5, (0, 0)), (6, (1, 0)), (7, (1, 1)), (8, (0, 1))],
)
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(orientation: int, corner: tuple[int, int], image_format: str) -> None:
    image = _corners()
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = images.open_image(_bytes(image, image_format, exif=exif), max_pixels=MAX_PIXELS)
    assert (found.width, found.height) == ((400, 800) if orientation >= 5 else (800, 400))
    right, bottom = found.pixels.width - 10, found.pixels.height - 10
    pixel = found.pixels.getpixel((right if corner[0] else 10, bottom if corner[1] else 10))
    assert isinstance(pixel, tuple)
    assert pixel[0] > 200
    assert pixel[1] < 60


def test_a_large_jpeg_is_decoded_small_but_reports_its_full_size() -> None:
    data = _bytes(_scene(3000, 2000))
    found = images.open_image(data, max_pixels=MAX_PIXELS)
    assert (found.width, found.height) == (3000, 2000)
    assert 336 <= found.pixels.height < 2000
    assert images.open_image(data, max_pixels=MAX_PIXELS, short_side=None).pixels.size == (3000, 2000)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1280, 720), (597, 336)),
        ((720, 1280), (336, 597)),
        ((300, 200), (300, 200)),
        ((1, 1), (1, 1)),
        ((9000, 400), (5376, 239)),
    ],
)
def test_previews_have_a_short_side_of_336_and_never_grow(size: tuple[int, int], expected: tuple[int, int]) -> None:
    made = images.preview(Image.new("RGB", size))
    with Image.open(io.BytesIO(made)) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", expected)
    assert made == images.preview(Image.new("RGB", size))


@pytest.mark.parametrize("size", [(960, 540), (400, 337), (2000, 1500), (9000, 600)])
def test_previews_are_as_pillow_would_make_them(size: tuple[int, int]) -> None:
    """The last size is one that Pillow keeps in several blocks of memory."""
    coarse = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    found = images.shrink(image)
    expected = np.asarray(image.resize(found.shape[1::-1], Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(found - expected).mean() < 1


def test_previews_are_encoded_as_pillow_would() -> None:
    small = images.shrink(_scene())
    made, expected = images.encode_preview(small), _bytes(Image.fromarray(small), quality=images.PREVIEW_QUALITY)
    with Image.open(io.BytesIO(made)) as ours, Image.open(io.BytesIO(expected)) as theirs:
        assert np.abs(np.asarray(ours).astype(int) - np.asarray(theirs)).max() <= 2
    assert len(made) == pytest.approx(len(expected), rel=0.01)


def test_small_images_keep_every_pixel() -> None:
    scene = _scene(50, 40)
    assert np.array_equal(images.shrink(scene), np.asarray(scene))


def test_a_preview_carries_nothing_of_the_original_but_pixels() -> None:
    data = _bytes(_scene(), comment=b"secret")
    assert b"secret" in data
    assert b"secret" not in images.preview(images.open_image(data, max_pixels=MAX_PIXELS).pixels)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "I", "F"])
def test_every_pixel_mode_becomes_rgb(mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.full((40, 50), 128 << 8, dtype=np.uint16))
    elif mode == "I":
        image = Image.fromarray(np.full((40, 50), 128 << 8, dtype=np.int32))
    elif mode == "F":
        image = Image.fromarray(np.full((40, 50), 128.0, dtype=np.float32))
    else:
        image = Image.new("RGB", (50, 40), (128, 128, 128)).convert(mode)
    image_format = "PNG" if mode in ("1", "L", "LA", "P", "RGBA", "I;16") else "TIFF"
    found = images.open_image(_bytes(image, image_format), max_pixels=MAX_PIXELS)
    assert (found.pixels.mode, found.width, found.height) == ("RGB", 50, 40)
    if mode != "1":
        assert np.asarray(found.pixels).mean() == pytest.approx(128, abs=3)


def test_a_palette_with_transparency_is_read_without_complaint() -> None:
    image = Image.new("P", (20, 20), 3)
    data = _bytes(image, "PNG", transparency=b"\0" * 4)
    assert images.open_image(data, max_pixels=MAX_PIXELS).pixels.mode == "RGB"
