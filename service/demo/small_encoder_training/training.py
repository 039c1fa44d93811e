"""Trains the small encoder and writes it in open_clip's own format."""

import copy
import json
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from service.demo.small_encoder_training import captions
from service.demo.small_encoder_training.augmentation import augment
from service.demo.small_encoder_training.facts import CLASSES, FALSE, TRUE
from service.demo.small_encoder_training.store import NOT_KNOWN, PRESENT, Store

SIDE_PX = 176
# Small pictures first: most of what is to be learned shows at low resolution, at a third of the cost.
_SIDES = ((0.3, 112), (0.55, 144), (1.0, SIDE_PX))
CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 256,
        "vision_cfg": {
            "image_size": SIDE_PX,
            "timm_model_name": "mobilenetv3_small_100",
            "timm_model_pretrained": False,
            "timm_pool": "avgmax",
            "timm_proj": "",
        },
        "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 96, "heads": 3, "layers": 3},
    },
    "preprocess_cfg": {
        "mean": [0.45, 0.45, 0.45],
        "std": [0.26, 0.26, 0.26],
        "interpolation": "bicubic",
        "resize_mode": "squash",
    },
}


_Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""Normalised pixels (N, 3, side, side), tokens (C, context length), the truth of each pair (N, C), and where objects
are (N, classes, g, g')."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train. `steps` fixes the schedule (reproducible); `minutes` stops by the clock instead."""

    steps: int | None = None
    minutes: float | None = None
    batch: int = 80
    captions: int = 128
    real_share: float = 0.4
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    locating: float = 0.6
    """Weight of the loss that asks where objects are."""
    seed: int = 0


class Locator(torch.nn.Module):
    """Says from feature maps of the vision tower where objects of each class are.

    Only used in training: small objects are learned far sooner when the loss also tells where they are.
    """

    def __init__(self, model: Any) -> None:
        """Listens to the tower's maps at strides 16 and 32."""
        super().__init__()
        self.heads = torch.nn.ModuleList([torch.nn.Conv2d(48, len(CLASSES), 1), torch.nn.Conv2d(576, len(CLASSES), 1)])
        for head in self.heads:
            torch.nn.init.constant_(head.bias, -3.0)  # type: ignore[arg-type]
        self._maps: dict[int, torch.Tensor] = {}
        for position, stage in enumerate((3, 5)):
            model.visual.trunk.blocks[stage].register_forward_hook(
                lambda _module, _inputs, output, position=position: self._maps.__setitem__(position, output)
            )

    def loss(self, places: torch.Tensor) -> torch.Tensor:
        """Cross entropy per cell of the last forward pass, over cells whose truth is known, by number of objects."""
        total = torch.zeros(())
        for position, head in enumerate(self.heads):
            logits = head(self._maps[position])
            size = logits.shape[-2:]
            there = functional.adaptive_max_pool2d((places == PRESENT).float(), size)
            known = (functional.adaptive_avg_pool2d((places != NOT_KNOWN).float(), size) > 0.99) | (there > 0)
            losses = functional.binary_cross_entropy_with_logits(
                logits, there, reduction="none", pos_weight=torch.tensor(2.0)
            )
            total = total + (losses * known).sum() / (there.sum() + 1.0)
        return total


def build_model() -> Any:
    """An untrained model of the shipped configuration; tokens that no caption uses start at zero and stay there."""
    import open_clip

    model_cfg = CONFIG["model_cfg"]
    model = open_clip.CLIP(
        embed_dim=model_cfg["embed_dim"], vision_cfg=dict(model_cfg["vision_cfg"]), text_cfg=dict(model_cfg["text_cfg"])
    )
    used = torch.unique(_tokenizer()(captions.every_text()))
    with torch.no_grad():
        mask = torch.zeros(model.token_embedding.weight.shape[0], 1)
        mask[used] = 1.0
        model.token_embedding.weight.mul_(mask * 5.0)
        model.logit_scale.fill_(float(np.log(10.0)))
    return model


def train(store: Store, recipe: Recipe, *, work: Path, out: Path, log: Callable[[str], None]) -> Any:
    """Trains, resuming from `work/checkpoint.pt` if there is one, and exports the averaged weights to `out`.

    Returns:
        The trained model with averaged weights.
    """
    torch.manual_seed(recipe.seed)
    model = build_model()
    model.visual.to(memory_format=torch.channels_last)
    bias = torch.nn.Parameter(torch.tensor(-2.0))
    average = copy.deepcopy(model)
    locator = Locator(model)
    optimizer = torch.optim.AdamW(_groups(model, locator, bias, recipe), lr=recipe.learning_rate, betas=(0.9, 0.98))
    checkpoint, step, elapsed_s = work / "checkpoint.pt", 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=False)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        locator.load_state_dict(state["locator"])
        bias.data.copy_(state["bias"])
        step, elapsed_s = state["step"], state["elapsed_s"]
    maker = ThreadPoolExecutor(max_workers=1)

    def prepare(number: int, done: float) -> Future[_Batch]:
        """Starts making a batch; each has its own seed, so a resumed run sees the same ones."""
        side_px = next(side for until, side in _SIDES if done < until)
        return maker.submit(_batch, store, recipe, side_px=side_px, rng=np.random.default_rng((recipe.seed, number)))

    coming: Future[_Batch] | None = None
    started = saved = time.monotonic()
    before_s = elapsed_s
    recent: list[tuple[float, float]] = []
    while True:
        elapsed_s = before_s + time.monotonic() - started
        progress = step / recipe.steps if recipe.steps else elapsed_s / (60.0 * (recipe.minutes or 1.0))
        if progress >= 1.0:
            break
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * min(1.0, (step + 1) / 100) * (0.5 + 0.5 * np.cos(np.pi * progress))
        batch = (coming or prepare(step, progress)).result()
        coming = prepare(step + 1, progress)
        loss = _loss(model, bias, batch)
        where = locator.loss(batch[3])
        optimizer.zero_grad(set_to_none=True)
        (loss + recipe.locating * where).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0.0, float(np.log(60.0)))
        _average(average, model, decay=min(0.99, (step + 1) / (step + 20)))
        step += 1
        recent.append((float(loss.detach()), float(where.detach())))
        if step % 25 == 0:
            log(
                f"step {step} {elapsed_s / 60:.1f} min loss {np.mean(recent[-25:], axis=0).round(3)} scale {model.logit_scale.exp():.1f}"
            )
        if time.monotonic() - saved > 150.0:
            saved = time.monotonic()
            state = {"model": model.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict(),
                     "locator": locator.state_dict(), "bias": bias.data, "step": step, "elapsed_s": elapsed_s}  # fmt: skip
            torch.save(state, checkpoint.with_suffix(".tmp"))
            checkpoint.with_suffix(".tmp").replace(checkpoint)
            export(average, out)
    maker.shutdown(cancel_futures=True)
    export(average, out)
    log(f"done: {step} steps, {elapsed_s / 60:.1f} minutes")
    return average


