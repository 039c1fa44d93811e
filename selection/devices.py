"""Which device models run on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from infra.errors import InvalidInput

if TYPE_CHECKING:
    import torch


def torch_device(wanted: str) -> torch.device:
    """The device that a setting means.

    Args:
        wanted: `auto`, `cpu`, `cuda` or `cuda:N`; `auto` takes a GPU when there is one.

    Raises:
        InvalidInput: This machine has no such GPU.
    """
    import torch

    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(wanted)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            have = f"has {count} of them" if count else "has no GPU that torch can use"
            raise InvalidInput(f"MLPL_DEVICE={wanted}, but this machine {have}; set it to auto or cpu")
    return device
