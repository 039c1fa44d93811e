from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
import torch

from training.contract import ContractError, ModelConfig
from training.job import networks


def config(architecture: str = "mobilenet_v3_small") -> ModelConfig:
    return ModelConfig(
        task="t",
        kind="multilabel",
        classes=("a", "b", "c"),
        architecture=architecture,
        input_size=32,
        mean=networks.IMAGENET_MEAN,
        std=networks.IMAGENET_STD,
        manifest_digest="d",
    )


@pytest.mark.parametrize("architecture", ["mobilenet_v3_small", "resnet18", "squeezenet1_1", "efficientnet_b0"])
def test_the_head_has_one_output_per_class(architecture: str) -> None:
    network = networks.build(architecture, outputs=3, input_size=64)
    assert network(torch.zeros((2, 3, 64, 64))).shape == (2, 3)
    head = networks.head_of(network)
    assert isinstance(head, torch.nn.Linear | torch.nn.Conv2d)
    assert head.weight.shape[0] == 3


@pytest.mark.parametrize(
    ("architecture", "size", "message"),
    [
        ("mobilenet_v3", 64, "did you mean .*mobilenet_v3_small"),
        ("fcn_resnet50", 64, "torchvision has no classifier 'fcn_resnet50'"),
        ("alexnet", 32, "alexnet cannot take images of 32 pixels"),
    ],
)
def test_what_cannot_be_built_is_said_in_one_line(architecture: str, size: int, message: str) -> None:
    with pytest.raises(ContractError, match=message) as caught:
        networks.build(architecture, outputs=3, input_size=size)
    assert "\n" not in str(caught.value)


def test_initial_tensors_are_taken_where_name_and_shape_fit() -> None:
    torch.manual_seed(0)
    given = networks.build("mobilenet_v3_small", outputs=7, input_size=32).state_dict()
    network = networks.build("mobilenet_v3_small", outputs=3, input_size=32)
    taken = networks.take_initial(network, given | {"nobody.knows": torch.zeros(1)})
    assert set(network.state_dict()) - set(taken) == {"classifier.3.weight", "classifier.3.bias"}
    assert torch.equal(network.state_dict()["features.0.0.weight"], given["features.0.0.weight"])


def test_a_model_is_read_back_from_folder_and_archive(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = networks.build("mobilenet_v3_small", outputs=3, input_size=32)
    weights = networks.render_tensors(network)
    assert weights == networks.render_tensors(network)
    files = {"model.json": config().render().encode(), "model.safetensors": weights}
    folder, packed = tmp_path / "baseline", tmp_path / "packed"
    for path in (folder, packed):
        path.mkdir()
    with tarfile.open(packed / "model.tar.gz", "w:gz") as tar:
        for name, data in files.items():
            (folder / name).write_bytes(data)
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    assert networks.read_model(folder) == networks.read_model(packed)
    loaded = networks.load(networks.read_model(packed))
    assert not loaded.training
    assert networks.render_tensors(loaded) == weights
    assert networks.read_initial(packed) == weights == networks.read_initial(folder)


def test_damaged_models_are_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="holds neither"):
        networks.read_model(tmp_path)
    with pytest.raises(ContractError, match=r"must hold one \.safetensors file"):
        networks.read_initial(tmp_path)
    (tmp_path / "model.tar.gz").write_bytes(b"no archive")
    with pytest.raises(ContractError, match="cannot be read"):
        networks.read_model(tmp_path)
    with pytest.raises(ContractError, match="not a safetensors file"):
        networks.parse_tensors(b"none", source="x")
    other = networks.render_tensors(networks.build("resnet18", outputs=3, input_size=32))
    with pytest.raises(ContractError, match="does not fit mobilenet_v3_small"):
        networks.load(networks.SavedModel(config=config(), weights=other))
    assert json.loads(config().render())["classes"] == ["a", "b", "c"]
