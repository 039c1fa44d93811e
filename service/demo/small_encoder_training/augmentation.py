"""Random changes to a batch of frames, among them changes of hour and weather that change what captions are true."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from service.demo.small_encoder_training.facts import FALSE, INDEX, TIMES, TRUE, UNKNOWN, WEATHERS, complete


def augment(
    images: NDArray[np.uint8],
    facts: NDArray[np.int8],
    places: NDArray[np.uint8],
    real: NDArray[np.bool_],
    *,
    side_px: int,
    rng: np.random.Generator,
) -> tuple[torch.Tensor, NDArray[np.int8], torch.Tensor]:
    """Turns stored frames into training input.

    Args:
        images: Shape (B, S, S, 3).
        facts: Shape (B, F); not changed.
        places: Shape (B, C, G, G), see `Store.places`; cropped and mirrored like the images.
        real: Shape (B,); recorded frames change their hour and weather more often.
        side_px: Side of the result.
        rng: Source of all randomness.
    Returns:
        Pixels in 0..1, shape (B, 3, side_px, side_px), the facts of the changed frames, and their places, (B, C, g, g').
    """
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(255.0)
    batch, cells = _crop(batch, torch.from_numpy(places), side_px=side_px, rng=rng)
    facts = facts.copy()
    for row in range(len(batch)):
        if facts[row, INDEX["day"]] == TRUE and rng.random() < (0.45 if real[row] else 0.12):
            style = rng.random()
            if style < 0.45:
                batch[row] = _night(batch[row], rng=rng)
                _becomes(facts[row], TIMES, "night")
                _forget_sky(facts[row])
            elif style < 0.7:
                batch[row] = _dusk(batch[row], rng=rng)
                _becomes(facts[row], TIMES, "dusk")
            elif facts[row, INDEX["snow"]] == FALSE and facts[row, INDEX["rain"]] == FALSE:
                batch[row] = _fog(batch[row], rng=rng)
                _becomes(facts[row], WEATHERS, "fog")
            complete(facts[row])
    return _sensor(batch, rng=rng).clamp_(0.0, 1.0), facts, cells


def _becomes(facts: NDArray[np.int8], group: tuple[str, ...], value: str) -> None:
    for name in group:
        facts[INDEX[name]] = FALSE
    facts[INDEX[value]] = TRUE


def _forget_sky(facts: NDArray[np.int8]) -> None:
    for name in ("clear", "overcast"):
        facts[INDEX[name]] = UNKNOWN


def _crop(
    batch: torch.Tensor, cells: torch.Tensor, *, side_px: int, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    side = batch.shape[-1]
    height, width = (int(rng.integers(round(0.86 * side), side + 1)) for _ in range(2))
    top, left = int(rng.integers(side - height + 1)), int(rng.integers(side - width + 1))
    batch = batch[:, :, top : top + height, left : left + width]
    batch = functional.interpolate(batch, size=(side_px, side_px), mode="bilinear", align_corners=False)
    step = side // cells.shape[-1]
    cells = cells[
        :, :, round(top / step) : round((top + height) / step), round(left / step) : round((left + width) / step)
    ]
    flip = torch.from_numpy(rng.random(len(batch)) < 0.5)
    batch[flip] = batch[flip].flip(-1)
    cells[flip] = cells[flip].flip(-1)
    return batch, cells


def _rows(image: torch.Tensor) -> torch.Tensor:
    return torch.linspace(0.0, 1.0, image.shape[-2])[None, :, None]


def _night(image: torch.Tensor, *, rng: np.random.Generator) -> torch.Tensor:
    """Dark and tinted, sky darkest, lit by lamps in the picture and by the vehicle's own."""
    side = image.shape[-1]
    rows = _rows(image)
    horizon = float(rng.uniform(0.4, 0.55))
    level = float(rng.uniform(0.1, 0.3))
    tint = torch.tensor(rng.uniform((0.8, 0.75, 0.6), (1.25, 1.0, 1.2)), dtype=torch.float32)[:, None, None]
    grey = image.mean(0, keepdim=True)
    muted = 0.6 * image + 0.4 * grey
    sky = (
        torch.where(rows < horizon, float(rng.uniform(0.2, 0.7)), 1.0)
        if float(grey[:, : side // 4].mean()) > 0.4
        else torch.ones_like(rows)
    )
    columns = torch.linspace(-1.0, 1.0, side)[None, None, :]
    cone = torch.exp(-(((rows - horizon - 0.2) / 0.2) ** 2)) * torch.exp(-((columns / 0.7) ** 2))
    dark = muted.pow(1.15) * level * sky * tint * (1.0 + float(rng.uniform(0.0, 2.0)) * cone)
    cells = 30
    lamps = torch.zeros(3, cells, cells)
    for _ in range(int(rng.integers(3, 22))):
        colour = ((1.0, 0.85, 0.55), (1.0, 0.95, 0.85), (1.0, 0.15, 0.1), (1.0, 0.6, 0.25))[int(rng.integers(4))]
        y = int(np.clip(rng.normal(horizon * cells, 3.5), 0, cells - 1))
        lamps[:, y, int(rng.integers(cells))] = torch.tensor(colour) * float(rng.uniform(0.5, 2.0))
    glow = functional.interpolate(lamps[None], size=(side, side), mode="bicubic", align_corners=False)[0]
    return dark + glow.clamp_(min=0.0)


def _dusk(image: torch.Tensor, *, rng: np.random.Generator) -> torch.Tensor:
    """Darker, with a warm band towards the horizon."""
    rows = _rows(image)
    band = torch.exp(-(((rows - 0.42) / 0.22) ** 2)) * (rows < 0.55)
    warm = torch.tensor(rng.uniform((0.9, 0.45, 0.25), (1.0, 0.65, 0.5)), dtype=torch.float32)[:, None, None]
    tint = torch.tensor(rng.uniform((0.95, 0.75, 0.65), (1.1, 0.9, 0.95)), dtype=torch.float32)[:, None, None]
    bright = (image.mean(0, keepdim=True) > 0.55).float() * band * float(rng.uniform(0.2, 0.8))
    dark = image * tint * float(rng.uniform(0.35, 0.62))
    return dark * (1.0 - bright) + bright * warm * float(rng.uniform(0.6, 0.95))


def _fog(image: torch.Tensor, *, rng: np.random.Generator) -> torch.Tensor:
    """Contrast falls with the distance guessed from the image row."""
    rows = _rows(image)
    horizon = float(rng.uniform(0.45, 0.55))
    distance = 1.0 / (rows - horizon).clamp(min=0.02)
    kept = torch.exp(-distance * float(rng.uniform(0.1, 0.3)))
    kept = torch.where(rows < horizon, float(kept.min()) + 0.35 * (horizon - rows).clamp(min=0) * 0.5, kept)
    white = torch.tensor(rng.uniform(0.6, 0.85) + rng.uniform(-0.02, 0.02, 3), dtype=torch.float32)[:, None, None]
    return image * kept + white * (1.0 - kept)


def _sensor(batch: torch.Tensor, *, rng: np.random.Generator) -> torch.Tensor:
    """Exposure, colour, blur, noise and missing patches; mild enough to leave hour and weather as they are."""
    count = len(batch)

    def per_frame(low: float, high: float, channels: int = 1) -> torch.Tensor:
        return torch.from_numpy(rng.uniform(low, high, (count, channels, 1, 1)).astype(np.float32))

    grey = batch.mean(1, keepdim=True)
    batch = grey + (batch - grey) * per_frame(0.3, 1.5)
    mean = batch.mean((1, 2, 3), keepdim=True)
    batch = mean + (batch - mean) * per_frame(0.7, 1.3)
    batch = batch * per_frame(0.75, 1.25) * per_frame(0.88, 1.12, channels=3)
    batch = batch.clamp_(0.0, 1.0).pow(per_frame(0.8, 1.25))
    choice = rng.random(count)
    for row in np.flatnonzero(choice < 0.25):
        if choice[row] < 0.12:
            batch[row] = functional.avg_pool2d(batch[row], 3, stride=1, padding=1)
        else:
            side = batch.shape[-1]
            small = functional.interpolate(batch[row][None], scale_factor=float(rng.uniform(0.4, 0.75)), mode="area")
            batch[row] = functional.interpolate(small, size=(side, side), mode="bilinear")[0]
    for row in np.flatnonzero((choice > 0.25) & (choice < 0.32)):
        batch[row] = batch[row].mean(0, keepdim=True)
    for row in np.flatnonzero(choice > 0.8):
        size = int(rng.integers(12, 40))
        y, x = (int(rng.integers(0, batch.shape[-1] - size)) for _ in range(2))
        batch[row, :, y : y + size, x : x + size] = float(rng.random())
    noise = torch.from_numpy(rng.standard_normal(batch.shape, dtype=np.float32))
    return batch + noise * per_frame(0.0, 0.05)
