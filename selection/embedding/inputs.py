"""What a model takes of a frame: its preview, or its original where the model sees more than a preview shows, as uint8 pixels."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from infra.errors import BackendUnavailable, InvalidInput, MlplError, NotFound
from infra.logs import get_logger
from infra.platform import Platform
from selection.fleet import frames, originals
from selection.fleet.originals import Patience
from selection.pixels import images

if TYPE_CHECKING:
    import torch
    from PIL import Image

FIELDS = ("row", "digest", "preview_key", "object_key", "object_uri", "perceptual_hash")

_NO_LIMIT = 2**62  # Previews are ours, and copies have passed the limit at ingest.
_JPEG_BEGIN, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_DEVICE_DECODES = {"JPEG": ("RGB", "L")}

log = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a frame's pixels are."""

    row: int
    digest: str
    preview_key: str
    object_key: str
    object_uri: str | None
    is_seen: bool


@dataclass(frozen=True, kw_only=True)
class EncodedJpeg:
    """A JPEG that the model's device may decode itself.

    Attributes:
        data: uint8, shape (bytes,), on the CPU.
        decode: Decodes it here instead, for what the device refuses; None where that fails too, and says so in the log.
    """

    data: torch.Tensor
    decode: Callable[[], Any]


class Preparation:
    """An encoder's resizing and cropping, on uint8 pixels. Normalisation is left to the model's device, which gets a quarter of the bytes so."""

    def __init__(self, transform: Any) -> None:
        """Takes an open_clip preprocessing apart.

        Args:
            transform: A torchvision `Compose` whose last step is `Normalize`.
        """
        import torch
        from torchvision.transforms import CenterCrop, Normalize, Resize, v2

        *steps, normalize = transform.transforms
        if not isinstance(normalize, Normalize):
            raise InvalidInput(f"the encoder's preprocessing ends in {type(normalize).__name__}, not in Normalize")
        self.mean = torch.tensor(normalize.mean).view(3, 1, 1)
        self.std = torch.tensor(normalize.std).view(3, 1, 1)
        self._geometry = [step for step in steps if not type(step).__name__.startswith("Maybe")]
        self.takes_tensors = all(isinstance(step, Resize | CenterCrop) for step in self._geometry)
        if self.takes_tensors:
            # The second generation resizes uint8 as uint8: seven times as fast as Pillow, to within one grey level, and leaves colours
            # side by side, as the model wants them. The first goes through floats.
            self._geometry = [getattr(v2, type(step).__name__)(**_options(step)) for step in self._geometry]

    def of_image(self, image: Image.Image) -> torch.Tensor:
        """Uint8, shape (3, H, W)."""
        import torch

        given: Any = image.convert("RGB")
        if self.takes_tensors:
            return self.of_pixels(torch.from_numpy(np.array(given)).permute(2, 0, 1))
        for step in self._geometry:
            given = step(given)
        return torch.from_numpy(np.array(given)).permute(2, 0, 1)

    def of_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """The same of decoded pixels: uint8, shape (3, H, W), on any device."""
        for step in self._geometry:
            pixels = step(pixels)
        return pixels


def _options(step: Any) -> dict[str, Any]:
    """What a `Resize` or `CenterCrop` was made with."""
    names = ("size", "interpolation", "max_size", "antialias")
    return {name: getattr(step, name) for name in names if hasattr(step, name)}


