"""Segmentation predictions as files: class probabilities of pixels, or class masks with a confidence.

A record names, relative to its own file:

- `probabilities`: a `.npy` or `.npz` (its only array, or the one named `probabilities`) of shape (H, W, C), (C, H, W), or with several
  passes (M, H, W, C); floating point in [0, 1] or uint8 in 0..255; or an object with a grey PNG for each class
- `mask`: a PNG of class indices, and `confidence`: a grey PNG (0..255) or a number from 0 to 1; a pixel's other classes share what the
  confidence leaves. Indices from the number of classes on (255, for example) are pixels the model says nothing of.

Maps are thinned to about `MOST_PIXELS` pixels by taking every k-th in both directions: averaging would add doubt at every outline.
"""

from __future__ import annotations

import hashlib
import io
import math
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.errors import InvalidInput
from selection.fleet.tabular import Line

MOST_PIXELS = 256 * 512
CONFIDENCE_ENDING = "_confidence"
_MOST_IMAGE_PIXELS = 200_000_000
_ARRAYS = (".npy", ".npz")


@dataclass(frozen=True, kw_only=True)
class PixelMaps:
    """What a record says.

    Attributes:
        probability_MHWC: Shape (M, H, W, C); rows sum to one.
        ignore_HW: True where the mask says nothing.
        mask_png: The class mask, if the record has one.
    """

    probability_MHWC: NDArray[np.float64]
    ignore_HW: NDArray[np.bool_] | None = None
    mask_png: bytes | None = None


