"""S3 prefixes as sources, copied or left in place, while others change them; over moto's server."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from infra import database as documents
from infra.errors import BackendUnavailable, InvalidInput, NotFound
from infra.lake import Lake
from infra.objects import open_objects
from infra.platform import Platform
from selection.fleet import frames, originals
from selection.fleet.originals import UNANSWERED_IN_A_ROW
from selection.ingest import ingest as ingesting
from selection.ingest.ingest import ingest
from selection.ingest.rejects import list_rejects
from selection.ingest.sources import buckets
from tests.selection.ingest.conftest import VideoMaker


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    wanted = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    kept = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    for name, value in kept.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    server.stop()


@pytest.fixture
def lake(endpoint: str, platform: Platform) -> tuple[Platform, Any]:
    """A platform whose S3 is the server's, and a client for the bucket `lake` with three images under `site/`."""
    import boto3

    documents.ensure_indexes(platform.database, frames.INDEXES | ingesting.INDEXES)
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket="lake")
    for level in range(3):
        client.put_object(Bucket="lake", Key=f"site/{level} ü.jpg", Body=_jpeg(level))
    client.put_object(Bucket="lake", Key="site2/x.jpg", Body=_jpeg(9))
    settings = platform.settings.model_copy(update={"s3_endpoint_url": endpoint, "s3_region": "us-east-1"})
    return Platform(settings=settings, database=platform.database, objects=open_objects(settings)), client


def _jpeg(level: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 8), (level,) * 3).save(file, format="JPEG")
    return file.getvalue()


@pytest.mark.parametrize("in_place", [False, True])
def test_a_prefix_is_taken_in_once(lake: tuple[Platform, Any], in_place: bool) -> None:
    platform, _ = lake
    assert ingest(platform, ["s3://lake/site"], in_place=in_place).added == 3
    assert ingest(platform, ["s3://lake/site/"], in_place=in_place).added == 0
    frame = frames.by_rows(platform.database, [1])[0]
    assert frame.source == "1 ü.jpg"
    assert platform.objects.exists(frame.object_key) is not in_place
    read = originals.read(platform.objects, object_key=frame.object_key, object_uri=frame.object_uri)
    assert read == _jpeg(1)


