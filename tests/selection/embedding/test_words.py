"""Texts on as few positions as they take have the vectors that all positions give; other towers are left as they are."""

from __future__ import annotations

from typing import Any

import open_clip
import pytest
import torch
from open_clip.model import CLIP, CustomTextCLIP

from selection.embedding.words import TextTower
from tests.selection.embedding.conftest import CONFIG

TEXTS = ["a road", "", "two red trucks wait", "car " * 60]


def _tower(model: Any) -> TextTower:
    tokenize = open_clip.SimpleTokenizer(context_length=CONFIG["model_cfg"]["text_cfg"]["context_length"])
    return TextTower(model, tokenize, device=torch.device("cpu"))


def _model(kind: Any = CLIP, **changed: Any) -> Any:
    torch.manual_seed(0)
    config = CONFIG["model_cfg"] | {"text_cfg": CONFIG["model_cfg"]["text_cfg"] | changed}
    return kind(**config).eval()


@pytest.mark.parametrize("kind", [CLIP, CustomTextCLIP])
@pytest.mark.parametrize("changed", [{}, {"pool_type": "eos", "eos_id": 49407}, {"proj_bias": True}])
@torch.inference_mode()
def test_short_texts_have_the_vectors_of_all_positions(kind: Any, changed: dict[str, Any]) -> None:
    model = _model(kind, **changed)
    tower = _tower(model)
    lengths: list[int] = []
    inner = model.text.transformer if hasattr(model, "text") else model.transformer
    inner.register_forward_pre_hook(lambda _module, given: lengths.append(given[0].shape[1]))
    for texts in (*([one] for one in TEXTS), TEXTS):
        assert torch.allclose(tower.features(texts), tower._whole(tower._tokenize(texts)), atol=1e-5)
    assert lengths[0::2] == [8, 8, 8, 16, 16]


@pytest.mark.parametrize("changed", [{"no_causal_mask": True}, {"pool_type": "last"}, {"pool_type": "first"}])
@torch.inference_mode()
def test_a_tower_that_looks_further_computes_all_positions(changed: dict[str, Any]) -> None:
    tower = _tower(_model(**changed))
    assert not tower._cuts
    assert torch.equal(tower.features(TEXTS), tower._whole(tower._tokenize(TEXTS)))


@torch.inference_mode()
def test_a_tower_that_answers_otherwise_when_cut_is_left_whole() -> None:
    model = _model()
    whole = model.encode_text
    model.encode_text = lambda tokens: -whole(tokens)
    assert not _tower(model)._cuts
