"""One copy of a model on one device: batches that fit, a batch size found by itself, decoding on the GPU, and what is said when it is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from infra.errors import BackendUnavailable
from infra.logs import get_logger
from selection.devices import processors
from selection.embedding.inputs import EncodedJpeg, Preparation, late

if TYPE_CHECKING:
    import torch

FIRST_BATCH = {"cpu": 32, "cuda": 256}
SMALLEST_TRIED, LARGEST_TRIED = 64, 1024
WORTH_GROWING = 1.05
"""A batch twice as large must be faster by this factor, or its memory is better left to others."""
DECODED_AT_ONCE = 64
"""JPEGs on the GPU at a time before they are shrunk: a camera image has 6 to 25 MB there."""

_log = get_logger(__name__)


class DeviceLost(BackendUnavailable):
    """A device does no more work in this process; other devices go on."""


class Replica:
    """A model on a device. `encode` may be called from several threads."""

    def __init__(
        self,
        forward: Callable[[torch.Tensor], torch.Tensor],
        *,
        device: torch.device,
        preparation: Preparation,
        decodes: bool = False,
    ) -> None:
        """Wraps a model that is on its device already.

        Args:
            forward: Normalised pixels, shape (N, 3, H, W), to features, shape (N, D).
            device: Where that happens.
            preparation: Resizing, and the mean and standard deviation to normalise by.
            decodes: Let the device decode JPEGs.
        """
        self.device = device
        self.decodes = decodes and device.type == "cuda" and preparation.takes_tensors
        self.batch_frames = FIRST_BATCH[device.type]
        self.forward = self._compiled = forward
        self._preparation = preparation
        scale = 1 / (255 * preparation.std.reshape(-1))
        self._scale, self._offset = scale.to(device), (-255 * preparation.mean.reshape(-1) * scale).to(device)
        self._settled = device.type != "cuda"
        self._lock = threading.Lock()

    @property
    def feeders(self) -> int:
        """Threads that keep the device busy. A CPU gets one a core, each computing alone, which is faster than all on one batch; a GPU
        gets two, so that one's transfer runs beside the other's computing.
        """
        return 2 if self.device.type == "cuda" else processors()

    @contextmanager
    def thread(self) -> Iterator[None]:
        """Readies the calling thread to be one of the feeders."""
        import torch

        if self.device.type != "cuda":
            alone()
            yield
            return
        with _THREADS:
            # While a reader is made `alone`, a thread that torch first hears of takes the reader's number of threads for its own, and
            # the compiled model, which is guarded by that number, would be compiled again.
            torch.get_num_threads()
        stream: Any = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        with torch.cuda.device(self.device), torch.cuda.stream(stream):
            yield

    def ready(self, inputs: Sequence[Any]) -> list[Any]:
        """Pixels of all inputs: JPEGs are decoded on the device, or here where it refuses them; None stays None."""
        encoded = [i for i, one in enumerate(inputs) if isinstance(one, EncodedJpeg)]
        if not encoded or not self.decodes:
            return late(inputs)
        result = list(inputs)
        for first in range(0, len(encoded), DECODED_AT_ONCE):
            some = encoded[first : first + DECODED_AT_ONCE]
            for position, pixels in zip(some, self._decoded([inputs[i] for i in some]), strict=True):
                result[position] = pixels
        return result

    def _decoded(self, jpegs: Sequence[EncodedJpeg]) -> list[Any]:
        import torch

        try:
            with torch.inference_mode():
                return [
                    self._preparation.of_pixels(one) for one in decode_on(self.device, [jpeg.data for jpeg in jpegs])
                ]
        except (RuntimeError, AttributeError) as exc:  # Out of memory is a RuntimeError too.
            if is_fatal(exc):
                raise device_lost(exc) from exc
            if isinstance(exc, AttributeError | NotImplementedError) or "not compiled" in str(exc):
                self.decodes = False  # There is no decoder, which need not be said for every batch.
            _log.warning("gpu_decoder_refused", device=str(self.device), frames=len(jpegs), reason=first_line(exc))
            return late(jpegs)

    def encode(self, pixels: Sequence[torch.Tensor]) -> NDArray[np.float32]:
        """Unit vectors, shape (N, D), of prepared images: uint8, shape (3, H, W) each.

        Raises:
            BackendUnavailable: There is no memory even for one image.
            DeviceLost: The GPU failed.
        """
        return self.in_batches(pixels, self._features)

    def _features(self, some: Sequence[torch.Tensor]) -> torch.Tensor:
        forward = self._compiled if len(some) == self.batch_frames else self.forward  # Compiled for one shape.
        return forward(self.normalised(some))

    def normalised(self, some: Sequence[torch.Tensor]) -> torch.Tensor:
        """Prepared images as what the model takes: float32 on the device, shape (N, 3, H, W)."""
        import torch

        if any(one.is_cuda for one in some):
            some = [one.to(self.device) for one in some]  # Those that its decoder refused come from the CPU.
        # Stacked by height, width, colour: that is channels_last without a copy.
        batch = torch.stack([one.permute(1, 2, 0) for one in some])
        if self.device.type == "cuda" and not batch.is_cuda:
            batch = batch.pin_memory().to(self.device, non_blocking=True)
        count, height, width, colours = batch.shape
        # By lines of pixels: spread over three colours at a time, the same arithmetic takes eight times as long.
        lines = batch.view(count * height, width * colours).float().mul_(self._scale.repeat(width))
        return lines.add_(self._offset.repeat(width)).view(batch.shape).permute(0, 3, 1, 2)

    def in_batches(self, items: Sequence[Any], features: Callable[[Any], torch.Tensor]) -> NDArray[np.float32]:
        """Computes features of items in batches that fit and normalises them; for texts as for images. `items` is not empty."""
        import torch

        parts: list[NDArray[np.float32]] = []
        done = 0
        while done < len(items):
            size = self.batch_frames
            try:
                with torch.inference_mode(), self._precision():
                    found = features(items[done : done + size]).float()
                    parts.append(torch.nn.functional.normalize(found, dim=-1).cpu().numpy())
            except RuntimeError as exc:
                if is_out_of_memory(exc):
                    self._shrink(min(size, len(items) - done), exc)
                    continue
                if is_fatal(exc):
                    raise device_lost(exc) from exc
                raise
            done += size
        return np.concatenate(parts)

    def _precision(self) -> torch.autocast:
        import torch

        on_gpu = self.device.type == "cuda"
        # GPUs older than Ampere emulate bfloat16, slowly.
        half = torch.bfloat16 if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
        return torch.autocast("cuda", dtype=half, enabled=on_gpu)

    def _shrink(self, size: int, exc: Exception) -> None:
        """Halves the batch for good: what did not fit once will not fit the next time."""
        import torch

        if size <= 1:
            raise BackendUnavailable(
                f"{self.device} has no memory for even one image; free some, or set MLPL_DEVICE=cpu", retry_after_s=60
            ) from exc
        with self._lock:
            self.batch_frames = max(1, min(self.batch_frames, size // 2))
            self._compiled = self.forward
        _log.warning("encoder_batch_halved", device=str(self.device), batch=self.batch_frames)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def settle(self, *, compiled: bool = True) -> None:
        """Finds the batch size of a GPU and compiles the model for it, once; worth its seconds before thousands of frames."""
        with self._lock:
            if self._settled:
                return
            self._settled = True
        import torch

        probe = self._preparation.of_pixels(torch.zeros((3, 336, 597), dtype=torch.uint8))

        def frames_per_s(size: int) -> float:
            with torch.inference_mode(), self._precision(), torch.cuda.device(self.device):
                self._features([probe] * size)
                torch.cuda.synchronize()
                began = time.perf_counter()
                for _ in range(3):
                    self._features([probe] * size)
                torch.cuda.synchronize()
            return 3 * size / (time.perf_counter() - began)

        try:
            self.batch_frames = best_batch(frames_per_s)
        except RuntimeError as exc:
            if is_fatal(exc):
                raise device_lost(exc) from exc
            _log.warning("batch_size_not_found", device=str(self.device), reason=first_line(exc))
        torch.cuda.empty_cache()
        if compiled:
            self._compile(lambda: self.in_batches([probe] * self.batch_frames, self._features))
        _log.info("encoder_batch_found", device=str(self.device), batch=self.batch_frames)

    def _compile(self, try_out: Callable[[], NDArray[np.float32]]) -> None:
        """Swaps in the compiled model if compiling works here and gives the same vectors."""
        import torch

        try:
            right = try_out()
            self._compiled = torch.compile(self.forward, dynamic=False)
            if not bool((np.sum(try_out() * right, axis=1) > 0.99).all()):
                raise RuntimeError("its vectors differ")
        except DeviceLost:
            raise
        except Exception as exc:
            # A compiler fails in as many ways as there are compilers; the model works without.
            self._compiled = self.forward
            _log.warning("compiling_failed", device=str(self.device), reason=first_line(exc))


def best_batch(
    frames_per_s: Callable[[int], float], *, smallest: int = SMALLEST_TRIED, largest: int = LARGEST_TRIED
) -> int:
    """The batch size after which doubling gains no speed, or memory ends.

    Args:
        frames_per_s: Measures a size; raises `torch.OutOfMemoryError` where it does not fit.
    """
    best, speed, size = smallest, 0.0, smallest
    while size <= largest:
        try:
            found = frames_per_s(size)
        except RuntimeError as exc:
            if not is_out_of_memory(exc):
                raise
            break
        if found < speed * WORTH_GROWING:
            break
        best, speed, size = size, found, size * 2
    return best


def decode_on(device: torch.device, jpegs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Decodes JPEGs to RGB on a GPU: uint8, shape (3, H, W) each.

    Raises:
        RuntimeError: One of them cannot be decoded there; none is given back.
        AttributeError: This torchvision has no such decoder.
    """
    import torch
    import torchvision.io  # Registers the operator, whose wrapper warns that it will move to a package of its own.

    rgb = int(torchvision.io.ImageReadMode.RGB.value)
    decoded: list[torch.Tensor] = torch.ops.image.decode_jpegs_cuda(list(jpegs), rgb, device)
    return decoded


