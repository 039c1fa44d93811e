"""Networks: torchvision classifiers by name, their initial tensors, and models read back from what a job wrote."""

from __future__ import annotations

import difflib
import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from training.contract import ContractError, ModelConfig

if TYPE_CHECKING:
    import torch

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Per channel over ImageNet's training images, as all of torchvision's weights expect."""


@dataclass(frozen=True, kw_only=True)
class SavedModel:
    """A model as files: its description and the bytes of `model.safetensors`."""

    config: ModelConfig
    weights: bytes


def build(architecture: str, *, outputs: int, input_size: int) -> torch.nn.Module:
    """Makes a torchvision classification network with random weights and a last layer of `outputs` logits.

    Raises:
        ContractError: torchvision has no such classifier, or it cannot take images of this size.
    """
    import torch
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if architecture not in known:
        near = difflib.get_close_matches(architecture, known, n=3) or ["mobilenet_v3_small", "resnet18"]
        raise ContractError(f"torchvision has no classifier {architecture!r}; did you mean {', '.join(near)}?")
    options: dict[str, object] = {}
    if architecture in ("googlenet", "inception_v3"):
        # Their second outputs in training would need a loss of their own.
        options = {"aux_logits": False, "init_weights": False}
    elif architecture.startswith("vit_"):
        options = {"image_size": input_size}
    elif architecture == "maxvit_t":
        options = {"input_size": (input_size, input_size)}
    try:
        network: torch.nn.Module = torchvision.models.get_model(
            architecture, weights=None, num_classes=outputs, **options
        )
        with torch.inference_mode():
            network.eval()(torch.zeros((1, 3, input_size, input_size)))
    except (RuntimeError, ValueError, AssertionError) as exc:
        reason = str(exc).partition("\n")[0]
        raise ContractError(f"{architecture} cannot take images of {input_size} pixels: {reason}") from exc
    return network


def head_of(network: torch.nn.Module) -> torch.nn.Module:
    """The layer that makes the logits: the last linear layer, or the last convolution where there is none
    (SqueezeNet).
    """
    import torch

    modules = list(network.modules())
    linear = [module for module in modules if isinstance(module, torch.nn.Linear)]
    return linear[-1] if linear else [module for module in modules if isinstance(module, torch.nn.Conv2d)][-1]


def take_initial(network: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Copies every tensor whose name and shape fit into the network.

    Returns:
        Names of the tensors taken.
    """
    import torch

    taken = []
    with torch.no_grad():
        for name, own in network.state_dict().items():
            given = tensors.get(name)
            if given is not None and given.shape == own.shape:
                own.copy_(given)
                taken.append(name)
    return taken


def load(saved: SavedModel) -> torch.nn.Module:
    """The network of a saved model, ready to predict, on the CPU.

    Raises:
        ContractError: Its tensors do not fit its architecture.
    """
    import torch

    config = saved.config
    network = build(config.architecture, outputs=len(config.classes), input_size=config.input_size)
    tensors = parse_tensors(saved.weights, source="model.safetensors")
    try:
        network.load_state_dict(tensors)
    except RuntimeError as exc:
        raise ContractError(
            f"model.safetensors does not fit {config.architecture}: {str(exc).splitlines()[-1].strip()}"
        ) from exc
    return network.eval().to(memory_format=torch.channels_last)


def parse_tensors(data: bytes, *, source: str) -> dict[str, torch.Tensor]:
    """Tensors by name from the bytes of a safetensors file.

    Raises:
        ContractError: The bytes are not such a file.
    """
    import safetensors.torch

    try:
        return dict(safetensors.torch.load(data))
    except (safetensors.SafetensorError, ValueError, KeyError) as exc:
        raise ContractError(f"{source} is not a safetensors file: {exc}") from exc


def read_model(folder: Path) -> SavedModel:
    """Reads a model from a channel: its two files, or the `model.tar.gz` of the job that made it.

    Raises:
        ContractError: Neither is there, or it cannot be read.
    """
    archive = folder / "model.tar.gz"
    if archive.is_file():
        return unpack_model(archive.read_bytes())
    try:
        config, weights = (folder / "model.json").read_bytes(), (folder / "model.safetensors").read_bytes()
    except OSError as exc:
        raise ContractError(
            f"channel {folder.name} holds neither model.tar.gz nor model.json and model.safetensors"
        ) from exc
    return SavedModel(config=ModelConfig.parse(config), weights=weights)


def unpack_model(archive: bytes) -> SavedModel:
    """Reads a model from the bytes of its `model.tar.gz`, in memory.

    Raises:
        ContractError: It is not such an archive.
    """
    files = _read_archive(archive, names=("model.json", "model.safetensors"))
    if len(files) < 2:
        raise ContractError("model.tar.gz lacks model.json or model.safetensors")
    return SavedModel(config=ModelConfig.parse(files["model.json"]), weights=files["model.safetensors"])


def read_initial(folder: Path) -> bytes:
    """The safetensors bytes of the initial channel: its one `.safetensors` file, or the one in its `model.tar.gz`.

    Raises:
        ContractError: There is no such file, or there are several.
    """
    archive = folder / "model.tar.gz"
    if archive.is_file():
        files = _read_archive(archive.read_bytes(), names=("model.safetensors",))
        if files:
            return files["model.safetensors"]
    found = sorted(folder.glob("*.safetensors"))
    if len(found) != 1:
        raise ContractError(
            f"channel {folder.name} must hold one .safetensors file or a model.tar.gz; it holds {len(found)}"
        )
    return found[0].read_bytes()


def render_tensors(network: torch.nn.Module) -> bytes:
    """The network's tensors as a safetensors file; the same bytes for the same tensors."""
    import safetensors.torch

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(network.state_dict().items())}
    data: bytes = safetensors.torch.save(tensors)
    return data


def _read_archive(archive: bytes, *, names: tuple[str, ...]) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
            for member in tar:
                name = member.name.removeprefix("./")
                content = tar.extractfile(member) if member.isfile() and name in names else None
                if content is not None:
                    files[name] = content.read()
    except (tarfile.TarError, OSError, EOFError) as exc:
        raise ContractError(f"model.tar.gz cannot be read: {exc}") from exc
    return files
