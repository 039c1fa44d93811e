"""Which device models run on."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from infra.errors import InvalidInput

if TYPE_CHECKING:
    import torch


def processors() -> int:
    """Cores that this process may use, which on a shared machine are fewer than there are."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # Only Linux has it.
        return os.cpu_count() or 1


def torch_devices(wanted: str) -> list[torch.device]:
    """All devices that a setting means: `auto` and `cuda` take every GPU there is, others are one.

    Raises:
        InvalidInput: This machine has no such GPU.
    """
    import torch

    first = torch_device(wanted)
    if first == torch.device("cuda"):
        return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return [first]


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
