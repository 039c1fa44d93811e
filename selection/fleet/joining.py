"""Joining what other people's files say with frames, whatever they call them and in whatever order they come.

A record names its frame by `frame_id`, by `digest` (SHA-256 of the image), or by `uri` or `file`: an address or path, or the end of one
(`0001.jpg`, `images/0001.jpg`), which must belong to one frame only. With a folder of the images at hand, a path is opened and hashed, so
that it is found whatever it was called at ingest.

Everything waits in a temporary SQLite database on the disk (SQLITE_TMPDIR says where) that vanishes with the process, so that millions of
records in any order need little memory.
"""

from __future__ import annotations

import functools
import hashlib
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote

from infra.database import Db
from infra.errors import InvalidInput
from selection.fleet import frames, sightings
from selection.fleet.frames import FrameId

ID_KEYS = ("frame_id", "frame-id")
DIGEST_KEYS = ("digest", "sha256")
NAME_KEYS = ("uri", "source-ref", "file", "file_name", "path")
REFERENCE_KEYS = frozenset({*ID_KEYS, *DIGEST_KEYS, *NAME_KEYS})

ANY_SUFFIX = ".*"
"""At the end of a name: an image of that name, whatever its suffix."""

_BUFFERED = 5000
_WALKED = 2000
_EXAMPLES = 3
_BY_ID = "id:"


@dataclass(frozen=True, kw_only=True)
class Unmatched:
    """References that belong to no frame, or to several.

    Attributes:
        count: Different ones.
        examples: A few, as they were written.
    """

    count: int
    examples: tuple[str, ...]


@dataclass(kw_only=True)
class Leftovers:
    """What of a file could not be used.

    Attributes:
        unknown: References to frames that are not in the fleet.
        ambiguous: References that several frames answer to.
        broken: Lines that could not be read or understood.
        broken_examples: A few of them, each with its number and what is wrong.
    """

    unknown: Unmatched = field(default_factory=lambda: Unmatched(count=0, examples=()))
    ambiguous: Unmatched = field(default_factory=lambda: Unmatched(count=0, examples=()))
    broken: int = 0
    broken_examples: list[str] = field(default_factory=list)

    def note_broken(self, number: int, problem: str) -> None:
        """Counts a line, and keeps what is wrong with the first few."""
        self.broken += 1
        if len(self.broken_examples) < _EXAMPLES:
            self.broken_examples.append(f"line {number}: {problem}")

    def told(self) -> list[str]:
        """The parts of a summary line; none where everything was used."""
        parts = [
            f"{found.count} {what} ({', '.join(found.examples)})"
            for found, what in ((self.unknown, "unknown frames"), (self.ambiguous, "names of several frames"))
            if found.count
        ]
        return parts + ([f"{self.broken} broken lines ({'; '.join(self.broken_examples)})"] if self.broken else [])


def reference_of(record: Mapping[str, Any], *, images: Path | None = None) -> str:
    """How a record names its frame, in the form that `Joining` takes.

    Args:
        record: Its keys are looked at in the order of this module's first lines.
        images: Folder that paths are relative to; a file that is there is hashed.
    Raises:
        InvalidInput: It does not, or not so that a frame could be found.
    """
    for keys, length in ((ID_KEYS, 32), (DIGEST_KEYS, 64)):
        if (said := next((record[key] for key in keys if record.get(key)), None)) is not None:
            digits = str(said).lower().removeprefix("sha256:")
            if not re.fullmatch(rf"[0-9a-f]{{{length}}}", digits):
                raise InvalidInput(f"`{keys[0]}` {str(said)[:80]!r} does not have {length} hex digits")
            return _BY_ID + frames.id_of(digits)
    said = next((record[key] for key in NAME_KEYS if record.get(key)), None)
    if not isinstance(said, str):
        raise InvalidInput("it names no frame: give `frame_id`, `digest`, `uri` or `file`")
    return reference_to(said, images=images)


def reference_to(name: str, *, images: Path | None = None) -> str:
    """The same for a bare name: a frame id, a digest, an address, a path or the end of one.

    Raises:
        InvalidInput: The file is there, but cannot be read.
    """
    if re.fullmatch(r"[0-9a-fA-F]{32}|[0-9a-fA-F]{64}", name):
        return _BY_ID + frames.id_of(name.lower())
    stem = name.removesuffix(ANY_SUFFIX)
    if stem != name and re.fullmatch(r"[0-9a-fA-F]{32}", stem):
        return _BY_ID + frames.id_of(stem.lower())
    if images is not None and "://" not in name and (path := images / name).is_file():
        return _BY_ID + frames.id_of(_digest(path))
    return "/".join(_parts(name))


