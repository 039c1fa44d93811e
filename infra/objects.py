"""The object store: one set of calls for a local directory and for any S3 endpoint."""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import quote, unquote

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import LocalStore

from infra.errors import BackendUnavailable, Denied, InvalidInput, MlplError, NotFound, StorageFull
from infra.lake import Lake

if TYPE_CHECKING:
    import boto3
    from obstore.store import S3Config, S3Store

    from infra.settings import Settings

# A file name has at most 255 bytes. One that ends in a colon looks like a drive to the file URLs that obstore uses
# inside.
_SEGMENT = r"(?!\.\.?(/|$))[A-Za-z0-9._=:@+~,-]{0,199}[A-Za-z0-9._=@+~,-]"
_KEY = re.compile(rf"{_SEGMENT}(/{_SEGMENT})*")
_MAX_KEY = 900


class ObjectStore:
    """Files by key, in a directory or a bucket.

    Keys are relative, slash-separated, made of `A-Z a-z 0-9 . _ = : @ + ~ , -`, no segment ending in a colon. A `put`
    is atomic: readers see the old bytes or the new, and a killed writer leaves nothing that `list` or `get` would show.
    Local files survive the death of any process; they are not flushed to the disk one by one, so a power cut may take
    the last seconds.
    """

    def __init__(self, store: LocalStore | S3Store, *, base_uri: str, root: Path | None, lake: Lake) -> None:
        """Made by `open_objects`.

        Args:
            store: The obstore handle, already rooted at the prefix.
            base_uri: What every URI begins with, ending in a slash.
            root: The directory when the store is local.
            lake: Reads what lies outside the store.
        """
        self.lake = lake
        self.marked_for: set[str] = set()  # Databases that are known to have left their mark here.
        self._store = store
        self._base_uri = base_uri
        self._root = root

    def __repr__(self) -> str:
        return f"ObjectStore({self._base_uri!r})"

    @property
    def is_local(self) -> bool:
        """Whether the objects are files of this machine."""
        return self._root is not None

    def put(self, key: str, data: bytes | bytearray | memoryview) -> None:
        """Writes one object, replacing what was there.

        Raises:
            StorageFull: No room left; the object is as it was before.
        """
        with self._translated(_checked(key)):
            if self._root is not None:
                _write(f"{self._root}/{key}", data)
            else:
                obstore.put(self._store, key, data)

    def put_file(self, key: str, path: Path) -> None:
        """Writes one object from a file, in pieces, so that the file need not fit into memory."""
        with self._translated(_checked(key)):
            obstore.put(self._store, key, path)

    def get(self, key: str) -> bytes:
        """The bytes of one object.

        Raises:
            NotFound: There is no such object.
        """
        with self._translated(_checked(key)):
            if self._root is not None:
                with open(f"{self._root}/{key}", "rb") as file:
                    return file.read()
            return obstore.get(self._store, key).bytes().to_bytes()

    def get_range(self, key: str, *, start: int, stop: int) -> bytes:
        """Bytes `[start, stop)` of one object; fewer where it ends earlier."""
        if not 0 <= start < stop:
            raise InvalidInput(f"the byte range [{start}, {stop}) of {key} is empty or negative", key=key)
        with self._translated(_checked(key)):
            return obstore.get_range(self._store, key, start=start, end=stop).to_bytes()

    def get_file(self, key: str, path: Path) -> None:
        """Copies one object into a file, in pieces; the file appears whole or not at all."""
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            with self._translated(_checked(key)):
                path.parent.mkdir(parents=True, exist_ok=True)
                with partial.open("wb") as file:
                    for chunk in obstore.get(self._store, key).stream():
                        file.write(memoryview(chunk))
                partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        try:
            self.size(key)
        except NotFound:
            return False
        return True

    def size(self, key: str) -> int:
        """The object's size in bytes."""
        with self._translated(_checked(key)):
            return obstore.head(self._store, key)["size"]

    def list(self, prefix: str = "") -> Iterator[str]:
        """Keys below the folder `prefix`, in no particular order, without holding them all in memory.

        `prefix` is whole segments: `a/b` and `a/b/` both mean what is under `a/b/`, never `a/bc`.
        """
        folder = prefix.rstrip("/")
        if folder:
            _checked(folder)
        with self._translated(folder or "/"):
            for chunk in obstore.list(self._store, folder or None, chunk_size=1000):
                for item in chunk:
                    yield item["path"]

    def delete(self, key: str) -> None:
        """Removes one object; one that is not there is fine."""
        try:
            with self._translated(_checked(key)):
                obstore.delete(self._store, key)
        except NotFound:
            pass

    def uri(self, key: str) -> str:
        """`file:///...` (percent-encoded) or `s3://bucket/prefix/key`, as it goes into manifests and records."""
        return self._base_uri + _checked(key)

    def key_of(self, uri: str) -> str:
        """The key behind a URI that `uri` made.

        Raises:
            InvalidInput: The URI is not of this store.
        """
        if not uri.startswith(self._base_uri):
            raise InvalidInput(f"{uri} is not in this object store ({self._base_uri})", uri=uri)
        return _checked(unquote(uri.removeprefix(self._base_uri)))

    def local_path(self, key: str) -> Path | None:
        """Where the object lies on this machine, or None when the store is not local. The file need not exist."""
        checked = _checked(key)
        return None if self._root is None else self._root / checked

    @contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as exc:
            if "NoSuchBucket" in str(exc):  # Not an absent object: nothing may conclude that its own files are gone.
                raise self._failure(key, exc) from exc
            raise NotFound(f"object {self._base_uri}{key} does not exist", key=key) from exc
        except (PermissionDeniedError, UnauthenticatedError, PermissionError) as exc:
            raise Denied(
                f"access to {self._base_uri}{key} was refused; check the permissions or AWS credentials", key=key
            ) from exc
        except (BaseError, OSError) as exc:
            raise self._failure(key, exc) from exc

    def _failure(self, key: str, exc: Exception) -> MlplError:
        """What an error means whose kind shows in its text only, as obstore gives it."""
        text = str(exc)
        where = f"{self._base_uri}{key}"
        number = re.search(r"\((?:os error )(\d+)\)|\[Errno (\d+)\]", text)
        code = int(number[1] or number[2]) if number else None
        if code in (errno.ENOSPC, errno.EDQUOT):
            return StorageFull(f"no space left for {where}; free some and run again", key=key)
        if code in (errno.EROFS, errno.EACCES, errno.EPERM):
            return Denied(
                f"cannot write to {where}: {os.strerror(code)}; make it writable or set MLPL_OBJECT_STORE elsewhere",
                key=key,
            )
        if code in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST):
            return InvalidInput(f"{where} is a folder or below a file, so no object can be there", key=key)
        if "NoSuchBucket" in text:
            return InvalidInput(
                f"the bucket of {self._base_uri} does not exist; create it or correct MLPL_OBJECT_STORE", key=key
            )
        reason = text.partition("\n")[0]
        if self._root is None:
            # obstore tells its retries first and the reason last.
            reason = reason.rpartition(" - ")[2].strip()
            return BackendUnavailable(
                f"the object store {self._base_uri} does not answer as it should ({reason}); "
                "check the network and MLPL_S3_ENDPOINT_URL, then run again",
                key=key,
            )
        return BackendUnavailable(f"{where} failed: {reason}", key=key)


