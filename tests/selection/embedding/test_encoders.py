"""Encoders: one format, one choice for all processes, an announced stand-in."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from infra.errors import BackendUnavailable, Conflict, InvalidInput
from infra.platform import Platform
from selection.devices import on_all_cores
from selection.embedding import encoders, weights


def _with(platform: Platform, encoder: str | Path) -> Platform:
    settings = platform.settings.model_copy(update={"encoder": str(encoder), "device": "cpu"})
    return Platform(settings=settings, database=platform.database, objects=platform.objects)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, other_checkpoint: Path) -> Path:
    """Stands in for the encoder that ships with the project."""
    monkeypatch.setattr(weights, "SMALL_ENCODER", other_checkpoint)
    return other_checkpoint


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights in any cache, and no way out."""
    import huggingface_hub

    monkeypatch.setattr(weights, "_cached", lambda _source: iter(()))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")


def test_vectors_have_unit_length_and_one_dimension(platform: Platform, checkpoint: Path) -> None:
    encoder = encoders.load_encoder(_with(platform, checkpoint))
    noise = np.random.default_rng(0).integers(0, 255, (3, 40, 60, 3), dtype=np.uint8)
    pictures = [Image.fromarray(one) for one in noise]
    vectors = encoder.encode_images([*pictures, pictures[0].convert("L")])
    texts = encoder.encode_texts(["a road", "a road", "rain"])
    assert vectors.dtype == texts.dtype == np.float32
    assert (vectors.shape, texts.shape, encoder.dimension) == ((4, 16), (3, 16), 16)
    for one in (vectors, texts):
        assert np.linalg.norm(one, axis=1) == pytest.approx(np.ones(len(one)), abs=1e-5)
    assert texts[0] == pytest.approx(texts[1])
    assert np.abs(texts[0] - texts[2]).max() > 1e-3
    assert encoder.encode_images([]).shape == (0, 16)
    assert encoder.notice is None
    many = encoder.encode_images(pictures * 25)
    assert many[72:] == pytest.approx(vectors[:3], abs=1e-5), "batches do not matter"


def test_texts_are_computed_in_the_thread_that_has_all_cores(
    platform: Platform, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = encoders.load_encoder(_with(platform, checkpoint))
    computed, features = [], encoder._texts.features
    monkeypatch.setattr(
        encoder._texts, "features", lambda texts: (computed.append(threading.get_ident()), features(texts))[1]
    )
    with ThreadPoolExecutor(max_workers=4) as pool:
        list(pool.map(lambda word: encoder.encode_texts([word]), ["night", "day", "rain", "snow"]))

    assert set(computed) == {on_all_cores(threading.get_ident)}


def test_the_choice_is_recorded_and_its_id_follows_the_weights(
    platform: Platform, checkpoint: Path, other_checkpoint: Path
) -> None:
    here = _with(platform, checkpoint)
    assert encoders.chosen(here) is None
    assert encoders.current_encoder_id(here) is None
    encoder = encoders.load_encoder(here)
    assert encoders.current_encoder_id(here) == encoder.encoder_id
    assert encoder.encoder_id.startswith("tiny-")
    assert encoders.load_encoder(_with(platform, f"local-dir:{checkpoint}")).encoder_id == encoder.encoder_id
    assert encoders.load_encoder(_with(platform, other_checkpoint)).encoder_id != encoder.encoder_id


def test_changed_weights_under_the_same_name_are_refused(
    platform: Platform, checkpoint: Path, other_checkpoint: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "mine"))
    first = encoders.load_encoder(_with(platform, folder)).encoder_id
    shutil.copy(other_checkpoint / "open_clip_model.safetensors", folder)
    with pytest.raises(Conflict, match="embedded with"):
        encoders.load_encoder(_with(platform, folder))
    encoders.forget_choice(_with(platform, folder))
    assert encoders.load_encoder(_with(platform, folder)).encoder_id != first


def test_the_small_encoder_is_used_by_name_and_announced(platform: Platform) -> None:
    encoder = encoders.load_encoder(_with(platform, "small"))
    assert encoder.encoder_id.startswith("small-")
    assert encoder.notice is not None
    assert "small encoder" in encoder.notice
    assert "\n" not in encoder.notice


