"""Encoders: images and texts as unit vectors in one space, through open_clip.

Which encoder a fleet uses is decided once for each value of `MLPL_ENCODER` and recorded, so that all processes agree and a fleet does not
end up with vectors of two encoders when one machine has a network and another has not. The configured weights are taken where they can
be had; where not, the small encoder that ships with MLPL stands in, and says so.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pymongo import IndexModel

from infra.database import Document, retrying
from infra.errors import BackendUnavailable, Conflict, InvalidInput
from infra.logs import get_logger
from infra.objects import open_objects
from infra.platform import Platform
from selection.devices import torch_device

if TYPE_CHECKING:
    import torch
    from PIL import Image

INDEXES: dict[str, list[IndexModel]] = {"encoders": []}
SMALL = "small"
SMALL_ENCODER = Path(__file__).parent / "small_encoder"
CONFIG_NAME = "open_clip_config.json"

_PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")
_REACH_TIMEOUT_S = 5.0
_BATCH = {"cpu": 32, "cuda": 256}
_log = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class EncoderChoice:
    """Which encoder stands behind a value of `MLPL_ENCODER`, for every process of this database.

    Attributes:
        configured: The setting's value.
        encoder_id: Name and a digest of the weights: other weights are another encoder.
        kind: `configured`, or `small` for the one that ships with MLPL.
        notice: One line for people when the small encoder is used.
    """

    configured: str
    encoder_id: str
    kind: Literal["configured", "small"]
    notice: str | None
    chosen_at: datetime


@dataclass(frozen=True, kw_only=True)
class _Weights:
    """Weights that are on this disk, and what open_clip is told about them.

    Attributes:
        model_name: A built-in architecture, or `local-dir:` and a folder.
        options: Further arguments of `open_clip.create_model`.
    """

    encoder_id: str
    model_name: str
    options: dict[str, Any]


class _CannotBeHad(Exception):
    """The configured weights are neither here nor within reach; the text says why."""


class Encoder:
    """A loaded encoder. Safe to share between threads."""

    def __init__(self, weights: _Weights, *, device: str, notice: str | None = None) -> None:
        """Loads the model; made by `load_encoder`."""
        import open_clip
        import torch
        from open_clip.transform import PreprocessCfg, image_transform_v2

        self.encoder_id = weights.encoder_id
        self.notice = notice
        self._device = torch_device(device)
        model = open_clip.create_model(weights.model_name, require_pretrained=True, **weights.options)
        self._model: Any = model.eval().to(self._device, memory_format=torch.channels_last)
        self._batch = _BATCH[self._device.type]
        self._tokenize: Callable[[list[str]], torch.Tensor] = open_clip.get_tokenizer(weights.model_name)
        settings = open_clip.get_model_preprocess_cfg(model)
        self._preprocess: Any = image_transform_v2(PreprocessCfg(**settings), is_train=False)
        self._workers = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1), thread_name_prefix="preprocess")
        self.dimension = int(self.encode_texts(["a road"]).shape[1])

    def prepare(self, image: Image.Image) -> torch.Tensor:
        """What the model takes of one image, shape (3, H, W): resized and cropped its way. Meant for threads beside the model."""
        pixels: torch.Tensor = self._preprocess(image.convert("RGB"))
        return pixels

    def encode_prepared(self, prepared: Sequence[torch.Tensor]) -> NDArray[np.float32]:
        """Vectors of images that went through `prepare`, unit length, shape (N, D).

        Raises:
            BackendUnavailable: The GPU failed, or has no memory even for one image.
        """
        import torch

        def encode(batch: Sequence[torch.Tensor]) -> torch.Tensor:
            pixels = torch.stack(list(batch))
            if self._device.type == "cuda":
                pixels = pixels.pin_memory()
            pixels = pixels.to(self._device, non_blocking=True).to(memory_format=torch.channels_last)
            features: torch.Tensor = self._model.encode_image(pixels)
            return features

        return self._encode(prepared, encode)

    def encode_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Vectors of images, unit length, shape (N, D).

        Images are given as the fleet stores them, as previews; the model's own resizing and cropping follow.
        """
        return self.encode_prepared(list(self._workers.map(self.prepare, images)))

    @property
    def batch_frames(self) -> int:
        """How many images the model takes at once; halved when its memory does not suffice."""
        return self._batch

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of texts, unit length, shape (N, D)."""

        def encode(batch: Sequence[str]) -> torch.Tensor:
            features: torch.Tensor = self._model.encode_text(self._tokenize(list(batch)).to(self._device))
            return features

        return self._encode(texts, encode)

    def _encode(self, items: Sequence[Any], encode: Callable[[Any], torch.Tensor]) -> NDArray[np.float32]:
        import torch

        if not items:
            return np.empty((0, self.dimension), dtype=np.float32)
        parts: list[NDArray[np.float32]] = []
        done = 0
        precision = torch.autocast("cuda", dtype=_half_precision(self._device), enabled=self._device.type == "cuda")
        with torch.inference_mode(), precision:
            while done < len(items):
                size = self._batch
                try:
                    features = encode(items[done : done + size]).float()
                    parts.append(torch.nn.functional.normalize(features, dim=-1).cpu().numpy())
                except torch.OutOfMemoryError as exc:
                    self._shrink(min(size, len(items) - done), exc)
                    continue
                except RuntimeError as exc:
                    raise _as_trouble(exc) from exc
                done += size
        return np.concatenate(parts)

    def _shrink(self, size: int, exc: Exception) -> None:
        """Halves the batch for good: what did not fit once will not fit the next time."""
        import torch

        if size <= 1:
            raise BackendUnavailable(
                f"{self._device} has no memory for even one image; free some, or set MLPL_DEVICE=cpu", retry_after_s=60
            ) from exc
        self._batch = max(1, size // 2)
        _log.warning("encoder_batch_halved", device=str(self._device), batch=self._batch)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def _half_precision(device: torch.device) -> torch.dtype:
    import torch

    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float16


def _as_trouble(exc: RuntimeError) -> Exception:
    """A GPU that was lost takes its process's context with it, so the process has to be started again; what is committed stays."""
    text = str(exc)
    if "CUDA error" not in text and "CUDNN" not in text.upper() and "NCCL" not in text:
        return exc
    return BackendUnavailable(
        f"the GPU failed ({text.partition(chr(10))[0][:160]}); frames embedded so far are kept: "
        "start this process again, with MLPL_DEVICE=cpu if the GPU is gone",
        retry_after_s=60,
    )


