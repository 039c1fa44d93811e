"""How well text queries find frames: `python -m service.demo.retrieval_evaluation --frames DIR --encoder DIR`.

Ranks the frames of a folder with `metadata.jsonl` for one query per attribute value and class, and compares average
precision and precision at 10 with chance, which is the share of frames for which the query is true.
"""

import argparse
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.job.evaluation import average_precision

_BATCH = 64
_ATTRIBUTE_QUERIES: dict[tuple[str, str], str] = {
    ("timeofday", "day"): "a road by day",
    ("timeofday", "dusk"): "a road at dusk",
    ("timeofday", "dawn"): "a road at dawn",
    ("timeofday", "night"): "a road at night",
    ("weather", "clear"): "clear weather",
    ("weather", "overcast"): "overcast",
    ("weather", "rain"): "wet road in the rain",
    ("weather", "fog"): "a road in fog",
    ("weather", "snow"): "a snow covered road",
    ("scene", "city"): "a city street",
    ("scene", "residential"): "a residential street",
    ("scene", "highway"): "a highway",
    ("scene", "rural"): "a country road",
    ("traffic", "dense"): "dense traffic",
}
_CLASS_QUERIES: dict[str, str] = {
    "car": "a car", "Car": "a car", "truck": "a truck", "Truck": "a truck", "bus": "a bus",
    "pedestrian": "a pedestrian", "Pedestrian": "a pedestrian", "cyclist": "a cyclist", "Cyclist": "a cyclist",
    "Bicyclist": "a cyclist", "traffic_sign": "a traffic sign", "SignSymbol": "a traffic sign",
    "traffic_light": "a traffic light", "crossing": "a zebra crossing", "Fence": "a fence",
}  # fmt: skip
_CONJUNCTIONS: tuple[tuple[str, tuple[str, ...], tuple[tuple[str, str], ...]], ...] = (
    ("night crossing with pedestrians", ("crossing", "pedestrian"), (("timeofday", "night"),)),
    ("pedestrians at night", ("pedestrian",), (("timeofday", "night"),)),
    ("a cyclist in the rain", ("cyclist",), (("weather", "rain"),)),
    ("a truck on the highway", ("truck",), (("scene", "highway"),)),
)


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """One query's figures, all in 0..1; `chance` is the share of frames that match."""

    query: str
    target: str
    frames: int
    chance: float
    average_precision: float
    precision_at_10: float


def evaluate(
    lines: list[dict[str, Any]],
    image_emb_ND: NDArray[np.float32],
    encode_texts: Callable[[list[str]], NDArray[np.float32]],
) -> list[Retrieval]:
    """Figures of every query that is true for some but not all of the frames for which its truth is known.

    A frame without a value for an attribute, or without any class label, does not take part in that query.
    """
    wanted = list(_targets(lines))
    text_emb = encode_texts([query for query, _, _ in wanted]) if wanted else np.zeros((0, image_emb_ND.shape[1]))
    results: list[Retrieval] = []
    for (query, target, truths), embedding in zip(wanted, text_emb, strict=True):
        known = np.asarray([truth is not None for truth in truths])
        relevant = np.asarray([bool(truth) for truth in truths])[known]
        scores = (image_emb_ND @ embedding)[known]
        best = relevant[np.argsort(-scores, kind="stable")[:10]]
        results.append(
            Retrieval(
                query=query,
                target=target,
                frames=len(relevant),
                chance=float(relevant.mean()),
                average_precision=average_precision(scores, relevant) or 0.0,
                precision_at_10=float(best.mean()),
            )
        )
    return results


def _targets(lines: list[dict[str, Any]]) -> Iterable[tuple[str, str, list[bool | None]]]:
    """Query, what it stands for, and its truth per frame (None: unknown)."""
    labelled = [bool(line.get("classes")) or bool(line.get("drive")) for line in lines]

    def attribute(key: str, value: str) -> list[bool | None]:
        values = [line.get("attributes", {}).get(key) for line in lines]
        return [None if found is None else found == value for found in values]

    def presence(name: str) -> list[bool | None]:
        return [name in line["classes"] if known else None for line, known in zip(lines, labelled, strict=True)]

    candidates: list[tuple[str, str, list[bool | None]]] = [
        (query, f"{key}={value}", attribute(key, value)) for (key, value), query in _ATTRIBUTE_QUERIES.items()
    ]
    candidates += [(query, name, presence(name)) for name, query in _CLASS_QUERIES.items()]
    for query, names, pairs in _CONJUNCTIONS:
        columns = [presence(name) for name in names] + [attribute(key, value) for key, value in pairs]
        joined = [None if None in truths else all(truths) for truths in zip(*columns, strict=True)]
        candidates.append((query, " and ".join([*names, *(f"{k}={v}" for k, v in pairs)]), joined))
    for query, target, truths in candidates:
        if True in truths and False in truths:
            yield query, target, truths


def main() -> None:
    """Prints the table and, with --json, writes it."""
    parser = argparse.ArgumentParser(description="Average precision of text queries next to chance.")
    parser.add_argument("--frames", type=Path, required=True, help="folder with metadata.jsonl")
    parser.add_argument("--encoder", type=Path, required=True, help="folder with open_clip_config.json")
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    text = (arguments.frames / "metadata.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    image_emb, encode_texts = encode(lines, arguments.frames, arguments.encoder, threads=arguments.threads)
    results = evaluate(lines, image_emb, encode_texts)
    for row in results:
        print(
            f"{row.target:45s} chance {row.chance:.3f}  AP {row.average_precision:.3f}  "
            f"P@10 {row.precision_at_10:.2f}  ({row.frames} frames, {row.query!r})"
        )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(row) for row in results], indent=1) + "\n", encoding="utf-8")


def encode(
    lines: list[dict[str, Any]], frames: Path, encoder: Path, *, threads: int
) -> tuple[NDArray[np.float32], Callable[[list[str]], NDArray[np.float32]]]:
    """Loads an open_clip folder and embeds the frames.

    Returns:
        Unit image vectors, shape (N, D), and the function that embeds texts the same way.
    """
    import open_clip
    import torch
    from PIL import Image

    torch.set_num_threads(threads)
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{encoder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{encoder}")
    model.eval()
    parts: list[NDArray[np.float32]] = []
    with torch.inference_mode():
        for start in range(0, len(lines), _BATCH):
            pixels = []
            for line in lines[start : start + _BATCH]:
                with Image.open(frames / line["file"]) as image:
                    pixels.append(preprocess(image.convert("RGB")))
            parts.append(model.encode_image(torch.stack(pixels), normalize=True).numpy())

    def encode_texts(texts: list[str]) -> NDArray[np.float32]:
        with torch.inference_mode():
            embedding: NDArray[np.float32] = model.encode_text(tokenizer(texts), normalize=True).numpy()
        return embedding

    return np.concatenate(parts), encode_texts


if __name__ == "__main__":
    main()