@pytest.mark.usefixtures("unreachable")
def test_without_a_network_the_small_encoder_stands_in_for_good(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, checkpoint: Path
) -> None:
    here = _with(platform, "ViT-B-32/laion2b_s34b_b79k")
    encoder = encoders.load_encoder(here)
    assert encoder.encoder_id == encoders.load_encoder(_with(platform, "small")).encoder_id
    assert encoder.notice is not None
    assert encoder.notice.startswith("encoder ViT-B-32/laion2b_s34b_b79k cannot be had here (no network")
    choice = encoders.chosen(here)
    assert choice is not None
    assert (choice.kind, choice.notice) == ("small", encoder.notice)

    def reachable(_setting: str) -> Any:
        return weights.from_folder(checkpoint, name="real")

    monkeypatch.setattr(weights, "_named", reachable)
    assert encoders.load_encoder(here).encoder_id == encoder.encoder_id, "the fleet does not change encoders by itself"
    encoders.forget_choice(here)
    assert encoders.load_encoder(here).encoder_id.startswith("real-")


@pytest.mark.usefixtures("unreachable")
def test_a_machine_without_the_fleets_weights_says_so(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, checkpoint: Path
) -> None:
    here = _with(platform, "ViT-B-32/laion2b_s34b_b79k")
    with monkeypatch.context() as patch:
        patch.setattr(weights, "_named", lambda _setting: weights.from_folder(checkpoint, name="real"))
        encoders.load_encoder(here)
    with pytest.raises(BackendUnavailable, match="this fleet uses encoder real-"):
        encoders.load_encoder(here)


def test_a_new_small_encoder_replaces_the_one_before(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, checkpoint: Path
) -> None:
    here = _with(platform, "small")
    before = encoders.load_encoder(here).encoder_id
    monkeypatch.setattr(weights, "SMALL_ENCODER", checkpoint)
    after = encoders.load_encoder(here).encoder_id
    assert after != before
    assert encoders.current_encoder_id(here) == after


def test_weights_known_by_name_load_from_the_cache(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, checkpoint: Path
) -> None:
    import open_clip

    open_clip.add_model_config(_as_built_in(checkpoint))
    monkeypatch.setattr(
        open_clip, "get_pretrained_cfg", lambda _model, _tag: {"mean": (0.1, 0.1, 0.1), "resize_mode": "squash"}
    )
    monkeypatch.setattr(weights, "_cached", lambda _source: iter([checkpoint / "open_clip_model.safetensors"]))
    encoder = encoders.load_encoder(_with(platform, "tiny-built-in/some_weights"))
    assert encoder.encoder_id.startswith("tiny-built-in_some_weights-")
    assert encoder.encode_images([Image.new("RGB", (40, 30))]).shape == (1, 16)


def _as_built_in(checkpoint: Path) -> Path:
    import json

    config = json.loads((checkpoint / weights.CONFIG_NAME).read_text())["model_cfg"]
    path = checkpoint.parent / "tiny-built-in.json"
    path.write_text(json.dumps(config))
    return path


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("ViT-B-32/laion2b", "did you mean .*ViT-B-32"),
        ("ViT-B-32", "ViT-B-32"),
        ("/no/such/folder", "no open_clip checkpoint directory"),
    ],
)
def test_a_setting_that_means_nothing_is_an_error(platform: Platform, setting: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        encoders.load_encoder(_with(platform, setting))


def test_a_folder_must_hold_one_weights_file(platform: Platform, checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "two"))
    (folder / "other.bin").write_bytes(b"")
    with pytest.raises(InvalidInput, match="exactly one weights file"):
        encoders.load_encoder(_with(platform, folder))


def test_a_missing_small_encoder_says_what_to_set(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(weights, "SMALL_ENCODER", tmp_path)
    with pytest.raises(BackendUnavailable, match="MLPL_ENCODER"):
        encoders.load_encoder(_with(platform, "small"))


def test_a_checkpoint_is_copied_from_an_object_store(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, checkpoint: Path
) -> None:
    # The store behind the address is a folder here; S3 itself is the object store's business and tested there.
    real = weights.open_objects
    monkeypatch.setattr(
        weights, "open_objects", lambda settings: real(settings.model_copy(update={"object_store": str(checkpoint)}))
    )
    here = _with(platform, "s3://bucket/encoders/tiny")
    encoder = encoders.load_encoder(here)
    assert encoder.encoder_id == encoders.load_encoder(_with(platform, checkpoint)).encoder_id
    copies = list((platform.settings.home / "encoders").rglob("*.safetensors"))
    assert len(copies) == 1
    assert encoders.load_encoder(here).encoder_id == encoder.encoder_id
