"""Stochastic passes: repeatable, about the frame alone, and scattered around the plain prediction."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from infra.errors import InvalidInput
from training import stochastic
from training.contract import ModelConfig
from training.job import evaluation, networks


def _network(architecture: str, kind: str) -> dict[str, Any]:
    import torch

    torch.manual_seed(0)
    config = ModelConfig(
        task="colours",
        kind=kind,  # type: ignore[arg-type]
        classes=("red", "blue", "green"),
        architecture=architecture,
        input_size=64,
        mean=networks.IMAGENET_MEAN,
        std=networks.IMAGENET_STD,
        manifest_digest="d",
    )
    network = networks.build(architecture, outputs=3, input_size=64)
    with (
        torch.no_grad()
    ):  # A fresh network's features are next to nothing; these have the size that training gives them.
        networks.head_of(network).weight.mul_(30.0)  # type: ignore[operator, union-attr]
        for _ in range(30):
            network.train()(torch.randn(8, 3, 64, 64))
    network.eval()
    return {"network": network, "config": config, "device": torch.device("cpu")}


@pytest.mark.parametrize("kind", ["multilabel", "classification"])
@pytest.mark.parametrize("architecture", ["mobilenet_v3_small", "resnet18", "squeezenet1_1"])
def test_passes_scatter_around_the_prediction_and_repeat(architecture: str, kind: str) -> None:
    model = _network(architecture, kind)
    images = np.random.default_rng(1).integers(0, 256, (5, 3, 64, 64), dtype=np.uint8)
    found = stochastic.opinions(images_u8=images, passes=6, **model)
    np.testing.assert_allclose(
        found["probability_NC"], evaluation.probabilities(images_u8=images, **model), rtol=1e-5, atol=1e-6
    )
    passes = found["passes_MNC"]
    assert passes.shape == (6, 5, 3)
    assert np.all((passes >= 0) & (passes <= 1))
    assert np.all(np.ptp(passes, axis=0).max(axis=1) > 0), "every frame has opinions that differ"
    if kind == "classification":
        np.testing.assert_allclose(passes.sum(axis=2), 1.0, rtol=1e-5)
    assert np.all(found["feature_rms_N"] > 0)
    again = stochastic.opinions(images_u8=images[2:4], passes=6, **model)
    np.testing.assert_allclose(again["passes_MNC"], passes[:, 2:4], rtol=1e-4, atol=1e-6)
    other = stochastic.opinions(images_u8=images, passes=6, seed=1, **model)
    assert not np.allclose(other["passes_MNC"], passes)
    assert not any(len(layer._forward_pre_hooks) for layer in model["network"].modules())


def test_no_passes_are_refused() -> None:
    with pytest.raises(InvalidInput, match="at least one"):
        stochastic.opinions(
            images_u8=np.zeros((1, 3, 64, 64), dtype=np.uint8), passes=0, **_network("resnet18", "multilabel")
        )
