"""Concepts: what people marked yes and no, kept under a name, and the probe that follows from it.

The marks are the truth; the probe is fitted from them whenever it is needed, so another encoder needs nothing but its own vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pymongo import IndexModel
from pymongo.errors import DuplicateKeyError

from infra.database import Db, Document, retrying
from infra.errors import Conflict, InvalidInput, NotFound
from infra.platform import Platform
from selection.concepts import probe as probes
from selection.concepts.probe import Probe
from selection.fleet import frames
from selection.fleet.frames import FrameId
from selection.planning.plan import NAME_PATTERN

if TYPE_CHECKING:
    from selection.embedding.index import VectorIndex

INDEXES: dict[str, list[IndexModel]] = {"concepts": []}
BACKGROUND = 200
MOST_MARKS = 2000
_ATTEMPTS = 20
_FEW_ROWS = 65_536
"""For more rows than this, one look at all vectors is cheaper than fetching those of the rows."""


@dataclass(frozen=True, kw_only=True)
class Concept:
    """A named concept.

    Attributes:
        yes: Frames that show it.
        no: Frames that do not.
        encoder_id: Whose vectors the probe of `weights_digest` was fitted on; None before the first fit.
        weights_digest: See `Probe.digest`.
    """

    name: str
    yes: tuple[FrameId, ...]
    no: tuple[FrameId, ...]
    encoder_id: str | None
    weights_digest: str | None
    changed_at: datetime


def mark(
    platform: Platform,
    name: str,
    *,
    yes: Sequence[str] = (),
    no: Sequence[str] = (),
    neither: Sequence[str] = (),
    index: VectorIndex | None,
    now: datetime,
) -> Concept:
    """Makes a concept, or changes the marks of one; a frame that is marked again changes sides. Concurrent changes all count.

    Args:
        platform: Where the frames are.
        name: Of the concept.
        yes: Frames that show it.
        no: Frames that do not.
        neither: Frames whose mark is taken back; one that has none stays so.
        index: Refreshed; fits the probe at once, so that marks that cannot work are refused. None: stores the marks alone.
        now: UTC.
    Raises:
        InvalidInput: A bad name, no frame marked yes is left or none of them has a vector, a frame given for two sides, or
            too many marks.
        NotFound: A frame does not exist, or marks are taken back from a concept that does not.
        Conflict: Others kept changing the concept meanwhile.
    """
    if not NAME_PATTERN.fullmatch(name):
        raise InvalidInput(
            f"concept name {name!r} does not fit: use 1 to 48 lower-case letters, digits and single hyphens"
        )
    given = {side: _resolved(platform.database, ids) for side, ids in (("yes", yes), ("no", no), ("neither", neither))}
    for one, other in combinations(given, 2):
        if both := sorted(set(given[one]) & set(given[other])):
            raise InvalidInput(f"frame {both[0]} is marked {one} and {other}")
    for _ in range(_ATTEMPTS):
        found = platform.database.concepts.find_one({"_id": name})
        if found is None and neither and not yes:
            get(platform.database, name)
        old = _concept(found) if found else None
        if _store(platform, _changed(name, old, **given, now=now), instead_of=old, index=index):
            return get(platform.database, name)
    raise Conflict(f"others keep changing concept {name}; try again", name=name)


def _changed(
    name: str,
    old: Concept | None,
    *,
    yes: Sequence[FrameId],
    no: Sequence[FrameId],
    neither: Sequence[FrameId],
    now: datetime,
) -> Concept:
    """A concept after some frames were marked; the newest marks are last."""
    again = {*yes, *no, *neither}
    kept_yes = [one for one in (old.yes if old else ()) if one not in again]
    kept_no = [one for one in (old.no if old else ()) if one not in again]
    concept = Concept(
        name=name, yes=(*kept_yes, *yes), no=(*kept_no, *no), encoder_id=None, weights_digest=None, changed_at=now
    )
    if not concept.yes:
        raise InvalidInput(
            f"concept {name} needs at least one frame marked yes"
            + ("; delete it to be rid of all marks" if old else ""),
            name=name,
        )
    if len(concept.yes) + len(concept.no) > MOST_MARKS:
        raise InvalidInput(f"a concept holds at most {MOST_MARKS} marks; train a task on more")
    return concept


def _store(platform: Platform, concept: Concept, *, instead_of: Concept | None, index: VectorIndex | None) -> bool:
    """Fits and keeps a concept; False when the stored one is no longer the one it was made from."""
    fields: Document = {
        "yes": list(concept.yes),
        "no": list(concept.no),
        "encoder_id": index.encoder_id if index is not None else None,
        "weights_digest": fit(platform, concept, index=index).digest if index is not None else None,
        "changed_at": concept.changed_at,
    }
    db = platform.database
    if instead_of is None:
        try:
            retrying(lambda: db.concepts.insert_one({"_id": concept.name, **fields}))
        except DuplicateKeyError:
            return False
        return True
    before = {"_id": concept.name, "yes": list(instead_of.yes), "no": list(instead_of.no)}
    return retrying(lambda: db.concepts.update_one(before, {"$set": fields})).matched_count == 1


def get(db: Db, name: str) -> Concept:
    """One concept.

    Raises:
        NotFound: There is none of this name.
    """
    found = db.concepts.find_one({"_id": name})
    if found is None:
        raise NotFound(f"no concept is named {name!r}; `mlpl concept list` shows those there are", name=name)
    return _concept(found)


def list_all(db: Db) -> list[Concept]:
    """All concepts by name."""
    return [_concept(document) for document in db.concepts.find().sort("_id", 1)]


def delete(db: Db, name: str) -> None:
    """Forgets a concept; the frames stay.

    Raises:
        NotFound: There is none of this name.
    """
    get(db, name)
    retrying(lambda: db.concepts.delete_one({"_id": name}))


def fit(platform: Platform, concept: Concept, *, index: VectorIndex) -> Probe:
    """The probe of a concept on the vectors of an index; a few milliseconds.

    Raises:
        Conflict: A marked frame has no vector yet.
        InvalidInput: There is nothing to tell it from.
    """
    rows = {
        frame.frame_id: frame.row for frame in frames.get_many(platform.database, [*concept.yes, *concept.no]).values()
    }
    yes, no = (
        np.array([rows[one] for one in marked if one in rows], dtype=np.int64) for marked in (concept.yes, concept.no)
    )
    # A frame that lost its vector (another encoder is still at work) cannot speak; the others do.
    yes, no = yes[index.has(yes)], no[index.has(no)]
    if not len(yes):
        raise InvalidInput(
            f"no frame that concept {concept.name} marks yes has a vector yet; run `mlpl embed`, or wait for `mlpl serve`",
            name=concept.name,
        )
    count = frames.row_count(platform.database)
    drawn = (
        np.random.default_rng(0).permutation(count)[: 2 * BACKGROUND]
        if count < 10**6
        else np.random.default_rng(0).integers(0, count, 2 * BACKGROUND)
    )
    # In the order of the draw: sorted, the first of them would all be from the older part of the fleet.
    background = drawn[index.has(drawn) & ~np.isin(drawn, np.concatenate([yes, no]))][:BACKGROUND]
    nothing = index.vectors(yes[:1])[:0]
    return probes.fit(
        index.vectors(yes),
        index.vectors(no) if len(no) else nothing,
        background_emb=index.vectors(background) if len(background) else None,
    )


def scores(platform: Platform, name: str, rows: NDArray[np.int64], *, index: VectorIndex) -> NDArray[np.float32]:
    """How probable it is that frames belong to a concept.

    Args:
        rows: Any rows of the fleet.
        index: Refreshed; whichever encoder's it is, the probe is fitted to it.
    Returns:
        Shape as `rows`, in [0, 1]; NaN where a row has no vector.
    Raises:
        NotFound: There is no concept of this name.
    """
    probe = fit(platform, get(platform.database, name), index=index)
    if len(rows) > _FEW_ROWS:
        return probes.probabilities(probe, index.products(probe.weights_D, rows=int(rows.max()) + 1)[rows])
    found = np.full(len(rows), np.nan, dtype=np.float32)
    embedded = np.flatnonzero(index.has(rows))
    found[embedded] = probes.scores(probe, index.vectors(rows[embedded])) if len(embedded) else np.nan
    return found


def _resolved(db: Db, ids: Sequence[str]) -> list[FrameId]:
    return [frames.get(db, one).frame_id for one in dict.fromkeys(ids)]


def _concept(document: Document) -> Concept:
    return Concept(
        name=document["_id"],
        yes=tuple(document["yes"]),
        no=tuple(document["no"]),
        encoder_id=document["encoder_id"],
        weights_digest=document["weights_digest"],
        changed_at=document["changed_at"],
    )