def chosen(platform: Platform) -> EncoderChoice | None:
    """The encoder of this fleet, or None when none was loaded yet. Needs no model and no import of one."""
    return choice_of(serving(platform))


def serving(platform: Platform) -> Platform:
    """The same stores, with the encoder set that the fleet was switched to, if it was."""
    found = platform.database.encoders.find_one({"_id": roles_id(platform)}, {"serving": 1})
    return naming(platform, str(found["serving"])) if found and "serving" in found else platform


def naming(platform: Platform, name: str) -> Platform:
    """The same stores, with another value of `MLPL_ENCODER`."""
    settings = platform.settings.model_copy(update={"encoder": name})
    return Platform(settings=settings, database=platform.database, objects=platform.objects)


def roles_id(platform: Platform) -> str:
    """Id of the document that says which encoder serves and which one is wanted."""
    # A changed MLPL_ENCODER is a decision of its own, and no earlier switch overrules it.
    return f"roles of {_configured(platform)}"


def choice_of(platform: Platform) -> EncoderChoice | None:
    """What was decided for this value of `MLPL_ENCODER`, whatever the fleet was switched to."""
    found = platform.database.encoders.find_one({"_id": _configured(platform)}, {"_id": 0})
    return EncoderChoice(**found) if found else None


def current_encoder_id(platform: Platform) -> str | None:
    """The id of the fleet's encoder, or None when none was loaded yet."""
    choice = chosen(platform)
    return choice.encoder_id if choice else None


def forget_choice(platform: Platform) -> None:
    """Lets the next `load_encoder` decide anew, for example when weights have become available. The fleet is then embedded again."""
    platform.database.encoders.delete_one({"_id": _configured(serving(platform))})


def load_encoder(platform: Platform) -> Encoder:
    """Loads the encoder that serves this fleet; see `load_named`."""
    return load_named(serving(platform))


def load_named(platform: Platform) -> Encoder:
    """Loads the encoder that `MLPL_ENCODER` names, whatever the fleet was switched to, and decides which that is when it is the first time.

    Raises:
        InvalidInput: `MLPL_ENCODER` names no such model or folder.
        BackendUnavailable: The fleet's encoder was decided on and its weights cannot be had on this machine.
        Conflict: The weights are not those that the fleet was embedded with.
    """
    choice = choice_of(platform)
    if choice is None or (choice.kind == "small" and choice.encoder_id != _small().encoder_id):
        # A later MLPL ships a better small encoder, and the old one is gone with the old MLPL.
        choice = _decide(platform, replaces=choice)
    if choice.kind == "small":
        weights = _small()
    else:
        try:
            weights = _configured_weights(platform)
        except _CannotBeHad as exc:
            raise BackendUnavailable(
                f"this fleet uses encoder {choice.encoder_id}, whose weights cannot be had here: {exc}",
                retry_after_s=60,
            ) from exc
    if weights.encoder_id != choice.encoder_id:
        raise Conflict(
            f"{choice.configured} now means encoder {weights.encoder_id}, but this fleet was embedded with {choice.encoder_id}; "
            "give changed weights a name of their own in MLPL_ENCODER"
        )
    return Encoder(weights, device=platform.settings.device, notice=choice.notice)


