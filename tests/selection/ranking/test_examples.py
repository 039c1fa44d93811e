"""Examples that search starts from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from infra.database import ensure_indexes
from infra.errors import InvalidInput
from infra.platform import Platform
from selection import shards
from selection.embedding.encoder import Encoder
from selection.embedding.index import VectorIndex
from selection.fleet import frames
from selection.ingest import ingest as ingesting
from selection.ranking.examples import aim, frame_example


class Onlooker:
    """An encoder that keeps what it is shown."""

    encoder_id = "onlooker"
    dimension = 2

    def __init__(self) -> None:
        self.shown: list[Image.Image] = []

    def encode_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """The same vector for all."""
        self.shown += images
        return np.tile(np.array([1.0, 0.0], dtype=np.float32), (len(images), 1))


def test_a_box_is_cut_from_the_whole_image(platform: Platform, tmp_path: Path) -> None:
    ensure_indexes(platform.database, {**frames.INDEXES, **shards.INDEXES, **ingesting.INDEXES})
    # Large enough that a preview would be decoded at half the scale.
    picture = Image.new("RGB", (2400, 1600), (250, 20, 20))
    picture.paste((20, 20, 250), (1200, 0, 2400, 1600))
    picture.save(tmp_path / "two_halves.jpg", quality=95)
    ingesting.ingest(platform, [str(tmp_path)], in_place=True)
    frame = frames.by_rows(platform.database, [0])[0]

    seen: list[Any] = []
    for box in ("0,0,1200,1600", "1200,0,2400,1600"):
        encoder = Onlooker()
        index = VectorIndex(platform, "onlooker")
        aim(platform, [frame_example(f"{frame.frame_id}@{box}")], index=index, encoder=cast(Encoder, encoder))
        seen.append(np.asarray(encoder.shown[0]).reshape(-1, 3).mean(axis=0).round(-1).tolist())
    assert seen == [[250, 20, 20], [20, 20, 250]]


@pytest.mark.parametrize("box", ["-5,0,10,10", "5,5,5,9", "9,0,5,9", "nan,0,3,3", "0,0,inf,3"])
def test_a_box_without_pixels_is_refused(box: str) -> None:
    with pytest.raises(InvalidInput, match="holds no pixels: it takes left, top, right and bottom, 0 <= left < right"):
        frame_example(f"{'0' * 32}@{box}")
