"""One suite over both kinds of store: a directory, and S3 as moto's server speaks it."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import HealthCheck, assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from infra.errors import BackendUnavailable, Denied, InvalidInput, NotFound, StorageFull
from infra.objects import ObjectStore, open_objects
from infra.settings import Settings

KEYS = st.from_regex(
    r"[A-Za-z0-9_=:@+~,-][A-Za-z0-9._=:@+~,-]{0,20}(/[A-Za-z0-9_=:@+~,-][A-Za-z0-9._=:@+~,-]{0,20}){0,4}",
    fullmatch=True,
)


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A moto server on loopback, with credentials for it in the environment."""
    from moto.server import ThreadedMotoServer

    patch = pytest.MonkeyPatch()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        patch.delenv(name)
    patch.setenv("AWS_ACCESS_KEY_ID", "testing")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    patch.setenv("AWS_CONFIG_FILE", os.devnull)
    patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()
    patch.undo()


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, settings: Settings) -> ObjectStore:
    """An empty store of either kind."""
    if request.param == "local":
        return open_objects(settings)
    return s3_store(request.getfixturevalue("s3_endpoint"), settings, prefix="fleet/a")


def s3_store(endpoint: str, settings: Settings, *, prefix: str) -> ObjectStore:
    import boto3

    bucket = f"b-{uuid.uuid4().hex[:12]}"
    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket=bucket)
    change = {"object_store": f"s3://{bucket}/{prefix}", "s3_endpoint_url": endpoint, "s3_region": "us-east-1"}
    return open_objects(settings.model_copy(update=change))


def test_what_was_put_is_got(store: ObjectStore) -> None:
    store.put("a/b.bin", b"one")
    store.put("a/b.bin", b"two")
    assert store.get("a/b.bin") == b"two"
    assert store.size("a/b.bin") == 3
    assert store.exists("a/b.bin")


def test_empty_and_large_objects(store: ObjectStore) -> None:
    large = os.urandom(11 * 1024 * 1024)
    store.put("empty", b"")
    store.put("large", memoryview(large))
    assert store.get("empty") == b""
    assert store.get("large") == large


def test_ranges(store: ObjectStore) -> None:
    store.put("x", b"0123456789")
    assert store.get_range("x", start=2, stop=5) == b"234"
    assert store.get_range("x", start=8, stop=50) == b"89"
    with pytest.raises(InvalidInput):
        store.get_range("x", start=3, stop=3)


def test_what_is_missing_is_not_found(store: ObjectStore) -> None:
    assert not store.exists("no/such")
    with pytest.raises(NotFound, match="no/such does not exist"):
        store.get("no/such")
    with pytest.raises(NotFound, match="no/such does not exist"):
        store.size("no/such")
    with pytest.raises(NotFound, match="no/such does not exist"):
        store.get_range("no/such", start=0, stop=1)
    store.delete("no/such")


def test_listing_is_by_folder_and_complete(store: ObjectStore) -> None:
    keys = {f"a/b/{number:03}" for number in range(30)} | {"a/bc", "c"}
    for key in keys:
        store.put(key, b"")
    assert set(store.list()) == keys
    assert set(store.list("a/b")) == set(store.list("a/b/")) == {key for key in keys if key.startswith("a/b/")}
    assert list(store.list("nothing/here")) == []
    store.delete("c")
    assert "c" not in set(store.list())


def test_uri_and_key_are_two_names_of_one_thing(store: ObjectStore) -> None:
    uri = store.uri("frames/ab/x=1:2@3+4.jpg")
    assert uri.startswith(("file:///", "s3://"))
    assert store.key_of(uri) == "frames/ab/x=1:2@3+4.jpg"
    for foreign in ("s3://other/x", "file:///etc/passwd", store.uri("a") + "/../../b", "nonsense"):
        with pytest.raises(InvalidInput):
            store.key_of(foreign)


def test_files_go_in_and_out_whole(store: ObjectStore, tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "deep" / "out"
    source.write_bytes(os.urandom(6 * 1024 * 1024))
    store.put_file("big", source)
    store.get_file("big", target)
    assert target.read_bytes() == source.read_bytes()
    with pytest.raises(NotFound):
        store.get_file("missing", tmp_path / "never")
    assert not (tmp_path / "never").exists()
    assert [path.name for path in target.parent.iterdir()] == ["out"]


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/a",
        "a/",
        "a//b",
        "../a",
        "a/../b",
        "a/./b",
        "a b",
        "ä",
        "a\n",
        "a#1",
        "a/C:/x",
        "ab:",
        "x" * 201,
        "x/" * 450 + "x",
    ],
)
def test_keys_that_would_not_travel_are_refused(store: ObjectStore, key: str) -> None:
    calls: list[Callable[[str], object]] = [store.get, store.exists, store.delete, store.uri, store.local_path]
    for call in calls:
        with pytest.raises(InvalidInput):
            call(key)
    with pytest.raises(InvalidInput):
        store.put(key, b"")


