"""Frames without images, and files of predictions about them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from annotation import tasks
from infra.platform import Platform
from selection import shards
from selection.fleet import frames
from selection.fleet.frames import FrameFacts, FrameId
from service.production_line import prepare
from training.importing import importing
from training.importing.importing import Report

CLASSES = ("car", "person", "truck")
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Line:
    """A fleet whose frames are called `000.jpg`, `001.jpg` and so on, and a folder for files."""

    platform: Platform
    folder: Path

    def add(self, count: int) -> None:
        """Adds frames."""
        first = frames.row_count(self.platform.database)
        facts = []
        for number in range(first, first + count):
            digest = hashlib.sha256(f"frame {number}".encode()).hexdigest()
            facts.append(
                FrameFacts(
                    frame_id=frames.id_of(digest),
                    digest=digest,
                    width=64,
                    height=48,
                    format="JPEG",
                    size_bytes=1,
                    source=f"images/{number:03d}.jpg",
                    object_key=f"frames/{digest}.jpg",
                    preview_key=f"previews/{digest}.jpg",
                    ingested_at=NOW,
                )
            )
        frames.register(self.platform.database, facts)

    def frame_id(self, row: int) -> FrameId:
        """Of a row."""
        return frames.by_rows(self.platform.database, [row])[0].frame_id

    def task(self, kind: str, classes: Sequence[str] = CLASSES) -> tasks.Task:
        """A task named `t1`."""
        return tasks.create(self.platform.database, name="t1", kind=kind, classes=classes, now=NOW)

    def write(self, records: Sequence[Mapping[str, Any] | str], name: str = "predictions.jsonl") -> Path:
        """A file of JSON lines; texts are written as they are."""
        path = self.folder / name
        path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in records))
        return path

    def bring(self, source: Path, *, name: str = "m1", **options: Any) -> Report:
        """Imports predictions for task `t1`."""
        task = tasks.get(self.platform.database, "t1")
        return importing.import_predictions(self.platform, task=task, name=name, source=source, now=NOW, **options)

    def table(self, model_id: str = "imported-t1-m1") -> pa.Table:
        """Everything that the model's shards hold."""
        found = shards.records(self.platform.database, "predictions", model_id)
        tables = [shards.read(self.platform, one).replace_schema_metadata(None) for one in found]
        return pa.concat_tables(tables, promote_options="default")


@pytest.fixture
def line(platform: Platform, tmp_path: Path) -> Line:
    """Eight frames."""
    prepare(platform.database)
    made = Line(platform=platform, folder=tmp_path)
    made.add(8)
    return made