def export(model: Any, out: Path) -> None:
    """Writes `open_clip_config.json` and `open_clip_model.safetensors`; matrices and kernels in half precision."""
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: (value.half() if value.ndim >= 2 else value).detach().contiguous().clone()
        for name, value in model.state_dict().items()
        if name != "attn_mask"
    }
    temporary = out / "open_clip_model.safetensors.tmp"
    save_file(tensors, temporary, metadata={"format": "pt"})
    temporary.replace(out / "open_clip_model.safetensors")
    (out / "open_clip_config.json").write_text(json.dumps(CONFIG, indent=2) + "\n", encoding="utf-8")


def pair_loss(image_emb: torch.Tensor, text_emb: torch.Tensor, held: torch.Tensor, scale: torch.Tensor,
              bias: torch.Tensor) -> torch.Tensor:  # fmt: skip
    """Sigmoid loss over known pairs plus, for each caption, a softmax that ranks its true frames above its false ones.

    The sigmoid part follows Zhai et al., "Sigmoid Loss for Language Image Pre-Training", ICCV 2023, with the truth of
    each pair in place of the diagonal; true and false pairs of a caption weigh the same.

    Args:
        image_emb: Shape (N, D), unit rows.
        text_emb: Shape (C, D), unit rows.
        held: Shape (N, C): 1 true, 0 false, -1 unknown (ignored).
        scale: Factor on the cosine.
        bias: Added to the scaled cosine in the sigmoid part only.
    """
    cosine = image_emb @ text_emb.T
    true, false = (held == TRUE).float(), (held == FALSE).float()
    trues, falses = true.sum(0), false.sum(0)
    logits = scale * cosine + bias
    losses = true / trues.clamp(min=1.0) * functional.softplus(-logits) + false / falses.clamp(
        min=1.0
    ) * functional.softplus(logits)
    both = (trues > 0) & (falses > 0)
    sigmoid = losses.sum(0).mean()
    against = torch.logsumexp((scale * cosine).masked_fill(held != FALSE, -1e4), dim=0, keepdim=True)
    ranking = (true * functional.softplus(against - scale * cosine)).sum(0) / trues.clamp(min=1.0)
    return sigmoid + 0.3 * (ranking * both).sum() / both.sum().clamp(min=1)


def _tokenizer() -> Any:
    import open_clip

    return open_clip.SimpleTokenizer(context_length=CONFIG["model_cfg"]["text_cfg"]["context_length"])


_TOKENS: dict[str, torch.Tensor] = {}


def _tokens(texts: list[str]) -> torch.Tensor:
    missing = [text for text in texts if text not in _TOKENS]
    if missing:
        for text, row in zip(missing, _tokenizer()(missing), strict=True):
            _TOKENS[text] = row
    return torch.stack([_TOKENS[text] for text in texts])


def _batch(store: Store, recipe: Recipe, *, side_px: int, rng: np.random.Generator) -> _Batch:
    from_real = round(recipe.batch * recipe.real_share)
    rows = np.concatenate([
        rng.choice(np.flatnonzero(store.real), from_real),
        rng.choice(np.flatnonzero(~store.real), recipe.batch - from_real, replace=False),
    ])  # fmt: skip
    pixels, facts, places = augment(
        store.images[rows], store.facts[rows], store.places[rows], store.real[rows], side_px=side_px, rng=rng
    )
    mean, std = (torch.tensor(CONFIG["preprocess_cfg"][key])[None, :, None, None] for key in ("mean", "std"))
    sampled = captions.sample_captions(rng, count=recipe.captions)
    held = torch.from_numpy(captions.truth(sampled, facts))
    pixels = ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)
    return pixels, _tokens([caption.text for caption in sampled]), held, places


def _loss(model: Any, bias: torch.Tensor, batch: _Batch) -> torch.Tensor:
    pixels, tokens, held, _ = batch
    image_emb = model.encode_image(pixels, normalize=True)
    text_emb = model.encode_text(tokens, normalize=True)
    return pair_loss(image_emb, text_emb, held, model.logit_scale.exp(), bias)


def _groups(model: Any, locator: Locator, bias: torch.Tensor, recipe: Recipe) -> list[dict[str, Any]]:
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    return [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": [*plain, *locator.parameters(), bias], "weight_decay": 0.0},
    ]


@torch.no_grad()
def _average(average: Any, model: Any, *, decay: float) -> None:
    for mine, theirs in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if mine.dtype.is_floating_point:
            mine.lerp_(theirs, 1.0 - decay)
        else:
            mine.copy_(theirs)
