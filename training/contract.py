"""What the training container and the outside agree on: folders, hyperparameters, manifest lines, model and metrics
files, exit codes.

The container's world is SageMaker's (folder layout, string hyperparameters, `SM_*` variables, `SIGTERM` and 120 s,
`output/failure`), so one entry point, `python -m training.job`, runs in a local subprocess and in a SageMaker container.
This module needs nothing but the standard library: it is the only one of ours that the container's code imports.

Sources: "How Amazon SageMaker AI provides training information", "... processes training output" and "... model
training storage paths" in the SageMaker developer guide.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypedDict

Split = Literal["train", "test"]
TrainableKind = Literal["classification", "multilabel"]
TRAINABLE_KINDS: tuple[TrainableKind, ...] = ("classification", "multilabel")

DEFAULT_BASE = Path("/opt/ml")
BASE_VARIABLE = "MLPL_ML_DIR"
"""Environment variable that moves `/opt/ml`, as SAGEMAKER_BASE_DIR does for SageMaker's toolkit."""

DATASET_CHANNEL = "dataset"
"""One `.jsonl` file: the manifest of a dataset version."""
FRAMES_CHANNEL = "frames"
"""Image files; a line's file is its `source-ref` with the hyperparameter `frames_uri` taken off the front."""
INITIAL_CHANNEL = "initial"
"""Optional: `.safetensors` (or `model.tar.gz` of an earlier job) to start from; tensors whose name and shape fit are
taken.
"""
BASELINE_CHANNEL = "baseline"
"""Optional: a previous model (its folder or its `model.tar.gz`), evaluated on the same test lines as the new one."""

EXIT_COMPLETED = 0
EXIT_FAILED = 1
EXIT_STOPPED = 143
"""SIGTERM arrived and the state is in `checkpoints/`: 128 + 15, so that no platform mistakes half a training for a
whole one.
"""
STOP_GRACE_S = 120.0
"""SageMaker sends SIGKILL this long after SIGTERM."""
FAILURE_CHARACTERS = 1024
"""SageMaker takes this much of `output/failure` as FailureReason."""
MAX_UNREADABLE_FRACTION = 0.05

METRIC_NAMES: Mapping[TrainableKind, str] = {
    "multilabel": "macro_average_precision",
    "classification": "macro_accuracy",
}

METRIC_DEFINITIONS: tuple[Mapping[str, str], ...] = (
    {"Name": "train:loss", "Regex": r'"event": "progress".*"loss": ([0-9.eE+-]+)'},
    {"Name": "train:images_per_s", "Regex": r'"event": "progress".*"images_per_s": ([0-9.eE+-]+)'},
    {"Name": "test:metric", "Regex": r'"event": "evaluated".*"metric": ([0-9.eE+-]+)'},
)
"""AlgorithmSpecification.MetricDefinitions that find the figures in the job's JSON lines on standard output."""


