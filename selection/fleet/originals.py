"""Where a frame's bytes are: in the object store, or, for one registered in place, where its fleet keeps it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from infra.errors import InvalidInput, NotFound
from infra.lake import local_path
from infra.objects import ObjectStore
from selection.fleet.frames import FrameFacts
from selection.pixels import images

_NO_LIMIT = 2**62  # What is in the fleet has passed the limit, or is checked when its pixels are first seen.


def read(objects: ObjectStore, *, object_key: str, object_uri: str | None) -> bytes:
    """The original bytes.

    Raises:
        NotFound: They are gone.
        Denied, BackendUnavailable: They cannot be read, or not now.
    """
    if object_uri is None:
        return objects.get(object_key)
    try:
        return objects.get(object_key)  # A copy was made when the frame was pinned.
    except NotFound:
        return objects.lake.read(object_uri)


def path(objects: ObjectStore, frame: FrameFacts) -> Path | None:
    """The file on this machine that holds the original, None where there is none."""
    found = objects.local_path(frame.object_key)
    if found is not None and found.is_file():
        return found
    found = local_path(frame.object_uri) if frame.object_uri else None
    if found is None or not found.is_file() or (frame.size_bytes and found.stat().st_size != frame.size_bytes):
        return None
    return found


def pin(objects: ObjectStore, frame: FrameFacts) -> str:
    """Makes sure that the object store itself holds the original, for whatever must outlive the lake; returns its key.

    Raises:
        NotFound: The original is gone.
        InvalidInput: It is not the file any more that was registered.
    """
    if frame.object_uri is not None and not objects.exists(frame.object_key):
        data = objects.lake.read(frame.object_uri)
        check_digest(data, expected=frame.digest, uri=frame.object_uri)
        objects.put(frame.object_key, data)
    return frame.object_key


def preview(
    objects: ObjectStore, *, preview_key: str, object_key: str, object_uri: str | None, max_pixels: int = _NO_LIMIT
) -> bytes:
    """The preview's JPEG, made from the original where it is not there yet; errors as `make_preview`."""
    try:
        return objects.get(preview_key)
    except NotFound:
        return make_preview(
            objects, preview_key=preview_key, object_key=object_key, object_uri=object_uri, max_pixels=max_pixels
        )


def make_preview(
    objects: ObjectStore, *, preview_key: str, object_key: str, object_uri: str | None, max_pixels: int = _NO_LIMIT
) -> bytes:
    """Makes the preview's JPEG from the original, keeps and returns it.

    Args:
        max_pixels: Nobody has checked the size of an original in place yet, so whoever meets it first should give the limit.

    Raises:
        NotFound: The original is gone.
        InvalidInput: The original cannot be decoded, or is larger than `max_pixels`.
        Denied, BackendUnavailable: The original cannot be read, or not now.
    """
    data = read(objects, object_key=object_key, object_uri=object_uri)
    made = images.preview(images.open_image(data, max_pixels=max_pixels).pixels)
    objects.put(preview_key, made)
    return made


def check_digest(data: bytes, *, expected: str, uri: str) -> None:
    """Compares bytes with the digest they were announced under.

    Raises:
        InvalidInput: They differ; the message names both.
    """
    actual = hashlib.sha256(data).hexdigest()
    if actual != expected:
        raise InvalidInput(f"{uri} has the digest {actual}, but {expected} was announced", uri=uri)
