"""What a line says about one frame, for each task kind: read and checked, kept as bytes while it waits for its frame, and made a shard of.

Classification and multilabel: `probabilities` (a list in class order, or an object by class name), or `passes` (a list of those), or one
column a class. Detection: `boxes`, each with `bbox_xyxy_px`, `label`, and `confidence` or `probabilities`, perhaps `member`; or the columns
`boxes`, `labels` and `confidences`. Segmentation: see `training.importing.pixel_maps`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from annotation.tasks import TaskKind
from infra.errors import InvalidInput
from infra.objects import ObjectStore
from selection.ranking import acquisition
from selection.ranking.acquisition import ProbabilityKind
from selection.scores import tables
from selection.scores.tables import FrameBoxes, PixelSummary
from training.importing import pixel_maps

if TYPE_CHECKING:
    import pyarrow as pa

_BOX_KEYS = ("bbox_xyxy_px", "bbox", "box")
_LABEL_KEYS = ("label", "class", "category")
_CONFIDENCE_KEYS = ("confidence", "score")
_MOST_MEMBERS = 1000
_HIGHEST_CUT = 0.5
_MEMBER, _CLASS, _CONFIDENCE, _XYXY, _PROBABILITIES = 0, 1, 2, slice(3, 7), slice(7, None)


class Form(Protocol):
    """How predictions of one task kind are read and written."""

    def encode(self, record: Mapping[str, Any]) -> bytes:
        """What a record says, checked.

        Raises:
            InvalidInput: What is wrong with it.
        """

    def table(self, start: int, stop: int, waiting: Mapping[int, Sequence[bytes]]) -> pa.Table:
        """The shard of a row range from what `encode` made of each row's records; rows without any have nulls."""


def form_of(kind: TaskKind, classes: Sequence[str], *, base: Path, objects: ObjectStore, cut: float | None) -> Form:
    """The form of a task kind.

    Args:
        kind: Of the task.
        classes: Of the task, in its order.
        base: Folder that files named in records are relative to.
        objects: Where class masks go.
        cut: Confidence from which a detector reports boxes; None takes the lowest that was seen.
    """
    if kind == "detection":
        return Boxes(classes, cut=cut)
    if kind == "segmentation":
        return Pixels(classes, base=base, objects=objects)
    return Probabilities(classes, kind=kind)


class Probabilities:
    """Classification and multilabel."""

    def __init__(self, classes: Sequence[str], *, kind: ProbabilityKind) -> None:
        """Nothing was read yet."""
        self._classes = tuple(classes)
        self._kind = kind
        self._passes: int | None = None

    def encode(self, record: Mapping[str, Any]) -> bytes:
        """See `Form`."""
        passes = record.get("passes")
        said = [_first(record, ("probabilities", "probability"))] if passes is None else passes
        if said == [None]:
            said = [{name: record[name] for name in self._classes if name in record}]
        if not isinstance(said, list) or not said:
            raise InvalidInput("`passes` is not a list of probabilities")
        values_MC = np.stack([_by_class(one, self._classes, whole=True) for one in said])
        acquisition.checked(values_MC, kind=self._kind)
        if self._passes not in (None, len(values_MC)):
            raise InvalidInput(f"{len(values_MC)} passes, but lines before had {self._passes}")
        self._passes = len(values_MC)
        return values_MC.tobytes()

    def table(self, start: int, stop: int, waiting: Mapping[int, Sequence[bytes]]) -> pa.Table:
        """See `Form`; of several records of a frame the first counts."""
        passes = self._passes or 1
        values_NMC = np.zeros((stop - start, passes, len(self._classes)), dtype=np.float32)
        valid_N = np.zeros(stop - start, dtype=bool)
        for row, payloads in waiting.items():
            values_NMC[row - start] = np.frombuffer(payloads[0], dtype=np.float32).reshape(passes, -1)
            valid_N[row - start] = True
        return tables.of_probabilities(
            values_NMC.mean(axis=1),
            valid_N=valid_N,
            start=start,
            kind=self._kind,
            passes_MNC=values_NMC.transpose(1, 0, 2) if passes > 1 else None,
            classes=self._classes,
        )