class Joining:
    """Payloads waiting for their frames. Use as a context manager."""

    def __init__(self, db: Db) -> None:
        """Opens the temporary database."""
        self._db = db
        self._spool = sqlite3.connect("", isolation_level=None)
        self._spool.executescript(
            """
            PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -65536;
            CREATE TABLE entries (number INTEGER PRIMARY KEY, reference TEXT, row INTEGER, payload BLOB);
            CREATE TABLE found (name TEXT, row INTEGER, PRIMARY KEY (name, row)) WITHOUT ROWID;
            """
        )
        self._waiting: list[tuple[str, bytes]] = []
        self._depths: set[int] = set()
        self._any_suffix = False

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Drops everything."""
        self._spool.close()

    def add(self, reference: str, payload: bytes) -> None:
        """Takes one payload in; several may have the same reference."""
        self._waiting.append((reference, payload))
        if len(self._waiting) == _BUFFERED:
            self._flush()

    def match(self) -> None:
        """Finds the frames; to be called once, after the last `add`."""
        self._flush()
        if self._depths:
            self._spool.execute("CREATE INDEX by_reference ON entries (reference)")
            self._walk()
            self._spool.execute(
                "UPDATE entries SET row = (SELECT MIN(row) FROM found WHERE name = reference) "
                "WHERE row IS NULL AND (SELECT COUNT(*) FROM found WHERE name = reference) = 1"
            )
        self._spool.execute("CREATE INDEX by_row ON entries (row, number)")

    @property
    def unknown(self) -> Unmatched:
        """References to no frame of the fleet."""
        return self._unmatched("reference NOT IN (SELECT name FROM found)")

    @property
    def ambiguous(self) -> Unmatched:
        """References to several frames."""
        return self._unmatched("reference IN (SELECT name FROM found)")

    @property
    def count(self) -> int:
        """How many frames have something."""
        return int(self._spool.execute("SELECT COUNT(DISTINCT row) FROM entries").fetchone()[0])

    def rows(self, start: int, stop: int) -> Iterator[tuple[int, list[bytes]]]:
        """Rows of a range that have something, ascending, each with its payloads in the order they came."""
        found = self._spool.execute(
            "SELECT row, payload FROM entries WHERE row >= ? AND row < ? ORDER BY row, number", (start, stop)
        )
        for row, group in groupby(found, key=lambda one: one[0]):
            yield row, [payload for _, payload in group]

    def _flush(self) -> None:
        ids = [FrameId(one.removeprefix(_BY_ID)) for one, _ in self._waiting if one.startswith(_BY_ID)]
        row_of = frames.rows_of(self._db, ids) if ids else {}
        self._depths |= {one.count("/") for one, _ in self._waiting if not one.startswith(_BY_ID)}
        self._any_suffix |= any(one.endswith(ANY_SUFFIX) for one, _ in self._waiting)
        self._spool.execute("BEGIN")
        self._spool.executemany(
            "INSERT INTO entries (reference, row, payload) VALUES (?, ?, ?)",
            ((one, row_of.get(FrameId(one.removeprefix(_BY_ID))), payload) for one, payload in self._waiting),
        )
        self._spool.execute("COMMIT")
        self._waiting = []

    def _walk(self) -> None:
        """Goes through the fleet once, block by block, and notes which frames the names may mean."""
        walked = frames.documents(self._db, start=0, fields=("_id", "row", "source", "object_uri"))
        while block := list(islice(walked, _WALKED)):
            row_of = {one["_id"]: one["row"] for one in block}
            names = {(one["row"], name) for one in block for name in (one["source"], one.get("object_uri")) if name}
            names |= {(row_of[frame_id], uri) for frame_id, uri in sightings.uris(self._db, list(row_of))}
            ends = {(end, row) for row, name in names for end in self._ends(name)}
            self._spool.execute("BEGIN")
            self._spool.executemany(
                "INSERT OR IGNORE INTO found SELECT ?1, ?2 WHERE EXISTS (SELECT 1 FROM entries WHERE reference = ?1)",
                ends,
            )
            self._spool.execute("COMMIT")

    def _ends(self, name: str) -> Iterator[str]:
        """The ends of a path that are as long as some name that was given."""
        parts = _parts(name)
        stem = [*parts[:-1], parts[-1].rpartition(".")[0] + ANY_SUFFIX] if self._any_suffix else parts
        for depth in self._depths:
            if depth < len(parts):
                yield "/".join(parts[-depth - 1 :])
                yield "/".join(stem[-depth - 1 :])

    def _unmatched(self, condition: str) -> Unmatched:
        where = f"FROM entries WHERE row IS NULL AND {condition}"
        count = self._spool.execute(f"SELECT COUNT(DISTINCT reference) {where}").fetchone()[0]
        with closing(self._spool.execute(f"SELECT DISTINCT reference {where} LIMIT {_EXAMPLES}")) as found:
            examples = tuple(reference.removeprefix(_BY_ID) for (reference,) in found)
        return Unmatched(count=int(count), examples=examples)


def _parts(name: str) -> Sequence[str]:
    """A path's components, without scheme and empty ones."""
    scheme, divider, rest = name.partition("://")
    path = name if not divider else unquote(rest) if scheme == "file" else rest
    return [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")] or [name]


@functools.lru_cache(maxsize=65536)
def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as exc:
        raise InvalidInput(f"cannot read {path}: {exc.strerror}") from exc
