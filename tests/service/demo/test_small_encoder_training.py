"""Facts, captions, loss and the batches the small encoder learns from."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.demo.small_encoder_training import captions
from service.demo.small_encoder_training.facts import FACTS, FALSE, INDEX, TRUE, UNKNOWN, facts_of


def _value(facts: np.ndarray, name: str) -> int:  # type: ignore[type-arg]
    return int(facts[INDEX[name]])


def test_simulated_frames_are_known_completely_in_their_classes() -> None:
    line = {
        "drive": "d", "attributes": {"synthetic": True, "timeofday": "night", "weather": "rain", "scene": "city"},
        "objects": [{"label": "pedestrian", "bbox_xyxy_px": [0, 0, 10, 80]}],
    }  # fmt: skip
    facts = facts_of(line)
    for name in ("night", "rain", "pedestrian", "close_pedestrian", "someone", "dark", "buildings"):
        assert _value(facts, name) == TRUE, name
    for name in ("day", "snow", "cyclist", "car", "vehicle", "guard_rail", "twilight"):
        assert _value(facts, name) == FALSE, name


def test_an_unlabelled_frame_leaves_objects_unknown() -> None:
    facts = facts_of({"attributes": {"timeofday": "day"}, "objects": [], "classes": []})
    assert _value(facts, "day") == TRUE
    assert _value(facts, "night") == FALSE
    assert _value(facts, "pedestrian") == UNKNOWN
    assert _value(facts, "clear") == UNKNOWN


def test_what_was_seen_by_eye_counts() -> None:
    facts = facts_of({"attributes": {}, "seen": ["car"], "not_seen": ["pedestrian", "cyclist"]})
    assert _value(facts, "vehicle") == TRUE
    assert _value(facts, "someone") == FALSE
    assert _value(facts, "close_pedestrian") == FALSE


def test_one_false_claim_makes_a_caption_false() -> None:
    facts = np.full((3, len(FACTS)), UNKNOWN, dtype=np.int8)
    facts[0, [INDEX["car"], INDEX["night"]]] = TRUE
    facts[1, INDEX["night"]] = FALSE
    facts[2, INDEX["night"]] = TRUE
    both = captions.Caption(text="a car at night", claims=((INDEX["car"], TRUE), (INDEX["night"], TRUE)))
    assert captions.truth([both], facts)[:, 0].tolist() == [TRUE, FALSE, UNKNOWN]


def test_captions_repeat_with_the_seed_and_use_known_words() -> None:
    first = captions.sample_captions(np.random.default_rng(3), count=50)
    assert first == captions.sample_captions(np.random.default_rng(3), count=50)
    words = {word.strip(",.") for text in captions.every_text() for word in text.lower().split()}
    assert {word.strip(",.") for caption in first for word in caption.text.lower().split()} <= words


def test_the_loss_rewards_true_pairs_and_ignores_unknown_ones() -> None:
    import torch

    from service.demo.small_encoder_training.training import pair_loss

    images = torch.eye(3)
    held = torch.tensor([[1, 0], [0, 1], [-1, -1]])
    scale, bias = torch.tensor(10.0), torch.tensor(-3.0)
    good = pair_loss(images, torch.eye(3)[:2], held, scale, bias)
    bad = pair_loss(images, torch.eye(3)[[1, 0]], held, scale, bias)
    changed = pair_loss(torch.cat([images[:2], images[:1]]), torch.eye(3)[:2], held, scale, bias)
    assert good < bad
    assert changed == pytest.approx(float(good))


def test_augmentation_changes_facts_with_the_picture() -> None:
    from service.demo.small_encoder_training.augmentation import augment

    rng = np.random.default_rng(0)
    images = rng.integers(60, 200, (40, 64, 64, 3)).astype(np.uint8)
    line = {"attributes": {"timeofday": "day", "weather": "clear"}}
    facts = np.repeat(facts_of(line)[None], 40, axis=0)
    places = np.zeros((40, 8, 16, 16), dtype=np.uint8)
    pixels, changed, cells = augment(images, facts, places, np.ones(40, dtype=bool), side_px=48, rng=rng)
    assert cells.shape[:2] == (40, 8)
    assert pixels.shape == (40, 3, 48, 48)
    assert float(pixels.min()) >= 0.0
    assert float(pixels.max()) <= 1.0
    night, day = changed[:, INDEX["night"]] == TRUE, changed[:, INDEX["day"]] == TRUE
    assert night.any()
    assert day.any()
    assert float(pixels[night].mean()) < 0.6 * float(pixels[day].mean())
    assert (facts[:, INDEX["day"]] == TRUE).all()


def test_places_move_with_the_crop_and_the_mirror() -> None:
    from service.demo.small_encoder_training.augmentation import augment

    rng = np.random.default_rng(1)
    images = np.full((30, 64, 64, 3), 90, dtype=np.uint8)
    images[:, 20:44, 8:24] = 250
    places = np.zeros((30, 8, 32, 32), dtype=np.uint8)
    places[:, 3, 10:22, 4:12] = 1
    facts = np.repeat(facts_of({"attributes": {}})[None], 30, axis=0)
    pixels, _, cells = augment(images, facts, places, np.zeros(30, dtype=bool), side_px=64, rng=rng)
    left = pixels[..., :32].mean((1, 2, 3)) > pixels[..., 32:].mean((1, 2, 3))
    half = cells.shape[-1] // 2
    marked_left = cells[:, 3, :, :half].sum((1, 2)) > cells[:, 3, :, half:].sum((1, 2))
    # A blanked patch may hide the bright half of a few frames.
    assert int((left == marked_left).sum()) >= 26
    assert left.any()
    assert not left.all()


def test_a_box_covers_cells_and_unlabelled_classes_stay_unknown(tmp_path: Path) -> None:
    from service.demo.small_encoder_training import store

    for name, line in {
        "fleet": {
            "file": "a.jpg", "drive": "d", "attributes": {"synthetic": True, "timeofday": "day"},
            "objects": [{"label": "cyclist", "bbox_xyxy_px": [240, 135, 480, 270]}],
        },
        "real/one": {
            "file": "a.jpg", "width": 480, "height": 270, "license_class": "permissive",
            "attributes": {"timeofday": "day"}, "objects": [], "classes": [],
        },
        "real/two": {"file": "absent.jpg", "license_class": "research"},
    }.items():  # fmt: skip
        (tmp_path / name).mkdir(parents=True)
        Image.new("RGB", (480, 270), (90, 90, 90)).save(tmp_path / name / "a.jpg")
        (tmp_path / name / "metadata.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    loaded = store.load(simulated=tmp_path / "fleet", real_data=tmp_path / "real", seed=0)
    assert loaded.real.tolist() == [False, True, True, True, True]
    cyclist = loaded.places[0, 4]
    assert cyclist[40, 40] == store.PRESENT
    assert cyclist[10, 10] == store.ABSENT
    assert (loaded.places[0, 3] == store.ABSENT).all()
    assert (loaded.places[1] == store.NOT_KNOWN).all()


def test_only_permissive_rows_of_real_data_are_named_by_eye() -> None:
    path = Path(captions.__file__).with_name("seen_by_eye.json")
    seen = json.loads(path.read_text(encoding="utf-8"))
    assert set(seen) <= {"driveai", "lums_road", "udacity_carnd", "carla_synthetic"}
    for files in seen.values():
        for entry in files.values():
            assert {*entry["seen"], *entry["not_seen"]} <= set(FACTS)
