"""Image files as they come: every odd kind has a known outcome, the same in selection and in training."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from infra.errors import InvalidInput
from selection.pixels import images
from tests.selection.pixels import pictures
from training.job.images import squash

MAX_PIXELS = 200_000_000


def _mean(data: bytes) -> list[float]:
    pixels = np.asarray(images.open_image(data, max_pixels=MAX_PIXELS).pixels)
    mean: list[float] = pixels.mean(axis=(0, 1)).tolist()
    return mean


@pytest.mark.parametrize("kind", pictures.OF_ONE_COLOUR)
def test_odd_files_show_their_first_picture_in_its_colours(kind: str) -> None:
    data, image_format = pictures.OF_ONE_COLOUR[kind]
    found = images.open_image(data, max_pixels=MAX_PIXELS)
    assert (found.format, found.width, found.height, found.pixels.mode) == (image_format, 50, 40, "RGB")
    assert _mean(data) == pytest.approx(pictures.COLOUR, abs=4)


@pytest.mark.parametrize("kind", pictures.OF_ONE_GREY)
def test_grey_of_any_depth_keeps_its_level(kind: str) -> None:
    assert _mean(pictures.OF_ONE_GREY[kind]) == pytest.approx([100] * 3, abs=1)


@pytest.mark.parametrize("kind", [*pictures.OF_ONE_COLOUR, *pictures.OF_ONE_GREY])
def test_preview_and_training_see_the_same(kind: str) -> None:
    data = pictures.OF_ONE_GREY.get(kind) or pictures.OF_ONE_COLOUR[kind][0]
    pixels = images.open_image(data, max_pixels=MAX_PIXELS).pixels
    with Image.open(io.BytesIO(data)) as original, Image.open(io.BytesIO(images.preview(pixels))) as preview:
        trained, predicted = squash(original, size=16).astype(int), squash(preview, size=16).astype(int)
    assert np.abs(trained - predicted).max() <= 3


@pytest.mark.parametrize(
    "image_format", ["JPEG", "MPO", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF"]
)
def test_a_single_pixel_is_an_image(image_format: str) -> None:
    found = images.open_image(pictures.encoded(Image.new("RGB", (1, 1)), image_format), max_pixels=MAX_PIXELS)
    assert (found.width, found.height) == (1, 1)
    with Image.open(io.BytesIO(images.preview(found.pixels))) as small:
        assert small.size == (1, 1)


@pytest.mark.parametrize("short_side", [images.PREVIEW_SHORT_SIDE, None])
@pytest.mark.parametrize("restarts", [0, 4])
def test_a_jpeg_with_fewer_pixels_than_it_says_is_damaged(short_side: int | None, restarts: int) -> None:
    whole = pictures.encoded(pictures.scene(), restart_marker_blocks=restarts)
    images.open_image(whole, max_pixels=MAX_PIXELS, short_side=short_side)
    for lying in (
        whole[: len(whole) // 2] + b"\xff\xd9",
        whole[:-300] + b"\xff\xd9",
        pictures.with_size(whole, width=640, height=960),
        pictures.with_size(whole, width=1280, height=480),
    ):
        with pytest.raises(InvalidInput, match="damaged or cut short: fewer pixels"):
            images.open_image(lying, max_pixels=MAX_PIXELS, short_side=short_side)


def _with_thumbnail(jpeg: bytes) -> bytes:
    """The same behind an EXIF segment that holds another JPEG."""
    inside = b"Exif\0\0" + pictures.encoded(pictures.flat())
    return jpeg[:2] + b"\xff\xe1" + (len(inside) + 2).to_bytes(2, "big") + inside + jpeg[2:]


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}])
def test_other_pictures_in_the_file_do_not_hide_missing_pixels(options: dict[str, Any]) -> None:
    whole = pictures.encoded(pictures.scene(), **options)
    grey = pictures.encoded(pictures.flat((128, 128, 128)), **options)
    trailers = (b"", b"ftypmp42 \xff\xd8 a video \xff\xd9" + bytes(10), whole)
    filled = grey[:-2] + b"\xff\xff\xd9"
    for first in (whole, grey, filled, _with_thumbnail(whole), _with_thumbnail(grey)):
        for trailer in trailers:
            images.open_image(first + trailer, max_pixels=MAX_PIXELS)
    if "progressive" in options:
        return  # Cut anywhere, it is a whole picture of fewer scans.
    for first in (whole, _with_thumbnail(whole)):
        for trailer in trailers:
            with pytest.raises(InvalidInput, match="fewer pixels"):
                images.open_image(first[: len(first) * 2 // 3] + b"\xff\xd9" + trailer, max_pixels=MAX_PIXELS)


def test_a_multi_picture_jpeg_with_fewer_pixels_than_it_says_is_damaged() -> None:
    both = pictures.encoded(pictures.scene(), "MPO", save_all=True, append_images=[pictures.scene()])
    second = both.index(b"\xff\xd8\xff", 2)
    assert images.open_image(both, max_pixels=MAX_PIXELS).format == "MPO"
    with pytest.raises(InvalidInput, match="fewer pixels"):
        images.open_image(both[: second // 2] + b"\xff\xd9" + both[second:], max_pixels=MAX_PIXELS)
    grey = pictures.encoded(pictures.flat((128, 128, 128)), "MPO", save_all=True, append_images=[pictures.flat()])
    assert images.open_image(grey, max_pixels=MAX_PIXELS).format == "MPO"


@pytest.mark.parametrize("top", [1.0, 0.5])
def test_floating_point_numbers_from_0_to_1_are_levels(top: float) -> None:
    levels = np.tile(np.linspace(0, top, 50, dtype=np.float32), (40, 1))
    assert _mean(pictures.encoded(Image.fromarray(levels), "TIFF")) == pytest.approx([127.5 * top] * 3, abs=1)


def test_a_jpeg_that_says_it_is_smaller_is_what_it_says() -> None:
    lying = pictures.with_size(pictures.encoded(pictures.scene()), width=640, height=240)
    assert images.open_image(lying, max_pixels=MAX_PIXELS).height == 240


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_grey_images_are_whole(mode: str, options: dict[str, Any]) -> None:
    for level in (127, 128):
        grey = pictures.encoded(pictures.flat((level, level, level)).convert(mode), **options)
        assert _mean(grey) == pytest.approx([level] * 3, abs=1)


def test_ycck_is_read() -> None:
    adobe = b"Adobe\0d\0\0\0\0"
    cmyk = pictures.encoded(pictures.flat().convert("CMYK"))
    assert adobe + b"\0" in cmyk
    found = images.open_image(cmyk.replace(adobe + b"\0", adobe + b"\x02"), max_pixels=MAX_PIXELS)
    assert (found.pixels.mode, found.pixels.size) == ("RGB", (50, 40))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (bytes(1000), "not an image in a format that can be read"),
        (b"Dear Sir or Madam,\n", "not an image in a format that can be read"),
        (
            b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100),
            "HEIC needs a decoder that is not here; convert it to JPEG",
        ),
        (pictures.encoded(pictures.scene(), "AVIF")[:60], "damaged or cut short"),
        (pictures.encoded(pictures.scene(), "WEBP")[:-900], "damaged or cut short"),
        (pictures.encoded(pictures.scene(), "TIFF")[:-900], "damaged or cut short"),
        (pictures.with_size(pictures.encoded(pictures.scene()), width=0, height=480), "damaged or cut short"),
    ],
)
def test_what_is_not_an_image_says_so_in_one_line(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason) as refused:
        images.open_image(data, max_pixels=MAX_PIXELS)
    assert "\n" not in refused.value.message


def test_avif_without_a_decoder_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images.features, "check", lambda _name: False)
    with pytest.raises(InvalidInput, match="AVIF needs a decoder that is not here; convert it to JPEG"):
        images.open_image(b"\0\0\0\x18ftypavif" + bytes(100), max_pixels=MAX_PIXELS)


def test_300_megapixels_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    lying = pictures.with_size(pictures.encoded(pictures.scene()), width=20_000, height=15_000)
    bomb = pictures.png(20_000, 15_000, depth=1, colour_type=0, row=bytes(2500))
    assert len(bomb) < 100_000
    for number, data in enumerate((lying, bomb)):
        path = tmp_path / str(number)
        path.write_bytes(data)
        printed = _opened_elsewhere(path)
        assert "20000 x 15000 pixels, 200000000 are allowed" in printed
        assert int(printed.split()[-1]) < 50_000  # Of the 300,000 kB that its pixels would take at least.


def test_decoders_wonder_silently(tmp_path: Path) -> None:
    path = tmp_path / "odd.jpg"
    path.write_bytes(pictures.OF_ONE_COLOUR["JPEG with broken EXIF"][0])
    assert _opened_elsewhere(path).startswith("50 x 40")


_PROGRAM = """
import pathlib, resource, sys
from infra.errors import InvalidInput
from selection.pixels import images

def peak_kb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

before = peak_kb()
try:
    image = images.open_image(pathlib.Path(sys.argv[1]).read_bytes(), max_pixels=200_000_000)
    print(image.width, "x", image.height)
except InvalidInput as exc:
    print(exc.message)
print(peak_kb() - before)
"""


def _opened_elsewhere(path: Path) -> str:
    """What a process of its own prints, which has no filter for warnings: the outcome and the kB it took for it."""
    run = subprocess.run([sys.executable, "-c", _PROGRAM, str(path)], capture_output=True, text=True, check=True)
    assert run.stderr == ""
    return run.stdout
