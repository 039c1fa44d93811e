from __future__ import annotations

from pathlib import Path

import pytest
import torch

from training.contract import ContractError
from training.job import checkpoints


def test_the_newest_whole_checkpoint_counts(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    assert checkpoints.newest(folder) is None
    for step in (3, 20, 100):
        checkpoints.save(folder, step=step, state={"step": step, "x": torch.full((2,), float(step))})
    kept = sorted(folder.iterdir())
    assert [path.name[:14] for path in kept] == ["step-000000020", "step-000000100"]
    (folder / ".step-000000200-0123456789abcdef.pt.partial").write_bytes(b"half")
    newest = checkpoints.newest(folder)
    assert newest is not None
    assert newest["step"] == 100
    kept[1].write_bytes(kept[1].read_bytes()[:-10])
    older = checkpoints.newest(folder)
    assert older is not None
    assert older["step"] == 20


def test_another_runs_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="other hyperparameters or data"):
        checkpoints.check_same_run({"fingerprint": "a"}, fingerprint="b", folder=tmp_path)
