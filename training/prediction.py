"""Prediction: a registered model on every row of the fleet, written as prediction shards with their acquisition
scores.
"""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from infra import leases
from infra.database import Document
from infra.errors import Denied, InvalidInput, NotFound
from infra.logs import get_logger
from infra.platform import Platform
from selection import shards
from selection.devices import torch_device
from selection.fleet import frames, originals
from selection.scores import tables
from training.contract import ContractError, ModelConfig, TrainableKind

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from PIL import Image

    from training.models import Model

log = get_logger(__name__)

BATCH_FRAMES = 256
DECODERS = 8
OPINIONS = 10
"""Stochastic passes behind `bald`. They go through the last layer alone, so ten cost no more than a hundredth of one prediction."""


@dataclass(frozen=True, kw_only=True)
class Opinion:
    """What a model makes of N images.

    Attributes:
        probability_NC: See `training.job.evaluation.probabilities`.
        passes_MNC: The same from M stochastic passes, see `training.stochastic`.
        feature_rms_N: Root mean square of the features before the last layer.
    """

    probability_NC: NDArray[np.float32]
    passes_MNC: NDArray[np.float32]
    feature_rms_N: NDArray[np.float32]


class Predictor:
    """A trained model that is ready to be asked."""

    def __init__(self, network: torch.nn.Module, *, config: ModelConfig, device: torch.device) -> None:
        """`network` is in evaluation mode on `device`."""
        self._network = network
        self._config = config
        self._device = device

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the columns of what `probabilities` returns."""
        return self._config.classes

    @property
    def kind(self) -> TrainableKind:
        """Whether the columns are independent or sum to 1."""
        return self._config.kind

    @property
    def input_size(self) -> int:
        """Side of the square that images are squashed to, pixels."""
        return self._config.input_size

    def probabilities(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """What the model makes of images: shape (N, C), see `training.job.evaluation.probabilities`."""
        from training.job.images import squash

        squashed = [squash(image, size=self.input_size) for image in images]
        return self.probabilities_of_squares(np.stack(squashed) if squashed else self._no_squares())

    def probabilities_of_squares(self, images_u8: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The same for images that `training.job.images.squash` has been applied to: shape (N, 3, S, S)."""
        from training.job import evaluation

        return evaluation.probabilities(self._network, images_u8, config=self._config, device=self._device)

    def opinion_of_squares(self, images_u8: NDArray[np.uint8]) -> Opinion:
        """Probabilities, and what uncertainty can be read from beside them."""
        from training import stochastic

        return Opinion(
            **stochastic.opinions(self._network, images_u8, config=self._config, device=self._device, passes=OPINIONS)
        )

    def _no_squares(self) -> NDArray[np.uint8]:
        return np.empty((0, 3, self.input_size, self.input_size), dtype=np.uint8)


def load_predictor(platform: Platform, *, model_key: str, model_digest: str) -> Predictor:
    """Fetches a model and makes it ready.

    Args:
        platform: Its objects hold the model, its settings name the device.
        model_key: Object key of `model.tar.gz`.
        model_digest: SHA-256 of that object, 64 hex digits.

    Raises:
        NotFound: There is no such object.
        InvalidInput: It is not the file that was registered, not a model, or the device is not there.
    """
    from training.job import networks

    data = platform.objects.get(model_key)
    if hashlib.sha256(data).hexdigest() != model_digest:
        raise InvalidInput(
            f"{model_key} is not the file that was registered (its digest differs); restore it or train again",
            key=model_key,
        )
    device = torch_device(platform.settings.device)
    try:
        saved = networks.unpack_model(data)
        network = networks.load(saved).to(device)
    except ContractError as exc:
        raise InvalidInput(f"{model_key}: {exc}", key=model_key) from exc
    return Predictor(network, config=saved.config, device=device)


def predict_with(platform: Platform, model: Model, *, progress: Callable[[int, int], None] | None = None) -> int:
    """As `predict_missing`, with a model of the registry.

    Raises:
        InvalidInput: Only predictions of the model are known, not the model.
    """
    if model.artifact_key is None or model.artifact_digest is None:
        raise InvalidInput(
            f"model {model.model_id} was imported and cannot be run here; "
            f"bring its predictions for new frames with `mlpl predictions import FILE --task {model.task_id}`",
            model_id=model.model_id,
        )
    return predict_missing(
        platform,
        model_id=model.model_id,
        model_key=model.artifact_key,
        model_digest=model.artifact_digest,
        progress=progress,
    )


