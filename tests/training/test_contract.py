from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.contract import METRIC_DEFINITIONS, ContractError, Hyperparameters, ManifestLine, ModelConfig

names = st.text(min_size=1, max_size=12)


@given(
    classes=st.lists(names, min_size=2, max_size=6, unique=True),
    kind=st.sampled_from(["classification", "multilabel"]),
    learning_rate=st.floats(1e-6, 10),
    seed=st.integers(0, 2**63 - 1),
    task=names,
)
def test_hyperparameters_survive_as_strings(
    classes: list[str], kind: Any, learning_rate: float, seed: int, task: str
) -> None:
    given = Hyperparameters(
        task=task, kind=kind, classes=tuple(classes), frames_uri="s3://b/frames", learning_rate=learning_rate, seed=seed
    )
    strings = given.to_strings()
    assert all(isinstance(value, str) for value in strings.values())
    assert Hyperparameters.parse(json.loads(json.dumps(strings))) == given


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learnin_rate": "1"}, "unknown hyperparameter 'learnin_rate'"),
        ({"epochs": "many"}, "'epochs' is 'many', which cannot be read"),
        ({"epochs": "0"}, "'epochs' is 0; it must be 1 or more"),
        ({"batch_size": "1"}, "batch normalisation needs two"),
        ({"learning_rate": "nan"}, "'learning_rate' is nan"),
        ({"kind": "detection"}, "must be one of classification, multilabel"),
        ({"classes": "car"}, "'classes' is 'car', which cannot be read"),
        ({"classes": "[1]"}, "not a JSON list of strings"),
        ({"classes": '["a", "a"]'}, "without repeats"),
        ({"device": "tpu"}, "auto, cpu or cuda"),
    ],
)
def test_a_wrong_hyperparameter_is_named(changes: dict[str, str], message: str) -> None:
    strings = {"task": "t", "kind": "multilabel", "classes": '["a"]', "frames_uri": "s3://b"} | changes
    with pytest.raises(ContractError, match=re.escape(message)):
        Hyperparameters.parse(strings)


def test_a_missing_hyperparameter_is_named_and_sagemakers_own_are_passed_over() -> None:
    with pytest.raises(ContractError, match="'frames_uri' is missing"):
        Hyperparameters.parse({"task": "t", "kind": "multilabel", "classes": '["a"]', "sagemaker_region": "eu"})


def line(**changes: Any) -> str:
    record = {
        "source-ref": "s3://b/frames/x.jpg",
        "t": [1, 0],
        "t-metadata": {"class-map": {"0": "a", "1": "b"}},
        "frame-id": "f",
        "frame-digest": "d",
        "label-id": "l",
        "label-digest": "e",
        "row": 7,
        "split": "train",
    }
    return json.dumps({key: value for key, value in (record | changes).items() if value is not None})


def test_manifest_line() -> None:
    parsed = ManifestLine.parse(line(), number=1, task="t", kind="multilabel", class_count=2)
    assert (parsed.frame_id, parsed.row, parsed.split, parsed.classes) == ("f", 7, "train", (0, 1))
    single = ManifestLine.parse(line(t=1), number=1, task="t", kind="classification", class_count=2)
    assert single.classes == (1,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line 3 is not JSON"),
        ("[]", "line 3 is not a JSON object"),
        (line(t=None), "no attribute 't'"),
        (line(row=None), "line 3 has no 'row'"),
        (line(split="validation"), "split 'validation'"),
        (line(t=[2]), "class index 2; the task has 2 classes"),
        (line(t=1), "a multilabel label is a list of class indices"),
        (line(t=[True]), "a multilabel label is a list of class indices"),
        (line(row="x"), "line 3 cannot be read"),
    ],
)
def test_a_wrong_manifest_line_is_named(text: str, message: str) -> None:
    with pytest.raises(ContractError, match=re.escape(message)):
        ManifestLine.parse(text, number=3, task="t", kind="multilabel", class_count=2)


def test_model_config_round_trip() -> None:
    config = ModelConfig(
        task="t",
        kind="multilabel",
        classes=("a", "b"),
        architecture="resnet18",
        input_size=64,
        mean=(0.1, 0.2, 0.3),
        std=(1.0, 1.0, 1.0),
        manifest_digest="d",
    )
    assert ModelConfig.parse(config.render()) == config
    with pytest.raises(ContractError, match="format_version 9"):
        ModelConfig.parse(config.render().replace('"format_version": 1', '"format_version": 9'))
    with pytest.raises(ContractError, match=r"model\.json cannot be read"):
        ModelConfig.parse("{}")


def test_metric_definitions_find_the_figures_in_log_lines() -> None:
    from training.job.__main__ import log_line

    progress = log_line("progress", step=1, loss=1.5e-05, learning_rate=0.1, images_per_s=81.2)
    evaluated = log_line("evaluated", metric_name="macro_accuracy", metric=0.75, baseline=0.5)
    found = {d["Name"]: re.search(d["Regex"], progress) or re.search(d["Regex"], evaluated) for d in METRIC_DEFINITIONS}
    assert {name: match and float(match.group(1)) for name, match in found.items()} == {
        "train:loss": 1.5e-05,
        "train:images_per_s": 81.2,
        "test:metric": 0.75,
    }


def test_the_contract_needs_the_standard_library_alone() -> None:
    code = "import sys, training.contract, training.executors.supervisor; print([m for m in ('torch', 'numpy', 'pydantic') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
