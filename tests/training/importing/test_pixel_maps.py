"""Segmentation predictions from arrays and images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from infra.errors import InvalidInput
from training.importing import pixel_maps

CLASSES = ("car", "person", "truck")


def _png(path: Path, values_HW: NDArray[Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values_HW.astype(np.uint8)).save(path)
    return path.name


def _map(seed: int = 0, *, shape: tuple[int, ...] = (6, 8)) -> NDArray[np.float64]:
    p = np.random.default_rng(seed).random((*shape, 3)) + 0.01
    return p / p.sum(axis=-1, keepdims=True)


def test_a_folder_of_maps_named_after_their_images(line: Any, tmp_path: Path) -> None:
    line.task("segmentation")
    folder = tmp_path / "maps"
    folder.mkdir()
    sure = np.zeros((6, 8, 3))
    sure[..., 1] = 1.0
    np.savez(folder / "000.npz", sure)
    np.save(folder / f"{line.frame_id(3)}.npy", _map().transpose(2, 0, 1).astype(np.float16))
    mask = np.zeros((6, 8))
    mask[0] = 2
    mask[1] = 255
    _png(folder / "001.png", mask)
    _png(folder / "001_confidence.png", np.full((6, 8), 255))
    (folder / "notes.txt").write_text("not a map")
    _png(folder / "002.png", mask)
    report = line.bring(folder)
    assert (report.imported, report.broken) == (3, 1)
    assert "002_confidence.png" in report.broken_examples[0]
    table = line.table()
    assert table["entropy"].to_pylist()[:3] == [0.0, 0.0, None]
    assert table["class_share"].to_pylist()[0] == [0.0, 1.0, 0.0]
    assert table["class_share"].to_pylist()[1] == pytest.approx([4 / 5, 0.0, 1 / 5]), (
        "what the mask does not know does not count"
    )
    assert table["probability"].to_pylist()[1] == [1.0, 0.0, 1.0]
    assert 0.5 < table["entropy"].to_pylist()[3] < table["entropy_top"].to_pylist()[3] <= 1.0
    key = table["mask_key"].to_pylist()[1]
    assert line.platform.objects.get(key) == (folder / "001.png").read_bytes()


def test_passes_over_pixels(line: Any, tmp_path: Path) -> None:
    line.task("segmentation")
    np.savez(tmp_path / "p.npz", probabilities=np.stack([_map(1), _map(2)]), other=np.zeros(3))
    line.bring(line.write([{"file": "000.jpg", "probabilities": "p.npz"}]))
    assert line.table()["bald"].to_pylist()[0] > 0.0


def test_a_png_for_each_class(tmp_path: Path) -> None:
    p = (_map() * 255).round()
    p[..., 2] = 255 - p[..., 0] - p[..., 1]
    said = {name: _png(tmp_path / f"{name}.png", p[..., i]) for i, name in enumerate(CLASSES)}
    read = pixel_maps.read({"probabilities": said}, base=tmp_path, classes=CLASSES)
    assert read.probability_MHWC[0] == pytest.approx(p / 255.0)


def test_a_mask_with_one_confidence(tmp_path: Path) -> None:
    mask = np.array([[0, 1], [2, 7]])
    record = {"mask": _png(tmp_path / "m.png", mask), "confidence": 0.8}
    read = pixel_maps.read(record, base=tmp_path, classes=CLASSES)
    assert read.probability_MHWC[0, 0, 1] == pytest.approx([0.1, 0.8, 0.1])
    assert read.ignore_HW is not None
    assert read.ignore_HW.tolist() == [[False, False], [False, True]]
    assert read.mask_png == (tmp_path / "m.png").read_bytes()


def test_large_maps_are_thinned_not_blurred(tmp_path: Path) -> None:
    checks = np.indices((1080, 1920)).sum(axis=0) % 2
    record = {"mask": _png(tmp_path / "m.png", checks), "confidence": 1.0}
    read = pixel_maps.read(record, base=tmp_path, classes=CLASSES)
    assert read.probability_MHWC[..., 0].size <= pixel_maps.MOST_PIXELS
    assert set(np.unique(read.probability_MHWC)) == {0.0, 1.0}


def test_maps_that_cannot_be_are_told(tmp_path: Path) -> None:
    np.save(tmp_path / "shape.npy", np.zeros((4, 5)))
    np.save(tmp_path / "sum.npy", np.full((4, 4, 3), 0.5))
    np.save(tmp_path / "nan.npy", np.full((4, 4, 3), np.nan))
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04")
    np.savez(tmp_path / "empty.npz")
    (tmp_path / "bad.png").write_bytes(b"no image")
    Image.new("RGB", (4, 4)).save(tmp_path / "colour.png")
    _png(tmp_path / "unknown.png", np.full((4, 4), 9))
    _png(tmp_path / "small.png", np.full((2, 2), 9))
    good = _png(tmp_path / "good.png", np.zeros((4, 4)))
    for record, said in (
        ({}, "neither"),
        ({"probabilities": "none.npy"}, "No such file"),
        ({"probabilities": "shape.npy"}, "shape"),
        ({"probabilities": "sum.npy"}, "sum to 1"),
        ({"probabilities": "nan.npy"}, "sum to 1"),
        ({"probabilities": "object.npy"}, "cannot be read|can be read"),
        ({"probabilities": "cut.npz"}, "can be read"),
        ({"probabilities": "empty.npz"}, "can be read"),
        ({"probabilities": {"car": good}}, "person"),
        ({"mask": "bad.png", "confidence": 1}, "not an image"),
        ({"mask": "colour.png", "confidence": 1}, "one channel"),
        ({"mask": "unknown.png", "confidence": 1}, "no pixel of a class"),
        ({"mask": good}, "`confidence`"),
        ({"mask": good, "confidence": 2}, "`confidence`"),
        ({"mask": good, "confidence": "small.png"}, "size of its mask"),
    ):
        with pytest.raises(InvalidInput, match=said):
            pixel_maps.read(record, base=tmp_path, classes=CLASSES)
