"""Checkpoints: the state of a training, written so that a kill at any moment leaves the last whole one."""

from __future__ import annotations

import hashlib
import io
import os
import re
from pathlib import Path
from typing import Any

from training.contract import ContractError

_NAME = re.compile(r"step-(\d{9})-([0-9a-f]{16})\.pt")
KEEP = 2


def save(folder: Path, *, step: int, state: dict[str, Any]) -> None:
    """Writes a checkpoint under a temporary name and renames it; older ones but the last are removed after that.

    The name carries a digest of the bytes, because the platform may copy a file that is only half written.

    Args:
        folder: Kept by the platform between attempts.
        step: Optimizer steps done.
        state: Tensors, numbers, strings and containers of them.
    """
    import torch

    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"step-{step:09d}-{hashlib.sha256(data).hexdigest()[:16]}.pt", data)
    for path in _whole_names(folder)[KEEP:]:
        path.unlink(missing_ok=True)


def newest(folder: Path) -> dict[str, Any] | None:
    """The state of the newest checkpoint whose bytes are whole, or None."""
    import torch

    for path in _whole_names(folder):
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest().startswith(_digest_in(path)):
            state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            return state
    return None


def check_same_run(state: dict[str, Any], *, fingerprint: str, folder: Path) -> None:
    """Refuses to go on from the checkpoint of another run.

    Raises:
        ContractError: Hyperparameters or data differ from those of the checkpoint.
    """
    if state["fingerprint"] != fingerprint:
        raise ContractError(
            f"the checkpoints in {folder} are of a run with other hyperparameters or data; "
            "give this job a place of its own"
        )


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file that is there whole or not at all, also after a power cut."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _whole_names(folder: Path) -> list[Path]:
    """Newest first; temporary names are left out."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), reverse=True)


def _digest_in(path: Path) -> str:
    match = _NAME.fullmatch(path.name)
    return match.group(2) if match else ""
