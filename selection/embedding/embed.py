"""Embedding: gives every row a vector from an encoder, in pieces that are committed once."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from infra import leases
from infra.errors import Denied, InvalidInput, NotFound
from infra.logs import get_logger
from infra.platform import Platform
from selection import shards
from selection.fleet import frames, originals
from selection.pixels import images

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_FRAMES = 64
BATCHES_AHEAD = 2
DECODERS = min(16, max(2, os.cpu_count() or 1))

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


@runtime_checkable
class PreparingEncoder(ImageEncoder, Protocol):
    """An encoder whose preparation of an image can run in other threads than its model."""

    def prepare(self, image: Image.Image) -> Any:
        """What the model takes of one image."""
        ...

    def encode_prepared(self, prepared: Sequence[Any]) -> NDArray[np.float32]:
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

    Threads decode previews and resize them for the model, two batches ahead of it, so that the model never waits for an image.

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

    prepare, encode = _ways(encoder)

    def made_ready(key: tuple[str, str, str | None] | None) -> Any:
        image = _read_preview(platform, key)
        return None if image is None else prepare(image)

    batches = [slice(first, min(first + BATCH_FRAMES, count)) for first in range(0, count, BATCH_FRAMES)]
    with ThreadPoolExecutor(max_workers=DECODERS, thread_name_prefix="decode") as pool:
        ahead: deque[list[Future[Any]]] = deque()
        try:
            for number, batch in enumerate(batches):
                for following in batches[number + len(ahead) : number + 1 + BATCHES_AHEAD]:
                    ahead.append([pool.submit(made_ready, key) for key in keys[following]])
                inputs = [future.result() for future in ahead.popleft()]
                positions = [batch.start + offset for offset, one in enumerate(inputs) if one is not None]
                if positions:
                    vectors_ND[positions] = encode([one for one in inputs if one is not None])
                    valid_N[positions] = True
                progress(batch.stop)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
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


def _ways(encoder: ImageEncoder) -> tuple[Callable[[Image.Image], Any], Callable[[list[Any]], NDArray[np.float32]]]:
    """What the threads do to an image, and what the model does to the results: an encoder that can share the work so, does."""
    if isinstance(encoder, PreparingEncoder):
        return encoder.prepare, encoder.encode_prepared
    return lambda image: image, encoder.encode_images


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
