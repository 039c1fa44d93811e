"""Vectors for benchmarks: seeded, shaped like the CLIP embeddings of a driving fleet, and isotropic ones as the hard case.

What real embeddings of fleet frames have in common, and what an index, a duplicate finder or a diversity function profits or suffers from:
a common direction (two arbitrary frames have a cosine far above 0), a few hundred kinds of scene of very different frequency, few degrees of
freedom (local intrinsic dimension about 32, although the point set as a whole bends through many more), drives whose neighbouring frames are
almost the same, stops during which they are the same but for sensor noise, and a little noise in every direction.

A frame's vector is `unit(common + lift(z) + noise)`. The latent `z` has 32 numbers: those of its kind of scene, of this scene, and a random
walk along the drive; `lift` is a fixed random layer with a smooth bend. Drives are made one by one, each from the seed and its number, so a
longer fleet begins like a shorter one (to within rounding), and a fleet of any size costs the memory of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

DIMENSION = 512
CLUSTERS = 300
INTRINSIC = 32
BLOCK_ROWS = 2**16

_HIDDEN = 192
_DRIVE_ROWS = (120, 1800)
_SCENE_ROWS = (10, 150)
_STANDING_SHARE = 0.15
_UNSEEN = 2**40
_WORLD, _DRIVE = 0, 1

_BETWEEN_CLUSTERS = 0.9
_WITHIN_CLUSTER = 0.5
_STEP = 0.04
_COMMON = 1.0
_BEND = 1.4


@dataclass(frozen=True, kw_only=True)
class Drive:
    """What a drive saw, frame by frame.

    Attributes:
        number: 0 for the first drive of the fleet.
        cluster_N: Kind of scene, shape (N,), `0 .. clusters - 1`; a low number is a frequent kind.
        scene_N: Number of the scene within the drive, shape (N,), ascending.
        standing_N: Whether the vehicle stands, shape (N,).
    """

    number: int
    cluster_N: NDArray[np.int64]
    scene_N: NDArray[np.int64]
    standing_N: NDArray[np.bool_]

    def __len__(self) -> int:
        """Frames of the drive."""
        return len(self.cluster_N)


@dataclass(frozen=True, kw_only=True)
class ClipLike:
    """A fleet's vectors.

    Attributes:
        rows: Frames.
        dimension: Length of a vector, D.
        clusters: Kinds of scene.
        intrinsic: Degrees of freedom.
        noise: Length of the isotropic noise as a share of the vector's.
        seed: The same seed gives the same bits.
    """

    rows: int
    dimension: int = DIMENSION
    clusters: int = CLUSTERS
    intrinsic: int = INTRINSIC
    noise: float = 0.07
    seed: int = 0

    def drives(self) -> Iterator[Drive]:
        """The fleet's drives in order; the last one is cut where the rows end."""
        first = number = 0
        while first < self.rows:
            drive = self._drive(number, most=self.rows - first)[0]
            yield drive
            first += len(drive)
            number += 1

    def blocks(self, *, dtype: type[Any] = np.float32, block_rows: int = BLOCK_ROWS) -> Iterator[NDArray[Any]]:
        """The vectors in order of rows, in blocks of shape (at most block_rows, D), each of unit length before it is cast to `dtype`."""
        waiting: list[NDArray[Any]] = []
        held = 0
        first = number = 0
        while first < self.rows:
            drive, latent, rng = self._drive(number, most=self.rows - first)
            waiting.append(self._lifted(latent, rng).astype(dtype, copy=False))
            first, number, held = first + len(drive), number + 1, held + len(drive)
            while held >= block_rows:
                joined = np.concatenate(waiting)
                yield joined[:block_rows]
                waiting = [joined[block_rows:].copy()]
                held -= block_rows
        if held:
            yield np.concatenate(waiting)

    def all(self, *, dtype: type[Any] = np.float32) -> NDArray[Any]:
        """All vectors, shape (rows, D)."""
        return _filled(self.blocks(dtype=dtype), rows=self.rows, dimension=self.dimension, dtype=dtype)

    def unseen(self, count: int) -> NDArray[np.float32]:
        """Vectors of frames that are not in the fleet, each from a drive of its own, shape (count, D): what people search with."""
        drawn = []
        for number in range(count):
            drive, latent, rng = self._drive(_UNSEEN + number, most=2**31)
            middle = len(drive) // 2
            drawn.append(self._lifted(latent[middle : middle + 1], rng))
        return np.concatenate(drawn) if drawn else np.empty((0, self.dimension), dtype=np.float32)

    @cached_property
    def _world(self) -> _World:
        rng = np.random.default_rng([self.seed, _WORLD])
        popularity = 1.0 / np.arange(2, self.clusters + 2)
        return _World(
            centres=rng.standard_normal((self.clusters, self.intrinsic), dtype=np.float32) * _BETWEEN_CLUSTERS,
            popularity=popularity / popularity.sum(),
            bend=rng.standard_normal((self.intrinsic, _HIDDEN), dtype=np.float32) * (_BEND / self.intrinsic**0.5),
            offset=rng.uniform(-1, 1, _HIDDEN).astype(np.float32),
            lift=rng.standard_normal((_HIDDEN, self.dimension), dtype=np.float32)
            / np.float32((_HIDDEN * self.dimension) ** 0.5),
            common=_unit(rng.standard_normal((1, self.dimension), dtype=np.float32))[0] * np.float32(_COMMON),
        )

    def _drive(self, number: int, *, most: int) -> tuple[Drive, NDArray[np.float32], np.random.Generator]:
        """A drive, its latent path of shape (N, intrinsic), and the generator its noise comes from."""
        world = self._world
        rng = np.random.default_rng([self.seed, _DRIVE, number])
        length = min(int(rng.integers(*_DRIVE_ROWS)), most)
        scene_rows = rng.integers(*_SCENE_ROWS, size=_DRIVE_ROWS[1] // _SCENE_ROWS[0])
        # What follows is drawn for more scenes than the drive has, whether it is cut or not, so that a short fleet begins like a long one.
        scenes = len(scene_rows)
        cluster_S = rng.choice(self.clusters, size=scenes, p=world.popularity)
        standing_S = rng.random(scenes) < _STANDING_SHARE
        own = rng.standard_normal((scenes, self.intrinsic), dtype=np.float32) * np.float32(_WITHIN_CLUSTER)
        path = rng.standard_normal((_DRIVE_ROWS[1], self.intrinsic), dtype=np.float32)[:length]

        scene_N = np.repeat(np.arange(scenes), scene_rows)[:length]
        path *= np.where(standing_S, 0.0, _STEP).astype(np.float32)[scene_N, np.newaxis]
        latent = np.cumsum(path, axis=0)
        starts_N = np.searchsorted(scene_N, scene_N)
        latent += (world.centres[cluster_S] + own)[scene_N] - latent[starts_N]
        drive = Drive(number=number, cluster_N=cluster_S[scene_N], scene_N=scene_N, standing_N=standing_S[scene_N])
        return drive, latent, rng

    def _lifted(self, latent: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        world = self._world
        hidden = latent @ world.bend
        hidden += world.offset
        vectors_ND = np.tanh(hidden, out=hidden) @ world.lift
        vectors_ND *= np.float32(
            1.6
        )  # The mean square of a tanh here is about 0.4, so this part is about as long as the common one.
        vectors_ND += world.common
        length = np.float32(self.noise * 1.4 / self.dimension**0.5)
        vectors_ND += rng.standard_normal(vectors_ND.shape, dtype=np.float32) * length
        return _unit(vectors_ND)


@dataclass(frozen=True, kw_only=True)
class _World:
    """What all drives share, for C clusters, Z latent, H hidden and D outer dimensions.

    Attributes:
        centres: Latents of the kinds of scene, shape (C, Z).
        popularity: How probable each kind is, shape (C,).
        bend: First half of the lift, shape (Z, H).
        offset: Shape (H,).
        lift: Second half, shape (H, D).
        common: The direction that all frames share, shape (D,).
    """

    centres: NDArray[np.float32]
    popularity: NDArray[np.float64]
    bend: NDArray[np.float32]
    offset: NDArray[np.float32]
    lift: NDArray[np.float32]
    common: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Isotropic:
    """Directions without any structure: all points are about equally far from one another, the worst case of every index.

    Attributes:
        rows: Vectors.
        dimension: Length of a vector, D.
        seed: The same seed gives the same bits.
    """

    rows: int
    dimension: int = DIMENSION
    seed: int = 0

    def blocks(self, *, dtype: type[Any] = np.float32, block_rows: int = BLOCK_ROWS) -> Iterator[NDArray[Any]]:
        """The vectors in order of rows, in blocks of shape (at most block_rows, D), each of unit length before it is cast to `dtype`."""
        rng = np.random.default_rng([self.seed, _WORLD])
        for start in range(0, self.rows, block_rows):
            drawn = rng.standard_normal((min(block_rows, self.rows - start), self.dimension), dtype=np.float32)
            yield _unit(drawn).astype(dtype, copy=False)

    def all(self, *, dtype: type[Any] = np.float32) -> NDArray[Any]:
        """All vectors, shape (rows, D)."""
        return _filled(self.blocks(dtype=dtype), rows=self.rows, dimension=self.dimension, dtype=dtype)

    def unseen(self, count: int) -> NDArray[np.float32]:
        """Vectors that are not among the rows, shape (count, D)."""
        rng = np.random.default_rng([self.seed, _DRIVE])
        return _unit(rng.standard_normal((count, self.dimension), dtype=np.float32))


def _filled(blocks: Iterator[NDArray[Any]], *, rows: int, dimension: int, dtype: type[Any]) -> NDArray[Any]:
    vectors_ND = np.empty((rows, dimension), dtype=dtype)
    start = 0
    for block in blocks:
        vectors_ND[start : start + len(block)] = block
        start += len(block)
    return vectors_ND


def _unit(vectors_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return vectors_ND
