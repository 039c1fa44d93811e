"""Predictions from files of all task kinds: what gets into the shards, what is refused, and what a repeated import does."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from annotation import tasks
from infra.errors import InvalidInput, NotFound
from selection import shards
from selection.ranking import acquisition
from selection.ranking.predictions import Predictions
from selection.scores import committee
from training import models
from training.importing import importing

SURE = [0.9, 0.05, 0.05]


def _boxes(*confidences: float, label: str = "car") -> list[dict[str, Any]]:
    return [{"bbox_xyxy_px": [i, 0, i + 10, 10], "label": label, "confidence": c} for i, c in enumerate(confidences)]


def test_multilabel_predictions_become_the_current_model(line: Any) -> None:
    line.task("multilabel")
    source = line.write(
        [
            {"frame_id": line.frame_id(5), "probabilities": [0.5, 0.25, 1.0]},
            {"file": "000.jpg", "probabilities": {"truck": 0.5, "person": 0.0, "car": 1.0}},
            {"file": "images/003.jpg", "car": 0.1, "person": 0.2, "truck": 0.3},
        ]
    )
    report = line.bring(source)
    assert report.summary() == "imported predictions of 3 frames as imported-t1-m1"
    table = line.table()
    assert table["probability"].to_pylist()[0] == [1.0, 0.0, 0.5]
    assert [row for row, one in enumerate(table["probability"].to_pylist()) if one is not None] == [0, 3, 5]
    expected = acquisition.entropy(np.array([[0.5, 0.25, 1.0]]), kind="multilabel")
    assert table["entropy"].to_pylist()[5] == pytest.approx(float(expected[0]))
    assert "bald" not in table.column_names
    model = models.current(line.platform.database, "t1")
    assert model is not None
    assert (model.model_id, model.origin, model.architecture, model.metric) == (
        "imported-t1-m1",
        "imported",
        "m1",
        None,
    )
    assert models.current_trained(line.platform.database, "t1") is None
    (one,) = importing.imports_of(line.platform.database, model.model_id)
    assert one.digest == hashlib.sha256(source.read_bytes()).hexdigest()
    assert (one.frames, one.source) == (3, str(source))


def test_the_same_model_only_grows(line: Any) -> None:
    line.task("classification")
    first = line.write([{"file": f"{row:03d}.jpg", "probabilities": SURE} for row in (1, 2)], "first.jsonl")
    line.bring(first)
    before = shards.records(line.platform.database, "predictions", "imported-t1-m1")
    predictions = Predictions(line.platform, "imported-t1-m1")
    predictions.refresh()
    assert line.bring(first).summary() == "imported predictions of 0 frames as imported-t1-m1, 2 frames had one already"
    assert shards.records(line.platform.database, "predictions", "imported-t1-m1") == before
    line.add(3)
    doubtful = [0.4, 0.3, 0.3]
    second = line.write([{"file": f"{row:03d}.jpg", "probabilities": doubtful} for row in (0, 1, 9)], "second.jsonl")
    report = line.bring(second)
    assert (report.imported, report.already) == (2, 1)
    found = line.table()["probability"].to_pylist()
    assert [None if one is None else round(one[0], 3) for one in found] == [0.4, 0.9, 0.9, *[None] * 6, 0.4, None]
    predictions.refresh()
    assert predictions.known(np.arange(11)).tolist() == [one is not None for one in found], (
        "what was replaced is noticed"
    )
    assert {one.frames for one in importing.imports_of(line.platform.database, "imported-t1-m1")} == {2, 3}
    assert len(list(line.platform.objects.list("shards/predictions"))) == 2, "no file is left that no record names"


def test_passes_give_bald_and_their_mean(line: Any) -> None:
    line.task("classification")
    passes = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    lines = [
        {"file": "000.jpg", "passes": passes},
        {"file": "001.jpg", "passes": [SURE, SURE]},
        {"file": "2", "passes": [SURE]},
    ]
    report = line.bring(line.write(lines))
    assert report.broken_examples == ["line 3: 1 passes, but lines before had 2"]
    table = line.table()
    expected = committee.bald(np.array([[passes[0], SURE], [passes[1], SURE]]), kind="classification")
    assert table["bald"].to_pylist()[:2] == pytest.approx(expected.tolist(), abs=1e-6)
    assert table["probability"].to_pylist()[0] == [0.5, 0.5, 0.0]


def test_lines_with_and_without_passes_share_a_shard(line: Any) -> None:
    line.task("classification")
    line.bring(line.write([{"file": "000.jpg", "probabilities": SURE}], "a.jsonl"))
    line.bring(line.write([{"file": "001.jpg", "passes": [SURE, SURE]}], "b.jsonl"))
    table = line.table()
    assert table["bald"].to_pylist()[:3] == [None, pytest.approx(0.0, abs=1e-6), None]
    assert table["entropy"].null_count == 6


def test_parquet_and_csv(line: Any, tmp_path: Path) -> None:
    line.task("classification")
    path = tmp_path / "p.parquet"
    parquet.write_table(pa.table({"file": ["000.jpg", "001.jpg"], "probabilities": [SURE, SURE]}), path)
    assert line.bring(path).imported == 2
    (tmp_path / "p.csv").write_text("file,car,person,truck\n002.jpg,0.9,0.05,0.05\n003.jpg,0.9,0.05,\n")
    report = line.bring(tmp_path / "p.csv")
    assert (report.imported, report.broken_examples) == (1, ["line 3: there is no probability of class 'truck'"])


def test_a_folder_of_files_is_one_import(line: Any, tmp_path: Path) -> None:
    line.task("classification")
    (tmp_path / "parts").mkdir()
    for row in range(3):
        line.write([{"file": f"{row:03d}.jpg", "probabilities": SURE}], f"parts/{row}.jsonl")
    assert line.bring(tmp_path / "parts").imported == 3
    assert len(importing.imports_of(line.platform.database, "imported-t1-m1")) == 1


def test_detections_of_both_shapes(line: Any) -> None:
    line.task("detection")
    report = line.bring(
        line.write(
            [
                {"file": "000.jpg", "boxes": _boxes(0.5, 1.0)},
                {"file": "001.jpg", "boxes": []},
                {"file": "002.jpg", "boxes": [[0, 0, 5, 5]], "labels": ["truck"], "scores": [0.2]},
                {"file": "002.jpg", "boxes": [{"bbox": [1, 1, 2, 2], "probabilities": {"person": 0.4, "car": 0.3}}]},
            ]
        )
    )
    assert (report.imported, report.broken) == (3, 0)
    table = line.table()
    assert table["box_confidence"].to_pylist()[:4] == [[0.5, 1.0], [], pytest.approx([0.2, 0.4]), None]
    assert table["box_class"].to_pylist()[2] == [2, 1]
    assert table["probability"].to_pylist()[2] == pytest.approx([0.3, 0.4, 0.2])
    (one,) = importing.imports_of(line.platform.database, "imported-t1-m1")
    assert one.cut == pytest.approx(0.2)
    assert table["margin"].to_pylist()[1] > 0.0, "an empty frame is not a certain one"


def test_passes_of_a_detector(line: Any) -> None:
    line.task("detection")
    line.bring(
        line.write(
            [{"file": "000.jpg", "passes": [_boxes(1.0), []]}, {"file": "001.jpg", "passes": [_boxes(1.0)] * 2}]
        ),
        cut=0.05,
    )
    table = line.table()
    assert table["bald"].to_pylist()[:2] == pytest.approx([1.0, 0.0])
    assert table["box_member"].to_pylist()[1] == [0, 1]


@pytest.mark.parametrize(
    ("boxes", "said"),
    [
        (None, "not a list"),
        ([{"bbox_xyxy_px": [5, 0, 5, 10], "label": "car", "confidence": 1}], "box 1: `bbox_xyxy_px`"),
        ([{"bbox_xyxy_px": [0, 0, float("nan"), 10], "label": "car", "confidence": 1}], "box 1: `bbox_xyxy_px`"),
        ([{"bbox_xyxy_px": [0, 0, 1, 1], "label": "tram", "confidence": 1}], "'tram' is not a class"),
        ([{"bbox_xyxy_px": [0, 0, 1, 1], "label": "car", "confidence": 1.2}], "`confidence`"),
        ([{"bbox_xyxy_px": [0, 0, 1, 1], "label": "car"}], "`confidence`"),
        ([{"bbox_xyxy_px": [0, 0, 1, 1], "probabilities": [0.1, 0.2]}], "2 probabilities for 3 classes"),
        ([{"bbox_xyxy_px": [0, 0, 1, 1], "label": "car", "confidence": 1, "member": -1}], "`member`"),
        (["x"], "lists of that length|no object|not"),
        ([1, 2], "`bbox_xyxy_px`|not"),
    ],
)
def test_boxes_that_cannot_be_are_told(line: Any, boxes: Any, said: str) -> None:
    line.task("detection")
    report = line.bring(line.write([{"file": "000.jpg", "boxes": boxes}, {"file": "001.jpg", "boxes": []}]))
    assert (report.imported, report.broken) == (1, 1)
    assert re.search(said, report.broken_examples[0])


def _coco(line: Any, results: list[dict[str, Any]]) -> tuple[Path, Path]:
    (line.folder / "results.json").write_text(json.dumps(results))
    dataset = {
        "images": [{"id": 10 + row, "file_name": f"{row:03d}.jpg"} for row in range(3)],
        "categories": [{"id": 7, "name": "car"}, {"id": 9, "name": "truck"}],
        "annotations": [],
    }
    (line.folder / "dataset.json").write_text(json.dumps(dataset))
    return line.folder / "results.json", line.folder / "dataset.json"


def test_coco_results(line: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.importing import coco

    monkeypatch.setattr(coco, "_CHUNK", 50)  # Results lie across the pieces that are read.
    line.task("detection")
    results = [
        {"image_id": image, "category_id": category, "bbox": [1, 2, 10, 20], "score": score}
        for image, category, score in [
            (10, 7, 0.9),
            (10, 9, 0.5),
            (11, 7, 0.25),
            (10, 7, 0.75),
            (99, 7, 1.0),
            (11, 8, 1.0),
        ]
    ]
    source, dataset = _coco(line, results)
    report = line.bring(source, dataset=dataset)
    assert (report.imported, report.broken) == (3, 2)
    assert "image 99 is not in the dataset file" in report.broken_examples[0]
    table = line.table()
    assert table["box_confidence"].to_pylist()[:3] == [pytest.approx([0.9, 0.5, 0.75]), pytest.approx([0.25]), []]
    assert table["box_xyxy_px"].to_pylist()[1] == [[1, 2, 11, 22]]


def test_coco_results_without_names_say_what_is_missing(line: Any) -> None:
    line.task("detection")
    source, _ = _coco(line, [{"image_id": 10, "category_id": 7, "bbox": [0, 0, 1, 1], "score": 1}])
    with pytest.raises(InvalidInput, match="--dataset"):
        line.bring(source)
    for text, said in (
        ("[{", "not a whole JSON list"),
        ('{"images": []}', "categories"),
        ("[1, 2]", "image_id"),
        ("7", "object"),
    ):
        source.write_text(text)
        with pytest.raises(InvalidInput, match=said):
            line.bring(source)


def test_nothing_that_can_be_used_registers_nothing(line: Any, tmp_path: Path) -> None:
    line.task("classification")
    for records, said in (
        ([], "it is empty"),
        (["nonsense"], "broken line 1: not JSON"),
        ([{"file": "nowhere.jpg", "probabilities": SURE}], "not in the fleet, nowhere.jpg"),
        ([{"file": "000.jpg", "probabilities": [0.5, 0.5, 0.5]}], "sum to 1"),
        ([{"file": "000.jpg", "probabilities": [0.5, 0.5]}], "2 probabilities for 3 classes"),
        ([{"file": "000.jpg", "probabilities": {"tram": 1.0}}], "'tram' is not a class"),
    ):
        with pytest.raises(InvalidInput, match=said):
            line.bring(line.write(records))
    with pytest.raises(NotFound, match="no file"):
        line.bring(tmp_path / "none.jsonl")
    with pytest.raises(InvalidInput, match="model name"):
        line.bring(tmp_path, name="Über")
    assert models.list_all(line.platform.database) == []
    assert shards.records(line.platform.database, "predictions", "imported-t1-m1") == []


def test_a_killed_import_is_taken_further(line: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    line.task("classification")
    monkeypatch.setattr(shards.gaps, "__kwdefaults__", {"block": 3})
    source = line.write([{"file": f"{row:03d}.jpg", "probabilities": SURE} for row in range(8)])
    write = shards.write

    def dies_at_the_second(*arguments: Any) -> Any:
        if shards.records(line.platform.database, "predictions", "imported-t1-m1"):
            raise KeyboardInterrupt
        return write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "write", dies_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            line.bring(source)
    assert models.current(line.platform.database, "t1") is None, "half of a model ranks nothing"
    report = line.bring(source)
    assert (report.imported, report.already) == (5, 3)
    assert line.table()["probability"].null_count == 0
    assert models.current(line.platform.database, "t1") is not None


def test_a_damaged_shard_is_made_again_by_importing_again(line: Any) -> None:
    line.task("classification")
    source = line.write([{"file": "000.jpg", "probabilities": SURE}])
    line.bring(source)
    record = shards.records(line.platform.database, "predictions", "imported-t1-m1")[0]
    line.platform.objects.put(record.object_key, b"rot")
    assert line.bring(source).imported == 1
    assert line.table()["probability"].null_count == 7


def test_not_current_and_back(line: Any) -> None:
    line.task("classification")
    source = line.write([{"file": "000.jpg", "probabilities": SURE}])
    assert not line.bring(source, name="quiet", make_current=False).current
    assert models.current(line.platform.database, "t1") is None
    assert line.bring(source, name="loud").current
    models.make_current(line.platform.database, "imported-t1-quiet", now=datetime.now(UTC))
    assert models.current_ids(line.platform.database) == {"imported-t1-quiet"}


def test_other_classes_need_another_name(line: Any) -> None:
    task = line.task("classification")
    source = line.write([{"file": "000.jpg", "probabilities": SURE}])
    line.bring(source)
    line.platform.database.tasks.update_one({"_id": "t1"}, {"$set": {"classes": [*task.classes, "bus"]}})
    with pytest.raises(InvalidInput, match="give the model another name"):
        line.bring(source)
    assert tasks.get(line.platform.database, "t1").classes[-1] == "bus"


def test_thousands_of_boxes_and_rows_in_any_order(line: Any) -> None:
    line.task("detection")
    rng = np.random.default_rng(0)
    rows = rng.permutation(8)
    many = [{"file": f"{row:03d}.jpg", "boxes": _boxes(*rng.random(500 * row).tolist())} for row in rows.tolist()]
    line.bring(line.write(many), cut=0.0)
    table = line.table()
    assert [len(one) for one in table["box_confidence"].to_pylist()] == [500 * row for row in range(8)]
    sums = np.array(table["entropy_sum"].to_pylist())
    assert np.all(np.diff(sums) > 0)
    assert sums[-1] < 1.0