def predict_missing(
    platform: Platform,
    *,
    model_id: str,
    model_key: str,
    model_digest: str,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Predicts every row that has no prediction of this model yet.

    Pieces that another process is at are left to it. A killed call loses at most the piece it was at.

    Args:
        model_id: Producer of the shards.
        progress: Called with rows done and rows to do after every batch.

    Returns:
        Rows that this call predicted.
    """
    db = platform.database
    pieces = shards.gaps(db, "predictions", model_id, frames.row_count(db))
    total = sum(stop - start for start, stop in pieces)
    if not pieces:
        return 0
    predictor = load_predictor(platform, model_key=model_key, model_digest=model_digest)
    done = 0
    for start, stop in pieces:
        with leases.try_hold(db, f"predict/{model_id}/{start}") as lease:
            if lease is None or not _is_missing(platform, model_id, start=start):
                continue
            report = functools.partial(_report, progress, before=done, total=total)
            table = predict_rows(platform, predictor, start=start, stop=stop, progress=report)
            if shards.write(platform, "predictions", model_id, start, stop, table) is not None:
                done += stop - start
    log.info("rows_predicted", model_id=model_id, rows=done)
    return done


def predict_rows(
    platform: Platform, predictor: Predictor, *, start: int, stop: int, progress: Callable[[int], None] = lambda _: None
) -> pa.Table:
    """Predicts rows `[start, stop)` from their previews, or from the originals of those whose preview is not there yet or damaged.

    Returns:
        Columns `row`, `probability` (fixed-size list of one float32 a class) and one float32 column an acquisition score. A frame of
        which neither can be read has nulls.
    """
    class_count, count = len(predictor.classes), stop - start
    whole = Opinion(
        probability_NC=np.zeros((count, class_count), dtype=np.float32),
        passes_MNC=np.zeros((OPINIONS, count, class_count), dtype=np.float32),
        feature_rms_N=np.zeros(count, dtype=np.float32),
    )
    valid_N = np.zeros(count, dtype=np.bool_)
    documents: list[Document | None] = [None] * count
    wanted = ("row", "digest", "preview_key", "object_key", "object_uri")
    for document in frames.documents(platform.database, start=start, stop=stop, fields=wanted):
        documents[document["row"] - start] = document
    with ThreadPoolExecutor(max_workers=DECODERS) as pool:
        for first in range(0, count, BATCH_FRAMES):
            piece = slice(first, min(first + BATCH_FRAMES, count))
            squares = list(
                pool.map(lambda one: _read_square(platform, one, size=predictor.input_size), documents[piece])
            )
            positions = [first + offset for offset, square in enumerate(squares) if square is not None]
            if positions:
                stacked = np.stack([square for square in squares if square is not None])
                part = predictor.opinion_of_squares(stacked)
                whole.probability_NC[positions] = part.probability_NC
                whole.passes_MNC[:, positions] = part.passes_MNC
                whole.feature_rms_N[positions] = part.feature_rms_N
                valid_N[positions] = True
            progress(piece.stop)
    return prediction_table(whole, valid_N=valid_N, start=start, kind=predictor.kind)


def prediction_table(opinion: Opinion, *, valid_N: NDArray[np.bool_], start: int, kind: TrainableKind) -> pa.Table:
    """The columns of a prediction shard.

    Args:
        opinion: Of N frames.
        valid_N: Shape (N,); where False, the values are null.
        start: Row of the first line.
        kind: Says how the scores read the probabilities.
    """
    return tables.of_probabilities(
        opinion.probability_NC,
        valid_N=valid_N,
        start=start,
        kind=kind,
        passes_MNC=opinion.passes_MNC,
        feature_rms_N=opinion.feature_rms_N,
    )


def _report(progress: Callable[[int, int], None] | None, count: int, *, before: int, total: int) -> None:
    if progress is not None:
        progress(before + count, total)


def _is_missing(platform: Platform, model_id: str, *, start: int) -> bool:
    """Whether the piece is still to be made, now that it is ours: its last holder may just have committed it."""
    gaps = shards.gaps(platform.database, "predictions", model_id, frames.row_count(platform.database))
    return any(first == start for first, _ in gaps)


def _read_square(platform: Platform, document: Document | None, *, size: int) -> NDArray[np.uint8] | None:
    """The squashed preview, made again from the original where it is missing or damaged; None where that cannot be read either."""
    if document is None:
        return None
    preview_key = document["preview_key"]
    try:
        return _squashed(platform.objects.get(preview_key), size=size)
    except NotFound:
        pass  # Frames registered in place have none until somebody has seen them.
    except InvalidInput as exc:
        log.warning("preview_unreadable", key=preview_key, reason=exc.message)
    try:
        made = originals.make_preview(
            platform.objects,
            preview_key=preview_key,
            object_key=document["object_key"],
            object_uri=document.get("object_uri"),
            max_pixels=platform.settings.max_image_pixels,
            digest=document["digest"],
        )
        return _squashed(made, size=size)
    except (NotFound, Denied, InvalidInput) as exc:
        log.warning("frame_unreadable", key=document["object_key"], reason=exc.message)
        return None


def _squashed(data: bytes, *, size: int) -> NDArray[np.uint8]:
    """What the network takes of a preview.

    Raises:
        InvalidInput: It cannot be decoded.
    """
    from PIL import Image

    from training.job.images import squash

    try:
        with Image.open(io.BytesIO(data)) as image:
            return squash(image, size=size)
    except (OSError, SyntaxError, ValueError) as exc:
        raise InvalidInput(str(exc)) from exc
