"""S3 prefixes as sources, copied or left in place, while others change them; over moto's server."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from infra import database as documents
from infra.errors import NotFound
from infra.objects import open_objects
from infra.platform import Platform
from selection.fleet import frames, originals
from selection.ingest import ingest as ingesting
from selection.ingest.ingest import ingest


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
