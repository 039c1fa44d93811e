"""What the simulated labellers know: the labels in a `metadata.jsonl`, by frame id.

Nothing else in the product reads labels from there: ingest leaves them alone, and people (simulated or not) are the only way in.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.errors import InvalidInput
from selection.fleet.frames import FrameId

_PRESENT_LEAST = 0.02
_PRESENT_MOST = 0.85


@dataclass(frozen=True, kw_only=True)
class AnswerKey:
    """The right answers to a multilabel task.

    Attributes:
        classes: The task's classes.
        by_frame: For each frame that the metadata tells about, the classes it shows, in class order.
    """

    classes: tuple[str, ...]
    by_frame: Mapping[FrameId, tuple[str, ...]]

    def answer(self, frame_id: str) -> Sequence[str] | None:
        """What a labeller says about a frame; None, a skip, when the metadata does not tell."""
        return self.by_frame.get(FrameId(frame_id))


def read(directory: Path, *, classes: Sequence[str] | None) -> AnswerKey:
    """Reads the answers for all images that a folder's `metadata.jsonl` lists.

    Args:
        directory: Holds `metadata.jsonl`; `file` in its lines is relative to it.
        classes: The entries of each line's `classes` that the task is about. None: all that some frames show and some do not.

    Raises:
        InvalidInput: No metadata, or none of its lines has one of the classes.
    """
    shown: dict[FrameId, set[str]] = {}
    for line in _lines(directory):
        image = directory / str(line.get("file", ""))
        if image.is_file() and isinstance(line.get("classes"), list):
            digest = hashlib.sha256(image.read_bytes()).hexdigest()
            shown[FrameId(digest[:32])] = {str(name) for name in line["classes"]}
    counts = Counter(name for names in shown.values() for name in names)
    wanted = tuple(classes) if classes is not None else _usable(counts, frames=len(shown))
    missing = [name for name in wanted if not counts[name]]
    if missing or not wanted:
        known = ", ".join(f"{name} ({count})" for name, count in counts.most_common(20)) or "none at all"
        raise InvalidInput(
            f"no frame in {directory} shows {', '.join(missing) or 'a class worth learning'}; its classes are: {known}; "
            "choose with --task-classes"
        )
    return AnswerKey(
        classes=wanted,
        by_frame={frame: tuple(name for name in wanted if name in names) for frame, names in shown.items()},
    )


def _usable(counts: Counter[str], *, frames: int) -> tuple[str, ...]:
    least, most = _PRESENT_LEAST * frames, _PRESENT_MOST * frames
    return tuple(sorted(name for name, count in counts.items() if least <= count <= most))


def _lines(directory: Path) -> list[dict[str, Any]]:
    path = directory / "metadata.jsonl"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise InvalidInput(
            f"cannot read {path}: {exc.strerror}; the demo's simulated labellers need its labels"
        ) from exc
    found = []
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue  # Ingest reports the bad line with its number.
        if isinstance(record, dict):
            found.append(record)
    return found
