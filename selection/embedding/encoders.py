"""Encoders: images and texts as unit vectors in one space, through open_clip.

Which encoder a fleet uses is decided once for each value of `MLPL_ENCODER` and recorded, so that all processes agree and a fleet does not
end up with vectors of two encoders when one machine has a network and another has not. The configured weights are taken where they can
be had; where not, the small encoder that ships with MLPL stands in, and says so.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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
from selection.devices import on_all_cores, processors, torch_devices
from selection.embedding.inputs import Preparation
from selection.embedding.replica import Replica
from selection.embedding.words import TextTower
from selection.pixels.images import PREVIEW_SHORT_SIDE

if TYPE_CHECKING:
    import torch
    from PIL import Image

INDEXES: dict[str, list[IndexModel]] = {"encoders": []}
SMALL = "small"
SMALL_ENCODER = Path(__file__).parent / "small_encoder"
CONFIG_NAME = "open_clip_config.json"

_PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")
_REACH_TIMEOUT_S = 5.0
_WORTH_SETTLING = 4096  # Images for which a GPU's batch size is looked for, which takes a second or two.
_WORTH_COMPILING = 50_000  # Likewise, half a minute.
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
        from open_clip.transform import PreprocessCfg, image_transform_v2

        self.encoder_id = weights.encoder_id
        self.notice = notice
        self._devices = torch_devices(device)
        model = on_all_cores(
            lambda: open_clip.create_model(weights.model_name, require_pretrained=True, **weights.options).eval()
        )
        settings = open_clip.get_model_preprocess_cfg(model)
        self._preparation = Preparation(image_transform_v2(PreprocessCfg(**settings), is_train=False))
        self._side_px = min(settings["size"]) if isinstance(settings["size"], Sequence) else int(settings["size"])
        self._replicas = [on_all_cores(lambda: self._replica(model, self._devices[0]))]
        self._others_lock = threading.Lock()
        tokenize: Callable[[list[str]], torch.Tensor] = open_clip.get_tokenizer(weights.model_name)
        self._texts = on_all_cores(lambda: TextTower(self._model, tokenize, device=self.device))
        self._workers = ThreadPoolExecutor(max_workers=min(8, processors()), thread_name_prefix="preprocess")
        self.dimension = int(self.encode_texts(["a road"]).shape[1])

    @property
    def device(self) -> torch.device:
        """Where single images and texts are encoded; embedding takes all devices."""
        return self._devices[0]

    @property
    def sees_more_than_previews(self) -> bool:
        """Whether its model takes more pixels than a preview has."""
        return self._side_px > PREVIEW_SHORT_SIDE

    def prepare(self, image: Image.Image) -> torch.Tensor:
        """What the model takes of one image, uint8, shape (3, H, W): resized and cropped its way. Meant for threads beside the model."""
        return self._preparation.of_image(image)

    def workers(self, *, rows: int) -> list[Replica]:
        """The models on all devices, made when they are first asked for.

        Args:
            rows: How many images will come: a GPU's batch size is found, and the model compiled, only where that pays.
        """
        with self._others_lock:
            for device in self._devices[len(self._replicas) :]:
                self._replicas.append(self._replica(copy.deepcopy(self._model), device))
        for one in self._replicas:
            if rows >= _WORTH_SETTLING * len(self._replicas):
                one.settle(compiled=rows >= _WORTH_COMPILING * len(self._replicas))
        return self._replicas

    def encode_prepared(self, prepared: Sequence[torch.Tensor]) -> NDArray[np.float32]:
        """Vectors of images that went through `prepare`, unit length, shape (N, D).

        Raises:
            BackendUnavailable: The GPU failed, or has no memory even for one image.
        """
        if not prepared:
            return np.empty((0, self.dimension), dtype=np.float32)
        return on_all_cores(lambda: self._replicas[0].encode(prepared))

    def encode_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Vectors of images, unit length, shape (N, D).

        Images are given as the fleet stores them, as previews; the model's own resizing and cropping follow.
        """
        return self.encode_prepared(list(self._workers.map(self.prepare, images)))

    @property
    def batch_frames(self) -> int:
        """How many images the model takes at once; halved when its memory does not suffice."""
        return self._replicas[0].batch_frames

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of texts, unit length, shape (N, D)."""
        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)
        return on_all_cores(lambda: self._replicas[0].in_batches(texts, self._texts.features))

    def _replica(self, model: Any, device: torch.device) -> Replica:
        import torch

        placed: Any = model.to(device, memory_format=torch.channels_last)
        if device == self._devices[0]:
            self._model = placed
        # Torchvision has one JPEG decoder a process, which would be made anew whenever another GPU's turn comes.
        return Replica(
            lambda pixels: placed.encode_image(pixels),
            device=device,
            preparation=self._preparation,
            decodes=len(self._devices) == 1,
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


@contextmanager
def choice_announced(platform: Platform, say: Callable[[str], object]) -> Iterator[None]:
    """Says so where the block settles on the small encoder; from then on `mlpl status` and `mlpl encoder list` do."""
    before = chosen(platform)
    yield
    choice = chosen(platform)
    if choice is not None and choice.notice and choice != before:
        say(choice.notice)


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
