"""Images as the network sees them: read once, squashed to a square, kept as bytes, varied at random while training."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from training.contract import ContractError, ManifestLine, SkippedFrame

if TYPE_CHECKING:
    import torch

BATCH_FRAMES = 64

# What a manifest names was measured when it came into the fleet; here the limit would only skip frames that were labelled.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True, kw_only=True)
class Frames:
    """The readable frames of one split.

    Attributes:
        images_u8: Shape (N, 3, S, S), uint8, red green blue.
        targets_NC: Shape (N, C), 1 where the frame has the class, float32.
    """

    lines: tuple[ManifestLine, ...]
    images_u8: NDArray[np.uint8]
    targets_NC: NDArray[np.float32]


def squash(image: Image.Image, *, size: int) -> NDArray[np.uint8]:
    """Fits an image of any shape into a square, without regard to its aspect.

    Training calls it with the original, prediction with the preview, so both look alike: a JPEG that is not yet
    decoded is decoded at the smallest scale that keeps twice the size, which is what a preview is, and the rest is an
    area-weighted filter either way.

    Args:
        image: Any mode; EXIF orientation is applied.
        size: Side of the square, pixels.

    Returns:
        Shape (3, size, size), red green blue.
    """
    image.draft("RGB", (2 * size, 2 * size))
    upright = ImageOps.exif_transpose(image)
    square = _to_rgb(upright).resize((size, size), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(square, dtype=np.uint8).transpose(2, 0, 1))


def read_frames(
    lines: Sequence[ManifestLine],
    *,
    folder: Path,
    frames_uri: str,
    class_count: int,
    size: int,
    threads: int,
    check_stop: Callable[[], None],
) -> tuple[Frames, list[SkippedFrame]]:
    """Reads, checks and squashes every frame once.

    Args:
        lines: What to read; order is kept.
        folder: The frames channel.
        frames_uri: Taken off the front of each `source-ref`.
        class_count: C, the width of the targets.
        size: Side of the square, pixels.
        threads: Images decoded at a time.
        check_stop: Called now and then; whatever it raises ends the reading.

    Returns:
        The frames that could be read, and the others with the reason: missing, not the bytes the manifest names, or
        not an image.
    """
    images_u8 = np.empty((len(lines), 3, size, size), dtype=np.uint8)
    kept: list[int] = []
    skipped: list[SkippedFrame] = []
    with ThreadPoolExecutor(max_workers=threads) as pool:
        for start in range(0, len(lines), BATCH_FRAMES):
            check_stop()
            piece = lines[start : start + BATCH_FRAMES]
            read = pool.map(lambda line: _read_one(line, folder=folder, frames_uri=frames_uri, size=size), piece)
            for index, outcome in enumerate(read, start=start):
                if isinstance(outcome, str):
                    skipped.append(SkippedFrame(frame_id=lines[index].frame_id, reason=outcome))
                else:
                    images_u8[len(kept)] = outcome
                    kept.append(index)
    targets_NC = np.zeros((len(kept), class_count), dtype=np.float32)
    for position, index in enumerate(kept):
        targets_NC[position, list(lines[index].classes)] = 1.0
    frames = Frames(lines=tuple(lines[i] for i in kept), images_u8=images_u8[: len(kept)], targets_NC=targets_NC)
    return frames, skipped


def normalise(
    images_u8: torch.Tensor, *, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> torch.Tensor:
    """Bytes to what the network takes: shape (N, 3, S, S) uint8 to the same shape in float32."""
    return _standardise(images_u8.float().div_(255.0), mean=mean, std=std)


def augment(
    images_u8: torch.Tensor,
    *,
    generator: torch.Generator,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> torch.Tensor:
    """Varies each image at random: mirrored, cropped, slightly turned, with other brightness, contrast and colour.

    Crops stay large, because a multilabel frame must keep the objects that its label names.

    Args:
        images_u8: Shape (N, 3, S, S), uint8.
        generator: On the CPU; the only source of chance, so the same state gives the same images.
        mean: See `ModelConfig`.
        std: See `ModelConfig`.

    Returns:
        Shape (N, 3, S, S), float32, standardised, on the device of the images.
    """
    import torch
    from torch.nn import functional

    count = images_u8.shape[0]
    chance = torch.rand((10, count), generator=generator)
    zoom = 0.75 + 0.25 * chance[0]
    stretch = torch.exp((chance[1] - 0.5) * 0.3)
    mirror = torch.where(chance[2] < 0.5, -1.0, 1.0)
    angle = (chance[3] - 0.5) * (math.pi / 18)
    scale_x, scale_y = (zoom * stretch).clamp(max=1.0), (zoom / stretch).clamp(max=1.0)
    theta = torch.zeros((count, 2, 3))
    theta[:, 0, 0] = mirror * scale_x * torch.cos(angle)
    theta[:, 0, 1] = -scale_y * torch.sin(angle)
    theta[:, 1, 0] = mirror * scale_x * torch.sin(angle)
    theta[:, 1, 1] = scale_y * torch.cos(angle)
    theta[:, 0, 2] = (1 - scale_x) * (2 * chance[4] - 1)
    theta[:, 1, 2] = (1 - scale_y) * (2 * chance[5] - 1)

    pixels = images_u8.float().div_(255.0)
    grid = functional.affine_grid(theta.to(pixels.device), list(pixels.shape), align_corners=False)
    pixels = functional.grid_sample(pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False)

    factors = chance[6:].to(pixels.device).view(4, count, 1, 1, 1)
    grey = pixels.mean(dim=1, keepdim=True)
    pixels = grey + (pixels - grey) * (0.5 + factors[0])
    middle = pixels.mean(dim=(1, 2, 3), keepdim=True)
    pixels = middle + (pixels - middle) * (0.7 + 0.6 * factors[1])
    pixels = pixels * (0.65 + 0.7 * factors[2])
    tint = 1 + 0.1 * (torch.rand((count, 3, 1, 1), generator=generator) - 0.5)
    return _standardise((pixels * tint.to(pixels.device)).clamp_(0.0, 1.0), mean=mean, std=std)


def batches(count: int, *, size: int = BATCH_FRAMES) -> Iterator[slice]:
    """Slices that cover `count` things, `size` at a time."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def _standardise(
    pixels: torch.Tensor, *, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> torch.Tensor:
    import torch

    standard = (pixels - pixels.new_tensor(mean).view(1, 3, 1, 1)) / pixels.new_tensor(std).view(1, 3, 1, 1)
    # Channels last halves the time that small convolutions take on a CPU.
    return standard.contiguous(memory_format=torch.channels_last)