def test_an_object_that_vanishes_after_it_was_listed_is_a_reject(
    lake: tuple[Platform, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    platform, client = lake
    real = platform.objects.lake.list

    def list_then_lose(uri: str) -> Iterator[tuple[str, int]]:
        found = list(real(uri))
        client.delete_object(Bucket="lake", Key="site/2 ü.jpg")
        yield from found

    monkeypatch.setattr(platform.objects.lake, "list", list_then_lose)
    report = ingest(platform, ["s3://lake/site"])
    assert (report.added, report.rejected_count) == (2, 1)
    assert "is not there" in report.rejected[0].reason


def test_a_bucket_that_does_not_exist_is_named(lake: tuple[Platform, Any]) -> None:
    with pytest.raises(NotFound, match="s3://no-such-bucket"):
        ingest(lake[0], ["s3://no-such-bucket/x"])


def test_a_list_under_the_prefix_speaks_for_the_objects(lake: tuple[Platform, Any]) -> None:
    platform, client = lake
    lines = ['{"file": "1 ü.jpg", "drive": "d1"}', "broken", '{"file": "gone.jpg"}', '{"file": "../site2/x.jpg"}']
    client.put_object(Bucket="lake", Key="site/metadata.jsonl", Body="\n".join(lines).encode())
    try:
        report = ingest(platform, ["ulm=s3://lake/site"])
    finally:
        client.delete_object(Bucket="lake", Key="site/metadata.jsonl")
    assert (report.added, report.missing, report.broken, report.ignored) == (1, 1, 2, 2)
    frame = frames.by_rows(platform.database, [0])[0]
    assert (frame.source, frame.drive, frame.site) == ("1 ü.jpg", "d1", "ulm")
    assert report.examples["missing"][0].source == "s3://lake/site/gone.jpg"


def test_an_object_replaced_after_it_was_listed_is_what_its_bytes_say(
    lake: tuple[Platform, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    platform, client = lake
    real = platform.objects.lake.list

    def list_then_replace(uri: str) -> Iterator[tuple[str, int]]:
        found = list(real(uri))
        client.put_object(Bucket="lake", Key="site/0 ü.jpg", Body=_jpeg(77) + b"\0" * 500)
        yield from found

    monkeypatch.setattr(platform.objects.lake, "list", list_then_replace)
    assert ingest(platform, ["s3://lake/site"]).added == 3
    frame = frames.by_rows(platform.database, [0])[0]
    assert frame.digest == hashlib.sha256(platform.objects.get(frame.object_key)).hexdigest()
    assert frame.size_bytes == len(_jpeg(77)) + 500


def test_an_object_replaced_after_its_digest_was_taken_is_broken(lake: tuple[Platform, Any], tmp_path: Path) -> None:
    platform, _ = lake
    line = {"uri": "s3://lake/site/0 ü.jpg", "digest": hashlib.sha256(_jpeg(5)).hexdigest()}
    (tmp_path / "list.jsonl").write_text(json.dumps(line))
    report = ingest(platform, [str(tmp_path / "list.jsonl")])
    assert (report.added, report.broken) == (0, 1)
    assert "the manifest announces" in report.rejected[0].reason


def test_one_of_several_sources_that_fails_is_named_and_the_others_go_on(lake: tuple[Platform, Any]) -> None:
    platform, _ = lake
    report = ingest(platform, ["a=s3://no-such-bucket/x", "b=s3://lake/site"])
    assert (report.added, report.failed) == (3, ("s3://no-such-bucket/x",))
    assert report.missing == 1
    assert ingest(platform, ["a=s3://lake/nothing-here", "b=s3://lake/site"]).already_present == 3


def test_a_video_in_a_bucket(lake: tuple[Platform, Any], make_video: VideoMaker, tmp_path: Path) -> None:
    platform, client = lake
    client.put_object(Bucket="lake", Key="v/d1/a.mp4", Body=make_video(tmp_path / "a.mp4").read_bytes())
    assert ingest(platform, ["s3://lake/v"]).added == 4
    frame = frames.by_rows(platform.database, [0])[0]
    assert (frame.drive, frame.source) == ("d1/a", "d1/a.mp4#t=00000.000000")


def _put(client: Any, bucket: str, objects: dict[str, bytes]) -> str:
    client.create_bucket(Bucket=bucket)
    for key, data in objects.items():
        client.put_object(Bucket=bucket, Key=key, Body=data)
    return f"s3://{bucket}"


def test_a_key_that_cannot_be_read_is_a_reject_and_the_rest_goes_on(lake: tuple[Platform, Any]) -> None:
    platform, client = lake
    keys = ["s/a.jpg", "s//b.jpg", "s/./c.jpg", "s/d.jpg", "s/e/", "s/e/f.jpg", "s/.thumbs/g.jpg", "s/e/.h.jpg"]
    images = {key: b"" if key.endswith("/") else _jpeg(level * 20) for level, key in enumerate(keys)}
    report = ingest(platform, [_put(client, "odd-keys", images) + "/s"])
    assert (report.added, report.missing, report.broken) == (3, 0, 2)
    assert {one.source for one in report.rejected} == {"s3://odd-keys/s//b.jpg", "s3://odd-keys/s/./c.jpg"}


@pytest.mark.parametrize("ahead", [1, 1000])
def test_a_list_anywhere_under_a_prefix_speaks_for_what_is_below_it(
    lake: tuple[Platform, Any], monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    platform, client = lake
    listing = b'{"file": "img/a.jpg", "drive": "d1"}\n{"file": "gone.jpg"}\n'
    objects = {
        "fleet/d0/a.jpg": _jpeg(0),
        "fleet/d1/img/a.jpg": _jpeg(20),
        "fleet/d1/img/mask.png": b"x",
        "fleet/d1/img/metadata.jsonl": b'{"file": "a.jpg", "drive": "no"}\n',
        "fleet/d1/metadata.jsonl": listing,
        "fleet/.old/a.jpg": _jpeg(10),
        "fleet/.old/metadata.jsonl": b'{"file": "a.jpg", "drive": "old"}\n',
        "fleet/d2/a.jpg": _jpeg(40),
        "fleet/d2/deep/er/b.jpg": _jpeg(60),
        "fleet/d2/deep/er/metadata.jsonl": b'{"file": "b.jpg", "drive": "d2"}\n',
        "fleet/z.jpg": _jpeg(80),
    }
    asked, real = [], Lake.read

    def read(self: Lake, uri: str, **more: Any) -> bytes:
        asked.append(uri)
        return real(self, uri, **more)

    monkeypatch.setattr(Lake, "read", read)
    monkeypatch.setattr(buckets, "LISTED_AHEAD", ahead)
    report = ingest(platform, [_put(client, f"nested-{ahead}", objects) + "/fleet"])
    assert ahead == 1 or len([uri for uri in asked if uri.endswith("metadata.jsonl")]) == 2, "those that are listed"
    assert (report.added, report.missing, report.broken, report.ignored) == (5, 1, 0, 1)
    assert report.rejected[0].source == f"s3://nested-{ahead}/fleet/d1/gone.jpg"
    found = [(one.source, one.drive) for one in frames.by_rows(platform.database, range(5))]
    assert found == [
        ("d0/a.jpg", None),
        ("img/a.jpg", "d1"),
        ("d2/a.jpg", None),
        ("b.jpg", "d2"),
        ("z.jpg", None),
    ]


def test_a_single_object_is_taken_in_with_what_its_list_says(lake: tuple[Platform, Any]) -> None:
    platform, client = lake
    listing = b'{"file": "a.jpg", "drive": "d1"}\n{"file": "b.jpg"}\n'
    uri = _put(client, "single", {"s/a.jpg": _jpeg(3), "s/b.jpg": _jpeg(90), "s/metadata.jsonl": listing})
    report = ingest(platform, [f"{uri}/s/a.jpg"])
    assert (report.added, report.rejected_count) == (1, 0)
    frame = frames.by_rows(platform.database, [0])[0]
    assert (frame.source, frame.drive) == ("a.jpg", "d1")
    assert "nothing to take in" in ingest(platform, [f"{uri}/s/none.jpg"]).summary()


@pytest.mark.parametrize("trouble", [BackendUnavailable("503"), InvalidInput("odd"), ValueError("odd")])
def test_one_object_that_cannot_be_read_does_not_end_the_ingest(
    lake: tuple[Platform, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    platform, _ = lake
    (tmp_path / "a.jpg").write_bytes(_jpeg(99))
    real = Lake.read

    def read(self: Lake, uri: str, **more: Any) -> bytes:
        if "/1 " in uri:
            raise trouble
        return real(self, uri, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Lake, "read", read)
        report = ingest(platform, ["s3://lake/site", str(tmp_path)])
    assert (report.added, report.broken) == (3, 1)
    assert ingest(platform, ["s3://lake/site"]).added == 1
    assert list_rejects(platform.database) == []


def test_a_bucket_that_does_not_answer_ends_it(lake: tuple[Platform, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    platform, client = lake
    for level in range(UNANSWERED_IN_A_ROW):
        client.put_object(Bucket="lake", Key=f"many/{level}.jpg", Body=_jpeg(level))

    def read(self: Lake, uri: str, **more: Any) -> bytes:
        raise BackendUnavailable(f"{uri} cannot be read now")

    monkeypatch.setattr(Lake, "read", read)
    with pytest.raises(BackendUnavailable, match="cannot be read now"):
        ingest(platform, ["s3://lake/many"])
