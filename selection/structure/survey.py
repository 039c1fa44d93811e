"""The survey of a fleet: for every row its near-duplicates' keeper, its slice and its rarity, worked out beforehand and kept as shards.

A survey looks at all rows there are: it fits slices and the sample that rarity is measured by (a file), gives each row its values (shards of
kind `surveys`, whose producer is the survey's id), and is recorded last; that record is its commit point. Rows that come later join it: their
values depend on the fit and the keepers that are there, and change no other row's. When many have come, another survey is made.

Withdrawn rows keep a place of their own in it and stand for nobody. One that is withdrawn later stays the keeper of its group until the
fleet is surveyed again; whoever asks lets another row of the group stand in.

Vectors are read in blocks of half precision, as the index has them (mapped from its files); never all as float32.
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

from infra import leases
from infra.database import Db, retrying
from infra.errors import Conflict, InvalidInput
from infra.logs import get_logger
from infra.platform import Platform
from selection import shards, written_files
from selection.fleet import frames
from selection.near_duplicates import duplicates
from selection.near_duplicates.keepers import Keepers, Likeness, Rows
from selection.near_duplicates.of_fleet import calibrated, half_vectors, hashes_of, quality_order
from selection.structure import slices
from selection.structure.rarity import neighbour_distance
from selection.structure.row_values import Column, RowValues
from selection.structure.slices import Described, Trait

if TYPE_CHECKING:
    from selection.embedding.index import VectorIndex
    from selection.fleet.columns import Columns

Progress = Callable[[int, int], None]

INDEXES: dict[str, list[IndexModel]] = {"surveys": [IndexModel([("encoder_id", 1), ("made_at", DESCENDING)])]}
COLUMNS = {
    "keeper": Column(dtype=np.int64, missing=-1),
    "slice": Column(dtype=np.int32, missing=-1),
    "likeness": Column(dtype=np.float32, missing=np.nan),
    "rarity": Column(dtype=np.float32, missing=np.nan),
    "hash": Column(dtype=np.uint64, missing=0),
}
"""Row of the keeper (a frame that is kept is its own), number of the slice, cosine similarity to the slice's centre, cosine distance to the
fleet, and the perceptual hash that was compared."""
GROWTH = 0.25
"""When so many rows, as a share of those surveyed, have joined since, everything is surveyed again."""
MOST_SHARDS = 500

_METHOD = 4  # Goes up when the same fleet gets other values than before.
_BLOCK_ROWS = 2**16
_SAMPLE = 2**14
_RARITY_SAMPLE = 4096
_log = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Survey:
    """The record of a survey.

    Attributes:
        survey_id: Producer of the shards.
        rows: Rows of the fleet when it was made.
        threshold: Cosine similarity from which frames are near-duplicates.
        threshold_basis: Why from there.
        max_hamming: Bits in which the hashes of near-duplicates may differ.
        slices: What the slices are called and described by, by number.
        object_key: Centres of the slices and the sample, Arrow IPC.
        digest: SHA-256 of that file.
    """

    survey_id: str
    encoder_id: str
    rows: int
    threshold: float
    max_hamming: int
    slices: tuple[Described, ...]
    object_key: str
    digest: str
    made_at: datetime
    threshold_basis: str = ""


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """What keepers are chosen by, of some rows, ascending.

    Attributes:
        hashes_N: Perceptual hashes, 0 where there is none.
        order_N: Positions, whom to keep first, withdrawn rows last.
        present_N: Which are not withdrawn; the others have neither vector nor hash here.
    """

    rows: NDArray[np.int64]
    hashes_N: NDArray[np.uint64]
    order_N: NDArray[np.int64]
    present_N: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class _Fit:
    centres: NDArray[np.float32]
    sample_ND: NDArray[np.float32]


def current(db: Db, encoder_id: str) -> Survey | None:
    """The newest survey with an encoder's vectors, None when there is none."""
    found = db.surveys.find_one({"encoder_id": encoder_id}, {"_id": 0}, sort=[("made_at", DESCENDING)])
    if found is None:
        return None
    described = tuple(
        Described(name=one["name"], words=tuple(one["words"]), traits=tuple(Trait(**trait) for trait in one["traits"]))
        for one in found.pop("slices")
    )
    return Survey(**found, slices=described)


