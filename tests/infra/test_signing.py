from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra import signing
from infra.database import Db
from infra.errors import Denied

KEY = b"k" * 32


def test_all_processes_share_one_key(database: Db) -> None:
    database.create_collection("secrets")
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: signing.secret(database), range(16)))
    assert len(keys) == 1
    assert len(keys.pop()) == 32
    assert signing.secret(database, name="other") != signing.secret(database)


@given(path=st.text(), purpose=st.text(), expires_at=st.integers(0, 2**40), data=st.data())
def test_a_signature_holds_for_exactly_what_was_signed(
    path: str, purpose: str, expires_at: int, data: st.DataObject
) -> None:
    signature = signing.sign(KEY, path, expires_at=expires_at, purpose=purpose)
    now = expires_at - 1
    signing.verify(KEY, path, expires_at=expires_at, signature=signature, now=now, purpose=purpose)
    other = data.draw(
        st.tuples(st.text(), st.text(), st.integers(0, 2**41)).filter(lambda t: t != (path, purpose, expires_at))
    )
    with pytest.raises(Denied):
        signing.verify(KEY, other[0], expires_at=other[2], signature=signature, now=0, purpose=other[1])
    with pytest.raises(Denied):
        signing.verify(b"x" * 32, path, expires_at=expires_at, signature=signature, now=now, purpose=purpose)


def test_moving_a_character_between_the_parts_breaks_it() -> None:
    signature = signing.sign(KEY, "/frames/a", expires_at=10, purpose="image")
    with pytest.raises(Denied):
        signing.verify(KEY, "/frames/a1", expires_at=0, signature=signature, now=-1, purpose="image")


def test_it_ends_at_its_expiry() -> None:
    signature = signing.sign(KEY, "/x", expires_at=100)
    with pytest.raises(Denied, match="expired"):
        signing.verify(KEY, "/x", expires_at=100, signature=signature, now=100)


@pytest.mark.parametrize("signature", ["", "é", "\ud800", "x" * 43])
def test_rubbish_is_denied_not_crashed_on(signature: str) -> None:
    with pytest.raises(Denied):
        signing.verify(KEY, "/x", expires_at=100, signature=signature, now=1)
