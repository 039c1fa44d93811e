"""An encoder's weights: where they lie on this disk, what open_clip must be told about them, and the id their content gives.

A name that open_clip knows is looked up in its cache and else downloaded by it; a folder is taken as it is; an S3 address is copied to
the home first. The small encoder that ships with MLPL is a folder like any other.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.database import Document
from infra.errors import BackendUnavailable, InvalidInput
from infra.objects import open_objects
from infra.platform import Platform

SMALL = "small"
SMALL_ENCODER = Path(__file__).parent / "small_encoder"
CONFIG_NAME = "open_clip_config.json"

_PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")
_REACH_TIMEOUT_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights that are on this disk, and what open_clip is told about them.

    Attributes:
        model_name: A built-in architecture, or `local-dir:` and a folder.
        options: Further arguments of `open_clip.create_model`.
    """

    encoder_id: str
    model_name: str
    options: dict[str, Any]


class CannotBeHad(Exception):
    """The configured weights are neither here nor within reach; the text says why."""


def name_of(platform: Platform) -> str:
    """The setting, with a folder written out in full, so that it means the same in every working directory."""
    folder = _folder_of(platform.settings.encoder)
    return platform.settings.encoder if folder is None else str(folder)


def configured(platform: Platform) -> Weights:
    """The weights that `MLPL_ENCODER` names, downloaded or copied here where that is needed.

    Raises:
        CannotBeHad: They are not here and cannot be reached.
        InvalidInput: The setting names no such model or folder.
    """
    setting = platform.settings.encoder
    if setting == SMALL:
        return small()
    if setting.startswith("s3://"):
        return from_folder(_fetched(platform, setting), name=setting.rstrip("/").rpartition("/")[2])
    folder = _folder_of(setting)
    return _named(setting) if folder is None else from_folder(folder, name=folder.name)


def small() -> Weights:
    """The weights of the encoder that ships with MLPL.

    Raises:
        BackendUnavailable: They are missing from this installation.
    """
    if not (SMALL_ENCODER / CONFIG_NAME).is_file():
        raise BackendUnavailable(
            "the small encoder is missing from this installation; set MLPL_ENCODER to a checkpoint directory",
            retry_after_s=60,
        )
    return from_folder(SMALL_ENCODER, name=SMALL)


def from_folder(folder: Path, *, name: str) -> Weights:
    """A checkpoint directory in open_clip's own format: the configuration and one weights file.

    Raises:
        InvalidInput: The folder is no such directory.
    """
    config = folder / CONFIG_NAME
    if not config.is_file():
        raise InvalidInput(f"MLPL_ENCODER: {folder} is no open_clip checkpoint directory, it has no {CONFIG_NAME}")
    files = sorted(path for pattern in ("*.safetensors", "*.bin", "*.pth") for path in folder.glob(pattern))
    if len(files) != 1:
        raise InvalidInput(f"MLPL_ENCODER: {folder} must hold exactly one weights file, it holds {len(files)}")
    return Weights(
        encoder_id=f"{_slug(name)}-{_digest(config, files[0])}", model_name=f"local-dir:{folder}", options={}
    )


def _folder_of(setting: str) -> Path | None:
    path = setting.removeprefix("local-dir:")
    if path != setting or path.startswith(("/", "./", "../", "~")) or Path(path, CONFIG_NAME).is_file():
        return Path(path).expanduser().absolute()
    return None


def _fetched(platform: Platform, uri: str) -> Path:
    """Copies a checkpoint from S3 to the home; files that are there in full already stay."""
    store = open_objects(platform.settings.model_copy(update={"object_store": uri}))
    folder = platform.settings.home / "encoders" / f"{_slug(uri)[-60:]}-{hashlib.sha256(uri.encode()).hexdigest()[:8]}"
    keys = [key for key in store.list() if "/" not in key]
    if CONFIG_NAME not in keys:
        raise InvalidInput(f"MLPL_ENCODER: {uri} holds no {CONFIG_NAME}")
    for key in keys:
        path = folder / key
        if not path.is_file() or path.stat().st_size != store.size(key):
            store.get_file(key, path)
    return folder


def _named(setting: str) -> Weights:
    """An architecture and weights that open_clip knows by name, from its cache or downloaded by it."""
    import open_clip

    architecture, _, tag = setting.partition("/")
    source = open_clip.get_pretrained_cfg(architecture, tag)
    if not source:
        names = [f"{model}/{weights}" for model, weights in open_clip.list_pretrained()]
        near = difflib.get_close_matches(setting, names, n=3, cutoff=0.3)
        raise InvalidInput(
            f"MLPL_ENCODER: open_clip knows no {setting!r}; "
            + (f"did you mean {', '.join(near)}?" if near else "give architecture/weights")
        )
    checkpoint = next(_cached(source), None) or _downloaded(source)
    return Weights(
        encoder_id=f"{_slug(setting)}-{_digest(checkpoint)}",
        model_name=architecture,
        options={
            "pretrained": str(checkpoint),
            "force_quick_gelu": bool(source.get("quick_gelu", False)),
            "force_preprocess_cfg": {key: source[key] for key in _PREPROCESSING if source.get(key) is not None},
        },
    )


def _cached(source: Document) -> Iterator[Path]:
    """Where the weights lie if they were downloaded before; open_clip itself would ask the network first."""
    import huggingface_hub
    from open_clip import constants

    repository, name = os.path.split(source.get("hf_hub", ""))
    if repository:
        name = name or constants.HF_WEIGHTS_NAME
        safe = constants.HF_SAFE_WEIGHTS_NAME if name == constants.HF_WEIGHTS_NAME else f"{Path(name).stem}.safetensors"
        for candidate in (safe, name):
            found = huggingface_hub.try_to_load_from_cache(repository, candidate)
            if isinstance(found, str):
                yield Path(found)
    elif (downloaded := Path("~/.cache/clip").expanduser() / source["url"].rpartition("/")[2]).is_file():
        yield downloaded


def _downloaded(source: Document) -> Path:
    import httpx
    import huggingface_hub
    import open_clip

    address = huggingface_hub.constants.ENDPOINT if source.get("hf_hub") else source["url"]
    try:
        if huggingface_hub.constants.HF_HUB_OFFLINE:
            raise CannotBeHad("downloads are switched off")
        # The downloaders wait long and try often; where there is no way out at all, this tells in seconds.
        httpx.head(address, timeout=_REACH_TIMEOUT_S)
    except (httpx.HTTPError, OSError) as exc:
        raise CannotBeHad("no network to download it") from exc
    try:
        return Path(open_clip.download_pretrained(source))
    except Exception as exc:
        # Networks, proxies and hubs fail in more ways than can be listed; each means that the weights are not here.
        raise CannotBeHad(f"its download failed: {str(exc).partition(chr(10))[0][:200]}") from exc


def _digest(*files: Path) -> str:
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:12]


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("_") or "encoder"
