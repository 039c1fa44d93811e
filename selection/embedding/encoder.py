"""A loaded encoder: images and texts as unit vectors in one space, through open_clip."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from selection.devices import on_all_cores, processors, torch_devices
from selection.embedding.inputs import Preparation
from selection.embedding.replica import Replica
from selection.embedding.weights import Weights
from selection.embedding.words import TextTower
from selection.pixels.images import PREVIEW_SHORT_SIDE

if TYPE_CHECKING:
    import torch
    from PIL import Image

_WORTH_SETTLING = 4096  # Images for which a GPU's batch size is looked for, which takes a second or two.
_WORTH_COMPILING = 50_000  # Likewise, half a minute.


class Encoder:
    """A loaded encoder. Safe to share between threads."""

    def __init__(self, weights: Weights, *, device: str, notice: str | None = None) -> None:
        """Loads the model; made by `encoders.load_named`."""
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
