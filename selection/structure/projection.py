"""The map: every frame's place in the plane, so that what looks alike lies together.

t-SNE (openTSNE, https://opentsne.readthedocs.io) is fitted once on a sample of the fleet, drawn by seed. Every row, also one that comes later, is
put at the mean place of the sample rows most like it, weighted by likeness: openTSNE's way of placing new points before it moves them.
So a frame's place depends on its vector and the fit alone, and new frames move nobody.

The fit (sample and places) is a file that is recorded in `projections`; places are shards of kind `projections`, whose producer is the fit's id:
encoder, method and a digest of the file.

Of the libraries, umap-learn and PaCMAP bring a compiler (numba, llvmlite) that takes as long to start as a fit does, and PaCMAP a second FAISS
that overwrites the one used here; scikit-learn's t-SNE has no place for new points. openTSNE is one wheel and takes new points.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pymongo import DESCENDING, IndexModel
from pymongo.errors import DuplicateKeyError

from infra import leases
from infra.database import Db, retrying
from infra.errors import Conflict, InvalidInput
from infra.logs import get_logger
from infra.platform import Platform
from selection import shards, written_files
from selection.fleet import frames
from selection.structure.row_values import Column, RowValues

if TYPE_CHECKING:
    import pyarrow as pa

    from selection.embedding.index import VectorIndex

INDEXES: dict[str, list[IndexModel]] = {"projections": [IndexModel([("encoder_id", 1), ("fitted_at", DESCENDING)])]}
METHOD = "tsne"
SAMPLE = 3000
LEAST_ROWS = 10
GROWTH = 1.0
"""When so many rows, as a share of those at the fit, have come since, the map is fitted again: places move, so that is seldom done."""

_NEIGHBOURS = 10
_BLOCK_ROWS = 2048
_log = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Projection:
    """A fitted projection.

    Attributes:
        projection_id: Producer of the shards.
        sample: Rows it was fitted on.
        fleet_rows: Rows that had a vector then; when many have come since, it is time for another fit.
        object_key: The sample's vectors and places, Arrow IPC.
        digest: SHA-256 of that file.
    """

    projection_id: str
    encoder_id: str
    method: str
    seed: int
    sample: int
    object_key: str
    digest: str
    fitted_at: datetime
    fleet_rows: int = 0


def current(db: Db, encoder_id: str) -> Projection | None:
    """The newest projection of an encoder's vectors, or None when none was fitted yet."""
    found = db.projections.find_one({"encoder_id": encoder_id}, {"_id": 0}, sort=[("fitted_at", DESCENDING)])
    return Projection(**found) if found else None


def fit_plane(sample_ND: NDArray[np.float32], *, seed: int = 0) -> NDArray[np.float32]:
    """Places for a sample in the plane, about -1 to 1, shape (S, 2). The same seed gives the same places.

    Raises:
        InvalidInput: Fewer than `LEAST_ROWS` rows.
    """
    if len(sample_ND) < LEAST_ROWS:
        raise InvalidInput(f"a map needs at least {LEAST_ROWS} frames with vectors, there are {len(sample_ND)}")
    import openTSNE
    from sklearn.decomposition import PCA

    parts = min(50, len(sample_ND) - 1, sample_ND.shape[1])
    reduced = PCA(n_components=parts, svd_solver="full", random_state=seed).fit_transform(sample_ND)
    tsne = openTSNE.TSNE(
        perplexity=min(30.0, (len(sample_ND) - 1) / 3),
        initialization="pca",
        neighbors="exact",
        negative_gradient_method="bh",
        early_exaggeration_iter=100,
        n_iter=300,
        random_state=seed,
        n_jobs=1,  # More threads sum in another order, and the places would differ from run to run.
    )
    places = np.asarray(tsne.fit(reduced), dtype=np.float64)
    places -= np.median(places, axis=0)
    unit: NDArray[np.float32] = (places / max(float(np.abs(places).max()), 1e-9)).astype(np.float32)
    return unit