def in_folder(folder: Path) -> Iterator[Line]:
    """A record for each map in a folder, named after its image: `0001.npz`, or `0001.png` with `0001_confidence.png`."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (*_ARRAYS, ".png") and path.is_file())
    for number, path in enumerate(found, start=1):
        name = path.relative_to(folder)
        if name.stem.endswith(CONFIDENCE_ENDING) and path.suffix.lower() == ".png":
            continue
        record: dict[str, Any] = {"file": str(name.with_suffix(".*"))}
        if path.suffix.lower() in _ARRAYS:
            record["probabilities"] = str(name)
        else:
            record["mask"] = str(name)
            record["confidence"] = str(name.with_name(f"{name.stem}{CONFIDENCE_ENDING}{name.suffix}"))
        yield Line(number=number, record=record)


def read(record: Mapping[str, Any], *, base: Path, classes: Sequence[str]) -> PixelMaps:
    """Reads the files that a record names.

    Raises:
        InvalidInput: One of them is missing or not what it should be; the message names it.
    """
    said = record.get("probabilities")
    if isinstance(said, Mapping):
        return PixelMaps(probability_MHWC=_from_pngs(said, base=base, classes=classes))
    if isinstance(said, str):
        return PixelMaps(probability_MHWC=_from_array(base / said, classes=classes))
    mask = record.get("mask")
    if not isinstance(mask, str):
        raise InvalidInput("it has neither `probabilities` nor `mask`")
    data = _bytes(base / mask)
    mask_HW = _thinned(_grey(data, name=mask))
    confidence_HW = _confidence(record.get("confidence"), base=base, like=mask_HW)
    if not (mask_HW < len(classes)).any():
        raise InvalidInput(f"{mask} has no pixel of a class 0 to {len(classes) - 1}")
    return PixelMaps(
        probability_MHWC=_spread(mask_HW, confidence_HW, class_count=len(classes))[np.newaxis],
        ignore_HW=mask_HW >= len(classes),
        mask_png=data,
    )


def mask_key(data: bytes) -> str:
    """Where a class mask is kept."""
    digest = hashlib.sha256(data).hexdigest()
    return f"predictions/masks/{digest[:2]}/{digest}.png"


def _from_array(path: Path, *, classes: Sequence[str]) -> NDArray[np.float64]:
    try:
        loaded = np.load(io.BytesIO(_bytes(path)), allow_pickle=False)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            name = "probabilities" if "probabilities" in loaded.files else loaded.files[0]
            loaded = loaded[name]
    except (ValueError, OSError, EOFError, IndexError, KeyError, zipfile.BadZipFile) as exc:
        raise InvalidInput(f"{path.name} is not an array that can be read: {exc}") from exc
    maps = loaded if loaded.ndim == 4 else loaded[np.newaxis]
    if maps.ndim != 4 or len(classes) not in (maps.shape[3], maps.shape[1]):
        raise InvalidInput(
            f"{path.name} has shape {loaded.shape}; (height, width, {len(classes)}) or ({len(classes)}, height, width) is needed"
        )
    if maps.shape[3] != len(classes):
        maps = maps.transpose(0, 2, 3, 1)
    step = _step(maps.shape[1], maps.shape[2])
    return _normalised(maps[:, ::step, ::step], name=path.name)


def _from_pngs(said: Mapping[str, Any], *, base: Path, classes: Sequence[str]) -> NDArray[np.float64]:
    if strange := sorted(set(said) ^ set(classes)):
        raise InvalidInput(f"there must be one map for each class of the task; {strange[0]!r} is wanting or no class")
    maps = [_thinned(_grey(_bytes(base / str(said[name])), name=str(said[name]))) for name in classes]
    if len({one.shape for one in maps}) > 1:
        raise InvalidInput("the maps of the classes differ in size")
    return _normalised(np.stack(maps, axis=-1)[np.newaxis], name=str(said[classes[0]]))


def _normalised(maps_MHWC: NDArray[Any], *, name: str) -> NDArray[np.float64]:
    """Rows that sum to one exactly; eight bits come near to it only."""
    p = maps_MHWC.astype(np.float64) / (255.0 if maps_MHWC.dtype == np.uint8 else 1.0)
    total = p.sum(axis=-1, keepdims=True)
    if not (np.isfinite(p).all() and (p >= 0.0).all() and (np.abs(total - 1.0) <= 0.05).all()):
        raise InvalidInput(f"{name}: the probabilities of a pixel do not sum to 1")
    normalised: NDArray[np.float64] = p / total
    return normalised


def _spread(mask_HW: NDArray[np.uint8], confidence_HW: NDArray[np.float64], *, class_count: int) -> NDArray[np.float64]:
    """Class probabilities, shape (H, W, C): what the confidence leaves is shared by the other classes."""
    if class_count == 1:
        return np.ones((*mask_HW.shape, 1))
    p_HWC = np.repeat(((1.0 - confidence_HW) / (class_count - 1))[..., np.newaxis], class_count, axis=-1)
    said_HW1 = np.minimum(mask_HW, class_count - 1)[..., np.newaxis].astype(np.int64)
    np.put_along_axis(p_HWC, said_HW1, confidence_HW[..., np.newaxis], axis=-1)
    return p_HWC


def _confidence(said: Any, *, base: Path, like: NDArray[np.uint8]) -> NDArray[np.float64]:
    if isinstance(said, int | float) and not isinstance(said, bool) and 0.0 <= said <= 1.0:
        return np.full(like.shape, float(said))
    if not isinstance(said, str):
        raise InvalidInput("`confidence` is neither a PNG nor a number from 0 to 1")
    confidence_HW = _thinned(_grey(_bytes(base / said), name=said)) / 255.0
    if confidence_HW.shape != like.shape:
        raise InvalidInput(f"{said} does not have the size of its mask")
    return confidence_HW


def _grey(data: bytes, *, name: str) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                if image.mode not in ("L", "P") or image.width * image.height > _MOST_IMAGE_PIXELS:
                    raise InvalidInput(f"{name} is not a PNG of one channel with 8 bits ({image.mode}, {image.size})")
                return np.asarray(image, dtype=np.uint8)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as exc:
        raise InvalidInput(f"{name} is not an image that can be read") from exc


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise InvalidInput(f"cannot read {path}: {exc.strerror}") from exc


def _step(height: int, width: int) -> int:
    return max(1, math.ceil(math.sqrt(height * width / MOST_PIXELS)))


def _thinned(map_HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    step = _step(*map_HW.shape)
    return map_HW[::step, ::step]
