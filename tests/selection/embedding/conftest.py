"""A tiny random open_clip model: the same format and code path as a real one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from selection.embedding import weights

CONFIG = {
    "model_cfg": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "resize_mode": "squash",
    },
}


def write_checkpoint(folder: Path, *, seed: int) -> Path:
    """Writes a checkpoint directory with random weights."""
    import torch
    from open_clip.model import CLIP
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / weights.CONFIG_NAME).write_text(json.dumps(CONFIG))
    model = CLIP(**CONFIG["model_cfg"])
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint directory."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny", seed=0)


@pytest.fixture(scope="session")
def other_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one of the same shape."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "other", seed=1)