def alone() -> None:
    """Lets torch compute in the calling thread only, without changing what the process's other threads do."""
    import torch

    with _THREADS:
        before = (
            torch.get_num_threads()
        )  # Asked first: a thread that never computed would undo the next line when it does.
        torch.set_num_threads(1)
        if before > 1:
            # The number is also what new threads start with; one that starts now and ends sets that back.
            restorer = threading.Thread(target=torch.set_num_threads, args=(before,), name="torch threads")
            restorer.start()
            restorer.join()


_THREADS = threading.Lock()


def is_out_of_memory(exc: Exception) -> bool:
    """Whether a smaller batch may help: torch's own allocator says so in a class of its own, the driver and CUDA's libraries only in words."""
    import torch

    text = str(exc)
    return isinstance(exc, torch.OutOfMemoryError) or "out of memory" in text or "STATUS_ALLOC_FAILED" in text


def is_fatal(exc: Exception) -> bool:
    """Whether an error means that the GPU is gone for this process."""
    if is_out_of_memory(exc):
        return False
    text = str(exc)
    return "CUDA error" in text or "CUDNN" in text.upper() or "NCCL" in text


def device_lost(exc: Exception) -> DeviceLost:
    """A GPU that was lost takes its context with it, so the process has to be started again for it; what is committed stays."""
    return DeviceLost(
        f"the GPU failed ({first_line(exc)}); frames embedded so far are kept: "
        "start this process again, with MLPL_DEVICE=cpu if the GPU is gone",
        retry_after_s=60,
    )


def first_line(exc: BaseException) -> str:
    """An error in one line of at most 160 characters."""
    return (str(exc).partition("\n")[0] or type(exc).__name__)[:160]
