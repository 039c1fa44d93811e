"""Learners of a simulation: labels in, probabilities for every row of the fleet out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from infra.platform import Platform

if TYPE_CHECKING:
    from training.contract import Layout

LEARNERS = ("probe", "cnn")
PROBE_PENALTY = 0.01
CLASS_WEIGHT_LIMIT = 10.0
_NEWTON_STEPS = 50
_TOLERANCE = 1e-7
_OFFSET_SHARE = 1e-4


class Learner(Protocol):
    """What a simulation needs of a learner."""

    def probabilities(
        self, rows: NDArray[np.int64], target_NC: NDArray[np.float32], *, seed: int
    ) -> NDArray[np.float32]:
        """Trains on the rows and answers for the whole fleet.

        Args:
            rows: Labelled rows, shape (N,).
            target_NC: Their labels, 1 where the frame shows the class.
            seed: For whatever chance the training needs.
        Returns:
            Shape (fleet rows, C).
        """
        ...


class Probe:
    """A linear head on the frozen encoder's embeddings: one regularised logistic regression a class, solved to convergence.

    Positives are weighted as the training job weights them (`training.job.fitting.class_weights`). It stands in for the CNN of the Model
    Line, which keeps its backbone frozen too while labels are few.
    """

    def __init__(self, vectors_ND: NDArray[np.float32], *, penalty: float = PROBE_PENALTY) -> None:
        """`vectors_ND` has one row a frame of the fleet. They are centred and scaled to mean square length 1."""
        centred_ND = vectors_ND.astype(np.float64) - vectors_ND.mean(axis=0, dtype=np.float64)
        self._features_ND = centred_ND / max(1e-12, float(np.sqrt((centred_ND**2).sum(axis=1).mean())))
        self._penalty = penalty

    def probabilities(
        self, rows: NDArray[np.int64], target_NC: NDArray[np.float32], *, seed: int
    ) -> NDArray[np.float32]:
        """See `Learner`; there is no chance in it."""
        del seed
        columns = [self._one_class(rows, target_NC[:, index].astype(np.float64)) for index in range(target_NC.shape[1])]
        return np.stack(columns, axis=1).astype(np.float32)

    def _one_class(self, rows: NDArray[np.int64], target_N: NDArray[np.float64]) -> NDArray[np.float64]:
        count, positives = len(target_N), float(target_N.sum())
        if positives in (0.0, float(count)):
            return np.full(len(self._features_ND), (positives + 1.0) / (count + 2.0))
        positive_weight = np.clip((count - positives) / positives, 1 / CLASS_WEIGHT_LIMIT, CLASS_WEIGHT_LIMIT)
        weight_N = np.where(target_N > 0.5, positive_weight, 1.0)
        slope_D, offset = logistic_regression(
            self._features_ND[rows], target_N, weight_N / weight_N.mean(), penalty=self._penalty
        )
        probability_N: NDArray[np.float64] = _sigmoid(self._features_ND @ slope_D + offset)
        return probability_N


class TrainingJob:
    """The real thing: the training container's code, run in this process, then the predictor over all previews."""

    def __init__(
        self,
        platform: Platform,
        *,
        classes: Sequence[str],
        folder: Path,
        hyperparameters: dict[str, str] | None = None,
    ) -> None:
        """`folder` receives one training's inputs and outputs at a time; hyperparameters differ from the defaults."""
        self._platform = platform
        self._classes = tuple(classes)
        self._folder = folder
        self._changes = hyperparameters or {}

    def probabilities(
        self, rows: NDArray[np.int64], target_NC: NDArray[np.float32], *, seed: int
    ) -> NDArray[np.float32]:
        """See `Learner`."""
        from selection.devices import torch_device
        from selection.fleet import frames
        from training.contract import Layout
        from training.job import networks
        from training.job.run import run
        from training.prediction import Predictor, predict_rows

        shutil.rmtree(self._folder, ignore_errors=True)
        layout = Layout(base=self._folder)
        self._write_input(layout, rows, target_NC, seed=seed)
        run(layout, environment={}, log=lambda _event, **_fields: None, check_stop=lambda: None)
        saved = networks.read_model(layout.model)
        device = torch_device(self._platform.settings.device)
        predictor = Predictor(networks.load(saved).to(device), config=saved.config, device=device)
        table = predict_rows(self._platform, predictor, start=0, stop=frames.row_count(self._platform.database))
        column = table.column("probability").combine_chunks()
        return np.asarray(column.flatten().to_numpy(zero_copy_only=False), dtype=np.float32).reshape(len(table), -1)

    def _write_input(
        self, layout: Layout, rows: NDArray[np.int64], target_NC: NDArray[np.float32], *, seed: int
    ) -> None:
        from selection.fleet import frames
        from training.contract import DATASET_CHANNEL, FRAMES_CHANNEL, INITIAL_CHANNEL, Hyperparameters
        from training.executors import container
        from training.executors.protocol import JobSpec
        from training.workflows import backbone_key

        objects = self._platform.objects
        parameters = Hyperparameters(
            task="simulation", kind="multilabel", classes=self._classes, frames_uri=f"{objects.uri('frames')}/"
        ).to_strings() | {"seed": str(seed), **self._changes}
        lines = []
        for frame, target_C in zip(frames.by_rows(self._platform.database, rows.tolist()), target_NC, strict=True):
            line = {
                "source-ref": objects.uri(frame.object_key),
                "simulation": np.flatnonzero(target_C > 0.5).tolist(),
                "frame-id": frame.frame_id,
                "frame-digest": frame.digest,
                "label-id": f"answer-{frame.frame_id}",
                "label-digest": "0" * 64,
                "row": frame.row,
                "split": "train",
            }
            lines.append(json.dumps(line) + "\n")
        manifest_key = "simulation/manifest.jsonl"
        objects.put(manifest_key, "".join(lines).encode())
        channels = {DATASET_CHANNEL: manifest_key, FRAMES_CHANNEL: "frames/"}
        if parameters["architecture"] == "mobilenet_v3_small":
            channels[INITIAL_CHANNEL] = backbone_key(self._platform)
        spec = JobSpec(job_name="simulation", hyperparameters=parameters, channels=channels, output_prefix="simulation")
        container.write_input(layout, spec, objects=objects)


