from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from training.contract import ContractError, ManifestLine
from training.job import images

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def jpeg(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=95, **options)
    return buffer.getvalue()


def gradient(width: int, height: int) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=2).astype(np.uint8))


def test_the_original_and_its_preview_look_alike_to_the_network() -> None:
    original = gradient(1600, 900)
    preview = original.resize((round(1600 * 336 / 900), 336), Image.Resampling.LANCZOS)
    with Image.open(io.BytesIO(jpeg(original))) as a, Image.open(io.BytesIO(jpeg(preview))) as b:
        difference = np.abs(images.squash(a, size=96).astype(int) - images.squash(b, size=96).astype(int))
    assert difference.mean() < 1.5


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_every_mode_becomes_three_channels(mode: str) -> None:
    squashed = images.squash(gradient(40, 30).convert(mode), size=16)
    assert squashed.shape == (3, 16, 16)
    assert squashed.dtype == np.uint8


@pytest.mark.parametrize("depth", [1.0, 255.0])
def test_an_image_of_floats_is_as_bright_as_its_depth_says(depth: float) -> None:
    grey = gradient(40, 30).convert("L")
    floats = Image.fromarray(np.asarray(grey, dtype=np.float32) * np.float32(depth / 255))
    difference = np.abs(images.squash(floats, size=16).astype(int) - images.squash(grey, size=16).astype(int))
    assert difference.max() <= 1


def test_the_orientation_of_the_camera_is_applied() -> None:
    upright = gradient(64, 64)
    exif = Image.Exif()
    exif[0x0112] = 3  # Turned by half.
    with Image.open(io.BytesIO(jpeg(upright.rotate(180), exif=exif))) as turned:
        difference = np.abs(images.squash(turned, size=32).astype(int) - images.squash(upright, size=32).astype(int))
    assert difference.mean() < 2


def test_reading_skips_what_it_cannot_use_and_says_why(kit: Any, tmp_path: Path) -> None:
    content = kit.scenes(6, 0)
    layout = kit.write_job(tmp_path, content, kit.hyperparameters())
    lines = [
        ManifestLine.parse(text, number=1, task="colours", kind="multilabel", class_count=2)
        for text in (layout.channel("dataset") / "manifest.jsonl").read_text().splitlines()
    ]
    paths = [layout.channel("frames") / line.source_ref.removeprefix("file:///store/frames/") for line in lines]
    paths[1].unlink()
    paths[3].write_bytes(b"other bytes")
    frames, skipped = images.read_frames(
        lines,
        folder=layout.channel("frames"),
        frames_uri="file:///store/frames/",
        class_count=2,
        size=24,
        threads=2,
        check_stop=lambda: None,
    )
    assert [one["frame_id"] for one in skipped] == [lines[1].frame_id, lines[3].frame_id]
    assert "No such file" in skipped[0]["reason"]
    assert "digest" in skipped[1]["reason"]
    assert frames.images_u8.shape == (4, 3, 24, 24)
    assert frames.targets_NC.tolist() == [[1, 0], [1, 1], [1, 0], [0, 1]]
    with Image.open(paths[4]) as image:
        np.testing.assert_array_equal(frames.images_u8[2], images.squash(image, size=24))


@pytest.mark.parametrize("uri", ["file:///elsewhere/a.jpg", "file:///store/frames/../secret"])
def test_a_frame_outside_the_channel_is_refused(uri: str, tmp_path: Path) -> None:
    line = ManifestLine(
        source_ref=uri, frame_id="f", frame_digest="d", label_id="l", label_digest="e", row=0, split="train", classes=()
    )
    with pytest.raises(ContractError, match="does not lie under frames_uri"):
        images.read_frames(
            [line],
            folder=tmp_path,
            frames_uri="file:///store/frames",
            class_count=1,
            size=16,
            threads=1,
            check_stop=lambda: None,
        )


def test_augmentation_depends_on_the_generator_alone() -> None:
    import torch

    pixels = torch.from_numpy(np.stack([images.squash(gradient(64, 48), size=32)] * 4))

    def augmented(seed: int) -> torch.Tensor:
        return images.augment(pixels, generator=torch.Generator().manual_seed(seed), mean=MEAN, std=STD)

    assert torch.equal(augmented(1), augmented(1))
    assert not torch.equal(augmented(1), augmented(2))
    assert not torch.equal(augmented(1)[0], augmented(1)[1])
    assert augmented(1).shape == (4, 3, 32, 32)
    assert float(augmented(1).min()) >= -2.0
    assert float(augmented(1).max()) <= 2.0
