"""Videos for whoever ingests them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
import pytest


class VideoMaker(Protocol):
    """Writes a video with ten pictures a second, a key frame every half second, all different."""

    def __call__(
        self,
        path: Path,
        *,
        seconds: int = 4,
        seed: int = 0,
        codec: str = "libx264",
        created: str | None = None,
        options: dict[str, str] | None = None,
    ) -> Path: ...


@pytest.fixture
def make_video() -> VideoMaker:
    """A function that writes videos."""
    return _video


def _video(
    path: Path,
    *,
    seconds: int = 4,
    seed: int = 0,
    codec: str = "libx264",
    created: str | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
    with av.open(str(path), "w", options=options or {}) as container:
        if created is not None:
            container.metadata["creation_time"] = created
        stream: Any = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        stream.codec_context.gop_size = 5
        for i in range(seconds * 10):
            picture = av.VideoFrame.from_ndarray(np.roll(blocks, 3 * i, axis=1), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path