class FrameReader:
    """Reads frames for a model. Safe to share between threads."""

    def __init__(
        self,
        platform: Platform,
        prepare: Callable[[Image.Image], Any],
        *,
        whole: bool = False,
        encoded: bool = False,
        on_unreadable: Callable[[str], None] = lambda _where: None,
    ) -> None:
        """Reads nothing yet.

        Args:
            platform: Where the frames are.
            prepare: What the model takes of an image.
            whole: Read originals rather than previews.
            encoded: Hand on JPEGs as they are, for a device that decodes them.
            on_unreadable: Called with where a frame should be that cannot be read.
        """
        self._platform, self._prepare, self._whole, self._encoded = platform, prepare, whole, encoded
        self._on_unreadable = on_unreadable
        self._patience = Patience()
        self._lock = threading.Lock()
        self._absent: set[int] = set()

    def sources(self, *, start: int, stop: int) -> list[Source | None]:
        """Where the frames of rows `[start, stop)` are; None for a row without a record."""
        found: list[Source | None] = [None] * (stop - start)
        for one in frames.documents(self._platform.database, start=start, stop=stop, fields=FIELDS):
            found[one["row"] - start] = Source(
                row=one["row"],
                digest=one["digest"],
                preview_key=one["preview_key"],
                object_key=one["object_key"],
                object_uri=one.get("object_uri"),
                is_seen="perceptual_hash" in one,
            )
        return found

    def take_absent(self, rows: Sequence[int]) -> list[int]:
        """Those of the rows of which nothing is there, or not the right file, or not now; each is told once."""
        with self._lock:
            found = [row for row in rows if row in self._absent]
            self._absent.difference_update(found)
        return found

    def read(self, source: Source | None) -> Any:
        """A model's input, an `EncodedJpeg`, or None where neither preview nor original can be read.

        Raises:
            BackendUnavailable: Where previews and copies are, nothing answers.
        """
        if source is None:
            return None
        if self._whole:
            return self._from_original(source)
        try:
            return self._input(self._platform.objects.get(source.preview_key), source)
        except NotFound as exc:
            if source.object_uri is None:  # One in place may have none yet.
                log.warning("preview_unreadable", key=source.preview_key, reason=exc.message)
        except InvalidInput as exc:
            log.warning("preview_unreadable", key=source.preview_key, reason=exc.message)
        return self._from_original(source)

    def read_again(self, source: Source | None) -> Any:
        """As `read`, of a frame that was not there. Whoever sees one in place again makes its preview, so no lake is asked before that."""
        if source is None or source.object_uri is None or self._whole or source.is_seen:
            return self.read(source)
        self._note_absent(source, "nobody has seen it")
        return None

    def _from_original(self, source: Source) -> Any:
        objects = self._platform.objects
        data = self._original(source)
        if data is None:
            return None
        # Perhaps nobody has looked at one in place yet.
        limit = _NO_LIMIT if source.object_uri is None else self._platform.settings.max_image_pixels
        try:
            if self._whole:
                return self._input(data, source, max_pixels=limit)
            preview = images.preview(images.open_image(data, max_pixels=limit).pixels)
            objects.put(source.preview_key, preview)
            return self._input(preview, source)
        except InvalidInput as exc:
            self._note(source, exc.message)
            return None

    def check(self) -> None:
        """Tells of a lake that does not answer, to be called when all else is done.

        Raises:
            BackendUnavailable: There is one; its frames are absent.
        """
        self._patience.check()

    def _original(self, source: Source) -> bytes | None:
        uri = source.object_uri or ""
        if self._patience.is_away(uri):
            self._note_absent(source, "nothing answers where it is")
            return None
        try:
            data = originals.read(self._platform.objects, object_key=source.object_key, object_uri=source.object_uri)
        except BackendUnavailable as exc:
            self._patience.failed(uri, exc)
            self._note_absent(source, exc.message)
            return None
        except InvalidInput as exc:
            self._note(source, exc.message)
            return None
        except MlplError as exc:
            self._patience.answered(uri)
            self._note_absent(source, exc.message)
            return None
        except (OSError, ValueError) as exc:
            self._note_absent(source, str(exc))
            return None
        self._patience.answered(uri)
        if source.object_uri is not None:
            try:
                originals.check_digest(data, expected=source.digest, uri=source.object_uri)
            except InvalidInput as exc:
                self._note_absent(source, exc.message)
                return None
        return data

    def _input(self, data: bytes, source: Source, *, max_pixels: int = _NO_LIMIT) -> Any:
        if self._encoded and device_decodes(data, max_pixels=max_pixels):
            import torch

            raw = torch.from_numpy(np.frombuffer(data, dtype=np.uint8).copy())
            return EncodedJpeg(data=raw, decode=lambda: self._decoded_late(data, source))
        return self._decoded(data, max_pixels=max_pixels)

    def _decoded(self, data: bytes, *, max_pixels: int = _NO_LIMIT) -> Any:
        return self._prepare(images.open_image(data, max_pixels=max_pixels, short_side=None).pixels)

    def _decoded_late(self, data: bytes, source: Source) -> Any:
        try:
            return self._decoded(data)
        except InvalidInput as exc:
            self._note(source, exc.message)
            return None

    def _note_absent(self, source: Source, reason: str) -> None:
        # A whole lake may be away: whoever takes them tells of all in one line.
        log.debug("frame_absent", row=source.row, key=source.object_key, reason=reason)
        with self._lock:
            self._absent.add(source.row)
        self._on_unreadable(source.object_uri or source.object_key)

    def _note(self, source: Source, reason: str) -> None:
        log.warning("frame_unreadable", row=source.row, key=source.object_key, reason=reason)
        self._on_unreadable(source.object_uri or source.object_key)


def device_decodes(data: bytes, *, max_pixels: int = _NO_LIMIT) -> bool:
    """Whether a GPU's decoder gives what ours would: a whole JPEG in RGB or grey that needs no turning and is within the limit.

    A decoder in hardware may give grey areas for a file cut short and says nothing of EXIF orientation, so those stay with Pillow.
    """
    import io

    from PIL import Image

    if not (data.startswith(_JPEG_BEGIN) and data.endswith(_JPEG_END)):
        return False
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as header:
            upright = header.getexif().get(0x0112, 1) == 1
            small = header.width * header.height <= max_pixels
            return small and upright and header.mode in _DEVICE_DECODES.get(str(header.format), ())
    except Exception:
        return False  # Broken in whichever way; the decoder that reports it is Pillow's.


def late(inputs: Sequence[Any]) -> list[Any]:
    """Decodes here what was meant for a device's decoder."""
    return [one.decode() if isinstance(one, EncodedJpeg) else one for one in inputs]
