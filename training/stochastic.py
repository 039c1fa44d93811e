"""Stochastic passes: several opinions of one model about the same images, for scores such as `bald`.

Dropout stays on while predicting (Gal and Ghahramani, "Dropout as a Bayesian Approximation", ICML 2016), before the last layer only: what
comes before it is computed once, so that the passes cost next to nothing and need no training of their own. A pass uses one mask for all
images (Kirsch, van Amersfoort and Gal, "BatchBALD", NeurIPS 2019, calls this consistent dropout): a pass is then one network, and a
frame's score does not depend on which frames were predicted beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import numpy as np
from numpy.typing import NDArray

from infra.errors import InvalidInput
from training.contract import ModelConfig

if TYPE_CHECKING:
    import torch

DEFAULT_RATE = 0.2
"""Share of the features that a pass leaves out, for networks that were trained without dropout."""


class Opinions(TypedDict):
    """See `training.prediction.Opinion`."""

    probability_NC: NDArray[np.float32]
    passes_MNC: NDArray[np.float32]
    feature_rms_N: NDArray[np.float32]


def opinions(
    network: torch.nn.Module,
    images_u8: NDArray[np.uint8],
    *,
    config: ModelConfig,
    device: torch.device,
    passes: int,
    seed: int = 0,
) -> Opinions:
    """What the network makes of squashed images, as it is and in `passes` stochastic passes.

    Args:
        network: In evaluation mode, on `device`.
        images_u8: Shape (N, 3, S, S).
        config: As in `training.job.evaluation.probabilities`.
        device: Where the network is.
        passes: M.
        seed: Draws the masks; the same seed gives the same M networks.
    Raises:
        InvalidInput: Fewer than one pass.
    """
    import torch

    from training.job import images, networks

    if passes < 1:
        raise InvalidInput(f"there must be at least one stochastic pass, not {passes}")
    head = networks.head_of(network)
    seen: list[torch.Tensor] = []

    def keep(_layer: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        seen[:] = [given[0]]

    count, class_count = len(images_u8), len(config.classes)
    result = Opinions(
        probability_NC=np.zeros((count, class_count), dtype=np.float32),
        passes_MNC=np.zeros((passes, count, class_count), dtype=np.float32),
        feature_rms_N=np.zeros(count, dtype=np.float32),
    )
    masks = _Masks(rate=_rate(network), seed=seed)
    with torch.inference_mode():
        for piece in images.batches(count):
            pixels = images.normalise(torch.from_numpy(images_u8[piece]).to(device), mean=config.mean, std=config.std)
            hook = head.register_forward_pre_hook(keep)
            try:
                logits = network(pixels)
            finally:
                hook.remove()
            features = seen[0]
            result["probability_NC"][piece] = _squashed(logits, config=config)
            result["feature_rms_N"][piece] = features.float().flatten(1).pow(2).mean(dim=1).sqrt().cpu().numpy()
            for number in range(passes):
                masked = features * masks.of(number, features)
                passed = head(masked) if isinstance(head, torch.nn.Linear) else _through(network, head, pixels, masked)
                result["passes_MNC"][number, piece] = _squashed(passed, config=config)
    return result


class _Masks:
    """One mask a pass, the same for every image: 0 for features left out, and the others scaled up to make good for them."""

    def __init__(self, *, rate: float, seed: int) -> None:
        self._rate = rate
        self._seed = seed
        self._made: dict[int, torch.Tensor] = {}

    def of(self, number: int, features: torch.Tensor) -> torch.Tensor:
        import torch

        if number not in self._made:
            # Channels of a convolution leave as a whole: their neighbouring places say the same.
            shape = [1, features.shape[1], *[1] * (features.ndim - 2)]
            drawn = np.random.default_rng((self._seed, number)).random(shape) >= self._rate
            self._made[number] = torch.from_numpy(drawn / (1.0 - self._rate)).to(features.device, features.dtype)
        return self._made[number]


def _rate(network: torch.nn.Module) -> float:
    """The rate of the network's last dropout layer."""
    import torch

    rates = [module.p for module in network.modules() if isinstance(module, torch.nn.Dropout) and 0 < module.p < 1]
    return rates[-1] if rates else DEFAULT_RATE


def _through(
    network: torch.nn.Module, head: torch.nn.Module, pixels: torch.Tensor, features: torch.Tensor
) -> torch.Tensor:
    """The whole network with other features before its last layer, for networks where something follows that layer."""
    hook = head.register_forward_pre_hook(lambda _layer, _given: (features,))
    try:
        logits: torch.Tensor = network(pixels)
    finally:
        hook.remove()
    return logits


def _squashed(logits: torch.Tensor, *, config: ModelConfig) -> NDArray[np.float32]:
    values = logits.float()
    squashed = values.sigmoid() if config.kind == "multilabel" else values.softmax(dim=1)
    probability_NC: NDArray[np.float32] = squashed.cpu().numpy()
    return probability_NC
