"""S3 prefixes as sources. A `metadata.jsonl` right under the prefix speaks for the objects below it, as it does in a folder."""

from __future__ import annotations

import posixpath
from collections import deque
from collections.abc import Iterator
from itertools import islice

from infra.errors import InvalidInput, NotFound
from infra.lake import Lake
from selection.fleet.metadata import METADATA_NAME, FrameMetadata
from selection.ingest.rejects import Reject
from selection.ingest.report import Tally
from selection.ingest.sources import lists
from selection.ingest.sources.files import SourceFile
from selection.ingest.sources.meter import Meter

LISTED_AHEAD = 20_000
"""How many objects are listed before they are read, so that the progress knows of them."""


def is_prefix(source: str) -> bool:
    """Whether a source that was named lies in a bucket."""
    return source.startswith("s3://")


def read(lake: Lake, prefix: str, *, meter: Meter, tally: Tally) -> Iterator[SourceFile | Reject]:
    """The objects under a prefix; those that a list does not name are left out, and those that it names in vain are missing.

    Raises:
        NotFound, Denied, BackendUnavailable: The bucket cannot be listed.
    """
    home = f"{prefix.rstrip('/')}/"
    said: dict[str, FrameMetadata] | None = None
    try:
        listing = lake.read(home + METADATA_NAME)
    except (NotFound, InvalidInput):
        pass
    else:
        said = {}
        yield from _take_list(listing, said, home=home)
    for uri, size_bytes in _ahead(lake.list(prefix), meter):
        name = uri.removeprefix(home) if uri.startswith(home) else uri.rpartition("/")[2]
        if name.rpartition("/")[2].startswith(".") or uri == home + METADATA_NAME:
            continue
        if said is None:
            yield SourceFile(path=uri, name=name, size_bytes=size_bytes, said=FrameMetadata(), met=True)
        elif name in said:
            yield SourceFile(path=uri, name=name, size_bytes=size_bytes, said=said.pop(name))
        else:
            tally.count(ignored=1)
    for name in said or ():
        yield Reject(source=home + name, reason=f"is not there, but {home}{METADATA_NAME} lists it", kind="missing")


def _ahead(listing: Iterator[tuple[str, int]], meter: Meter) -> Iterator[tuple[str, int]]:
    waiting = deque(islice(listing, LISTED_AHEAD))
    meter.size += len(waiting)
    while waiting:
        meter.position += 1
        yield waiting.popleft()
        following = next(listing, None)
        if following is not None:
            waiting.append(following)
            meter.size += 1


def _take_list(data: bytes, said: dict[str, FrameMetadata], *, home: str) -> Iterator[Reject]:
    for number, entry in lists.read(data.splitlines(), shown=home + METADATA_NAME):
        if isinstance(entry, Reject):
            yield entry
        elif (name := posixpath.normpath(entry.file)).startswith(("../", "/")):
            yield Reject(source=f"{home}{METADATA_NAME}:{number}", reason=f"{entry.file} points outside {home}")
        else:
            said[name] = entry
