"""The map: what is alike lies together, places are kept, and new rows move nobody."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from infra import database as documents
from infra.errors import Conflict, InvalidInput
from selection.embedding.index import VectorIndex
from selection.structure import projection
from tests.selection.conftest import ENCODER, Fleet


def _clusters(count: int, *, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    random = np.random.default_rng(seed)
    kind = random.integers(0, 4, count)
    emb = 3 * np.eye(4, 16)[kind] + 0.3 * random.standard_normal((count, 16))
    return (emb / np.linalg.norm(emb, axis=1, keepdims=True)).astype(np.float32), kind


def test_the_same_seed_gives_the_same_map_and_what_is_alike_lies_together() -> None:
    emb, kind = _clusters(200)
    plane = projection.fit_plane(emb, seed=3)
    assert (plane == projection.fit_plane(emb, seed=3)).all()
    others, other_kind = _clusters(300, seed=1)
    xy = projection.place(others, emb, plane)
    centres = np.stack([plane[kind == i].mean(axis=0) for i in range(4)])
    nearest = np.linalg.norm(xy[:, np.newaxis] - centres, axis=2).argmin(axis=1)
    assert (nearest == other_kind).mean() > 0.98
    assert np.abs(xy).max() <= 1.0


def test_places_are_kept_new_rows_join_them_and_rows_without_vector_have_none(fleet: Fleet) -> None:
    platform = fleet.platform
    documents.ensure_indexes(platform.database, projection.INDEXES)
    emb, _ = _clusters(120)
    fleet.add(120)
    valid = np.ones(100, dtype=bool)
    valid[7] = False
    fleet.embed(0, emb[:100], valid=valid)
    index = VectorIndex(platform, ENCODER)
    index.refresh()
    assert projection.current(platform.database, ENCODER) is None
    fitted = projection.fit(platform, index, rows=np.flatnonzero(valid))
    assert projection.current(platform.database, ENCODER) == fitted
    assert projection.project_missing(platform, fitted, index) == 100
    rows, xy = projection.places(platform, fitted)
    assert rows.tolist() == np.flatnonzero(valid).tolist()
    assert projection.project_missing(platform, fitted, index) == 0

    fleet.embed(100, emb[100:])
    assert projection.project_missing(platform, fitted, index) == 0, (
        "what the index has not yet is not without a vector"
    )
    index.refresh()
    assert projection.project_missing(platform, fitted, index) == 20
    more, more_xy = projection.places(platform, fitted)
    assert len(more) == 119
    assert (more_xy[: len(xy)] == xy).all()

    assert projection.fit(platform, index, rows=np.flatnonzero(valid)).projection_id == fitted.projection_id
    platform.objects.put(fitted.object_key, b"other bytes")
    fleet.add(1)
    fleet.embed(120, emb[:1])
    index.refresh()
    with pytest.raises(Conflict, match="fit-again"):
        projection.project_missing(platform, fitted, index)


def test_too_few_frames_are_refused() -> None:
    with pytest.raises(InvalidInput, match="at least"):
        projection.fit_plane(_clusters(5)[0])
