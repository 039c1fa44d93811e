"""The encoder's vision tower under torchvision's names computes the same features."""

from pathlib import Path

import pytest

from infra.errors import InvalidInput, NotFound
from selection.embedding.backbone import backbone_state, torchvision_state
from selection.embedding.weights import SMALL_ENCODER


def test_features_agree_with_the_encoder() -> None:
    import open_clip
    import torch
    import torchvision

    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{SMALL_ENCODER}")
    network = torchvision.models.mobilenet_v3_small()
    state = backbone_state(SMALL_ENCODER)
    loaded = network.load_state_dict(state, strict=False)
    assert not loaded.unexpected_keys
    assert all(key.startswith("classifier.") for key in loaded.missing_keys)
    # The one difference between the two libraries: with it set equal the features are the same.
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 1e-5
    pixels = torch.rand(2, 3, 96, 96)
    with torch.inference_mode():
        expected = model.eval().visual.trunk.forward_features(pixels)
        torch.testing.assert_close(network.eval().features(pixels), expected, rtol=1e-4, atol=1e-4)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"open_clip_model\.safetensors"):
        backbone_state(tmp_path)


def test_another_tower_is_refused() -> None:
    import torch

    with pytest.raises(InvalidInput, match="mobilenetv3_small_100"):
        torchvision_state({"visual.conv1.weight": torch.zeros(1)})
