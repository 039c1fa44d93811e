"""S3 prefixes as sources. A `metadata.jsonl` under the prefix speaks for the objects below it, as it does in a folder.

Keys come in their order, so all of a folder come together: its list is asked for when its first object comes.
"""

from __future__ import annotations

import posixpath
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass

from infra.errors import InvalidInput, NotFound
from infra.lake import Lake, s3_parts
from selection.fleet.metadata import METADATA_NAME, FrameMetadata
from selection.ingest import rejects
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


@dataclass(kw_only=True)
class _Folder:
    """A folder on the way to the present object.

    Attributes:
        home: Its URI, with a slash at the end.
        said: What its list says of those that have not come yet, by name; None where it has no list.
    """

    home: str
    said: dict[str, FrameMetadata] | None

    def missing(self) -> Iterator[Reject]:
        """What its list names in vain."""
        for name in self.said or ():
            reason = f"is not there, but {self.home}{METADATA_NAME} lists it"
            yield Reject(source=self.home + name, reason=reason, kind="missing")


def read(lake: Lake, prefix: str, *, meter: Meter, tally: Tally) -> Iterator[SourceFile | Reject]:
    """The objects under a prefix; those that a list does not name are left out, and those that it names in vain are missing.

    Raises:
        NotFound, Denied, BackendUnavailable: The bucket cannot be listed.
    """
    home = f"{prefix.rstrip('/')}/"
    way: list[_Folder] = []  # From the prefix down to the present object, or to the first folder that has a list.
    listing = _Listing(lake.list(prefix), meter)
    for uri, size_bytes in listing:
        if uri.endswith("/") and not size_bytes:
            continue  # A folder that someone made in the console.
        try:
            s3_parts(uri)
        except InvalidInput as exc:
            yield rejects.refused(uri, exc)
            continue
        if not uri.startswith(home):
            yield from _named(lake, uri, size_bytes)
            continue
        while way and not uri.startswith(way[-1].home):
            yield from way.pop().missing()
        for folder in _between(way[-1] if way else None, uri, home=home):
            way.append(_Folder(home=folder, said=None))
            if listing.may_hold(folder + METADATA_NAME):
                way[-1].said = yield from _said(lake, folder)
            if way[-1].said is not None:
                break
        yield from _one(way[-1], uri, size_bytes, home=home, tally=tally)
    while way:
        yield from way.pop().missing()


def _between(last: _Folder | None, uri: str, *, home: str) -> Iterator[str]:
    """The folders of an object that have not been entered yet; none below one that has a list, which speaks for all below it, and no hidden one."""
    if last is None:
        yield home
    elif last.said is not None:
        return
    at = len(home if last is None else last.home)
    while not uri.startswith(".", at) and (at := uri.find("/", at) + 1) > 0:
        yield uri[:at]


def _one(folder: _Folder, uri: str, size_bytes: int, *, home: str, tally: Tally) -> Iterator[SourceFile | Reject]:
    """An object as its list has it, or as it was met."""
    if folder.said is not None:
        name = uri.removeprefix(folder.home)
        if name in folder.said:
            yield SourceFile(path=uri, name=name, size_bytes=size_bytes, said=folder.said.pop(name))
        elif name.rpartition("/")[2] != METADATA_NAME and not _is_hidden(name):
            tally.count(ignored=1)
    elif not _is_hidden(name := uri.removeprefix(home)):
        yield SourceFile(path=uri, name=name, size_bytes=size_bytes, said=FrameMetadata(), met=True)


def _named(lake: Lake, uri: str, size_bytes: int) -> Iterator[SourceFile | Reject]:
    """An object that was named by itself, with what the list beside it says of it."""
    folder, _, name = uri.rpartition("/")
    said = yield from _said(lake, f"{folder}/")
    yield SourceFile(path=uri, name=name, size_bytes=size_bytes, said=(said or {}).get(name, FrameMetadata()))


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


class _Listing:
    """Objects by their keys, some of them known ahead."""

    def __init__(self, listing: Iterator[tuple[str, int]], meter: Meter) -> None:
        self._listing, self._meter = listing, meter
        self._waiting: deque[tuple[str, int]] = deque()
        self._lists: set[str] = set()
        self._reached: bytes | None = b""  # The last key that is known; None at the end.
        for _ in range(LISTED_AHEAD):
            self._take()

    def __iter__(self) -> Iterator[tuple[str, int]]:
        while self._waiting:
            self._meter.position += 1
            yield self._waiting.popleft()
            self._take()

    def _take(self) -> None:
        following = next(self._listing, None)
        if following is None:
            self._reached = None
            return
        uri = following[0]
        self._waiting.append(following)
        self._meter.size += 1
        self._reached = uri.encode()
        if uri.endswith(f"/{METADATA_NAME}"):
            self._lists.add(uri)

    def may_hold(self, uri: str) -> bool:
        """Whether there is such a list, or may be, as the listing has not come so far yet."""
        return uri in self._lists or (self._reached is not None and self._reached < uri.encode())


def _said(lake: Lake, home: str) -> Generator[Reject, None, dict[str, FrameMetadata] | None]:
    """What the list of a folder says, by name; None where there is no list."""
    try:
        data = lake.read(home + METADATA_NAME)
    except NotFound:
        return None
    said: dict[str, FrameMetadata] = {}
    for number, entry in lists.read(data.splitlines(), shown=home + METADATA_NAME):
        if isinstance(entry, Reject):
            yield entry
        elif (name := posixpath.normpath(entry.file)).startswith(("../", "/")):
            yield Reject(source=f"{home}{METADATA_NAME}:{number}", reason=f"{entry.file} points outside {home}")
        else:
            said[name] = entry
    return said
