"""What the user pointed at, as a stream of files with what is said about each.

A folder that has a `metadata.jsonl` is a dataset: the files it lists are its frames, and everything else in it (masks, notes) is ignored.
A folder without one gives every file in it. Links are followed wherever they lead, each folder once, but not to a folder that holds the given
one. A `track.csv` or `track.parquet` is the track of the files in its folder and of those that the list beside it names. Nothing is opened here
but metadata, and nothing is held but one folder's names.
"""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from infra.errors import InvalidInput
from selection.fleet import metadata
from selection.fleet.metadata import METADATA_NAME, FrameMetadata
from selection.ingest.rejects import Reject
from selection.ingest.sources import lists
from selection.ingest.sources.files import SourceFile
from selection.ingest.tracks.reading import TRACK_NAMES

_LONGEST_LINE = 16 * 1024 * 1024


class Sources:
    """The files behind a list of folders, globs and images. Can be walked again and again.

    Attributes:
        ignored: Files of the last walk that are there but that their dataset's metadata does not list.
    """

    def __init__(
        self, given: Sequence[str], *, metadata_file: Path | None = None, excluded: Sequence[Path] = ()
    ) -> None:
        """Looks up what was given.

        Args:
            given: Folders, globs (`**` for any depth) and single images.
            metadata_file: To use for all of them, instead of the `metadata.jsonl` found with each.
            excluded: Folders that are never entered: our own copies of the images may lie below what was given.
        Raises:
            InvalidInput: Something given does not exist, or a glob matches nothing.
        """
        self.ignored = 0
        if not given:
            raise InvalidInput("nothing to ingest: give a folder, a glob or an image")
        if metadata_file is not None and not metadata_file.is_file():
            problem = "is not a file" if metadata_file.exists() else "does not exist"
            raise InvalidInput(f"metadata file {metadata_file} {problem}")
        self._excluded = frozenset(os.path.realpath(folder) for folder in excluded)
        self._metadata_file = None if metadata_file is None else _in_real_folder(str(metadata_file))
        self._folders: dict[str, None] = {}
        self._files: dict[str, bool] = {}  # Absolute path -> named by itself (True) or met by a glob.
        for source in given:
            self._look_up(source)

    def __iter__(self) -> Iterator[SourceFile | Reject]:
        """Walks all files, in a stable order. A file reached over two ways may come twice."""
        self.ignored = 0
        if self._metadata_file is not None:
            yield from self._dataset(
                self._metadata_file, folders=list(self._folders), files=self._files, elsewhere=True
            )
            return
        is_only = len(self._folders) + len(self._files) == 1
        for folder in self._folders:
            governing = _metadata_for_folder(folder)
            if governing is None:
                yield from self._tree(folder)
            elif is_only:
                yield from self._dataset(governing, folders=[folder])
            else:
                yield from self._one_of_several(governing, folders=[folder])
        yield from self._single_files()

    def _look_up(self, source: str) -> None:
        path = os.path.expanduser(source)  # A Path would lose the meaning of a trailing "**".
        if "\0" in path:
            raise InvalidInput("a source holds a NUL character")
        if os.path.exists(path):
            self._take(path, named=True)
            return
        matches = sorted(glob.iglob(path, recursive=True)) if glob.has_magic(path) else []
        if not matches:
            what = "matches nothing" if glob.has_magic(path) else "does not exist"
            raise InvalidInput(f"{source} {what}; give a folder, a glob or an image that is there", source=source)
        for match in matches:
            self._take(match, named=False)

    def _take(self, path: str, *, named: bool) -> None:
        path = _in_real_folder(path)
        real = os.path.realpath(path) if os.path.islink(path) else path
        if real in self._excluded or any(real.startswith(folder + os.sep) for folder in self._excluded):
            return
        if os.path.isdir(real):
            self._folders[real] = None
        elif os.path.basename(path) in TRACK_NAMES:
            return
        elif os.path.basename(path) == METADATA_NAME:
            # Naming the list means the dataset; a glob such as `data/*` merely meets it beside the images.
            if named:
                self._folders[os.path.dirname(path)] = None
        else:
            self._files[path] = named or self._files.get(path, False)

    def _single_files(self) -> Iterator[SourceFile | Reject]:
        governed: dict[str, dict[str, bool]] = {}
        for path, named in self._files.items():
            governing = _metadata_for_folder(os.path.dirname(path))
            if governing is not None:
                governed.setdefault(governing, {})[path] = named
            else:
                track = _track_in(os.path.dirname(path))
                yield _checked(path, name=os.path.basename(path), said=FrameMetadata(), track=track, met=not named)
        for governing, files in governed.items():
            yield from self._one_of_several(governing, folders=[], files=files)

    def _one_of_several(
        self, listing: str, *, folders: Sequence[str], files: dict[str, bool] | None = None
    ) -> Iterator[SourceFile | Reject]:
        """As `_dataset`; a list that cannot be read does not end the others."""
        try:
            yield from self._dataset(listing, folders=folders, files=files)
        except InvalidInput as exc:
            yield Reject(source=listing, reason=exc.message)

    def _dataset(
        self,
        listing: str,
        *,
        folders: Sequence[str],
        files: dict[str, bool] | None = None,
        elsewhere: bool = False,
    ) -> Iterator[SourceFile | Reject]:
        """The files that a metadata file lists, as far as they are in `folders` or among `files`."""
        home = os.path.dirname(listing)
        bases = [home]
        if elsewhere:
            # A list kept apart from its images may mean paths as seen from the images' folder, or from above it.
            bases += [*folders, *(os.path.dirname(folder) for folder in folders)]
        unlisted = dict(files or {})
        prefixes = tuple(folder.rstrip(os.sep) + os.sep for folder in folders)
        tracks: dict[str, str | None] = {}
        listed_here = 0
        for number, said in lists.read(_lines(listing), shown=listing):
            if isinstance(said, Reject):
                yield said
                continue
            candidates = [os.path.normpath(os.path.join(base, said.file)) for base in bases]
            inside = [path for path in candidates if path in unlisted or path.startswith(prefixes)]
            path = next((path for path in inside if os.path.exists(path)), inside[0] if inside else None)
            if path is None:
                if home in folders:
                    yield Reject(source=f"{listing}:{number}", reason=f"{said.file} points outside the folder {home}")
                continue
            folder = os.path.dirname(path)
            if folder not in tracks:
                tracks[folder] = _track_in(folder) or _track_in(home)
            found = _checked(path, name=said.file, said=said, track=tracks[folder])
            if isinstance(found, Reject):
                yield replace(found, reason=f"{found.reason} (listed in {listing}, line {number})")
                continue
            if unlisted.pop(path, None) is None:
                listed_here += 1
            yield found
        for path, named in unlisted.items():
            if named:
                yield _checked(path, name=os.path.basename(path), said=FrameMetadata())
            else:
                self.ignored += 1
        self.ignored += max(0, sum(_file_count(folder, self._excluded) for folder in folders) - listed_here)

    def _tree(self, root: str) -> Iterator[SourceFile | Reject]:
        for folder, names, problem in _walk(root, self._excluded):
            if problem is not None:
                yield Reject(source=folder, reason=problem)
            elif METADATA_NAME in names:
                yield from self._one_of_several(os.path.join(folder, METADATA_NAME), folders=[folder])
            else:
                track = _track_in(folder)
                for name in names:
                    path = os.path.join(folder, name)
                    if path != track:
                        shown = os.path.relpath(path, root)
                        yield _checked(path, name=shown, said=FrameMetadata(), track=track, met=True)


