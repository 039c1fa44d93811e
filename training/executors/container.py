"""The world a SageMaker training container finds, made in a folder: configuration files, channels, variables.

Sources: SageMaker developer guide, "How Amazon SageMaker AI provides training information"; the variables are those of
sagemaker-training-toolkit, README, "Environment variables".
"""

from __future__ import annotations

import gzip
import json
import tarfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from infra.errors import InvalidInput
from infra.objects import ObjectStore
from training.contract import DATASET_CHANNEL, FRAMES_CHANNEL, Layout
from training.executors.protocol import JobSpec

HOST = "algo-1"
DOWNLOADS_AT_A_TIME = 16


def write_input(layout: Layout, spec: JobSpec, *, objects: ObjectStore) -> None:
    """Writes `input/config` and fills the channels. Files that are there from an earlier try are not fetched again."""
    for folder in (
        layout.hyperparameters.parent,
        layout.input_data,
        layout.model,
        layout.output_data,
        layout.checkpoints,
    ):
        folder.mkdir(parents=True, exist_ok=True)
    _write_json(layout.hyperparameters, dict(spec.hyperparameters))
    _write_json(layout.input_data_config, input_data_config(spec))
    _write_json(layout.resource_config, resource_config())
    for name, key in spec.channels.items():
        if name != FRAMES_CHANNEL:
            _fill_channel(layout.channel(name), key.rstrip("/"), objects=objects)
    if FRAMES_CHANNEL in spec.channels:
        _fill_frames(layout, spec, objects=objects)


def input_data_config(spec: JobSpec) -> dict[str, dict[str, str]]:
    """Content of `inputdataconfig.json`."""
    mode = {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated", "RecordWrapperType": "None"}
    return {name: dict(mode) for name in spec.channels}


def resource_config() -> dict[str, str | list[str]]:
    """Content of `resourceconfig.json`: one host."""
    return {"current_host": HOST, "hosts": [HOST], "network_interface_name": "lo"}


def variables(layout: Layout, spec: JobSpec, *, cpus: int, gpus: int) -> dict[str, str]:
    """What SageMaker and its training toolkit set in the environment.

    Args:
        cpus: Cores the job may use.
        gpus: Devices it may use.
    """
    channels = sorted(spec.channels)
    hyperparameters = dict(spec.hyperparameters)
    return {
        "TRAINING_JOB_NAME": spec.job_name,
        "SM_HOSTS": json.dumps([HOST]),
        "SM_CURRENT_HOST": HOST,
        "SM_NETWORK_INTERFACE_NAME": "lo",
        "SM_NUM_CPUS": str(cpus),
        "SM_NUM_GPUS": str(gpus),
        "SM_INPUT_DIR": str(layout.base / "input"),
        "SM_INPUT_CONFIG_DIR": str(layout.hyperparameters.parent),
        "SM_OUTPUT_DIR": str(layout.output),
        "SM_OUTPUT_DATA_DIR": str(layout.output_data),
        "SM_OUTPUT_INTERMEDIATE_DIR": str(layout.output / "intermediate"),
        "SM_MODEL_DIR": str(layout.model),
        "SM_CHANNELS": json.dumps(channels),
        "SM_HPS": json.dumps(hyperparameters, sort_keys=True),
        "SM_USER_ARGS": json.dumps([]),
        "SM_LOG_LEVEL": "20",
        "SM_RESOURCE_CONFIG": json.dumps(resource_config()),
        "SM_INPUT_DATA_CONFIG": json.dumps(input_data_config(spec), sort_keys=True),
        **{f"SM_CHANNEL_{name.upper()}": str(layout.channel(name)) for name in channels},
        **{f"SM_HP_{name.upper()}": value for name, value in hyperparameters.items()},
    }


def pack(folder: Path, archive: Path) -> None:
    """Packs a folder's files as SageMaker packs `model/` and `output/data/`; the same files give the same bytes."""
    with (
        archive.open("wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=1, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
            member = tarfile.TarInfo(path.relative_to(folder).as_posix())
            member.size, member.mode = path.stat().st_size, 0o644
            with path.open("rb") as file:
                tar.addfile(member, file)


def _fill_channel(folder: Path, key: str, *, objects: ObjectStore) -> None:
    """One object, or all objects under a prefix."""
    if objects.exists(key):
        _fetch(objects, key, folder / PurePosixPath(key).name)
        return
    found = sorted(objects.list(key))
    if not found:
        raise InvalidInput(f"channel {folder.name}: there is no object {key} and none under it", key=key)
    for below in found:
        _fetch(objects, below, folder / below.removeprefix(f"{key}/"))


def _fill_frames(layout: Layout, spec: JobSpec, *, objects: ObjectStore) -> None:
    """A link to the object store's own folder where it is local; else the frames that the manifest names."""
    folder = layout.channel(FRAMES_CHANNEL)
    local = objects.local_path(spec.channels[FRAMES_CHANNEL].rstrip("/"))
    if local is not None:
        if not folder.is_symlink():
            folder.symlink_to(local, target_is_directory=True)
        return
    prefix = spec.hyperparameters.get("frames_uri", "").rstrip("/") + "/"
    uris = [uri for uri in _source_refs(layout.channel(DATASET_CHANNEL)) if uri.startswith(prefix)]
    with ThreadPoolExecutor(max_workers=DOWNLOADS_AT_A_TIME) as pool:
        fetched = pool.map(lambda uri: _fetch(objects, objects.key_of(uri), folder / uri.removeprefix(prefix)), uris)
        for _ in fetched:
            pass


def _source_refs(folder: Path) -> list[str]:
    """What the manifest names; a line that cannot be read is left for the job to report."""
    uris = []
    for path in folder.glob("*.jsonl"):
        for line in path.read_text().splitlines():
            try:
                uris.append(str(json.loads(line)["source-ref"]))
            except (ValueError, KeyError, TypeError):
                continue
    return uris


def _fetch(objects: ObjectStore, key: str, path: Path) -> None:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        objects.get_file(key, path)


def _write_json(path: Path, value: Mapping[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
