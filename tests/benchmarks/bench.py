"""What every row of the benchmark shares: sizes, fleets under a home, and how often to repeat."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from infra.platform import Platform
from infra.settings import Settings
from service.production_line import open_line
from tests.benchmarks import fleet, mlpl
from tests.benchmarks.vectors import ClipLike, Isotropic

FILTER = "road:highway"
CLIP_LIKE, ISOTROPIC = "benchmark-clip-like", "benchmark-isotropic"


@dataclass(frozen=True)
class Bench:
    """One run.

    Attributes:
        home: Fleets are kept below it, one a size.
        rows: Size of the usual fleet.
        large_rows: Size of the large one.
        huge_rows: Vectors of the index that is searched in compressed form.
        repeats: Requests a latency is computed from.
        encoder: `vit-b-32` with random weights, or `small`: whose time text queries and embedding are measured with.
        runs: How often what takes seconds is done; the median counts.
        settle_s: Seconds of requests that do not count after a server's start: it loads its encoder beside the first ones.
        images: JPEGs of each size for ingest, previews for embedding.
    """

    home: Path
    rows: int
    large_rows: int
    repeats: int
    encoder: str
    images: int
    runs: int = 3
    settle_s: float = 8.0
    huge_rows: int = 10_000_000
    seed: int = 0

    @cached_property
    def clip_like(self) -> ClipLike:
        """The usual fleet's vectors."""
        return ClipLike(rows=self.rows, seed=self.seed)

    @cached_property
    def half_ND(self) -> NDArray[np.float16]:
        """Those vectors as shards hold them, shape (rows, D)."""
        return self.clip_like.all(dtype=np.float16)

    @cached_property
    def vectors_ND(self) -> NDArray[np.float32]:
        """Those vectors, of unit length in float32."""
        return np.ascontiguousarray(unit(self.half_ND))

    def large(self, kind: str) -> ClipLike | Isotropic:
        """The large fleet's vectors of a kind."""
        made = ClipLike if kind == CLIP_LIKE else Isotropic
        return made(rows=self.large_rows, seed=self.seed)

    @contextmanager
    def fleet(self, rows: int, *, producer: str = CLIP_LIKE) -> Iterator[Platform]:
        """A fleet of that size with the producer's vectors, made when it is not there yet."""
        settings = Settings(home=self.home / f"fleet-{rows}", encoder=f"benchmark/{producer}", device="cpu")
        with open_line(settings) as platform:
            fleet.fill(platform, rows, seed=self.seed)
            fleet.choose_encoder(platform, producer)
            kinds = {CLIP_LIKE: ClipLike, ISOTROPIC: Isotropic}
            fleet.embed(platform, kinds[producer](rows=rows, seed=self.seed), producer=producer)
            mlpl.build_index(platform, producer=producer)
            yield platform

    @contextmanager
    def empty_fleet(self, name: str) -> Iterator[Platform]:
        """A database and objects of its own with nothing in them, dropped afterwards."""
        settings = Settings(
            home=self.home / f"fleet-{self.rows}", database=name, object_store=str(self.home / name), device="cpu"
        )
        with open_line(settings) as platform:
            platform.database.client.drop_database(name)
        with open_line(settings) as platform:
            try:
                yield platform
            finally:
                platform.database.client.drop_database(name)
                for key in list(platform.objects.list()):
                    platform.objects.delete(key)

    def query_rows(self, rows: int) -> list[int]:
        """Rows of the fleet to search with, drawn by the seed."""
        drawn = np.random.default_rng([self.seed, 9]).choice(rows, size=min(rows, self.repeats), replace=False)
        return [int(row) for row in drawn]

    def mask(self, rows: int) -> NDArray[np.bool_]:
        """Which rows match `FILTER`, computed from the descriptions and not by the product."""
        from tests.benchmarks.descriptions import described

        found = described(ClipLike(rows=rows, seed=self.seed).drives(), seed=self.seed)
        return np.fromiter((one.attributes["road"] == "highway" for one in found), dtype=bool, count=rows)

    def with_encoder(self, platform: Platform) -> Platform:
        """The same fleet, its vectors claimed by an encoder that can be loaded, for queries in words."""
        setting = "small" if self.encoder == "small" else str(_checkpoint(self.home / "encoders-made"))
        return replace(platform, settings=platform.settings.model_copy(update={"encoder": setting}))


def unit(vectors_ND: NDArray[np.float16]) -> NDArray[np.float32]:
    """In float32, with lengths of exactly one again."""
    vectors = vectors_ND.astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def _checkpoint(folder: Path) -> Path:
    """ViT-B-32 with random weights as an open_clip checkpoint directory: as slow as the real one, and needs no download."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    weights, config = folder / "open_clip_model.safetensors", folder / "open_clip_config.json"
    if not config.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        model = open_clip.create_model("ViT-B-32")
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, weights)
        normal = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
        config.write_text(json.dumps({"model_cfg": open_clip.get_model_config("ViT-B-32"), "preprocess_cfg": normal}))
    return folder


def jpegs(folder: Path, *, count: int, width: int, height: int) -> list[Path]:
    """JPEGs of about a camera's size in bytes: noise of several scales, so that decoding has something to do; all different."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:05d}.jpg" for i in range(count)]
    for i, path in enumerate(paths):
        if path.is_file():
            continue
        seed = int.from_bytes(hashlib.sha256(f"{width}x{height}/{i}".encode()).digest()[:4])
        rng = np.random.default_rng(seed)
        pixels = np.full((height, width, 3), 110, dtype=np.float32)
        for cell, strength in ((256, 40.0), (64, 25.0), (16, 12.0), (4, 6.0)):
            small = rng.integers(0, 256, (height // cell + 1, width // cell + 1, 3), dtype=np.uint8)
            layer = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
            pixels += (np.asarray(layer, dtype=np.float32) - 128) * (strength / 128)
        partial = path.with_suffix(".partial")
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(partial, "JPEG", quality=88)
        partial.replace(path)
    return paths
