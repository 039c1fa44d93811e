"""What a search should be near to and far from: words, images, frames, and parts of frames; and the one vector made of them all."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from infra.errors import Conflict, InvalidInput
from infra.platform import Platform
from selection.fleet import frames, originals
from selection.pixels import images

if TYPE_CHECKING:
    from selection.embedding.encoder import Encoder
    from selection.embedding.index import VectorIndex

NEGATIVE_WEIGHT = 0.5
"""How much being like a negative example counts against a frame. At one, what positive and negative have in common (that both are road
scenes, that both are texts) would cancel out, and what is left points nowhere in particular."""

_CROP = re.compile(r"([0-9a-fA-F]+)@(.*)")


@dataclass(frozen=True, kw_only=True)
class Example:
    """One thing to be near to, or far from.

    Attributes:
        value: The words, the frame's id, or the name of the image.
        image: The bytes of an image file.
        crop_xyxy_px: Only this part of the frame, in pixels of the stored image after EXIF orientation.
    """

    kind: Literal["text", "frame", "image"]
    value: str
    image: bytes | None = None
    crop_xyxy_px: tuple[float, float, float, float] | None = None
    negative: bool = False

    @property
    def needs_encoder(self) -> bool:
        """Whether its vector is not in the index already."""
        return self.kind != "frame" or self.crop_xyxy_px is not None

    def written(self) -> str:
        """What tells it from others, for people and for cursors."""
        crop = "" if self.crop_xyxy_px is None else "@" + ",".join(f"{x:g}" for x in self.crop_xyxy_px)
        content = hashlib.sha256(self.image).hexdigest()[:16] if self.image is not None else ""
        return f"{'-' if self.negative else ''}{self.kind}:{self.value}{crop}{content}"


@dataclass(frozen=True, kw_only=True)
class Aim:
    """Where a search looks.

    Attributes:
        query: Shape (D,), unit length.
        positive_vectors: The vectors of the P positive examples, shape (P, D), unit length.
        positives: Those examples, in that order.
        rows: Frames that are examples themselves; no search needs to find those.
    """

    query: NDArray[np.float32]
    positive_vectors: NDArray[np.float32]
    positives: tuple[Example, ...]
    rows: tuple[int, ...]


def frame_example(text: str, *, negative: bool = False) -> Example:
    """A frame by its id, or a part of one as `ID@x0,y0,x1,y1`.

    Raises:
        InvalidInput: The part is no box.
    """
    cut = _CROP.fullmatch(text.strip())
    if cut is None:
        return Example(kind="frame", value=text.strip(), negative=negative)
    try:
        x0, y0, x1, y1 = (float(part) for part in cut[2].split(","))
    except ValueError as exc:
        raise InvalidInput(f"{text!r} is not FRAME@x0,y0,x1,y1 with four numbers in pixels") from exc
    if not (0 <= x0 < x1 < np.inf and 0 <= y0 < y1 < np.inf):
        raise InvalidInput(
            f"the box of {text!r} holds no pixels: it takes left, top, right and bottom, 0 <= left < right and 0 <= top < bottom"
        )
    return Example(kind="frame", value=cut[1], crop_xyxy_px=(x0, y0, x1, y1), negative=negative)


def aim(
    platform: Platform,
    examples: Sequence[Example],
    *,
    index: VectorIndex,
    encoder: Encoder | None,
    text_vector: Callable[[str], NDArray[np.float32]] | None = None,
) -> Aim:
    """One query of all examples: the mean of the positive vectors, less half the mean of the negative ones, of unit length.

    Source: Rocchio, "Relevance Feedback in Information Retrieval", in The SMART Retrieval System, 1971.

    Args:
        platform: Where the fleet lives.
        examples: At least one; negative ones alone look for what is least like them.
        index: Refreshed.
        encoder: The one that made the index's vectors; not needed where every example is a whole frame.
        text_vector: The vector of a text, for callers that keep them; else the encoder is asked.
    Raises:
        InvalidInput: An image or a box that cannot be used, empty words.
        NotFound: A frame that does not exist.
        Conflict: A frame without a vector, or an encoder that is not the index's.
    """
    if any(one.needs_encoder for one in examples) and (encoder is None or encoder.encoder_id != index.encoder_id):
        name = "none" if encoder is None else encoder.encoder_id
        raise Conflict(f"the index is of encoder {index.encoder_id}, the encoder given is {name}")
    rows: list[int] = []
    vectors: list[NDArray[np.float32]] = []
    for one in examples:
        if one.kind == "frame" and one.crop_xyxy_px is None:
            rows.append(frames.get(platform.database, one.value).row)
            vectors.append(_vector_of(index, rows[-1], frame_id=one.value))
        else:
            assert encoder is not None
            vectors.append(_encoded(platform, one, encoder, text_vector=text_vector))
    vectors_ED = np.stack(vectors)
    is_negative = np.array([one.negative for one in examples])
    query_D = np.zeros(vectors_ED.shape[1], dtype=np.float32)
    if not is_negative.all():
        query_D += vectors_ED[~is_negative].mean(axis=0)
    if is_negative.any():
        query_D -= NEGATIVE_WEIGHT * vectors_ED[is_negative].mean(axis=0)
    return Aim(
        query=(query_D / max(float(np.linalg.norm(query_D)), 1e-12)).astype(np.float32),
        positive_vectors=vectors_ED[~is_negative],
        positives=tuple(one for one in examples if not one.negative),
        rows=tuple(dict.fromkeys(rows)),
    )


def _vector_of(index: VectorIndex, row: int, *, frame_id: str) -> NDArray[np.float32]:
    rows = np.array([row], dtype=np.int64)
    if not index.has(rows)[0]:
        raise Conflict(
            f"frame {frame_id} has no vector yet; run `mlpl embed`, or wait for `mlpl serve`", frame_id=frame_id
        )
    vector_D: NDArray[np.float32] = index.vectors(rows)[0]
    return vector_D


def _encoded(
    platform: Platform,
    one: Example,
    encoder: Encoder,
    *,
    text_vector: Callable[[str], NDArray[np.float32]] | None,
) -> NDArray[np.float32]:
    if one.kind == "text":
        words = " ".join(one.value.split())
        if not words:
            raise InvalidInput("there are no words to look for")
        return text_vector(words) if text_vector is not None else np.asarray(encoder.encode_texts([words])[0])
    if one.kind == "image":
        pixels = images.open_image(one.image or b"", max_pixels=platform.settings.max_image_pixels).pixels
    else:
        pixels = _cropped(platform, one)
    # The same way through the preview as the fleet's frames took, so that the same image has the same vector.
    with Image.open(io.BytesIO(images.preview(pixels))) as small:
        return np.asarray(encoder.encode_images([small.convert("RGB")])[0])


def _cropped(platform: Platform, one: Example) -> Image.Image:
    frame = frames.get(platform.database, one.value)
    assert one.crop_xyxy_px is not None
    x0, y0, x1, y1 = one.crop_xyxy_px
    if x1 > frame.width or y1 > frame.height:
        raise InvalidInput(
            f"the box {x0:g},{y0:g},{x1:g},{y1:g} reaches out of frame {frame.frame_id}, "
            f"which is {frame.width} x {frame.height} pixels",
            frame_id=frame.frame_id,
        )
    data = originals.read(platform.objects, object_key=frame.object_key, object_uri=frame.object_uri)
    # The box is in pixels of the whole image, so it is not decoded at a reduced scale.
    whole = images.open_image(data, max_pixels=platform.settings.max_image_pixels, short_side=None).pixels
    left, top = int(x0), int(y0)
    return whole.crop((left, top, max(left + 1, round(x1)), max(top + 1, round(y1))))
