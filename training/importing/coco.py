"""Detections in COCO's forms: a results file (a list of `image_id`, `category_id`, `bbox` [x, y, width, height], `score`), or a dataset file
whose annotations have scores.

A results file names images and categories by number; the dataset file it was made on says what the numbers mean. Without one, `image_id`
must be a frame id, digest or file name, and `category_id` a class name. An image of the dataset file without results is one in which
nothing was found. Results are streamed; the dataset file is held in memory without its annotations.

Source: "COCO data format" and "results format", https://cocodataset.org/#format-results.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import IO, Any

from infra.errors import InvalidInput
from selection.fleet.tabular import Line

_CHUNK = 1 << 20
_LONGEST_ITEM = 16 << 20


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What numbers mean."""

    names: Mapping[Any, str]
    categories: Mapping[Any, str]


def read(source: Path, *, dataset: Path | None) -> Iterator[Line]:
    """A record for each run of results about one image, then one for each image of the dataset file that had none.

    Raises:
        InvalidInput: One of the files is not what it should be.
    """
    try:
        with source.open(encoding="utf-8-sig") as file:
            start = file.read(_CHUNK).lstrip()
            if start.startswith("["):
                known = _dataset(_load(dataset)) if dataset is not None else None
                yield from _records(_items(file, start, source=source), known)
                return
        whole = _load(source)
        known = _dataset(whole if dataset is None else _load(dataset))
        yield from _records(enumerate(whole.get("annotations", ()), start=1), known)
    except (OSError, UnicodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
        raise InvalidInput(f"cannot read {source}: {reason}") from exc


def _records(results: Iterator[tuple[int, Any]] | enumerate[Any], known: Dataset | None) -> Iterator[Line]:
    seen: set[Any] = set()
    for image_id, group in groupby(results, key=lambda one: _image_id(one[1])):
        here = list(group)
        seen.add(image_id)
        number = here[0][0]
        try:
            file = _name(image_id, known)
            boxes = [_box(result, known) for _, result in here]
        except InvalidInput as exc:
            yield Line(number=number, problem=exc.message)
        else:
            yield Line(number=number, record={"file": file, "boxes": boxes})
    if known is not None:
        for image_id in known.names.keys() - seen:
            yield Line(number=0, record={"file": known.names[image_id], "boxes": []})


def _image_id(result: Any) -> Any:
    image_id = result.get("image_id") if isinstance(result, Mapping) else None
    return image_id if isinstance(image_id, str | int) else None


def _name(image_id: Any, known: Dataset | None) -> str:
    if image_id is None:
        raise InvalidInput("it has no `image_id`")
    if known is None:
        if isinstance(image_id, str):
            return image_id
        raise InvalidInput(f"image {image_id} is only a number; give the dataset file that names it with --dataset")
    if image_id not in known.names:
        raise InvalidInput(f"image {image_id} is not in the dataset file")
    return known.names[image_id]


def _box(result: Any, known: Dataset | None) -> dict[str, Any]:
    bbox = result.get("bbox")
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(isinstance(one, int | float) for one in bbox):
        raise InvalidInput("`bbox` is not [x, y, width, height]")
    category = result.get("category_id")
    label = known.categories.get(category) if known is not None and known.categories else category
    if not isinstance(label, str):
        raise InvalidInput(f"category {category!r} has no name; give the dataset file that names it with --dataset")
    left, top, width, height = bbox
    return {
        "bbox_xyxy_px": [left, top, left + width, top + height],
        "label": label,
        "confidence": result.get("score"),
    }


def _dataset(whole: Mapping[str, Any]) -> Dataset:
    try:
        return Dataset(
            names={one["id"]: str(one["file_name"]) for one in whole["images"]},
            categories={one["id"]: str(one["name"]) for one in whole["categories"]},
        )
    except (KeyError, TypeError) as exc:
        raise InvalidInput(f"the COCO dataset file has no usable `images` and `categories` ({exc} is missing)") from exc


def _load(path: Path) -> Mapping[str, Any]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            whole = json.load(file)
    except ValueError as exc:
        raise InvalidInput(f"{path} is not JSON: {exc}") from exc
    if not isinstance(whole, dict):
        raise InvalidInput(f"{path} is no COCO dataset file: it is not an object with `images` and `categories`")
    return whole


def _items(file: IO[str], text: str, *, source: Path) -> Iterator[tuple[int, Any]]:
    """The items of a JSON array, read a piece at a time; `text` is the array's beginning."""
    decoder = json.JSONDecoder()
    at, number = 1, 0
    while True:
        while at < len(text) and text[at] in " \t\r\n,":
            at += 1
        if at < len(text) and text[at] == "]":
            return
        try:
            item, end = decoder.raw_decode(text, at)
            complete = end < len(text)  # A number at the end of a piece may go on in the next.
        except ValueError as exc:
            complete, problem = False, str(exc)
        else:
            problem = "it ends in the middle"
        if complete:
            number += 1
            yield number, item
            at = end
            continue
        more = file.read(_CHUNK) if len(text) - at < _LONGEST_ITEM else ""
        if not more:
            raise InvalidInput(f"{source} is not a whole JSON list: after {number} results, {problem}")
        text, at = text[at:] + more, 0
