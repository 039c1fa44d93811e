"""What the user named, told apart by its kind and opened as streams of files."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from infra.errors import InvalidInput
from selection.ingest.rejects import Reject
from selection.ingest.sources import archives, buckets, manifests
from selection.ingest.sources.files import SourceFile

_NAMED_SITE = re.compile(r"([\w.-]+)=(.+)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Named:
    """One source.

    Attributes:
        given: Without the site.
        site: Where its images come from, for those whose metadata does not say.
    """

    given: str
    site: str | None

    @property
    def path(self) -> Path:
        """As a file of this machine."""
        return Path(self.given).expanduser()


@dataclass(frozen=True, kw_only=True)
class Kinds:
    """Sources by their kind."""

    others: dict[str | None, list[str]]  # By site.
    prefixes: list[Named]
    archives: list[Named]
    manifests: list[Named]


def read_source(text: str, *, site: str | None) -> Named:
    """`nagoya=/data/a` is the source `/data/a` of the site `nagoya`, unless files have that very name."""
    found = _NAMED_SITE.fullmatch(text)
    if found is None or _is_there(os.path.expanduser(text)):
        return Named(given=text, site=site)
    return Named(given=found[2], site=found[1])


def _is_there(path: str) -> bool:
    return os.path.exists(path) or (glob.has_magic(path) and next(glob.iglob(path, recursive=True), None) is not None)


def by_kind(sources: Sequence[str], *, site: str | None, in_place: bool) -> Kinds:
    """Sorts sources into what reads them.

    Raises:
        InvalidInput: There is none, or something inside an archive should stay in place.
    """
    if not sources:
        raise InvalidInput("nothing to ingest: give a folder, a glob or an image")
    kinds = Kinds(others={}, prefixes=[], archives=[], manifests=[])
    for one in (read_source(text, site=site) for text in sources):
        if buckets.is_prefix(one.given):
            kinds.prefixes.append(one)
        elif archives.is_archive(one.given):
            if in_place:
                raise InvalidInput(f"what is inside {one.path} cannot stay in place; leave out --in-place")
            kinds.archives.append(one)
        elif manifests.is_manifest(one.given):
            kinds.manifests.append(one)
        else:
            kinds.others.setdefault(one.site, []).append(one.given)
    return kinds


def at_site(items: Iterable[SourceFile | Reject], site: str | None) -> Iterator[SourceFile | Reject]:
    """Adds the site to the files whose metadata does not name one."""
    for item in items:
        if site is None or isinstance(item, Reject) or item.said.site is not None:
            yield item
        else:
            yield replace(item, said=replace(item.said, site=site))