def _metadata_for_folder(folder: str) -> str | None:
    """The list that speaks for a folder: its own or, for a folder of images inside a dataset, the one above."""
    for place in (folder, os.path.dirname(folder)):
        path = os.path.join(place, METADATA_NAME)
        if os.path.isfile(path):
            return path
    return None


def _in_real_folder(path: str) -> str:
    """Absolute and without links to folders, but with the file's own name: what it links to may have none worth keeping."""
    if os.path.isdir(path):
        return os.path.realpath(path)
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def _lines(listing: str) -> Iterator[bytes]:
    try:
        with Path(listing).open("rb") as file:
            while line := file.readline(_LONGEST_LINE):
                if len(line) == _LONGEST_LINE and not line.endswith(b"\n"):
                    problem = f"a line of {listing} is longer than {_LONGEST_LINE >> 20} MiB; is this JSON Lines?"
                    raise InvalidInput(problem)
                yield line
    except OSError as exc:
        raise InvalidInput(f"cannot read {listing}: {exc.strerror}") from exc


def _track_in(folder: str) -> str | None:
    found = (os.path.join(folder, name) for name in TRACK_NAMES)
    return next((path for path in found if os.path.isfile(path)), None)


def _checked(
    path: str, *, name: str, said: FrameMetadata, track: str | None = None, met: bool = False
) -> SourceFile | Reject:
    shown = metadata.valid_text(path)
    try:
        found = os.stat(path)
    except FileNotFoundError:
        linked = os.path.islink(path)
        reason = "the link leads nowhere" if linked else "the file is not there"
        return Reject(source=shown, reason=reason, kind="missing")
    except OSError as exc:
        return Reject(source=shown, reason=f"cannot be read: {exc.strerror}")
    if not stat.S_ISREG(found.st_mode):
        return Reject(source=shown, reason="not a file")  # Opening a pipe or a device could wait for ever.
    name = metadata.valid_text(name)
    return SourceFile(path=path, name=name, size_bytes=found.st_size, said=said, track=track, met=met)


def _walk(
    root: str, excluded: frozenset[str], *, into_datasets: bool = False
) -> Iterator[tuple[str, list[str], str | None]]:
    """Folders below `root` with their file names, or with what keeps them from being read.

    Hidden names and `excluded` folders are left out. Links to folders are followed wherever they lead, each folder once, so that loops end; but
    not to a folder that holds `root`: it would bring in what was not given. Unless `into_datasets`, a folder that has a metadata list is not
    descended into: the list speaks for all below.

    Args:
        root: Without links in its path.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            identity = os.stat(folder)
            real = os.path.realpath(folder)
            if (
                (identity.st_dev, identity.st_ino) in seen
                or real in excluded
                or (real != root and root.startswith(os.path.join(real, "")))
            ):
                continue
            seen.add((identity.st_dev, identity.st_ino))
            with os.scandir(folder) as scan:
                entries = sorted((entry for entry in scan if not entry.name.startswith(".")), key=lambda e: e.name)
        except OSError as exc:
            yield folder, [], f"cannot be read: {exc.strerror}"
            continue
        folders = [entry.path for entry in entries if _is_folder(entry)]
        names = [entry.name for entry in entries if not _is_folder(entry)]
        yield folder, names, None
        if into_datasets or METADATA_NAME not in names:
            waiting.extend(reversed(folders))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # A link to itself; it is reported with the files.


def _file_count(root: str, excluded: frozenset[str]) -> int:
    """Files in a dataset's folder at any depth, without its metadata list."""
    own = {METADATA_NAME, *TRACK_NAMES}
    return sum(
        name not in own for _, names, _ in _walk(os.path.realpath(root), excluded, into_datasets=True) for name in names
    )