def logistic_regression(
    feature_ND: NDArray[np.float64], target_N: NDArray[np.float64], weight_N: NDArray[np.float64], *, penalty: float
) -> tuple[NDArray[np.float64], float]:
    """Minimises the weighted log loss plus `penalty / 2` times the squared slope, by damped Newton steps.

    With fewer examples than dimensions the work is done in the space that the examples span, which holds the solution.
    Source: Hastie, Tibshirani and Friedman, "The Elements of Statistical Learning", 2nd edition, sections 4.4.1 and 18.3.5.

    Args:
        feature_ND: Shape (N, D).
        target_N: Shape (N,), 0 or 1, both present.
        weight_N: Shape (N,), of each example in the loss.
        penalty: Above 0. The offset bears almost none of it.
    Returns:
        Slope, shape (D,), and offset.
    """
    if len(feature_ND) < feature_ND.shape[1]:
        basis_DN, triangle = np.linalg.qr(feature_ND.T)
        compact_NK = triangle.T
    else:
        basis_DN, compact_NK = np.eye(feature_ND.shape[1]), feature_ND
    design_NK = np.column_stack([compact_NK, np.ones(len(compact_NK))])
    penalty_K = np.full(design_NK.shape[1], penalty)
    penalty_K[-1] = penalty * _OFFSET_SHARE
    solution_K: NDArray[np.float64] = np.zeros(design_NK.shape[1])

    def loss(candidate_K: NDArray[np.float64]) -> float:
        logit_N = design_NK @ candidate_K
        fit = float((weight_N * (np.logaddexp(0.0, logit_N) - target_N * logit_N)).sum())
        return fit + 0.5 * float((penalty_K * candidate_K**2).sum())

    current = loss(solution_K)
    for _ in range(_NEWTON_STEPS):
        probability_N = _sigmoid(design_NK @ solution_K)
        gradient_K = design_NK.T @ (weight_N * (probability_N - target_N)) + penalty_K * solution_K
        curvature_N = weight_N * probability_N * (1.0 - probability_N)
        hessian_KK = (design_NK.T * curvature_N) @ design_NK + np.diag(penalty_K)
        step_K = np.linalg.solve(hessian_KK, gradient_K)
        length = 1.0
        while (reached := loss(solution_K - length * step_K)) > current and length > 1e-6:
            length /= 2.0
        solution_K = solution_K - length * step_K
        done = current - reached < _TOLERANCE * max(1.0, abs(current))
        current = min(current, reached)
        if done:
            break
    return basis_DN @ solution_K[:-1], float(solution_K[-1])


def _sigmoid(logit: NDArray[np.float64]) -> NDArray[np.float64]:
    squashed: NDArray[np.float64] = 0.5 * (1.0 + np.tanh(0.5 * logit))
    return squashed
