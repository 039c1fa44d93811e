"""Ingest's one pass beside a bare decode-and-hash loop over the same bytes on the same cores.

uv run python -m tests.benchmarks.ingest_throughput
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from infra.platform import open_platform
from infra.settings import Settings
from selection.ingest.ingest import ingest
from selection.pixels import images
from service.production_line import prepare

SIZES = ((1920, 1080), (3840, 2160))
_NO_LIMIT = 2**62


def measure(*, count: int = 16) -> list[dict[str, Any]]:
    """One row a size: images per second of ingest and of the bare loop, decoding at full and at the preview's reduced scale."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch, open_platform(Settings(home=Path(scratch) / "home")) as platform:
        prepare(platform.database)
        warm_up = Path(scratch) / "warm-up"
        warm_up.mkdir()
        (warm_up / "one.jpg").write_bytes(_jpeg(640, 480, seed=0))
        ingest(platform, [str(warm_up)])  # The first write to a new database takes longest.
        for width, height in SIZES:
            folder = Path(scratch) / f"{width}"
            folder.mkdir()
            for seed in range(count):
                (folder / f"{seed}.jpg").write_bytes(_jpeg(width, height, seed=seed))
            full = _rate(folder, lambda data: images.open_image(data, max_pixels=_NO_LIMIT, short_side=None))
            reduced = _rate(folder, lambda data: images.open_image(data, max_pixels=_NO_LIMIT))
            report = ingest(platform, [str(folder)])
            mlpl = report.added / report.seconds
            rows.append(
                {
                    "size": f"{width}x{height}",
                    "mlpl_per_s": mlpl,
                    "bare_full_per_s": full,
                    "bare_reduced_per_s": reduced,
                    "ratio_full": mlpl / full,
                    "ratio_reduced": mlpl / reduced,
                }
            )
    return rows


def _rate(folder: Path, decode: Callable[[bytes], object]) -> float:
    paths = list(folder.iterdir())

    def one(path: Path) -> None:
        data = path.read_bytes()
        hashlib.sha256(data).digest()
        decode(data)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        started = time.perf_counter()
        list(pool.map(one, paths))
        return len(paths) / (time.perf_counter() - started)


def _jpeg(width: int, height: int, *, seed: int) -> bytes:
    """A smooth scene with sensor noise, about 0.25 bytes a pixel, as a camera writes it."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (height // 24, width // 24, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    noisy = (smooth + rng.integers(-6, 7, smooth.shape)).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, format="JPEG", quality=90)
    return file.getvalue()


if __name__ == "__main__":
    for row in measure():
        print(
            f"{row['size']}: {row['mlpl_per_s']:.0f} images/s, {row['ratio_full']:.0%} of a bare full-scale loop, "
            f"{row['ratio_reduced']:.0%} of a bare reduced-scale loop"
        )
