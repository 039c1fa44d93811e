"""Signatures for URLs we hand out: HMAC-SHA256 over purpose, path and expiry, with a key that lives in the database."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets

from infra.database import Db, retrying
from infra.errors import Denied

_COLLECTION = "secrets"


def secret(db: Db, *, name: str = "signing") -> bytes:
    """The installation's signing key of that name: 32 random bytes, made once and the same for every process."""
    found = retrying(lambda: db[_COLLECTION].find_one({"_id": name}))
    if found is None:
        fresh = secrets.token_bytes(32)
        # Whoever writes first wins, and everybody reads what was written.
        retrying(lambda: db[_COLLECTION].update_one({"_id": name}, {"$setOnInsert": {"key": fresh}}, upsert=True))
        found = retrying(lambda: db[_COLLECTION].find_one({"_id": name}))
    assert found is not None
    return bytes(found["key"])


def sign(key: bytes, path: str, *, expires_at: int, purpose: str = "url") -> str:
    """The signature that allows `path` until `expires_at` (Unix seconds); URL-safe text of 43 characters."""
    # Lengths in front keep ("a", "bc") and ("ab", "c") apart.
    message = f"{len(purpose)}:{purpose}{len(path)}:{path}{expires_at}".encode()
    return base64.urlsafe_b64encode(hmac.new(key, message, hashlib.sha256).digest()).rstrip(b"=").decode()


def verify(key: bytes, path: str, *, expires_at: int, signature: str, now: float, purpose: str = "url") -> None:
    """Checks a signature made by `sign`.

    Args:
        now: Unix seconds.
    Raises:
        Denied: It was made for something else, or it has expired.
    """
    expected = sign(key, path, expires_at=expires_at, purpose=purpose)
    if not hmac.compare_digest(expected.encode(), signature.encode(errors="replace")):
        raise Denied("the signature of this link does not fit; ask for a new link")
    if now >= expires_at:
        raise Denied("this link has expired; ask for a new one", expired_at=expires_at)