class ContractError(Exception):
    """Something outside broke the contract; the message is one line, fit for `output/failure`."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The folders of the container's world under `base`, normally `/opt/ml`."""

    base: Path = DEFAULT_BASE

    @property
    def hyperparameters(self) -> Path:
        """Flat JSON object, every value a string."""
        return self.base / "input" / "config" / "hyperparameters.json"

    @property
    def input_data_config(self) -> Path:
        """JSON object: per channel its content type and input mode."""
        return self.base / "input" / "config" / "inputdataconfig.json"

    @property
    def resource_config(self) -> Path:
        """JSON object: current_host, hosts, network_interface_name."""
        return self.base / "input" / "config" / "resourceconfig.json"

    @property
    def input_data(self) -> Path:
        """Parent of the channels."""
        return self.base / "input" / "data"

    @property
    def model(self) -> Path:
        """What is here at the end becomes `model.tar.gz`."""
        return self.base / "model"

    @property
    def model_weights(self) -> Path:
        """The trained tensors."""
        return self.model / "model.safetensors"

    @property
    def model_config(self) -> Path:
        """What is needed to use the tensors: see `ModelConfig`."""
        return self.model / "model.json"

    @property
    def output(self) -> Path:
        """Parent of `failure` and `data`."""
        return self.base / "output"

    @property
    def output_data(self) -> Path:
        """What is here at the end becomes `output.tar.gz`."""
        return self.output / "data"

    @property
    def metrics(self) -> Path:
        """See `Metrics`."""
        return self.output_data / "metrics.json"

    @property
    def predictions(self) -> Path:
        """JSON Lines: the new model's probabilities for the test frames."""
        return self.output_data / "predictions.jsonl"

    @property
    def failure(self) -> Path:
        """One line that says why the job failed; absent otherwise."""
        return self.output / "failure"

    @property
    def checkpoints(self) -> Path:
        """State to resume from; kept by the platform between attempts of one job."""
        return self.base / "checkpoints"

    def channel(self, name: str) -> Path:
        """Folder of one channel; it may be absent."""
        return self.input_data / name


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """A training run's parameters. `to_strings` and `parse` are each other's inverse.

    There is no limit in seconds among them: a training that ends by the clock cannot be repeated. The platform's own
    limit stops a run away.

    Attributes:
        task: Task id; also the manifest attribute that holds the label.
        frames_uri: Prefix of every `source-ref`, taken off to find the file in the frames channel.
        architecture: Name of a torchvision classification model; its last linear layer is replaced.
        input_size: Side of the square every image is squashed to, pixels.
        epochs: Passes over the train split.
        min_steps: Optimizer steps to take at least; with few images the epochs grow until there are so many.
        batch_size: Images per step, always exactly that many (the stream of epochs is cut without regard to their
            borders).
        learning_rate: Of the new last layer and, without initial weights, of everything.
        backbone_learning_rate_scale: Factor on it for tensors that came from the initial channel; 0 freezes them.
        finetune_from: With fewer train frames than this, tensors that came from the initial channel stay frozen: so few
            labels teach a last layer well, and a whole network badly.
        checkpoint_interval_s: Seconds between checkpoints; does not influence the result.
        threads: CPU threads, or 0 for the machine's (`SM_NUM_CPUS`); recorded in the checkpoint, because it can
            change the last bits.
        device: `auto` takes a CUDA device when there is one.
    """

    task: str
    kind: TrainableKind
    classes: tuple[str, ...]
    frames_uri: str
    architecture: str = "mobilenet_v3_small"
    input_size: int = 160
    epochs: int = 20
    min_steps: int = 120
    batch_size: int = 16
    learning_rate: float = 2e-3
    backbone_learning_rate_scale: float = 0.1
    finetune_from: int = 400
    weight_decay: float = 0.02
    seed: int = 0
    checkpoint_interval_s: float = 15.0
    threads: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        """Checks ranges.

        Raises:
            ContractError: Names the hyperparameter and what it may be.
        """
        _require(self.kind in TRAINABLE_KINDS, "kind", self.kind, f"one of {', '.join(TRAINABLE_KINDS)}")
        _require(bool(self.task), "task", self.task, "the task's id")
        least = 2 if self.kind == "classification" else 1
        _require(len(self.classes) >= least, "classes", self.classes, f"a JSON list of {least} or more names")
        _require(len(set(self.classes)) == len(self.classes), "classes", self.classes, "a JSON list without repeats")
        _require(16 <= self.input_size <= 2048, "input_size", self.input_size, "16 to 2048")
        _require(self.epochs >= 1, "epochs", self.epochs, "1 or more")
        _require(self.min_steps >= 1, "min_steps", self.min_steps, "1 or more")
        _require(
            self.batch_size >= 2, "batch_size", self.batch_size, "2 or more, because batch normalisation needs two"
        )
        _require(0 < self.learning_rate < math.inf, "learning_rate", self.learning_rate, "above 0")
        scale = self.backbone_learning_rate_scale
        _require(0 <= scale <= 1, "backbone_learning_rate_scale", scale, "0 to 1")
        _require(self.finetune_from >= 0, "finetune_from", self.finetune_from, "0 or more")
        _require(0 <= self.weight_decay < math.inf, "weight_decay", self.weight_decay, "0 or more")
        _require(0 <= self.seed < 2**63, "seed", self.seed, "0 or more")
        _require(self.checkpoint_interval_s > 0, "checkpoint_interval_s", self.checkpoint_interval_s, "above 0")
        _require(self.threads >= 0, "threads", self.threads, "0 or more")
        _require(self.device in ("auto", "cpu", "cuda"), "device", self.device, "auto, cpu or cuda")

    @classmethod
    def parse(cls, strings: Mapping[str, str]) -> Hyperparameters:
        """Reads the strings of `hyperparameters.json`. Keys that SageMaker's own tools add (`sagemaker_*`) are passed
        over.

        Raises:
            ContractError: A key is unknown or missing, or a value cannot be read.
        """
        known = {field.name: field for field in fields(cls)}
        ours = {key: value for key, value in strings.items() if not key.startswith("sagemaker_")}
        unknown = sorted(set(ours) - set(known))
        if unknown:
            raise ContractError(f"unknown hyperparameter {unknown[0]!r}; known are {', '.join(sorted(known))}")
        missing = [name for name in ("task", "kind", "classes", "frames_uri") if name not in ours]
        if missing:
            raise ContractError(f"hyperparameter {missing[0]!r} is missing")
        return cls(**{key: _read_value(key, str(known[key].type), value) for key, value in ours.items()})

    def to_strings(self) -> dict[str, str]:
        """Every parameter as SageMaker wants it: a string."""
        return {key: value if isinstance(value, str) else json.dumps(value) for key, value in asdict(self).items()}


