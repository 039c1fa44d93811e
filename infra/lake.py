"""Files that lie elsewhere and are only read: by path, `file://` or `s3://` URI, in whatever bucket."""

from __future__ import annotations

import errno
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from infra.errors import BackendUnavailable, Denied, InvalidInput, NotFound

if TYPE_CHECKING:
    from obstore.store import S3Store

    from infra.settings import Settings

_NO_FILE = (errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO)  # However often it is tried.
_ODD_KEY = re.compile(r"(^|/)\.{0,2}(/|$)|[\x00-\x1f\x7f]")


class Lake:
    """Reads originals where they are. Safe to share between threads; a bucket is opened when it is first asked for."""

    def __init__(self, settings: Settings) -> None:
        """Opens nothing yet; endpoint and region of S3 are those of the settings."""
        self._settings = settings
        self._lock = threading.Lock()
        self._buckets: dict[str, S3Store] = {}
        self._client: Any = None

    def read(self, uri: str, *, max_bytes: int | None = None) -> bytes:
        """The bytes behind a URI.

        Args:
            uri: `file://` or `s3://`.
            max_bytes: Of an object in a bucket; a larger one is refused before its bytes come.

        Raises:
            NotFound: Nothing is there.
            Denied, BackendUnavailable: It cannot be read, or not now.
            InvalidInput: It is neither `file://` nor `s3://`, nothing that can be read has such a name, or it is too large.
        """
        path = local_path(uri)
        if path is not None:
            return _read_local(path, uri)
        import obstore
        from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

        bucket, key = s3_parts(uri)
        try:
            found = obstore.get(self._bucket(bucket), key)
            if max_bytes is not None and found.meta["size"] > max_bytes:
                raise InvalidInput(f"{uri} is larger than {max_bytes >> 20} MiB", uri=uri)
            return found.bytes().to_bytes()
        except FileNotFoundError as exc:
            raise NotFound(f"{uri} is not there", uri=uri) from exc
        except ValueError as exc:
            raise InvalidInput(f"{uri[:200]!r} cannot be read: {exc}", uri=uri) from exc
        except (PermissionDeniedError, UnauthenticatedError, PermissionError) as exc:
            raise Denied(f"access to {uri} was refused; check the AWS credentials", uri=uri) from exc
        except (BaseError, OSError) as exc:
            reason = str(exc).partition("\n")[0].rpartition(" - ")[2].strip()
            raise BackendUnavailable(f"{uri} cannot be read now ({reason})", uri=uri) from exc

    def exists(self, uri: str) -> bool:
        """Whether something is behind a URI, without reading it.

        Raises:
            Denied, BackendUnavailable: It cannot be told, or not now.
            InvalidInput: As `read`.
        """
        path = local_path(uri)
        if path is not None:
            return path.is_file()
        import obstore
        from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

        bucket, key = s3_parts(uri)
        try:
            obstore.head(self._bucket(bucket), key)
        except FileNotFoundError:
            return False
        except (PermissionDeniedError, UnauthenticatedError, PermissionError) as exc:
            raise Denied(f"access to {uri} was refused; check the AWS credentials", uri=uri) from exc
        except (BaseError, OSError, ValueError) as exc:
            raise BackendUnavailable(f"{uri} cannot be looked for now", uri=uri) from exc
        return True

    def list(self, uri: str) -> Iterator[tuple[str, int]]:
        """URI and size in bytes of every object under an `s3://bucket/prefix`, a thousand at a time, in the order of their keys.

        Where there is none, the object of that very name. Keys come as they are, those included that `read` refuses.

        Raises:
            NotFound: There is no such bucket.
            Denied, BackendUnavailable: It cannot be listed, or not now.
            InvalidInput: No bucket can have such a name.
        """
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, ParamValidationError

        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        prefix = prefix.rstrip("/")
        try:
            for item in _listed(self._lister(), bucket, prefix):
                yield f"s3://{bucket}/{item['Key']}", int(item["Size"])
        except NoCredentialsError as exc:
            raise Denied(f"there are no AWS credentials for {uri}; set them or a profile", uri=uri) from exc
        except ParamValidationError as exc:
            raise InvalidInput(f"{uri[:200]!r} cannot be listed: no bucket has such a name", uri=uri) from exc
        except ClientError as exc:
            code = str(exc.response.get("Error", {}).get("Code"))
            status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if code == "NoSuchBucket":
                raise NotFound(f"the bucket of {uri} does not exist", uri=uri) from exc
            if status in (401, 403) or code in ("ExpiredToken", "InvalidToken"):
                raise Denied(f"access to {uri} was refused; check the AWS credentials", uri=uri) from exc
            raise BackendUnavailable(f"{uri} cannot be listed now ({code})", uri=uri) from exc
        except (BotoCoreError, OSError) as exc:
            raise BackendUnavailable(f"{uri} cannot be listed now ({exc})", uri=uri) from exc

    def _bucket(self, name: str) -> S3Store:
        from infra import objects

        with self._lock:
            if name not in self._buckets:
                self._buckets[name] = objects.s3_store(self._settings, name)
            return self._buckets[name]

    def _lister(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = _client(self._settings)
            return self._client


def _read_local(path: Path, uri: str) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise NotFound(f"{uri} is not there", uri=uri) from exc
    except PermissionError as exc:
        raise Denied(f"{uri} may not be read; check its permissions", uri=uri) from exc
    except ValueError as exc:
        raise InvalidInput(f"{uri[:200]!r} cannot be read: {exc}", uri=uri) from exc
    except OSError as exc:
        problem = f"{uri[:200]} cannot be read: {exc.strerror}"
        raise (InvalidInput if exc.errno in _NO_FILE else BackendUnavailable)(problem, uri=uri) from exc


def _client(settings: Settings) -> Any:
    """For listing: obstore ends a listing at the first key with an empty or dot segment, and hides which keys end in a slash."""
    from botocore.config import Config

    from infra import objects

    session, region = objects.s3_session(settings)
    style = {"addressing_style": "path"}  # As obstore has it.
    return session.client(
        "s3",
        region_name=region,
        endpoint_url=settings.s3_endpoint_url,
        config=Config(
            s3=style, connect_timeout=5, read_timeout=120, retries={"mode": "standard", "total_max_attempts": 6}
        ),
    )


def _listed(client: Any, bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
    found = False
    below = f"{prefix}/" if prefix else ""
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=below):
        for item in page.get("Contents", ()):
            found = True
            yield item
    if prefix and not found:  # Of all keys that begin like it, the object itself comes first.
        first = client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1).get("Contents", ())
        yield from (item for item in first if item["Key"] == prefix)


def local_path(uri: str) -> Path | None:
    """The file behind a `file://` URI; None for any other.

    Raises:
        InvalidInput: It is no URI.
    """
    try:
        return Path(unquote(urlsplit(uri).path, errors="surrogateescape")) if uri.startswith("file://") else None
    except ValueError as exc:
        raise InvalidInput(f"{uri[:200]!r} is no URI that can be read: {exc}", uri=uri) from exc


def s3_parts(uri: str) -> tuple[str, str]:
    """Bucket and key of an `s3://` URI.

    Raises:
        InvalidInput: It is none, or its key is one that `Lake.read` would take for another.
    """
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket or not key:
        raise InvalidInput(f"{uri[:200]!r} is no URI that can be read; use a path, file:// or s3://bucket/key")
    if _ODD_KEY.search(key):
        raise InvalidInput(f"{uri[:200]!r} cannot be read: its key has an empty or dot segment or a control character")
    return bucket, key
