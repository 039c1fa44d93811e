"""Who is let in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from infra.errors import Denied
from infra.platform import Platform
from infra.settings import Settings
from selection.fleet.frames import Frame
from service import access

TOKEN = SecretStr("letmein")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "[::1]", "localhost", "a.localhost"])
def test_loopback_needs_no_token(host: str) -> None:
    assert access.is_loopback(host)
    access.check_binding(Settings(host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "mlpl.example.com", "localhost.example.com", ""])
def test_other_addresses_need_a_token(host: str) -> None:
    assert not access.is_loopback(host)
    if host:
        with pytest.raises(Denied, match="MLPL_ACCESS_TOKEN"):
            access.check_binding(Settings(host=host))
        access.check_binding(Settings(host=host, access_token=TOKEN))


@given(
    now=st.integers(min_value=0, max_value=4_000_000_000),
    later=st.integers(min_value=0, max_value=access.SESSION_S - 1),
)
def test_a_session_lasts_until_it_expires(now: int, later: int) -> None:
    value = access.make_session(TOKEN, now=now)
    assert access.session_fits(TOKEN, value, now=now + later)
    assert not access.session_fits(TOKEN, value, now=now + access.SESSION_S)
    assert not access.session_fits(SecretStr("another"), value, now=now)


@given(value=st.text(max_size=80))
def test_made_up_sessions_do_not_fit(value: str) -> None:
    assert not access.session_fits(TOKEN, value, now=0)
    expires, _, signature = access.make_session(TOKEN, now=0).partition(".")
    assert not access.session_fits(TOKEN, f"{int(expires) + 1}.{signature}", now=0)


@pytest.mark.parametrize(
    ("asked", "goes"),
    [
        ("/batches?task=a", "/batches?task=a"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("https://evil.example/", "/"),
        ("javascript:alert(1)", "/"),
        ("", "/"),
        ("/a\nb", "/"),
    ],
)
def test_after_signing_in_one_stays_here(asked: str, goes: str) -> None:
    assert access.safe_next(asked) == goes


def test_without_the_token_nothing_is_shown(guarded_client: Callable[..., TestClient]) -> None:
    client = guarded_client()
    refused = client.get("/api/v1/status")
    assert refused.status_code == 401
    assert refused.json()["code"] == "denied"
    assert client.get("/openapi.json").status_code == 401
    assert client.get("/api/v1/status", headers={"authorization": "Bearer wrong"}).status_code == 401
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/static/app.js").status_code == 200
    page = client.get("/batches?task=a", headers={"accept": "text/html"})
    assert page.status_code == 303
    assert page.headers["location"] == "/login?next=%2Fbatches%3Ftask%3Da"


def test_the_token_opens_the_api(guarded_client: Callable[..., TestClient]) -> None:
    answer = guarded_client().get("/api/v1/tasks", headers={"authorization": "Bearer letmein"})
    assert answer.status_code == 200


def test_signing_in_with_a_browser(guarded_client: Callable[..., TestClient]) -> None:
    client = guarded_client()
    assert "Access token" in client.get("/login?next=/models").text
    wrong = client.post("/login", data={"token": "no", "next": '/"><script>'})
    assert wrong.status_code == 401
    assert "<script>" not in wrong.text
    right = client.post("/login", data={"token": "letmein", "next": "/models"})
    assert right.status_code == 303
    assert right.headers["location"] == "/models"
    cookie = right.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "letmein" not in cookie
    assert client.get("/api/v1/tasks").status_code == 200
    client.post("/logout")
    assert client.get("/api/v1/tasks").status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 422),
        ({"origin": "http://127.0.0.1:8000"}, 422),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:9000"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
    ],
)
def test_writes_from_other_sites_are_refused(client: TestClient, headers: dict[str, str], status: int) -> None:
    assert client.post("/api/v1/tasks", json={}, headers=headers).status_code == status


def test_a_foreign_name_for_this_machine_is_refused(client: TestClient) -> None:
    refused = client.get("/api/v1/status", headers={"host": "evil.example:8000"})
    assert refused.status_code == 403
    assert "evil.example" in refused.json()["message"]
    assert client.get("/api/v1/status", headers={"host": "localhost:8000"}).status_code == 200


def test_annotators_get_images_by_signature_alone(
    platform: Platform, fleet: list[Frame], guarded_client: Callable[..., TestClient]
) -> None:
    client = guarded_client()
    url = urlsplit(access.signed_image_url(platform, fleet[0].frame_id, now=datetime.now(UTC)))
    assert f"{url.scheme}://{url.netloc}" == "http://127.0.0.1:8000"
    image = client.get(f"{url.path}?{url.query}")
    assert image.status_code == 200
    assert image.content == platform.objects.get(fleet[0].object_key)
    assert image.headers["access-control-allow-origin"] == "*"
    assert client.get(f"/images/{fleet[1].frame_id}?{url.query}").status_code == 403
    assert client.get(f"{url.path}?{url.query}x").status_code == 403
    long_ago = datetime.now(UTC) - timedelta(seconds=platform.settings.image_url_lifetime_s + 5)
    old = urlsplit(access.signed_image_url(platform, fleet[0].frame_id, now=long_ago))
    assert client.get(f"{old.path}?{old.query}").status_code == 403


def test_every_answer_carries_the_policy(client: TestClient) -> None:
    for path in ("/", "/api/v1/tasks", "/static/app.js", "/nowhere"):
        headers = client.get(path).headers
        assert "script-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
    assert client.get("/api/v1/tasks").headers["cache-control"] == "no-store"


def test_large_requests_are_refused_before_they_are_read(client: TestClient) -> None:
    headers = {"content-length": str(access.LARGEST_BODY + 1)}
    assert client.post("/api/v1/tasks", content=b"{}", headers=headers).status_code == 413


@pytest.mark.parametrize(
    ("path", "kind"), [("/api/v1/tasks", "application/json"), ("/login", "multipart/form-data; boundary=x")]
)
def test_large_requests_that_do_not_say_their_length_are_cut(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, path: str, kind: str
) -> None:
    monkeypatch.setattr(access, "LARGEST_BODY", 1000)
    monkeypatch.setattr(access, "LARGEST_SIGN_IN", 1000)

    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 100

    answer = client.post(path, content=endless(), headers={"content-type": kind})
    assert (answer.status_code, answer.json()["code"]) == (413, "invalid_input")


def test_imports_may_be_larger_than_other_requests() -> None:
    large = access.largest_body("/api/v1/tasks/road-users/predictions")
    assert (
        large
        == access.largest_body("/api/v1/columns")
        > access.largest_body("/api/v1/tasks")
        > access.largest_body("/login")
    )
