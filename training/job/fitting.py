"""Fitting: the training loop. Every choice of chance is drawn from the seed and the step number.

So there is no state of a random generator to keep: a loop that starts at step k with the weights and the optimizer's
state of step k does exactly what the uninterrupted loop does from there on. On one machine with the same number of
threads the result is the same to the last bit.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from training.contract import ContractError, Hyperparameters, ModelConfig
from training.job import checkpoints, images, networks

if TYPE_CHECKING:
    import torch

WARM_UP_FRACTION = 0.1
PROGRESS_INTERVAL_S = 1.0
GRADIENT_NORM = 5.0
CALIBRATION_BATCHES = 64
CLASS_WEIGHT_LIMIT = 10.0


class Stopped(Exception):
    """SIGTERM has arrived."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What came of it.

    Attributes:
        seconds: In this loop and in those it goes on from.
        resumed_from: Step of the checkpoint it went on from.
    """

    steps: int
    epochs: float
    loss_last: float | None
    seconds: float
    resumed_from: int | None


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training, whatever number of attempts it takes.

    Attributes:
        network: On `device`; changed in place.
        initial_names: Tensors that came from the initial channel.
        fingerprint: Digest of everything that determines the result.
        log: Takes the fields of one progress line.
        check_stop: Raises `Stopped`.
    """

    network: torch.nn.Module
    frames: images.Frames
    config: ModelConfig
    hyperparameters: Hyperparameters
    initial_names: frozenset[str]
    device: torch.device
    threads: int
    checkpoint_folder: Path
    fingerprint: str
    log: Callable[..., None]
    check_stop: Callable[[], None]


def fit(run: Run, *, resume: dict[str, Any] | None) -> Fit:
    """Trains the network, from a checkpoint's state when there is one.

    Raises:
        Stopped: After a checkpoint was written.
        ContractError: The loss is not a number any more.
    """
    import torch

    optimizer = _optimizer(run)
    step, seconds_before, loss_last = 0, 0.0, None
    if resume is not None:
        run.network.load_state_dict(resume["network"])
        optimizer.load_state_dict(resume["optimizer"])
        step, seconds_before, loss_last = resume["step"], resume["seconds"], resume["loss_last"]
    resumed_from = step if resume is not None else None

    steps = total_steps(run.hyperparameters, frames=len(run.frames.lines))
    images_u8 = torch.from_numpy(run.frames.images_u8).to(run.device)
    targets_NC = torch.from_numpy(run.frames.targets_NC).to(run.device)
    loss_of = _loss_function(run)
    began = saved = reported = time.monotonic()
    saved_step = step if resume is not None else -1

    def save() -> None:
        nonlocal saved_step
        if saved_step == step:
            return
        state = {
            "step": step,
            "network": run.network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "fingerprint": run.fingerprint,
            "threads": run.threads,
            "seconds": seconds_before + time.monotonic() - began,
            "loss_last": loss_last,
        }
        checkpoints.save(run.checkpoint_folder, step=step, state=state)
        saved_step = step

    run.network.train()
    for layer in _given_norms(run):
        layer.eval()
    while step < steps:
        try:
            run.check_stop()
        except Stopped:
            save()
            raise
        loss = _step(
            run, optimizer, step=step, steps=steps, images_u8=images_u8, targets_NC=targets_NC, loss_of=loss_of
        )
        step += 1
        now = time.monotonic()
        if now - reported >= PROGRESS_INTERVAL_S or step == steps:
            loss_last = _finite(loss, step=step)
            _report(run, step=step, steps=steps, loss=loss_last, elapsed_s=now - began, done=step - (resumed_from or 0))
            reported = now
        if now - saved >= run.hyperparameters.checkpoint_interval_s or step == steps:
            save()
            saved = now
    _calibrate_batch_norm(run, images_u8)
    return Fit(
        steps=steps,
        epochs=steps * run.hyperparameters.batch_size / len(run.frames.lines),
        loss_last=loss_last,
        seconds=seconds_before + time.monotonic() - began,
        resumed_from=resumed_from,
    )


def total_steps(hyperparameters: Hyperparameters, *, frames: int) -> int:
    """Optimizer steps: the epochs asked for, or more of them where there are few frames."""
    return max(hyperparameters.min_steps, math.ceil(hyperparameters.epochs * frames / hyperparameters.batch_size))