@dataclass(frozen=True, kw_only=True)
class ManifestLine:
    """One frame of a dataset version with its label, from one line of the manifest.

    Attributes:
        classes: Indices into the task's class list, ascending; exactly one for `classification`.
        frame_digest: SHA-256 of the image file, 64 hex digits.
    """

    source_ref: str
    frame_id: str
    frame_digest: str
    label_id: str
    label_digest: str
    row: int
    split: Split
    classes: tuple[int, ...]

    @classmethod
    def parse(cls, line: str, *, number: int, task: str, kind: TrainableKind, class_count: int) -> ManifestLine:
        """Reads one line of SageMaker's augmented-manifest form.

        Args:
            line: One JSON object.
            number: 1 for the first line; for messages.
            task: Attribute that holds the label.
            kind: `classification` wants an integer, `multilabel` a list of integers.
            class_count: Indices are below this.

        Raises:
            ContractError: Names the line and what is wrong with it.
        """
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ContractError(f"manifest line {number} is not a JSON object")
            if task not in record:
                raise ContractError(f"manifest line {number} has no attribute {task!r}")
            split = record["split"]
            if split not in ("train", "test"):
                raise ContractError(f"manifest line {number} has split {split!r}; known are train and test")
            return cls(
                source_ref=str(record["source-ref"]),
                frame_id=str(record["frame-id"]),
                frame_digest=str(record["frame-digest"]),
                label_id=str(record["label-id"]),
                label_digest=str(record["label-digest"]),
                row=int(record["row"]),
                split=split,
                classes=_read_classes(record[task], number=number, kind=kind, class_count=class_count),
            )
        except json.JSONDecodeError as exc:
            raise ContractError(f"manifest line {number} is not JSON: {exc}") from exc
        except KeyError as exc:
            raise ContractError(f"manifest line {number} has no {exc.args[0]!r}") from exc
        except (TypeError, ValueError) as exc:
            raise ContractError(f"manifest line {number} cannot be read: {exc}") from exc


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """`model.json`: what is needed to use `model.safetensors`.

    Attributes:
        mean: Per channel, red green blue, of pixels scaled to 0..1; subtracted before `std` divides.
        manifest_digest: SHA-256 of the manifest file it was trained on.
    """

    task: str
    kind: TrainableKind
    classes: tuple[str, ...]
    architecture: str
    input_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    manifest_digest: str
    format_version: int = 1

    @classmethod
    def parse(cls, text: str | bytes) -> ModelConfig:
        """Reads `model.json`.

        Raises:
            ContractError: It is not a model description of this format.
        """
        try:
            record = json.loads(text)
            if record["format_version"] != 1:
                raise ContractError(f"model.json has format_version {record['format_version']}; this release reads 1")
            red, green, blue = record["mean"]
            red_std, green_std, blue_std = record["std"]
            return cls(
                task=record["task"],
                kind=record["kind"],
                classes=tuple(record["classes"]),
                architecture=record["architecture"],
                input_size=int(record["input_size"]),
                mean=(red, green, blue),
                std=(red_std, green_std, blue_std),
                manifest_digest=record["manifest_digest"],
            )
        except (KeyError, TypeError, ValueError) as exc:
            raise ContractError(f"model.json cannot be read: {exc!r}") from exc

    def render(self) -> str:
        """The text of `model.json`; the same for the same model."""
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"


