"""One training job from its input folders to its output folders: read, fit, evaluate, write."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from training.contract import (
    BASELINE_CHANNEL,
    DATASET_CHANNEL,
    FRAMES_CHANNEL,
    INITIAL_CHANNEL,
    MAX_UNREADABLE_FRACTION,
    METRIC_NAMES,
    BaselineEvaluation,
    ContractError,
    Evaluation,
    Hyperparameters,
    Layout,
    ManifestLine,
    Metrics,
    ModelConfig,
    SkippedFrame,
    TrainFigures,
)
from training.job import checkpoints, evaluation, fitting, images, networks

if TYPE_CHECKING:
    import torch

Log = Callable[..., None]
CheckStop = Callable[[], None]

NOT_DECISIVE = ("checkpoint_interval_s", "threads", "device", "frames_uri")
"""Hyperparameters that a resumed attempt may have changed without becoming another run."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the channels hold, read."""

    train: images.Frames
    test: images.Frames
    skipped: list[SkippedFrame]
    manifest_digest: str
    manifest_lines: int


def run(layout: Layout, *, environment: Mapping[str, str], log: Log, check_stop: CheckStop) -> Metrics:
    """Runs the job that `layout` describes and leaves model and output there.

    Args:
        layout: Input, output and checkpoint folders.
        environment: Of the process; SM_NUM_CPUS is read from it.
        log: Takes an event and its fields, one progress line.
        check_stop: Raises `fitting.Stopped` when the job has to end.

    Raises:
        ContractError: The inputs do not allow a training; one line says why.
        fitting.Stopped: The state is in the checkpoints folder.
    """
    import torch

    hyperparameters = Hyperparameters.parse(_read_json(layout.hyperparameters, what="hyperparameters.json"))
    _check_single_host(layout)
    state = checkpoints.newest(layout.checkpoints)
    threads = state["threads"] if state else hyperparameters.threads or _cpu_count(environment)
    device = _prepare_torch(hyperparameters, threads=threads)
    log(
        "started",
        task=hyperparameters.task,
        architecture=hyperparameters.architecture,
        device=str(device),
        threads=threads,
    )

    inputs = _read_inputs(layout, hyperparameters, threads=threads, check_stop=check_stop)
    log("frames_read", train=len(inputs.train.lines), test=len(inputs.test.lines), skipped=len(inputs.skipped))
    config = _model_config(hyperparameters, inputs)
    network, initial_names, initial_digest = _start_network(layout, hyperparameters)
    fit_run = fitting.Run(
        network=network.to(device).to(memory_format=torch.channels_last),
        frames=inputs.train,
        config=config,
        hyperparameters=hyperparameters,
        initial_names=frozenset(initial_names),
        device=device,
        threads=threads,
        checkpoint_folder=layout.checkpoints,
        fingerprint=_fingerprint(hyperparameters, inputs, initial_digest=initial_digest),
        log=log,
        check_stop=check_stop,
    )
    if state is not None:
        checkpoints.check_same_run(state, fingerprint=fit_run.fingerprint, folder=layout.checkpoints)
        log("resumed", step=state["step"])
    fit = fitting.fit(fit_run, resume=state)

    probability_NC = evaluation.probabilities(
        network, inputs.test.images_u8, config=config, device=device, check_stop=check_stop
    )
    test = _evaluate(probability_NC, inputs, config)
    baseline = _evaluate_baseline(
        layout, hyperparameters, inputs, device=device, threads=threads, check_stop=check_stop
    )
    metrics = Metrics(
        metric_name=METRIC_NAMES[config.kind],
        metric=test["metric"],
        test=test,
        baseline=baseline,
        train=TrainFigures(
            frames=len(inputs.train.lines),
            epochs=round(fit.epochs, 2),
            steps=fit.steps,
            loss_last=fit.loss_last,
            seconds=round(fit.seconds, 3),
            resumed_from=fit.resumed_from,
            initial_tensors=len(initial_names),
            model_tensors=len(network.state_dict()),
            threads=threads,
            device=str(device),
            versions=_versions(),
        ),
        skipped=inputs.skipped,
        notices=_notices(layout, inputs, test, baseline, initial=len(initial_names), tensors=len(network.state_dict())),
        manifest_digest=inputs.manifest_digest,
    )
    _write_outputs(
        layout, network=network, config=config, metrics=metrics, inputs=inputs, probability_NC=probability_NC
    )
    log(
        "evaluated",
        metric_name=metrics["metric_name"],
        metric=metrics["metric"],
        baseline=baseline["metric"] if baseline else None,
        frames=test["frames"],
    )
    for notice in metrics["notices"]:
        log("notice", text=notice)
    return metrics


