"""Files that lie elsewhere and are only read: by path, `file://` or `s3://` URI, in whatever bucket."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from infra.errors import BackendUnavailable, Denied, InvalidInput, NotFound

if TYPE_CHECKING:
    from obstore.store import S3Store

    from infra.settings import Settings


class Lake:
    """Reads originals where they are. Safe to share between threads; a bucket is opened when it is first asked for."""

    def __init__(self, settings: Settings) -> None:
        """Opens nothing yet; endpoint and region of S3 are those of the settings."""
        self._settings = settings
        self._lock = threading.Lock()
        self._buckets: dict[str, S3Store] = {}

    def read(self, uri: str) -> bytes:
        """The bytes behind a URI.

        Raises:
            NotFound: Nothing is there.
            Denied, BackendUnavailable: It cannot be read, or not now.
            InvalidInput: It is neither `file://` nor `s3://`.
        """
        path = local_path(uri)
        if path is not None:
            try:
                return path.read_bytes()
            except FileNotFoundError as exc:
                raise NotFound(f"{uri} is not there", uri=uri) from exc
            except PermissionError as exc:
                raise Denied(f"{uri} may not be read; check its permissions", uri=uri) from exc
            except OSError as exc:
                raise BackendUnavailable(f"{uri} cannot be read: {exc.strerror}", uri=uri) from exc
        import obstore
        from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

        bucket, key = s3_parts(uri)
        try:
            return obstore.get(self._bucket(bucket), key).bytes().to_bytes()
        except FileNotFoundError as exc:
            raise NotFound(f"{uri} is not there", uri=uri) from exc
        except (PermissionDeniedError, UnauthenticatedError, PermissionError) as exc:
            raise Denied(f"access to {uri} was refused; check the AWS credentials", uri=uri) from exc
        except (BaseError, OSError) as exc:
            reason = str(exc).partition("\n")[0].rpartition(" - ")[2].strip()
            raise BackendUnavailable(f"{uri} cannot be read now ({reason})", uri=uri) from exc

    def list(self, uri: str) -> Iterator[tuple[str, int]]:
        """URI and size in bytes of every object under an `s3://bucket/prefix`, a thousand at a time, in the order of their keys.

        Raises:
            NotFound: There is no such bucket.
            Denied, BackendUnavailable: It cannot be listed, or not now.
        """
        import obstore
        from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        try:
            for chunk in obstore.list(self._bucket(bucket), prefix.rstrip("/") or None, chunk_size=1000):
                for item in chunk:
                    yield f"s3://{bucket}/{item['path']}", int(item["size"])
        except (PermissionDeniedError, UnauthenticatedError, PermissionError) as exc:
            raise Denied(f"access to {uri} was refused; check the AWS credentials", uri=uri) from exc
        except (BaseError, OSError) as exc:
            if "NoSuchBucket" in str(exc):
                raise NotFound(f"the bucket of {uri} does not exist", uri=uri) from exc
            reason = str(exc).partition("\n")[0].rpartition(" - ")[2].strip()
            raise BackendUnavailable(f"{uri} cannot be listed now ({reason})", uri=uri) from exc

    def _bucket(self, name: str) -> S3Store:
        from infra import objects

        with self._lock:
            if name not in self._buckets:
                self._buckets[name] = objects.s3_store(self._settings, name)
            return self._buckets[name]


def local_path(uri: str) -> Path | None:
    """The file behind a `file://` URI; None for any other."""
    return Path(unquote(urlsplit(uri).path)) if uri.startswith("file://") else None


def s3_parts(uri: str) -> tuple[str, str]:
    """Bucket and key of an `s3://` URI.

    Raises:
        InvalidInput: It is none.
    """
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket or not key:
        raise InvalidInput(f"{uri[:200]!r} is no URI that can be read; use a path, file:// or s3://bucket/key")
    return bucket, key
