"""A small fleet with chosen vectors and predictions, without images and encoders."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from infra import database as documents
from infra.platform import Platform
from selection import shards
from selection.embedding.vector_table import vector_table
from selection.fleet import frames
from selection.fleet.frames import FrameFacts
from selection.ingest import ingest as ingesting
from selection.ranking import acquisition

ENCODER = "enc-1"


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Writes rows and their shards."""

    platform: Platform

    def add(self, count: int, **facts: Sequence[Any]) -> None:
        """Adds frames; each keyword gives one value a frame."""
        start = frames.row_count(self.platform.database)
        made = []
        for i in range(count):
            digest = hashlib.sha256(f"frame {start + i}".encode()).hexdigest()
            made.append(
                FrameFacts(
                    **{
                        "frame_id": frames.id_of(digest),
                        "digest": digest,
                        "width": 64,
                        "height": 48,
                        "format": "JPEG",
                        "size_bytes": 1,
                        "source": f"{start + i:06d}.jpg",
                        "object_key": f"frames/{digest}.jpg",
                        "preview_key": f"previews/{digest}.jpg",
                        "ingested_at": datetime(2026, 1, 1, tzinfo=UTC),
                        **{key: values[i] for key, values in facts.items()},
                    }
                )
            )
        frames.register(self.platform.database, made)

    def embed(self, start: int, vectors_ND: NDArray[Any], *, valid: NDArray[np.bool_] | None = None) -> None:
        """Commits a vector shard beginning at row `start`."""
        valid = np.ones(len(vectors_ND), dtype=bool) if valid is None else valid
        table = vector_table(vectors_ND.astype(np.float16), valid_N=valid, start=start)
        assert shards.write(self.platform, "vectors", ENCODER, start, start + len(vectors_ND), table)

    def predict(self, start: int, probability_NC: NDArray[Any], *, valid: NDArray[np.bool_] | None = None) -> None:
        """Commits a prediction shard of model `model-1`."""
        import pyarrow as pa

        count, classes = probability_NC.shape
        valid = np.ones(count, dtype=bool) if valid is None else valid
        columns: dict[str, Any] = {"row": pa.array(np.arange(start, start + count, dtype=np.int64))}
        flat = pa.array(probability_NC.astype(np.float32).reshape(-1))
        columns["probability"] = pa.FixedSizeListArray.from_arrays(flat, classes, mask=pa.array(~valid))
        for name, score in acquisition.SCORES.items():
            columns[name] = pa.array(
                np.where(valid, score(probability_NC, kind="multilabel"), np.nan).astype(np.float32)
            )
        assert shards.write(self.platform, "predictions", "model-1", start, start + count, pa.table(columns))


@pytest.fixture
def fleet(platform: Platform) -> Fleet:
    """An empty fleet."""
    documents.ensure_indexes(platform.database, frames.INDEXES | shards.INDEXES | ingesting.INDEXES)
    return Fleet(platform=platform)