@given(key=KEYS, data=st.binary(max_size=100))
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
def test_any_key_and_bytes_make_the_round_trip(objects: ObjectStore, key: str, data: bytes) -> None:
    # A folder per example: a key of one may be a folder of another, which a directory cannot hold.
    assume(not re.search(":(/|$)", key))
    key = f"{uuid.uuid4().hex}/{key}"
    objects.put(key, data)
    assert objects.get(key) == data
    assert list(objects.list(key.partition("/")[0])) == [key]
    assert objects.key_of(objects.uri(key)) == key
    local = objects.local_path(key)
    assert local is not None
    assert local.read_bytes() == data
    assert local == Path(unquote(urlsplit(objects.uri(key)).path))


def test_a_folder_cannot_also_be_an_object(objects: ObjectStore) -> None:
    objects.put("a/b", b"")
    for key in ("a", "a/b/c"):
        with pytest.raises(InvalidInput, match="folder or below a file"):
            objects.put(key, b"")


def test_local_paths_exist_only_for_local_stores(store: ObjectStore) -> None:
    path = store.local_path("a/b")
    assert (path is not None) == store.is_local == store.uri("a").startswith("file:")


def test_writers_of_one_key_leave_one_of_their_objects_whole(objects: ObjectStore) -> None:
    written = [bytes([number]) * 300_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda data: objects.put("a/x", data), written * 4))
    assert objects.get("a/x") in written
    folder = objects.local_path("a")
    assert folder is not None
    assert [path.name for path in folder.iterdir()] == ["x"]


def test_what_a_killed_writer_left_is_no_object(objects: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    objects.put("a/x", b"old")
    with monkeypatch.context() as patched:
        patched.setattr("os.replace", _killed)
        patched.setattr("os.unlink", _killed)
        with pytest.raises(KeyboardInterrupt):
            objects.put("a/x", b"new")
    folder = objects.local_path("a")
    assert folder is not None
    assert len(list(folder.iterdir())) == 2
    assert (list(objects.list()), objects.get("a/x")) == (["a/x"], b"old")
    objects.put("a/x", b"new")
    assert objects.get("a/x") == b"new"


def _killed(*_arguments: object, **_named: object) -> None:
    raise KeyboardInterrupt


def test_a_full_disk_is_one_line_and_leaves_the_old_object(settings: Settings, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        objects = open_objects(settings.model_copy(update={"object_store": str(small)}))
        objects.put("x", b"old")
        for key in ("x", "y"):
            with pytest.raises(StorageFull, match="no space left") as raised:
                objects.put(key, bytes(3_000_000))
            assert "\n" not in raised.value.message
        assert objects.get("x") == b"old"
        assert list(objects.list()) == [path.name for path in small.iterdir()] == ["x"]
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)


def test_a_directory_that_cannot_be_made_is_named(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="cannot create the object store"):
        open_objects(settings.model_copy(update={"object_store": str(tmp_path / "file" / "x")}))


def test_a_missing_bucket_is_named(s3_endpoint: str, settings: Settings) -> None:
    change: dict[str, Any] = {
        "object_store": "s3://no-such-bucket",
        "s3_endpoint_url": s3_endpoint,
        "s3_region": "us-east-1",
    }
    objects = open_objects(settings.model_copy(update=change))
    for call in (lambda: objects.put("x", b""), lambda: objects.get("x")):  # Not NotFound: the object may well exist.
        with pytest.raises(InvalidInput, match="bucket of s3://no-such-bucket/ does not exist") as raised:
            call()
        assert "\n" not in raised.value.message


def test_an_unreachable_endpoint_is_unavailable_not_a_crash(s3_endpoint: str, settings: Settings) -> None:
    assert s3_endpoint  # For the credentials.
    change = {"object_store": "s3://bucket/p", "s3_endpoint_url": "http://127.0.0.1:9", "s3_region": "us-east-1"}
    with pytest.raises(BackendUnavailable) as raised:
        open_objects(settings.model_copy(update=change)).get("x")
    assert "\n" not in raised.value.message
    assert "MLPL_S3_ENDPOINT_URL" in raised.value.message
    assert "retry_timeout" not in raised.value.message


def test_no_credentials_says_which(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    with pytest.raises(Denied, match="AWS_ACCESS_KEY_ID"):
        open_objects(settings.model_copy(update={"object_store": "s3://bucket"}))


def test_quota_errors_count_as_full(objects: ObjectStore) -> None:
    error = OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
    assert isinstance(objects._failure("x", error), StorageFull)
