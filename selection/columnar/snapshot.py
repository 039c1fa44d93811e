"""A copy of the columns on this machine's disk, so that a large fleet need not be read from the database at every start.

It is a cache and never the truth: its reader checks that the first and the last frame it holds are the ones the database has at those rows,
and asks for what changed since. A file that is missing, damaged or of another format is as good as none.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FORMAT = 1


def save(path: Path, *, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> None:
    """Writes a copy in place of the one before, as a whole. A disk that is full or read-only costs the copy, nothing else.

    Args:
        path: The file.
        arrays: Arrays by name.
        facts: What else to keep, as JSON.
    """
    being_written = path.with_name(f".{path.name}.{os.getpid()}")
    described = np.frombuffer(json.dumps({"format": FORMAT, **facts}).encode(), dtype=np.uint8)
    with suppress(OSError):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with being_written.open("wb") as file:
                kept: dict[str, Any] = {"facts": described, **arrays}
                np.savez(file, **kept)
            being_written.replace(path)
        finally:
            being_written.unlink(missing_ok=True)


def load(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]] | None:
    """The arrays and facts that were saved last; None when there is nothing to go by."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        facts: dict[str, Any] = json.loads(arrays.pop("facts").tobytes())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return (arrays, facts) if facts.get("format") == FORMAT else None
