"""Which device models run on, and which thread computes with all cores."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from infra.errors import InvalidInput

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
_TORCH_THREAD = "torch on all cores"
_torch_thread: ThreadPoolExecutor


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


def on_all_cores(work: Callable[[], T]) -> T:
    """Does what torch computes with all cores in one thread of the process, always the same, and waits for it.

    Each thread that calls torch gets a team of OpenMP threads of its own, and once these are more than there are cores, no team waits awake
    for its next piece any more. Encoding a text then takes a fifth longer, and half as long again in a server, where each request comes in
    another thread.
    """
    if threading.current_thread().name.startswith(_TORCH_THREAD):
        return work()
    try:
        asked = _torch_thread.submit(work)
    except RuntimeError:  # The interpreter is about to end and starts no work in threads any more.
        return work()
    return asked.result()


def torch_if_loaded() -> Any:
    """Torch where the process has it in memory already, else None: loading it takes longer than searching a million rows without it.

    While another thread loads it, which takes seconds, it is there in parts; that is None, too.
    """
    module = sys.modules.get("torch")
    is_loading = getattr(getattr(module, "__spec__", None), "_initializing", False)  # As `import` itself tells.
    return None if is_loading else module


def _new_torch_thread() -> None:
    """No thread begins before there is work."""
    global _torch_thread
    _torch_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=_TORCH_THREAD)


_new_torch_thread()
os.register_at_fork(after_in_child=_new_torch_thread)  # A forked process inherits no thread.
