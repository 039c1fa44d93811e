"""Files and objects that lie elsewhere: what cannot be read says for good or for now."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.errors import BackendUnavailable, Denied, InvalidInput, MlplError, NotFound
from infra.lake import Lake, s3_parts
from infra.settings import Settings


@pytest.fixture(scope="module")
def bucket() -> Iterator[tuple[str, Any]]:
    """The endpoint of a moto server with the bucket `listed`, and a client for it."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        host, port = server.get_host_and_port()
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
        client.create_bucket(Bucket="listed")
        for key in ("site/a.jpg", "site//b.jpg", "site/./c.jpg", "site/sub/", "site/sub/d.jpg", "site2.jpg"):
            client.put_object(Bucket="listed", Key=key, Body=b"" if key.endswith("/") else b"x")
        yield f"http://{host}:{port}", client
    server.stop()


def _lake(settings: Settings, endpoint: str | None = None) -> Lake:
    return Lake(settings.model_copy(update={"s3_endpoint_url": endpoint, "s3_region": "us-east-1"}))


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("nothing", NotFound),
        ("a.jpg/below.jpg", NotFound),
        ("folder", InvalidInput),
        ("x" * 300, InvalidInput),
        ("loop", InvalidInput),
        ("a%00b.jpg", InvalidInput),
    ],
)
def test_a_path_that_never_names_a_file_is_not_tried_again(
    settings: Settings, tmp_path: Path, name: str, error: type[MlplError]
) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(error) as caught:
        _lake(settings).read(f"{tmp_path.as_uri()}/{name}")
    assert "\n" not in caught.value.message


def test_a_disk_that_fails_may_be_asked_again(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Path) -> bytes:
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr(Path, "read_bytes", fails)
    with pytest.raises(BackendUnavailable, match="Input/output error"):
        _lake(settings).read(tmp_path.as_uri())


@pytest.mark.parametrize(
    "uri", ["s3://b//x.jpg", "s3://b/site//x.jpg", "s3://b/./x.jpg", "s3://b/a/../x.jpg", "s3://b/x/", "s3://b/x\ny"]
)
def test_keys_that_would_be_read_as_another_are_refused(settings: Settings, uri: str) -> None:
    with pytest.raises(InvalidInput, match="segment"):
        _lake(settings).read(uri)


def test_keys_with_dots_that_mean_nothing_are_keys() -> None:
    assert s3_parts("s3://b/a..b/.c/d./...") == ("b", "a..b/.c/d./...")


def test_a_listing_gives_every_key_as_it_is(settings: Settings, bucket: tuple[str, Any]) -> None:
    lake = _lake(settings, bucket[0])
    expected = ["site/./c.jpg", "site//b.jpg", "site/a.jpg", "site/sub/", "site/sub/d.jpg"]
    for uri in ("s3://listed/site", "s3://listed/site/"):
        assert list(lake.list(uri)) == [(f"s3://listed/{key}", int(not key.endswith("/"))) for key in expected]
    assert len(list(lake.list("s3://listed"))) == 6
    assert list(lake.list("s3://listed/si")) == []


def test_a_name_with_nothing_below_it_is_an_object(settings: Settings, bucket: tuple[str, Any]) -> None:
    assert list(_lake(settings, bucket[0]).list("s3://listed/site2.jpg")) == [("s3://listed/site2.jpg", 1)]


def test_a_bucket_that_cannot_be_listed_says_why(
    settings: Settings, bucket: tuple[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.stub import Stubber

    lake = _lake(settings, bucket[0])
    with pytest.raises(NotFound, match="s3://no-such-bucket"):
        list(lake.list("s3://no-such-bucket/x"))
    with Stubber(lake._lister()) as stub:
        stub.add_client_error("list_objects_v2", "AccessDenied", http_status_code=403)
        with pytest.raises(Denied, match="was refused"):
            list(lake.list("s3://listed/x"))
    with pytest.raises(InvalidInput, match="no bucket"):
        list(_lake(settings, bucket[0]).list("s3://no such bucket/x"))
    with pytest.raises(BackendUnavailable, match="cannot be listed now"):
        list(_lake(settings, "http://127.0.0.1:9").list("s3://listed/x"))
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(Denied, match="no AWS credentials"):
        list(_lake(settings, bucket[0]).list("s3://listed/x"))
