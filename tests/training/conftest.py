"""Small training inputs: scenes of coloured shapes whose classes are their colours."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from training.contract import Hyperparameters, Layout

CLASSES = ("red", "blue")
FRAMES_URI = "file:///store/frames"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One image and what is on it."""

    data: bytes
    classes: tuple[int, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self.data).hexdigest()


def scene(number: int, *, classes: Sequence[int], size: tuple[int, int] = (64, 48)) -> Scene:
    """A grey noisy image with one disc per class."""
    random = np.random.default_rng(number)
    image = Image.fromarray(random.integers(90, 130, size=(size[1], size[0], 3), dtype=np.uint8))
    draw = ImageDraw.Draw(image)
    for index in classes:
        x, y = random.integers(4, size[0] - 24), random.integers(4, size[1] - 24)
        colour = (230, 20, 20) if index == 0 else (20, 20, 230)
        draw.ellipse((x, y, x + 20, y + 20), fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=95)
    return Scene(data=buffer.getvalue(), classes=tuple(classes))


def manifest_line(
    of: Scene, *, row: int, split: str, kind: str = "multilabel", uri: str = FRAMES_URI
) -> dict[str, Any]:
    """The line of the manifest for a scene."""
    return {
        "source-ref": f"{uri}/{of.digest[:2]}/{of.digest[:32]}.jpg",
        "colours": list(of.classes) if kind == "multilabel" else of.classes[0],
        "colours-metadata": {"human-annotated": "yes"},
        "frame-id": of.digest[:32],
        "frame-digest": of.digest,
        "label-id": f"label-{row}",
        "label-digest": "0" * 64,
        "row": row,
        "split": split,
    }


def scenes(train: int, test: int, *, kind: str = "multilabel") -> list[tuple[Scene, str]]:
    """Scenes that go through all label sets in turn, each with its split."""
    sets = [(0,), (1,), (0, 1), ()] if kind == "multilabel" else [(0,), (1,)]
    return [
        (scene(number, classes=sets[number % len(sets)]), "train" if number < train else "test")
        for number in range(train + test)
    ]


def hyperparameters(**changes: Any) -> Hyperparameters:
    """Small and quick, on one thread."""
    given: dict[str, Any] = {
        "task": "colours",
        "kind": "multilabel",
        "classes": CLASSES,
        "frames_uri": FRAMES_URI,
        "input_size": 32,
        "epochs": 1,
        "min_steps": 3,
        "batch_size": 4,
        "threads": 1,
        "device": "cpu",
    }
    return Hyperparameters(**{**given, **changes})


def write_job(base: Path, content: list[tuple[Scene, str]], parameters: Hyperparameters) -> Layout:
    """Fills a folder as the platform would fill /opt/ml."""
    layout = Layout(base=base)
    layout.hyperparameters.parent.mkdir(parents=True, exist_ok=True)
    layout.hyperparameters.write_text(json.dumps(parameters.to_strings()))
    lines = []
    for row, (one, split) in enumerate(content):
        line = manifest_line(one, row=row, split=split, kind=parameters.kind)
        path = layout.channel("frames") / line["source-ref"].removeprefix(f"{FRAMES_URI}/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(one.data)
        lines.append(json.dumps(line) + "\n")
    layout.channel("dataset").mkdir(parents=True, exist_ok=True)
    (layout.channel("dataset") / "manifest.jsonl").write_text("".join(lines))
    return layout


@dataclass(frozen=True, kw_only=True)
class Kit:
    """The functions above, for tests (test modules cannot import one another)."""

    scene: Callable[..., Scene] = scene
    scenes: Callable[..., list[tuple[Scene, str]]] = scenes
    manifest_line: Callable[..., dict[str, Any]] = manifest_line
    hyperparameters: Callable[..., Hyperparameters] = hyperparameters
    write_job: Callable[..., Layout] = write_job


@pytest.fixture(scope="session")
def kit() -> Kit:
    """Makers of small training inputs."""
    return Kit()


@pytest.fixture
def torch_state() -> Iterator[None]:
    """Puts torch's process-wide switches back after a job ran inside the test's process."""
    import torch

    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
