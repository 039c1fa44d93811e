"""Ingest beside a bare decode-and-hash loop over the same files on the same cores, and where its time goes.

    uv run python -m tests.benchmarks.ingest_throughput --count 64 --frames DIR

The bare loop reads, hashes and decodes, at full scale or at the reduced scale that a preview needs, in as many threads as there are cores.
It and ingest are timed in turns, so that a change of the machine's speed hits both. Images are generated, with the spectrum and the bytes
a pixel of photographs; with `--frames`, photographs found there, enlarged to the sizes, take their place.
With a few hundred images the first and the last batch, beside which nothing else goes on, still count; the default takes 4 GB of disk.
On ext4, creating files takes several times as long for some minutes after thousands were deleted (it passes over inodes that were freed a
moment ago), so do not repeat this at once on the same file system.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import statistics as averages
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from infra.objects import open_objects
from infra.platform import open_platform
from infra.settings import Settings
from selection.ingest.ingest import ingest
from selection.pixels import images, statistics
from service.production_line import prepare

SIZES = ((1920, 1080), (3840, 2160))

_NO_LIMIT = 2**62
_MARGIN = 64
_SENSOR_NOISE = 2.5
_QUALITY = 90


def main() -> None:
    """Prints ratios and steps for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="images of 1920 x 1080; a third of it of 3840 x 2160")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=Path, help="folder with photographs to enlarge")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    photographs = sorted(path for path in asked.frames.rglob("*.jpg")) if asked.frames else []
    found = measure(count=asked.count, rounds=asked.rounds, photographs=photographs)
    for row in found:
        print(
            f"{row['size']}, {row['kilobytes']:.0f} kB: {row['frames_per_s']['ingest']:.0f} frames/s, "
            f"{row['share_of_reduced']:.0%} of a bare loop at reduced scale, {row['share_of_full']:.0%} at full scale; CPU per frame "
            + ", ".join(f"{name} {value:.1f}" for name, value in row["cpu_ms"].items())
            + " ms"
        )
        print(
            "  one core, ms per frame: " + ", ".join(f"{name} {value:.2f}" for name, value in row["steps_ms"].items())
        )
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1))