def open_objects(settings: Settings) -> ObjectStore:
    """The object store the settings name; a local one is created when missing.

    Raises:
        InvalidInput: The local directory cannot be made.
    """
    target = settings.object_store
    if target is not None and target.startswith("s3://"):
        return _open_s3(settings, target)
    root = Path(target).expanduser().absolute() if target is not None else settings.home / "objects"
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"no space left to create {root}; free some and run again") from exc
        raise InvalidInput(
            f"cannot create the object store {root}: {exc.strerror}; set MLPL_HOME or MLPL_OBJECT_STORE"
        ) from exc
    root = root.resolve()
    base_uri = f"{root.as_uri().rstrip('/')}/"
    return ObjectStore(LocalStore(root), base_uri=base_uri, root=root, lake=Lake(settings))


def _open_s3(settings: Settings, target: str) -> ObjectStore:
    bucket, _, prefix = target.removeprefix("s3://").partition("/")
    prefix = prefix.strip("/")
    base_uri = f"s3://{bucket}/{prefix}/" if prefix else f"s3://{bucket}/"
    return ObjectStore(s3_store(settings, bucket, prefix=prefix), base_uri=base_uri, root=None, lake=Lake(settings))


def s3_store(settings: Settings, bucket: str, *, prefix: str = "") -> S3Store:
    """A bucket, or a prefix of one, at the endpoint of the settings.

    Raises:
        Denied: There are no credentials.
    """
    from obstore.auth.boto3 import Boto3CredentialProvider
    from obstore.store import S3Store

    session, region = s3_session(settings)
    endpoint = settings.s3_endpoint_url
    try:
        provider = Boto3CredentialProvider(session)
    except ValueError as exc:
        raise Denied(
            f"no AWS credentials for s3://{bucket}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or a profile"
        ) from exc
    config: S3Config = {"region": region, "endpoint": endpoint} if endpoint else {"region": region}
    return S3Store(
        bucket,
        prefix=prefix or None,
        config=config,
        credential_provider=provider,
        client_options={
            "allow_http": bool(endpoint and endpoint.startswith("http://")),
            "connect_timeout": timedelta(seconds=5),
            "timeout": timedelta(seconds=120),
        },
        retry_config={"max_retries": 5, "retry_timeout": timedelta(seconds=30)},
    )


def s3_session(settings: Settings) -> tuple[boto3.Session, str]:
    """Who we are to S3, and the region."""
    # boto3 finds credentials in every place AWS documents (profiles, SSO, roles); it is slow to import, so only here.
    import boto3

    session = boto3.Session()
    return session, settings.s3_region or session.region_name or "us-east-1"


def _write(path: str, data: bytes | bytearray | memoryview) -> None:
    """A local file, whole or not at all. obstore does the same in a thread of its own, and handing over costs more than small files do."""
    # obstore lists no file whose name ends like this: it calls its own unfinished files so. By chance, as process ids are the same in containers.
    partial = f"{path}#{secrets.randbits(64)}"
    try:
        with _new_file(partial) as file:
            file.write(data)
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(partial)
        raise


def _new_file(path: str) -> BinaryIO:
    try:
        return open(path, "xb")
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return open(path, "xb")


def _checked(key: str) -> str:
    if len(key) > _MAX_KEY or not _KEY.fullmatch(key):
        raise InvalidInput(f"{quote(key[:80])} cannot be an object key", key=key)
    return key