class Boxes:
    """Detection. Several records of a frame add up, as one record a box does."""

    def __init__(self, classes: Sequence[str], *, cut: float | None) -> None:
        """Nothing was read yet."""
        self._classes = tuple(classes)
        self._cut = cut
        self._lowest = 1.0
        self._members = 1

    @property
    def cut(self) -> float:
        """The confidence from which boxes are taken to be reported; in a small file the lowest may be far above it."""
        return min(self._lowest, _HIGHEST_CUT) if self._cut is None else self._cut

    def encode(self, record: Mapping[str, Any]) -> bytes:
        """See `Form`."""
        boxes = [self._box(box, number=number) for number, box in enumerate(_boxes_of(record), start=1)]
        with_probabilities = any(len(box) > _XYXY.stop for box in boxes)
        if with_probabilities:
            boxes = [box if len(box) > _XYXY.stop else self._one_hot(box) for box in boxes]
        self._lowest = min([self._lowest, *(float(box[_CONFIDENCE]) for box in boxes)])
        self._members = max([self._members, *(int(box[_MEMBER]) + 1 for box in boxes)])
        return struct.pack("?", with_probabilities) + b"".join(box.tobytes() for box in boxes)

    def table(self, start: int, stop: int, waiting: Mapping[int, Sequence[bytes]]) -> pa.Table:
        """See `Form`."""
        valid_N = np.zeros(stop - start, dtype=bool)
        frames: list[NDArray[np.int64]] = []
        found: list[NDArray[np.float32]] = []
        some_probabilities = any(payload[0] for payloads in waiting.values() for payload in payloads)
        for row, payloads in waiting.items():
            valid_N[row - start] = True
            for payload in payloads:
                width = _XYXY.stop + (len(self._classes) if payload[0] else 0)
                boxes: NDArray[np.float32] = np.frombuffer(payload, dtype=np.float32, offset=1).reshape(-1, width)
                if some_probabilities and not payload[0]:
                    boxes = np.stack([self._one_hot(box) for box in boxes]) if len(boxes) else boxes[:0]
                if len(boxes):
                    found.append(boxes)
                    frames.append(np.full(len(boxes), row - start, dtype=np.int64))
        every = np.concatenate(found) if found else np.zeros((0, _XYXY.stop), dtype=np.float32)
        return tables.of_boxes(
            FrameBoxes(
                frame_B=np.concatenate(frames) if frames else np.zeros(0, dtype=np.int64),
                xyxy_px_B4=every[:, _XYXY],
                class_B=every[:, _CLASS].astype(np.int64),
                confidence_B=every[:, _CONFIDENCE],
                probability_BC=every[:, _PROBABILITIES] if every.shape[1] > _XYXY.stop else None,
                member_B=every[:, _MEMBER].astype(np.int64),
            ),
            valid_N=valid_N,
            start=start,
            classes=self._classes,
            member_count=self._members,
            cut=self.cut,
        )

    def _one_hot(self, box: NDArray[np.float32]) -> NDArray[np.float32]:
        """A box with only a confidence, as if its class had that probability and the others none."""
        probability_C = np.zeros(len(self._classes), dtype=np.float32)
        probability_C[int(box[_CLASS])] = box[_CONFIDENCE]
        return np.concatenate([box, probability_C])

    def _box(self, box: Any, *, number: int) -> NDArray[np.float32]:
        try:
            return self._read_box(box)
        except InvalidInput as exc:
            raise InvalidInput(f"box {number}: {exc.message}") from exc

    def _read_box(self, box: Any) -> NDArray[np.float32]:
        if not isinstance(box, Mapping):
            raise InvalidInput("it is no object")
        corners = _numbers(_first(box, _BOX_KEYS), "`bbox_xyxy_px`")
        if len(corners) != 4 or not (corners[0] < corners[2] and corners[1] < corners[3]):
            raise InvalidInput(
                "`bbox_xyxy_px` is not [left, top, right, bottom] in pixels with left < right and top < bottom"
            )
        said = box.get("probabilities")
        probability_C = None if said is None else _by_class(said, self._classes, whole=False)
        if probability_C is not None:
            acquisition.checked(probability_C[np.newaxis], kind="multilabel")
        confidence = _first(box, _CONFIDENCE_KEYS)
        if confidence is None and probability_C is not None:
            confidence = float(probability_C.max())
        if not _is_number(confidence) or not 0.0 <= confidence <= 1.0:
            raise InvalidInput("`confidence` is not a number from 0 to 1")
        name = _first(box, _LABEL_KEYS)
        if name is None and probability_C is not None:
            name = self._classes[int(probability_C.argmax())]
        if name not in self._classes:
            raise InvalidInput(f"{name!r} is not a class of the task; its classes are {', '.join(self._classes)}")
        member = 0 if box.get("member") is None else box["member"]
        if isinstance(member, bool) or not isinstance(member, int) or not 0 <= member < _MOST_MEMBERS:
            raise InvalidInput(f"`member` is not a number from 0 to {_MOST_MEMBERS - 1}")
        fields = [member, self._classes.index(name), confidence, *corners]
        return np.array([*fields, *([] if probability_C is None else probability_C)], dtype=np.float32)


