from __future__ import annotations

import pytest
import torch

from infra.errors import InvalidInput
from selection.devices import torch_device, torch_devices


def test_auto_is_the_cpu_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert torch_device("auto") == torch.device("cpu")
    assert torch_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(("wanted", "gpus"), [("cuda", 0), ("cuda:0", 0), ("cuda:2", 2)])
def test_a_gpu_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, wanted: str, gpus: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(InvalidInput, match=f"MLPL_DEVICE={wanted}") as raised:
        torch_device(wanted)
    assert "\n" not in raised.value.message


def test_a_gpu_that_is_there_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert torch_device("auto") == torch.device("cuda")
    assert torch_device("cuda:1") == torch.device("cuda:1")
    assert torch_devices("auto") == torch_devices("cuda") == [torch.device("cuda:0"), torch.device("cuda:1")]
    assert torch_devices("cuda:1") == [torch.device("cuda:1")]
    assert torch_devices("cpu") == [torch.device("cpu")]
