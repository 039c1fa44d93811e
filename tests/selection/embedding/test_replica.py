"""A model on a device: memory that is short, a device that is lost, a batch size that is found, a decoder that refuses."""

from __future__ import annotations

import io
import threading
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize

from infra.errors import BackendUnavailable
from selection.embedding import inputs, replica
from selection.embedding.inputs import EncodedJpeg, Preparation
from selection.embedding.replica import DeviceLost, Replica


def _preparation() -> Preparation:
    steps = [Resize(8, interpolation=InterpolationMode.BICUBIC), CenterCrop((8, 8))]
    return Preparation(Compose([*steps, Normalize(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))]))


def _mean_colour(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.mean(dim=(2, 3))


def _replica(forward: Any = _mean_colour, **options: Any) -> Replica:
    return Replica(forward, device=torch.device("cpu"), preparation=_preparation(), **options)


def _pixels(count: int) -> list[torch.Tensor]:
    noise = np.random.default_rng(0).integers(0, 255, (count, 3, 8, 8), dtype=np.uint8)
    return list(torch.from_numpy(noise))


def test_preparing_is_what_pillow_and_open_clip_would_do() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (9, 16, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((160, 90), Image.Resampling.BICUBIC)
    found = _preparation().of_image(picture)
    right = CenterCrop((8, 8))(picture.resize((14, 8), Image.Resampling.BICUBIC))
    assert (found.shape, found.dtype) == ((3, 8, 8), torch.uint8)
    assert np.abs(found.permute(1, 2, 0).numpy().astype(int) - np.asarray(right).astype(int)).max() <= 1
    normalised = _replica().normalised([found])[0]
    wanted = (found.float() / 255 - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)) / torch.tensor([0.2, 0.3, 0.4]).view(
        3, 1, 1
    )
    assert torch.allclose(normalised, wanted, atol=1e-5)


def test_memory_that_does_not_suffice_halves_the_batch_for_good() -> None:
    sizes = []

    def small(pixels: torch.Tensor) -> torch.Tensor:
        sizes.append(len(pixels))
        if len(pixels) > 5:
            raise torch.OutOfMemoryError("out of memory")
        return _mean_colour(pixels)

    pictures = _pixels(30)
    device = _replica(small)
    assert device.encode(pictures) == pytest.approx(_replica().encode(pictures), abs=1e-6)
    assert sizes[:5] == [30, 15, 7, 3, 3]
    assert device.batch_frames == 3

    def none_fits(_pixels: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(BackendUnavailable, match="no memory for even one image"):
        _replica(none_fits).encode(pictures)


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: out of memory\nCUDA kernel errors might be ...",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    ],
)
def test_memory_that_cudas_libraries_lack_is_no_lost_device(message: str) -> None:
    def small(pixels: torch.Tensor) -> torch.Tensor:
        if len(pixels) > 5:
            raise RuntimeError(message)
        return _mean_colour(pixels)

    device = _replica(small)
    assert len(device.encode(_pixels(8))) == 8
    assert device.batch_frames == 4
    assert not replica.is_fatal(RuntimeError(message))


def test_a_lost_device_is_named_in_one_line_and_another_error_stays_what_it_is() -> None:
    def lost(_pixels: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be ...")

    with pytest.raises(
        DeviceLost, match=r"the GPU failed \(CUDA error: device-side assert triggered\); frames"
    ) as caught:
        _replica(lost).encode(_pixels(2))
    assert "\n" not in caught.value.message

    def bug(_pixels: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        _replica(bug).encode(_pixels(2))


@pytest.mark.parametrize(
    ("speeds", "fits", "found"),
    [
        ({64: 100, 128: 180, 256: 185, 512: 900}, 1024, 128),
        ({64: 100, 128: 200, 256: 400, 512: 800, 1024: 1600}, 1024, 1024),
        ({64: 100, 128: 200, 256: 400}, 128, 128),
        ({}, 32, 64),
    ],
)
def test_the_batch_grows_until_speed_or_memory_ends(speeds: dict[int, float], fits: int, found: int) -> None:
    def frames_per_s(size: int) -> float:
        if size > fits:
            raise torch.OutOfMemoryError("out of memory")
        return speeds[size]

    assert replica.best_batch(frames_per_s) == found


def test_a_compiler_that_fails_or_lies_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    device, pictures = _replica(), _pixels(32)
    right = device.encode(pictures)

    def broken(_forward: Any, **_options: Any) -> Any:
        def run(_pixels: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no compiler\nat all")

        return run

    def lying(_forward: Any, **_options: Any) -> Any:
        return lambda pixels: -_mean_colour(pixels)

    for compiler in (broken, lying):
        monkeypatch.setattr(torch, "compile", compiler)
        device._compile(lambda: device.encode(pictures))
        assert device._compiled is device.forward
        assert device.encode(pictures) == pytest.approx(right)
    monkeypatch.setattr(torch, "compile", lambda _forward, **_options: lambda pixels: 2 * _mean_colour(pixels))
    device._compile(lambda: device.encode(pictures))
    assert device._compiled is not device.forward


def _jpeg(**options: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 24), (200, 30, 30)).save(file, format="JPEG", **options)
    return file.getvalue()


def test_a_device_decodes_whole_upright_jpegs_only() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    four = io.BytesIO()
    Image.new("CMYK", (32, 24)).save(four, format="JPEG")
    assert inputs.device_decodes(_jpeg())
    assert not inputs.device_decodes(_jpeg(exif=turned))
    assert not inputs.device_decodes(four.getvalue())
    assert not inputs.device_decodes(_jpeg()[:-40])
    assert not inputs.device_decodes(b"\xff\xd8\xff nothing \xff\xd9")
    assert not inputs.device_decodes(b"\x89PNG")


def test_what_the_devices_decoder_refuses_is_decoded_here(monkeypatch: pytest.MonkeyPatch) -> None:
    device = _replica()
    device.decodes = True  # As on a GPU.
    here = torch.full((3, 8, 8), 7, dtype=torch.uint8)
    some = [
        EncodedJpeg(data=torch.zeros(3, dtype=torch.uint8), decode=lambda: here),
        None,
        here + 1,
        EncodedJpeg(data=torch.ones(3, dtype=torch.uint8), decode=lambda: None),
    ]

    def decoder(_device: torch.device, jpegs: Any) -> Any:
        return [torch.full((3, 24, 32), int(one[0]), dtype=torch.uint8) for one in jpegs]

    monkeypatch.setattr(replica, "decode_on", decoder)
    ready = device.ready(some)
    assert [None if one is None else (tuple(one.shape), int(one[0, 0, 0])) for one in ready] == [
        ((3, 8, 8), 0),
        None,
        ((3, 8, 8), 8),
        ((3, 8, 8), 1),
    ]

    def refuses(_device: torch.device, _jpegs: Any) -> Any:
        raise RuntimeError("nvjpeg: bad JPEG")

    monkeypatch.setattr(replica, "decode_on", refuses)
    assert [None if one is None else int(one[0, 0, 0]) for one in device.ready(some)] == [7, None, 8, None]
    assert device.decodes

    def missing(_device: torch.device, _jpegs: Any) -> Any:
        raise RuntimeError("decode_jpegs_cuda: torchvision not compiled with nvJPEG support")

    monkeypatch.setattr(replica, "decode_on", missing)
    assert [None if one is None else int(one[0, 0, 0]) for one in device.ready(some)] == [7, None, 8, None]
    assert not device.decodes, "it is asked once"


def test_a_thread_that_computes_alone_leaves_the_others_as_they_were() -> None:
    torch.set_num_threads(2)
    seen: dict[str, int] = {}

    def feed() -> None:
        replica.alone()
        seen["feeder"] = torch.get_num_threads()

    for name, run in (("feeder", feed), ("later", lambda: seen.update(later=torch.get_num_threads()))):
        thread = threading.Thread(target=run, name=name)
        thread.start()
        thread.join()
    try:
        assert seen == {"feeder": 1, "later": 2}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