def _read_one(line: ManifestLine, *, folder: Path, frames_uri: str, size: int) -> NDArray[np.uint8] | str:
    """The squashed image, or why there is none."""
    try:
        data = (folder / _relative_path(line.source_ref, frames_uri=frames_uri)).read_bytes()
    except OSError as exc:
        return f"cannot be read from the frames channel: {exc.strerror}"
    if hashlib.sha256(data).hexdigest() != line.frame_digest:
        return "its bytes do not have the digest that the manifest names"
    try:
        with Image.open(io.BytesIO(data)) as image:
            return squash(image, size=size)
    except Exception as exc:  # Pillow's decoders raise almost anything on damaged bytes (SyntaxError, struct.error).
        return f"not a readable image: {exc}"


def _to_rgb(image: Image.Image) -> Image.Image:
    """Eight bits of red, green and blue, as `selection.pixels.images` makes them: this room's image does not hold that one."""
    if image.mode.startswith("I;16"):
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


def _relative_path(source_ref: str, *, frames_uri: str) -> PurePosixPath:
    prefix = frames_uri.rstrip("/") + "/"
    path = PurePosixPath(source_ref.removeprefix(prefix))
    if not source_ref.startswith(prefix) or path.is_absolute() or ".." in path.parts:
        raise ContractError(f"source-ref {source_ref!r} does not lie under frames_uri {frames_uri!r}")
    return path