def batch_positions(*, seed: int, step: int, batch_size: int, frames: int) -> NDArray[np.int64]:
    """Which frames step `step` sees: its stretch of the endless row of shuffled epochs, always `batch_size` of them."""
    first, last = step * batch_size, (step + 1) * batch_size - 1
    epochs = range(first // frames, last // frames + 1)
    order = np.concatenate([np.random.default_rng(_draw(seed, "order", epoch)).permutation(frames) for epoch in epochs])
    offset = first - epochs[0] * frames
    return order[offset : offset + batch_size]


def learning_rate_factor(*, step: int, steps: int) -> float:
    """A short linear rise, then half a cosine down to 0."""
    warm_up = max(1, round(WARM_UP_FRACTION * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def class_weights(targets_NC: NDArray[np.float32], *, kind: str) -> NDArray[np.float32]:
    """How much rare classes weigh in the loss, so that they count as much as frequent ones; limited either way.

    Args:
        targets_NC: Shape (N, C), of the train split.
        kind: `multilabel`: negatives over positives, the weight of a positive. `classification`: mean count over the
            class's count.

    Returns:
        Shape (C,); 1 for a class that never occurs or, in `multilabel`, always.
    """
    count = len(targets_NC)
    positives = targets_NC.sum(axis=0).astype(np.float64)
    if kind == "multilabel":
        weights = np.where((positives > 0) & (positives < count), (count - positives) / np.maximum(positives, 1), 1.0)
    else:
        occurring = max(1, int((positives > 0).sum()))
        weights = np.where(positives > 0, count / (occurring * np.maximum(positives, 1)), 1.0)
    return np.clip(weights, 1 / CLASS_WEIGHT_LIMIT, CLASS_WEIGHT_LIMIT).astype(np.float32)


def _step(
    run: Run,
    optimizer: torch.optim.Optimizer,
    *,
    step: int,
    steps: int,
    images_u8: torch.Tensor,
    targets_NC: torch.Tensor,
    loss_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    import torch

    parameters = run.hyperparameters
    torch.manual_seed(_draw(parameters.seed, "layers", step))
    generator = torch.Generator().manual_seed(_draw(parameters.seed, "images", step))
    positions = batch_positions(
        seed=parameters.seed, step=step, batch_size=parameters.batch_size, frames=len(run.frames.lines)
    )
    chosen = torch.from_numpy(positions).to(run.device)
    pixels = images.augment(images_u8[chosen], generator=generator, mean=run.config.mean, std=run.config.std)
    factor = learning_rate_factor(step=step, steps=steps)
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    loss = loss_of(run.network(pixels), targets_NC[chosen])
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(run.network.parameters(), GRADIENT_NORM)
    optimizer.step()
    return loss.detach()


def _optimizer(run: Run) -> torch.optim.Optimizer:
    """AdamW. The last layer learns faster than tensors from the initial channel; biases and scales do not decay.

    Frozen tensors ask for no gradient, which spares most of the backward pass.
    """
    import torch

    parameters = run.hyperparameters
    scale = parameters.backbone_learning_rate_scale
    if len(run.frames.targets_NC) < parameters.finetune_from:
        scale = 0.0
    head = {id(parameter) for parameter in networks.head_of(run.network).parameters()}
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in run.network.named_parameters():
        slow = name in run.initial_names and id(parameter) not in head
        parameter.requires_grad_(not slow or scale > 0.0)
        if not parameter.requires_grad:
            continue
        rate = parameters.learning_rate * (scale if slow else 1.0)
        decay = parameters.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": members, "lr": rate, "base_lr": rate, "weight_decay": decay}
            for (rate, decay), members in groups.items()
        ]
    )


def _loss_function(run: Run) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    import torch
    from torch.nn import functional

    kind = run.config.kind
    weights = torch.from_numpy(class_weights(run.frames.targets_NC, kind=kind)).to(run.device)
    if kind == "multilabel":
        return lambda logits, targets: functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights)
    return lambda logits, targets: functional.cross_entropy(logits, targets.argmax(dim=1), weight=weights)


def _calibrate_batch_norm(run: Run, images_u8: torch.Tensor) -> None:
    """Replaces the running statistics by plain means over the train split under the final weights.

    Running means follow slowly (MobileNet: 1 % a step), so after the few steps of a small training they are still
    those of the first. Source: Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021, section 3 (PreciseBN).
    """
    import torch

    given = {id(layer) for layer in _given_norms(run)}
    layers = [layer for _, layer in _norms(run.network) if id(layer) not in given]
    if not layers:
        run.network.eval()
        return
    parameters, frames = run.hyperparameters, len(run.frames.lines)
    momenta = [layer.momentum for layer in layers]
    run.network.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    with torch.no_grad():
        for step in range(min(CALIBRATION_BATCHES, math.ceil(frames / parameters.batch_size))):
            run.check_stop()
            positions = batch_positions(
                seed=parameters.seed, step=step, batch_size=parameters.batch_size, frames=frames
            )
            chosen = torch.from_numpy(positions).to(run.device)
            run.network(images.normalise(images_u8[chosen], mean=run.config.mean, std=run.config.std))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    run.network.eval()


def _norms(network: torch.nn.Module) -> list[tuple[str, torch.nn.modules.batchnorm._BatchNorm]]:
    import torch

    kind = torch.nn.modules.batchnorm._BatchNorm
    return [(name, module) for name, module in network.named_modules() if isinstance(module, kind)]


def _given_norms(run: Run) -> list[torch.nn.modules.batchnorm._BatchNorm]:
    """Normalisation layers whose statistics came from the initial channel: those of many images are kept, as a batch
    of a few tells less.
    """
    return [layer for name, layer in _norms(run.network) if f"{name}.running_mean" in run.initial_names]


def _report(run: Run, *, step: int, steps: int, loss: float, elapsed_s: float, done: int) -> None:
    batch_size = run.hyperparameters.batch_size
    run.log(
        "progress",
        step=step,
        steps=steps,
        epoch=round(step * batch_size / len(run.frames.lines), 2),
        loss=round(loss, 5),
        learning_rate=run.hyperparameters.learning_rate * learning_rate_factor(step=step - 1, steps=steps),
        images_per_s=round(done * batch_size / max(elapsed_s, 1e-9), 1),
        elapsed_s=round(elapsed_s, 1),
    )


def _finite(loss: torch.Tensor, *, step: int) -> float:
    value = float(loss)
    if not math.isfinite(value):
        raise ContractError(f"the loss is {value} at step {step}; lower the hyperparameter learning_rate")
    return value


def _draw(seed: int, purpose: str, number: int) -> int:
    """A seed for one use of chance, independent of all others."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