def kept(platform: Platform, survey: Survey) -> RowValues:
    """A survey's values by row; call `refresh` before asking."""
    return RowValues(platform, "surveys", survey.survey_id, COLUMNS)


def surveyable(platform: Platform, encoder_id: str) -> int:
    """Rows at the beginning of the fleet that the encoder has been through."""
    count = frames.row_count(platform.database)
    waiting = shards.gaps(platform.database, "vectors", encoder_id, count)
    return waiting[0][0] if waiting else count


def is_due(platform: Platform, survey: Survey | None, *, rows: int) -> bool:
    """Whether so much has changed that everything is to be surveyed (again)."""
    if survey is None:
        return rows > 0
    count, _ = shards.extent(platform.database, "surveys", survey.survey_id)
    return rows > survey.rows * (1 + GROWTH) or count > MOST_SHARDS + rows // _BLOCK_ROWS


def make(
    platform: Platform,
    index: VectorIndex,
    columns: Columns,
    *,
    text_emb: NDArray[np.float32] | None,
    threshold: float | None = None,
    max_hamming: int = duplicates.DEFAULT_HAMMING,
    count: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Survey | None:
    """Surveys all rows and puts the survey in the place of the one before.

    Args:
        index: Refreshed.
        columns: Refreshed; attributes to describe slices by, and sharpness and exposure to choose keepers by.
        text_emb: Vectors of `slices.prompts()`. None: no words.
        threshold: Cosine similarity from which frames are near-duplicates. None: as `calibrated`.
        count: How many slices; None: by the size of the fleet.
        progress: Called with rows done and rows to do.
    Returns:
        None when another process is at it.
    Raises:
        InvalidInput: Nothing has a vector yet.
    """
    rows = min(surveyable(platform, index.encoder_id), index.reached, columns.rows)
    every = np.arange(rows, dtype=np.int64)
    embedded = every[index.has(every)]
    if not len(embedded):
        raise InvalidInput("there is nothing to survey: no frame has a vector yet; run `mlpl embed`")
    with leases.try_hold(platform.database, f"survey/{index.encoder_id}") as lease:
        if lease is None:
            return None
        fit, described = _fit(index, columns, embedded, text_emb=text_emb, count=count, seed=seed)
        data = _pack(fit)
        basis = "as asked"
        if threshold is None:
            found = calibrated(index, columns, seed=seed)
            threshold, basis = found.threshold, found.basis
        judged = _judge(platform, index, columns, every)
        asked = hashlib.sha256(data + f"{threshold} {max_hamming} {rows} {_METHOD}".encode())
        # Shards of an attempt that was killed are only taken over where all that their values follow from is as it was.
        for part in (judged.hashes_N, judged.order_N, judged.present_N, embedded):
            asked.update(part.tobytes())
        digest = asked.hexdigest()
        survey = Survey(
            survey_id=f"{index.encoder_id}+survey-{digest[:12]}",
            encoder_id=index.encoder_id,
            rows=rows,
            threshold=threshold,
            threshold_basis=basis,
            max_hamming=max_hamming,
            slices=described,
            object_key=f"surveys/{digest}.arrow",
            digest=hashlib.sha256(data).hexdigest(),
            made_at=frames.to_the_millisecond(datetime.now(UTC)),
        )
        keepers = Keepers(threshold=threshold, max_hamming=max_hamming, seed=seed)
        _survey(platform, survey, fit, index, keepers, judged, progress=progress)
        written_files.put(platform, survey.object_key, data)  # Just before its record: surveying may take days.
        _record(platform, survey)
        _log.info("fleet_surveyed", survey_id=survey.survey_id, rows=rows, slices=len(described), threshold=threshold)
    return survey


def join(
    platform: Platform, survey: Survey, index: VectorIndex, columns: Columns, *, progress: Progress | None = None
) -> int:
    """Gives rows that came since their values; what is there already stays as it is.

    Returns:
        How many.
    """
    values = kept(platform, survey)
    values.refresh()
    stop = min(surveyable(platform, survey.encoder_id), index.reached, columns.rows)
    waiting = shards.gaps(platform.database, "surveys", survey.survey_id, stop, block=_BLOCK_ROWS)
    if not waiting:
        return 0
    with leases.try_hold(platform.database, f"survey/{survey.encoder_id}") as lease:
        if lease is None:
            return 0
        keeper_N = values.all("keeper")
        # Those whose own shard was lost are kept, too, and those that were withdrawn, as long as they stand for others.
        known = np.unique(keeper_N[(keeper_N >= 0) & _present(columns, np.arange(len(keeper_N)))])
        keepers = Keepers(threshold=survey.threshold, max_hamming=survey.max_hamming)
        for start in range(0, len(known), _BLOCK_ROWS):
            part = known[start : start + _BLOCK_ROWS]
            keepers.add(_rows(index, part, values.at("hash", part)))
        new = np.concatenate([np.arange(start, end, dtype=np.int64) for start, end in waiting])
        judged = _judge(platform, index, columns, new)
        _survey(platform, survey, _unpack(platform, survey), index, keepers, judged, progress=progress)
    return len(new)


def _fit(
    index: VectorIndex,
    columns: Columns,
    embedded: NDArray[np.int64],
    *,
    text_emb: NDArray[np.float32] | None,
    count: int | None,
    seed: int,
) -> tuple[_Fit, tuple[Described, ...]]:
    random = np.random.default_rng(seed)
    drawn = np.sort(random.choice(embedded, size=min(_SAMPLE, len(embedded)), replace=False))
    sample_ND = index.vectors(drawn)
    wanted = count or int(np.clip(len(embedded) // 50, 2, 40))
    found = slices.slices(sample_ND, drawn, count=wanted, columns=columns, text_emb=text_emb, seed=seed)
    centres = np.stack([one.centre for one in found])
    rare = sample_ND[np.sort(random.permutation(len(drawn))[:_RARITY_SAMPLE])]
    return _Fit(centres=centres, sample_ND=rare), tuple(slices.described(found))


def _judge(platform: Platform, index: VectorIndex, columns: Columns, rows: NDArray[np.int64]) -> _Judged:
    present_N = _present(columns, rows)
    order_N = np.argsort(quality_order(columns, rows, index=index), kind="stable")
    return _Judged(
        rows=rows,
        hashes_N=np.where(present_N, hashes_of(platform, rows), np.uint64(0)),
        order_N=np.concatenate([order_N[present_N[order_N]], order_N[~present_N[order_N]]]),
        present_N=present_N,
    )


def _present(columns: Columns, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which rows are not withdrawn, as far as the columns know."""
    mask = columns.mask("")
    present_N = np.ones(len(rows), dtype=bool)
    inside = rows < len(mask)
    present_N[inside] = mask[rows[inside]]
    return present_N


def _survey(
    platform: Platform,
    survey: Survey,
    fit: _Fit,
    index: VectorIndex,
    keepers: Keepers,
    judged: _Judged,
    *,
    progress: Progress | None,
) -> None:
    """Works out the values of rows and writes their shards."""
    rows, hashes_N = judged.rows, judged.hashes_N
    likeness = Likeness(threshold=survey.threshold, max_hamming=survey.max_hamming)
    twice = 2 * len(rows)
    keeper_N = duplicates.joined(
        keepers,
        judged.order_N,
        read=lambda at: _rows(index, rows[at], hashes_N[at], present_N=judged.present_N[at]),
        likeness=likeness,
        progress=None if progress is None else lambda done, _: progress(done, twice),
    )
    done = len(rows)
    for start, stop in shards.gaps(
        platform.database, "surveys", survey.survey_id, int(rows[-1]) + 1, block=_BLOCK_ROWS
    ):
        first, last = np.searchsorted(rows, [start, stop]).tolist()
        if last - first != stop - start:
            continue
        table = _table(index, fit, rows[first:last], keeper_N[first:last], hashes_N[first:last])
        shards.write(platform, "surveys", survey.survey_id, start, stop, table)
        done += stop - start
        if progress is not None:
            progress(done, twice)


def _table(
    index: VectorIndex,
    fit: _Fit,
    rows: NDArray[np.int64],
    keeper_N: NDArray[np.int64],
    hashes_N: NDArray[np.uint64],
) -> Any:
    import pyarrow as pa

    slice_N = np.full(len(rows), -1, dtype=np.int32)
    likeness_N, rarity_N = (np.full(len(rows), np.nan, dtype=np.float32) for _ in range(2))
    known = np.flatnonzero(index.has(rows))
    for start in range(0, len(known), 8192):
        part = known[start : start + 8192]
        emb = index.vectors(rows[part])
        near = emb @ fit.centres.T
        slice_N[part], likeness_N[part] = near.argmax(axis=1), near.max(axis=1)
        rarity_N[part] = neighbour_distance(emb, fit.sample_ND)
    return pa.table(
        {
            "row": rows,
            "keeper": keeper_N,
            "slice": slice_N,
            "likeness": likeness_N,
            "rarity": rarity_N,
            "hash": hashes_N,
        }
    )


def _rows(
    index: VectorIndex,
    rows: NDArray[np.int64],
    hashes_N: NDArray[np.uint64],
    *,
    present_N: NDArray[np.bool_] | None = None,
) -> Rows:
    """What near-duplicates are found by; vectors in half precision, in which all keepers' are held, zeros for those not present."""
    emb_ND = half_vectors(index, rows)
    if emb_ND is not None and present_N is not None:
        emb_ND[~present_N] = 0
    return Rows(
        ids=rows,
        emb_ND=emb_ND,
        hashes_N=hashes_N,
        groups_N=np.zeros(len(rows), dtype=np.int64),
    )


def _record(platform: Platform, survey: Survey) -> None:
    db = platform.database
    document = {"_id": survey.survey_id, **asdict(survey)}
    retrying(lambda: db.surveys.replace_one({"_id": survey.survey_id}, document, upsert=True))
    for old in list(db.surveys.find({"encoder_id": survey.encoder_id, "_id": {"$ne": survey.survey_id}})):
        db.surveys.delete_one({"_id": old["_id"]})
        shards.remove(platform, "surveys", old["_id"])
        if old["object_key"] != survey.object_key:
            written_files.remove(platform, old["object_key"])


def _pack(fit: _Fit) -> bytes:
    import pyarrow as pa

    both = np.concatenate([fit.centres, fit.sample_ND])
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(both.reshape(-1)), both.shape[1])
    is_centre = np.arange(len(both)) < len(fit.centres)
    table = pa.table({"is_centre": is_centre, "vector": vectors})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def _unpack(platform: Platform, survey: Survey) -> _Fit:
    import pyarrow as pa

    data = platform.objects.get(survey.object_key)
    if hashlib.sha256(data).hexdigest() != survey.digest:
        raise Conflict(
            f"survey {survey.survey_id} is damaged in the object store; run `mlpl survey --again`",
            survey_id=survey.survey_id,
        )
    with pa.ipc.open_file(pa.BufferReader(data)) as reader:
        table = reader.read_all()
    vector = table.column("vector").combine_chunks()
    both = vector.flatten().to_numpy(zero_copy_only=False).reshape(len(table), vector.type.list_size)
    is_centre = table.column("is_centre").to_numpy()
    return _Fit(centres=both[is_centre], sample_ND=both[~is_centre])
