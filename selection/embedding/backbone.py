"""The small encoder's vision tower as initial weights for a torchvision CNN.

The encoder's tower is timm's `mobilenetv3_small_100`, which is the same network as torchvision's `mobilenet_v3_small`
under other names. Starting a task's model from it saves most of the labels a network trained from nothing would need.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from infra.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from torch import Tensor

_TRUNK = "visual.trunk."
_WEIGHTS_FILE = "open_clip_model.safetensors"
_LAST_BLOCK = 5
_BLOCKS_PER_STAGE = (1, 2, 3, 2, 3)
_NAME = re.compile(r"blocks\.(\d+)\.(\d+)\.(.+)")


def backbone_state(encoder_dir: Path) -> "dict[str, Tensor]":
    """Reads an encoder's folder and returns weights for torchvision's `mobilenet_v3_small`.

    Args:
        encoder_dir: Holds `open_clip_model.safetensors`.
    Returns:
        float32 tensors named as in `torchvision.models.mobilenet_v3_small().state_dict()`, all of `features.*` and
        nothing else (the classifier belongs to a task).
    Raises:
        NotFound: There is no such file.
        InvalidInput: The vision tower is another network.
    """
    path = encoder_dir / _WEIGHTS_FILE
    if not path.is_file():
        raise NotFound(f"{path} does not exist; name a folder with open_clip weights", path=str(path))
    from safetensors.torch import load_file

    return torchvision_state(load_file(path))


def torchvision_state(open_clip_state: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """Renames the tensors of an open_clip model with timm's `mobilenetv3_small_100` to torchvision's names.

    Features agree with the encoder's up to the epsilon of batch normalisation (1e-5 in timm, 1e-3 in torchvision).

    Args:
        open_clip_state: State of an open_clip model.
    Returns:
        float32 copies (the counters of batch normalisation stay int64) under torchvision's names.
    Raises:
        InvalidInput: The vision tower is another network.
    """
    trunk = {name.removeprefix(_TRUNK): value for name, value in open_clip_state.items() if name.startswith(_TRUNK)}
    if "blocks.5.0.conv.weight" not in trunk or "blocks.4.2.conv_pwl.weight" not in trunk:
        raise InvalidInput("the encoder's vision tower is not mobilenetv3_small_100; train without initial weights")
    renamed: dict[str, Tensor] = {}
    for name, value in trunk.items():
        new_name = _torchvision_name(name, with_attention=frozenset(_blocks_with_attention(trunk)))
        if new_name is not None:
            renamed[new_name] = (value.float() if value.is_floating_point() else value).clone()
    return renamed


def _blocks_with_attention(trunk: "Mapping[str, Tensor]") -> set[tuple[int, int]]:
    """Stage and position of the blocks with squeeze-and-excitation."""
    found = (_NAME.fullmatch(name) for name in trunk if ".se." in name)
    return {(int(match[1]), int(match[2])) for match in found if match}


def _torchvision_name(name: str, *, with_attention: frozenset[tuple[int, int]]) -> str | None:
    """Torchvision's name of a trunk tensor, or None for the head."""
    if name.startswith("conv_stem."):
        return name.replace("conv_stem.", "features.0.0.")
    if name.startswith("bn1."):
        return name.replace("bn1.", "features.0.1.")
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    stage, position, rest = int(match[1]), int(match[2]), match[3]
    if stage == _LAST_BLOCK:
        part = rest.replace("conv.", "0.", 1) if rest.startswith("conv.") else rest.replace("bn1.", "1.", 1)
        return f"features.12.{part}"
    feature = 1 + sum(_BLOCKS_PER_STAGE[:stage]) + position
    attention = 1 if (stage, position) in with_attention else 0
    # The first block has no expansion: its depthwise convolution comes first and `conv_pw` is its projection.
    layers = ("conv_dw", "conv_pw") if stage == 0 else ("conv_pw", "conv_dw", "conv_pwl")
    depthwise = layers.index("conv_dw")
    module, _, tail = rest.partition(".")
    if module == "se":
        inner = tail.replace("conv_reduce", "fc1").replace("conv_expand", "fc2")
        return f"features.{feature}.block.{depthwise + 1}.{inner}"
    layer = layers.index(module) if module in layers else int(module.removeprefix("bn")) - 1
    shifted = layer + (attention if layer > depthwise else 0)
    return f"features.{feature}.block.{shifted}.{0 if module in layers else 1}.{tail}"