class Pixels:
    """Segmentation: of each map only its summary is kept, and the class mask where there is one."""

    def __init__(self, classes: Sequence[str], *, base: Path, objects: ObjectStore) -> None:
        """Nothing was read yet."""
        self._classes = tuple(classes)
        self._base = base
        self._objects = objects

    def encode(self, record: Mapping[str, Any]) -> bytes:
        """See `Form`."""
        read = pixel_maps.read(record, base=self._base, classes=self._classes)
        mask_key = None
        if read.mask_png is not None:
            mask_key = pixel_maps.mask_key(read.mask_png)
            self._objects.put(mask_key, read.mask_png)
        one = tables.summarise_pixels(read.probability_MHWC, ignore_HW=read.ignore_HW, mask_key=mask_key)
        arrays = {name: getattr(one, name).tolist() for name in ("presence_C", "share_C", "entropy_grid")}
        return json.dumps({**arrays, "scores": one.scores, "mask_key": one.mask_key}).encode()

    def table(self, start: int, stop: int, waiting: Mapping[int, Sequence[bytes]]) -> pa.Table:
        """See `Form`; of several records of a frame the first counts."""
        summaries: list[PixelSummary | None] = [None] * (stop - start)
        for row, payloads in waiting.items():
            said = json.loads(payloads[0])
            summaries[row - start] = PixelSummary(
                scores=said["scores"],
                presence_C=np.array(said["presence_C"], dtype=np.float32),
                share_C=np.array(said["share_C"], dtype=np.float32),
                entropy_grid=np.array(said["entropy_grid"], dtype=np.float32),
                mask_key=said["mask_key"],
            )
        return tables.of_pixels(summaries, start=start, classes=self._classes)


def _boxes_of(record: Mapping[str, Any]) -> Sequence[Any]:
    """The boxes of a record as objects, in whichever of the forms they come."""
    boxes = record.get("boxes", record.get("objects"))
    if boxes is None and isinstance(record.get("passes"), list):
        boxes = []
        for member, seen in enumerate(record["passes"]):
            if not isinstance(seen, list) or not all(isinstance(box, Mapping) for box in seen):
                raise InvalidInput("`passes` is not a list of lists of boxes")
            boxes += [{**box, "member": member} for box in seen]
    if not isinstance(boxes, list):
        raise InvalidInput("`boxes` is not a list; a frame in which nothing was found has an empty one")
    if boxes and isinstance(boxes[0], Mapping):
        return boxes
    columns = {"bbox_xyxy_px": boxes} | {
        key: record[name]
        for key, names in (
            ("label", ("labels", "classes")),
            ("confidence", ("confidences", "scores")),
            ("probabilities", ("probabilities",)),
            ("member", ("members",)),
        )
        for name in names
        if name in record
    }
    if any(not isinstance(values, list) or len(values) != len(boxes) for values in columns.values()):
        raise InvalidInput(f"there are {len(boxes)} boxes, but {', '.join(columns)} are not lists of that length")
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _by_class(said: Any, classes: Sequence[str], *, whole: bool) -> NDArray[np.float32]:
    """Probabilities in class order from a list or an object.

    Args:
        said: Of the record.
        classes: C names.
        whole: Whether an object must name every class; in others those not named have probability 0.
    """
    if isinstance(said, Mapping):
        if unknown := [str(name) for name in said if name not in classes]:
            raise InvalidInput(f"{unknown[0]!r} is not a class of the task; its classes are {', '.join(classes)}")
        if whole and (missing := [name for name in classes if name not in said]):
            raise InvalidInput(f"there is no probability of class {missing[0]!r}")
        said = [said.get(name, 0.0) for name in classes]
    values = _numbers(said, "`probabilities`")
    if len(values) != len(classes):
        raise InvalidInput(f"{len(values)} probabilities for {len(classes)} classes")
    return np.array(values, dtype=np.float32)


def _numbers(said: Any, what: str) -> list[float]:
    """A list of finite numbers; texts that are written like one count, as CSV has no others."""
    if not isinstance(said, list | tuple):
        raise InvalidInput(f"{what} is not a list of numbers")
    try:
        values = [float(one) if not isinstance(one, bool) else float("nan") for one in said]
    except (TypeError, ValueError):
        values = [float("nan")]
    if not np.isfinite(values).all():
        raise InvalidInput(f"{what} is not a list of numbers")
    return values


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _first(record: Mapping[str, Any], keys: Sequence[str]) -> Any:
    return next((record[key] for key in keys if record.get(key) is not None), None)
