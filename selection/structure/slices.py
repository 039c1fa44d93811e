"""Slices: the kinds of scene in a fleet, found as clusters of its embeddings and described by words and attributes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.errors import InvalidInput
from selection.fleet.columns import Columns
from selection.fleet.loading import MEASURED_KEYS

WORDS = 3
TRAITS = 3
MOST_SLICES = 500
_LEAST_ROWS = 5
_MOST_VALUES = 200
_NOT_TRAITS = frozenset({*MEASURED_KEYS, "latitude", "longitude"})
_TELLING_SHARE = 0.6
"""An attribute that so many of a slice share says more about it than words do, of which an encoder is seldom sure."""

PLACES: tuple[str, ...] = (
    "highway",
    "city street",
    "residential street",
    "country road",
    "parking lot",
    "tunnel",
    "bridge",
    "intersection",
)
PLACES += (
    "roundabout",
    "construction site",
    "railway crossing",
    "toll station",
    "gas station",
    "bus stop",
    "forest road",
)
WEATHER: tuple[str, ...] = ("rain", "snow", "fog", "clear sky", "overcast sky", "wet road", "low sun", "glare")
LIGHT: tuple[str, ...] = ("at night", "at dawn", "at dusk", "in daylight", "under street lamps", "in deep shadow")
THINGS: tuple[str, ...] = (
    "pedestrians",
    "a crowd",
    "cyclists",
    "motorcycles",
    "trucks",
    "buses",
    "a traffic jam",
    "parked cars",
    "an empty road",
)
THINGS += (
    "traffic lights",
    "traffic signs",
    "a crosswalk",
    "lane markings",
    "trees",
    "tall buildings",
    "houses",
    "a guard rail",
)
THINGS += (
    "an ambulance",
    "a police car",
    "a trailer",
    "an animal",
    "a train",
    "a tram",
    "a bicycle lane",
    "traffic cones",
)
SCENE_KEYS = frozenset(
    {"timeofday", "time_of_day", "weather", "scene", "road", "road_type", "surface", "lighting", "season", "traffic"}
)
"""Attributes that say what is to be seen; slices are called by these, not by drives, sources or licences."""
VOCABULARY: tuple[str, ...] = PLACES + WEATHER + LIGHT + THINGS
"""What slices are called by; texts for the encoder are made of it by `prompts`."""


@dataclass(frozen=True, kw_only=True)
class Trait:
    """A value that occurs more often in a slice than in the fleet.

    Attributes:
        share: Of the slice's rows.
        fleet_share: Of all rows that were sliced.
    """

    key: str
    value: str
    share: float
    fleet_share: float


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One kind of scene.

    Attributes:
        number: 0 for the largest.
        rows: Its rows, nearest to its centre first.
        words: What it is nearest to, in comparison with the other slices, best first; none without an encoder.
        traits: What sets its attributes apart, most telling first.
        centre: Of its embeddings, unit length, shape (D,).
    """

    number: int
    rows: NDArray[np.int64]
    centre: NDArray[np.float32]
    words: tuple[str, ...]
    traits: tuple[Trait, ...]


@dataclass(frozen=True, kw_only=True)
class Described:
    """What a slice is called.

    Attributes:
        name: Lower-case letters, digits and hyphens, another one for each slice: from its attributes where they tell, else from its words.
    """

    name: str
    words: tuple[str, ...]
    traits: tuple[Trait, ...]


@dataclass(frozen=True, kw_only=True)
class _Telling:
    """A column that slices may be told apart by: what each row has of it, and each value's share of the rows."""

    key: str
    values: tuple[str, ...]
    codes: NDArray[np.int32]
    shares: NDArray[np.float64]


def described(found: Sequence[Slice]) -> list[Described]:
    """Names for slices, each once."""
    names: list[str] = []
    for one in found:
        telling = [t.value for t in one.traits if t.key in SCENE_KEYS and t.share >= _TELLING_SHARE][:2]
        words = _believable(one)
        parts = telling or list(words[:2]) or ["slice"]
        name = re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")[:40].strip("-") or "slice"
        names.append(name if name not in names else f"{name}-{one.number}")
    return [
        Described(name=name, words=_believable(one), traits=one.traits) for name, one in zip(names, found, strict=True)
    ]


def _believable(one: Slice) -> tuple[str, ...]:
    """A slice's words without those about light and weather where an attribute tells otherwise: encoders are seldom sure of words."""
    said = {trait.key: trait.value.casefold() for trait in one.traits if trait.share >= _TELLING_SHARE}
    light, weather = (said.get(key, "")[:3] for key in ("timeofday", "weather"))  # `rainy` goes with `rain`.
    return tuple(
        word
        for word in one.words
        if not (light and word in LIGHT and light not in word)
        and not (weather and word in WEATHER and weather not in word)
    )


def prompts(vocabulary: Sequence[str] = VOCABULARY) -> list[str]:
    """Texts for the encoder, one a word."""
    return [f"a photo taken from a car, {word}" for word in vocabulary]


