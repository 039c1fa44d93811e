"""Frames per second of `embed_rows` as a share of the bare forward pass, ViT-B-32 with random weights: speed does not depend on them.

    uv run python -m tests.benchmarks.embedding_throughput --frames 256

Previews of 1280 x 720 noise-and-shapes frames lie in a local object store; the forward pass gets one prepared batch again and again. Both
are timed in turns, so that a change of the machine's speed hits both.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from infra.objects import ObjectStore, open_objects
from infra.platform import Platform
from infra.settings import Settings
from selection.embedding import embed, encoders
from selection.fleet import frames
from selection.pixels import images


def main() -> None:
    """Prints the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), count=asked.frames, rounds=asked.rounds, device=asked.device)
    print(
        f"bare forward pass {found['bare_fps']:.1f} frames/s, embed_rows {found['embed_fps']:.1f} frames/s: "
        f"{found['ratio']:.1%} (median of {asked.rounds} rounds, {found['device']})"
    )
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1))


def measure(folder: Path, *, count: int, rounds: int, device: str) -> dict[str, Any]:
    """Times both ways in turns."""
    settings = Settings(home=folder, device=device)
    objects = open_objects(settings)
    documents = _previews(objects, count)
    platform = Platform(settings=settings, database=_Rows(), objects=objects)  # type: ignore[arg-type]

    def rows(_db: Any, *, start: int, stop: int, fields: Any) -> Iterator[dict[str, Any]]:
        return iter(documents[start:stop])

    frames.documents = rows
    encoder = _random_vit(device)
    first = [Image.open(io.BytesIO(objects.get(one["preview_key"]))) for one in documents[: embed.BATCH_FRAMES]]
    prepared = [encoder.prepare(image) for image in first]
    encoder.encode_prepared(prepared)
    bare, whole = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(count // len(prepared)):
            encoder.encode_prepared(prepared)
        bare.append((count // len(prepared)) * len(prepared) / (time.perf_counter() - began))
        began = time.perf_counter()
        embed.embed_rows(platform, encoder, start=0, stop=count)
        whole.append(count / (time.perf_counter() - began))
    ratios = [one / other for one, other in zip(whole, bare, strict=True)]
    return {
        "bare_fps": float(np.median(bare)),
        "embed_fps": float(np.median(whole)),
        "ratio": float(np.median(ratios)),
        "device": str(encoder._device),
    }


class _Rows:
    """Stands where the database does; rows are given directly."""


def _previews(objects: ObjectStore, count: int) -> list[dict[str, Any]]:
    draw = np.random.default_rng(0)
    documents = []
    for row in range(count):
        coarse = Image.fromarray(draw.integers(0, 255, (18, 32, 3), dtype=np.uint8))
        picture = coarse.resize((1280, 720), Image.Resampling.BICUBIC).filter(ImageFilter.DETAIL)
        key = f"previews/{row:06d}.jpg"
        objects.put(key, images.preview(picture))
        documents.append({"row": row, "preview_key": key, "object_key": key})
    return documents


def _random_vit(device: str) -> encoders.Encoder:
    import open_clip
    import torch

    torch.manual_seed(0)
    real = open_clip.create_model

    def untrained(name: str, *, require_pretrained: bool, **options: Any) -> Any:
        return real(name, **options)

    open_clip.create_model = untrained
    try:
        weights = encoders._Weights(encoder_id="random", model_name="ViT-B-32", options={})
        return encoders.Encoder(weights, device=device)
    finally:
        open_clip.create_model = real


if __name__ == "__main__":
    main()
