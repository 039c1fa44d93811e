from __future__ import annotations

import json
from pathlib import Path

from obstore.store import LocalStore

from infra.lake import Lake
from infra.objects import ObjectStore
from infra.settings import Settings
from training.contract import Layout
from training.executors import container
from training.executors.protocol import JobSpec


def test_a_remote_store_hands_over_the_frames_of_the_manifest_only(tmp_path: Path) -> None:
    (tmp_path / "bucket").mkdir()
    # A store that says it is not local, as a bucket does.
    objects = ObjectStore(
        LocalStore(tmp_path / "bucket"), base_uri="s3://bucket/", root=None, lake=Lake(Settings(home=tmp_path))
    )
    for name in ("a", "b"):
        objects.put(f"frames/x/{name}.jpg", name.encode())
    lines = [json.dumps({"source-ref": "s3://bucket/frames/x/a.jpg"}), "no json", "{}"]
    objects.put("datasets/d/manifest.jsonl", "\n".join(lines).encode())
    objects.put("backbones/one/model.safetensors", b"t")
    spec = JobSpec(
        job_name="j",
        hyperparameters={"frames_uri": "s3://bucket/frames/"},
        channels={"dataset": "datasets/d/manifest.jsonl", "frames": "frames/", "initial": "backbones/one"},
        output_prefix="w",
    )
    layout = Layout(base=tmp_path / "ml")
    for _ in range(2):
        container.write_input(layout, spec, objects=objects)
    files = sorted(str(path.relative_to(layout.input_data)) for path in layout.input_data.rglob("*") if path.is_file())
    assert files == ["dataset/manifest.jsonl", "frames/x/a.jpg", "initial/model.safetensors"]
