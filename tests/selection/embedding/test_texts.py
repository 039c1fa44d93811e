"""Texts are computed for their own tokens, and their vectors are those of the whole way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from selection.embedding.texts import text_features

TEXTS = ["night", "a long road at dusk", ""]


@pytest.fixture
def model(checkpoint: Path) -> Any:
    return open_clip.create_model(f"local-dir:{checkpoint}", require_pretrained=True).eval()


@pytest.fixture
def tokenize(checkpoint: Path) -> Callable[[list[str]], torch.Tensor]:
    tokenizer: Callable[[list[str]], torch.Tensor] = open_clip.get_tokenizer(f"local-dir:{checkpoint}")
    return tokenizer


def _lengths(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of the token sequences that the model is given from now on."""
    seen: list[int] = []
    whole = model.encode_text
    monkeypatch.setattr(model, "encode_text", lambda tokens: (seen.append(tokens.shape[1]), whole(tokens))[1])
    return seen


def test_padding_is_left_out_and_moves_no_vector(
    model: Any, tokenize: Callable[[list[str]], torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    features = text_features(model, tokenize, device=torch.device("cpu"))
    with torch.inference_mode():
        tokens = tokenize(TEXTS)
        expected = model.encode_text(tokens)
        seen = _lengths(model, monkeypatch)
        torch.testing.assert_close(features(tokens), expected, rtol=1e-4, atol=1e-5)
        features(tokens[:1])
        torch.testing.assert_close(model.encode_text(tokens), expected)  # Nothing of the model was changed.

    longest, shortest, whole = seen
    assert shortest == 3, "beginning, word, end"
    assert 3 < longest < whole == tokens.shape[1]


def test_a_text_that_fills_all_places_is_cut_nowhere(model: Any, tokenize: Callable[[list[str]], torch.Tensor]) -> None:
    features = text_features(model, tokenize, device=torch.device("cpu"))
    with torch.inference_mode():
        tokens = tokenize(["word " * 200, "night"])
        torch.testing.assert_close(features(tokens), model.encode_text(tokens), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["sees what follows", "pooled elsewhere"])
def test_other_models_take_the_whole_way(
    model: Any, tokenize: Callable[[list[str]], torch.Tensor], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    tower = model if hasattr(model, "text_pool_type") else model.text
    if kind == "sees what follows":
        tower.attn_mask = torch.zeros_like(tower.attn_mask)
    elif hasattr(tower, "text_pool_type"):
        tower.text_pool_type = "last"
    else:
        tower.pool_type = "last"
    features = text_features(model, tokenize, device=torch.device("cpu"))
    seen = _lengths(model, monkeypatch)
    with torch.inference_mode():
        features(tokenize(["night"]))

    assert seen == [tokenize(["night"]).shape[1]]
