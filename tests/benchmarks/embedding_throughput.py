"""Frames per second of the embedding line as a share of the bare forward pass on prepared batches, and exact search where vectors fit.

    uv run python -m tests.benchmarks.embedding_throughput                      # ViT-B-32 and the small encoder, from previews
    uv run python -m tests.benchmarks.embedding_throughput --frames 20000 --pixels previews,originals     # on a GPU host: all figures

ViT-B-32 has random weights: speed does not depend on them. Frames are 1920 x 1080; their previews and originals lie in a local object
store. The bare pass gets one prepared batch, on the device already, again and again: on a CPU once with all cores on one batch, as torch
does it, and once with a batch a core, as MLPL does it; on a GPU with the batch size and the compiled model that MLPL found. All ways are
timed in turns, so that a change of the machine's speed hits all; processor time is given beside, as other work on the machine hardly
moves it. With a GPU, exact search over as many vectors as fit follows.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from infra.objects import ObjectStore, open_objects
from infra.platform import Platform
from infra.settings import Settings
from selection.embedding import replica, weights
from selection.embedding.embed import Embedding
from selection.embedding.encoder import Encoder
from selection.embedding.index.exact import ExactBlock
from selection.fleet import frames
from selection.pixels import images

DIFFERENT_FRAMES = 64
BLOCK_ROWS, DIMENSION, QUERIES, K = 1_000_000, 512, 50, 50
SHARE_OF_MEMORY = 0.8


def main() -> None:
    """Prints a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="ViT-B-32,small")
    parser.add_argument("--pixels", default="previews", help="previews, originals or both with a comma")
    parser.add_argument("--frames", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--vectors", type=int, help="for exact search; default: with a GPU, as many as fit")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)  # open_clip warns of random weights.
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        platform = _platform(Path(folder), device=asked.device, count=asked.frames)
        for model in asked.models.split(","):
            encoder = _random_vit(asked.device, model) if model != "small" else _small(asked.device)
            for pixels in asked.pixels.split(","):
                found.append(measure(platform, encoder, pixels=pixels, count=asked.frames, rounds=asked.rounds))
                print(_line(found[-1] | {"model": model}), flush=True)
    searched = exact_search(count=asked.vectors, device=asked.device)
    if searched is not None:
        print(
            "exact search of {rows:,} x 512 on {device}: p50 {p50_ms:.2f} ms, p95 {p95_ms:.2f} ms, {queries_per_s:.0f}/s".format(
                **searched
            )
        )
    if asked.json:
        asked.json.write_text(json.dumps({"embedding": found, "exact_search": searched}, indent=1))


def measure(platform: Platform, encoder: Encoder, *, pixels: str, count: int, rounds: int) -> dict[str, Any]:
    """Times the line and the bare passes in turns."""

    def line() -> None:
        with Embedding(platform, encoder, rows=count, whole=pixels == "originals") as embedding:
            embedding.table(start=0, stop=count)

    ways: dict[str, Callable[[], None]] = {"line": line} | _bare(encoder, count)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    computed: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, run in ways.items():
            began, began_cpu = time.perf_counter(), time.process_time()
            run()
            if number:  # The first round warms up.
                taken[name].append(time.perf_counter() - began)
                computed[name].append(time.process_time() - began_cpu)
    shares = {
        name: statistics.median(bare / whole for bare, whole in zip(taken[name], taken["line"], strict=True))
        for name in ways
        if name != "line"
    }
    return {
        "encoder_id": encoder.encoder_id,
        "device": str(encoder.device),
        "pixels": pixels,
        "batch": encoder.batch_frames,
        "frames_per_s": {name: count / statistics.median(seconds) for name, seconds in taken.items()},
        "cpu_ms_per_frame": {name: 1e3 * statistics.median(seconds) / count for name, seconds in computed.items()},
        "share_of": shares,
    }


def _bare(encoder: Encoder, count: int) -> dict[str, Callable[[], None]]:
    import torch

    workers = encoder.workers(rows=count)
    one = workers[0]
    noise = np.random.default_rng(0).integers(0, 255, (270, 480, 3), dtype=np.uint8)
    prepared = [encoder.prepare(Image.fromarray(noise))] * one.batch_frames
    with torch.inference_mode():
        batch = {worker.device: worker.normalised(prepared) for worker in workers}

    def passes(worker: replica.Replica, frames_: int) -> None:
        with torch.inference_mode(), worker._precision():
            for _ in range(max(1, round(frames_ / one.batch_frames))):
                worker._compiled(batch[worker.device])
            if worker.device.type == "cuda":
                torch.cuda.synchronize(worker.device)

    def at_once(feeders: list[replica.Replica]) -> None:
        def feed(worker: replica.Replica) -> None:
            with worker.thread():
                passes(worker, count // len(feeders))

        threads = [threading.Thread(target=feed, args=(worker,)) for worker in feeders]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    if one.device.type == "cuda":
        return {"bare": lambda: at_once(list(workers))}
    return {
        "all cores on one batch": lambda: passes(one, count),
        "a batch a core": lambda: at_once([one] * one.feeders),
    }


def exact_search(*, count: int | None, device: str) -> dict[str, Any] | None:
    """Nearest 50 of random vectors by the blocks of the index; None where no number is given and there is no GPU."""
    import torch

    from selection.devices import torch_devices

    devices = torch_devices(device)
    if count is None:
        if devices[0].type != "cuda":
            return None
        free = sum(torch.cuda.mem_get_info(one)[0] for one in devices)
        count = int(free * SHARE_OF_MEMORY) // (2 * DIMENSION)
    blocks = []
    for number, first in enumerate(range(0, count, BLOCK_ROWS)):
        there = devices[number % len(devices)]
        vectors = torch.randn((min(BLOCK_ROWS, count - first), DIMENSION), device=there)
        half = torch.nn.functional.normalize(vectors).half().cpu().numpy()
        blocks.append(ExactBlock(half, device=there if there.type == "cuda" else None))
    queries = np.random.default_rng(1).standard_normal((QUERIES, DIMENSION)).astype(np.float32)
    taken = []
    for query in queries / np.linalg.norm(queries, axis=1, keepdims=True):
        began = time.perf_counter()
        parts = [block.search(query, k=K, allowed_N=None)[0] for block in blocks]
        np.sort(np.concatenate(parts))[-K:]
        taken.append(1e3 * (time.perf_counter() - began))
    p50, p95 = np.percentile(taken[1:], (50, 95))
    found = {
        "rows": count,
        "device": str(devices[0]),
        "devices": len(devices),
        "p50_ms": float(p50),
        "p95_ms": float(p95),
    }
    on_gpu = [one for one in devices if one.type == "cuda"]
    peak = sum(torch.cuda.max_memory_allocated(one) for one in on_gpu)
    return found | {"queries_per_s": 1e3 / float(np.mean(taken[1:])), "gpu_peak_gb": peak / 1e9 if on_gpu else None}


def _line(found: dict[str, Any]) -> str:
    rates = found["frames_per_s"]
    shares = ", ".join(
        f"{share:.1%} of the bare pass ({name}: {rates[name]:.1f})" for name, share in found["share_of"].items()
    )
    processor = ", ".join(f"{name} {ms:.2f}" for name, ms in found["cpu_ms_per_frame"].items())
    return (
        f"{found['model']} on {found['device']} from {found['pixels']}, batch {found['batch']}: {rates['line']:.1f} frames/s, "
        f"{shares}; processor ms a frame: {processor}"
    )


class _Rows:
    """Stands where the database does; rows are given directly."""


def _platform(folder: Path, *, device: str, count: int) -> Platform:
    settings = Settings(home=folder, device=device)
    objects = open_objects(settings)
    documents = _frames(objects, min(count, DIFFERENT_FRAMES))

    def rows(_db: Any, *, start: int, stop: int, fields: Any) -> Iterator[dict[str, Any]]:
        return ({**documents[row % len(documents)], "row": row} for row in range(start, stop))

    frames.documents = rows
    return Platform(settings=settings, database=_Rows(), objects=objects)  # type: ignore[arg-type]


def _frames(objects: ObjectStore, count: int) -> list[dict[str, Any]]:
    import io

    draw = np.random.default_rng(0)
    documents = []
    for number in range(count):
        coarse = Image.fromarray(draw.integers(0, 255, (27, 48, 3), dtype=np.uint8))
        picture = coarse.resize((1920, 1080), Image.Resampling.BICUBIC).filter(ImageFilter.DETAIL)
        keys = {"preview_key": f"previews/{number:06d}.jpg", "object_key": f"frames/{number:06d}.jpg"}
        file = io.BytesIO()
        picture.save(file, format="JPEG", quality=90)
        objects.put(keys["object_key"], file.getvalue())
        objects.put(keys["preview_key"], images.preview(picture))
        documents.append(keys)
    return documents


def _small(device: str) -> Encoder:
    return Encoder(weights.small(), device=device)


def _random_vit(device: str, name: str) -> Encoder:
    import open_clip
    import torch

    torch.manual_seed(0)
    real = open_clip.create_model

    def untrained(name: str, *, require_pretrained: bool, **options: Any) -> Any:
        return real(name, **options)

    open_clip.create_model = untrained
    try:
        found = weights.Weights(encoder_id=f"random-{name}", model_name=name, options={})
        return Encoder(found, device=device)
    finally:
        open_clip.create_model = real


if __name__ == "__main__":
    main()