def _decide(platform: Platform, *, replaces: EncoderChoice | None) -> EncoderChoice:
    """Settles which encoder the setting means; of several processes that do so at once, the first one's answer counts."""
    configured, notice = _configured(platform), None
    kind: Literal["configured", "small"] = "configured"
    try:
        weights = _configured_weights(platform)
    except _CannotBeHad as exc:
        weights, kind = _small(), "small"
        notice = (
            f"encoder {configured} cannot be had here ({exc}): using the small encoder that ships with MLPL, "
            "which knows driving scenes only; see README"
        )
    if configured == SMALL:
        kind, notice = (
            "small",
            "using the small encoder that ships with MLPL, which knows driving scenes only; see README",
        )
    fresh = EncoderChoice(
        configured=configured,
        encoder_id=weights.encoder_id,
        kind=kind,
        notice=notice,
        chosen_at=datetime.now(UTC),
    )
    collection = platform.database.encoders
    if replaces is not None:
        retrying(lambda: collection.delete_one({"_id": configured, "encoder_id": replaces.encoder_id}))
    retrying(lambda: collection.update_one({"_id": configured}, {"$setOnInsert": asdict(fresh)}, upsert=True))
    settled = choice_of(platform)
    _log.info(
        "encoder_chosen", configured=configured, encoder_id=(settled or fresh).encoder_id, kind=(settled or fresh).kind
    )
    return settled or fresh


def _configured(platform: Platform) -> str:
    """The setting, with a folder written out in full, so that it means the same in every working directory."""
    folder = _folder_of(platform.settings.encoder)
    return platform.settings.encoder if folder is None else str(folder)


def _folder_of(setting: str) -> Path | None:
    path = setting.removeprefix("local-dir:")
    if path != setting or path.startswith(("/", "./", "../", "~")) or Path(path, CONFIG_NAME).is_file():
        return Path(path).expanduser().absolute()
    return None


def _configured_weights(platform: Platform) -> _Weights:
    setting = platform.settings.encoder
    if setting == SMALL:
        return _small()
    if setting.startswith("s3://"):
        return _from_folder(_fetched(platform, setting), name=setting.rstrip("/").rpartition("/")[2])
    folder = _folder_of(setting)
    return _named(setting) if folder is None else _from_folder(folder, name=folder.name)


def _small() -> _Weights:
    if not (SMALL_ENCODER / CONFIG_NAME).is_file():
        raise BackendUnavailable(
            "the small encoder is missing from this installation; set MLPL_ENCODER to a checkpoint directory",
            retry_after_s=60,
        )
    return _from_folder(SMALL_ENCODER, name=SMALL)


def _from_folder(folder: Path, *, name: str) -> _Weights:
    """A checkpoint directory in open_clip's own format: the configuration and one weights file."""
    config = folder / CONFIG_NAME
    if not config.is_file():
        raise InvalidInput(f"MLPL_ENCODER: {folder} is no open_clip checkpoint directory, it has no {CONFIG_NAME}")
    files = sorted(path for pattern in ("*.safetensors", "*.bin", "*.pth") for path in folder.glob(pattern))
    if len(files) != 1:
        raise InvalidInput(f"MLPL_ENCODER: {folder} must hold exactly one weights file, it holds {len(files)}")
    return _Weights(
        encoder_id=f"{_slug(name)}-{_digest(config, files[0])}", model_name=f"local-dir:{folder}", options={}
    )


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


def _named(setting: str) -> _Weights:
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
    return _Weights(
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
            raise _CannotBeHad("downloads are switched off")
        # The downloaders wait long and try often; where there is no way out at all, this tells in seconds.
        httpx.head(address, timeout=_REACH_TIMEOUT_S)
    except (httpx.HTTPError, OSError) as exc:
        raise _CannotBeHad("no network to download it") from exc
    try:
        return Path(open_clip.download_pretrained(source))
    except Exception as exc:
        # Networks, proxies and hubs fail in more ways than can be listed; each means that the weights are not here.
        raise _CannotBeHad(f"its download failed: {str(exc).partition(chr(10))[0][:200]}") from exc


def _digest(*files: Path) -> str:
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:12]


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("_") or "encoder"
