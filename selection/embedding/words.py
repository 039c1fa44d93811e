"""Texts through an open_clip text tower, on as many positions as their words take.

A tower computes all of its positions (77 for CLIP), however few words there are. Where each position sees only those before it (a causal
mask) and the vector is read at the end-of-text token, what follows that token changes nothing, so it is not computed: a search's dozen tokens take
a fifth of the time. Towers that see both ways, or read elsewhere, compute everything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from infra.logs import get_logger

if TYPE_CHECKING:
    import torch

_STEP = 8
"""Lengths are rounded up to multiples of this, so that kernels meet few shapes."""
_TRIALS = ("a road", "two red trucks wait behind a cyclist at a junction in heavy rain")

_log = get_logger(__name__)


class TextTower:
    """Texts to features. Safe to share between threads."""

    def __init__(self, model: Any, tokenize: Callable[[list[str]], torch.Tensor], *, device: torch.device) -> None:
        """Tries out whether this model's texts may be cut short.

        Args:
            model: An open_clip model on its device.
            tokenize: Its tokenizer: texts to tokens, shape (N, positions), on the CPU.
            device: Where the model is.
        """
        self._model, self._tokenize, self._device = model, tokenize, device
        self._cuts = _reads_at_the_end(model) and self._agrees()

    def features(self, texts: Sequence[str]) -> torch.Tensor:
        """Features of texts, shape (N, D), of any length."""
        tokens = self._tokenize(list(texts))
        return self._cut(tokens) if self._cuts else self._whole(tokens)

    def _whole(self, tokens: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self._model.encode_text(tokens.to(self._device))
        return found

    def _cut(self, tokens: torch.Tensor) -> torch.Tensor:
        """`encode_text` of open_clip's `CLIP` and `CustomTextCLIP`, on the first positions only."""
        import torch

        tower, pool, end = _parts(self._model)
        # The end-of-text token has the highest number, or one that the tower names; unused positions repeat lower ones or zero.
        ends_N = tokens.argmax(dim=-1) if pool == "argmax" else torch.eq(tokens, end).int().argmax(dim=-1)
        length = min(tokens.shape[1], -(-(int(ends_N.max()) + 1) // _STEP) * _STEP)
        tokens = tokens[:, :length].to(self._device)
        dtype = tower.transformer.get_cast_dtype()
        x = tower.token_embedding(tokens).to(dtype) + tower.positional_embedding[:length].to(dtype)
        x = tower.ln_final(tower.transformer(x, attn_mask=tower.attn_mask[:length, :length]))
        found: torch.Tensor = x[torch.arange(len(x), device=x.device), ends_N.to(x.device)]
        project = tower.text_projection
        if project is not None:
            found = project(found) if isinstance(project, torch.nn.Module) else found @ project
        return found

    def _agrees(self) -> bool:
        """Whether short and whole give the same vectors, whatever a later open_clip makes of its models."""
        import torch

        try:
            with torch.inference_mode():
                tokens = self._tokenize(list(_TRIALS))
                alike = torch.nn.functional.cosine_similarity(self._cut(tokens), self._whole(tokens), dim=-1)
            return bool((alike > 1 - 1e-4).all())
        except Exception as exc:
            # A tower of another build: it computes all positions, which is slower and right.
            _log.debug("text_positions_kept", reason=str(exc))
            return False


def _parts(model: Any) -> tuple[Any, str, Any]:
    """The module that holds the text tower's layers, how it pools, and the number of its end-of-text token."""
    if hasattr(model, "text"):
        return model.text, model.text.pool_type, getattr(model.text, "eos_id", None)
    return model, model.text_pool_type, getattr(model, "text_eos_id", None)


def _reads_at_the_end(model: Any) -> bool:
    """Whether the tower is causal and read at the end-of-text token."""
    try:
        tower, pool, end = _parts(model)
    except AttributeError:
        return False  # A tower that is no open_clip transformer.
    if getattr(tower, "attn_mask", None) is None or getattr(tower, "cls_emb", None) is not None:
        return False
    return pool == "argmax" or (pool == "eos" and end is not None)