def measure(*, count: int, rounds: int, photographs: Sequence[Path] = ()) -> list[dict[str, Any]]:
    """One row a size."""
    rows = []
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch,  # Its mongod may still be writing.
        open_platform(Settings(home=Path(scratch) / "home")),  # One mongod for all rounds.
    ):
        for (width, height), number in zip(SIZES, (count, max(2, count // 3)), strict=True):
            folder = Path(scratch) / f"{width}"
            folder.mkdir()
            paths = _write_jpegs(folder, number, size=(width, height), photographs=photographs)
            row = _compare(paths, home=Path(scratch) / "home", rounds=rounds)
            rows.append({"size": f"{width}x{height}", **row, "steps_ms": _steps(paths)})
    return rows


def _compare(paths: Sequence[Path], *, home: Path, rounds: int) -> dict[str, Any]:
    width = paths[0].parent.name
    taken: dict[str, list[tuple[float, float]]] = {"reduced": [], "ingest": [], "full": []}
    for number in range(rounds):
        taken["reduced"].append(_bare(paths, short_side=images.PREVIEW_SHORT_SIDE))
        taken["ingest"].append(_ingested(paths, home=home, fleet=f"{width}-{number}"))
        taken["full"].append(_bare(paths, short_side=None))
    wall_s = {name: averages.median(wall for wall, _ in of_name) for name, of_name in taken.items()}
    cpu_s = {name: averages.median(cpu for _, cpu in of_name) for name, of_name in taken.items()}
    return {
        "kilobytes": sum(path.stat().st_size for path in paths) / len(paths) / 1e3,
        "frames_per_s": {name: len(paths) / seconds for name, seconds in wall_s.items()},
        "share_of_reduced": wall_s["reduced"] / wall_s["ingest"],
        "share_of_full": wall_s["full"] / wall_s["ingest"],
        "cpu_ms": {name: seconds / len(paths) * 1e3 for name, seconds in cpu_s.items()},
    }


def _bare(paths: Sequence[Path], *, short_side: int | None) -> tuple[float, float]:
    """Wall and CPU seconds of reading, hashing and decoding all files, and nothing else."""

    def one(path: Path) -> None:
        data = path.read_bytes()
        hashlib.sha256(data).digest()
        _decode(data, short_side=short_side)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return _timed(lambda: list(pool.map(one, paths)))


def _decode(data: bytes, *, short_side: int | None) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    if short_side is not None:
        image.draft("RGB", (short_side * image.width // image.height, short_side))
    image.load()
    return image


def _ingested(paths: Sequence[Path], *, home: Path, fleet: str) -> tuple[float, float]:
    """Wall and CPU seconds of taking all files into a fleet of its own that was written to before."""
    settings = Settings(home=home, database=f"fleet-{fleet}", object_store=str(home / f"objects-{fleet}"))
    with open_platform(settings) as platform:
        prepare(platform.database)
        warm_up = home / "one.jpg"
        Image.new("RGB", (640, 480)).save(warm_up)
        ingest(platform, [str(warm_up)])  # The first write to a new database takes longest.
        taken = _timed(lambda: ingest(platform, [str(paths[0].parent)]))
        if platform.database.frames.count_documents({}) != len(paths) + 1:
            raise AssertionError("not every file was taken in")
        return taken


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def _steps(paths: Sequence[Path]) -> dict[str, float]:
    """Milliseconds a frame of what ingest does to the bytes, each step for itself in one thread."""
    data = [path.read_bytes() for path in paths]
    decoded = [images.open_image(one, max_pixels=_NO_LIMIT).pixels for one in data]
    small = [images.shrink(one) for one in decoded]
    previews = [images.encode_preview(one) for one in small]
    with tempfile.TemporaryDirectory() as scratch:
        objects = open_objects(Settings(home=Path(scratch)))
        keyed = [(f"frames/{i % 256:02x}/{i}.jpg", one) for i, one in enumerate(data)]
        keyed_previews = [(f"previews/{i % 256:02x}/{i}.jpg", one) for i, one in enumerate(previews)]
        return {
            "read": _each_ms(lambda path: path.read_bytes(), paths),
            "hash": _each_ms(lambda one: hashlib.sha256(one).digest(), data),
            "decode reduced": _each_ms(lambda one: images.open_image(one, max_pixels=_NO_LIMIT), data),
            "(decode full)": _each_ms(lambda one: _decode(one, short_side=None), data),
            "resize": _each_ms(images.shrink, decoded),
            "encode preview": _each_ms(images.encode_preview, small),
            "statistics and hash": _each_ms(statistics.measure, small),
            "store original": _each_ms(lambda one: objects.put(*one), keyed),
            "store preview": _each_ms(lambda one: objects.put(*one), keyed_previews),
        }


def _each_ms(step: Callable[[Any], object], inputs: Sequence[Any]) -> float:
    """Median over the inputs of the best of three."""
    best = [min(_timed(lambda one=one: step(one))[0] for _ in range(3)) for one in inputs]  # type: ignore[misc]
    return averages.median(best) * 1e3


def _write_jpegs(folder: Path, count: int, *, size: tuple[int, int], photographs: Sequence[Path]) -> list[Path]:
    """Different images: a few scenes, each cut out at other places and with other sensor noise."""
    width, height = size
    whole = (width + _MARGIN, height + _MARGIN)
    scenes = [_enlarged(path, whole) for path in photographs[:: max(1, len(photographs) // 6)][:6]]
    scenes = scenes or [_scene(whole, seed=seed) for seed in range(6)]
    rng = np.random.default_rng(0)
    noise = rng.normal(0, _SENSOR_NOISE, (whole[1], whole[0], 3)).astype(np.float32)
    paths = [folder / f"{number:04d}.jpg" for number in range(count)]
    for path, scene in zip(paths, islice(cycle(scenes), count), strict=True):
        (x, y), (noise_x, noise_y) = rng.integers(0, _MARGIN, (2, 2))
        pixels = scene[y : y + height, x : x + width] + noise[noise_y : noise_y + height, noise_x : noise_x + width]
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, format="JPEG", quality=_QUALITY)
    return paths


def _enlarged(path: Path, size: tuple[int, int]) -> NDArray[np.float32]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize(size, Image.Resampling.LANCZOS), dtype=np.float32)


def _scene(size: tuple[int, int], *, seed: int) -> NDArray[np.float32]:
    """Layers whose strength falls with their frequency, as in photographs, and things with edges before them."""
    rng = np.random.default_rng(seed)
    pixels = np.full((size[1], size[0], 3), 110.0, dtype=np.float32)
    for cell in (512, 256, 128, 64, 32, 16, 8, 4):
        coarse = rng.normal(0, 1.2 * cell**0.5, (size[1] // cell + 2, size[0] // cell + 2)).astype(np.float32)
        pixels += np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))[:, :, None]
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image, "RGBA")
    for _ in range(60):
        x, y, w, h = (int(value) for value in rng.uniform(0, 1, 4) * (*size, size[0] / 6, size[1] / 6))
        colour = (*(int(value) for value in rng.integers(0, 255, 3)), 120)
        (draw.rectangle if w > h else draw.ellipse)((x, y, x + w, y + h), fill=colour)
    return np.asarray(image, dtype=np.float32)


if __name__ == "__main__":
    main()