def _prepare_torch(hyperparameters: Hyperparameters, *, threads: int) -> torch.device:
    """Makes torch repeatable before it computes anything."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    if hyperparameters.device == "cuda" and not torch.cuda.is_available():
        raise ContractError("hyperparameter 'device' is 'cuda' but there is no usable CUDA device; use auto or cpu")
    on_gpu = hyperparameters.device != "cpu" and torch.cuda.is_available()
    torch.set_num_threads(threads)
    # On a GPU a few layers (adaptive pooling to more than one pixel) have no repeatable backward pass; they may run
    # there.
    torch.use_deterministic_algorithms(True, warn_only=on_gpu)
    torch.backends.cudnn.benchmark = False
    torch.manual_seed(hyperparameters.seed)
    return torch.device("cuda" if on_gpu else "cpu")


def _read_inputs(layout: Layout, hyperparameters: Hyperparameters, *, threads: int, check_stop: CheckStop) -> Inputs:
    data = _manifest_path(layout).read_bytes()
    lines = [
        ManifestLine.parse(
            line,
            number=number,
            task=hyperparameters.task,
            kind=hyperparameters.kind,
            class_count=len(hyperparameters.classes),
        )
        for number, line in enumerate(data.decode("utf-8").splitlines(), start=1)
        if line.strip()
    ]
    by_split: dict[str, images.Frames] = {}
    skipped: list[SkippedFrame] = []
    for split in ("train", "test"):
        chosen = [line for line in lines if line.split == split]
        if split == "train" and not chosen:
            raise ContractError("the manifest has no train line: label more frames")
        by_split[split], missed = _read_split(chosen, layout, hyperparameters, threads=threads, check_stop=check_stop)
        skipped += missed
    if len(skipped) > MAX_UNREADABLE_FRACTION * len(lines):
        first = skipped[0]
        raise ContractError(
            f"{len(skipped)} of {len(lines)} frames are unusable (at most {MAX_UNREADABLE_FRACTION:.0%} may be); "
            f"first: frame {first['frame_id']} {first['reason']}"
        )
    return Inputs(
        train=by_split["train"],
        test=by_split["test"],
        skipped=skipped,
        manifest_digest=hashlib.sha256(data).hexdigest(),
        manifest_lines=len(lines),
    )


def _read_split(
    lines: list[ManifestLine],
    layout: Layout,
    hyperparameters: Hyperparameters,
    *,
    threads: int,
    check_stop: CheckStop,
    size: int | None = None,
) -> tuple[images.Frames, list[SkippedFrame]]:
    return images.read_frames(
        lines,
        folder=layout.channel(FRAMES_CHANNEL),
        frames_uri=hyperparameters.frames_uri,
        class_count=len(hyperparameters.classes),
        size=size or hyperparameters.input_size,
        threads=threads,
        check_stop=check_stop,
    )


def _start_network(layout: Layout, hyperparameters: Hyperparameters) -> tuple[torch.nn.Module, list[str], str]:
    """The network before its first step, which of its tensors came from the initial channel, and that file's digest."""
    network = networks.build(
        hyperparameters.architecture, outputs=len(hyperparameters.classes), input_size=hyperparameters.input_size
    )
    folder = layout.channel(INITIAL_CHANNEL)
    if not folder.is_dir():
        return network, [], ""
    data = networks.read_initial(folder)
    taken = networks.take_initial(network, networks.parse_tensors(data, source="the initial channel's file"))
    return network, taken, hashlib.sha256(data).hexdigest()


def _evaluate(probability_NC: NDArray[np.float32], inputs: Inputs, config: ModelConfig) -> Evaluation:
    return evaluation.evaluate(
        probability_NC,
        inputs.test.targets_NC,
        kind=config.kind,
        classes=config.classes,
        train_positives=[int(count) for count in inputs.train.targets_NC.sum(axis=0)],
    )


def _evaluate_baseline(
    layout: Layout,
    hyperparameters: Hyperparameters,
    inputs: Inputs,
    *,
    device: torch.device,
    threads: int,
    check_stop: CheckStop,
) -> BaselineEvaluation | None:
    """The previous model on the very frames that the new one was evaluated on."""
    folder = layout.channel(BASELINE_CHANNEL)
    if not folder.is_dir():
        return None
    saved = networks.read_model(folder)
    if saved.config.kind != hyperparameters.kind:
        raise ContractError(f"the baseline is a {saved.config.kind} model, the task is {hyperparameters.kind}")
    frames = inputs.test
    if saved.config.input_size != hyperparameters.input_size:
        frames, _ = _read_split(
            list(inputs.test.lines),
            layout,
            hyperparameters,
            threads=threads,
            check_stop=check_stop,
            size=saved.config.input_size,
        )
    network = networks.load(saved).to(device)
    known_NC = evaluation.probabilities(
        network, frames.images_u8, config=saved.config, device=device, check_stop=check_stop
    )
    probability_NC = np.zeros((len(known_NC), len(hyperparameters.classes)), dtype=np.float32)
    for position, name in enumerate(hyperparameters.classes):
        if name in saved.config.classes:
            probability_NC[:, position] = known_NC[:, saved.config.classes.index(name)]
    unknown = [name for name in hyperparameters.classes if name not in saved.config.classes]
    found = _evaluate(probability_NC, inputs, _model_config(hyperparameters, inputs))
    return BaselineEvaluation(**found, unknown_classes=unknown)