class ClassFigures(TypedDict):
    """One class of the test split. What the task's kind does not have, or what has no value on these lines, is None.

    Attributes:
        positives: Test frames that have the class.
        train_positives: Train frames that have it.
        average_precision: `multilabel`; None without at least one positive and one negative.
        recall, precision: At probability 0.5 (`multilabel`) or for the most probable class (`classification`).
    """

    positives: int
    train_positives: int
    average_precision: float | None
    recall: float | None
    precision: float | None


class Evaluation(TypedDict):
    """A model on the test lines.

    Attributes:
        metric: 0..1, or None when the lines allow no figure (no test lines, or no class with a positive and a
            negative).
        classes_counted: Classes the metric is the plain mean of.
        loss: Mean cross entropy without class balance, or None.
    """

    metric: float | None
    frames: int
    classes_counted: int
    loss: float | None
    per_class: dict[str, ClassFigures]


class BaselineEvaluation(Evaluation):
    """The baseline on the same test lines; a class it does not know counts as never predicted."""

    unknown_classes: list[str]


class TrainFigures(TypedDict):
    """How the training went.

    Attributes:
        seconds: Spent in this attempt and the ones it resumed.
        resumed_from: Step of the checkpoint this attempt began with, or None.
        initial_tensors: Tensors taken from the initial channel, of `model_tensors`.
    """

    frames: int
    epochs: float
    steps: int
    loss_last: float | None
    seconds: float
    resumed_from: int | None
    initial_tensors: int
    model_tensors: int
    threads: int
    device: str
    versions: dict[str, str]


class SkippedFrame(TypedDict):
    """A manifest line whose image could not be used."""

    frame_id: str
    reason: str


class Metrics(TypedDict):
    """`output/data/metrics.json`.

    Attributes:
        metric: The same as `test["metric"]`.
        notices: One line each: what a reader of the figures ought to know.
        manifest_digest: SHA-256 of the manifest file that was read.
    """

    metric_name: str
    metric: float | None
    test: Evaluation
    baseline: BaselineEvaluation | None
    train: TrainFigures
    skipped: list[SkippedFrame]
    notices: list[str]
    manifest_digest: str


def _require(condition: bool, name: str, value: object, allowed: str) -> None:
    if not condition:
        raise ContractError(f"hyperparameter {name!r} is {value!r}; it must be {allowed}")


def _read_value(key: str, type_name: str, text: str) -> Any:
    try:
        if type_name == "int":
            return int(text)
        if type_name == "float":
            return float(text)
        if type_name.startswith("tuple"):
            names = json.loads(text)
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ValueError("not a JSON list of strings")
            return tuple(names)
    except (TypeError, ValueError) as exc:
        raise ContractError(f"hyperparameter {key!r} is {text!r}, which cannot be read: {exc}") from exc
    return text


def _read_classes(value: object, *, number: int, kind: TrainableKind, class_count: int) -> tuple[int, ...]:
    indices = [value] if kind == "classification" else value
    if not isinstance(indices, list) or not all(type(index) is int for index in indices):
        wanted = "a class index" if kind == "classification" else "a list of class indices"
        raise ContractError(f"manifest line {number} has label {value!r}; a {kind} label is {wanted}")
    wrong = [index for index in indices if not 0 <= index < class_count]
    if wrong:
        raise ContractError(f"manifest line {number} has class index {wrong[0]}; the task has {class_count} classes")
    return tuple(sorted(set(indices)))
