"""Search: frames by words, by an image, or by another frame, within a filter."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from infra.errors import Conflict, InvalidInput
from infra.platform import Platform
from selection.fleet import frames, images
from selection.fleet.columns import Columns, Filter, parse_filter
from selection.fleet.frames import Frame

if TYPE_CHECKING:
    from selection.embedding.encoders import Encoder
    from selection.embedding.index import VectorIndex


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A found frame.

    Attributes:
        score: Cosine similarity to what was asked for, None when nothing was asked for but the filter.
    """

    frame: Frame
    score: float | None


def search(
    platform: Platform,
    *,
    text: str | None = None,
    image: bytes | None = None,
    like: str | None = None,
    where: Filter | str = "",
    k: int = 20,
    offset: int = 0,
    encoder: Encoder | None,
    index: VectorIndex,
    columns: Columns,
) -> list[Hit]:
    """The nearest frames, nearest first. Exactly one of `text`, `image` and `like` says to what.

    Args:
        platform: Where the fleet lives.
        text: Words, as one would caption a picture.
        image: The bytes of an image file.
        like: A frame's id; that frame itself is not among the hits.
        where: Only frames that match.
        k: How many hits.
        offset: How many of the nearest to leave out, for the next page.
        encoder: The one that made the index's vectors; not needed for `like`.
        index: Refreshed by the caller, as are the columns: how fresh is fresh enough is not for a search to say.
        columns: Looked at only when there is a filter.
    Raises:
        InvalidInput: Nothing or several things to look for, a bad filter, a bad image.
        NotFound: `like` is no frame.
        Conflict: `like` has no vector yet, or the encoder is not the index's.
    """
    _check(k=k, offset=offset, asked=(text, image, like))
    chosen = parse_filter(where) if isinstance(where, str) else where
    mask = columns.mask(chosen) if chosen.terms else None
    self_row = -1
    if like is not None:
        self_row = frames.get(platform.database, like).row
        query_D = _vector_of(index, self_row, frame_id=like)
    else:
        query_D = _encoded(platform, _matching(encoder, index), text=text, image=image)
    wanted = offset + k + (1 if like is not None else 0)
    scores_1K, rows_1K = index.search(query_D[np.newaxis, :], k=wanted, mask=mask)
    found = [
        (row, score)
        for row, score in zip(rows_1K[0].tolist(), scores_1K[0].tolist(), strict=True)
        if row not in (-1, self_row)
    ][offset : offset + k]
    return [
        Hit(frame=frame, score=score)
        for frame, (_, score) in zip(frames.by_rows(platform.database, [row for row, _ in found]), found, strict=True)
    ]


def browse(
    platform: Platform, *, where: Filter | str = "", k: int = 20, offset: int = 0, columns: Columns
) -> list[Hit]:
    """The frames that match a filter, last ingested first.

    Raises:
        InvalidInput: A bad filter, `k` or `offset`.
    """
    _check(k=k, offset=offset, asked=("",))
    chosen = parse_filter(where) if isinstance(where, str) else where
    if chosen.terms:
        rows = np.flatnonzero(columns.mask(chosen))[::-1][offset : offset + k].tolist()
    else:
        last = columns.rows - offset
        rows = list(range(last - 1, max(-1, last - 1 - k), -1))
    return [Hit(frame=frame, score=None) for frame in frames.by_rows(platform.database, rows)]


def _check(*, k: int, offset: int, asked: tuple[object, ...]) -> None:
    if sum(one is not None for one in asked) != 1:
        raise InvalidInput("give exactly one thing to look for: words, an image or a frame")
    if k < 1 or offset < 0:
        raise InvalidInput(f"k must be at least 1 and offset at least 0, not {k} and {offset}")


def _vector_of(index: VectorIndex, row: int, *, frame_id: str) -> NDArray[np.float32]:
    rows = np.array([row], dtype=np.int64)
    if not index.has(rows)[0]:
        raise Conflict(
            f"frame {frame_id} has no vector yet; run `mlpl embed`, or wait for `mlpl serve`", frame_id=frame_id
        )
    vector_D: NDArray[np.float32] = index.vectors(rows)[0]
    return vector_D


def _matching(encoder: Encoder | None, index: VectorIndex) -> Encoder:
    if encoder is None or encoder.encoder_id != index.encoder_id:
        name = "none" if encoder is None else encoder.encoder_id
        raise Conflict(f"the index is of encoder {index.encoder_id}, the encoder given is {name}")
    return encoder


def _encoded(platform: Platform, encoder: Encoder, *, text: str | None, image: bytes | None) -> NDArray[np.float32]:
    if text is not None:
        if not text.strip():
            raise InvalidInput("there are no words to look for")
        return np.asarray(encoder.encode_texts([text.strip()])[0])
    decoded = images.open_image(image or b"", max_pixels=platform.settings.max_image_pixels)
    # The same way through the preview as the fleet's frames took, so that the same image has the same vector.
    with Image.open(io.BytesIO(images.preview(decoded.pixels))) as small:
        return np.asarray(encoder.encode_images([small.convert("RGB")])[0])
