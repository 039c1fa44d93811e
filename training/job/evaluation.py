"""Evaluation: probabilities of a network, and how they compare with the labels of the test split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from training.contract import ClassFigures, Evaluation, ModelConfig, TrainableKind
from training.job import images

if TYPE_CHECKING:
    import torch


def probabilities(
    network: torch.nn.Module,
    images_u8: NDArray[np.uint8],
    *,
    config: ModelConfig,
    device: torch.device,
    check_stop: Callable[[], None] = lambda: None,
) -> NDArray[np.float32]:
    """What the network makes of squashed images.

    Args:
        network: In evaluation mode, on `device`.
        images_u8: Shape (N, 3, S, S), S as the model's `input_size`.
        config: Says how pixels are standardised and which squashing function the kind has.
        device: Where the network is.
        check_stop: Called before each batch; whatever it raises ends the work.

    Returns:
        Shape (N, C): independent per class (`multilabel`), or rows that sum to 1 (`classification`). The network was
        trained with balanced classes, so 0.5 is where presence and absence are equally likely had they been equally
        frequent.
    """
    import torch

    result_NC = np.zeros((len(images_u8), len(config.classes)), dtype=np.float32)
    with torch.inference_mode():
        for piece in images.batches(len(images_u8)):
            check_stop()
            pixels = torch.from_numpy(images_u8[piece]).to(device)
            logits = network(images.normalise(pixels, mean=config.mean, std=config.std)).float()
            squashed = logits.sigmoid() if config.kind == "multilabel" else logits.softmax(dim=1)
            result_NC[piece] = squashed.cpu().numpy()
    return result_NC


def evaluate(
    probability_NC: NDArray[np.float32],
    target_NC: NDArray[np.float32],
    *,
    kind: TrainableKind,
    classes: Sequence[str],
    train_positives: Sequence[int],
) -> Evaluation:
    """The figures of one model on the test split.

    `multilabel`: macro average precision, the mean over the classes that have a positive and a negative here.
    `classification`: macro accuracy, also called balanced accuracy, the mean recall of the classes that occur here.

    Args:
        probability_NC: Shape (N, C).
        target_NC: Shape (N, C), 1 where the frame has the class.
        kind: Of the task.
        classes: Names, in index order.
        train_positives: Per class, how many train frames have it.
    """
    decided_NC = _decisions(probability_NC, kind=kind)
    per_class: dict[str, ClassFigures] = {}
    counted: list[float] = []
    for index, name in enumerate(classes):
        figures = _class_figures(probability_NC[:, index], target_NC[:, index] > 0.5, decided_NC[:, index], kind=kind)
        figures["train_positives"] = int(train_positives[index])
        per_class[name] = figures
        value = figures["average_precision"] if kind == "multilabel" else figures["recall"]
        if value is not None:
            counted.append(value)
    return Evaluation(
        metric=float(np.mean(counted)) if counted else None,
        frames=len(target_NC),
        classes_counted=len(counted),
        loss=_loss(probability_NC, target_NC, kind=kind) if len(target_NC) else None,
        per_class=per_class,
    )


def average_precision(score_N: NDArray[np.float32], positive_N: NDArray[np.bool_]) -> float | None:
    """Area under precision over recall, as a sum over the distinct scores: sum of (R_k - R_(k-1)) * P_k.

    Equal scores count as one threshold, so the order of the frames does not matter. The same definition as
    scikit-learn's `average_precision_score`.

    Args:
        score_N: Shape (N,), higher means more likely.
        positive_N: Shape (N,).

    Returns:
        In [0, 1]; None without at least one positive and one negative.
    """
    total = int(positive_N.sum())
    if total in (0, len(positive_N)):
        return None
    order = np.argsort(-score_N, kind="stable")
    last_of_tie = np.append(np.diff(score_N[order]) != 0, True)
    found = np.cumsum(positive_N[order])[last_of_tie]
    seen = (np.arange(len(score_N)) + 1)[last_of_tie]
    recall_gained = np.diff(found, prepend=0) / total
    return float(np.sum(recall_gained * found / seen))


def _decisions(probability_NC: NDArray[np.float32], *, kind: TrainableKind) -> NDArray[np.bool_]:
    if kind == "multilabel":
        return np.asarray(probability_NC >= 0.5)
    decided_NC = np.zeros(probability_NC.shape, dtype=np.bool_)
    decided_NC[np.arange(len(probability_NC)), probability_NC.argmax(axis=1)] = True
    return decided_NC


def _class_figures(
    score_N: NDArray[np.float32], positive_N: NDArray[np.bool_], decided_N: NDArray[np.bool_], *, kind: TrainableKind
) -> ClassFigures:
    hits, positives, decided = int((positive_N & decided_N).sum()), int(positive_N.sum()), int(decided_N.sum())
    return ClassFigures(
        positives=positives,
        train_positives=0,
        average_precision=average_precision(score_N, positive_N) if kind == "multilabel" else None,
        recall=hits / positives if positives else None,
        precision=hits / decided if decided else None,
    )


def _loss(probability_NC: NDArray[np.float32], target_NC: NDArray[np.float32], *, kind: TrainableKind) -> float:
    safe_NC = np.clip(probability_NC.astype(np.float64), 1e-7, 1 - 1e-7)
    if kind == "classification":
        return float(-(target_NC * np.log(safe_NC)).sum(axis=1).mean())
    return float(-(target_NC * np.log(safe_NC) + (1 - target_NC) * np.log(1 - safe_NC)).mean())
