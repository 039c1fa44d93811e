"""Embedding: gives every row a vector from an encoder, in pieces that are committed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from infra import leases
from infra.errors import Denied, InvalidInput, NotFound
from infra.logs import get_logger
from infra.platform import Platform
from selection import shards
from selection.fleet import frames, images, originals

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_FRAMES = 64
DECODERS = 4

_NO_LIMIT = 2**62  # What is in the fleet has passed the limit at ingest.

log = get_logger(__name__)


class ImageEncoder(Protocol):
    """What embedding needs of an encoder."""

    @property
    def encoder_id(self) -> str:
        """Producer of the shards."""
        ...

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        ...

    def encode_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Unit vectors, shape (N, D)."""
        ...


def embed_missing(
    platform: Platform, encoder: ImageEncoder, *, progress: Callable[[int, int], None] | None = None
) -> int:
    """Embeds every row that has no vector of this encoder yet.

    Pieces that another process is at are left to it. A killed call loses at most the piece it was at.

    Args:
        progress: Called with rows done and rows to do after every batch.

    Returns:
        Rows that this call embedded.
    """
    db = platform.database
    pieces = shards.gaps(db, "vectors", encoder.encoder_id, frames.row_count(db))
    total = sum(stop - start for start, stop in pieces)
    done = 0
    for start, stop in pieces:
        with leases.try_hold(db, f"embed/{encoder.encoder_id}/{start}") as lease:
            if lease is None or not _is_missing(platform, encoder, start=start):
                continue
            before = done

            def report(count: int, before: int = before) -> None:
                if progress is not None:
                    progress(before + count, total)

            table = embed_rows(platform, encoder, start=start, stop=stop, progress=report)
            if shards.write(platform, "vectors", encoder.encoder_id, start, stop, table) is not None:
                done += stop - start
    if done:
        log.info("rows_embedded", encoder_id=encoder.encoder_id, rows=done)
    return done


def embed_rows(
    platform: Platform,
    encoder: ImageEncoder,
    *,
    start: int,
    stop: int,
    progress: Callable[[int], None] = lambda _count: None,
) -> pa.Table:
    """Embeds rows `[start, stop)` from their previews.

    Previews are decoded by threads while the encoder works on the batch before.

    Returns:
        Columns `row` and `vector` (float16 of unit length); null where neither preview nor original can be read.
    """
    count = stop - start
    vectors_ND = np.zeros((count, encoder.dimension), dtype=np.float16)
    valid_N = np.zeros(count, dtype=np.bool_)
    keys: list[tuple[str, str, str | None] | None] = [None] * count
    wanted = ("row", "preview_key", "object_key", "object_uri")
    for document in frames.documents(platform.database, start=start, stop=stop, fields=wanted):
        keys[document["row"] - start] = (
            document["preview_key"],
            document["object_key"],
            document.get("object_uri"),
        )

    batches = [slice(first, min(first + BATCH_FRAMES, count)) for first in range(0, count, BATCH_FRAMES)]
    with ThreadPoolExecutor(max_workers=DECODERS) as pool:
        waiting = [pool.submit(_read_preview, platform, key) for key in keys[batches[0]]] if batches else []
        for batch, following in zip(batches, [*batches[1:], None], strict=True):
            pictures = [future.result() for future in waiting]
            if following is not None:
                waiting = [pool.submit(_read_preview, platform, key) for key in keys[following]]
            positions = [batch.start + offset for offset, image in enumerate(pictures) if image is not None]
            if positions:
                vectors_ND[positions] = encoder.encode_images([image for image in pictures if image is not None])
                valid_N[positions] = True
            progress(batch.stop)
    return vector_table(vectors_ND, valid_N=valid_N, start=start)


def vector_table(vectors_ND: NDArray[np.float16], *, valid_N: NDArray[np.bool_], start: int) -> pa.Table:
    """The columns of a vector shard.

    Args:
        vectors_ND: Shape (N, D), unit length.
        valid_N: Shape (N,); where False, the vector is null.
        start: Row of the first line.
    """
    import pyarrow as pa

    mask = pa.array(~valid_N) if not valid_N.all() else None
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(vectors_ND.reshape(-1)), vectors_ND.shape[1], mask=mask)
    rows = pa.array(np.arange(start, start + len(vectors_ND), dtype=np.int64))
    return pa.table({"row": rows, "vector": vectors})


def _is_missing(platform: Platform, encoder: ImageEncoder, *, start: int) -> bool:
    """Whether the piece is still to be made, now that it is ours: its last holder may just have committed it."""
    pieces = shards.gaps(platform.database, "vectors", encoder.encoder_id, frames.row_count(platform.database))
    return any(first == start for first, _ in pieces)


def _read_preview(platform: Platform, keys: tuple[str, str, str | None] | None) -> Image.Image | None:
    """A frame's preview, made again from the original where it is lost or damaged; None where that cannot be read either."""
    if keys is None:
        return None
    preview_key, object_key, object_uri = keys
    try:
        return images.open_image(platform.objects.get(preview_key), max_pixels=_NO_LIMIT, short_side=None).pixels
    except (NotFound, InvalidInput) as exc:
        log.warning("preview_unreadable", key=preview_key, reason=exc.message)
    try:
        original = images.open_image(
            originals.read(platform.objects, object_key=object_key, object_uri=object_uri), max_pixels=_NO_LIMIT
        )
        preview = images.preview(original.pixels)
        platform.objects.put(preview_key, preview)
        return images.open_image(preview, max_pixels=_NO_LIMIT, short_side=None).pixels
    except (NotFound, Denied, InvalidInput) as exc:
        log.warning("frame_unreadable", key=object_key, reason=exc.message)
        return None