def place(
    emb_ND: NDArray[np.float32], sample_ND: NDArray[np.float32], sample_xy: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Where rows lie on a fitted plane, shape (N, 2)."""
    neighbours = min(_NEIGHBOURS, len(sample_ND))
    xy = np.empty((len(emb_ND), 2), dtype=np.float32)
    for start in range(0, len(emb_ND), _BLOCK_ROWS):
        near = emb_ND[start : start + _BLOCK_ROWS] @ sample_ND.T
        nearest = np.argpartition(near, -neighbours, axis=1)[:, -neighbours:]
        likeness = np.take_along_axis(near, nearest, axis=1)
        # A neighbour counts by how much nearer it is than the farthest of them: one at hand outweighs nine from afar.
        distance = np.maximum(1.0 - likeness, 1e-4)
        weight = 1.0 / distance**2
        weight /= weight.sum(axis=1, keepdims=True)
        xy[start : start + _BLOCK_ROWS] = (sample_xy[nearest] * weight[:, :, np.newaxis]).sum(axis=1)
    return xy


def fit(
    platform: Platform, index: VectorIndex, *, rows: NDArray[np.int64], seed: int = 0, sample: int = SAMPLE
) -> Projection:
    """Fits a projection on a sample of rows that have vectors and records it; it becomes the current one.

    Raises:
        InvalidInput: Too few rows.
    """
    drawn = np.sort(np.random.default_rng(seed).choice(rows, size=min(sample, len(rows)), replace=False))
    sample_ND = index.vectors(drawn)
    data = _pack(drawn, sample_ND, fit_plane(sample_ND, seed=seed))
    digest = hashlib.sha256(data).hexdigest()
    projection = Projection(
        projection_id=f"{index.encoder_id}+{METHOD}-{digest[:12]}",
        encoder_id=index.encoder_id,
        method=METHOD,
        seed=seed,
        sample=len(drawn),
        object_key=f"projections/{digest}.arrow",
        digest=digest,
        fitted_at=frames.to_the_millisecond(datetime.now(UTC)),
        fleet_rows=len(rows),
    )
    written_files.put(platform, projection.object_key, data)

    def insert() -> None:
        try:
            platform.database.projections.insert_one({"_id": projection.projection_id, **asdict(projection)})
        except (
            DuplicateKeyError
        ):  # The same fleet and seed were fitted before; the fit is the same to the bit, and current again.
            again = {"$set": {"fitted_at": projection.fitted_at, "fleet_rows": projection.fleet_rows}}
            platform.database.projections.update_one({"_id": projection.projection_id}, again)

    retrying(insert)
    _log.info("projection_fitted", projection_id=projection.projection_id, sample=len(drawn))
    return projection


def project_missing(
    platform: Platform,
    projection: Projection,
    index: VectorIndex,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Places every row that has none on this map yet and has been embedded; a killed call loses at most one piece.

    Returns:
        Rows that this call placed.
    """
    db = platform.database
    pieces = shards.gaps(db, "projections", projection.projection_id, index.reached)
    if not pieces:
        return 0
    sample_ND, sample_xy = _unpack(platform, projection)
    total, done = sum(stop - start for start, stop in pieces), 0
    for start, stop in pieces:
        with leases.try_hold(db, f"project/{projection.projection_id}/{start}") as lease:
            if lease is None:
                continue
            rows = np.arange(start, stop, dtype=np.int64)
            known = index.has(rows)
            xy = np.full((len(rows), 2), np.nan, dtype=np.float32)
            if known.any():
                xy[known] = place(index.vectors(rows[known]), sample_ND, sample_xy)
            table = _table(rows, xy)
            if shards.write(platform, "projections", projection.projection_id, start, stop, table) is not None:
                done += stop - start
        if progress is not None:
            progress(done, total)
    return done


def kept(platform: Platform, projection: Projection) -> RowValues:
    """The places on a map by row, columns `x` and `y`, NaN where a row has none; call `refresh` before asking."""
    place = Column(dtype=np.float32, missing=np.nan)
    return RowValues(platform, "projections", projection.projection_id, {"x": place, "y": place})


def places(platform: Platform, projection: Projection) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rows that have a place, ascending, and their places, shape (rows, 2)."""
    values = kept(platform, projection)
    values.refresh()
    xy = np.stack([values.all("x"), values.all("y")], axis=1)
    rows = np.flatnonzero(np.isfinite(xy[:, 0]))
    return rows, xy[rows]


def _table(rows: NDArray[np.int64], xy: NDArray[np.float32]) -> pa.Table:
    import pyarrow as pa

    columns: dict[str, Any] = {"row": pa.array(rows)}
    for number, name in enumerate(("x", "y")):
        columns[name] = pa.array(xy[:, number], from_pandas=True)  # NaN becomes null.
    return pa.table(columns)


def _pack(rows: NDArray[np.int64], sample_ND: NDArray[np.float32], xy: NDArray[np.float32]) -> bytes:
    import pyarrow as pa

    vectors = pa.FixedSizeListArray.from_arrays(pa.array(sample_ND.reshape(-1)), sample_ND.shape[1])
    table = _table(rows, xy).append_column("vector", vectors)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def _unpack(platform: Platform, projection: Projection) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    import pyarrow as pa

    data = platform.objects.get(projection.object_key)
    if hashlib.sha256(data).hexdigest() != projection.digest:
        raise Conflict(
            f"projection {projection.projection_id} is damaged in the object store; run `mlpl map --fit-again`"
        )
    with pa.ipc.open_file(pa.BufferReader(data)) as reader:
        table = reader.read_all()
    vector = table.column("vector").combine_chunks()
    sample_ND = vector.flatten().to_numpy(zero_copy_only=False).reshape(len(table), vector.type.list_size)
    return sample_ND, np.stack([table.column(name).to_numpy() for name in ("x", "y")], axis=1)