def slices(
    emb_ND: NDArray[np.float32],
    rows: NDArray[np.int64],
    *,
    count: int,
    columns: Columns | None = None,
    vocabulary: Sequence[str] = VOCABULARY,
    text_emb: NDArray[np.float32] | None = None,
    seed: int = 0,
) -> list[Slice]:
    """Parts rows into kinds of scene by spherical k-means (FAISS), largest first; fewer than `count` where rows do not differ.

    Args:
        emb_ND: Shape (N, D), unit length.
        rows: Row of each embedding, shape (N,).
        count: How many slices.
        columns: Attributes to describe slices by.
        vocabulary: Words to describe them by.
        text_emb: The words' vectors, shape (len(vocabulary), D), unit length. None: no words.
        seed: The same seed gives the same slices.
    Raises:
        InvalidInput: `count` is out of range or there are no rows.
    """
    if not 1 <= count <= MOST_SLICES:
        raise InvalidInput(f"slices: ask for 1 to {MOST_SLICES}, not {count}")
    if not len(rows):
        raise InvalidInput("there is nothing to slice: no frame here has a vector yet; run `mlpl embed`")
    centres, slice_N, near_N = _clusters(emb_ND, count=min(count, len(rows)), seed=seed)
    order = [int(one) for one in np.argsort(-np.bincount(slice_N, minlength=len(centres)), kind="stable")]
    words = _words(centres, vocabulary, text_emb)
    telling = _telling(columns, rows) if columns is not None else []
    found: list[Slice] = []
    for old in order:
        inside = np.flatnonzero(slice_N == old)
        if len(inside):
            found.append(
                Slice(
                    number=len(found),
                    rows=rows[inside[np.argsort(-near_N[inside], kind="stable")]],
                    centre=centres[old],
                    words=words[old],
                    traits=_traits(telling, inside),
                )
            )
    return found


def _clusters(
    emb_ND: NDArray[np.float32], *, count: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
    import faiss

    means = faiss.Kmeans(
        emb_ND.shape[1],
        count,
        niter=15,
        nredo=5,  # The best of five starts: one alone may leave two kinds in one slice.
        seed=seed + 1,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=256,
    )
    means.train(np.ascontiguousarray(emb_ND, dtype=np.float32))
    centres = np.asarray(means.centroids, dtype=np.float32)
    slice_N, near_N = np.empty(len(emb_ND), dtype=np.int64), np.empty(len(emb_ND), dtype=np.float32)
    for start in range(0, len(emb_ND), 8192):
        near = emb_ND[start : start + 8192] @ centres.T
        slice_N[start : start + 8192] = near.argmax(axis=1)
        near_N[start : start + 8192] = near.max(axis=1)
    return centres, slice_N, near_N


def _words(
    centres: NDArray[np.float32], vocabulary: Sequence[str], text_emb: NDArray[np.float32] | None
) -> list[tuple[str, ...]]:
    if text_emb is None:
        return [()] * len(centres)
    near = centres @ text_emb.T
    # Some words are near to every picture; what counts is where a slice is nearer to one than slices are on average.
    telling = near - near.mean(axis=0) if len(centres) > 1 else near
    best = np.argsort(-telling, axis=1, kind="stable")[:, :WORDS]
    return [tuple(vocabulary[i] for i in line.tolist()) for line in best]


def _telling(columns: Columns, rows: NDArray[np.int64]) -> list[_Telling]:
    found = []
    for key in columns.keys:
        if key in _NOT_TRAITS:
            continue
        try:
            codes, values = columns.codes(key)
        except InvalidInput:  # Too many different numbers to be anyone's trait.
            continue
        if 1 < len(values) <= _MOST_VALUES and len(codes) > int(rows.max()):
            here = codes[rows]
            shares = np.bincount(here[here >= 0], minlength=len(values)) / len(rows)
            found.append(_Telling(key=key, values=values, codes=here, shares=shares))
    return found


def _traits(telling: Sequence[_Telling], inside: NDArray[np.int64]) -> tuple[Trait, ...]:
    """Values by the z-score of their share, as if the slice had been drawn from the fleet at random; those about the scene first."""
    rated: list[tuple[float, Trait]] = []
    for column in telling:
        here, fleet_share = column.codes[inside], column.shares
        counts = np.bincount(here[here >= 0], minlength=len(column.values))
        share = counts / len(inside)
        spread = np.sqrt(np.maximum(fleet_share * (1 - fleet_share), 1e-12) / len(inside))
        z = (share - fleet_share) / spread
        for code in np.flatnonzero((z > 3.0) & (counts >= min(_LEAST_ROWS, len(inside)))).tolist():
            trait = Trait(
                key=column.key,
                value=column.values[code],
                share=float(share[code]),
                fleet_share=float(fleet_share[code]),
            )
            rated.append((float(z[code]), trait))
    rated.sort(key=lambda one: (one[1].key not in SCENE_KEYS, -one[0], one[1].key, one[1].value))
    return tuple(trait for _, trait in rated[:TRAITS])