def _model_config(hyperparameters: Hyperparameters, inputs: Inputs) -> ModelConfig:
    return ModelConfig(
        task=hyperparameters.task,
        kind=hyperparameters.kind,
        classes=hyperparameters.classes,
        architecture=hyperparameters.architecture,
        input_size=hyperparameters.input_size,
        mean=networks.IMAGENET_MEAN,
        std=networks.IMAGENET_STD,
        manifest_digest=inputs.manifest_digest,
    )


def _fingerprint(hyperparameters: Hyperparameters, inputs: Inputs, *, initial_digest: str) -> str:
    """Digest of all that determines the weights: a checkpoint with another one is of another run."""
    decisive = {key: value for key, value in asdict(hyperparameters).items() if key not in NOT_DECISIVE}
    frames = [line.frame_id for line in inputs.train.lines]
    text = json.dumps([decisive, inputs.manifest_digest, frames, initial_digest], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _notices(
    layout: Layout,
    inputs: Inputs,
    test: Evaluation,
    baseline: BaselineEvaluation | None,
    *,
    initial: int,
    tensors: int,
) -> list[str]:
    notices = []
    if inputs.skipped:
        first = inputs.skipped[0]
        notices.append(
            f"{len(inputs.skipped)} of {inputs.manifest_lines} frames were left out; "
            f"first: frame {first['frame_id']} {first['reason']}"
        )
    if not inputs.test.lines:
        notices.append("there is no test line, so the model has no metric")
    elif test["metric"] is None:
        notices.append("no class has both a positive and a negative test frame, so the model has no metric")
    never = [name for name, figures in test["per_class"].items() if not figures["train_positives"]]
    if never:
        notices.append(f"classes that no train frame has: {', '.join(never)}")
    unmeasured = [name for name, figures in test["per_class"].items() if not figures["positives"]]
    if unmeasured and inputs.test.lines:
        notices.append(f"classes that no test frame has, left out of the metric: {', '.join(unmeasured)}")
    if layout.channel(INITIAL_CHANNEL).is_dir():
        notices.append(f"{initial} of {tensors} tensors were taken from the initial channel")
    if baseline and baseline["unknown_classes"]:
        notices.append(f"classes that the baseline does not know: {', '.join(baseline['unknown_classes'])}")
    return notices


def _write_outputs(
    layout: Layout,
    *,
    network: torch.nn.Module,
    config: ModelConfig,
    metrics: Metrics,
    inputs: Inputs,
    probability_NC: NDArray[np.float32],
) -> None:
    predictions = [
        json.dumps(
            {
                "frame-id": line.frame_id,
                "row": line.row,
                "classes": list(line.classes),
                "probability": [round(float(value), 6) for value in probability_C],
            }
        )
        for line, probability_C in zip(inputs.test.lines, probability_NC, strict=True)
    ]
    layout.model.mkdir(parents=True, exist_ok=True)
    layout.output_data.mkdir(parents=True, exist_ok=True)
    checkpoints.write_atomically(layout.model_weights, networks.render_tensors(network))
    checkpoints.write_atomically(layout.model_config, config.render().encode())
    checkpoints.write_atomically(layout.predictions, "".join(f"{line}\n" for line in predictions).encode())
    checkpoints.write_atomically(layout.metrics, (json.dumps(metrics, indent=2) + "\n").encode())


def _manifest_path(layout: Layout) -> Path:
    folder = layout.channel(DATASET_CHANNEL)
    found = sorted(folder.glob("*.jsonl")) if folder.is_dir() else []
    if len(found) != 1:
        raise ContractError(f"channel {DATASET_CHANNEL} must hold one .jsonl manifest; it holds {len(found)}")
    return found[0]


def _read_json(path: Path, *, what: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as exc:
        raise ContractError(f"{what} cannot be read: {exc}") from exc
    if not isinstance(value, dict):
        raise ContractError(f"{what} is not a JSON object")
    return value


def _check_single_host(layout: Layout) -> None:
    if layout.resource_config.exists():
        hosts = _read_json(layout.resource_config, what="resourceconfig.json").get("hosts", [])
        if len(hosts) > 1:
            raise ContractError(
                f"this job trains on one host; resourceconfig.json names {len(hosts)}: use InstanceCount 1"
            )


def _cpu_count(environment: Mapping[str, str]) -> int:
    named = environment.get("SM_NUM_CPUS", "")
    return int(named) if named.isdigit() and int(named) else len(os.sched_getaffinity(0))


def _versions() -> dict[str, str]:
    names = ("torch", "torchvision", "numpy", "pillow", "safetensors")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in names}}
